//! What is published in a channel: numbered, stored, and the same however often it is sent.

use std::sync::Arc;

use super::log::{Content, Log, MemoryLog, Message, Page, Position, Replay, Room};
use super::window::PublishWindow;
use crate::ids::Now;
use crate::policy::Policy;

/// How long a publish may be sent again without being published twice, milliseconds. Clients back
/// off for up to 30 s between attempts (`protocols/foony.md` section 5.3), and outages last longer.
const RESEND_WINDOW_MS: u64 = 10 * 60 * 1000;

/// Publishes remembered per channel. Past it the oldest are forgotten, and a resend of one of those
/// is published twice.
const RESENDS_MAX: usize = 16 * 1024;

/// A message as its publisher sent it.
#[derive(Debug)]
pub struct Draft {
    /// The publisher's own id for it; empty when it has none.
    pub id: Box<str>,
    pub client_id: Arc<str>,
    pub content: Content,
    pub keeping: Keeping,
}

/// Is a message stored?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    Stored,
    /// Delivered to whoever listens now; has no serial.
    Ephemeral,
}

/// What became of a publish.
#[derive(Debug, PartialEq, Eq)]
pub enum Published {
    /// To be delivered and acknowledged with its serial.
    Fresh(Arc<Message>),
    /// It was published before; only the acknowledgement is due.
    Resent { serial: u64 },
}

/// The messages of one channel. Only its owner changes them.
#[derive(Debug)]
pub struct Messages {
    log: MemoryLog,
    window: PublishWindow,
}

impl Default for Messages {
    fn default() -> Self {
        Messages::starting_after(0)
    }
}

impl Messages {
    /// No messages; the first one's serial follows `head`.
    pub fn starting_after(head: u64) -> Self {
        let window = PublishWindow::new(RESEND_WINDOW_MS, RESENDS_MAX);
        Messages { log: MemoryLog::starting_after(head), window }
    }

    /// Memory that is taken, in bytes, about.
    pub fn bytes(&self) -> u64 {
        self.log.bytes() + self.window.bytes()
    }

    /// Forgets what is too old. True when only the head is left to remember.
    pub fn expire(&mut self, now: Now, policy: &Policy) -> bool {
        self.log.expire(now, policy);
        self.window.expire(now);
        self.bytes() == 0
    }

    /// Forgets the oldest message, or a publish that may be sent again when none is kept.
    pub fn forget_oldest(&mut self) -> bool {
        self.log.forget_oldest() || self.window.forget_oldest()
    }

    /// Numbers and stores a message, unless it was published before.
    pub fn publish(&mut self, now: Now, draft: Draft, policy: &Policy) -> Published {
        if draft.keeping == Keeping::Ephemeral {
            return Published::Fresh(Arc::new(number(now, draft, 0)));
        }
        let next = self.log.head() + 1;
        let earlier = self.window.find_or_insert(now, &draft.client_id, &draft.id, next);
        if let Some(serial) = earlier {
            return Published::Resent { serial };
        }
        let message = Arc::new(number(now, draft, next));
        self.log.append(now, Arc::clone(&message));
        self.log.expire(now, policy);
        Published::Fresh(message)
    }

    /// The serial of the newest stored message; 0 before the first.
    pub fn head(&self) -> u64 {
        self.log.head()
    }

    /// What a subscriber whose last message was at `position` has missed, as much as `room` has.
    pub fn after(&mut self, now: Now, position: &Position, room: Room, policy: &Policy) -> Replay {
        self.log.expire(now, policy);
        self.serial_of(position).map_or(Replay::AgedOut, |serial| self.log.after(serial, room))
    }

    /// The newest messages before `position`, or of all; as many as `room` has.
    pub fn before(
        &mut self,
        now: Now,
        position: Option<&Position>,
        room: Room,
        policy: &Policy,
    ) -> Page {
        self.log.expire(now, policy);
        let serial = match position.map(|position| self.serial_of(position)) {
            None => 0,
            Some(Some(serial @ 1..)) => serial,
            Some(_) => return Page::default(),
        };
        let mut page = self.log.before(serial, room.messages);
        let newest_first = page.messages.iter().rev();
        let count = room.count(newest_first.map(Arc::as_ref));
        page.more |= count < page.messages.len();
        page.messages.drain(..page.messages.len() - count);
        page
    }

    /// The oldest kept messages after `serial`, as many as `room` has.
    pub fn following(&mut self, now: Now, serial: u64, room: Room, policy: &Policy) -> Page {
        self.log.expire(now, policy);
        match self.log.after(serial, room) {
            Replay::Complete(page) => page,
            Replay::AgedOut if serial > self.log.head() => Page::default(),
            Replay::AgedOut => match self.log.after(self.log.forgotten(), room) {
                Replay::Complete(page) => page,
                Replay::AgedOut => Page::default(),
            },
        }
    }

