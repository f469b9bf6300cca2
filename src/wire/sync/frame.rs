//! Frames: header detection, frame boundaries, checksums.
//!
//! ```text
//! 10 bytes  u8 version = 1 | u8 code | u32 LE body length | u32 LE CRC-32C of the body | body
//!  5 bytes                   u8 code | u32 LE body length                              | body
//! ```
//! (`protocols/nodedb.md` sections 2.1 and 2.2.)

use std::ops::Deref;

use super::message::MessageType;
use crate::error::FrameError;

const FORMAT_VERSION: u8 = 1;

/// The two incompatible frame headers, by their length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// Clients up to nodedb-types 0.3: no version, no checksum.
    Five,
    /// Clients since nodedb-types 0.4.
    Ten,
}

impl Header {
    /// Length in bytes.
    pub const fn len_bytes(self) -> usize {
        match self {
            Header::Five => 5,
            Header::Ten => 10,
        }
    }

    /// Where the type code is; the length follows it.
    const fn code_at(self) -> usize {
        match self {
            Header::Five => 0,
            Header::Ten => 1,
        }
    }

    fn declared_body_bytes(self, bytes: &[u8]) -> Option<usize> {
        u32_at(bytes, self.code_at() + 1).map(|len| len as usize)
    }

    /// Whether the message is exactly one frame of a known type with this header.
    fn fills(self, message: &[u8]) -> bool {
        let known = message.get(self.code_at()).copied().and_then(MessageType::from_repr);
        let body_bytes = self.declared_body_bytes(message);
        known.is_some()
            && body_bytes.is_some_and(|n| n.checked_add(self.len_bytes()) == Some(message.len()))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// The header of a connection, as detected from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// Too few bytes to decide.
    NeedMore,
    /// The 10-byte header.
    Ten,
    /// The 5-byte header.
    Five,
    /// Not this protocol.
    Neither,
}

/// Detects the header of a byte stream from its first frame; six bytes are enough. A client of the
/// 5-byte generation must begin with its Handshake.
///
/// A 5-byte Handshake of 257 body bytes begins with `01 01` like a 10-byte one. Byte 5 decides: it
/// starts the array of the Handshake in one case, and is the top byte of a length that no peer
/// accepts in the other (`protocols/nodedb.md` section 9, decision 2).
pub fn detect(first_bytes: &[u8]) -> Detection {
    /// Heads of a MessagePack array of seven: fixarray, array 16, array 32.
    const HANDSHAKE_BODY_HEADS: [u8; 3] = [0x97, 0xdc, 0xdd];
    match *first_bytes {
        [] => Detection::NeedMore,
        [first, ..] if first != FORMAT_VERSION => Detection::Neither,
        [_, _, _, _, _, sixth, ..] if HANDSHAKE_BODY_HEADS.contains(&sixth) => Detection::Five,
        [_, code, _, _, _, _, ..] => match MessageType::from_repr(code) {
            Some(_) => Detection::Ten,
            None => Detection::Neither,
        },
        _ => Detection::NeedMore,
    }
}

/// Detects the header from a complete WebSocket message: the one whose length field matches the
/// message, otherwise the result of [`detect`] (bytes after a frame are allowed). Never
/// [`Detection::NeedMore`].
pub fn detect_message(message: &[u8]) -> Detection {
    if message.first() == Some(&FORMAT_VERSION) && Header::Ten.fills(message) {
        return Detection::Ten;
    }
    if Header::Five.fills(message) {
        return Detection::Five;
    }
    match detect(message) {
        Detection::NeedMore => Detection::Neither,
        detection => detection,
    }
}

/// One frame of a known type with a complete body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame<'a> {
    pub message_type: MessageType,
    pub body: &'a [u8],
    /// Header and body together.
    pub frame_bytes: usize,
}

/// The front of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The frame is incomplete.
    NeedMore,
    Frame(RawFrame<'a>),
    /// A complete frame that cannot be used: skip `frame_bytes` and continue, as the original peers
    /// do.
    Skip {
        frame_bytes: usize,
        error: FrameError,
    },
}

/// Parses the frame at the front of a byte stream.
///
/// # Errors
/// If the stream cannot be continued: [`FrameError::Header`] for another format version,
/// [`FrameError::TooLong`] for a declared body above `body_bytes_max` bytes.
pub fn parse(
    header: Header,
    bytes: &[u8],
    body_bytes_max: usize,
) -> Result<Parsed<'_>, FrameError> {
    check_version(header, bytes)?;
    let Some(body_bytes) = header.declared_body_bytes(bytes) else {
        return Ok(Parsed::NeedMore);
    };
    if body_bytes > body_bytes_max {
        return Err(FrameError::TooLong);
    }
    let frame_bytes = header.len_bytes() + body_bytes;
    Ok(match bytes.get(..frame_bytes) {
        None => Parsed::NeedMore,
        Some(frame) => match check_frame(header, frame) {
            Ok(frame) => Parsed::Frame(frame),
            Err(error) => Parsed::Skip { frame_bytes, error },
        },
    })
}

/// Parses the frame of a WebSocket message. Bytes after it are ignored, as by the original peers.
///
/// # Errors
/// [`FrameError::Truncated`], [`FrameError::Header`], [`FrameError::UnknownType`],
/// [`FrameError::Checksum`]. An error affects this message only; the connection can continue.
pub fn parse_message(header: Header, message: &[u8]) -> Result<RawFrame<'_>, FrameError> {
    check_version(header, message)?;
    let body_bytes = header.declared_body_bytes(message).ok_or(FrameError::Truncated)?;
    let frame_bytes = header.len_bytes().checked_add(body_bytes).ok_or(FrameError::Truncated)?;
    check_frame(header, message.get(..frame_bytes).ok_or(FrameError::Truncated)?)
}

