//! The result of an operation that is under way, without an executor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{ClientError, Result};

/// The result of an operation: a future for any executor, or for a thread that waits.
///
/// The operation starts when the method that gave this value is called. Dropping the value cancels
/// nothing. A poll after the result has been given out yields [`ClientError::Closed`].
///
/// ```
/// # use headcount::client::prelude::*;
/// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
/// use std::time::Duration;
///
/// let joined = client.channel("shop").join();
/// // There is no server: the request is sent once there is one.
/// assert_eq!(joined.wait_timeout(Duration::from_millis(10)), Err(ClientError::Timeout));
/// futures_lite::future::block_on(client.close())?;
/// # Ok::<(), ClientError>(())
/// ```
pub struct Pending<T> {
    slot: Arc<Slot<T>>,
}

/// Completes its [`Pending`]: with a result, or with [`ClientError::Closed`] if it is dropped.
pub(crate) struct Completer<T> {
    slot: Arc<Slot<T>>,
}

struct Slot<T> {
    state: Mutex<State<T>>,
    completed: Condvar,
}

enum State<T> {
    Waiting(Option<Waker>),
    Done(Result<T>),
    Taken,
}

/// An operation under way and the one who ends it.
pub(crate) fn pending<T>() -> (Completer<T>, Pending<T>) {
    let slot = Slot::new(State::Waiting(None));
    (Completer { slot: slot.clone() }, Pending { slot })
}

impl<T> Slot<T> {
    fn new(state: State<T>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), completed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result is kept. Wakers run without the lock.
    fn complete(&self, result: Result<T>) {
        let waker = {
            let mut state = self.lock();
            let State::Waiting(waker) = &mut *state else { return };
            let waker = waker.take();
            *state = State::Done(result);
            waker
        };
        self.completed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> State<T> {
    /// The result, once; `None` as long as the operation is under way.
    fn take(&mut self) -> Option<Result<T>> {
        match std::mem::replace(self, Self::Taken) {
            Self::Done(result) => Some(result),
            Self::Taken => Some(Err(ClientError::Closed)),
            waiting => {
                *self = waiting;
                None
            }
        }
    }
}

impl<T> Pending<T> {
    /// An operation that is over already.
    pub(crate) fn ready(result: Result<T>) -> Self {
        Self { slot: Slot::new(State::Done(result)) }
    }

    /// Blocks until the operation is over.
    ///
    /// Allowed inside callbacks: the results come from another thread. Async code awaits instead.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let published = client.channel("shop").publish("sold", &"apple").wait()?;
    /// # let _ = published;
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The operation's.
    pub fn wait(self) -> Result<T> {
        let mut state = self.slot.lock();
        loop {
            if let Some(result) = state.take() {
                return result;
            }
            state = self.slot.completed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks until the operation is over, for `limit` at most.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// # use std::time::Duration;
    /// let members = client.channel("shop").members();
    /// match members.wait_timeout(Duration::from_millis(10)) {
    ///     Ok(members) => println!("{} are here", members.len()),
    ///     Err(error) => assert_eq!(error, ClientError::Timeout),
    /// }
    /// # Ok::<(), ClientError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The operation's; [`ClientError::Timeout`] when the time is over, which leaves the operation
    /// under way.
    pub fn wait_timeout(self, limit: Duration) -> Result<T> {
        let is_waiting = |state: &mut State<T>| matches!(state, State::Waiting(_));
        let (mut state, _) = self
            .slot
            .completed
            .wait_timeout_while(self.slot.lock(), limit, is_waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.take().unwrap_or(Err(ClientError::Timeout))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        // Cloned, and the old one dropped, without the lock: both are the executor's code.
        let waker = context.waker().clone();
        let _old_waker = {
            let mut state = self.slot.lock();
            if let Some(result) = state.take() {
                return Poll::Ready(result);
            }
            match &mut *state {
                State::Waiting(old) => old.replace(waker),
                State::Done(_) | State::Taken => None,
            }
        };
        Poll::Pending
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.slot.lock() {
            State::Waiting(_) => "under way",
            State::Done(_) => "done",
            State::Taken => "taken",
        };
        f.debug_tuple("Pending").field(&state).finish()
    }
}

impl<T> Completer<T> {
    pub(crate) fn complete(self, result: Result<T>) {
        self.slot.complete(result);
    }
}

impl<T> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").finish_non_exhaustive()
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.slot.complete(Err(ClientError::Closed));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;

    use super::*;

    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(pending: &mut Pending<u32>, waker: &Arc<CountingWaker>) -> Poll<Result<u32>> {
        Pin::new(pending).poll(&mut Context::from_waker(&waker.clone().into()))
    }

    #[test]
    fn pending_can_be_sent_and_moved_between_polls() {
        fn check<T: Future<Output = Result<()>> + Send + Unpin + 'static>(_: &T) {}
        check(&Pending::ready(Ok(())));
    }

    #[test]
    fn waiting_gives_the_result_of_another_thread() {
        let (completer, pending) = pending();
        let other = thread::spawn(move || completer.complete(Ok(7)));
        assert_eq!(pending.wait(), Ok(7));
        other.join().expect("joined");
    }

    #[test]
    fn a_ready_operation_neither_blocks_nor_times_out() {
        assert_eq!(Pending::ready(Ok(1)).wait(), Ok(1));
        assert_eq!(Pending::ready(Ok(2)).wait_timeout(Duration::ZERO), Ok(2));
    }

    #[test]
    fn a_dropped_completer_is_a_closed_client() {
        let (completer, pending) = pending::<u32>();
        drop(completer);
        assert_eq!(pending.wait(), Err(ClientError::Closed));
    }

    #[test]
    fn a_timeout_leaves_the_operation_under_way() {
        let (completer, pending) = pending();
        assert_eq!(pending.wait_timeout(Duration::from_millis(5)), Err(ClientError::Timeout));
        completer.complete(Ok(1));
    }

    #[test]
    fn only_the_latest_waker_is_woken_and_only_once() {
        let (completer, mut pending) = pending();
        let wakers = [(); 2].map(|()| Arc::new(CountingWaker(AtomicUsize::new(0))));
        assert_eq!(poll(&mut pending, &wakers[0]), Poll::Pending);
        assert_eq!(poll(&mut pending, &wakers[1]), Poll::Pending);
        completer.complete(Ok(9));
        assert_eq!(wakers.each_ref().map(|waker| waker.0.load(Ordering::SeqCst)), [0, 1]);
        assert_eq!(poll(&mut pending, &wakers[1]), Poll::Ready(Ok(9)));
        assert_eq!(poll(&mut pending, &wakers[1]), Poll::Ready(Err(ClientError::Closed)));
    }
}
