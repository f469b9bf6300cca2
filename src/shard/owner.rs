//! The owner's half of a shard: commands change channels, and watchers are told once per tick.

use std::collections::HashMap;
use std::sync::Arc;

use super::Shard;
use super::envelope::{
    Announcement, Asker, Audience, Command, Envelope, HomeChannelId, MemberView, MembersFor,
    PresenceTick, ResumedMembership, Welcome,
};
use super::outbox::Full;
use super::round::PresenceSet;
use super::tables::OwnedChannel;
use super::timers::Timer;
use crate::channel::{Announced, Author, Change, ChangeKind, ResumeKey};
use crate::counters::{Conflated, Dropped, Ignored};
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, Moment, Now, ShardId};
use crate::policy::SnapshotOnJoin;
use crate::session::foony::{NO_REQUEST, encode};
use crate::session::sync::presence;
use crate::session::{Answer, Feed, FeedSet, Present};

/// A member whose connection was lost, while its grace runs.
#[derive(Debug)]
struct LostMember {
    slot: u32,
    generation: u32,
    addr: ConnAddr,
    resume: Option<ResumeKey>,
}

/// Lost members by the number of their grace, and by what a returning session shows. Bounded: one
/// entry per lost member, gone when its grace is over.
#[derive(Debug, Default)]
pub(super) struct LostMembers {
    graces: HashMap<u64, LostMember>,
    by_key: HashMap<ResumeKey, Vec<u64>>,
    begun: u64,
}

impl LostMembers {
    pub(super) fn len(&self) -> usize {
        self.graces.len()
    }

    fn insert(&mut self, lost: LostMember) -> u64 {
        let grace = self.begun;
        self.begun += 1;
        if let Some(key) = &lost.resume {
            self.by_key.entry(key.clone()).or_default().push(grace);
        }
        self.graces.insert(grace, lost);
        grace
    }

    fn remove(&mut self, grace: u64) -> Option<LostMember> {
        let lost = self.graces.remove(&grace)?;
        if let Some(key) = &lost.resume
            && let Some(graces) = self.by_key.get_mut(key)
        {
            graces.retain(|&other| other != grace);
            if graces.is_empty() {
                self.by_key.remove(key);
            }
        }
        Some(lost)
    }

    /// What a returning session lost, the latest loss first.
    fn claim(&mut self, key: &ResumeKey) -> Vec<LostMember> {
        let graces = self.by_key.remove(key).unwrap_or_default();
        graces.iter().rev().filter_map(|grace| self.graces.remove(grace)).collect()
    }
}

impl Shard {
    pub(super) fn handle_command(
        &mut self,
        now: Now,
        from: ShardId,
        key: Arc<ChannelKey>,
        command: Command,
    ) {
        match command {
            Command::Announce(new) => self.own_announce(now, key, *new),
            Command::Publish { .. }
            | Command::Attach { .. }
            | Command::History { .. }
            | Command::HistoryForward { .. }
            | Command::Fetch { .. }
            | Command::CatchUp { .. } => self.handle_message_command(now, from, &key, command),
            Command::Watch { asker, feed } => self.own_watch(now, from, &key, asker, feed),
            Command::Leave { addr } => self.own_leave(&key, addr),
            Command::Linger { addr } => self.own_linger(now, &key, addr),
            Command::Subscribe { feed, home } => {
                // Without room for it the questions that follow are refused.
                let slot = self.own_open(&key).ok();
                if let Some(owned) = slot.and_then(|slot| self.owned.get_mut(slot)) {
                    owned.subscribe(from, feed, home);
                }
            }
            Command::Unsubscribe { feed } => self.own_unsubscribe(&key, from, feed),
            Command::Snapshot { feed, home, audience } => {
                if let Some(slot) = self.owned.find_key(&key) {
                    self.send_set(now, slot, feed, from, home, audience);
                }
            }
            Command::Members { to } => {
                let slot = self.owned.find_key(&key);
                self.send_members(now, slot, from, to);
            }
        }
    }

    /// Gives a returning session everything it lost on this shard.
    pub(super) fn own_resume(&mut self, key: &ResumeKey, to: ConnAddr) {
        let mut memberships = Vec::new();
        for lost in self.lost.claim(key) {
            let Some(owned) = self.owned.get_tenant(lost.slot, lost.generation) else { continue };
            if let Some(member) = owned.channel.resume(lost.addr, to) {
                memberships.push(ResumedMembership {
                    channel: Arc::clone(&owned.key),
                    identity: Arc::clone(&member.identity),
                    state: member.state.clone(),
                });
            } else if owned.channel.leave_if_lost(lost.addr).is_some() {
                // A session that was lost twice lingers twice; one place is all it gets back.
                self.counters.members -= 1;
                self.mark_dirty(lost.slot);
            }
        }
        self.counters.resumed_members += memberships.len() as u64;
        self.outbox.send(to.shard, Envelope::Resumed { conn: to.conn, memberships });
    }

