//! Connections that stay and do nothing: the load of `idle`. All of them take each step, opening,
//! greeting and joining, before any takes the next one, so that each can be weighed.

use std::sync::Arc;

use super::client::{Closed, Event, Outbound, Sources, Target};
use super::engine::{ClientId, Clients, Group, Lane, Load, Next, Who};
use super::entry::{self, Step};
use super::error::BenchError;
use super::heartbeat::Heartbeat;
use super::signals::Signals;

/// Connections of one thread that take a step at once; below every listen backlog.
const UNDER_WAY_MAX: usize = 128;

/// One connection to be. It is to be told when to greet.
#[derive(Clone, Debug)]
pub struct StayPlan {
    pub target: Target,
    pub channel: Arc<str>,
}

/// What all threads of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct IdlePlan {
    /// Of a member on the sync wire.
    pub state_bytes: usize,
    /// Between two pings of a connection; 0 for none.
    pub heartbeat_s: f64,
}

/// One thread's connections.
pub struct Idle {
    plan: IdlePlan,
    stays: Vec<StayPlan>,
    clients: Vec<Option<ClientId>>,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    state: Vec<u8>,
    opening: Walk,
    greeting: Walk,
    joining: Walk,
    heartbeat: Heartbeat,
    measuring: bool,
    failure: Option<BenchError>,
    pub disconnected: u64,
}

/// How far the connections of a thread took one step.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    begun: usize,
    done: usize,
}

impl Walk {
    /// The next one that may begin. Redis is greeted before anybody begins.
    fn begin(&mut self, of: usize) -> Option<usize> {
        let may = self.begun < of && self.begun.saturating_sub(self.done) < UNDER_WAY_MAX;
        may.then(|| {
            self.begun += 1;
            self.begun - 1
        })
    }
}

impl Idle {
    pub fn new(
        plan: IdlePlan,
        stays: Vec<StayPlan>,
        sources: Sources,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        Idle {
            plan,
            clients: vec![None; stays.len()],
            stays,
            signals,
            thread,
            sources,
            state: vec![b'.'; plan.state_bytes],
            opening: Walk::default(),
            greeting: Walk::default(),
            joining: Walk::default(),
            heartbeat: Heartbeat::default(),
            measuring: false,
            failure: None,
            disconnected: 0,
        }
    }

    fn walk(&mut self, clients: &mut Clients) -> Result<(), BenchError> {
        let count = self.stays.len();
        while let Some(index) = self.opening.begin(count) {
            let who = Who { group: Group::Room, index };
            let source = self.sources.next().flatten();
            let target = &self.stays[index].target;
            self.clients[index] = Some(clients.open(target, source, who, Lane::Foreground)?);
        }
        while self.signals.may_greet()
            && let Some(index) = self.greeting.begin(count)
        {
            self.clients[index].inspect(|&client| clients.greet(client));
        }
        while self.signals.may_join()
            && let Some(index) = self.joining.begin(count)
        {
            let stay = &self.stays[index];
            let dialect = stay.target.dialect();
            if let Some(client) = self.clients[index] {
                clients.say(client, |out| entry::join(dialect, &stay.channel, &self.state, out));
            }
        }
        Ok(())
    }

    fn show(&self) {
        let gauges = self.signals.gauges(self.thread);
        gauges.opened.set(self.opening.done as u64);
        gauges.greeted.set(self.greeting.done as u64);
        gauges.joined.set(self.joining.done as u64);
    }

    fn fail(&mut self, failure: BenchError) {
        self.failure.get_or_insert(failure);
    }
}

impl Load for Idle {
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.walk(clients)?;
        if let (false, Some(timeline)) = (self.measuring, self.signals.timeline()) {
            self.measuring = true;
            let (start_ns, every_s) = (timeline.start_ns, self.plan.heartbeat_s);
            self.heartbeat = Heartbeat::start(start_ns, self.stays.len(), every_s);
        }
        self.show();
        Ok(self
            .heartbeat
            .beat(now_ns, clients, |at| Some((self.clients[at]?, self.stays[at].target.dialect()))))
    }

    fn event(&mut self, _: u64, who: Who, _: &mut Outbound, event: Event<'_>) {
        let target = &self.stays[who.index].target;
        let (address, dialect) = (target.address, target.dialect());
        if let Event::Open = event {
            self.opening.done += 1;
        }
        let mut steps = Vec::new();
        if let Err(error) = entry::steps(dialect, &event, |step| steps.push(step)) {
            self.fail(BenchError::Ended { address, closed: Closed::Broken(error) });
        }
        for step in steps {
            match step {
                Step::Greeted => self.greeting.done += 1,
                Step::Joined => self.joining.done += 1,
                Step::Refused { reason } => self.fail(BenchError::Refused { address, reason }),
            }
        }
    }

    fn closed(&mut self, _: u64, who: Who, closed: Closed) {
        self.clients[who.index] = None;
        let address = self.stays[who.index].target.address;
        if !self.measuring {
            return self.fail(BenchError::Ended { address, closed });
        }
        self.disconnected += 1;
    }
}
