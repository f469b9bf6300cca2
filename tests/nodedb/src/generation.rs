//! The frames of each client generation, made and read by that generation's own crate.
//!
//! Never here: sockets. A `Generation` turns values into one frame's bytes and back.

use std::collections::HashMap;

/// Which published crate a client was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// 10-byte header, ack of 9 fields.
    V06,
    /// 10-byte header, ack of 8 fields; needs a server that is configured for it.
    V04,
    /// 5-byte header, `wire_version` 4, ack of 6 fields.
    V03,
    /// 5-byte header, `wire_version` 1; its frames here are those of 0.3, byte for byte.
    V00,
}

/// What a client says first.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    pub token: String,
    pub lite_id: String,
    pub epoch: u64,
    pub wire_version: u16,
}

/// The answer to a greeting; fields that a generation does not have are `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct HandshakeAck {
    pub success: bool,
    pub session_id: String,
    pub server_clock: HashMap<String, u64>,
    pub error: Option<String>,
    pub fork_detected: bool,
    pub server_wire_version: u16,
    pub producer_id: Option<u64>,
    pub accepted_epoch: Option<u64>,
    pub delta_signing_key: Option<[u8; 32]>,
}

/// One entry of a presence set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub user: String,
    pub state: Vec<u8>,
    pub last_seen_ms: u64,
}

/// A frame from the server as its generation's crate reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    HandshakeAck(HandshakeAck),
    Broadcast { channel: String, peers: Vec<Peer> },
    Leave { channel: String, user: String },
    Ping { timestamp_ms: u64, is_pong: bool },
    TokenRefreshAck { success: bool, error: Option<String>, expires_in_s: u64 },
    Other { code: u8, body: Vec<u8> },
}

macro_rules! generation {
    ($name:ident, $types:ident, $extra:expr) => {
        mod $name {
            use super::{Greeting, HandshakeAck, Message, Peer};
            use $types::sync::wire::{
                HandshakeAckMsg, HandshakeMsg, PeerPresence, PingPongMsg, PresenceBroadcastMsg,
                PresenceLeaveMsg, PresenceUpdateMsg, SyncFrame, SyncMessageType as Type,
                TokenRefreshAckMsg, TokenRefreshMsg,
            };

            macro_rules! encode {
                ($kind:expr, $message:expr) => {
                    SyncFrame::new_msgpack($kind, &$message).expect("encodes").to_bytes()
                };
            }

            pub fn handshake(greeting: &Greeting) -> Vec<u8> {
                let message = HandshakeMsg {
                    jwt_token: greeting.token.clone(),
                    vector_clock: Default::default(),
                    subscribed_shapes: Vec::new(),
                    client_version: "0.1.0".into(),
                    lite_id: greeting.lite_id.clone(),
                    epoch: greeting.epoch,
                    wire_version: greeting.wire_version,
                };
                encode!(Type::Handshake, message)
            }

            pub fn update(channel: &str, state: &[u8]) -> Vec<u8> {
                let message = PresenceUpdateMsg { channel: channel.into(), state: state.to_vec() };
                encode!(Type::PresenceUpdate, message)
            }

            pub fn leave(channel: &str, user: &str) -> Vec<u8> {
                let message = PresenceLeaveMsg { channel: channel.into(), user_id: user.into() };
                encode!(Type::PresenceLeave, message)
            }

            pub fn broadcast(channel: &str, peers: &[Peer]) -> Vec<u8> {
                let peers = peers
                    .iter()
                    .map(|peer| PeerPresence {
                        user_id: peer.user.clone(),
                        state: peer.state.clone(),
                        last_seen_ms: peer.last_seen_ms,
                    })
                    .collect();
                let message = PresenceBroadcastMsg { channel: channel.into(), peers };
                encode!(Type::PresenceBroadcast, message)
            }

            pub fn ping(timestamp_ms: u64) -> Vec<u8> {
                encode!(Type::PingPong, PingPongMsg { timestamp_ms, is_pong: false })
            }

            pub fn token_refresh(token: &str) -> Vec<u8> {
                encode!(Type::TokenRefresh, TokenRefreshMsg { new_token: token.into() })
            }

            pub fn decode(bytes: &[u8]) -> Option<Message> {
                let frame = SyncFrame::from_bytes(bytes)?;
                Some(match frame.msg_type {
                    Type::HandshakeAck => Message::HandshakeAck(ack(frame.decode_body()?)),
                    Type::PresenceBroadcast => {
                        let message: PresenceBroadcastMsg = frame.decode_body()?;
                        let peers = message.peers.into_iter().map(|peer| Peer {
                            user: peer.user_id,
                            state: peer.state,
                            last_seen_ms: peer.last_seen_ms,
                        });
                        Message::Broadcast { channel: message.channel, peers: peers.collect() }
                    }
                    Type::PresenceLeave => {
                        let message: PresenceLeaveMsg = frame.decode_body()?;
                        Message::Leave { channel: message.channel, user: message.user_id }
                    }
                    Type::PingPong => {
                        let PingPongMsg { timestamp_ms, is_pong } = frame.decode_body()?;
                        Message::Ping { timestamp_ms, is_pong }
                    }
                    Type::TokenRefreshAck => {
                        let message: TokenRefreshAckMsg = frame.decode_body()?;
                        Message::TokenRefreshAck {
                            success: message.success,
                            error: message.error,
                            expires_in_s: message.expires_in_secs,
                        }
                    }
                    other => Message::Other { code: other as u8, body: frame.body },
                })
            }

            fn ack(message: HandshakeAckMsg) -> HandshakeAck {
                let extra: fn(&HandshakeAckMsg) -> super::AckExtra = $extra;
                let (producer_id, accepted_epoch, delta_signing_key) = extra(&message);
                HandshakeAck {
                    success: message.success,
                    session_id: message.session_id,
                    server_clock: message.server_clock,
                    error: message.error,
                    fork_detected: message.fork_detected,
                    server_wire_version: message.server_wire_version,
                    producer_id,
                    accepted_epoch,
                    delta_signing_key,
                }
            }
        }
    };
}

