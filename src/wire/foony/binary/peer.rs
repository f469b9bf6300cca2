//! Records of the graph extension, opcodes 64 to 74 (`docs/protocol.md`).

use super::event::{member_body, write_member_body};
use super::field::{Reader, write_bytes, write_text, write_uvarint};
use super::{
    PEER_CHECK, PEER_DECIDE, PEER_DIRECT, PEER_DIRECT_MESSAGE, PEER_DIRECT_REFUSED,
    PEER_EDGE_REQUEST, PEER_GREETING, PEER_MEMBER, PEER_TOOK, PEER_UPDATE, append_record, digest,
    records,
};
use crate::error::FrameError;
use crate::signature::{MetadataSignature, ProvenKey};
use crate::wire::foony::peer::{
    Decision, Direct, DirectMessage, DirectRefused, EdgeRequest, PeerGreeting, PeerMember,
    PeerRequest, PeerUpdate, Transport, UnadmittedPeer,
};

const IS_LOST: u8 = 1;
const ALLOW: u8 = 0;
const DENY: u8 = 1;

/// Whether the first message of a client makes it a peer: its greeting is followed by what it says
/// of itself.
pub fn is_first_message_of_peer(message: &[u8]) -> bool {
    let second = records(message).nth(1).and_then(Result::ok);
    second.is_some_and(|record| record.bytes().first() == Some(&PEER_UPDATE))
}

/// Decodes a request of a peer; `None` for any other record.
pub(super) fn request<'a>(record: &'a [u8]) -> Option<Result<PeerRequest<'a>, FrameError>> {
    let (opcode, fields) = record.split_first()?;
    let reader = &mut Reader::new(fields);
    match *opcode {
        PEER_UPDATE => Some(update(reader).map(PeerRequest::Update)),
        PEER_DECIDE => Some(decide(reader)),
        PEER_DIRECT => Some(direct(reader).map(PeerRequest::Direct)),
        PEER_TOOK => Some(took(reader)),
        PEER_CHECK => Some(digest::check(reader).map(PeerRequest::Check)),
        _ => None,
    }
}

/// A JSON object; its syntax and depth are those of any payload.
fn object<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], FrameError> {
    let payload = reader.payload()?;
    match payload.trim_ascii_start().first() {
        Some(b'{') => Ok(payload),
        _ => Err(FrameError::Body),
    }
}

fn transport(reader: &mut Reader<'_>) -> Result<Transport, FrameError> {
    Ok(Transport::from_repr(reader.byte()?).unwrap_or_default())
}

fn decide<'a>(reader: &mut Reader<'a>) -> Result<PeerRequest<'a>, FrameError> {
    let (request, verdict) = (reader.uvarint()?, reader.byte()?);
    let (retry_after_ms, reason) = (reader.uvarint()?, reader.text()?);
    let decision = match verdict {
        ALLOW => Decision::Allow,
        DENY => Decision::Deny { reason, retry_after_ms },
        _ => return Err(FrameError::Body),
    };
    Ok(PeerRequest::Decide { request, decision })
}

fn direct<'a>(reader: &mut Reader<'a>) -> Result<Direct<'a>, FrameError> {
    Ok(Direct {
        id: reader.uvarint()?,
        channel: reader.text()?,
        to: reader.bytes()?,
        name: reader.text()?,
        data: reader.payload()?,
    })
}

fn took<'a>(reader: &mut Reader<'a>) -> Result<PeerRequest<'a>, FrameError> {
    Ok(PeerRequest::Took { number: reader.uvarint()?, is_taken: reader.byte()? != 0 })
}

