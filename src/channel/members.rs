//! The member table: in join order, keyed by connection, with sessions counted per user.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::{AddrIndex, Graph, Identity, PeerKey, Resume, State, Unadmitted};
use crate::ids::{Clocks, ConnAddr, Timestamp};

/// A member, as the owner of the channel stores it.
#[derive(Debug)]
pub struct Member {
    pub addr: ConnAddr,
    pub identity: Arc<Identity>,
    pub state: State,
    /// When the member last announced its state.
    pub announced: Timestamp,
    /// When its session was established on its current connection; 0 where that does not matter.
    pub session_start: Timestamp,
    /// End of the grace period; set while the connection is lost.
    pub grace_until: Option<Timestamp>,
    /// Sequence number of the join; members are listed in this order.
    pub joined: u64,
    /// Sequence number of the current state among all states in this channel.
    pub version: u64,
}

impl Member {
    /// Upper bound of the size of this member in an encoded set, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(&self.identity, &self.state)
    }

    /// Milliseconds since the member last announced its state.
    pub fn age_ms(&self, now: Clocks) -> u64 {
        now.mono_ms.saturating_sub(self.announced.ms())
    }
}

/// Array header, string and binary headers, and the longest encoding of the age.
const ENTRY_OVERHEAD_BYTES: usize = 1 + 5 + 5 + 9;

pub(super) fn encoded_bytes(identity: &Identity, state: &State) -> usize {
    let metadata_bytes = identity.metadata().map_or(0, |metadata| metadata.len());
    ENTRY_OVERHEAD_BYTES + identity.user.len() + metadata_bytes + state.encoded_bytes_max()
}

/// The table is not compacted for fewer empty rows than this.
const EMPTY_ROWS_MIN: usize = 32;

const _: () = assert!(size_of::<Option<Member>>() <= 64, "every member has one");

/// Up to this many members are found by a linear scan, more through an index.
const INDEX_MEMBERS_MIN: usize = 16;

/// Members in join order. The row of a member that leaves stays empty until half of the rows are
/// empty; then the table is compacted.
#[derive(Debug, Default)]
pub struct Members {
    rows: Vec<Option<Member>>,
    /// Rows that are not empty.
    count: usize,
    /// Built when there are more than [`INDEX_MEMBERS_MIN`] members, and kept until the channel is
    /// empty. Most channels have few members, and an index would take more memory than the members
    /// themselves.
    index: Option<Box<Index>>,
    joined: u64,
    versions: u64,
    bytes: usize,
    /// Set once a peer looks at the presence graph, or decides about others.
    pub(crate) graph: Option<Box<Graph>>,
}

/// Row numbers.
#[derive(Debug, Default)]
struct Index {
    rows: AddrIndex,
    /// Rows of the sessions of each user, in join order. Most users have one.
    users: HashMap<Arc<str>, SmallVec<[u32; 1]>>,
}

impl Index {
    fn insert(&mut self, row: u32, member: &Member) {
        self.rows.insert(member.addr, row);
        let user = &member.identity.user;
        match self.users.get_mut(user) {
            Some(sessions) => sessions.push(row),
            None => drop(self.users.insert(Arc::clone(user), smallvec![row])),
        }
    }

    fn remove(&mut self, row: u32, member: &Member) {
        self.rows.remove(&member.addr);
        let user = &member.identity.user;
        let Some(sessions) = self.users.get_mut(user) else { return };
        sessions.retain(|other| *other != row);
        if sessions.is_empty() {
            self.users.remove(user);
        }
    }

    fn rows_of(&self, user: &str) -> &[u32] {
        self.users.get(user).map_or(&[], |rows| rows)
    }
}

