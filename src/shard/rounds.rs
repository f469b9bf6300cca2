//! Fan-out of large sets on a home: every turn shows them to as many subscribers as
//! `presence_burst_bytes_max` permits, all rounds of the shard together, in turns.

use std::sync::Arc;

use super::Shard;
use super::envelope::{Audience, Command, HomeChannelId};
use super::home::set_place;
use super::round::{Next, PresenceSet, Round};
use super::timers::Timer;
use crate::counters::Conflated;
use crate::ids::{ConnAddr, ConnId, Now};
use crate::session::Feed;

/// What it costs at least to look at one subscriber, as bytes of the turn's allowance.
const VISIT_BYTES: usize = 128;

/// What a round's timer was set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoundTimer {
    Rest,
    Keep,
}

impl Shard {
    /// A set comes from the owner of a channel.
    pub(super) fn take_set(
        &mut self,
        now: Now,
        to: HomeChannelId,
        set: PresenceSet,
        audience: Audience,
    ) {
        let burst_bytes = self.settings.limits.presence_burst_bytes_max;
        let Some(home) = self.homes.get_tenant(to.slot, to.generation) else { return };
        let subscribers = home.subscribers(set.feed).len();
        let is_small = set.bytes.len().saturating_mul(subscribers) <= burst_bytes;
        if is_small && home.round(set.feed).is_none() {
            return self.show_small_set(now, to, set, audience);
        }
        let set = self.unshared_set(to.slot, set);
        let feed = set.feed;
        self.enter_round(now, to.slot, set, audience);
        self.list_round(to.slot, feed);
    }

    /// Shows sets until this turn's allowance is spent.
    pub(super) fn show_sets(&mut self, now: Now) {
        let mut left = self.settings.limits.presence_burst_bytes_max;
        while left > 0 {
            let Some((home, feed)) = self.showing.pop_front() else { return };
            if let Some(bytes) = self.show_next(now, home, feed) {
                left = left.saturating_sub(bytes.max(VISIT_BYTES));
                self.showing.push_back((home, feed));
            }
        }
    }

    /// A timer of a round fired.
    pub(super) fn round_due(&mut self, to: HomeChannelId, feed: Feed, timer: RoundTimer) {
        let home = self.homes.get_tenant(to.slot, to.generation);
        let Some(round) = home.and_then(|home| home.round_mut(feed)) else { return };
        match timer {
            RoundTimer::Rest => round.resting = false,
            RoundTimer::Keep => round.kept = false,
        }
        self.list_round(to.slot, feed);
    }

    /// Lets somebody who has missed a set have the one that is being shown; false when there is
    /// none.
    pub(super) fn owe_set(&mut self, id: ConnId, slot: u32, feed: Feed) -> bool {
        let connection = self.connections.get(id);
        let place = connection.and_then(|c| c.subscription(slot, feed)).and_then(|s| s.place());
        let Shard { homes, connections, .. } = self;
        let audience = homes.get_mut(slot).and_then(|home| home.audience_of(feed));
        let (Some((Some(round), list)), Some(place)) = (audience, place) else { return false };
        round.include(ConnAddr { shard: self.id, conn: id });
        let moved = |tenant, place| set_place(connections, tenant, slot, feed, place);
        round.owe(list.slots_mut(), place, moved);
        self.list_round(slot, feed);
        true
    }

    /// Subscribers were just told something that no set on its way to them knows of.
    pub(super) fn outdate_set(&mut self, slot: u32, feed: Feed) {
        if let Some(round) = self.homes.get_mut(slot).and_then(|home| home.round_mut(feed)) {
            round.outdate();
        }
    }

    /// Shows a set at once. Whoever cannot take it just now may have it for a while.
    fn show_small_set(
        &mut self,
        now: Now,
        to: HomeChannelId,
        set: PresenceSet,
        audience: Audience,
    ) {
        let set = self.unshared_set(to.slot, set);
        let mut all_shown = true;
        match audience {
            Audience::All { except } => {
                self.each_subscriber(now, to, set.feed, |shard, conn| {
                    let is_author = except == Some(ConnAddr { shard: shard.id, conn });
                    all_shown &=
                        is_author || shard.deliver_set(now, conn, to.slot, set.feed, &set.bytes);
                    Ok(())
                });
            }
            Audience::One(conn) if self.is_admitted(conn, to.slot, set.feed) => {
                all_shown = self.deliver_set(now, conn, to.slot, set.feed, &set.bytes);
            }
            Audience::One(_) | Audience::Waiting => {}
        }
        // One that is not large costs its owner little to make anew.
        if !all_shown && set.number.is_some() {
            let feed = set.feed;
            self.enter_round(now, to.slot, set, Audience::Waiting);
            self.list_round(to.slot, feed);
        }
    }

