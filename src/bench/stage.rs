//! The stages of the connections that a thread holds: they open, greet, join and run, then the
//! last messages settle. The load of every scenario but `churn`; scenarios differ in their
//! [`Script`].
//!
//! Invariant: no stage begins before the conductor allows it ([`Allowed`]), so that each can be
//! measured alone.

use super::client::{Closed, Event, Out, Queued, Target};
use super::engine::{ClientId, Clients, Lane, Load, Next, Tag};
use super::error::BenchError;
use super::signals::{Allowed, Counter, ThreadSignals};
use super::time::{Pace, Timeline};
use crate::error::FrameError;

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

/// What the connections of a thread do. They are numbered from 0.
pub trait Script: Send + 'static {
    /// See [`Load::events_max`].
    fn events_max(&self) -> usize {
        1024
    }

    fn connections(&self) -> usize;

    fn target(&self, at: usize) -> Target;

    /// Joins before the run begins. Connections join in order.
    fn join(&mut self, now_ns: u64, at: usize, out: &mut Out<'_>) -> Joining;

    fn begin(&mut self, _timeline: Timeline) {}

    /// Sends what is due, from the beginning of the run on.
    fn run(&mut self, _now_ns: u64, _ids: &[Option<ClientId>], _clients: &mut Clients) -> Next {
        Next::WhenSomethingHappens
    }

    /// Anything but openings, greetings and refusals.
    fn event(&mut self, _now_ns: u64, _at: usize, _event: Event<'_>) -> Result<(), FrameError> {
        Ok(())
    }

    /// The connection ended in the middle of the run.
    fn gone(&mut self, _at: usize) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Opening,
    Open,
    Greeting,
    Greeted,
    Joining,
    Joined,
    Gone,
}

/// One thread's connections.
pub struct Stage<S> {
    pub script: S,
    signals: ThreadSignals,
    ids: Vec<Option<ClientId>>,
    steps: Vec<Step>,
    /// The connection that is the next one to greet, and the next one to join.
    greeting: usize,
    joining: usize,
    /// Connections that wait for an answer.
    under_way: usize,
    timeline: Option<Timeline>,
    heartbeat_s: f64,
    heartbeat: Option<Pace>,
    failure: Option<BenchError>,
}

impl<S: Script> Stage<S> {
    /// Each connection pings once in `heartbeat_s`, never when that is 0.
    pub fn new(script: S, heartbeat_s: f64, signals: ThreadSignals) -> Self {
        Stage {
            script,
            signals,
            ids: Vec::new(),
            steps: Vec::new(),
            greeting: 0,
            joining: 0,
            under_way: 0,
            timeline: None,
            heartbeat_s,
            heartbeat: None,
            failure: None,
        }
    }

    fn has_room(&self, next: usize, count: usize) -> bool {
        next < count && self.under_way < UNDER_WAY_MAX
    }

    /// Lets connections take the steps that are allowed.
    fn advance(&mut self, now_ns: u64, clients: &mut Clients) -> Result<(), BenchError> {
        while self.has_room(self.ids.len(), self.script.connections()) {
            let tag = Tag { lane: Lane::Foreground, index: self.ids.len() };
            self.ids.push(Some(clients.open(&self.script.target(tag.index), tag)?));
            self.steps.push(Step::Opening);
            self.under_way += 1;
        }
        while self.signals.allows(Allowed::Greeting) && self.has_room(self.greeting, self.ids.len())
        {
            let at = self.greeting;
            if let (Step::Open, Some(id)) = (self.steps[at], self.ids[at]) {
                clients.write(id, |out| self.greet(at, out));
                self.under_way += 1;
            }
            self.greeting += 1;
        }
        while self.signals.allows(Allowed::Joining) && self.has_room(self.joining, self.ids.len()) {
            let at = self.joining;
            if let (Step::Greeted, Some(id)) = (self.steps[at], self.ids[at]) {
                let mut joining = Joining::NotYet;
                clients.write(id, |out| joining = self.script.join(now_ns, at, out));
                if joining == Joining::NotYet {
                    break;
                }
                self.steps[at] = Step::Joining;
                self.under_way += 1;
                if joining == Joining::Done {
                    self.note_joined(at);
                }
            }
            self.joining += 1;
        }
        Ok(())
    }

