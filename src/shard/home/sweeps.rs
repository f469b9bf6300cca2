//! Delivery of snapshots: at once while they are small, else in sweeps over the subscribers, every
//! turn as many bytes as `presence_burst_bytes_max` permits, all sweeps of the shard in turns.

use std::sync::Arc;

use super::Home;
use super::connections::ActiveConnection;
use super::deliver::Receiver;
use super::interest::set_position;
use super::snapshot_sweep::{Next, SnapshotSweep};
use super::subscription::{Missed, Repair};
use crate::counters::Conflated;
use crate::ids::ConnId;
use crate::session::{Answer, Feed, FeedKind, NO_REQUEST};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, HomeChannelId, Recipients, Snapshot};
use crate::shard::timers::Timer;

/// Cost of visiting one subscriber at least, as bytes of the turn's budget.
const VISIT_BYTES: usize = 128;

/// What the timer of a sweep was set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SweepTimer {
    Pause,
    Expiry,
}

impl Home {
    /// A snapshot arrives from the owner of a channel.
    pub(super) fn take_snapshot(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        snapshot: Snapshot,
        recipients: Recipients,
    ) {
        if let Recipients::One { conn, request } = recipients
            && !self.expects_snapshot(cx, to, conn, snapshot.feed, request)
        {
            return;
        }
        if !self.is_current(to) {
            return;
        }
        let (slot, feed) = (to.slot, snapshot.feed);
        let snapshot = self.unshared_snapshot(cx, slot, snapshot);
        let count = match recipients {
            Recipients::One { .. } => 1,
            Recipients::All { .. } | Recipients::Waiting => {
                self.channel(slot).subscribers(feed).len()
            }
        };
        let bytes = snapshot.bytes.len().saturating_mul(count);
        if bytes <= self.snapshot_budget && self.channel(slot).sweep(feed).is_none() {
            self.snapshot_budget -= bytes;
            return self.deliver_now(cx, slot, snapshot, recipients);
        }
        self.enter_sweep(cx, slot, snapshot, recipients);
    }

    /// Prepares one subscriber for a snapshot. False when its subscription has ended, or been
    /// replaced, meanwhile: then the request is answered without one.
    fn expects_snapshot(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        id: ConnId,
        feed: Feed,
        request: u64,
    ) -> bool {
        if feed.kind() != FeedKind::Changes {
            return true;
        }
        let is_current = self.is_current(to);
        let expects = self.with(cx, id, |home, cx, conn| {
            let subscription = conn.subscription(to.slot, feed).filter(|_| is_current);
            let is_wanted =
                subscription.is_some_and(|s| s.position().is_some() || s.awaits(request));
            if !is_wanted || !conn.is_open() {
                home.note_large_answer(cx, conn, request);
                home.answer(cx, conn, request, "", &Answer::Done);
                return false;
            }
            home.activate(conn, to.slot, feed);
            await_snapshot(conn, to.slot, feed, request);
            true
        });
        expects.unwrap_or(false)
    }

    /// Delivers snapshots until this turn's budget is spent.
    pub fn deliver_snapshots(&mut self, cx: &mut ShardContext) {
        let mut left = cx.limits().presence_burst_bytes_max;
        while left > 0 {
            let Some((home, feed)) = self.sweeps.pop_front() else { return };
            if let Some(bytes) = self.deliver_next(cx, home, feed) {
                left = left.saturating_sub(bytes.max(VISIT_BYTES));
                self.sweeps.push_back((home, feed));
            }
        }
    }

    /// A timer of a sweep fired.
    pub(super) fn sweep_due(&mut self, to: HomeChannelId, feed: Feed, timer: SweepTimer) {
        let channel = self.channels.get_tenant(to.slot, to.generation);
        let Some(sweep) = channel.and_then(|channel| channel.sweep_mut(feed)) else { return };
        match timer {
            SweepTimer::Pause => sweep.pausing = false,
            SweepTimer::Expiry => sweep.kept = false,
        }
        self.list_sweep(to.slot, feed);
    }

