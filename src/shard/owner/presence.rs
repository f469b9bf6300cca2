//! Members of owned channels: announced, leaving, in grace; and the ticks that tell homes of it.

use std::sync::Arc;

use super::channel_entry::OwnedChannel;
use super::events::tells;
use super::lost_members::LostMember;
use super::presence_history::events_of;
use super::{Owner, send_answer};
use crate::channel::{
    Announced, Author, Change, ChangeKind, LeaveReason, Part, ResumeKey, SessionName,
};
use crate::counters::{Conflated, Dropped, Ignored};
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ShardId, Timestamp};
use crate::policy::WebhookEvent;
use crate::session::{Answer, Encoded, Feed, FeedSet, NO_REQUEST, SetTick};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{
    AnnounceReply, Announcement, Envelope, PresenceTick, Recipients, ReplyTo, ResumedMembership,
    SessionNotice,
};
use crate::shard::timers::Timer;
use crate::shard::trace::Traced;

impl Owner {
    /// A session has returned. A device gets back the memberships it lost here. A session that is
    /// known by its connection enters again by itself: what it lost keeps its place for one more
    /// grace.
    pub fn handle_resume(&mut self, cx: &mut ShardContext, key: &ResumeKey, to: ConnAddr) {
        let lost = self.claim_lost(cx, key, |_| true);
        let memberships = match key.session {
            SessionName::Device(_) => self.resume(cx, lost, to),
            SessionName::Connection(_) => {
                for lost in lost {
                    self.begin_grace(cx, lost.slot, lost.generation, lost.addr);
                }
                Vec::new()
            }
        };
        let resumed = Envelope::Resumed { conn: to.conn, memberships, is_answer: true };
        cx.outbox.send(to.shard, resumed);
    }

    /// A device that enters a channel in which it has lost its place gets that back. The question
    /// of its home, which goes by the registry, may arrive later.
    fn resume_entering(&mut self, cx: &mut ShardContext, slot: u32, new: &Announcement) {
        if self.lost.len() == 0 {
            return;
        }
        let channel = self.entry(slot);
        if channel.presence.members().contains(new.addr) {
            return;
        }
        let key = new.identity.resume_key(&channel.key.app);
        let Some(key) = key.filter(|key| matches!(key.session, SessionName::Device(_))) else {
            return;
        };
        let generation = self.channels.generation(slot);
        let is_here = |lost: &LostMember| (lost.slot, lost.generation) == (slot, generation);
        let lost = self.claim_lost(cx, &key, is_here);
        let memberships = self.resume(cx, lost, new.addr);
        if !memberships.is_empty() {
            let conn = new.addr.conn;
            let resumed = Envelope::Resumed { conn, memberships, is_answer: false };
            cx.outbox.send(new.addr.shard, resumed);
        }
    }

    fn claim_lost(
        &mut self,
        cx: &mut ShardContext,
        key: &ResumeKey,
        is_wanted: impl Fn(&LostMember) -> bool,
    ) -> Vec<LostMember> {
        let lost = self.lost.claim(key, is_wanted);
        if !lost.is_empty() {
            self.note_if_none_lost(cx, key);
        }
        lost
    }

    /// Lost members of this session have been claimed, or their grace is over.
    fn note_if_none_lost(&self, cx: &mut ShardContext, key: &ResumeKey) {
        if !self.lost.has(key) {
            notify_registry(cx, key, SessionNotice::NoneLost { owner: cx.id });
        }
    }

    fn resume(
        &mut self,
        cx: &mut ShardContext,
        lost: Vec<LostMember>,
        to: ConnAddr,
    ) -> Vec<ResumedMembership> {
        let mut memberships = Vec::new();
        for lost in lost {
            let Some(channel) = self.channels.get_tenant(lost.slot, lost.generation) else {
                continue;
            };
            if let Some(member) = channel.presence.resume(lost.addr, to) {
                memberships.push(ResumedMembership {
                    channel: Arc::clone(&channel.key),
                    identity: Arc::clone(&member.identity),
                    state: member.state.clone(),
                });
                channel.record_peer_change(to);
                self.mark_dirty(lost.slot);
            } else if channel.presence.leave_if_lost(lost.addr).is_some() {
                // A session that was lost twice lingers twice; it gets one place back.
                cx.counters.members -= 1;
                self.mark_dirty(lost.slot);
            }
        }
        cx.counters.resumed_members += memberships.len() as u64;
        memberships
    }

