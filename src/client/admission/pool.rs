//! Threads for handlers that block.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{
    Answer, Authorization, BlockingHandler, ConnectionRequest, PANICKED, RETRY_WHEN_FULL,
    run_guarded,
};

pub(super) const THREADS_MAX: usize = 8;
/// Requests beyond those in a thread. The peers of further ones are denied for a second.
pub(super) const WAITING_MAX: usize = 64;

pub(super) struct BlockingPool {
    shared: Arc<Shared>,
}

struct Shared {
    thread_name: String,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Jobs that wait or are in a thread.
    unfinished: usize,
    threads: usize,
    is_closed: bool,
}

struct Job {
    handler: BlockingHandler,
    request: ConnectionRequest,
    answer: Answer,
}

impl BlockingPool {
    pub(super) fn new(thread_name: &str) -> Self {
        let shared = Shared {
            thread_name: thread_name.to_string(),
            state: Mutex::default(),
            work: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has a thread ask the handler, or gives the answer back, with what to say.
    pub(super) fn submit(
        &self,
        handler: BlockingHandler,
        request: ConnectionRequest,
        answer: Answer,
    ) -> Result<(), (Answer, Authorization)> {
        let mut state = self.shared.lock();
        if state.unfinished == THREADS_MAX + WAITING_MAX {
            let reason = "too many connection requests";
            return Err((answer, Authorization::deny_with(reason, RETRY_WHEN_FULL)));
        }
        if state.unfinished >= state.threads && state.threads < THREADS_MAX {
            match self.start_thread() {
                Ok(()) => state.threads += 1,
                Err(_) if state.threads > 0 => {}
                Err(_) => {
                    let reason = "no thread for the connection request handler";
                    return Err((answer, Authorization::deny_with(reason, RETRY_WHEN_FULL)));
                }
            }
        }
        state.unfinished += 1;
        state.waiting.push_back(Job { handler, request, answer });
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let name = self.shared.thread_name.clone();
        thread::Builder::new().name(name).spawn(move || shared.run())?;
        Ok(())
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.shared.work.notify_all();
        drop(waiting);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            // Includes what is dropped: handler and request may be the last of their kind.
            run_guarded(|| job.run());
            self.lock().unfinished -= 1;
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                return Some(job);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Job {
    fn run(self) {
        let Self { handler, request, answer } = self;
        let authorization = run_guarded(|| handler(request));
        answer(authorization.unwrap_or_else(|| Authorization::deny_because(PANICKED)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc;

    use super::super::tests::{Answers, SOON, expect_panic, number, reason};
    use super::super::{AdmissionHandlers, ConnectionRequestHandler};
    use super::*;

    fn set(
        handlers: &AdmissionHandlers,
        handler: impl Fn(ConnectionRequest) -> Authorization + Send + Sync + 'static,
    ) {
        handlers.set(Some(ConnectionRequestHandler::new(handler)));
    }

    #[test]
    fn eight_handlers_may_block_at_once() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        let all_there = Barrier::new(THREADS_MAX);
        set(&handlers, move |_| {
            all_there.wait();
            Authorization::Allow
        });
        (0..8).for_each(|number| answers.submit(&handlers, number));
        (0..8).for_each(|_| assert_eq!(answers.next().1, Authorization::Allow));
        (0..8).for_each(|number| answers.submit(&handlers, number));
        (0..8).for_each(|_| assert_eq!(answers.next().1, Authorization::Allow));
    }

    #[test]
    fn beyond_those_that_wait_requests_are_denied_for_a_second() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        let (gate, opened) = mpsc::channel::<()>();
        let opened = Mutex::new(opened);
        set(&handlers, move |_| {
            let _ = opened.lock().expect("a lock").recv();
            Authorization::Allow
        });
        (0..72).for_each(|number| answers.submit(&handlers, number));
        assert!(answers.is_empty());
        answers.submit(&handlers, 72);
        let (number, answer) = answers.next();
        assert_eq!(number, 72);
        assert_eq!(reason(answer).1, Some(RETRY_WHEN_FULL));
        drop(gate);
        (0..72).for_each(|_| assert_eq!(answers.next().1, Authorization::Allow));
    }

    #[test]
    fn a_panic_denies_its_request_and_no_other() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        set(&handlers, |request| {
            assert!(number(&request) >= 20, "this panic is part of a test");
            Authorization::Allow
        });
        for number in 0..20 {
            answers.submit(&handlers, number);
            expect_panic(&answers);
        }
        answers.submit(&handlers, 20);
        assert_eq!(answers.next(), (20, Authorization::Allow));
    }

    #[test]
    fn the_pool_can_be_dropped_by_its_own_handler_and_then_its_threads_end() {
        let handlers = Arc::new(AdmissionHandlers::new("test"));
        let (own, answers) = (Arc::new(Mutex::new(Some(handlers.clone()))), Answers::new());
        let (ended, is_ended) = mpsc::channel::<()>();
        set(&handlers, move |_| {
            let _until_the_thread_drops_the_handler = &ended;
            drop(own.lock().expect("a lock").take());
            Authorization::Allow
        });
        answers.submit(&handlers, 1);
        drop(handlers);
        assert_eq!(answers.next(), (1, Authorization::Allow));
        assert_eq!(is_ended.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
