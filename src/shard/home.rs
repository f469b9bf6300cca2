//! The home's half of a shard: its connections' subscriptions, and fan-out to them.

use std::sync::Arc;

use bytes::Bytes;

use super::Shard;
use super::connection::{FirstMessage, Move, Phase, Session, Subscription};
use super::envelope::{Command, Effect, Envelope, Heat, HomeChannelId, PresenceTick};
use super::tables::HomeChannel;
use super::timers::Timer;
use crate::channel::Identity;
use crate::counters::{Conflated, Dropped, Ignored};
use crate::error::{Disconnect, Reject};
use crate::ids::{ChannelKey, ConnAddr, ConnId, Now, ShardId};
use crate::policy::Heartbeat;
use crate::session::{Feed, FeedSet, Pace};

/// Whether a request was carried out here, or the connection takes it to another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Here,
    Elsewhere(ShardId),
}

/// How members leave when their connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    AtOnce,
    AfterGrace,
}

impl Shard {
    /// A session announces itself in a channel, for the first time or again.
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
        let slot = match known.filter(|&slot| self.is_subscribed(id, slot)) {
            Some(slot) => slot,
            None => {
                let key = ChannelKey { app, name: channel.into(), hash };
                if let Some(to) = self.better_home(id, &key) {
                    return Ok(Placed::Elsewhere(to));
                }
                self.check_channel_count(id)?;
                let slot = known.unwrap_or_else(|| self.home_open(Arc::new(key)));
                self.subscribe(now, id, slot, feed);
                slot
            }
        };
        self.counters.presence_updates += 1;
        if let Some(subscription) =
            self.connections.get_mut(id).and_then(|c| c.subscription_mut(slot))
        {
            subscription.announced_ms = now.mono_ms;
        }
        self.submit_state(now, id, slot, Bytes::copy_from_slice(state));
        Ok(Placed::Here)
    }

    /// A session leaves one channel for good. Nothing happens when it is no member.
    pub(super) fn leave(&mut self, id: ConnId, channel: &str) {
        let app = self.app_of(id);
        let hash = self.settings.router.hash(&app, channel);
        if let Some(slot) = self.homes.find(&app, channel, hash) {
            self.unsubscribe(id, slot, Some(Departure::AtOnce));
        }
        let most = self.settings.limits.channels_per_session_max;
        let connection = self.connections.get_mut(id);
        if let Some(resuming) = connection.and_then(|c| c.resuming.as_mut())
            && resuming.left.len() < most
        {
            resuming.left.push(hash);
        }
    }

    /// Ends all memberships of a session that goes on, or ends, as `reason` says.
    pub(super) fn leave_all(&mut self, id: ConnId, reason: Disconnect) {
        let departure = match reason {
            Disconnect::Lost | Disconnect::Slow => Departure::AfterGrace,
            _ => Departure::AtOnce,
        };
        while let Some(slot) = self.last_channel(id) {
            self.unsubscribe(id, slot, Some(departure));
        }
    }

    /// Looks for memberships that an earlier connection of this session lost.
    pub(super) fn resume(&mut self, id: ConnId) {
        let shards = self.settings.router.shards();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let key = connection.principal().and_then(|principal| principal.resume_key()).cloned();
        let Some(key) = key.map(Arc::new) else { return };
        let resuming = connection.resuming.get_or_insert_default();
        resuming.answers += u32::from(shards);
        resuming.left.clear();
        let addr = ConnAddr { shard: self.id, conn: id };
        for shard in (0..shards).map(ShardId) {
            self.outbox.send(shard, Envelope::Resume { key: Arc::clone(&key), addr });
        }
    }

    /// An owner's answer to a resume: the session is a member again where it was.
    pub(super) fn handle_resumed(
        &mut self,
        now: Now,
        id: ConnId,
        memberships: Vec<(Arc<ChannelKey>, Arc<Identity>)>,
    ) {
        for (key, identity) in memberships {
            match self.feed_of(id).filter(|_| self.is_session(id, &identity)) {
                _ if self.has_left(id, &key) => self.forgo(id, key),
                Some(feed) => self.take_over(now, id, key, identity, feed),
                None => self.give_back(id, key),
            }
        }
        if let Some(connection) = self.connections.get_mut(id)
            && let Some(resuming) = &mut connection.resuming
        {
            resuming.answers -= 1;
            if resuming.answers == 0 {
                connection.resuming = None;
            }
        }
    }

    /// Delivers a tick to every local subscriber, each feed the same bytes.
    pub(super) fn deliver_tick(
        &mut self,
        now: Now,
        to: HomeChannelId,
        feeds: FeedSet,
        tick: &PresenceTick,
    ) {
        let encoded = Feed::ENCODED.into_iter().enumerate();
        for (list, feed) in encoded.filter(|(_, feed)| feeds.contains(*feed)) {
            let Some(bytes) = &tick.encoded[feed as usize] else { continue };
            let Some(home) = self.homes.get_tenant(to.slot, to.generation) else { return };
            let subscribers = std::mem::take(&mut home.subscribers[list]);
            for &slot in &subscribers {
                let Some(conn) = self.connections.tenant(slot) else { continue };
                if tick.except != Some(ConnAddr { shard: self.id, conn }) {
                    self.deliver(now, conn, to.slot, bytes);
                }
            }
            if let Some(home) = self.homes.get_tenant(to.slot, to.generation) {
                home.subscribers[list] = subscribers;
            }
        }
    }

    /// Delivers the present set to one subscriber.
    pub(super) fn deliver_snapshot(&mut self, now: Now, to: HomeChannelId, id: ConnId, set: Bytes) {
        let present = self.homes.get_tenant(to.slot, to.generation).is_some();
        if present && self.is_subscribed(id, to.slot) {
            self.deliver(now, id, to.slot, &set);
        }
    }

    /// The owner refused an announcement: the connection is no member after all, unless it has
    /// announced itself again since, which will be judged by itself.
    pub(super) fn handle_refused(
        &mut self,
        to: HomeChannelId,
        id: ConnId,
        number: u32,
        reject: Reject,
    ) {
        self.counters.ignore(Ignored::Refused(reject));
        if self.homes.get_tenant(to.slot, to.generation).is_none() {
            return;
        }
        let connection = self.connections.get_mut(id);
        let subscription = connection.and_then(|c| c.subscription_mut(to.slot));
        if subscription.is_some_and(|s| s.number == number && s.unsent_state.is_none()) {
            self.unsubscribe(id, to.slot, None);
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

    /// Asks the owners for the present sets that a subscriber has missed, as far as it can take
    /// them and its pace allows.
    pub(super) fn refresh_stale(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.flags.stale || connection.flags.blocked || !connection.is_open() {
            return;
        }
        connection.flags.stale = false;
        let connection = &*connection;
        let stale = connection.subscriptions.iter().filter(|s| s.stale);
        let stale: Vec<_> = stale.map(|s| (s.channel, s.feed, connection.due_ms(s))).collect();
        for (slot, feed, due_ms) in stale {
            if due_ms > now.mono_ms {
                self.mark_stale(now, id, slot);
            } else {
                self.set_fresh(id, slot);
                self.request_snapshot(now, id, slot, feed);
            }
        }
    }

    fn set_fresh(&mut self, id: ConnId, slot: u32) {
        let connection = self.connections.get_mut(id);
        if let Some(subscription) = connection.and_then(|c| c.subscription_mut(slot)) {
            subscription.stale = false;
        }
    }

    /// The app of a greeted session; empty before.
    fn app_of(&self, id: ConnId) -> Arc<str> {
        let principal = self.connections.get(id).and_then(|connection| connection.principal());
        principal.map_or_else(|| Arc::from(""), |principal| Arc::clone(&principal.app))
    }

    fn feed_of(&self, id: ConnId) -> Option<Feed> {
        let connection = self.connections.get(id).filter(|connection| connection.is_open())?;
        match &connection.session {
            Session::Sync(session) if session.principal().is_some() => Some(session.feed()),
            _ => None,
        }
    }

    fn check_announce(
        &self,
        id: ConnId,
        channel: &str,
        state: &[u8],
    ) -> Result<(Arc<str>, Feed), Reject> {
        let feed = self.feed_of(id).ok_or(Reject::Unauthenticated)?;
        if channel.is_empty() || channel.len() > self.settings.limits.channel_name_bytes_max {
            return Err(Reject::ChannelName);
        }
        if state.len() > self.settings.limits.state_bytes_max {
            return Err(Reject::StateTooLarge);
        }
        Ok((self.app_of(id), feed))
    }

    fn check_channel_count(&self, id: ConnId) -> Result<(), Reject> {
        let count = self.connections.get(id).map_or(0, |c| c.subscriptions.len());
        if count >= self.settings.limits.channels_per_session_max {
            return Err(Reject::TooManyChannels);
        }
        Ok(())
    }

    fn is_subscribed(&self, id: ConnId, slot: u32) -> bool {
        let connection = self.connections.get(id);
        connection.is_some_and(|c| c.subscriptions.iter().any(|s| s.channel == slot))
    }

    fn last_channel(&self, id: ConnId) -> Option<u32> {
        Some(self.connections.get(id)?.subscriptions.last()?.channel)
    }

    /// The owner of a connection's first channel, when the connection should move there.
    fn better_home(&mut self, id: ConnId, key: &ChannelKey) -> Option<ShardId> {
        let owner = self.settings.router.shard_of(key);
        let connection = self.connections.get(id)?;
        let may_move = connection.subscriptions.is_empty()
            && connection.resuming.is_none()
            && !connection.flags.settled
            && !connection.flags.blocked;
        if may_move && self.should_move(owner, key.hash) { Some(owner) } else { None }
    }

    /// Whether a connection whose channel has this owner and hash should leave this shard.
    pub(super) fn should_move(&mut self, owner: ShardId, hash: u64) -> bool {
        if owner == self.id || self.hot.contains(&hash) || self.is_overloaded(owner) {
            return false;
        }
        if !self.outbox.has_room(owner) {
            self.counters.drop(Dropped::HandoffMailboxFull);
            return false;
        }
        true
    }

    /// More connections than the mean of all shards allows.
    fn is_overloaded(&self, shard: ShardId) -> bool {
        const SLACK: u64 = 64;
        let shards = u64::from(self.settings.router.shards());
        let all: u64 = self.loads.iter().map(|&load| u64::from(load)).sum();
        let percent = u64::from(self.settings.limits.home_overload_percent);
        let most = (all / shards + SLACK) * (100 + percent) / 100;
        self.loads.get(shard.index()).is_some_and(|&load| u64::from(load) >= most)
    }

    /// Begins a hand-off; `first` is what the new home must act on.
    pub(super) fn begin_move(&mut self, id: ConnId, to: ShardId, first: Option<FirstMessage>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.phase = Phase::Moving(Box::new(Move { to, first }));
        self.outbox.effect(Effect::Detach { conn: id });
    }

    fn home_open(&mut self, key: Arc<ChannelKey>) -> u32 {
        if let Some(slot) = self.homes.find_key(&key) {
            return slot;
        }
        let owner = self.settings.router.shard_of(&key);
        let policy = Arc::clone(self.settings.policies.for_channel(&key.name));
        self.homes.insert(HomeChannel::new(key, owner, policy))
    }

    fn home_id(&self, slot: u32) -> HomeChannelId {
        HomeChannelId { slot, generation: self.homes.generation(slot) }
    }

    /// Adds a subscriber, and tells the owner if it is the first one of its feed.
    fn subscribe(&mut self, now: Now, id: ConnId, slot: u32, feed: Feed) {
        let home_id = self.home_id(slot);
        let (Some(home), Some(connection)) =
            (self.homes.get_mut(slot), self.connections.get_mut(id))
        else {
            return;
        };
        let list = &mut home.subscribers[feed as usize];
        connection.subscriptions.push(Subscription {
            channel: slot,
            place: list.len() as u32,
            feed,
            announced_ms: now.mono_ms,
            number: 0,
            shown_ms: 0,
            admitted: false,
            stale: false,
            unsent_state: None,
        });
        list.push(id.slot);
        self.counters.subscriptions += 1;
        if list.len() == 1 {
            let (owner, key) = (home.owner, Arc::clone(&home.key));
            self.command(owner, key, Command::Subscribe { feed, home: home_id });
        }
        self.update_heat(slot);
        self.connections.set_check(id, now.mono_ms);
    }

    /// Removes a subscriber, and its membership when `departure` says how.
    fn unsubscribe(&mut self, id: ConnId, slot: u32, departure: Option<Departure>) {
        let Some(feed) = self.remove_subscription(id, slot) else { return };
        self.counters.subscriptions -= 1;
        let Some(home) = self.homes.get(slot) else { return };
        let (owner, key) = (home.owner, Arc::clone(&home.key));
        let (last_of_feed, last) =
            (home.subscribers[feed as usize].is_empty(), home.subscriber_count() == 0);
        let addr = ConnAddr { shard: self.id, conn: id };
        match departure {
            Some(Departure::AtOnce) => self.command(owner, key.clone(), Command::Leave { addr }),
            Some(Departure::AfterGrace) => {
                self.command(owner, key.clone(), Command::Linger { addr });
            }
            None => {}
        }
        if last_of_feed {
            self.command(owner, key, Command::Unsubscribe { feed });
        }
        self.update_heat(slot);
        if last {
            self.homes.remove(slot);
        }
    }

    fn remove_subscription(&mut self, id: ConnId, slot: u32) -> Option<Feed> {
        let connection = self.connections.get_mut(id)?;
        let at = connection.subscriptions.iter().position(|s| s.channel == slot)?;
        let gone = connection.subscriptions.swap_remove(at);
        if connection.subscriptions.is_empty() {
            connection.subscriptions = Vec::new();
        }
        let list = &mut self.homes.get_mut(slot)?.subscribers[gone.feed as usize];
        list.swap_remove(gone.place as usize);
        let moved = list.get(gone.place as usize).and_then(|&slot| self.connections.tenant(slot));
        let moved = moved.and_then(|id| self.connections.get_mut(id));
        if let Some(moved) = moved.and_then(|connection| connection.subscription_mut(slot)) {
            moved.place = gone.place;
        }
        Some(gone.feed)
    }

    /// Tells the other shards when a channel owned here becomes hot, or normal again.
    fn update_heat(&mut self, slot: u32) {
        let limit = self.settings.limits.home_subscribers_max as usize;
        let Some(home) = self.homes.get_mut(slot) else { return };
        let count = home.subscriber_count();
        let hot = if home.hot { count > limit / 2 } else { count > limit };
        if home.owner != self.id || hot == home.hot {
            return;
        }
        home.hot = hot;
        let hash = home.key.hash;
        let heat = if hot { Heat::Hot } else { Heat::Normal };
        for shard in (0..self.settings.router.shards()).map(ShardId) {
            self.outbox.send(shard, Envelope::Heat { hash, heat });
        }
    }

    fn command(&mut self, owner: ShardId, channel: Arc<ChannelKey>, command: Command) {
        self.outbox.send(owner, Envelope::Command { from: self.id, channel, command });
    }

    /// Sends a state to the owner, or keeps it as the newest one until it may be sent. What the
    /// mailbox cannot take costs no allowance, however often it is tried.
    fn submit_state(&mut self, now: Now, id: ConnId, slot: u32, state: Bytes) {
        let Some(owner) = self.homes.get(slot).map(|home| home.owner) else { return };
        if !self.outbox.has_room(owner) {
            self.counters.drop(Dropped::RequestMailboxFull);
            self.hold_state(id, slot, state);
            self.retry_later(id);
        } else if self.spend_update_credit(now, id) {
            self.send_state(id, slot, state);
        } else {
            self.counters.conflate(Conflated::UpdateRate);
            self.hold_state(id, slot, state);
            self.set_pace_timer(id, (now.mono_ms / 1000 + 1) * 1000);
        }
    }

    fn send_state(&mut self, id: ConnId, slot: u32, state: Bytes) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(principal) = connection.principal() else { return };
        let identity = Arc::clone(&principal.identity);
        let Some(home) = self.homes.get(slot) else { return };
        connection.announcements = connection.announcements.wrapping_add(1);
        let number = connection.announcements;
        let Some(subscription) = connection.subscription_mut(slot) else { return };
        subscription.unsent_state = None;
        subscription.number = number;
        let feed = subscription.feed;
        let addr = ConnAddr { shard: self.id, conn: id };
        let command = Command::Announce { addr, identity, state, feed, number };
        let (owner, channel) = (home.owner, Arc::clone(&home.key));
        self.command(owner, channel, command);
    }

    fn retry_later(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.flags.retrying
        {
            connection.flags.retrying = true;
            self.retries.push(id);
        }
    }

    fn hold_state(&mut self, id: ConnId, slot: u32, state: Bytes) {
        let connection = self.connections.get_mut(id);
        if let Some(subscription) = connection.and_then(|c| c.subscription_mut(slot)) {
            subscription.unsent_state = Some(state);
        }
    }

    fn resubmit_states(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let held: Vec<_> = connection
            .subscriptions
            .iter_mut()
            .filter_map(|s| s.unsent_state.take().map(|state| (s.channel, state)))
            .collect();
        for (slot, state) in held {
            self.submit_state(now, id, slot, state);
        }
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

    fn set_pace_timer(&mut self, id: ConnId, due_ms: u64) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.flags.pacing {
            connection.flags.pacing = true;
            self.timers.set(due_ms, Timer::Pace { conn: id });
        }
    }

    fn take_over(
        &mut self,
        now: Now,
        id: ConnId,
        key: Arc<ChannelKey>,
        identity: Arc<Identity>,
        feed: Feed,
    ) {
        if let Some(connection) = self.connections.get_mut(id)
            && let Session::Sync(session) = &mut connection.session
        {
            session.adopt_identity(identity);
        }
        let slot = self.home_open(key);
        if !self.is_subscribed(id, slot) {
            self.subscribe(now, id, slot, feed);
        }
        self.admit(id, slot);
        self.request_snapshot(now, id, slot, feed);
    }

    /// The owner has let a member in: it is shown what happens from here on.
    pub(super) fn handle_admitted(&mut self, to: HomeChannelId, id: ConnId) {
        if self.homes.get_tenant(to.slot, to.generation).is_some() {
            self.admit(id, to.slot);
        }
    }

    fn admit(&mut self, id: ConnId, slot: u32) {
        let connection = self.connections.get_mut(id);
        if let Some(subscription) = connection.and_then(|c| c.subscription_mut(slot)) {
            subscription.admitted = true;
        }
    }

    /// The session has left the channel since it asked, and not entered it again.
    fn has_left(&self, id: ConnId, key: &ChannelKey) -> bool {
        let resuming = self.connections.get(id).and_then(|c| c.resuming.as_ref());
        let left = resuming.is_some_and(|resuming| resuming.left.contains(&key.hash));
        let slot = self.homes.find_key(key);
        left && !slot.is_some_and(|slot| self.is_subscribed(id, slot))
    }

    /// The connection's session is still the one that asked.
    fn is_session(&self, id: ConnId, identity: &Identity) -> bool {
        let principal = self.connections.get(id).and_then(|connection| connection.principal());
        principal.is_some_and(|principal| principal.identity.is_same_session(identity))
    }

    fn forgo(&mut self, id: ConnId, key: Arc<ChannelKey>) {
        let owner = self.settings.router.shard_of(&key);
        let addr = ConnAddr { shard: self.id, conn: id };
        self.command(owner, key, Command::Leave { addr });
    }

    /// The session that asked is gone; its memberships linger once more. Where the connection has
    /// entered as somebody else, the owner has made room for it.
    fn give_back(&mut self, id: ConnId, key: Arc<ChannelKey>) {
        if self.homes.find_key(&key).is_some_and(|slot| self.is_subscribed(id, slot)) {
            return;
        }
        let owner = self.settings.router.shard_of(&key);
        let addr = ConnAddr { shard: self.id, conn: id };
        self.command(owner, key, Command::Linger { addr });
    }

    fn request_snapshot(&mut self, now: Now, id: ConnId, slot: u32, feed: Feed) {
        let home_id = self.home_id(slot);
        let Some(home) = self.homes.get(slot) else { return };
        let command = Command::Snapshot { feed, home: home_id, conn: id };
        let channel = Arc::clone(&home.key);
        let envelope = Envelope::Command { from: self.id, channel, command };
        if self.outbox.try_send(home.owner, envelope).is_err() {
            self.mark_stale(now, id, slot);
            self.retry_later(id);
        }
    }

    /// Queues presence for one subscriber, or notes that it missed some.
    fn deliver(&mut self, now: Now, id: ConnId, slot: u32, bytes: &Bytes) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        if !connection.subscription_mut(slot).is_some_and(|subscription| subscription.admitted) {
            return;
        }
        let most = self.settings.limits.send_queue_bytes_max;
        let full = !connection.queue.is_empty() && connection.queue.len() + bytes.len() > most;
        let unable = connection.flags.blocked || full;
        if unable || !connection.may_show(now.mono_ms, slot) {
            let reason = if unable { Conflated::SlowReceiver } else { Conflated::Throttled };
            self.counters.conflate(reason);
            return self.mark_stale(now, id, slot);
        }
        connection.queue.push(bytes.clone());
        self.counters.deliveries += 1;
        self.mark_connection_dirty(id);
    }

    /// Notes that a subscriber missed something; its pace may demand a timer to make good for it.
    fn mark_stale(&mut self, now: Now, id: ConnId, slot: u32) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.flags.stale = true;
        let Some(subscription) = connection.subscription_mut(slot) else { return };
        subscription.stale = true;
        let shown_ms = subscription.shown_ms;
        if let Pace::Every(ms) = connection.pace {
            self.set_pace_timer(id, (shown_ms + ms).max(now.mono_ms + 1));
        }
    }

    /// Ends memberships whose connection has shown no sign of life for the channel's TTL. Returns
    /// when the next one could end.
    pub(super) fn expire_memberships(&mut self, now: Now, id: ConnId) -> u64 {
        let mut expired = Vec::new();
        let mut next_ms = u64::MAX;
        let Some(connection) = self.connections.get(id) else { return next_ms };
        for subscription in &connection.subscriptions {
            let Some(home) = self.homes.get(subscription.channel) else { continue };
            let alive_ms = match home.policy.heartbeat {
                Heartbeat::AnyFrame => connection.heard_ms.max(subscription.announced_ms),
                Heartbeat::Update => subscription.announced_ms,
            };
            let due_ms = alive_ms + home.policy.presence_ttl_ms;
            if due_ms <= now.mono_ms {
                expired.push(subscription.channel);
            } else {
                next_ms = next_ms.min(due_ms);
            }
        }
        for slot in expired {
            self.counters.expired_members += 1;
            self.unsubscribe(id, slot, Some(Departure::AtOnce));
        }
        next_ms
    }
}
