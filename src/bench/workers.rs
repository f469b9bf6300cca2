//! The threads of one run, and the conductor that leads them through its stages.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use super::clock::Clock;
use super::engine::{Engine, Load, Usage, Wait};
use super::error::BenchError;
use super::interrupt;
use super::options::Common;
use super::process::CpuTime;
use super::progress::Progress;
use super::signals::{Signals, Totals};

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
    /// CPU time of the server, when it can be seen.
    pub server_cpu_ns: Option<u64>,
    /// Time that its threads waited for a CPU.
    pub server_waited_ns: Option<u64>,
    /// Share of its CPU time that the server spent outside the kernel, 0 to 1.
    pub server_user_share: Option<f64>,
    pub before: Totals,
    pub after: Totals,
}

impl Window {
    /// `cpu`: that of the server after and before.
    fn of(seconds: f64, before: Totals, after: Totals, cpu: Option<(CpuTime, CpuTime)>) -> Window {
        Window {
            seconds,
            server_cpu_ns: cpu.as_ref().map(|(after, before)| after.since_ns(before)),
            server_user_share: cpu.as_ref().and_then(|(after, before)| after.user_share(before)),
            server_waited_ns: cpu.and_then(|(after, before)| after.waited_since_ns(&before)),
            before,
            after,
        }
    }

    /// How much a gauge rose per second.
    pub fn per_second(&self, gauge: impl Fn(&Totals) -> u64) -> f64 {
        gauge(&self.after).saturating_sub(gauge(&self.before)) as f64 / self.seconds
    }
}

/// What the conductor waits for.
#[derive(Clone, Copy)]
pub struct Goal {
    pub what: &'static str,
    pub count: u64,
    pub gauge: fn(&Totals) -> u64,
}

/// Running threads.
pub struct Workers<L> {
    threads: Vec<JoinHandle<Result<(L, Usage), BenchError>>>,
    clock: Clock,
    signals: Arc<Signals>,
    /// Of the server, if it can be seen.
    pid: Option<u32>,
}

impl<L: Load> Workers<L> {
    /// One thread per load.
    ///
    /// # Errors
    /// The system has no thread or no epoll left.
    pub fn start(
        loads: Vec<L>,
        common: &Common,
        signals: Arc<Signals>,
        pid: Option<u32>,
    ) -> Result<Workers<L>, BenchError> {
        let clock = Clock::start();
        let mut workers = Workers { threads: Vec::new(), clock, signals, pid };
        for (thread, load) in loads.into_iter().enumerate() {
            let engine = Engine::new(load, clock, common.wait, workers.signals.clone(), thread)?;
            let cpu = common.client_cpus.get(thread).copied();
            workers.threads.push(spawn(engine, thread, cpu, common.wait)?);
        }
        Ok(workers)
    }

