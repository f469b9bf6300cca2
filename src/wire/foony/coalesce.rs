//! Packs records into as few WebSocket messages as the limit allows.

use crate::wire::replace;
use crate::wire::websocket::{Opcode, frame_header};

/// Maximum size in bytes of a message that is packed from several records: the read limit of a Go
/// client (`protocols/foony.md` section 5.11). A larger single record is sent alone and disconnects
/// such a client.
pub const COALESCED_BYTES_MAX: usize = 32 * 1024;

/// Appends records to an output as WebSocket binary messages. A record is added to the last message
/// if it fits. The output is complete after every record.
///
/// After sending any part of the output, continue with a new coalescer: this one modifies the
/// header of its last message.
#[derive(Debug, Default)]
pub struct Coalescer {
    open: Option<OpenMessage>,
}

#[derive(Clone, Copy, Debug)]
struct OpenMessage {
    /// Offset of its header.
    at: usize,
    payload_at: usize,
    end: usize,
}

impl Coalescer {
    /// Appends the output of `append_record`: one record, or several that stay together.
    pub fn append(&mut self, out: &mut Vec<u8>, append_record: impl FnOnce(&mut Vec<u8>)) {
        let record_at = out.len();
        append_record(out);
        let mut message = self.message_with_room(record_at, out.len());
        let header = frame_header(Opcode::Binary, out.len() - message.payload_at);
        replace(out, message.at..message.payload_at, &header);
        message.payload_at = message.at + header.len();
        message.end = out.len();
        self.open = Some(message);
    }

    /// The open message, if nothing was appended after it and `end` is within the limit; otherwise
    /// a new one that starts at the record.
    fn message_with_room(&self, record_at: usize, end: usize) -> OpenMessage {
        match self.open {
            Some(open) if open.end == record_at && end - open.payload_at <= COALESCED_BYTES_MAX => {
                open
            }
            _ => OpenMessage { at: record_at, payload_at: record_at, end },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(mut rest: &[u8]) -> Vec<usize> {
        let mut payloads = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[0], 0x82);
            let (header, payload) = match rest[1] {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => (10, u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize),
                short => (2, usize::from(short)),
            };
            assert_eq!(frame_header(Opcode::Binary, payload).len(), header, "shortest form");
            payloads.push(payload);
            rest = &rest[header + payload..];
        }
        payloads
    }

    fn coalesce(records: &[usize]) -> Vec<usize> {
        let (mut coalescer, mut out) = (Coalescer::default(), Vec::new());
        for len in records {
            coalescer.append(&mut out, |out| out.resize(out.len() + len, 0x82));
            messages(&out);
        }
        messages(&out)
    }

    #[test]
    fn messages_are_filled_up_to_the_limit() {
        const MAX: usize = COALESCED_BYTES_MAX;
        for (records, expected) in [
            (&[][..], &[][..]),
            (&[5, 6], &[11]),
            (&[100, 25, 1], &[126]),
            (&[MAX - 1, 1, 1], &[MAX, 1]),
            (&[1, MAX], &[1, MAX]),
            (&[10, MAX + 1, 10, 10], &[10, MAX + 1, 20]),
            (&[70_000, 3], &[70_000, 3]),
        ] {
            assert_eq!(coalesce(records), expected, "{records:?}");
        }
    }

    #[test]
    fn other_output_in_between_is_not_modified() {
        let (mut coalescer, mut out) = (Coalescer::default(), Vec::new());
        coalescer.append(&mut out, |out| out.extend_from_slice(b"\x01\x10"));
        out.extend_from_slice(b"\x82\x01x");
        coalescer.append(&mut out, |out| out.extend_from_slice(b"\x01\x10"));
        assert_eq!(out, b"\x82\x02\x01\x10\x82\x01x\x82\x02\x01\x10");
    }
}
