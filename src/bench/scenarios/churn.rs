//! `churn`: connections that come, join and go, again and again.

use std::sync::Arc;

use super::super::client::{Closed, Event, Out, Target};
use super::super::connect::Sources;
use super::super::engine::{Clients, Group, Lane, Load, Next, Tag, Usage};
use super::super::error::BenchError;
use super::super::latencies::Latencies;
use super::super::metric::Metric;
use super::super::options::{ChurnOptions, Dialect, Leave};
use super::super::pace::Pace;
use super::super::signals::{Signals, Timeline};
use super::findings::Findings;
use super::{RATE_REACHED, Run, fresh_channels, partition};
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
    cycle_delay: Latencies,
    /// From the same time to the accepted greeting.
    greeting_delay: Latencies,
    /// Connections that ended before their time.
    disconnected: u64,
}

impl Churn {
    /// One place per channel; the places of other threads have channels of their own.
    fn new(
        options: ChurnOptions,
        target: Target,
        channels: Vec<Arc<str>>,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let count = channels.len();
        Churn {
            sources: Sources::for_churn(target.address),
            channels,
            state: vec![b'.'; options.state_bytes],
            options,
            target,
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
            let tag = Tag { group: Group::Stage, index };
            let source = self.sources.next().flatten();
            clients.open(&self.target, source, tag, Lane::Foreground)?;
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
        let gauges = self.signals.gauges(self.thread);
        gauges.cycles.set(self.cycles_total);
        if now_ns >= timeline.until_ns {
            gauges.settled.set(u64::from(self.empty.len() == self.places.len()));
            return Ok(Next::WhenSomethingHappens);
        }
        self.open(now_ns, clients)
    }

    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        let (measures, index) = (self.measures(now_ns), tag.index);
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
                if measures {
                    self.greeting_delay.record(now_ns.saturating_sub(place.began_ns));
                }
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
        let measures = self.measures(now_ns);
        let place = &mut self.places[tag.index];
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
                self.failure = Some(BenchError::of_end(self.target.address, closed));
            }
        }
        place.stage = Stage::Empty;
        self.empty.push(tag.index);
    }
}

pub(super) fn churn(options: &ChurnOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let (dialect, threads) = (options.dialect, run.common.threads());
    let channels = fresh_channels(options.concurrency);
    let hint = (dialect == Dialect::Sync).then_some(&*channels[0]);
    let target = run.server.target(run.common, dialect, hint)?;
    let parts = partition(channels, threads).into_iter().enumerate();
    let load = |(thread, channels)| {
        Churn::new(options.clone(), target.clone(), channels, run.signals.clone(), thread)
    };
    let mut workers = run.start(parts.map(load).collect())?;
    let window = run.measure(&mut workers, options.time)?;
    workers.settle(run.progress, |_| true)?;

    let mut usage = Usage::default();
    let (mut cycle, mut greeting) = (Latencies::default(), Latencies::default());
    let mut disconnected = 0;
    for (churn, used) in workers.finish()? {
        usage.merge(&used);
        cycle.merge(&churn.cycle_delay);
        greeting.merge(&churn.greeting_delay);
        disconnected += churn.disconnected;
    }
    let mut findings = Findings::of(&window, &usage, disconnected, run.server);
    let per_second = window.per_second(|totals| totals.cycles);
    findings.set(Metric::CyclesPerS, per_second);
    let cycles = window.after.cycles - window.before.cycles;
    findings.add_cpu_per(Metric::ServerNsPerConnection, &window, cycles);
    match options.rate {
        Some(asked) if per_second < asked * RATE_REACHED => {
            let reached = format!("{per_second:.0} of {asked:.0} connections/s were made");
            findings.note(format!("{reached}: overload, or --concurrency is too low"));
        }
        Some(_) => {}
        None => findings.note_bottleneck(),
    }
    findings.add_latency("connect + greet", &greeting);
    findings.add_latency("whole cycle", &cycle);
    Ok(findings)
}
