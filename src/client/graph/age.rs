//! How old a graph is.

use std::time::{Duration, SystemTime};

/// Until when a graph is in step with the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Age {
    /// The connection lives: until it is asked.
    Live,
    /// It was lost, or not there, from this time on.
    Since(SystemTime),
}

impl Age {
    pub(super) fn now() -> Self {
        Self::Since(SystemTime::now())
    }

    pub(super) fn as_of(self) -> SystemTime {
        match self {
            Self::Live => SystemTime::now(),
            Self::Since(time) => time,
        }
    }

    pub(super) fn staleness(self) -> Duration {
        match self {
            Self::Live => Duration::ZERO,
            Self::Since(time) => time.elapsed().unwrap_or_default(),
        }
    }
}
