//! Whom of many subscribers a large set still has to be shown to: the book of one home and feed.
//!
//! A round goes over the list of subscribers from front to back, and shows each the newest set
//! there is by then. A set that comes while a round goes on is shown to those who are left in it,
//! and to the others in the next round, which begins after a rest as long as the round was.
//!
//! ```text
//!  0        behind         told            limit            len
//!  | shown   | shown this   | still to be   | have the newest |
//!  | an older| one          | shown this    | anyhow          |
//!  | one     |              | one           |                 |
//! ```
//!
//! Invariant: `behind <= told <= limit <= len`, and whoever stands outside of `..behind` and
//! `told..limit` has been queued the newest set, or has missed it for a reason of its own.
//! Whoever is moved in the list is told its new place.

use std::sync::Arc;

use crate::ids::{ConnAddr, Now};
use crate::session::Feed;

/// How long a set that everybody has been shown is kept for those who could not take it, since it
/// was last of use, milliseconds. After that they have to ask the owner for a newer one.
const KEPT_MS: u64 = 1_000;

/// Longest rest after a round, milliseconds; a round that takes longer is one of a shard that is
/// overloaded or was suspended.
const REST_MS_MAX: u64 = 5_000;

/// One set of members, as the owner made it for one feed.
#[derive(Clone, Debug)]
pub struct PresenceSet {
    pub feed: Feed,
    /// Tells the large sets of one owner apart; `None` for one that is not large, and always newer
    /// than all before.
    pub number: Option<u64>,
    pub bytes: Arc<[u8]>,
}

/// The rounds of one feed.
#[derive(Debug)]
pub struct Round {
    set: PresenceSet,
    /// Whoever alone made the set differ from the one before, if everybody has been shown that.
    except: Option<ConnAddr>,
    behind: u32,
    told: u32,
    limit: u32,
    /// Set while a round goes on.
    began_ms: Option<u64>,
    /// No round begins before.
    rest_until_ms: u64,
    used_ms: u64,
    validity: Validity,
    /// In the list of rounds that have something to show.
    pub listed: bool,
    /// A timer is set for the end of its rest.
    pub resting: bool,
    /// A timer is set for the time when its set may be forgotten.
    pub kept: bool,
}

/// May the set be shown?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    Newest,
    /// Subscribers were told something since that does not agree with it.
    Outdated,
    /// The same, and the owner has been asked for a newer one.
    AskedFor,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Show the set to the subscriber at this place, who then counts as told.
    Show { place: u32 },
    /// Ask the owner for a newer set.
    Ask,
    /// The owner has been asked.
    Await,
    /// Nothing before this time.
    RestUntil { due_ms: u64 },
    /// Nobody waits. The set may be forgotten from this time on.
    KeepUntil { due_ms: u64 },
}

impl Round {
    /// With a set that nobody waits for yet. `len`: how many subscribers there are.
    pub fn new(now: Now, set: PresenceSet, len: u32) -> Self {
        Round {
            set,
            except: None,
            behind: 0,
            told: len,
            limit: len,
            began_ms: None,
            rest_until_ms: 0,
            used_ms: now.mono_ms,
            validity: Validity::Newest,
            listed: false,
            resting: false,
            kept: false,
        }
    }

    pub fn set(&self) -> &PresenceSet {
        &self.set
    }

    pub fn except(&self) -> Option<ConnAddr> {
        self.except
    }

    /// How many wait to be shown a set.
    pub fn waiting(&self) -> u32 {
        self.behind + (self.limit - self.told)
    }

    /// A set that everybody is to be shown. Returns how many will never be shown the one before.
    pub fn offer(&mut self, set: PresenceSet, except: Option<ConnAddr>, len: u32) -> u32 {
        let conflated = self.waiting();
        self.except = except.filter(|_| conflated == 0);
        self.replace(set);
        self.behind = self.told;
        self.limit = len;
        if self.began_ms.is_none() {
            (self.behind, self.told) = (len, len);
        }
        conflated
    }

    /// A newer set for those who wait.
    pub fn replace(&mut self, set: PresenceSet) {
        self.set = set;
        self.validity = Validity::Newest;
    }

    /// Subscribers have been told something that does not agree with the set.
    pub fn outdate(&mut self) {
        if self.validity == Validity::Newest {
            self.validity = Validity::Outdated;
        }
    }

    /// What to do next; whom it names has been told.
    pub fn next(&mut self, now: Now) -> Next {
        if self.told == self.limit
            && let Some(next) = self.begin(now)
        {
            return next;
        }
        match self.validity {
            Validity::Newest => {}
            Validity::AskedFor => return Next::Await,
            Validity::Outdated => {
                self.validity = Validity::AskedFor;
                return Next::Ask;
            }
        }
        self.used_ms = now.mono_ms;
        self.told += 1;
        Next::Show { place: self.told - 1 }
    }

