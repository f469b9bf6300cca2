//! What webhooks are told of a channel: that it is occupied or vacated, who enters and leaves it,
//! what is published. Only channels of namespaces with `webhook_events` are followed.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Owner;
use super::channel_entry::OwnedChannel;
use crate::channel::{Change, ChangeKind, Message};
use crate::ids::{ChannelKey, ShardId};
use crate::policy::WebhookEvent;
use crate::shard::channel_event::{ChannelEvent, Happening};
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
    /// Nobody was told that it is occupied.
    Unknown,
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
            (None | Some(Occupancy::Unknown), true) => {
                self.tell(cx, &key, WebhookEvent::Occupancy, Happening::Occupied);
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
        let followed = self.followed.entry(hash).or_insert_with(|| Followed::new(key));
        followed.occupancy = to;
        if let Occupancy::Vacating { due_ms } = to
            && !std::mem::replace(&mut followed.timed, true)
        {
            cx.timers.set(due_ms, Timer::Vacated { hash });
        }
    }

    /// The time of a channel without anybody may be over.
    pub(super) fn vacated_due(&mut self, cx: &mut ShardContext, hash: u64) {
        let Entry::Occupied(mut entry) = self.followed.entry(hash) else { return };
        let followed = entry.get_mut();
        followed.timed = false;
        match followed.occupancy {
            Occupancy::Vacating { due_ms } if due_ms > cx.now.mono_ms => {
                followed.timed = true;
                cx.timers.set(due_ms, Timer::Vacated { hash });
            }
            Occupancy::Vacating { .. } => {
                let key = Arc::clone(&followed.channel);
                self.tell(cx, &key, WebhookEvent::Occupancy, Happening::Vacated);
                self.followed.remove(&hash);
            }
            Occupancy::Unknown => drop(entry.remove()),
            Occupancy::Occupied => {}
        }
    }

    /// Tells of changes of members.
    pub(super) fn tell_changes(&mut self, cx: &mut ShardContext, slot: u32, changes: Vec<Change>) {
        let key = Arc::clone(&self.entry(slot).key);
        for Change { kind, identity, state, .. } in changes {
            if kind != ChangeKind::Peer {
                let what = Happening::Member { kind, identity, state };
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
            let what = Happening::Message(Arc::clone(message));
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
        what: Happening,
    ) {
        if !cx.settings.policies.for_channel(&key.name).webhook_events.contains(&event) {
            return;
        }
        let (hash, sequence) = (key.log_hash(), self.retention.next_serial());
        let followed = self.followed.entry(hash).or_insert_with(|| Followed::new(key));
        let previous = std::mem::replace(&mut followed.last, sequence);
        if followed.occupancy == Occupancy::Unknown && !followed.timed {
            // Forgotten again, unless somebody comes.
            followed.timed = true;
            let due_ms = cx.now.mono_ms + cx.settings.vacated_delay_ms;
            cx.timers.set(due_ms, Timer::Vacated { hash });
        }
        let (channel, wall_ms) = (Arc::clone(key), cx.now.wall_ms);
        let event = ChannelEvent { channel, sequence, previous, wall_ms, what };
        cx.outbox.effect(Effect::Tell(Box::new(event)));
    }
}

impl Followed {
    fn new(channel: &Arc<ChannelKey>) -> Self {
        let channel = Arc::clone(channel);
        Followed { channel, last: 0, occupancy: Occupancy::Unknown, timed: false }
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
