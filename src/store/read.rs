//! Reads the log of one channel.

use std::sync::Arc;

use fjall::{UserKey, UserValue};

use super::format::{self, ChannelRows, Head};
use super::retention::Retained;
use super::{OpenStore, StoreError};
use crate::channel::{Message, Page, PageLimit, Position, StoredLog, StoredPublish};
use crate::error::FrameError;
use crate::policy::Policy;
use crate::shard::StoreRange;

/// Messages that an owner gets with the end of a log, bytes; the rest is read when it is asked for.
const TAIL_BYTES: usize = 256 * 1024;

/// The log of a channel as a policy retains it now.
pub struct Log<'s> {
    store: &'s OpenStore,
    rows: &'s ChannelRows,
    pub head: Head,
    retained: Retained,
}

impl<'s> Log<'s> {
    /// `head_max`: what is behind it is not shown.
    ///
    /// # Errors
    /// The log is damaged, or cannot be read.
    pub fn new(
        store: &'s OpenStore,
        rows: &'s ChannelRows,
        policy: &Policy,
        now_ms: u64,
        head_max: u64,
    ) -> Result<Self, StoreError> {
        let head = store.engine.head(rows)?;
        let mut head = head.unwrap_or_else(|| Head::starting_after(store.floor));
        head.head = head.head.min(head_max.max(head.first - 1));
        let retained = Retained::new(policy, head.head, now_ms);
        Ok(Log { store, rows, head, retained })
    }

    /// The end of the log, its newest messages, and the publishes to be recognized.
    ///
    /// # Errors
    /// As above.
    pub fn open(&self, policy: &Policy) -> Result<StoredLog, StoreError> {
        let mut left = (policy.history_bytes as usize).min(TAIL_BYTES);
        let limit = PageLimit { messages: usize::MAX, bytes: left };
        let mut stored = StoredLog { head: self.head.head, ..StoredLog::default() };
        let mut takes_messages = true;
        for row in self.newest_first(self.head.head) {
            let (serial, row) = row?;
            let publish = self.decode(serial, &row, format::decode_publish)?;
            let at_ms = publish.timestamp_ms;
            takes_messages &= self.retained.is_readable(serial, at_ms);
            let is_recognized = self.retained.is_recognized(serial, at_ms);
            if is_recognized {
                stored.publishes.push(StoredPublish {
                    serial,
                    timestamp_ms: at_ms,
                    client_id: publish.client_id.into(),
                    message_id: publish.message_id.into(),
                });
            }
            if takes_messages {
                let message = self.message(serial, &row)?;
                let bytes = message.bytes();
                takes_messages = limit.takes(stored.messages.len(), bytes, left);
                left = left.saturating_sub(bytes);
                if takes_messages {
                    stored.messages.push(Arc::new(message));
                }
            }
            if !takes_messages && !is_recognized {
                break;
            }
        }
        stored.messages.reverse();
        stored.publishes.reverse();
        Ok(stored)
    }

    /// `None` when some of the messages are no longer stored.
    ///
    /// # Errors
    /// As above.
    pub fn page(&self, range: &StoreRange, limit: PageLimit) -> Result<Option<Page>, StoreError> {
        match range {
            StoreRange::Before(None) => self.before(self.head.head + 1, limit).map(Some),
            StoreRange::Before(Some(position)) => match self.serial_of(position)? {
                Some(serial) => self.before(serial, limit).map(Some),
                None => Ok(Some(Page::default())),
            },
            StoreRange::After(position) => match self.serial_of(position)? {
                Some(serial) => self.after(serial, limit),
                None => Ok(None),
            },
            StoreRange::Following(serial) => self.following(*serial, limit).map(Some),
        }
    }

    fn before(&self, serial: u64, limit: PageLimit) -> Result<Page, StoreError> {
        let newest = serial.saturating_sub(1).min(self.head.head);
        let mut page = self.fill(self.newest_first(newest), limit)?;
        page.messages.reverse();
        Ok(page)
    }

