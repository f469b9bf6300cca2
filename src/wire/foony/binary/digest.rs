//! Digests of the members of a channel (`docs/protocol.md`): members are spread over buckets, and
//! the digest of a bucket is the sum of the hashes of its members, in whatever order.

use sha2::{Digest, Sha256};

use super::field::{Reader, write_text, write_uvarint};
use super::{PEER_CHECK, PEER_DIGEST, append_record, peer};
use crate::error::FrameError;
use crate::wire::foony::peer::{Check, MembersDigest};
use crate::wire::foony::{Action, Member, PeerMember};

const BUCKETS_MAX: usize = 256;

/// Members per bucket, as long as there are not more buckets than [`BUCKETS_MAX`].
const BUCKET_MEMBERS: usize = 64;

const HAS_ALL: u8 = 1;
const IS_ANSWER: u8 = 2;

/// Buckets for the digest of so many members.
pub fn buckets_for(members: usize) -> usize {
    (1 + members / BUCKET_MEMBERS).min(BUCKETS_MAX)
}

/// The bucket of a member, of so many; 0 of none.
pub fn bucket_of(client_id: &str, connection_id: &str, buckets: usize) -> usize {
    let hash =
        crc32c::crc32c_append(crc32c::crc32c(client_id.as_bytes()), connection_id.as_bytes());
    (hash as usize).checked_rem(buckets).unwrap_or_default()
}

/// What a member adds to the digest of its bucket: the first 16 bytes of SHA-256 over its record,
/// as if it had entered at the beginning of time in a channel without a name, where everyone is
/// admitted.
pub fn member_hash(peer: &PeerMember<'_>) -> u128 {
    let member = Member {
        action: Action::Enter,
        timestamp_ms: 0,
        channel: "".into(),
        client_id: (&*peer.member.client_id).into(),
        connection_id: (&*peer.member.connection_id).into(),
        data: peer.member.data,
        encoding: (&*peer.member.encoding).into(),
    };
    let mut bytes = Vec::with_capacity(512);
    peer::append_member(
        &PeerMember {
            member,
            reason: 0,
            unadmitted: Vec::new(),
            device_name: (&*peer.device_name).into(),
            os: (&*peer.os).into(),
            sdk_version: (&*peer.sdk_version).into(),
            ..*peer
        },
        &mut bytes,
    );
    let record = super::records(&bytes).find_map(Result::ok);
    let hash = Sha256::digest(record.map_or(&[][..], |record| record.bytes()));
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(half)
}

fn buckets(reader: &mut Reader<'_>) -> Result<Vec<u128>, FrameError> {
    let buckets = reader.list(|reader| Ok(u128::from_be_bytes(reader.array()?)))?;
    if buckets.len() > BUCKETS_MAX { Err(FrameError::TooLong) } else { Ok(buckets) }
}

fn write_buckets(out: &mut Vec<u8>, buckets: &[u128]) {
    write_uvarint(out, buckets.len() as u64);
    buckets.iter().for_each(|bucket| out.extend_from_slice(&bucket.to_be_bytes()));
}

pub(super) fn check<'a>(reader: &mut Reader<'a>) -> Result<Check<'a>, FrameError> {
    Ok(Check { id: reader.uvarint()?, channel: reader.text()?, buckets: buckets(reader)? })
}

pub(super) fn append_check(check: &Check<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_CHECK, |out| {
        write_uvarint(out, check.id);
        write_text(out, &check.channel);
        write_buckets(out, &check.buckets);
    });
}

pub(super) fn digest<'a>(reader: &mut Reader<'a>) -> Result<MembersDigest<'a>, FrameError> {
    let flags = reader.byte()?;
    Ok(MembersDigest {
        has_all: flags & HAS_ALL != 0,
        is_answer: flags & IS_ANSWER != 0,
        channel: reader.text()?,
        epoch: reader.uvarint()?,
        version: reader.uvarint()?,
        count: reader.uvarint()?,
        buckets: buckets(reader)?,
        repaired: reader.list(Reader::uvarint)?,
    })
}

pub(super) fn append_digest(digest: &MembersDigest<'_>, out: &mut Vec<u8>) {
    append_record(out, PEER_DIGEST, |out| {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        out.push(flag(digest.has_all, HAS_ALL) | flag(digest.is_answer, IS_ANSWER));
        write_text(out, &digest.channel);
        for number in [digest.epoch, digest.version, digest.count] {
            write_uvarint(out, number);
        }
        write_buckets(out, &digest.buckets);
        write_uvarint(out, digest.repaired.len() as u64);
        digest.repaired.iter().for_each(|bucket| write_uvarint(out, *bucket));
    });
}