    /// A session is back that will enter again where it wants to: what it lost here waits for that
    /// for one more grace.
    pub(super) fn own_await(&mut self, now: Now, key: &ResumeKey, to: ConnAddr) {
        for lost in self.lost.claim(key) {
            if let Some(owned) = self.owned.get_tenant(lost.slot, lost.generation) {
                let key = Arc::clone(&owned.key);
                self.own_linger(now, &key, lost.addr);
            }
        }
        let memberships = Vec::new();
        self.outbox.send(to.shard, Envelope::Resumed { conn: to.conn, memberships });
    }

    /// The grace of a lost member is over, unless it came back.
    pub(super) fn own_grace_over(&mut self, now: Now, grace: u64) {
        let Some(lost) = self.lost.remove(grace) else { return };
        let Some(owned) = self.owned.get_tenant(lost.slot, lost.generation) else { return };
        if owned.channel.expire(now, lost.addr) {
            self.counters.members -= 1;
            self.counters.expired_members += 1;
            self.mark_dirty(lost.slot);
        }
    }

    /// Tells the watchers of every channel that changed, each once.
    pub(super) fn flush_channels(&mut self, now: Now) {
        let mut dirty = std::mem::take(&mut self.dirty_channels);
        for slot in dirty.drain(..) {
            if let Some(owned) = self.owned.get_mut(slot) {
                owned.dirty = false;
                self.flush_channel(now, slot);
                self.forget_unused(slot);
            }
        }
        if self.dirty_channels.is_empty() {
            self.dirty_channels = dirty;
        }
    }

    /// A flush timer fired.
    pub(super) fn own_flush_due(&mut self, slot: u32, generation: u32) {
        if let Some(owned) = self.owned.get_tenant(slot, generation) {
            owned.timed = false;
            self.mark_dirty(slot);
        }
    }

    /// The channel's entry, made if there is room for it.
    pub(super) fn own_open(&mut self, key: &Arc<ChannelKey>) -> Result<u32, Reject> {
        if let Some(slot) = self.owned.find_key(key) {
            return Ok(slot);
        }
        if self.owned.len() >= self.settings.limits.channels_per_shard_max {
            return Err(Reject::ServerFull);
        }
        let policy = Arc::clone(self.settings.policies.for_channel(&key.name));
        Ok(self.owned.insert(OwnedChannel::new(Arc::clone(key), policy)))
    }

    fn own_announce(&mut self, now: Now, key: Arc<ChannelKey>, new: Announcement) {
        let slot = match self.own_open(&key) {
            Ok(slot) => slot,
            Err(reject) => return self.turn_away(&key, &new, reject),
        };
        let Some(owned) = self.owned.get_mut(slot) else { return };
        if owned.channel.remove_other_session(new.addr, &new.identity).is_some() {
            self.counters.members -= 1;
        }
        let is_outdated = owned.channel.is_superseded(new.addr, &new.identity, new.greeted_ms);
        let limits = &self.settings.limits;
        let done = match is_outdated {
            true => Ok(Announced::Updated),
            false => {
                let state = new.state.clone();
                owned.channel.announce(now, new.addr, &new.identity, state, limits)
            }
        };
        owned.channel.set_session_start(new.addr, new.greeted_ms);
        match done {
            Ok(Announced::Entered) => self.counters.members += 1,
            Ok(Announced::TookOver) => self.counters.resumed_members += 1,
            _ => {}
        }
        self.mark_dirty(slot);
        self.welcome(now, slot, &key, &new, done);
    }

