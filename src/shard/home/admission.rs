//! Admission of input: how much is read, how many requests are carried out, and which wait.
//!
//! A client that asks for much at once is answered in turns, and one that does not read its answers
//! is not asked for more of them. Nor is more carried out in a pass, for all clients together, than
//! fills a part of a send queue: a large message may have been read in many passes, and many such
//! messages may be complete in the same one. Two kinds never wait for that: small messages, and the
//! last requests of a client that has ended its stream.
//!
//! Only dialects with flow control have a backlog. What waits is the rest of one message, and
//! behind it, unread, what came after. A connection with more than `message_bytes_max` unread, or
//! twice that of requests (which only long-polling clients can add to), is closed as slow.

use std::collections::VecDeque;
use std::mem::take;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use crate::error::Disconnect;
use crate::ids::{ConnId, Timestamp};
use crate::session::Input;
use crate::shard::context::ShardContext;

/// Bytes that the shell reads from a connection at once, at most.
pub const READ_BYTES: usize = 4096;

/// Bytes that are read from all connections together in one pass, about. One that sends alone may
/// have them all, so that what it publishes in a burst goes out in one batch; among many each may
/// have [`READ_BYTES`].
const PASS_BYTES: usize = 64 * 1024;

/// Bytes read in one pass after which connections that send [`READ_BYTES`] at once wait for the
/// next one: however many flood a channel, what a pass adds to a subscriber's queue is a part of
/// what may wait there.
const PASS_BYTES_MAX: usize = 128 * 1024;

/// Twice as many bytes also stop connections that send as much as this at once.
const LARGE_READ_BYTES: usize = READ_BYTES / 4;

/// Requests of one connection that are carried out in one go.
const REQUESTS_AT_ONCE: usize = 512;

/// Envelopes to this very shard after which they are handled before further requests.
const LOCAL_ENVELOPES_MAX: usize = 64;

/// A message of more bytes waits for the next pass when enough has been carried out in this one. A
/// connection whose turn it is has about so much carried out at least.
const LARGE_BYTES: usize = 4 * 1024;

/// Part of a send queue that the requests of a pass may fill, about. With larger parts more is in
/// progress to subscribers than slow ones have room for (`benches/results/fanout.md`).
const INTAKE_PART: usize = 16;

/// Requests with large answers that one connection may have in progress. With the send queue's
/// budget they bound what waits for a client.
const LARGE_REQUESTS_MAX: usize = 4;

/// Bytes of requests of a pass, about.
fn intake_max(cx: &ShardContext) -> usize {
    cx.limits().send_queue_bytes_max / INTAKE_PART
}

/// How much is read from sockets in a pass. What is over it waits for the next one.
#[derive(Clone, Copy, Debug)]
pub struct ReadBudget {
    /// The number of the pass, modulo 2^32. A socket that has been idle for exactly so many passes
    /// is read one pass later.
    pub pass: u32,
    /// Bytes for each connection.
    share: usize,
    /// Connections and bytes that were read.
    connections: usize,
    bytes: usize,
}

impl ReadBudget {
    /// Each connection's share follows from how many sent in the last pass.
    fn next_pass(self, pass: u32) -> Self {
        let share = (PASS_BYTES / self.connections.max(1)).max(READ_BYTES);
        ReadBudget { pass, share, connections: 0, bytes: 0 }
    }

    /// So many bytes were read from a connection.
    pub(in crate::shard) fn note(&mut self, bytes: usize, is_first: bool) {
        self.bytes += bytes;
        self.connections += usize::from(is_first);
    }

    /// Whether `bytes` are read now from a connection of which `done` were read in this pass.
    pub fn admits(&self, done: usize, bytes: usize) -> bool {
        let is_too_much = match self.bytes / PASS_BYTES_MAX {
            0 => false,
            1 => bytes >= READ_BYTES,
            _ => bytes >= LARGE_READ_BYTES,
        };
        done + bytes <= self.share && !is_too_much
    }
}

