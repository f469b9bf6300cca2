//! One connection from its greeting to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::fault::{Fault, Refusal};
use super::inbound::{self, Arrived};
use super::outbound::Outbound;
use super::upgrade::{connect, upgrade};
use crate::cli::address::Address;
use crate::error::FrameError;
use crate::wire::foony::binary::{Record, records};
use crate::wire::foony::{Auth, ErrorCode, Event, Request};

const GREETING_WITHIN: Duration = Duration::from_secs(10);

/// How long the server may owe the answer to a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Nothing is late before it was waited for this long without a word from the server: this process
/// may have been busy elsewhere, and the answer be on its way in.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// Limits of the pong deadline (`protocols/foony.md` section 5.8).
const PONG_WITHIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Limits of the ping interval that a server may ask for.
const PING_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3600));

/// How long a server may take to say goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// Requests are put together to messages of about this many bytes while more of them come.
const MESSAGE_BYTES: usize = 32 * 1024;

/// An open connection.
pub(in crate::cli) struct Session {
    out: Outbound,
    incoming: Receiver<Arrived>,
    /// The greeting, with what came in the same message. Present until it is handed out.
    greeting: Option<Vec<u8>>,
    pub connection_id: String,
    pub client_id: String,
    /// Number of the last request.
    asked: u64,
    /// Requests without an answer, and when they were made.
    awaited: BTreeMap<u64, Instant>,
    /// `None`: the server wants no pings.
    ping_every: Option<Duration>,
    ping_due: Instant,
    /// When the last ping was sent. Present until the server says anything.
    pinged: Option<Instant>,
    /// Why the server is about to close, if it said so.
    said: Option<String>,
    /// Why nothing can be sent any more. What arrived before is still handed out.
    unsendable: Option<Fault>,
}

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Next<T> {
    /// Records from the server, for [`events`].
    Message(Vec<u8>),
    Other(T),
    OtherEnded,
}

/// What the records of a message say. Kinds of records that a newer server may know are left out.
pub(in crate::cli) fn events(message: &[u8]) -> impl Iterator<Item = Result<Event<'_>, Fault>> {
    records(message).filter_map(|record| match record.and_then(Record::event) {
        Err(FrameError::UnknownType) => None,
        event => Some(event.map_err(Fault::Broken)),
    })
}

impl Session {
    /// Connects, upgrades and greets.
    ///
    /// # Errors
    /// Any fault.
    pub(super) fn open(address: &Address, path: &str, auth: Auth<'_>) -> Result<Self, Fault> {
        let mut stream = connect(address)?;
        let early = upgrade(&mut stream, address, path)?;
        let lost = |error: std::io::Error| Fault::Lost(error.to_string());
        let incoming = inbound::start(stream.try_clone().map_err(lost)?, early).map_err(lost)?;
        let mut out = Outbound::new(stream);
        out.append(&Request::Auth(auth));
        out.flush()?;
        let message = await_greeting(&mut out, &incoming)?;
        let greeting = Greeting::read(&message)?;
        let ping_every = greeting.keep_alive();
        Ok(Session {
            out,
            incoming,
            greeting: Some(message),
            connection_id: greeting.connection_id,
            client_id: greeting.client_id,
            asked: 0,
            awaited: BTreeMap::new(),
            ping_every,
            ping_due: Instant::now() + ping_every.unwrap_or_default(),
            pinged: None,
            said: None,
            unsendable: None,
        })
    }

