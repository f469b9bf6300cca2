//! The threads of one run, and the conductor that leads them through its stages.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use super::engine::{Engine, Load};
use super::error::BenchError;
use super::interrupt;
use super::latencies::Latencies;
use super::options::{Common, Time};
use super::process::{CpuTime, CpuUse};
use super::progress::Progress;
use super::scenarios::Server;
use super::signals::{Allowed, Counter, Signals, ThreadSignals, Totals};
use super::stage::{Script, Stage};
use super::time::{Clock, Timeline, nanos};

/// How often the conductor looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time for the threads to see that publishing begins.
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

/// What the conductor waits for.
#[derive(Clone, Copy)]
pub struct Goal {
    pub what: &'static str,
    pub counter: Counter,
    pub count: u64,
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
    /// The load of each thread, for its part of the things.
    pub fn loads<T, L>(
        &self,
        things: impl IntoIterator<Item = T>,
        mut make: impl FnMut(Vec<T>, ThreadSignals) -> L,
    ) -> Vec<L> {
        let threads = self.common.threads();
        let mut parts: Vec<Vec<T>> = (0..threads).map(|_| Vec::new()).collect();
        things.into_iter().enumerate().for_each(|(at, thing)| parts[at % threads].push(thing));
        let signals = |thread| ThreadSignals::of(&self.signals, thread);
        parts.into_iter().enumerate().map(|(thread, part)| make(part, signals(thread))).collect()
    }

    /// As [`Run::loads`], for scripts. Each connection pings once in `heartbeat_s`.
    pub fn stages<T, S: Script>(
        &self,
        members: impl IntoIterator<Item = T>,
        heartbeat_s: f64,
        mut make: impl FnMut(Vec<T>, ThreadSignals) -> S,
    ) -> Vec<Stage<S>> {
        self.loads(members, |members, signals| {
            Stage::new(make(members, signals.clone()), heartbeat_s, signals)
        })
    }

    /// One thread per load.
    pub fn start<L: Load>(&self, loads: Vec<L>) -> Result<Workers<'_, L>, BenchError> {
        let clock = Clock::start();
        let mut workers = Workers { run: self, threads: Vec::new(), clock };
        for (thread, load) in loads.into_iter().enumerate() {
            let signals = ThreadSignals::of(&self.signals, thread);
            let engine = Engine::new(load, clock, self.common.wait, signals)?;
            let cpu = self.common.client_cpus.get(thread).copied();
            workers.threads.push(spawn(engine, thread, cpu)?);
        }
        Ok(workers)
    }

    /// As [`Run::start`], and waits until all `count` connections have joined.
    pub fn enter<L: Load>(
        &self,
        loads: Vec<L>,
        count: usize,
    ) -> Result<Workers<'_, L>, BenchError> {
        let mut workers = self.start(loads)?;
        self.signals.allow(Allowed::Greeting);
        workers.reach("connecting", Counter::Greeted, count)?;
        self.signals.allow(Allowed::Joining);
        workers.reach("joining", Counter::Joined, count)?;
        Ok(workers)
    }
}

type Ended<L> = Result<(L, Latencies), BenchError>;

/// Running threads.
pub struct Workers<'a, L> {
    run: &'a Run<'a>,
    threads: Vec<JoinHandle<Ended<L>>>,
    clock: Clock,
}

impl<L: Load> Workers<'_, L> {
    /// Waits until a counter reaches `count`.
    pub fn reach(
        &mut self,
        what: &'static str,
        counter: Counter,
        count: usize,
    ) -> Result<(), BenchError> {
        self.run.progress.stage(what, count as u64);
        let mut stall = Stall::begin();
        loop {
            let reached = self.run.signals.totals()[counter];
            self.run.progress.at(reached);
            if reached >= count as u64 {
                return Ok(());
            }
            if stall.lasts(reached) > STUCK_AFTER {
                let progress = format!("stuck at {reached} of {count}");
                return Err(BenchError::Timeout { what, seconds: STUCK_AFTER.as_secs(), progress });
            }
            self.look(LOOK_EVERY)?;
        }
    }

    /// Lets the load begin and measures it, until it reaches a goal if there is one.
    pub fn measure(&mut self, time: Time, goal: Option<Goal>) -> Result<Window, BenchError> {
        let (warm_up, duration) = (time.warm_up.0, time.duration.0);
        let begins = Instant::now() + LEAD;
        let start_ns = self.clock.now_ns() + nanos(LEAD);
        let from_ns = start_ns + nanos(warm_up);
        let until_ns = from_ns + nanos(duration);
        self.run.signals.begin(Timeline { start_ns, from_ns, until_ns });
        let progress = self.run.progress;
        if !warm_up.is_zero() {
            progress.stage("warming up", 0);
            self.wait(begins + warm_up, |_| false)?;
        }
        let (from, before, cpu_before) =
            (Instant::now(), self.run.signals.totals(), self.server_cpu());
        let (what, length) =
            goal.map_or(("measuring", duration.as_secs()), |goal| (goal.what, goal.count));
        progress.stage(what, length);
        self.wait(begins + warm_up + duration, |totals| {
            if let Some(goal) = goal {
                progress.at(totals[goal.counter]);
                return totals[goal.counter] >= goal.count;
            }
            let done = |t: &Totals| t[Counter::Delivered] + t[Counter::Cycles];
            progress.rate(from.elapsed(), done(totals) - done(&before), "done");
            progress.at(from.elapsed().as_secs());
            false
        })?;
        let (after, cpu_after) = (self.run.signals.totals(), self.server_cpu());
        let seconds = from.elapsed().as_secs_f64();
        let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
        Ok(Window { seconds, cpu, before, after })
    }

    /// Waits until every thread has settled and each acknowledged publish has had `each`
    /// deliveries. What does not come in time is lost.
    pub fn settle(&mut self, each: usize) -> Result<(), BenchError> {
        self.run.progress.stage("settling", 0);
        let (threads, mut stall) = (self.threads.len() as u64, Stall::begin());
        self.wait(Instant::now() + SETTLE_WITHIN_MAX, |totals| {
            let delivered = totals[Counter::Delivered];
            let expected = totals[Counter::Acknowledged] * each as u64;
            stall.lasts(delivered) > SETTLE_WITHIN
                || totals[Counter::Settled] >= threads && delivered >= expected
        })
    }

    /// Ends the threads and gives their loads, and how long their turns took.
    pub fn finish(mut self) -> Result<(Vec<L>, Latencies), BenchError> {
        self.run.signals.allow(Allowed::End);
        let (mut loads, mut turns) = (Vec::new(), Latencies::default());
        for (index, thread) in std::mem::take(&mut self.threads).into_iter().enumerate() {
            let (load, took) = join(index, thread)?;
            loads.push(load);
            turns.merge(&took);
        }
        Ok((loads, turns))
    }

    fn server_cpu(&self) -> Option<CpuTime> {
        self.run.server.pid.and_then(CpuTime::of)
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
impl<L> Drop for Workers<'_, L> {
    fn drop(&mut self) {
        self.run.signals.allow(Allowed::End);
    }
}

fn spawn<L: Load>(
    engine: Engine<L>,
    thread: usize,
    cpu: Option<usize>,
) -> io::Result<JoinHandle<Ended<L>>> {
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

fn join<L>(index: usize, thread: JoinHandle<Ended<L>>) -> Ended<L> {
    thread.join().unwrap_or(Err(BenchError::Panicked(index)))
}
