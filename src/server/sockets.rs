//! What the shell knows of each connection: its descriptor, and which ring entries are under way.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use super::ring::{BUFFER_BYTES, GENERATION_MASK, Operation, Token};
use crate::ids::ConnId;

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Open,
    /// Receiving stops; then the descriptor goes to another shard.
    Detaching,
    /// What is queued is written, then our side is shut.
    Flushing,
    /// Our side is shut; the peer may still be sending.
    Shut,
}

/// One socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    generation: u32,
    pub stage: Stage,
    /// A receive entry is armed.
    pub receiving: bool,
    /// It sends faster than one buffer per turn, and so is read once per turn.
    pub eager: bool,
    /// The last turn in which something was read, and how many bytes.
    read_turn: u64,
    read_bytes: usize,
    /// Receive completions that wait for a later turn.
    pub deferred: u32,
    /// A poll for writability is armed.
    pub polling: bool,
    /// The peer has sent its last byte, or the socket failed.
    pub ended: bool,
    /// What the last send reported, when that was not success.
    pub send_result: Option<i32>,
}

impl Socket {
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Bytes that may still be read from this socket in `turn`: a buffer's worth in all.
    pub fn share_left(&mut self, turn: u64) -> usize {
        if self.read_turn != turn {
            self.read_turn = turn;
            self.read_bytes = 0;
        }
        BUFFER_BYTES.saturating_sub(self.read_bytes)
    }

    /// Takes bytes off the share of the turn that `share_left` was last asked for.
    pub fn take_share(&mut self, bytes: usize) {
        self.read_bytes += bytes;
    }

    /// Nothing of this socket is in the ring.
    pub fn is_quiet(&self) -> bool {
        !self.receiving && !self.polling
    }

    /// Sends FIN after what the kernel has; failing means that the peer is gone, which is as good.
    pub fn shut_down_sending(&self) {
        // SAFETY: a descriptor owned here; no memory is involved.
        unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) };
    }
}

/// Sockets by connection slot, parallel to the core's connections.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: Vec<Option<Socket>>,
}

impl Sockets {
    /// Takes over a descriptor that nobody else owns.
    pub fn insert(&mut self, id: ConnId, fd: RawFd) {
        // SAFETY: the descriptor came from accept or from a parcel, whose sender gave it up.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if self.slots.len() <= id.slot as usize {
            self.slots.resize_with(id.slot as usize + 1, || None);
        }
        self.slots[id.slot as usize] = Some(Socket {
            fd,
            generation: id.generation,
            stage: Stage::Open,
            receiving: false,
            eager: false,
            read_turn: 0,
            read_bytes: 0,
            deferred: 0,
            polling: false,
            ended: false,
            send_result: None,
        });
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
        if self.get_mut(id).is_some() {
            self.slots[id.slot as usize] = None;
        }
    }

    /// Gives the descriptor up without closing it.
    pub fn release(&mut self, id: ConnId) {
        if self.get_mut(id).is_some()
            && let Some(socket) = self.slots[id.slot as usize].take()
        {
            let _: RawFd = socket.fd.into_raw_fd();
        }
    }
}

/// What names an entry of this connection.
pub fn token(operation: Operation, id: ConnId) -> Token {
    Token { operation, slot: id.slot, generation: id.generation & GENERATION_MASK }
}
