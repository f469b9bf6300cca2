//! Seeded simulation of the whole core.

#[path = "simulation/mod.rs"]
mod simulation;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::run::Run;

/// Seeds that one `cargo test` tries unless `HEADCOUNT_SEEDS` says otherwise.
const SEEDS: u64 = 2000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text:?}")))
}

/// Why the run of a seed failed, and how to see it again.
fn failure(seed: u64, trace: bool) -> Option<String> {
    let step = Arc::new(AtomicU64::new(0));
    let run = Run::new(seed, Arc::clone(&step));
    let run = if trace { run.tracing() } else { run };
    let error = catch_unwind(AssertUnwindSafe(|| run.run())).err()?;
    let message = match (error.downcast_ref::<String>(), error.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "no message".to_owned(),
    };
    let step = step.load(Ordering::Relaxed);
    Some(format!(
        "seed {seed} failed at step {step}: {message}\nreplay with: HEADCOUNT_SEED={seed} \
         cargo test --no-default-features --test simulation every_seed -- --nocapture"
    ))
}

#[test]
fn every_seed_converges_without_ghosts_or_false_leaves() {
    if let Some(seed) = variable("HEADCOUNT_SEED") {
        return assert_eq!(failure(seed, true), None);
    }
    let seeds = variable("HEADCOUNT_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let search = || {
        std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
            .take_while(|&seed| seed < seeds)
            .find_map(|seed| {
                let failure = failure(seed, false);
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
fn the_same_seed_gives_the_same_effects_and_bytes() {
    for seed in 0..40 {
        let hash = || catch_unwind(|| Run::new(seed, Arc::default()).hashing().run()).ok();
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}
