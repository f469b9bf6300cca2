//! The delivery of a large snapshot to the many subscribers of one feed: the list of who has it.
//!
//! A sweep goes over the list of subscribers from front to back and delivers to each the newest
//! snapshot there is by then. A snapshot that arrives during a sweep goes to those who are left in
//! it, and to the others in the next sweep, which begins after a pause as long as the sweep took.
//!
//! ```text
//!  0       pending_next     sent          pending_end         len
//!  | have an older | have this | are next for  | need none      |
//!  | one           | one       | this one      |                |
//! ```
//!
//! Invariant: `pending_next <= sent <= pending_end <= len`, and each subscriber outside of
//! `..pending_next` and `sent..pending_end` was queued the newest snapshot, or missed it for a
//! reason of its own. A subscriber that moves in the list learns its new position.

use crate::ids::{Clocks, ConnAddr};
use crate::shard::envelope::Snapshot;

/// How long a snapshot that was delivered to all is kept for those who could not take it, since it
/// was last used, milliseconds. After that they request a newer one of the owner.
const KEPT_MS: u64 = 1_000;

/// Longest pause after a sweep, milliseconds; a sweep that takes longer is one of a shard that is
/// overloaded or was suspended.
const PAUSE_MS_MAX: u64 = 5_000;

/// The sweeps of one feed.
#[derive(Debug)]
pub struct SnapshotSweep {
    snapshot: Snapshot,
    /// The author of the only change since the snapshot before, if all have received that one.
    except: Option<ConnAddr>,
    pending_next: u32,
    sent: u32,
    pending_end: u32,
    /// Set during a sweep.
    began_ms: Option<u64>,
    /// No sweep begins before.
    pause_until_ms: u64,
    used_ms: u64,
    validity: Validity,
    /// In the list of sweeps with something to deliver.
    pub listed: bool,
    /// A timer is set for the end of its pause.
    pub pausing: bool,
    /// A timer is set for the time when its snapshot may be dropped.
    pub kept: bool,
}

/// Whether the snapshot may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    Newest,
    /// Subscribers have received later changes.
    Outdated,
    /// The same, and a newer one has been requested of the owner.
    Requested,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Deliver the snapshot to the subscriber at this position, which then counts as sent.
    Deliver { position: u32 },
    /// Request a newer snapshot of the owner.
    Request,
    /// A newer snapshot has been requested.
    Await,
    /// Nothing before this time.
    PauseUntil { due_ms: u64 },
    /// No subscriber waits. The snapshot may be dropped from this time on.
    KeepUntil { due_ms: u64 },
}

