//! One connection, from the upgrade to its end.

use super::closed::{Awaited, Closed, Refused};
use super::event::{Event, Greeted, Presence};
use super::handshake::{Rest, Upgrade, check};
use super::keep_alive::{Due, KeepAlive, Owed};
use super::outbound::{Outbound, Transport};
use super::prefix;
use crate::error::FrameError;
use crate::wire::foony::binary::{Deliveries, records};
use crate::wire::foony::{self, Request};
use crate::wire::sync::{self, Header, Layout, Message, MessageType, Parsed, Present, RawFrame};
use crate::wire::websocket::{Decoder, Incoming, MessageKind, MessageLimits, Role};

/// Largest message in bytes that is accepted: what other clients of these protocols accept. Bounds
/// what a server can make this process hold; the connection ends.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const LIMITS: MessageLimits =
    MessageLimits { message_bytes_max: MESSAGE_BYTES_MAX, fragments_max: 1024 };

/// How often a client of the sync wire pings, as NodeDB Lite does. The server asks for nothing.
const SYNC_PING_MS: u64 = 30_000;

/// What a client speaks.
///
/// ```
/// use headcount::client::protocol::{Connection, Dialect, Upgrade};
///
/// let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
/// let mut foony = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
/// # assert!(foony.out.pending_bytes() > 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The binary protocol of Foony, over WebSocket.
    Foony,
    /// The sync wire with its 10-byte header.
    Sync,
}

/// How much of what arrives is read.
///
/// ```
/// # use headcount::client::protocol::Connection;
/// # let mut connection = Connection::stream(0);
/// use headcount::client::protocol::Look;
///
/// connection.set_look(Look::Beginnings);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Every frame whole.
    Whole,
    /// Of a presence frame above 4 KiB only the channel, the number of members and as many of them
    /// as arrive with these.
    Beginnings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The response to the upgrade with this nonce is to come.
    Upgrading {
        nonce: [u8; 16],
    },
    /// The greeting of the server is to come.
    Greeting,
    Greeted,
}

/// The state of one connection. It owns no received bytes: what was not consumed the caller
/// presents again, with more behind it.
///
/// ```no_run
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
///
/// use headcount::client::protocol::{Closed, Connection, Dialect, Event, Upgrade};
/// # use headcount::client::protocol::{Credential, Resume};
/// # fn main() -> std::io::Result<()> {
/// # let (nonce, mask_seed, now_ms) = ([7; 16], 1, || 0);
/// # let (resume, key) = (Resume::default(), Credential::Key("app.kid:secret".to_owned()));
///
/// let upgrade = Upgrade::new("127.0.0.1:7400", "/", nonce);
/// let mut connection = Connection::websocket(now_ms(), Dialect::Foony, &upgrade, mask_seed);
/// let (mut socket, mut unread) = (TcpStream::connect("127.0.0.1:7400")?, Vec::new());
/// loop {
///     let sent = socket.write(connection.out.pending())?;
///     connection.out.written(sent);
///     let mut chunk = [0; 4096];
///     let bytes = socket.read(&mut chunk)?;
///     unread.extend_from_slice(&chunk[..bytes]);
///     let used = connection.handle_bytes(now_ms(), &mut unread, |out, event| {
///         match event {
///             Event::Open => out.auth(resume.auth(&key)),
///             event => println!("{event:?}"),
///         }
///         Ok::<(), Closed>(())
///     });
///     unread.drain(..used.map_err(|closed| std::io::Error::other(closed.to_string()))?);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    /// What waits to be sent, and where requests are made.
    pub out: Outbound,
    dialect: Dialect,
    phase: Phase,
    decoder: Decoder,
    keep_alive: KeepAlive,
    look: Look,
    /// Bytes to come of a frame whose beginning was read.
    skipping: usize,
    /// The last error about no request.
    error: Option<Box<Refused>>,
}

impl Connection {
    /// A connection whose socket is about to be connected: the upgrade request waits in `out`.
    /// `mask_seed`: random bits, from which the masks of frames are made.
    ///
    /// ```
    /// use headcount::client::protocol::{Connection, Dialect, Upgrade};
    ///
    /// let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// assert!(connection.out.pending().starts_with(b"GET / HTTP/1.1"));
    /// ```
    pub fn websocket(now_ms: u64, dialect: Dialect, upgrade: &Upgrade, mask_seed: u64) -> Self {
        let out = Outbound::new(Transport::WebSocket, mask_seed, upgrade.request().as_bytes());
        let phase = Phase::Upgrading { nonce: upgrade.nonce() };
        Connection::new(out, dialect, phase, KeepAlive::new(now_ms, Owed::Upgrade))
    }

