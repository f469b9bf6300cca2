//! Seeded simulation of the whole core: shards, mailboxes, sockets and clients in one thread,
//! random faults, and a naive model of who must be where.
//!
//! ```text
//! HEADCOUNT_SEEDS=100000 cargo test --test simulation every_seed
//! HEADCOUNT_SEED=42      ... -- --nocapture        replays one seed and prints what happens
//! ```
//!
//! Can it find anything? Bugs planted by hand, one at a time, and how many seeds, counted from 0,
//! it took until one failed: of the sync clients, or of the Foony clients (`f`) where these found
//! it sooner. `tests/shards.rs` and `tests/foony_shards.rs` have the scenes; "unit test": only
//! tests in `src` found it besides.
//!
//! | planted bug | seeds | scenes |
//! |---|---|---|
//! | the home never sends `Unsubscribe` | 1 | 1 |
//! | a tick that a full mailbox refused does not make its home stale | 18 | 1 |
//! | a `Leave` is dropped when the mailbox is full | 9 | - |
//! | what waits for a mailbox is sent in reverse | 17 f | 1 |
//! | mailboxes are filled beyond their room | 3 f | unit test |
//! | a snapshot for one subscriber is dropped when the mailbox is full | 16 f | - |
//! | a snapshot for all subscribers is dropped when the mailbox is full | 30 | 1 |
//! | a state that the mailbox refused is forgotten | 9 | 2 |
//! | ticks go to the excepted sender too | 1 | 3 |
//! | a hand-off loses the unread bytes | 1 | 6 |
//! | a hand-off loses the first message | 3 | 7 |
//! | a hand-off loses unsent answers | 6 | - |
//! | the grace has no timer | 1 | 4 |
//! | no leave event when a grace is over | 1 | 1 |
//! | a resumed member still counts as lost | 3 f | unit test |
//! | a lost connection leaves at once | 25 f | 2 |
//! | a clean close has a grace | 1 | 4 |
//! | any device of a user takes the place of a lost one | 52 | unit test |
//! | a ping is no heartbeat | 1 | 1 |
//! | silent members never expire | 4 | 3 |
//! | the list of subscribers forgets a subscriber that moved in it | 1 | 1 |
//! | a second feed of a home replaces the first | 1 | 2 |
//! | the interval between ticks is ignored | 1 | - |
//! | a receiver that reads again is not refreshed | 6 f | 3 |
//! | a throttled receiver has no timer | 18 | 1 |
//! | entering and leaving in one tick is still an enter | 20 f | unit test |
//! | leaving and entering in one tick withholds the set | 287 | unit test |
//! | a user with another session is said to have left | 1 | - |
//! | ages count from the start of the process | 1 | - |
//! | a refused newcomer stays a subscriber | 23 | 1 |
//! | a hot channel is not announced | 1 | 4 |
//! | `Departures`: one that was missed is lost | 88 f | unit test |
//! | `Departures`: one that was missed is told twice | 13 f | unit test |
//! | `Departures`: a member that has entered again still counts as departed | 261 f | unit test |
//! | departures that a slow subscriber misses are forgotten | 351 f | - |
//! | a sweep skips its first subscriber | 105 | unit test |
//! | a snapshot for all skips the last subscriber of its sweep | 106 | 1 |
//! | a sweep that a subscriber joins is not listed | 2080 | 1 |
//! | a late resume ends a connection that greeted after it | 295 f | 1 |
//! | of two connections of a session that meet, the later one ends | 984 f | - |
//! | an earlier connection of a session on the same shard is not ended | 2 f | - |
//! | a resumed membership goes to the user that has greeted on the connection since | 189 | 1 |
//! | what is left of a message that waits is lost | 3 f | - |
//! | later messages overtake one that waits | 6 f | - |
//! | a large answer does not schedule what waits for it | never: its write does, too | - |
//! | a resume finds one of the lost members only | 139 | - |
//! | a resume leaves the grace in the table | never: it ends without effect | - |
//! | the head of a closed channel is forgotten | 5 f | 2 |
//! | too many heads are forgotten without a base above them | never: too few channels | 1 |
//! | a log that is opened again begins at 1 | 5 f | 1 |
//! | digests of members are not made anew after a tick | 24 f | - |
//! | no digest follows a snapshot | 24 f | - |
//! | no digest follows a tick | 534 f | - |
//! | a tick of peers has the version of the one before | 24 f | - |
//! | a check is answered before changes that are still to come | 910 f | - |
//! | on disk: a publish is acknowledged before it is stored | 195 f | - |
//! | on disk: a repetition of what is being stored is acknowledged at once | 6094 f | - |
//! | on disk: what was stored while a subscriber was read for is not replayed | 851 f | - |
//!
//! Two of five runs have channels on disk, in a store that answers late, and in one of three of
//! these fails: what it was writing is there or not.

