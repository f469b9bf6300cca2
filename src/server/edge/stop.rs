//! The moment from which the edge takes no more work, for everything that waits for something else.

use glommio::sync::Semaphore;

/// Has nothing to give; whoever waits for it waits until it is closed.
pub struct Stop(Semaphore);

impl Stop {
    pub fn new() -> Self {
        Stop(Semaphore::new(0))
    }

    /// The edge stops.
    pub fn begin(&self) {
        self.0.close();
    }

    /// Waits until the edge stops.
    pub async fn begun(&self) {
        // An error is how a wait for a semaphore ends that is closed.
        let _ = self.0.acquire(1).await;
    }
}