    pub(super) fn announce(
        &mut self,
        cx: &mut ShardContext,
        key: &Arc<ChannelKey>,
        mut new: Announcement,
    ) {
        let opened = self.fit_metadata(cx, key, &mut new).and_then(|()| self.open(cx, key));
        let slot = match opened {
            Ok(slot) => slot,
            Err(reject) => return refuse_announcement(cx, key, &new, reject),
        };
        self.resume_entering(cx, slot, &new);
        let presence = &mut self.entry(slot).presence;
        if presence.remove_other_session(new.addr, &new.identity).is_some() {
            cx.counters.members -= 1;
        }
        let done = match presence.is_superseded(new.addr, &new.identity, new.greeted_ms) {
            true => Ok(Announced::Updated),
            false => {
                let (state, limits) = (new.state.clone(), &cx.settings.limits);
                presence.announce(cx.now, new.addr, &new.identity, state, limits)
            }
        };
        presence.set_session_start(new.addr, new.greeted_ms);
        match done {
            Ok(Announced::Entered) => cx.counters.members += 1,
            Ok(Announced::TookOver) => {
                cx.counters.resumed_members += 1;
                self.entry(slot).record_peer_change(new.addr);
                self.list_next(slot);
            }
            _ => {}
        }
        self.mark_dirty(slot);
        self.answer_announcement(cx, slot, key, &new, done);
    }

    /// A namespace may allow less metadata than the session that took it: a member keeps what it
    /// had, anyone else is refused.
    fn fit_metadata(
        &mut self,
        cx: &ShardContext,
        key: &ChannelKey,
        new: &mut Announcement,
    ) -> Result<(), Reject> {
        let Some(peer) = new.state.peer() else { return Ok(()) };
        let policy = cx.settings.policies.for_channel(&key.name);
        if peer.metadata.len() <= policy.peer_metadata_max_bytes as usize {
            return Ok(());
        }
        let slot = self.channels.find_key(key);
        let member = slot.and_then(|slot| self.entry(slot).presence.members().find(new.addr));
        let known = member.and_then(|member| member.state.peer()).ok_or(Reject::StateTooLarge)?;
        let peer = Arc::new(peer.with_metadata_of(known));
        new.state = new.state.clone().of_peer(peer);
        Ok(())
    }

    fn answer_announcement(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        key: &Arc<ChannelKey>,
        new: &Announcement,
        done: Result<Announced, Reject>,
    ) {
        let channel = self.entry(slot);
        let (shard, conn, to) = (new.addr.shard, new.addr.conn, new.home);
        let is_member = channel.presence.members().contains(new.addr);
        let is_alone = channel.presence.members().len() == 1;
        // A tick brings its newcomers the set, too, but they would wait long for a conflated one.
        let is_early = channel.conflates_snapshots() && !withholds_set(channel);
        match (done, new.reply) {
            (Err(reject), _) if !is_member => refuse_announcement(cx, key, new, reject),
            (Err(reject), AnnounceReply::Feed(_)) => {
                cx.counters.ignore(Ignored::Refused(reject));
            }
            (Ok(Announced::Updated), AnnounceReply::Feed(_)) => {}
            (Ok(entered), AnnounceReply::Feed(feed)) => {
                // Known already, unless there was no room for the channel when the home said so.
                channel.subscribe(shard, feed, to);
                cx.outbox.send(shard, Envelope::Admitted { to, conn });
                let needs_set = match entered {
                    Announced::TookOver => !is_alone,
                    _ => is_early,
                };
                if needs_set {
                    let recipients = Recipients::One { conn, request: NO_REQUEST };
                    self.queue_snapshot(slot, shard, feed, to, recipients);
                }
            }
            (done, AnnounceReply::Answer(request)) => {
                let answer = done.map_or_else(Answer::Refused, |_| Answer::Done);
                send_answer(cx, shard, ReplyTo::Session { conn, request }, key, answer);
            }
        }
    }

