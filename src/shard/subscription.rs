//! What ties a connection to a channel: a subscription to one of its feeds, a membership.

use std::sync::Arc;

use super::envelope::Welcome;
use crate::channel::{Identity, State};
use crate::ids::{ChannelKey, Moment};
use crate::policy::Policy;
use crate::session::Feed;

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

/// A connection's wish to receive a channel's feed.
#[derive(Debug)]
pub struct Subscription {
    source: Source,
    /// Where this connection stands in the channel's list of subscribers; [`NOWHERE`] until the
    /// owner has said from when on. Before that nothing is delivered.
    place: u32,
    /// Until there is a place, the request that it began with. From then on, when presence of this
    /// channel was last queued, milliseconds; what the session's pace is measured from.
    request_or_shown_ms: u64,
    /// Set while the subscriber has not been sent everything; made good when it can take it.
    pub missed: Option<Box<Missed>>,
}

const NOWHERE: u32 = u32::MAX;

const _: () = assert!(size_of::<Subscription>() <= 24, "the only block of most subscribers");

impl Subscription {
    /// `channel`: the slot of the channel in this home's table. `request`: what it begins with.
    pub fn new(channel: u32, feed: Feed, request: u64) -> Self {
        let source = Source::new(channel, feed);
        Subscription { source, place: NOWHERE, request_or_shown_ms: request, missed: None }
    }

    /// Slot of the channel in this home's table.
    pub fn channel(&self) -> u32 {
        self.source.0 & ((1 << CHANNEL_BITS) - 1)
    }

    pub fn feed(&self) -> Feed {
        Feed::ENCODED[(self.source.0 >> CHANNEL_BITS) as usize]
    }

    pub fn is_to(&self, channel: u32, feed: Feed) -> bool {
        self.source == Source::new(channel, feed)
    }

    /// Where the connection stands in the channel's list of subscribers, if it is delivered to.
    pub fn place(&self) -> Option<u32> {
        (self.place != NOWHERE).then_some(self.place)
    }

    /// It is delivered to from here on.
    pub fn admit(&mut self, place: u32) {
        self.place = place;
        self.request_or_shown_ms = 0;
    }

    /// Another place in the list.
    pub fn move_to(&mut self, place: u32) {
        self.place = place;
    }

    /// Does it begin with the answer to this request?
    pub fn awaits(&self, request: u64) -> bool {
        self.place == NOWHERE && self.request_or_shown_ms == request
    }

    /// When presence was last queued; 0 before the first time.
    pub fn shown_ms(&self) -> u64 {
        if self.place == NOWHERE { 0 } else { self.request_or_shown_ms }
    }

    /// Presence is being queued.
    pub fn set_shown(&mut self, now_ms: u64) {
        if self.place != NOWHERE {
            self.request_or_shown_ms = now_ms;
        }
    }

    /// The owner has been asked for what was missed, and has not answered.
    pub fn is_asked_for(&self) -> bool {
        match self.missed.as_deref() {
            Some(Missed::Changes { asked, .. } | Missed::Messages { asked, .. }) => {
                *asked == Asked::Waiting
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
    /// Changes of members. Those who left must be named, for the set does not tell of them; when
    /// there are more than `DEPARTURES_MAX` the subscriber is closed as slow.
    Changes { left: Vec<Arc<Identity>>, asked: Asked },
    /// Messages after a serial.
    Messages { after: u64, asked: Asked },
}

/// Has the owner been asked for what was missed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    NotYet,
    Waiting,
}

/// A session's being a member of a channel, or about to become one.
#[derive(Debug)]
pub struct Membership {
    /// Slot of the channel in this home's table.
    pub channel: u32,
    /// Number of the last announcement that was sent to the owner.
    pub number: u32,
    /// When the member last announced its state.
    pub announced: Moment,
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
    pub welcome: Welcome,
}

/// A membership that ended for want of a heartbeat, while its connection stayed open. The next sign
/// of life enters the member again.
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
    fn a_request_is_awaited_until_there_is_a_place_and_then_it_is_a_time() {
        let mut subscription = Subscription::new(1, Feed::FoonyMessages, 7);
        assert_eq!((subscription.place(), subscription.shown_ms()), (None, 0));
        assert!(subscription.awaits(7) && !subscription.awaits(8));
        subscription.set_shown(9);
        assert!(subscription.awaits(7), "nothing is shown to those without a place");
        subscription.admit(0);
        assert!(!subscription.awaits(7) && !subscription.awaits(0));
        assert_eq!((subscription.place(), subscription.shown_ms()), (Some(0), 0));
        subscription.set_shown(9);
        subscription.move_to(3);
        assert_eq!((subscription.place(), subscription.shown_ms()), (Some(3), 9));
    }
}