    /// Tells the author of an announcement what became of it, in the way that it expects.
    fn welcome(
        &mut self,
        now: Now,
        slot: u32,
        key: &Arc<ChannelKey>,
        new: &Announcement,
        done: Result<Announced, Reject>,
    ) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let (shard, conn, to) = (new.addr.shard, new.addr.conn, new.home);
        let is_member = owned.channel.members().contains(new.addr);
        let is_alone = owned.channel.members().len() == 1;
        // A tick shows the set to its newcomers, too, but with a large one they would wait long.
        let is_early = owned.large.is_some() && !withholds_set(owned);
        match (done, new.welcome) {
            (Err(reject), _) if !is_member => self.turn_away(key, new, reject),
            (Err(reject), Welcome::Set(_)) => self.counters.ignore(Ignored::Refused(reject)),
            (Ok(Announced::Updated), Welcome::Set(_)) => {}
            (Ok(entered), Welcome::Set(feed)) => {
                // Known already, unless there was no room for the channel when the home said so.
                owned.subscribe(shard, feed, to);
                self.outbox.send(shard, Envelope::Admitted { to, conn });
                let is_shown_set = match entered {
                    Announced::TookOver => !is_alone,
                    _ => is_early,
                };
                if is_shown_set {
                    self.send_set(now, slot, feed, shard, to, Audience::One(conn));
                }
            }
            (done, Welcome::Answer(request)) => {
                let answer = done.map_or_else(Answer::Refused, |_| Answer::Done);
                self.send_answer(shard, Asker::Session { conn, request }, key, answer);
            }
        }
    }

    /// The author of an announcement is no member.
    fn turn_away(&mut self, key: &Arc<ChannelKey>, new: &Announcement, reject: Reject) {
        let request = match new.welcome {
            Welcome::Set(_) => NO_REQUEST,
            Welcome::Answer(request) => request,
        };
        let (to, conn, number) = (new.home, new.addr.conn, new.number);
        let channel = Arc::clone(key);
        let refused = Envelope::Refused { to, channel, conn, number, request, reject };
        self.outbox.send(new.addr.shard, refused);
    }

    /// A subscriber begins to watch: who is present, then the changes. What has changed already is
    /// told to the others first, unless they are told at intervals only.
    fn own_watch(
        &mut self,
        now: Now,
        from: ShardId,
        key: &Arc<ChannelKey>,
        asker: Asker,
        feed: Feed,
    ) {
        let Some(slot) = self.interested(key, from, feed) else {
            return self.send_answer(from, asker, key, Answer::Refused(Reject::ServerFull));
        };
        self.flush_presence(now, slot);
        let Some(owned) = self.owned.get_mut(slot) else { return };
        if owned.channel.has_changes() {
            owned.channel.set_snapshot_sent();
        }
        let members = owned.channel.members().iter().map(|member| Present {
            identity: Arc::clone(&member.identity),
            state: member.state.clone(),
            announced_wall_ms: now.wall_ms.saturating_sub(member.age_ms(now)),
        });
        let members = members.collect();
        self.send_answer(from, asker, key, Answer::Watched { left: Vec::new(), members });
    }

    fn own_leave(&mut self, key: &ChannelKey, addr: ConnAddr) {
        let Some(slot) = self.owned.find_key(key) else { return };
        let Some(owned) = self.owned.get_mut(slot) else { return };
        if owned.channel.leave(addr).is_some() {
            self.counters.members -= 1;
            self.mark_dirty(slot);
        }
    }

    fn own_linger(&mut self, now: Now, key: &ChannelKey, addr: ConnAddr) {
        let Some(slot) = self.owned.find_key(key) else { return };
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let grace_ms = owned.policy.presence_grace_ms;
        if grace_ms == 0 {
            return self.own_leave(key, addr);
        }
        let until_ms = now.mono_ms + grace_ms;
        if !owned.channel.start_grace(addr, until_ms) {
            return;
        }
        let member = owned.channel.members().find(addr);
        let resume = member.and_then(|member| member.identity.resume_key(&owned.key.app));
        let generation = self.owned.generation(slot);
        let grace = self.lost.insert(LostMember { slot, generation, addr, resume });
        self.timers.set(until_ms, Timer::Grace { grace });
    }

    fn own_unsubscribe(&mut self, key: &ChannelKey, from: ShardId, feed: Feed) {
        let Some(slot) = self.owned.find_key(key) else { return };
        if let Some(owned) = self.owned.get_mut(slot) {
            owned.unsubscribe(from, feed);
            self.close_if_unused(slot);
        }
    }

    /// Forgets of a channel what is not needed any longer, which may be all.
    fn forget_unused(&mut self, slot: u32) {
        if let Some(owned) = self.owned.get_mut(slot) {
            owned.forget_if_empty();
        }
        self.close_if_unused(slot);
    }

    fn close_if_unused(&mut self, slot: u32) {
        if self.owned.get(slot).is_some_and(OwnedChannel::is_unused) {
            self.owned.remove(slot);
        }
    }

    pub(super) fn mark_dirty(&mut self, slot: u32) {
        if let Some(owned) = self.owned.get_mut(slot)
            && !owned.dirty
        {
            owned.dirty = true;
            self.dirty_channels.push(slot);
        }
    }

    fn flush_channel(&mut self, now: Now, slot: u32) {
        self.flush_messages(now, slot);
        self.flush_presence(now, slot);
    }

    /// Tells watchers what changed, unless they were told too lately.
    fn flush_presence(&mut self, now: Now, slot: u32) {
        let is_large = self.owned.get(slot).is_some_and(|owned| self.is_set_large(owned));
        if let Some(owned) = self.owned.get_mut(slot).filter(|_| is_large) {
            owned.large.get_or_insert_default();
        }
        self.repay_stale_homes(now, slot);
        self.flush_changes(now, slot);
        self.flush_large_set(now, slot);
    }

    fn flush_changes(&mut self, now: Now, slot: u32) {
        let generation = self.owned.generation(slot);
        let Some(owned) = self.owned.get_mut(slot) else { return };
        if !owned.channel.has_changes() {
            return;
        }
        let interval_ms = owned.policy.presence_interval_ms;
        let due_ms = owned.told.map_or(0, |told| told.ms() + interval_ms);
        if now.mono_ms < due_ms {
            if !owned.timed {
                owned.timed = true;
                self.timers.set(due_ms, Timer::Flush { slot, generation });
            }
            self.counters.conflate(Conflated::Interval);
            return;
        }
        owned.told = Some(Moment::at(now.mono_ms));
        if owned.is_set_owed() {
            self.counters.conflate(Conflated::LargeSet);
        }
        let tick = Arc::new(make_tick(now, owned));
        if tick.is_something() {
            self.counters.presence_ticks += 1;
            self.route(slot, &tick);
        }
    }

    /// Sends one tick to every interested shard, never more than once each.
    fn route(&mut self, slot: u32, tick: &Arc<PresenceTick>) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let mut missed = false;
        for interest in owned.interest.iter_mut() {
            let (to, feeds) = (interest.home, interest.feeds.and(Feed::PRESENCE));
            if feeds.is_empty() {
                continue;
            }
            let envelope = Envelope::Presence { to, feeds, tick: Arc::clone(tick) };
            if let Err(Full(_)) = self.outbox.try_send(interest.shard, envelope) {
                interest.miss_tick(&tick.changes);
                missed = true;
                self.counters.drop(Dropped::EventMailboxFull);
            }
        }
        if missed {
            self.stale_channels.push(slot);
        }
    }

    /// Marks channels with homes that missed a tick for another try.
    pub(super) fn retry_stale_channels(&mut self) {
        for slot in std::mem::take(&mut self.stale_channels) {
            self.mark_dirty(slot);
        }
    }

    /// Sends the whole set to homes that missed a tick, and the names of those who left meanwhile.
    fn repay_stale_homes(&mut self, now: Now, slot: u32) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        let mut stale = Vec::new();
        for interest in owned.interest.iter_mut().filter(|interest| interest.is_stale()) {
            let left = interest.take_left();
            stale.push((interest.shard, interest.home, interest.feeds, left));
            if owned.large.is_some() {
                interest.owe_sets();
            }
        }
        let mut owing = false;
        for (shard, home, feeds, left) in stale {
            let Some(owned) = self.owned.get_mut(slot) else { return };
            owned.channel.set_snapshot_sent();
            let mut presence = feeds.and(Feed::PRESENCE);
            if owned.large.is_some() {
                presence = presence.without(Feed::PRESENCE_SETS);
            }
            if presence.is_empty() {
                continue;
            }
            let tick = Arc::new(make_repayment(now, owned, presence, &left));
            let envelope = Envelope::Presence { to: home, feeds: presence, tick };
            let sent = self.outbox.try_send(shard, envelope).is_ok();
            if sent && feeds.contains(Feed::Changes) {
                self.send_members(now, Some(slot), shard, MembersFor::Watcher(home));
            }
            if !sent {
                owing = true;
                self.owe_tick(slot, shard, left);
            }
        }
        if owing {
            self.stale_channels.push(slot);
        }
    }

    fn owe_tick(&mut self, slot: u32, shard: ShardId, left: Vec<Change>) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        if let Some(interest) = owned.interest.iter_mut().find(|i| i.shard == shard) {
            interest.owe_tick(left);
        }
    }

    /// Sends the present set to connections that may have seen members that have left: at once, or
    /// together with others who want it when it is large.
    fn send_set(
        &mut self,
        now: Now,
        slot: u32,
        feed: Feed,
        shard: ShardId,
        home: HomeChannelId,
        audience: Audience,
    ) {
        let Some(owned) = self.owned.get_mut(slot) else { return };
        if owned.large.is_some() {
            return self.wish_for_set(slot, feed, shard, home, audience);
        }
        owned.channel.set_snapshot_sent();
        let bytes = presence::set(feed, now, &owned.key.name, owned.channel.members());
        let set = PresenceSet { feed, number: None, bytes };
        self.outbox.send(shard, Envelope::Set { to: home, set, audience });
    }

    fn send_members(&mut self, now: Now, slot: Option<u32>, from: ShardId, to: MembersFor) {
        let owned = slot.and_then(|slot| self.owned.get(slot));
        let members = owned.map(|owned| members_view(now, owned)).unwrap_or_default();
        self.outbox.send(from, Envelope::Members { to, members });
    }
}