    /// Makes a request with the next number, which it returns. It is sent by [`Session::next`].
    pub fn ask<'r>(&mut self, request: impl FnOnce(u64) -> Request<'r>) -> u64 {
        self.asked += 1;
        self.out.append(&request(self.asked));
        self.awaited.insert(self.asked, Instant::now());
        self.asked
    }

    /// Sends what was asked and waits for the server or for `other`, whichever comes first.
    ///
    /// # Errors
    /// The connection is over, or the server is silent.
    pub fn next<T>(&mut self, other: &Receiver<T>) -> Result<Next<T>, Fault> {
        if let Some(greeting) = self.greeting.take() {
            return Ok(Next::Message(greeting));
        }
        if self.out.waiting() < MESSAGE_BYTES
            && let Ok(item) = other.try_recv()
        {
            return Ok(Next::Other(item));
        }
        self.flush();
        let entered = Instant::now();
        loop {
            if let Some(fault) = &self.unsendable {
                return self.last_words(fault.clone());
            }
            let wait = self.deadline(entered).saturating_duration_since(Instant::now());
            select! {
                recv(self.incoming) -> arrived => {
                    self.pinged = None;
                    let arrived = arrived.unwrap_or_else(|_| Arrived::End(hung_up()));
                    if let Some(message) = self.take(arrived)? {
                        return Ok(Next::Message(message));
                    }
                }
                recv(other) -> item => return Ok(item.map_or(Next::OtherEnded, Next::Other)),
                default(wait) => self.be_on_time(entered)?,
            }
        }
    }

    /// Takes note of an event: what it answers, and what it says about the connection.
    ///
    /// # Errors
    /// [`Fault::Refused`] when the credentials are no longer good.
    pub fn observe(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        match event {
            Event::Error { id: 0, code, message } => {
                let refusal = Refusal::new(*code, message);
                if matches!(code, ErrorCode::BadAuth | ErrorCode::AuthExpired) {
                    return Err(Fault::Refused(refusal));
                }
                self.said = Some(refusal.to_string());
            }
            Event::Ack { id, .. }
            | Event::Error { id, .. }
            | Event::History { id, .. }
            | Event::Fetched { id, .. } => drop(self.awaited.remove(id)),
            _ => {}
        }
        Ok(())
    }

    /// Says goodbye and waits for the server to do so.
    pub fn close(mut self) {
        if self.out.flush().and_then(|()| self.out.close()).is_err() {
            return;
        }
        let until = Instant::now() + GOODBYE_WITHIN;
        while self.incoming.recv_deadline(until).is_ok() {}
    }

    fn flush(&mut self) {
        if self.unsendable.is_none() {
            self.unsendable = self.out.flush().err();
        }
    }

    /// The message in what arrived, if it is one.
    fn take(&mut self, arrived: Arrived) -> Result<Option<Vec<u8>>, Fault> {
        match arrived {
            Arrived::Message(message) => return Ok(Some(message)),
            Arrived::Text => return Err(Fault::Broken(FrameError::UnknownProtocol)),
            Arrived::Ping(body) => self.unsendable = self.out.pong(&body).err(),
            Arrived::Pong => {}
            Arrived::End(Fault::Lost(why)) => {
                let said = self.said.take().map_or_else(String::new, |said| format!(": {said}"));
                return Err(Fault::Lost(why + &said));
            }
            Arrived::End(fault) => return Err(fault),
        }
        Ok(None)
    }

    /// What is still coming in on a connection that takes nothing more. How the server ended it
    /// says more than how it was noticed.
    fn last_words<T>(&mut self, noticed: Fault) -> Result<Next<T>, Fault> {
        loop {
            match self.incoming.recv_timeout(SILENCE_MIN) {
                Ok(Arrived::Ping(_)) => {}
                Ok(arrived) => {
                    if let Some(message) = self.take(arrived)? {
                        return Ok(Next::Message(message));
                    }
                }
                Err(_) => return Err(noticed),
            }
        }
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self, entered: Instant) -> Instant {
        let ping = self.ping_every.map(|_| self.ping_due);
        let late = self.late_at().map(|late| late.max(entered + SILENCE_MIN));
        let deadlines = [ping, late].into_iter().flatten();
        deadlines.min().unwrap_or(entered + PING_EVERY.1)
    }

    /// When the server will have been silent for too long.
    fn late_at(&self) -> Option<Instant> {
        let pong = self.pinged.map(|pinged| pinged + self.pong_within());
        let answer = self.awaited.values().next().map(|asked| *asked + ANSWER_WITHIN);
        [pong, answer].into_iter().flatten().min()
    }

    fn pong_within(&self) -> Duration {
        self.ping_every.unwrap_or_default().clamp(PONG_WITHIN.0, PONG_WITHIN.1)
    }

    fn be_on_time(&mut self, entered: Instant) -> Result<(), Fault> {
        let now = Instant::now();
        if self.late_at().is_some_and(|late| now >= late.max(entered + SILENCE_MIN)) {
            return Err(Fault::Lost("it does not answer".to_owned()));
        }
        if let Some(every) = self.ping_every
            && now >= self.ping_due
        {
            self.ping_due = now + every;
            self.pinged.get_or_insert(now);
            self.out.append(&Request::Ping);
            self.flush();
        }
        Ok(())
    }
}

