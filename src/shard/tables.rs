//! What a shard knows of a channel: as its owner, and as the home of subscribers.

use std::sync::Arc;

use super::envelope::HomeChannelId;
use super::large_set::LargeSet;
use super::round::Round;
use super::table::Keyed;
use crate::channel::{Change, ChangeKind, Channel, Message, Messages};
use crate::ids::{ChannelKey, ShardId};
use crate::policy::Policy;
use crate::session::{Feed, FeedSet};

/// One channel that this shard owns: its truth, who is interested, and when to tell them.
#[derive(Debug)]
pub struct OwnedChannel {
    pub key: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    pub channel: Channel,
    /// Set from the first publish on.
    pub published: Option<Box<Published>>,
    pub interest: Vec<Interest>,
    /// In the list of channels to flush this turn.
    pub dirty: bool,
    /// A flush timer is set.
    pub timed: bool,
    /// When watchers were last told something; `None` before the first time.
    pub told_ms: Option<u64>,
    /// Set while the set of members is large.
    pub large: Option<Box<LargeSet>>,
}

/// What is published in an owned channel.
#[derive(Debug, Default)]
pub struct Published {
    pub messages: Messages,
    /// Not yet routed; at most what one turn brings.
    pub pending: Vec<Arc<Message>>,
}

/// A home shard that has subscribers of an owned channel.
#[derive(Clone, Debug)]
pub struct Interest {
    pub shard: ShardId,
    pub home: HomeChannelId,
    /// What subscribers there are sent.
    pub feeds: FeedSet,
    /// It missed a tick, because its mailbox was full; it is owed the whole set.
    pub stale: bool,
    /// Feeds whose large set it is owed; made and sent when it is due and the mailbox has room.
    pub owed: FeedSet,
    /// Members whose leaving it missed, for subscribers whom a set does not tell. Bounded by the
    /// members that leave while one mailbox is full.
    pub left: Vec<Change>,
    /// It missed the messages after this serial, because its mailbox was full.
    pub missed_after: Option<u64>,
}

impl Interest {
    /// Everybody there is to be shown the newest large set.
    pub fn owe_sets(&mut self) {
        self.owed = self.feeds.and(Feed::PRESENCE_SETS);
    }

    /// Remembers who left, for the time when the home can be told.
    pub fn miss_departures(&mut self, changes: &[Change]) {
        if !self.feeds.and(Feed::PRESENCE_CHANGES).is_empty() {
            let left = changes.iter().filter(|change| change.kind == ChangeKind::Leave);
            self.left.extend(left.cloned());
        }
    }
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
            published: None,
            interest: Vec::new(),
            dirty: false,
            timed: false,
            told_ms: None,
            large: None,
        }
    }

    /// True when nothing would be lost by forgetting the channel.
    pub fn is_unused(&self) -> bool {
        self.published.is_none() && self.is_unused_but_for_messages()
    }

    /// True when nobody is there and nothing is to be told.
    pub fn is_unused_but_for_messages(&self) -> bool {
        let is_idle = !self.dirty && !self.timed;
        self.channel.members().is_empty() && self.interest.is_empty() && is_idle
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
                self.interest.push(Interest {
                    shard,
                    home,
                    feeds,
                    stale: false,
                    owed: FeedSet::default(),
                    left: Vec::new(),
                    missed_after: None,
                });
            }
        }
    }

    pub fn unsubscribe(&mut self, shard: ShardId, feed: Feed) {
        for interest in self.interest.iter_mut().filter(|interest| interest.shard == shard) {
            interest.feeds.remove(feed);
            interest.owed.remove(feed);
        }
        self.interest.retain(|interest| !interest.feeds.is_empty());
    }

    pub fn is_any_wanted(&self, feeds: FeedSet) -> bool {
        self.interest.iter().any(|interest| !interest.feeds.and(feeds).is_empty())
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
    /// Per encoded feed, the slots of connections that are delivered to, in no particular order.
    pub subscribers: [Vec<u32>; Feed::ENCODED.len()],
    /// Per encoded feed, subscriptions, those included that nothing is delivered to yet.
    pub subscriptions: [u32; Feed::ENCODED.len()],
    /// For feeds of sets, what is under way of large ones; at most one per feed.
    pub rounds: Vec<Round>,
    /// Connections that are members, or about to be.
    pub members: u32,
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
        HomeChannel {
            key,
            owner,
            policy,
            subscribers: Default::default(),
            subscriptions: Default::default(),
            rounds: Vec::new(),
            members: 0,
            hot: false,
        }
    }

    pub fn round(&self, feed: Feed) -> Option<&Round> {
        self.rounds.iter().find(|round| round.set().feed == feed)
    }

    pub fn round_mut(&mut self, feed: Feed) -> Option<&mut Round> {
        self.rounds.iter_mut().find(|round| round.set().feed == feed)
    }

    /// True when no connection of this shard has to do with the channel.
    pub fn is_unused(&self) -> bool {
        self.members == 0 && self.subscription_count() == 0
    }

    pub fn subscription_count(&self) -> usize {
        self.subscriptions.iter().map(|&count| count as usize).sum()
    }
}
