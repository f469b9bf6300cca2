//! One clock for every thread of a run, so that a stamp written by one is read by another.

use std::time::{Duration, Instant};

/// Nanoseconds since the run began, monotonic.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { began: Instant::now() }
    }

    pub fn now_ns(&self) -> u64 {
        nanos(self.began.elapsed())
    }
}

/// A duration in nanoseconds; 584 years are enough.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
