//! Encoder: messages to frames, one frame per message.

use std::ops::Deref;

use super::{CONTROL_BYTES_MAX, FRAME_HEADER_BYTES_MAX, Opcode, apply_mask};
use crate::wire::replace;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Header of an unmasked frame, 2, 4 or 10 bytes, in the shortest form. It is the same for every
/// receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    bytes: [u8; 10],
    used: u8,
}

impl Deref for FrameHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.used)]
    }
}

/// Header of a server frame with a payload of `payload_bytes` bytes. The caller must keep control
/// frames within [`CONTROL_BYTES_MAX`].
pub fn frame_header(opcode: Opcode, payload_bytes: usize) -> FrameHeader {
    let mut bytes = [0; 10];
    bytes[0] = FIN | opcode as u8;
    let used = match payload_bytes {
        0..=125 => {
            bytes[1] = payload_bytes as u8;
            2
        }
        126..=0xffff => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    };
    FrameHeader { bytes, used }
}

/// Appends a server frame.
pub fn append_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.extend_from_slice(&frame_header(opcode, payload.len()));
    out.extend_from_slice(payload);
}

/// Appends a client frame. `mask` should be unpredictable (RFC 6455 section 10.3).
pub fn append_masked_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    let start = out.len();
    out.extend_from_slice(payload);
    enclose_masked(out, start, opcode, mask);
}

/// Turns what was appended to `out` from `start` on into the payload of a client's frame, which
/// saves a copy of it. `mask` as for [`append_masked_frame`].
pub fn enclose_masked(out: &mut Vec<u8>, start: usize, opcode: Opcode, mask: [u8; 4]) {
    apply_mask(&mut out[start..], mask, 0);
    let mut header = frame_header(opcode, out.len() - start);
    header.bytes[1] |= MASKED;
    let mut head = [0; FRAME_HEADER_BYTES_MAX];
    head[..header.len()].copy_from_slice(&header);
    head[header.len()..header.len() + 4].copy_from_slice(&mask);
    replace(out, start..start, &head[..header.len() + 4]);
}

/// Appends a server close frame. A reason above 123 bytes is truncated at a character boundary.
pub fn append_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    append_frame(out, Opcode::Close, &close_body(code, reason));
}

/// Body of a close frame, for [`append_masked_frame`]. A reason above 123 bytes is truncated at a
/// character boundary.
pub fn close_body(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    [&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_takes_the_shortest_encoding() {
        let table: [(usize, &[u8]); 7] = [
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (127, &[0x82, 126, 0, 127]),
            (0xffff, &[0x82, 126, 0xff, 0xff]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (0x1_0001, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 1]),
        ];
        for (payload_bytes, expected) in table {
            assert_eq!(&*frame_header(Opcode::Binary, payload_bytes), expected);
        }
    }

    #[test]
    fn frames_equal_the_examples_of_the_rfc() {
        let mut out = Vec::new();
        append_frame(&mut out, Opcode::Text, b"Hello");
        assert_eq!(out, b"\x81\x05Hello");
        out.clear();
        append_masked_frame(&mut out, Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn masking_a_frame_leaves_what_stood_before_it() {
        let mut out = b"before".to_vec();
        append_masked_frame(&mut out, Opcode::Pong, b"x", [1, 2, 3, 4]);
        assert_eq!(out, b"before\x8a\x81\x01\x02\x03\x04y");
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        append_close(&mut out, 1001, &"é".repeat(100));
        assert_eq!(out[..4], [0x88, 124, 0x03, 0xe9]);
        assert_eq!(&out[4..], "é".repeat(61).as_bytes());
    }
}
