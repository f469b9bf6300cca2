//! Records of the graph extension, opcodes 64 to 66 (`docs/protocol.md`).

use super::event::{member_body, write_member_body};
use super::field::{Reader, write_bytes, write_text, write_uvarint};
use super::{PEER_GREETING, PEER_MEMBER, PEER_UPDATE, append_record, records};
use crate::error::FrameError;
use crate::wire::foony::{PeerGreeting, PeerMember, PeerUpdate};

const IS_LOST: u8 = 1;

/// Whether the first message of a client makes it a peer: its greeting is followed by what it says
/// of itself.
pub fn is_first_message_of_peer(message: &[u8]) -> bool {
    let second = records(message).nth(1).and_then(Result::ok);
    second.is_some_and(|record| record.bytes().first() == Some(&PEER_UPDATE))
}

pub(super) fn update<'a>(reader: &mut Reader<'a>) -> Result<PeerUpdate<'a>, FrameError> {
    Ok(PeerUpdate {
        id: reader.uvarint()?,
        device: reader.bytes()?.into(),
        device_name: reader.text()?,
        os: reader.text()?,
        sdk_version: reader.text()?,
        metadata: reader.payload()?.into(),
    })
}

pub(super) fn append_update(update: &PeerUpdate<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_UPDATE, |out| {
        write_uvarint(out, update.id);
        write_bytes(out, &update.device);
        write_text(out, &update.device_name);
        write_text(out, &update.os);
        write_text(out, &update.sdk_version);
        write_bytes(out, &update.metadata);
    });
}

pub(super) fn greeting<'a>(reader: &mut Reader<'a>) -> Result<PeerGreeting<'a>, FrameError> {
    Ok(PeerGreeting { key: reader.bytes()?, metadata_bytes_max: reader.uvarint()? })
}

pub(super) fn append_greeting(greeting: &PeerGreeting<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_GREETING, |out| {
        write_bytes(out, greeting.key);
        write_uvarint(out, greeting.metadata_bytes_max);
    });
}

pub(super) fn member<'a>(reader: &mut Reader<'a>) -> Result<PeerMember<'a>, FrameError> {
    let (flags, reason, transport) = (reader.byte()?, reader.byte()?, reader.byte()?);
    Ok(PeerMember {
        is_lost: flags & IS_LOST != 0,
        reason,
        transport,
        member: member_body(reader)?,
        key: reader.bytes()?,
        device_name: reader.text()?,
        os: reader.text()?,
        sdk_version: reader.text()?,
        metadata: reader.payload()?,
        identity_metadata: reader.payload()?,
    })
}

pub(super) fn append_member(peer: &PeerMember<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_MEMBER, |out| {
        out.push(if peer.is_lost { IS_LOST } else { 0 });
        out.push(peer.reason);
        out.push(peer.transport);
        write_member_body(out, &peer.member);
        write_bytes(out, peer.key);
        write_text(out, &peer.device_name);
        write_text(out, &peer.os);
        write_text(out, &peer.sdk_version);
        write_bytes(out, peer.metadata);
        write_bytes(out, peer.identity_metadata);
    });
}
