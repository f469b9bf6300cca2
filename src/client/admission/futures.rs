//! The thread that polls the futures of handlers, all of them concurrently, without a runtime.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use super::{Answer, Authorization, BoxFuture, PANICKED, RETRY_WHEN_FULL, run_guarded};

/// Futures under way. The peers of further requests are denied for a second.
pub(super) const FUTURES_MAX: usize = 1024;

type TaskId = u64;

pub(super) struct FutureThread {
    shared: Arc<Shared>,
}

struct Shared {
    thread_name: String,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    submitted: VecDeque<(BoxFuture, Answer)>,
    /// Tasks to poll, each at most once, since a waker enters its task only if it is not there.
    woken: VecDeque<TaskId>,
    /// Futures that are submitted or under way.
    unfinished: usize,
    is_started: bool,
    is_closed: bool,
}

/// A future under way, on the thread alone.
struct Task {
    future: BoxFuture,
    answer: Answer,
    wake: Arc<TaskWake>,
    waker: Waker,
}

struct TaskWake {
    id: TaskId,
    is_woken: AtomicBool,
    shared: Arc<Shared>,
}

enum Work {
    Start(BoxFuture, Answer),
    Poll(TaskId),
}

impl FutureThread {
    pub(super) fn new(thread_name: &str) -> Self {
        let shared = Shared {
            thread_name: thread_name.to_string(),
            state: Mutex::default(),
            work: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has the thread poll a future, or gives the answer back, with what to say.
    pub(super) fn submit(
        &self,
        future: BoxFuture,
        answer: Answer,
    ) -> Result<(), (Answer, Authorization)> {
        let mut state = self.shared.lock();
        let reason = if state.unfinished == FUTURES_MAX {
            "too many connection requests"
        } else if !state.is_started && self.start_thread().is_err() {
            "no thread for the connection request handler"
        } else {
            state.is_started = true;
            state.unfinished += 1;
            state.submitted.push_back((future, answer));
            drop(state);
            self.shared.work.notify_one();
            return Ok(());
        };
        // The future is the application's: dropped without the lock.
        drop(state);
        Err((answer, Authorization::deny_with(reason, RETRY_WHEN_FULL)))
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let name = self.shared.thread_name.clone();
        thread::Builder::new().name(name).spawn(move || run(&shared))?;
        Ok(())
    }
}

impl Drop for FutureThread {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next; `None` when the thread is to end.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some((future, answer)) = state.submitted.pop_front() {
                return Some(Work::Start(future, answer));
            }
            if let Some(id) = state.woken.pop_front() {
                return Some(Work::Poll(id));
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.shared.lock().woken.push_back(self.id);
            self.shared.work.notify_one();
        }
    }
}

fn run(shared: &Arc<Shared>) {
    let mut tasks = HashMap::new();
    let mut next_id = 0;
    while let Some(work) = shared.next() {
        let (id, task) = match work {
            Work::Start(future, answer) => {
                next_id += 1;
                (next_id, Task::new(next_id, future, answer, shared))
            }
            Work::Poll(id) => match tasks.remove(&id) {
                Some(task) => (id, task),
                // Woken by itself in the poll that was its last.
                None => continue,
            },
        };
        match task.poll() {
            Some(task) => drop(tasks.insert(id, task)),
            None => shared.lock().unfinished -= 1,
        }
    }
    let submitted = std::mem::take(&mut shared.lock().submitted);
    for future in submitted.into_iter().map(|(future, _)| future) {
        run_guarded(|| drop(future));
    }
    for task in tasks.into_values() {
        run_guarded(|| drop(task.future));
    }
}

impl Task {
    fn new(id: TaskId, future: BoxFuture, answer: Answer, shared: &Arc<Shared>) -> Self {
        let is_woken = AtomicBool::new(false);
        let wake = Arc::new(TaskWake { id, is_woken, shared: shared.clone() });
        Self { future, answer, waker: wake.clone().into(), wake }
    }

