//! Publishes that may be sent again: what each was answered with.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::ids::Now;

/// A publish as its publisher names it. Two clients may use the same message id.
type Name = (Arc<str>, Box<str>);

/// Remembers publishes for a time. Bounded by that time and by `publishes_max`: past it the oldest
/// are forgotten first, and a publisher that resends one of those publishes it twice.
#[derive(Debug)]
pub struct PublishWindow {
    window_ms: u64,
    publishes_max: usize,
    serials: HashMap<Name, u64>,
    /// Oldest first, with the time each is forgotten.
    order: VecDeque<(u64, Name)>,
    bytes: u64,
}

impl PublishWindow {
    pub fn new(window_ms: u64, publishes_max: usize) -> Self {
        PublishWindow {
            window_ms,
            publishes_max,
            serials: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The serial that an earlier publish of the same name got.
    pub fn find(&mut self, now: Now, client_id: &Arc<str>, message_id: &str) -> Option<u64> {
        self.expire(now);
        self.serials.get(&(Arc::clone(client_id), Box::from(message_id))).copied()
    }

    /// Memory that it takes, in bytes, about.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what may not be sent again any longer.
    pub fn expire(&mut self, now: Now) {
        while self.order.front().is_some_and(|(until_ms, _)| *until_ms <= now.mono_ms) {
            self.forget_oldest();
        }
    }

    /// Remembers a publish. Messages without an id cannot be told apart and are not remembered.
    pub fn insert(&mut self, now: Now, client_id: &Arc<str>, message_id: &str, serial: u64) {
        if message_id.is_empty() || self.publishes_max == 0 {
            return;
        }
        let name = (Arc::clone(client_id), Box::from(message_id));
        if self.serials.insert(name.clone(), serial).is_none() {
            self.bytes += bytes(&name);
            self.order.push_back((now.mono_ms + self.window_ms, name));
        }
        if self.order.len() > self.publishes_max {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest publish; false when there is none.
    pub fn forget_oldest(&mut self) -> bool {
        let Some((_, name)) = self.order.pop_front() else { return false };
        self.bytes -= bytes(&name);
        self.serials.remove(&name);
        true
    }
}

/// What remembering a publish takes: its name in the map and in the list, with their overheads.
fn bytes((_, id): &Name) -> u64 {
    (2 * (size_of::<Name>() + id.len()) + 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, wall_ms: ms }
    }

    #[test]
    fn a_resend_finds_its_serial_until_the_window_is_over() {
        let mut window = PublishWindow::new(100, 10);
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        window.insert(at(0), &alice, "m1", 7);
        assert_eq!(window.find(at(99), &alice, "m1"), Some(7));
        assert_eq!(window.find(at(99), &bob, "m1"), None);
        assert_eq!(window.find(at(100), &alice, "m1"), None);
        assert!(window.order.is_empty());
    }

    #[test]
    fn the_oldest_go_first_when_there_are_too_many() {
        let mut window = PublishWindow::new(1000, 2);
        let alice: Arc<str> = "alice".into();
        for (serial, id) in [(1, "a"), (2, "b"), (3, "c")] {
            window.insert(at(0), &alice, id, serial);
        }
        let found = ["a", "b", "c"].map(|id| window.find(at(0), &alice, id));
        assert_eq!(found, [None, Some(2), Some(3)]);
    }

    #[test]
    fn a_message_without_an_id_is_never_a_resend() {
        let mut window = PublishWindow::new(1000, 2);
        let alice: Arc<str> = "alice".into();
        window.insert(at(0), &alice, "", 1);
        assert_eq!(window.find(at(0), &alice, ""), None);
    }
}
