//! Large presence frames of which only the beginning is read: a thousand receivers of a megabyte
//! each need no memory for what is not there yet.

use super::outbound::Transport;
use crate::error::FrameError;
use crate::wire::sync::{Header, MessageType, RawFrame};

/// Frames up to this length are read whole.
const WHOLE_BYTES_MAX: usize = 4096;
/// Room for a channel name and the number of members.
const BEGINNING_BYTES: usize = 512;
/// First byte of a binary message in one frame.
const WHOLE_BINARY_MESSAGE: u8 = 0x82;
/// In place of a length of two, and of eight bytes.
const LENGTH_OF_TWO: u8 = 126;
const LENGTH_OF_EIGHT: u8 = 127;

/// The beginning of the frame at the front of `bytes`, if it is large and not all there, and how
/// many bytes of it are still to come. All of `bytes` belong to it.
///
/// # Errors
/// It is not a presence frame in one WebSocket frame.
pub(super) fn begin(
    transport: Transport,
    bytes: &[u8],
) -> Result<Option<(RawFrame<'_>, usize)>, FrameError> {
    let Some((sync_at, bytes_all)) = extent(transport, bytes) else { return Ok(None) };
    if bytes_all <= WHOLE_BYTES_MAX.max(bytes.len()) || bytes.len() < BEGINNING_BYTES {
        return Ok(None);
    }
    if transport == Transport::WebSocket && bytes[0] != WHOLE_BINARY_MESSAGE {
        return Err(FrameError::WebSocket);
    }
    let frame = &bytes[sync_at..];
    let message_type = MessageType::from_repr(frame[1]).ok_or(FrameError::UnknownType)?;
    if message_type != MessageType::PresenceBroadcast {
        return Err(FrameError::TooLong);
    }
    let body = &frame[Header::Ten.len_bytes()..];
    let frame = RawFrame { message_type, body, frame_bytes: bytes_all - sync_at };
    Ok(Some((frame, bytes_all - bytes.len())))
}

/// Where the sync frame begins, and the length of everything; `None` while too little is there.
/// Longer than any memory is as good as too long.
fn extent(transport: Transport, bytes: &[u8]) -> Option<(usize, usize)> {
    let (sync_at, rest_bytes) = match transport {
        Transport::Tcp => {
            let length = bytes.get(2..)?.first_chunk().map(|length| u32::from_le_bytes(*length))?;
            (0, Header::Ten.len_bytes().saturating_add(length as usize))
        }
        Transport::WebSocket => match *bytes.get(1)? {
            LENGTH_OF_TWO => {
                let length = bytes.get(2..)?.first_chunk().map(|l| u16::from_be_bytes(*l))?;
                (4, usize::from(length))
            }
            LENGTH_OF_EIGHT => {
                let length = bytes.get(2..)?.first_chunk().map(|l| u64::from_be_bytes(*l))?;
                (10, usize::try_from(length).unwrap_or(usize::MAX))
            }
            length => (2, usize::from(length)),
        },
    };
    Some((sync_at, rest_bytes.saturating_add(sync_at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sync::{Peer, append_frame, append_presence_broadcast};
    use crate::wire::websocket::{self, Opcode};

    fn presence(transport: Transport, members: usize) -> Vec<u8> {
        let peer = Peer { user_id: "somebody", state: &[7; 64], last_seen_ms: 1 };
        let mut frame = Vec::new();
        append_frame(Header::Ten, MessageType::PresenceBroadcast, &mut frame, |body| {
            append_presence_broadcast(body, "room", members, std::iter::repeat_n(peer, members));
        });
        match transport {
            Transport::Tcp => frame,
            Transport::WebSocket => {
                let mut message = Vec::new();
                websocket::append_frame(&mut message, Opcode::Binary, &frame);
                message
            }
        }
    }

    #[test]
    fn a_large_frame_is_known_by_its_beginning() {
        for transport in [Transport::WebSocket, Transport::Tcp] {
            for members in [100, 1000] {
                let bytes = presence(transport, members);
                let (begun, left) = begin(transport, &bytes[..600]).unwrap().unwrap();
                let header_bytes = bytes.len() - begun.frame_bytes;
                assert_eq!(begun.body, &bytes[header_bytes + 10..600]);
                assert_eq!(left, bytes.len() - 600);
            }
        }
    }

    #[test]
    fn what_is_small_or_all_there_is_read_whole() {
        for transport in [Transport::WebSocket, Transport::Tcp] {
            let (small, large) = (presence(transport, 10), presence(transport, 100));
            for bytes in [&small[..], &small[..600], &large[..], &large[..511], &large[..1], b""] {
                assert_eq!(begin(transport, bytes), Ok(None), "{} of {transport:?}", bytes.len());
            }
        }
    }

    #[test]
    fn a_large_frame_that_is_not_presence_is_refused() {
        let mut bytes = presence(Transport::WebSocket, 100);
        bytes[5] = 0x01;
        assert_eq!(begin(Transport::WebSocket, &bytes[..600]), Err(FrameError::TooLong));
        bytes[0] = 0x02;
        assert_eq!(begin(Transport::WebSocket, &bytes[..600]), Err(FrameError::WebSocket));
    }
}
