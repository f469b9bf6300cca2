//! State of one channel: its members and its messages.
//!
//! Invariant: every change returns what changed, and members are listed in join order. Must never
//! know connections, shards, or how a change is sent to clients.

mod changes;
mod dedup;
mod identity;
mod log;
mod members;
mod messages;
mod peer;
mod state;

pub use changes::{Author, Change, ChangeKind, Changes, LeaveReason};
pub use identity::{Device, DeviceOwner, Identity, Link, Resume, ResumeKey, SessionName};
pub use log::{Content, Message, Page, PageLimit, Part, Position};
pub use members::{Member, Members};
pub(crate) use messages::{DEDUP_PUBLISHES_MAX, DEDUP_WINDOW_MS};
pub use messages::{Draft, Messages, Published, Storage, StoredLog, StoredPublish};
pub use peer::{
    Admissions, Asks, DERIVED_KEY_BYTES, EdgeDenial, EdgeVerdict, Graph, Peer, PeerKey, Unadmitted,
};
pub use state::{JsonState, State};

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::Reject;
use crate::ids::{Clocks, ConnAddr, Timestamp};
use crate::limits::Limits;

/// Row numbers by connection. The server assigns the addresses itself, so clients cannot choose
/// colliding ones, and a keyed hash is not needed.
type AddrIndex = FxHashMap<ConnAddr, u32>;

/// The members of one channel, and the changes since the last broadcast.
#[derive(Debug, Default)]
pub struct Channel {
    members: Members,
    changes: Changes,
}

/// The result of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// A new member; it has not received the set yet.
    Entered,
    /// A new connection took over an earlier member; it has not received the set yet.
    TookOver,
    /// An existing member replaced its state.
    Updated,
}

impl Channel {
    /// The members in join order.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whether there are changes to broadcast.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Takes the changes since the last call, conflated to one per member.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Must be called whenever a client receives the set between two ticks: a client that saw a new
    /// member must also see its leave.
    pub(crate) fn set_snapshot_sent(&mut self) {
        self.changes.set_snapshot_sent();
    }

    /// Enters `addr` as a member, or replaces its state.
    ///
    /// # Errors
    /// [`Reject::ChannelFull`] if the channel has reached its limit of members or of bytes. The
    /// channel is unchanged.
    pub fn announce(
        &mut self,
        now: Clocks,
        addr: ConnAddr,
        identity: &Arc<Identity>,
        state: State,
        limits: &Limits,
    ) -> Result<Announced, Reject> {
        let known = self.members.contains(addr);
        let lost = if known { None } else { self.members.replaceable_by(identity) };
        self.check_limits(addr, lost, identity, &state, limits)?;
        if known {
            self.update(now, addr, state);
            return Ok(Announced::Updated);
        }
        match lost {
            Some(lost) => {
                self.take_over(now, lost, addr, identity, state);
                Ok(Announced::TookOver)
            }
            None => {
                self.members.insert(now, addr, Arc::clone(identity), state.clone());
                self.record(ChangeKind::Enter, addr, identity, state);
                Ok(Announced::Entered)
            }
        }
    }

    /// Whether the session has moved from this connection to a later one, which is a member.
    /// Requests of the earlier connection are then ignored.
    pub(crate) fn is_superseded(
        &self,
        addr: ConnAddr,
        identity: &Identity,
        session_start_ms: u64,
    ) -> bool {
        !self.members.contains(addr) && self.members.has_later_session(identity, session_start_ms)
    }

    /// Records when the session of a member was established on its current connection.
    pub(crate) fn set_session_start(&mut self, addr: ConnAddr, session_start_ms: u64) {
        if let Some(member) = self.members.find_mut(addr) {
            member.session_start = Timestamp::at(session_start_ms);
        }
    }

    /// Removes the member at `addr` if it is another session: the connection resumed a lost
    /// session, and has authenticated as another one since.
    pub(crate) fn remove_other_session(
        &mut self,
        addr: ConnAddr,
        identity: &Identity,
    ) -> Option<Member> {
        let is_other_session = !self.members.find(addr)?.identity.is_same_session(identity);
        if is_other_session { self.leave(addr, LeaveReason::Removed) } else { None }
    }