fn check_version(header: Header, bytes: &[u8]) -> Result<(), FrameError> {
    match (header, bytes.first()) {
        (Header::Ten, Some(&version)) if version != FORMAT_VERSION => Err(FrameError::Header),
        _ => Ok(()),
    }
}

/// `frame`: exactly one frame, with its length checked.
fn check_frame(header: Header, frame: &[u8]) -> Result<RawFrame<'_>, FrameError> {
    let body = &frame[header.len_bytes()..];
    let message_type =
        MessageType::from_repr(frame[header.code_at()]).ok_or(FrameError::UnknownType)?;
    if header == Header::Ten && u32_at(frame, 6) != Some(crc32c::crc32c(body)) {
        return Err(FrameError::Checksum);
    }
    Ok(RawFrame { message_type, body, frame_bytes: frame.len() })
}

/// The header of a frame with its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    bytes: [u8; 10],
    header: Header,
}

impl Deref for FrameHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.header.len_bytes()]
    }
}

/// The header of the frame with this body.
pub fn frame_head(header: Header, message_type: MessageType, body: &[u8]) -> FrameHead {
    assert!(body.len() <= u32::MAX as usize, "no frame has a body of {} bytes", body.len());
    let mut bytes = [0; 10];
    let code_at = header.code_at();
    bytes[code_at] = message_type.code();
    bytes[code_at + 1..code_at + 5].copy_from_slice(&(body.len() as u32).to_le_bytes());
    if header == Header::Ten {
        bytes[0] = FORMAT_VERSION;
        bytes[6..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
    FrameHead { bytes, header }
}

/// Appends one frame with the body that `append_body` appends.
pub fn append_frame(
    header: Header,
    message_type: MessageType,
    out: &mut Vec<u8>,
    append_body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    let body_at = start + header.len_bytes();
    out.resize(body_at, 0);
    append_body(out);
    let head = frame_head(header, message_type, &out[body_at..]);
    out[start..body_at].copy_from_slice(&head);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(header: Header, message_type: MessageType, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append_frame(header, message_type, &mut out, |out| out.extend_from_slice(body));
        out
    }

    fn handshake_body(len: usize) -> Vec<u8> {
        let mut body = vec![0x97];
        body.resize(len, 0xa0);
        body
    }

    #[test]
    fn the_header_is_detected_from_first_frames_of_any_length() {
        for len in [13, 256, 257, 258, 513, 0x1_0101] {
            let body = handshake_body(len);
            let five = frame(Header::Five, MessageType::Handshake, &body);
            let ten = frame(Header::Ten, MessageType::Handshake, &body);
            assert_eq!(detect(&five), Detection::Five, "{len}");
            assert_eq!(detect_message(&five), Detection::Five, "{len}");
            assert_eq!(detect(&ten), Detection::Ten, "{len}");
            assert_eq!(detect_message(&ten), Detection::Ten, "{len}");
        }
    }

    #[test]
    fn detection_never_waits_for_more_than_ten_bytes() {
        for second in 0..=255u8 {
            for sixth in 0..=255u8 {
                let bytes = [1, second, 0, 0, 0, sixth, 0, 0, 0, 0];
                assert_ne!(detect(&bytes), Detection::NeedMore);
            }
        }
        assert_eq!(detect(&[1, 1, 0, 0, 0]), Detection::NeedMore);
        assert_eq!(detect(b"G"), Detection::Neither);
    }

    #[test]
    fn other_first_messages_are_detected_by_their_length() {
        let ping = [0x92, 1, 0xc2];
        let five = frame(Header::Five, MessageType::PingPong, &ping);
        assert_eq!(detect_message(&five), Detection::Five);
        let ten = frame(Header::Ten, MessageType::PingPong, &ping);
        assert_eq!(detect_message(&ten), Detection::Ten);
        assert_eq!(detect_message(&[]), Detection::Neither);
        assert_eq!(detect_message(b"hello"), Detection::Neither);
    }

    #[test]
    fn an_invalid_frame_is_skipped_and_the_next_one_is_parsed() {
        let mut stream = frame(Header::Ten, MessageType::PingPong, &[0x92, 1, 0xc2]);
        let broken = stream.len();
        stream[broken - 1] ^= 1;
        stream.extend(frame(Header::Ten, MessageType::PingPong, &[0x92, 2, 0xc2]));
        let skip = Parsed::Skip { frame_bytes: broken, error: FrameError::Checksum };
        assert_eq!(parse(Header::Ten, &stream, 64), Ok(skip));
        assert!(matches!(parse(Header::Ten, &stream[broken..], 64), Ok(Parsed::Frame(_))));
        let unknown = [0x9a, 1, 0, 0, 0, 7];
        let skip = Parsed::Skip { frame_bytes: 6, error: FrameError::UnknownType };
        assert_eq!(parse(Header::Five, &unknown, 64), Ok(skip));
    }

    #[test]
    fn another_version_or_an_excessive_length_ends_the_stream() {
        assert_eq!(parse(Header::Ten, &[2], 64), Err(FrameError::Header));
        assert_eq!(parse(Header::Ten, &[1, 1, 65, 0, 0, 0], 64), Err(FrameError::TooLong));
        assert_eq!(parse(Header::Five, &[1, 64, 0, 0, 0], 64), Ok(Parsed::NeedMore));
        assert_eq!(parse(Header::Ten, &[], 64), Ok(Parsed::NeedMore));
    }
}
