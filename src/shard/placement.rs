//! Where connections live: the shard that owns their first channel, unless that one has enough.

use super::Shard;
use super::connection::{FirstMessage, Move, Phase};
use super::envelope::{Effect, Envelope, Heat};
use crate::counters::Dropped;
use crate::ids::{ChannelKey, ConnId, ShardId};

/// Whether a request was carried out here, or the connection takes it to another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Here,
    Elsewhere(ShardId),
}

impl Shard {
    /// The owner of a connection's first channel, when the connection should move there.
    pub(super) fn better_home(&mut self, id: ConnId, key: &ChannelKey) -> Option<ShardId> {
        let owner = self.settings.router.shard_of(key);
        let connection = self.connections.get(id)?;
        let may_move = connection.details.subscriptions.is_empty()
            && connection.details.memberships.is_empty()
            && connection.resuming().is_none()
            && !connection.has_lapsed()
            && !connection.flags.settled
            && !connection.flags.blocked;
        if may_move && self.should_move(owner, key.hash) { Some(owner) } else { None }
    }

    /// Whether a connection whose channel has this owner and hash should leave this shard.
    pub(super) fn should_move(&mut self, owner: ShardId, hash: u64) -> bool {
        if owner == self.id || self.hot.contains(&hash) || self.is_overloaded(owner) {
            return false;
        }
        if !self.outbox.has_room(owner) {
            self.counters.drop(Dropped::HandoffMailboxFull);
            return false;
        }
        true
    }

    /// Begins a hand-off; `first` is what the new home must act on.
    pub(super) fn begin_move(&mut self, id: ConnId, to: ShardId, first: Option<FirstMessage>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.phase = Phase::Moving;
        connection.rare_mut().hand_off = Some(Move { to, first });
        self.forget_name(id);
        self.outbox.effect(Effect::Detach { conn: id });
    }

    /// Tells the other shards when a channel owned here becomes hot, or normal again.
    pub(super) fn update_heat(&mut self, slot: u32) {
        let limit = self.settings.limits.home_subscribers_max as usize;
        let Some(home) = self.homes.get_mut(slot) else { return };
        let count = home.subscription_count();
        let hot = if home.hot { count > limit / 2 } else { count > limit };
        if home.owner != self.id || hot == home.hot {
            return;
        }
        home.hot = hot;
        let hash = home.key.hash;
        let heat = if hot { Heat::Hot } else { Heat::Normal };
        for shard in (0..self.settings.router.shards()).map(ShardId) {
            self.outbox.send(shard, Envelope::Heat { hash, heat });
        }
    }

    /// As many connections as it may hold, or more than the mean of all shards allows.
    fn is_overloaded(&self, shard: ShardId) -> bool {
        const SLACK: u64 = 64;
        let shards = u64::from(self.settings.router.shards());
        let all: u64 = self.loads.iter().map(|&load| u64::from(load)).sum();
        let percent = u64::from(self.settings.limits.home_overload_percent);
        let most = (all / shards + SLACK) * (100 + percent) / 100;
        let most = most.min(u64::from(self.settings.limits.connections_per_shard_max));
        self.loads.get(shard.index()).is_some_and(|&load| u64::from(load) >= most)
    }
}
