//! Fan-out on a home: the same bytes to every subscriber of a feed, and what becomes of those who
//! cannot take them.

use std::sync::Arc;

use super::Shard;
use super::connection::{FETCHED, Session};
use super::envelope::{
    Asker, Audience, Command, Envelope, HomeChannelId, Left, MessageBatch, PresenceTick,
};
use super::subscription::{Asked, Missed, Subscription};
use super::write_order::Due;
use crate::channel::{Change, ChangeKind, Identity, Message};
use crate::counters::{Conflated, Dropped};
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId, Now};
use crate::policy::SlowConsumer;
use crate::session::foony::{NO_REQUEST, encode};
use crate::session::{Feed, FeedSet, Pace};

/// Departures that are remembered for a subscriber that cannot take presence. With more it is
/// closed as slow.
const DEPARTURES_MAX: usize = 1024;

impl Shard {
    /// Delivers a tick to every local subscriber, each feed the same bytes.
    pub(super) fn deliver_tick(
        &mut self,
        now: Now,
        to: HomeChannelId,
        feeds: FeedSet,
        tick: &Arc<PresenceTick>,
    ) {
        for feed in Feed::ENCODED.into_iter().filter(|feed| feeds.contains(*feed)) {
            let Some(bytes) = &tick.encoded[feed as usize] else { continue };
            let bytes = &unshared(bytes, tick);
            let is_set = Feed::PRESENCE_SETS.contains(feed);
            self.each_subscriber(now, to, feed, |shard, conn| {
                if !is_set {
                    return shard.deliver_changes(conn, to.slot, feed, bytes, &tick.changes);
                }
                if tick.except != Some(ConnAddr { shard: shard.id, conn }) {
                    shard.deliver_set(now, conn, to.slot, feed, bytes);
                }
                Ok(())
            });
            if is_set {
                self.outdate_set(to.slot, feed);
            }
        }
    }

    /// Delivers what was published to every local subscriber, each feed the same bytes.
    pub(super) fn deliver_messages(
        &mut self,
        now: Now,
        to: HomeChannelId,
        feeds: FeedSet,
        batch: &Arc<MessageBatch>,
    ) {
        for feed in Feed::ENCODED.into_iter().filter(|feed| feeds.contains(*feed)) {
            let Some(bytes) = &batch.encoded[feed as usize] else { continue };
            let bytes = &unshared(bytes, batch);
            self.each_subscriber(now, to, feed, |shard, conn| {
                shard.deliver_batch(conn, to.slot, feed, bytes, batch)
            });
        }
    }

    /// Delivers messages that one subscriber has missed.
    pub(super) fn deliver_missed(
        &mut self,
        now: Now,
        to: HomeChannelId,
        id: ConnId,
        messages: &[Arc<Message>],
        left: Left,
    ) {
        let Some(home) = self.homes.get_tenant(to.slot, to.generation) else { return };
        let key = Arc::clone(&home.key);
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        let Session::Foony(session) = &connection.details.session else { return };
        let feed = session.messages();
        let bytes = encode::messages(feed, &key.name, messages.iter().map(Arc::as_ref));
        let Some(subscription) = connection.subscription_mut(to.slot, feed) else { return };
        let Some(missed) = &mut subscription.missed else { return };
        match (&mut **missed, messages.last()) {
            (Missed::Messages { after, asked }, Some(last)) if left == Left::More => {
                (*after, *asked) = (last.serial, Asked::NotYet);
                connection.flags.stale = true;
            }
            _ => subscription.missed = None,
        }
        connection.queue.push(bytes, &mut self.spares);
        self.counters.messages_delivered += messages.len() as u64;
        self.mark_due(id, Due::Delivery);
        if self.connections.get(id).is_some_and(|connection| connection.queue.is_empty()) {
            self.refresh_stale(now, id);
        }
    }

    /// Whom a subscriber must be told to have left, once it is shown who is present instead of what
    /// it has missed. From then on it has missed nothing.
    pub(super) fn take_departures(&mut self, id: ConnId, slot: u32) -> Vec<Arc<Identity>> {
        let Some(connection) = self.connections.get_mut(id) else { return Vec::new() };
        let is_changes = |s: &&mut Subscription| {
            s.channel() == slot && Feed::PRESENCE_CHANGES.contains(s.feed())
        };
        let subscription = connection.details.subscriptions.iter_mut().find(is_changes);
        match subscription.and_then(|subscription| subscription.missed.take()).map(|m| *m) {
            Some(Missed::Changes { left, .. }) => left,
            _ => Vec::new(),
        }
    }

