//! One nonblocking connection that speaks the sync wire, the Foony protocol or Redis' as a client
//! would.
//!
//! Owns its socket, its greeting and its two bounded buffers. Invariant: a client that does not
//! read in time costs the server, never this process: what waits here is at most one frame in and
//! [`OUTBOUND_BYTES_MAX`] out. Must never know: schedules, stamps, statistics.

mod connect;
mod event;
mod inbound;
mod outbound;
mod skim;

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use clap::ValueEnum;
use mio::net::TcpStream;
use serde::{Deserialize, Serialize};

use super::options::Dialect;
use crate::error::FrameError;

pub use connect::{Sources, connect};
pub use event::{Event, Presence};
use inbound::{Arrived, Inbound};
pub use outbound::{OUTBOUND_BYTES_MAX, Outbound, Queued, upgrade_request};
use skim::Dropped;
pub use skim::Look;

/// How sync frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// One frame per binary WebSocket message.
    Ws,
    /// Frames back to back on a TCP stream.
    Tcp,
}

/// How a client says who it is, and what it speaks from then on.
#[derive(Clone, Debug)]
pub enum Greeting {
    /// Empty token: anonymous.
    Sync { token: Arc<str> },
    /// An API key, `app.keyId:secret`, and the client id of our choice. WebSocket only.
    Foony { key: Arc<str>, client_id: Arc<str> },
    /// Redis asks nothing. TCP only.
    Redis,
}

/// When a client greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// As soon as it is connected.
    AtOnce,
    /// When it is told to.
    WhenTold,
}

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub transport: Transport,
    /// What a WebSocket client says first: [`upgrade_request`].
    pub upgrade: Arc<str>,
    pub greeting: Greeting,
    pub opening: Opening,
    pub look: Look,
}

impl Target {
    pub fn dialect(&self) -> Dialect {
        match self.greeting {
            Greeting::Sync { .. } => Dialect::Sync,
            Greeting::Foony { .. } => Dialect::Foony,
            Greeting::Redis => Dialect::Redis,
        }
    }
}

/// Why a connection is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// We asked for it.
    ByUs,
    /// The server ended it, with its close code when it gave one.
    ByServer { code: Option<u16> },
    /// The server sent something that is not the protocol.
    Broken(FrameError),
    /// The operating system ended it.
    Failed(ErrorKind),
    /// The WebSocket upgrade was answered with this status.
    Upgrade { status: u16 },
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::ByUs => write!(f, "closed by us"),
            Closed::ByServer { code: Some(code) } => write!(f, "closed by the server ({code})"),
            Closed::ByServer { code: None } => write!(f, "closed by the server"),
            Closed::Broken(error) => write!(f, "the server broke the protocol: {error}"),
            Closed::Failed(kind) => write!(f, "{kind}"),
            Closed::Upgrade { status } => write!(f, "upgrade answered with status {status}"),
        }
    }
}

/// What became of one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more; read again.
    More,
    /// Nothing until the socket says so.
    Drained,
    Closed(Closed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The socket is not connected.
    Connecting,
    /// The upgrade response is awaited.
    Upgrading,
    /// Frames travel.
    Open,
}

/// A connection from `connect` to its end.
pub struct Client {
    pub(super) stream: TcpStream,
    pub out: Outbound,
    inbound: Inbound,
    phase: Phase,
    target: Target,
    /// Bytes received so far.
    pub bytes_in: u64,
}

impl Client {
    /// `stream` may still be connecting. `mask_seed` starts the masks of the frames that are sent.
    pub fn new(stream: TcpStream, target: Target, mask_seed: u32) -> Self {
        Client {
            stream,
            out: Outbound::new(target.transport, mask_seed),
            inbound: Inbound::new(&target),
            phase: Phase::Connecting,
            target,
            bytes_in: 0,
        }
    }