/// Appends a request of a peer as one record.
pub fn append_peer_request(request: &PeerRequest<'_>, out: &mut Vec<u8>) {
    match request {
        PeerRequest::Update(update) => append_update(update, out),
        PeerRequest::Decide { request, decision } => append_record(out, PEER_DECIDE, |out| {
            write_uvarint(out, *request);
            let (verdict, retry_after_ms, reason) = match decision {
                Decision::Allow => (ALLOW, 0, ""),
                Decision::Deny { reason, retry_after_ms } => (DENY, *retry_after_ms, &**reason),
            };
            out.push(verdict);
            write_uvarint(out, retry_after_ms);
            write_text(out, reason);
        }),
        PeerRequest::Direct(direct) => append_record(out, PEER_DIRECT, |out| {
            write_uvarint(out, direct.id);
            write_text(out, &direct.channel);
            write_bytes(out, direct.to);
            write_text(out, &direct.name);
            write_bytes(out, direct.data);
        }),
        PeerRequest::Check(check) => digest::append_check(check, out),
        PeerRequest::Took { number, is_taken } => append_record(out, PEER_TOOK, |out| {
            write_uvarint(out, *number);
            out.push(u8::from(*is_taken));
        }),
    }
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<PeerUpdate<'a>, FrameError> {
    Ok(PeerUpdate {
        id: reader.uvarint()?,
        device: reader.bytes()?.into(),
        device_name: reader.text()?,
        os: reader.text()?,
        sdk_version: reader.text()?,
        asks_ms: reader.uvarint()?,
        handler: reader.uvarint()?,
        metadata: object(reader)?.into(),
        key: proven_key(reader)?.map(Box::new),
        signature: signature(reader)?.map(Box::new),
    })
}

/// So many bytes.
fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], FrameError> {
    bytes.try_into().map_err(|_| FrameError::Body)
}

fn proven_key(reader: &mut Reader<'_>) -> Result<Option<ProvenKey>, FrameError> {
    match reader.bytes()? {
        [] => Ok(None),
        public => Ok(Some(ProvenKey { public: array(public)?, proof: array(reader.bytes()?)? })),
    }
}

fn signature(reader: &mut Reader<'_>) -> Result<Option<MetadataSignature>, FrameError> {
    match reader.bytes()? {
        [] => Ok(None),
        bytes => Ok(Some(MetadataSignature {
            bytes: array(bytes)?,
            version: reader.uvarint()?,
            issued_ms: reader.uvarint()?,
        })),
    }
}

fn write_proven_key(out: &mut Vec<u8>, key: Option<&ProvenKey>) {
    let Some(ProvenKey { public, proof }) = key else { return write_bytes(out, &[]) };
    write_bytes(out, public);
    write_bytes(out, proof);
}

fn write_signature(out: &mut Vec<u8>, signature: Option<&MetadataSignature>) {
    let Some(MetadataSignature { bytes, version, issued_ms }) = signature else {
        return write_bytes(out, &[]);
    };
    write_bytes(out, bytes);
    write_uvarint(out, *version);
    write_uvarint(out, *issued_ms);
}

fn append_update(update: &PeerUpdate<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_UPDATE, |out| {
        write_uvarint(out, update.id);
        write_bytes(out, &update.device);
        write_text(out, &update.device_name);
        write_text(out, &update.os);
        write_text(out, &update.sdk_version);
        write_uvarint(out, update.asks_ms);
        write_uvarint(out, update.handler);
        write_bytes(out, &update.metadata);
        write_proven_key(out, update.key.as_deref());
        write_signature(out, update.signature.as_deref());
    });
}

pub(super) fn greeting<'a>(reader: &mut Reader<'a>) -> Result<PeerGreeting<'a>, FrameError> {
    Ok(PeerGreeting {
        key: reader.bytes()?,
        metadata_bytes_max: reader.uvarint()?,
        peers_max: reader.uvarint()?,
        nonce: reader.bytes()?,
    })
}

pub(super) fn append_greeting(greeting: &PeerGreeting<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_GREETING, |out| {
        write_bytes(out, greeting.key);
        write_uvarint(out, greeting.metadata_bytes_max);
        write_uvarint(out, greeting.peers_max);
        write_bytes(out, greeting.nonce);
    });
}