    /// Ends a round that has come to its end, and begins the next one, unless something else comes
    /// before that.
    fn begin(&mut self, now: Now) -> Option<Next> {
        if let Some(began_ms) = self.began_ms.take() {
            self.rest_until_ms = now.mono_ms + (now.mono_ms - began_ms).min(REST_MS_MAX);
        }
        if self.behind == 0 {
            let is_useful = self.validity == Validity::Newest;
            let due_ms = if is_useful { self.used_ms + KEPT_MS } else { 0 };
            return Some(Next::KeepUntil { due_ms });
        }
        if now.mono_ms < self.rest_until_ms {
            return Some(Next::RestUntil { due_ms: self.rest_until_ms });
        }
        self.began_ms = Some(now.mono_ms);
        (self.limit, self.told, self.behind) = (self.behind, 0, 0);
        None
    }

    /// Even if `addr` alone made the set differ from the one before, it is shown it.
    pub fn include(&mut self, addr: ConnAddr) {
        self.except = self.except.filter(|except| *except != addr);
    }

    /// Somebody has missed the set, or is new and waits for the first one: it comes next.
    pub fn owe(&mut self, list: &mut [u32], place: u32, mut moved: impl FnMut(u32, u32)) {
        let mut swap = |a: u32, b: u32| {
            if a != b {
                list.swap(a as usize, b as usize);
                moved(list[a as usize], a);
                moved(list[b as usize], b);
            }
        };
        let mut place = place;
        if place < self.behind {
            self.behind -= 1;
            swap(place, self.behind);
            place = self.behind;
        }
        if place < self.told {
            self.told -= 1;
            return swap(place, self.told);
        }
        if place >= self.limit {
            swap(place, self.limit);
            place = self.limit;
            self.limit += 1;
        }
        swap(place, self.told);
    }

    /// Forgets the subscriber at `place`; the last place of the list is free from here on.
    pub fn forget(&mut self, list: &mut [u32], place: u32, mut moved: impl FnMut(u32, u32)) {
        let mut hole = place;
        for bound in [&mut self.behind, &mut self.told, &mut self.limit] {
            if hole < *bound {
                *bound -= 1;
                fill(list, hole, *bound, &mut moved);
                hole = *bound;
            }
        }
        let last = list.len() as u32 - 1;
        fill(list, hole, last, &mut moved);
    }
}

