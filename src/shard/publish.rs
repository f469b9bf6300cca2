//! The owner's half of a shard, as far as messages go: numbered, kept, routed, and sent again to
//! those who missed some.

use std::sync::Arc;

use super::Shard;
use super::envelope::{Asker, Command, Envelope, HomeChannelId, Left, MessageBatch, Replaying};
use super::outbox::Outbox;
use super::tables::{Interest, OwnedChannel};
use crate::channel::{self, Draft, Message, Page, PageLimit, Position, Replay};
use crate::counters::Dropped;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, Now, ShardId};
use crate::policy::Policy;
use crate::session::foony::encode;
use crate::session::{Answer, Feed};

/// Most that is sent at once to a subscriber, or a home, that catches up.
const CATCH_UP: PageLimit = PageLimit { messages: usize::MAX, bytes: 256 * 1024 };

/// What a new subscriber asks for.
#[derive(Clone, Copy)]
struct Attaching<'a> {
    asker: Asker,
    feed: Feed,
    after: Option<&'a Position>,
    replay: Replaying,
}

impl Shard {
    pub(super) fn handle_message_command(
        &mut self,
        now: Now,
        from: ShardId,
        key: &Arc<ChannelKey>,
        command: Command,
    ) {
        match command {
            Command::Publish { asker, draft } => self.own_publish(now, from, key, asker, *draft),
            Command::Attach { asker, feed, after, replay } => {
                let after = after.as_ref();
                self.own_attach(now, from, key, Attaching { asker, feed, after, replay });
            }
            Command::History { asker, before, room } => {
                let answer = self.own_history(now, key, before.as_ref(), room);
                self.send_answer(from, asker, key, answer);
            }
            Command::HistoryForward { asker, after, room } => {
                let answer = self.own_history_forward(now, key, after, room);
                self.send_answer(from, asker, key, answer);
            }
            Command::Fetch { asker, after, room } => {
                let answer = self.own_fetch(now, key, after, room);
                self.send_answer(from, asker, key, answer);
            }
            Command::CatchUp { home, conn, after } => {
                self.own_catch_up(now, key, ConnAddr { shard: from, conn }, home, after);
            }
            _ => {}
        }
    }

    fn own_publish(
        &mut self,
        now: Now,
        from: ShardId,
        key: &Arc<ChannelKey>,
        asker: Asker,
        draft: Draft,
    ) {
        let slot = match self.own_open(key) {
            Ok(slot) => slot,
            Err(reject) => return self.send_answer(from, asker, key, Answer::Refused(reject)),
        };
        let Some(owned) = self.owned.get_mut(slot) else { return };
        owned.published.get_or_insert_with(|| self.retention.reopen(key.hash));
        let outcome =
            self.with_messages(Some(slot), |messages, policy| messages.publish(now, draft, policy));
        let serial = match outcome {
            None => return,
            Some(channel::Published::Duplicate { serial }) => {
                self.counters.messages_resent += 1;
                serial
            }
            Some(channel::Published::New(message)) => {
                let serial = message.serial;
                self.retention.note_serial(serial);
                self.deliver_later(slot, message);
                serial
            }
        };
        self.send_answer(from, asker, key, Answer::Published { serial });
        self.begin_retention(now);
    }

    /// A message goes out with all others of this turn.
    fn deliver_later(&mut self, slot: u32, message: Arc<Message>) {
        self.counters.messages_published += 1;
        if let Some(published) = self.owned.get_mut(slot).and_then(|o| o.published.as_mut()) {
            published.pending.push(message);
        }
        self.mark_dirty(slot);
    }

    /// A subscriber begins: what it has missed, then the word from when on it is delivered to.
    fn own_attach(
        &mut self,
        now: Now,
        from: ShardId,
        key: &Arc<ChannelKey>,
        attach: Attaching<'_>,
    ) {
        let Some(slot) = self.interested(key, from, attach.feed) else {
            let refused = Answer::Refused(Reject::ServerFull);
            return self.send_answer(from, attach.asker, key, refused);
        };
        self.settle(now, slot, from);
        let replayed = attach
            .after
            .map(|position| self.messages_after(now, key, position, PageLimit::UNLIMITED));
        let (messages, resumed) = match replayed {
            None => (Vec::new(), None),
            Some(Replay::AgedOut) => (Vec::new(), Some(false)),
            Some(Replay::Complete(page)) => match attach.replay {
                Replaying::Wanted => (page.messages, Some(true)),
                Replaying::Needless => (Vec::new(), Some(true)),
            },
        };
        self.send_answer(from, attach.asker, key, Answer::Subscribed { messages, resumed });
    }