/// What is carried out in this pass, and which connections wait for their turn.
#[derive(Debug)]
pub struct Admission {
    pub read: ReadBudget,
    /// Bytes of requests carried out in this pass.
    bytes: usize,
    /// The connection at hand stops at so many bytes: they are its share.
    share_ends: usize,
    /// Requests carried out of the input at hand.
    requests: usize,
    /// Connections with requests that wait for nothing but their turn; each once.
    scheduled: VecDeque<ConnId>,
    /// The connection whose requests go on once the envelopes to this very shard were handled.
    paused: Option<ConnId>,
    /// Questions to the admission hook so far.
    questions: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            read: ReadBudget { pass: 0, share: PASS_BYTES, connections: 0, bytes: 0 },
            bytes: 0,
            share_ends: usize::MAX,
            requests: 0,
            scheduled: VecDeque::new(),
            paused: None,
            questions: 0,
        }
    }
}

impl Admission {
    /// Counts from 0 again when a pass has begun.
    pub(super) fn begin_turn(&mut self, pass: u32) {
        if self.read.pass != pass {
            (self.read, self.bytes) = (self.read.next_pass(pass), 0);
        }
    }

    /// Counts the requests of another input.
    pub(super) fn begin_input(&mut self) {
        self.requests = 0;
    }

    /// The number of another question to the admission hook.
    pub(super) fn next_question(&mut self) -> u64 {
        self.questions += 1;
        self.questions
    }

    /// A request of so many bytes was carried out.
    pub(super) fn note(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.requests += 1;
    }

    /// True while requests wait for nothing but their turn.
    pub(super) fn has_scheduled(&self) -> bool {
        !self.scheduled.is_empty()
    }

    /// Whether the next request of a connection is carried out now. `left`: bytes of its message.
    pub(super) fn admits(
        &mut self,
        cx: &ShardContext,
        conn: &ActiveConnection,
        left: usize,
    ) -> bool {
        let local = cx.outbox.local.len();
        let is_congested = conn.is_congested(cx);
        if local >= LOCAL_ENVELOPES_MAX || (is_congested && local > 0) {
            self.paused = Some(conn.id);
            return false;
        }
        !is_congested && self.requests < REQUESTS_AT_ONCE && !self.has_had_its_share(cx, conn, left)
    }

    /// Unauthenticated clients do not wait: what they may send is little.
    fn has_had_its_share(&self, cx: &ShardContext, conn: &ActiveConnection, left: usize) -> bool {
        let is_full = left > LARGE_BYTES && self.bytes >= intake_max(cx);
        let is_over = self.bytes >= self.share_ends;
        (is_full || is_over) && conn.session().principal().is_some()
    }

    /// Schedules a backlog, if nothing but its turn is missing.
    pub(super) fn schedule(&mut self, cx: &ShardContext, conn: &mut ActiveConnection) {
        if conn.backlog().is_none() || conn.is_congested(cx) || conn.awaits_verdict() {
            return;
        }
        if conn.has_backlog() {
            if !conn.flags.scheduled && self.paused != Some(conn.id) {
                conn.flags.scheduled = true;
                self.scheduled.push_back(conn.id);
            }
        } else if conn.backlog().is_some_and(|backlog| backlog.large.is_empty()) {
            conn.take_cold(|cold| cold.backlog = None);
        }
    }
}

/// Requests of a connection that wait, and the large answers that it expects.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Requests of one message.
    requests: Vec<u8>,
    /// How many bytes of them have been carried out.
    done: usize,
    /// Numbers of the requests in progress whose answers may be large.
    large: Vec<u64>,
}

impl Connection {
    fn backlog(&self) -> Option<&Backlog> {
        self.cold()?.backlog.as_ref()
    }

    fn backlog_mut(&mut self) -> &mut Backlog {
        self.cold_mut().backlog.get_or_insert_default()
    }

    /// True while requests wait; all that follows waits behind them.
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog().is_some_and(|backlog| backlog.requests.len() > backlog.done)
    }

    /// True while the next request has to wait until something has been written, or answered.
    fn is_congested(&self, cx: &ShardContext) -> bool {
        let large = self.backlog().map_or(0, |backlog| backlog.large.len());
        large >= LARGE_REQUESTS_MAX || self.queue.len() > cx.limits().send_queue_bytes_max
    }

    /// The answer to a request may be large.
    pub(super) fn expect_large_answer(&mut self, request: u64) {
        self.backlog_mut().large.push(request);
    }
}

