//! One thread of the load generator: its sockets and its turn. What it plays is its [`Stage`].
//!
//! Invariant: a turn is short. A foreground connection is read whenever it is ready, and at most
//! one background connection per turn, so that floods of our own do not show in the delays of
//! polite clients. Connections that come and go are read in turn instead. How long turns took is
//! part of every report.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::time::Duration;

use clap::ValueEnum;
use enum_map::{Enum, EnumMap};
use mio::{Events, Interest, Poll, Registry, Token};
use serde::{Deserialize, Serialize};

use super::client::{Client, Closed, OUTBOUND_BYTES_MAX, Out, Target, broken_off};
use super::connect::connect;
use super::error::BenchError;
use super::latencies::Latencies;
use super::process::this_thread_waited_ns;
use super::signals::{Counter, Step, ThreadSignals};
use super::stage::{Script, Stage};
use super::time::Clock;

const FOREGROUND_READ_BYTES: usize = 256 * 1024;
const BACKGROUND_READ_BYTES: usize = 16 * 1024;
/// Of those that are read in turn: after so many without an answer, the others wait for the next
/// turn.
const UNANSWERED_PER_TURN: usize = 3;
/// Longest sleep in the kernel: how late a thread sees what another one signalled.
const SLEEP_MAX: Duration = Duration::from_millis(1);

/// What a thread does while nothing is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Asks the kernel again at once. The server never pays for waking us; needs a CPU of its own.
    Spin,
    /// Sleeps in the kernel, except for the last millisecond before something is due.
    Sleep,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum)]
pub enum Lane {
    /// Read whenever it is ready: what is measured.
    #[default]
    Foreground,
    /// Waits for its turn: floods.
    Background,
}

/// In place of the time when a script wants its next turn: not before something happens.
pub const NEVER_NS: u64 = u64::MAX;

/// What there is of the connection with one number: that is, or was, open.
#[derive(Default)]
struct Slot {
    client: Option<Client>,
    lane: Lane,
    /// Is it in a queue of connections to be read?
    ready: bool,
    /// Is it in the list of connections to be written?
    dirty: bool,
    /// Does the kernel report on it?
    watched: bool,
    /// The server writes nothing more: read to the end, also after a short read.
    read_closed: bool,
}

/// The connections of one thread, by the numbers that its script gives them.
pub struct Clients {
    registry: Registry,
    slots: Vec<Slot>,
    dirty: Vec<usize>,
    /// Connections to be read; one that has ended may still be here.
    ready: EnumMap<Lane, VecDeque<usize>>,
    opened: u32,
    /// Are those that can be written read in turn?
    in_turn: bool,
    /// Those that the kernel reports on.
    watched: usize,
}

impl Clients {
    /// Begins to connect, in place of a connection with this number that has ended. The stage
    /// receives [`Event::Open`](super::client::Event) or that it is closed.
    pub fn open(&mut self, at: usize, target: &Target, lane: Lane) -> Result<(), BenchError> {
        let address = target.address;
        self.opened = self.opened.wrapping_add(1);
        let failed = |source| BenchError::Connect { address, source };
        let stream = connect(address, self.opened).map_err(failed)?;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let slot = &mut self.slots[at];
        slot.client = Some(Client::new(stream, target.clone(), u64::from(self.opened)));
        slot.lane = lane;
        // On the same host it is connected already, and sends its first bytes in this turn.
        self.mark(at);
        Ok(())
    }

    pub fn is_open(&self, at: usize) -> bool {
        self.slots.get(at).is_some_and(|slot| slot.client.is_some())
    }

