//! The member table: join-ordered, keyed by connection, with sessions counted per user.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Identity, Resume, State};
use crate::ids::{ConnAddr, Now};

/// One member as the owner of the channel knows it.
#[derive(Debug)]
pub struct Member {
    pub addr: ConnAddr,
    pub identity: Arc<Identity>,
    pub state: State,
    /// When the member last announced its state.
    pub announced_ms: u64,
    /// When its session greeted over the connection it has; 0 when that does not matter.
    pub greeted_ms: u64,
    /// Set while the connection is lost and the grace runs: when it ends.
    pub lingering_until_ms: Option<u64>,
}

impl Member {
    /// Upper bound of this member's share of an encoded set, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(&self.identity.user, &self.state)
    }

    /// Milliseconds since the member last announced its state.
    pub fn age_ms(&self, now: Now) -> u64 {
        now.mono_ms.saturating_sub(self.announced_ms)
    }
}

/// Array header, string and binary headers, and the widest age.
const ENTRY_OVERHEAD_BYTES: usize = 1 + 5 + 5 + 9;

pub(super) fn encoded_bytes(user: &str, state: &State) -> usize {
    ENTRY_OVERHEAD_BYTES + user.len() + state.message_pack_bytes_max()
}

/// Join-ordered members. A member's place is its join number, which nobody else ever gets.
#[derive(Debug, Default)]
pub struct Members {
    by_place: BTreeMap<u64, Member>,
    places: HashMap<ConnAddr, u64>,
    /// Places of each user's sessions, in join order.
    users: HashMap<Arc<str>, Vec<u64>>,
    joined: u64,
    bytes: usize,
}

impl Members {
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// In join order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> + Clone {
        self.by_place.values()
    }

    pub fn contains(&self, addr: ConnAddr) -> bool {
        self.places.contains_key(&addr)
    }

    pub fn find(&self, addr: ConnAddr) -> Option<&Member> {
        self.by_place.get(self.places.get(&addr)?)
    }

    /// Members that share this user id.
    pub fn sessions_of(&self, user: &str) -> u32 {
        self.users.get(user).map_or(0, |places| places.len() as u32)
    }

    /// Upper bound of the encoded set in bytes.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes
    }

    /// The longest-standing member whose place this newcomer may take: one of the same user whose
    /// connection is lost and that cannot be told from it (another device comes back by itself), or
    /// the very same session, whose earlier connection is not known to be lost yet.
    pub(super) fn replaceable_by(&self, newcomer: &Identity) -> Option<ConnAddr> {
        let places = self.users.get(&newcomer.user)?;
        let mut members = places.iter().filter_map(|place| self.by_place.get(place));
        let replaceable = |member: &&Member| {
            let lost = &member.identity;
            let is_same = lost.is_resumed_as(newcomer);
            match member.lingering_until_ms {
                Some(_) => lost.resume == Resume::Never || is_same,
                None => is_same && newcomer.is_named_by_connection(),
            }
        };
        members.find(replaceable).map(|member| member.addr)
    }

    /// Has this session greeted over a later connection, and is a member by that one?
    pub(super) fn has_later(&self, identity: &Identity, greeted_ms: u64) -> bool {
        let places = self.users.get(&identity.user).map_or(&[][..], Vec::as_slice);
        let mut members = places.iter().filter_map(|place| self.by_place.get(place));
        identity.is_named_by_connection()
            && members.any(|member| {
                member.greeted_ms > greeted_ms && member.identity.is_resumed_as(identity)
            })
    }

    pub(super) fn set_greeted(&mut self, addr: ConnAddr, greeted_ms: u64) {
        let place = self.places.get(&addr);
        if let Some(member) = place.and_then(|place| self.by_place.get_mut(place)) {
            member.greeted_ms = greeted_ms;
        }
    }

    pub(super) fn insert(
        &mut self,
        now: Now,
        addr: ConnAddr,
        identity: Arc<Identity>,
        state: State,
    ) {
        let place = self.joined;
        self.joined += 1;
        self.users.entry(Arc::clone(&identity.user)).or_default().push(place);
        let (announced_ms, lingering_until_ms) = (now.mono_ms, None);
        let member =
            Member { addr, identity, state, announced_ms, greeted_ms: 0, lingering_until_ms };
        self.bytes += member.encoded_bytes();
        self.places.insert(addr, place);
        self.by_place.insert(place, member);
    }

    pub(super) fn remove(&mut self, addr: ConnAddr) -> Option<Member> {
        let place = self.places.remove(&addr)?;
        let member = self.by_place.remove(&place)?;
        self.bytes -= member.encoded_bytes();
        self.forget_session(&member.identity.user, place);
        Some(member)
    }

    pub(super) fn set_state(
        &mut self,
        now: Now,
        addr: ConnAddr,
        state: State,
    ) -> Option<&mut Member> {
        let member = self.by_place.get_mut(self.places.get(&addr)?)?;
        self.bytes -= member.encoded_bytes();
        member.state = state;
        member.announced_ms = now.mono_ms;
        self.bytes += member.encoded_bytes();
        Some(member)
    }

    pub(super) fn set_lingering(&mut self, addr: ConnAddr, until_ms: u64) -> bool {
        let place = self.places.get(&addr);
        let Some(member) = place.and_then(|place| self.by_place.get_mut(place)) else {
            return false;
        };
        member.lingering_until_ms = Some(until_ms);
        true
    }

    /// Gives a member's place to another connection, which is alive.
    pub(super) fn rekey(&mut self, from: ConnAddr, to: ConnAddr) -> Option<&Member> {
        let place = self.places.remove(&from)?;
        self.places.insert(to, place);
        let member = self.by_place.get_mut(&place)?;
        member.addr = to;
        member.lingering_until_ms = None;
        Some(member)
    }

    /// Same user, another session: the resume key may differ.
    pub(super) fn set_identity(&mut self, addr: ConnAddr, identity: Arc<Identity>) {
        let place = self.places.get(&addr);
        if let Some(member) = place.and_then(|place| self.by_place.get_mut(place)) {
            debug_assert_eq!(member.identity.user, identity.user);
            member.identity = identity;
        }
    }

    fn forget_session(&mut self, user: &Arc<str>, place: u64) {
        let Some(places) = self.users.get_mut(user) else { return };
        places.retain(|&other| other != place);
        if places.is_empty() {
            self.users.remove(user);
        }
    }
}
