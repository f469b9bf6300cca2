//! The steps of a thread's connections: they open, greet and join, then the run begins. Scenarios
//! differ in their [`Script`].
//!
//! Invariant: no step is taken before the conductor allows it ([`Step`]), so that each can be
//! measured alone.

use enum_map::EnumMap;

use super::client::{Closed, Event, Out, Target};
use super::engine::{Clients, Lane, NEVER_NS};
use super::error::BenchError;
use super::signals::{Counter, Step, ThreadSignals};
use super::time::Pace;

/// Connections of one thread that take a step at once; below every listen backlog.
const UNDER_WAY_MAX: usize = 128;
/// Time between two pings of a member: well below the 30 s after which a silent one expires by
/// default.
pub const HEARTBEAT_S: f64 = 10.0;

/// What became of a request to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// The answer is to come.
    Asked,
    /// There is nothing to join.
    Done,
    /// This connection and those behind it have to wait for others.
    NotYet,
}

/// What the connections of a thread do.
pub trait Script: Send + 'static {
    /// Does nearly every connection wait for an answer all the time? A thread that spins then reads
    /// them in turn, and does not ask the kernel which can be read. A turn that finds no answer
    /// counts as idle, though one may wait further back in the line.
    const IN_TURN: bool = false;

    /// Most sockets that are read between two turns.
    fn events_max(&self) -> usize {
        1024
    }

    /// Connections that are there before the run begins and stay, numbered from 0. Those with
    /// higher numbers are the script's own: it opens them, and receives every event of them.
    fn connections(&self) -> usize;

    /// How often each of [`Script::connections`] pings; never when that is 0.
    fn heartbeat_s(&self) -> f64 {
        0.0
    }

    fn target(&self, at: usize) -> Target;

    /// Joins before the run begins. Connections join in order.
    fn join(&mut self, _now_ns: u64, _at: usize, _out: &mut Out<'_>) -> Joining {
        Joining::Done
    }

    /// Sends what is due, from the beginning of the run on. Returns when something will be again.
    fn run(&mut self, _now_ns: u64, _clients: &mut Clients) -> Result<u64, BenchError> {
        Ok(NEVER_NS)
    }

    /// One frame came; refusals of those that are there before the run end them instead. What is
    /// written to `out` leaves within this turn. An error ends the connection.
    fn event(
        &mut self,
        _now_ns: u64,
        _at: usize,
        _out: &mut Out<'_>,
        _event: Event<'_>,
    ) -> Result<(), Closed> {
        Ok(())
    }

    /// The connection ended in the middle of the run. An error ends the run.
    fn closed(&mut self, _now_ns: u64, _at: usize, _closed: Closed) -> Result<(), Closed> {
        Ok(())
    }
}

/// One thread's connections.
pub struct Stage<S> {
    pub script: S,
    signals: ThreadSignals,
    /// By connection: the last step that it has taken.
    steps: Vec<Step>,
    /// By step: the connection that is the next one to be asked to take it.
    next: EnumMap<Step, usize>,
    /// Connections that were asked to take a step and have not.
    under_way: usize,
    heartbeat: Option<Pace>,
    failure: Option<BenchError>,
}

impl<S: Script> Stage<S> {
    pub fn new(script: S, signals: ThreadSignals) -> Self {
        Stage {
            steps: vec![Step::Created; script.connections()],
            script,
            signals,
            next: EnumMap::default(),
            under_way: 0,
            heartbeat: None,
            failure: None,
        }
    }

    /// Opens what is to be opened and sends what is due. Returns when something will be again.
    pub fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<u64, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some(timeline) = self.signals.timeline() else {
            self.advance(now_ns, clients)?;
            return Ok(NEVER_NS);
        };
        if now_ns < timeline.start_ns {
            return Ok(timeline.start_ns);
        }
        let next_ns = self.beat(now_ns, timeline.start_ns, clients);
        Ok(next_ns.min(self.script.run(now_ns, clients)?))
    }

    /// Asks connections to take the steps that are allowed.
    fn advance(&mut self, now_ns: u64, clients: &mut Clients) -> Result<(), BenchError> {
        for step in [Step::Opened, Step::Greeted, Step::Joined] {
            while self.signals.allows(step)
                && self.next[step] < self.steps.len()
                && self.under_way < UNDER_WAY_MAX
            {
                let at = self.next[step];
                let mut joining = Joining::Asked;
                match step {
                    // A peer, which has no credentials, has greeted as soon as it is open.
                    _ if self.steps[at] >= step => joining = Joining::Done,
                    Step::Opened => clients.open(at, &self.script.target(at), Lane::Foreground)?,
                    Step::Greeted => clients.write(at, |out| out.greet()),
                    _ => clients.write(at, |out| joining = self.script.join(now_ns, at, out)),
                }
                match joining {
                    Joining::NotYet => return Ok(()),
                    Joining::Done => self.take(at, step, Counter::Joined),
                    Joining::Asked => self.under_way += 1,
                }
                self.next[step] += 1;
            }
        }
        Ok(())
    }

    /// Counts a step that a connection has taken, asked or not.
    fn take(&mut self, at: usize, step: Step, counter: Counter) {
        if self.steps[at] < step {
            self.steps[at] = step;
            self.under_way -= usize::from(at < self.next[step]);
            self.signals.add(counter, 1);
        }
    }

    /// Lets connections ping whose time has come, one after the other. The stamp of a ping is when
    /// it was due.
    fn beat(&mut self, now_ns: u64, start_ns: u64, clients: &mut Clients) -> u64 {
        let (count, every_s) = (self.steps.len(), self.script.heartbeat_s());
        if count == 0 || every_s <= 0.0 {
            return NEVER_NS;
        }
        let begin = || Pace::new(start_ns, count as f64 / every_s, 0.0);
        let pace = self.heartbeat.get_or_insert_with(begin);
        while pace.next_ns() <= now_ns {
            let at = (pace.taken() % count as u64) as usize;
            if clients.is_open(at) && !clients.send(at, |out| out.ping(pace.next_ns())) {
                break;
            }
            pace.take_due(now_ns);
        }
        pace.next_ns()
    }

    /// An error ends the connection.
    pub fn event(
        &mut self,
        now_ns: u64,
        at: usize,
        out: &mut Out<'_>,
        event: Event<'_>,
    ) -> Result<(), Closed> {
        match event {
            _ if at >= self.steps.len() => {}
            Event::Open => self.take(at, Step::Opened, Counter::Opened),
            Event::Greeted => self.take(at, Step::Greeted, Counter::Greeted),
            Event::Joined => self.take(at, Step::Joined, Counter::Joined),
            Event::Refused(refused) => return Err(Closed::Refused(refused)),
            _ => {}
        }
        self.script.event(now_ns, at, out, event)
    }

    pub fn closed(&mut self, now_ns: u64, at: usize, closed: Closed) {
        let is_passing = matches!(closed, Closed::ByServer { .. });
        if at < self.steps.len() {
            if self.signals.timeline().is_none() || !is_passing {
                return self.fail(at, closed);
            }
            self.signals.add(Counter::Disconnected, 1);
        }
        if let Err(closed) = self.script.closed(now_ns, at, closed) {
            self.fail(at, closed);
        }
    }

    fn fail(&mut self, at: usize, closed: Closed) {
        let address = self.script.target(at).address;
        self.failure.get_or_insert(BenchError::Ended { address, closed });
    }
}
