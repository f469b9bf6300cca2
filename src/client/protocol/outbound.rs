//! Requests -> masked frames.

use crate::wire::foony::{Auth, PeerRequest, Publish, Request, binary};
use crate::wire::sync::message::presence::PresenceUpdate;
use crate::wire::sync::message::session::{Handshake, PingPong};
use crate::wire::sync::{self, Layout, Message};
use crate::wire::websocket::{Opcode, close_body, enclose_masked};

/// Requests are put together to messages of about this many bytes while more of them come.
const MESSAGE_BYTES: usize = 32 * 1024;

/// Bytes that may wait when a ping of the server is answered; beyond that it is not.
const PONG_PENDING_BYTES_MAX: usize = 1024 * 1024;

const CLOSE_NORMAL: u16 = 1000;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// One message per WebSocket message.
    WebSocket,
    /// Sync frames back to back.
    Tcp,
}

/// What waits to be sent. The program bounds it: it makes no requests while too many
/// [`Outbound::pending_bytes`] wait.
///
/// Foony requests that are made before the shell asks for [`Outbound::pending`] share a message.
///
/// ```
/// # use headcount::client::protocol::Connection;
/// # let mut connection = Connection::stream(0);
/// connection.out.handshake("");
/// let bytes = connection.out.pending().len();
/// connection.out.written(bytes);
/// assert_eq!(connection.out.pending_bytes(), 0);
/// ```
#[derive(Debug)]
pub struct Outbound {
    transport: Transport,
    bytes: Vec<u8>,
    /// How many of `bytes` were sent.
    written: usize,
    /// Where the records begin that have no frame yet.
    records_at: Option<usize>,
    /// State of the generator of masking keys.
    masks: u64,
    is_closing: bool,
    last_id: u64,
    /// Requests with an id of ours that were not answered.
    pub(super) unanswered: u32,
}

impl Outbound {
    pub(super) fn new(transport: Transport, mask_seed: u64, first: &[u8]) -> Self {
        Outbound {
            transport,
            bytes: first.to_vec(),
            written: 0,
            records_at: None,
            masks: mask_seed,
            is_closing: false,
            last_id: 0,
            unanswered: 0,
        }
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Greets a Foony server.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::client::protocol::{Credential, Resume};
    ///
    /// let key = Credential::Key("app.kid:secret".to_owned());
    /// connection.out.auth(Resume::default().auth(&key));
    /// ```
    pub fn auth(&mut self, auth: Auth<'_>) {
        self.send(&Request::Auth(auth));
    }

    /// Greets on the sync wire; with an empty token, anonymously.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// connection.out.handshake("header.claims.signature");
    /// ```
    pub fn handshake(&mut self, token: &str) {
        self.send_sync(&Message::Handshake(Handshake {
            jwt_token: token,
            client_version: concat!("headcount/", env!("CARGO_PKG_VERSION")),
            wire_version: 1,
            ..Handshake::default()
        }));
    }

    /// Makes a request with the next id, which it returns. The server has 15 s to answer it.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::wire::foony::{Cursor, Request};
    ///
    /// let id = connection.out.request(|id| Request::Subscribe {
    ///     id,
    ///     channel: "shop".into(),
    ///     cursor: Cursor::None,
    /// });
    /// assert_eq!(id, 1);
    /// ```
    pub fn request<'r>(&mut self, request: impl FnOnce(u64) -> Request<'r>) -> u64 {
        let id = self.next_id();
        self.send(&request(id));
        id
    }

    /// Sends a request with an id of the program's own, which watches for the answer itself.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::wire::foony::Request;
    ///
    /// connection.out.send(&Request::Ping);
    /// ```
    pub fn send(&mut self, request: &Request<'_>) {
        self.append_record(|out| {
            let appended = binary::append_request(request, out);
            assert!(appended.is_ok(), "a request of the binary protocol: {request:?}");
        });
    }

