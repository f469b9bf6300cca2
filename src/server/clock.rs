//! The only place that reads clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::ids::Now;

/// Reads the time once per turn.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

/// What the monotonic clock shows at start: above every interval, so that "long ago" is
/// expressible.
const START_MS: u64 = 1_000_000_000;

impl Clock {
    pub fn start() -> Self {
        Clock { start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_ms: START_MS + self.start.elapsed().as_millis() as u64,
            wall_ms: since_epoch.as_millis() as u64,
        }
    }
}