    pub(super) fn leave(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        addr: ConnAddr,
        reason: LeaveReason,
    ) {
        let Some(slot) = self.channels.find_key(key) else { return };
        if self.entry(slot).presence.leave(addr, reason).is_some() {
            cx.counters.members -= 1;
            self.mark_dirty(slot);
        }
    }

    pub(super) fn linger(&mut self, cx: &mut ShardContext, key: &ChannelKey, addr: ConnAddr) {
        let Some(slot) = self.channels.find_key(key) else { return };
        match self.entry(slot).policy.presence_grace_ms {
            0 => self.leave(cx, key, addr, LeaveReason::Lost),
            _ => self.begin_grace(cx, slot, self.channels.generation(slot), addr),
        }
    }

    fn begin_grace(&mut self, cx: &mut ShardContext, slot: u32, generation: u32, addr: ConnAddr) {
        let Some(channel) = self.channels.get_tenant(slot, generation) else { return };
        let until_ms = cx.now.mono_ms + channel.policy.presence_grace_ms;
        if !channel.presence.start_grace(addr, until_ms) {
            return;
        }
        channel.record_peer_change(addr);
        let member = channel.presence.members().find(addr);
        let resume = member.and_then(|member| member.identity.resume_key(&channel.key.app));
        if let Some(key) = &resume
            && !self.lost.has(key)
        {
            notify_registry(cx, key, SessionNotice::Lost { owner: cx.id });
        }
        let grace = self.lost.insert(LostMember { slot, generation, addr, resume });
        cx.timers.set(until_ms, Timer::Grace { grace });
        self.mark_dirty(slot);
    }