mod fake_sockets;
#[path = "simulation/mod.rs"]
mod simulation;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::foony;
use simulation::run::Run;

/// Seeds of each kind in one `cargo test`, unless `HEADCOUNT_SEEDS` is set.
const SEEDS: u64 = 2000;
const FOONY_SEEDS: u64 = 4000;

/// The kind of clients of a run, and the test that runs it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Sync,
    Foony,
}

impl Kind {
    fn run(self, seed: u64, trace: bool, step: Arc<AtomicU64>) {
        match (self, trace) {
            (Kind::Sync, false) => Run::new(seed, step).run(),
            (Kind::Sync, true) => Run::new(seed, step).tracing().run(),
            (Kind::Foony, false) => foony::run::Run::new(seed, step).run(),
            (Kind::Foony, true) => foony::run::Run::new(seed, step).tracing().run(),
        };
    }

    fn test(self) -> &'static str {
        match self {
            Kind::Sync => "every_seed",
            Kind::Foony => "every_foony_seed",
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text:?}")))
}

/// Why the run of a seed failed, and how to see it again.
fn failure(kind: Kind, seed: u64, trace: bool) -> Option<String> {
    let step = Arc::new(AtomicU64::new(0));
    let run = || kind.run(seed, trace, Arc::clone(&step));
    let error = catch_unwind(AssertUnwindSafe(run)).err()?;
    let message = match (error.downcast_ref::<String>(), error.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "no message".to_owned(),
    };
    let step = step.load(Ordering::Relaxed);
    Some(format!(
        "seed {seed} failed at step {step}: {message}\nreplay with: HEADCOUNT_SEED={seed} \
         cargo test --test simulation {} -- --nocapture",
        kind.test()
    ))
}

/// Tries the seeds of the environment, else `seeds`.
fn search(kind: Kind, seeds: u64) {
    if let Some(seed) = variable("HEADCOUNT_SEED") {
        return assert_eq!(failure(kind, seed, true), None);
    }
    let seeds = variable("HEADCOUNT_SEEDS").unwrap_or(seeds);
    let next = AtomicU64::new(0);
    let search = || {
        std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
            .take_while(|&seed| seed < seeds)
            .find_map(|seed| {
                let failure = failure(kind, seed, false);
                if failure.is_some() {
                    next.store(seeds, Ordering::Relaxed);
                }
                failure
            })
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let searches: Vec<_> = (0..2).map(|_| scope.spawn(search)).collect();
        searches.into_iter().filter_map(|search| search.join().expect("a search")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_seed_converges_without_ghosts_or_false_leaves() {
    search(Kind::Sync, SEEDS);
}

#[test]
fn every_foony_seed_loses_repeats_and_reorders_nothing() {
    search(Kind::Foony, FOONY_SEEDS);
}

#[test]
fn the_same_seed_gives_the_same_effects_and_bytes() {
    for seed in 0..40 {
        let hash = || catch_unwind(|| Run::new(seed, Arc::default()).hashing().run()).ok();
        assert_eq!(hash(), hash(), "seed {seed}");
        let hash =
            || catch_unwind(|| foony::run::Run::new(seed, Arc::default()).hashing().run()).ok();
        assert_eq!(hash(), hash(), "Foony seed {seed}");
    }
}