    /// Takes the connection a step further once the socket is writable, then writes what waits.
    ///
    /// # Errors
    /// The connection is over.
    pub fn write(
        &mut self,
        mut on_event: impl FnMut(&mut Outbound, Event<'_>),
    ) -> Result<(), Closed> {
        if self.phase == Phase::Connecting {
            let may_begin = self.may_begin();
            if !may_begin.map_err(|error| Closed::Failed(error.kind()))? {
                return Ok(());
            }
            self.begin(&mut on_event);
        }
        self.out.flush(&mut self.stream).map_err(|error| Closed::Failed(error.kind()))?;
        if self.out.has_hung_up() && self.out.pending() == 0 {
            return Err(Closed::ByUs);
        }
        if self.out.is_closing() && self.target.transport == Transport::Tcp {
            // TCP's goodbye is its end of stream. A second one is no harm.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Is it connected, as far as that matters? An upgrade request waits for the socket, and its
    /// answer tells as much as another system call would.
    fn may_begin(&self) -> io::Result<bool> {
        if self.target.transport == Transport::Ws {
            return Ok(true);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                self.stream.take_error()?.map_or(Ok(false), Err)
            }
            Err(error) => Err(error),
        }
    }

    /// Can it do no more before the socket is writable?
    pub(super) fn is_blocked(&self) -> bool {
        self.phase == Phase::Connecting || self.out.pending() > 0
    }

    fn begin(&mut self, on_event: &mut impl FnMut(&mut Outbound, Event<'_>)) {
        match self.target.transport {
            Transport::Ws => {
                self.out.upgrade(&self.target.upgrade);
                self.phase = Phase::Upgrading;
            }
            Transport::Tcp => self.open(on_event),
        }
    }

    fn open(&mut self, on_event: &mut impl FnMut(&mut Outbound, Event<'_>)) {
        self.phase = Phase::Open;
        if self.target.opening == Opening::AtOnce {
            self.greet();
        }
        on_event(&mut self.out, Event::Open);
    }

    /// Says who it is. Once, when it is open.
    pub fn greet(&mut self) {
        match &self.target.greeting {
            Greeting::Sync { token } => self.out.greet(token),
            Greeting::Foony { key, client_id } => self.out.authenticate(key, client_id),
            Greeting::Redis => {}
        }
    }

    /// Reads once, at most `budget` bytes, and hands over what that completed. Frames are parsed
    /// in `scratch`, which is shared by all connections of a thread and grows to their largest
    /// frame.
    pub fn read(
        &mut self,
        scratch: &mut Vec<u8>,
        budget: usize,
        mut on_event: impl FnMut(&mut Outbound, Event<'_>),
    ) -> Progress {
        if self.phase == Phase::Connecting {
            return Progress::Drained;
        }
        if self.inbound.skim.is_inside() {
            return self.drop_rest();
        }
        let held = self.inbound.restore(scratch, budget);
        let window = &mut scratch[held..];
        let room = window.len().min(budget);
        let got = match self.stream.read(&mut window[..room]) {
            Ok(0) => return Progress::Closed(ended(&self.out, None)),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Drained,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Progress::More,
            Err(error) => return Progress::Closed(Closed::Failed(error.kind())),
        };
        self.bytes_in += got as u64;
        match self.take(&mut scratch[..held + got], &mut on_event) {
            Err(closed) => Progress::Closed(closed),
            Ok(()) if got < room => Progress::Drained,
            Ok(()) => Progress::More,
        }
    }

    fn drop_rest(&mut self) -> Progress {
        match self.inbound.skim.drop_rest(&self.stream) {
            Ok(Dropped { bytes: 0, .. }) => Progress::Closed(ended(&self.out, None)),
            Ok(Dropped { bytes, all }) => {
                self.bytes_in += bytes as u64;
                if all { Progress::More } else { Progress::Drained }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Drained,
            Err(error) if error.kind() == ErrorKind::Interrupted => Progress::More,
            Err(error) => Progress::Closed(Closed::Failed(error.kind())),
        }
    }

    fn take(
        &mut self,
        bytes: &mut [u8],
        on_event: &mut impl FnMut(&mut Outbound, Event<'_>),
    ) -> Result<(), Closed> {
        let mut at = 0;
        if self.phase == Phase::Upgrading {
            let Some(head_bytes) = inbound::upgrade_response(bytes)? else {
                self.inbound.hold(bytes);
                return Ok(());
            };
            at = head_bytes;
            self.open(on_event);
        }
        let mut end = None;
        let out = &mut self.out;
        let used = self.inbound.decode(&mut bytes[at..], |arrived| match arrived {
            Arrived::Frame(frame) => Event::read(frame).map(|event| on_event(out, event)),
            Arrived::Records(records) => {
                on_event(out, Event::Records(records));
                Ok(())
            }
            Arrived::Ping(body) => {
                out.pong(body);
                Ok(())
            }
            Arrived::Close(code) => {
                end = Some(ended(out, code));
                out.close();
                Ok(())
            }
        });
        let used = used.map_err(Closed::Broken)?;
        if let Some(closed) = end {
            let _ = self.out.flush(&mut self.stream);
            return Err(closed);
        }
        self.inbound.hold(&bytes[at + used..]);
        Ok(())
    }
}

/// The server said that it is over; who began?
fn ended(out: &Outbound, code: Option<u16>) -> Closed {
    if out.is_closing() { Closed::ByUs } else { Closed::ByServer { code } }
}
