//! What webhooks are told of a channel: that it is occupied or vacated, who enters and leaves it,
//! what is published. Only channels of namespaces with `webhook_events` are followed.

use std::sync::Arc;

use super::Owner;
use super::channel_entry::OwnedChannel;
use crate::channel::{Change, ChangeKind, Message};
use crate::ids::{ChannelKey, ShardId};
use crate::policy::WebhookEvent;
use crate::shard::channel_event::{ChannelEvent, EventKind};
use crate::shard::context::ShardContext;
use crate::shard::envelope::Effect;
use crate::shard::timers::Timer;

/// A channel of which webhooks were told something. At most one per open channel, and one per
/// channel that was closed within `vacated_delay_ms`.
#[derive(Debug)]
pub struct Followed {
    channel: Arc<ChannelKey>,
    /// The sequence of the last event.
    last: u64,
    occupancy: Occupancy,
    /// A timer is set.
    timed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupancy {
    /// Nobody was told that it is occupied. Forgotten when nothing has happened for a while.
    Unknown {
        due_ms: u64,
    },
    Occupied,
    /// Nobody is there; told when the time has come.
    Vacating {
        due_ms: u64,
    },
}

impl Owner {
    /// Compares whether somebody is in a channel with what webhooks were told. Call when that may
    /// have changed, before the channel's entry is removed.
    pub(super) fn follow(&mut self, cx: &mut ShardContext, slot: u32) {
        let Some(channel) = self.channels.get(slot).filter(|c| is_followed(c)) else { return };
        let is_occupied = is_occupied(channel, cx.settings.edge);
        let (key, hash) = (Arc::clone(&channel.key), channel.key.log_hash());
        let known = self.followed.get(&hash).map(|followed| followed.occupancy);
        match (known, is_occupied) {
            (None | Some(Occupancy::Unknown { .. }), true) => {
                self.tell(cx, &key, WebhookEvent::Occupancy, EventKind::Occupied);
                self.set_occupancy(cx, &key, Occupancy::Occupied);
            }
            (Some(Occupancy::Vacating { .. }), true) => {
                self.set_occupancy(cx, &key, Occupancy::Occupied);
            }
            (Some(Occupancy::Occupied), false) => {
                let due_ms = cx.now.mono_ms + cx.settings.vacated_delay_ms;
                self.set_occupancy(cx, &key, Occupancy::Vacating { due_ms });
            }
            _ => {}
        }
    }

    fn set_occupancy(&mut self, cx: &mut ShardContext, key: &Arc<ChannelKey>, to: Occupancy) {
        let hash = key.log_hash();
        self.followed.entry(hash).or_insert_with(|| Followed::new(key)).occupancy = to;
        if let Occupancy::Vacating { due_ms } = to {
            self.set_vacated_timer(cx, hash, due_ms);
        }
    }

    /// The time of a channel without anybody may be over.
    pub(super) fn vacated_due(&mut self, cx: &mut ShardContext, hash: u64) {
        let Some(followed) = self.followed.get_mut(&hash) else { return };
        let (key, occupancy) = (Arc::clone(&followed.channel), followed.occupancy);
        followed.timed = false;
        let due_ms = match occupancy {
            Occupancy::Occupied => return,
            Occupancy::Vacating { due_ms } | Occupancy::Unknown { due_ms } => due_ms,
        };
        let slot = self.channels.find_key(&key);
        let changes = slot.is_some_and(|slot| self.entry(slot).presence.has_changes());
        if due_ms > cx.now.mono_ms || changes {
            // A leave that is still to be told of comes before it.
            let due_ms = due_ms.max(cx.now.mono_ms + 100);
            return self.set_vacated_timer(cx, hash, due_ms);
        }
        if let Occupancy::Vacating { .. } = occupancy {
            self.tell(cx, &key, WebhookEvent::Occupancy, EventKind::Vacated);
        }
        self.followed.remove(&hash);
    }

    fn set_vacated_timer(&mut self, cx: &mut ShardContext, hash: u64, due_ms: u64) {
        let Some(followed) = self.followed.get_mut(&hash) else { return };
        if !std::mem::replace(&mut followed.timed, true) {
            cx.timers.set(due_ms, Timer::Vacated { hash });
        }
    }

    /// Tells of changes of members.
    pub(super) fn tell_changes(&mut self, cx: &mut ShardContext, slot: u32, changes: Vec<Change>) {
        let key = Arc::clone(&self.entry(slot).key);
        for Change { kind, identity, state, .. } in changes {
            if kind != ChangeKind::Peer {
                let what = EventKind::Member { kind, identity, state };
                self.tell(cx, &key, WebhookEvent::Presence, what);
            }
        }
    }

    /// Tells of messages, if the namespace says so.
    pub(super) fn tell_messages(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        messages: &[Arc<Message>],
    ) {
        let channel = self.entry(slot);
        if !tells(channel, WebhookEvent::Messages) {
            return;
        }
        let key = Arc::clone(&channel.key);
        for message in messages {
            let what = EventKind::Message(Arc::clone(message));
            self.tell(cx, &key, WebhookEvent::Messages, what);
        }
    }

    /// The sequence of the last event of a channel; 0 if there was none lately.
    pub(super) fn told_sequence(&self, key: &ChannelKey) -> u64 {
        self.followed.get(&key.log_hash()).map_or(0, |followed| followed.last)
    }

    fn tell(
        &mut self,
        cx: &mut ShardContext,
        key: &Arc<ChannelKey>,
        event: WebhookEvent,
        what: EventKind,
    ) {
        if !cx.settings.policies.for_channel(&key.name).webhook_events.contains(&event) {
            return;
        }
        let (hash, sequence) = (key.log_hash(), self.retention.next_serial());
        let followed = self.followed.entry(hash).or_insert_with(|| Followed::new(key));
        let previous = std::mem::replace(&mut followed.last, sequence);
        if let Occupancy::Unknown { due_ms } = &mut followed.occupancy {
            *due_ms = cx.now.mono_ms + cx.settings.vacated_delay_ms;
            let due_ms = *due_ms;
            self.set_vacated_timer(cx, hash, due_ms);
        }
        let (channel, wall_ms) = (Arc::clone(key), cx.now.wall_ms);
        let event = ChannelEvent { channel, sequence, previous, wall_ms, what };
        cx.outbox.effect(Effect::Notify(Box::new(event)));
    }
}

impl Followed {
    fn new(channel: &Arc<ChannelKey>) -> Self {
        let channel = Arc::clone(channel);
        Followed { channel, last: 0, occupancy: Occupancy::Unknown { due_ms: 0 }, timed: false }
    }
}

fn is_followed(channel: &OwnedChannel) -> bool {
    !channel.policy.webhook_events.is_empty()
}

/// Whether the namespace of a channel has its webhooks told of such events.
pub(super) fn tells(channel: &OwnedChannel, event: WebhookEvent) -> bool {
    channel.policy.webhook_events.contains(&event)
}

/// Whether a session subscribes to a channel or is in it. Operators who watch do not count.
fn is_occupied(channel: &OwnedChannel, edge: ShardId) -> bool {
    let has_subscriber = channel.homes.iter().any(|home| home.shard != edge);
    has_subscriber || !channel.presence.members().is_empty()
}
