//! Snapshots of who is present: for whom one is made, and when.
//!
//! Requests for the snapshot of a channel are collected and served together at the flush: each feed
//! is encoded once, whatever the number of subscribers. Subscribers on the sync wire also receive
//! all members whenever one changes, which for n members is n times n entries. Where that is more
//! than `presence_burst_bytes_max` bytes, snapshots are conflated: they are not made with every
//! tick but at most once in the time that [`gap_ms`] says, and homes deliver them in sweeps
//! (`home::snapshot_sweep`).

use std::sync::Arc;

use super::channel_entry::OwnedChannel;
use super::digest::Check;
use super::home_subscription::HomeSubscription;
use super::{Owner, send_answer};
use crate::counters::Dropped;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ShardId, Timestamp};
use crate::limits::Limits;
use crate::session::{Answer, Feed, FeedKind, FeedSet, Roster, SetTick};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Envelope, HomeChannelId, Recipients, ReplyTo, Snapshot};
use crate::shard::timers::Timer;

/// A conflated snapshot is made at most once in so many milliseconds per `presence_burst_bytes_max`
/// of it: with the default of 1 MiB, 64 KiB per millisecond, which costs a shard about 2 % of its
/// time.
const GAP_MS_PER_BURST: usize = 16;

/// Pending requests for one snapshot of a channel on the sync wire, beyond which it goes to all
/// subscribers of that home.
const REQUESTS_MAX: usize = 1024;

/// What the owner of a channel keeps while snapshots are pending or conflated.
#[derive(Debug, Default)]
pub struct SnapshotState {
    is_conflated: bool,
    roster: Roster,
    /// The author of the only change that the pending snapshots contain.
    except: Option<ConnAddr>,
    /// When the last conflated snapshot was made.
    made: Option<Timestamp>,
    /// A timer is set.
    pub timed: bool,
    /// Subscribers that receive the next snapshot whether or not anything changes: newcomers, and
    /// those who have missed one. Bounded by [`REQUESTS_MAX`] for sets, and for changes by the
    /// large answers that a connection may have in progress.
    requests: Vec<SnapshotRequest>,
    /// Peers whose copies of the members are compared at the next flush; bounded as `requests`.
    pub checks: Vec<Check>,
}

impl SnapshotState {
    /// Members will be numbered anew.
    pub fn forget_members(&mut self) {
        self.roster = Roster::default();
    }
}

#[derive(Clone, Copy, Debug)]
struct SnapshotRequest {
    shard: ShardId,
    home: HomeChannelId,
    feed: Feed,
    recipients: Recipients,
}

impl OwnedChannel {
    /// True while snapshots of this channel are conflated.
    pub fn conflates_snapshots(&self) -> bool {
        self.snapshots.as_ref().is_some_and(|snapshots| snapshots.is_conflated)
    }

    /// Conflates snapshots from the time on when sending one to everyone is more than a home may
    /// do at once.
    pub fn update_conflation(&mut self, limits: &Limits) {
        if self.is_large(limits) {
            self.snapshots.get_or_insert_default().is_conflated = true;
        }
    }

    fn is_large(&self, limits: &Limits) -> bool {
        let members = self.presence.members();
        let all_bytes = members.encoded_bytes().saturating_mul(members.len());
        all_bytes > limits.presence_burst_bytes_max
            && !self.feeds().is_disjoint(Feed::PRESENCE_SETS | Feed::PRESENCE_CHANGES)
    }

    /// Takes a conflated set out of a tick, to be made when it is due. With an interval between two
    /// frames leave events are taken out as well, if a snapshot is pending that shows as much.
    pub fn defer_set(&mut self, tick: &mut SetTick<'_>, except: Option<ConnAddr>) {
        let was_pending = self.is_snapshot_pending();
        let Some(snapshots) = self.snapshots.as_mut().filter(|s| s.is_conflated) else { return };
        let has_set = tick.put_off_set();
        let is_shown = was_pending && self.policy.presence_interval_ms > 0 && tick.omit_leaves();
        if has_set || is_shown {
            snapshots.except = except.filter(|_| !was_pending);
            self.homes.iter_mut().for_each(HomeSubscription::request_snapshots);
        }
    }

    /// True when what changes now replaces a pending conflated snapshot.
    pub fn is_snapshot_pending(&self) -> bool {
        self.conflates_snapshots() && !self.pending_for_all().is_empty()
    }

    /// Feeds whose next snapshot is for all subscribers of some home.
    fn pending_for_all(&self) -> FeedSet {
        self.homes.iter().fold(FeedSet::empty(), |feeds, home| feeds | home.pending_snapshots())
    }

