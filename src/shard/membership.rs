//! The memberships of this home's sessions: announced to owners, lost, and taken over.

use std::sync::Arc;

use super::Shard;
use super::connection::Session;
use super::envelope::{Command, Envelope, HomeChannelId, ResumedMembership, Welcome};
use super::placement::Placed;
use super::subscription::{LapsedMembership, Membership};
use super::timers::Timer;
use crate::channel::{Identity, State};
use crate::error::{Disconnect, Reject};
use crate::ids::{ChannelKey, ConnAddr, ConnId, Moment, Now, ShardId};
use crate::session::{Feed, Principal};

/// How members leave when their connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    AtOnce,
    AfterGrace,
    /// The owner knows already.
    Refused,
}

impl Shard {
    /// A sync session announces itself in a channel, for the first time or again.
    ///
    /// # Errors
    /// The reason why it may not; nothing has changed then.
    pub(super) fn announce(
        &mut self,
        now: Now,
        id: ConnId,
        channel: &str,
        state: &[u8],
    ) -> Result<Placed, Reject> {
        let (app, feed) = self.check_announce(id, channel, state)?;
        let hash = self.settings.router.hash(&app, channel);
        let known = self.homes.find(&app, channel, hash);
        let slot = match known.filter(|&slot| self.is_subscribed(id, slot, feed)) {
            Some(slot) => slot,
            None => {
                let key = ChannelKey { app, name: channel.into(), hash };
                if let Some(to) = self.better_home(id, &key) {
                    return Ok(Placed::Elsewhere(to));
                }
                self.check_channel_count(id)?;
                let slot = known.unwrap_or_else(|| self.home_open(Arc::new(key)));
                self.subscribe(now, id, slot, feed, 0);
                slot
            }
        };
        let state = State::from_message_pack(bytes::Bytes::copy_from_slice(state));
        self.announce_state(now, id, slot, state, Welcome::Set(feed));
        Ok(Placed::Here)
    }

    /// Enters a session into a channel again that it was taken out of while it was silent.
    ///
    /// # Errors
    /// The reason why it may not; nothing has changed then.
    pub(super) fn announce_again(
        &mut self,
        now: Now,
        id: ConnId,
        lapsed: LapsedMembership,
    ) -> Result<(), Reject> {
        let feed = self.sync_feed_of(id).ok_or(Reject::Unauthenticated)?;
        if self.is_member_of(id, &lapsed.channel) {
            return Ok(());
        }
        self.check_channel_count(id)?;
        let slot = self.home_open(lapsed.channel);
        self.subscribe(now, id, slot, feed, 0);
        self.announce_state(now, id, slot, lapsed.state, Welcome::Set(feed));
        Ok(())
    }

    /// A sync session leaves one channel for good. Nothing happens when it is no member.
    pub(super) fn leave(&mut self, now: Now, id: ConnId, channel: &str) {
        let app = self.app_of(id);
        let hash = self.settings.router.hash(&app, channel);
        if let Some(slot) = self.homes.find(&app, channel, hash) {
            self.quit(now, id, slot, Departure::AtOnce);
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.change_rare(|rare| rare.lapsed.retain(|l| *l.channel.name != *channel));
        }
        self.note_left(id, hash);
    }

    /// Remembers that a session has left, for the memberships that it may still get back.
    fn note_left(&mut self, id: ConnId, hash: u64) {
        let most = self.settings.limits.channels_per_session_max;
        let connection = self.connections.get_mut(id);
        if let Some(connection) = connection.filter(|c| c.resuming().is_some())
            && let Some(resuming) = &mut connection.rare_mut().resuming
            && resuming.left.len() < most
        {
            resuming.left.push(hash);
        }
    }

    /// Ends a membership, and with it the presence feed of a sync session.
    pub(super) fn quit(&mut self, now: Now, id: ConnId, slot: u32, departure: Departure) {
        self.withdraw(now, id, slot, departure);
        if let Some(feed) = self.sync_feed_of_any(id) {
            self.unsubscribe(id, slot, feed);
        }
    }

