//! The owner: the channels of one shard, their members and messages, members in grace, and what is
//! to be sent to homes.
//!
//! Invariant: a change is routed once per interested home and turn; what a full mailbox refuses is
//! kept in [`HomeSubscription`](home_subscription::HomeSubscription) and sent later.
//! Must never know connections, sessions, dialects.

mod channel_entry;
mod digest;
mod document_table;
mod documents;
#[cfg(test)]
mod documents_simulation;
mod durable;
mod edges;
mod events;
mod home_subscription;
mod inspect;
mod log_reads;
mod lost_members;
mod occupancy;
mod presence;
mod presence_history;
mod publish;
mod repair;
mod retention;
mod snapshot;
mod trace;

pub use retention::serial_base;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::channel_table::ChannelTable;
use super::context::ShardContext;
use super::envelope::{Command, Envelope, MemberList, MemberPage, MemberView, MembersFor, ReplyTo};
use super::timers::Timer;
use super::trace::Traced;
use crate::counters::Dropped;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ShardId};
use crate::policy::WebhookEvent;
use crate::session::Answer;
use channel_entry::OwnedChannel;
use document_table::DocumentTable;
use events::{Followed, tells};
use lost_members::LostMembers;
use occupancy::Occupancy;
use presence_history::Logged;
use retention::Retention;
use trace::trace_command;

#[derive(Debug)]
pub struct Owner {
    pub(super) channels: ChannelTable<OwnedChannel>,
    pub(super) lost: LostMembers,
    pub(super) retention: Retention,
    /// Channels to flush this turn; each once.
    dirty: Vec<u32>,
    /// Channels some of whose homes wait for room in their mailboxes; looked at each turn.
    pub(super) stale: Vec<u32>,
    snapshots_made: u64,
    /// Some channels have their messages on disk.
    has_disk: bool,
    /// Openings of logs on disk so far.
    openings: u64,
    /// Bytes of messages that are being stored.
    storing_bytes: u64,
    documents: DocumentTable,
    /// Channels with members whose presence history is kept, by slot.
    presence_logged: HashMap<u32, Logged>,
    /// Entries of presence history so far; makes their ids.
    presence_entries: u64,
    /// Channels of which webhooks were told, by the hash of the name.
    followed: HashMap<u64, Followed>,
    /// Counts of channels whose namespace has occupancy, by slot.
    occupancies: HashMap<u32, Occupancy>,
}

impl Owner {
    pub fn new(cx: &ShardContext) -> Self {
        Owner {
            channels: ChannelTable::default(),
            lost: LostMembers::default(),
            retention: Retention::new(cx.limits(), cx.settings.serial_base),
            dirty: Vec::new(),
            stale: Vec::new(),
            snapshots_made: 0,
            has_disk: cx.settings.policies.any_on_disk(),
            openings: 0,
            storing_bytes: 0,
            documents: DocumentTable::default(),
            presence_logged: HashMap::new(),
            presence_entries: 0,
            followed: HashMap::new(),
            occupancies: HashMap::new(),
        }
    }

    /// Marks channels with homes that missed something for another try.
    pub fn begin_turn(&mut self) {
        for slot in std::mem::take(&mut self.stale) {
            self.mark_dirty(slot);
        }
    }

    pub fn handle_command(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: Arc<ChannelKey>,
        command: Command,
    ) {
        trace_command(cx, from, &key, &command);
        match self.has_disk {
            true => {
                if let Some(command) = self.take_durable(cx, from, &key, command) {
                    self.perform(cx, from, key, command);
                }
            }
            false => self.perform(cx, from, key, command),
        }
    }

