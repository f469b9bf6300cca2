//! Events that wait to be posted to webhooks, on disk.

use std::ops::Range;
use std::sync::Arc;

use super::format::{EVENTS, event_key, event_number};
use super::{Store, StoreError};

/// Numbered rows, in the order in which they are to be posted.
pub struct Spool {
    store: Arc<Store>,
}

impl Spool {
    pub fn new(store: Arc<Store>) -> Self {
        Spool { store }
    }

    /// The numbers of the rows that an earlier process has left. Waits for it to end.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn left(&self) -> Result<Range<u64>, StoreError> {
        self.store.with(|open| {
            let mut rows = open.engine.range(&EVENTS, &[EVENTS[0] + 1]);
            let number = |row: Option<Result<_, StoreError>>| match row {
                Some(row) => row.map(|(key, _): (fjall::UserKey, _)| event_number(&key)),
                None => Ok(None),
            };
            let first = number(rows.next())?;
            let last = number(rows.next_back())?.or(first);
            Ok(first.zip(last).map_or(0..0, |(first, last)| first..last + 1))
        })
    }

    /// Writes events with the numbers from `first` on, and returns when they are on disk.
    ///
    /// # Errors
    /// The store takes no writes.
    pub fn append(&self, first: u64, events: &[Vec<u8>]) -> Result<(), StoreError> {
        self.write(|open| {
            self.store.check_space()?;
            let mut batch = open.engine.batch();
            for (number, event) in (first..).zip(events) {
                batch.insert(&event_key(number), event);
            }
            batch.commit_durably()
        })
    }

    /// The events with these numbers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(&self, numbers: &Range<u64>) -> Result<Vec<Vec<u8>>, StoreError> {
        let Range { start, end } = *numbers;
        if start >= end {
            return Ok(Vec::new());
        }
        self.store.with(|open| {
            let rows = open.engine.range(&event_key(start), &event_key(end - 1));
            rows.map(|row| Ok(row?.1.to_vec())).collect()
        })
    }

    /// Removes the events with these numbers.
    ///
    /// # Errors
    /// The store takes no writes. Their removal is repeated with that of later ones.
    pub fn remove(&self, numbers: Range<u64>) -> Result<(), StoreError> {
        self.write(|open| {
            let mut batch = open.engine.batch();
            numbers.for_each(|number| batch.remove(&event_key(number)));
            batch.commit()
        })
    }

    fn write(
        &self,
        act: impl FnOnce(&super::OpenStore) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let written = self.store.with(act);
        match &written {
            Ok(()) => self.store.note_success(),
            Err(error) => self.store.give_up(error),
        }
        written
    }
}
