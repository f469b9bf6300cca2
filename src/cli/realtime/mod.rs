//! A blocking client of the Foony binary protocol over WebSocket (`protocols/foony.md`).
//!
//! ```text
//!  Login (arguments) -> Caller (whom, as whom) -> Session (one connection)
//!                                                 outbound: requests -> masked frames
//!                                                 inbound:  a thread: bytes -> messages
//! ```
//!
//! Owns the connection: upgrade, greeting, request numbers, pings both ways, and how long anything
//! may take. Invariant: every wait ends, with what was waited for or with a [`Fault`] that says who
//! is silent. Must never know: serials, messages, what a command prints.

mod backoff;
mod caller;
mod fault;
mod inbound;
mod login;
mod outbound;
mod session;
mod upgrade;

pub(super) use backoff::Backoff;
pub(super) use caller::Caller;
pub(super) use fault::{Fault, Refusal};
pub(super) use login::{Login, WhenLost};
pub(super) use session::{Next, Session, events};
