//! States of this home's members on their way to the owners: at the rate that a connection is
//! allowed, and as far as mailboxes have room. What may not be sent yet is held, newest state only,
//! so that the last state always arrives.

use std::sync::Arc;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use super::membership::Departure;
use super::subscription::HeldUpdate;
use crate::channel::{Peer, State};
use crate::counters::{Conflated, Dropped};
use crate::ids::ConnId;
use crate::session::{Answer, NO_REQUEST};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{AnnounceReply, Announcement, Command};
use crate::shard::timers::Timer;

impl Home {
    /// A session announces its state in a channel, for the first time or again.
    pub(super) fn announce_state(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        state: State,
        reply: AnnounceReply,
    ) {
        cx.counters.presence_updates += 1;
        self.set_membership(cx, conn, slot, state);
        self.submit_state(cx, conn, slot, reply);
    }

    /// A session is another peer from here on, in all channels that it is a member of.
    pub(super) fn change_peer(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        peer: &Arc<Peer>,
    ) {
        self.set_asks(cx, conn, peer);
        let slots = conn.warm.memberships.iter().map(|membership| membership.channel);
        for slot in slots.collect::<Vec<_>>() {
            let Some(membership) = conn.membership_mut(slot) else { continue };
            let state = membership.state.clone().of_peer(Arc::clone(peer));
            self.announce_state(cx, conn, slot, state, AnnounceReply::Answer(NO_REQUEST));
        }
    }

    /// Sends what was held, as far as mailboxes and rate limits permit.
    pub(super) fn resubmit_states(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let held = conn.take_cold(|cold| std::mem::take(&mut cold.held_updates));
        for update in held.unwrap_or_default() {
            self.submit_state(cx, conn, update.channel, update.reply);
        }
    }

    /// The membership of a held update ends. A member that keeps its place for a grace keeps it
    /// with its newest state; a request for anything else has been superseded.
    pub(super) fn settle_held_update(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        departure: Departure,
    ) {
        let Some(reply) = conn.take_held_update(slot) else { return };
        match departure {
            Departure::AfterGrace => self.send_state(cx, conn, slot, reply),
            Departure::AtOnce | Departure::TimedOut | Departure::Refused => {
                self.acknowledge(cx, conn, slot, reply)
            }
        }
    }

    /// Sends the newest state to the owner, or holds it until it may be sent. What the mailbox
    /// cannot take does not count against the rate limit. Requests with an answer wait for room in
    /// the outbox.
    fn submit_state(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        reply: AnnounceReply,
    ) {
        let owner = self.channel(slot).owner;
        if matches!(reply, AnnounceReply::Feed(_)) && !cx.outbox.has_room(owner) {
            cx.counters.drop(Dropped::RequestMailboxFull);
            self.hold_update(cx, conn, slot, reply);
            return self.retry_later(conn);
        }
        if !spend_update_credit(cx, conn) {
            self.hold_update(cx, conn, slot, reply);
            return set_rate_timer(cx, conn.id, conn, (cx.now.mono_ms / 1000 + 1) * 1000);
        }
        if let Some(superseded) = conn.take_held_update(slot) {
            self.supersede(cx, conn, slot, superseded);
        }
        self.send_state(cx, conn, slot, reply);
    }

    fn hold_update(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        reply: AnnounceReply,
    ) {
        let update = HeldUpdate { channel: slot, reply };
        if let Some(superseded) = conn.cold_mut().hold_update(update) {
            self.supersede(cx, conn, slot, superseded);
        }
    }

    /// A held update is replaced by a newer one.
    fn supersede(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        reply: AnnounceReply,
    ) {
        cx.counters.conflate(Conflated::UpdateRate);
        self.acknowledge(cx, conn, slot, reply);
    }

    /// Answers the request of an update that no longer has to be carried out.
    fn acknowledge(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        reply: AnnounceReply,
    ) {
        if let AnnounceReply::Answer(request) = reply {
            let key = Arc::clone(&self.channel(slot).key);
            self.answer(cx, conn, request, &key.name, &Answer::Done);
        }
    }

    fn send_state(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        reply: AnnounceReply,
    ) {
        let Some(principal) = conn.session().principal() else { return };
        let identity = Arc::clone(&principal.identity);
        self.announcements = self.announcements.wrapping_add(1);
        let (number, greeted_ms) = (self.announcements, conn.warm.auth.done_ms());
        let addr = Home::addr(cx, conn.id);
        let Some(membership) = conn.membership_mut(slot) else {
            panic!("{addr:?} announces a state as no member of channel {slot}");
        };
        membership.number = number;
        let state = membership.state.clone();
        let home = self.channel_id(slot);
        let announcement = Announcement { addr, home, identity, greeted_ms, state, number, reply };
        self.command_owner(cx, slot, Command::Announce(Box::new(announcement)));
    }
}

/// Takes one update off the connection's allowance of this second.
fn spend_update_credit(cx: &ShardContext, conn: &mut ActiveConnection) -> bool {
    let second = (cx.now.mono_ms / 1000) as u32;
    if conn.credit_second != second {
        conn.credit_second = second;
        conn.update_credit = cx.limits().updates_per_second_max;
    }
    if conn.update_credit == 0 {
        return false;
    }
    conn.update_credit -= 1;
    true
}

pub(super) fn set_rate_timer(
    cx: &mut ShardContext,
    id: ConnId,
    connection: &mut Connection,
    due_ms: u64,
) {
    if !connection.flags.rate_timed {
        connection.flags.rate_timed = true;
        cx.timers.set(due_ms, Timer::Rate { conn: id });
    }
}
