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

/// The server as the load generator sees it.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    pub pid: Option<u32>,
}

impl Watched {
    fn cpu(self) -> Option<CpuTime> {
        self.pid.and_then(CpuTime::of)
    }
}

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

/// Running threads.
pub struct Crew<L> {
    threads: Vec<JoinHandle<Result<(L, Usage), BenchError>>>,
    clock: Clock,
    pub signals: Arc<Signals>,
}

impl<L: Load> Crew<L> {
    /// One thread per load.
    ///
    /// # Errors
    /// The system has no thread or no epoll left.
    pub fn start(
        loads: Vec<L>,
        common: &Common,
        signals: Arc<Signals>,
    ) -> Result<Crew<L>, BenchError> {
        let clock = Clock::start();
        let mut crew = Crew { threads: Vec::new(), clock, signals };
        for (thread, load) in loads.into_iter().enumerate() {
            let engine = Engine::new(load, clock, common.wait, crew.signals.clone(), thread)?;
            let cpu = common.client_cpus.get(thread).copied();
            crew.threads.push(spawn(engine, thread, cpu, common.wait)?);
        }
        Ok(crew)
    }

    /// Waits until a gauge reaches `goal`.
    ///
    /// # Errors
    /// A thread failed, or nothing moved for 15 seconds.
    pub fn reach(
        &mut self,
        what: &'static str,
        goal: u64,
        progress: &Progress,
        gauge: impl Fn(&Totals) -> u64,
    ) -> Result<(), BenchError> {
        progress.stage(what, goal);
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let now_at = gauge(&self.signals.totals());
            progress.at(now_at);
            if now_at >= goal {
                return Ok(());
            }
            if now_at != seen {
                (seen, moved) = (now_at, Instant::now());
            }
            if moved.elapsed() > STUCK_AFTER {
                let progress = format!("stuck at {now_at} of {goal}");
                let seconds = STUCK_AFTER.as_secs();
                return Err(BenchError::Timeout { what, seconds, progress });
            }
            self.look()?;
        }
    }

    /// Lets the load begin and measures it.
    ///
    /// # Errors
    /// A thread failed.
    pub fn measure(
        &mut self,
        warm_up: Duration,
        duration: Duration,
        watched: Watched,
        progress: &Progress,
    ) -> Result<Window, BenchError> {
        let started = Instant::now() + LEAD;
        let start_ns = self.clock.now_ns() + LEAD.as_nanos() as u64;
        self.signals.begin(start_ns, warm_up, duration);
        progress.stage("warming up", 0);
        self.until(started + warm_up, |_| {})?;
        let (from, before, cpu_before) = (Instant::now(), self.signals.totals(), watched.cpu());
        progress.stage("measuring", duration.as_secs());
        self.until(started + warm_up + duration, |totals| {
            let count = |t: &Totals| t.delivered + t.cycles;
            progress.rate(from.elapsed(), count(totals) - count(&before), "done");
            progress.at(from.elapsed().as_secs());
        })?;
        let (after, cpu_after) = (self.signals.totals(), watched.cpu());
        let seconds = from.elapsed().as_secs_f64();
        Ok(Window::of(seconds, before, after, cpu_after.zip(cpu_before)))
    }

    /// Lets the load begin and measures it until a gauge reaches `goal`, or for `limit`.
    ///
    /// # Errors
    /// A thread failed.
    pub fn measure_until(
        &mut self,
        what: &'static str,
        goal: u64,
        limit: Duration,
        watched: Watched,
        progress: &Progress,
        gauge: impl Fn(&Totals) -> u64,
    ) -> Result<Window, BenchError> {
        let started = Instant::now() + LEAD;
        let start_ns = self.clock.now_ns() + LEAD.as_nanos() as u64;
        self.signals.begin(start_ns, Duration::ZERO, limit);
        progress.stage(what, goal);
        let (from, before, cpu_before) = (Instant::now(), self.signals.totals(), watched.cpu());
        loop {
            let reached = gauge(&self.signals.totals());
            progress.at(reached);
            if reached >= goal || Instant::now() >= started + limit {
                break;
            }
            self.look()?;
        }
        let (after, cpu_after) = (self.signals.totals(), watched.cpu());
        let seconds = from.elapsed().as_secs_f64();
        Ok(Window::of(seconds, before, after, cpu_after.zip(cpu_before)))
    }

    /// Waits for final states; those that do not come are lost.
    ///
    /// # Errors
    /// A thread failed.
    pub fn settle(&mut self, progress: &Progress) -> Result<(), BenchError> {
        self.settle_when(progress, |_| true)
    }

    /// As [`Crew::settle`], and until `enough` is true of what all threads have.
    ///
    /// # Errors
    /// A thread failed.
    pub fn settle_when(
        &mut self,
        progress: &Progress,
        enough: impl Fn(&Totals) -> bool,
    ) -> Result<(), BenchError> {
        progress.stage("settling", 0);
        let threads = self.threads.len() as u64;
        let settled = |totals: &Totals| totals.settled >= threads && enough(totals);
        let (began, mut moved, mut seen) = (Instant::now(), Instant::now(), 0);
        loop {
            let totals = self.signals.totals();
            if totals.delivered != seen {
                (seen, moved) = (totals.delivered, Instant::now());
            }
            let waited = moved.elapsed() > SETTLE_WITHIN || began.elapsed() > SETTLE_WITHIN_MAX;
            if settled(&totals) || waited {
                return Ok(());
            }
            self.look()?;
        }
    }

    /// Ends the threads and gives what they measured.
    ///
    /// # Errors
    /// A thread failed.
    pub fn finish(mut self) -> Result<Vec<(L, Usage)>, BenchError> {
        self.signals.finish();
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().enumerate().map(|(index, thread)| join(index, thread)).collect()
    }

    fn until(
        &mut self,
        deadline: Instant,
        mut show: impl FnMut(&Totals),
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
                show(&self.signals.totals());
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
impl<L> Drop for Crew<L> {
    fn drop(&mut self) {
        self.signals.finish();
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
