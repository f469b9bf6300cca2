//! The home's half of a shard: which of its connections subscribe to which channels.

use std::sync::Arc;

use super::Shard;
use super::connection::{Connections, Session};
use super::envelope::{Command, Envelope, HomeChannelId};
use super::subscription::Subscription;
use super::tables::HomeChannel;
use crate::ids::{ChannelKey, ConnId, Now, ShardId};
use crate::session::Feed;

impl Shard {
    /// The app of a greeted session; empty before.
    pub(super) fn app_of(&self, id: ConnId) -> Arc<str> {
        let principal = self.connections.get(id).and_then(|connection| connection.principal());
        principal.map_or_else(|| Arc::from(""), |principal| Arc::clone(&principal.grant.app))
    }

    /// The presence feed of a greeted sync session.
    pub(super) fn sync_feed_of(&self, id: ConnId) -> Option<Feed> {
        let connection = self.connections.get(id).filter(|connection| connection.is_open())?;
        match &connection.details.session {
            Session::Sync(session) if session.principal().is_some() => Some(session.feed()),
            _ => None,
        }
    }

    pub(super) fn is_attached(&self, id: ConnId, slot: u32) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.is_attached(slot))
    }

    pub(super) fn is_subscribed(&self, id: ConnId, slot: u32, feed: Feed) -> bool {
        self.connections.get(id).is_some_and(|c| c.subscription(slot, feed).is_some())
    }

    pub(super) fn home_open(&mut self, key: Arc<ChannelKey>) -> u32 {
        if let Some(slot) = self.homes.find_key(&key) {
            return slot;
        }
        let owner = self.settings.router.shard_of(&key);
        let policy = Arc::clone(self.settings.policies.for_channel(&key.name));
        self.homes.insert(HomeChannel::new(key, owner, policy))
    }

    pub(super) fn home_id(&self, slot: u32) -> HomeChannelId {
        HomeChannelId { slot, generation: self.homes.generation(slot) }
    }

    pub(super) fn close_home_if_unused(&mut self, slot: u32) {
        if self.homes.get(slot).is_some_and(HomeChannel::is_unused) {
            self.homes.remove(slot);
        }
    }

    pub(super) fn command(&mut self, owner: ShardId, channel: Arc<ChannelKey>, command: Command) {
        self.outbox.send(owner, Envelope::Command { from: self.id, channel, command });
    }

    /// Sends a command to the owner of a channel in this home's table.
    pub(super) fn command_home(&mut self, slot: u32, command: Command) {
        if let Some((owner, key)) = self.homes.get(slot).map(|h| (h.owner, Arc::clone(&h.key))) {
            self.command(owner, key, command);
        }
    }

    /// Adds a subscription that nothing is delivered to yet, and tells the owner if it is the first
    /// one of its feed.
    pub(super) fn subscribe(&mut self, now: Now, id: ConnId, slot: u32, feed: Feed, request: u64) {
        let home_id = self.home_id(slot);
        let (Some(home), Some(connection)) =
            (self.homes.get_mut(slot), self.connections.get_mut(id))
        else {
            return;
        };
        connection.details.subscriptions.push(Subscription::new(slot, feed, request));
        let count = home.begin_subscription(feed);
        self.counters.subscriptions += 1;
        if count == 1 {
            self.command_home(slot, Command::Subscribe { feed, home: home_id });
        }
        self.update_heat(slot);
        self.connections.set_check(id, now.mono_ms);
    }

    /// From here on a subscription is delivered to.
    pub(super) fn admit(&mut self, id: ConnId, slot: u32, feed: Feed) {
        let connection = self.connections.get_mut(id);
        let subscription = connection.and_then(|c| c.subscription_mut(slot, feed));
        let (Some(subscription), Some(home)) = (subscription, self.homes.get_mut(slot)) else {
            return;
        };
        if subscription.place().is_none()
            && let Some(list) = home.subscribers_mut(feed)
        {
            subscription.admit(list.push(id.slot));
        }
    }

    /// Removes a subscription, and tells the owner if it was the last one of its feed.
    pub(super) fn unsubscribe(&mut self, id: ConnId, slot: u32, feed: Feed) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let at = connection.details.subscriptions.iter().position(|s| s.is_to(slot, feed));
        let Some(at) = at else { return };
        let gone = connection.details.subscriptions.swap_remove(at);
        if let Some(place) = gone.place() {
            self.vacate(slot, feed, place);
        }
        self.counters.subscriptions -= 1;
        let Some(home) = self.homes.get_mut(slot) else { return };
        if home.end_subscription(feed) == 0 {
            self.command_home(slot, Command::Unsubscribe { feed });
        }
        self.update_heat(slot);
        self.close_home_if_unused(slot);
    }

    /// Removes all subscriptions of a session that goes on, or ends.
    pub(super) fn unsubscribe_all(&mut self, id: ConnId) {
        while let Some((slot, feed)) = self.last_subscription(id) {
            self.unsubscribe(id, slot, feed);
        }
    }

    fn last_subscription(&self, id: ConnId) -> Option<(u32, Feed)> {
        let last = self.connections.get(id)?.details.subscriptions.last()?;
        Some((last.channel(), last.feed()))
    }

    /// Puts the subscribers of a feed in the order of their connections in memory, if they are many
    /// and in disorder. Not those of sets: their order tells who has been shown which.
    pub(super) fn tidy_subscribers(&mut self, slot: u32, feed: Feed) {
        let Shard { homes, connections, .. } = self;
        let Some(home) = homes.get_mut(slot) else { return };
        if Feed::PRESENCE_SETS.contains(feed)
            || !home.subscribers_mut(feed).is_some_and(|l| l.tidy())
        {
            return;
        }
        for (place, &tenant) in home.subscribers(feed).iter().enumerate() {
            set_place(connections, tenant, slot, feed, place as u32);
        }
    }

    /// Takes one out of the list of subscribers; the last one takes its place.
    fn vacate(&mut self, slot: u32, feed: Feed, place: u32) {
        let Shard { homes, connections, .. } = self;
        let Some((round, list)) = homes.get_mut(slot).and_then(|home| home.audience_of(feed))
        else {
            return;
        };
        let moved = |tenant, place| set_place(connections, tenant, slot, feed, place);
        match round {
            Some(round) => {
                round.forget(list.slots_mut(), place, moved);
                list.pop();
            }
            None => {
                if let Some(tenant) = list.swap_remove(place) {
                    set_place(connections, tenant, slot, feed, place);
                }
            }
        }
    }
}

/// Tells a connection where it stands in the list of a channel's subscribers.
pub(super) fn set_place(
    connections: &mut Connections,
    tenant: u32,
    channel: u32,
    feed: Feed,
    place: u32,
) {
    let connection = connections.tenant(tenant).and_then(|id| connections.get_mut(id));
    if let Some(subscription) = connection.and_then(|c| c.subscription_mut(channel, feed)) {
        subscription.move_to(place);
    }
}
