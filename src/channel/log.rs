//! Stored messages of a channel in serial order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Clocks, Timestamp};
use crate::policy::Policy;

/// A published message, as stored, replayed and delivered.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Position in the channel, without holes while the server runs; 0 for messages that are not
    /// stored.
    pub serial: u64,
    /// When the owner accepted it, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Message id chosen by the publisher, the same on every repetition.
    pub id: Box<str>,
    pub client_id: Arc<str>,
    pub content: Content,
}

/// Content of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    One(Part),
    /// A batch: one serial, delivered atomically.
    Batch(Vec<Part>),
}

/// A named payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub name: Box<str>,
    /// JSON text as received from the publisher; empty if there is none.
    pub data: Bytes,
    /// How the publisher encoded `data`; empty if it did not.
    pub encoding: Box<str>,
}

impl Content {
    pub fn parts(&self) -> &[Part] {
        match self {
            Content::One(part) => std::slice::from_ref(part),
            Content::Batch(parts) => parts,
        }
    }
}

impl Message {
    /// Approximate memory, in bytes. Also an upper bound of its size on the wire, without the
    /// channel name.
    pub fn bytes(&self) -> usize {
        let part = |part: &Part| {
            size_of::<Part>() + part.name.len() + part.data.len() + part.encoding.len()
        };
        let names = self.id.len() + self.client_id.len();
        size_of::<Message>() + names + self.content.parts().iter().map(part).sum::<usize>()
    }
}

/// A position in a channel, as named by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    Serial(u64),
    /// The message with this id.
    MessageId(Box<str>),
}

/// Limits of one page. A page always has at least one message if `messages` allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    pub messages: usize,
    pub bytes: usize,
}

impl PageLimit {
    /// PageLimit for everything.
    pub const UNLIMITED: PageLimit = PageLimit { messages: usize::MAX, bytes: usize::MAX };

    /// Whether a page with so many messages takes another one; `left`: bytes that it has room for.
    pub(crate) fn takes(self, messages: usize, bytes: usize, left: usize) -> bool {
        messages < self.messages && (messages == 0 || bytes <= left)
    }

    /// How many of the first messages are within the limit.
    pub fn count<'m>(self, messages: impl Iterator<Item = &'m Message>) -> usize {
        let mut left = self.bytes;
        let fits = |(at, message): &(usize, &Message)| {
            let bytes = message.bytes();
            let fits = self.takes(*at, bytes, left);
            left = left.saturating_sub(bytes);
            fits
        };
        messages.enumerate().take_while(fits).count()
    }
}

/// One page of history.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
    /// More messages exist in the requested direction.
    pub more: bool,
}

/// The newest messages, in memory. Bounded by the count, age and bytes of the policy. Clients that
/// resume from an evicted position are notified of the gap.
#[derive(Debug, Default)]
pub(super) struct Log {
    messages: VecDeque<Arc<Message>>,
    /// When each was appended, on the monotonic clock.
    appended: VecDeque<Timestamp>,
    head: u64,
    bytes: u64,
}

impl Log {
    /// An empty log whose first message follows `head`.
    pub(super) fn starting_after(head: u64) -> Self {
        Log { head, ..Log::default() }
    }

    /// The serial of the oldest stored message; that of the next message if there is none.
    fn first(&self) -> u64 {
        self.head + 1 - self.messages.len() as u64
    }

    fn is_over(&self, now: Clocks, policy: &Policy) -> bool {
        let Some(oldest) = self.appended.front() else { return false };
        let age_ms = now.mono_ms.saturating_sub(oldest.ms());
        self.messages.len() > policy.stored_messages_max()
            || (self.bytes > policy.history_bytes && self.messages.len() > 1)
            || age_ms > policy.history_age_s.saturating_mul(1000)
    }

    /// The serial of the newest message ever appended; 0 before the first.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Stores a message. Its serial must be the head plus one.
    pub(super) fn append(&mut self, now: Clocks, message: Arc<Message>) {
        let next = self.head + 1;
        assert_eq!(message.serial, next, "serials are dense");
        self.head = next;
        self.bytes += message.bytes() as u64;
        self.messages.push_back(message);
        self.appended.push_back(Timestamp::at(now.mono_ms));
    }

    /// The serial of the newest message that is no longer stored; 0 if all are.
    pub(super) fn last_evicted(&self) -> u64 {
        self.first() - 1
    }

    /// The messages right after `serial`, up to `limit`; `None` when some are no longer stored, or
    /// the serial is from another epoch.
    pub(super) fn after(&self, serial: u64, limit: PageLimit) -> Option<Page> {
        if serial > self.head || serial + 1 < self.first() {
            return None;
        }
        let skip = (serial + 1 - self.first()) as usize;
        let count = limit.count(self.messages.range(skip..).map(Arc::as_ref));
        let messages = self.messages.range(skip..skip + count).cloned().collect();
        Some(Page { messages, more: skip + count < self.messages.len() })
    }

