//! The shutdown signal of the edge's tasks.

use glommio::sync::Semaphore;

/// A semaphore without permits: waits for it end when it is closed.
pub struct Stop(Semaphore);

impl Stop {
    pub fn new() -> Self {
        Stop(Semaphore::new(0))
    }

    /// Signals that the edge stops.
    pub fn begin(&self) {
        self.0.close();
    }

    /// Waits until the edge stops.
    pub async fn begun(&self) {
        // The wait for a closed semaphore ends with an error.
        let _ = self.0.acquire(1).await;
    }
}
