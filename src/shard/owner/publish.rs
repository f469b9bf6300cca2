//! Messages of owned channels: numbered, kept and routed.

use std::sync::Arc;

use super::channel_entry::OwnedChannel;
use super::presence::encode_each;
use super::{Owner, send_answer};
use crate::channel::{self, Draft, Message, Page, PageLimit, Position};
use crate::counters::Dropped;
use crate::error::Reject;
use crate::ids::{ChannelKey, Clocks, ConnAddr, ShardId};
use crate::policy::{Durability, Policy};
use crate::session::{Answer, Feed};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Envelope, HomeChannelId, MessageBatch, Replaying, ReplyTo};
use crate::shard::trace::Traced;

impl Owner {
    pub(super) fn publish(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        reply_to: ReplyTo,
        draft: Draft,
    ) {
        let slot = match self.open(cx, key) {
            Ok(slot) => slot,
            Err(reject) => return send_answer(cx, from, reply_to, key, Answer::Refused(reject)),
        };
        self.reopen_log(slot);
        let now = cx.now;
        let outcome = self
            .with_messages(cx, Some(slot), |messages, policy| messages.publish(now, draft, policy));
        let serial = match outcome {
            None => return debug_assert!(false, "the log of {key} was just opened"),
            Some(channel::Published::Duplicate { serial }) => {
                cx.counters.messages_resent += 1;
                serial
            }
            Some(channel::Published::New(message)) => {
                let serial = message.serial;
                self.retention.note_serial(serial);
                self.queue_message(cx, slot, message);
                serial
            }
        };
        send_answer(cx, from, reply_to, key, Answer::Published { serial });
        self.begin_retention(cx);
    }

    /// A message is routed with all others of this turn.
    pub(super) fn queue_message(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        message: Arc<Message>,
    ) {
        cx.counters.messages_published += 1;
        if let Some(published) = &mut self.entry(slot).published {
            published.pending.push(message);
        }
        self.mark_dirty(slot);
    }

    /// A subscriber begins: the messages that it has missed. All later ones are routed to it.
    pub(super) fn attach(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        feed: Feed,
        after: Option<&Position>,
        replay: Replaying,
    ) -> Answer {
        let slot = self.channels.find_key(key);
        let slot = slot.filter(|&slot| self.entry(slot).is_subscribed_by(from, feed));
        let Some(slot) = slot else { return Answer::Refused(Reject::ServerFull) };
        self.catch_home_up(cx, slot, from);
        self.want_occupancy(slot);
        let replayed =
            after.map(|position| self.messages_after(cx, key, position, PageLimit::UNLIMITED));
        let (messages, resumed) = match replayed {
            None => (Vec::new(), None),
            Some(None) => (Vec::new(), Some(false)),
            Some(Some(page)) => match replay {
                Replaying::Wanted => (page.messages, Some(true)),
                Replaying::Needless => (Vec::new(), Some(true)),
            },
        };
        Answer::Subscribed { messages, resumed }
    }

    /// One page of messages; empty when nothing was ever published.
    pub(super) fn history(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        page: impl FnOnce(&mut channel::Messages, Clocks, &Policy) -> Page,
    ) -> Answer {
        let (slot, now) = (self.channels.find_key(key), cx.now);
        let page = self.with_messages(cx, slot, |messages, policy| page(messages, now, policy));
        let Page { messages, more } = page.unwrap_or_default();
        Answer::History { messages, more }
    }

    pub(super) fn fetch(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        after: u64,
        limit: PageLimit,
    ) -> Answer {
        let page = self.messages_after(cx, key, &Position::Serial(after), limit);
        let resumed = page.is_some();
        Answer::Fetched { messages: page.unwrap_or_default().messages, resumed }
    }

    /// Sends one subscriber what was published after a serial, which it had no room for.
    pub(super) fn catch_up(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        to: ConnAddr,
        home: HomeChannelId,
        after: u64,
    ) {
        let mut page = Page::default();
        if let Some(slot) = self.channels.find_key(key) {
            self.catch_home_up(cx, slot, to.shard);
            page = self.take_missed(cx, slot, after);
        }
        cx.outbox.send(to.shard, Envelope::CaughtUp { to: home, conn: to.conn, page });
    }