impl Members {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In join order.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter().flatten()
    }

    /// Those who joined after the member with this number, in join order.
    pub fn after(&self, joined: u64) -> impl Iterator<Item = &Member> {
        let (mut low, mut high) = (0, self.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            // An empty row is as its successor.
            let member = self.rows[middle..high].iter().flatten().next();
            match member.is_some_and(|member| member.joined <= joined) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        self.rows[low..].iter().flatten()
    }

    /// How many different users are members.
    pub fn users(&self) -> usize {
        match &self.index {
            Some(index) => index.users.len(),
            None => self.iter().map(|member| &*member.identity.user).collect::<HashSet<_>>().len(),
        }
    }

    pub fn contains(&self, addr: ConnAddr) -> bool {
        self.row_of(addr).is_some()
    }

    pub fn find(&self, addr: ConnAddr) -> Option<&Member> {
        self.at(self.row_of(addr)?)
    }

    /// Number of members with this user id.
    pub(crate) fn sessions_of(&self, user: &str) -> u32 {
        match &self.index {
            Some(index) => index.rows_of(user).len() as u32,
            None => self.of_user(user).count() as u32,
        }
    }

    /// Those whom the peer with this key has not admitted.
    pub fn unadmitted_by(&self, key: &PeerKey) -> Option<&Unadmitted> {
        self.graph.as_ref()?.admissions.get(key)
    }

    pub(crate) fn graph_mut(&mut self, now: Clocks) -> &mut Graph {
        let new = || Box::new(Graph { epoch: now.wall_ms, ..Graph::default() });
        self.graph.get_or_insert_with(new)
    }

    /// Upper bound of the encoded set in bytes.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest member that this new session replaces: either a lost member of the same user
    /// whose session cannot be distinguished from the new one (another device resumes by itself),
    /// or the same session on an earlier connection that is not known to be lost yet.
    pub(super) fn replaceable_by(&self, new_session: &Identity) -> Option<ConnAddr> {
        let replaceable = |member: &&Member| {
            let lost = &member.identity;
            let is_same = lost.has_same_resume_key(new_session);
            match member.grace_until {
                Some(_) => lost.resume() == Resume::Never || is_same,
                None => is_same && new_session.is_named_by_connection(),
            }
        };
        self.of_user(&new_session.user).find(replaceable).map(|member| member.addr)
    }

    /// Whether this session was established again on a later connection, which is a member.
    pub(super) fn has_later_session(&self, identity: &Identity, session_start_ms: u64) -> bool {
        identity.is_named_by_connection()
            && self.of_user(&identity.user).any(|member| {
                member.session_start.ms() > session_start_ms
                    && member.identity.has_same_resume_key(identity)
            })
    }

    pub(super) fn insert(
        &mut self,
        now: Clocks,
        addr: ConnAddr,
        identity: Arc<Identity>,
        state: State,
    ) {
        self.compact();
        let row = self.rows.len() as u32;
        self.joined += 1;
        self.versions += 1;
        let member = Member {
            addr,
            identity,
            state,
            announced: Timestamp::at(now.mono_ms),
            session_start: Timestamp::default(),
            grace_until: None,
            joined: self.joined,
            version: self.versions,
        };
        self.bytes += member.encoded_bytes();
        if let Some(index) = &mut self.index {
            index.insert(row, &member);
        }
        if self.rows.len() == self.rows.capacity() {
            // `push` would double the capacity, starting at four. Most members are alone in their
            // channel.
            self.rows.reserve_exact(1 + self.rows.len() / 4);
        }
        self.rows.push(Some(member));
        self.count += 1;
        if self.count > INDEX_MEMBERS_MIN && self.index.is_none() {
            self.make_index();
        }
    }

    pub(super) fn remove(&mut self, addr: ConnAddr) -> Option<Member> {
        let row = self.row_of(addr)?;
        let member = self.rows.get_mut(row as usize)?.take()?;
        self.bytes -= member.encoded_bytes();
        self.count -= 1;
        if let Some(index) = &mut self.index {
            index.remove(row, &member);
        }
        if self.count == 0 {
            (self.rows, self.index) = (Vec::new(), None);
        }
        Some(member)
    }

    pub(super) fn set_state(
        &mut self,
        now: Clocks,
        addr: ConnAddr,
        state: State,
    ) -> Option<&mut Member> {
        self.versions += 1;
        let row = self.row_of(addr)?;
        let member = self.rows.get_mut(row as usize)?.as_mut()?;
        self.bytes -= member.encoded_bytes();
        member.state = state;
        member.announced = Timestamp::at(now.mono_ms);
        member.version = self.versions;
        self.bytes += member.encoded_bytes();
        Some(member)
    }

    /// Moves a member to another connection, which is alive.
    pub(super) fn rekey(&mut self, from: ConnAddr, to: ConnAddr) -> Option<&mut Member> {
        let row = self.row_of(from)?;
        if let Some(Index { rows, .. }) = self.index.as_deref_mut() {
            rows.remove(&from);
            rows.insert(to, row);
        }
        let member = self.rows.get_mut(row as usize)?.as_mut()?;
        member.addr = to;
        member.grace_until = None;
        Some(member)
    }

    fn at(&self, row: u32) -> Option<&Member> {
        self.rows.get(row as usize)?.as_ref()
    }

    pub(super) fn find_mut(&mut self, addr: ConnAddr) -> Option<&mut Member> {
        let row = self.row_of(addr)?;
        self.rows.get_mut(row as usize)?.as_mut()
    }

    fn row_of(&self, addr: ConnAddr) -> Option<u32> {
        if let Some(index) = &self.index {
            return index.rows.get(&addr).copied();
        }
        let mut rows = self.rows.iter();
        let row = rows.position(|row| row.as_ref().is_some_and(|m| m.addr == addr))?;
        Some(row as u32)
    }

    /// The sessions of a user in join order.
    fn of_user(&self, user: &str) -> impl Iterator<Item = &Member> {
        let (indexed, scanned) = match &self.index {
            Some(index) => (index.rows_of(user), &[][..]),
            None => (&[][..], &self.rows[..]),
        };
        let found = scanned.iter().flatten().filter(move |member| *member.identity.user == *user);
        indexed.iter().filter_map(|&row| self.at(row)).chain(found)
    }

    fn make_index(&mut self) {
        let mut index = Box::<Index>::default();
        for (row, member) in self.rows.iter().enumerate() {
            if let Some(member) = member {
                index.insert(row as u32, member);
            }
        }
        self.index = Some(index);
    }

    /// Removes the empty rows once they are more than half. The cost is amortized over the members
    /// that left.
    fn compact(&mut self) {
        if self.rows.len() < 2 * self.count + EMPTY_ROWS_MIN {
            return;
        }
        let mut moved = Vec::with_capacity(self.rows.len());
        let mut next = 0;
        for row in &self.rows {
            moved.push(next);
            next += u32::from(row.is_some());
        }
        let moved = |row: &mut u32| *row = moved[*row as usize];
        if let Some(Index { rows, users }) = self.index.as_deref_mut() {
            rows.values_mut().for_each(moved);
            users.values_mut().flatten().for_each(moved);
        }
        self.rows.retain(Option::is_some);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{ConnId, ShardId};

    const NOW: Clocks = Clocks { mono_ms: 0, wall_ms: 0 };

    fn addr(slot: u32) -> ConnAddr {
        ConnAddr { shard: ShardId(0), conn: ConnId { slot, generation: 1 } }
    }

    fn insert(members: &mut Members, slot: u32, user: &str) {
        let identity = Identity::new(user.into(), "".into(), Resume::Never);
        let state = State::from_message_pack(Bytes::copy_from_slice(&slot.to_le_bytes()));
        members.insert(NOW, addr(slot), Arc::new(identity), state);
    }

    fn slots(members: &Members) -> Vec<u32> {
        members.iter().map(|member| member.addr.conn.slot).collect()
    }

    #[test]
    fn pages_follow_the_join_order_whoever_has_left() {
        let mut members = Members::default();
        for slot in 0..1_000 {
            insert(&mut members, slot, ["ann", "bob", "cat"][slot as usize % 3]);
        }
        assert_eq!(members.users(), 3);
        for slot in (0..1_000).filter(|slot| slot % 7 != 0 || (200..400).contains(slot)) {
            members.remove(addr(slot));
        }
        for page in [1, 3, 10_000] {
            let (mut after, mut listed) = (0, Vec::new());
            loop {
                let found: Vec<&Member> = members.after(after).take(page).collect();
                let Some(last) = found.last() else { break };
                after = last.joined;
                listed.extend(found.iter().map(|member| member.addr.conn.slot));
            }
            assert_eq!(listed, slots(&members), "{page}");
        }
        assert_eq!(members.after(u64::MAX).count(), 0);
    }

    #[test]
    fn members_are_found_after_the_table_is_compacted() {
        let mut members = Members::default();
        for slot in 0..1_000 {
            insert(&mut members, slot, ["ann", "bob", "cat"][slot as usize % 3]);
        }
        for slot in (0..1_000).filter(|slot| slot % 7 != 0) {
            assert_eq!(members.remove(addr(slot)).unwrap().addr, addr(slot));
        }
        insert(&mut members, 1_000, "ann");
        assert!(members.rows.len() <= 2 * members.len() + EMPTY_ROWS_MIN, "{}", members.rows.len());
        let left: Vec<u32> = (0..1_000).step_by(7).chain([1_000]).collect();
        assert_eq!(slots(&members), left, "in join order");
        for &slot in &left {
            assert_eq!(members.find(addr(slot)).unwrap().addr, addr(slot));
        }
        let sessions = ["ann", "bob", "cat"].map(|user| members.sessions_of(user) as usize);
        assert_eq!(sessions.iter().sum::<usize>(), left.len());
        for user in ["ann", "bob", "cat"] {
            let of_user = |slot: &&u32| &*members.find(addr(**slot)).unwrap().identity.user == user;
            let expected: Vec<u32> = left.iter().filter(of_user).copied().collect();
            let found: Vec<u32> = members.of_user(user).map(|m| m.addr.conn.slot).collect();
            assert_eq!(found, expected, "{user}");
        }
    }

    #[test]
    fn a_member_that_enters_and_leaves_does_not_grow_the_table() {
        let mut members = Members::default();
        insert(&mut members, 0, "ann");
        for slot in 1..10_000 {
            insert(&mut members, slot, "bob");
            members.remove(addr(slot));
        }
        assert!(members.rows.len() <= EMPTY_ROWS_MIN + 4, "{}", members.rows.len());
        assert_eq!((members.len(), members.sessions_of("ann")), (1, 1));
        assert_eq!(members.sessions_of("bob"), 0);
    }

    /// All lookups give the same result below and above the size from which an index is used.
    #[test]
    fn lookups_agree_with_and_without_an_index() {
        let mut members = Members::default();
        let users = ["ann", "bob", "cat"];
        let check = |members: &Members, present: &[u32]| {
            assert_eq!(slots(members), present);
            for slot in 0..3 * INDEX_MEMBERS_MIN as u32 {
                let is_present = present.contains(&slot);
                assert_eq!(members.contains(addr(slot)), is_present, "{slot} of {present:?}");
            }
            for (at, user) in users.into_iter().enumerate() {
                let theirs = present.iter().filter(|&&slot| slot as usize % 3 == at);
                let found = members.of_user(user).map(|member| member.addr.conn.slot);
                assert_eq!(found.collect::<Vec<_>>(), theirs.copied().collect::<Vec<_>>());
                let sessions = members.of_user(user).count() as u32;
                assert_eq!(members.sessions_of(user), sessions);
            }
        };
        let all: Vec<u32> = (0..2 * INDEX_MEMBERS_MIN as u32).collect();
        for &slot in &all {
            insert(&mut members, slot, users[slot as usize % 3]);
            check(&members, &all[..=slot as usize]);
            assert_eq!(members.index.is_some(), members.len() > INDEX_MEMBERS_MIN);
        }
        members.rekey(addr(0), addr(99)).unwrap();
        assert!(members.contains(addr(99)) && !members.contains(addr(0)));
        members.rekey(addr(99), addr(0)).unwrap();
        for gone in 0..all.len() {
            check(&members, &all[gone..]);
            members.remove(addr(all[gone])).unwrap();
        }
        check(&members, &[]);
        assert!(members.index.is_none() && members.rows.capacity() == 0);
    }

    #[test]
    fn states_and_joins_are_numbered_in_order() {
        let mut members = Members::default();
        for slot in 0..3 {
            insert(&mut members, slot, "ann");
        }
        members.set_state(NOW, addr(0), State::from_message_pack(Bytes::new()));
        let numbers: Vec<_> = members.iter().map(|m| (m.joined, m.version)).collect();
        assert_eq!(numbers, [(1, 4), (2, 2), (3, 3)]);
    }
}