    /// Removes a member; `None` if it is not a member. The change carries its last state.
    pub fn leave(&mut self, addr: ConnAddr, reason: LeaveReason) -> Option<Member> {
        let member = self.members.remove(addr)?;
        let (identity, state) = (Arc::clone(&member.identity), member.state.clone());
        self.changes.record(Change { kind: ChangeKind::Leave, reason, addr, identity, state });
        Some(member)
    }

    /// The members, and who among them has not admitted whom.
    pub(crate) fn members_mut(&mut self) -> &mut Members {
        &mut self.members
    }

    /// The changes since the last broadcast.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// Records that something changed that only the presence graph shows.
    pub(crate) fn record_peer_change(&mut self, addr: ConnAddr) {
        if let Some(member) = self.members.find(addr) {
            let (identity, state) = (Arc::clone(&member.identity), member.state.clone());
            self.record(ChangeKind::Peer, addr, &identity, state);
        }
    }

    fn record(&mut self, kind: ChangeKind, addr: ConnAddr, identity: &Arc<Identity>, state: State) {
        let (identity, reason) = (Arc::clone(identity), LeaveReason::default());
        self.changes.record(Change { kind, reason, addr, identity, state });
    }

    /// Starts the grace of a member whose connection was lost: it stays listed until `until_ms`.
    /// False if it is not a member.
    pub(crate) fn start_grace(&mut self, addr: ConnAddr, until_ms: u64) -> bool {
        let Some(member) = self.members.find_mut(addr) else { return false };
        member.grace_until = Some(Timestamp::at(until_ms));
        true
    }

    /// Removes `addr` if its grace is over; false if it has returned or has time left.
    pub fn expire(&mut self, now: Clocks, addr: ConnAddr) -> bool {
        let over = self.grace_until_ms(addr).is_some_and(|until_ms| until_ms <= now.mono_ms);
        over && self.leave(addr, LeaveReason::Lost).is_some()
    }

    /// Removes `addr` if its connection is lost, even if its grace has time left.
    pub(crate) fn leave_if_lost(&mut self, addr: ConnAddr) -> Option<Member> {
        self.grace_until_ms(addr)?;
        self.leave(addr, LeaveReason::Removed)
    }

    fn grace_until_ms(&self, addr: ConnAddr) -> Option<u64> {
        self.members.find(addr)?.grace_until.map(Timestamp::ms)
    }

    /// Moves a lost member to the connection `to`. It keeps its position in the join order, and no
    /// change is recorded. Returns the member; `None` if `from` is not in its grace.
    pub fn resume(&mut self, from: ConnAddr, to: ConnAddr) -> Option<&Member> {
        self.grace_until_ms(from)?;
        if from != to && self.members.contains(to) {
            return None;
        }
        let member = self.members.rekey(from, to)?;
        self.changes.rename(from, to);
        Some(member)
    }

    /// The same state again counts as a heartbeat and not as a change.
    fn update(&mut self, now: Clocks, addr: ConnAddr, state: State) {
        let Some(member) = self.members.find_mut(addr) else { return };
        let (identity, kind) = (Arc::clone(&member.identity), update_kind(&member.state, &state));
        let Some(kind) = kind else {
            member.announced = Timestamp::at(now.mono_ms);
            return;
        };
        self.members.set_state(now, addr, state.clone());
        self.record(kind, addr, &identity, state);
    }

    fn take_over(
        &mut self,
        now: Clocks,
        lost: ConnAddr,
        addr: ConnAddr,
        identity: &Arc<Identity>,
        state: State,
    ) {
        let Some(member) = self.members.rekey(lost, addr) else { return };
        let kind = update_kind(&member.state, &state);
        // The same user; another session may have another resume key.
        member.identity = Arc::clone(identity);
        self.changes.rename(lost, addr);
        self.members.set_state(now, addr, state.clone());
        if let Some(kind) = kind {
            self.record(kind, addr, identity, state);
        }
    }

    fn check_limits(
        &self,
        addr: ConnAddr,
        lost: Option<ConnAddr>,
        identity: &Identity,
        state: &State,
        limits: &Limits,
    ) -> Result<(), Reject> {
        let replaced = self.members.find(lost.unwrap_or(addr));
        if replaced.is_none() && self.members.len() >= limits.members_per_channel_max {
            return Err(Reject::ChannelFull);
        }
        let freed = replaced.map_or(0, Member::encoded_bytes);
        let needed = members::encoded_bytes(identity, state);
        if self.members.encoded_bytes() - freed + needed > limits.presence_set_bytes_max {
            return Err(Reject::ChannelFull);
        }
        Ok(())
    }
}

