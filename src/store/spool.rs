//! Events that wait to be posted to webhooks, on disk.

use std::ops::Range;
use std::sync::Arc;

use super::format::{EVENTS, event_key, event_number};
use super::{OpenStore, Store, StoreError};

/// Numbered rows, in the order in which they are to be posted.
pub struct Spool {
    store: Arc<Store>,
}

impl Spool {
    pub fn new(store: Arc<Store>) -> Self {
        Spool { store }
    }

    /// The numbers of the rows that an earlier process has left, and their bytes. Waits for it to
    /// end.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn left(&self) -> Result<(Range<u64>, u64), StoreError> {
        self.store.with(|open| {
            let (mut numbers, mut bytes) = (0..0, 0);
            for row in open.engine.prefix(&EVENTS) {
                let (key, event) = row?;
                let Some(number) = event_number(&key) else { continue };
                let first = if numbers.is_empty() { number } else { numbers.start };
                (numbers, bytes) = (first..number + 1, bytes + event.len() as u64);
            }
            Ok((numbers, bytes))
        })
    }

    /// Writes events with the numbers from `first` on, and returns when they are on disk.
    ///
    /// # Errors
    /// The store takes no writes.
    pub fn append(&self, first: u64, events: &[Vec<u8>]) -> Result<(), StoreError> {
        self.store.check_space()?;
        self.write(|open| {
            let mut batch = open.engine.batch();
            for (number, event) in (first..).zip(events) {
                batch.insert(&event_key(number), event);
            }
            batch.commit_durably()
        })?;
        self.store.note_success();
        Ok(())
    }

    /// Events with these numbers, as many as there are bytes for, but at least one. Returns them
    /// and the number after the last one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(
        &self,
        numbers: &Range<u64>,
        bytes_max: usize,
    ) -> Result<(Vec<Vec<u8>>, u64), StoreError> {
        self.store.with(|open| {
            let (mut events, mut bytes) = (Vec::new(), 0);
            let last = numbers.end.saturating_sub(1);
            for row in open.engine.range(&event_key(numbers.start), &event_key(last)) {
                let (key, event) = row?;
                bytes += event.len();
                if bytes > bytes_max && !events.is_empty() {
                    return Ok((events, event_number(&key).unwrap_or(numbers.start)));
                }
                events.push(event.to_vec());
            }
            Ok((events, numbers.end))
        })
    }

    /// Removes the events with these numbers.
    ///
    /// # Errors
    /// The store takes no writes.
    pub fn remove(&self, numbers: Range<u64>) -> Result<(), StoreError> {
        self.write(|open| {
            let mut batch = open.engine.batch();
            numbers.for_each(|number| batch.remove(&event_key(number)));
            batch.commit()
        })
    }

    /// An engine that has failed is opened again later; one that is not open now stays so.
    fn write(
        &self,
        act: impl FnOnce(&OpenStore) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut was_open = false;
        let written = self.store.with(|open| {
            was_open = true;
            act(open)
        });
        match &written {
            Err(error) if was_open => self.store.give_up(error),
            _ => {}
        }
        written
    }
}
