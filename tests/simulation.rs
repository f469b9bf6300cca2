//! Seeded simulation of the whole core: shards, mailboxes, sockets and clients in one thread,
//! random faults, and a naive model of who must be where.
//!
//! ```text
//! HEADCOUNT_SEEDS=100000 cargo test --test simulation every_seed
//! HEADCOUNT_SEED=42      ... -- --nocapture        replays one seed and prints what happens
//! ```
//!
//! Detection power: bugs planted by hand, one at a time, and the number of seeds, counted from 0,
//! until one failed (`tests/shards.rs` has the scenes):
//!
//! | planted bug | seeds | scenes |
//! |---|---|---|
//! | the home never sends `Unsubscribe` | 1 | - |
//! | a tick that a full mailbox refused does not make its home stale | 39 | 1 |
//! | a `Leave` is dropped when the mailbox is full | 19 | - |
//! | envelopes that wait for a mailbox are sent in reverse | 31 | - |
//! | mailboxes are filled beyond their capacity | 6 | - |
//! | a snapshot is dropped when the mailbox is full | 99 | - |
//! | a state that the mailbox refused is forgotten | 5 | 2 |
//! | ticks go to the excepted sender too | 1 | 2 |
//! | a handoff loses the unread bytes | 1 | 2 |
//! | a handoff loses the first message | 1 | 5 |
//! | a handoff loses unsent answers | 3 | - |
//! | the grace has no timer | 1 | 3 |
//! | no leave event at the end of a grace | 1 | 1 |
//! | a resumed member still counts as lost | 5 | - |
//! | a lost connection leaves at once | 45 | 1 |
//! | a clean close has a grace | 1 | 1 |
//! | any device of a user takes the place of a lost one | 45 | - |
//! | a ping is no heartbeat | 1 | - |
//! | silent members never expire | 4 | - |
//! | the list of subscribers forgets who moved in it | 1 | - |
//! | a second feed of a home replaces the first | 1 | 1 |
//! | the interval between ticks is ignored | 1 | - |
//! | a receiver that reads again is not refreshed | 27 | 2 |
//! | a throttled receiver has no timer | 20 | 1 |
//! | entering and leaving in one tick is still an enter | 59 | - |
//! | leaving and entering in one tick withholds the set | 525 | unit test |
//! | a leave event for a user with another session | 3 | - |
//! | ages count from the start of the process | 1 | - |
//! | a refused new member stays a subscriber | never: no run fills a channel | 1 |
//! | a hot channel is not announced | never: only placement differs | 2 |

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
