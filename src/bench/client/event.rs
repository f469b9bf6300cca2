//! What the server says, read in place.

use crate::error::FrameError;
use crate::wire::msgpack::Reader;
use crate::wire::sync::{self, Layout, Message, MessageType, Peer, RawFrame};

/// One frame from the server; borrows from the bytes that were read.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Connected and upgraded, whether or not it has greeted.
    Open,
    /// The handshake was accepted.
    Ready,
    /// The handshake was refused.
    Refused { reason: &'a str },
    /// The members of a channel.
    Presence(Presence<'a>),
    /// A member left.
    Leave { channel: &'a str, user_id: &'a str },
    /// Answer to a ping, with the ping's stamp.
    Pong { stamp: u64 },
    /// One message of a Foony server: records, each with its length. Or replies of Redis.
    Records(&'a [u8]),
    /// Something that no benchmark looks at.
    Other(MessageType),
}

impl<'a> Event<'a> {
    pub(super) fn read(frame: RawFrame<'a>) -> Result<Self, FrameError> {
        if frame.message_type == MessageType::PresenceBroadcast {
            return Presence::read(&frame).map(Event::Presence);
        }
        Ok(match sync::decode(frame.message_type, frame.body, Layout::V0_6)? {
            Message::HandshakeAck(ack) if ack.success => Event::Ready,
            Message::HandshakeAck(ack) => {
                Event::Refused { reason: ack.error.unwrap_or("no reason given") }
            }
            Message::PresenceLeave(leave) => {
                Event::Leave { channel: leave.channel, user_id: leave.user_id }
            }
            Message::PingPong(ping) if ping.is_pong => Event::Pong { stamp: ping.timestamp_ms },
            other => Event::Other(other.message_type()),
        })
    }
}

/// The full set of members, one at a time. Nothing is collected: with a thousand members the
/// generator would spend more on the list than the server.
#[derive(Clone, Debug)]
pub struct Presence<'a> {
    pub channel: &'a str,
    /// Length of the frame on the sync wire.
    pub frame_bytes: usize,
    members: Reader<'a>,
    left: usize,
}

impl<'a> Presence<'a> {
    fn read(frame: &RawFrame<'a>) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame.body);
        reader.array_of(2)?;
        let channel = reader.str()?;
        let left = reader.array_len()?;
        Ok(Presence { channel, frame_bytes: frame.frame_bytes, members: reader, left })
    }

    /// Members that [`Presence::next_member`] has not given yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next member, in the server's order.
    ///
    /// # Errors
    /// The server's bytes are not what the message demands.
    pub fn next_member(&mut self) -> Result<Option<Peer<'a>>, FrameError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.members.array_of(3)?;
        Ok(Some(Peer {
            user_id: self.members.str()?,
            state: self.members.bin()?,
            last_seen_ms: self.members.u64()?,
        }))
    }
}
