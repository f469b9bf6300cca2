//! The lifecycle phase of the process, shared by all threads.

use std::sync::atomic::{AtomicU8, Ordering};

use strum::FromRepr;

/// The phases, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum Phase {
    /// Listeners are not served yet; `/readyz` answers 503.
    Starting,
    /// Requests are accepted; `/readyz` answers 200.
    Ready,
    /// Requests are still accepted; `/readyz` answers 503 so that load balancers move on.
    Leaving,
    /// New requests are refused; those in progress are finished.
    Stopping,
}

/// The current phase.
#[derive(Debug)]
pub struct Lifecycle(AtomicU8);

impl Lifecycle {
    /// The first phase.
    pub fn starting() -> Self {
        Lifecycle(AtomicU8::new(Phase::Starting as u8))
    }

    /// Enters a phase.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        Phase::from_repr(self.0.load(Ordering::Relaxed)).unwrap_or(Phase::Stopping)
    }

    /// Whether `/readyz` answers 200, unless an executor is stalled.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Ready
    }

    /// Whether new requests are refused.
    pub fn is_stopping(&self) -> bool {
        self.phase() == Phase::Stopping
    }
}