    /// Ends a membership and nothing else.
    pub(super) fn withdraw(&mut self, now: Now, id: ConnId, slot: u32, departure: Departure) {
        self.settle_held_update(now, id, slot, departure);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let at = connection.details.memberships.iter().position(|m| m.channel == slot);
        let Some(at) = at else { return };
        connection.details.memberships.swap_remove(at);
        let addr = ConnAddr { shard: self.id, conn: id };
        match departure {
            Departure::AtOnce => self.command_home(slot, Command::Leave { addr }),
            Departure::AfterGrace => self.command_home(slot, Command::Linger { addr }),
            Departure::Refused => {}
        }
        if let Some(home) = self.homes.get_mut(slot) {
            home.members -= 1;
        }
        self.close_home_if_unused(slot);
    }

    /// Ends all memberships and subscriptions of a session that goes on, or ends, as `reason` says.
    pub(super) fn leave_all(&mut self, now: Now, id: ConnId, reason: Disconnect) {
        let is_foony = self
            .connections
            .get(id)
            .is_some_and(|connection| matches!(connection.details.session, Session::Foony(_)));
        let departure = match reason {
            Disconnect::Lost | Disconnect::Slow | Disconnect::Replaced => Departure::AfterGrace,
            // The client is about to return with a new token.
            Disconnect::TokenExpired if is_foony => Departure::AfterGrace,
            _ => Departure::AtOnce,
        };
        while let Some(slot) = self.last_membership(id) {
            self.withdraw(now, id, slot, departure);
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.change_rare(|rare| rare.lapsed = Vec::new());
        }
        self.unsubscribe_all(id);
    }

    /// Looks for memberships that an earlier connection of this session lost.
    pub(super) fn resume(&mut self, id: ConnId) {
        let shards = self.settings.router.shards();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let key = connection.principal().and_then(Principal::resume_key);
        let Some(key) = key.map(Arc::new) else { return };
        let resuming = connection.rare_mut().resuming.get_or_insert_default();
        resuming.answers += u32::from(shards);
        resuming.left.clear();
        let greeted_ms = connection.details.greeting.done_ms();
        let addr = ConnAddr { shard: self.id, conn: id };
        for shard in (0..shards).map(ShardId) {
            let key = Arc::clone(&key);
            self.outbox.send(shard, Envelope::Resume { key, addr, greeted_ms });
        }
    }

    /// An owner's answer to a resume: the session is a member again where it was.
    pub(super) fn handle_resumed(
        &mut self,
        now: Now,
        id: ConnId,
        memberships: Vec<ResumedMembership>,
    ) {
        for resumed in memberships {
            let key = &resumed.channel;
            let goes_on = self.is_open(id) && self.is_session(id, key, &resumed.identity);
            match goes_on {
                _ if self.has_left(id, key) => self.forgo(id, resumed.channel),
                true => self.take_over(now, id, resumed),
                false => self.give_back(id, resumed.channel),
            }
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.change_rare(|rare| {
            let Some(resuming) = &mut rare.resuming else { return };
            resuming.answers -= 1;
            if resuming.answers == 0 {
                rare.resuming = None;
            }
        });
    }

    /// The owner refused an announcement: the connection is no member after all, unless it has
    /// announced itself again since, which will be judged by itself.
    pub(super) fn handle_refused(&mut self, now: Now, to: HomeChannelId, id: ConnId, number: u32) {
        if self.homes.get_tenant(to.slot, to.generation).is_none() {
            return;
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let holds_update = connection.holds_update(to.slot);
        let membership = connection.membership_mut(to.slot);
        if membership.is_some_and(|m| m.number == number && !holds_update) {
            self.quit(now, id, to.slot, Departure::Refused);
        }
    }

    /// The owner has let a member in: it is shown what happens from here on.
    pub(super) fn handle_admitted(&mut self, to: HomeChannelId, id: ConnId) {
        if self.homes.get_tenant(to.slot, to.generation).is_some()
            && let Some(feed) = self.sync_feed_of(id)
        {
            self.admit(id, to.slot, feed);
        }
    }

    pub(super) fn retry_later(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.flags.retrying
        {
            connection.flags.retrying = true;
            self.retries.push(id);
        }
    }

    pub(super) fn set_pace_timer(&mut self, id: ConnId, due_ms: u64) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.flags.pacing {
            connection.flags.pacing = true;
            self.timers.set(due_ms, Timer::Pace { conn: id });
        }
    }

    fn check_announce(
        &self,
        id: ConnId,
        channel: &str,
        state: &[u8],
    ) -> Result<(Arc<str>, Feed), Reject> {
        let feed = self.sync_feed_of(id).ok_or(Reject::Unauthenticated)?;
        if channel.is_empty() || channel.len() > self.settings.limits.channel_name_bytes_max {
            return Err(Reject::ChannelName);
        }
        if state.len() > self.settings.limits.state_bytes_max {
            return Err(Reject::StateTooLarge);
        }
        Ok((self.app_of(id), feed))
    }

    fn check_channel_count(&self, id: ConnId) -> Result<(), Reject> {
        let count = self.connections.get(id).map_or(0, |c| c.details.memberships.len());
        if count >= self.settings.limits.channels_per_session_max {
            return Err(Reject::TooManyChannels);
        }
        Ok(())
    }

    /// Adds a membership, or replaces the state of the one there is.
    pub(super) fn set_membership(&mut self, now: Now, id: ConnId, slot: u32, state: State) {
        let (Some(home), Some(connection)) =
            (self.homes.get_mut(slot), self.connections.get_mut(id))
        else {
            return;
        };
        let announced = Moment::at(now.mono_ms);
        match connection.membership_mut(slot) {
            Some(membership) => {
                membership.announced = announced;
                membership.state = state;
            }
            None => {
                home.members += 1;
                let membership = Membership { channel: slot, number: 0, announced, state };
                connection.details.memberships.push(membership);
            }
        }
    }

    /// The presence feed of a sync session, whether or not it is open and greeted.
    fn sync_feed_of_any(&self, id: ConnId) -> Option<Feed> {
        match &self.connections.get(id)?.details.session {
            Session::Sync(session) => Some(session.feed()),
            _ => None,
        }
    }

    fn last_membership(&self, id: ConnId) -> Option<u32> {
        Some(self.connections.get(id)?.details.memberships.last()?.channel)
    }

    fn is_open(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.is_open())
    }

