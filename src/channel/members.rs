//! The member table: join-ordered, keyed by connection, with sessions counted per user.

use std::collections::HashMap;
use std::slice;
use std::sync::Arc;

use super::places::Places;
use super::{Identity, Resume, State};
use crate::ids::{ConnAddr, Moment, Now};

/// One member as the owner of the channel knows it.
#[derive(Debug)]
pub struct Member {
    pub addr: ConnAddr,
    pub identity: Arc<Identity>,
    pub state: State,
    /// When the member last announced its state.
    pub announced: Moment,
    /// When its session greeted over the connection it has; 0 when that does not matter.
    pub greeted: Moment,
    /// Set while the connection is lost and the grace runs: when it ends.
    pub lingering_until: Option<Moment>,
    /// Number of its entry among all entries so far: members are listed in this order.
    pub joined: u64,
    /// Number of its newest state among all states in this channel so far.
    pub version: u64,
}

impl Member {
    /// Upper bound of this member's share of an encoded set, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(&self.identity.user, &self.state)
    }

    /// Milliseconds since the member last announced its state.
    pub fn age_ms(&self, now: Now) -> u64 {
        now.mono_ms.saturating_sub(self.announced.ms())
    }
}

/// Array header, string and binary headers, and the widest age.
const ENTRY_OVERHEAD_BYTES: usize = 1 + 5 + 5 + 9;

pub(super) fn encoded_bytes(user: &str, state: &State) -> usize {
    ENTRY_OVERHEAD_BYTES + user.len() + state.message_pack_bytes_max()
}

/// Empty places that are never closed up: it would not be worth the while.
const GAPS_MIN: usize = 32;

const _: () = assert!(size_of::<Option<Member>>() <= 64, "every member has one");

/// Members that are looked through, instead of looked up, whoever is wanted.
const FEW: usize = 16;

/// Join-ordered members in a table whose places stay empty when somebody leaves, until half of them
/// are; then it is closed up.
#[derive(Debug, Default)]
pub struct Members {
    table: Vec<Option<Member>>,
    /// Entries of the table that are not empty.
    count: usize,
    /// Where everybody is. Made when there are more than [`FEW`], and kept until there is nobody:
    /// most channels have few members, and it would take more memory than they do.
    index: Option<Box<Index>>,
    joined: u64,
    versions: u64,
    bytes: usize,
}

/// Places in the table.
#[derive(Debug, Default)]
struct Index {
    places: Places,
    /// Places of each user's sessions, in join order.
    users: HashMap<Arc<str>, Sessions>,
}

impl Index {
    fn insert(&mut self, place: u32, member: &Member) {
        self.places.insert(member.addr, place);
        let user = &member.identity.user;
        match self.users.get_mut(user) {
            Some(sessions) => sessions.push(place),
            None => drop(self.users.insert(Arc::clone(user), Sessions::One([place]))),
        }
    }

    fn remove(&mut self, place: u32, member: &Member) {
        self.places.remove(&member.addr);
        let user = &member.identity.user;
        let Some(sessions) = self.users.get_mut(user) else { return };
        if sessions.forget(place) == 0 {
            self.users.remove(user);
        }
    }

    fn places_of(&self, user: &str) -> &[u32] {
        self.users.get(user).map_or(&[], Sessions::places)
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
    pub fn iter(&self) -> Iter<'_> {
        Iter { entries: self.table.iter(), left: self.len() }
    }

    pub fn contains(&self, addr: ConnAddr) -> bool {
        self.place_of(addr).is_some()
    }

    pub fn find(&self, addr: ConnAddr) -> Option<&Member> {
        self.at(self.place_of(addr)?)
    }

    /// Members that share this user id.
    pub fn sessions_of(&self, user: &str) -> u32 {
        match &self.index {
            Some(index) => index.places_of(user).len() as u32,
            None => self.of_user(user).count() as u32,
        }
    }

