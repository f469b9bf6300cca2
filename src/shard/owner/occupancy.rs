//! Occupancy: how many are in a channel, sent to its subscribers as messages that are not stored,
//! at most once per `occupancy_interval_ms`.

use std::sync::Arc;

use super::Owner;
use super::publish::route_messages;
use crate::channel::{Content, Message, Part};
use crate::ids::{ChannelKey, ShardId};
use crate::shard::context::ShardContext;
use crate::shard::inspection::Subscribers;
use crate::shard::timers::Timer;

/// Name of these messages.
pub const OCCUPANCY: &str = "[meta]occupancy";

/// What is known of a channel whose namespace has occupancy.
#[derive(Debug, Default)]
pub struct Occupancy {
    /// Tells the tenants of a slot apart.
    generation: u32,
    /// Subscribers by home.
    homes: Vec<(ShardId, Subscribers)>,
    sent: Option<Counts>,
    sent_ms: u64,
    messages: u64,
    /// A subscriber has come that was sent nothing yet.
    is_wanted: bool,
    /// A timer is set.
    timed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    members: usize,
    subscribers: Subscribers,
}

impl Owner {
    /// A home has so many subscribers now.
    pub(super) fn count(
        &mut self,
        cx: &ShardContext,
        key: &ChannelKey,
        from: ShardId,
        subscribers: Subscribers,
    ) {
        let Some(slot) = self.channels.find_key(key).filter(|_| from != cx.settings.edge) else {
            return;
        };
        let homes = &mut self.occupancy(slot).homes;
        match homes.iter_mut().find(|(home, _)| *home == from) {
            Some((_, known)) => *known = subscribers,
            None => homes.push((from, subscribers)),
        }
        self.mark_dirty(slot);
    }

    /// A subscriber has come, who is to be sent the counts even if they are those of before.
    pub(super) fn want_occupancy(&mut self, slot: u32) {
        if self.entry(slot).policy.occupancy_interval_ms > 0 {
            self.occupancy(slot).is_wanted = true;
            self.mark_dirty(slot);
        }
    }

    /// The counts of a channel may have changed.
    pub(super) fn note_occupancy(&mut self, slot: u32) {
        if self.entry(slot).policy.occupancy_interval_ms > 0 {
            self.mark_dirty(slot);
        }
    }

    /// The interval since the last counts is over.
    pub(super) fn occupancy_due(&mut self, slot: u32, generation: u32) {
        let occupancy = self.occupancies.get_mut(&slot);
        if let Some(occupancy) = occupancy.filter(|known| known.generation == generation) {
            occupancy.timed = false;
            self.mark_dirty(slot);
        }
    }

    fn occupancy(&mut self, slot: u32) -> &mut Occupancy {
        let generation = self.channels.generation(slot);
        let fresh = || Occupancy { generation, ..Occupancy::default() };
        let known = self.occupancies.entry(slot).or_insert_with(fresh);
        if known.generation != generation {
            *known = fresh();
        }
        known
    }

    /// Sends the counts of a channel if they have changed, and the last ones are old enough.
    pub(super) fn flush_occupancy(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        let interval_ms = channel.policy.occupancy_interval_ms;
        if interval_ms == 0 || channel.homes.is_empty() {
            return;
        }
        let members = channel.presence.members().len();
        let present: Vec<ShardId> = channel.homes.iter().map(|home| home.shard).collect();
        let (now, generation) = (cx.now, self.channels.generation(slot));
        let occupancy = self.occupancy(slot);
        occupancy.homes.retain(|(home, _)| present.contains(home));
        let mut subscribers = Subscribers::default();
        occupancy.homes.iter().for_each(|(_, count)| subscribers += *count);
        let counts = Counts { members, subscribers };
        if occupancy.sent == Some(counts) && !occupancy.is_wanted {
            return;
        }
        let due_ms = occupancy.sent.map_or(0, |_| occupancy.sent_ms + interval_ms);
        if now.mono_ms < due_ms {
            if !std::mem::replace(&mut occupancy.timed, true) {
                cx.timers.set(due_ms, Timer::Occupancy { slot, generation });
            }
            return;
        }
        (occupancy.sent, occupancy.sent_ms) = (Some(counts), now.mono_ms);
        occupancy.is_wanted = false;
        occupancy.messages += 1;
        let message = message(now.wall_ms, occupancy.messages, counts);
        route_messages(cx, self.entry(slot), &[Arc::new(message)]);
    }
}

fn message(wall_ms: u64, number: u64, Counts { members, subscribers }: Counts) -> Message {
    let Subscribers { messages, presence } = subscribers;
    let data = format!(
        r#"{{"members":{members},"subscribers":{messages},"presenceSubscribers":{presence}}}"#
    );
    Message {
        serial: 0,
        timestamp_ms: wall_ms,
        id: format!("occupancy-{wall_ms}-{number}").into(),
        client_id: Arc::default(),
        content: Content::One(Part {
            name: OCCUPANCY.into(),
            data: data.into(),
            encoding: "".into(),
        }),
    }
}
