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

/// How long a number has not moved.
struct Stall {
    seen: u64,
    since: Instant,
}

impl Stall {
    fn begin() -> Self {
        Stall { seen: 0, since: Instant::now() }
    }

    fn lasts(&mut self, number: u64) -> Duration {
        if number != self.seen {
            *self = Stall { seen: number, since: Instant::now() };
        }
        self.since.elapsed()
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
        for (what, step, counter) in steps {
            before();
            self.run.signals.allow(step);
            self.reach(what, counter)?;
        }
        Ok(())
    }

    /// Waits until every connection has been counted.
    fn reach(&mut self, what: &'static str, counter: Counter) -> Result<(), BenchError> {
        let count = self.connections as u64;
        self.run.progress.stage(what, count);
        let mut stall = Stall::begin();
        loop {
            let reached = self.run.signals.totals()[counter];
            self.run.progress.at(reached);
            if reached >= count {
                return Ok(());
            }
            if stall.lasts(reached) > STUCK_AFTER {
                let progress = format!("stuck at {reached} of {count}");
                return Err(BenchError::Timeout { what, seconds: STUCK_AFTER.as_secs(), progress });
            }
            self.look(LOOK_EVERY)?;
        }
    }

    /// Lets the run begin and measures it, until so many receivers are complete if that is sooner.
    pub fn measure(&mut self, time: Time, complete: Option<u64>) -> Result<Window, BenchError> {
        let (warm_up, duration) = (time.warm_up.0, time.duration.0);
        let (run, begins) = (self.run, Instant::now() + LEAD);
        let start_ns = self.clock.now_ns() + nanos(LEAD);
        let from_ns = start_ns + nanos(warm_up);
        let until_ns = from_ns + nanos(duration);
        run.signals.begin(Timeline { start_ns, from_ns, until_ns });
        if !warm_up.is_zero() {
            run.progress.stage("warming up", 0);
            self.wait(begins + warm_up, |_| false)?;
        }
        let server_cpu = || run.server.pid.and_then(CpuTime::of);
        let look = || (Instant::now(), run.signals.totals(), server_cpu());
        let done = |t: &Totals| t[Counter::Delivered] + t[Counter::Cycles] + t[Counter::Complete];
        let (from, before, cpu_before) = look();
        run.progress.stage("measuring", duration.as_secs());
        self.wait(begins + warm_up + duration, |totals| {
            run.progress.rate(from.elapsed(), done(totals) - done(&before));
            run.progress.at(from.elapsed().as_secs());
            complete.is_some_and(|count| totals[Counter::Complete] >= count)
        })?;
        let (until, after, cpu_after) = look();
        let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
        Ok(Window { seconds: (until - from).as_secs_f64(), cpu, before, after })
    }

    /// Waits until every thread asks for nothing more and everything has come. What does not come
    /// in time is lost.
    pub fn settle(&mut self) -> Result<(), BenchError> {
        self.run.progress.stage("settling", 0);
        let (threads, mut stall) = (self.threads.len() as u64, Stall::begin());
        self.wait(Instant::now() + SETTLE_WITHIN_MAX, |totals| {
            let settled = totals[Counter::Settled];
            stall.lasts(settled) > SETTLE_WITHIN
                || totals[Counter::Finished] >= threads && settled >= totals[Counter::Owed]
        })
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

    fn wait(
        &mut self,
        deadline: Instant,
        mut is_done: impl FnMut(&Totals) -> bool,
    ) -> Result<(), BenchError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || is_done(&self.run.signals.totals()) {
                return Ok(());
            }
            self.look(left.min(LOOK_EVERY))?;
        }
    }

    /// Sleeps a little; fails if a thread did, or on a signal to end.
    fn look(&mut self, pause: Duration) -> Result<(), BenchError> {
        thread::sleep(pause);
        interrupt::check()?;
        let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) else {
            return Ok(());
        };
        join(ended, self.threads.swap_remove(ended)).map(|_| ())?;
        Err(io::Error::other("a thread ended early; this is a bug").into())
    }
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
