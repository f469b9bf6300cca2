//! Requests and events of this protocol, independent of the codec.
//!
//! Absent text is empty, an absent number is 0, and an absent payload has no bytes, as on the wire
//! (`protocols/foony.md` section 3.1). Payloads are unparsed JSON text.

use std::borrow::Cow;

use serde::Serialize;
use strum::{EnumString, FromRepr, IntoStaticStr};
use thiserror::Error;

use super::code::ErrorCode;
use super::peer::{
    DirectMessage, DirectRefused, EdgeRequest, MembersDigest, PeerGreeting, PeerMember,
};
use crate::error::FrameError;

/// A malformed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("request {id}: {error}")]
pub struct Malformed {
    pub error: FrameError,
    /// The id of the request, to be answered, since clients wait indefinitely; 0 if it cannot be
    /// read.
    pub id: u64,
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Auth(Auth<'a>),
    Subscribe {
        id: u64,
        channel: Cow<'a, str>,
        cursor: Cursor<'a>,
    },
    Unsubscribe {
        id: u64,
        channel: Cow<'a, str>,
    },
    Publish(Publish<'a>),
    Presence(Presence<'a>),
    PresenceSubscribe {
        id: u64,
        channel: Cow<'a, str>,
    },
    PresenceUnsubscribe {
        id: u64,
        channel: Cow<'a, str>,
    },
    /// The newest messages before `before`; with `limit` 0 the server chooses their number.
    History {
        id: u64,
        channel: Cow<'a, str>,
        limit: u64,
        before: Cursor<'a>,
    },
    /// All messages after a serial.
    Fetch {
        id: u64,
        channel: Cow<'a, str>,
        from_serial: u64,
    },
    Ping,
}

impl Request<'_> {
    /// The id for the reply; 0 for the two requests that have none.
    pub fn id(&self) -> u64 {
        match self {
            Request::Auth(_) | Request::Ping => 0,
            Request::Publish(publish) => publish.id,
            Request::Presence(presence) => presence.id,
            Request::Subscribe { id, .. }
            | Request::Unsubscribe { id, .. }
            | Request::PresenceSubscribe { id, .. }
            | Request::PresenceUnsubscribe { id, .. }
            | Request::History { id, .. }
            | Request::Fetch { id, .. } => *id,
        }
    }
}

/// Credentials of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    pub token: Cow<'a, str>,
    pub key: Cow<'a, str>,
    /// Only with `key`.
    pub client_id: Cow<'a, str>,
    pub resume_connection_id: Cow<'a, str>,
    /// SDK 0.12.0, JSON only: the server may join frames with line feeds.
    pub coalesce: bool,
    /// SDK 0.12.0, JSON only: the server may deliver messages as binary records.
    pub binary_delivery: bool,
}

/// A position in a channel, as named by a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cursor<'a> {
    #[default]
    None,
    /// Never 0.
    Serial(u64),
    /// SDK 0.1 to 0.12.0, JSON only: the message itself is excluded.
    MessageId(Cow<'a, str>),
}

impl Cursor<'_> {
    /// The cursor at a serial; none for 0.
    pub fn at(serial: u64) -> Self {
        if serial == 0 { Cursor::None } else { Cursor::Serial(serial) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub id: u64,
    pub channel: Cow<'a, str>,
    /// Id chosen by the client to recognize repetitions; empty before SDK 0.4.
    pub message_id: Cow<'a, str>,
    pub ephemeral: bool,
    /// SDK 0.2 to 0.12.0, JSON only.
    pub ttl_ms: u64,
    pub content: Content<'a>,
}

/// One message, or a batch that is accepted, numbered and delivered atomically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    One(Message<'a>),
    /// Not empty in a request.
    Batch(Vec<Message<'a>>),
}

impl<'a> Content<'a> {
    /// Unwraps a batch of one message. SDKs send every publish as a batch and ignore the serial of
    /// a delivered batch, so a batch of one must not be stored as a batch.
    pub fn unwrapped(self) -> Self {
        match self {
            Content::Batch(mut messages) if messages.len() == 1 => {
                Content::One(messages.swap_remove(0))
            }
            content => content,
        }
    }

    /// The messages in their order.
    pub fn messages(&self) -> &[Message<'a>] {
        match self {
            Content::One(message) => std::slice::from_ref(message),
            Content::Batch(messages) => messages,
        }
    }
}

/// A message of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    pub name: Cow<'a, str>,
    /// JSON text.
    pub data: &'a [u8],
    pub encoding: Cow<'a, str>,
}

/// A change of a membership; the numbers are those of binary records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, FromRepr, IntoStaticStr, Serialize)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[repr(u8)]
pub enum Action {
    Enter = 1,
    Leave = 2,
    Update = 3,
}

/// A change of the membership of the client itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence<'a> {
    pub id: u64,
    pub channel: Cow<'a, str>,
    pub action: Action,
    /// JSON text.
    pub data: &'a [u8],
    pub encoding: Cow<'a, str>,
}

/// An event from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Connected {
        connection_id: Cow<'a, str>,
        keep_alive_ms: u64,
        client_id: Cow<'a, str>,
    },
    Ack {
        id: u64,
        /// Of a stored publish; otherwise 0.
        serial: u64,
        /// Of a subscription with a cursor.
        resumed: Option<bool>,
    },
    Delivery(Delivery<'a>),
    /// Several deliveries of one channel. This server does not send it.
    Bundle(Vec<Delivery<'a>>),
    Member(Member<'a>),
    Error {
        /// 0 if it does not belong to a request.
        id: u64,
        code: ErrorCode,
        message: Cow<'a, str>,
    },
    Pong,
    /// Oldest first. `more`: older messages are stored as well.
    History {
        id: u64,
        channel: Cow<'a, str>,
        messages: Vec<Delivery<'a>>,
        more: bool,
    },
    /// Oldest first. `resumed`: no message before the first one is missing.
    Fetched {
        id: u64,
        channel: Cow<'a, str>,
        messages: Vec<Delivery<'a>>,
        resumed: bool,
    },
    /// Of the graph extension.
    PeerGreeting(PeerGreeting<'a>),
    /// Of the graph extension.
    PeerMember(Box<PeerMember<'a>>),
    /// Of the graph extension.
    EdgeRequest(Box<EdgeRequest<'a>>),
    /// Of the graph extension.
    DirectMessage(DirectMessage<'a>),
    /// Of the graph extension.
    DirectRefused(DirectRefused<'a>),
    MembersDigest(MembersDigest<'a>),
}

/// A stored or ephemeral publish with its server timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    pub channel: Cow<'a, str>,
    pub message_id: Cow<'a, str>,
    pub client_id: Cow<'a, str>,
    pub timestamp_ms: u64,
    /// 0 if it has no serial.
    pub serial: u64,
    pub ephemeral: bool,
    pub content: Content<'a>,
}

/// A presence event of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    pub action: Action,
    pub timestamp_ms: u64,
    pub channel: Cow<'a, str>,
    pub client_id: Cow<'a, str>,
    pub connection_id: Cow<'a, str>,
    /// JSON text; for a leave, that of the last state.
    pub data: &'a [u8],
    pub encoding: Cow<'a, str>,
}
