//! One nonblocking connection to a server: a socket around [`protocol::Connection`]. Of a peer only
//! the queue of that is used; its [`Protocol`] writes and reads the bytes.
//!
//! Invariant: a client that does not read in time costs the server, never this process: at most one
//! frame is held of what arrives, and [`OUTBOUND_BYTES_MAX`] of what is sent. Must never know:
//! schedules, stamps, statistics.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::{self, MaybeUninit};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use clap::ValueEnum;
use mio::net::TcpStream;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::peer::{Protocol, Reply};
pub use crate::client::protocol::Closed;
use crate::client::protocol::{self, Connection, Look, Outbound, Presence, Refused, Upgrade};
use crate::wire::foony::binary::Deliveries;
use crate::wire::foony::{self, Auth, Cursor, Publish, Request};
use crate::wire::sync::Message;

/// Bytes that may wait for the socket. Past it a message is not taken; its sender tries again later
/// and the delay counts as the server's.
pub const OUTBOUND_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes that are dropped at once. The kernel does not copy them, so they need no memory but
/// an untouched part of the stack.
const DROPPED_BYTES_MAX: usize = 256 * 1024;

/// Of the request by which a client joins; publishes are numbered from the next one on.
const JOIN_ID: u64 = 1;
/// Of updates, whose acknowledgements are not awaited.
const UPDATE_ID: u64 = 2;
/// Stamps of pings, which are times elsewhere.
const JOIN_PING: u64 = u64::MAX;
/// Of pings that are not measured, and of the pongs of servers that do not echo.
pub const NO_STAMP: u64 = u64::MAX - 1;
/// Connections of one run may share it.
const NONCE: [u8; 16] = *b"headcount bench ";

/// How sync frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// One frame per binary WebSocket message.
    Ws,
    /// Frames back to back on a TCP stream.
    Tcp,
}

/// The credentials of a client, and what it speaks.
#[derive(Clone, Debug)]
pub enum Greeting {
    /// Empty token: anonymous.
    Sync { token: Arc<str> },
    /// An API key, `app.keyId:secret`, and the client id of our choice. WebSocket only.
    Foony { key: Arc<str>, client_id: Arc<str> },
    /// Peers have none. TCP only.
    Peer(&'static dyn Protocol),
}

/// The server to connect to, and how.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub transport: Transport,
    pub upgrade: Arc<Upgrade>,
    pub greeting: Greeting,
    pub look: Look,
}

impl Target {
    /// `path`: of the URL of a WebSocket, with its query.
    pub fn new(address: SocketAddr, transport: Transport, path: &str, greeting: Greeting) -> Self {
        let upgrade = Arc::new(Upgrade::new(&address.to_string(), path, NONCE));
        Target { address, transport, upgrade, greeting, look: Look::Whole }
    }
}

