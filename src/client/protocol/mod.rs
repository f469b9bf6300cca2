//! The client's half of the Foony and sync protocols, without I/O.
//!
//! ```text
//!  socket --> handle_bytes    \               / Event     --> program
//!  clock  --> handle_timeout  -> Connection ->
//!  program -> Outbound         /               \ pending() --> socket
//! ```
//!
//! One [`Connection`] is one connection of the transport, from the [`Upgrade`] to [`Closed`]. The
//! program greets when it receives [`Event::Open`] and makes requests once it receives
//! [`Event::Greeted`]; what a session keeps from one connection to the next is [`Resume`], and how
//! long to wait in between is [`Backoff`].
//!
//! Invariants: what comes out depends on the bytes alone, never on how they were cut into reads.
//! An event borrows from the bytes that were read; receiving messages allocates nothing. Whatever
//! the server owes has a deadline.
//!
//! Must never know: sockets, threads, clocks, random sources, what a message is for. Times are
//! milliseconds of a clock of the caller that never goes back.

mod closed;
mod connection;
mod event;
mod handshake;
mod keep_alive;
mod outbound;
mod prefix;
mod reconnect;

pub use closed::{Awaited, Closed, Refused};
pub use connection::{Connection, Dialect, Look};
pub use event::{Event, Greeted, Presence};
pub use handshake::Upgrade;
pub use outbound::Outbound;
pub use reconnect::{Backoff, Credential, Resume};