    fn own_history(
        &mut self,
        now: Now,
        key: &ChannelKey,
        before: Option<&Position>,
        room: PageLimit,
    ) -> Answer {
        let slot = self.owned.find_key(key);
        let page =
            self.with_messages(slot, |messages, policy| messages.before(now, before, room, policy));
        let Page { messages, more } = page.unwrap_or_default();
        Answer::History { messages, more }
    }

    fn own_history_forward(
        &mut self,
        now: Now,
        key: &ChannelKey,
        after: u64,
        room: PageLimit,
    ) -> Answer {
        let slot = self.owned.find_key(key);
        let page = self
            .with_messages(slot, |messages, policy| messages.following(now, after, room, policy));
        let Page { messages, more } = page.unwrap_or_default();
        Answer::History { messages, more }
    }

    fn own_fetch(&mut self, now: Now, key: &ChannelKey, after: u64, room: PageLimit) -> Answer {
        match self.messages_after(now, key, &Position::Serial(after), room) {
            Replay::AgedOut => Answer::Fetched { messages: Vec::new(), resumed: false },
            Replay::Complete(page) => Answer::Fetched { messages: page.messages, resumed: true },
        }
    }

    /// One subscriber could not take what was published after a serial; now it can.
    fn own_catch_up(
        &mut self,
        now: Now,
        key: &ChannelKey,
        to: ConnAddr,
        home: HomeChannelId,
        after: u64,
    ) {
        let mut missed = (Vec::new(), Left::Nothing);
        if let Some(slot) = self.owned.find_key(key) {
            self.settle(now, slot, to.shard);
            missed = self.take_missed(now, slot, after);
        }
        let (messages, left) = missed;
        let envelope = Envelope::CaughtUp { to: home, conn: to.conn, messages, left };
        self.outbox.send(to.shard, envelope);
    }

