//! The frame header (RFC 6455 section 5.2), checked incrementally: each rule is applied as soon as
//! its bytes have arrived.

use super::{CONTROL_BYTES_MAX, Opcode, Role};
use crate::error::FrameError;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_IN_16_BITS: u8 = 126;
const LENGTH_IN_64_BITS: u8 = 127;

/// Whether this frame is the last one of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Last,
    MoreFollow,
}

/// Content of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub opcode: Opcode,
    pub position: Position,
}

/// Content of the length field: payload length, and offset of the end of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length {
    pub payload_bytes: usize,
    end: usize,
}

/// # Errors
/// [`FrameError::WebSocket`]: reserved bits, an unknown opcode, a control frame in fragments.
pub(super) fn start(byte: u8) -> Result<Start, FrameError> {
    let opcode = Opcode::from_repr(byte & 0x0f).ok_or(FrameError::WebSocket)?;
    let position = if byte & FIN == 0 { Position::MoreFollow } else { Position::Last };
    if byte & RESERVED != 0 || (opcode.is_control() && position == Position::MoreFollow) {
        return Err(FrameError::WebSocket);
    }
    Ok(Start { opcode, position })
}

/// The declared length; `None` while it is incomplete.
///
/// # Errors
/// [`FrameError::WebSocket`]: masking that `role` does not expect, a control frame above
/// [`CONTROL_BYTES_MAX`], an encoding that is not the shortest, the top bit of 64 set.
/// [`FrameError::TooLong`] if the length exceeds the address space.
pub(super) fn length(
    bytes: &[u8],
    role: Role,
    opcode: Opcode,
) -> Result<Option<Length>, FrameError> {
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let short = second & !MASKED;
    let masking_is_right = (second & MASKED != 0) == (role == Role::Server);
    if !masking_is_right || (opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX) {
        return Err(FrameError::WebSocket);
    }
    let rest = &bytes[2..];
    match short {
        LENGTH_IN_16_BITS => rest.first_chunk().map(|be| length_16(*be)).transpose(),
        LENGTH_IN_64_BITS => rest.first_chunk().map(|be| length_64(*be)).transpose(),
        short => Ok(Some(Length { payload_bytes: short.into(), end: 2 })),
    }
}

fn length_16(be: [u8; 2]) -> Result<Length, FrameError> {
    let length = u16::from_be_bytes(be);
    if length < LENGTH_IN_16_BITS.into() {
        return Err(FrameError::WebSocket);
    }
    Ok(Length { payload_bytes: length.into(), end: 4 })
}

fn length_64(be: [u8; 8]) -> Result<Length, FrameError> {
    let length = u64::from_be_bytes(be);
    if length <= u16::MAX.into() || length > i64::MAX as u64 {
        return Err(FrameError::WebSocket);
    }
    let payload_bytes = usize::try_from(length).map_err(|_| FrameError::TooLong)?;
    Ok(Length { payload_bytes, end: 10 })
}

impl Length {
    /// Start of the payload and masking key; `None` while the key is incomplete. Servers send no
    /// key; a key of zeros changes nothing.
    pub(super) fn payload_start(self, bytes: &[u8], role: Role) -> Option<(usize, [u8; 4])> {
        match role {
            Role::Client => Some((self.end, [0; 4])),
            Role::Server => Some((self.end + 4, *bytes.get(self.end..)?.first_chunk()?)),
        }
    }
}
