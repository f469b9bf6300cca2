//! What peers are sent about the members of a channel.

use std::sync::Arc;

use super::super::foony::encode::{Form, Writer, member_of};
use super::super::{DirectMessage, EdgeRequest};
use super::key_of;
use crate::channel::{
    Change, ChangeKind, DERIVED_KEY_BYTES, EdgeDenial, Identity, LeaveReason, Link, Members,
    PeerKey, State,
};
use crate::ids::{ChannelKey, Clocks};
use crate::wire::foony::peer::{Transport, UnadmittedPeer};
use crate::wire::foony::{Event, PeerMember, peer as foony_peer};

/// In place of a key that is not needed.
const NO_KEY: PeerKey = PeerKey::Derived([0; DERIVED_KEY_BYTES]);

/// Everything that happened to the members of a channel at once. `members`: after it.
pub fn changes(now: Clocks, key: &ChannelKey, members: &Members, changes: &[Change]) -> Arc<[u8]> {
    let mut out = Vec::new();
    let mut encoder = Encoder { now, key, members, writer: Writer::new(Form::Records, &mut out) };
    for change in changes {
        let is_gone = change.kind == ChangeKind::Leave;
        let present = members.find(change.addr).filter(|_| !is_gone);
        encoder.append(&Shown {
            kind: change.kind,
            reason: if is_gone { reason_code(change.reason) } else { 0 },
            is_lost: present.is_some_and(|member| member.grace_until.is_some()),
            timestamp_ms: now.wall_ms,
            identity: &change.identity,
            state: &change.state,
        });
    }
    out.into()
}

/// Everyone who is present.
pub fn members(now: Clocks, key: &ChannelKey, members: &Members) -> Arc<[u8]> {
    let mut out = Vec::new();
    let mut encoder = Encoder { now, key, members, writer: Writer::new(Form::Records, &mut out) };
    for member in members.iter() {
        encoder.append(&Shown {
            kind: ChangeKind::Enter,
            reason: 0,
            is_lost: member.grace_until.is_some(),
            timestamp_ms: now.wall_ms.saturating_sub(member.age_ms(now)),
            identity: &member.identity,
            state: &member.state,
        });
    }
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

struct Encoder<'e, 'o> {
    now: Clocks,
    key: &'e ChannelKey,
    members: &'e Members,
    writer: Writer<'o>,
}

impl Encoder<'_, '_> {
    fn append(&mut self, shown: &Shown<'_>) {
        let Shown { kind, reason, is_lost, timestamp_ms, identity, state } = *shown;
        let name = &self.key.name;
        let peer = state.peer().map(|peer| &**peer);
        let derived = if peer.is_none() { key_of(&self.key.app, identity) } else { NO_KEY };
        let asker = peer.filter(|_| kind != ChangeKind::Leave);
        let unadmitted = asker.and_then(|peer| self.members.unadmitted_by(&peer.key));
        self.writer.event(&Event::PeerMember(Box::new(PeerMember {
            member: member_of(kind, timestamp_ms, name, identity, state),
            is_lost,
            reason,
            transport: transport(identity.link),
            key: peer.map_or(&derived, |peer| &peer.key),
            device_name: peer.map_or(&*identity.user, |peer| &peer.device_name).into(),
            os: peer.map_or("", |peer| &peer.os).into(),
            sdk_version: peer.map_or("", |peer| &peer.sdk_version).into(),
            metadata: peer.map_or(b"", |peer| &peer.metadata),
            signature: peer.and_then(|peer| peer.signature.as_deref().copied()),
            identity_metadata: identity.metadata().map_or(b"", |text| text.as_bytes()),
            unadmitted: unadmitted
                .into_iter()
                .flatten()
                .map(|peer| self.unadmitted(peer))
                .collect(),
        })));
    }

    fn unadmitted<'u>(
        &self,
        (key, denial): (&'u PeerKey, &'u Option<EdgeDenial>),
    ) -> UnadmittedPeer<'u> {
        UnadmittedPeer {
            key,
            is_denied: denial.is_some(),
            retry_after_ms: denial.as_ref().map_or(0, |denial| retry_after_ms(self.now, denial)),
            reason: denial.as_ref().map_or("", |denial| &denial.reason).into(),
        }
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