/// What happened on a connection; borrows from the bytes that were read.
#[derive(Debug)]
pub enum Event<'a> {
    /// Connected and upgraded.
    Open,
    /// The server accepts the credentials.
    Greeted,
    /// The subscription is active, or the member is in.
    Joined,
    /// An error about no request, or about one that has to succeed.
    Refused(Refused),
    /// Answers the ping with this stamp, on the sync wire; in other dialects a time that never
    /// comes.
    Pong(u64),
    /// The members of a channel.
    Presence(Presence<'a>),
    /// A change of one member.
    Member(foony::Member<'a>),
    Messages(Deliveries<'a>),
    /// One message of a server that does not number them.
    Unnumbered(&'a [u8]),
    /// A publish was acknowledged. `None`: the oldest one that was not, by a server that does not
    /// number them; else its id and serial.
    Published(Option<(u64, u64)>),
    /// Something that no benchmark looks at.
    Other,
}

impl<'a> Event<'a> {
    fn of(event: protocol::Event<'a>) -> Self {
        use foony::Event::{Ack, Error, Member, Pong};
        match event {
            protocol::Event::Open => Event::Open,
            protocol::Event::Greeted(_) => Event::Greeted,
            protocol::Event::Messages(deliveries) => Event::Messages(deliveries),
            protocol::Event::Presence(presence) => Event::Presence(presence),
            protocol::Event::Foony(Ack { id: JOIN_ID, .. }) => Event::Joined,
            protocol::Event::Foony(Ack { id, serial, .. }) => {
                Event::Published(Some((id.saturating_sub(JOIN_ID), serial)))
            }
            protocol::Event::Foony(Error { code, message, .. }) => {
                Event::Refused(Refused::new(Some(code), &message))
            }
            protocol::Event::Foony(Member(member)) => Event::Member(member),
            protocol::Event::Foony(Pong) => Event::Pong(NO_STAMP),
            protocol::Event::Sync(Message::PingPong(ping)) if ping.is_pong => {
                match ping.timestamp_ms {
                    // It comes after the update before it was carried out.
                    JOIN_PING => Event::Joined,
                    stamp => Event::Pong(stamp),
                }
            }
            protocol::Event::Foony(_) | protocol::Event::Sync(_) => Event::Other,
        }
    }

    fn of_peer(reply: Reply<'a>) -> Self {
        match reply {
            Reply::Subscribed => Event::Joined,
            Reply::Message(payload) => Event::Unnumbered(payload),
            Reply::Published => Event::Published(None),
            Reply::Refused(reason) => Event::Refused(Refused::new(None, reason)),
            Reply::Other => Event::Other,
        }
    }
}

/// Where a client makes its requests.
pub struct Out<'a> {
    out: &'a mut Outbound,
    greeting: &'a Greeting,
}

impl Out<'_> {
    /// Sends the credentials.
    pub fn greet(&mut self) {
        match self.greeting {
            Greeting::Sync { token } => self.out.handshake(token),
            Greeting::Foony { key, client_id } => {
                let (key, client_id) = ((&**key).into(), (&**client_id).into());
                self.out.auth(Auth { key, client_id, ..Auth::default() });
            }
            Greeting::Peer(_) => {}
        }
    }

    /// Subscribes to the messages of a channel; on the sync wire, enters it with a state. Answer:
    /// [`Event::Joined`].
    pub fn join(&mut self, channel: &str, state: &[u8]) {
        match self.greeting {
            Greeting::Sync { .. } => {
                self.out.update(channel, state);
                self.out.ping(JOIN_PING);
            }
            Greeting::Foony { .. } => {
                let (id, cursor) = (JOIN_ID, Cursor::None);
                self.out.send(&Request::Subscribe { id, channel: channel.into(), cursor });
            }
            Greeting::Peer(protocol) => {
                self.out.send_encoded(|bytes| protocol.append_subscribe(channel, bytes));
            }
        }
    }

    /// Subscribes to the members of a channel; on the sync wire, enters it as well. Answer:
    /// [`Event::Joined`].
    pub fn watch(&mut self, channel: &str) {
        match self.greeting {
            Greeting::Foony { .. } => {
                let (id, channel) = (JOIN_ID, channel.into());
                self.out.send(&Request::PresenceSubscribe { id, channel });
            }
            _ => self.join(channel, &[]),
        }
    }

    /// Enters a channel with a state. Answer: [`Event::Joined`].
    pub fn enter(&mut self, channel: &str, state: &[u8]) {
        match self.greeting {
            Greeting::Foony { .. } => self.present(JOIN_ID, foony::Action::Enter, channel, state),
            _ => self.join(channel, state),
        }
    }

    /// Replaces the state of a member. Peers have none.
    pub fn update(&mut self, channel: &str, state: &[u8]) {
        match self.greeting {
            Greeting::Sync { .. } => self.out.update(channel, state),
            Greeting::Foony { .. } => {
                self.present(UPDATE_ID, foony::Action::Update, channel, state);
            }
            Greeting::Peer(_) => {}
        }
    }

    fn present(&mut self, id: u64, action: foony::Action, channel: &str, data: &[u8]) {
        let (channel, encoding) = (channel.into(), "".into());
        let presence = foony::Presence { id, channel, action, data, encoding };
        self.out.send(&Request::Presence(presence));
    }

    /// Publishes a message. Ids begin with 1. Answer: [`Event::Published`].
    pub fn publish(&mut self, mut publish: Publish<'_>) {
        if let Greeting::Peer(protocol) = self.greeting {
            for message in publish.content.messages() {
                self.out.send_encoded(|bytes| {
                    protocol.append_publish(&publish.channel, message.data, bytes);
                });
            }
        } else {
            publish.id += JOIN_ID;
            self.out.send(&Request::Publish(publish));
        }
    }

    /// Sends a ping. Answer: [`Event::Pong`].
    pub fn ping(&mut self, stamp: u64) {
        match self.greeting {
            Greeting::Sync { .. } => self.out.ping(stamp),
            Greeting::Foony { .. } => self.out.send(&Request::Ping),
            Greeting::Peer(protocol) => self.out.send_encoded(|bytes| protocol.append_ping(bytes)),
        }
    }

    /// Sends what follows in another WebSocket message.
    pub fn end_message(&mut self) {
        self.out.pending();
    }

    /// Closes the connection as the protocol asks for; nothing is sent after it.
    pub fn close(&mut self) {
        self.out.close("");
    }
}

/// A connection from `connect` to its end.
pub struct Client {
    pub(super) stream: TcpStream,
    // Boxed: thousands of these are moved when their list grows.
    connection: Box<Connection>,
    target: Target,
    /// Bytes of a frame that is not complete.
    held: Vec<u8>,
    /// Is there no upgrade whose answer opens it?
    opens_itself: bool,
    /// Bytes received so far.
    pub bytes_in: u64,
}

impl Client {
    /// `stream` may still be connecting. `mask_seed` starts the masks of the frames that are sent.
    pub fn new(stream: TcpStream, target: Target, mask_seed: u64) -> Self {
        let over_websocket =
            |dialect| Connection::websocket(0, dialect, &target.upgrade, mask_seed);
        let mut connection = match (&target.greeting, target.transport) {
            (Greeting::Foony { .. }, _) => over_websocket(protocol::Dialect::Foony),
            (Greeting::Sync { .. }, Transport::Ws) => over_websocket(protocol::Dialect::Sync),
            _ => Connection::stream(0),
        };
        connection.set_look(target.look);
        Client {
            stream,
            connection: Box::new(connection),
            opens_itself: target.transport == Transport::Tcp,
            target,
            held: Vec::new(),
            bytes_in: 0,
        }
    }

    pub fn out(&mut self) -> Out<'_> {
        Out { out: &mut self.connection.out, greeting: &self.target.greeting }
    }

    /// Bytes that the server has not taken yet.
    pub fn pending_bytes(&self) -> usize {
        self.connection.out.pending_bytes()
    }

    pub fn is_closing(&self) -> bool {
        self.connection.out.is_closing()
    }

    /// Writes what waits, as far as the socket takes it; while it connects it takes nothing.
    pub fn write(
        &mut self,
        mut on_event: impl FnMut(&mut Out<'_>, Event<'_>) -> Result<(), Closed>,
    ) -> Result<(), Closed> {
        if mem::take(&mut self.opens_itself) {
            on_event(&mut self.out(), Event::Open)?;
            if matches!(self.target.greeting, Greeting::Peer(_)) {
                on_event(&mut self.out(), Event::Greeted)?;
            }
        }
        self.flush()?;
        if self.is_closing() && self.target.transport == Transport::Tcp {
            // Over TCP the end of the stream closes. A second one does no harm.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Closed> {
        loop {
            let waiting = self.connection.out.pending();
            if waiting.is_empty() {
                return Ok(());
            }
            match self.stream.write(waiting) {
                Ok(written) => self.connection.out.written(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken_off(error)),
            }
        }
    }

    /// Reads once, at most `budget` bytes, and hands over what that completed. Returns whether
    /// there may be more, so that it is to be called again. Frames are parsed in `scratch`, which
    /// is shared by all connections of a thread and grows to their largest frame.
    pub fn read(
        &mut self,
        scratch: &mut Vec<u8>,
        budget: usize,
        on_event: impl FnMut(&mut Out<'_>, Event<'_>) -> Result<(), Closed>,
    ) -> Result<bool, Closed> {
        if self.connection.skipping() > 0 {
            return self.drop_rest();
        }
        let held = self.held.len();
        let wanted = held + budget.max(held);
        if scratch.len() < wanted {
            scratch.resize(wanted, 0);
        }
        scratch[..held].copy_from_slice(&self.held);
        self.held.clear();
        let room = budget.min(scratch.len() - held);
        let got = match self.stream.read(&mut scratch[held..held + room]) {
            Ok(0) => return Err(self.connection.handle_end(&scratch[..held])),
            Ok(got) => got,
            Err(error) => {
                self.held.extend_from_slice(&scratch[..held]);
                return failed(error);
            }
        };
        self.bytes_in += got as u64;
        self.take(&mut scratch[..held + got], on_event)?;
        Ok(got == room)
    }

    fn take(
        &mut self,
        bytes: &mut [u8],
        mut on_event: impl FnMut(&mut Out<'_>, Event<'_>) -> Result<(), Closed>,
    ) -> Result<(), Closed> {
        let greeting = &self.target.greeting;
        let used = if let Greeting::Peer(protocol) = greeting {
            let mut handled = Ok(());
            let used = protocol.read(bytes, &mut |reply| {
                if handled.is_ok() {
                    let out = &mut self.connection.out;
                    handled = on_event(&mut Out { out, greeting }, Event::of_peer(reply));
                }
            })?;
            handled.map(|()| used)?
        } else {
            let handled = self.connection.handle_bytes(0, bytes, |out, event| {
                on_event(&mut Out { out, greeting }, Event::of(event))
            });
            handled.inspect_err(|_| {
                // An answer to a close, if that can still be sent.
                let _ = self.flush();
            })?
        };
        match &bytes[used..] {
            [] => self.held = Vec::new(),
            rest => self.held.extend_from_slice(rest),
        }
        Ok(())
    }

    /// Drops what belongs to a frame of which only the beginning is of interest.
    fn drop_rest(&mut self) -> Result<bool, Closed> {
        let mut room = [MaybeUninit::uninit(); DROPPED_BYTES_MAX];
        let asked = self.connection.skipping().min(room.len());
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        match SockRef::from(&self.stream).recv_with_flags(&mut room[..asked], flags) {
            Ok(0) => Err(self.connection.handle_end(&[])),
            Ok(got) => {
                self.connection.skipped(got);
                self.bytes_in += got as u64;
                Ok(got == asked)
            }
            Err(error) => failed(error),
        }
    }
}

fn failed(error: io::Error) -> Result<bool, Closed> {
    match error.kind() {
        ErrorKind::WouldBlock => Ok(false),
        ErrorKind::Interrupted => Ok(true),
        _ => Err(broken_off(error)),
    }
}

/// The operating system ended the connection.
pub fn broken_off(error: io::Error) -> Closed {
    Closed::ByServer { code: None, reason: error.kind().to_string(), error: None }
}
