//! Detects executors that have stopped taking turns.
//!
//! Every executor is woken twice a second, so a live one takes turns even when it is idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::mesh::Endpoints;

const WAKE_EVERY: Duration = Duration::from_millis(500);

/// Time without a turn after which an executor is reported and the server is not ready.
const SILENT: Duration = Duration::from_secs(2);

/// Time without a turn that ends the process, so that a supervisor restarts it.
const DEAD: Duration = Duration::from_secs(10);

/// State of the executors, for `/readyz` and `/metrics`.
#[derive(Debug, Default)]
pub struct Health {
    /// Executors that are stalled now.
    pub silent: AtomicU64,
    /// Stalls since start.
    pub stalls: AtomicU64,
}

/// An executor that has been stalled for too long.
#[derive(Clone, Copy, Debug)]
pub struct Dead {
    pub endpoint: usize,
    pub silent_for: Duration,
}

struct Observed {
    turns: u64,
    since: Instant,
    reported: bool,
}

/// Watches until `stop` is dropped; a dead executor is reported to `dead` once.
pub fn start(
    endpoints: Endpoints,
    health: Arc<Health>,
    stop: Receiver<()>,
    dead: Sender<Dead>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("watchdog".into()).spawn(move || {
        let start = Instant::now();
        let mut observed: Vec<Observed> = endpoints
            .iter()
            .map(|endpoint| Observed { turns: endpoint.turns(), since: start, reported: false })
            .collect();
        let mut last = start;
        while stop.recv_timeout(WAKE_EVERY) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            // When the whole process was suspended (SIGSTOP), the watchdog was as well.
            let was_stopped = now - last > SILENT;
            last = now;
            for (index, (endpoint, seen)) in endpoints.iter().zip(&mut observed).enumerate() {
                let turns = endpoint.turns();
                if turns != seen.turns || was_stopped {
                    recover(&health, index, seen);
                    *seen = Observed { turns, since: now, reported: false };
                } else if let Some(found) = judge(&health, index, seen, now) {
                    let _ = dead.try_send(found);
                }
                endpoint.wake();
            }
        }
    })
}

fn recover(health: &Health, index: usize, seen: &Observed) {
    if seen.reported {
        health.silent.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!(executor = index, "takes turns again");
    }
}

fn judge(health: &Health, index: usize, seen: &mut Observed, now: Instant) -> Option<Dead> {
    let silent_for = now - seen.since;
    if silent_for >= SILENT && !seen.reported {
        seen.reported = true;
        health.silent.fetch_add(1, Ordering::Relaxed);
        health.stalls.fetch_add(1, Ordering::Relaxed);
        tracing::error!(executor = index, ?silent_for, "has not taken a turn");
    }
    (silent_for >= DEAD).then_some(Dead { endpoint: index, silent_for })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::mesh;

    #[test]
    fn an_executor_that_takes_no_turns_is_noticed_and_its_recovery_too() {
        let (endpoints, _mailboxes) = mesh::build(2, 4).unwrap();
        let health = Arc::new(Health::default());
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let (dead, _deaths) = crossbeam_channel::bounded(1);
        start(Arc::clone(&endpoints), Arc::clone(&health), stopped, dead).unwrap();
        let silent_within = |count: u64, limit: Duration| {
            let start = Instant::now();
            while health.silent.load(Ordering::Relaxed) != count {
                assert!(start.elapsed() < limit, "not {count} silent within {limit:?}");
                endpoints[0].count_turn();
                thread::sleep(Duration::from_millis(20));
            }
        };
        silent_within(1, Duration::from_secs(4));
        endpoints[1].count_turn();
        silent_within(0, Duration::from_secs(2));
        assert_eq!(health.stalls.load(Ordering::Relaxed), 1);
        drop(stop);
    }
}
