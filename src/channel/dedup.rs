//! Deduplication of repeated publishes.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::ids::Clocks;

/// Remembers the serials of recent publishes. Bounded by time and by `publishes_max`: above it the
/// oldest are evicted, and a repetition of an evicted publish is published again.
#[derive(Debug)]
pub(super) struct DedupWindow {
    window_ms: u64,
    publishes_max: usize,
    /// Oldest first.
    publishes: VecDeque<Publish>,
    /// Number of the oldest publish; they are numbered consecutively.
    first: u64,
    /// Numbers by hash of client id and message id.
    numbers: HashTable<u64>,
    hasher: RandomState,
    bytes: u64,
}

/// A publish, identified by client id and message id: two clients may use the same message id.
#[derive(Debug)]
struct Publish {
    client_id: Arc<str>,
    message_id: Box<str>,
    /// Hash of both ids, computed once.
    hash: u64,
    serial: u64,
    until_ms: u64,
}

impl Publish {
    /// Approximate memory for one publish, in bytes: the entry, its table slot and its text.
    fn bytes(&self) -> u64 {
        (size_of::<Publish>() + 2 * size_of::<u64>() + self.message_id.len() + 16) as u64
    }
}

impl DedupWindow {
    pub fn new(window_ms: u64, publishes_max: usize) -> Self {
        DedupWindow {
            window_ms,
            publishes_max,
            publishes: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
            hasher: RandomState::new(),
            bytes: 0,
        }
    }

    /// The serial of an earlier publish with the same ids; otherwise remembers this one with
    /// `serial`. Messages without an id are not deduplicated.
    pub fn find_or_insert(
        &mut self,
        now: Clocks,
        client_id: &Arc<str>,
        message_id: &str,
        serial: u64,
    ) -> Option<u64> {
        self.expire(now);
        if message_id.is_empty() || self.publishes_max == 0 {
            return None;
        }
        let hash = self.hasher.hash_one((&**client_id, message_id));
        let earlier = self.find(hash, client_id, message_id);
        if earlier.is_none() {
            let (client_id, message_id) = (Arc::clone(client_id), Box::from(message_id));
            let until_ms = now.mono_ms + self.window_ms;
            self.insert(Publish { client_id, message_id, hash, serial, until_ms });
        }
        earlier
    }

    /// Approximate memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes publishes older than the window.
    pub fn expire(&mut self, now: Clocks) {
        while self.publishes.front().is_some_and(|oldest| oldest.until_ms <= now.mono_ms) {
            self.evict_oldest();
        }
    }

    /// Evicts the oldest publish; false if there is none.
    pub fn evict_oldest(&mut self) -> bool {
        let Some(oldest) = self.publishes.pop_front() else { return false };
        let number = self.first;
        self.first += 1;
        self.bytes -= oldest.bytes();
        if let Ok(entry) = self.numbers.find_entry(oldest.hash, |&found| found == number) {
            entry.remove();
        }
        true
    }

    fn find(&self, hash: u64, client_id: &str, message_id: &str) -> Option<u64> {
        let numbered = |number: &u64| &self.publishes[(number - self.first) as usize];
        let is_named = |number: &u64| {
            let publish = numbered(number);
            *publish.message_id == *message_id && *publish.client_id == *client_id
        };
        self.numbers.find(hash, is_named).map(|number| numbered(number).serial)
    }

    fn insert(&mut self, publish: Publish) {
        let (hash, number) = (publish.hash, self.first + self.publishes.len() as u64);
        self.bytes += publish.bytes();
        self.publishes.push_back(publish);
        let (publishes, first) = (&self.publishes, self.first);
        let hash_of = |number: &u64| publishes[(number - first) as usize].hash;
        self.numbers.insert_unique(hash, number, hash_of);
        if self.publishes.len() > self.publishes_max {
            self.evict_oldest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Clocks {
        Clocks { mono_ms: ms, wall_ms: ms }
    }

    #[test]
    fn a_repeated_publish_finds_its_serial_until_the_window_ends() {
        let mut window = DedupWindow::new(100, 10);
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        assert_eq!(window.find_or_insert(at(0), &alice, "m1", 7), None);
        assert_eq!(window.find_or_insert(at(99), &alice, "m1", 8), Some(7));
        assert_eq!(window.find_or_insert(at(99), &bob, "m1", 8), None);
        assert_eq!(window.find_or_insert(at(100), &alice, "m1", 9), None);
        window.expire(at(1_000));
        assert_eq!((window.bytes(), window.numbers.len(), window.evict_oldest()), (0, 0, false));
    }

    #[test]
    fn the_oldest_are_evicted_first() {
        let mut window = DedupWindow::new(1000, 2);
        let alice: Arc<str> = "alice".into();
        for (serial, id) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(window.find_or_insert(at(0), &alice, id, serial), None);
        }
        let found = ["b", "c", "a"].map(|id| window.find_or_insert(at(0), &alice, id, 4));
        assert_eq!(found, [Some(2), Some(3), None]);
    }

    #[test]
    fn messages_without_an_id_are_not_deduplicated() {
        let mut window = DedupWindow::new(1000, 2);
        let alice: Arc<str> = "alice".into();
        assert_eq!(window.find_or_insert(at(0), &alice, "", 1), None);
        assert_eq!(window.find_or_insert(at(0), &alice, "", 2), None);
    }

    #[test]
    fn it_agrees_with_a_list_of_all_publishes() {
        let (most, window_ms) = (40, 90);
        let mut window = DedupWindow::new(window_ms, most);
        let clients: [Arc<str>; 2] = ["alice".into(), "bob".into()];
        let mut remembered: VecDeque<(u64, usize, u64, u64)> = VecDeque::new();
        let mut random = 1_u64;
        for serial in 1..5_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (now_ms, client, id) = (serial, (random >> 60) as usize & 1, (random >> 40) % 60);
            while remembered.front().is_some_and(|oldest| oldest.0 <= now_ms) {
                remembered.pop_front();
            }
            let earlier = remembered.iter().find(|known| (known.1, known.2) == (client, id));
            let expected = earlier.map(|known| known.3);
            let name = format!("m{id}");
            let found = window.find_or_insert(at(now_ms), &clients[client], &name, serial);
            assert_eq!(found, expected, "serial {serial}");
            if expected.is_none() {
                remembered.push_back((now_ms + window_ms, client, id, serial));
                remembered.drain(..remembered.len().saturating_sub(most));
            }
            assert_eq!(window.numbers.len(), remembered.len(), "serial {serial}");
        }
    }
}
