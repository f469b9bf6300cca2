//! What sessions and channels say to each other: requests, their answers, and what one message of a
//! client amounts to.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

use super::{DocumentRequest, Replica};
use crate::channel::{Draft, EdgeDenial, Identity, Message, Peer, PeerKey, Position, State};
use crate::counters::Ignored;
use crate::error::{Disconnect, Reject};
use crate::ids::ChannelKey;

/// Request number of requests without an answer.
pub const NO_REQUEST: u64 = 0;

/// Added to the number of a client's request when the server makes another one on its behalf, which
/// is not answered either.
pub const ON_BEHALF: u64 = 1 << 63;

/// True for numbers of requests without an answer.
pub fn is_silent(id: u64) -> bool {
    id == NO_REQUEST || id & ON_BEHALF != 0
}

/// What one message of the client asks of the shard. Answers that the session itself can give are
/// written to its output.
#[derive(Debug)]
pub enum SessionOutput<'m> {
    /// Answered in full.
    Done,
    /// The message is not complete. Only on a stream.
    NeedMore,
    /// Counted, otherwise without effect.
    Ignored(Ignored),
    /// The session has a new identity, and is a member of nothing under it.
    Greeted(Arrival),
    /// The session has lost its identity.
    Ungreeted,
    /// The same identity, with other rights or another expiry.
    Renewed,
    /// The session is this peer of the presence graph from here on, in all its channels.
    PeerChanged(Arc<Peer>),
    /// The client has decided whether a peer may connect to it.
    Decided { request: u64, decision: Decision },
    /// The client has taken a direct message, or not.
    Took { number: u64, outcome: Outcome },
    /// Send presence of a channel at most once in so many milliseconds; `None`: without limit.
    RateHint(Option<NonZeroU16>),
    /// A request to a channel.
    Request(ChannelRequest<'m>),
    /// A request to the document relay.
    Documents(DocumentRequest),
    /// The connection ends.
    Close(Disconnect),
}

/// A request to a channel, allowed and within all limits. Answered once with an [`Answer`] under
/// `id`, unless [`is_silent`].
#[derive(Debug)]
pub struct ChannelRequest<'m> {
    pub id: u64,
    pub channel: Cow<'m, str>,
    pub request: Request,
}

/// What a client decides about a peer that wants to connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny {
        reason: Arc<str>,
        /// `None`: as long as the server says.
        retry_after_ms: Option<u64>,
    },
}

/// What became of a direct message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Taken,
    NotTaken,
}

/// A message to one peer in a channel that the sender is a member of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectMessage {
    pub to: PeerKey,
    pub from: PeerKey,
    pub name: Box<str>,
    /// JSON text.
    pub data: Bytes,
}

/// A peer that wants to connect to a client, which decides.
#[derive(Clone, Debug)]
pub struct EdgeRequest {
    pub channel: Arc<ChannelKey>,
    pub key: PeerKey,
    /// `None` for a member that has not said.
    pub peer: Option<Arc<Peer>>,
    pub identity: Arc<Identity>,
}

/// Whether an earlier connection may have lost memberships of this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// The session shows a name by which it gets its memberships back.
    Returning,
    /// So does that of a device that keeps copies of documents. The relay has to know it before the
    /// greeting is answered.
    Replica(Replica),
}

#[derive(Debug)]
pub enum Request {
    /// Send the messages after the cursor, then all that come; without one, those that come.
    Subscribe {
        after: Option<Position>,
        scope: Scope,
    },
    /// Send neither messages nor presence, and be no member any longer.
    Unsubscribe,
    Publish(Box<Draft>),
    /// Become a member, or replace the own state.
    Announce(State),
    Leave,
    /// Send the members, then every change.
    Watch,
    Unwatch,
    History {
        limit: usize,
        before: Option<Position>,
    },
    /// Send the messages after a serial.
    Fetch {
        after: u64,
    },
    /// Hand a message to one member.
    Direct(Arc<DirectMessage>),
    /// Send the members whose digests are others than these.
    Check(Box<[u128]>),
}

/// What a subscription brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Messages,
    MessagesAndPresence,
}

/// The outcome of a [`Request`].
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused(Reject),
    /// By the admission hook.
    Denied(Arc<Denial>),
    /// Serial of the message; 0 when it is not stored.
    Published {
        serial: u64,
    },
    /// What was missed, oldest first. `resumed`: whether that is all of it; `None` without a
    /// cursor.
    Subscribed {
        messages: Vec<Arc<Message>>,
        resumed: Option<bool>,
    },
    History {
        messages: Vec<Arc<Message>>,
        more: bool,
    },
    Fetched {
        messages: Vec<Arc<Message>>,
        resumed: bool,
    },
    /// Members, framed for the feed of peers.
    Checked(Arc<[u8]>),
    /// A direct message was not taken: the two are not connected, or nobody takes it.
    NotTaken {
        denial: Option<EdgeDenial>,
        why: &'static str,
    },
}

/// Why the admission hook denies something. Displayed as clients are told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub reason: Box<str>,
    /// When the client may try again, if the hook says so.
    pub retry_after_ms: Option<u64>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match self.retry_after_ms {
            Some(ms) => write!(f, " (retry after {ms} ms)"),
            None => Ok(()),
        }
    }
}

impl Request {
    /// True when it only gives something up, which needs no channel entry.
    pub fn is_release(&self) -> bool {
        matches!(self, Request::Unsubscribe | Request::Unwatch | Request::Leave)
    }
}