fn hung_up() -> Fault {
    Fault::Lost("the connection is gone".to_owned())
}

/// The first message of the server.
fn await_greeting(out: &mut Outbound, incoming: &Receiver<Arrived>) -> Result<Vec<u8>, Fault> {
    let until = Instant::now() + GREETING_WITHIN;
    loop {
        match incoming.recv_deadline(until) {
            Ok(Arrived::Message(message)) => return Ok(message),
            Ok(Arrived::Text) => return Err(foreign("it answers in text")),
            Ok(Arrived::Ping(body)) => out.pong(&body)?,
            Ok(Arrived::Pong) => {}
            Ok(Arrived::End(Fault::Broken(error))) => return Err(foreign(&error.to_string())),
            Ok(Arrived::End(fault)) => return Err(fault),
            Err(RecvTimeoutError::Disconnected) => return Err(hung_up()),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = GREETING_WITHIN.as_secs();
                return Err(Fault::Lost(format!("no greeting within {seconds} s")));
            }
        }
    }
}

fn foreign(why: &str) -> Fault {
    Fault::Foreign(format!("{why} where a `connected` record was expected"))
}

/// What the server says first.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    connection_id: String,
    client_id: String,
    keep_alive_ms: u64,
}

impl Greeting {
    fn read(message: &[u8]) -> Result<Self, Fault> {
        match events(message).next() {
            Some(Ok(Event::Connected { connection_id, keep_alive_ms, client_id })) => {
                let (connection_id, client_id) = (connection_id.into(), client_id.into());
                Ok(Greeting { connection_id, client_id, keep_alive_ms })
            }
            Some(Ok(Event::Error { code, message, .. })) => {
                Err(Fault::Refused(Refusal::new(code, &message)))
            }
            Some(Err(Fault::Broken(error))) => Err(foreign(&error.to_string())),
            _ => Err(foreign("it says something else")),
        }
    }

    fn keep_alive(&self) -> Option<Duration> {
        let every = Duration::from_millis(self.keep_alive_ms);
        (!every.is_zero()).then(|| every.clamp(PING_EVERY.0, PING_EVERY.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::foony::binary::append_event;

    fn message(events: &[Event<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        events.iter().for_each(|event| append_event(event, &mut out));
        out
    }

    fn connected(keep_alive_ms: u64) -> Event<'static> {
        Event::Connected { connection_id: "c".into(), keep_alive_ms, client_id: "me".into() }
    }

    #[test]
    fn kinds_of_records_that_are_not_known_are_left_out() {
        let mut bytes = message(&[Event::Pong]);
        bytes.extend(b"\x02\x63\x00");
        bytes.extend(message(&[Event::Pong]));
        let seen: Vec<_> = events(&bytes).collect();
        assert_eq!(seen, [Ok(Event::Pong), Ok(Event::Pong)]);
        bytes.extend(b"\x05\x0c");
        assert_eq!(events(&bytes).last(), Some(Err(Fault::Broken(FrameError::Truncated))));
    }

    #[test]
    fn a_greeting_is_connected_or_a_refusal() {
        let greeting = Greeting::read(&message(&[connected(15_000), Event::Pong])).unwrap();
        assert_eq!((&*greeting.connection_id, &*greeting.client_id), ("c", "me"));
        let refusal = Event::Error { id: 0, code: ErrorCode::BadAuth, message: "who?".into() };
        let refused = Fault::Refused(Refusal::new(ErrorCode::BadAuth, "who?"));
        assert_eq!(Greeting::read(&message(&[refusal])), Err(refused));
        for foreign in [&b""[..], b"hello", b"\x00", b"\x01\x10"] {
            let fault = Greeting::read(foreign);
            assert!(matches!(fault, Err(Fault::Foreign(_))), "{foreign:?}: {fault:?}");
        }
    }

    #[test]
    fn pings_are_as_frequent_as_the_server_wishes_within_reason() {
        for (keep_alive_ms, expected_ms) in
            [(0, None), (1, Some(250)), (15_000, Some(15_000)), (u64::MAX, Some(3_600_000))]
        {
            let greeting = Greeting::read(&message(&[connected(keep_alive_ms)])).unwrap();
            assert_eq!(greeting.keep_alive(), expected_ms.map(Duration::from_millis));
        }
    }
}
