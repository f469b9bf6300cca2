//! The client's end of one Foony connection: its bytes, and what it heard.

#[path = "../../json_client/mod.rs"]
mod json_client;

use headcount::wire::foony::{
    Action, COALESCED_BYTES_MAX, Content, Delivery, Event, Member, PeerRequest, PeerUpdate,
    Request, binary,
};
use headcount::wire::websocket::{
    Decoder, Incoming, MessageKind, MessageLimits, Opcode, Role, append_masked_frame,
};

use super::peer::{Digest, hash_of};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 16 << 20, fragments_max: 1024 };

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Binary,
    /// Binary, and dies of any message above 32 KiB.
    Go,
    Json,
    LongPoll,
    /// Binary, and a peer of the presence graph.
    Peer,
}

/// A message as it was delivered, replayed or listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub channel: String,
    pub id: String,
    pub client: String,
    pub timestamp_ms: u64,
    pub serial: u64,
    pub ephemeral: bool,
    pub is_batch: bool,
    pub parts: Vec<String>,
}

/// A change of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSeen {
    pub action: Action,
    pub channel: String,
    pub client: String,
    pub connection: String,
    pub data: String,
    pub encoding: String,
    /// As peers hear of it: what it adds to the digest of its bucket.
    pub hash: Option<u128>,
}

/// One thing the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Switched,
    HttpError(String),
    Connected { connection: String, client: String },
    Ack { id: u64, serial: u64, resumed: Option<bool> },
    Message(Received),
    Member(MemberSeen),
    Error { id: u64, code: u32 },
    Pong,
    PeerGreeting,
    Digest(Digest),
    History { id: u64, channel: String, messages: Vec<Received>, more: bool },
    Fetched { id: u64, channel: String, messages: Vec<Received>, resumed: bool },
    WebSocketPing(Vec<u8>),
    Close(Option<u16>),
}

/// Codec of one connection.
#[derive(Debug)]
pub struct Line {
    pub mode: Mode,
    decoder: Option<Decoder>,
    unread: Vec<u8>,
    read_bytes: usize,
    mask: u32,
    /// A close frame came; nothing may follow it.
    closed: bool,
}

impl Line {
    pub fn new(mode: Mode) -> Self {
        Line { mode, decoder: None, unread: Vec::new(), read_bytes: 0, mask: 7, closed: false }
    }

    /// What comes before the first message.
    pub fn opening(&self, target: &str) -> Vec<u8> {
        let agent = if self.mode == Mode::Go { "User-Agent: Go-http-client/1.1\r\n" } else { "" };
        format!(
            "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n{agent}\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes()
    }

    /// A request as it goes out, on its own.
    pub fn request(&mut self, request: &Request<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.mode {
            Mode::Json => json_client::append_request(request, &mut bytes),
            _ => binary::append_request(request, &mut bytes).expect("expressible"),
        }
        if let (Mode::Peer, Request::Auth(_)) = (self.mode, request) {
            let update = PeerUpdate {
                device: b"device".into(),
                device_name: "a device".into(),
                metadata: b"{}".into(),
                ..PeerUpdate::default()
            };
            binary::append_peer_request(&PeerRequest::Update(update), &mut bytes);
        }
        match self.mode {
            Mode::LongPoll => bytes,
            Mode::Json => self.websocket(Opcode::Text, &bytes),
            Mode::Binary | Mode::Go | Mode::Peer => self.websocket(Opcode::Binary, &bytes),
        }
    }

    pub fn peer_request(&mut self, request: &PeerRequest<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        binary::append_peer_request(request, &mut bytes);
        self.websocket(Opcode::Binary, &bytes)
    }

    pub fn websocket(&mut self, opcode: Opcode, body: &[u8]) -> Vec<u8> {
        self.mask = self.mask.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut out = Vec::new();
        append_masked_frame(&mut out, opcode, body, self.mask.to_le_bytes());
        out
    }

    /// Understands what the server wrote. Each thing heard comes with the stream offset of its end.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<(usize, Heard)> {
        let mut heard = Vec::new();
        if self.mode == Mode::LongPoll {
            hear_records(bytes, |one| heard.push((0, one)));
            return heard;
        }
        self.unread.extend_from_slice(bytes);
        let mut unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while at < unread.len() {
            assert!(!self.closed, "bytes after a close frame: {:?}", &unread[at..]);
            let before = heard.len();
            let used = match self.decoder {
                None => self.read_head(&unread[at..], &mut heard),
                Some(_) => self.read_websocket(&mut unread[at..], &mut heard),
            };
            if used == 0 {
                break;
            }
            at += used;
            heard[before..].iter_mut().for_each(|(end, _)| *end = self.read_bytes + at);
        }
        unread.drain(..at);
        self.read_bytes += at;
        self.unread = unread;
        heard
    }

