//! Receiving: which connections are read in a pass, how much, and which wait.
//!
//! A connection that begins to send faster than it is read may fill common buffers, as many as one
//! burst takes; from then on it holds at most one buffer of the throttled pool. A connection that
//! found no buffer receives the next free one. So, however many connections flood a shard, others
//! are read within a few passes, and a pass reads a bounded number of bytes.

use std::collections::VecDeque;
use std::io;

use super::TurnLoop;
use crate::ids::{Clocks, ConnId};
use crate::server::ring::{Completion, Operation, Pool};
use crate::server::sockets::{Arrival, Stage, token};

/// Connections to receive from again, in the order in which that stopped.
#[derive(Debug, Default)]
pub(super) struct Unarmed {
    /// There was no common buffer for what they had sent.
    starved: VecDeque<ConnId>,
    /// They send faster than they are read.
    throttled: VecDeque<ConnId>,
    others: VecDeque<ConnId>,
}

impl Unarmed {
    /// To be received from as soon as a turn ends.
    pub(super) fn push(&mut self, id: ConnId) {
        self.others.push_back(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starved.is_empty() && self.throttled.is_empty() && self.others.is_empty()
    }

    /// Those who receive one buffer at a time.
    fn queue(&mut self, pool: Pool) -> &mut VecDeque<ConnId> {
        match pool {
            Pool::Common => &mut self.starved,
            Pool::Throttled => &mut self.throttled,
        }
    }
}

impl TurnLoop {
    /// Receives whatever the connection sends from now on.
    pub(super) fn receive(&mut self, id: ConnId) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        socket.receiving = true;
        self.ring.receive(socket.fd(), token(Operation::Receive, id))
    }

    fn receive_once(&mut self, id: ConnId, pool: Pool) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        socket.receiving = true;
        self.ring.receive_once(socket.fd(), pool, token(Operation::Receive, id))
    }

    /// Reads its share of a pass from a connection, so that a flooding peer costs others no more
    /// than that; what it sent beyond waits, in order.
    pub(super) fn take_received(
        &mut self,
        now: Clocks,
        completion: Completion,
        arrival: Arrival,
    ) -> io::Result<()> {
        let Some(id) = self.sockets.resolve(completion.token) else {
            completion.buffer.into_iter().for_each(|buffer| self.ring.give_back(buffer));
            return Ok(());
        };
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        let bytes = usize::try_from(completion.result).unwrap_or(0);
        let congested = self.shard.is_congested() && completion.buffer.is_some();
        let budget = self.shard.read_budget();
        let is_first = socket.read_pass != budget.pass && bytes > 0;
        let is_over = !budget.admits(socket.bytes_read(budget.pass), bytes);
        if congested || socket.must_wait(arrival, budget.pass) || is_over {
            self.shard.note_read(0, is_first);
            let is_first = socket.defer(arrival, budget.pass);
            socket.throttled |= is_over;
            self.deferred.push_back(completion);
            // What else it sends stays in the kernel until this has been read.
            let armed = completion.more && is_first;
            return if armed { self.ring.cancel(completion.token) } else { Ok(()) };
        }
        socket.take(arrival, bytes);
        self.shard.note_read(bytes, is_first);
        if let Some(buffer) = completion.buffer {
            self.shard.handle_bytes(now, id, self.ring.buffer(buffer, bytes));
            self.ring.give_back(buffer);
            self.acknowledge(id);
        }
        match completion.more {
            true => self.pause_if_backlogged(id),
            false => self.receive_ended(now, id, completion.result),
        }
    }

    /// A peer that sends its greeting in pieces may wait for each to be acknowledged. What comes
    /// later in a session is acknowledged when the kernel sees fit.
    fn acknowledge(&mut self, id: ConnId) {
        if self.shard.needs_quick_ack(id)
            && let Some(socket) = self.sockets.get_mut(id)
        {
            socket.acknowledge();
        }
    }

    /// A connection with requests that wait for the next pass is not read until they have been
    /// carried out: what else it sends stays in the kernel.
    fn pause_if_backlogged(&mut self, id: ConnId) -> io::Result<()> {
        if !self.shard.waits_for_turn(id) {
            return Ok(());
        }
        let Some(socket) = self.sockets.get_mut(id).filter(|socket| !socket.throttled) else {
            return Ok(());
        };
        socket.throttled = true;
        self.ring.cancel(token(Operation::Receive, id))
    }

    /// The receive entry is no longer armed: the stream ended, failed, was cancelled, or there were
    /// no buffers.
    fn receive_ended(&mut self, now: Clocks, id: ConnId, result: i32) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        socket.receiving = false;
        let out_of_buffers = result == -libc::ENOBUFS;
        if out_of_buffers {
            self.shard.counters_mut().receive_buffers_exhausted += 1;
        }
        let cancelled = result == -libc::ECANCELED;
        socket.failed |= result < 0 && !out_of_buffers && !cancelled;
        socket.ended |= result == 0 || socket.failed;
        match socket.stage {
            Stage::Detaching => self.finish_detach(now, id)?,
            _ if !socket.ended => match (socket.throttled, out_of_buffers) {
                (true, _) => self.unarmed.queue(Pool::Throttled).push_back(id),
                (false, true) => self.unarmed.queue(Pool::Common).push_back(id),
                (false, false) => self.unarmed.push(id),
            },
            Stage::Open if result == 0 => self.shard.handle_eof(now, id),
            Stage::Open => self.shard.handle_lost(now, id),
            Stage::Flushing(_) | Stage::Shut => {}
        }
        Ok(())
    }

    /// Receives again where that has stopped. One buffer for each who waits for one, unless what it
    /// has asked for waits, and the others after them.
    pub(super) fn receive_again(&mut self) -> io::Result<()> {
        for pool in Pool::ALL {
            let mut buffers = self.buffers_to_give(pool);
            for _ in 0..self.unarmed.queue(pool).len() {
                if buffers == 0 {
                    break;
                }
                let Some(id) = self.unarmed.queue(pool).pop_front() else { break };
                if self.shard.waits_for_turn(id) {
                    self.unarmed.queue(pool).push_back(id);
                } else if self.is_unarmed(id) {
                    self.receive_once(id, pool)?;
                    buffers -= 1;
                }
            }
        }
        while let Some(id) = self.unarmed.others.pop_front() {
            if self.is_unarmed(id) {
                self.receive(id)?;
            }
        }
        Ok(())
    }

    /// Buffers that those who wait for one may have. Without room for more nothing has been taken
    /// from the kernel in this turn, and it may have filled them all.
    fn buffers_to_give(&self, pool: Pool) -> u16 {
        if self.shard.has_room() { self.ring.free_buffers(pool) } else { 0 }
    }

    fn is_unarmed(&mut self, id: ConnId) -> bool {
        let socket = self.sockets.get_mut(id);
        socket.is_some_and(|s| !s.receiving && !s.ended && s.stage != Stage::Detaching)
    }

    /// True when the next turn has completions to read, or connections to receive from.
    pub(super) fn can_read_on(&mut self) -> bool {
        let is_waiting =
            |pool| !self.unarmed.queue(pool).is_empty() && self.ring.free_buffers(pool) > 0;
        let can_take = !self.deferred.is_empty() && !self.shard.is_congested();
        can_take || Pool::ALL.into_iter().any(is_waiting)
    }
}