impl Home {
    /// True while requests or subscribers wait for nothing but their turn.
    pub fn has_backlog(&self) -> bool {
        self.admission.has_scheduled() || !self.sweeps.is_empty()
    }

    /// Keeps requests for later: for the next turn, unless something has to happen first.
    pub(super) fn defer(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        requests: &[u8],
    ) {
        if !conn.is_open() {
            return;
        }
        let most = cx.limits().message_bytes_max;
        let backlog = conn.backlog_mut();
        if backlog.requests.len() - backlog.done + requests.len() > 2 * most {
            return self.disconnect(cx, conn, Disconnect::Slow);
        }
        backlog.requests.extend_from_slice(requests);
        self.admission.schedule(cx, conn);
    }

    /// An answer has arrived.
    pub(super) fn note_large_answer(
        &mut self,
        cx: &ShardContext,
        conn: &mut ActiveConnection,
        request: u64,
    ) {
        if conn.backlog().is_none() {
            return;
        }
        let backlog = conn.backlog_mut();
        if let Some(at) = backlog.large.iter().position(|&number| number == request) {
            backlog.large.swap_remove(at);
            self.admission.schedule(cx, conn);
        }
    }

    /// Goes on with requests that paused for envelopes to this very shard, which have been handled.
    /// False when none did.
    pub fn resume_paused(&mut self, cx: &mut ShardContext) -> bool {
        let Some(id) = self.admission.paused.take() else { return false };
        self.with(cx, id, |home, cx, conn| {
            home.drain_backlog(cx, conn);
            home.enter_lapsed(cx, conn);
        });
        true
    }

    /// Carries out what has waited, the same part for each connection. Calls `between` after each.
    pub fn drain_backlogs(
        &mut self,
        cx: &mut ShardContext,
        mut between: impl FnMut(&mut Home, &mut ShardContext),
    ) {
        let (waiting, most) = (self.admission.scheduled.len(), intake_max(cx));
        let share = (most / waiting.max(1)).max(LARGE_BYTES);
        for _ in 0..waiting {
            if self.admission.bytes >= most {
                break;
            }
            let Some(id) = self.admission.scheduled.pop_front() else { break };
            self.admission.share_ends = self.admission.bytes + share;
            self.admission.begin_input();
            self.with(cx, id, |home, cx, conn| {
                conn.flags.scheduled = false;
                home.drain_backlog(cx, conn);
            });
            between(self, cx);
        }
        self.admission.share_ends = usize::MAX;
    }

    /// Carries out what waits of a connection whose stream has ended, without regard to its share.
    /// False when nothing is left, or something else has to happen first.
    pub fn drain_ended(&mut self, cx: &mut ShardContext, id: ConnId) -> bool {
        let taken = take(&mut self.admission.bytes);
        self.admission.begin_input();
        let goes_on = self.with(cx, id, |home, cx, conn| {
            let is_stopped = conn.is_congested(cx) || conn.awaits_verdict();
            let can_go_on = conn.is_open() && conn.has_backlog() && !is_stopped;
            if can_go_on {
                home.drain_backlog(cx, conn);
            }
            can_go_on
        });
        self.admission.bytes += taken;
        goes_on.unwrap_or(false)
    }

    fn drain_backlog(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let is_stopped = conn.is_congested(cx) || conn.awaits_verdict();
        if !conn.is_open() || conn.backlog().is_none() || is_stopped {
            return;
        }
        // It may not have been read since: that is no silence of its own.
        conn.warm.last_byte = Timestamp::at(cx.now.mono_ms);
        let backlog = conn.backlog_mut();
        let (requests, done) = (take(&mut backlog.requests), take(&mut backlog.done));
        let left = match &requests[done..] {
            [] => 0,
            bytes => {
                let (framing, kind) = (conn.framing(), conn.session().message_kind());
                self.act_on(cx, conn, Input { framing, kind, bytes })
            }
        };
        if !conn.is_open() {
            return;
        }
        if left > 0 {
            let backlog = conn.backlog_mut();
            backlog.done = requests.len() - left;
            backlog.requests = requests;
        } else if !conn.unread().is_empty() {
            self.take_bytes(cx, conn, &mut []);
        }
        self.admission.schedule(cx, conn);
        self.end_if_answered(cx, conn);
    }
}
