//! The sockets of a shard's connections: descriptor, armed ring entries, receive budget.

use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::SockRef;

use super::ring::{BUFFER_BYTES, GENERATION_MASK, Operation, Token};
use crate::ids::ConnId;
use crate::shard::{CloseMode, SegmentedVec};

/// Life cycle of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Open,
    /// Receiving is being cancelled; then the descriptor moves to another shard.
    Detaching,
    /// The send queue is flushed, then the socket is shut down for writing, or for both directions
    /// when the peer has ended its stream.
    Flushing(CloseMode),
    /// Shut down for writing; the peer may still send.
    Shut,
}

/// Whether a completion is new or was deferred in an earlier pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Fresh,
    Deferred,
}

/// One socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    generation: u32,
    pub stage: Stage,
    /// A receive entry is armed.
    pub receiving: bool,
    /// The peer sends more than its share, so it is read one buffer at a time.
    pub throttled: bool,
    /// The last pass in which bytes were read, and how many.
    pub read_pass: u32,
    read_bytes: u32,
    /// The last pass in which a completion was deferred.
    held_pass: u32,
    /// Deferred receive completions; each holds one of the shared buffers.
    deferred: u16,
    /// A poll for writability is armed.
    pub polling: bool,
    /// The peer has sent its last byte, or the socket failed.
    pub ended: bool,
    /// The socket failed: nothing can be written either.
    pub failed: bool,
    /// Result of the last send, unless it succeeded.
    pub send_result: Option<i32>,
}

const _: () = assert!(size_of::<Option<Socket>>() <= 40, "every idle connection pays for it");

impl Socket {
    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The address of the peer, unless the connection has been reset.
    pub fn peer(&self) -> Option<IpAddr> {
        Some(SockRef::from(&self.fd).peer_addr().ok()?.as_socket()?.ip())
    }

    /// True while an earlier completion has to be read first.
    pub fn must_wait(&self, arrival: Arrival, pass: u32) -> bool {
        match arrival {
            Arrival::Fresh => self.deferred > 0,
            Arrival::Deferred => self.held_pass == pass,
        }
    }

    /// Bytes that were read from this socket in `pass`.
    pub fn bytes_read(&mut self, pass: u32) -> usize {
        if self.read_pass != pass {
            self.read_pass = pass;
            self.read_bytes = 0;
        }
        self.read_bytes as usize
    }

    /// Defers a completion, and with it all later ones, to the next pass. True when it is the first
    /// deferred one of this socket.
    pub fn defer(&mut self, arrival: Arrival, pass: u32) -> bool {
        let is_first = self.deferred == 0;
        self.held_pass = pass;
        self.deferred += u16::from(arrival == Arrival::Fresh);
        is_first
    }

    /// A receive entry is armed in the ring, and all its completions have been read.
    pub fn is_armed(&self) -> bool {
        self.receiving && self.deferred == 0
    }

    /// Accounts for a completion of `bytes` bytes, in the pass of the last `bytes_read`. The end of
    /// the stream, a cancellation or a lack of buffers (0 bytes) says nothing about the peer's
    /// rate.
    pub fn take(&mut self, arrival: Arrival, bytes: usize) {
        self.deferred -= u16::from(arrival == Arrival::Deferred);
        self.read_bytes = self.read_bytes.saturating_add(bytes as u32);
        if bytes > 0 {
            self.throttled &= bytes >= BUFFER_BYTES || self.deferred > 0;
        }
    }

    /// No entry of this socket is armed, and no completion is deferred.
    pub fn is_quiet(&self) -> bool {
        !self.receiving && !self.polling && self.deferred == 0
    }

    /// Sends the TCP ACK at once: the peer may wait for it before it sends the rest of its request.
    /// An error means that the peer is gone.
    pub fn acknowledge(&self) {
        let _ = SockRef::from(&self.fd).set_tcp_quickack(true);
    }

    /// Sends FIN after the data in the kernel's send queue. When the peer has ended its stream,
    /// receiving is shut down as well. An error means that the peer is gone.
    pub fn shut_down(&self, mode: CloseMode) {
        let how = match mode {
            CloseMode::Linger => Shutdown::Write,
            CloseMode::Immediate => Shutdown::Both,
        };
        let _ = SockRef::from(&self.fd).shutdown(how);
    }
}

/// Sockets by connection slot, parallel to the connections of the core.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: SegmentedVec<Option<Socket>>,
}

impl Sockets {
    pub fn insert(&mut self, id: ConnId, fd: OwnedFd) {
        while self.slots.len() <= id.slot as usize {
            self.slots.grow();
        }
        let socket = Socket {
            fd,
            generation: id.generation,
            stage: Stage::Open,
            receiving: false,
            throttled: false,
            read_pass: 0,
            read_bytes: 0,
            held_pass: 0,
            deferred: 0,
            polling: false,
            ended: false,
            failed: false,
            send_result: None,
        };
        if let Some(slot) = self.slots.get_mut(id.slot as usize) {
            *slot = Some(socket);
        }
    }

    /// The socket of a connection; `None` when its slot has been reused or is free.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (socket.generation == id.generation).then_some(socket)
    }

    /// The connection of a completion; `None` when the slot has been reused since.
    pub fn resolve(&self, token: Token) -> Option<ConnId> {
        let socket = self.slots.get(token.slot as usize)?.as_ref()?;
        let id = ConnId { slot: token.slot, generation: socket.generation };
        (socket.generation & GENERATION_MASK == token.generation).then_some(id)
    }

    /// Closes the descriptor.
    pub fn close(&mut self, id: ConnId) {
        drop(self.take(id));
    }

    /// Takes the socket out.
    pub fn remove(&mut self, id: ConnId) -> Option<OwnedFd> {
        self.take(id).map(|socket| socket.fd)
    }

    fn take(&mut self, id: ConnId) -> Option<Socket> {
        self.get_mut(id)?;
        self.slots.get_mut(id.slot as usize)?.take()
    }
}

/// The token of this connection's ring entries.
pub fn token(operation: Operation, id: ConnId) -> Token {
    Token { operation, slot: id.slot, generation: id.generation & GENERATION_MASK }
}
