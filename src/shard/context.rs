//! What both halves of a shard work with.

use std::sync::Arc;

use super::Settings;
use super::envelope::{Command, Envelope, SessionNotice};
use super::outbox::Outbox;
use super::timers::Timers;
use crate::counters::Counters;
use crate::ids::{ChannelKey, Clocks, ShardId};
use crate::limits::Limits;

/// One per shard. `now` is the time of the input at hand.
#[derive(Debug)]
pub struct ShardContext {
    pub id: ShardId,
    pub settings: Arc<Settings>,
    pub now: Clocks,
    pub outbox: Outbox,
    pub timers: Timers,
    pub counters: Counters,
    /// Events of members could not be stored.
    pub presence_history_lost: bool,
}

impl ShardContext {
    pub fn new(id: ShardId, settings: Arc<Settings>) -> Self {
        let peers = usize::from(settings.router.shards()) + 1;
        ShardContext {
            id,
            settings,
            now: Clocks { mono_ms: 0, wall_ms: 0 },
            outbox: Outbox::new(id, peers),
            timers: Timers::default(),
            counters: Counters::default(),
            presence_history_lost: false,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// Sends a notice to the registry of the session with this name.
    pub fn notify_registry(&mut self, app: &str, name: &str, notice: SessionNotice) {
        let hash = self.settings.router.hash(app, name);
        let registry = self.settings.router.shard_of(hash);
        self.outbox.send(registry, Envelope::Session { hash, notice });
    }

    /// Sends a command to the owner of a channel.
    pub fn command(&mut self, owner: ShardId, channel: Arc<ChannelKey>, command: Command) {
        self.outbox.send(owner, Envelope::Command { from: self.id, channel, command });
    }
}
