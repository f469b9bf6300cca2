//! Messages of a channel: numbered, stored and deduplicated.

use std::sync::Arc;

use super::dedup::DedupWindow;
use super::log::{Content, Log, Message, Page, PageLimit, Position};
use crate::ids::Clocks;
use crate::policy::Policy;

/// How long a repeated publish is recognized, milliseconds. Clients back off for up to 30 s between
/// attempts (`protocols/foony.md` section 5.3), and outages last longer.
pub(crate) const DEDUP_WINDOW_MS: u64 = 10 * 60 * 1000;

/// Publishes remembered per channel. Above it the oldest are evicted, and a repetition of an
/// evicted publish is published again.
pub(crate) const DEDUP_PUBLISHES_MAX: usize = 16 * 1024;

/// A message that has no serial yet.
#[derive(Debug)]
pub struct Draft {
    /// Message id chosen by the publisher; empty if it has none.
    pub id: Box<str>,
    pub client_id: Arc<str>,
    pub content: Content,
    pub storage: Storage,
}

/// Whether a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    Stored,
    /// Delivered to the current subscribers only; has no serial.
    Ephemeral,
}

/// The result of a publish.
#[derive(Debug, PartialEq, Eq)]
pub enum Published {
    /// To be delivered, and acknowledged with its serial.
    New(Arc<Message>),
    /// Published before; only to be acknowledged.
    Duplicate { serial: u64 },
}

/// What is on disk of a channel, as far as its owner needs it in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StoredLog {
    /// The serial of the newest message ever stored.
    pub head: u64,
    /// The newest messages that the policy retains, oldest first, up to the head.
    pub messages: Vec<Arc<Message>>,
    /// The publishes that are to be recognized when they are repeated, oldest first.
    pub publishes: Vec<StoredPublish>,
}

/// A publish of the deduplication window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPublish {
    pub serial: u64,
    /// When the owner accepted it, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    pub client_id: Arc<str>,
    pub message_id: Box<str>,
}

/// The messages of one channel. Only its owner changes them.
#[derive(Debug)]
pub struct Messages {
    log: Log,
    window: DedupWindow,
}

impl Default for Messages {
    fn default() -> Self {
        Messages::starting_after(0)
    }
}

impl Messages {
    /// An empty log; the first message follows `head`.
    pub(crate) fn starting_after(head: u64) -> Self {
        let window = DedupWindow::new(DEDUP_WINDOW_MS, DEDUP_PUBLISHES_MAX);
        Messages { log: Log::starting_after(head), window }
    }

    /// The messages of a channel whose log is on disk.
    pub(crate) fn restore(now: Clocks, stored: StoredLog) -> Self {
        let StoredLog { head, messages, publishes } = stored;
        let mut restored = Messages::starting_after(head - messages.len() as u64);
        for message in messages {
            restored.log.append(now.at_wall(message.timestamp_ms), message);
        }
        for publish in publishes {
            let StoredPublish { serial, timestamp_ms, client_id, message_id } = publish;
            let then = now.at_wall(timestamp_ms);
            restored.window.find_or_insert(then, &client_id, &message_id, serial);
        }
        restored.window.expire(now);
        restored
    }

