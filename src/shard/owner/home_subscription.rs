//! A home with subscribers of an owned channel, and what its full mailbox has kept from it.

use crate::channel::Change;
use crate::ids::ShardId;
use crate::session::{Feed, FeedSet};
use crate::shard::departures::Departures;
use crate::shard::envelope::HomeChannelId;

#[derive(Clone, Debug)]
pub struct HomeSubscription {
    pub home: HomeChannelId,
    pub shard: ShardId,
    /// What subscribers there receive.
    pub feeds: FeedSet,
    /// Set while something is to be sent that its mailbox had no room for.
    pending: Option<Box<Pending>>,
}

const _: () =
    assert!(size_of::<HomeSubscription>() <= 24, "a block of every channel with subscribers");

/// What a home has missed.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// It missed a tick, and receives everyone who is present instead.
    is_stale: bool,
    /// Feeds whose next snapshot is for all its subscribers.
    snapshots: FeedSet,
    /// Members whose leave event it missed, for subscribers of changes.
    departures: Departures,
    /// It missed the messages after this serial.
    after: Option<u64>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        let Pending { is_stale, snapshots, departures, after } = self;
        !is_stale && snapshots.is_empty() && departures.is_empty() && after.is_none()
    }
}

impl HomeSubscription {
    pub fn new(shard: ShardId, home: HomeChannelId, feed: Feed) -> Self {
        HomeSubscription { home, shard, feeds: feed.into(), pending: None }
    }

    pub fn unsubscribe(&mut self, feed: Feed) {
        self.feeds.remove(feed);
        self.clear_snapshot(feed);
    }

    /// Notes a tick that its mailbox had no room for. Returns how many departures were dropped
    /// because more than `departures_max` are pending.
    pub fn miss_tick(&mut self, changes: &[Change], departures_max: usize) -> usize {
        let is_for_changes = !self.feeds.is_disjoint(Feed::PRESENCE_CHANGES);
        let pending = self.pending.get_or_insert_default();
        pending.is_stale = true;
        if is_for_changes {
            pending.departures.record(changes);
        }
        pending.departures.truncate(departures_max)
    }

    pub fn is_stale(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.is_stale)
    }

    /// It is sent everyone who is present. Returns the members that left while it was stale.
    pub fn take_departures(&mut self) -> Departures {
        let departures = self.take(|pending| {
            pending.is_stale = false;
            std::mem::take(&mut pending.departures)
        });
        departures.unwrap_or_default()
    }

    /// The serial after which it missed messages.
    pub fn missed_after(&self) -> Option<u64> {
        self.pending.as_ref().and_then(|pending| pending.after)
    }

    pub fn set_missed_after(&mut self, after: Option<u64>) {
        match after {
            Some(_) => self.pending.get_or_insert_default().after = after,
            None => _ = self.take(|pending| pending.after = None),
        }
    }

    /// The next snapshot of its feeds of sets is for all its subscribers.
    pub fn request_snapshots(&mut self) {
        let sets = self.feeds & Feed::PRESENCE_SETS;
        if !sets.is_empty() {
            self.pending.get_or_insert_default().snapshots |= sets;
        }
    }

    /// Feeds whose next snapshot is for all its subscribers.
    pub fn pending_snapshots(&self) -> FeedSet {
        self.pending.as_ref().map_or(FeedSet::empty(), |pending| pending.snapshots)
    }

    pub fn clear_snapshot(&mut self, feed: Feed) {
        self.take(|pending| pending.snapshots.remove(feed));
    }

    /// Takes something out of what is pending; `None` when nothing is.
    fn take<T>(&mut self, take: impl FnOnce(&mut Pending) -> T) -> Option<T> {
        let pending = self.pending.as_mut()?;
        let taken = take(pending);
        if pending.is_empty() {
            self.pending = None;
        }
        Some(taken)
    }
}
