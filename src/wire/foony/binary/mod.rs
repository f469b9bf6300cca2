//! Binary records (`protocols/foony.md` section 3): the protocol of SDK 0.12.1 and later.
//!
//! ```text
//! message = record *                    one WebSocket message, or one long-poll body
//! record  = uvarint length | u8 opcode | fields
//! ```
//!
//! Invariant: the encoding is byte for byte that of the SDKs and the hosted service.

mod deliveries;
mod digest;
mod event;
mod field;
mod peer;
mod request;

pub use deliveries::{Delivered, Deliveries};
pub use digest::{bucket_of, buckets_for, member_hash};
pub use event::append_event;
pub use peer::{append_peer_request, is_first_message_of_peer};
pub use request::{append_batched_publish, append_request};

use crate::error::FrameError;
use crate::wire::foony::peer::PeerRequest;
use crate::wire::foony::{Event, Malformed, Request};
use crate::wire::replace;
use field::{Reader, write_uvarint};

const AUTH: u8 = 1;
const SUBSCRIBE: u8 = 2;
const UNSUBSCRIBE: u8 = 3;
const PUBLISH: u8 = 4;
const PRESENCE: u8 = 5;
const PRESENCE_SUBSCRIBE: u8 = 6;
const PRESENCE_UNSUBSCRIBE: u8 = 7;
const HISTORY: u8 = 8;
const FETCH: u8 = 9;
const PING: u8 = 10;
const CONNECTED: u8 = 11;
const ACK: u8 = 12;
const DELIVERIES: u8 = 13;
const MEMBER: u8 = 14;
const ERROR: u8 = 15;
const PONG: u8 = 16;
const HISTORY_PAGE: u8 = 17;
const FETCHED: u8 = 18;
const BATCH: u8 = 19;
/// Of the graph extension, which begins far above what SDKs know.
const PEER_UPDATE: u8 = 64;
const PEER_GREETING: u8 = 65;
const PEER_MEMBER: u8 = 66;
const PEER_DECIDE: u8 = 67;
const PEER_DIRECT: u8 = 68;
const PEER_TOOK: u8 = 69;
const PEER_EDGE_REQUEST: u8 = 70;
const PEER_DIRECT_MESSAGE: u8 = 71;
const PEER_DIRECT_REFUSED: u8 = 72;
const PEER_DIGEST: u8 = 73;
const PEER_CHECK: u8 = 74;

/// The records of one message, in order.
pub fn records(message: &[u8]) -> Records<'_> {
    Records { rest: message }
}

/// Whether the first message of a client belongs to this protocol.
pub fn is_first_message(message: &[u8]) -> bool {
    let first = records(message).next();
    first.and_then(Result::ok).is_some_and(|record| !record.is_unknown())
}

/// Iterator over the records of a message. An error is the last item: the length of a record is
/// invalid or exceeds the message ([`FrameError::Truncated`]), and the rest is discarded. The
/// records before it are valid, and the SDKs use them.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The unread records.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut reader = Reader::new(self.rest);
        let record = reader.bytes();
        self.rest = if record.is_ok() { reader.rest() } else { &[] };
        Some(record.map(|bytes| Record { bytes }))
    }
}

/// One record, without its length. An error in it does not affect the records after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Opcode and fields.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Whether clients never send this type of record. Such records are skipped; they have no
    /// request id.
    pub fn is_unknown(self) -> bool {
        let opcode = self.bytes.first().copied().unwrap_or_default();
        let is_of_peer = matches!(opcode, PEER_UPDATE | PEER_DECIDE..=PEER_TOOK | PEER_CHECK);
        !is_of_peer && !matches!(opcode, AUTH..=PING)
    }

    /// Decodes a request. Bytes after the last field are ignored, as in the SDKs.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] also for an empty record; [`FrameError::UnknownType`] also for
    /// events; [`FrameError::Header`] for another protocol version; [`FrameError::Utf8`];
    /// [`FrameError::TooLong`] for a batch above [`BATCH_MESSAGES_MAX`](super::BATCH_MESSAGES_MAX);
    /// [`FrameError::Body`] for payloads that are not JSON, unknown presence actions and numbers of
    /// more than 64 bits.
    pub fn request(self) -> Result<Request<'a>, Malformed> {
        request::decode(&mut Reader::new(self.bytes))
            .map_err(|error| Malformed { error, id: request::id(self.bytes).unwrap_or(0) })
    }

    /// Decodes a request of a peer; `None` for any other record.
    pub fn peer_request(self) -> Option<Result<PeerRequest<'a>, Malformed>> {
        let id = || request::id(self.bytes).unwrap_or(0);
        let request = peer::request(self.bytes)?;
        Some(request.map_err(|error| Malformed { error, id: id() }))
    }

    /// Decodes an event. As tolerant as the SDKs: unknown presence actions are read as enter.
    ///
    /// # Errors
    /// As for [`Record::request`]; [`FrameError::Body`] also for unknown error codes.
    pub fn event(self) -> Result<Event<'a>, FrameError> {
        event::decode(&mut Reader::new(self.bytes))
    }
}

/// Appends one record, its length first.
fn append_record(out: &mut Vec<u8>, opcode: u8, append_fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // Most records are shorter than 128 bytes; then nothing has to be moved.
    out.extend_from_slice(&[0, opcode]);
    append_fields(out);
    let record_bytes = (out.len() - start - 1) as u64;
    if let Ok(short @ 0..=0x7f) = u8::try_from(record_bytes) {
        out[start] = short;
        return;
    }
    let mut length = Vec::new();
    write_uvarint(&mut length, record_bytes);
    replace(out, start..start + 1, &length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Vec<Result<&[u8], FrameError>> {
        records(message).map(|record| record.map(Record::bytes)).collect()
    }

    #[test]
    fn an_invalid_record_is_isolated_and_an_invalid_length_ends_the_message() {
        assert_eq!(all(b""), []);
        assert_eq!(all(b"\x01\x0a\x00\x01\x10"), [Ok(&b"\x0a"[..]), Ok(b""), Ok(b"\x10")]);
        assert_eq!(all(b"\x01\x10\x05\x0c\x00"), [Ok(&b"\x10"[..]), Err(FrameError::Truncated)]);
        assert_eq!(all(b"\x01\x10\xff"), [Ok(&b"\x10"[..]), Err(FrameError::Truncated)]);
        assert_eq!(all(&[0xff; 12]), [Err(FrameError::Body)]);
        let huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10";
        assert_eq!(all(huge), [Err(FrameError::Truncated)]);
    }

    #[test]
    fn record_lengths_are_encoded_in_the_shortest_form() {
        for fields in [0, 126, 127, 128, 16_382, 16_383, 100_000] {
            let mut out = b"before".to_vec();
            append_record(&mut out, PONG, |out| out.resize(out.len() + fields, 7));
            let mut expected = b"before".to_vec();
            write_uvarint(&mut expected, fields as u64 + 1);
            expected.push(PONG);
            expected.resize(expected.len() + fields, 7);
            assert!(out == expected, "{fields}");
        }
    }
}
