//! What both halves of a shard work with.

use std::collections::HashMap;
use std::sync::Arc;

use super::Settings;
use super::envelope::{Command, Envelope, SessionNotice};
use super::outbox::Outbox;
use super::timers::Timers;
use super::trace::Traced;
use crate::counters::{Counters, Dropped};
use crate::ids::{ChannelKey, Clocks, ShardId};
use crate::limits::Limits;

/// Logs of members' events that have lost some, and are remembered.
const LOST_LOGS_MAX: usize = 1024;

/// One per shard. `now` is the time of the input at hand.
#[derive(Debug)]
pub struct ShardContext {
    pub id: ShardId,
    pub settings: Arc<Settings>,
    pub now: Clocks,
    pub outbox: Outbox,
    pub timers: Timers,
    pub counters: Counters,
    /// Logs that have lost events of members. At most [`LOST_LOGS_MAX`]; of further ones the next
    /// entry lists everyone when it is time.
    pub presence_history_lost: Vec<Arc<ChannelKey>>,
    /// Channels that operators trace, by the hash of the name.
    pub traced: HashMap<u64, Arc<ChannelKey>>,
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
            presence_history_lost: Vec::new(),
            traced: HashMap::new(),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// An entry of this log of members' events could not be stored.
    pub fn note_lost_entry(&mut self, log: &Arc<ChannelKey>) {
        let lost = &mut self.presence_history_lost;
        if lost.len() < LOST_LOGS_MAX && !lost.contains(log) {
            lost.push(Arc::clone(log));
        }
    }

    /// Tells of something that happened to a channel, if it is traced.
    pub fn trace(&mut self, key: &ChannelKey, what: impl FnOnce() -> Traced) {
        if self.traced.is_empty() {
            return;
        }
        let Some(channel) = self.traced.get(&key.log_hash()).map(Arc::clone) else { return };
        let (wall_ms, turn) = (self.now.wall_ms, self.counters.turns);
        let envelope = Envelope::Traced { channel, wall_ms, turn, what: what() };
        if self.outbox.try_send(self.settings.edge, envelope).is_err() {
            self.counters.drop(Dropped::Trace);
        }
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