    fn greet(&mut self, at: usize, out: &mut Out<'_>) {
        out.greet();
        self.steps[at] = Step::Greeting;
    }

    fn note_joined(&mut self, at: usize) {
        if self.steps[at] == Step::Joining {
            self.steps[at] = Step::Joined;
            self.under_way -= 1;
            self.signals.add(Counter::Joined, 1);
        }
    }

    fn begin(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        let per_second = self.ids.len() as f64 / self.heartbeat_s;
        let is_wanted = self.heartbeat_s > 0.0 && !self.ids.is_empty();
        self.heartbeat = is_wanted.then(|| Pace::new(timeline.start_ns, per_second, 0.0));
        self.script.begin(timeline);
    }

    /// Lets connections ping whose time has come, one after the other. The stamp of a ping is when
    /// it was due.
    fn beat(&mut self, now_ns: u64, clients: &mut Clients) -> Next {
        let Some(pace) = &mut self.heartbeat else { return Next::WhenSomethingHappens };
        while pace.next_ns() <= now_ns {
            let at = (pace.taken() % self.ids.len() as u64) as usize;
            if let Some(id) = self.ids[at]
                && clients.send(id, |out| out.ping(pace.next_ns())) == Queued::Full
            {
                break;
            }
            pace.take_due(now_ns);
        }
        Next::AtNs(pace.next_ns())
    }

    fn fail(&mut self, failure: BenchError) {
        self.failure.get_or_insert(failure);
    }
}

impl<S: Script> Load for Stage<S> {
    fn events_max(&self) -> usize {
        self.script.events_max()
    }

    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.advance(now_ns, clients)?;
        if self.timeline.is_none()
            && let Some(timeline) = self.signals.timeline()
        {
            self.begin(timeline);
        }
        Ok(match self.timeline {
            Some(timeline) if now_ns < timeline.start_ns => Next::AtNs(timeline.start_ns),
            Some(_) => {
                let next = self.beat(now_ns, clients);
                next.sooner(self.script.run(now_ns, &self.ids, clients))
            }
            None => Next::WhenSomethingHappens,
        })
    }

    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        let at = tag.index;
        match event {
            Event::Open if self.steps[at] == Step::Opening => {
                self.signals.add(Counter::Opened, 1);
                self.steps[at] = Step::Open;
                match self.signals.allows(Allowed::Greeting) {
                    true => self.greet(at, out),
                    false => self.under_way -= 1,
                }
                return;
            }
            Event::Greeted if matches!(self.steps[at], Step::Open | Step::Greeting) => {
                self.signals.add(Counter::Greeted, 1);
                // A peer, which has no credentials, has greeted as soon as it is open.
                self.under_way -= usize::from(self.steps[at] == Step::Greeting);
                self.steps[at] = Step::Greeted;
                return;
            }
            Event::Refused(reason) => {
                let address = self.script.target(at).address;
                return self.fail(BenchError::Refused { address, reason });
            }
            Event::Joined => self.note_joined(at),
            _ => {}
        }
        if let Err(error) = self.script.event(now_ns, at, event) {
            let address = self.script.target(at).address;
            self.fail(BenchError::Ended { address, closed: error.into() });
        }
    }

    fn closed(&mut self, _: u64, tag: Tag, closed: Closed) {
        let (at, address) = (tag.index, self.script.target(tag.index).address);
        self.ids[at] = None;
        self.steps[at] = Step::Gone;
        if self.timeline.is_none() || closed.refusal().is_some() {
            return self.fail(BenchError::of_end(address, closed));
        }
        self.signals.add(Counter::Disconnected, 1);
        self.script.gone(at);
    }
}
