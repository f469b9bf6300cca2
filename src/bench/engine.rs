//! One thread of the load generator: its sockets, its turn, and the load it plays.
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

use super::client::{Client, Closed, Event, OUTBOUND_BYTES_MAX, Out, Progress, Queued, Target};
use super::connect::connect;
use super::error::BenchError;
use super::latencies::Latencies;
use super::process::this_thread_waited_ns;
use super::signals::{Allowed, Counter, ThreadSignals};
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

/// Which connection an event is about, as the load that opened it numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub lane: Lane,
    pub index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Lane {
    /// Read whenever it is ready: what is measured.
    Foreground,
    /// Waits for its turn: floods.
    Background,
}

/// When a load wants its next turn, if nothing happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Now,
    AtNs(u64),
    WhenSomethingHappens,
}

impl Next {
    pub fn sooner(self, other: Next) -> Next {
        match (self, other) {
            (Next::Now, _) | (_, Next::Now) => Next::Now,
            (Next::WhenSomethingHappens, next) | (next, Next::WhenSomethingHappens) => next,
            (Next::AtNs(a), Next::AtNs(b)) => Next::AtNs(a.min(b)),
        }
    }
}

/// What one thread plays.
pub trait Load: Send + 'static {
    /// Most sockets that are read between two turns.
    fn events_max(&self) -> usize {
        1024
    }

    /// Does nearly every connection wait for an answer all the time? A thread that spins then reads
    /// them in turn, and does not ask the kernel which can be read. A turn that finds no answer
    /// counts as idle, though one may wait further back in the line.
    const IN_TURN: bool = false;

    /// Opens what is to be opened and sends what is due.
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError>;

    /// One frame came. What is written to `out` leaves within this turn.
    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>);

    /// The connection is no more.
    fn closed(&mut self, now_ns: u64, tag: Tag, closed: Closed);
}

/// A connection of this thread. Reused after [`Load::closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(usize);

struct Slot {
    client: Client,
    tag: Tag,
    /// Is it in a queue of connections to be read?
    ready: bool,
    /// Is it in the list of connections to be written?
    dirty: bool,
    /// Is it in the line of those that are read in turn?
    in_line: bool,
    /// What the kernel is asked to report about it.
    interest: Option<Interest>,
    /// The server writes nothing more: read to the end, also after a short read.
    read_closed: bool,
}

/// The connections of one thread.
pub struct Clients {
    registry: Registry,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    dirty: Vec<usize>,
    opened: u32,
    /// Are those that can be written read in turn?
    in_turn: bool,
    /// Those that are. One that has ended may still be here; its slot is free after that.
    line: VecDeque<usize>,
    /// Those that the kernel reports on.
    watched: usize,
}

impl Clients {
    fn new(registry: Registry, in_turn: bool) -> Self {
        Clients {
            registry,
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            opened: 0,
            in_turn,
            line: VecDeque::new(),
            watched: 0,
        }
    }

    /// Begins to connect. The load receives [`Event::Open`] or that it is closed.
    pub fn open(&mut self, target: &Target, tag: Tag) -> Result<ClientId, BenchError> {
        let address = target.address;
        self.opened = self.opened.wrapping_add(1);
        let failed = |source| BenchError::Connect { address, source };
        let stream = connect(address, self.opened).map_err(failed)?;
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(Slot {
            client: Client::new(stream, target.clone(), u64::from(self.opened)),
            tag,
            ready: false,
            dirty: false,
            in_line: false,
            interest: None,
            read_closed: false,
        });
        // On the same host it is connected already, and sends its first bytes in this turn.
        self.mark(at);
        Ok(ClientId(at))
    }

