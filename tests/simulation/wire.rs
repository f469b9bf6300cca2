//! The client's end of one connection: the sync wire over WebSocket or TCP, and what it heard.

use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::presence::{PresenceLeave, PresenceUpdate};
use headcount::wire::sync::message::session::{Handshake, PingPong, Throttle, TokenRefresh};
use headcount::wire::sync::{self, Header, Layout, Message, Parsed};
use headcount::wire::websocket::append_masked_frame;
use headcount::wire::websocket::{Decoder, Incoming, MessageLimits, Opcode, Role};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 16 << 20, fragments_max: 1024 };

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    WebSocket,
    Tcp,
}

/// One member as a broadcast shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSeen {
    pub user: String,
    pub state: Vec<u8>,
    pub age_ms: u64,
}

/// One thing the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Switched,
    HttpError(String),
    Ack { success: bool, session: String },
    Pong(u64),
    Ping(u64),
    RefreshAck { success: bool },
    Set { channel: String, peers: Vec<PeerSeen> },
    Left { channel: String, user: String },
    WebSocketPing(Vec<u8>),
    WebSocketPong(Vec<u8>),
    Close(Option<u16>),
    Other(String),
}

/// Codec of one connection. `read` counts the bytes of everything heard.
#[derive(Debug)]
pub struct Wire {
    pub carrier: Carrier,
    pub layout: Layout,
    decoder: Option<Decoder>,
    unread: Vec<u8>,
    /// Bytes of the server's stream that have been understood.
    pub read_bytes: usize,
    mask: u32,
    /// A close frame came; nothing may follow it.
    closed: bool,
}

impl Wire {
    pub fn new(carrier: Carrier, layout: Layout) -> Self {
        let unread = Vec::new();
        Wire { carrier, layout, decoder: None, unread, read_bytes: 0, mask: 7, closed: false }
    }

    /// What comes before the first frame.
    pub fn opening(&self, target: &str) -> Vec<u8> {
        match self.carrier {
            Carrier::Tcp => Vec::new(),
            Carrier::WebSocket => format!(
                "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            .into_bytes(),
        }
    }

    pub fn frame(&mut self, message: &Message<'_>) -> Vec<u8> {
        let mut frame = Vec::new();
        sync::append_message(message, self.layout, &mut frame).expect("expressible");
        self.wrap(&frame)
    }

    /// One message of these bytes, whatever they are.
    pub fn wrap(&mut self, frame: &[u8]) -> Vec<u8> {
        match self.carrier {
            Carrier::Tcp => frame.to_vec(),
            Carrier::WebSocket => self.websocket(Opcode::Binary, frame),
        }
    }

    pub fn websocket(&mut self, opcode: Opcode, body: &[u8]) -> Vec<u8> {
        self.mask = self.mask.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut out = Vec::new();
        append_masked_frame(&mut out, opcode, body, self.mask.to_le_bytes());
        out
    }

    pub fn handshake(&mut self, token: &str, lite_id: &str) -> Vec<u8> {
        let wire_version = if self.layout == Layout::V0_1 { 4 } else { 1 };
        self.frame(&Message::Handshake(Handshake {
            jwt_token: token,
            vector_clock: Map(Vec::new()),
            subscribed_shapes: Vec::new(),
            client_version: "0.1.0",
            lite_id,
            epoch: 1,
            wire_version,
        }))
    }

    pub fn update(&mut self, channel: &str, state: &[u8]) -> Vec<u8> {
        self.frame(&Message::PresenceUpdate(PresenceUpdate { channel, state }))
    }

    pub fn leave(&mut self, channel: &str) -> Vec<u8> {
        self.frame(&Message::PresenceLeave(PresenceLeave { channel, user_id: "" }))
    }

    pub fn ping(&mut self, timestamp_ms: u64) -> Vec<u8> {
        self.frame(&Message::PingPong(PingPong { timestamp_ms, is_pong: false }))
    }

    pub fn pong(&mut self, timestamp_ms: u64) -> Vec<u8> {
        self.frame(&Message::PingPong(PingPong { timestamp_ms, is_pong: true }))
    }

    pub fn throttle(&mut self, rate: Option<u64>) -> Vec<u8> {
        self.frame(&Message::Throttle(Throttle {
            throttle: rate.is_some(),
            queue_depth: 0,
            suggested_rate: rate.unwrap_or(0),
        }))
    }

    pub fn refresh(&mut self, new_token: &str) -> Vec<u8> {
        self.frame(&Message::TokenRefresh(TokenRefresh { new_token }))
    }

    /// Understands what the server wrote. Each thing heard comes with the stream offset of its end.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<(usize, Heard)> {
        self.unread.extend_from_slice(bytes);
        let mut heard = Vec::new();
        let mut unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while at < unread.len() {
            assert!(!self.closed, "bytes after a close frame: {:?}", &unread[at..]);
            let Some((used, one)) = self.read_one(&mut unread[at..]) else { break };
            at += used;
            heard.extend(one.map(|one| (self.read_bytes + at, one)));
        }
        unread.drain(..at);
        self.read_bytes += at;
        self.unread = unread;
        heard
    }

