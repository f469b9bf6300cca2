//! The threads of one run, and the conductor that leads them through its stages.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use super::engine::Engine;
use super::error::BenchError;
use super::interrupt;
use super::latencies::Latencies;
use super::options::{Common, Time};
use super::process::{CpuTime, CpuUse};
use super::progress::Progress;
use super::scenarios::Server;
use super::signals::{Counter, Signals, Step, ThreadSignals, Totals};
use super::stage::Script;
use super::time::{Clock, Timeline, nanos};

/// How often the conductor looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time for the threads to see that the run begins.
const LEAD: Duration = Duration::from_millis(20);
/// Longest wait for connecting and joining without any progress.
const STUCK_AFTER: Duration = Duration::from_secs(15);
/// Longest wait for final states without any progress. The server sends conflated ones within a
/// second.
const SETTLE_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for a server that has accepted more than it could deliver.
const SETTLE_WITHIN_MAX: Duration = Duration::from_secs(30);

/// The measured time, from both ends.
#[derive(Clone, Debug)]
pub struct Window {
    pub seconds: f64,
    /// Of the server, when it can be seen.
    pub cpu: Option<CpuUse>,
    before: Totals,
    after: Totals,
}

impl Window {
    pub fn count(&self, counter: Counter) -> u64 {
        self.after[counter].saturating_sub(self.before[counter])
    }

    pub fn per_second(&self, counter: Counter) -> f64 {
        self.count(counter) as f64 / self.seconds
    }
}

/// What a scenario is run with.
pub struct Run<'a> {
    pub common: &'a Common,
    pub server: &'a Server,
    pub progress: &'a Progress,
    pub signals: Arc<Signals>,
}

impl Run<'_> {
    /// Starts the threads, each with a script for its part of the things.
    pub fn start<T, S: Script>(
        &self,
        things: impl IntoIterator<Item = T>,
        make: impl Fn(Vec<T>, ThreadSignals) -> S,
    ) -> Result<Workers<'_, S>, BenchError> {
        let count = self.signals.threads();
        let mut parts: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
        things.into_iter().enumerate().for_each(|(at, thing)| parts[at % count].push(thing));
        let clock = Clock::start();
        let mut workers = Workers { run: self, threads: Vec::new(), clock, connections: 0 };
        for (thread, part) in parts.into_iter().enumerate() {
            let signals = ThreadSignals::of(&self.signals, thread);
            let script = make(part, signals.clone());
            workers.connections += script.connections();
            let engine = Engine::new(script, clock, self.common.wait, signals)?;
            let cpu = self.common.client_cpus.get(thread).copied();
            workers.threads.push(spawn(engine, thread, cpu)?);
        }
        Ok(workers)
    }
}

type Ended<S> = Result<(S, Latencies), BenchError>;

/// Running threads.
pub struct Workers<'a, S> {
    run: &'a Run<'a>,
    threads: Vec<JoinHandle<Ended<S>>>,
    clock: Clock,
    connections: usize,
}