    /// Feeds whose next snapshot has recipients.
    fn pending_feeds(&self) -> FeedSet {
        let requests = self.snapshots.iter().flat_map(|snapshots| &snapshots.requests);
        requests.fold(self.pending_for_all(), |feeds, request| feeds | request.feed)
    }
}

/// Milliseconds between two conflated snapshots of so many bytes.
fn gap_ms(snapshot_bytes: usize, burst_bytes: usize) -> u64 {
    (snapshot_bytes.saturating_mul(GAP_MS_PER_BURST) / burst_bytes.max(1)) as u64
}

impl Owner {
    /// Subscribers of a feed are to receive who is present.
    pub(super) fn request_snapshot(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        feed: Feed,
        home: HomeChannelId,
        recipients: Recipients,
    ) {
        let slot = self.channels.find_key(key);
        let slot = slot.filter(|&slot| self.entry(slot).is_subscribed_by(from, feed));
        match (slot, recipients) {
            (Some(slot), _) => self.queue_snapshot(slot, from, feed, home, recipients),
            // There was no room for the channel.
            (None, Recipients::One { conn, request }) if feed.kind() == FeedKind::Changes => {
                let to = ReplyTo::Session { conn, request };
                send_answer(cx, from, to, key, Answer::Refused(Reject::ServerFull));
            }
            (None, _) => {}
        }
    }

    /// Adds to the recipients of the next snapshot.
    pub(super) fn queue_snapshot(
        &mut self,
        slot: u32,
        shard: ShardId,
        feed: Feed,
        home: HomeChannelId,
        recipients: Recipients,
    ) {
        let channel = self.entry(slot);
        let snapshots = channel.snapshots.get_or_insert_default();
        let is_set = feed.kind() == FeedKind::Sets;
        if is_set && snapshots.is_conflated && snapshots.requests.len() >= REQUESTS_MAX {
            snapshots.except = None;
            if let Some(home) = channel.home_mut(shard) {
                home.request_snapshots();
            }
        } else {
            snapshots.requests.push(SnapshotRequest { shard, home, feed, recipients });
        }
        self.mark_dirty(slot);
    }

    /// Makes the pending snapshots if they are due and a mailbox has room. Nothing is kept once
    /// none is pending and the channel is small.
    pub(super) fn flush_snapshots(&mut self, cx: &mut ShardContext, slot: u32) {
        if self.entry(slot).snapshots.is_none() {
            return;
        }
        self.make_snapshots_if_due(cx, slot);
        let channel = self.entry(slot);
        let has_checks = channel.snapshots.as_ref().is_some_and(|s| !s.checks.is_empty());
        let is_pending = has_checks || !channel.pending_feeds().is_empty();
        if !channel.is_large(cx.limits()) && !is_pending {
            channel.snapshots = None;
        }
    }

    fn make_snapshots_if_due(&mut self, cx: &mut ShardContext, slot: u32) {
        let generation = self.channels.generation(slot);
        let channel = self.entry(slot);
        let Some(snapshots) = &channel.snapshots else { return };
        let gap_ms = match snapshots.is_conflated {
            true => gap_ms(
                channel.presence.members().encoded_bytes(),
                cx.limits().presence_burst_bytes_max,
            ),
            false => 0,
        };
        let due_ms = snapshots.made.map_or(0, |made| made.ms() + gap_ms);
        let has_room = |home: &HomeSubscription| {
            !home.pending_snapshots().is_empty() && cx.outbox.has_room(home.shard)
        };
        let is_sendable = !snapshots.requests.is_empty() || channel.homes.iter().any(has_room);
        if is_sendable && cx.now.mono_ms >= due_ms {
            self.make_snapshots(cx, slot);
        }
        let channel = self.entry(slot);
        let is_pending = !channel.pending_feeds().is_empty();
        if let Some(snapshots) = channel.snapshots.as_mut().filter(|s| is_pending && !s.timed) {
            // What waits for room in a mailbox is not tried again before the next turn.
            snapshots.timed = true;
            let due_ms = due_ms.max(cx.now.mono_ms + 1);
            cx.timers.set(due_ms, Timer::Snapshot { slot, generation });
        }
    }

