//! The HTTP API of the Foony protocol: REST, and the HTTP side of long-polling
//! (`protocols/foony.md` sections 1.2 to 1.4).
//!
//! Owns routes, queries, authorization, JSON bodies and CORS headers. Invariant: a payload is
//! passed on as the text that its publisher sent. It must never know sockets, clocks, or which
//! shard owns a channel: the shell passes the time and a unique number for message ids.
//!
//! Reading order: [`Route`] is what a request asks for, [`Caller`] who sends it; other functions
//! parse bodies and make a [`Reply`]. A [`Refusal`] is the reply to a failed request.

mod caller;
mod event;
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
pub use event::{channel_event, webhook_body};
pub use history::{history, presence_history};
pub use poll::{PollRoute, SESSION_HEADER, parse_session, polled};
pub use presence::presence;
pub use publish::{FreshId, parse_publish, published};
pub use query::{Direction, HistoryQuery, PresenceQuery};
pub use refusal::Refusal;
pub use reply::{CORS_HEADERS, Reply};
pub use route::{Prefix, Route, route};
pub use token::{TOKEN_TTL_MS_MAX, request_token};

/// The response to `GET /time`: an array of one number.
pub fn time(now_wall_ms: u64) -> Reply {
    Reply::json(format!("[{now_wall_ms}]").into_bytes())
}
