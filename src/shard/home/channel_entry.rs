//! One channel that connections of this shard subscribe to, whichever shard owns it.

use std::sync::Arc;

use super::snapshot_sweep::SnapshotSweep;
use super::subscriber_list::SubscriberList;
use crate::ids::{ChannelKey, ShardId};
use crate::policy::Policy;
use crate::session::Feed;
use crate::shard::channel_table::Keyed;
use crate::shard::inline_vec::InlineVec;

#[derive(Debug)]
pub struct HomeChannel {
    pub key: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    feeds: InlineVec<FeedSubscribers>,
    /// Connections that are members, or about to be.
    pub members: u32,
    pub owner: ShardId,
    /// Other shards know that further subscribers should stay where they are.
    pub hot: bool,
}

const _: () = assert!(size_of::<HomeChannel>() <= 40, "subscribers with a channel each pay for it");

/// The subscribers of one feed of a channel.
#[derive(Debug)]
struct FeedSubscribers {
    feed: Feed,
    /// Subscriptions, inactive ones included; not 0.
    subscriptions: u32,
    /// Connections with an active subscription.
    active: SubscriberList,
    /// Set while a snapshot is delivered in a sweep.
    sweep: Option<Box<SnapshotSweep>>,
}

impl Keyed for HomeChannel {
    fn key(&self) -> &Arc<ChannelKey> {
        &self.key
    }
}

impl HomeChannel {
    pub fn new(key: Arc<ChannelKey>, owner: ShardId, policy: Arc<Policy>) -> Self {
        HomeChannel { key, policy, feeds: InlineVec::None, members: 0, owner, hot: false }
    }

    /// The sweep of a feed, and its active subscribers; `None` without subscriptions.
    pub fn subscribers_mut(
        &mut self,
        feed: Feed,
    ) -> Option<(Option<&mut SnapshotSweep>, &mut SubscriberList)> {
        let entry = self.feed_mut(feed)?;
        Some((entry.sweep.as_deref_mut(), &mut entry.active))
    }

    /// Slots of the connections with an active subscription.
    pub fn subscribers(&self, feed: Feed) -> &[u32] {
        let entry = self.feeds.iter().find(|entry| entry.feed == feed);
        entry.map_or(&[], |entry| entry.active.slots())
    }

    pub fn sweep(&self, feed: Feed) -> Option<&SnapshotSweep> {
        self.feeds.iter().find(|entry| entry.feed == feed)?.sweep.as_deref()
    }

    pub fn sweep_mut(&mut self, feed: Feed) -> Option<&mut SnapshotSweep> {
        self.feed_mut(feed)?.sweep.as_deref_mut()
    }

    /// Replaces the sweep of a feed.
    pub fn set_sweep(&mut self, feed: Feed, sweep: Option<SnapshotSweep>) {
        if let Some(entry) = self.feed_mut(feed) {
            entry.sweep = sweep.map(Box::new);
        }
    }

    /// True without members and subscriptions on this shard.
    pub fn is_unused(&self) -> bool {
        self.members == 0 && self.feeds.is_empty()
    }

    pub fn subscription_count(&self) -> usize {
        self.subscriptions().map(|(_, count)| count).sum()
    }

    /// How many subscriptions there are to each feed.
    pub fn subscriptions(&self) -> impl Iterator<Item = (Feed, usize)> {
        self.feeds.iter().map(|entry| (entry.feed, entry.subscriptions as usize))
    }

    /// A subscription begins; returns how many there are to its feed.
    pub fn add_subscription(&mut self, feed: Feed) -> u32 {
        if let Some(entry) = self.feed_mut(feed) {
            entry.subscriptions += 1;
            return entry.subscriptions;
        }
        let active = SubscriberList::None;
        self.feeds.push(FeedSubscribers { feed, subscriptions: 1, active, sweep: None });
        1
    }

    /// A subscription has ended, and is not in the list of active ones; returns how many are left.
    pub fn remove_subscription(&mut self, feed: Feed) -> u32 {
        let at = self.feeds.iter().position(|entry| entry.feed == feed);
        let Some(at) = at else { panic!("no subscription to {feed:?} of {}", self.key) };
        let entry = &mut self.feeds[at];
        entry.subscriptions -= 1;
        let left = entry.subscriptions;
        if left == 0 {
            self.feeds.swap_remove(at);
        }
        left
    }

    fn feed_mut(&mut self, feed: Feed) -> Option<&mut FeedSubscribers> {
        self.feeds.iter_mut().find(|entry| entry.feed == feed)
    }
}