    /// Waits until a gauge reaches its goal.
    ///
    /// # Errors
    /// A thread failed, or nothing moved for 15 seconds.
    pub fn reach(&mut self, goal: Goal, progress: &Progress) -> Result<(), BenchError> {
        progress.stage(goal.what, goal.count);
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let now_at = (goal.gauge)(&self.signals.totals());
            progress.at(now_at);
            if now_at >= goal.count {
                return Ok(());
            }
            if now_at != seen {
                (seen, moved) = (now_at, Instant::now());
            }
            if moved.elapsed() > STUCK_AFTER {
                let progress = format!("stuck at {now_at} of {}", goal.count);
                let seconds = STUCK_AFTER.as_secs();
                return Err(BenchError::Timeout { what: goal.what, seconds, progress });
            }
            self.look()?;
        }
    }

    /// Lets the load begin and measures it for `duration`, or until it reaches a goal before.
    ///
    /// # Errors
    /// A thread failed.
    pub fn measure(
        &mut self,
        warm_up: Duration,
        duration: Duration,
        goal: Option<Goal>,
        progress: &Progress,
    ) -> Result<Window, BenchError> {
        let started = Instant::now() + LEAD;
        let start_ns = self.clock.now_ns() + LEAD.as_nanos() as u64;
        self.signals.begin(start_ns, warm_up, duration);
        if !warm_up.is_zero() {
            progress.stage("warming up", 0);
            self.until(started + warm_up, |_| false)?;
        }
        let (from, before, cpu_before) = (Instant::now(), self.signals.totals(), self.cpu());
        let (what, length) =
            goal.map_or(("measuring", duration.as_secs()), |goal| (goal.what, goal.count));
        progress.stage(what, length);
        self.until(started + warm_up + duration, |totals| {
            if let Some(goal) = goal {
                progress.at((goal.gauge)(totals));
                return (goal.gauge)(totals) >= goal.count;
            }
            let count = |t: &Totals| t.delivered + t.cycles;
            progress.rate(from.elapsed(), count(totals) - count(&before), "done");
            progress.at(from.elapsed().as_secs());
            false
        })?;
        let (after, cpu_after) = (self.signals.totals(), self.cpu());
        let seconds = from.elapsed().as_secs_f64();
        Ok(Window::of(seconds, before, after, cpu_after.zip(cpu_before)))
    }

    /// Waits until every thread has settled and `is_enough` is true of all of them. What does not
    /// come in time is lost.
    ///
    /// # Errors
    /// A thread failed.
    pub fn settle(
        &mut self,
        progress: &Progress,
        is_enough: impl Fn(&Totals) -> bool,
    ) -> Result<(), BenchError> {
        progress.stage("settling", 0);
        let threads = self.threads.len() as u64;
        let (began, mut moved, mut seen) = (Instant::now(), Instant::now(), 0);
        loop {
            let totals = self.signals.totals();
            if totals.delivered != seen {
                (seen, moved) = (totals.delivered, Instant::now());
            }
            let waited = moved.elapsed() > SETTLE_WITHIN || began.elapsed() > SETTLE_WITHIN_MAX;
            if waited || totals.settled >= threads && is_enough(&totals) {
                return Ok(());
            }
            self.look()?;
        }
    }

    fn cpu(&self) -> Option<CpuTime> {
        self.pid.and_then(CpuTime::of)
    }

    /// Ends the threads and gives what they measured.
    ///
    /// # Errors
    /// A thread failed.
    pub fn finish(mut self) -> Result<Vec<(L, Usage)>, BenchError> {
        self.signals.finished.raise();
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().enumerate().map(|(index, thread)| join(index, thread)).collect()
    }

    fn until(
        &mut self,
        deadline: Instant,
        mut is_done: impl FnMut(&Totals) -> bool,
    ) -> Result<(), BenchError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if left <= LOOK_EVERY {
                thread::sleep(left);
            } else {
                self.look()?;
            }
            if is_done(&self.signals.totals()) {
                return Ok(());
            }
        }
    }

    /// Sleeps a little; fails if a thread did, or on a signal to end.
    fn look(&mut self) -> Result<(), BenchError> {
        thread::sleep(LOOK_EVERY);
        interrupt::check()?;
        let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) else {
            return Ok(());
        };
        join(ended, self.threads.swap_remove(ended)).map(|_| ())?;
        Err(io::Error::other("a thread ended early; this is a bug").into())
    }
}

/// Whatever ends the conductor ends its threads.
impl<L> Drop for Workers<L> {
    fn drop(&mut self) {
        self.signals.finished.raise();
    }
}

fn spawn<L: Load>(
    engine: Engine<L>,
    thread: usize,
    cpu: Option<usize>,
    wait: Wait,
) -> io::Result<JoinHandle<Result<(L, Usage), BenchError>>> {
    thread::Builder::new().name(format!("bench-{thread}")).spawn(move || {
        if let Some(id) = cpu
            && !core_affinity::set_for_current(CoreId { id })
        {
            let why = format!("--client-cpus {id}: no such CPU, or not ours ({wait:?})");
            return Err(BenchError::Options(why));
        }
        engine.run()
    })
}

fn join<L>(
    index: usize,
    thread: JoinHandle<Result<(L, Usage), BenchError>>,
) -> Result<(L, Usage), BenchError> {
    thread.join().unwrap_or(Err(BenchError::Panicked(index)))
}