    /// True while a conflated snapshot is delivered, or kept for those who missed it.
    pub(super) fn keeps_snapshot(&self, slot: u32, feed: Feed) -> bool {
        let sweep = self.channels.get(slot).and_then(|channel| channel.sweep(feed));
        sweep.is_some_and(|sweep| sweep.snapshot().number.is_some())
    }

    /// Lets a subscriber that has missed a snapshot have the one that is being delivered; false
    /// when there is none.
    pub(super) fn join_sweep(
        &mut self,
        cx: &ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        feed: Feed,
    ) -> bool {
        let id = conn.id;
        let Some(position) = conn.subscription(slot, feed).and_then(|s| s.position()) else {
            return false;
        };
        let Home { channels, connections, .. } = self;
        let subscribers = channels.get_mut(slot).and_then(|channel| channel.subscribers_mut(feed));
        let Some((Some(sweep), list)) = subscribers else { return false };
        sweep.include(Home::addr(cx, id));
        sweep.enqueue(list.slots_mut(), position, |tenant, position| {
            if tenant != id.slot {
                set_position(connections, tenant, slot, feed, position);
            } else if let Some(subscription) = conn.subscription_mut(slot, feed) {
                subscription.move_to(position);
            }
        });
        self.list_sweep(slot, feed);
        true
    }

    /// Subscribers have received something that no snapshot on its way to them contains.
    pub(super) fn outdate_snapshot(&mut self, slot: u32, feed: Feed) {
        if let Some(sweep) = self.channels.get_mut(slot).and_then(|c| c.sweep_mut(feed)) {
            sweep.outdate();
        }
    }

    /// Delivers a snapshot at once. Subscribers that cannot take it now can have it for a while.
    fn deliver_now(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        snapshot: Snapshot,
        recipients: Recipients,
    ) {
        let feed = snapshot.feed;
        let mut is_complete = true;
        match recipients {
            Recipients::All { except } => {
                self.each_subscriber(cx, slot, feed, |cx, outgoing, mut receiver, _| {
                    let is_author = except == Some(Home::addr(cx, receiver.id));
                    is_complete &= is_author || receiver.deliver_set(cx, outgoing, &snapshot.bytes);
                    Ok(())
                });
            }
            Recipients::One { conn, .. } => {
                is_complete = self.deliver_to(cx, conn, slot, feed, &snapshot.bytes);
            }
            Recipients::Waiting => {}
        }
        if !is_complete && snapshot.number.is_some() {
            self.enter_sweep(cx, slot, snapshot, Recipients::Waiting);
        }
    }

    /// Delivers a snapshot to one active subscriber; false when it cannot take it now.
    fn deliver_to(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        slot: u32,
        feed: Feed,
        bytes: &Arc<[u8]>,
    ) -> bool {
        let is_delivered = self.with(cx, id, |home, cx, conn| {
            let is_active = conn.subscription(slot, feed).is_some_and(|s| s.position().is_some());
            if !is_active || !conn.is_open() {
                return true;
            }
            let key = Arc::clone(&home.channel(slot).key);
            let mut receiver = Receiver { id, connection: &mut *conn, slot, feed };
            if feed.kind() == FeedKind::Sets {
                return receiver.deliver_set(cx, &mut home.outgoing, bytes);
            }
            match receiver.deliver_members(cx, &mut home.outgoing, &key, bytes) {
                Some(requests) => {
                    for request in requests {
                        home.note_large_answer(cx, conn, request);
                        home.answer(cx, conn, request, &key.name, &Answer::Done);
                    }
                    true
                }
                None => false,
            }
        });
        is_delivered.unwrap_or(true)
    }

    /// The snapshot in memory that no other shard counts references to, copied once.
    fn unshared_snapshot(&mut self, cx: &ShardContext, slot: u32, snapshot: Snapshot) -> Snapshot {
        let channel = self.channel(slot);
        match channel.sweep(snapshot.feed).map(SnapshotSweep::snapshot) {
            _ if channel.owner == cx.id => snapshot,
            Some(known) if snapshot.number.is_some() && known.number == snapshot.number => {
                known.clone()
            }
            _ => Snapshot { bytes: Arc::from(&*snapshot.bytes), ..snapshot },
        }
    }

