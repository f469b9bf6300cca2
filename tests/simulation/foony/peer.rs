//! Clients that are peers of the presence graph: their copies of the members, which every digest
//! must confirm, unless a member was lost here on purpose. Then the digests must mend it.

use std::collections::{BTreeMap, BTreeSet};

use headcount::wire::foony::peer::{Check, PeerRequest};
use headcount::wire::foony::{Action, PeerMember, binary};

use super::client::Asked;
use super::line::MemberSeen;
use super::run::Run;

/// One member in this many that a peer hears of is lost, percent.
const LOST_PERCENT: usize = 3;

type Name = (String, String);

/// A digest as it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    pub channel: String,
    pub has_all: bool,
    pub is_answer: bool,
    pub version: (u64, u64),
    pub count: u64,
    pub buckets: Vec<u128>,
    pub repaired: Vec<u64>,
}

/// The copy of the members of one channel.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    pub hashes: BTreeMap<Name, u128>,
    /// Epoch and version of the last digest, unless nobody was present.
    version: Option<(u64, u64)>,
    /// Members came since the last digest.
    has_changed: bool,
    /// Something was lost here, and not mended.
    is_wrong: bool,
    /// Digests that the server compares.
    asked: Option<Vec<u128>>,
    /// Buckets that it sends again of so many, and who of them has arrived.
    repaired: Option<(Vec<u64>, usize, BTreeSet<Name>)>,
}

/// What a member adds to the digest of its bucket.
pub fn hash_of(peer: &PeerMember<'_>) -> u128 {
    binary::member_hash(peer)
}

impl Copy {
    fn buckets(&self, count: usize) -> Vec<u128> {
        let mut buckets = vec![0u128; count];
        for ((user, connection), hash) in &self.hashes {
            let bucket = buckets.get_mut(binary::bucket_of(user, connection, count));
            bucket.into_iter().for_each(|bucket| *bucket = bucket.wrapping_add(*hash));
        }
        buckets
    }
}

impl Run {
    /// Whether a member that a peer hears of is lost on its way.
    pub fn loses(&mut self, id: usize, member: &MemberSeen) -> bool {
        // Of a channel without members there is no digest that would show it.
        let channel = self.channel_of(&member.channel);
        let is_seen =
            member.action != Action::Leave || self.clients[id].room(channel).copy.hashes.len() > 1;
        let is_lost = member.hash.is_some()
            && is_seen
            && !self.profile.calm
            && !self.is_coming_to_rest
            && self.rng.percent(LOST_PERCENT);
        if is_lost {
            self.world.note(|| format!("client {id} does not hear {member:?}"));
            let copy = &mut self.clients[id].room(channel).copy;
            copy.is_wrong = true;
            copy.has_changed |= copy.repaired.is_none();
        }
        is_lost
    }

    pub fn copy_member(&mut self, id: usize, member: &MemberSeen) {
        let Some(hash) = member.hash else { return };
        let channel = self.channel_of(&member.channel);
        let copy = &mut self.clients[id].room(channel).copy;
        let name = (member.client.clone(), member.connection.clone());
        match &mut copy.repaired {
            Some((.., arrived)) => drop(arrived.insert(name.clone())),
            None => copy.has_changed = true,
        }
        match member.action {
            Action::Leave => drop(copy.hashes.remove(&name)),
            Action::Enter | Action::Update => drop(copy.hashes.insert(name, hash)),
        }
    }

    pub fn hear_digest(&mut self, id: usize, digest: &Digest) {
        let channel = self.channel_of(&digest.channel);
        let room = self.clients[id].room(channel);
        let is_live = room.watched && room.watches.iter().all(|(_, begins)| *begins);
        let copy = &mut room.copy;
        let version = Some(digest.version).filter(|_| digest.count > 0);
        let last = std::mem::replace(&mut copy.version, version);
        let has_changed = std::mem::take(&mut copy.has_changed);
        if digest.is_answer {
            return self.hear_answer(id, channel, digest);
        }
        // A snapshot may be ahead of changes that are still to come.
        if !is_live || digest.has_all {
            return;
        }
        if let Some((epoch, number)) = last {
            let follows = digest.version == (epoch, number + u64::from(has_changed));
            assert!(follows, "client {id} in {channel}: {last:?}, then {digest:?}");
        }
        let count = copy.hashes.len() as u64;
        let buckets = copy.buckets(digest.buckets.len());
        let is_right = count == digest.count && buckets == digest.buckets;
        assert!(is_right || copy.is_wrong, "client {id} in {channel}: {copy:?} is not {digest:?}");
        if is_right {
            copy.is_wrong &= buckets.is_empty();
        } else if copy.asked.is_none() {
            self.check_copy(id, channel, buckets);
        }
    }

    fn check_copy(&mut self, id: usize, channel: &'static str, buckets: Vec<u128>) {
        let request = self.number(id);
        self.world.note(|| format!("client {id} has its copy of {channel} checked"));
        self.clients[id].room(channel).copy.asked = Some(buckets.clone());
        self.expect(id, request, Asked::Check { channel });
        let check = Check { id: request, channel: channel.into(), buckets };
        let Some(link) = &mut self.clients[id].link else { return };
        let bytes = link.line.peer_request(&PeerRequest::Check(check));
        link.send(&mut self.world, &bytes);
    }

    fn hear_answer(&mut self, id: usize, channel: &'static str, digest: &Digest) {
        let copy = &mut self.clients[id].room(channel).copy;
        let Some(asked) = copy.asked.take() else { return };
        if asked.is_empty() {
            let buckets = copy.buckets(digest.buckets.len());
            return match buckets == digest.buckets {
                true => copy.is_wrong = false,
                false => self.check_copy(id, channel, buckets),
            };
        }
        // Few enough members for one answer.
        let different = asked.iter().zip(&digest.buckets).filter(|(a, b)| a != b).count();
        let is_counted = asked.len() == digest.buckets.len();
        let expected = if is_counted { different } else { digest.buckets.len() };
        assert_eq!(digest.repaired.len(), expected, "{asked:?}: {digest:?}");
        copy.repaired = Some((digest.repaired.clone(), digest.buckets.len(), BTreeSet::new()));
    }

    /// All of an answer has arrived: of the buckets in it, nobody else is present.
    pub fn copy_checked(&mut self, id: usize, channel: &'static str) {
        let room = self.clients[id].room(channel);
        let Some((repaired, count, arrived)) = room.copy.repaired.take() else { return };
        let remains = |name: &Name| {
            let bucket = binary::bucket_of(&name.0, &name.1, count);
            !repaired.contains(&(bucket as u64)) || arrived.contains(name)
        };
        room.copy.hashes.retain(|name, _| remains(name));
        room.view.retain(|name, _| remains(name));
    }
}
