//! `churn`: connections that come, join and go, again and again.

use std::sync::Arc;

use super::super::client::{Closed, Event, Out, Target};
use super::super::engine::{Clients, Lane, NEVER_NS};
use super::super::error::BenchError;
use super::super::latencies::{Delay, Delays};
use super::super::metric::Metric;
use super::super::options::{ChurnOptions, Dialect, Leave};
use super::super::signals::{Counter, ThreadSignals};
use super::super::stage::Script;
use super::super::time::Pace;
use super::super::workers::Run;
use super::findings::Findings;
use super::fresh_channels;

/// Failed connections of one thread after which the run is given up.
const FAILURES_MAX: u64 = 1_000;

/// Connections that are opened in one turn, so that a turn stays short.
const OPENED_PER_TURN: usize = 16;

/// One place in which one connection after the other lives.
#[derive(Clone, Copy, Debug)]
struct Place {
    began_ns: u64,
    awaits: Awaited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Greeting,
    Join,
    End,
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
    pace: Option<Pace>,
    failures: u64,
    delays: Delays,
}

impl Churn {
    /// Records the time since a connection began or should have begun.
    fn record(&mut self, delay: Delay, now_ns: u64, at: usize) {
        if self.signals.measures(now_ns) {
            self.delays[delay].record(now_ns.saturating_sub(self.places[at].began_ns));
        }
    }

    fn open(&mut self, now_ns: u64, clients: &mut Clients) -> Result<u64, BenchError> {
        for _ in 0..OPENED_PER_TURN {
            let Some(&at) = self.empty.last() else { return Ok(NEVER_NS) };
            let due = self.pace.as_mut().map_or(Some(now_ns), |pace| pace.take_due(now_ns));
            let Some(began_ns) = due else { break };
            self.empty.pop();
            self.places[at] = Place { began_ns, awaits: Awaited::Greeting };
            self.signals.add(Counter::Owed, 1);
            clients.open(at, &self.target, Lane::Foreground)?;
        }
        Ok(self.pace.as_ref().map_or(now_ns, Pace::next_ns))
    }

    fn leave(&mut self, now_ns: u64, at: usize) {
        self.signals.add(Counter::Settled, 1);
        self.empty.push(at);
        if self.places[at].awaits == Awaited::End {
            self.signals.add(Counter::Cycles, 1);
            self.record(Delay::Cycle, now_ns, at);
        } else {
            self.signals.add(Counter::Disconnected, 1);
            self.failures += 1;
        }
    }
}

impl Script for Churn {
    const IN_TURN: bool = true;

    fn connections(&self) -> usize {
        0
    }

    fn target(&self, _: usize) -> Target {
        self.target.clone()
    }

    fn run(&mut self, now_ns: u64, clients: &mut Clients) -> Result<u64, BenchError> {
        let timeline = self.signals.timeline();
        let Some(timeline) = timeline.filter(|timeline| now_ns < timeline.until_ns) else {
            self.signals.set(Counter::Finished, 1);
            return Ok(NEVER_NS);
        };
        if let (None, Some(rate)) = (&self.pace, self.options.rate) {
            let share = rate / self.signals.threads() as f64;
            self.pace = Some(Pace::new(timeline.start_ns, share, 0.0));
        }
        self.open(now_ns, clients)
    }

    fn event(
        &mut self,
        now_ns: u64,
        at: usize,
        out: &mut Out<'_>,
        event: Event<'_>,
    ) -> Result<(), Closed> {
        let joins = match (event, self.places[at].awaits) {
            (Event::Open, _) => {
                out.greet();
                self.options.pipelined
            }
            (Event::Greeted, Awaited::Greeting) => {
                self.places[at].awaits = Awaited::Join;
                self.record(Delay::Greeting, now_ns, at);
                !self.options.pipelined
            }
            (Event::Joined, Awaited::Join) => {
                self.places[at].awaits = Awaited::End;
                match self.options.leave {
                    Leave::Goodbye => out.close(),
                    Leave::HangUp => return Err(Closed::ByUs),
                }
                false
            }
            (Event::Refused(refused), _) => return Err(Closed::Refused(refused)),
            _ => false,
        };
        if joins {
            out.join(&self.channels[at], &self.state);
        }
        Ok(())
    }

    fn closed(&mut self, now_ns: u64, at: usize, closed: Closed) -> Result<(), Closed> {
        self.leave(now_ns, at);
        // Broken bytes and refusals come again.
        let is_passing = matches!(closed, Closed::ByServer { .. });
        let is_expected = self.places[at].awaits == Awaited::End;
        if is_expected || is_passing && self.failures <= FAILURES_MAX {
            Ok(())
        } else {
            Err(closed)
        }
    }
}

pub(super) fn churn(o: &ChurnOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let channels = fresh_channels(o.concurrency);
    let hint = (o.base.dialect == Dialect::Sync).then_some(&*channels[0]);
    let target = run.server.target(run.common, o.base.dialect, hint)?;
    let mut workers = run.start(channels, |channels, signals| Churn {
        state: vec![b'.'; o.state_bytes],
        options: o.clone(),
        target: target.clone(),
        signals,
        places: vec![Place { began_ns: 0, awaits: Awaited::End }; channels.len()],
        empty: (0..channels.len()).collect(),
        channels,
        pace: None,
        failures: 0,
        delays: Delays::default(),
    })?;
    let window = workers.measure(o.base.time, None)?;
    workers.settle()?;
    let (churns, turns) = workers.finish()?;
    let mut findings = Findings::of(window, &turns, run);
    findings.set_rate(Metric::CyclesPerS, Counter::Cycles);
    findings.set_cpu_per(Metric::ServerNsPerConnection, findings.window.count(Counter::Cycles));
    findings.add_delays(churns.iter().map(|churn| &churn.delays));
    let done = findings.window.per_second(Counter::Cycles);
    findings.note_pace(o.rate, done, "connections (see --concurrency)");
    Ok(findings)
}