    fn perform(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: Arc<ChannelKey>,
        command: Command,
    ) {
        match command {
            Command::Announce(new) => self.announce(cx, &key, *new),
            Command::Leave { addr, reason } => self.leave(cx, &key, addr, reason),
            Command::Linger { addr } => self.linger(cx, &key, addr),
            Command::Subscribe { feed, home } => {
                // Without room for the channel the requests that follow are refused.
                if let Ok(slot) = self.open(cx, &key) {
                    self.entry(slot).subscribe(from, feed, home);
                    self.follow(cx, slot);
                }
            }
            Command::Unsubscribe { feed } => self.unsubscribe(cx, &key, from, feed),
            Command::Snapshot { feed, home, recipients } => {
                self.request_snapshot(cx, from, &key, feed, home, recipients);
            }
            Command::Members { to, page } => self.send_members(cx, &key, from, (to, page)),
            Command::Publish { reply_to, draft } => self.publish(cx, from, &key, reply_to, *draft),
            Command::Attach { reply_to, feed, after, replay } => {
                let answer = self.attach(cx, from, &key, feed, after.as_ref(), replay);
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::History { reply_to, before, limit } => {
                let answer = self.history(cx, &key, |messages, now, policy| {
                    messages.before(now, before.as_ref(), limit, policy)
                });
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::HistoryForward { reply_to, after, limit } => {
                let answer = self.history(cx, &key, |messages, now, policy| {
                    messages.following(now, after, limit, policy)
                });
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::Fetch { reply_to, after, limit } => {
                let answer = self.fetch(cx, &key, after, limit);
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::Verdict { addr, about, verdict } => {
                self.take_verdict(&key, addr, about, verdict);
            }
            Command::Direct { reply_to, message } => {
                self.send_direct(cx, &key, from, reply_to, message);
            }
            Command::Count(subscribers) => self.count(cx, &key, from, subscribers),
            Command::Check { reply_to, copy } => self.check(cx, from, &key, reply_to, copy),
            Command::CatchUp { home, conn, after } => {
                self.catch_up(cx, &key, ConnAddr { shard: from, conn }, home, after);
            }
            Command::Trace(tracing) => self.set_tracing(cx, &key, tracing),
            Command::Documents(command) => self.handle_documents(cx, from, &key, *command),
        }
    }

    pub fn handle_timer(&mut self, cx: &mut ShardContext, timer: Timer) {
        match timer {
            Timer::Flush { slot, generation } => {
                if let Some(channel) = self.channels.get_tenant(slot, generation) {
                    channel.timed = false;
                    self.mark_dirty(slot);
                }
            }
            Timer::Snapshot { slot, generation } => {
                let channel = self.channels.get_tenant(slot, generation);
                if let Some(snapshots) = channel.and_then(|channel| channel.snapshots.as_mut()) {
                    snapshots.timed = false;
                    self.mark_dirty(slot);
                }
            }
            Timer::Digest { slot, generation } => self.digest_due(cx, slot, generation),
            Timer::Grace { grace } => self.end_grace(cx, grace),
            Timer::Retention => self.retain(cx),
            Timer::Documents { slot } => self.documents_due(cx, slot),
            Timer::Vacated { hash } => self.vacated_due(cx, hash),
            Timer::Occupancy { slot, generation } => self.occupancy_due(slot, generation),
            _ => debug_assert!(false, "{timer:?} is for the home"),
        }
    }

    /// The channels in these slots take up the policies that are in force.
    pub fn reload(&mut self, cx: &ShardContext, slots: Range<u32>) {
        for slot in slots.start..slots.end.min(self.channels.slot_count()) {
            let Some(channel) = self.channels.get_mut(slot) else { continue };
            let new = Arc::clone(cx.settings.policies.for_channel(&channel.key.name));
            let old = std::mem::replace(&mut channel.policy, Arc::clone(&new));
            if old.webhook_events != new.webhook_events {
                // Begun anew: `previous` of the next event is unknown.
                self.followed.remove(&channel.key.log_hash());
                self.mark_dirty(slot);
            }
            if old.occupancy_interval_ms != new.occupancy_interval_ms {
                self.note_occupancy(slot);
            }
        }
    }

    /// Bytes of messages that the store has not answered yet.
    pub fn storing_bytes(&self) -> u64 {
        self.storing_bytes
    }

    /// Something is to be flushed.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.documents.is_dirty()
    }

    /// Routes what every dirty channel has to say, each once.
    pub fn flush(&mut self, cx: &mut ShardContext) {
        self.flush_documents(cx);
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let channel = self.entry(slot);
            channel.dirty = false;
            self.follow(cx, slot);
            self.flush_messages(cx, slot);
            self.flush_presence(cx, slot);
            self.flush_occupancy(cx, slot);
            self.entry(slot).free_if_empty();
            self.close_if_unused(slot);
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// The channel's entry, made if there is room for it.
    fn open(&mut self, cx: &ShardContext, key: &Arc<ChannelKey>) -> Result<u32, Reject> {
        if let Some(slot) = self.channels.find_key(key) {
            return Ok(slot);
        }
        if self.channels.len() >= cx.limits().channels_per_shard_max {
            return Err(Reject::ServerFull);
        }
        let policy = Arc::clone(cx.settings.policies.for_channel(&key.name));
        Ok(self.channels.insert(OwnedChannel::new(Arc::clone(key), policy)))
    }

    /// The channel in a slot that is in use.
    fn entry(&mut self, slot: u32) -> &mut OwnedChannel {
        match self.channels.get_mut(slot) {
            Some(channel) => channel,
            None => panic!("owned channel {slot} is gone"),
        }
    }

    fn close_if_unused(&mut self, slot: u32) {
        if self.entry(slot).is_unused() {
            self.occupancies.remove(&slot);
            self.channels.remove(slot);
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        if let Some(channel) = self.channels.get_mut(slot)
            && !channel.dirty
        {
            channel.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn send_members(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        from: ShardId,
        (to, page): (MembersFor, MemberPage),
    ) {
        let slot = self.channels.find_key(key);
        let members = slot.map(|slot| member_views(cx, self.entry(slot), page)).unwrap_or_default();
        if let Some(slot) = slot
            && tells(self.entry(slot), WebhookEvent::Presence)
        {
            // A member of the list whose leave follows is not left out of the events.
            self.entry(slot).presence.set_snapshot_sent();
        }
        let list = MemberList { members, sequence: self.told_sequence(key) };
        cx.outbox.send(from, Envelope::Members { to, list });
    }
}

fn send_answer(
    cx: &mut ShardContext,
    shard: ShardId,
    to: ReplyTo,
    key: &Arc<ChannelKey>,
    answer: Answer,
) {
    if let Answer::Refused(reject) = answer {
        cx.trace(key, || Traced::Refused { to, reject });
        if to == ReplyTo::Nobody {
            cx.counters.drop(Dropped::PresenceHistory);
            cx.note_lost_entry(key);
        }
    }
    if to == ReplyTo::Nobody {
        return;
    }
    let channel = Arc::clone(key);
    cx.outbox.send(shard, Envelope::Answer { to, channel, answer });
}

fn member_views(cx: &ShardContext, channel: &OwnedChannel, page: MemberPage) -> Vec<MemberView> {
    let view = |member: &crate::channel::Member| MemberView {
        addr: member.addr,
        identity: Arc::clone(&member.identity),
        state: member.state.clone(),
        age_ms: member.age_ms(cx.now),
        announced_wall_ms: cx.now.wall_ms.saturating_sub(member.age_ms(cx.now)),
        lingering: member.grace_until.is_some(),
        joined: member.joined,
    };
    channel.presence.members().after(page.after).take(page.limit).map(view).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::channel::{
        Asks, ChangeKind, DERIVED_KEY_BYTES, Identity, LeaveReason, Peer, PeerKey, Resume, State,
    };
    use crate::ids::ConnId;
    use crate::session::{Feed, NO_REQUEST};
    use crate::shard::envelope::{
        AnnounceReply, Announcement, HomeChannelId, PresenceTick, Recipients,
    };
    use crate::shard::testing::{context, key, sent, set_room};

    /// A home on another shard.
    const HOME: HomeChannelId = HomeChannelId { slot: 7, generation: 1 };
    const SHARD: ShardId = ShardId(1);

    fn addr(slot: u32) -> ConnAddr {
        ConnAddr { shard: SHARD, conn: ConnId { slot, generation: 1 } }
    }

    /// A session of its user announces itself; `connection` tells the sessions apart.
    fn announce(slot: u32, user: &str) -> Command {
        let connection = format!("{slot:016x}").as_str().into();
        let identity = Identity::new(user.into(), connection, Resume::Connection);
        Command::Announce(Box::new(Announcement {
            addr: addr(slot),
            home: HOME,
            identity: Arc::new(identity),
            greeted_ms: 1,
            state: State::from_message_pack(vec![1].into()),
            number: 1,
            reply: AnnounceReply::Answer(u64::from(slot) + 1),
        }))
    }

    fn ticks(cx: &mut ShardContext) -> Vec<Arc<PresenceTick>> {
        let is_tick = |envelope| match envelope {
            Envelope::Presence { tick, .. } => Some(tick),
            _ => None,
        };
        sent(cx).into_iter().filter_map(is_tick).collect()
    }

    #[test]
    fn a_home_that_missed_many_leaves_of_one_user_receives_each_once() {
        const SESSIONS: u32 = 16_000;
        let (mut cx, feed) = (context(), Feed::FoonyPresence);
        let (mut owner, key) = (Owner::new(&cx), key(&cx, "room:1"));
        let subscribe = Command::Subscribe { feed, home: HOME };
        owner.handle_command(&mut cx, SHARD, Arc::clone(&key), subscribe);
        for slot in 0..SESSIONS {
            owner.handle_command(&mut cx, SHARD, Arc::clone(&key), announce(slot, "ann"));
        }
        owner.flush(&mut cx);
        sent(&mut cx);
        set_room(&mut cx, 0);
        for slot in (0..SESSIONS).step_by(2) {
            let leave = Command::Leave { addr: addr(slot), reason: LeaveReason::Left };
            owner.handle_command(&mut cx, SHARD, Arc::clone(&key), leave);
        }
        owner.flush(&mut cx);
        assert!(ticks(&mut cx).is_empty() && !owner.stale.is_empty());
        set_room(&mut cx, 1 << 20);
        owner.begin_turn();
        owner.flush(&mut cx);
        let repaired = ticks(&mut cx);
        let [tick] = &repaired[..] else { panic!("{} ticks", repaired.len()) };
        let kind_of = |kind| tick.changes.iter().filter(move |change| change.kind == kind);
        let left: HashSet<&str> =
            kind_of(ChangeKind::Leave).map(|change| &*change.identity.connection).collect();
        assert_eq!(left.len(), SESSIONS as usize / 2);
        assert_eq!(kind_of(ChangeKind::Leave).count(), SESSIONS as usize / 2, "each once");
        assert_eq!(kind_of(ChangeKind::Enter).count(), SESSIONS as usize / 2);
    }

    #[test]
    fn a_refused_member_leaves_no_channel_and_a_member_keeps_the_metadata_it_had() {
        let (mut cx, key_of) = (context(), |cx: &ShardContext| key(cx, "room:1"));
        let (mut owner, key) = (Owner::new(&cx), key_of(&cx));
        let announce = |metadata: usize, asks| {
            let Command::Announce(mut new) = announce(0, "ann") else { panic!("an announcement") };
            new.state = new.state.of_peer(Arc::new(Peer {
                key: PeerKey::Derived([1; DERIVED_KEY_BYTES]),
                device_name: "".into(),
                os: "".into(),
                sdk_version: "".into(),
                metadata: vec![b' '; metadata].into(),
                signature: None,
                asks,
            }));
            Command::Announce(new)
        };
        owner.handle_command(&mut cx, SHARD, Arc::clone(&key), announce(4097, None));
        owner.flush(&mut cx);
        assert_eq!(owner.channels.len(), 0);
        let refused = |envelope| matches!(envelope, Envelope::Refused { .. });
        assert_eq!(sent(&mut cx).into_iter().filter_map(|e| refused(e).then_some(())).count(), 1);
        owner.handle_command(&mut cx, SHARD, Arc::clone(&key), announce(7, None));
        let asks = Some(Asks { timeout_ms: 100, handler: 1 });
        owner.handle_command(&mut cx, SHARD, Arc::clone(&key), announce(4097, asks));
        let slot = owner.channels.find_key(&key).expect("a channel");
        let member = owner.entry(slot).presence.members().find(addr(0)).expect("a member");
        let peer = member.state.peer().expect("a peer");
        assert_eq!((peer.metadata.len(), peer.asks), (7, asks));
    }

    #[test]
    fn a_snapshot_is_encoded_once_for_all_who_request_it_in_a_turn() {
        let (mut cx, feed) = (context(), Feed::FoonyPresence);
        let (mut owner, key) = (Owner::new(&cx), key(&cx, "room:1"));
        let subscribe = Command::Subscribe { feed, home: HOME };
        owner.handle_command(&mut cx, SHARD, Arc::clone(&key), subscribe);
        owner.handle_command(&mut cx, SHARD, Arc::clone(&key), announce(0, "ann"));
        for slot in 0..100 {
            let recipients = Recipients::One { conn: addr(slot).conn, request: NO_REQUEST };
            let command = Command::Snapshot { feed, home: HOME, recipients };
            owner.handle_command(&mut cx, SHARD, Arc::clone(&key), command);
        }
        owner.flush(&mut cx);
        let is_snapshot = |envelope| match envelope {
            Envelope::Snapshot { snapshot, .. } => Some(snapshot.bytes),
            _ => None,
        };
        let snapshots: Vec<Arc<[u8]>> = sent(&mut cx).into_iter().filter_map(is_snapshot).collect();
        assert_eq!(snapshots.len(), 100);
        assert!(snapshots.iter().all(|bytes| Arc::ptr_eq(bytes, &snapshots[0])));
    }
}
