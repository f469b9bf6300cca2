//! Which shard is home to a connection: the owner of its first channel, unless that one has enough.

use std::collections::HashSet;

use super::Home;
use super::connections::ActiveConnection;
use crate::counters::Dropped;
use crate::ids::{ChannelKey, ShardId};
use crate::limits::Limits;
use crate::shard::context::ShardContext;
use crate::shard::envelope::{ChannelLoad, Envelope};

/// Whether a request was carried out here, or what becomes of it instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Here,
    /// It is held here until the admission hook has decided, and with it what follows.
    Waiting,
    Elsewhere(ShardId),
}

/// What a home knows of the load of others.
#[derive(Debug)]
pub struct Placement {
    /// Hashes of channels whose further subscribers stay where they were accepted. Bounded by all
    /// connections over `home_subscribers_max`.
    hot: HashSet<u64>,
    /// Connections of every shard, as last reported by the shell.
    loads: Vec<u32>,
}

impl Placement {
    pub fn new(shards: usize) -> Self {
        Placement { hot: HashSet::new(), loads: vec![0; shards] }
    }

    pub fn set_loads(&mut self, loads: &[u32]) {
        self.loads.copy_from_slice(loads);
    }

    pub fn set_channel_load(&mut self, hash: u64, load: ChannelLoad) {
        match load {
            ChannelLoad::Hot => _ = self.hot.insert(hash),
            ChannelLoad::Normal => _ = self.hot.remove(&hash),
        }
    }

    /// True when a shard has reached its limit of connections, or has more than the mean of all
    /// shards allows.
    fn is_overloaded(&self, shard: ShardId, limits: &Limits) -> bool {
        const SLACK: u64 = 64;
        let all: u64 = self.loads.iter().map(|&load| u64::from(load)).sum();
        let percent = u64::from(limits.home_overload_percent);
        let most = (all / self.loads.len() as u64 + SLACK) * (100 + percent) / 100;
        let most = most.min(u64::from(limits.connections_per_shard_max));
        self.loads.get(shard.index()).is_some_and(|&load| u64::from(load) >= most)
    }
}

impl Home {
    /// The owner of a connection's first channel, when the connection should move there.
    pub(super) fn better_home(
        &mut self,
        cx: &mut ShardContext,
        conn: &ActiveConnection,
        key: &ChannelKey,
    ) -> Option<ShardId> {
        let owner = Home::owner_of(cx, key);
        let may_move = conn.warm.subscriptions.is_empty()
            && conn.warm.memberships.is_empty()
            && conn.resuming().is_none()
            && !conn.has_lapsed()
            && !conn.flags.placement_final
            && !conn.flags.blocked;
        (may_move && self.should_move(cx, owner, key.hash)).then_some(owner)
    }

    /// Whether a connection whose channel has this owner and hash should leave this shard.
    pub(super) fn should_move(&self, cx: &mut ShardContext, owner: ShardId, hash: u64) -> bool {
        if owner == cx.id
            || self.placement.hot.contains(&hash)
            || self.placement.is_overloaded(owner, cx.limits())
        {
            return false;
        }
        if !cx.outbox.has_room(owner) {
            cx.counters.drop(Dropped::HandoffMailboxFull);
            return false;
        }
        true
    }

    /// Tells the other shards when a channel owned here becomes hot, or normal again.
    pub(super) fn update_channel_load(&mut self, cx: &mut ShardContext, slot: u32) {
        let limit = cx.limits().home_subscribers_max as usize;
        let channel = self.channel(slot);
        let count = channel.subscription_count();
        let hot = if channel.hot { count > limit / 2 } else { count > limit };
        if channel.owner != cx.id || hot == channel.hot {
            return;
        }
        channel.hot = hot;
        let hash = channel.key.hash;
        let load = if hot { ChannelLoad::Hot } else { ChannelLoad::Normal };
        for shard in (0..cx.settings.router.shards()).map(ShardId) {
            cx.outbox.send(shard, Envelope::ChannelLoad { hash, load });
        }
    }
}