    fn take_over(&mut self, now: Now, id: ConnId, resumed: ResumedMembership) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Session::Sync(session) = &mut connection.details.session else { return };
        session.adopt_identity(resumed.identity);
        let feed = session.feed();
        let slot = self.home_open(resumed.channel);
        // A state that the session has announced since it asked is newer.
        if !self.connections.get(id).is_some_and(|connection| connection.is_member(slot)) {
            self.set_membership(now, id, slot, resumed.state);
        }
        if !self.is_subscribed(id, slot, feed) {
            self.subscribe(now, id, slot, feed, 0);
        }
        self.admit(id, slot, feed);
        self.request_snapshot(now, id, slot, feed);
    }

    /// The session has left the channel since it asked, and not entered it again.
    fn has_left(&self, id: ConnId, key: &ChannelKey) -> bool {
        let resuming = self.connections.get(id).and_then(|c| c.resuming());
        let left = resuming.is_some_and(|resuming| resuming.left.contains(&key.hash));
        left && !self.is_member_of(id, key)
    }

    fn is_member_of(&self, id: ConnId, key: &ChannelKey) -> bool {
        let slot = self.homes.find_key(key);
        let connection = self.connections.get(id);
        slot.zip(connection).is_some_and(|(slot, connection)| connection.is_member(slot))
    }

    /// The connection's session is still the one that asked.
    fn is_session(&self, id: ConnId, key: &ChannelKey, identity: &Identity) -> bool {
        let principal = self.connections.get(id).and_then(|connection| connection.principal());
        principal.is_some_and(|principal| {
            principal.grant.app == key.app && principal.identity.is_same_session(identity)
        })
    }

    fn forgo(&mut self, id: ConnId, key: Arc<ChannelKey>) {
        let owner = self.settings.router.shard_of(&key);
        let addr = ConnAddr { shard: self.id, conn: id };
        self.command(owner, key, Command::Leave { addr });
    }

    /// The session that asked is gone; its memberships linger once more. Where the connection has
    /// entered as somebody else, the owner has made room for it.
    fn give_back(&mut self, id: ConnId, key: Arc<ChannelKey>) {
        if self.is_member_of(id, &key) {
            return;
        }
        let owner = self.settings.router.shard_of(&key);
        let addr = ConnAddr { shard: self.id, conn: id };
        self.command(owner, key, Command::Linger { addr });
    }
}
