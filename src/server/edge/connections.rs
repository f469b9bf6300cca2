//! How many HTTP connections there are, and when one has been quiet for too long.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::admin::Surface;

/// How long a connection may take to send its first request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may be silent between an answer and the end of the next request's head.
const IDLE: Duration = Duration::from_secs(75);

/// Applications' HTTP connections at the same time; a long-polling client has two. Further ones are
/// closed at once and counted.
const PUBLIC_MAX: usize = 8192;

/// Operators' HTTP connections at the same time, so that applications cannot take them all.
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
    /// Counts one connection for as long as the result lives; `None` when there is no room.
    pub fn admit(&self, surface: Surface) -> Option<Counted> {
        let (open, most) = match surface {
            Surface::Public => (&self.public, PUBLIC_MAX),
            Surface::Admin => (&self.admin, ADMIN_MAX),
        };
        if open.get() >= most {
            self.refused.set(self.refused.get() + 1);
            return None;
        }
        Some(Counted::new(open))
    }

    pub fn open(&self) -> u64 {
        (self.public.get() + self.admin.get()) as u64
    }

    /// Connections for which there was no room, since start.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    pub fn count_response(&self, status: u16) {
        *self.responses.borrow_mut().entry(status).or_default() += 1;
    }

    /// Responses since start, by status.
    pub fn responses(&self) -> BTreeMap<u16, u64> {
        self.responses.borrow().clone()
    }
}

/// One of something, counted while it lives.
pub struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Counted(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What has happened on one connection.
pub struct Activity {
    /// Requests being answered; with HTTP/1.1, one at most.
    answering: Rc<Cell<usize>>,
    /// A request has been complete.
    requested: Cell<bool>,
    /// When the connection was opened, or last written to.
    quiet_since: Cell<Instant>,
}

impl Activity {
    pub fn begin() -> Self {
        Activity {
            answering: Rc::default(),
            requested: Cell::new(false),
            quiet_since: Cell::new(Instant::now()),
        }
    }

    /// A request is answered for as long as the result lives; until then the connection may be as
    /// quiet as it likes.
    pub fn count_request(&self) -> Counted {
        self.requested.set(true);
        Counted::new(&self.answering)
    }

    /// Bytes were written. What is read does not count: a request may not come in drop by drop.
    pub fn wrote(&self) {
        self.quiet_since.set(Instant::now());
    }

    /// Waits until the connection has been quiet for too long.
    pub async fn idle(&self) {
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
        (self.quiet_since.get() + allowed).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_quiet_only_when_nothing_is_answered() {
        let activity = Activity::begin();
        let opened = activity.quiet_since.get();
        let left = |after: u64| activity.time_left(opened + Duration::from_secs(after)).as_secs();
        assert_eq!((left(0), left(9), left(10), left(99)), (10, 1, 0, 0));
        let answering = activity.count_request();
        assert_eq!((left(10), left(1000)), (75, 75));
        drop(answering);
        assert_eq!((left(10), left(74), left(75)), (65, 1, 0));
    }

    #[test]
    fn applications_do_not_take_the_place_of_operators() {
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
