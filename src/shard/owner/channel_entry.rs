//! One channel that a shard owns: its members and messages, the homes with subscribers, and what is
//! to be flushed to them.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use super::durable::DurableLog;
use super::home_subscription::HomeSubscription;
use super::snapshot::SnapshotState;
use crate::channel::{Channel, Message, Messages};
use crate::ids::{ChannelKey, ConnAddr, ShardId, Timestamp};
use crate::policy::Policy;
use crate::session::{Feed, FeedSet};
use crate::shard::channel_table::Keyed;
use crate::shard::envelope::HomeChannelId;
use crate::shard::inline_vec::InlineVec;

#[derive(Debug)]
pub struct OwnedChannel {
    pub key: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    pub presence: Presence,
    /// Set from the first publish on.
    pub published: Option<Box<Published>>,
    pub homes: InlineVec<HomeSubscription>,
    /// In the list of channels to flush this turn.
    pub dirty: bool,
    /// A flush timer is set.
    pub timed: bool,
    /// A timer is set for the digests of the members.
    pub digest_timed: bool,
    /// When changes were last flushed; `None` before the first time.
    pub flushed: Option<Timestamp>,
    /// Set while subscribers wait for a snapshot, and while snapshots are conflated.
    pub snapshots: Option<Box<SnapshotState>>,
}

const _: () =
    assert!(size_of::<OwnedChannel>() <= 72, "subscribers with a channel each pay for it");

/// The members of a channel. No heap memory while there are none.
#[derive(Debug, Default)]
pub struct Presence(Option<Box<Channel>>);

/// A channel that never had a member.
static EMPTY: LazyLock<Channel> = LazyLock::new(Channel::default);

impl Presence {
    /// Frees the memory if there are no members and no changes to flush; true if so.
    fn free_if_empty(&mut self) -> bool {
        let is_empty = self.members().is_empty() && !self.has_changes();
        if is_empty {
            self.0 = None;
        }
        is_empty
    }
}

impl Deref for Presence {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        self.0.as_deref().unwrap_or_else(|| &EMPTY)
    }
}

impl DerefMut for Presence {
    fn deref_mut(&mut self) -> &mut Channel {
        self.0.get_or_insert_default()
    }
}

/// The messages of a channel.
#[derive(Debug, Default)]
pub struct Published {
    pub messages: Messages,
    /// Not yet routed; at most what one turn brings.
    pub pending: Vec<Arc<Message>>,
    /// Set when the log is on disk.
    pub durable: Option<Box<DurableLog>>,
}

impl Published {
    /// Nothing is being routed, stored or read.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.durable.as_ref().is_none_or(|durable| durable.is_idle())
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
            presence: Presence::default(),
            published: None,
            homes: InlineVec::None,
            dirty: false,
            timed: false,
            digest_timed: false,
            flushed: None,
            snapshots: None,
        }
    }

    /// Frees what an empty channel does not need. Members are numbered anew from then on, so that
    /// nothing remembered by number is kept.
    pub fn free_if_empty(&mut self) {
        if self.presence.free_if_empty()
            && let Some(snapshots) = &mut self.snapshots
        {
            snapshots.forget_members();
        }
    }

    /// True when removing the entry would lose nothing.
    pub fn is_unused(&self) -> bool {
        self.published.is_none() && self.is_unused_but_for_messages()
    }

    /// True without members, subscribers and changes to flush.
    pub fn is_unused_but_for_messages(&self) -> bool {
        let is_idle = !self.dirty && !self.timed && !self.digest_timed;
        self.presence.members().is_empty() && self.homes.is_empty() && is_idle
    }

    pub fn subscribe(&mut self, shard: ShardId, feed: Feed, home: HomeChannelId) {
        if feed == Feed::FoonyPeers
            && !self.presence.members().is_empty()
            && let Some(graph) = &mut self.presence.members_mut().graph
        {
            // Without a subscriber, not every change was recorded.
            graph.digests = None;
        }
        match self.home_mut(shard) {
            Some(known) => {
                known.home = home;
                known.feeds.insert(feed);
            }
            None => self.homes.push(HomeSubscription::new(shard, home, feed)),
        }
    }

    pub fn unsubscribe(&mut self, shard: ShardId, feed: Feed) {
        let Some(at) = self.homes.iter().position(|home| home.shard == shard) else { return };
        self.homes[at].unsubscribe(feed);
        if self.homes[at].feeds.is_empty() {
            self.homes.swap_remove(at);
        }
    }

    /// Records a change that only the presence graph shows, if somebody here looks at it.
    pub fn record_peer_change(&mut self, addr: ConnAddr) {
        if self.feeds().contains(Feed::FoonyPeers) {
            self.presence.record_peer_change(addr);
        }
    }

    pub fn home_mut(&mut self, shard: ShardId) -> Option<&mut HomeSubscription> {
        self.homes.iter_mut().find(|home| home.shard == shard)
    }

    /// True when a home has subscribers of this feed.
    pub fn is_subscribed_by(&self, shard: ShardId, feed: Feed) -> bool {
        self.homes.iter().any(|home| home.shard == shard && home.feeds.contains(feed))
    }

    /// The feeds that any home has subscribers of.
    pub fn feeds(&self) -> FeedSet {
        self.homes.iter().fold(FeedSet::empty(), |feeds, home| feeds | home.feeds)
    }
}
