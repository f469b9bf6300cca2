//! Closing: a connection that has ended is written to, shut, read to its end and let go of.

use std::io;
use std::sync::atomic::Ordering;

use super::TurnLoop;
use crate::ids::{Clocks, ConnId};
use crate::server::ring::Operation;
use crate::server::sockets::{Stage, token};
use crate::shard::CloseMode;

/// How long a closed connection may take to let go of its socket.
const CLOSE_MS: u64 = 2_000;

impl TurnLoop {
    pub(super) fn begin_close(&mut self, now: Clocks, id: ConnId, mode: CloseMode) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.stage = Stage::Flushing(mode);
            self.closing.push_back((now.mono_ms + CLOSE_MS, id));
        } else {
            self.shard.handle_released(id);
        }
    }

    /// Moves closing connections on: flushed ones are shut, quiet ones closed, late ones forced.
    pub(super) fn finish_closing(&mut self, now: Clocks) -> io::Result<()> {
        for _ in 0..self.closing.len() {
            let Some((deadline_ms, id)) = self.closing.pop_front() else { break };
            let late = deadline_ms <= now.mono_ms;
            if !self.advance_close(id, late)? {
                self.closing.push_back((deadline_ms, id));
            }
        }
        Ok(())
    }

    /// True when the socket is closed and the connection released.
    fn advance_close(&mut self, id: ConnId, late: bool) -> io::Result<bool> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(true) };
        let flushed = self.shard.queue(id).is_none_or(|queue| queue.is_empty());
        if let Stage::Flushing(mode) = socket.stage
            && (flushed || late || socket.failed)
        {
            socket.shut_down(mode);
            socket.stage = Stage::Shut;
        }
        if socket.stage != Stage::Shut {
            return Ok(false);
        }
        let (receiving, polling) = (socket.receiving, socket.polling);
        if late || socket.ended {
            if socket.is_armed() {
                self.ring.cancel(token(Operation::Receive, id))?;
            }
            if polling {
                self.ring.cancel(token(Operation::Writable, id))?;
            }
            if late && let Some(socket) = self.sockets.get_mut(id) {
                socket.ended = true;
            }
        }
        if receiving || polling || !self.sockets.get_mut(id).is_some_and(|s| s.ended) {
            return Ok(false);
        }
        self.host.budget.used.fetch_sub(1, Ordering::Relaxed);
        self.sockets.close(id);
        self.shard.handle_released(id);
        Ok(true)
    }
}
