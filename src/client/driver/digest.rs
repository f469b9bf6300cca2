//! The copy of a channel's members compared with what the server says of them; what differs is
//! asked for.

use super::core::{Asked, Core};
use super::messages::Phase;
use super::roster::Roster;
use crate::client::member::LeaveReason;
use crate::client::protocol::Outbound;
use crate::wire::foony::peer::{Check, MembersDigest};
use crate::wire::foony::{Action, PeerRequest, binary};

/// How far the copy is known to be right.
#[derive(Default)]
pub(super) struct Comparison {
    /// Epoch and version of the last digest; `None` before the first, and of an empty channel,
    /// after which another history may begin.
    seen: Option<(u64, u64)>,
    /// Digests that the server was asked to compare with its own, and has not.
    asked: Option<Vec<u128>>,
    repair: Option<Repair>,
}

/// Some of the members are arriving again.
struct Repair {
    /// By bucket, whether those of it are.
    is_repaired: Vec<bool>,
    /// Digests of the server.
    target: Vec<u128>,
    /// Buckets that differed before.
    different: usize,
}

impl Comparison {
    /// Whether a member that arrives, or leaves, is part of a repair.
    pub fn repairs(&self, (client_id, connection_id): &(String, String)) -> bool {
        self.repair.as_ref().is_some_and(|repair| {
            let count = repair.is_repaired.len();
            let bucket = binary::bucket_of(client_id, connection_id, count);
            repair.is_repaired.get(bucket) == Some(&true)
        })
    }
}

impl Core {
    pub fn handle_digest(&mut self, digest: &MembersDigest<'_>, out: &mut Outbound) {
        let name = &digest.channel;
        let Some(channel) = self.channel_mut(name) else { return };
        if let Some(buckets) = channel.roster.handle_digest(digest) {
            self.check(name, buckets, out);
        }
    }

    fn check(&mut self, name: &str, buckets: Vec<u128>, out: &mut Outbound) {
        let id =
            out.peer_request(|id| PeerRequest::Check(Check { id, channel: name.into(), buckets }));
        self.asked.insert(id, Asked::Check(name.to_owned()));
    }

    /// The server has answered a check.
    pub fn end_check(&mut self, name: &str, out: &mut Outbound) {
        let Some(channel) = self.channel_mut(name) else { return };
        let question = channel.roster.end_check();
        self.mirror.mark_changed();
        if let Some(buckets) = question {
            self.check(name, buckets, out);
        }
    }

    /// The server does not compare: the next digest asks again.
    pub fn give_up_check(&mut self, name: &str) {
        if let Some(channel) = self.channel_mut(name) {
            channel.roster.comparison.asked = None;
        }
    }
}

impl Roster {
    /// What the members are after what has arrived. Returns the digests of the copy if the server
    /// is to compare them; empty ones to ask for its own.
    fn handle_digest(&mut self, digest: &MembersDigest<'_>) -> Option<Vec<u128>> {
        let seen = Some((digest.epoch, digest.version)).filter(|_| digest.count > 0);
        let last = std::mem::replace(&mut self.comparison.seen, seen);
        if self.phase == Phase::Live && digest.is_answer {
            let asked = self.comparison.asked.take()?;
            return self.handle_answer(asked, digest);
        }
        let Comparison { asked, repair, .. } = &self.comparison;
        let is_under_way = asked.is_some() || repair.is_some();
        // A snapshot may be ahead of changes that are still to come.
        if self.phase != Phase::Live || digest.has_all || is_under_way {
            return None;
        }
        let follows = |(epoch, version): (u64, u64)| {
            epoch == digest.epoch && digest.version.wrapping_sub(version) <= 1
        };
        let is_whole = last.is_none_or(follows);
        let buckets = self.buckets(digest.buckets.len());
        let question = match buckets == digest.buckets {
            false => buckets,
            true if is_whole && digest.count == self.members.len() as u64 => return None,
            true => Vec::new(),
        };
        self.comparison.asked = Some(question.clone());
        Some(question)
    }

    fn handle_answer(&mut self, asked: Vec<u128>, digest: &MembersDigest<'_>) -> Option<Vec<u128>> {
        if asked.is_empty() {
            let buckets = self.buckets(digest.buckets.len());
            self.comparison.asked = Some(buckets.clone()).filter(|own| *own != digest.buckets);
            return self.comparison.asked.clone();
        }
        let mut is_repaired = vec![false; digest.buckets.len()];
        for bucket in &digest.repaired {
            let bucket = usize::try_from(*bucket).ok().and_then(|at| is_repaired.get_mut(at));
            bucket.into_iter().for_each(|bucket| *bucket = true);
        }
        let target = digest.buckets.clone();
        let different = self.different(&target);
        self.comparison.repair = Some(Repair { is_repaired, target, different });
        None
    }

    /// The members of the repaired buckets have arrived. Returns the digests of the copy if more
    /// is to be repaired.
    pub fn end_check(&mut self) -> Option<Vec<u128>> {
        let Repair { is_repaired, target, different } = self.comparison.repair.take()?;
        let arrived = std::mem::take(&mut self.arriving);
        let is_gone = |(key, _): &(&(String, String), _)| {
            let bucket = binary::bucket_of(&key.0, &key.1, is_repaired.len());
            is_repaired.get(bucket) == Some(&true) && !arrived.contains_key(*key)
        };
        let gone = self.members.iter().filter(is_gone).map(|(_, present)| present.clone());
        for present in gone.collect::<Vec<_>>() {
            self.apply(Action::Leave, LeaveReason::Unknown, present);
        }
        for (_, present) in arrived {
            self.apply(Action::Enter, LeaveReason::Unknown, present);
        }
        // What does not get better with this answer does not with the next one.
        let has_more = (1..different).contains(&self.different(&target));
        self.comparison.asked = has_more.then(|| self.buckets(target.len()));
        self.comparison.asked.clone()
    }

    /// Buckets whose digests are others.
    fn different(&self, target: &[u128]) -> usize {
        let own = self.buckets(target.len());
        own.iter().zip(target).filter(|(own, target)| own != target).count()
    }

    /// The digests of the copy.
    fn buckets(&self, count: usize) -> Vec<u128> {
        let mut buckets = vec![0u128; count];
        if count == 0 {
            return buckets;
        }
        for ((client_id, connection_id), present) in &self.members {
            let bucket = buckets.get_mut(binary::bucket_of(client_id, connection_id, count));
            if let (Some(bucket), Some(peer)) = (bucket, &present.peer) {
                *bucket = bucket.wrapping_add(peer.hash);
            }
        }
        buckets
    }
}
