//! The blocking shell of [`crate::client::protocol`].
//!
//! ```text
//!  Login (arguments) -> Caller (account, session) -> Session (one connection)
//!                                                      socket: connects; a thread reads
//! ```
//!
//! Owns the socket, the clock and the random bits. Invariant: every wait ends, with what was waited
//! for or with a [`Fault`]. Must never know: serials, messages, the results that a command prints.

mod caller;
mod fault;
mod login;
mod session;
mod socket;

pub(super) use caller::Caller;
pub(super) use fault::{Fault, Stop, advised};
pub(super) use login::Login;
pub(super) use session::{Next, Session};