    /// Upper bound of the encoded set in bytes.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes
    }

    /// The longest-standing member whose place this newcomer may take: one of the same user whose
    /// connection is lost and that cannot be told from it (another device comes back by itself), or
    /// the very same session, whose earlier connection is not known to be lost yet.
    pub(super) fn replaceable_by(&self, newcomer: &Identity) -> Option<ConnAddr> {
        let replaceable = |member: &&Member| {
            let lost = &member.identity;
            let is_same = lost.is_resumed_as(newcomer);
            match member.lingering_until {
                Some(_) => lost.resume == Resume::Never || is_same,
                None => is_same && newcomer.is_named_by_connection(),
            }
        };
        self.of_user(&newcomer.user).find(replaceable).map(|member| member.addr)
    }

    /// Has this session greeted over a later connection, and is a member by that one?
    pub(super) fn has_later(&self, identity: &Identity, greeted_ms: u64) -> bool {
        identity.is_named_by_connection()
            && self.of_user(&identity.user).any(|member| {
                member.greeted.ms() > greeted_ms && member.identity.is_resumed_as(identity)
            })
    }

    pub(super) fn set_greeted(&mut self, addr: ConnAddr, greeted_ms: u64) {
        if let Some(member) = self.find_mut(addr) {
            member.greeted = Moment::at(greeted_ms);
        }
    }

    pub(super) fn insert(
        &mut self,
        now: Now,
        addr: ConnAddr,
        identity: Arc<Identity>,
        state: State,
    ) {
        self.close_up();
        let place = self.table.len() as u32;
        self.joined += 1;
        self.versions += 1;
        let member = Member {
            addr,
            identity,
            state,
            announced: Moment::at(now.mono_ms),
            greeted: Moment::default(),
            lingering_until: None,
            joined: self.joined,
            version: self.versions,
        };
        self.bytes += member.encoded_bytes();
        if let Some(index) = &mut self.index {
            index.insert(place, &member);
        }
        if self.table.len() == self.table.capacity() {
            // A list would take twice as much, and room for four at first. Most stay alone.
            self.table.reserve_exact(1 + self.table.len() / 4);
        }
        self.table.push(Some(member));
        self.count += 1;
        if self.count > FEW && self.index.is_none() {
            self.make_index();
        }
    }

    pub(super) fn remove(&mut self, addr: ConnAddr) -> Option<Member> {
        let place = self.place_of(addr)?;
        let member = self.table.get_mut(place as usize)?.take()?;
        self.bytes -= member.encoded_bytes();
        self.count -= 1;
        if let Some(index) = &mut self.index {
            index.remove(place, &member);
        }
        if self.count == 0 {
            (self.table, self.index) = (Vec::new(), None);
        }
        Some(member)
    }

    pub(super) fn set_state(
        &mut self,
        now: Now,
        addr: ConnAddr,
        state: State,
    ) -> Option<&mut Member> {
        self.versions += 1;
        let place = self.place_of(addr)?;
        let member = self.table.get_mut(place as usize)?.as_mut()?;
        self.bytes -= member.encoded_bytes();
        member.state = state;
        member.announced = Moment::at(now.mono_ms);
        member.version = self.versions;
        self.bytes += member.encoded_bytes();
        Some(member)
    }

    /// The member announced the state that it has.
    pub(super) fn set_announced(&mut self, now: Now, addr: ConnAddr) {
        if let Some(member) = self.find_mut(addr) {
            member.announced = Moment::at(now.mono_ms);
        }
    }

    pub(super) fn set_lingering(&mut self, addr: ConnAddr, until_ms: u64) -> bool {
        let Some(member) = self.find_mut(addr) else { return false };
        member.lingering_until = Some(Moment::at(until_ms));
        true
    }

    /// Gives a member's place to another connection, which is alive.
    pub(super) fn rekey(&mut self, from: ConnAddr, to: ConnAddr) -> Option<&Member> {
        let place = self.place_of(from)?;
        if let Some(Index { places, .. }) = self.index.as_deref_mut() {
            places.remove(&from);
            places.insert(to, place);
        }
        let member = self.table.get_mut(place as usize)?.as_mut()?;
        member.addr = to;
        member.lingering_until = None;
        Some(member)
    }

    /// Same user, another session: the resume key may differ.
    pub(super) fn set_identity(&mut self, addr: ConnAddr, identity: Arc<Identity>) {
        if let Some(member) = self.find_mut(addr) {
            debug_assert_eq!(member.identity.user, identity.user);
            member.identity = identity;
        }
    }

    fn at(&self, place: u32) -> Option<&Member> {
        self.table.get(place as usize)?.as_ref()
    }

    fn find_mut(&mut self, addr: ConnAddr) -> Option<&mut Member> {
        let place = self.place_of(addr)?;
        self.table.get_mut(place as usize)?.as_mut()
    }

    fn place_of(&self, addr: ConnAddr) -> Option<u32> {
        if let Some(index) = &self.index {
            return index.places.get(&addr).copied();
        }
        let mut entries = self.table.iter();
        let place = entries.position(|entry| entry.as_ref().is_some_and(|m| m.addr == addr))?;
        Some(place as u32)
    }

    /// A user's sessions in join order.
    fn of_user(&self, user: &str) -> impl Iterator<Item = &Member> {
        let (places, entries) = match &self.index {
            Some(index) => (index.places_of(user), &[][..]),
            None => (&[][..], &self.table[..]),
        };
        let found = entries.iter().flatten().filter(move |member| *member.identity.user == *user);
        places.iter().filter_map(|&place| self.at(place)).chain(found)
    }

    fn make_index(&mut self) {
        let mut index = Box::<Index>::default();
        for (place, entry) in self.table.iter().enumerate() {
            if let Some(member) = entry {
                index.insert(place as u32, member);
            }
        }
        self.index = Some(index);
    }

    /// Closes up the empty places once they are more than half; every member who left has paid for
    /// one that moves.
    fn close_up(&mut self) {
        if self.table.len() < 2 * self.count + GAPS_MIN {
            return;
        }
        let mut moved = Vec::with_capacity(self.table.len());
        let mut next = 0;
        for entry in &self.table {
            moved.push(next);
            next += u32::from(entry.is_some());
        }
        let moved = |place: &mut u32| *place = moved[*place as usize];
        if let Some(Index { places, users }) = self.index.as_deref_mut() {
            places.values_mut().for_each(moved);
            users.values_mut().flat_map(|sessions| sessions.places_mut()).for_each(moved);
        }
        self.table.retain(Option::is_some);
    }
}