    /// Routes what was published since the last time, each interested shard once.
    pub(super) fn flush_messages(&mut self, now: Now, slot: u32) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let Some(published) = &mut owned.published else { return };
        let mut pending = std::mem::take(&mut published.pending);
        if !pending.is_empty() {
            self.route_messages(slot, &pending);
            pending.clear();
            if let Some(published) = self.owned.get_mut(slot).and_then(|o| o.published.as_mut()) {
                published.pending = pending;
            }
        }
        self.repay_missed_messages(now, slot);
    }

    pub(super) fn send_answer(
        &mut self,
        to: ShardId,
        asker: Asker,
        key: &Arc<ChannelKey>,
        answer: Answer,
    ) {
        let channel = Arc::clone(key);
        self.outbox.send(to, Envelope::Answer { to: asker, channel, answer });
    }

    /// The channel's entry, if a home has subscribers of a feed there.
    pub(super) fn interested(&self, key: &ChannelKey, shard: ShardId, feed: Feed) -> Option<u32> {
        let slot = self.owned.find_key(key)?;
        let is_interested = |i: &Interest| i.shard == shard && i.feeds.contains(feed);
        self.owned.get(slot)?.interest.iter().any(is_interested).then_some(slot)
    }

    fn route_messages(&mut self, slot: u32, messages: &[Arc<Message>]) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let batch = Arc::new(make_batch(owned, messages));
        for interest in owned.interest.iter_mut() {
            let feeds = interest.feeds.and(Feed::MESSAGES);
            if feeds.is_empty() {
                continue;
            }
            let envelope =
                Envelope::Messages { to: interest.home, feeds, batch: Arc::clone(&batch) };
            let behind = interest.missed_after();
            if behind.is_some() || self.outbox.try_send(interest.shard, envelope).is_err() {
                let missed = batch.first_serial.map(|first| first - 1);
                interest.set_missed_after(behind.or(missed));
                self.counters.drop_many(Dropped::MessageMailboxFull, batch.messages);
            }
        }
    }

    /// Sends homes what they missed while their mailboxes were full, in order, as far as there is
    /// room.
    fn repay_missed_messages(&mut self, now: Now, slot: u32) {
        let Some(owned) = self.owned.get(slot) else { return };
        let behind = owned.interest.iter().filter(|interest| interest.missed_after().is_some());
        let behind: Vec<Interest> = behind.cloned().collect();
        for interest in behind {
            let repaid = self.repay(now, slot, interest.shard, |outbox, to, envelope| {
                outbox.try_send(to, envelope).is_ok()
            });
            if !repaid {
                self.stale_channels.push(slot);
            }
        }
    }

    /// Sees to it that nothing which a home is owed can come after what it is sent next, however
    /// full its mailbox.
    fn settle(&mut self, now: Now, slot: u32, shard: ShardId) {
        self.flush_messages(now, slot);
        self.repay(now, slot, shard, |outbox, to, envelope| {
            outbox.send(to, envelope);
            true
        });
    }

    /// Sends one home what it missed, as far as it is kept. True when nothing is owed any longer.
    fn repay(
        &mut self,
        now: Now,
        slot: u32,
        shard: ShardId,
        send: impl Fn(&mut Outbox, ShardId, Envelope) -> bool,
    ) -> bool {
        loop {
            let Some(owned) = self.owned.get(slot) else { return true };
            let owed = owned.interest.iter().find(|i| i.shard == shard);
            let Some(interest) = owed.cloned() else { return true };
            let Some(after) = interest.missed_after() else { return true };
            let (messages, left) = self.take_missed(now, slot, after);
            let feeds = interest.feeds.and(Feed::MESSAGES);
            let Some(owned) = self.owned.get_mut(slot) else { return true };
            if !feeds.is_empty() && !messages.is_empty() {
                let batch = Arc::new(make_batch(owned, &messages));
                let envelope = Envelope::Messages { to: interest.home, feeds, batch };
                if !send(&mut self.outbox, shard, envelope) {
                    return false;
                }
            }
            let last = messages.last().map(|message| message.serial);
            for interest in owned.interest.iter_mut().filter(|i| i.shard == shard) {
                interest.set_missed_after(last.filter(|_| left == Left::More));
            }
        }
    }

    /// The next messages after a serial, as far as they are kept; what is not leaves a gap.
    fn take_missed(&mut self, now: Now, slot: u32, after: u64) -> (Vec<Arc<Message>>, Left) {
        let page = self.with_messages(Some(slot), |messages, policy| {
            messages.following(now, after, CATCH_UP, policy)
        });
        let page = page.unwrap_or_default();
        (page.messages, if page.more { Left::More } else { Left::Nothing })
    }

    /// What was published after a place. What has not been routed yet is routed first, so that
    /// whoever is answered now is delivered what comes later, and only that. Of a channel without
    /// messages the head is known, and only a cursor there has missed nothing.
    fn messages_after(
        &mut self,
        now: Now,
        key: &ChannelKey,
        position: &Position,
        room: PageLimit,
    ) -> Replay {
        let slot = self.owned.find_key(key);
        if let Some(slot) = slot {
            self.flush_messages(now, slot);
        }
        let replay = self
            .with_messages(slot, |messages, policy| messages.after(now, position, room, policy));
        replay.unwrap_or_else(|| {
            let head = Position::Serial(self.retention.head(key.hash));
            if *position == head { Replay::Complete(Page::default()) } else { Replay::AgedOut }
        })
    }

    /// Does something with the messages of a channel, and accounts for what it keeps then; `None`
    /// when nothing was ever published in it.
    pub(super) fn with_messages<T>(
        &mut self,
        slot: Option<u32>,
        act: impl FnOnce(&mut channel::Messages, &Policy) -> T,
    ) -> Option<T> {
        let owned = self.owned.get_mut(slot?)?;
        let messages = &mut owned.published.as_mut()?.messages;
        let before = messages.bytes();
        let result = act(messages, &owned.policy);
        let forgotten = self.retention.account(before, messages);
        self.counters.drop_many(Dropped::MessageHistoryFull, forgotten);
        Some(result)
    }
}

/// Encodes messages once per feed that somebody wants.
fn make_batch(owned: &OwnedChannel, messages: &[Arc<Message>]) -> MessageBatch {
    let mut encoded = [const { None }; Feed::COUNT];
    for feed in Feed::ENCODED.into_iter().filter(|feed| Feed::MESSAGES.contains(*feed)) {
        if owned.is_wanted(feed) {
            let each = messages.iter().map(Arc::as_ref);
            encoded[feed as usize] = Some(encode::messages(feed, &owned.key.name, each));
        }
    }
    MessageBatch {
        encoded,
        first_serial: messages.iter().map(|m| m.serial).find(|&serial| serial != 0),
        messages: messages.len() as u32,
    }
}