    /// Makes requests on a connection, if it is open; they leave within this turn.
    pub fn write(&mut self, at: usize, write: impl FnOnce(&mut Out<'_>)) {
        if let Some(client) = &mut self.slots[at].client {
            write(&mut client.out());
            self.mark(at);
        }
    }

    /// Bytes that the server has not taken yet.
    pub fn pending(&self, at: usize) -> usize {
        self.slots[at].client.as_ref().map_or(0, Client::pending_bytes)
    }

    /// As [`Clients::write`]; `false`, and nothing is sent, when too much waits.
    #[must_use]
    pub fn send(&mut self, at: usize, send: impl FnOnce(&mut Out<'_>)) -> bool {
        let has_room =
            |client: &Client| !client.is_closing() && client.pending_bytes() < OUTBOUND_BYTES_MAX;
        let is_taken = self.slots[at].client.as_ref().is_some_and(has_room);
        if is_taken {
            self.write(at, send);
        }
        is_taken
    }

    /// Closes the socket, whatever waits for it.
    fn hang_up(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.client = None;
        slot.read_closed = false;
        // The end of the stream is the end of its registration.
        self.watched -= usize::from(mem::take(&mut slot.watched));
    }

    fn mark(&mut self, at: usize) {
        if !mem::replace(&mut self.slots[at].dirty, true) {
            self.dirty.push(at);
        }
    }

    /// Asks the kernel to report when a connection can be read or, once it could not be, written;
    /// one that can be written may be read in turn instead.
    fn watch(&mut self, at: usize) -> io::Result<()> {
        let Slot { client: Some(client), watched, .. } = &mut self.slots[at] else {
            return Ok(());
        };
        if *watched {
            return Ok(());
        }
        if self.in_turn && client.pending_bytes() == 0 {
            self.queue(at);
            return Ok(());
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut client.stream, Token(at), both)?;
        *watched = true;
        self.watched += 1;
        Ok(())
    }

    /// It is read after all others.
    fn queue(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if !mem::replace(&mut slot.ready, true) {
            self.ready[slot.lane].push_back(at);
        }
    }
}

/// Adds up what the generator itself needs within the measured time.
#[derive(Default)]
struct Meter {
    /// While measuring: when it began, and how long the thread had waited for its CPU by then.
    began: Option<(u64, u64)>,
    /// Length of turns in which something happened: delays up to these are our own.
    turns: Latencies,
}

impl Meter {
    fn look(&mut self, now_ns: u64, signals: &ThreadSignals) {
        if !signals.measures(now_ns) {
            self.end(now_ns, signals);
        } else if self.began.is_none() {
            self.began = Some((now_ns, this_thread_waited_ns()));
        }
    }

    /// A turn in which something happened.
    fn add(&mut self, took_ns: u64, signals: &ThreadSignals) {
        if self.began.is_some() {
            signals.add(Counter::BusyNs, took_ns);
            self.turns.record(took_ns);
        }
    }

    fn end(&mut self, now_ns: u64, signals: &ThreadSignals) {
        if let Some((began_ns, waited_ns)) = self.began.take() {
            signals.set(Counter::TotalNs, now_ns - began_ns);
            signals.set(Counter::WaitedNs, this_thread_waited_ns() - waited_ns);
        }
    }
}

/// One thread's loop; see [`Engine::run`].
pub struct Engine<S> {
    poll: Poll,
    clients: Clients,
    scratch: Vec<u8>,
    stage: Stage<S>,
    clock: Clock,
    wait: Wait,
    signals: ThreadSignals,
}

impl<S: Script> Engine<S> {
    pub fn new(script: S, clock: Clock, wait: Wait, signals: ThreadSignals) -> io::Result<Self> {
        let poll = Poll::new()?;
        let clients = Clients {
            registry: poll.registry().try_clone()?,
            slots: Vec::new(),
            dirty: Vec::new(),
            ready: EnumMap::default(),
            opened: 0,
            in_turn: S::IN_TURN && wait == Wait::Spin,
            watched: 0,
        };
        Ok(Engine {
            poll,
            clients,
            scratch: Vec::new(),
            stage: Stage::new(script, signals.clone()),
            clock,
            wait,
            signals,
        })
    }

    /// Turns until the conductor ends the run. Returns the script, and how long turns took in which
    /// something happened.
    pub fn run(mut self) -> Result<(S, Latencies), BenchError> {
        let mut events = Events::with_capacity(self.stage.script.events_max());
        let (mut meter, mut next_ns) = (Meter::default(), 0_u64);
        while !self.signals.allows(Step::Ended) {
            let asked_ns = self.clock.now_ns();
            self.await_events(&mut events, next_ns.saturating_sub(asked_ns))?;
            let turn_ns = match self.wait {
                // It did not wait: finding out about many sockets is work, too.
                Wait::Spin if !events.is_empty() => asked_ns,
                _ => self.clock.now_ns(),
            };
            let happened = self.note(&events) | self.read_ready();
            let now_ns = self.clock.now_ns();
            meter.look(now_ns, &self.signals);
            next_ns = self.stage.turn(now_ns, &mut self.clients)?;
            if self.flush() | happened {
                meter.add(self.clock.now_ns() - turn_ns, &self.signals);
            }
        }
        meter.end(self.clock.now_ns(), &self.signals);
        Ok((self.stage.script, meter.turns))
    }

    fn await_events(&mut self, events: &mut Events, left_ns: u64) -> io::Result<()> {
        if self.clients.in_turn && self.clients.watched == 0 {
            events.clear();
            return Ok(());
        }
        let work_left = self.clients.ready.values().any(|queue| !queue.is_empty());
        // epoll counts whole milliseconds; the rest is spun.
        let is_idle = !work_left && Duration::from_nanos(left_ns) > SLEEP_MAX;
        let timeout = if self.wait == Wait::Sleep && is_idle { SLEEP_MAX } else { Duration::ZERO };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Queues what can be read and writes what can be written.
    fn note(&mut self, events: &Events) -> bool {
        for event in events {
            let Token(at) = event.token();
            // The kernel reports it with whatever else it reports.
            if event.is_writable() && self.clients.pending(at) > 0 {
                self.write(at);
            }
            let slot = &mut self.clients.slots[at];
            let is_at_end = event.is_read_closed() || event.is_error();
            slot.read_closed |= is_at_end && slot.client.is_some();
            if event.is_readable() || is_at_end {
                self.clients.queue(at);
            }
        }
        !events.is_empty()
    }

    /// Reads those that can be read. Those that are read in turn are answered in the order in which
    /// they wait, about.
    fn read_ready(&mut self) -> bool {
        let foreground = self.clients.ready[Lane::Foreground].len();
        let lanes = [
            (Lane::Foreground, foreground.min(self.stage.script.events_max())),
            (Lane::Background, 1),
        ];
        let (mut happened, mut unanswered) = (false, 0);
        for (lane, count) in lanes {
            for _ in 0..count {
                let Some(at) = self.clients.ready[lane].pop_front() else { break };
                self.clients.slots[at].ready = false;
                if !self.clients.is_open(at) {
                    continue;
                }
                let came = self.read(at);
                happened |= came;
                unanswered += usize::from(!came);
                if self.clients.in_turn && unanswered == UNANSWERED_PER_TURN {
                    break;
                }
            }
        }
        happened
    }

    /// Reads once; false when there was nothing.
    fn read(&mut self, at: usize) -> bool {
        let slot = &mut self.clients.slots[at];
        let Some(client) = &mut slot.client else { return false };
        let budget = match slot.lane {
            Lane::Foreground => FOREGROUND_READ_BYTES,
            Lane::Background => BACKGROUND_READ_BYTES,
        };
        let (stage, clock, before) = (&mut self.stage, self.clock, client.bytes_in);
        let mut read_ns = None;
        let more = client.read(&mut self.scratch, budget, |out, event| {
            let read_ns = *read_ns.get_or_insert_with(|| clock.now_ns());
            stage.event(read_ns, at, out, event)
        });
        let received = client.bytes_in - before;
        self.signals.add(Counter::BytesIn, received);
        self.signals.add(Counter::Reads, 1);
        let answers = client.pending_bytes() > 0 || client.is_closing();
        let reads_on = slot.read_closed || self.clients.in_turn;
        if answers {
            self.clients.mark(at);
        }
        match more {
            Err(closed) => self.end(at, closed),
            Ok(more) if more || reads_on => self.clients.queue(at),
            Ok(_) => {}
        }
        received > 0 || !self.clients.is_open(at)
    }

    fn write(&mut self, at: usize) {
        let slot = &mut self.clients.slots[at];
        slot.dirty = false;
        let Some(client) = &mut slot.client else { return };
        let (stage, clock) = (&mut self.stage, self.clock);
        let written = client.write(|out, event| stage.event(clock.now_ns(), at, out, event));
        if let Err(closed) = written.and_then(|()| self.clients.watch(at).map_err(broken_off)) {
            self.end(at, closed);
        }
    }

    /// Writes what this turn has queued.
    fn flush(&mut self) -> bool {
        let count = self.clients.dirty.len();
        for index in 0..count {
            self.write(self.clients.dirty[index]);
        }
        self.clients.dirty.clear();
        count > 0
    }

    fn end(&mut self, at: usize, closed: Closed) {
        self.clients.hang_up(at);
        self.stage.closed(self.clock.now_ns(), at, closed);
    }
}
