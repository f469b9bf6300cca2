//! Requests that wait: a client that asks for much at once is answered in turns, and one that does
//! not read its answers is not asked for more of them. Nor is more carried out in a pass, for all
//! clients together, than a subscriber of everything has room for: a large message may have been
//! read in many passes, and many such messages may be complete in the same one.
//!
//! Only Foony clients have a backlog. What waits is the rest of one message, and behind it, unread,
//! what came after. Whoever lets more than `message_bytes_max` wait unread, or twice that of
//! requests (which only pollers can add to), is closed as slow.

use super::Shard;
use super::connection::Connection;
use crate::error::Disconnect;
use crate::ids::{ConnId, Now};

/// Requests of one connection that are carried out in one go.
pub(super) const REQUESTS_AT_ONCE: usize = 512;

/// A message of more bytes waits for the next pass when enough has been carried out in this one.
const LARGE_BYTES: usize = 4 * 1024;

/// Part of a send queue that the requests of a pass may fill, about.
const INTAKE_PART: usize = 4;

/// Questions with large answers that one connection may have on their way. With the send queue's
/// budget they bound what waits for a client.
const LARGE_QUESTIONS_MAX: usize = 4;

/// Bytes of requests that have been carried out in this pass.
#[derive(Debug, Default)]
pub struct Intake {
    bytes: usize,
    pass: u64,
}

impl Intake {
    /// Counts from 0 again when a pass has begun.
    pub fn begin_turn(&mut self, pass: u64) {
        if self.pass != pass {
            *self = Intake { bytes: 0, pass };
        }
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    fn has_room_for(&self, bytes: usize, queue_bytes_max: usize) -> bool {
        bytes <= LARGE_BYTES || self.bytes < queue_bytes_max / INTAKE_PART
    }
}

/// What a connection is owed, and what it wants next.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Requests in the session's form that have not been looked at.
    pub requests: Vec<u8>,
    /// Numbers of the questions with large answers that are on their way.
    pub questions: Vec<u64>,
}

impl Connection {
    fn backlog(&self) -> Option<&Backlog> {
        self.rare()?.backlog.as_ref()
    }

    fn backlog_mut(&mut self) -> &mut Backlog {
        self.rare_mut().backlog.get_or_insert_default()
    }

    /// Requests wait; whatever comes has to wait behind them.
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog().is_some_and(|backlog| !backlog.requests.is_empty())
    }

    /// Must the next request wait until something has been written, or answered?
    fn must_wait(&self, queue_bytes_max: usize) -> bool {
        let questions = self.backlog().map_or(0, |backlog| backlog.questions.len());
        questions >= LARGE_QUESTIONS_MAX || self.queue.len() > queue_bytes_max
    }
}

impl Shard {
    pub(super) fn must_wait(&self, id: ConnId) -> bool {
        let most = self.settings.limits.send_queue_bytes_max;
        self.connections.get(id).is_some_and(|connection| connection.must_wait(most))
    }

    /// Has so much been requested in this pass that requests of this length have to wait?
    pub(super) fn takes_in_enough(&self, requests: usize) -> bool {
        !self.intake.has_room_for(requests, self.settings.limits.send_queue_bytes_max)
    }

    /// Do requests of the connection wait for nothing but their turn? Until then, it need not be
    /// read.
    pub fn waits_for_turn(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.flags.scheduled)
    }

    /// Keeps requests for later: for the next turn, unless something has to happen first.
    pub(super) fn put_off(&mut self, now: Now, id: ConnId, requests: &[u8]) {
        let most = self.settings.limits.message_bytes_max;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let backlog = connection.backlog_mut();
        if backlog.requests.len() + requests.len() > 2 * most {
            return self.disconnect(now, id, Disconnect::Slow);
        }
        backlog.requests.extend_from_slice(requests);
        self.schedule_backlog(id);
    }

    /// Notes that the answer to a question will be large.
    pub(super) fn expect_large_answer(&mut self, id: ConnId, question: u64) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.backlog_mut().questions.push(question);
        }
    }

    /// An answer has come.
    pub(super) fn note_answer(&mut self, id: ConnId, question: u64) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.backlog().is_none() {
            return;
        }
        let backlog = connection.backlog_mut();
        if let Some(at) = backlog.questions.iter().position(|&asked| asked == question) {
            backlog.questions.swap_remove(at);
            self.schedule_backlog(id);
        }
    }

    /// Sees to it that a backlog is looked at, if it can be.
    pub(super) fn schedule_backlog(&mut self, id: ConnId) {
        let most = self.settings.limits.send_queue_bytes_max;
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.backlog().is_none() || connection.must_wait(most) {
            return;
        }
        if connection.has_backlog() && !connection.flags.scheduled {
            connection.flags.scheduled = true;
            self.backlogged.push_back(id);
        } else if connection.backlog().is_some_and(|b| b.questions.is_empty())
            && !connection.has_backlog()
        {
            connection.change_rare(|rare| rare.backlog = None);
        }
    }

    /// Carries out what has waited, as far as this pass has room for it.
    pub(super) fn work_off_backlogs(&mut self, now: Now) {
        for _ in 0..self.backlogged.len() {
            let Some(id) = self.backlogged.pop_front() else { break };
            let Some(connection) = self.connections.get(id) else { continue };
            let waiting = connection.backlog().map_or(0, |backlog| backlog.requests.len());
            if self.takes_in_enough(waiting) {
                self.backlogged.push_back(id);
                continue;
            }
            if let Some(connection) = self.connections.get_mut(id) {
                connection.flags.scheduled = false;
            }
            self.work_off(now, id);
        }
    }

    /// Carries out all that waits, as far as it need not wait for answers. Room of its pass it need
    /// not wait for: it is the last that this client says.
    pub(super) fn work_off_all(&mut self, now: Now, id: ConnId) {
        let has_backlog = |shard: &Shard| {
            shard.connections.get(id).is_some_and(|connection| connection.has_backlog())
        };
        let taken = std::mem::take(&mut self.intake.bytes);
        while has_backlog(self) && !self.must_wait(id) {
            self.intake.bytes = 0;
            self.work_off(now, id);
            self.drain_local(now);
        }
        self.intake.add(taken);
    }

    fn work_off(&mut self, now: Now, id: ConnId) {
        if self.must_wait(id) {
            return;
        }
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        if connection.backlog().is_none() {
            return;
        }
        let requests = std::mem::take(&mut connection.backlog_mut().requests);
        if !requests.is_empty() {
            self.handle_foony_payload(now, id, &requests);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.has_backlog() && !connection.unread().is_empty() {
            self.take_bytes(now, id, &mut []);
        }
        self.schedule_backlog(id);
    }
}
