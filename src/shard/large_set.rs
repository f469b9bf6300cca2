//! The owner's side of large presence sets: when one is made, and for whom.
//!
//! Subscribers on the sync wire are shown all members whenever one changes, which for n members is
//! n times n entries. Where that is more than `presence_burst_bytes_max` bytes the set is large: it
//! is not made with every tick, but at most once in the time that [`gap_ms`] says, once for all who
//! wait for it, and homes show it in rounds ([`super::round`]). A set of any other channel goes out
//! at once, with the tick.

use super::Shard;
use super::envelope::{Audience, Envelope, HomeChannelId};
use super::outbox::Full;
use super::round::PresenceSet;
use super::tables::{Interest, OwnedChannel};
use super::timers::Timer;
use crate::counters::Dropped;
use crate::ids::{ConnAddr, Moment, Now, ShardId};
use crate::session::sync::presence::Shown;
use crate::session::sync::roster::Roster;
use crate::session::{Feed, FeedSet};

/// A large set is made at most once in so many milliseconds per `presence_burst_bytes_max` of it:
/// with the default of 1 MiB, 64 KiB per millisecond, which costs a shard about 2 % of its time.
const GAP_MS_PER_BURST: usize = 16;

/// Wishes for the next set of a channel, beyond which a home is owed it as a whole.
const WISHES_MAX: usize = 1024;

/// What the owner of a channel remembers while the set of its members is large.
#[derive(Debug, Default)]
pub struct LargeSet {
    roster: Roster,
    /// Who alone has changed what homes are owed.
    except: Option<ConnAddr>,
    made_ms: Option<u64>,
    /// A timer is set.
    timed: bool,
    /// Who wants a set whether or not anything changes: newcomers, and those who have missed one.
    /// At most [`WISHES_MAX`].
    wishes: Vec<Wish>,
}

impl LargeSet {
    /// The members there were are gone, and others will have their numbers.
    pub fn forget_members(&mut self) {
        self.roster = Roster::default();
    }
}

#[derive(Clone, Copy, Debug)]
struct Wish {
    shard: ShardId,
    home: HomeChannelId,
    feed: Feed,
    audience: Audience,
}

impl OwnedChannel {
    /// Takes a large set out of a tick, to be made when it is due. With an interval between two
    /// frames the names of those who left are taken out as well, if somebody is owed a set: then
    /// all are, and it tells as much.
    pub fn put_off_set(&mut self, shown: &mut Shown<'_>, except: Option<ConnAddr>) {
        let was_owed = self.is_set_owed();
        let Some(large) = &mut self.large else { return };
        let is_shown = shown.put_off_set();
        let is_instead = was_owed && self.policy.presence_interval_ms > 0 && shown.omit_leaves();
        if is_shown || is_instead {
            large.except = except.filter(|_| !was_owed);
            self.interest.iter_mut().for_each(Interest::owe_sets);
        }
    }

    /// A set that some home is owed is replaced by what changes now.
    pub fn is_set_owed(&self) -> bool {
        self.large.is_some() && !self.owed().is_empty()
    }

    /// Feeds whose large set some home is owed.
    fn owed(&self) -> FeedSet {
        let owed =
            |feed: &Feed| self.interest.iter().any(|interest| interest.owed_sets().contains(*feed));
        Feed::ENCODED.into_iter().filter(owed).collect()
    }

    /// Feeds whose large set somebody waits for.
    fn awaited(&self) -> FeedSet {
        let mut awaited = self.owed();
        let wishes = self.large.iter().flat_map(|large| &large.wishes);
        wishes.for_each(|wish| awaited.insert(wish.feed));
        awaited
    }
}

/// Milliseconds between two sets of so many bytes.
fn gap_ms(set_bytes: usize, burst_bytes: usize) -> u64 {
    (set_bytes.saturating_mul(GAP_MS_PER_BURST) / burst_bytes.max(1)) as u64
}

