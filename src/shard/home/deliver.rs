//! Fan-out on a home: the same bytes to every subscriber of a feed.

use std::sync::Arc;

use super::Home;
use super::channel_entry::HomeChannel;
use super::connection::Connection;
use super::connections::FETCHED;
use super::outgoing::Outgoing;
use super::subscription::{Missed, Repair, Subscription};
use super::updates::set_rate_timer;
use crate::channel::{Change, Members};
use crate::counters::{Conflated, Dropped};
use crate::error::Disconnect;
use crate::ids::{ChannelKey, ConnId};
use crate::policy::SlowConsumer;
use crate::session::{Feed, FeedKind, FeedSet};
use crate::shard::context::ShardContext;
use crate::shard::departures::Departures;
use crate::shard::envelope::{HomeChannelId, MessageBatch, PresenceTick};

/// Departures that are kept for a subscriber that cannot take presence. With more it is closed as
/// slow.
const DEPARTURES_MAX: usize = 1024;

/// One subscriber that something is delivered to.
pub(super) struct Receiver<'c> {
    pub id: ConnId,
    pub connection: &'c mut Connection,
    /// The subscription.
    pub slot: u32,
    pub feed: Feed,
}

impl Home {
    /// Delivers a tick to every subscriber here, each feed the same bytes.
    pub(super) fn deliver_tick(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        feeds: FeedSet,
        tick: &Arc<PresenceTick>,
    ) {
        if !self.is_current(to) {
            return;
        }
        for feed in feeds & Feed::ENCODED {
            let Some(bytes) = &tick.encoded[feed.index()] else { continue };
            let bytes = &unshared(bytes, tick);
            let is_set = feed.kind() == FeedKind::Sets;
            self.each_subscriber(cx, to.slot, feed, |cx, outgoing, mut receiver, _| {
                if !is_set {
                    return receiver.deliver_changes(cx, outgoing, bytes, &tick.changes);
                }
                if tick.except != Some(Home::addr(cx, receiver.id)) {
                    receiver.deliver_set(cx, outgoing, bytes);
                }
                Ok(())
            });
            self.outdate_snapshot(to.slot, feed);
        }
    }

    /// Delivers messages to every subscriber here, each feed the same bytes.
    pub(super) fn deliver_messages(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        feeds: FeedSet,
        batch: &Arc<MessageBatch>,
    ) {
        if !self.is_current(to) {
            return;
        }
        for feed in feeds & Feed::ENCODED {
            let Some(bytes) = &batch.encoded[feed.index()] else { continue };
            let bytes = &unshared(bytes, batch);
            self.each_subscriber(cx, to.slot, feed, |cx, outgoing, mut receiver, channel| {
                receiver.deliver_batch(cx, outgoing, bytes, batch, channel.policy.slow_consumer)
            });
        }
    }

    /// Calls `deliver` for every active subscriber of a feed; those it fails for are closed.
    pub(super) fn each_subscriber(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        feed: Feed,
        mut deliver: impl FnMut(
            &mut ShardContext,
            &mut Outgoing,
            Receiver<'_>,
            &HomeChannel,
        ) -> Result<(), Disconnect>,
    ) {
        self.sort_subscribers(slot, feed);
        let Home { channels, connections, outgoing, .. } = self;
        let Some(channel) = channels.get(slot) else { return };
        let mut failed = Vec::new();
        for slots in channel.subscribers(feed).chunks(FETCHED) {
            connections.fetch(slots.iter().copied());
            for &tenant in slots {
                let Some((id, connection)) = connections.tenant_mut(tenant) else { continue };
                let receiver = Receiver { id, connection, slot, feed };
                if let Err(reason) = deliver(cx, outgoing, receiver, channel) {
                    failed.push((id, reason));
                }
            }
        }
        for (id, reason) in failed {
            self.disconnect_by_id(cx, id, reason);
        }
    }
}

