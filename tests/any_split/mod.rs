//! The central property of the WebSocket decoder: the output depends on the bytes alone, not on how
//! they are split into reads.

#![allow(dead_code, reason = "each user takes its part")]

use headcount::error::FrameError;
use headcount::wire::websocket::{Decoder, Incoming, MessageKind, MessageLimits, Role};

/// Output of a decoder, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// Decoding failed; nothing follows.
    Refused(FrameError),
}

impl From<Incoming<'_>> for Event {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Message { kind, payload } => Event::Message(kind, payload.to_vec()),
            Incoming::Ping(body) => Event::Ping(body.to_vec()),
            Incoming::Pong(body) => Event::Pong(body.to_vec()),
            Incoming::Close { code, reason } => Event::Close(code, reason.to_owned()),
        }
    }
}

/// All events of a stream that arrives as the given reads, up to the first error.
pub fn decode_all<'r>(
    role: Role,
    limits: &MessageLimits,
    reads: impl IntoIterator<Item = &'r [u8]>,
) -> Vec<Event> {
    let mut decoder = Decoder::new(role);
    let (mut pending, mut events) = (Vec::new(), Vec::new());
    for read in reads {
        pending.extend_from_slice(read);
        match decode_pending(&mut decoder, limits, &mut pending, &mut events) {
            Ok(consumed) => drop(pending.drain(..consumed)),
            Err(error) => {
                events.push(Event::Refused(error));
                break;
            }
        }
    }
    events
}

/// Decodes complete frames and returns their length in bytes.
fn decode_pending(
    decoder: &mut Decoder,
    limits: &MessageLimits,
    pending: &mut [u8],
    events: &mut Vec<Event>,
) -> Result<usize, FrameError> {
    let mut start = 0;
    loop {
        let untouched = pending[start..].to_vec();
        let decoded = decoder.decode(&mut pending[start..], limits)?;
        let consumed = decoded.consumed;
        events.extend(decoded.incoming.map(Event::from));
        if consumed == 0 {
            assert_eq!(pending[start..], untouched, "an incomplete frame was changed");
            return Ok(start);
        }
        start += consumed;
        assert_eq!(pending[start..], untouched[consumed..], "bytes after the frame were changed");
    }
}

/// Decodes a stream at once, byte by byte, and split at `cuts` (any numbers), and returns its
/// events.
///
/// # Panics
/// If the three results differ, or decoding changes bytes outside the returned frame.
pub fn check_any_split(
    role: Role,
    limits: &MessageLimits,
    stream: &[u8],
    cuts: &[usize],
) -> Vec<Event> {
    let at_once = decode_all(role, limits, [stream]);
    let by_byte = decode_all(role, limits, stream.chunks(1));
    assert_eq!(by_byte, at_once, "byte by byte");
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    let pieces = decode_all(role, limits, cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]));
    assert_eq!(pieces, at_once, "cut at {cuts:?}");
    at_once
}