    /// The grace of a lost member is over, unless it came back.
    pub(super) fn end_grace(&mut self, cx: &mut ShardContext, grace: u64) {
        let Some(lost) = self.lost.remove(grace) else { return };
        if let Some(key) = &lost.resume {
            self.note_if_none_lost(cx, key);
        }
        let Some(channel) = self.channels.get_tenant(lost.slot, lost.generation) else { return };
        if channel.presence.expire(cx.now, lost.addr) {
            cx.counters.members -= 1;
            cx.counters.expired_members += 1;
            self.mark_dirty(lost.slot);
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        from: ShardId,
        feed: Feed,
    ) {
        if let Some(slot) = self.channels.find_key(key) {
            self.entry(slot).unsubscribe(from, feed);
            self.note_occupancy(slot);
            self.follow(cx, slot);
            self.close_if_unused(slot);
        }
    }

    /// Routes changes, unless the last ones were too recent, and the snapshots that are due.
    pub(super) fn flush_presence(&mut self, cx: &mut ShardContext, slot: u32) {
        self.entry(slot).update_conflation(cx.limits());
        self.repair_stale_homes(cx, slot);
        self.flush_changes(cx, slot);
        self.flush_digest(cx, slot);
        self.flush_snapshots(cx, slot);
    }

    fn flush_changes(&mut self, cx: &mut ShardContext, slot: u32) {
        let generation = self.channels.generation(slot);
        let channel = self.entry(slot);
        if !channel.presence.has_changes() {
            return;
        }
        let interval_ms = channel.policy.presence_interval_ms;
        let due_ms = channel.flushed.map_or(0, |flushed| flushed.ms() + interval_ms);
        if cx.now.mono_ms < due_ms {
            if !channel.timed {
                channel.timed = true;
                cx.timers.set(due_ms, Timer::Flush { slot, generation });
            }
            cx.counters.conflate(Conflated::Interval);
            return;
        }
        self.settle_edges(cx, slot);
        let channel = self.entry(slot);
        channel.flushed = Some(Timestamp::at(cx.now.mono_ms));
        if channel.is_snapshot_pending() {
            cx.counters.conflate(Conflated::LargeSet);
        }
        self.number_tick(cx, slot);
        let Tick { tick, count, events, told } = make_tick(cx, self.entry(slot));
        let tick = Arc::new(tick);
        self.log_presence(cx, slot, events);
        self.tell_changes(cx, slot, told);
        self.end_tick(slot);
        if !tick.is_empty() {
            cx.counters.presence_ticks += 1;
            self.route_tick(cx, slot, &tick);
            let channel = self.entry(slot);
            let homes = channel.homes.len();
            cx.trace(&channel.key, || Traced::Routed { what: "presence", count, homes });
        }
    }

    /// Sends one tick to every interested shard.
    fn route_tick(&mut self, cx: &mut ShardContext, slot: u32, tick: &Arc<PresenceTick>) {
        let departures_max = cx.limits().members_per_channel_max;
        let mut missed = false;
        for home in self.entry(slot).homes.iter_mut() {
            let (to, feeds) = (home.home, home.feeds & Feed::PRESENCE);
            if feeds.is_empty() {
                continue;
            }
            let envelope = Envelope::Presence { to, feeds, tick: Arc::clone(tick) };
            if cx.outbox.try_send(home.shard, envelope).is_err() {
                let dropped = home.miss_tick(&tick.changes, departures_max);
                cx.counters.drop_many(Dropped::EventMailboxFull, 1 + dropped as u32);
                missed = true;
            }
        }
        if missed {
            self.stale.push(slot);
        }
    }
}

/// The author of an announcement is no member.
fn refuse_announcement(
    cx: &mut ShardContext,
    key: &Arc<ChannelKey>,
    new: &Announcement,
    reject: Reject,
) {
    let request = match new.reply {
        AnnounceReply::Feed(_) => NO_REQUEST,
        AnnounceReply::Answer(request) => request,
    };
    let (to, conn, number) = (new.home, new.addr.conn, new.number);
    let channel = Arc::clone(key);
    let refused = Envelope::Refused { to, channel, conn, number, request, reject };
    cx.outbox.send(new.addr.shard, refused);
}

/// Changes of members, for all who are to know of them.
struct Tick {
    tick: PresenceTick,
    /// Changes, also those that no subscriber needs as values.
    count: usize,
    /// For presence history, if that is kept.
    events: Vec<Part>,
    /// For webhooks, if they are told.
    told: Vec<Change>,
}

/// Takes the changes of a channel and encodes them once per feed that has subscribers, and for its
/// presence history if that is kept.
fn make_tick(cx: &ShardContext, channel: &mut OwnedChannel) -> Tick {
    let changes = channel.presence.take_changes();
    let except = match changes.author() {
        Author::SoleUpdate(addr) => Some(addr),
        Author::SoleEnter(addr) if withholds_set(channel) => Some(addr),
        Author::SoleEnter(_) | Author::Several => None,
    };
    let mut changes = changes.into_list();
    let interval_ms = channel.policy.presence_interval_ms;
    let mut tick = SetTick::of(&changes, channel.presence.members(), interval_ms);
    channel.defer_set(&mut tick, except);
    let (key, members) = (&channel.key, channel.presence.members());
    let encoded = encode_each(channel.feeds() & Feed::PRESENCE, |feed| {
        feed.encode_tick(cx.now, key, members, &tick, &changes)
    });
    let (events, count) = (events_of(channel, &changes), changes.len());
    let told = if tells(channel, WebhookEvent::Presence) { changes.clone() } else { Vec::new() };
    let needs_values = !channel.feeds().is_disjoint(Feed::PRESENCE_CHANGES | Feed::Changes);
    changes.retain(|change| needs_values && change.kind != ChangeKind::Peer);
    Tick { tick: PresenceTick { changes, encoded, except }, count, events, told }
}

/// A joiner is sent no set when it is alone, or when the namespace says so.
fn withholds_set(channel: &OwnedChannel) -> bool {
    channel.presence.members().len() == 1 || !channel.policy.snapshot_on_join
}

/// Encodes an event for each of the feeds.
pub(super) fn encode_each(feeds: FeedSet, encode: impl Fn(Feed) -> Arc<[u8]>) -> Encoded {
    let mut encoded = [const { None }; Feed::COUNT];
    for feed in feeds & Feed::ENCODED {
        encoded[feed.index()] = Some(encode(feed)).filter(|bytes| !bytes.is_empty());
    }
    encoded
}

fn notify_registry(cx: &mut ShardContext, key: &ResumeKey, notice: SessionNotice) {
    cx.notify_registry(&key.app, key.session.as_str(), notice);
}