type AckExtra = (Option<u64>, Option<u64>, Option<[u8; 32]>);

generation!(v06, nodedb_types, |ack| {
    (Some(ack.producer_id), Some(ack.accepted_epoch), Some(ack.delta_signing_key))
});
generation!(v04, nodedb_types_04, |ack| (Some(ack.producer_id), Some(ack.accepted_epoch), None));
generation!(v03, nodedb_types_03, |_| (None, None, None));

macro_rules! dispatch {
    ($generation:expr, $function:ident($($argument:expr),*)) => {
        match $generation {
            Generation::V06 => v06::$function($($argument),*),
            Generation::V04 => v04::$function($($argument),*),
            Generation::V03 | Generation::V00 => v03::$function($($argument),*),
        }
    };
}

impl Generation {
    /// The version that a client of this generation puts into its handshake.
    pub fn wire_version(self) -> u16 {
        match self {
            Generation::V03 => 4,
            Generation::V06 | Generation::V04 | Generation::V00 => 1,
        }
    }

    pub fn header_bytes(self) -> usize {
        match self {
            Generation::V06 | Generation::V04 => 10,
            Generation::V03 | Generation::V00 => 5,
        }
    }

    /// Body length that a complete header declares.
    pub fn body_bytes(self, header: &[u8]) -> usize {
        let at = if self.header_bytes() == 10 { 2 } else { 1 };
        let length = header[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(length) as usize
    }

    pub fn handshake(self, greeting: &Greeting) -> Vec<u8> {
        dispatch!(self, handshake(greeting))
    }

    pub fn update(self, channel: &str, state: &[u8]) -> Vec<u8> {
        dispatch!(self, update(channel, state))
    }

    pub fn leave(self, channel: &str, user: &str) -> Vec<u8> {
        dispatch!(self, leave(channel, user))
    }

    pub fn broadcast(self, channel: &str, peers: &[Peer]) -> Vec<u8> {
        dispatch!(self, broadcast(channel, peers))
    }

    pub fn ping(self, timestamp_ms: u64) -> Vec<u8> {
        dispatch!(self, ping(timestamp_ms))
    }

    pub fn token_refresh(self, token: &str) -> Vec<u8> {
        dispatch!(self, token_refresh(token))
    }

    /// `None` when this generation's crate cannot read the frame.
    pub fn decode(self, frame: &[u8]) -> Option<Message> {
        dispatch!(self, decode(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Generation; 4] =
        [Generation::V06, Generation::V04, Generation::V03, Generation::V00];

    #[test]
    fn what_a_generation_encodes_it_decodes() {
        let peers = [Peer { user: "ann".into(), state: vec![0xc0], last_seen_ms: 300 }];
        for generation in ALL {
            let frame = generation.broadcast("room", &peers);
            let expected = Message::Broadcast { channel: "room".into(), peers: peers.to_vec() };
            assert_eq!(generation.decode(&frame), Some(expected), "{generation:?}");
            let body_bytes = generation.body_bytes(&frame[..generation.header_bytes()]);
            assert_eq!(body_bytes + generation.header_bytes(), frame.len(), "{generation:?}");
        }
    }

    #[test]
    fn headers_differ_and_presence_bodies_do_not() {
        let new = Generation::V06.update("doc:doc-123", b"");
        let old = Generation::V03.update("doc:doc-123", b"");
        assert_eq!(new[..6], [1, 0x80, 0x0f, 0, 0, 0]);
        assert_eq!(old[..5], [0x80, 0x0f, 0, 0, 0]);
        assert_eq!(new[10..], old[5..]);
        assert_eq!(Generation::V04.update("doc:doc-123", b""), new);
    }
}
