//! Connections that come, join and go, again and again: the load of `churn`.

use std::sync::Arc;

use super::client::{Closed, Event, Out, Target};
use super::connect::Sources;
use super::engine::{Clients, Group, Lane, Load, Next, Who};
use super::error::BenchError;
use super::latencies::Latencies;
use super::options::Leave;
use super::pace::Pace;
use super::signals::{Signals, Timeline};
use crate::client::protocol;

/// Failed connections of one thread after which the run is given up.
const FAILURES_MAX: u64 = 1_000;

/// Connections that are opened in one turn, so that a turn stays short.
const OPENED_PER_TURN: usize = 16;

/// What all threads of a run have in common.
#[derive(Clone, Debug)]
pub struct ChurnPlan {
    pub target: Target,
    pub leave: Leave,
    /// Subscribe or enter before the server has accepted the credentials?
    pub pipelined: bool,
    /// Of a member on the sync wire.
    pub state_bytes: usize,
    /// Connections per second and thread, on schedule; as many as there are places without it.
    pub rate: Option<f64>,
}

/// One place in which one connection after the other lives.
#[derive(Clone, Copy, Debug)]
struct Place {
    began_ns: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Empty,
    Greeting,
    Joining,
    Leaving,
}

/// One thread's places.
pub struct Churn {
    plan: ChurnPlan,
    channels: Vec<Arc<str>>,
    state: Vec<u8>,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    places: Vec<Place>,
    empty: Vec<usize>,
    timeline: Option<Timeline>,
    pace: Option<Pace>,
    cycles_total: u64,
    failure: Option<BenchError>,
    /// From `connect`, or when that was due, to the end of the connection.
    pub cycle_delay: Latencies,
    /// From the same time to the accepted greeting.
    pub greeting_delay: Latencies,
    /// Connections that ended before their time.
    pub disconnected: u64,
}

impl Churn {
    /// One place per channel; the places of other threads have channels of their own.
    pub fn new(
        plan: ChurnPlan,
        channels: Vec<Arc<str>>,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let count = channels.len();
        Churn {
            sources: Sources::for_churn(plan.target.address),
            channels,
            state: vec![b'.'; plan.state_bytes],
            plan,
            signals,
            thread,
            places: vec![Place { began_ns: 0, stage: Stage::Empty }; count],
            empty: (0..count).collect(),
            timeline: None,
            pace: None,
            cycles_total: 0,
            failure: None,
            cycle_delay: Latencies::default(),
            greeting_delay: Latencies::default(),
            disconnected: 0,
        }
    }

    fn measures(&self, now_ns: u64) -> bool {
        self.timeline.is_some_and(|timeline| timeline.measures(now_ns))
    }

    /// When the next connection should begin, if that time has come.
    fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        match &mut self.pace {
            Some(pace) => pace.take_due(now_ns),
            None => Some(now_ns),
        }
    }

    fn open(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        for _ in 0..OPENED_PER_TURN {
            let Some(&index) = self.empty.last() else { return Ok(Next::WhenSomethingHappens) };
            let Some(began_ns) = self.take_due(now_ns) else { break };
            self.empty.pop();
            self.places[index] = Place { began_ns, stage: Stage::Greeting };
            let who = Who { group: Group::Stage, index };
            let source = self.sources.next().flatten();
            clients.open(&self.plan.target, source, who, Lane::Foreground)?;
        }
        Ok(self.pace.as_ref().map_or(Next::Now, |pace| Next::AtNs(pace.next_ns())))
    }

    fn join(&self, index: usize, out: &mut Out<'_>) {
        out.join(&self.channels[index], &self.state);
    }
}

impl Load for Churn {
    const IN_TURN: bool = true;

    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.timeline.is_none()
            && let Some(timeline) = self.signals.timeline()
        {
            self.timeline = Some(timeline);
            let pace = |per_second| Pace::new(timeline.start_ns, per_second, 0.0);
            self.pace = self.plan.rate.map(pace);
        }
        let Some(timeline) = self.timeline else { return Ok(Next::WhenSomethingHappens) };
        let gauges = self.signals.gauges(self.thread);
        gauges.cycles.set(self.cycles_total);
        if now_ns >= timeline.until_ns {
            gauges.settled.set(u64::from(self.empty.len() == self.places.len()));
            return Ok(Next::WhenSomethingHappens);
        }
        self.open(now_ns, clients)
    }

    fn event(&mut self, now_ns: u64, who: Who, out: &mut Out<'_>, event: Event<'_>) {
        let (measures, index) = (self.measures(now_ns), who.index);
        let place = &mut self.places[index];
        match (event, place.stage) {
            (Event::Open, _) => {
                out.greet();
                if self.plan.pipelined {
                    self.join(index, out);
                }
            }
            (Event::Greeted, Stage::Greeting) => {
                place.stage = Stage::Joining;
                if measures {
                    self.greeting_delay.record(now_ns.saturating_sub(place.began_ns));
                }
                if !self.plan.pipelined {
                    self.join(index, out);
                }
            }
            (Event::Joined, Stage::Joining) => {
                place.stage = Stage::Leaving;
                match self.plan.leave {
                    Leave::Goodbye => out.close(),
                    Leave::HangUp => out.hang_up(),
                }
            }
            (Event::Refused(reason), _) => {
                let address = self.plan.target.address;
                self.failure = Some(BenchError::Refused { address, reason });
            }
            _ => {}
        }
    }

    fn closed(&mut self, now_ns: u64, who: Who, closed: Closed) {
        let measures = self.measures(now_ns);
        let place = &mut self.places[who.index];
        if place.stage == Stage::Leaving {
            self.cycles_total += 1;
            if measures {
                self.cycle_delay.record(now_ns.saturating_sub(place.began_ns));
            }
        } else {
            self.disconnected += 1;
            // Broken bytes and refusals come again.
            let is_final = !matches!(
                closed,
                Closed::Failed(_) | Closed::Protocol(protocol::Closed::ByServer { .. })
            );
            if is_final || self.disconnected > FAILURES_MAX {
                self.failure = Some(BenchError::of_end(self.plan.target.address, closed));
            }
        }
        place.stage = Stage::Empty;
        self.empty.push(who.index);
    }
}
