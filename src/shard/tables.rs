//! What a shard knows of a channel: as its owner, and as the home of subscribers.

use std::sync::Arc;

use super::envelope::HomeChannelId;
use super::table::Keyed;
use crate::channel::Channel;
use crate::ids::{ChannelKey, ShardId};
use crate::policy::Policy;
use crate::session::{Feed, FeedSet};

/// One channel that this shard owns: its truth, who is interested, and when to tell them.
#[derive(Debug)]
pub struct OwnedChannel {
    pub key: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    pub channel: Channel,
    pub interest: Vec<Interest>,
    /// In the list of channels to flush this turn.
    pub dirty: bool,
    /// A flush timer is set.
    pub timed: bool,
    /// When watchers were last told something; `None` before the first time.
    pub told_ms: Option<u64>,
}

/// A home shard that has subscribers of an owned channel.
#[derive(Clone, Copy, Debug)]
pub struct Interest {
    pub shard: ShardId,
    pub home: HomeChannelId,
    /// What subscribers there are sent.
    pub feeds: FeedSet,
    /// It missed a tick, because its mailbox was full; it is owed the whole set.
    pub stale: bool,
}

impl Keyed for OwnedChannel {
    fn key(&self) -> &Arc<ChannelKey> {
        &self.key
    }
}

impl OwnedChannel {
    pub fn new(key: Arc<ChannelKey>, policy: Arc<Policy>) -> Self {
        OwnedChannel {
            key,
            policy,
            channel: Channel::default(),
            interest: Vec::new(),
            dirty: false,
            timed: false,
            told_ms: None,
        }
    }

    /// True when nothing would be lost by forgetting the channel.
    pub fn is_unused(&self) -> bool {
        self.channel.members().is_empty() && self.interest.is_empty() && !self.dirty && !self.timed
    }

    pub fn subscribe(&mut self, shard: ShardId, feed: Feed, home: HomeChannelId) {
        match self.interest.iter_mut().find(|interest| interest.shard == shard) {
            Some(interest) => {
                interest.home = home;
                interest.feeds.insert(feed);
            }
            None => {
                let mut feeds = FeedSet::default();
                feeds.insert(feed);
                self.interest.push(Interest { shard, home, feeds, stale: false });
            }
        }
    }

    pub fn unsubscribe(&mut self, shard: ShardId, feed: Feed) {
        for interest in self.interest.iter_mut().filter(|interest| interest.shard == shard) {
            interest.feeds.remove(feed);
        }
        self.interest.retain(|interest| !interest.feeds.is_empty());
    }

    /// The entry of a home shard that has subscribers.
    pub fn home_of(&self, shard: ShardId) -> Option<HomeChannelId> {
        self.interest.iter().find(|interest| interest.shard == shard).map(|i| i.home)
    }

    pub fn is_wanted(&self, feed: Feed) -> bool {
        self.interest.iter().any(|interest| interest.feeds.contains(feed))
    }
}

/// One channel that connections of this shard subscribe to, whoever owns it.
#[derive(Debug)]
pub struct HomeChannel {
    pub key: Arc<ChannelKey>,
    pub owner: ShardId,
    pub policy: Arc<Policy>,
    /// Connection slots per encoded feed, in no particular order.
    pub subscribers: [Vec<u32>; Feed::ENCODED.len()],
    /// Other shards were told that further subscribers should stay where they are.
    pub hot: bool,
}

impl Keyed for HomeChannel {
    fn key(&self) -> &Arc<ChannelKey> {
        &self.key
    }
}

impl HomeChannel {
    pub fn new(key: Arc<ChannelKey>, owner: ShardId, policy: Arc<Policy>) -> Self {
        HomeChannel { key, owner, policy, subscribers: Default::default(), hot: false }
    }

    pub fn subscriber_count(&self) -> usize {
        self.subscribers.iter().map(Vec::len).sum()
    }
}