    /// The set in memory that no other shard counts references to, copied once.
    fn unshared_set(&self, slot: u32, set: PresenceSet) -> PresenceSet {
        let Some(home) = self.homes.get(slot) else { return set };
        match home.round(set.feed).map(Round::set) {
            _ if home.owner == self.id => set,
            Some(known) if set.number.is_some() && known.number == set.number => known.clone(),
            _ => PresenceSet { bytes: Arc::from(&*set.bytes), ..set },
        }
    }

    fn enter_round(&mut self, now: Now, slot: u32, set: PresenceSet, audience: Audience) {
        let feed = set.feed;
        let Some(home) = self.homes.get_mut(slot) else { return };
        let len = home.subscribers(feed).len() as u32;
        if home.round(feed).is_none() {
            home.set_round(feed, Some(Round::new(now, set.clone(), len)));
        }
        let Some(round) = home.round_mut(feed) else { return };
        match audience {
            Audience::All { except } => {
                let conflated = round.offer(set, except, len);
                self.counters.conflate_many(Conflated::LargeSet, conflated);
            }
            Audience::Waiting => round.replace(set),
            Audience::One(conn) => {
                round.replace(set);
                if self.is_admitted(conn, slot, feed) {
                    self.owe_set(conn, slot, feed);
                }
            }
        }
    }

    /// Puts a round on the list of those with something to show, once.
    fn list_round(&mut self, slot: u32, feed: Feed) {
        let home_id = self.home_id(slot);
        let Some(round) = self.homes.get_mut(slot).and_then(|home| home.round_mut(feed)) else {
            return;
        };
        if !round.listed {
            round.listed = true;
            self.showing.push_back((home_id, feed));
        }
    }

    /// Takes the next step of a round: bytes that were queued, or `None` when it has nothing to
    /// show for the time being.
    fn show_next(&mut self, now: Now, to: HomeChannelId, feed: Feed) -> Option<usize> {
        let home = self.homes.get_tenant(to.slot, to.generation)?;
        let round = home.round_mut(feed)?;
        let next = round.next(now);
        if let Next::Show { place } = next {
            let (bytes, except) = (Arc::clone(&round.set().bytes), round.except());
            let tenant = home.subscribers(feed).get(place as usize).copied();
            let conn = tenant.and_then(|tenant| self.connections.tenant(tenant));
            let is_shown = conn.is_some_and(|conn| {
                let is_author = except == Some(ConnAddr { shard: self.id, conn });
                !is_author && self.deliver_set(now, conn, to.slot, feed, &bytes)
            });
            return Some(if is_shown { bytes.len() } else { 0 });
        }
        round.listed = false;
        let HomeChannelId { slot, generation } = to;
        match next {
            Next::Ask => {
                let command = Command::Snapshot { feed, home: to, audience: Audience::Waiting };
                self.command_home(slot, command);
            }
            Next::KeepUntil { due_ms } if due_ms <= now.mono_ms => {
                home.set_round(feed, None);
            }
            Next::KeepUntil { due_ms } if !std::mem::replace(&mut round.kept, true) => {
                self.timers.set(due_ms, Timer::KeptSet { slot, generation, feed });
            }
            Next::RestUntil { due_ms } if !std::mem::replace(&mut round.resting, true) => {
                self.timers.set(due_ms, Timer::Round { slot, generation, feed });
            }
            _ => {}
        }
        None
    }

    fn is_admitted(&self, id: ConnId, slot: u32, feed: Feed) -> bool {
        let connection = self.connections.get(id);
        let subscription = connection.and_then(|c| c.subscription(slot, feed));
        subscription.is_some_and(|s| s.place().is_some())
    }
}