    /// Makes requests on a connection; they leave within this turn.
    pub fn write(&mut self, id: ClientId, write: impl FnOnce(&mut Out<'_>)) {
        if let Some(slot) = &mut self.slots[id.0] {
            write(&mut slot.client.out());
        }
        self.mark(id.0);
    }

    /// Bytes that the server has not taken yet.
    pub fn pending(&self, id: ClientId) -> usize {
        self.slots[id.0].as_ref().map_or(0, |slot| slot.client.pending_bytes())
    }

    /// As [`Clients::write`], unless too much waits.
    pub fn send(&mut self, id: ClientId, send: impl FnOnce(&mut Out<'_>)) -> Queued {
        let slot = self.slots[id.0].as_ref();
        if slot.is_none_or(|slot| slot.client.is_closing())
            || self.pending(id) >= OUTBOUND_BYTES_MAX
        {
            return Queued::Full;
        }
        self.write(id, send);
        Queued::Yes
    }

    fn mark(&mut self, at: usize) {
        if let Some(slot) = &mut self.slots[at]
            && !mem::replace(&mut slot.dirty, true)
        {
            self.dirty.push(at);
        }
    }

    /// Asks the kernel to report when a connection can be read, unless it is read in turn, and,
    /// once it could not be written, when that is possible.
    fn watch(&mut self, at: usize) -> io::Result<()> {
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        let both = Interest::READABLE | Interest::WRITABLE;
        let wanted = if slot.client.is_blocked() { both } else { Interest::READABLE };
        let stream = &mut slot.client.stream;
        match slot.interest {
            None if self.in_turn && wanted == Interest::READABLE => {
                self.line_up(at);
                return Ok(());
            }
            None => {
                self.registry.register(stream, Token(at), wanted)?;
                self.watched += 1;
            }
            Some(Interest::READABLE) if wanted == both => {
                self.registry.reregister(stream, Token(at), both)?;
            }
            Some(_) => return Ok(()),
        }
        slot.interest = Some(wanted);
        Ok(())
    }

    /// It is read after all others in the line.
    fn line_up(&mut self, at: usize) {
        if let Some(slot) = &mut self.slots[at]
            && !mem::replace(&mut slot.in_line, true)
        {
            self.line.push_back(at);
        }
    }

    fn next_in_line(&mut self) -> Option<usize> {
        loop {
            let at = self.line.pop_front()?;
            let Some(slot) = &mut self.slots[at] else {
                self.free.push(at);
                continue;
            };
            slot.in_line = false;
            return Some(at);
        }
    }

    fn remove(&mut self, at: usize) -> Option<Tag> {
        // The end of the stream is the end of its registration.
        let slot = self.slots[at].take()?;
        self.watched -= usize::from(slot.interest.is_some());
        if !slot.in_line {
            self.free.push(at);
        }
        Some(slot.tag)
    }
}

/// Adds up what the generator itself needs within the measured time.
#[derive(Default)]
struct Meter {
    /// The time, and how long the thread had waited for its CPU, when measuring began.
    began: Option<(u64, u64)>,
    is_over: bool,
    /// Length of turns in which something happened: delays up to these are our own.
    turns: Latencies,
}

impl Meter {
    fn look(&mut self, now_ns: u64, signals: &ThreadSignals) {
        match signals.timeline() {
            Some(timeline) if now_ns >= timeline.until_ns => self.end(now_ns, signals),
            Some(timeline) if now_ns >= timeline.from_ns && self.began.is_none() => {
                self.began = Some((now_ns, this_thread_waited_ns()));
            }
            _ => {}
        }
    }

    /// A turn in which something happened.
    fn add(&mut self, took_ns: u64, signals: &ThreadSignals) {
        if self.began.is_some() && !self.is_over {
            signals.add(Counter::BusyNs, took_ns);
            self.turns.record(took_ns);
        }
    }

    fn end(&mut self, now_ns: u64, signals: &ThreadSignals) {
        if let Some((began_ns, waited_ns)) = self.began
            && !mem::replace(&mut self.is_over, true)
        {
            signals.set(Counter::TotalNs, now_ns - began_ns);
            signals.set(Counter::WaitedNs, this_thread_waited_ns() - waited_ns);
        }
    }
}

/// One thread's loop; see [`Engine::run`].
pub struct Engine<L> {
    poll: Poll,
    clients: Clients,
    /// Connections that can be read.
    ready: EnumMap<Lane, VecDeque<usize>>,
    scratch: Vec<u8>,
    load: L,
    clock: Clock,
    wait: Wait,
    signals: ThreadSignals,
}

impl<L: Load> Engine<L> {
    pub fn new(load: L, clock: Clock, wait: Wait, signals: ThreadSignals) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        Ok(Engine {
            poll,
            clients: Clients::new(registry, L::IN_TURN && wait == Wait::Spin),
            ready: EnumMap::default(),
            scratch: Vec::new(),
            load,
            clock,
            wait,
            signals,
        })
    }

    /// Turns until the conductor ends the run. Returns the load, and how long turns took in which
    /// something happened.
    pub fn run(mut self) -> Result<(L, Latencies), BenchError> {
        let mut events = Events::with_capacity(self.load.events_max());
        let (mut meter, mut next) = (Meter::default(), Next::Now);
        while !self.signals.allows(Allowed::End) {
            let asked_ns = self.clock.now_ns();
            self.await_events(&mut events, next)?;
            let turn_ns = match self.wait {
                // It did not wait: finding out about many sockets is work, too.
                Wait::Spin if !events.is_empty() => asked_ns,
                _ => self.clock.now_ns(),
            };
            let happened = self.note(&events) | self.read_ready() | self.read_line();
            let now_ns = self.clock.now_ns();
            meter.look(now_ns, &self.signals);
            next = self.load.turn(now_ns, &mut self.clients)?;
            if self.flush() | happened {
                meter.add(self.clock.now_ns() - turn_ns, &self.signals);
            }
        }
        meter.end(self.clock.now_ns(), &self.signals);
        Ok((self.load, meter.turns))
    }

    fn await_events(&mut self, events: &mut Events, next: Next) -> io::Result<()> {
        if self.clients.in_turn && self.clients.watched == 0 {
            events.clear();
            return Ok(());
        }
        let work_left = self.ready.values().any(|queue| !queue.is_empty());
        let timeout = match (self.wait, next) {
            (Wait::Spin, _) | (_, Next::Now) => Duration::ZERO,
            _ if work_left => Duration::ZERO,
            (Wait::Sleep, Next::WhenSomethingHappens) => SLEEP_MAX,
            (Wait::Sleep, Next::AtNs(due_ns)) => {
                let left = Duration::from_nanos(due_ns.saturating_sub(self.clock.now_ns()));
                // epoll counts whole milliseconds; the rest is spun.
                if left > SLEEP_MAX { SLEEP_MAX } else { Duration::ZERO }
            }
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Queues what can be read and writes what can be written.
    fn note(&mut self, events: &Events) -> bool {
        for event in events {
            let Token(at) = event.token();
            if event.is_writable() {
                self.write(at);
            }
            let Some(slot) = &mut self.clients.slots[at] else { continue };
            slot.read_closed |= event.is_read_closed() || event.is_error();
            if event.is_readable() || slot.read_closed {
                self.queue(at);
            }
        }
        !events.is_empty()
    }

    fn queue(&mut self, at: usize) {
        if let Some(slot) = &mut self.clients.slots[at]
            && !mem::replace(&mut slot.ready, true)
        {
            self.ready[slot.tag.lane].push_back(at);
        }
    }

    fn read_ready(&mut self) -> bool {
        let foreground = self.ready[Lane::Foreground].len();
        let background = self.ready[Lane::Background].len().min(1);
        for (lane, count) in [(Lane::Foreground, foreground), (Lane::Background, background)] {
            for _ in 0..count {
                let at = self.ready[lane].pop_front();
                at.map(|at| self.read(at));
            }
        }
        foreground + background > 0
    }

    /// Answers come in the order in which they are waited for, about.
    fn read_line(&mut self) -> bool {
        let (mut happened, mut unanswered) = (false, 0);
        for _ in 0..self.clients.line.len().min(self.load.events_max()) {
            let Some(at) = self.clients.next_in_line() else { break };
            let came = self.read(at);
            // Unless it has ended.
            self.clients.line_up(at);
            happened |= came;
            unanswered += usize::from(!came);
            if unanswered == UNANSWERED_PER_TURN {
                break;
            }
        }
        happened
    }

    /// Reads once; false when there was nothing.
    fn read(&mut self, at: usize) -> bool {
        let Some(slot) = &mut self.clients.slots[at] else { return false };
        slot.ready = false;
        let budget = match slot.tag.lane {
            Lane::Foreground => FOREGROUND_READ_BYTES,
            Lane::Background => BACKGROUND_READ_BYTES,
        };
        let (tag, load, clock, before) =
            (slot.tag, &mut self.load, self.clock, slot.client.bytes_in);
        let mut read_ns = None;
        let progress = slot.client.read(&mut self.scratch, budget, |out, event| {
            let read_ns = *read_ns.get_or_insert_with(|| clock.now_ns());
            load.event(read_ns, tag, out, event);
        });
        let received = slot.client.bytes_in - before;
        self.signals.add(Counter::BytesIn, received);
        self.signals.add(Counter::Reads, 1);
        let answers = slot.client.pending_bytes() > 0 || slot.client.is_closing();
        let read_closed = slot.read_closed;
        if answers {
            self.clients.mark(at);
        }
        match progress {
            Progress::Closed(closed) => self.end(clock.now_ns(), at, closed),
            Progress::More => self.queue(at),
            Progress::Drained if read_closed => self.queue(at),
            Progress::Drained => return received > 0,
        }
        true
    }

    fn write(&mut self, at: usize) {
        let Some(slot) = &mut self.clients.slots[at] else { return };
        slot.dirty = false;
        let (tag, load, clock) = (slot.tag, &mut self.load, self.clock);
        let written = slot.client.write(|out, event| load.event(clock.now_ns(), tag, out, event));
        if let Err(closed) = written.and_then(|()| Ok(self.clients.watch(at)?)) {
            self.end(self.clock.now_ns(), at, closed);
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

    fn end(&mut self, now_ns: u64, at: usize, closed: Closed) {
        if let Some(tag) = self.clients.remove(at) {
            self.load.closed(now_ns, tag, closed);
        }
    }
}