    /// Approximate memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.log.bytes() + self.window.bytes()
    }

    /// Evicts expired messages and publishes. True if only the head remains.
    pub fn expire(&mut self, now: Clocks, policy: &Policy) -> bool {
        self.log.expire(now, policy);
        self.window.expire(now);
        self.bytes() == 0
    }

    /// Evicts the oldest message, or the oldest remembered publish if no message is stored.
    pub(crate) fn evict_oldest(&mut self) -> bool {
        self.log.evict_oldest() || self.window.evict_oldest()
    }

    /// Numbers and stores a message, unless it is a repetition.
    pub fn publish(&mut self, now: Clocks, draft: Draft, policy: &Policy) -> Published {
        let published = self.admit(now, draft, self.log.head() + 1);
        if let Published::New(message) = &published
            && message.serial != 0
        {
            self.append(now, Arc::clone(message), policy);
        }
        published
    }

    /// Numbers a message with `next`, unless it is ephemeral, or a repetition. It is not stored:
    /// readers do not see it before [`Messages::append`].
    pub(crate) fn admit(&mut self, now: Clocks, draft: Draft, next: u64) -> Published {
        if draft.storage == Storage::Ephemeral {
            return Published::New(Arc::new(number(now, draft, 0)));
        }
        let earlier = self.window.find_or_insert(now, &draft.client_id, &draft.id, next);
        match earlier {
            Some(serial) => Published::Duplicate { serial },
            None => Published::New(Arc::new(number(now, draft, next))),
        }
    }

    /// Stores a message. Its serial must be the head plus one.
    pub(crate) fn append(&mut self, now: Clocks, message: Arc<Message>, policy: &Policy) {
        self.log.append(now, message);
        self.log.expire(now, policy);
    }

    /// Whether there are publishes to be recognized when they are repeated.
    pub(crate) fn has_publishes(&self) -> bool {
        self.window.bytes() > 0
    }

    /// The serial of the newest message that is no longer in memory; 0 if all are.
    pub(crate) fn last_evicted(&self) -> u64 {
        self.log.last_evicted()
    }

    /// The serial of the newest stored message; 0 before the first.
    pub fn head(&self) -> u64 {
        self.log.head()
    }

    /// The messages that a subscriber at `position` has missed, up to `limit`; `None` when some are
    /// no longer stored, or the position is from another epoch.
    pub fn after(
        &mut self,
        now: Clocks,
        position: &Position,
        limit: PageLimit,
        policy: &Policy,
    ) -> Option<Page> {
        self.log.expire(now, policy);
        self.log.after(self.serial_of(position)?, limit)
    }

    /// The newest messages before `position`, or of all, up to `limit`.
    pub fn before(
        &mut self,
        now: Clocks,
        position: Option<&Position>,
        limit: PageLimit,
        policy: &Policy,
    ) -> Page {
        self.log.expire(now, policy);
        let serial = match position.map(|position| self.serial_of(position)) {
            None => 0,
            Some(Some(serial @ 1..)) => serial,
            Some(_) => return Page::default(),
        };
        let mut page = self.log.before(serial, limit.messages);
        let newest_first = page.messages.iter().rev();
        let count = limit.count(newest_first.map(Arc::as_ref));
        page.more |= count < page.messages.len();
        page.messages.drain(..page.messages.len() - count);
        page
    }

    /// The oldest stored messages after `serial`, up to `limit`.
    pub(crate) fn following(
        &mut self,
        now: Clocks,
        serial: u64,
        limit: PageLimit,
        policy: &Policy,
    ) -> Page {
        self.log.expire(now, policy);
        let serial = serial.max(self.log.last_evicted());
        self.log.after(serial, limit).unwrap_or_default()
    }

    fn serial_of(&self, position: &Position) -> Option<u64> {
        match position {
            Position::Serial(serial) => Some(*serial),
            Position::MessageId(id) => self.log.find(id),
        }
    }
}