    fn read_one(&mut self, bytes: &mut [u8]) -> Option<(usize, Option<Heard>)> {
        match (self.carrier, &self.decoder) {
            (Carrier::Tcp, _) => self.read_frame(bytes),
            (Carrier::WebSocket, None) => self.read_head(bytes),
            (Carrier::WebSocket, Some(_)) => self.read_websocket(bytes),
        }
    }

    fn read_head(&mut self, bytes: &[u8]) -> Option<(usize, Option<Heard>)> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        if !head.starts_with("HTTP/1.1 101 ") {
            return Some((bytes.len(), Some(Heard::HttpError(head))));
        }
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "wrong accept key: {head}");
        self.decoder = Some(Decoder::new(Role::Client));
        Some((end, Some(Heard::Switched)))
    }

    fn read_websocket(&mut self, bytes: &mut [u8]) -> Option<(usize, Option<Heard>)> {
        let decoder = self.decoder.as_mut()?;
        let decoded = decoder.decode(bytes, &LIMITS).expect("the server speaks WebSocket");
        if decoded.consumed == 0 {
            return None;
        }
        let heard = match decoded.incoming? {
            Incoming::Message { payload, .. } => {
                let frame = sync::parse_message(self.layout.header(), &payload);
                understand(frame.expect("a frame"), self.layout)
            }
            Incoming::Ping(body) => Heard::WebSocketPing(body.to_vec()),
            Incoming::Pong(body) => Heard::WebSocketPong(body.to_vec()),
            Incoming::Close { code, .. } => {
                self.closed = true;
                Heard::Close(code)
            }
        };
        Some((decoded.consumed, Some(heard)))
    }

    fn read_frame(&mut self, bytes: &[u8]) -> Option<(usize, Option<Heard>)> {
        match sync::parse(self.header(), bytes, 16 << 20).expect("the server speaks sync") {
            Parsed::NeedMore => None,
            Parsed::Frame(frame) => Some((frame.frame_bytes, Some(understand(frame, self.layout)))),
            Parsed::Skip { error, .. } => panic!("the server wrote a broken frame: {error}"),
        }
    }

    pub fn header(&self) -> Header {
        self.layout.header()
    }
}

fn understand(frame: sync::RawFrame<'_>, layout: Layout) -> Heard {
    let message = sync::decode(frame.message_type, frame.body, layout).expect("a message");
    match message {
        Message::HandshakeAck(ack) => {
            Heard::Ack { success: ack.success, session: ack.session_id.to_owned() }
        }
        Message::PingPong(ping) if ping.is_pong => Heard::Pong(ping.timestamp_ms),
        Message::PingPong(ping) => Heard::Ping(ping.timestamp_ms),
        Message::TokenRefreshAck(ack) => Heard::RefreshAck { success: ack.success },
        Message::PresenceBroadcast(set) => Heard::Set {
            channel: set.channel.to_owned(),
            peers: set
                .peers
                .iter()
                .map(|peer| PeerSeen {
                    user: peer.user_id.to_owned(),
                    state: peer.state.to_vec(),
                    age_ms: peer.last_seen_ms,
                })
                .collect(),
        },
        Message::PresenceLeave(left) => {
            Heard::Left { channel: left.channel.to_owned(), user: left.user_id.to_owned() }
        }
        other => Heard::Other(format!("{other:?}")),
    }
}
