//! What ties a connection to a channel: a subscription to one of its feeds, a membership.

use std::sync::Arc;

use crate::channel::State;
use crate::ids::{ChannelKey, Timestamp};
use crate::policy::Policy;
use crate::session::{Feed, FeedSet};
use crate::shard::departures::Departures;
use crate::shard::envelope::AnnounceReply;

/// A channel of this home and one of its feeds, in one word: every delivery looks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source(u32);

/// Slots of channels that fit beside the feed; a table of so many would not fit into memory.
const CHANNEL_BITS: u32 = 28;

impl Source {
    fn new(channel: u32, feed: Feed) -> Self {
        assert!(channel < 1 << CHANNEL_BITS, "channel {channel} of a home");
        Source((feed as u32) << CHANNEL_BITS | channel)
    }
}

/// A subscription of a connection to a feed of a channel.
#[derive(Debug)]
pub struct Subscription {
    source: Source,
    /// Position in the channel's list of subscribers; [`INACTIVE`] until the owner has said from
    /// when on. Before that nothing is delivered.
    position: u32,
    /// While inactive, the request that it began with. From then on, when presence of this channel
    /// was last queued, milliseconds, which the rate hint counts from.
    request_or_delivered_ms: u64,
    /// Set while the subscriber has not been sent everything; made good when it can take it.
    pub missed: Option<Box<Missed>>,
}

const INACTIVE: u32 = u32::MAX;

const _: () = assert!(size_of::<Subscription>() <= 24, "the only block of most subscribers");

impl Subscription {
    /// `channel`: the slot of the channel in this home's table. `request`: what it begins with.
    pub fn new(channel: u32, feed: Feed, request: u64) -> Self {
        let source = Source::new(channel, feed);
        Subscription { source, position: INACTIVE, request_or_delivered_ms: request, missed: None }
    }

    /// Slot of the channel in this home's table.
    pub fn channel(&self) -> u32 {
        self.source.0 & ((1 << CHANNEL_BITS) - 1)
    }

    pub fn feed(&self) -> Feed {
        let bits = 1 << (self.source.0 >> CHANNEL_BITS);
        match FeedSet::from_repr(bits).into_iter().next() {
            Some(feed) => feed,
            None => panic!("{:?} names no feed", self.source),
        }
    }

    pub fn is_to(&self, channel: u32, feed: Feed) -> bool {
        self.source == Source::new(channel, feed)
    }

    /// Position in the channel's list of subscribers, if it is active.
    pub fn position(&self) -> Option<u32> {
        (self.position != INACTIVE).then_some(self.position)
    }

    /// Events are delivered from here on.
    pub fn activate(&mut self, position: u32) {
        self.position = position;
        self.request_or_delivered_ms = 0;
    }

    /// Another position in the list.
    pub fn move_to(&mut self, position: u32) {
        self.position = position;
    }

    /// True when it becomes active with the answer to this request.
    pub fn awaits(&self, request: u64) -> bool {
        self.position == INACTIVE && self.request_or_delivered_ms == request
    }

    /// When presence was last queued; 0 before the first time.
    pub fn delivered_ms(&self) -> u64 {
        if self.position == INACTIVE { 0 } else { self.request_or_delivered_ms }
    }

    /// Presence is being queued.
    pub fn set_delivered(&mut self, now_ms: u64) {
        if self.position != INACTIVE {
            self.request_or_delivered_ms = now_ms;
        }
    }

    /// True while the owner has been asked for what was missed, and has not answered.
    pub fn is_requested(&self) -> bool {
        match self.missed.as_deref() {
            Some(Missed::Changes { repair, .. } | Missed::Messages { repair, .. }) => {
                *repair == Repair::Requested
            }
            Some(Missed::Set) | None => false,
        }
    }
}

/// What a subscriber was not sent.
#[derive(Debug)]
pub enum Missed {
    /// The newest set of members.
    Set,
    /// Changes of members: it is sent leave events and then a snapshot. With more departures than
    /// `DEPARTURES_MAX` the subscriber is closed as slow. `requests` are answered with the
    /// snapshot; at most one per large answer that a connection may have in progress.
    Changes { departures: Departures, requests: Vec<u64>, repair: Repair },
    /// Messages after a serial.
    Messages { after: u64, repair: Repair },
}

impl Missed {
    /// Changes from here on.
    pub fn no_changes() -> Self {
        let (departures, requests) = (Departures::default(), Vec::new());
        Missed::Changes { departures, requests, repair: Repair::NotRequested }
    }
}

/// Whether the owner has been asked for what was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    NotRequested,
    Requested,
}

/// A session that is a member of a channel, or about to become one.
#[derive(Debug)]
pub struct Membership {
    /// Slot of the channel in this home's table.
    pub channel: u32,
    /// Number of the last announcement that was sent to the owner.
    pub number: u32,
    /// When the member last announced its state.
    pub announced: Timestamp,
    /// The newest state that the session announced. The owner does not have it while the
    /// connection holds an update for this channel.
    pub state: State,
}

/// An update that the owner has not been sent yet, because its mailbox was full or the sender too
/// fast. The state is that of the membership.
#[derive(Clone, Copy, Debug)]
pub struct HeldUpdate {
    /// Slot of the channel in this home's table.
    pub channel: u32,
    pub reply: AnnounceReply,
}

/// A membership that expired without a heartbeat while its connection stayed open. The next sign of
/// life enters the member again.
#[derive(Debug)]
pub struct LapsedMembership {
    pub channel: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    pub state: State,
}

const _: () = assert!(size_of::<Membership>() <= 24, "a block of every member");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_knows_its_channel_and_its_feed() {
        for feed in Feed::ENCODED {
            for channel in [0, 1, (1 << CHANNEL_BITS) - 1] {
                let subscription = Subscription::new(channel, feed, 7);
                assert_eq!((subscription.channel(), subscription.feed()), (channel, feed));
                assert!(subscription.is_to(channel, feed));
                assert!(!subscription.is_to(channel ^ 1, feed));
            }
        }
        let other = Subscription::new(1, Feed::FoonyPresence, 7);
        assert!(!other.is_to(1, Feed::FoonyMessages));
    }

    #[test]
    fn a_request_is_awaited_until_the_subscription_is_active() {
        let mut subscription = Subscription::new(1, Feed::FoonyMessages, 7);
        assert_eq!((subscription.position(), subscription.delivered_ms()), (None, 0));
        assert!(subscription.awaits(7) && !subscription.awaits(8));
        subscription.set_delivered(9);
        assert!(subscription.awaits(7), "nothing is delivered before it is active");
        subscription.activate(0);
        assert!(!subscription.awaits(7) && !subscription.awaits(0));
        assert_eq!((subscription.position(), subscription.delivered_ms()), (Some(0), 0));
        subscription.set_delivered(9);
        subscription.move_to(3);
        assert_eq!((subscription.position(), subscription.delivered_ms()), (Some(3), 9));
    }
}