    /// Polls once. The task, as long as it is not over.
    fn poll(mut self) -> Option<Self> {
        // Before the poll: what wakes during it must enter the task again.
        self.wake.is_woken.store(false, Ordering::Release);
        let mut context = Context::from_waker(&self.waker);
        let polled = run_guarded(|| self.future.as_mut().poll(&mut context));
        let authorization = match polled {
            Some(Poll::Pending) => return Some(self),
            Some(Poll::Ready(authorization)) => authorization,
            None => Authorization::deny_because(PANICKED),
        };
        let Self { future, answer, .. } = self;
        run_guarded(|| drop(future));
        run_guarded(|| answer(authorization));
        None
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, pending};
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::super::tests::{Answers, SOON, expect_panic, number, reason};
    use super::super::{AdmissionHandlers, ConnectionRequest};
    use super::*;

    /// Ready after a time, which a thread of its own measures.
    struct Timer(Arc<AtomicBool>, Option<Duration>);

    impl Timer {
        fn new(time: Duration) -> Self {
            Self(Arc::default(), Some(time))
        }
    }

    impl Future for Timer {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if let Some(time) = self.1.take() {
                let (is_over, waker) = (self.0.clone(), context.waker().clone());
                thread::spawn(move || {
                    thread::sleep(time);
                    is_over.store(true, Ordering::SeqCst);
                    waker.wake();
                });
            }
            if self.0.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    /// Pending as often as told, and wakes itself each time.
    struct Yield(u32);

    impl Future for Yield {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if self.0 == 0 {
                return Poll::Ready(());
            }
            self.0 -= 1;
            context.waker().wake_by_ref();
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }

    #[test]
    fn fifty_handlers_that_wait_are_answered_in_the_time_of_one() {
        const TIME: Duration = Duration::from_millis(200);
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        handlers.set_async(|_| async {
            Timer::new(TIME).await;
            Authorization::Allow
        });
        let start = Instant::now();
        (0..50).for_each(|number| answers.submit(&handlers, number));
        let mut numbers: Vec<u32> = (0..50).map(|_| answers.next().0).collect();
        let elapsed = start.elapsed();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        assert!(elapsed >= TIME && elapsed < 25 * TIME, "{elapsed:?}");
    }

    #[test]
    fn a_future_that_wakes_itself_leaves_time_for_others() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        handlers.set_async(|request| async move {
            match number(&request) {
                0 => pending().await,
                yields => Yield(yields as u32).await,
            }
            Authorization::Allow
        });
        answers.submit(&handlers, 0);
        answers.submit(&handlers, 1_000_000);
        answers.submit(&handlers, 10);
        assert_eq!([answers.next().0, answers.next().0], [10, 1_000_000]);
    }

    #[test]
    fn a_panic_denies_its_request_and_no_other() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        handlers.set_async(|request: ConnectionRequest| {
            assert_ne!(number(&request), 0, "this panic is part of a test");
            async move {
                Yield(1).await;
                assert_ne!(number(&request), 1, "this panic is part of a test");
                Authorization::Allow
            }
        });
        for number in 0..2 {
            answers.submit(&handlers, number);
            expect_panic(&answers);
        }
        answers.submit(&handlers, 2);
        assert_eq!(answers.next(), (2, Authorization::Allow));
    }

    #[test]
    fn beyond_the_most_futures_requests_are_denied_for_a_second() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        handlers.set_async(|_| pending());
        (0..1024).for_each(|number| answers.submit(&handlers, number));
        assert!(answers.is_empty());
        answers.submit(&handlers, 1024);
        let (number, answer) = answers.next();
        assert_eq!((number, reason(answer).1), (1024, Some(RETRY_WHEN_FULL)));
    }

    #[test]
    fn the_thread_ends_and_drops_its_futures_with_the_handlers() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        let (ended, is_ended) = mpsc::channel::<()>();
        let (entered, is_entered) = mpsc::channel();
        handlers.set_async(move |_| {
            let (ended, entered) = (ended.clone(), entered.clone());
            async move {
                let _until_the_thread_drops_the_future = ended;
                entered.send(()).expect("the test waits");
                pending().await
            }
        });
        answers.submit(&handlers, 1);
        is_entered.recv_timeout(SOON).expect("a poll");
        drop(handlers);
        assert_eq!(is_ended.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
        assert!(answers.is_empty());
    }
}