    /// Routes what was published since the last time, once per interested shard.
    pub(super) fn flush_messages(&mut self, cx: &mut ShardContext, slot: u32) {
        if self.has_disk {
            self.store_unsent(cx, slot);
        }
        let Some(published) = &mut self.entry(slot).published else { return };
        let mut pending = std::mem::take(&mut published.pending);
        if !pending.is_empty() {
            self.tell_messages(cx, slot, &pending);
            route_messages(cx, self.entry(slot), &pending);
            let (channel, count) = (self.entry(slot), pending.len());
            let homes = channel.homes.len();
            cx.trace(&channel.key, || Traced::Routed { what: "messages", count, homes });
            pending.clear();
            if let Some(published) = &mut self.entry(slot).published {
                published.pending = pending;
            }
        }
        self.repair_missed_messages(cx, slot);
    }

    /// What was published after a position, if all of it is stored. Pending messages are routed
    /// first, so that a subscriber which is answered now receives exactly what comes later. Of a
    /// channel without messages only the head is known, and a position there has missed nothing.
    fn messages_after(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        position: &Position,
        limit: PageLimit,
    ) -> Option<Page> {
        let slot = self.channels.find_key(key);
        if let Some(slot) = slot {
            self.flush_messages(cx, slot);
        }
        let now = cx.now;
        let replay = self.with_messages(cx, slot, |messages, policy| {
            messages.after(now, position, limit, policy)
        });
        replay.unwrap_or_else(|| {
            let head = Position::Serial(self.retention.head(key.log_hash()));
            (*position == head).then(Page::default)
        })
    }

    fn reopen_log(&mut self, slot: u32) {
        let Owner { channels, retention, .. } = self;
        if let Some(channel) = channels.get_mut(slot) {
            let hash = channel.key.log_hash();
            channel.published.get_or_insert_with(|| retention.reopen(hash));
        }
    }

    /// Does something with the messages of a channel, and accounts for what it keeps then; `None`
    /// when nothing was ever published in it.
    pub(super) fn with_messages<T>(
        &mut self,
        cx: &mut ShardContext,
        slot: Option<u32>,
        act: impl FnOnce(&mut channel::Messages, &Policy) -> T,
    ) -> Option<T> {
        let channel = self.channels.get_mut(slot?)?;
        let messages = &mut channel.published.as_mut()?.messages;
        let before = messages.bytes();
        let result = act(messages, &channel.policy);
        let forgotten = self.retention.account(before, messages);
        if channel.policy.durability != Durability::Disk {
            cx.counters.drop_many(Dropped::MessageHistoryFull, forgotten);
        }
        Some(result)
    }
}

/// Sends messages to every interested shard.
pub(super) fn route_messages(
    cx: &mut ShardContext,
    channel: &mut OwnedChannel,
    messages: &[Arc<Message>],
) {
    let batch = Arc::new(make_batch(channel, messages));
    for home in channel.homes.iter_mut() {
        let feeds = home.feeds & Feed::MESSAGES;
        if feeds.is_empty() {
            continue;
        }
        let envelope = Envelope::Messages { to: home.home, feeds, batch: Arc::clone(&batch) };
        let behind = home.missed_after();
        if behind.is_some() || cx.outbox.try_send(home.shard, envelope).is_err() {
            let missed = batch.first_serial.map(|first| first - 1);
            home.set_missed_after(behind.or(missed));
            cx.counters.drop_many(Dropped::MessageMailboxFull, batch.messages);
        }
    }
}

/// Encodes messages once per feed that has subscribers.
pub(super) fn make_batch(channel: &OwnedChannel, messages: &[Arc<Message>]) -> MessageBatch {
    let encoded = encode_each(channel.feeds() & Feed::MESSAGES, |feed| {
        feed.encode_messages(&channel.key.name, messages.iter().map(Arc::as_ref))
    });
    MessageBatch {
        encoded,
        first_serial: messages.iter().map(|m| m.serial).find(|&serial| serial != 0),
        messages: messages.len() as u32,
    }
}