    /// The sync wire over TCP. There is no [`Event::Open`]: the program may greet at once.
    ///
    /// ```
    /// use headcount::client::protocol::Connection;
    ///
    /// let mut connection = Connection::stream(0);
    /// connection.out.handshake("");
    /// connection.out.update("shop", b"open");
    /// assert!(connection.out.pending_bytes() > 0);
    /// ```
    pub fn stream(now_ms: u64) -> Self {
        let out = Outbound::new(Transport::Tcp, 0, b"");
        let keep_alive = KeepAlive::new(now_ms, Owed::Greeting);
        Connection::new(out, Dialect::Sync, Phase::Greeting, keep_alive)
    }

    fn new(out: Outbound, dialect: Dialect, phase: Phase, keep_alive: KeepAlive) -> Self {
        Connection {
            out,
            dialect,
            phase,
            decoder: Decoder::new(Role::Client),
            keep_alive,
            look: Look::Whole,
            skipping: 0,
            error: None,
        }
    }

    /// Sets how much of what arrives is read.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// use headcount::client::protocol::Look;
    ///
    /// connection.set_look(Look::Beginnings);
    /// ```
    pub fn set_look(&mut self, look: Look) {
        self.look = look;
    }

    /// Closes the connection. The server has half a second to close it too.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// connection.close(1_000, "done");
    /// assert!(connection.out.is_closing());
    /// assert_eq!(connection.poll_timeout(1_000), Some(1_500));
    /// ```
    pub fn close(&mut self, now_ms: u64, reason: &str) {
        self.out.close(reason);
        self.keep_alive.owe(now_ms, Owed::Close);
    }