impl SnapshotSweep {
    /// With a snapshot that no subscriber waits for yet. `len`: how many subscribers there are.
    pub fn new(now: Clocks, snapshot: Snapshot, len: u32) -> Self {
        SnapshotSweep {
            snapshot,
            except: None,
            pending_next: 0,
            sent: len,
            pending_end: len,
            began_ms: None,
            pause_until_ms: 0,
            used_ms: now.mono_ms,
            validity: Validity::Newest,
            listed: false,
            pausing: false,
            kept: false,
        }
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn except(&self) -> Option<ConnAddr> {
        self.except
    }

    /// How many subscribers wait for a snapshot.
    pub fn waiting(&self) -> u32 {
        self.pending_next + (self.pending_end - self.sent)
    }

    /// A snapshot for all subscribers. Returns how many will never receive the one before.
    pub fn publish(&mut self, snapshot: Snapshot, except: Option<ConnAddr>, len: u32) -> u32 {
        let conflated = self.waiting();
        self.except = except.filter(|_| conflated == 0);
        self.replace(snapshot);
        self.pending_next = self.sent;
        self.pending_end = len;
        if self.began_ms.is_none() {
            (self.pending_next, self.sent) = (len, len);
        }
        conflated
    }

    /// A newer snapshot for those who wait.
    pub fn replace(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        self.validity = Validity::Newest;
    }

    /// Subscribers have received changes that the snapshot does not contain.
    pub fn outdate(&mut self) {
        if self.validity == Validity::Newest {
            self.validity = Validity::Outdated;
        }
    }

    /// The next step. A subscriber that it names counts as sent.
    pub fn next(&mut self, now: Clocks) -> Next {
        if self.sent == self.pending_end
            && let Some(next) = self.begin(now)
        {
            return next;
        }
        match self.validity {
            Validity::Newest => {}
            Validity::Requested => return Next::Await,
            Validity::Outdated => {
                self.validity = Validity::Requested;
                return Next::Request;
            }
        }
        self.used_ms = now.mono_ms;
        self.sent += 1;
        Next::Deliver { position: self.sent - 1 }
    }

    /// Ends a sweep that has reached its end, and begins the next one if it is due.
    fn begin(&mut self, now: Clocks) -> Option<Next> {
        if let Some(began_ms) = self.began_ms.take() {
            self.pause_until_ms = now.mono_ms + (now.mono_ms - began_ms).min(PAUSE_MS_MAX);
        }
        if self.pending_next == 0 {
            let is_kept = self.snapshot.number.is_some() && self.validity == Validity::Newest;
            let due_ms = if is_kept { self.used_ms + KEPT_MS } else { 0 };
            return Some(Next::KeepUntil { due_ms });
        }
        if now.mono_ms < self.pause_until_ms {
            return Some(Next::PauseUntil { due_ms: self.pause_until_ms });
        }
        self.began_ms = Some(now.mono_ms);
        (self.pending_end, self.sent, self.pending_next) = (self.pending_next, 0, 0);
        None
    }

    /// Delivers the snapshot to `addr` even if it is the author of the only change.
    pub fn include(&mut self, addr: ConnAddr) {
        self.except = self.except.filter(|except| *except != addr);
    }

    /// A subscriber has missed the snapshot, or is new: it is next.
    pub fn enqueue(&mut self, list: &mut [u32], position: u32, mut moved: impl FnMut(u32, u32)) {
        let mut swap = |a: u32, b: u32| {
            if a != b {
                list.swap(a as usize, b as usize);
                moved(list[a as usize], a);
                moved(list[b as usize], b);
            }
        };
        let mut position = position;
        if position < self.pending_next {
            self.pending_next -= 1;
            swap(position, self.pending_next);
            position = self.pending_next;
        }
        if position < self.sent {
            self.sent -= 1;
            return swap(position, self.sent);
        }
        if position >= self.pending_end {
            swap(position, self.pending_end);
            position = self.pending_end;
            self.pending_end += 1;
        }
        swap(position, self.sent);
    }

    /// Removes the subscriber at `position`; the last position of the list is free from here on.
    pub fn remove(&mut self, list: &mut [u32], position: u32, mut moved: impl FnMut(u32, u32)) {
        let mut hole = position;
        for bound in [&mut self.pending_next, &mut self.sent, &mut self.pending_end] {
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

/// Moves the entry at `from` to the empty position `to`.
fn fill(list: &mut [u32], to: u32, from: u32, moved: &mut impl FnMut(u32, u32)) {
    if from != to {
        list[to as usize] = list[from as usize];
        moved(list[to as usize], to);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::session::Feed;

    fn at(mono_ms: u64) -> Clocks {
        Clocks { mono_ms, wall_ms: mono_ms }
    }

    fn set(number: u64) -> Snapshot {
        Snapshot { feed: Feed::SyncTenStream, number: Some(number), bytes: Arc::default() }
    }

    /// Subscribers who know their positions, and which set each was shown last.
    struct Crowd {
        sweep: SnapshotSweep,
        list: Vec<u32>,
        positions: BTreeMap<u32, u32>,
        shown: BTreeMap<u32, u64>,
        /// Those who entered since the last set that is for everybody.
        fresh: Vec<u32>,
        frames: u32,
    }

    impl Crowd {
        fn of(count: u32) -> Self {
            let list: Vec<u32> = (0..count).collect();
            Crowd {
                sweep: SnapshotSweep::new(at(0), set(0), count),
                positions: list.iter().map(|&who| (who, who)).collect(),
                shown: list.iter().map(|&who| (who, 0)).collect(),
                list,
                fresh: Vec::new(),
                frames: 0,
            }
        }

        fn publish(&mut self, number: u64) -> u32 {
            self.fresh.clear();
            self.sweep.publish(set(number), None, self.list.len() as u32)
        }

        fn enter(&mut self, who: u32) {
            self.positions.insert(who, self.list.len() as u32);
            self.list.push(who);
            self.shown.insert(who, 0);
            self.fresh.push(who);
        }

        fn enqueue(&mut self, who: u32) {
            let Crowd { sweep, list, positions, .. } = self;
            let position = positions[&who];
            sweep.enqueue(list, position, |who, position| {
                positions.insert(who, position);
            });
        }

        fn leave(&mut self, who: u32) {
            let Crowd { sweep, list, positions, .. } = self;
            let position = positions.remove(&who).unwrap();
            sweep.remove(list, position, |who, position| {
                positions.insert(who, position);
            });
            list.pop();
            self.shown.remove(&who);
        }

        fn next(&mut self, now_ms: u64) -> Next {
            let next = self.sweep.next(at(now_ms));
            if let Next::Deliver { position } = next {
                self.frames += 1;
                let number = self.sweep.snapshot().number.unwrap();
                self.shown.insert(self.list[position as usize], number);
            }
            next
        }

        fn check(&self) {
            let SnapshotSweep { pending_next, sent, pending_end, .. } = self.sweep;
            let len = self.list.len();
            assert!(
                pending_next <= sent && sent <= pending_end && pending_end as usize <= len,
                "{:?}",
                self.sweep
            );
            for (position, who) in (0..).zip(&self.list) {
                assert_eq!(self.positions[who], position, "{who} knows its position");
                let waits = position < pending_next || (sent..pending_end).contains(&position);
                let is_new = Some(self.shown[who]) == self.sweep.snapshot().number;
                let is_fresh = self.fresh.contains(who);
                assert!(waits || is_new || is_fresh, "{who} at {position}: {:?}", self.sweep);
            }
            assert_eq!(self.positions.len(), len);
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
                        crowd.publish(number);
                    }
                    (1, _) => {
                        entered += 1;
                        crowd.enter(entered);
                    }
                    (2, Some(who)) => crowd.leave(who),
                    (3, Some(who)) => crowd.enqueue(who),
                    (4, _) => now_ms += below(3),
                    _ => {
                        crowd.next(now_ms);
                    }
                }
                crowd.check();
            }
            while crowd.sweep.waiting() > 0 {
                now_ms += u64::from(!matches!(crowd.next(now_ms), Next::Deliver { .. }));
                crowd.check();
            }
            crowd.check();
        }
    }

    #[test]
    fn a_set_that_comes_in_between_is_shown_to_the_rest_and_later_to_the_others() {
        let mut crowd = Crowd::of(4);
        assert_eq!(crowd.publish(1), 0);
        for position in [0, 1] {
            assert_eq!(crowd.next(100), Next::Deliver { position });
        }
        assert_eq!(crowd.publish(2), 2, "who had not been shown the first one");
        for position in [2, 3] {
            assert_eq!(crowd.next(130), Next::Deliver { position });
        }
        assert_eq!(crowd.next(130), Next::PauseUntil { due_ms: 160 }, "it took 30 ms");
        for position in [0, 1] {
            assert_eq!(crowd.next(160), Next::Deliver { position });
        }
        assert_eq!(crowd.next(160), Next::KeepUntil { due_ms: 1_160 });
        assert_eq!(crowd.frames, 6);
    }

    #[test]
    fn sets_that_come_all_the_time_are_shown_once_per_sweep() {
        let mut crowd = Crowd::of(10);
        for number in 1..=1_000 {
            crowd.publish(number);
            crowd.next(number);
        }
        assert!(crowd.frames <= 510, "half of the time is rest: {}", crowd.frames);
        assert!(crowd.frames >= 450, "and half is not: {}", crowd.frames);
    }

    #[test]
    fn whoever_is_owed_the_set_comes_next_even_during_a_rest() {
        let mut crowd = Crowd::of(3);
        crowd.publish(1);
        for ms in 0..3 {
            crowd.next(ms);
        }
        crowd.publish(2);
        assert!(matches!(crowd.next(3), Next::PauseUntil { .. }));
        crowd.enter(9);
        crowd.enqueue(9);
        crowd.enqueue(1);
        crowd.next(3);
        crowd.next(3);
        assert_eq!((crowd.shown[&9], crowd.shown[&1]), (2, 2));
        assert!(matches!(crowd.next(3), Next::PauseUntil { .. }));
        assert_eq!(crowd.sweep.waiting(), 2);
    }

    #[test]
    fn an_outdated_set_is_shown_to_nobody_and_a_newer_one_is_asked_for_once() {
        let mut crowd = Crowd::of(2);
        crowd.publish(1);
        crowd.next(0);
        crowd.sweep.outdate();
        assert_eq!([crowd.next(0), crowd.next(0)], [Next::Request, Next::Await]);
        crowd.sweep.outdate();
        assert_eq!(crowd.next(0), Next::Await);
        crowd.sweep.replace(set(2));
        assert_eq!(crowd.next(0), Next::Deliver { position: 1 });
        assert_eq!(crowd.shown[&1], 2);
    }

    #[test]
    fn the_author_is_left_out_only_while_nobody_waits_for_anything_else() {
        let author = ConnAddr {
            shard: crate::ids::ShardId(0),
            conn: crate::ids::ConnId { slot: 1, generation: 1 },
        };
        let mut crowd = Crowd::of(2);
        crowd.sweep.publish(set(1), Some(author), 2);
        assert_eq!(crowd.sweep.except(), Some(author));
        crowd.sweep.publish(set(2), Some(author), 2);
        assert_eq!(crowd.sweep.except(), None);
    }
}
