//! What peers are sent about the members of a channel.

use std::sync::Arc;

use super::super::foony::encode::{Form, Writer, member_of};
use super::key_of;
use crate::channel::{Change, ChangeKind, Identity, LeaveReason, Member, Members, State};
use crate::ids::{ChannelKey, Clocks};
use crate::wire::foony::{self, Event, PeerMember};

/// How a member reached the server.
const OVER_WEBSOCKET: u8 = 1;

/// Everything that happened to the members of a channel at once.
pub fn changes(now: Clocks, key: &ChannelKey, members: &Members, changes: &[Change]) -> Arc<[u8]> {
    let mut out = Vec::new();
    let mut writer = Writer::new(Form::Records, &mut out);
    for change in changes {
        let is_lost = change.kind != ChangeKind::Leave
            && members.find(change.addr).is_some_and(|member| member.grace_until.is_some());
        let reason = if change.kind == ChangeKind::Leave { reason_code(change.reason) } else { 0 };
        let timestamp_ms = now.wall_ms;
        let member =
            member_of(change.kind, timestamp_ms, &key.name, &change.identity, &change.state);
        append(
            &mut writer,
            key,
            &change.identity,
            &change.state,
            Shown { member, is_lost, reason },
        );
    }
    out.into()
}

/// Everyone who is present.
pub fn members(now: Clocks, key: &ChannelKey, members: &Members) -> Arc<[u8]> {
    let mut out = Vec::new();
    let mut writer = Writer::new(Form::Records, &mut out);
    for present in members.iter() {
        let Member { identity, state, .. } = present;
        let timestamp_ms = now.wall_ms.saturating_sub(present.age_ms(now));
        let member = member_of(ChangeKind::Enter, timestamp_ms, &key.name, identity, state);
        let is_lost = present.grace_until.is_some();
        append(&mut writer, key, identity, state, Shown { member, is_lost, reason: 0 });
    }
    out.into()
}

struct Shown<'m> {
    member: foony::Member<'m>,
    is_lost: bool,
    reason: u8,
}

fn append(
    writer: &mut Writer<'_>,
    key: &ChannelKey,
    identity: &Identity,
    state: &State,
    shown: Shown<'_>,
) {
    let Shown { member, is_lost, reason } = shown;
    let transport = OVER_WEBSOCKET;
    let identity_metadata = identity.metadata().map_or(&b""[..], |text| text.as_bytes());
    let peer = match state.peer().map(|peer| &**peer) {
        Some(peer) => PeerMember {
            member,
            is_lost,
            reason,
            transport,
            key: &peer.key,
            device_name: (&*peer.device_name).into(),
            os: (&*peer.os).into(),
            sdk_version: (&*peer.sdk_version).into(),
            metadata: &peer.metadata,
            identity_metadata,
        },
        None => {
            let derived = key_of(&key.app, identity);
            return writer.event(&Event::PeerMember(Box::new(PeerMember {
                member,
                is_lost,
                reason,
                transport,
                key: &derived,
                device_name: (&*identity.user).into(),
                os: "".into(),
                sdk_version: "".into(),
                metadata: b"",
                identity_metadata,
            })));
        }
    };
    writer.event(&Event::PeerMember(Box::new(peer)));
}

fn reason_code(reason: LeaveReason) -> u8 {
    match reason {
        LeaveReason::Left => 1,
        LeaveReason::Lost => 2,
        LeaveReason::TimedOut => 3,
        LeaveReason::Removed => 4,
    }
}
