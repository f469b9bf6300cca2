//! Feeds: what the subscribers of a channel receive. Every subscriber of a feed receives the same
//! bytes, which its dialect encodes once.

use std::sync::Arc;

use enumset::{EnumSet, EnumSetType, enum_set};

use super::foony::encode as foony;
use super::peer::encode as peer;
use super::sync::presence as sync;
use super::{Framing, SetTick};
use crate::channel::{Change, Members, Message};
use crate::ids::{ChannelKey, Clocks};
use crate::wire::sync::Header;

/// One encoding of the presence or the messages of a channel.
#[derive(Debug, EnumSetType, PartialOrd, Ord)]
#[enumset(repr = "u16")]
pub enum Feed {
    /// Presence on the sync wire, 10-byte header, one frame per WebSocket message.
    SyncTenWebSocket,
    /// Presence on the sync wire, 5-byte header, one frame per WebSocket message.
    SyncFiveWebSocket,
    /// Presence on the sync wire, 10-byte header, back to back.
    SyncTenStream,
    /// Presence on the sync wire, 5-byte header, back to back.
    SyncFiveStream,
    /// Presence on the Foony protocol, many records per WebSocket message.
    FoonyPresence,
    /// Presence on the Foony protocol, records back to back.
    FoonyPresenceStream,
    /// Presence on the Foony protocol, one JSON object per WebSocket message.
    FoonyPresenceJson,
    /// Presence on the Foony protocol with the graph extension, many records per message.
    FoonyPeers,
    /// Messages on the Foony protocol, many records per WebSocket message.
    FoonyMessages,
    /// Messages on the Foony protocol, records back to back.
    FoonyMessagesStream,
    /// Messages on the Foony protocol, one JSON object per WebSocket message.
    FoonyMessagesJson,
    /// The changes of the members as values, for the edge.
    Changes,
}

/// Any of the feeds.
pub type FeedSet = EnumSet<Feed>;

/// What a feed carries. All that the core knows of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedKind {
    /// Full sets of members. Each replaces the one before.
    Sets,
    /// Changes of members. None may be missed.
    Changes,
    /// Published messages.
    Messages,
}

impl Feed {
    pub const COUNT: usize = FeedSet::variant_count() as usize;

    /// The feeds whose subscribers receive bytes.
    pub const ENCODED: FeedSet =
        enum_set!(Feed::PRESENCE_SETS | Feed::PRESENCE_CHANGES | Feed::MESSAGES);

    /// Feeds of [`FeedKind::Sets`].
    pub const PRESENCE_SETS: FeedSet = enum_set!(
        Feed::SyncTenWebSocket
            | Feed::SyncFiveWebSocket
            | Feed::SyncTenStream
            | Feed::SyncFiveStream
    );

    /// Encoded feeds of [`FeedKind::Changes`].
    pub const PRESENCE_CHANGES: FeedSet = enum_set!(
        Feed::FoonyPresence
            | Feed::FoonyPresenceStream
            | Feed::FoonyPresenceJson
            | Feed::FoonyPeers
    );

    /// Everything about members, for sessions and for the edge.
    pub const PRESENCE: FeedSet =
        enum_set!(Feed::PRESENCE_SETS | Feed::PRESENCE_CHANGES | Feed::Changes);

    /// Feeds of [`FeedKind::Messages`].
    pub const MESSAGES: FeedSet =
        enum_set!(Feed::FoonyMessages | Feed::FoonyMessagesStream | Feed::FoonyMessagesJson);

    pub fn kind(self) -> FeedKind {
        match self {
            _ if Feed::PRESENCE_SETS.contains(self) => FeedKind::Sets,
            _ if Feed::MESSAGES.contains(self) => FeedKind::Messages,
            _ => FeedKind::Changes,
        }
    }

    /// What its subscribers receive, in a word.
    pub fn label(self) -> &'static str {
        match self.kind() {
            FeedKind::Messages => "messages",
            FeedKind::Sets | FeedKind::Changes => "presence",
        }
    }

    /// The presence feed of a sync session.
    pub(super) fn sync(header: Header, framing: Framing) -> Feed {
        match (header, framing) {
            (Header::Ten, Framing::WebSocket) => Feed::SyncTenWebSocket,
            (Header::Five, Framing::WebSocket) => Feed::SyncFiveWebSocket,
            (Header::Ten, Framing::Stream) => Feed::SyncTenStream,
            (Header::Five, Framing::Stream) => Feed::SyncFiveStream,
        }
    }

    /// Header generation and framing of a sync feed; `None` for others.
    pub(super) fn sync_parts(self) -> Option<(Header, Framing)> {
        match self {
            Feed::SyncTenWebSocket => Some((Header::Ten, Framing::WebSocket)),
            Feed::SyncFiveWebSocket => Some((Header::Five, Framing::WebSocket)),
            Feed::SyncTenStream => Some((Header::Ten, Framing::Stream)),
            Feed::SyncFiveStream => Some((Header::Five, Framing::Stream)),
            _ => None,
        }
    }

    /// The position of a feed in [`Encoded`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Encodes what changed in a tick; empty when subscribers of this feed need nothing.
    pub fn encode_tick(
        self,
        now: Clocks,
        key: &ChannelKey,
        members: &Members,
        tick: &SetTick<'_>,
        changes: &[Change],
    ) -> Arc<[u8]> {
        match self.kind() {
            FeedKind::Sets => sync::tick(self, now, &key.name, members, tick),
            _ if self == Feed::FoonyPeers => peer::tick(now, key, members, changes),
            FeedKind::Changes => self.encode_changes(now, key, members, changes),
            FeedKind::Messages => Arc::default(),
        }
    }

    /// Encodes everyone who is present: one set, or one change per member.
    pub fn encode_members(self, now: Clocks, key: &ChannelKey, members: &Members) -> Arc<[u8]> {
        match self.kind() {
            _ if self == Feed::FoonyPeers => peer::members(now, key, members),
            FeedKind::Sets => sync::set(self, now, &key.name, members),
            FeedKind::Changes => foony::members(self, now, &key.name, members),
            FeedKind::Messages => Arc::default(),
        }
    }

    /// Encodes changes, for feeds of [`FeedKind::Changes`]. `members`: after them.
    pub fn encode_changes(
        self,
        now: Clocks,
        key: &ChannelKey,
        members: &Members,
        changes: &[Change],
    ) -> Arc<[u8]> {
        match self {
            Feed::FoonyPeers => peer::changes(now, key, members, changes),
            _ => foony::changes(self, now, &key.name, changes),
        }
    }

    /// Encodes published messages, in order.
    pub fn encode_messages<'m>(
        self,
        channel: &str,
        messages: impl IntoIterator<Item = &'m Message>,
    ) -> Arc<[u8]> {
        foony::messages(self, channel, messages)
    }
}

/// The bytes of one event, once per feed that has subscribers; indexed by [`Feed::index`].
pub type Encoded = [Option<Arc<[u8]>>; Feed::COUNT];

const _: () = {
    let kinds = [Feed::PRESENCE_SETS, Feed::PRESENCE_CHANGES, Feed::MESSAGES];
    let mut bits = 0;
    let mut at = 0;
    while at < kinds.len() {
        assert!(bits & kinds[at].as_repr() == 0, "a feed has one kind");
        bits |= kinds[at].as_repr();
        at += 1;
    }
    assert!(bits == Feed::ENCODED.as_repr(), "every encoded feed has a kind");
    assert!(bits == (1 << Feed::Changes as u16) - 1, "the feed of values is the last one");
};
