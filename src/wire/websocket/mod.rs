//! RFC 6455 frames: decoded in place, encoded into a buffer.
//!
//! Owns framing, masking, fragmentation and the UTF-8 check. Invariant: the output depends only on
//! the bytes, not on how they are split into reads. Must never know: the handshake (see
//! `wire::http`), the meaning of a message, when to answer a ping.
//!
//! No extensions are negotiated, so reserved bits are always errors.

#[cfg(test)]
#[path = "../../../tests/any_split/mod.rs"]
pub(crate) mod any_split;
mod decode;
mod encode;
mod header;
mod mask;
mod utf8;

pub use decode::{Decoded, Decoder, Incoming, MessageLimits, Payload};
pub use encode::{FrameHeader, append_close, append_frame, append_masked_frame};
pub use encode::{close_body, enclose_masked, frame_header};
pub use mask::apply_mask;

use strum::FromRepr;

/// Maximum length of the body of a control frame in bytes (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Maximum length of a frame header in bytes: 2, a 64-bit length, a masking key.
pub const FRAME_HEADER_BYTES_MAX: usize = 14;

/// The side of the connection. A server requires masked frames, a client unmasked ones (RFC 6455
/// section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// Type of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Validated UTF-8.
    Text,
    Binary,
}

/// Opcode of a frame (RFC 6455 section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    /// Control frames are never fragmented and may occur between the fragments of a message.
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl From<MessageKind> for Opcode {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Text => Opcode::Text,
            MessageKind::Binary => Opcode::Binary,
        }
    }
}
