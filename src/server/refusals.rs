//! The log of refused keys and tokens, shared by all executors.
//!
//! Invariant: no executor writes to the log. Clients determine the number of refusals, and a write
//! may block; a separate thread writes at most one line per cause and second.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use enum_map::EnumMap;

use crate::auth::{CredentialError, Refusals};

/// Minimum interval between two lines about one cause.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Minimum interval between two reads of the counts, so that a flood of refusals uses little CPU.
const LOOK_EVERY: Duration = Duration::from_millis(10);

type Counts = EnumMap<CredentialError, AtomicU64>;

/// The log that executors add their refusals to.
#[derive(Debug)]
pub struct RefusalLog {
    /// Refusals since start.
    counts: Arc<Counts>,
    /// Capacity one: a pending wake-up covers all later ones.
    wake: Sender<()>,
}

impl RefusalLog {
    /// Starts the writer thread; it exits when this value is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let counts: Arc<Counts> = Arc::default();
        let (wake, woken) = bounded(1);
        let counted = Arc::clone(&counts);
        let write = |cause: CredentialError, count| {
            tracing::info!(cause = cause.label(), count, "key or token refused: {cause}");
        };
        thread::Builder::new()
            .name("refusals".into())
            .spawn(move || write_lines(&counted, &woken, write))?;
        Ok(RefusalLog { counts, wake })
    }

    /// Adds refusals; never blocks.
    pub fn add(&self, cause: CredentialError, count: u64) {
        self.counts[cause].fetch_add(count, Ordering::Relaxed);
        let _ = self.wake.try_send(());
    }
}

/// Adds the refusals that one shard has counted to the log.
pub struct ShardRefusals {
    log: Arc<RefusalLog>,
    added: Refusals,
}

impl ShardRefusals {
    pub fn new(log: Arc<RefusalLog>) -> Self {
        ShardRefusals { log, added: Refusals::default() }
    }

    /// Adds the refusals counted since the last call. Called every turn: without one it costs a
    /// comparison.
    pub fn note(&mut self, counted: &Refusals) {
        if counted.all() == self.added.all() {
            return;
        }
        for ((cause, count), (_, added)) in counted.by_cause().zip(self.added.by_cause()) {
            if count > added {
                self.log.add(cause, count - added);
            }
        }
        self.added = counted.clone();
    }
}

/// The rate limit of the lines.
#[derive(Default)]
struct Lines {
    logged: EnumMap<CredentialError, u64>,
    next: EnumMap<CredentialError, Option<Instant>>,
}

impl Lines {
    /// The causes to log at `now`, each with its refusals since its last line; and the time of the
    /// next line, if one is delayed.
    fn due(
        &mut self,
        counts: &Counts,
        now: Instant,
    ) -> (Vec<(CredentialError, u64)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None);
        for (cause, count) in counts {
            let count = count.load(Ordering::Relaxed);
            if count == self.logged[cause] {
                continue;
            }
            match self.next[cause] {
                Some(later) if later > now => {
                    next = Some(next.map_or(later, |next: Instant| next.min(later)));
                }
                _ => {
                    due.push((cause, count - self.logged[cause]));
                    self.logged[cause] = count;
                    self.next[cause] = Some(now + LINE_EVERY);
                }
            }
        }
        (due, next)
    }
}

fn write_lines(counts: &Counts, woken: &Receiver<()>, write: impl Fn(CredentialError, u64)) {
    let mut lines = Lines::default();
    let mut next = None;
    loop {
        let awaited = match next {
            Some(next) => woken.recv_deadline(next),
            None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if awaited == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        let (due, later) = lines.due(counts, Instant::now());
        due.into_iter().for_each(|(cause, count)| write(cause, count));
        next = later;
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CredentialError::{Expired, Signature};

    #[test]
    fn a_cause_has_one_line_a_second_and_nothing_is_lost() {
        let counts = Counts::default();
        let refuse = |cause: CredentialError, count| {
            counts[cause].fetch_add(count, Ordering::Relaxed);
        };
        let mut lines = Lines::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(lines.due(&counts, start), (vec![], None));
        refuse(Expired, 2);
        assert_eq!(lines.due(&counts, start), (vec![(Expired, 2)], None), "at once");
        refuse(Expired, 3);
        refuse(Signature, 1);
        let other = (vec![(Signature, 1)], Some(at(1000)));
        assert_eq!(lines.due(&counts, at(300)), other, "another cause does not wait");
        refuse(Signature, 4);
        assert_eq!(lines.due(&counts, at(999)), (vec![], Some(at(1000))));
        assert_eq!(lines.due(&counts, at(1000)), (vec![(Expired, 3)], Some(at(1300))));
        assert_eq!(lines.due(&counts, at(1300)), (vec![(Signature, 4)], None));
        assert_eq!(lines.due(&counts, at(9000)), (vec![], None));
    }

    #[test]
    fn what_two_shards_count_adds_up() {
        let log = Arc::new(RefusalLog::start().unwrap());
        let count_of = |cause| log.counts[cause].load(Ordering::Relaxed);
        for _ in 0..2 {
            let mut shard = ShardRefusals::new(Arc::clone(&log));
            let mut counted = Refusals::default();
            counted.count(Expired);
            shard.note(&counted);
            shard.note(&counted);
            counted.count(Expired);
            counted.count(Signature);
            shard.note(&counted);
        }
        assert_eq!((count_of(Expired), count_of(Signature)), (4, 2));
    }
}
