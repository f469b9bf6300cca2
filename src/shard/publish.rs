//! The owner's half of a shard, as far as messages go: numbered, kept, routed, and sent again to
//! those who missed some.

use std::sync::Arc;

use super::Shard;
use super::envelope::{Asker, Command, Envelope, HomeChannelId, Left, MessageBatch, Replaying};
use super::tables::{Interest, OwnedChannel, Published};
use crate::channel::{self, Draft, Message, Page, Position, Replay, Room};
use crate::counters::Dropped;
use crate::ids::{ChannelKey, ConnAddr, Now, ShardId};
use crate::session::foony::encode;
use crate::session::{Answer, Feed};

/// Most that is sent at once to a subscriber, or a home, that catches up.
const CATCH_UP: Room = Room { messages: usize::MAX, bytes: 256 * 1024 };

/// Only the newest message: who sees it knows what is missing.
const NEWEST: Room = Room { messages: 1, bytes: usize::MAX };

impl Shard {
    pub(super) fn handle_message_command(
        &mut self,
        now: Now,
        from: ShardId,
        key: &Arc<ChannelKey>,
        command: Command,
    ) {
        match command {
            Command::Publish { asker, draft } => self.own_publish(now, from, key, asker, draft),
            Command::Attach { asker, after, replay } => {
                self.own_attach(now, from, key, asker, after.as_ref(), replay);
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
        let slot = self.own_open(key);
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let published = owned.published.get_or_insert_default();
        let serial = match published.messages.publish(now, draft, &owned.policy) {
            channel::Published::Resent { serial } => {
                self.counters.messages_resent += 1;
                serial
            }
            channel::Published::Fresh(message) => {
                self.counters.messages_published += 1;
                let serial = message.serial;
                published.pending.push(message);
                self.mark_dirty(slot);
                serial
            }
        };
        self.send_answer(from, asker, key, Answer::Published { serial });
    }

    /// A subscriber begins: what it has missed, then the word from when on it is delivered to.
    fn own_attach(
        &mut self,
        now: Now,
        from: ShardId,
        key: &Arc<ChannelKey>,
        asker: Asker,
        after: Option<&Position>,
        replay: Replaying,
    ) {
        if let Some(slot) = self.owned.find_key(key) {
            self.flush_messages(now, slot);
            self.repay_at_once(now, slot, from);
        }
        let replayed = after.map(|position| self.messages_after(now, key, position));
        let (messages, resumed) = match replayed {
            None => (Vec::new(), None),
            Some(Replay::Complete(_)) if replay == Replaying::Needless => (Vec::new(), Some(true)),
            Some(Replay::Complete(messages)) => (messages, Some(true)),
            Some(Replay::AgedOut) => (Vec::new(), Some(false)),
        };
        self.send_answer(from, asker, key, Answer::Subscribed { messages, resumed });
    }

    fn own_history(
        &mut self,
        now: Now,
        key: &ChannelKey,
        before: Option<&Position>,
        room: Room,
    ) -> Answer {
        let page = self
            .published_of(key)
            .map(|(policy, published)| published.messages.before(now, before, room, &policy));
        let Page { messages, more } = page.unwrap_or_default();
        Answer::History { messages, more }
    }

    fn own_history_forward(
        &mut self,
        now: Now,
        key: &ChannelKey,
        after: u64,
        room: Room,
    ) -> Answer {
        let page = self
            .published_of(key)
            .map(|(policy, published)| published.messages.following(now, after, room, &policy));
        let Page { messages, more } = page.unwrap_or_default();
        Answer::History { messages, more }
    }

    fn own_fetch(&mut self, now: Now, key: &Arc<ChannelKey>, after: u64, room: Room) -> Answer {
        match self.messages_after(now, key, &Position::Serial(after)) {
            Replay::AgedOut => Answer::Fetched { messages: Vec::new(), resumed: false },
            Replay::Complete(mut messages) => {
                messages.truncate(room.count(messages.iter().map(Arc::as_ref)));
                Answer::Fetched { messages, resumed: true }
            }
        }
    }

    /// One subscriber could not take what was published after a serial; now it can.
    fn own_catch_up(
        &mut self,
        now: Now,
        key: &Arc<ChannelKey>,
        to: ConnAddr,
        home: HomeChannelId,
        after: u64,
    ) {
        let (messages, left) = self.next_missed(now, key, to.shard, after);
        let envelope = Envelope::CaughtUp { to: home, conn: to.conn, messages, left };
        self.outbox.send(to.shard, envelope);
    }

    /// Routes what was published since the last time, each interested shard once.
    pub(super) fn flush_messages(&mut self, now: Now, slot: u32) {
        self.repay_missed_messages(now, slot);
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let Some(published) = &mut owned.published else { return };
        let pending = std::mem::take(&mut published.pending);
        if pending.is_empty() {
            return;
        }
        let batch = Arc::new(make_batch(owned, &pending));
        let mut missed = false;
        for interest in &mut owned.interest {
            let feeds = interest.feeds.and(Feed::MESSAGES);
            if feeds.is_empty() {
                continue;
            }
            let batch = Arc::clone(&batch);
            let envelope = Envelope::Messages { to: interest.home, feeds, batch };
            let is_behind = interest.missed_after.is_some();
            if is_behind || self.outbox.try_send(interest.shard, envelope).is_err() {
                let first = pending.iter().map(|m| m.serial).find(|&serial| serial != 0);
                interest.missed_after = interest.missed_after.or(first.map(|first| first - 1));
                self.counters.drop_many(Dropped::MessageMailboxFull, pending.len() as u32);
                missed = true;
            }
        }
        if missed {
            self.stale_channels.push(slot);
        }
        let mut pending = pending;
        pending.clear();
        if let Some(published) = self.owned.get_mut(slot).and_then(|o| o.published.as_mut()) {
            published.pending = pending;
        }
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

    /// Sends homes what they missed while their mailboxes were full, in order, as far as there is
    /// room; when it is no longer kept, the newest message, so that the gap shows.
    fn repay_missed_messages(&mut self, now: Now, slot: u32) {
        let Some(owned) = self.owned.get(slot) else { return };
        let behind = |interest: &&Interest| interest.missed_after.is_some();
        let behind: Vec<_> = owned.interest.iter().filter(behind).copied().collect();
        for mut interest in behind {
            while interest.missed_after.is_some() && self.outbox.has_room(interest.shard) {
                self.repay_some(now, slot, &mut interest);
            }
            self.set_missed_after(slot, interest.shard, interest.missed_after);
        }
    }

    /// Sends a home all that it missed, whatever room it has, so that what follows begins where
    /// that ends.
    fn repay_at_once(&mut self, now: Now, slot: u32, shard: ShardId) {
        let Some(owned) = self.owned.get(slot) else { return };
        let Some(mut interest) = owned.interest.iter().find(|i| i.shard == shard).copied() else {
            return;
        };
        while interest.missed_after.is_some() {
            self.repay_some(now, slot, &mut interest);
        }
        self.set_missed_after(slot, shard, None);
    }

    /// Sends a home the next messages that it missed. Those that nobody has been sent are not among
    /// them.
    fn repay_some(&mut self, now: Now, slot: u32, interest: &mut Interest) {
        let Some(after) = interest.missed_after.take() else { return };
        let until = self.owned.get(slot).map_or(u64::MAX, last_routed);
        let (messages, left) = self.take_missed(now, slot, after, until);
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let feeds = interest.feeds.and(Feed::MESSAGES);
        let Some(last) = messages.last().filter(|_| !feeds.is_empty()) else { return };
        if left == Left::More {
            interest.missed_after = Some(last.serial);
        }
        let batch = Arc::new(make_batch(owned, &messages));
        self.outbox.send(interest.shard, Envelope::Messages { to: interest.home, feeds, batch });
    }

    fn set_missed_after(&mut self, slot: u32, shard: ShardId, missed_after: Option<u64>) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        for interest in owned.interest.iter_mut().filter(|i| i.shard == shard) {
            interest.missed_after = missed_after;
        }
        if missed_after.is_some() {
            self.stale_channels.push(slot);
        }
    }

    /// What one subscriber on a shard has missed, up to where its home is.
    fn next_missed(
        &mut self,
        now: Now,
        key: &ChannelKey,
        shard: ShardId,
        after: u64,
    ) -> (Vec<Arc<Message>>, Left) {
        let Some(slot) = self.owned.find_key(key) else { return (Vec::new(), Left::Nothing) };
        self.flush_messages(now, slot);
        let interest = self.owned.get(slot).map(|owned| &owned.interest);
        let home = interest.and_then(|interest| interest.iter().find(|i| i.shard == shard));
        let until = home.and_then(|home| home.missed_after).unwrap_or(u64::MAX);
        self.take_missed(now, slot, after, until)
    }

    /// The next messages after a serial, up to another one; the newest one alone when some are no
    /// longer kept.
    fn take_missed(
        &mut self,
        now: Now,
        slot: u32,
        after: u64,
        until: u64,
    ) -> (Vec<Arc<Message>>, Left) {
        let Some(owned) = self.owned.get_mut(slot) else { return (Vec::new(), Left::Nothing) };
        let Some(published) = &mut owned.published else { return (Vec::new(), Left::Nothing) };
        match published.messages.after(now, &Position::Serial(after), &owned.policy) {
            Replay::Complete(mut messages) => {
                messages.truncate(messages.partition_point(|message| message.serial <= until));
                let count = CATCH_UP.count(messages.iter().map(Arc::as_ref));
                let left = if count < messages.len() { Left::More } else { Left::Nothing };
                messages.truncate(count);
                (messages, left)
            }
            Replay::AgedOut => {
                let mut newest = published.messages.before(now, None, NEWEST, &owned.policy);
                newest.messages.retain(|message| message.serial <= until);
                (newest.messages, Left::Nothing)
            }
        }
    }

    /// What was published after a place. What has not been routed yet is routed first, so that
    /// whoever is answered now is delivered what comes later, and only that.
    fn messages_after(&mut self, now: Now, key: &ChannelKey, position: &Position) -> Replay {
        let Some(slot) = self.owned.find_key(key) else {
            return channel::Messages::default().after(now, position, &Default::default());
        };
        self.flush_messages(now, slot);
        let Some(owned) = self.owned.get_mut(slot) else { return Replay::AgedOut };
        let policy = Arc::clone(&owned.policy);
        match &mut owned.published {
            Some(published) => published.messages.after(now, position, &policy),
            None => channel::Messages::default().after(now, position, &policy),
        }
    }

    fn published_of(
        &mut self,
        key: &ChannelKey,
    ) -> Option<(Arc<crate::policy::Policy>, &mut Published)> {
        let slot = self.owned.find_key(key)?;
        let owned = self.owned.get_mut(slot)?;
        let policy = Arc::clone(&owned.policy);
        Some((policy, owned.published.as_deref_mut()?))
    }
}

/// The newest serial that homes have been sent, or owe to a full mailbox that they were not.
fn last_routed(owned: &OwnedChannel) -> u64 {
    let pending = owned.published.iter().flat_map(|published| &published.pending);
    let mut unrouted = pending.map(|message| message.serial).filter(|&serial| serial != 0);
    unrouted.next().map_or(u64::MAX, |first| first - 1)
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
