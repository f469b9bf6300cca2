//! Long-polling sessions: connections without a socket. What they send comes from the edge, and
//! what they are sent waits until the edge asks for it (`protocols/foony.md` section 1.2).

use super::Shard;
use super::connection::{Connection, Session, Transport};
use super::envelope::Envelope;
use crate::error::Disconnect;
use crate::ids::{ConnId, Moment, Now, ShardId};
use crate::session::foony;
use crate::session::foony::encode::Form;

/// How long a question is held while there is nothing to say. Clients give up after 40 s.
const HOLD_MS: u64 = 25_000;

/// How long a client may let nothing be asked before it is taken for lost; well above the time that
/// it needs between two questions.
const ABSENCE_MS: u64 = 30_000;

/// What the edge asks on behalf of a client.
#[derive(Debug)]
pub enum PollAsk {
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
    /// Proves that the client was told the name.
    pub secret: u64,
}

/// What the client is answered with. Bytes are whole records.
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

/// How a long-polling session is asked.
#[derive(Debug)]
pub struct Polling {
    pub secret: u64,
    /// The question that is held, and until when.
    pub held: Option<Held>,
    /// When it was last asked, or answered.
    pub asked_ms: u64,
}

/// A question of the edge that has not been answered.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub number: u64,
    pub until_ms: u64,
}

impl Shard {
    /// Carries out what the edge asks on behalf of a client.
    pub(super) fn handle_poll(&mut self, now: Now, from: ShardId, number: u64, ask: PollAsk) {
        let outcome = match ask {
            // Not carried out: the client may ask the server that comes next.
            PollAsk::Connect { .. } | PollAsk::Send { .. } if self.is_draining() => {
                Some(PollOutcome::Busy)
            }
            PollAsk::Connect { bytes } => Some(self.poll_connect(now, &bytes)),
            PollAsk::Send { session, bytes } => Some(self.poll_send(now, session, &bytes)),
            PollAsk::Receive { session } => self.poll_receive(now, session, number),
            PollAsk::Disconnect { session } => {
                if let Some(id) = self.find_polling(session) {
                    self.disconnect(now, id, Disconnect::Clean);
                }
                Some(PollOutcome::Accepted)
            }
        };
        if let Some(outcome) = outcome {
            self.outbox.send(from, Envelope::Polled { number, outcome });
        }
    }