    /// Changes how often a session is sent presence.
    pub(super) fn set_pace(&mut self, now: Now, id: ConnId, pace: Pace) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.pace = pace;
        self.refresh_stale(now, id);
    }

    /// A pace timer fired: held-back states go out, held-back presence is asked for anew.
    pub(super) fn pace_due(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.flags.pacing = false;
        self.resubmit_states(now, id);
        self.refresh_stale(now, id);
    }

    /// Tries again what full mailboxes refused.
    pub(super) fn retry_refused(&mut self, now: Now) {
        for id in std::mem::take(&mut self.retries) {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.flags.retrying = false;
            }
            self.resubmit_states(now, id);
            self.refresh_stale(now, id);
        }
    }

    /// Asks the owners for what a subscriber has missed, as far as it can take it and its pace
    /// allows.
    pub(super) fn refresh_stale(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.flags.stale || connection.flags.blocked || !connection.is_open() {
            return;
        }
        connection.flags.stale = false;
        let connection = &*connection;
        let missed = connection.details.subscriptions.iter().filter(|s| s.missed.is_some());
        let missed: Vec<_> =
            missed.map(|s| (s.channel(), s.feed(), connection.due_ms(s))).collect();
        // Messages and changes are asked for one channel at a time, so that no more than one answer
        // waits for a client that has just begun to read again.
        let mut is_waiting =
            connection.details.subscriptions.iter().any(Subscription::is_asked_for);
        for (slot, feed, due_ms) in missed {
            if !Feed::PRESENCE_SETS.contains(feed) {
                match is_waiting {
                    true => drop(self.note_stale(id, slot, feed)),
                    false => self.ask_for_missed(id, slot, feed),
                }
                is_waiting = true;
            } else if due_ms > now.mono_ms {
                self.miss_set(now, id, slot, feed);
            } else {
                self.set_fresh(id, slot, feed);
                if !self.owe_set(id, slot, feed) {
                    self.request_snapshot(now, id, slot, feed);
                }
            }
        }
    }

    pub(super) fn request_snapshot(&mut self, now: Now, id: ConnId, slot: u32, feed: Feed) {
        let home_id = self.home_id(slot);
        let Some(home) = self.homes.get(slot) else { return };
        let audience = Audience::One(id);
        let command = Command::Snapshot { feed, home: home_id, audience };
        let channel = Arc::clone(&home.key);
        let envelope = Envelope::Command { from: self.id, channel, command };
        if self.outbox.try_send(home.owner, envelope).is_err() {
            self.miss_set(now, id, slot, feed);
            self.retry_later(id);
        }
    }

    /// Calls `deliver` for everybody that a feed is delivered to; those it fails for are closed.
    pub(super) fn each_subscriber(
        &mut self,
        now: Now,
        to: HomeChannelId,
        feed: Feed,
        mut deliver: impl FnMut(&mut Shard, ConnId) -> Result<(), Disconnect>,
    ) {
        if self.homes.generation(to.slot) != to.generation {
            return;
        }
        self.tidy_subscribers(to.slot, feed);
        let home = self.homes.get_mut(to.slot);
        let Some(list) = home.and_then(|home| home.subscribers_mut(feed)) else { return };
        let subscribers = std::mem::take(list);
        let mut failed = Vec::new();
        for slots in subscribers.slots().chunks(FETCHED) {
            self.connections.fetch(slots.iter().copied());
            for &slot in slots {
                let Some(conn) = self.connections.tenant(slot) else { continue };
                if let Err(reason) = deliver(self, conn) {
                    failed.push((conn, reason));
                }
            }
        }
        let home = self.homes.get_tenant(to.slot, to.generation);
        if let Some(list) = home.and_then(|home| home.subscribers_mut(feed)) {
            *list = subscribers;
        }
        for (conn, reason) in failed {
            self.disconnect(now, conn, reason);
        }
    }

    /// Queues the set of members for one subscriber, or notes that it missed one; true when it was
    /// queued.
    pub(super) fn deliver_set(
        &mut self,
        now: Now,
        id: ConnId,
        slot: u32,
        feed: Feed,
        bytes: &Arc<[u8]>,
    ) -> bool {
        let most = self.settings.limits.send_queue_bytes_max;
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else {
            return false;
        };
        let unable = connection.flags.blocked || !connection.queue.has_room(bytes.len(), most);
        if unable || !connection.may_show(now.mono_ms, slot, feed) {
            let reason = if unable { Conflated::SlowReceiver } else { Conflated::Throttled };
            self.counters.conflate(reason);
            self.miss_set(now, id, slot, feed);
            return false;
        }
        connection.queue.push(Arc::clone(bytes), &mut self.spares);
        self.counters.deliveries += 1;
        self.mark_due(id, Due::Delivery);
        true
    }

    /// Queues changes of members for one subscriber, or remembers who left for the time when it is
    /// shown who is present.
    fn deliver_changes(
        &mut self,
        id: ConnId,
        slot: u32,
        feed: Feed,
        bytes: &Arc<[u8]>,
        changes: &[Change],
    ) -> Result<(), Disconnect> {
        if self.deliver_in_order(id, slot, feed, bytes) {
            self.counters.deliveries += 1;
            return Ok(());
        }
        self.counters.conflate(Conflated::SlowReceiver);
        let Some(subscription) = self.note_stale(id, slot, feed) else { return Ok(()) };
        let missed = subscription.missed.get_or_insert_with(|| {
            Box::new(Missed::Changes { left: Vec::new(), asked: Asked::NotYet })
        });
        let Missed::Changes { left, .. } = &mut **missed else { return Ok(()) };
        let leaves = changes.iter().filter(|change| change.kind == ChangeKind::Leave);
        left.extend(leaves.map(|change| Arc::clone(&change.identity)));
        if left.len() > DEPARTURES_MAX { Err(Disconnect::Slow) } else { Ok(()) }
    }

    /// Queues messages for one subscriber, or does with it what the namespace says.
    fn deliver_batch(
        &mut self,
        id: ConnId,
        slot: u32,
        feed: Feed,
        bytes: &Arc<[u8]>,
        batch: &MessageBatch,
    ) -> Result<(), Disconnect> {
        if self.deliver_in_order(id, slot, feed, bytes) {
            self.counters.messages_delivered += u64::from(batch.messages);
            return Ok(());
        }
        self.counters.drop_many(Dropped::MessageSlowConsumer, batch.messages);
        let policy = self.homes.get(slot).map(|home| home.policy.slow_consumer);
        if policy == Some(SlowConsumer::Close) {
            return Err(Disconnect::Slow);
        }
        let Some(first) = batch.first_serial else { return Ok(()) };
        let Some(subscription) = self.note_stale(id, slot, feed) else { return Ok(()) };
        subscription.missed.get_or_insert_with(|| {
            Box::new(Missed::Messages { after: first - 1, asked: Asked::NotYet })
        });
        Ok(())
    }

    /// Queues bytes none of which may be missing. False when there is no room for them, or for what
    /// came before them.
    fn deliver_in_order(&mut self, id: ConnId, slot: u32, feed: Feed, bytes: &Arc<[u8]>) -> bool {
        let most = self.settings.limits.send_queue_bytes_max;
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else {
            return true;
        };
        if connection.flags.stale
            && connection.subscription(slot, feed).is_some_and(|s| s.missed.is_some())
        {
            return false;
        }
        if !connection.queue.has_room(bytes.len(), most) {
            return false;
        }
        if connection.flags.blocked {
            connection.queue.push_copy(bytes);
        } else {
            connection.queue.push(Arc::clone(bytes), &mut self.spares);
            self.mark_due(id, Due::Delivery);
        }
        true
    }

    /// Notes that a subscriber missed the set; its pace may demand a timer to make good for it.
    fn miss_set(&mut self, now: Now, id: ConnId, slot: u32, feed: Feed) {
        let Some(subscription) = self.note_stale(id, slot, feed) else { return };
        subscription.missed.get_or_insert_with(|| Box::new(Missed::Set));
        let shown_ms = subscription.shown_ms();
        if let Some(Pace::Every(ms)) = self.connections.get(id).map(|c| c.pace) {
            self.set_pace_timer(id, (shown_ms + u64::from(ms.get())).max(now.mono_ms + 1));
        }
    }

    /// Asks the owner to make good, unless it has been asked already.
    fn ask_for_missed(&mut self, id: ConnId, slot: u32, feed: Feed) {
        let home = self.home_id(slot);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.flags.stale = true;
        let subscription = connection.subscription_mut(slot, feed);
        let Some(missed) = subscription.and_then(|s| s.missed.as_mut()) else { return };
        let command = match &mut **missed {
            Missed::Changes { asked: asked @ Asked::NotYet, .. } => {
                *asked = Asked::Waiting;
                let asker = Asker::Session { conn: id, request: NO_REQUEST };
                Command::Watch { asker, feed }
            }
            Missed::Messages { after, asked: asked @ Asked::NotYet } => {
                *asked = Asked::Waiting;
                Command::CatchUp { home, conn: id, after: *after }
            }
            _ => return,
        };
        self.command_home(slot, command);
    }

    fn note_stale(&mut self, id: ConnId, slot: u32, feed: Feed) -> Option<&mut Subscription> {
        let connection = self.connections.get_mut(id)?;
        connection.flags.stale = true;
        connection.subscription_mut(slot, feed)
    }

    fn set_fresh(&mut self, id: ConnId, slot: u32, feed: Feed) {
        let connection = self.connections.get_mut(id);
        if let Some(subscription) = connection.and_then(|c| c.subscription_mut(slot, feed)) {
            subscription.missed = None;
        }
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
