//! States of this home's members on their way to the owners: at the rate that a connection is
//! allowed, and as far as mailboxes have room. What may not be sent yet is held, newest state only,
//! so that the last state always arrives.

use std::sync::Arc;

use super::Shard;
use super::envelope::{Announcement, Command, Welcome};
use super::membership::Departure;
use super::subscription::HeldUpdate;
use crate::channel::State;
use crate::counters::{Conflated, Dropped};
use crate::ids::{ConnAddr, ConnId, Now};
use crate::session::Answer;

impl Shard {
    /// A session announces its state in a channel, for the first time or again.
    pub(super) fn announce_state(
        &mut self,
        now: Now,
        id: ConnId,
        slot: u32,
        state: State,
        welcome: Welcome,
    ) {
        self.counters.presence_updates += 1;
        self.set_membership(now, id, slot, state);
        self.submit_state(now, id, slot, welcome);
    }

    /// Sends what was held, as far as mailboxes and allowances permit.
    pub(super) fn resubmit_states(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let held = connection.change_rare(|rare| std::mem::take(&mut rare.held_updates));
        for update in held.unwrap_or_default() {
            self.submit_state(now, id, update.channel, update.welcome);
        }
    }

    /// The membership of a held update ends. A member that keeps its place for a grace keeps it
    /// with its newest state; a request for anything else has been superseded.
    pub(super) fn settle_held_update(
        &mut self,
        now: Now,
        id: ConnId,
        slot: u32,
        departure: Departure,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(welcome) = connection.take_held_update(slot) else { return };
        match departure {
            Departure::AfterGrace => self.send_state(id, slot, welcome),
            Departure::AtOnce | Departure::Refused => self.acknowledge(now, id, slot, welcome),
        }
    }

    /// Sends the newest state to the owner, or holds it until it may be sent. What the mailbox
    /// cannot take costs no allowance, however often it is tried. Requests wait for room in the
    /// outbox.
    fn submit_state(&mut self, now: Now, id: ConnId, slot: u32, welcome: Welcome) {
        let Some(owner) = self.homes.get(slot).map(|home| home.owner) else { return };
        if matches!(welcome, Welcome::Set(_)) && !self.outbox.has_room(owner) {
            self.counters.drop(Dropped::RequestMailboxFull);
            self.hold_update(now, id, slot, welcome);
            return self.retry_later(id);
        }
        if !self.spend_update_credit(now, id) {
            self.hold_update(now, id, slot, welcome);
            return self.set_pace_timer(id, (now.mono_ms / 1000 + 1) * 1000);
        }
        let connection = self.connections.get_mut(id);
        if let Some(superseded) = connection.and_then(|c| c.take_held_update(slot)) {
            self.supersede(now, id, slot, superseded);
        }
        self.send_state(id, slot, welcome);
    }

    fn hold_update(&mut self, now: Now, id: ConnId, slot: u32, welcome: Welcome) {
        let update = HeldUpdate { channel: slot, welcome };
        let connection = self.connections.get_mut(id);
        if let Some(superseded) = connection.and_then(|c| c.rare_mut().hold_update(update)) {
            self.supersede(now, id, slot, superseded);
        }
    }

    /// A held update is replaced by a newer one.
    fn supersede(&mut self, now: Now, id: ConnId, slot: u32, welcome: Welcome) {
        self.counters.conflate(Conflated::UpdateRate);
        self.acknowledge(now, id, slot, welcome);
    }

    /// Answers the request of an update that no longer has to be carried out.
    fn acknowledge(&mut self, now: Now, id: ConnId, slot: u32, welcome: Welcome) {
        let Welcome::Answer(request) = welcome else { return };
        let Some(key) = self.homes.get(slot).map(|home| Arc::clone(&home.key)) else { return };
        self.answer(now, id, request, &key.name, &Answer::Done);
    }

    fn send_state(&mut self, id: ConnId, slot: u32, welcome: Welcome) {
        let home = self.home_id(slot);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(principal) = connection.principal() else { return };
        let identity = Arc::clone(&principal.identity);
        self.announcements = self.announcements.wrapping_add(1);
        let (number, greeted_ms) = (self.announcements, connection.details.greeting.done_ms());
        let Some(membership) = connection.membership_mut(slot) else { return };
        membership.number = number;
        let state = membership.state.clone();
        let addr = ConnAddr { shard: self.id, conn: id };
        let announcement =
            Announcement { addr, home, identity, greeted_ms, state, number, welcome };
        self.command_home(slot, Command::Announce(Box::new(announcement)));
    }

    /// Takes one update off the connection's allowance of this second.
    fn spend_update_credit(&mut self, now: Now, id: ConnId) -> bool {
        let most = self.settings.limits.updates_per_second_max;
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let second = (now.mono_ms / 1000) as u32;
        if connection.credit_second != second {
            connection.credit_second = second;
            connection.update_credit = most;
        }
        if connection.update_credit == 0 {
            return false;
        }
        connection.update_credit -= 1;
        true
    }
}
