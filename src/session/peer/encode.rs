//! What peers are sent about the members of a channel.

use std::sync::Arc;

use super::super::foony::encode::{Form, Writer, member_of};
use super::super::{DirectMessage, EdgeRequest};
use super::key_of;
use crate::channel::{
    Change, ChangeKind, EdgeDenial, Identity, LeaveReason, Link, Member, Members, PeerKey, State,
};
use crate::ids::{ChannelKey, Clocks};
use crate::wire::foony::peer::{MembersDigest, Transport, UnadmittedPeer};
use crate::wire::foony::{self, Event, PeerMember, binary, peer as foony_peer};

/// The answer to a check ends with the bucket that exceeds it, bytes.
const CHECKED_BYTES_MAX: usize = 256 * 1024;

/// Everything that happened to the members of a channel at once. `members`: after it.
pub fn changes(now: Clocks, key: &ChannelKey, members: &Members, changes: &[Change]) -> Arc<[u8]> {
    encode(now, key, members, |encoder| encoder.changes(changes))
}

/// The same as a tick of the channel: with what the members are after it.
pub fn tick(now: Clocks, key: &ChannelKey, members: &Members, changes: &[Change]) -> Arc<[u8]> {
    encode(now, key, members, |encoder| {
        encoder.changes(changes);
        let graph = members.graph.as_ref().filter(|graph| graph.is_digest_due);
        let buckets = graph.and_then(|graph| graph.digests.clone()).unwrap_or_default();
        encoder.digest(|digest| MembersDigest { buckets, ..digest });
    })
}

/// Everyone who is present.
pub fn members(now: Clocks, key: &ChannelKey, members: &Members) -> Arc<[u8]> {
    encode(now, key, members, |encoder| {
        members.iter().for_each(|member| encoder.member(&Shown::present(now, member)));
        encoder.digest(|digest| MembersDigest { has_all: true, ..digest });
    })
}

/// The digests of all members.
pub fn digests(now: Clocks, key: &ChannelKey, members: &Members) -> Vec<u128> {
    View { now, key, members }.digests()
}

/// What differs from a copy of the members with these digests, as much as an answer may have;
/// without any, the digests.
pub fn differing(now: Clocks, key: &ChannelKey, members: &Members, copy: &[u128]) -> Arc<[u8]> {
    let view = View { now, key, members };
    let known = members.graph.as_ref().and_then(|graph| graph.digests.clone());
    let buckets = known.unwrap_or_else(|| view.digests());
    let mut of_bucket: Vec<Vec<&Member>> = vec![Vec::new(); buckets.len()];
    for member in members.iter() {
        let Identity { user, connection, .. } = &*member.identity;
        of_bucket[binary::bucket_of(user, connection, buckets.len())].push(member);
    }
    let (mut body, mut repaired) = (Vec::new(), Vec::new());
    let mut encoder = Encoder { view, writer: Writer::new(Form::Records, &mut body) };
    for (bucket, members) in of_bucket.iter().enumerate() {
        let is_same =
            copy.is_empty() || copy.len() == buckets.len() && copy[bucket] == buckets[bucket];
        if !is_same && encoder.writer.output_bytes() < CHECKED_BYTES_MAX {
            members.iter().for_each(|member| encoder.member(&Shown::present(now, member)));
            repaired.push(bucket as u64);
        }
    }
    let head = encode(now, key, members, |encoder| {
        encoder.digest(|digest| MembersDigest { is_answer: true, buckets, repaired, ..digest });
    });
    [&*head, &body].concat().into()
}

fn encode(
    now: Clocks,
    key: &ChannelKey,
    members: &Members,
    encode: impl FnOnce(&mut Encoder<'_, '_>),
) -> Arc<[u8]> {
    let mut out = Vec::new();
    let view = View { now, key, members };
    encode(&mut Encoder { view, writer: Writer::new(Form::Records, &mut out) });
    out.into()
}

/// A member, and what happened to it.
struct Shown<'m> {
    kind: ChangeKind,
    reason: u8,
    is_lost: bool,
    timestamp_ms: u64,
    identity: &'m Identity,
    state: &'m State,
}

impl<'m> Shown<'m> {
    fn present(now: Clocks, member: &'m Member) -> Self {
        Shown {
            kind: ChangeKind::Enter,
            reason: 0,
            is_lost: member.grace_until.is_some(),
            timestamp_ms: now.wall_ms.saturating_sub(member.age_ms(now)),
            identity: &member.identity,
            state: &member.state,
        }
    }
}

/// The channel whose members are shown.
#[derive(Clone, Copy)]
struct View<'m> {
    now: Clocks,
    key: &'m ChannelKey,
    members: &'m Members,
}

struct Encoder<'e, 'o> {
    view: View<'e>,
    writer: Writer<'o>,
}

impl Encoder<'_, '_> {
    fn changes(&mut self, changes: &[Change]) {
        let View { now, members, .. } = self.view;
        for change in changes {
            let is_gone = change.kind == ChangeKind::Leave;
            let present = members.find(change.addr).filter(|_| !is_gone);
            self.member(&Shown {
                kind: change.kind,
                reason: if is_gone { reason_code(change.reason) } else { 0 },
                is_lost: present.is_some_and(|member| member.grace_until.is_some()),
                timestamp_ms: now.wall_ms,
                identity: &change.identity,
                state: &change.state,
            });
        }
    }

