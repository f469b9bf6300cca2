//! Limits of HTTP connections: their number, and their idle time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::admin::Surface;

/// Time for the first request of a connection.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Time between a response and the end of the next request's head.
const IDLE: Duration = Duration::from_secs(75);

/// Concurrent HTTP connections of applications; a long-polling client has two. Above it new ones
/// are closed and counted.
const PUBLIC_MAX: usize = 8192;

/// Concurrent HTTP connections of operators. Separate, so that applications cannot use them up.
const ADMIN_MAX: usize = 1024;

/// The open HTTP connections.
#[derive(Default)]
pub struct Connections {
    public: Rc<Cell<usize>>,
    admin: Rc<Cell<usize>>,
    refused: Cell<u64>,
    responses: RefCell<BTreeMap<u16, u64>>,
}

impl Connections {
    /// Counts a connection until the result is dropped; `None` at the limit.
    pub fn admit(&self, surface: Surface) -> Option<CountGuard> {
        let (open, most) = match surface {
            Surface::Public => (&self.public, PUBLIC_MAX),
            Surface::Admin => (&self.admin, ADMIN_MAX),
        };
        if open.get() >= most {
            self.refused.set(self.refused.get() + 1);
            return None;
        }
        Some(CountGuard::new(open))
    }

    /// Open connections of both surfaces.
    pub fn open(&self) -> u64 {
        (self.public.get() + self.admin.get()) as u64
    }

    /// Connections closed at the limit since start.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Counts a response by its status.
    pub fn count_response(&self, status: u16) {
        *self.responses.borrow_mut().entry(status).or_default() += 1;
    }

    /// Responses since start, by status.
    pub fn responses(&self) -> BTreeMap<u16, u64> {
        self.responses.borrow().clone()
    }
}

/// Increments a count, and decrements it when dropped.
pub struct CountGuard(Rc<Cell<usize>>);

impl CountGuard {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        CountGuard(Rc::clone(count))
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The idle timer of one connection.
pub struct IdleTimer {
    /// Requests in progress; with HTTP/1.1, one at most.
    answering: Rc<Cell<usize>>,
    /// At least one request has been read.
    requested: Cell<bool>,
    /// When the connection was opened or last written to.
    idle_since: Cell<Instant>,
}

impl IdleTimer {
    pub fn new() -> Self {
        IdleTimer {
            answering: Rc::default(),
            requested: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        }
    }

    /// A request is in progress until the result is dropped; the idle timer is stopped meanwhile.
    pub fn pause(&self) -> CountGuard {
        self.requested.set(true);
        CountGuard::new(&self.answering)
    }

    /// Restarts the timer. Only writes do: a request that arrives byte by byte must not extend it.
    pub fn restart(&self) {
        self.idle_since.set(Instant::now());
    }

    /// Waits until the timer expires.
    pub async fn expired(&self) {
        loop {
            let left = self.time_left(Instant::now());
            if left.is_zero() {
                return;
            }
            glommio::timer::sleep(left).await;
        }
    }

    fn time_left(&self, now: Instant) -> Duration {
        let allowed = if self.requested.get() { IDLE } else { REQUEST_WITHIN };
        if self.answering.get() > 0 {
            return allowed;
        }
        (self.idle_since.get() + allowed).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_stopped_while_a_request_is_in_progress() {
        let idle_timer = IdleTimer::new();
        let opened = idle_timer.idle_since.get();
        let left = |after: u64| idle_timer.time_left(opened + Duration::from_secs(after)).as_secs();
        assert_eq!((left(0), left(9), left(10), left(99)), (10, 1, 0, 0));
        let answering = idle_timer.pause();
        assert_eq!((left(10), left(1000)), (75, 75));
        drop(answering);
        assert_eq!((left(10), left(74), left(75)), (65, 1, 0));
    }

    #[test]
    fn applications_do_not_use_up_the_connections_of_operators() {
        let connections = Connections::default();
        let held: Vec<_> = (0..PUBLIC_MAX).map(|_| connections.admit(Surface::Public)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(connections.admit(Surface::Public).is_none());
        assert!(connections.admit(Surface::Admin).is_some());
        assert_eq!((connections.open(), connections.refused()), (PUBLIC_MAX as u64, 1));
        drop(held);
        assert_eq!(connections.open(), 0);
        assert!(connections.admit(Surface::Public).is_some());
    }
}