impl<S: Script> Workers<'_, S> {
    /// Leads all connections through their steps, and calls `before` each.
    pub fn enter(&mut self, mut before: impl FnMut()) -> Result<(), BenchError> {
        let steps = [
            ("connecting", Step::Opened, Counter::Opened),
            ("greeting", Step::Greeted, Counter::Greeted),
            ("joining", Step::Joined, Counter::Joined),
        ];
        let count = self.connections as u64;
        for (what, step, counter) in steps {
            before();
            self.run.signals.allow(step);
            self.run.progress.stage(format_args!("{what} {count}"));
            let left = |totals: &Totals| count.saturating_sub(totals[counter]);
            let stuck = self.wait(Duration::MAX, STUCK_AFTER, left)?;
            if stuck > 0 {
                return Err(BenchError::Timeout { what, reached: count - stuck, count });
            }
        }
        Ok(())
    }

    /// Lets the run begin and measures it, until so many receivers are complete if that is sooner.
    pub fn measure(&mut self, time: Time, complete: Option<u64>) -> Result<Window, BenchError> {
        let (run, Time { warm_up, duration }) = (self.run, time);
        let (begins, start_ns) = (Instant::now() + LEAD, self.clock.now_ns() + nanos(LEAD));
        let from_ns = start_ns + nanos(warm_up.0);
        run.signals.begin(Timeline { start_ns, from_ns, until_ns: from_ns + nanos(duration.0) });
        if !warm_up.0.is_zero() {
            run.progress.stage("warming up");
            self.wait(time_until(begins + warm_up.0), Duration::MAX, |_| 1)?;
        }
        let server_cpu = || run.server.pid.and_then(CpuTime::of);
        let look = || (Instant::now(), run.signals.totals(), server_cpu());
        let (from, before, cpu_before) = look();
        run.progress.stage(format_args!("measuring {duration}"));
        let complete = complete.unwrap_or(u64::MAX);
        let left = |totals: &Totals| complete.saturating_sub(totals[Counter::Complete]);
        self.wait(time_until(begins + warm_up.0 + duration.0), Duration::MAX, left)?;
        let (until, after, cpu_after) = look();
        let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
        Ok(Window { seconds: (until - from).as_secs_f64(), cpu, before, after })
    }

    /// Waits until every thread asks for nothing more and everything has come. What does not come
    /// in time is lost.
    pub fn settle(&mut self) -> Result<(), BenchError> {
        self.run.progress.stage("settling");
        let threads = self.threads.len() as u64;
        self.wait(SETTLE_WITHIN_MAX, SETTLE_WITHIN, |totals| {
            let busy = threads.saturating_sub(totals[Counter::Finished]);
            totals[Counter::Owed].saturating_sub(totals[Counter::Settled]).max(busy)
        })
        .map(|_lost| ())
    }

    /// Ends the threads and gives their scripts, and how long their turns took.
    pub fn finish(mut self) -> Result<(Vec<S>, Latencies), BenchError> {
        self.run.signals.allow(Step::Ended);
        let (mut scripts, mut turns) = (Vec::new(), Latencies::default());
        for (index, thread) in std::mem::take(&mut self.threads).into_iter().enumerate() {
            let (script, took) = join(index, thread)?;
            scripts.push(script);
            turns.merge(&took);
        }
        Ok((scripts, turns))
    }

    /// Waits until nothing is left, `limit` is over, or what is left has not changed for
    /// `patience`. Returns what is left.
    fn wait(
        &mut self,
        limit: Duration,
        patience: Duration,
        left: impl Fn(&Totals) -> u64,
    ) -> Result<u64, BenchError> {
        let began = Instant::now();
        let (mut seen, mut since) = (0, began);
        loop {
            let left = left(&self.run.signals.totals());
            if left != seen {
                (seen, since) = (left, Instant::now());
            }
            let time_left = limit.saturating_sub(began.elapsed());
            if left == 0 || time_left.is_zero() || since.elapsed() > patience {
                return Ok(left);
            }
            thread::sleep(time_left.min(LOOK_EVERY));
            interrupt::check()?;
            if let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) {
                join(ended, self.threads.swap_remove(ended))?;
                return Err(io::Error::other("a thread ended early; this is a bug").into());
            }
        }
    }
}

fn time_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Whatever ends the conductor ends its threads.
impl<S> Drop for Workers<'_, S> {
    fn drop(&mut self) {
        self.run.signals.allow(Step::Ended);
    }
}

fn spawn<S: Script>(
    engine: Engine<S>,
    thread: usize,
    cpu: Option<usize>,
) -> io::Result<JoinHandle<Ended<S>>> {
    thread::Builder::new().name(format!("bench-{thread}")).spawn(move || {
        if let Some(id) = cpu
            && !core_affinity::set_for_current(CoreId { id })
        {
            let why = format!("--client-cpus {id}: no such CPU, or not ours");
            return Err(BenchError::Options(why));
        }
        engine.run()
    })
}

fn join<S>(index: usize, thread: JoinHandle<Ended<S>>) -> Ended<S> {
    thread.join().unwrap_or(Err(BenchError::Panicked(index)))
}
