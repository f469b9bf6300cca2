//! Digests of the members of a channel, by which those who look at the presence graph see whether
//! their copy of it is right.
//!
//! Every tick has a version and the number of members; every so often, and then also without any
//! change, the digests of all members. They are made at most once per tick, however many ask.

use std::sync::Arc;

use super::presence::encode_each;
use super::{Owner, send_answer};
use crate::channel::Members;
use crate::counters::Dropped;
use crate::ids::{ChannelKey, ShardId};
use crate::session::{Answer, Feed, FeedSet, SetTick, members_digests, members_that_differ};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Envelope, PresenceTick, ReplyTo};
use crate::shard::timers::Timer;

/// A client that has its copy of the members of a channel compared.
#[derive(Debug)]
pub struct Check {
    shard: ShardId,
    reply_to: ReplyTo,
    /// Digests of the copy.
    copy: Box<[u128]>,
}

impl Owner {
    /// Gives the next tick a version, if peers are sent it, and the digests of all members if they
    /// are due.
    pub(super) fn number_tick(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        if !channel.feeds().contains(Feed::FoonyPeers) {
            return;
        }
        let graph = channel.presence.members_mut().graph_mut(cx.now);
        graph.version += 1;
        graph.digests = None;
        if graph.is_digest_due {
            self.make_digests(cx, slot);
        }
        self.time_digest(cx, slot);
    }

    /// The tick has been made.
    pub(super) fn end_tick(&mut self, slot: u32) {
        if let Some(graph) = &mut self.entry(slot).presence.members_mut().graph {
            graph.is_digest_due = false;
        }
    }

    /// Peers have been sent something: digests follow in time.
    pub(super) fn time_digest(&mut self, cx: &mut ShardContext, slot: u32) {
        let generation = self.channels.generation(slot);
        let channel = self.entry(slot);
        if channel.presence.members().is_empty() {
            return;
        }
        // Also when nothing has happened before: from here on it has an epoch.
        channel.presence.members_mut().graph_mut(cx.now);
        if !std::mem::replace(&mut channel.digest_timed, true) {
            let due_ms = cx.now.mono_ms + cx.limits().peer_digest_ms;
            cx.timers.set(due_ms, Timer::Digest { slot, generation });
        }
    }

    /// The time has come for the digests of all members.
    pub(super) fn digest_due(&mut self, cx: &ShardContext, slot: u32, generation: u32) {
        let Some(channel) = self.channels.get_tenant(slot, generation) else { return };
        channel.digest_timed = false;
        if channel.presence.members().graph.is_some() {
            channel.presence.members_mut().graph_mut(cx.now).is_digest_due = true;
        }
        self.mark_dirty(slot);
    }

    /// Answers those who have their copies compared, and sends the digests of all members if they
    /// are due. Not before the changes that are still to come, which would be in them.
    pub(super) fn flush_digest(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        if channel.presence.has_changes() {
            return;
        }
        let snapshots = channel.snapshots.as_mut();
        let checks = snapshots.map(|snapshots| std::mem::take(&mut snapshots.checks));
        if let Some(checks) = checks.filter(|checks| !checks.is_empty()) {
            self.answer_checks(cx, slot, checks);
        }
        let graph = self.entry(slot).presence.members().graph.as_ref();
        if graph.is_some_and(|graph| graph.is_digest_due) {
            self.send_digests(cx, slot);
        }
    }

    fn send_digests(&mut self, cx: &mut ShardContext, slot: u32) {
        self.make_digests(cx, slot);
        let channel = self.entry(slot);
        let (key, members) = (&channel.key, channel.presence.members());
        let feeds: FeedSet = channel.feeds() & Feed::FoonyPeers;
        let none = SetTick::of(&[], members, 0);
        let encoded = encode_each(feeds, |feed| feed.encode_tick(cx.now, key, members, &none, &[]));
        let tick = Arc::new(PresenceTick { changes: Vec::new(), encoded, except: None });
        let mut is_missed = false;
        for home in channel.homes.iter().filter(|home| home.feeds.contains(Feed::FoonyPeers)) {
            let (to, tick) = (home.home, Arc::clone(&tick));
            let envelope = Envelope::Presence { to, feeds, tick };
            if cx.outbox.try_send(home.shard, envelope).is_err() {
                cx.counters.drop(Dropped::EventMailboxFull);
                is_missed = true;
            }
        }
        channel.presence.members_mut().graph_mut(cx.now).is_digest_due = false;
        if is_missed {
            // Nothing is lost with it: the next one says as much.
            self.time_digest(cx, slot);
        }
    }

    /// A client has its copy compared, once what is still to come has been sent.
    pub(super) fn check(
        &mut self,
        cx: &mut ShardContext,
        shard: ShardId,
        key: &Arc<ChannelKey>,
        reply_to: ReplyTo,
        copy: Box<[u128]>,
    ) {
        cx.counters.peer_checks += 1;
        match self.channels.find_key(key) {
            Some(slot) => {
                let snapshots = self.entry(slot).snapshots.get_or_insert_default();
                snapshots.checks.push(Check { shard, reply_to, copy });
                self.mark_dirty(slot);
            }
            None => {
                let nobody = members_that_differ(cx.now, key, &Members::default(), &copy);
                send_answer(cx, shard, reply_to, key, Answer::Checked(nobody));
            }
        }
    }

    fn answer_checks(&mut self, cx: &mut ShardContext, slot: u32, checks: Vec<Check>) {
        self.make_digests(cx, slot);
        let channel = self.entry(slot);
        let key = Arc::clone(&channel.key);
        for Check { shard, reply_to, copy } in checks {
            let bytes = members_that_differ(cx.now, &key, channel.presence.members(), &copy);
            send_answer(cx, shard, reply_to, &key, Answer::Checked(bytes));
        }
        // Whether the copies are right then.
        self.time_digest(cx, slot);
    }

    fn make_digests(&mut self, cx: &ShardContext, slot: u32) {
        let channel = self.entry(slot);
        let members = channel.presence.members();
        if members.is_empty() || members.graph.as_ref().is_some_and(|g| g.digests.is_some()) {
            return;
        }
        let digests = members_digests(cx.now, &channel.key, members);
        channel.presence.members_mut().graph_mut(cx.now).digests = Some(digests);
    }
}