fn members_view(now: Now, owned: &OwnedChannel) -> Vec<MemberView> {
    let view = |member: &crate::channel::Member| MemberView {
        addr: member.addr,
        identity: Arc::clone(&member.identity),
        state: member.state.clone(),
        age_ms: member.age_ms(now),
        announced_wall_ms: now.wall_ms.saturating_sub(member.age_ms(now)),
        lingering: member.grace_until.is_some(),
    };
    owned.channel.members().iter().map(view).collect()
}

/// Takes the changes of a channel and encodes them once per feed that somebody wants.
fn make_tick(now: Now, owned: &mut OwnedChannel) -> PresenceTick {
    let changes = owned.channel.take_changes();
    let except = match changes.author() {
        Author::SoleUpdate(addr) => Some(addr),
        Author::SoleEnter(addr) if withholds_set(owned) => Some(addr),
        Author::SoleEnter(_) | Author::Several => None,
    };
    let changes = changes.into_list();
    let interval_ms = owned.policy.presence_interval_ms;
    let mut shown = presence::Shown::of(&changes, owned.channel.members(), interval_ms);
    owned.put_off_set(&mut shown, except);
    let (name, members) = (&owned.key.name, owned.channel.members());
    let encoded = encode_each(owned, Feed::PRESENCE, |feed| match feed.sync_parts() {
        Some(_) => presence::tick(feed, now, name, members, &shown),
        None => encode::changes(feed, now, name, &changes),
    });
    let wants_changes = owned.is_any_wanted(Feed::PRESENCE_CHANGES);
    let changes = match wants_changes || owned.is_wanted(Feed::Changes) {
        true => changes,
        false => Vec::<Change>::new(),
    };
    PresenceTick { changes, encoded, except }
}

