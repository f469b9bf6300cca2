//! Which connections of this home subscribe to which channels, and what owners know of it.

use std::sync::Arc;

use super::Home;
use super::channel_entry::HomeChannel;
use super::connections::{ActiveConnection, Connections};
use super::subscription::Subscription;
use crate::ids::ChannelKey;
use crate::session::Feed;
use crate::shard::context::ShardContext;
use crate::shard::envelope::Command;
use crate::shard::inspection::Subscribers;

impl Home {
    pub(super) fn open_channel(&mut self, cx: &ShardContext, key: Arc<ChannelKey>) -> u32 {
        if let Some(slot) = self.channels.find_key(&key) {
            return slot;
        }
        let owner = Home::owner_of(cx, &key);
        let policy = Arc::clone(cx.settings.policies.for_channel(&key.name));
        self.channels.insert(HomeChannel::new(key, owner, policy))
    }

    pub(super) fn close_channel_if_unused(&mut self, slot: u32) {
        if self.channel(slot).is_unused() {
            self.channels.remove(slot);
        }
    }

    /// Sends a command to the owner of a channel in this home's table.
    pub(super) fn command_owner(&mut self, cx: &mut ShardContext, slot: u32, command: Command) {
        let channel = self.channel(slot);
        let (owner, key) = (channel.owner, Arc::clone(&channel.key));
        cx.command(owner, key, command);
    }

    /// Adds an inactive subscription. The owner learns of the first one of its feed.
    pub(super) fn subscribe(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        feed: Feed,
        request: u64,
    ) {
        conn.warm.subscriptions.push(Subscription::new(slot, feed, request));
        cx.counters.subscriptions += 1;
        if self.channel(slot).add_subscription(feed) == 1 {
            let home = self.channel_id(slot);
            self.command_owner(cx, slot, Command::Subscribe { feed, home });
        }
        self.update_channel_load(cx, slot);
        self.note_recount(slot);
        self.connections.set_check(conn.id, cx.now.mono_ms);
    }

    /// The subscribers of a channel may be others in number than the owner knows.
    pub(super) fn note_recount(&mut self, slot: u32) {
        if self.channel(slot).policy.occupancy_interval_ms > 0 {
            self.recounted.push(slot);
        }
    }

    /// Tells owners how many subscribers their channels have here, as far as that has changed. That
    /// there are none any more they know by the end of the feeds.
    pub fn send_counts(&mut self, cx: &mut ShardContext) {
        let mut recounted = std::mem::take(&mut self.recounted);
        recounted.sort_unstable();
        recounted.dedup();
        for slot in recounted.drain(..) {
            let Some(channel) = self.channels.get(slot) else { continue };
            let mut subscribers = Subscribers::default();
            channel.subscriptions().for_each(|(feed, count)| subscribers.count(feed, count));
            self.command_owner(cx, slot, Command::Count(subscribers));
        }
        self.recounted = recounted;
    }

    /// From here on a subscription is delivered to.
    pub(super) fn activate(&mut self, conn: &mut ActiveConnection, slot: u32, feed: Feed) {
        let id = conn.id;
        let Some(subscription) = conn.subscription_mut(slot, feed) else { return };
        if subscription.position().is_some() {
            return;
        }
        match self.channel(slot).subscribers_mut(feed) {
            Some((_, list)) => subscription.activate(list.push(id.slot)),
            None => panic!("{id:?} is no subscriber of {feed:?} of channel {slot}"),
        }
    }

    /// Removes a subscription. The owner learns of the last one of its feed.
    pub(super) fn unsubscribe(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        slot: u32,
        feed: Feed,
    ) {
        let at = conn.warm.subscriptions.iter().position(|s| s.is_to(slot, feed));
        let Some(at) = at else { return };
        let gone = conn.warm.subscriptions.swap_remove(at);
        if let Some(position) = gone.position() {
            self.remove_subscriber(slot, feed, position);
        }
        cx.counters.subscriptions -= 1;
        if gone.missed.is_some() {
            let key = Arc::clone(&self.channel(slot).key);
            self.answer_unserved(cx, conn, &key.name, gone.missed);
        }
        if self.channel(slot).remove_subscription(feed) == 0 {
            self.command_owner(cx, slot, Command::Unsubscribe { feed });
        }
        self.update_channel_load(cx, slot);
        self.note_recount(slot);
        self.close_channel_if_unused(slot);
    }

    /// Removes all subscriptions of a session that goes on, or ends.
    pub(super) fn unsubscribe_all(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        while let Some((slot, feed)) =
            conn.warm.subscriptions.last().map(|last| (last.channel(), last.feed()))
        {
            self.unsubscribe(cx, conn, slot, feed);
        }
    }

    /// Puts the subscribers of a feed in the order of their connections in memory, if they are many
    /// and in disorder. Not while a sweep depends on their order.
    pub(super) fn sort_subscribers(&mut self, slot: u32, feed: Feed) {
        let Home { channels, connections, .. } = self;
        let Some(channel) = channels.get_mut(slot) else { return };
        let Some((None, list)) = channel.subscribers_mut(feed) else { return };
        if !list.sort_for_locality() {
            return;
        }
        for (position, &tenant) in channel.subscribers(feed).iter().enumerate() {
            set_position(connections, tenant, slot, feed, position as u32);
        }
    }

    /// Takes one out of the list of subscribers; another one takes its position.
    fn remove_subscriber(&mut self, slot: u32, feed: Feed, position: u32) {
        let Home { channels, connections, .. } = self;
        let subscribers = channels.get_mut(slot).and_then(|channel| channel.subscribers_mut(feed));
        let Some((sweep, list)) = subscribers else {
            panic!("no subscribers of {feed:?} of channel {slot}");
        };
        let moved = |tenant, position| set_position(connections, tenant, slot, feed, position);
        match sweep {
            Some(sweep) => {
                sweep.remove(list.slots_mut(), position, moved);
                list.pop();
            }
            None => {
                if let Some(tenant) = list.swap_remove(position) {
                    set_position(connections, tenant, slot, feed, position);
                }
            }
        }
    }
}

/// Tells a connection its position in the list of a channel's subscribers.
pub(super) fn set_position(
    connections: &mut Connections,
    tenant: u32,
    channel: u32,
    feed: Feed,
    position: u32,
) {
    let connection = connections.tenant_mut(tenant).map(|(_, connection)| connection);
    match connection.and_then(|c| c.subscription_mut(channel, feed)) {
        Some(subscription) => subscription.move_to(position),
        None => panic!("slot {tenant} is no subscriber of {feed:?} of channel {channel}"),
    }
}
