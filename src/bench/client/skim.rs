//! Large frames of which only the beginning is looked at: what it takes to be ten thousand
//! receivers of a megabyte each, none of which keeps what is not all there.

use std::io;
use std::mem::MaybeUninit;

use mio::net::TcpStream;
use socket2::SockRef;

use crate::error::FrameError;
use crate::wire::sync::{MessageType, RawFrame};

use super::Transport;

/// How much of what arrives is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Every frame whole.
    Whole,
    /// Of a large presence frame only the channel and the number of members.
    Beginnings,
}

/// Frames up to this length are taken whole, whatever is asked for.
const WHOLE_BYTES_MAX: usize = 4096;
/// Room for a channel name and the number of members.
const BEGINNING_BYTES: usize = 512;
/// Most bytes that are dropped at once. The kernel does not copy them, so they need no memory but
/// an untouched part of the stack.
const DROPPED_BYTES_MAX: usize = 256 * 1024;
const SYNC_HEADER_BYTES: usize = 10;
/// First byte of a binary message in one frame.
const WHOLE_BINARY_MESSAGE: u8 = 0x82;
/// In place of a length of two, and of eight bytes.
const LENGTH_OF_TWO: u8 = 126;
const LENGTH_OF_EIGHT: u8 = 127;

/// What became of one attempt to drop bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// 0: the server ended the stream.
    pub(super) bytes: usize,
    /// As many as were asked for: there may be more.
    pub(super) all: bool,
}

/// Where a stream is inside a frame whose rest is of no interest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skim {
    /// Bytes of that frame still to come.
    left: usize,
}

impl Skim {
    /// Drops what belongs to the frame begun before, without looking at it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn drop_rest(&mut self, stream: &TcpStream) -> io::Result<Dropped> {
        let mut room = [MaybeUninit::uninit(); DROPPED_BYTES_MAX];
        let asked = self.left.min(room.len());
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        let got = SockRef::from(stream).recv_with_flags(&mut room[..asked], flags)?;
        self.left -= got;
        Ok(Dropped { bytes: got, all: got == asked })
    }

    /// Is the stream inside such a frame?
    pub(super) fn is_inside(&self) -> bool {
        self.left > 0
    }

    /// The beginning of the frame at the front of `bytes`, which is large and not all there. All
    /// bytes belong to it then, and those still to come are dropped as they do. `None`: take it
    /// whole.
    ///
    /// # Errors
    /// It is not a presence frame in one WebSocket frame.
    pub(super) fn begin<'a>(
        &mut self,
        transport: Transport,
        bytes: &'a [u8],
    ) -> Result<Option<RawFrame<'a>>, FrameError> {
        let Some(extent) = extent(transport, bytes) else { return Ok(None) };
        if extent.bytes <= WHOLE_BYTES_MAX.max(bytes.len()) || bytes.len() < BEGINNING_BYTES {
            return Ok(None);
        }
        if transport == Transport::Ws && bytes[0] != WHOLE_BINARY_MESSAGE {
            return Err(FrameError::WebSocket);
        }
        let frame = &bytes[extent.sync_at..];
        let message_type = MessageType::from_code(frame[1]);
        if message_type != Some(MessageType::PresenceBroadcast) {
            return Err(FrameError::TooLong);
        }
        self.left = extent.bytes - bytes.len();
        Ok(Some(RawFrame {
            message_type: MessageType::PresenceBroadcast,
            body: &frame[SYNC_HEADER_BYTES..],
            frame_bytes: extent.bytes - extent.sync_at,
        }))
    }
}

/// Of one frame with everything around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    sync_at: usize,
    bytes: usize,
}

/// `None` while too little is there. Longer than any memory is as good as too long.
fn extent(transport: Transport, bytes: &[u8]) -> Option<Extent> {
    let (sync_at, rest_bytes) = match transport {
        Transport::Tcp => {
            let length = bytes.get(2..)?.first_chunk().map(|length| u32::from_le_bytes(*length))?;
            (0, SYNC_HEADER_BYTES + length as usize)
        }
        Transport::Ws => match *bytes.get(1)? {
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
    Some(Extent { sync_at, bytes: rest_bytes.saturating_add(sync_at) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::wire::sync::Peer;
    use crate::wire::sync::{Header, append_frame, append_presence_broadcast};
    use crate::wire::websocket::{self, Opcode};

    fn presence(transport: Transport, members: usize) -> Vec<u8> {
        let peer = Peer { user_id: "somebody", state: &[7; 64], last_seen_ms: 1 };
        let mut frame = Vec::new();
        append_frame(Header::Ten, MessageType::PresenceBroadcast, &mut frame, |body| {
            append_presence_broadcast(body, "room", vec![peer; members].into_iter());
        });
        match transport {
            Transport::Tcp => frame,
            Transport::Ws => {
                let mut message = Vec::new();
                websocket::append_frame(&mut message, Opcode::Binary, &frame);
                message
            }
        }
    }

    /// How much of what a socket holds is dropped, and what is left in it.
    fn dropped(skim: &mut Skim, bytes: &[u8]) -> (usize, Vec<u8>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, _) = listener.accept().unwrap();
        server.write_all(bytes).unwrap();
        drop(server);
        let mut client = TcpStream::from_std(client);
        let (mut sum, mut rest) = (0, Vec::new());
        while skim.is_inside() {
            let dropped = skim.drop_rest(&client).unwrap();
            if dropped.bytes == 0 {
                break;
            }
            sum += dropped.bytes;
        }
        client.read_to_end(&mut rest).unwrap();
        (sum, rest)
    }

    #[test]
    fn a_large_frame_is_known_by_its_beginning_and_then_dropped() {
        for transport in [Transport::Ws, Transport::Tcp] {
            for members in [100, 1000] {
                let bytes = presence(transport, members);
                let cut = 600;
                let mut skim = Skim::default();
                let begun = skim.begin(transport, &bytes[..cut]).unwrap().unwrap();
                let header_bytes = bytes.len() - begun.frame_bytes;
                assert_eq!(begun.body, &bytes[header_bytes + SYNC_HEADER_BYTES..cut]);
                assert_eq!(dropped(&mut skim, &bytes[cut..1000]), (1000 - cut, b"".to_vec()));
                let rest = [&bytes[1000..], b"next"].concat();
                assert_eq!(dropped(&mut skim, &rest), (bytes.len() - 1000, b"next".to_vec()));
                assert!(!skim.is_inside());
            }
        }
    }

    #[test]
    fn what_is_small_or_all_there_is_taken_whole() {
        for transport in [Transport::Ws, Transport::Tcp] {
            let (small, large) = (presence(transport, 10), presence(transport, 100));
            for bytes in [&small[..], &small[..600], &large[..], &large[..511], &large[..1], b""] {
                let begun = Skim::default().begin(transport, bytes);
                assert_eq!(begun, Ok(None), "{} of {transport:?}", bytes.len());
            }
        }
    }

    #[test]
    fn a_large_frame_that_is_not_presence_is_refused() {
        let mut bytes = presence(Transport::Ws, 100);
        bytes[5] = 0x01;
        let begun = Skim::default().begin(Transport::Ws, &bytes[..600]);
        assert_eq!(begun, Err(FrameError::TooLong));
        bytes[0] = 0x02;
        let begun = Skim::default().begin(Transport::Ws, &bytes[..600]);
        assert_eq!(begun, Err(FrameError::WebSocket));
    }
}
