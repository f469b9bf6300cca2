//! How far the process is in its life, as all its threads see it.

use std::sync::atomic::{AtomicU8, Ordering};

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Starting,
    /// It takes work.
    Ready,
    /// It takes work, and says that it is about to stop.
    Leaving,
    /// It takes no more work, and finishes what it has.
    Stopping,
}

/// The phase, shared between threads.
#[derive(Debug)]
pub struct Lifecycle(AtomicU8);

impl Lifecycle {
    pub fn starting() -> Self {
        Lifecycle(AtomicU8::new(Phase::Starting as u8))
    }

    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    pub fn phase(&self) -> Phase {
        let phases = [Phase::Starting, Phase::Ready, Phase::Leaving];
        let number = self.0.load(Ordering::Relaxed);
        phases.get(usize::from(number)).copied().unwrap_or(Phase::Stopping)
    }

    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Ready
    }

    pub fn is_stopping(&self) -> bool {
        self.phase() == Phase::Stopping
    }
}
