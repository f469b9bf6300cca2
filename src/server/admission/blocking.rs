//! Hooks that block: a bounded pool of threads.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{AdmissionHook, AdmitAnswer, AdmitCtx, AdmitError, AdmitFuture};

/// Questions that wait for a thread. Further ones fail, and their clients pay.
const WAITING_MAX: usize = 4096;

/// Stack of a thread, bytes.
const STACK_BYTES: usize = 512 * 1024;

type Decided = Result<AdmitAnswer, AdmitError>;

/// A hook whose decisions may block, each on one thread of a pool.
///
/// ```no_run
/// use headcount::server::{AdmitAnswer, AdmitError, Blocking};
///
/// let hook = Blocking::new(4, |ctx| {
///     let rules = std::fs::read_to_string("rules").map_err(AdmitError::failed)?;
///     match rules.lines().any(|user| *user == *ctx.client_id) {
///         true => Ok(AdmitAnswer::allow()),
///         false => Ok(AdmitAnswer::deny("not on the list")),
///     }
/// });
/// # let _ = hook;
/// ```
#[derive(Debug)]
pub struct Blocking {
    jobs: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    ctx: AdmitCtx,
    slot: Arc<Slot>,
}

/// Where a thread leaves its answer.
#[derive(Debug, Default)]
struct Slot(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    decided: Option<Decided>,
    waker: Option<Waker>,
    /// Nobody waits any longer.
    is_abandoned: bool,
}

impl Blocking {
    /// Starts `threads` threads, which end when the hook is dropped.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn new(
        threads: usize,
        decide: impl Fn(&AdmitCtx) -> Result<AdmitAnswer, AdmitError> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (sender, jobs) = bounded::<Job>(WAITING_MAX);
        let decide = Arc::new(decide);
        for number in 0..threads.max(1) {
            let (jobs, decide) = (jobs.clone(), Arc::clone(&decide));
            thread::Builder::new()
                .name(format!("admission-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&jobs, &*decide))?;
        }
        Ok(Blocking { jobs: sender })
    }
}

impl AdmissionHook for Blocking {
    fn admit(&self, ctx: &AdmitCtx) -> AdmitFuture {
        let slot = Arc::<Slot>::default();
        let job = Job { ctx: ctx.clone(), slot: Arc::clone(&slot) };
        match self.jobs.try_send(job) {
            Ok(()) => Box::pin(Waiting(slot)),
            Err(_) => Box::pin(std::future::ready(Err(AdmitError::failed("too many wait")))),
        }
    }
}

fn work(jobs: &Receiver<Job>, decide: &impl Fn(&AdmitCtx) -> Decided) {
    for Job { ctx, slot } in jobs {
        if slot.state().is_abandoned {
            continue;
        }
        let decided = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decide(&ctx)));
        let mut state = slot.state();
        state.decided = Some(decided.unwrap_or_else(|_| Err(AdmitError::failed("it panicked"))));
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a thread's answer.
struct Waiting(Arc<Slot>);

impl Future for Waiting {
    type Output = Decided;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decided> {
        let mut state = self.0.state();
        match state.decided.take() {
            Some(decided) => Poll::Ready(decided),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The waker belongs to the executor, so it is dropped there.
impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.is_abandoned, state.waker) = (true, None);
    }
}
