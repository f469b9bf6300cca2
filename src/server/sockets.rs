//! What the shell knows of each connection: its descriptor, and which ring entries are under way.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::SockRef;

use super::ring::{BUFFER_BYTES, GENERATION_MASK, Operation, Token};
use crate::ids::ConnId;
use crate::shard::{CloseMode, SegmentedVec};

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Open,
    /// Receiving stops; then the descriptor goes to another shard.
    Detaching,
    /// What is queued is written, then our side is shut; with a peer that has been heard out, both.
    Flushing(CloseMode),
    /// Our side is shut; the peer may still be sending.
    Shut,
}

/// Whether a completion is new or has waited since an earlier pass.
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
    /// It sends more than its share, and so is read one buffer at a time.
    pub eager: bool,
    /// The last pass in which something was read, and how many bytes.
    pub read_pass: Pass,
    read_bytes: u32,
    /// The last pass in which a completion was put off.
    held_pass: Pass,
    /// Receive completions that wait for a later pass; each has a buffer, and those are few.
    deferred: u16,
    /// A poll for writability is armed.
    pub polling: bool,
    /// The peer has sent its last byte, or the socket failed.
    pub ended: bool,
    /// The socket failed: nothing can be written either.
    pub failed: bool,
    /// What the last send reported, when that was not success.
    pub send_result: Option<i32>,
}

const _: () = assert!(size_of::<Option<Socket>>() <= 40, "every idle connection pays for it");

/// The number of a pass in four bytes. After 2^32 passes a number comes again; whoever has been
/// silent for exactly so long is read one pass later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass(u32);

impl From<u64> for Pass {
    fn from(pass: u64) -> Self {
        Pass(pass as u32)
    }
}

impl PartialEq<u64> for Pass {
    fn eq(&self, pass: &u64) -> bool {
        *self == Pass::from(*pass)
    }
}

impl Socket {
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// True while something that came earlier has to be read first.
    pub fn must_wait(&self, arrival: Arrival, pass: u64) -> bool {
        match arrival {
            Arrival::Fresh => self.deferred > 0,
            Arrival::Deferred => self.held_pass == pass,
        }
    }

    /// Bytes that may still be read from this socket in `pass`, of `share` in all.
    pub fn share_left(&mut self, pass: u64, share: usize) -> usize {
        if self.read_pass != pass {
            self.read_pass = pass.into();
            self.read_bytes = 0;
        }
        share.saturating_sub(self.read_bytes as usize)
    }

    /// A completion waits for a later pass, and so does what came after it. True when nothing else
    /// of this socket has been waiting.
    pub fn put_off(&mut self, arrival: Arrival, pass: u64) -> bool {
        let is_first = self.deferred == 0;
        self.held_pass = pass.into();
        self.deferred += u16::from(arrival == Arrival::Fresh);
        is_first
    }

    /// A receive entry is in the ring, and not only what it has brought.
    pub fn is_armed(&self) -> bool {
        self.receiving && self.deferred == 0
    }

    /// A completion of `bytes` bytes is read in the pass that `share_left` was last asked for. An
    /// end, a cancellation or a want of buffers says nothing about how fast the peer sends.
    pub fn take(&mut self, arrival: Arrival, bytes: usize) {
        self.deferred -= u16::from(arrival == Arrival::Deferred);
        self.read_bytes = self.read_bytes.saturating_add(bytes as u32);
        if bytes > 0 {
            self.eager &= bytes >= BUFFER_BYTES || self.deferred > 0;
        }
    }

    /// Nothing of this socket is in the ring, or waits to be read.
    pub fn is_quiet(&self) -> bool {
        !self.receiving && !self.polling && self.deferred == 0
    }

    /// Acknowledges at once what has come: the peer may wait for that before it sends the rest of
    /// its request. Failing means that the peer is gone.
    pub fn acknowledge(&self) {
        let _ = SockRef::from(&self.fd).set_tcp_quickack(true);
    }

    /// Sends FIN after what the kernel has; failing means that the peer is gone, which is as good.
    /// From a peer that has been heard out nothing is received any more, as if it had sent its FIN.
    pub fn shut_down(&self, mode: CloseMode) {
        let how = match mode {
            CloseMode::Linger => Shutdown::Write,
            CloseMode::Immediate => Shutdown::Both,
        };
        let _ = SockRef::from(&self.fd).shutdown(how);
    }
}

/// Sockets by connection slot, parallel to the core's connections.
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
            eager: false,
            read_pass: Pass::default(),
            read_bytes: 0,
            held_pass: Pass::default(),
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

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (socket.generation == id.generation).then_some(socket)
    }

    /// The connection that a completion is about; `None` when it is an earlier tenant's.
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

/// What names an entry of this connection.
pub fn token(operation: Operation, id: ConnId) -> Token {
    Token { operation, slot: id.slot, generation: id.generation & GENERATION_MASK }
}