    /// At most `limit` messages before `serial`, the newest ones; 0 starts at the head.
    pub(super) fn before(&self, serial: u64, limit: usize) -> Page {
        let end = match serial {
            0 => self.messages.len(),
            _ => serial.saturating_sub(self.first()).min(self.messages.len() as u64) as usize,
        };
        let start = end.saturating_sub(limit);
        Page { messages: self.messages.range(start..end).cloned().collect(), more: start > 0 }
    }

    /// The serial of the newest stored message with this id.
    pub(super) fn find(&self, message_id: &str) -> Option<u64> {
        let found = self.messages.iter().rev().find(|message| &*message.id == message_id);
        found.map(|message| message.serial)
    }

    /// Evicts the messages that `policy` no longer retains.
    pub(super) fn expire(&mut self, now: Clocks, policy: &Policy) {
        while self.is_over(now, policy) {
            self.evict_oldest();
        }
    }

    /// Evicts the oldest message; false if there is none.
    pub(super) fn evict_oldest(&mut self) -> bool {
        let Some(oldest) = self.messages.pop_front() else { return false };
        self.appended.pop_front();
        self.bytes -= oldest.bytes() as u64;
        true
    }

    /// Approximate memory of the stored messages, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Clocks {
        Clocks { mono_ms: ms, wall_ms: ms }
    }

    fn log(count: u64, policy: &Policy) -> Log {
        let mut log = Log::default();
        for serial in 1..=count {
            let part = Part {
                name: "n".into(),
                data: Bytes::from(serial.to_string()),
                encoding: "".into(),
            };
            let message = Message {
                serial,
                timestamp_ms: serial * 1000,
                id: format!("m{serial}").into(),
                client_id: "c".into(),
                content: Content::One(part),
            };
            log.append(at(serial * 1000), Arc::new(message));
            log.expire(at(serial * 1000), policy);
        }
        log
    }

    fn serials(messages: &[Arc<Message>]) -> Vec<u64> {
        messages.iter().map(|message| message.serial).collect()
    }

    #[test]
    fn a_cursor_is_valid_from_one_before_the_oldest_to_the_head() {
        let policy = Policy { history_messages: 3, ..Policy::default() };
        let log = log(10, &policy);
        let cases = [(6, None), (11, None), (10, Some(Page::default()))];
        for (cursor, expected) in cases {
            assert_eq!(log.after(cursor, PageLimit::UNLIMITED), expected, "{cursor}");
        }
        let Some(page) = log.after(7, PageLimit::UNLIMITED) else { panic!("7 is good") };
        assert_eq!(serials(&page.messages), [8, 9, 10]);
        assert_eq!(log.head(), 10);
    }

    #[test]
    fn an_empty_log_knows_its_head() {
        let policy = Policy { history_messages: 0, ..Policy::default() };
        let log = log(4, &policy);
        let nothing = Some(Page::default());
        assert_eq!(log.after(4, PageLimit::UNLIMITED), nothing);
        assert_eq!(log.after(3, PageLimit::UNLIMITED), None);
        assert_eq!(Log::default().after(0, PageLimit::UNLIMITED), nothing);
    }

    #[test]
    fn pages_go_back_without_gap_or_overlap() {
        let log = log(10, &Policy::default());
        let newest = log.before(0, 4);
        assert_eq!((serials(&newest.messages), newest.more), (vec![7, 8, 9, 10], true));
        let older = log.before(7, 4);
        assert_eq!((serials(&older.messages), older.more), (vec![3, 4, 5, 6], true));
        let oldest = log.before(3, 4);
        assert_eq!((serials(&oldest.messages), oldest.more), (vec![1, 2], false));
        assert_eq!(log.before(1, 4), Page { messages: Vec::new(), more: false });
        assert_eq!(log.before(u64::MAX, 1).messages[0].serial, 10);
    }

    #[test]
    fn setting_the_wall_clock_does_not_age_messages() {
        let policy = Policy { history_age_s: 60, ..Policy::default() };
        let mut log = log(10, &policy);
        log.expire(Clocks { mono_ms: 11_000, wall_ms: 1_000_000_000 }, &policy);
        assert_eq!(log.before(0, 100).messages.len(), 10);
        log.expire(Clocks { mono_ms: 66_000, wall_ms: 0 }, &policy);
        assert_eq!(serials(&log.before(0, 100).messages), [6, 7, 8, 9, 10]);
    }

    #[test]
    fn age_and_bytes_bound_the_log() {
        let by_age = log(10, &Policy { history_age_s: 2, ..Policy::default() });
        assert_eq!(serials(&by_age.before(0, 100).messages), [8, 9, 10]);
        let one = log(1, &Policy::default()).bytes;
        let by_bytes = log(9, &Policy { history_bytes: 2 * one, ..Policy::default() });
        assert_eq!(serials(&by_bytes.before(0, 100).messages), [8, 9]);
    }
}