    /// Gives a snapshot to the sweep of its feed, which begins if there is none.
    fn enter_sweep(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        snapshot: Snapshot,
        recipients: Recipients,
    ) {
        let feed = snapshot.feed;
        let channel = self.channel(slot);
        let len = channel.subscribers(feed).len() as u32;
        if channel.sweep(feed).is_none() {
            channel.set_sweep(feed, Some(SnapshotSweep::new(cx.now, snapshot.clone(), len)));
        }
        let Some(sweep) = channel.sweep_mut(feed) else { return };
        match recipients {
            Recipients::All { except } => {
                let conflated = sweep.publish(snapshot, except, len);
                cx.counters.conflate_many(Conflated::LargeSet, conflated);
            }
            Recipients::Waiting => sweep.replace(snapshot),
            Recipients::One { conn, .. } => {
                sweep.replace(snapshot);
                self.with(cx, conn, |home, cx, conn| home.join_sweep(cx, conn, slot, feed));
            }
        }
        self.list_sweep(slot, feed);
    }

    /// Puts a sweep on the list of those with something to deliver, once.
    fn list_sweep(&mut self, slot: u32, feed: Feed) {
        let to = self.channel_id(slot);
        let sweep = self.channels.get_mut(slot).and_then(|channel| channel.sweep_mut(feed));
        if let Some(sweep) = sweep.filter(|sweep| !sweep.listed) {
            sweep.listed = true;
            self.sweeps.push_back((to, feed));
        }
    }

    /// Takes the next step of a sweep: bytes that were queued, or `None` when it has nothing to
    /// deliver for the time being.
    fn deliver_next(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        feed: Feed,
    ) -> Option<usize> {
        let HomeChannelId { slot, generation } = to;
        let channel = self.channels.get_tenant(slot, generation)?;
        let sweep = channel.sweep_mut(feed)?;
        let next = sweep.next(cx.now);
        if let Next::Deliver { position } = next {
            let (bytes, except) = (Arc::clone(&sweep.snapshot().bytes), sweep.except());
            let tenant = channel.subscribers(feed).get(position as usize).copied();
            let conn = tenant.and_then(|tenant| self.connections.tenant(tenant));
            let is_delivered = conn.is_some_and(|conn| {
                except != Some(Home::addr(cx, conn))
                    && self.deliver_to(cx, conn, slot, feed, &bytes)
            });
            return Some(if is_delivered { bytes.len() } else { 0 });
        }
        sweep.listed = false;
        match next {
            Next::Request => {
                let recipients = Recipients::Waiting;
                self.command_owner(cx, slot, Command::Snapshot { feed, home: to, recipients });
            }
            Next::KeepUntil { due_ms } if due_ms <= cx.now.mono_ms => {
                channel.set_sweep(feed, None);
            }
            Next::KeepUntil { due_ms } if !std::mem::replace(&mut sweep.kept, true) => {
                cx.timers.set(due_ms, Timer::SnapshotExpiry { slot, generation, feed });
            }
            Next::PauseUntil { due_ms } if !std::mem::replace(&mut sweep.pausing, true) => {
                cx.timers.set(due_ms, Timer::SnapshotSweep { slot, generation, feed });
            }
            _ => {}
        }
        None
    }
}

/// Holds changes back from a subscriber until its snapshot has been delivered.
fn await_snapshot(conn: &mut ActiveConnection, slot: u32, feed: Feed, request: u64) {
    conn.flags.stale = true;
    let Some(subscription) = conn.subscription_mut(slot, feed) else { return };
    let missed = subscription.missed.get_or_insert_with(|| Box::new(Missed::no_changes()));
    if let Missed::Changes { requests, repair, .. } = &mut **missed {
        *repair = Repair::Requested;
        if request != NO_REQUEST {
            requests.push(request);
        }
    }
}