    fn member(&mut self, shown: &Shown<'_>) {
        let key = self.view.key_of(shown);
        let record = Box::new(self.view.record(shown, &key));
        self.writer.event(&Event::PeerMember(record));
    }

    /// What the members are after the records before it; `complete` adds to it.
    fn digest(&mut self, complete: impl FnOnce(MembersDigest<'_>) -> MembersDigest<'_>) {
        let View { key, members, .. } = self.view;
        let graph = members.graph.as_deref();
        self.writer.event(&Event::MembersDigest(complete(MembersDigest {
            has_all: false,
            is_answer: false,
            channel: (&*key.name).into(),
            epoch: graph.map_or(0, |graph| graph.epoch),
            version: graph.map_or(0, |graph| graph.version),
            count: members.len() as u64,
            buckets: Vec::new(),
            repaired: Vec::new(),
        })));
    }
}

impl<'m> View<'m> {
    fn digests(self) -> Vec<u128> {
        let mut buckets = vec![0u128; binary::buckets_for(self.members.len())];
        for member in self.members.iter() {
            let shown = Shown::present(self.now, member);
            let key = self.key_of(&shown);
            let record = self.record(&shown, &key);
            let foony::Member { client_id, connection_id, .. } = &record.member;
            let bucket = binary::bucket_of(client_id, connection_id, buckets.len());
            buckets[bucket] = buckets[bucket].wrapping_add(binary::member_hash(&record));
        }
        buckets
    }

    fn key_of(self, shown: &Shown<'_>) -> PeerKey {
        key_of(&self.key.app, shown.identity, shown.state.peer().map(Arc::as_ref))
    }

    /// `key`: of this member.
    fn record<'s>(self, shown: &Shown<'s>, key: &'s PeerKey) -> PeerMember<'s>
    where
        'm: 's,
    {
        let Shown { kind, reason, is_lost, timestamp_ms, identity, state } = *shown;
        let peer = state.peer().map(|peer| &**peer);
        let asker = peer.filter(|_| kind != ChangeKind::Leave);
        let unadmitted = asker.and_then(|peer| self.members.unadmitted_by(&peer.key));
        PeerMember {
            member: member_of(kind, timestamp_ms, &self.key.name, identity, state),
            is_lost,
            reason,
            transport: transport(identity.link),
            key,
            device_name: peer.map_or(&*identity.user, |peer| &peer.device_name).into(),
            os: peer.map_or("", |peer| &peer.os).into(),
            sdk_version: peer.map_or("", |peer| &peer.sdk_version).into(),
            metadata: peer.map_or(b"", |peer| &peer.metadata),
            signature: peer.and_then(|peer| peer.signature.as_deref().copied()),
            identity_metadata: identity.metadata().map_or(b"", |text| text.as_bytes()),
            unadmitted: unadmitted
                .into_iter()
                .flatten()
                .map(|peer| unadmitted_peer(self.now, peer))
                .collect(),
        }
    }
}

fn unadmitted_peer<'u>(
    now: Clocks,
    (key, denial): (&'u PeerKey, &'u Option<EdgeDenial>),
) -> UnadmittedPeer<'u> {
    UnadmittedPeer {
        key,
        is_denied: denial.is_some(),
        retry_after_ms: denial.as_ref().map_or(0, |denial| retry_after_ms(now, denial)),
        reason: denial.as_ref().map_or("", |denial| &denial.reason).into(),
    }
}

/// Asks a client whether a peer may connect to it.
pub fn edge_request(request: u64, edge: &EdgeRequest, out: &mut Vec<u8>) {
    let metadata = edge.peer.as_ref().map_or(&b""[..], |peer| &peer.metadata);
    Writer::new(Form::Records, out).event(&Event::EdgeRequest(Box::new(foony_peer::EdgeRequest {
        request,
        channel: (&*edge.channel.name).into(),
        key: &edge.key,
        transport: transport(edge.identity.link),
        metadata,
        identity_metadata: edge.identity.metadata().map_or(b"", |text| text.as_bytes()),
    })));
}

/// Hands a direct message to a client.
pub fn direct_message(number: u64, message: &DirectMessage, out: &mut Vec<u8>) {
    Writer::new(Form::Records, out).event(&Event::DirectMessage(foony_peer::DirectMessage {
        number,
        from: &message.from,
        name: (&*message.name).into(),
        data: &message.data,
    }));
}

/// A direct message was not taken.
pub fn direct_refused(
    now: Clocks,
    id: u64,
    denial: Option<&EdgeDenial>,
    why: &str,
    out: &mut Vec<u8>,
) {
    Writer::new(Form::Records, out).event(&Event::DirectRefused(foony_peer::DirectRefused {
        id,
        is_denied: denial.is_some(),
        retry_after_ms: denial.map_or(0, |denial| retry_after_ms(now, denial)),
        reason: denial.map_or(why, |denial| &denial.reason).into(),
    }));
}

fn retry_after_ms(now: Clocks, denial: &EdgeDenial) -> u64 {
    denial.until_ms.saturating_sub(now.mono_ms)
}

fn transport(link: Link) -> Transport {
    match link {
        Link::Web => Transport::WebSocket,
        Link::Tcp => Transport::Tcp,
    }
}

fn reason_code(reason: LeaveReason) -> u8 {
    match reason {
        LeaveReason::Left => 1,
        LeaveReason::Lost => 2,
        LeaveReason::TimedOut => 3,
        LeaveReason::Removed => 4,
    }
}