impl Receiver<'_> {
    /// Queues the set of members, or notes that it was missed; true when it was queued.
    pub(super) fn deliver_set(
        &mut self,
        cx: &mut ShardContext,
        outgoing: &mut Outgoing,
        bytes: &Arc<[u8]>,
    ) -> bool {
        let most = cx.limits().send_queue_bytes_max;
        let connection = &mut *self.connection;
        if !connection.is_open() {
            return false;
        }
        let unable = connection.flags.blocked || !connection.queue.has_room(bytes.len(), most);
        if unable || !connection.can_deliver(cx.now.mono_ms, self.slot, self.feed) {
            let reason = if unable { Conflated::SlowReceiver } else { Conflated::Throttled };
            cx.counters.conflate(reason);
            self.miss_set(cx);
            return false;
        }
        outgoing.push_shared(self.id, connection, bytes);
        cx.counters.deliveries += 1;
        true
    }

    /// Notes that the set was missed; a rate hint may ask for a timer to make good for it.
    pub(super) fn miss_set(&mut self, cx: &mut ShardContext) {
        let rate_hint = self.connection.rate_hint;
        let Some(subscription) = self.note_stale() else { return };
        subscription.missed.get_or_insert_with(|| Box::new(Missed::Set));
        let delivered_ms = subscription.delivered_ms();
        if let Some(ms) = rate_hint {
            let due_ms = (delivered_ms + u64::from(ms.get())).max(cx.now.mono_ms + 1);
            set_rate_timer(cx, self.id, self.connection, due_ms);
        }
    }

    /// Queues changes of members, or keeps who left until a snapshot can be delivered.
    fn deliver_changes(
        &mut self,
        cx: &mut ShardContext,
        outgoing: &mut Outgoing,
        bytes: &Arc<[u8]>,
        changes: &[Change],
    ) -> Result<(), Disconnect> {
        if self.deliver_in_order(cx, outgoing, bytes) {
            cx.counters.deliveries += 1;
            return Ok(());
        }
        cx.counters.conflate(Conflated::SlowReceiver);
        let Some(subscription) = self.note_stale() else { return Ok(()) };
        let missed = subscription.missed.get_or_insert_with(|| Box::new(Missed::no_changes()));
        let Missed::Changes { departures, .. } = &mut **missed else { return Ok(()) };
        departures.record(changes);
        if departures.len() > DEPARTURES_MAX { Err(Disconnect::Slow) } else { Ok(()) }
    }

    /// Queues messages, or does what the namespace says of slow consumers.
    fn deliver_batch(
        &mut self,
        cx: &mut ShardContext,
        outgoing: &mut Outgoing,
        bytes: &Arc<[u8]>,
        batch: &MessageBatch,
        policy: SlowConsumer,
    ) -> Result<(), Disconnect> {
        if self.deliver_in_order(cx, outgoing, bytes) {
            cx.counters.messages_delivered += u64::from(batch.messages);
            return Ok(());
        }
        cx.counters.drop_many(Dropped::MessageSlowConsumer, batch.messages);
        if policy == SlowConsumer::Close {
            return Err(Disconnect::Slow);
        }
        let Some(first) = batch.first_serial else { return Ok(()) };
        let Some(subscription) = self.note_stale() else { return Ok(()) };
        subscription.missed.get_or_insert_with(|| {
            Box::new(Missed::Messages { after: first - 1, repair: Repair::NotRequested })
        });
        Ok(())
    }

    /// Queues bytes none of which may be missing. False when there is no room for them, or for what
    /// came before them.
    fn deliver_in_order(
        &mut self,
        cx: &ShardContext,
        outgoing: &mut Outgoing,
        bytes: &Arc<[u8]>,
    ) -> bool {
        let most = cx.limits().send_queue_bytes_max;
        let connection = &mut *self.connection;
        if !connection.is_open() {
            return true;
        }
        let has_missed = |s: &Subscription| s.missed.is_some();
        let is_behind = connection.flags.stale
            && connection.subscription(self.slot, self.feed).is_some_and(has_missed);
        if is_behind || !connection.queue.has_room(bytes.len(), most) {
            return false;
        }
        if connection.flags.blocked {
            connection.queue.push_copy(bytes);
        } else {
            outgoing.push_shared(self.id, connection, bytes);
        }
        true
    }

    fn note_stale(&mut self) -> Option<&mut Subscription> {
        self.connection.flags.stale = true;
        self.connection.subscription_mut(self.slot, self.feed)
    }

    /// Queues everyone who is present after the leave events that were missed. Returns the requests
    /// that this answers; `None` when the subscriber cannot take it now.
    pub(super) fn deliver_members(
        &mut self,
        cx: &mut ShardContext,
        outgoing: &mut Outgoing,
        key: &ChannelKey,
        bytes: &Arc<[u8]>,
    ) -> Option<Vec<u64>> {
        let most = cx.limits().send_queue_bytes_max;
        let (slot, feed) = (self.slot, self.feed);
        let connection = &mut *self.connection;
        let is_able = !connection.flags.blocked && connection.queue.has_room(bytes.len(), most);
        let subscription = connection.subscription_mut(slot, feed)?;
        if !is_able {
            cx.counters.conflate(Conflated::SlowReceiver);
            if let Some(Missed::Changes { repair, .. }) = subscription.missed.as_deref_mut() {
                *repair = Repair::NotRequested;
            }
            connection.flags.stale = true;
            return None;
        }
        let missed = subscription.missed.take().map(|missed| *missed);
        let (departures, requests) = match missed {
            Some(Missed::Changes { departures, requests, .. }) => (departures, requests),
            _ => (Departures::default(), Vec::new()),
        };
        if !departures.is_empty() {
            let (none, left) = (Members::default(), departures.into_changes());
            let left = feed.encode_changes(cx.now, key, &none, &left);
            connection.queue.append(|out| out.extend_from_slice(&left));
        }
        outgoing.push_shared(self.id, connection, bytes);
        cx.counters.deliveries += 1;
        Some(requests)
    }
}

/// Memory that no other shard counts references to. Every delivery changes the count twice, and
/// cores that change the same one wait for each other: a copy costs less than a second delivery.
fn unshared<T>(bytes: &Arc<[u8]>, whole: &Arc<T>) -> Arc<[u8]> {
    match Arc::strong_count(whole) {
        1 => Arc::clone(bytes),
        _ => Arc::from(&**bytes),
    }
}