/// Moves whoever stands at `from` to the empty place `to`.
fn fill(list: &mut [u32], to: u32, from: u32, moved: &mut impl FnMut(u32, u32)) {
    if from != to {
        list[to as usize] = list[from as usize];
        moved(list[to as usize], to);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, wall_ms: mono_ms }
    }

    fn set(number: u64) -> PresenceSet {
        PresenceSet { feed: Feed::SyncTenStream, number: Some(number), bytes: Arc::default() }
    }

    /// Subscribers who know their places, and which set each was shown last.
    struct Crowd {
        round: Round,
        list: Vec<u32>,
        places: BTreeMap<u32, u32>,
        shown: BTreeMap<u32, u64>,
        /// Those who entered since the last set that is for everybody.
        fresh: Vec<u32>,
        frames: u32,
    }

    impl Crowd {
        fn of(count: u32) -> Self {
            let list: Vec<u32> = (0..count).collect();
            Crowd {
                round: Round::new(at(0), set(0), count),
                places: list.iter().map(|&who| (who, who)).collect(),
                shown: list.iter().map(|&who| (who, 0)).collect(),
                list,
                fresh: Vec::new(),
                frames: 0,
            }
        }

        fn offer(&mut self, number: u64) -> u32 {
            self.fresh.clear();
            self.round.offer(set(number), None, self.list.len() as u32)
        }

        fn enter(&mut self, who: u32) {
            self.places.insert(who, self.list.len() as u32);
            self.list.push(who);
            self.shown.insert(who, 0);
            self.fresh.push(who);
        }

        fn owe(&mut self, who: u32) {
            let Crowd { round, list, places, .. } = self;
            let place = places[&who];
            round.owe(list, place, |who, place| {
                places.insert(who, place);
            });
        }

        fn leave(&mut self, who: u32) {
            let Crowd { round, list, places, .. } = self;
            let place = places.remove(&who).unwrap();
            round.forget(list, place, |who, place| {
                places.insert(who, place);
            });
            list.pop();
            self.shown.remove(&who);
        }

        fn next(&mut self, now_ms: u64) -> Next {
            let next = self.round.next(at(now_ms));
            if let Next::Show { place } = next {
                self.frames += 1;
                let number = self.round.set().number.unwrap();
                self.shown.insert(self.list[place as usize], number);
            }
            next
        }

        fn check(&self) {
            let Round { behind, told, limit, .. } = self.round;
            let len = self.list.len();
            assert!(behind <= told && told <= limit && limit as usize <= len, "{:?}", self.round);
            for (place, who) in (0..).zip(&self.list) {
                assert_eq!(self.places[who], place, "{who} knows its place");
                let waits = place < behind || (told..limit).contains(&place);
                let is_new = Some(self.shown[who]) == self.round.set().number;
                let is_fresh = self.fresh.contains(who);
                assert!(waits || is_new || is_fresh, "{who} at {place}: {:?}", self.round);
            }
            assert_eq!(self.places.len(), len);
        }
    }

    #[test]
    fn whatever_happens_everybody_is_shown_the_newest_set_in_the_end() {
        let mut random = 7u64;
        let mut below = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % most
        };
        for _ in 0..200 {
            let mut crowd = Crowd::of(below(20) as u32);
            let (mut now_ms, mut number, mut entered) = (0, 0, 1_000);
            for _ in 0..200 {
                let anybody = crowd.list.get(below(1 + crowd.list.len() as u64) as usize).copied();
                match (below(10), anybody) {
                    (0, _) => {
                        number += 1;
                        crowd.offer(number);
                    }
                    (1, _) => {
                        entered += 1;
                        crowd.enter(entered);
                    }
                    (2, Some(who)) => crowd.leave(who),
                    (3, Some(who)) => crowd.owe(who),
                    (4, _) => now_ms += below(3),
                    _ => {
                        crowd.next(now_ms);
                    }
                }
                crowd.check();
            }
            while crowd.round.waiting() > 0 {
                now_ms += u64::from(!matches!(crowd.next(now_ms), Next::Show { .. }));
                crowd.check();
            }
            crowd.check();
        }
    }

    #[test]
    fn a_set_that_comes_in_between_is_shown_to_the_rest_and_later_to_the_others() {
        let mut crowd = Crowd::of(4);
        assert_eq!(crowd.offer(1), 0);
        for place in [0, 1] {
            assert_eq!(crowd.next(100), Next::Show { place });
        }
        assert_eq!(crowd.offer(2), 2, "who had not been shown the first one");
        for place in [2, 3] {
            assert_eq!(crowd.next(130), Next::Show { place });
        }
        assert_eq!(crowd.next(130), Next::RestUntil { due_ms: 160 }, "it took 30 ms");
        for place in [0, 1] {
            assert_eq!(crowd.next(160), Next::Show { place });
        }
        assert_eq!(crowd.next(160), Next::KeepUntil { due_ms: 1_160 });
        assert_eq!(crowd.frames, 6);
    }

    #[test]
    fn sets_that_come_all_the_time_are_shown_once_per_round() {
        let mut crowd = Crowd::of(10);
        for number in 1..=1_000 {
            crowd.offer(number);
            crowd.next(number);
        }
        assert!(crowd.frames <= 510, "half of the time is rest: {}", crowd.frames);
        assert!(crowd.frames >= 450, "and half is not: {}", crowd.frames);
    }

    #[test]
    fn whoever_is_owed_the_set_comes_next_even_during_a_rest() {
        let mut crowd = Crowd::of(3);
        crowd.offer(1);
        for ms in 0..3 {
            crowd.next(ms);
        }
        crowd.offer(2);
        assert!(matches!(crowd.next(3), Next::RestUntil { .. }));
        crowd.enter(9);
        crowd.owe(9);
        crowd.owe(1);
        crowd.next(3);
        crowd.next(3);
        assert_eq!((crowd.shown[&9], crowd.shown[&1]), (2, 2));
        assert!(matches!(crowd.next(3), Next::RestUntil { .. }));
        assert_eq!(crowd.round.waiting(), 2);
    }

    #[test]
    fn an_outdated_set_is_shown_to_nobody_and_a_newer_one_is_asked_for_once() {
        let mut crowd = Crowd::of(2);
        crowd.offer(1);
        crowd.next(0);
        crowd.round.outdate();
        assert_eq!([crowd.next(0), crowd.next(0)], [Next::Ask, Next::Await]);
        crowd.round.outdate();
        assert_eq!(crowd.next(0), Next::Await);
        crowd.round.replace(set(2));
        assert_eq!(crowd.next(0), Next::Show { place: 1 });
        assert_eq!(crowd.shown[&1], 2);
    }

    #[test]
    fn the_author_is_left_out_only_while_nobody_waits_for_anything_else() {
        let author = ConnAddr {
            shard: crate::ids::ShardId(0),
            conn: crate::ids::ConnId { slot: 1, generation: 1 },
        };
        let mut crowd = Crowd::of(2);
        crowd.round.offer(set(1), Some(author), 2);
        assert_eq!(crowd.round.except(), Some(author));
        crowd.round.offer(set(2), Some(author), 2);
        assert_eq!(crowd.round.except(), None);
    }
}
