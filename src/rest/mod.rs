//! The request-and-answer surface of the Foony protocol: REST, and the HTTP side of long-polling
//! (`protocols/foony.md` sections 1.2 to 1.4).
//!
//! Owns paths, queries, who may ask, JSON bodies and the headers that browsers want. Invariant:
//! a payload goes in and out as the text that its publisher wrote. Must never know: sockets, time,
//! which shard owns a channel. The shell hands in the moment and a number to make ids from.
//!
//! Reading order: [`Route`] says what is asked, [`Caller`] who asks, the functions beside them turn
//! bodies into values and values into a [`Reply`]; a [`Refusal`] is the reply of everything that
//! goes wrong.

mod caller;
mod cors;
mod history;
mod object;
mod poll;
mod presence;
mod publish;
mod query;
mod refusal;
mod reply;
mod route;
mod token;

pub use caller::Caller;
pub use cors::{HEADERS as CORS_HEADERS, preflight};
pub use history::history;
pub use poll::{PollRoute, SESSION_HEADER, parse_session, polled};
pub use presence::presence;
pub use publish::{FreshId, parse_publish, published};
pub use query::{HistoryQuery, PresenceQuery, Walk};
pub use refusal::Refusal;
pub use reply::Reply;
pub use route::{Prefix, Route, route};
pub use token::{TOKEN_TTL_MS_MAX, request_token};

/// The answer to `GET /time`: an array with the one number.
pub fn time(now_wall_ms: u64) -> Reply {
    Reply::json(format!("[{now_wall_ms}]").into_bytes())
}