impl Shard {
    /// Would showing everybody the set be more than a home may do at once?
    pub(super) fn is_set_large(&self, owned: &OwnedChannel) -> bool {
        let members = owned.channel.members();
        let all_bytes = members.encoded_bytes().saturating_mul(members.len());
        all_bytes > self.settings.limits.presence_burst_bytes_max
            && owned.is_any_wanted(Feed::PRESENCE_SETS)
    }

    /// Notes that somebody wants the set of a channel whose set is large.
    pub(super) fn wish_for_set(
        &mut self,
        slot: u32,
        feed: Feed,
        shard: ShardId,
        home: HomeChannelId,
        audience: Audience,
    ) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let Some(large) = &mut owned.large else { return };
        if large.wishes.len() < WISHES_MAX {
            large.wishes.push(Wish { shard, home, feed, audience });
        } else {
            large.except = None;
            owned.interest.iter_mut().filter(|i| i.shard == shard).for_each(Interest::owe_sets);
        }
        self.mark_dirty(slot);
    }

    /// A timer for the next large set fired.
    pub(super) fn own_large_set_due(&mut self, slot: u32, generation: u32) {
        let owned = self.owned.get_tenant(slot, generation);
        if let Some(large) = owned.and_then(|owned| owned.large.as_mut()) {
            large.timed = false;
            self.mark_dirty(slot);
        }
    }

    /// Makes the large set of a channel for all who wait for one, if it is due and somebody can be
    /// sent it. When nobody waits and the set is large no longer, nothing of all this is kept.
    pub(super) fn flush_large_set(&mut self, now: Now, slot: u32) {
        if self.owned.get(slot).is_none_or(|owned| owned.large.is_none()) {
            return;
        }
        self.make_large_set_if_due(now, slot);
        let is_large = self.owned.get(slot).is_some_and(|owned| self.is_set_large(owned));
        let owned = self.owned.get_mut(slot).filter(|_| !is_large);
        if let Some(owned) = owned.filter(|owned| owned.awaited().is_empty()) {
            owned.large = None;
        }
    }

    fn make_large_set_if_due(&mut self, now: Now, slot: u32) {
        let burst_bytes = self.settings.limits.presence_burst_bytes_max;
        let generation = self.owned.generation(slot);
        let Some(owned) = self.owned.get(slot) else { return };
        if owned.awaited().is_empty() {
            return;
        }
        let gap_ms = gap_ms(owned.channel.members().encoded_bytes(), burst_bytes);
        let Some(large) = &owned.large else { return };
        let due_ms = large.made_ms.map_or(0, |made_ms| made_ms + gap_ms);
        let can_send = |i: &Interest| !i.owed_sets().is_empty() && self.outbox.has_room(i.shard);
        let is_sendable = !large.wishes.is_empty() || owned.interest.iter().any(can_send);
        if now.mono_ms >= due_ms && is_sendable {
            self.make_large_set(now, slot);
        }
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let is_awaited = !owned.awaited().is_empty();
        if let Some(large) = owned.large.as_mut().filter(|large| is_awaited && !large.timed) {
            // What waits for room in a mailbox is not tried again before the next turn.
            large.timed = true;
            let due_ms = due_ms.max(now.mono_ms + 1);
            self.timers.set(due_ms, Timer::LargeSet { slot, generation });
        }
    }

    fn make_large_set(&mut self, now: Now, slot: u32) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let awaited = owned.awaited();
        let Some(large) = &mut owned.large else { return };
        owned.channel.set_snapshot_sent();
        large.roster.refresh(now, &owned.key.name, owned.channel.members());
        large.made_ms = Some(now.mono_ms);
        let except = large.except.take();
        let wishes = std::mem::take(&mut large.wishes);
        self.sets_made += 1;
        let mut homes = 0;
        for feed in Feed::ENCODED.into_iter().filter(|feed| awaited.contains(*feed)) {
            let Some(large) = self.owned.get_mut(slot).and_then(|o| o.large.as_mut()) else {
                return;
            };
            let (number, bytes) = (Some(self.sets_made), large.roster.frame(feed));
            let set = PresenceSet { feed, number, bytes };
            homes += self.route_set(slot, &set, except);
            for wish in wishes.iter().filter(|wish| wish.feed == feed) {
                let (to, audience, set) = (wish.home, wish.audience, set.clone());
                self.outbox.send(wish.shard, Envelope::Set { to, set, audience });
            }
        }
        self.counters.presence_ticks += u64::from(homes > 0);
        // The next names of those who leave keep their distance from this set.
        if let Some(owned) = self.owned.get_mut(slot).filter(|_| homes > 0) {
            owned.told = Some(Moment::at(now.mono_ms));
        }
    }

    /// Sends a set to every home that is owed it, and returns to how many; where the mailbox is
    /// full it remains owed.
    fn route_set(&mut self, slot: u32, set: &PresenceSet, except: Option<ConnAddr>) -> u32 {
        let Some(owned) = self.owned.get_mut(slot) else { return 0 };
        let mut homes = 0;
        for interest in owned.interest.iter_mut().filter(|i| i.owed_sets().contains(set.feed)) {
            let (to, set, audience) = (interest.home, set.clone(), Audience::All { except });
            let (feed, envelope) = (set.feed, Envelope::Set { to, set, audience });
            match self.outbox.try_send(interest.shard, envelope) {
                Ok(()) => {
                    interest.forget_set(feed);
                    homes += 1;
                }
                Err(Full(_)) => self.counters.drop(Dropped::EventMailboxFull),
            }
        }
        homes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::channel::{Identity, Resume, State};
    use crate::ids::{ChannelKey, ConnId};
    use crate::limits::Limits;
    use crate::policy::Policy;

    const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_700_000_000_000 };

    /// One member, alone in the channel.
    fn enter(owned: &mut OwnedChannel, user: &str) {
        let identity = Identity { user: user.into(), connection: "".into(), resume: Resume::Never };
        let addr = ConnAddr { shard: ShardId(0), conn: ConnId { slot: 1, generation: 1 } };
        let (identity, state) = (Arc::new(identity), State::from_message_pack(vec![1].into()));
        let entered = owned.channel.announce(NOW, addr, &identity, state, &Limits::default());
        assert!(entered.is_ok(), "{entered:?}");
    }

    #[test]
    fn whoever_enters_after_all_have_left_is_not_taken_for_one_of_them() {
        let key = ChannelKey { app: "a".into(), name: "room:1".into(), hash: 1 };
        let mut owned = OwnedChannel::new(key.into(), Policy::default().into());
        let mut shown = Vec::new();
        for user in ["ann", "bob"] {
            enter(&mut owned, user);
            let large = owned.large.get_or_insert_default();
            large.roster.refresh(NOW, "room:1", owned.channel.members());
            shown.push(large.roster.frame(Feed::SyncTenStream));
            let addr = owned.channel.members().iter().next().map(|member| member.addr);
            addr.into_iter().for_each(|addr| drop(owned.channel.leave(addr)));
            drop(owned.channel.take_changes());
            owned.forget_if_empty();
        }
        let says = |frame: &[u8], user: &str| frame.windows(3).any(|part| part == user.as_bytes());
        assert!(says(&shown[0], "ann"));
        assert!(says(&shown[1], "bob") && !says(&shown[1], "ann"));
    }

    #[test]
    fn the_time_between_two_sets_grows_with_them() {
        const MIB: usize = 1024 * 1024;
        for (set_bytes, expected_ms) in
            [(0, 0), (50_000, 0), (65_536, 1), (700_000, 10), (MIB, 16), (8 * MIB, 128)]
        {
            assert_eq!(gap_ms(set_bytes, MIB), expected_ms, "{set_bytes} bytes");
        }
    }
}
