//! Connections that come, say one thing and go.

use std::sync::Arc;

use super::client::{Closed, Event, Outbound, Sources, Target};
use super::engine::{Clients, Group, Lane, Load, Next, Who};
use super::error::BenchError;
use super::latencies::Latencies;
use super::signals::{Signals, Timeline};

/// Failed connections of one thread after which the run is given up.
const FAILURES_MAX: u64 = 1_000;

/// Connections that are opened in one turn, so that a turn stays short.
const OPENED_PER_TURN: usize = 16;

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
    target: Target,
    channels: Vec<Arc<str>>,
    state: Vec<u8>,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    places: Vec<Place>,
    empty: Vec<usize>,
    timeline: Option<Timeline>,
    cycles_total: u64,
    failure: Option<BenchError>,
    /// From `connect` to the end of the connection.
    pub cycle_delay: Latencies,
    /// From `connect` to the accepted handshake.
    pub greeting_delay: Latencies,
    /// Connections that ended before their time.
    pub disconnected: u64,
}

impl Churn {
    /// One place per channel; the places of other threads have channels of their own.
    pub fn new(
        target: Target,
        channels: Vec<Arc<str>>,
        state_bytes: usize,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let count = channels.len();
        Churn {
            sources: Sources::for_churn(target.address),
            target,
            channels,
            state: vec![b'.'; state_bytes],
            signals,
            thread,
            places: vec![Place { began_ns: 0, stage: Stage::Empty }; count],
            empty: (0..count).collect(),
            timeline: None,
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
}

impl Load for Churn {
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.timeline = self.timeline.or_else(|| self.signals.timeline());
        let Some(timeline) = self.timeline else { return Ok(Next::WhenSomethingHappens) };
        let gauges = self.signals.gauges(self.thread);
        gauges.cycles.set(self.cycles_total);
        if now_ns >= timeline.until_ns {
            gauges.settled.set(u64::from(self.empty.len() == self.places.len()));
            return Ok(Next::WhenSomethingHappens);
        }
        for _ in 0..OPENED_PER_TURN {
            let Some(index) = self.empty.pop() else { break };
            let who = Who { group: Group::Churn, index };
            self.places[index] = Place { began_ns: now_ns, stage: Stage::Greeting };
            let source = self.sources.next().flatten();
            clients.open(&self.target, source, who, Lane::Foreground)?;
        }
        Ok(if self.empty.is_empty() { Next::WhenSomethingHappens } else { Next::Now })
    }

    fn event(&mut self, now_ns: u64, who: Who, out: &mut Outbound, event: Event<'_>) {
        let measures = self.measures(now_ns);
        let place = &mut self.places[who.index];
        match (event, place.stage) {
            (Event::Ready, Stage::Greeting) => {
                place.stage = Stage::Joining;
                if measures {
                    self.greeting_delay.record(now_ns - place.began_ns);
                }
                let _ = out.update(&self.channels[who.index], &self.state);
                let _ = out.ping(now_ns);
            }
            // The pong follows the update, so the member is in.
            (Event::Pong { .. }, Stage::Joining) => {
                place.stage = Stage::Leaving;
                out.close();
            }
            (Event::Refused { reason }, _) => {
                let (address, reason) = (self.target.address, reason.to_owned());
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
                self.cycle_delay.record(now_ns - place.began_ns);
            }
        } else {
            self.disconnected += 1;
            if self.disconnected > FAILURES_MAX {
                let address = self.target.address;
                self.failure = Some(BenchError::Ended { address, closed });
            }
        }
        place.stage = Stage::Empty;
        self.empty.push(who.index);
    }
}
