//! The clock of the shards and the edge. Nothing else in the data path reads the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::ids::Clocks;

/// Reads the time once per turn.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

/// The monotonic time at start. Larger than every interval, so that `now - interval` is valid.
const START_MS: u64 = 1_000_000_000;

impl Clock {
    /// Starts the monotonic clock.
    pub fn start() -> Self {
        Clock { start: Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Clocks {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clocks {
            mono_ms: START_MS + self.start.elapsed().as_millis() as u64,
            wall_ms: since_epoch.as_millis() as u64,
        }
    }
}