pub(super) fn member<'a>(reader: &mut Reader<'a>) -> Result<PeerMember<'a>, FrameError> {
    let (flags, reason) = (reader.byte()?, reader.byte()?);
    Ok(PeerMember {
        is_lost: flags & IS_LOST != 0,
        reason,
        transport: transport(reader)?,
        member: member_body(reader)?,
        key: reader.bytes()?,
        device_name: reader.text()?,
        os: reader.text()?,
        sdk_version: reader.text()?,
        metadata: reader.payload()?,
        signature: signature(reader)?,
        identity_metadata: reader.payload()?,
        unadmitted: reader.list(unadmitted)?,
    })
}

fn unadmitted<'a>(reader: &mut Reader<'a>) -> Result<UnadmittedPeer<'a>, FrameError> {
    Ok(UnadmittedPeer {
        key: reader.bytes()?,
        is_denied: reader.byte()? != 0,
        retry_after_ms: reader.uvarint()?,
        reason: reader.text()?,
    })
}

pub(super) fn edge_request<'a>(reader: &mut Reader<'a>) -> Result<EdgeRequest<'a>, FrameError> {
    Ok(EdgeRequest {
        request: reader.uvarint()?,
        channel: reader.text()?,
        key: reader.bytes()?,
        transport: transport(reader)?,
        metadata: reader.payload()?,
        identity_metadata: reader.payload()?,
    })
}

pub(super) fn append_edge_request(request: &EdgeRequest<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_EDGE_REQUEST, |out| {
        write_uvarint(out, request.request);
        write_text(out, &request.channel);
        write_bytes(out, request.key);
        out.push(request.transport as u8);
        write_bytes(out, request.metadata);
        write_bytes(out, request.identity_metadata);
    });
}

pub(super) fn direct_message<'a>(reader: &mut Reader<'a>) -> Result<DirectMessage<'a>, FrameError> {
    Ok(DirectMessage {
        number: reader.uvarint()?,
        from: reader.bytes()?,
        name: reader.text()?,
        data: reader.payload()?,
    })
}

pub(super) fn append_direct_message(message: &DirectMessage<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_DIRECT_MESSAGE, |out| {
        write_uvarint(out, message.number);
        write_bytes(out, message.from);
        write_text(out, &message.name);
        write_bytes(out, message.data);
    });
}

pub(super) fn direct_refused<'a>(reader: &mut Reader<'a>) -> Result<DirectRefused<'a>, FrameError> {
    Ok(DirectRefused {
        id: reader.uvarint()?,
        is_denied: reader.byte()? != 0,
        retry_after_ms: reader.uvarint()?,
        reason: reader.text()?,
    })
}

pub(super) fn append_direct_refused(refused: &DirectRefused<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_DIRECT_REFUSED, |out| {
        write_uvarint(out, refused.id);
        out.push(u8::from(refused.is_denied));
        write_uvarint(out, refused.retry_after_ms);
        write_text(out, &refused.reason);
    });
}

pub(super) fn append_member(peer: &PeerMember<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_MEMBER, |out| {
        out.push(if peer.is_lost { IS_LOST } else { 0 });
        out.push(peer.reason);
        out.push(peer.transport as u8);
        write_member_body(out, &peer.member);
        write_bytes(out, peer.key);
        write_text(out, &peer.device_name);
        write_text(out, &peer.os);
        write_text(out, &peer.sdk_version);
        write_bytes(out, peer.metadata);
        write_signature(out, peer.signature.as_ref());
        write_bytes(out, peer.identity_metadata);
        write_uvarint(out, peer.unadmitted.len() as u64);
        for unadmitted in &peer.unadmitted {
            write_bytes(out, unadmitted.key);
            out.push(u8::from(unadmitted.is_denied));
            write_uvarint(out, unadmitted.retry_after_ms);
            write_text(out, &unadmitted.reason);
        }
    });
}