    fn serial_of(&self, position: &Position) -> Option<u64> {
        match position {
            Position::Serial(serial) => Some(*serial),
            Position::MessageId(id) => self.log.find(id),
        }
    }
}

fn number(now: Now, draft: Draft, serial: u64) -> Message {
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

    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, wall_ms: ms }
    }

    fn draft(client: &str, id: &str, keeping: Keeping) -> Draft {
        let part = Part { name: "n".into(), data: Bytes::from_static(b"1"), encoding: "".into() };
        Draft { id: id.into(), client_id: client.into(), content: Content::One(part), keeping }
    }

    fn serial(published: Published) -> u64 {
        match published {
            Published::Fresh(message) => message.serial,
            Published::Resent { serial } => panic!("resent {serial}"),
        }
    }

    #[test]
    fn serials_are_dense_from_one_and_ephemeral_messages_take_none() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        let mut publish = |id: &str, keeping| {
            serial(messages.publish(at(0), draft("alice", id, keeping), &policy))
        };
        assert_eq!(publish("a", Keeping::Stored), 1);
        assert_eq!(publish("b", Keeping::Ephemeral), 0);
        assert_eq!(publish("b", Keeping::Stored), 2);
        assert_eq!(publish("", Keeping::Stored), 3);
        assert_eq!(publish("", Keeping::Stored), 4);
    }

    #[test]
    fn a_resend_is_acknowledged_and_not_published() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        let mut publish =
            |client: &str| messages.publish(at(0), draft(client, "m", Keeping::Stored), &policy);
        assert_eq!(serial(publish("alice")), 1);
        assert_eq!(publish("alice"), Published::Resent { serial: 1 });
        assert_eq!(serial(publish("bob")), 2);
        assert_eq!(messages.head(), 2);
    }

    #[test]
    fn what_has_aged_out_is_not_replayed() {
        let policy = Policy { history_age_s: 10, ..Policy::default() };
        let mut messages = Messages::default();
        messages.publish(at(0), draft("alice", "a", Keeping::Stored), &policy);
        let fresh = Position::Serial(0);
        let in_time = messages.after(at(10_000), &fresh, Room::ANY, &policy);
        assert!(matches!(in_time, Replay::Complete(all) if all.messages.len() == 1));
        assert_eq!(messages.after(at(10_001), &fresh, Room::ANY, &policy), Replay::AgedOut);
        let room = Room { messages: 10, bytes: 1000 };
        assert_eq!(messages.before(at(10_001), None, room, &policy).messages.len(), 0);
    }

    #[test]
    fn a_place_is_named_by_serial_or_by_the_publishers_id() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        for id in ["a", "b", "c"] {
            messages.publish(at(0), draft("alice", id, Keeping::Stored), &policy);
        }
        let id = |id: &str| Position::MessageId(id.into());
        let after = messages.after(at(0), &id("a"), Room::ANY, &policy);
        let Replay::Complete(after) = after else { panic!() };
        assert_eq!(after.messages.iter().map(|m| m.serial).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(messages.after(at(0), &id("z"), Room::ANY, &policy), Replay::AgedOut);
        let room = Room { messages: 10, bytes: 1 << 20 };
        let serials = |page: Page| page.messages.iter().map(|m| m.serial).collect::<Vec<_>>();
        assert_eq!(serials(messages.before(at(0), Some(&id("c")), room, &policy)), [1, 2]);
        assert_eq!(serials(messages.before(at(0), Some(&id("z")), room, &policy)), [0; 0]);
    }

    #[test]
    fn pages_keep_within_their_room_and_say_that_there_is_more() {
        let policy = Policy::default();
        let mut messages = Messages::default();
        let mut bytes = 0;
        for id in ["a", "b", "c", "d"] {
            let published = messages.publish(at(0), draft("alice", id, Keeping::Stored), &policy);
            let Published::Fresh(message) = published else { panic!("fresh") };
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
            let room = Room { messages: count, bytes: budget };
            let before = messages.before(at(0), None, room, &policy);
            assert_eq!((serials(&before), before.more), (newest.to_vec(), more), "{room:?}");
            let following = messages.following(at(0), 0, room, &policy);
            assert_eq!((serials(&following), following.more), (oldest.to_vec(), more), "{room:?}");
        }
        let room = Room { messages: 10, bytes: 1000 };
        assert!(messages.following(at(0), 9, room, &policy).messages.is_empty());
    }
}
