//! Memberships of this home's sessions: entered, refused, ended.

use std::sync::Arc;

use super::Home;
use super::connections::ActiveConnection;
use super::subscription::{LapsedMembership, Membership};
use crate::channel::{LeaveReason, State};
use crate::error::{Disconnect, Reject};
use crate::ids::{ChannelKey, Timestamp};
use crate::session::NO_REQUEST;
use crate::shard::context::ShardContext;
use crate::shard::envelope::{AnnounceReply, Command, HomeChannelId};

/// How members leave when their connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    AtOnce,
    /// It gave no sign of life.
    TimedOut,
    AfterGrace,
    /// The owner knows already.
    Refused,
}

impl Home {
    /// Enters a session into a channel again in which its membership expired while it was silent.
    ///
    /// # Errors
    /// The reason why it may not; nothing has changed then.
    pub(super) fn announce_again(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        lapsed: LapsedMembership,
    ) -> Result<(), Reject> {
        let feed = conn.session().feeds().member;
        let feed = feed.filter(|_| conn.session().principal().is_some());
        let feed = feed.ok_or(Reject::Unauthenticated)?;
        if self.is_member_of(conn, &lapsed.channel) {
            return Ok(());
        }
        if conn.warm.memberships.len() >= conn.session().channels_max(cx.limits()) {
            return Err(Reject::TooManyChannels);
        }
        let slot = self.open_channel(cx, lapsed.channel);
        self.subscribe(cx, conn, slot, feed, NO_REQUEST);
        self.announce_state(cx, conn, slot, lapsed.state, AnnounceReply::Feed(feed));
        Ok(())
    }

    /// Ends a membership, and with it the feed that it brought.
    pub(super) fn leave_and_unsubscribe(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        departure: Departure,
    ) {
        let feed = conn.session().feeds().member;
        let feed = feed.filter(|&feed| conn.is_subscribed(slot, feed));
        self.leave(cx, conn, slot, departure);
        if let Some(feed) = feed {
            self.unsubscribe(cx, conn, slot, feed);
        }
    }

    /// Ends a membership and nothing else; without effect for a session that is no member.
    fn leave(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        departure: Departure,
    ) {
        let at = conn.warm.memberships.iter().position(|m| m.channel == slot);
        let Some(at) = at else { return };
        self.settle_held_update(cx, conn, slot, departure);
        conn.warm.memberships.swap_remove(at);
        let addr = Home::addr(cx, conn.id);
        let leave = |reason| Some(Command::Leave { addr, reason });
        let command = match departure {
            Departure::AtOnce => leave(LeaveReason::Left),
            Departure::TimedOut => leave(LeaveReason::TimedOut),
            Departure::AfterGrace => Some(Command::Linger { addr }),
            Departure::Refused => None,
        };
        if let Some(command) = command {
            self.command_owner(cx, slot, command);
        }
        self.channel(slot).members -= 1;
        self.close_channel_if_unused(slot);
    }

    /// Ends all memberships and subscriptions of a session that goes on, or ends, as `reason` says.
    pub(super) fn leave_all(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        reason: Disconnect,
    ) {
        let departure = match conn.session().keeps_members(reason) {
            true => Departure::AfterGrace,
            false => Departure::AtOnce,
        };
        while let Some(slot) = conn.warm.memberships.last().map(|last| last.channel) {
            self.leave(cx, conn, slot, departure);
        }
        conn.take_cold(|cold| cold.lapsed = Vec::new());
        self.unsubscribe_all(cx, conn);
    }

    /// The owner refused an announcement: the connection is no member after all, unless it has
    /// announced itself again since, which is judged by itself.
    pub(super) fn handle_refused(
        &mut self,
        cx: &mut ShardContext,
        to: HomeChannelId,
        conn: &mut ActiveConnection,
        number: u32,
    ) {
        if !self.is_current(to) || conn.holds_update(to.slot) {
            return;
        }
        if conn.membership_mut(to.slot).is_some_and(|m| m.number == number) {
            self.leave_and_unsubscribe(cx, conn, to.slot, Departure::Refused);
        }
    }

    /// The owner has let a member in, which receives what happens from here on.
    pub(super) fn handle_admitted(&mut self, to: HomeChannelId, conn: &mut ActiveConnection) {
        if !self.is_current(to) || !conn.is_open() {
            return;
        }
        if let Some(feed) = conn.session().feeds().member {
            self.activate(conn, to.slot, feed);
        }
    }

    /// Adds a membership, or replaces the state of the one there is.
    pub(super) fn set_membership(
        &mut self,
        cx: &ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        state: State,
    ) {
        let announced = Timestamp::at(cx.now.mono_ms);
        match conn.membership_mut(slot) {
            Some(membership) => {
                membership.announced = announced;
                membership.state = state;
            }
            None => {
                self.channel(slot).members += 1;
                let membership = Membership { channel: slot, number: 0, announced, state };
                conn.warm.memberships.push(membership);
            }
        }
    }

    pub(super) fn is_member_of(&self, conn: &ActiveConnection, key: &ChannelKey) -> bool {
        self.channels.find_key(key).is_some_and(|slot| conn.is_member(slot))
    }
}

/// Sends a command to the owner of a channel that this home may not have in its table.
pub(super) fn command_for(cx: &mut ShardContext, key: Arc<ChannelKey>, command: Command) {
    let owner = Home::owner_of(cx, &key);
    cx.command(owner, key, command);
}
