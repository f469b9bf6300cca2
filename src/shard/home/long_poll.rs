//! Long-polling sessions: connections without a socket. Their requests come from the edge, and
//! their events wait until the edge asks for them (`protocols/foony.md` section 1.2).

use super::Home;
use super::connection::{Connection, Transport};
use super::connections::ActiveConnection;
use crate::error::Disconnect;
use crate::ids::{ConnId, ShardId, Timestamp};
use crate::session::{Framing, Input, Session, connection_secret};
use crate::shard::context::ShardContext;
use crate::shard::envelope::Envelope;
use crate::wire::websocket::MessageKind;

/// How long a receive request is held while there is nothing to send. Clients give up after 40 s.
const HOLD_MS: u64 = 25_000;

/// How long a client may leave no receive request before it is taken for lost; well above the time
/// that it needs between two.
const ABSENCE_MS: u64 = 30_000;

/// A request of the edge on behalf of a client.
#[derive(Debug)]
pub enum PollRequest {
    /// Begin a session; the bytes begin with its auth.
    Connect {
        bytes: Vec<u8>,
    },
    Send {
        session: PollSession,
        bytes: Vec<u8>,
    },
    Receive {
        session: PollSession,
    },
    Disconnect {
        session: PollSession,
    },
}

/// A session as its client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollSession {
    pub shard: ShardId,
    pub conn: ConnId,
    /// Proves that the client was given the name.
    pub secret: u64,
}

/// The answer to the client. Bytes are whole records.
#[derive(Debug, PartialEq, Eq)]
pub enum PollOutcome {
    Connected {
        session: PollSession,
        bytes: Vec<u8>,
    },
    /// No session was begun; the bytes say why.
    Refused {
        bytes: Vec<u8>,
    },
    Accepted,
    Frames {
        bytes: Vec<u8>,
    },
    /// There is no such session, or no longer.
    Gone,
    /// The shard takes no more sessions.
    Busy,
}

/// The transport of a long-polling session.
#[derive(Debug)]
pub struct LongPoll {
    secret: u64,
    /// The connect request, while the admission hook is asked about it.
    connecting: Option<u64>,
    /// The receive request that is held.
    held: Option<Held>,
    /// When the last receive request arrived, or was answered.
    last_receive_ms: u64,
}

/// A receive request that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Held {
    number: u64,
    until_ms: u64,
}

impl LongPoll {
    /// When a client without a receive request is taken for lost; `None` while one is held.
    pub fn absent_ms(&self) -> Option<u64> {
        self.held.is_none().then_some(self.last_receive_ms + ABSENCE_MS)
    }

    /// When the connection must be checked again.
    pub fn check_ms(&self) -> u64 {
        self.held.map_or(self.last_receive_ms + ABSENCE_MS, |held| held.until_ms)
    }
}

impl Connection {
    pub(super) fn long_poll(&self) -> Option<&LongPoll> {
        match &self.warm.transport {
            Transport::LongPoll(poll) => Some(poll),
            _ => None,
        }
    }

    /// Takes out the connect request that is not answered yet.
    fn take_connecting(&mut self) -> Option<u64> {
        match &mut self.warm.transport {
            Transport::LongPoll(poll) => poll.connecting.take(),
            _ => None,
        }
    }

    /// Takes out the receive request that is held, to answer it.
    fn take_held(&mut self, now_ms: u64) -> Option<Held> {
        match &mut self.warm.transport {
            Transport::LongPoll(poll) => {
                let held = poll.held.take()?;
                poll.last_receive_ms = now_ms;
                Some(held)
            }
            _ => None,
        }
    }
}

impl Home {
    /// Carries out what the edge asks on behalf of a client.
    pub(super) fn handle_poll(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        number: u64,
        request: PollRequest,
    ) {
        let outcome = match request {
            // Not carried out: the client may ask the server that comes next.
            PollRequest::Connect { .. } | PollRequest::Send { .. } if self.drain.is_draining() => {
                Some(PollOutcome::Busy)
            }
            PollRequest::Connect { bytes } => self.poll_connect(cx, number, &bytes),
            PollRequest::Send { session, bytes } => {
                let sent =
                    self.with_poll(cx, session, |home, cx, conn| home.poll_send(cx, conn, &bytes));
                Some(sent.map_or(PollOutcome::Gone, |()| PollOutcome::Accepted))
            }
            PollRequest::Receive { session } => self
                .with_poll(cx, session, |home, cx, conn| home.poll_receive(cx, conn, number))
                .unwrap_or(Some(PollOutcome::Gone)),
            PollRequest::Disconnect { session } => {
                self.with_poll(cx, session, |home, cx, conn| {
                    home.disconnect(cx, conn, Disconnect::Clean);
                });
                Some(PollOutcome::Accepted)
            }
        };
        if let Some(outcome) = outcome {
            cx.outbox.send(from, Envelope::Polled { number, outcome });
        }
    }

    /// Answers held receive requests of sessions with something to send.
    pub fn flush_long_polls(&mut self, cx: &mut ShardContext) {
        for id in std::mem::take(&mut self.outgoing.long_polls) {
            self.with(cx, id, |home, cx, conn| {
                conn.flags.due = None;
                home.answer_held(cx, conn);
            });
        }
    }

    /// A receive request has been held long enough; the client asks again.
    pub(super) fn end_long_hold(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let held = conn.long_poll().and_then(|poll| poll.held);
        if held.is_some_and(|held| held.until_ms <= cx.now.mono_ms) {
            self.answer_held(cx, conn);
        }
    }

