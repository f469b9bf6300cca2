//! Subscribers that have missed something: what they are sent instead, once they can take it.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::Home;
use super::connections::ActiveConnection;
use super::deliver::Receiver;
use super::subscription::{Missed, Repair, Subscription};
use super::write_order::Due;
use crate::channel::Page;
use crate::session::{Feed, FeedKind, NO_REQUEST};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, Envelope, HomeChannelId, Recipients};

impl Home {
    /// Delivers messages that one subscriber has missed.
    pub(super) fn deliver_missed(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        conn: &mut ActiveConnection,
        Page { messages, more }: &Page,
    ) {
        if !self.is_current(to) || !conn.is_open() {
            return;
        }
        let Some(feed) = conn.session().feeds().messages else { return };
        let Some(subscription) = conn.subscription_mut(to.slot, feed) else { return };
        let Some(missed) = &mut subscription.missed else { return };
        match (&mut **missed, messages.last()) {
            (Missed::Messages { after, repair }, Some(last)) if *more => {
                (*after, *repair) = (last.serial, Repair::NotRequested);
                conn.flags.stale = true;
            }
            _ => subscription.missed = None,
        }
        let name = &self.channel(to.slot).key.name;
        let bytes = feed.encode_messages(name, messages.iter().map(Arc::as_ref));
        conn.queue.push(bytes, &mut self.outgoing.run_pool);
        cx.counters.messages_delivered += messages.len() as u64;
        self.outgoing.mark_due(conn.id, conn, Due::Delivery);
        if conn.queue.is_empty() {
            self.refresh_stale(cx, conn);
        }
    }

    /// Changes how often a session is sent presence.
    pub(super) fn set_rate_hint(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        hint: Option<NonZeroU16>,
    ) {
        conn.rate_hint = hint;
        self.refresh_stale(cx, conn);
    }

    /// A rate timer fired: held states go out, presence that was held back is requested anew.
    pub(super) fn rate_due(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        conn.flags.rate_timed = false;
        self.resubmit_states(cx, conn);
        self.refresh_stale(cx, conn);
    }

    /// Tries again what full mailboxes refused.
    pub(super) fn retry_refused(&mut self, cx: &mut ShardContext) {
        for id in std::mem::take(&mut self.retries) {
            self.with(cx, id, |home, cx, conn| {
                conn.flags.retrying = false;
                home.resubmit_states(cx, conn);
                home.refresh_stale(cx, conn);
            });
        }
    }

    /// Requests of the owners what a subscriber or a reader has missed, as far as it can take it
    /// and its rate hint allows.
    pub(super) fn refresh_stale(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if !conn.flags.stale || conn.flags.blocked || !conn.is_open() {
            return;
        }
        conn.flags.stale = false;
        self.read_documents(cx, conn);
        let subscriptions = &conn.warm.subscriptions;
        let missed = subscriptions.iter().filter(|s| s.missed.is_some());
        let missed: Vec<_> =
            missed.map(|s| (s.channel(), s.feed(), conn.next_delivery_ms(s))).collect();
        // Messages and changes are requested of one channel at a time, so that no more than one
        // answer waits for a client that has just begun to read again.
        let mut is_waiting = subscriptions.iter().any(Subscription::is_requested);
        for (slot, feed, due_ms) in missed {
            if feed.kind() != FeedKind::Sets {
                conn.flags.stale = true;
                if !is_waiting {
                    self.request_missed(cx, conn, slot, feed);
                }
                is_waiting = true;
            } else if due_ms > cx.now.mono_ms {
                Receiver { id: conn.id, connection: conn, slot, feed }.miss_set(cx);
            } else {
                if let Some(subscription) = conn.subscription_mut(slot, feed) {
                    subscription.missed = None;
                }
                if !self.keeps_snapshot(slot, feed) || !self.join_sweep(cx, conn, slot, feed) {
                    self.request_snapshot(cx, conn, slot, feed);
                }
            }
        }
    }

    /// Requests the set of members for one subscriber.
    pub(super) fn request_snapshot(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        feed: Feed,
    ) {
        let home = self.channel_id(slot);
        let channel = self.channel(slot);
        let recipients = Recipients::One { conn: conn.id, request: NO_REQUEST };
        let command = Command::Snapshot { feed, home, recipients };
        let (owner, key) = (channel.owner, Arc::clone(&channel.key));
        let envelope = Envelope::Command { from: cx.id, channel: key, command };
        if cx.outbox.try_send(owner, envelope).is_err() {
            Receiver { id: conn.id, connection: conn, slot, feed }.miss_set(cx);
            self.retry_later(conn);
        }
    }

    /// Requests messages or changes that were missed, unless they have been requested.
    fn request_missed(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        feed: Feed,
    ) {
        let (id, home) = (conn.id, self.channel_id(slot));
        let subscription = conn.subscription_mut(slot, feed);
        let Some(missed) = subscription.and_then(|s| s.missed.as_mut()) else { return };
        let command = match &mut **missed {
            Missed::Changes { repair: repair @ Repair::NotRequested, .. } => {
                *repair = Repair::Requested;
                let recipients = Recipients::One { conn: id, request: NO_REQUEST };
                Command::Snapshot { feed, home, recipients }
            }
            Missed::Messages { after, repair: repair @ Repair::NotRequested } => {
                *repair = Repair::Requested;
                Command::CatchUp { home, conn: id, after: *after }
            }
            _ => return,
        };
        self.command_owner(cx, slot, command);
    }
}
