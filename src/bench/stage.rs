//! The stages of the connections that a thread holds: they open, greet, join and run, then the
//! last messages settle. The load of every scenario but `churn`; scenarios differ in their
//! [`Script`].
//!
//! Invariant: no stage begins before the conductor allows it ([`Signals`]), so that each can be
//! measured alone.

use std::sync::Arc;

use super::client::{Closed, Event, Out, Target};
use super::connect::Sources;
use super::engine::{ClientId, Clients, Group, Lane, Load, Next, Tag};
use super::error::BenchError;
use super::pace::Pace;
use super::signals::{Gauges, Signals, Timeline};
use crate::error::FrameError;

/// Connections of one thread that take a step at once; below every listen backlog.
const UNDER_WAY_MAX: usize = 128;
/// Time between two pings of a member: well below the 30 s after which a silent one expires by
/// default.
pub const HEARTBEAT_S: f64 = 10.0;

/// Is an answer to come?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    Asked,
    /// There is nothing to join.
    Done,
}

/// What the connections of a thread do. They are numbered from 0.
pub trait Script: Send + 'static {
    /// See [`Load::EVENTS_MAX`].
    const EVENTS_MAX: usize = 1024;

    fn connections(&self) -> usize;

    fn target(&self, at: usize) -> Target;

    /// Does it join before the run begins?
    fn joins(&self, _at: usize) -> bool {
        true
    }

    /// Connections join in order; the others wait while this one may not.
    fn may_join(&self, _at: usize) -> bool {
        true
    }

    fn join(&mut self, now_ns: u64, at: usize, out: &mut Out<'_>) -> Joining;

    fn joined(&mut self, _at: usize) {}

    fn begin(&mut self, _timeline: Timeline) {}

    /// Sends what is due, from the beginning of the run on.
    fn run(&mut self, _now_ns: u64, _ids: &[Option<ClientId>], _clients: &mut Clients) -> Next {
        Next::WhenSomethingHappens
    }

    /// What is neither an answer to greeting nor to joining.
    ///
    /// # Errors
    /// It is not what the protocol permits.
    fn event(&mut self, now_ns: u64, at: usize, event: Event<'_>) -> Result<(), FrameError>;

    /// The connection ended in the middle of the run.
    fn gone(&mut self, _at: usize) {}

    /// Tells the conductor how far it is, at the end of a turn.
    fn show(&mut self, _now_ns: u64, _gauges: &Gauges) {}
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

/// Connections that began a step, and those that did it.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    at: usize,
    begun: usize,
    done: usize,
}

impl Walk {
    fn has_room(&self, of: usize) -> bool {
        self.at < of && self.begun.saturating_sub(self.done) < UNDER_WAY_MAX
    }
}

/// One thread's connections.
pub struct Stage<S> {
    pub script: S,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    ids: Vec<Option<ClientId>>,
    steps: Vec<Step>,
    opening: Walk,
    greeting: Walk,
    joining: Walk,
    timeline: Option<Timeline>,
    /// Whose turn it is to ping, and when.
    heartbeat: Option<Pace>,
    heartbeat_s: f64,
    beats: usize,
    failure: Option<BenchError>,
    pub disconnected: u64,
}

impl<S: Script> Stage<S> {
    /// Each connection pings once in `heartbeat_s`, never when that is 0.
    pub fn new(script: S, heartbeat_s: f64, signals: Arc<Signals>, thread: usize) -> Self {
        let count = script.connections();
        let address = (count > 0).then(|| script.target(0).address);
        Stage {
            sources: Sources::for_members(address, count),
            script,
            signals,
            thread,
            ids: vec![None; count],
            steps: vec![Step::Opening; count],
            opening: Walk::default(),
            greeting: Walk::default(),
            joining: Walk::default(),
            timeline: None,
            heartbeat: None,
            heartbeat_s,
            beats: 0,
            failure: None,
            disconnected: 0,
        }
    }

    fn walk(&mut self, now_ns: u64, clients: &mut Clients) -> Result<(), BenchError> {
        let count = self.steps.len();
        // Those that greet at once are under way until that is done.
        self.opening.done = match self.signals.greeting.is_raised() {
            true => self.greeting.done,
            false => self.opening.done,
        };
        while self.opening.has_room(count) {
            let tag = Tag { group: Group::Stage, index: self.opening.at };
            let source = self.sources.next().flatten();
            let target = self.script.target(self.opening.at);
            self.ids[self.opening.at] =
                Some(clients.open(&target, source, tag, Lane::Foreground)?);
            self.opening.at += 1;
            self.opening.begun += 1;
        }
        while self.signals.greeting.is_raised() && self.greeting.has_room(count) {
            let at = self.greeting.at;
            if let (Step::Open, Some(id)) = (self.steps[at], self.ids[at]) {
                clients.write(id, |out| out.greet());
                self.steps[at] = Step::Greeting;
                self.greeting.begun += 1;
            }
            self.greeting.at += 1;
        }
        while self.signals.joining.is_raised() && self.joining.has_room(count) {
            let at = self.joining.at;
            match (self.steps[at], self.ids[at]) {
                (Step::Greeted, Some(id)) if self.script.joins(at) => {
                    if !self.script.may_join(at) {
                        break;
                    }
                    self.join(now_ns, at, id, clients);
                }
                (Step::Opening | Step::Open | Step::Greeting, _) => break,
                _ => {}
            }
            self.joining.at += 1;
        }
        Ok(())
    }

    fn join(&mut self, now_ns: u64, at: usize, id: ClientId, clients: &mut Clients) {
        let mut joining = Joining::Asked;
        clients.write(id, |out| joining = self.script.join(now_ns, at, out));
        self.joining.begun += 1;
        self.steps[at] = Step::Joining;
        if joining == Joining::Done {
            self.note_joined(at);
        }
    }

    fn note_joined(&mut self, at: usize) {
        if self.steps[at] == Step::Joining {
            self.steps[at] = Step::Joined;
            self.joining.done += 1;
            self.script.joined(at);
        }
    }

    fn begin(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        let members = self.steps.len() as f64;
        let is_wanted = self.heartbeat_s > 0.0 && members > 0.0;
        let pace = || Pace::new(timeline.start_ns, members / self.heartbeat_s, 0.0);
        self.heartbeat = is_wanted.then(pace);
        self.script.begin(timeline);
    }

    /// Lets those ping whose time has come, one after the other.
    fn beat(&mut self, now_ns: u64, clients: &mut Clients) -> Next {
        let Some(pace) = &mut self.heartbeat else { return Next::WhenSomethingHappens };
        while pace.take_due(now_ns).is_some() {
            if let Some(id) = self.ids[self.beats % self.ids.len()] {
                let _ = clients.send(id, |out| out.beat());
            }
            self.beats += 1;
        }
        Next::AtNs(pace.next_ns())
    }

    fn fail(&mut self, failure: BenchError) {
        self.failure.get_or_insert(failure);
    }
}

impl<S: Script> Load for Stage<S> {
    const EVENTS_MAX: usize = S::EVENTS_MAX;

    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.walk(now_ns, clients)?;
        if self.timeline.is_none()
            && let Some(timeline) = self.signals.timeline()
        {
            self.begin(timeline);
        }
        let next = match self.timeline {
            Some(timeline) if now_ns < timeline.start_ns => Next::AtNs(timeline.start_ns),
            Some(_) => {
                let next = self.beat(now_ns, clients);
                next.sooner(self.script.run(now_ns, &self.ids, clients))
            }
            None => Next::WhenSomethingHappens,
        };
        let gauges = self.signals.gauges(self.thread);
        gauges.greeted.set(self.greeting.done as u64);
        gauges.joined.set(self.joining.done as u64);
        self.script.show(now_ns, gauges);
        Ok(next)
    }

    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        let at = tag.index;
        match event {
            Event::Open => {
                self.signals.gauges(self.thread).opened.add(1);
                self.opening.done += 1;
                self.steps[at] = Step::Open;
                if self.signals.greeting.is_raised() {
                    out.greet();
                    self.steps[at] = Step::Greeting;
                    self.greeting.begun += 1;
                }
            }
            Event::Greeted => {
                self.steps[at] = Step::Greeted;
                self.greeting.done += 1;
            }
            Event::Joined => self.note_joined(at),
            Event::Refused(reason) => {
                let address = self.script.target(at).address;
                self.fail(BenchError::Refused { address, reason });
            }
            event => {
                if let Err(error) = self.script.event(now_ns, at, event) {
                    let address = self.script.target(at).address;
                    self.fail(BenchError::Ended { address, closed: error.into() });
                }
            }
        }
    }

    fn closed(&mut self, _: u64, tag: Tag, closed: Closed) {
        let (at, address) = (tag.index, self.script.target(tag.index).address);
        self.ids[at] = None;
        self.steps[at] = Step::Gone;
        if self.timeline.is_none() || closed.refusal().is_some() {
            return self.fail(BenchError::of_end(address, closed));
        }
        self.disconnected += 1;
        self.script.gone(at);
    }
}
