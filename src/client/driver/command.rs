//! What the program asks of the I/O thread.

use super::sinks::{DeliverySink, MemberSink};
use crate::client::admission::Decision;
use crate::client::handles::Opener;
use crate::client::member::Member;
use crate::client::message::{HistoryPage, HistoryQuery, Published};
use crate::client::pending::Completer;

/// One request of the program. What is to be sent waits until the client is live.
pub(crate) enum Command {
    Publish {
        channel: String,
        message_id: String,
        parts: Vec<Part>,
        completer: Completer<Published>,
    },
    /// Messages after `after`, or from now on.
    Subscribe {
        channel: String,
        id: HandleId,
        after: Option<u64>,
        sink: DeliverySink,
        ready: Opener,
    },
    Unsubscribe {
        channel: String,
        id: HandleId,
    },
    History {
        channel: String,
        query: HistoryQuery,
        completer: Completer<HistoryPage>,
    },
    /// Be a member; with a state, or with the one there is.
    Announce {
        channel: String,
        state: Option<String>,
        completer: Completer<()>,
    },
    Leave {
        channel: String,
        completer: Completer<()>,
    },
    Members {
        channel: String,
        completer: Completer<Vec<Member>>,
    },
    Observe {
        channel: String,
        id: HandleId,
        sink: MemberSink,
        ready: Opener,
    },
    Unobserve {
        channel: String,
        id: HandleId,
    },
    /// A message to one peer.
    Direct {
        to: String,
        part: Part,
        completer: Completer<()>,
    },
    /// The program has decided whether a peer may connect.
    Decide {
        /// The connection whose request it is, since requests are numbered per connection.
        connection: u64,
        request: u64,
        decision: Decision,
    },
    /// The own metadata, or the connection request handler, has changed.
    PeerChanged,
    /// Completes when the server has the own metadata.
    PeerSynced(Completer<()>),
    /// Completes when the client is live and has joined its channels.
    Ready(Completer<()>),
    /// Leaves everything, and ends the thread.
    Close(Completer<()>),
}

/// Tells the handles of one client apart.
pub(crate) type HandleId = u64;

/// A message to publish.
pub(crate) struct Part {
    pub name: String,
    /// JSON text.
    pub data: String,
}
