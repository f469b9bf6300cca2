//! One connection's protocol state: upgrade, greeting, authentication, message -> request, answer
//! and event -> message, keep-alive. Everything that differs between wire protocols.
//!
//! Invariant: one message in gives one [`SessionOutput`] and its answers, in order.
//! Must never know other connections, or who owns a channel.
//!
//! To add a wire protocol:
//! 1. `wire/NAME`: its bytes <=> its messages, with golden vectors.
//! 2. `session/NAME`: a type with the state of one connection that implements [`Dialect`]. The
//!    defaults of the trait are those of a protocol without presence and without requests.
//! 3. A variant of [`Session`] (`dialect.rs`), and its branches in `Session::upgrade` (chosen by
//!    path or `Sec-WebSocket-Protocol`; a server that speaks first writes to `Upgraded::first`) or
//!    in `Session::detect` (chosen by the first message).
//! 4. If its bytes differ from those of every other dialect: a [`Feed`] for each encoding, in the
//!    set of its kind, and its branches in the four `encode_*` functions of `feed.rs`.
//! 5. The table of its errors in the docs of `session/NAME`, and a black-box test with a real
//!    client. Nothing under `src/shard` or `src/server` changes.

mod dialect;
mod documents;
mod echo;
mod feed;
pub mod foony;
mod peer;
pub mod presence_history;
mod principal;
mod request;
mod state;
pub mod sync;

pub use dialect::{Dialect, Feeds, Input, Session, Silences, Taken, Upgraded};
pub use documents::{
    DocumentAnswer, DocumentBatch, DocumentRequest, PushRequest, Receipt, Replica,
};
#[cfg(test)]
pub use echo::PANIC;
pub use feed::{Encoded, Feed, FeedKind, FeedSet};
pub use foony::secret as connection_secret;
pub use peer::encode::{differing as members_that_differ, digests as members_digests};
pub use peer::key_of as peer_key_of;
pub use principal::{Principal, SessionNames};
pub use request::{
    Answer, Arrival, ChannelRequest, Decision, Denial, DirectMessage, EdgeRequest, NO_REQUEST,
    ON_BEHALF, Outcome, Request, Scope, SessionOutput, is_silent,
};
pub use state::{json_state, message_pack_state};
pub use sync::documents::may_read;
pub use sync::presence::SetTick;
pub use sync::roster::Roster;

use std::sync::Arc;

use crate::auth::{Grant, Keyring, Origin, Origins, Refusals};
use crate::ids::Clocks;
use crate::limits::Limits;
use crate::relay::RelayPolicy;
use crate::wire::replace;
use crate::wire::sync::Layout;
use crate::wire::websocket::{Opcode, frame_header};

/// How the connection separates messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One message per WebSocket message.
    WebSocket,
    /// Messages back to back.
    Stream,
}

/// Appends one message, framed as the connection demands. `write` appends its bytes.
pub fn append_message(framing: Framing, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    if framing == Framing::WebSocket {
        let header = frame_header(Opcode::Binary, out.len() - start);
        replace(out, start..start, &header);
    }
}

/// What sessions of this server agree on: the same for all.
#[derive(Debug)]
pub struct Settings {
    pub keyring: Keyring,
    /// What sessions without a token may do; `None` refuses them.
    pub anonymous: Option<Arc<Grant>>,
    /// Web pages that may open sessions without a token.
    pub origins: Origins,
    /// Layout of 10-byte-header sessions that greet with wire version 1.
    pub ten_byte_layout: Layout,
    /// Secret and random per process: proves that this process named a connection.
    pub connection_key: (u64, u64),
    /// The most metadata that a peer may have in any channel, bytes.
    pub peer_metadata_bytes_max: u32,
    /// Peers that a presence graph has at most.
    pub graph_peers_max: u32,
    /// What the document relay keeps, if there is one.
    pub relay: RelayPolicy,
}

impl Settings {
    /// Whether a session that was granted this under earlier settings may go on.
    pub fn upholds(&self, grant: &Grant) -> bool {
        match grant.key_name {
            Some(_) => self.keyring.upholds(grant),
            None => self.anonymous.as_ref().is_some_and(|anonymous| anonymous.app == grant.app),
        }
    }
}

/// What a session receives besides the message.
pub struct SessionContext<'s> {
    pub now: Clocks,
    pub settings: &'s Settings,
    pub limits: &'s Limits,
    pub names: &'s mut SessionNames,
    pub refusals: &'s mut Refusals,
    /// Where the connection comes from.
    pub origin: Origin,
}