    fn make_snapshots(&mut self, cx: &mut ShardContext, slot: u32) {
        self.snapshots_made += 1;
        let number = self.snapshots_made;
        let channel = self.entry(slot);
        let feeds = channel.pending_feeds();
        if channel.presence.has_changes() {
            channel.presence.set_snapshot_sent();
        }
        if feeds.contains(Feed::FoonyPeers) {
            self.time_digest(cx, slot);
        }
        let channel = self.entry(slot);
        let Some(snapshots) = &mut channel.snapshots else { return };
        snapshots.made = Some(Timestamp::at(cx.now.mono_ms));
        let (key, members) = (&channel.key, channel.presence.members());
        let uses_roster = snapshots.is_conflated && !feeds.is_disjoint(Feed::PRESENCE_SETS);
        if uses_roster {
            snapshots.roster.refresh(cx.now, &key.name, members);
        }
        let number = snapshots.is_conflated.then_some(number);
        let except = snapshots.except.take();
        let requests = std::mem::take(&mut snapshots.requests);
        let mut homes = 0;
        for feed in feeds {
            let bytes = match (feed.kind(), uses_roster) {
                (FeedKind::Sets, true) => snapshots.roster.frame(feed),
                _ => feed.encode_members(cx.now, key, members),
            };
            let snapshot = Snapshot { feed, number, bytes };
            homes += send_to_all(cx, &mut channel.homes, &snapshot, except);
            for request in requests.iter().filter(|request| request.feed == feed) {
                let (to, recipients) = (request.home, request.recipients);
                let snapshot = snapshot.clone();
                cx.outbox.send(request.shard, Envelope::Snapshot { to, snapshot, recipients });
            }
        }
        if homes > 0 {
            cx.counters.presence_ticks += 1;
            // The next leave events keep their interval from this snapshot.
            channel.flushed = Some(Timestamp::at(cx.now.mono_ms));
        }
    }
}

/// Sends a snapshot to every home all of whose subscribers are to receive it, and returns to how
/// many; where the mailbox is full it remains pending.
fn send_to_all(
    cx: &mut ShardContext,
    homes: &mut [HomeSubscription],
    snapshot: &Snapshot,
    except: Option<ConnAddr>,
) -> u32 {
    let mut sent = 0;
    let feed = snapshot.feed;
    for home in homes.iter_mut().filter(|home| home.pending_snapshots().contains(feed)) {
        let (to, snapshot) = (home.home, snapshot.clone());
        let recipients = Recipients::All { except };
        let envelope = Envelope::Snapshot { to, snapshot, recipients };
        match cx.outbox.try_send(home.shard, envelope) {
            Ok(()) => {
                home.clear_snapshot(feed);
                sent += 1;
            }
            Err(_) => cx.counters.drop(Dropped::EventMailboxFull),
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Identity, LeaveReason, Resume, State};
    use crate::ids::{Clocks, ConnId};
    use crate::policy::Policy;

    const NOW: Clocks = Clocks { mono_ms: 1_000_000, wall_ms: 1_700_000_000_000 };

    /// One member, alone in the channel.
    fn enter(channel: &mut OwnedChannel, user: &str) {
        let identity = Identity::new(user.into(), "".into(), Resume::Never);
        let addr = ConnAddr { shard: ShardId(0), conn: ConnId { slot: 1, generation: 1 } };
        let (identity, state) = (Arc::new(identity), State::from_message_pack(vec![1].into()));
        let entered = channel.presence.announce(NOW, addr, &identity, state, &Limits::default());
        assert!(entered.is_ok(), "{entered:?}");
    }

    #[test]
    fn a_member_that_enters_after_all_have_left_is_not_taken_for_one_of_them() {
        let key = ChannelKey { app: "a".into(), name: "room:1".into(), hash: 1 };
        let mut channel = OwnedChannel::new(key.into(), Policy::default().into());
        let mut frames = Vec::new();
        for user in ["ann", "bob"] {
            enter(&mut channel, user);
            let snapshots = channel.snapshots.get_or_insert_default();
            snapshots.roster.refresh(NOW, "room:1", channel.presence.members());
            frames.push(snapshots.roster.frame(Feed::SyncTenStream));
            let addr = channel.presence.members().iter().next().map(|member| member.addr);
            addr.into_iter().for_each(|addr| drop(channel.presence.leave(addr, LeaveReason::Left)));
            drop(channel.presence.take_changes());
            channel.free_if_empty();
        }
        let names = |frame: &[u8], user: &str| frame.windows(3).any(|part| part == user.as_bytes());
        assert!(names(&frames[0], "ann"));
        assert!(names(&frames[1], "bob") && !names(&frames[1], "ann"));
    }

    #[test]
    fn the_time_between_two_conflated_snapshots_grows_with_them() {
        const MIB: usize = 1024 * 1024;
        for (snapshot_bytes, expected_ms) in
            [(0, 0), (50_000, 0), (65_536, 1), (700_000, 10), (MIB, 16), (8 * MIB, 128)]
        {
            assert_eq!(gap_ms(snapshot_bytes, MIB), expected_ms, "{snapshot_bytes} bytes");
        }
    }
}