    /// Makes a request of the graph extension with the next id, which it returns.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::wire::foony::PeerRequest;
    /// use headcount::wire::foony::peer::Direct;
    ///
    /// let to = [9]; // The peer's key.
    /// let id = connection.out.peer_request(|id| {
    ///     let (channel, name) = ("shop".into(), "greet".into());
    ///     PeerRequest::Direct(Direct { id, channel, to: &to, name, data: b"1" })
    /// });
    /// # assert_eq!(id, 1);
    /// ```
    pub fn peer_request<'r>(&mut self, request: impl FnOnce(u64) -> PeerRequest<'r>) -> u64 {
        let id = self.next_id();
        self.send_peer(&request(id));
        id
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.unanswered += 1;
        self.last_id
    }

    /// Sends what is not answered, or with an event of its own.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::wire::foony::PeerRequest;
    ///
    /// connection.out.send_peer(&PeerRequest::Took { number: 1, is_taken: true });
    /// ```
    pub fn send_peer(&mut self, request: &PeerRequest<'_>) {
        self.append_record(|out| binary::append_peer_request(request, out));
    }

    /// As [`Outbound::send`], for a publish in the form in which SDKs send theirs, a batch.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::wire::foony::{Content, Message, Publish};
    ///
    /// let message = Message { name: "sold".into(), data: b"1", encoding: "".into() };
    /// connection.out.send_batched(&Publish {
    ///     id: 1,
    ///     channel: "shop".into(),
    ///     message_id: "m-1".into(),
    ///     ephemeral: false,
    ///     ttl_ms: 0,
    ///     content: Content::One(message),
    /// });
    /// ```
    pub fn send_batched(&mut self, publish: &Publish<'_>) {
        self.append_record(|out| binary::append_batched_publish(publish, out));
    }

    /// Sends a message on the sync wire.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// use headcount::wire::sync::Message;
    /// use headcount::wire::sync::message::session::PingPong;
    ///
    /// connection.out.send_sync(&Message::PingPong(PingPong { timestamp_ms: 7, is_pong: false }));
    /// ```
    pub fn send_sync(&mut self, message: &Message<'_>) {
        if self.is_closing {
            return;
        }
        let start = self.bytes.len();
        let appended = sync::append_message(message, Layout::V0_6, &mut self.bytes);
        assert!(appended.is_ok(), "the newest layout has every message: {message:?}");
        if self.transport == Transport::WebSocket {
            self.enclose(start, Opcode::Binary);
        }
    }

    /// Sends what the program has encoded itself, over TCP.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// # let frame = [0; 10];
    /// connection.out.send_encoded(|bytes| bytes.extend_from_slice(&frame));
    /// assert_eq!(connection.out.pending(), frame);
    /// ```
    pub fn send_encoded(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_closing {
            append(&mut self.bytes);
        }
    }

    /// Enters a channel, or replaces the own state in it, on the sync wire.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// connection.out.update("shop", b"\x01"); // A MessagePack value.
    /// ```
    pub fn update(&mut self, channel: &str, state: &[u8]) {
        self.send_sync(&Message::PresenceUpdate(PresenceUpdate { channel, state }));
    }

    /// Asks for a pong that echoes `stamp`, on the sync wire.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// connection.out.ping(1_700_000_000_000);
    /// ```
    pub fn ping(&mut self, stamp: u64) {
        self.send_sync(&Message::PingPong(PingPong { timestamp_ms: stamp, is_pong: false }));
    }

    /// Closes the connection; nothing is sent after it. Over TCP the shell ends the stream.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// connection.out.close("done");
    /// connection.out.handshake("");
    /// assert_eq!(connection.out.pending_bytes(), 0);
    /// ```
    pub fn close(&mut self, reason: &str) {
        if !self.is_closing && self.transport == Transport::WebSocket {
            self.append_frame(Opcode::Close, &close_body(CLOSE_NORMAL, reason));
        }
        self.is_closing = true;
    }

    /// Whether [`Outbound::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// How many bytes wait.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// The bytes to send. The shell reports with [`Outbound::written`] how many it has sent.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use std::io::Write;
    ///
    /// # let mut socket = Vec::new();
    /// let sent = socket.write(connection.out.pending())?;
    /// connection.out.written(sent);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pending(&mut self) -> &[u8] {
        self.complete_message();
        &self.bytes[self.written..]
    }

    /// The first bytes of [`Outbound::pending`] were sent.
    ///
    /// # Panics
    /// When more bytes are reported than were pending.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// let all = connection.out.pending_bytes();
    /// connection.out.written(all - 1);
    /// assert_eq!(connection.out.pending(), b"\n");
    /// ```
    pub fn written(&mut self, bytes: usize) {
        self.written += bytes;
        assert!(self.written <= self.bytes.len(), "{bytes} bytes were not pending");
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        } else if self.written > MESSAGE_BYTES {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    pub(super) fn pong(&mut self, body: &[u8]) {
        if !self.is_closing && self.pending_bytes() < PONG_PENDING_BYTES_MAX {
            self.append_frame(Opcode::Pong, body);
        }
    }

    fn append_record(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        if self.is_closing {
            return;
        }
        let start = *self.records_at.get_or_insert(self.bytes.len());
        append(&mut self.bytes);
        if self.bytes.len() - start >= MESSAGE_BYTES {
            self.complete_message();
        }
    }

    fn complete_message(&mut self) {
        if let Some(start) = self.records_at.take() {
            self.enclose(start, Opcode::Binary);
        }
    }

    fn append_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        self.complete_message();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.enclose(start, opcode);
    }

    fn enclose(&mut self, start: usize, opcode: Opcode) {
        // SplitMix64: no page can make this process send what it chooses, so that the keys need not
        // be those of a cryptographic generator (RFC 6455 section 10.3).
        self.masks = self.masks.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.masks ^ self.masks >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mask = ((mixed ^ mixed >> 31) as u32).to_be_bytes();
        enclose_masked(&mut self.bytes, start, opcode, mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::websocket::any_split::{Event, decode_all};
    use crate::wire::websocket::{MessageKind, MessageLimits, Role};

    const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1 << 20, fragments_max: 0 };

    /// What a server sees, read through a socket that takes so many bytes at once.
    fn sent(out: &mut Outbound, step: usize) -> Vec<Event> {
        let mut stream = Vec::new();
        while out.pending_bytes() > 0 {
            let pending = out.pending();
            let bytes = pending.len().min(step);
            stream.extend_from_slice(&pending[..bytes]);
            out.written(bytes);
        }
        decode_all(Role::Server, &LIMITS, [&stream[..]])
    }

    fn outbound() -> Outbound {
        Outbound::new(Transport::WebSocket, 7, b"")
    }

    fn records(message: &Event) -> usize {
        let Event::Message(MessageKind::Binary, payload) = message else { panic!("{message:?}") };
        binary::records(payload).filter(|record| record.is_ok()).count()
    }

    #[test]
    fn requests_share_a_message_until_they_are_sent_or_many() {
        let mut out = outbound();
        (0..3).for_each(|_| out.send(&Request::Ping));
        assert_eq!(sent(&mut out, 2).iter().map(records).collect::<Vec<_>>(), [3]);
        let channel = "c".repeat(200);
        let ids: Vec<u64> = (0..300)
            .map(|_| out.request(|id| Request::Unsubscribe { id, channel: (&*channel).into() }))
            .collect();
        assert_eq!((ids[0], ids[299], out.unanswered), (1, 300, 300));
        let messages: Vec<usize> = sent(&mut out, 50_000).iter().map(records).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages.iter().sum::<usize>(), 300);
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut out = outbound();
        out.send(&Request::Ping);
        out.pong(b"hi");
        out.close("client close");
        out.send(&Request::Ping);
        out.pong(b"no");
        out.close("again");
        let [ping, pong, close] = &sent(&mut out, usize::MAX)[..] else { panic!("three frames") };
        assert_eq!(records(ping), 1);
        assert_eq!(*pong, Event::Pong(b"hi".to_vec()));
        assert_eq!(*close, Event::Close(Some(1000), "client close".to_owned()));
    }

    #[test]
    fn masks_differ_from_frame_to_frame_and_from_connection_to_connection() {
        let masks = |seed| {
            let mut out = Outbound::new(Transport::WebSocket, seed, b"");
            let mut mask = || {
                out.append_frame(Opcode::Pong, b"");
                let mask = out.pending()[2..6].to_vec();
                out.written(6);
                mask
            };
            [mask(), mask()]
        };
        let [[a, b], [c, d]] = [masks(1), masks(2)];
        assert!(a != b && c != d && a != c);
    }
}