/// Members in join order.
#[derive(Clone, Debug)]
pub struct Iter<'m> {
    entries: slice::Iter<'m, Option<Member>>,
    left: usize,
}

impl<'m> Iterator for Iter<'m> {
    type Item = &'m Member;

    fn next(&mut self) -> Option<&'m Member> {
        let member = self.entries.by_ref().flatten().next()?;
        self.left -= 1;
        Some(member)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// Places of one user's sessions. Most users have one, which takes no memory of its own.
#[derive(Debug)]
enum Sessions {
    One([u32; 1]),
    Many(Vec<u32>),
}

impl Sessions {
    fn places(&self) -> &[u32] {
        match self {
            Sessions::One(place) => place,
            Sessions::Many(places) => places,
        }
    }

    fn places_mut(&mut self) -> &mut [u32] {
        match self {
            Sessions::One(place) => place,
            Sessions::Many(places) => places,
        }
    }

    fn push(&mut self, place: u32) {
        match self {
            Sessions::One([first]) => *self = Sessions::Many(vec![*first, place]),
            Sessions::Many(places) => places.push(place),
        }
    }

    /// Returns how many are left.
    fn forget(&mut self, gone: u32) -> usize {
        match self {
            Sessions::One([place]) => usize::from(*place != gone),
            Sessions::Many(places) => {
                places.retain(|&place| place != gone);
                places.len()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{ConnId, ShardId};

    const NOW: Now = Now { mono_ms: 0, wall_ms: 0 };

    fn addr(slot: u32) -> ConnAddr {
        ConnAddr { shard: ShardId(0), conn: ConnId { slot, generation: 1 } }
    }

    fn insert(members: &mut Members, slot: u32, user: &str) {
        let identity = Identity { user: user.into(), connection: "".into(), resume: Resume::Never };
        let state = State::from_message_pack(Bytes::copy_from_slice(&slot.to_le_bytes()));
        members.insert(NOW, addr(slot), Arc::new(identity), state);
    }

    fn slots(members: &Members) -> Vec<u32> {
        members.iter().map(|member| member.addr.conn.slot).collect()
    }

    #[test]
    fn places_are_closed_up_and_everybody_is_found_where_it_moved() {
        let mut members = Members::default();
        for slot in 0..1_000 {
            insert(&mut members, slot, ["ann", "bob", "cat"][slot as usize % 3]);
        }
        for slot in (0..1_000).filter(|slot| slot % 7 != 0) {
            assert_eq!(members.remove(addr(slot)).unwrap().addr, addr(slot));
        }
        insert(&mut members, 1_000, "ann");
        assert!(members.table.len() <= 2 * members.len() + GAPS_MIN, "{}", members.table.len());
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
    fn one_who_comes_and_goes_does_not_make_the_table_grow() {
        let mut members = Members::default();
        insert(&mut members, 0, "ann");
        for slot in 1..10_000 {
            insert(&mut members, slot, "bob");
            members.remove(addr(slot));
        }
        assert!(members.table.len() <= GAPS_MIN + 4, "{}", members.table.len());
        assert_eq!((members.len(), members.sessions_of("ann")), (1, 1));
        assert_eq!(members.sessions_of("bob"), 0);
    }

    /// Whatever is asked of few is asked of many as well, across the size where they are indexed.
    #[test]
    fn few_and_many_are_found_alike() {
        let mut members = Members::default();
        let users = ["ann", "bob", "cat"];
        let check = |members: &Members, present: &[u32]| {
            assert_eq!(slots(members), present);
            for slot in 0..3 * FEW as u32 {
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
        let all: Vec<u32> = (0..2 * FEW as u32).collect();
        for &slot in &all {
            insert(&mut members, slot, users[slot as usize % 3]);
            check(&members, &all[..=slot as usize]);
            assert_eq!(members.index.is_some(), members.len() > FEW);
        }
        members.rekey(addr(0), addr(99)).unwrap();
        assert!(members.contains(addr(99)) && !members.contains(addr(0)));
        members.rekey(addr(99), addr(0)).unwrap();
        for gone in 0..all.len() {
            check(&members, &all[gone..]);
            members.remove(addr(all[gone])).unwrap();
        }
        check(&members, &[]);
        assert!(members.index.is_none() && members.table.capacity() == 0);
    }

    #[test]
    fn every_state_has_a_number_of_its_own_and_entries_are_numbered_in_order() {
        let mut members = Members::default();
        for slot in 0..3 {
            insert(&mut members, slot, "ann");
        }
        members.set_state(NOW, addr(0), State::from_message_pack(Bytes::new()));
        let numbers: Vec<_> = members.iter().map(|m| (m.joined, m.version)).collect();
        assert_eq!(numbers, [(1, 4), (2, 2), (3, 3)]);
    }
}