    /// Takes bytes from the server: those that were not consumed by the last call, then new ones.
    /// Returns how many were consumed. `on_event` may make requests.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::client::protocol::{Closed, Event};
    ///
    /// let mut refusal = *b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
    /// let closed = connection.handle_bytes(20, &mut refusal, |_, event| match event {
    ///     Event::Open => unreachable!("it was refused"),
    ///     _ => Ok::<(), Closed>(()),
    /// });
    /// assert!(matches!(closed, Err(Closed::Upgrade { status: 403, .. })));
    /// ```
    ///
    /// # Errors
    /// [`Closed`], or what `on_event` returns. The connection is over, apart from what waits in
    /// `out`.
    pub fn handle_bytes<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        bytes: &mut [u8],
        mut on_event: impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        self.keep_alive.received(now_ms);
        let mut used = 0;
        if let Phase::Upgrading { nonce } = self.phase {
            let Some(head_bytes) = check(bytes, nonce, Rest::MayFollow)? else { return Ok(0) };
            used = head_bytes;
            self.enter(now_ms, Phase::Greeting);
            on_event(&mut self.out, Event::Open)?;
        }
        used += self.skipped(bytes.len() - used);
        let bytes = &mut bytes[used..];
        let decoded = match self.out.transport() {
            Transport::WebSocket => self.handle_frames(now_ms, bytes, &mut on_event)?,
            Transport::Tcp => self.handle_stream(now_ms, bytes, &mut on_event)?,
        };
        used += decoded;
        if self.look == Look::Whole || self.dialect == Dialect::Foony {
            return Ok(used);
        }
        let rest = &bytes[decoded..];
        match prefix::begin(self.out.transport(), rest).map_err(|error| self.broken(error))? {
            None => Ok(used),
            // A set cannot have more members than bytes: more of them are needed.
            Some((frame, _)) if Present::read(frame.body) == Err(FrameError::Truncated) => Ok(used),
            Some((frame, left)) => {
                self.skipping = left;
                self.handle_frame(now_ms, &frame, &mut on_event)?;
                Ok(used + rest.len())
            }
        }
    }

    /// Bytes to come that are not looked at. The shell may drop them without reading
    /// (`MSG_TRUNC`), and report that with [`Connection::skipped`].
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// use headcount::client::protocol::Look;
    ///
    /// connection.set_look(Look::Beginnings);
    /// // A large presence frame has not begun, so that every byte counts.
    /// assert_eq!(connection.skipping(), 0);
    /// ```
    pub fn skipping(&self) -> usize {
        self.skipping
    }

    /// Counts up to `bytes` of [`Connection::skipping`] as dropped; returns how many.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// let dropped = connection.skipped(4096);
    /// assert_eq!(dropped, 0);
    /// ```
    pub fn skipped(&mut self, bytes: usize) -> usize {
        let skipped = self.skipping.min(bytes);
        self.skipping -= skipped;
        skipped
    }

    /// The server ended the stream; `unread` was not consumed. Returns why the connection is over.
    ///
    /// ```
    /// # use headcount::client::protocol::{Connection, Dialect, Upgrade};
    /// # let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
    /// # let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 1);
    /// use headcount::client::protocol::{Awaited, Closed};
    ///
    /// assert_eq!(connection.handle_end(b""), Closed::Silent(Awaited::Upgrade));
    /// ```
    pub fn handle_end(&mut self, unread: &[u8]) -> Closed {
        match self.phase {
            _ if self.out.is_closing() => Closed::ByUs,
            Phase::Upgrading { nonce } => {
                check(unread, nonce, Rest::Ended).err().unwrap_or(Closed::Silent(Awaited::Upgrade))
            }
            Phase::Greeting | Phase::Greeted => self.by_server(None, ""),
        }
    }

    /// When [`Connection::handle_timeout`] is to be called if nothing arrives before, in
    /// milliseconds of the caller's clock. To be asked whenever the shell is about to wait.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// // The server has 10 s to greet.
    /// assert_eq!(connection.poll_timeout(3), Some(10_000));
    /// ```
    pub fn poll_timeout(&mut self, now_ms: u64) -> Option<u64> {
        self.keep_alive.next_ms(now_ms, self.out.unanswered)
    }

    /// Pings when that is due. What has arrived is handled first: it may be what was late.
    ///
    /// ```
    /// # use headcount::client::protocol::Connection;
    /// # let mut connection = Connection::stream(0);
    /// use headcount::client::protocol::{Awaited, Closed};
    ///
    /// assert_eq!(connection.handle_timeout(9_999), Ok(()));
    /// assert_eq!(connection.handle_timeout(10_000), Err(Closed::Silent(Awaited::Greeting)));
    /// ```
    ///
    /// # Errors
    /// [`Closed::Silent`], or [`Closed::ByUs`] when the server does not answer a close.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), Closed> {
        if self.keep_alive.handle_timeout(now_ms)? == Due::Ping {
            match self.dialect {
                Dialect::Foony => self.out.send(&Request::Ping),
                Dialect::Sync => self.out.ping(now_ms),
            }
        }
        Ok(())
    }

    fn enter(&mut self, now_ms: u64, phase: Phase) {
        self.phase = phase;
        if !self.out.is_closing() {
            let owed = if phase == Phase::Greeted { Owed::Nothing } else { Owed::Greeting };
            self.keep_alive.owe(now_ms, owed);
        }
    }

    fn handle_frames<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        bytes: &mut [u8],
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut used = 0;
        loop {
            let decoded = self.decoder.decode(&mut bytes[used..], &LIMITS);
            let decoded = decoded.map_err(|error| self.broken(error))?;
            if decoded.consumed == 0 {
                return Ok(used);
            }
            used += decoded.consumed;
            match decoded.incoming {
                Some(Incoming::Message { kind: MessageKind::Binary, payload }) => {
                    match self.dialect {
                        Dialect::Foony => self.handle_records(now_ms, &payload, on_event)?,
                        Dialect::Sync => match sync::parse_message(Header::Ten, &payload) {
                            Ok(frame) => self.handle_frame(now_ms, &frame, on_event)?,
                            Err(error) => self.skip(error)?,
                        },
                    }
                }
                Some(Incoming::Message { kind: MessageKind::Text, .. }) => {
                    return Err(self.unexpected("it answers in text", FrameError::UnknownProtocol))?;
                }
                Some(Incoming::Ping(body)) => self.out.pong(body),
                Some(Incoming::Pong(_)) | None => {}
                Some(Incoming::Close { code, reason }) => {
                    let is_ours = self.out.is_closing();
                    self.out.close("");
                    return Err(if is_ours { Closed::ByUs } else { self.by_server(code, reason) })?;
                }
            }
        }
    }

    fn handle_stream<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        bytes: &[u8],
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut used = 0;
        loop {
            let parsed = sync::parse(Header::Ten, &bytes[used..], MESSAGE_BYTES_MAX);
            match parsed.map_err(|error| self.broken(error))? {
                Parsed::NeedMore => return Ok(used),
                Parsed::Frame(frame) => {
                    used += frame.frame_bytes;
                    self.handle_frame(now_ms, &frame, on_event)?;
                }
                Parsed::Skip { frame_bytes, error } => {
                    self.skip(error)?;
                    used += frame_bytes;
                }
            }
        }
    }

    /// One message of a Foony server.
    fn handle_records<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        message: &[u8],
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = message;
        if self.phase == Phase::Greeting && message.is_empty() {
            return Err(self.unexpected("it says nothing", FrameError::Truncated))?;
        }
        while !rest.is_empty() {
            if self.phase == Phase::Greeted
                && let Some(deliveries) = Deliveries::split_off(&mut rest)
            {
                on_event(&mut self.out, Event::Messages(deliveries))?;
                continue;
            }
            let mut others = records(rest);
            let Some(record) = others.next() else { break };
            rest = others.rest();
            match record.and_then(|record| record.event()) {
                Ok(event) => self.handle_record(now_ms, event, on_event)?,
                Err(error) => self.skip(error)?,
            }
        }
        Ok(())
    }

    fn handle_record<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        event: foony::Event<'_>,
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        use foony::Event::{Ack, Connected, DirectRefused, Error, Fetched, History};
        match (self.phase, &event) {
            (Phase::Greeted, Error { id: 0, code, message }) => {
                let refused = Refused::new(Some(*code), message);
                if refused.is_about_credentials() {
                    return Err(Closed::Refused(refused))?;
                }
                self.error = Some(Box::new(refused));
            }
            (
                Phase::Greeted,
                Ack { id, .. }
                | Error { id, .. }
                | History { id, .. }
                | Fetched { id, .. }
                | DirectRefused(foony::peer::DirectRefused { id, .. }),
            ) => self.answered(now_ms, *id),
            (Phase::Greeted, _) => {}
            (_, Connected { connection_id, keep_alive_ms, client_id }) => {
                let keep_alive_ms = *keep_alive_ms;
                let greeted = Greeted { connection_id, client_id, keep_alive_ms };
                return self.greeted(now_ms, greeted, on_event);
            }
            (_, Error { code, message, .. }) => {
                return Err(Closed::Refused(Refused::new(Some(*code), message)))?;
            }
            _ => return Err(self.unexpected("it says something else", FrameError::Header))?,
        }
        on_event(&mut self.out, Event::Foony(event))
    }

    fn greeted<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        greeted: Greeted<'_>,
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter(now_ms, Phase::Greeted);
        self.keep_alive.ping_every(now_ms, greeted.keep_alive_ms);
        on_event(&mut self.out, Event::Greeted(greeted))
    }

    fn answered(&mut self, now_ms: u64, id: u64) {
        // Requests with ids of the program's own are not counted.
        if id > 0 && self.out.unanswered > 0 {
            self.out.unanswered -= 1;
            self.keep_alive.answered(now_ms, self.out.unanswered);
        }
    }

    /// One frame of the sync wire.
    fn handle_frame<E: From<Closed>>(
        &mut self,
        now_ms: u64,
        frame: &RawFrame<'_>,
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if frame.message_type == MessageType::PresenceBroadcast {
            let present = Present::read(frame.body).map_err(|error| self.broken(error))?;
            let presence = Presence { present, frame_bytes: frame.frame_bytes };
            return on_event(&mut self.out, Event::Presence(presence));
        }
        let message = sync::decode(frame.message_type, frame.body, Layout::V0_6);
        match message.map_err(|error| self.broken(error))? {
            Message::HandshakeAck(ack) if self.phase == Phase::Greeting => {
                if !ack.success {
                    return Err(Closed::Refused(Refused::new(
                        None,
                        ack.error.unwrap_or_default(),
                    )))?;
                }
                let (connection_id, keep_alive_ms) = (ack.session_id, SYNC_PING_MS);
                let greeted = Greeted { connection_id, client_id: "", keep_alive_ms };
                self.greeted(now_ms, greeted, on_event)
            }
            message => on_event(&mut self.out, Event::Sync(message)),
        }
    }

    /// A newer server may send kinds of messages that are not known yet. All other errors end the
    /// connection.
    fn skip(&self, error: FrameError) -> Result<(), Closed> {
        match (error, self.phase) {
            (FrameError::UnknownType, Phase::Greeted) => Ok(()),
            _ => Err(self.broken(error)),
        }
    }

    fn by_server(&mut self, code: Option<u16>, reason: &str) -> Closed {
        let error = self.error.take().map(|error| *error);
        Closed::ByServer { code, reason: reason.to_owned(), error }
    }

    fn broken(&self, error: FrameError) -> Closed {
        self.unexpected(&error.to_string(), error)
    }

    /// Before the greeting the peer is no server of ours; after it, its stream is broken.
    fn unexpected(&self, what: &str, error: FrameError) -> Closed {
        let expected = match self.dialect {
            _ if self.phase == Phase::Greeted => return Closed::Broken(error),
            Dialect::Foony => "a `connected` record",
            Dialect::Sync => "a HandshakeAck",
        };
        Closed::Foreign(format!("{what} where {expected} was expected"))
    }
}