    fn after(&self, serial: u64, limit: PageLimit) -> Result<Option<Page>, StoreError> {
        if serial > self.head.head || serial + 1 < self.first() {
            return Ok(None);
        }
        let page = self.fill(self.oldest_first(serial + 1), limit)?;
        // Without messages they are too old.
        let is_there = !page.messages.is_empty() || serial == self.head.head;
        Ok(is_there.then_some(page))
    }

    fn following(&self, serial: u64, limit: PageLimit) -> Result<Page, StoreError> {
        let first = self.first().max(serial.saturating_add(1));
        for row in self.oldest_first(first) {
            let (serial, row) = row?;
            let publish = self.decode(serial, &row, format::decode_publish)?;
            if self.retained.is_readable(serial, publish.timestamp_ms) {
                return self.fill(self.oldest_first(serial), limit);
            }
        }
        Ok(Page::default())
    }

    fn serial_of(&self, position: &Position) -> Result<Option<u64>, StoreError> {
        let id = match position {
            Position::Serial(serial) => return Ok(Some(*serial)),
            Position::MessageId(id) => id,
        };
        for row in self.newest_first(self.head.head) {
            let (serial, row) = row?;
            if self.decode(serial, &row, format::decode_publish)?.message_id == &**id {
                return Ok(Some(serial));
            }
        }
        Ok(None)
    }

    /// Takes messages up to a limit, and to the first that is too old.
    fn fill(
        &self,
        rows: impl Iterator<Item = Result<(u64, UserValue), StoreError>>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        let (mut page, mut left) = (Page::default(), limit.bytes);
        for row in rows {
            let (serial, row) = row?;
            let message = self.message(serial, &row)?;
            if !self.retained.is_readable(serial, message.timestamp_ms) {
                break;
            }
            let bytes = message.bytes();
            if !limit.takes(page.messages.len(), bytes, left) {
                page.more = true;
                break;
            }
            left = left.saturating_sub(bytes);
            page.messages.push(Arc::new(message));
        }
        Ok(page)
    }

    /// The oldest serial that is stored and not too old by count.
    fn first(&self) -> u64 {
        self.head.first.max(self.retained.first)
    }

    fn oldest_first(
        &self,
        first: u64,
    ) -> impl Iterator<Item = Result<(u64, UserValue), StoreError>> + use<'_> {
        let (from, to) = (self.rows.message_key(first), self.rows.message_key(self.head.head));
        let rows = (first <= self.head.head).then(|| self.store.engine.range(&from, &to));
        rows.into_iter().flatten().zip(first..).map(|(row, serial)| self.numbered(serial, row))
    }

    fn newest_first(
        &self,
        newest: u64,
    ) -> impl Iterator<Item = Result<(u64, UserValue), StoreError>> + use<'_> {
        let first = self.head.first;
        let (from, to) = (self.rows.message_key(first), self.rows.message_key(newest));
        let rows = (first <= newest).then(|| self.store.engine.range(&from, &to).rev());
        let serials = (first..=newest).rev();
        rows.into_iter().flatten().zip(serials).map(|(row, serial)| self.numbered(serial, row))
    }

    /// The row with this serial: there are no holes.
    fn numbered(
        &self,
        serial: u64,
        row: Result<(UserKey, UserValue), StoreError>,
    ) -> Result<(u64, UserValue), StoreError> {
        let (key, row) = row?;
        match format::serial_of(&key) {
            Some(found) if found == serial => Ok((serial, row)),
            _ => Err(StoreError::message(self.rows, serial, "it is missing")),
        }
    }

    fn message(&self, serial: u64, row: &[u8]) -> Result<Message, StoreError> {
        self.decode(serial, row, |row| format::decode_message(serial, row))
    }

    fn decode<'r, T>(
        &self,
        serial: u64,
        row: &'r [u8],
        decode: impl FnOnce(&'r [u8]) -> Result<T, FrameError>,
    ) -> Result<T, StoreError> {
        decode(row).map_err(|error| StoreError::message(self.rows, serial, error))
    }
}
