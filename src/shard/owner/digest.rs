//! Digests of the members of a channel, by which those who look at the presence graph see whether
//! their copy of it is right.
//!
//! Every tick has a version and the number of members; every so often, and then also without any
//! change, the digests of all members.

use std::sync::Arc;

use super::channel_entry::OwnedChannel;
use super::presence::encode_each;
use super::{Owner, send_answer};
use crate::channel::Members;
use crate::counters::Dropped;
use crate::ids::{ChannelKey, ShardId};
use crate::session::{Answer, Feed, FeedSet, SetTick, check_members};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Envelope, PresenceTick, ReplyTo};
use crate::shard::timers::Timer;

impl Owner {
    /// Peers have been sent something: digests follow in time.
    pub(super) fn time_digest(&mut self, cx: &mut ShardContext, slot: u32) {
        let generation = self.channels.generation(slot);
        let graph = self.entry(slot).presence.members_mut().graph_mut(cx.now);
        if !std::mem::replace(&mut graph.is_digest_timed, true) {
            let due_ms = cx.now.mono_ms + cx.limits().peer_digest_ms;
            cx.timers.set(due_ms, Timer::Digest { slot, generation });
        }
    }

    /// The time has come for the digests of all members.
    pub(super) fn digest_due(&mut self, cx: &ShardContext, slot: u32, generation: u32) {
        let Some(channel) = self.channels.get_tenant(slot, generation) else { return };
        if channel.presence.members().graph.is_some() {
            let graph = channel.presence.members_mut().graph_mut(cx.now);
            (graph.is_digest_timed, graph.is_digest_due) = (false, true);
            self.mark_dirty(slot);
        }
    }

    /// Sends the digests of all members if they are due, and no changes will bring them.
    pub(super) fn flush_digest(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        let is_due = |members: &Members| members.graph.as_ref().is_some_and(|g| g.is_digest_due);
        if !is_due(channel.presence.members()) || channel.presence.has_changes() {
            return;
        }
        let (key, members) = (&channel.key, channel.presence.members());
        let feeds: FeedSet = channel.feeds() & Feed::FoonyPeers;
        let none = SetTick::of(&[], members, 0);
        let encoded = encode_each(feeds, |feed| feed.encode_tick(cx.now, key, members, &none, &[]));
        let tick = Arc::new(PresenceTick { changes: Vec::new(), encoded, except: None });
        for home in channel.homes.iter().filter(|home| home.feeds.contains(Feed::FoonyPeers)) {
            let (to, tick) = (home.home, Arc::clone(&tick));
            // A home that misses it is sent the next one.
            if cx.outbox.try_send(home.shard, Envelope::Presence { to, feeds, tick }).is_err() {
                cx.counters.drop(Dropped::EventMailboxFull);
            }
        }
        channel.presence.members_mut().graph_mut(cx.now).is_digest_due = false;
    }

    /// Sends a client what differs from its copy of the members.
    pub(super) fn check(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        reply_to: ReplyTo,
        copy: &[u128],
    ) {
        let slot = self.channels.find_key(key);
        let none = Members::default();
        let members = slot.map_or(&none, |slot| self.entry(slot).presence.members());
        let is_empty = members.is_empty();
        let answer = Answer::Checked(check_members(cx.now, key, members, copy));
        cx.counters.peer_checks += 1;
        send_answer(cx, from, reply_to, key, answer);
        // Whether the copy is right now.
        if let Some(slot) = slot.filter(|_| !is_empty) {
            self.time_digest(cx, slot);
        }
    }
}

impl OwnedChannel {
    /// Gives the next tick a version, if peers are sent it; true if so.
    pub fn number_tick(&mut self, cx: &ShardContext) -> bool {
        let is_sent = self.feeds().contains(Feed::FoonyPeers);
        if is_sent {
            self.presence.members_mut().graph_mut(cx.now).version += 1;
        }
        is_sent
    }
}