/// How a member changes with a new state; `None` for the same one.
fn update_kind(earlier: &State, later: &State) -> Option<ChangeKind> {
    match earlier {
        earlier if earlier == later => None,
        earlier if earlier.has_same_data(later) => Some(ChangeKind::Peer),
        _ => Some(ChangeKind::Update),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{ConnId, ShardId};

    fn addr(slot: u32) -> ConnAddr {
        ConnAddr { shard: ShardId(0), conn: ConnId { slot, generation: 1 } }
    }

    fn at(ms: u64) -> Clocks {
        Clocks { mono_ms: ms, wall_ms: ms }
    }

    fn who(user: &str) -> Arc<Identity> {
        Arc::new(Identity::new(user.into(), "".into(), Resume::Never))
    }

    fn state_of(text: &str) -> State {
        State::from_message_pack(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn announce(channel: &mut Channel, slot: u32, user: &str, state: &str) -> Announced {
        let state = state_of(state);
        channel.announce(at(0), addr(slot), &who(user), state, &Limits::default()).unwrap()
    }

    fn users(channel: &Channel) -> Vec<String> {
        channel.members().iter().map(|m| m.identity.user.to_string()).collect()
    }

    fn kinds(channel: &mut Channel) -> Vec<ChangeKind> {
        channel.take_changes().iter().map(|change| change.kind).collect()
    }

    #[test]
    fn members_are_listed_in_join_order_also_after_updates() {
        let mut channel = Channel::default();
        for (slot, user) in [(3, "c"), (1, "a"), (2, "b")] {
            assert_eq!(announce(&mut channel, slot, user, "s"), Announced::Entered);
        }
        assert_eq!(announce(&mut channel, 3, "c", "t"), Announced::Updated);
        assert_eq!(users(&channel), ["c", "a", "b"]);
    }

    #[test]
    fn a_tick_has_one_change_per_member() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        announce(&mut channel, 1, "a", "2");
        let changes = channel.take_changes();
        let [only] = &changes.into_list()[..] else { panic!("not one change") };
        assert_eq!((only.kind, &only.state), (ChangeKind::Enter, &state_of("2")));
        announce(&mut channel, 1, "a", "3");
        channel.leave(addr(1), LeaveReason::Left);
        assert_eq!(kinds(&mut channel), [ChangeKind::Leave]);
    }

    #[test]
    fn entering_and_leaving_within_a_tick_cancel_out() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.leave(addr(1), LeaveReason::Left);
        assert!(!channel.has_changes());
    }

    #[test]
    fn the_leave_of_a_member_in_a_sent_snapshot_is_reported() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.set_snapshot_sent();
        channel.leave(addr(1), LeaveReason::Left);
        assert_eq!(kinds(&mut channel), [ChangeKind::Leave]);
    }

    #[test]
    fn leaving_and_entering_again_within_a_tick_is_an_update() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.take_changes();
        channel.leave(addr(1), LeaveReason::Left);
        announce(&mut channel, 1, "a", "2");
        let changes = channel.take_changes();
        assert_eq!(
            changes.author(),
            Author::Several,
            "a member that enters again must receive the set"
        );
        assert_eq!(changes.iter().map(|c| c.kind).collect::<Vec<_>>(), [ChangeKind::Update]);
    }

    #[test]
    fn a_connection_that_changes_its_user_leaves_and_enters() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.take_changes();
        channel.leave(addr(1), LeaveReason::Left);
        announce(&mut channel, 1, "b", "1");
        announce(&mut channel, 2, "c", "1");
        channel.leave(addr(2), LeaveReason::Left);
        assert_eq!(kinds(&mut channel), [ChangeKind::Leave, ChangeKind::Enter]);
    }

    #[test]
    fn changes_keep_their_order_when_others_cancel_out() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.take_changes();
        announce(&mut channel, 3, "c", "1");
        channel.leave(addr(1), LeaveReason::Left);
        announce(&mut channel, 2, "a", "1");
        channel.leave(addr(3), LeaveReason::Left);
        assert_eq!(kinds(&mut channel), [ChangeKind::Leave, ChangeKind::Enter]);
    }

    #[test]
    fn members_that_come_and_go_within_a_tick_leave_no_gaps_behind() {
        let mut channel = Channel::default();
        announce(&mut channel, 0, "a", "1");
        for slot in 1..100 {
            announce(&mut channel, slot, "b", "1");
            announce(&mut channel, slot + 100, "c", "1");
            channel.leave(addr(slot), LeaveReason::Left);
        }
        assert_eq!(kinds(&mut channel).len(), 100);
        assert_eq!(users(&channel).len(), 100);
    }

    #[test]
    fn a_lost_member_is_replaced_by_the_same_user_without_a_leave() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.take_changes();
        assert!(channel.start_grace(addr(1), 100));
        assert_eq!(announce(&mut channel, 2, "a", "1"), Announced::TookOver);
        assert!(!channel.has_changes(), "same state: no change");
        assert!(!channel.expire(at(200), addr(1)));
        assert_eq!(users(&channel), ["a"]);
    }

    #[test]
    fn a_lost_device_is_not_replaced_by_another_device_of_its_user() {
        let device = |name: &str| {
            let device = Device { id: name.into(), owner: DeviceOwner::User };
            let resume = Resume::Device(device);
            Arc::new(Identity::new("a".into(), "".into(), resume))
        };
        for (new_session, expected) in [
            (device("phone"), Announced::TookOver),
            (device("laptop"), Announced::Entered),
            (who("a"), Announced::Entered),
        ] {
            let (mut channel, limits) = (Channel::default(), Limits::default());
            channel.announce(at(0), addr(1), &device("phone"), state_of(""), &limits).unwrap();
            channel.start_grace(addr(1), 100);
            let done = channel.announce(at(0), addr(2), &new_session, state_of(""), &limits);
            assert_eq!(done, Ok(expected), "{new_session:?}");
        }
    }

    #[test]
    fn a_live_session_of_the_same_user_is_a_second_member() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        assert_eq!(announce(&mut channel, 2, "a", "2"), Announced::Entered);
        assert_eq!(users(&channel), ["a", "a"]);
        assert_eq!(channel.members().sessions_of("a"), 2);
    }

    #[test]
    fn grace_ends_with_one_leave() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        channel.take_changes();
        channel.start_grace(addr(1), 100);
        assert!(!channel.expire(at(99), addr(1)));
        assert!(channel.expire(at(100), addr(1)));
        assert_eq!(kinds(&mut channel), [ChangeKind::Leave]);
    }

    #[test]
    fn resuming_records_no_change_and_keeps_the_join_order() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        announce(&mut channel, 2, "b", "1");
        channel.take_changes();
        channel.start_grace(addr(1), 100);
        assert!(channel.resume(addr(1), addr(9)).is_some());
        assert!(!channel.has_changes());
        assert!(channel.leave(addr(1), LeaveReason::Left).is_none());
        assert_eq!(users(&channel), ["a", "b"]);
    }

    #[test]
    fn a_session_lost_twice_resumes_one_member() {
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        announce(&mut channel, 2, "a", "2");
        channel.start_grace(addr(1), 100);
        channel.start_grace(addr(2), 100);
        assert!(channel.resume(addr(1), addr(9)).is_some());
        assert!(channel.resume(addr(2), addr(9)).is_none());
        assert!(channel.leave_if_lost(addr(9)).is_none(), "it is connected");
        assert!(channel.leave_if_lost(addr(2)).is_some());
        channel.start_grace(addr(9), 100);
        assert!(
            channel.resume(addr(9), addr(9)).is_some(),
            "the same connection authenticated again"
        );
    }

    #[test]
    fn a_full_channel_refuses_new_members_but_not_updates() {
        let limits = Limits { members_per_channel_max: 1, ..Limits::default() };
        let mut channel = Channel::default();
        announce(&mut channel, 1, "a", "1");
        let refused = channel.announce(at(0), addr(2), &who("b"), state_of(""), &limits);
        assert_eq!(refused, Err(Reject::ChannelFull));
        assert!(channel.announce(at(0), addr(1), &who("a"), state_of(""), &limits).is_ok());
    }

    #[test]
    fn the_set_never_exceeds_its_byte_limit() {
        let limits = Limits { presence_set_bytes_max: 64, ..Limits::default() };
        let mut channel = Channel::default();
        let big = state_of(&"x".repeat(100));
        let refused = channel.announce(at(0), addr(1), &who("a"), big, &limits);
        assert_eq!(refused, Err(Reject::ChannelFull));
        assert_eq!(channel.members().len(), 0);
    }
}