    /// The session is over: a held receive request is answered with the last events.
    pub(super) fn close_long_poll(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if let Some(number) = conn.take_connecting() {
            let bytes = self.take_queue(cx, conn);
            answer_poll(cx, number, PollOutcome::Refused { bytes });
        }
        if let Some(held) = conn.take_held(cx.now.mono_ms) {
            let bytes = self.take_queue(cx, conn);
            let outcome = match bytes.is_empty() {
                true => PollOutcome::Gone,
                false => PollOutcome::Frames { bytes },
            };
            answer_poll(cx, held.number, outcome);
        }
    }

    /// The answer, unless the admission hook is asked first.
    fn poll_connect(
        &mut self,
        cx: &mut ShardContext,
        number: u64,
        bytes: &[u8],
    ) -> Option<PollOutcome> {
        let name = self.names.next_name();
        let secret = connection_secret(cx.settings.session.connection_key, &name);
        let last_receive_ms = cx.now.mono_ms;
        let poll = LongPoll { secret, connecting: None, held: None, last_receive_ms };
        let transport = Transport::LongPoll(Box::new(poll));
        let id = self.open(cx, transport, Session::long_polling());
        let outcome = id.and_then(|id| {
            self.with(cx, id, |home, cx, conn| home.begin_long_poll(cx, conn, number, bytes))
        });
        outcome.unwrap_or(Some(PollOutcome::Busy))
    }

    fn begin_long_poll(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        number: u64,
        bytes: &[u8],
    ) -> Option<PollOutcome> {
        conn.flags.placement_final = true;
        self.admission.begin_input();
        self.act_on_message(cx, conn, input(bytes));
        if conn.awaits_verdict()
            && let Transport::LongPoll(poll) = &mut conn.warm.transport
        {
            poll.connecting = Some(number);
            return None;
        }
        Some(self.poll_connected(cx, conn))
    }

    /// The admission hook has decided about a session: its connect request is answered.
    pub(super) fn answer_poll_connect(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) {
        if let Some(number) = conn.take_connecting() {
            let outcome = self.poll_connected(cx, conn);
            answer_poll(cx, number, outcome);
        }
    }

    fn poll_connected(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) -> PollOutcome {
        let secret = conn.long_poll().map_or(0, |poll| poll.secret);
        if conn.is_open() && conn.session().principal().is_none() {
            // Nothing else than an auth can begin a session.
            self.disconnect(cx, conn, Disconnect::BadCredentials);
        }
        let is_open = conn.is_open();
        let bytes = self.take_queue(cx, conn);
        match is_open {
            true => {
                let session = PollSession { shard: cx.id, conn: conn.id, secret };
                PollOutcome::Connected { session, bytes }
            }
            false => PollOutcome::Refused { bytes },
        }
    }

    fn poll_send(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection, bytes: &[u8]) {
        cx.counters.bytes_in += bytes.len() as u64;
        conn.warm.last_byte = Timestamp::at(cx.now.mono_ms);
        match conn.is_held() {
            true => self.defer(cx, conn, bytes),
            false => {
                self.admission.begin_input();
                self.act_on_message(cx, conn, input(bytes));
            }
        }
    }

    /// The answer, unless there is nothing to send yet.
    fn poll_receive(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        number: u64,
    ) -> Option<PollOutcome> {
        if let Some(earlier) = conn.take_held(cx.now.mono_ms) {
            // A client has one receive request at a time: it has given the earlier one up.
            answer_poll(cx, earlier.number, PollOutcome::Frames { bytes: Vec::new() });
        }
        conn.warm.last_byte = Timestamp::at(cx.now.mono_ms);
        conn.warm.last_message = conn.warm.last_byte;
        if let Transport::LongPoll(poll) = &mut conn.warm.transport {
            poll.last_receive_ms = cx.now.mono_ms;
        }
        if !conn.queue.is_empty() {
            let bytes = self.take_queue(cx, conn);
            return Some(PollOutcome::Frames { bytes });
        }
        let until_ms = cx.now.mono_ms + HOLD_MS;
        if let Transport::LongPoll(poll) = &mut conn.warm.transport {
            poll.held = Some(Held { number, until_ms });
        }
        self.connections.set_check(conn.id, until_ms);
        None
    }

    /// Calls `act` with the connection of an open session; `None` when there is none.
    fn with_poll<T>(
        &mut self,
        cx: &mut ShardContext,
        session: PollSession,
        act: impl FnOnce(&mut Home, &mut ShardContext, &mut ActiveConnection) -> T,
    ) -> Option<T> {
        let connection = self.connections.get(session.conn).filter(|c| c.is_open())?;
        let is_known = connection.long_poll()?.secret == session.secret && session.shard == cx.id;
        if is_known { self.with(cx, session.conn, act) } else { None }
    }

    /// Takes everything that waits for a client, as if a socket had taken it.
    fn take_queue(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) -> Vec<u8> {
        let bytes: Vec<u8> = conn.queue.runs().flatten().copied().collect();
        self.written(cx, conn, bytes.len());
        bytes
    }

    /// Answers the receive request that is held, if one is, with all that waits.
    fn answer_held(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if let Some(held) = conn.take_held(cx.now.mono_ms) {
            let bytes = self.take_queue(cx, conn);
            answer_poll(cx, held.number, PollOutcome::Frames { bytes });
        }
    }
}

/// Requests of a long-polling client: records back to back.
fn input(bytes: &[u8]) -> Input<'_> {
    Input { framing: Framing::Stream, kind: MessageKind::Binary, bytes }
}

fn answer_poll(cx: &mut ShardContext, number: u64, outcome: PollOutcome) {
    cx.outbox.send(cx.settings.edge, Envelope::Polled { number, outcome });
}
