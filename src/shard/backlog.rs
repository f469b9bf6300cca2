//! Requests that wait: a client that asks for much at once is answered in turns, and one that does
//! not read its answers is not asked for more of them. Nor is more carried out in a pass, for all
//! clients together, than fills a part of a send queue: a large message may have been read in many
//! passes, and many such messages may be complete in the same one. Two kinds never wait for that:
//! small messages, and the last words of a client that has ended its stream.
//!
//! Only Foony clients have a backlog. What waits is the rest of one message, and behind it, unread,
//! what came after. Whoever lets more than `message_bytes_max` wait unread, or twice that of
//! requests (which only pollers can add to), is closed as slow.

use std::mem::take;

use super::Shard;
use super::connection::Connection;
use crate::error::Disconnect;
use crate::ids::{ConnId, Moment, Now};

/// Requests of one connection that are carried out in one go.
pub(super) const REQUESTS_AT_ONCE: usize = 512;

/// A message of more bytes waits for the next pass when enough has been carried out in this one.
/// When somebody who waits has its turn, about so much is carried out at least.
const LARGE_BYTES: usize = 4 * 1024;

/// Part of a send queue that the requests of a pass may fill, about. With larger parts more is
/// under way to subscribers than slow ones have room for (`benches/results/fanout.md`).
const INTAKE_PART: usize = 16;

/// Questions with large answers that one connection may have on their way. With the send queue's
/// budget they bound what waits for a client.
const LARGE_QUESTIONS_MAX: usize = 4;

/// How much is carried out in this pass.
#[derive(Debug)]
pub struct Intake {
    pass: u64,
    /// Bytes of requests so far.
    bytes: usize,
    /// When there are so many, the connection whose turn it is has had its share.
    share_ends: usize,
}

impl Default for Intake {
    fn default() -> Self {
        Intake { pass: 0, bytes: 0, share_ends: usize::MAX }
    }
}

impl Intake {
    /// Counts from 0 again when a pass has begun.
    pub fn begin_turn(&mut self, pass: u64) {
        if self.pass != pass {
            (self.pass, self.bytes) = (pass, 0);
        }
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

/// What a connection is owed, and what it wants next.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Requests in the session's form.
    pub requests: Vec<u8>,
    /// How many bytes of them have been carried out.
    pub done: usize,
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
        self.backlog().is_some_and(|backlog| backlog.requests.len() > backlog.done)
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

    /// Must what is left of a message wait? Strangers do not: what they may say before they have
    /// said who they are is little.
    pub(super) fn has_had_its_share(&self, id: ConnId, left: usize) -> bool {
        let is_full = left > LARGE_BYTES && self.intake.bytes >= self.intake_max();
        let is_its_share = self.intake.bytes >= self.intake.share_ends;
        (is_full || is_its_share)
            && self.connections.get(id).is_some_and(|c| c.principal().is_some())
    }

    /// Bytes of requests of a pass, about.
    fn intake_max(&self) -> usize {
        self.settings.limits.send_queue_bytes_max / INTAKE_PART
    }

    /// Do requests of the connection wait for nothing but their turn?
    pub fn waits_for_turn(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.flags.scheduled)
    }

    /// Keeps requests for later: for the next turn, unless something has to happen first.
    pub(super) fn put_off(&mut self, now: Now, id: ConnId, requests: &[u8]) {
        let most = self.settings.limits.message_bytes_max;
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        let backlog = connection.backlog_mut();
        if backlog.requests.len() - backlog.done + requests.len() > 2 * most {
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

    /// Carries out what has waited, as far as this pass has room for it, the same part for each.
    pub(super) fn work_off_backlogs(&mut self, now: Now) {
        let (waiting, most) = (self.backlogged.len(), self.intake_max());
        let share = (most / waiting.max(1)).max(LARGE_BYTES);
        for _ in 0..waiting {
            if self.intake.bytes >= most {
                break;
            }
            let Some(id) = self.backlogged.pop_front() else { break };
            self.intake.share_ends = self.intake.bytes + share;
            if let Some(connection) = self.connections.get_mut(id) {
                connection.flags.scheduled = false;
            }
            self.work_off(now, id);
        }
        self.intake.share_ends = usize::MAX;
    }

    /// Carries out all that waits, as far as it need not wait for answers or for room in its queue.
    pub(super) fn work_off_all(&mut self, now: Now, id: ConnId) {
        let has_backlog = |shard: &Shard| {
            shard.connections.get(id).is_some_and(|c| c.is_open() && c.has_backlog())
        };
        let mut taken = self.intake.bytes;
        while has_backlog(self) && !self.must_wait(id) {
            self.intake.bytes = 0;
            self.work_off(now, id);
            self.drain_local(now);
            taken += self.intake.bytes;
        }
        self.intake.bytes = taken;
    }

    fn work_off(&mut self, now: Now, id: ConnId) {
        if self.must_wait(id) {
            return;
        }
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        if connection.backlog().is_none() {
            return;
        }
        // It may not have been read since: that is no silence of its own.
        connection.details.alive = Moment::at(now.mono_ms);
        let backlog = connection.backlog_mut();
        let (requests, done) = (take(&mut backlog.requests), take(&mut backlog.done));
        let left = match &requests[done..] {
            [] => 0,
            waiting => self.begin_payload(now, id, waiting),
        };
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        if left > 0 {
            let backlog = connection.backlog_mut();
            backlog.done = requests.len() - left;
            backlog.requests = requests;
        } else if !connection.unread().is_empty() {
            self.take_bytes(now, id, &mut []);
        }
        self.schedule_backlog(id);
        self.end_if_answered(now, id);
    }
}