fn number(now: Clocks, draft: Draft, serial: u64) -> Message {
    Message {
        serial,
        timestamp_ms: now.wall_ms,
        id: draft.id,
        client_id: draft.client_id,
        content: draft.content,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::channel::log::Part;

    fn at(ms: u64) -> Clocks {
        Clocks { mono_ms: ms, wall_ms: ms }
    }

    fn draft(client: &str, id: &str, storage: Storage) -> Draft {
        let part = Part { name: "n".into(), data: Bytes::from_static(b"1"), encoding: "".into() };
        Draft { id: id.into(), client_id: client.into(), content: Content::One(part), storage }
    }

    fn serial(published: Published) -> u64 {
        match published {
            Published::New(message) => message.serial,
            Published::Duplicate { serial } => panic!("duplicate of {serial}"),
        }
    }

    #[test]
    fn serials_are_dense_from_one_and_ephemeral_messages_take_none() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        let mut publish = |id: &str, storage| {
            serial(messages.publish(at(0), draft("alice", id, storage), &policy))
        };
        assert_eq!(publish("a", Storage::Stored), 1);
        assert_eq!(publish("b", Storage::Ephemeral), 0);
        assert_eq!(publish("b", Storage::Stored), 2);
        assert_eq!(publish("", Storage::Stored), 3);
        assert_eq!(publish("", Storage::Stored), 4);
    }

    #[test]
    fn a_repetition_is_acknowledged_and_not_published() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        let mut publish =
            |client: &str| messages.publish(at(0), draft(client, "m", Storage::Stored), &policy);
        assert_eq!(serial(publish("alice")), 1);
        assert_eq!(publish("alice"), Published::Duplicate { serial: 1 });
        assert_eq!(serial(publish("bob")), 2);
        assert_eq!(messages.head(), 2);
    }

    #[test]
    fn expired_messages_are_not_replayed() {
        let policy = Policy { history_age_s: 10, ..Policy::default() };
        let mut messages = Messages::default();
        messages.publish(at(0), draft("alice", "a", Storage::Stored), &policy);
        let fresh = Position::Serial(0);
        let in_time = messages.after(at(10_000), &fresh, PageLimit::UNLIMITED, &policy);
        assert!(matches!(in_time, Some(all) if all.messages.len() == 1));
        assert_eq!(messages.after(at(10_001), &fresh, PageLimit::UNLIMITED, &policy), None);
        let limit = PageLimit { messages: 10, bytes: 1000 };
        assert_eq!(messages.before(at(10_001), None, limit, &policy).messages.len(), 0);
    }

    #[test]
    fn a_position_is_a_serial_or_a_message_id() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        for id in ["a", "b", "c"] {
            messages.publish(at(0), draft("alice", id, Storage::Stored), &policy);
        }
        let id = |id: &str| Position::MessageId(id.into());
        let after = messages.after(at(0), &id("a"), PageLimit::UNLIMITED, &policy);
        let Some(after) = after else { panic!() };
        assert_eq!(after.messages.iter().map(|m| m.serial).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(messages.after(at(0), &id("z"), PageLimit::UNLIMITED, &policy), None);
        let limit = PageLimit { messages: 10, bytes: 1 << 20 };
        let serials = |page: Page| page.messages.iter().map(|m| m.serial).collect::<Vec<_>>();
        assert_eq!(serials(messages.before(at(0), Some(&id("c")), limit, &policy)), [1, 2]);
        assert_eq!(serials(messages.before(at(0), Some(&id("z")), limit, &policy)), [0; 0]);
    }

    #[test]
    fn pages_respect_their_limit_and_report_more() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        let mut bytes = 0;
        for id in ["a", "b", "c", "d"] {
            let published = messages.publish(at(0), draft("alice", id, Storage::Stored), &policy);
            let Published::New(message) = published else { panic!("new") };
            bytes = message.bytes();
        }
        let serials = |page: &Page| page.messages.iter().map(|m| m.serial).collect::<Vec<_>>();
        for (count, budget, newest, oldest, more) in [
            (10, 4 * bytes, &[1, 2, 3, 4][..], &[1, 2, 3, 4][..], false),
            (10, 2 * bytes, &[3, 4], &[1, 2], true),
            (3, 4 * bytes, &[2, 3, 4], &[1, 2, 3], true),
            (10, 1, &[4], &[1], true),
            (0, 1, &[], &[], true),
        ] {
            let limit = PageLimit { messages: count, bytes: budget };
            let before = messages.before(at(0), None, limit, &policy);
            assert_eq!((serials(&before), before.more), (newest.to_vec(), more), "{limit:?}");
            let following = messages.following(at(0), 0, limit, &policy);
            assert_eq!((serials(&following), following.more), (oldest.to_vec(), more), "{limit:?}");
        }
        let limit = PageLimit { messages: 10, bytes: 1000 };
        assert!(messages.following(at(0), 9, limit, &policy).messages.is_empty());
    }
}
