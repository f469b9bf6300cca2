//! `churn`: connections that come, join and go, again and again.

use std::sync::Arc;

use super::super::client::{Closed, Event, Out, Target};
use super::super::engine::{Clients, Lane, Load, Next, Tag};
use super::super::error::BenchError;
use super::super::latencies::{Delay, Delays};
use super::super::metric::Metric;
use super::super::options::{ChurnOptions, Dialect, Leave};
use super::super::signals::{Counter, ThreadSignals};
use super::super::time::{Pace, Timeline};
use super::super::workers::Run;
use super::findings::Findings;
use super::fresh_channels;
use crate::client::protocol;

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
struct Churn {
    options: ChurnOptions,
    target: Target,
    channels: Vec<Arc<str>>,
    state: Vec<u8>,
    signals: ThreadSignals,
    places: Vec<Place>,
    empty: Vec<usize>,
    timeline: Option<Timeline>,
    pace: Option<Pace>,
    failures: u64,
    failure: Option<BenchError>,
    delays: Delays,
}

impl Churn {
    /// One place per channel; the places of other threads have channels of their own.
    fn new(
        options: ChurnOptions,
        target: Target,
        channels: Vec<Arc<str>>,
        signals: ThreadSignals,
    ) -> Self {
        let count = channels.len();
        Churn {
            channels,
            state: vec![b'.'; options.state_bytes],
            options,
            target,
            signals,
            places: vec![Place { began_ns: 0, stage: Stage::Empty }; count],
            empty: (0..count).collect(),
            timeline: None,
            pace: None,
            failures: 0,
            failure: None,
            delays: Delays::default(),
        }
    }

    /// Records the time since a connection began or should have begun.
    fn record(&mut self, delay: Delay, now_ns: u64, began_ns: u64) {
        if self.timeline.is_some_and(|timeline| timeline.measures(now_ns)) {
            self.delays[delay].record(now_ns.saturating_sub(began_ns));
        }
    }

    fn open(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        for _ in 0..OPENED_PER_TURN {
            let Some(&index) = self.empty.last() else { return Ok(Next::WhenSomethingHappens) };
            let due = self.pace.as_mut().map_or(Some(now_ns), |pace| pace.take_due(now_ns));
            let Some(began_ns) = due else { break };
            self.empty.pop();
            self.places[index] = Place { began_ns, stage: Stage::Greeting };
            clients.open(&self.target, Tag { lane: Lane::Foreground, index })?;
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
            let share = 1.0 / self.signals.threads() as f64;
            let pace = |rate| Pace::new(timeline.start_ns, rate * share, 0.0);
            self.pace = self.options.rate.map(pace);
        }
        let Some(timeline) = self.timeline else { return Ok(Next::WhenSomethingHappens) };
        if now_ns >= timeline.until_ns {
            let is_settled = self.empty.len() == self.places.len();
            self.signals.set(Counter::Settled, u64::from(is_settled));
            return Ok(Next::WhenSomethingHappens);
        }
        self.open(now_ns, clients)
    }

    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        let index = tag.index;
        let place = &mut self.places[index];
        match (event, place.stage) {
            (Event::Open, _) => {
                out.greet();
                if self.options.pipelined {
                    self.join(index, out);
                }
            }
            (Event::Greeted, Stage::Greeting) => {
                place.stage = Stage::Joining;
                let began_ns = place.began_ns;
                self.record(Delay::Greeting, now_ns, began_ns);
                if !self.options.pipelined {
                    self.join(index, out);
                }
            }
            (Event::Joined, Stage::Joining) => {
                place.stage = Stage::Leaving;
                match self.options.leave {
                    Leave::Goodbye => out.close(),
                    Leave::HangUp => out.hang_up(),
                }
            }
            (Event::Refused(reason), _) => {
                let address = self.target.address;
                self.failure = Some(BenchError::Refused { address, reason });
            }
            _ => {}
        }
    }

    fn closed(&mut self, now_ns: u64, tag: Tag, closed: Closed) {
        let Place { began_ns, stage } = self.places[tag.index];
        self.places[tag.index].stage = Stage::Empty;
        self.empty.push(tag.index);
        if stage == Stage::Leaving {
            self.signals.add(Counter::Cycles, 1);
            return self.record(Delay::Cycle, now_ns, began_ns);
        }
        self.signals.add(Counter::Disconnected, 1);
        self.failures += 1;
        // Broken bytes and refusals come again.
        let is_final = !matches!(
            closed,
            Closed::Failed(_) | Closed::Protocol(protocol::Closed::ByServer { .. })
        );
        if is_final || self.failures > FAILURES_MAX {
            self.failure = Some(BenchError::of_end(self.target.address, closed));
        }
    }
}

pub(super) fn churn(o: &ChurnOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let channels = fresh_channels(o.concurrency);
    let hint = (o.dialect == Dialect::Sync).then_some(&*channels[0]);
    let target = run.server.target(run.common, o.dialect, hint)?;
    let loads = run.loads(channels, |channels, signals| {
        Churn::new(o.clone(), target.clone(), channels, signals)
    });
    let mut workers = run.start(loads)?;
    let window = workers.measure(o.time, None)?;
    workers.settle(0)?;
    let (churns, turns) = workers.finish()?;
    let mut findings = Findings::of(window, &turns, run);
    findings.set_rate(Metric::CyclesPerS, Counter::Cycles);
    findings.set_cpu_per(Metric::ServerNsPerConnection, findings.window.count(Counter::Cycles));
    findings.add_delays(churns.iter().map(|churn| &churn.delays));
    match o.rate {
        Some(rate) => {
            let done = findings.window.per_second(Counter::Cycles);
            findings.note_overload(done, rate, "connections (see --concurrency)");
        }
        None => findings.note_bottleneck(),
    }
    Ok(findings)
}