    fn read_head(&mut self, bytes: &[u8], heard: &mut Vec<(usize, Heard)>) -> usize {
        let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return 0 };
        let head = String::from_utf8_lossy(&bytes[..at + 4]).into_owned();
        if !head.starts_with("HTTP/1.1 101 ") {
            heard.push((0, Heard::HttpError(head)));
            return bytes.len();
        }
        self.decoder = Some(Decoder::new(Role::Client));
        heard.push((0, Heard::Switched));
        at + 4
    }

    fn read_websocket(&mut self, bytes: &mut [u8], heard: &mut Vec<(usize, Heard)>) -> usize {
        let Some(decoder) = self.decoder.as_mut() else { return 0 };
        let decoded = decoder.decode(bytes, &LIMITS).expect("the server speaks WebSocket");
        match decoded.incoming {
            None => {}
            Some(Incoming::Message { kind, payload }) => {
                let expected =
                    if self.mode == Mode::Json { MessageKind::Text } else { MessageKind::Binary };
                assert_eq!(kind, expected, "the mode of the client");
                if self.mode == Mode::Json {
                    let event = json_client::decode_event(&payload).expect("an event");
                    heard.push((0, understand(event)));
                } else {
                    let before = heard.len();
                    hear_records(&payload, |one| heard.push((0, one)));
                    check_size(self.mode, payload.len(), &heard[before..]);
                }
            }
            Some(Incoming::Ping(body)) => heard.push((0, Heard::WebSocketPing(body.to_vec()))),
            Some(Incoming::Pong(_)) => {}
            Some(Incoming::Close { code, .. }) => {
                self.closed = true;
                heard.push((0, Heard::Close(code)));
            }
        }
        decoded.consumed
    }
}

/// Several records never make a large message, and whoever dies of one is sent none.
fn check_size(mode: Mode, bytes: usize, heard: &[(usize, Heard)]) {
    let is_small = bytes <= COALESCED_BYTES_MAX;
    assert!(
        is_small || (heard.len() == 1 && mode != Mode::Go),
        "{mode:?}: {bytes} bytes: {:.300}",
        format!("{heard:?}")
    );
}

fn hear_records(bytes: &[u8], mut hear: impl FnMut(Heard)) {
    for record in binary::records(bytes) {
        let event = record.expect("a whole record").event();
        hear(understand(event.expect("an event")));
    }
}

fn understand(event: Event<'_>) -> Heard {
    match event {
        Event::Connected { connection_id, client_id, .. } => Heard::Connected {
            connection: connection_id.into_owned(),
            client: client_id.into_owned(),
        },
        Event::Ack { id, serial, resumed } => Heard::Ack { id, serial, resumed },
        Event::Delivery(delivery) => Heard::Message(received(delivery)),
        Event::Bundle(_) => panic!("the server makes no bundles"),
        Event::Member(member) => Heard::Member(seen(&member, None)),
        Event::PeerMember(peer) => Heard::Member(seen(&peer.member, Some(hash_of(&peer)))),
        Event::PeerGreeting(_) => Heard::PeerGreeting,
        Event::MembersDigest(digest) => Heard::Digest(Digest {
            channel: digest.channel.into_owned(),
            has_all: digest.has_all,
            is_answer: digest.is_answer,
            version: (digest.epoch, digest.version),
            count: digest.count,
            buckets: digest.buckets,
            repaired: digest.repaired,
        }),
        Event::Error { id, code, .. } => Heard::Error { id, code: code.code() },
        Event::Pong => Heard::Pong,
        Event::EdgeRequest(_) | Event::DirectMessage(_) | Event::DirectRefused(_) => {
            panic!("nobody decides, and nobody sends direct messages")
        }
        Event::History { id, channel, messages, more } => {
            let messages = messages.into_iter().map(received).collect();
            Heard::History { id, channel: channel.into_owned(), messages, more }
        }
        Event::Fetched { id, channel, messages, resumed } => {
            let messages = messages.into_iter().map(received).collect();
            Heard::Fetched { id, channel: channel.into_owned(), messages, resumed }
        }
    }
}

fn seen(member: &Member<'_>, hash: Option<u128>) -> MemberSeen {
    MemberSeen {
        action: member.action,
        channel: member.channel.clone().into_owned(),
        client: member.client_id.clone().into_owned(),
        connection: member.connection_id.clone().into_owned(),
        data: text(member.data),
        encoding: member.encoding.clone().into_owned(),
        hash,
    }
}

fn received(delivery: Delivery<'_>) -> Received {
    Received {
        channel: delivery.channel.into_owned(),
        id: delivery.message_id.into_owned(),
        client: delivery.client_id.into_owned(),
        timestamp_ms: delivery.timestamp_ms,
        serial: delivery.serial,
        ephemeral: delivery.ephemeral,
        is_batch: matches!(delivery.content, Content::Batch(_)),
        parts: delivery.content.messages().iter().map(|message| text(message.data)).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
