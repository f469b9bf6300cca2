//! Feeds: what subscribers of a channel are sent, one encoding each.

use super::Framing;
use crate::wire::sync::Header;

/// What every subscriber of a channel with the same feed is sent: the very same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Messages on the Foony protocol, many records per WebSocket message.
    FoonyMessages,
    /// Messages on the Foony protocol, records back to back.
    FoonyMessagesStream,
    /// Messages on the Foony protocol, one JSON object per WebSocket message.
    FoonyMessagesJson,
    /// The changes of the members themselves, for the edge.
    Changes,
}

impl Feed {
    pub const COUNT: usize = 11;

    /// The feeds whose subscribers are sent bytes.
    pub const ENCODED: [Feed; 10] = [
        Feed::SyncTenWebSocket,
        Feed::SyncFiveWebSocket,
        Feed::SyncTenStream,
        Feed::SyncFiveStream,
        Feed::FoonyPresence,
        Feed::FoonyPresenceStream,
        Feed::FoonyPresenceJson,
        Feed::FoonyMessages,
        Feed::FoonyMessagesStream,
        Feed::FoonyMessagesJson,
    ];

    /// Full sets of members, each of which replaces the one before.
    pub const PRESENCE_SETS: FeedSet = FeedSet(0b0000_1111);

    /// Changes of members; none may be missed.
    pub const PRESENCE_CHANGES: FeedSet = FeedSet(0b0111_0000);

    /// Everything about members, for sessions and for the edge.
    pub const PRESENCE: FeedSet = FeedSet(0b100_0111_1111);

    /// Published messages.
    pub const MESSAGES: FeedSet = FeedSet(0b11_1000_0000);

    /// The presence feed of a sync session.
    pub fn sync(header: Header, framing: Framing) -> Feed {
        match (header, framing) {
            (Header::Ten, Framing::WebSocket) => Feed::SyncTenWebSocket,
            (Header::Five, Framing::WebSocket) => Feed::SyncFiveWebSocket,
            (Header::Ten, Framing::Stream) => Feed::SyncTenStream,
            (Header::Five, Framing::Stream) => Feed::SyncFiveStream,
        }
    }

    /// Header generation and framing of a sync feed; `None` for others.
    pub fn sync_parts(self) -> Option<(Header, Framing)> {
        match self {
            Feed::SyncTenWebSocket => Some((Header::Ten, Framing::WebSocket)),
            Feed::SyncFiveWebSocket => Some((Header::Five, Framing::WebSocket)),
            Feed::SyncTenStream => Some((Header::Ten, Framing::Stream)),
            Feed::SyncFiveStream => Some((Header::Five, Framing::Stream)),
            _ => None,
        }
    }
}

/// Any of the feeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedSet(u16);

impl FeedSet {
    pub fn contains(self, feed: Feed) -> bool {
        self.0 & (1 << feed as u16) != 0
    }

    pub fn insert(&mut self, feed: Feed) {
        self.0 |= 1 << feed as u16;
    }

    pub fn remove(&mut self, feed: Feed) {
        self.0 &= !(1 << feed as u16);
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are not in the other.
    pub fn without(self, other: FeedSet) -> FeedSet {
        FeedSet(self.0 & !other.0)
    }

    /// Those that are in both.
    pub fn and(self, other: FeedSet) -> FeedSet {
        FeedSet(self.0 & other.0)
    }
}

impl FromIterator<Feed> for FeedSet {
    fn from_iter<I: IntoIterator<Item = Feed>>(feeds: I) -> Self {
        let mut set = FeedSet::default();
        feeds.into_iter().for_each(|feed| set.insert(feed));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feed_is_of_one_kind() {
        let kinds = [Feed::PRESENCE_SETS, Feed::PRESENCE_CHANGES, Feed::MESSAGES];
        for (at, feed) in Feed::ENCODED.into_iter().enumerate() {
            assert_eq!(feed as usize, at, "{feed:?}");
            assert_eq!(kinds.iter().filter(|kind| kind.contains(feed)).count(), 1, "{feed:?}");
        }
        assert_eq!(Feed::Changes as usize + 1, Feed::COUNT);
        assert!(kinds.iter().all(|kind| !kind.contains(Feed::Changes)));
    }
}
