//! Messages -> bytes to the server.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;

use super::Transport;
use crate::wire::foony::{Auth, Request, binary};
use crate::wire::sync::message::Map;
use crate::wire::sync::message::presence::PresenceUpdate;
use crate::wire::sync::message::session::{Handshake, PingPong};
use crate::wire::sync::{self, Layout, Message};
use crate::wire::websocket::{self, Opcode};

/// Bytes that may wait for the socket. Past it a message is not taken ([`Queued::Full`]); its
/// sender tries again later and the delay counts as the server's.
pub const OUTBOUND_BYTES_MAX: usize = 1024 * 1024;

/// The example of RFC 6455 section 1.3: every connection may use the same key.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Room for what a client says until it has entered a channel.
const GREETING_BYTES: usize = 512;

const CLOSE_NORMAL: u16 = 1000;

/// Was the message taken?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Queued {
    Yes,
    Full,
}

/// What waits to be written.
pub struct Outbound {
    transport: Transport,
    bytes: Vec<u8>,
    sent: usize,
    frame: Vec<u8>,
    mask: u32,
    closing: bool,
    hung_up: bool,
}

impl Outbound {
    pub(super) fn new(transport: Transport, mask_seed: u32) -> Self {
        let (bytes, frame) = (Vec::with_capacity(GREETING_BYTES), Vec::new());
        let (closing, hung_up) = (false, false);
        Outbound { transport, bytes, sent: 0, frame, mask: mask_seed, closing, hung_up }
    }

    pub(super) fn upgrade(&mut self, request: &str) {
        self.bytes.extend_from_slice(request.as_bytes());
    }

    pub(super) fn greet(&mut self, token: &str) {
        let handshake = Handshake {
            jwt_token: token,
            vector_clock: Map::default(),
            subscribed_shapes: Vec::new(),
            client_version: concat!("headcount-bench/", env!("CARGO_PKG_VERSION")),
            lite_id: "",
            epoch: 0,
            wire_version: 1,
        };
        let _ = self.send(&Message::Handshake(handshake));
    }

    pub(super) fn authenticate(&mut self, key: &str, client_id: &str) {
        let auth = Auth { key: key.into(), client_id: client_id.into(), ..Auth::default() };
        let mut records = Vec::with_capacity(GREETING_BYTES);
        let appended = binary::append_request(&Request::Auth(auth), &mut records);
        assert!(appended.is_ok(), "a key and a client id can be said: {appended:?}");
        let _ = self.records(&records);
    }

    /// Sends records of the Foony protocol as one message, or requests to Redis.
    pub fn records(&mut self, records: &[u8]) -> Queued {
        if self.closing || self.pending() >= OUTBOUND_BYTES_MAX {
            return Queued::Full;
        }
        match self.transport {
            Transport::Ws => self.append_masked(Opcode::Binary, records),
            Transport::Tcp => self.bytes.extend_from_slice(records),
        }
        Queued::Yes
    }

    /// Enters the channel or replaces our state in it.
    pub fn update(&mut self, channel: &str, state: &[u8]) -> Queued {
        self.send(&Message::PresenceUpdate(PresenceUpdate { channel, state }))
    }

    /// Asks for a pong that echoes `stamp`.
    pub fn ping(&mut self, stamp: u64) -> Queued {
        self.send(&Message::PingPong(PingPong { timestamp_ms: stamp, is_pong: false }))
    }

    /// Says goodbye; nothing is taken after it.
    pub fn close(&mut self) {
        if !self.closing && self.transport == Transport::Ws {
            self.append_masked(Opcode::Close, &websocket::close_body(CLOSE_NORMAL, ""));
        }
        self.closing = true;
    }

    /// Closes the socket as soon as what waits has been written.
    pub fn hang_up(&mut self) {
        (self.closing, self.hung_up) = (true, true);
    }

    pub(super) fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Bytes that wait.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn pong(&mut self, body: &[u8]) {
        if self.pending() < OUTBOUND_BYTES_MAX {
            self.append_masked(Opcode::Pong, body);
        }
    }

    fn send(&mut self, message: &Message<'_>) -> Queued {
        if self.closing || self.pending() >= OUTBOUND_BYTES_MAX {
            return Queued::Full;
        }
        match self.transport {
            Transport::Tcp => append(message, &mut self.bytes),
            Transport::Ws => {
                let mut frame = std::mem::take(&mut self.frame);
                frame.clear();
                append(message, &mut frame);
                self.append_masked(Opcode::Binary, &frame);
                self.frame = frame;
            }
        }
        Queued::Yes
    }

    fn append_masked(&mut self, opcode: Opcode, payload: &[u8]) {
        // Any sequence that a cache between the two cannot predict by accident (Knuth's LCG).
        self.mask = self.mask.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mask = self.mask.to_be_bytes();
        websocket::append_masked_frame(&mut self.bytes, opcode, payload, mask);
    }

    /// Writes until nothing waits or the socket is full.
    pub(super) fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.bytes.drain(..self.sent);
                    self.sent = 0;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

/// Asks for a WebSocket; `path` is that of the URL with its query.
pub fn upgrade_request(path: &str, host: SocketAddr) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    )
}

fn append(message: &Message<'_>, out: &mut Vec<u8>) {
    let appended = sync::append_message(message, Layout::V0_6, out);
    assert!(appended.is_ok(), "the newest layout has every message: {appended:?}");
}