    /// Answers held questions of sessions that have something to say.
    pub(super) fn flush_polling(&mut self, now: Now) {
        for id in std::mem::take(&mut self.dirty_polling) {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.flags.due = None;
            }
            self.answer_held(now, id);
        }
    }

    /// A question has been held long enough; the client asks again.
    pub(super) fn end_long_hold(&mut self, now: Now, id: ConnId) {
        let held = self.polling(id).and_then(|polling| polling.held);
        if held.is_some_and(|held| held.until_ms <= now.mono_ms) {
            self.answer_held(now, id);
        }
    }

    /// When a client that asks nothing is taken for lost; `None` while a question is held.
    pub(super) fn poll_absent_ms(&self, id: ConnId) -> Option<u64> {
        let polling = self.polling(id)?;
        polling.held.is_none().then_some(polling.asked_ms + ABSENCE_MS)
    }

    /// When a long-polling connection must be looked at again; `None` for others.
    pub(super) fn poll_check_ms(&self, id: ConnId) -> Option<u64> {
        let held = self.polling(id)?.held;
        held.map(|held| held.until_ms).or_else(|| self.poll_absent_ms(id))
    }

    /// The session is over: whoever waits is told the last it has to say. Frees the slot, since
    /// there is no socket to close.
    pub(super) fn close_polling(&mut self, now: Now, id: ConnId) {
        if let Some(held) = self.take_held(now, id) {
            let bytes = self.take_queue(now, id);
            let outcome = match bytes.is_empty() {
                true => PollOutcome::Gone,
                false => PollOutcome::Frames { bytes },
            };
            self.answer_poll(held.number, outcome);
        }
        self.last_words = self.take_queue(now, id);
        self.connections.remove(id);
    }

    fn poll_connect(&mut self, now: Now, bytes: &[u8]) -> PollOutcome {
        let Some(id) = self.handle_open_polling(now) else { return PollOutcome::Busy };
        self.handle_foony_payload(now, id, bytes);
        let Some(connection) = self.connections.get(id) else {
            return PollOutcome::Refused { bytes: std::mem::take(&mut self.last_words) };
        };
        let Transport::Poll(polling) = &connection.details.transport else {
            return PollOutcome::Busy;
        };
        if connection.principal().is_none() {
            // Nothing else than an auth can begin a session.
            let bytes = self.take_queue(now, id);
            self.disconnect(now, id, Disconnect::BadCredentials);
            return PollOutcome::Refused { bytes };
        }
        let session = PollSession { shard: self.id, conn: id, secret: polling.secret };
        PollOutcome::Connected { session, bytes: self.take_queue(now, id) }
    }

    fn handle_open_polling(&mut self, now: Now) -> Option<ConnId> {
        let name = self.names.next_name();
        let secret = foony::secret(self.settings.session.connection_key, &name);
        let polling = Polling { secret, held: None, asked_ms: now.mono_ms };
        let id = self.open(now, Transport::Poll(Box::new(polling)))?;
        let connection = self.connections.get_mut(id)?;
        connection.details.session = Session::Foony(foony::Session::new(Form::Stream));
        connection.flags.settled = true;
        Some(id)
    }

    fn poll_send(&mut self, now: Now, session: PollSession, bytes: &[u8]) -> PollOutcome {
        let Some(id) = self.find_polling(session) else { return PollOutcome::Gone };
        self.counters.bytes_in += bytes.len() as u64;
        if let Some(connection) = self.connections.get_mut(id) {
            connection.details.alive = Moment::at(now.mono_ms);
        }
        match self.connections.get(id).is_some_and(Connection::has_backlog) {
            true => self.put_off(now, id, bytes),
            false => self.handle_foony_payload(now, id, bytes),
        }
        PollOutcome::Accepted
    }

    /// The answer, unless there is nothing to say yet.
    fn poll_receive(&mut self, now: Now, session: PollSession, number: u64) -> Option<PollOutcome> {
        let Some(id) = self.find_polling(session) else { return Some(PollOutcome::Gone) };
        if let Some(earlier) = self.take_held(now, id) {
            // A client asks one question at a time: it has given the earlier one up.
            self.answer_poll(earlier.number, PollOutcome::Frames { bytes: Vec::new() });
        }
        let connection = self.connections.get_mut(id)?;
        connection.details.alive = Moment::at(now.mono_ms);
        connection.details.heard = Moment::at(now.mono_ms);
        if !connection.queue.is_empty() {
            let bytes = self.take_queue(now, id);
            return Some(PollOutcome::Frames { bytes });
        }
        let until_ms = now.mono_ms + HOLD_MS;
        if let Transport::Poll(polling) = &mut connection.details.transport {
            polling.held = Some(Held { number, until_ms });
        }
        self.connections.set_check(id, until_ms);
        None
    }

    fn find_polling(&self, session: PollSession) -> Option<ConnId> {
        let polling = self.polling(session.conn)?;
        (polling.secret == session.secret && session.shard == self.id).then_some(session.conn)
    }

    fn polling(&self, id: ConnId) -> Option<&Polling> {
        match &self.connections.get(id).filter(|c| c.is_open())?.details.transport {
            Transport::Poll(polling) => Some(polling),
            _ => None,
        }
    }

    fn take_held(&mut self, now: Now, id: ConnId) -> Option<Held> {
        match &mut self.connections.get_mut(id)?.details.transport {
            Transport::Poll(polling) => {
                polling.asked_ms = now.mono_ms;
                polling.held.take()
            }
            _ => None,
        }
    }

    /// Takes everything that waits for a client, as if a socket had taken it.
    fn take_queue(&mut self, now: Now, id: ConnId) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(id) else { return Vec::new() };
        let bytes: Vec<u8> = connection.queue.runs().flatten().copied().collect();
        self.written(now, id, bytes.len());
        bytes
    }

    /// Answers the question that is held, if one is, with all that waits.
    fn answer_held(&mut self, now: Now, id: ConnId) {
        if let Some(held) = self.take_held(now, id) {
            let bytes = self.take_queue(now, id);
            self.answer_poll(held.number, PollOutcome::Frames { bytes });
        }
    }

    fn answer_poll(&mut self, number: u64, outcome: PollOutcome) {
        self.outbox.send(self.settings.edge, Envelope::Polled { number, outcome });
    }
}