/// What a home that missed something is sent: sets for those who read sets; for the others, and in
/// the tick itself, who left and is not back, then everybody as if they had just entered.
fn make_repayment(now: Now, owned: &OwnedChannel, feeds: FeedSet, left: &[Change]) -> PresenceTick {
    let members = owned.channel.members();
    let is_back = |gone: &Change| {
        let is_same = |m: &crate::channel::Member| {
            m.identity.user == gone.identity.user
                && m.identity.connection == gone.identity.connection
        };
        members.sessions_of(&gone.identity.user) > 0 && members.iter().any(is_same)
    };
    let mut changes = Vec::new();
    if !feeds.and(Feed::PRESENCE_CHANGES).is_empty() {
        changes.extend(left.iter().filter(|gone| !is_back(gone)).cloned());
        changes.extend(members.iter().map(|member| Change {
            kind: ChangeKind::Enter,
            addr: member.addr,
            identity: Arc::clone(&member.identity),
            state: member.state.clone(),
        }));
    }
    let encoded = encode_each(owned, feeds, |feed| match feed.sync_parts() {
        Some(_) => presence::set(feed, now, &owned.key.name, members),
        None => encode::changes(feed, now, &owned.key.name, &changes),
    });
    PresenceTick { changes, encoded, except: None }
}

/// A joiner is told nothing when it is alone, or when the namespace says so.
fn withholds_set(owned: &OwnedChannel) -> bool {
    owned.channel.members().len() == 1 || owned.policy.snapshot_on_join == SnapshotOnJoin::Withhold
}

/// What there is to be said to subscribers of each feed.
fn encode_each(
    owned: &OwnedChannel,
    feeds: FeedSet,
    encode: impl Fn(Feed) -> Arc<[u8]>,
) -> [Option<Arc<[u8]>>; Feed::COUNT] {
    let mut encoded = [const { None }; Feed::COUNT];
    for feed in Feed::ENCODED.into_iter().filter(|feed| feeds.contains(*feed)) {
        if owned.is_wanted(feed) {
            encoded[feed as usize] = Some(encode(feed)).filter(|bytes| !bytes.is_empty());
        }
    }
    encoded
}
