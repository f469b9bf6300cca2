//! Writing: what the core has queued goes to the sockets, many of them with one system call.

use std::io;

use super::TurnLoop;
use crate::ids::{Clocks, ConnId};
use crate::server::ring::{After, Operation};
use crate::server::sockets::{Stage, token};
use crate::shard::WRITES_MAX;

/// Runs of one connection that are given to the socket at once.
const RUNS_MAX: usize = 64;

/// Memory for sends from several places; never moved, because the kernel is given addresses in it.
pub(super) struct Gathered {
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::msghdr>,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Gathered {
            vectors: Vec::with_capacity(WRITES_MAX * RUNS_MAX),
            messages: Vec::with_capacity(WRITES_MAX),
        }
    }

    fn clear(&mut self) {
        self.vectors.clear();
        self.messages.clear();
    }
}

impl TurnLoop {
    /// Writes to connections that have something queued, as far as their sockets take it.
    pub(super) fn flush(&mut self, now: Clocks) -> io::Result<()> {
        for _ in 0..self.shard.writes_of_turn().min(WRITES_MAX) {
            let Some(id) = self.shard.next_dirty() else { break };
            self.prepare_send(id)?;
        }
        // What is left, or made dirty again by this, is written in the next turn, which follows at
        // once.
        self.complete_flush(now)
    }

    fn prepare_send(&mut self, id: ConnId) -> io::Result<()> {
        let (Some(socket), Some(queue)) = (self.sockets.get_mut(id), self.shard.queue(id)) else {
            return Ok(());
        };
        socket.send_result = None;
        let (fd, token) = (socket.fd(), token(Operation::Send, id));
        let after = match socket.stage {
            Stage::Flushing(_) => After::Shutdown,
            _ => After::Nothing,
        };
        let mut runs = queue.runs();
        let (Some(first), second) = (runs.next(), runs.next()) else { return Ok(()) };
        let Some(second) = second else {
            self.flushing.push((id, first.len()));
            // SAFETY: the queue is not touched before `complete_flush` has submitted.
            return unsafe { self.ring.send(fd, first, after, token) };
        };
        let Gathered { vectors, messages } = &mut self.gathered;
        let from = vectors.len();
        for run in [first, second].into_iter().chain(runs).take(RUNS_MAX) {
            vectors.push(libc::iovec { iov_base: run.as_ptr() as *mut _, iov_len: run.len() });
        }
        let runs = &mut vectors[from..];
        self.flushing.push((id, runs.iter().map(|run| run.iov_len).sum()));
        // SAFETY: an all-zero msghdr is valid and names nothing.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = runs.as_mut_ptr();
        message.msg_iovlen = runs.len() as _;
        messages.push(message);
        let message = &raw const messages[messages.len() - 1];
        // SAFETY: `gathered` has room for what one turn writes, so it does not move, and it is not
        // cleared, nor the queue touched, before `complete_flush` has submitted.
        unsafe { self.ring.send_message(fd, message, after, token) }
    }

    /// Submits the prepared sends, learns which were short, and tells the core.
    fn complete_flush(&mut self, now: Clocks) -> io::Result<()> {
        if self.flushing.is_empty() {
            return Ok(());
        }
        self.ring.submit()?;
        let seen = self.completions.len();
        self.ring.reap(&mut self.completions)?;
        let fresh = self.completions.split_off(seen);
        for completion in fresh {
            match completion.token.operation {
                Operation::Send => self.take_send_result(completion),
                _ => self.completions.push(completion),
            }
        }
        let mut flushing = std::mem::take(&mut self.flushing);
        for (id, len) in flushing.drain(..) {
            self.report_send(now, id, len)?;
            self.drain_effects(now)?;
        }
        self.flushing = flushing;
        self.gathered.clear();
        Ok(())
    }

    fn report_send(&mut self, now: Clocks, id: ConnId, len: usize) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        let taken = match socket.send_result.take() {
            None => len,
            Some(result) if result >= 0 => (result as usize).min(len),
            Some(error) if error == -libc::EAGAIN => 0,
            Some(_) => {
                socket.ended = true;
                socket.failed = true;
                self.shard.handle_lost(now, id);
                return Ok(());
            }
        };
        self.shard.handle_written(now, id, taken);
        if taken < len && !socket.polling && socket.stage != Stage::Detaching {
            socket.polling = true;
            self.shard.handle_blocked(id);
            let fd = socket.fd();
            self.ring.poll_writable(fd, token(Operation::Writable, id))?;
        }
        Ok(())
    }
}
