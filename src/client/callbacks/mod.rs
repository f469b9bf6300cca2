//! The callback thread of a client: it alone runs the callbacks of an application.
//!
//! Callbacks run one at a time, in the order in which their events were sent, whatever the
//! observer. No lock of ours is held while one runs, so that it may do anything: register, cancel,
//! send. Nothing here knows what the events are.
//!
//! Lock order: an observer's state, then the schedule.

mod panics;
mod queue;
mod schedule;

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;
#[cfg(test)]
use std::time::Duration;

pub(crate) use queue::QueueSender;
use schedule::{ObserverId, Place, Shared};

/// A callback of an application.
type Callback<E> = Arc<dyn Fn(&E) + Send + Sync>;

/// Events that wait, and the callback that takes them.
trait Observer: Send + Sync {
    fn id(&self) -> ObserverId;

    /// Calls the callback with the event that waits at this place, if there is one.
    fn call(self: Arc<Self>, place: Place, shared: &Shared);

    /// Takes callback and events out, for good. The caller drops them without a lock.
    fn take_all(&self, shared: &Shared) -> Box<dyn Any>;

    fn is_cancelled(&self) -> bool;
}

/// The one callback thread of a client. Closed with its last clone.
#[derive(Clone)]
pub(crate) struct CallbackThread {
    shared: Arc<Shared>,
    _close: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl CallbackThread {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let shared = Shared::new(name);
        shared.start()?;
        Ok(Self { shared: shared.clone(), _close: Arc::new(CloseOnDrop(shared)) })
    }

    /// An observer that gets each event, as long as no more than `capacity` wait.
    ///
    /// One that is registered after [`close`](Self::close) gets the first event sent to it.
    pub(crate) fn register_queue<E: Send + 'static>(
        &self,
        capacity: usize,
        callback: impl Fn(&E) + Send + Sync + 'static,
    ) -> (Handle, QueueSender<E>) {
        let sender = QueueSender::new(self.shared.clone(), capacity, Arc::new(callback));
        (Handle::new(sender.observer(), self.shared.clone()), sender)
    }

    /// Takes no more events. Those that wait are delivered; then the thread ends. Does not wait
    /// for that.
    pub(crate) fn close(&self) {
        self.shared.close();
    }

    #[cfg(test)]
    /// Waits until the thread has ended after [`close`](Self::close), for `limit` at most, and
    /// tells whether it has. Does not wait on the thread itself.
    pub(crate) fn wait_ended(&self, limit: Duration) -> bool {
        self.shared.wait_ended(limit)
    }

    /// Whether the caller is a callback.
    pub(crate) fn is_current(&self) -> bool {
        self.shared.is_current()
    }
}

/// The registration of an observer, which ends with it. Equal to itself only.
#[must_use = "the observer is cancelled when its handle is dropped"]
pub(crate) struct Handle {
    observer: Arc<dyn Observer>,
    shared: Arc<Shared>,
}

impl Handle {
    fn new(observer: Arc<dyn Observer>, shared: Arc<Shared>) -> Self {
        Self { observer, shared }
    }

    /// Ends the registration: when this returns, no call is in progress and none can follow.
    /// Inside a callback it returns at once; a call of this observer in progress is the last.
    pub(crate) fn cancel(&self) {
        let taken = self.observer.take_all(&self.shared);
        self.shared.wait_for_call(self.observer.id());
        drop(taken);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.observer.is_cancelled()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.observer.id() == other.observer.id()
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.observer.id().hash(state);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.observer.id())
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver};
    use std::sync::{Mutex, OnceLock};
    use std::thread;

    use super::*;

    pub(super) const SOON: Duration = Duration::from_secs(20);

    pub(super) fn start() -> CallbackThread {
        CallbackThread::start("test").expect("a thread")
    }

    /// An observer that tells the test of each event.
    pub(super) fn recorder(
        callbacks: &CallbackThread,
    ) -> (Handle, QueueSender<u32>, Receiver<u32>) {
        let (events, received) = mpsc::channel();
        let (handle, sender) = callbacks.register_queue(64, move |event: &u32| {
            events.send(*event).expect("the test waits");
        });
        (handle, sender, received)
    }

    pub(super) fn next<T>(received: &Receiver<T>) -> T {
        received.recv_timeout(SOON).expect("a call")
    }

    /// Keeps the thread in a callback until the sender of the gate is dropped.
    pub(super) fn block(callbacks: &CallbackThread) -> (Handle, mpsc::Sender<()>) {
        let (gate, opened) = mpsc::channel();
        let (entered, is_entered) = mpsc::channel();
        let opened = Mutex::new(opened);
        let (handle, sender) = callbacks.register_queue(1, move |(): &()| {
            entered.send(()).expect("the test waits");
            let _ = opened.lock().expect("one caller").recv();
        });
        sender.try_send(()).expect("room");
        next(&is_entered);
        (handle, gate)
    }

    pub(super) fn no_overflow(_: &mut VecDeque<u32>, event: u32) {
        panic!("no room for {event}");
    }

    #[test]
    fn events_of_all_observers_come_in_the_order_of_sending() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let (events, received) = mpsc::channel();
        let observers: Vec<_> = (0..3_u32)
            .map(|id| {
                let events = events.clone();
                callbacks.register_queue(200, move |event: &u32| {
                    events.send((id, *event)).expect("the test waits");
                })
            })
            .collect();
        let mut sent = Vec::new();
        for event in 0..200 {
            let id = (event * event / 7) % 3;
            observers[id as usize].1.send(event, no_overflow);
            sent.push((id, event));
        }
        drop(gate);
        let got: Vec<_> = sent.iter().map(|_| next(&received)).collect();
        assert_eq!(got, sent);
    }

    #[test]
    fn callbacks_never_run_beside_each_other_nor_on_the_senders_stack() {
        let callbacks = start();
        let inside = Arc::new(AtomicBool::new(false));
        let (done, is_done) = mpsc::channel();
        let observers: Vec<_> = (0..4)
            .map(|_| {
                let (inside, done) = (inside.clone(), done.clone());
                callbacks.register_queue(64, move |_: &u32| {
                    let was_inside = inside.swap(true, Ordering::SeqCst);
                    thread::yield_now();
                    inside.store(false, Ordering::SeqCst);
                    done.send((was_inside, thread::current().id())).expect("the test waits");
                })
            })
            .collect();
        thread::scope(|scope| {
            for (_, sender) in &observers {
                scope.spawn(|| (0..50).for_each(|event| sender.send(event, no_overflow)));
            }
        });
        let calls: Vec<_> = (0..200).map(|_| next(&is_done)).collect();
        assert!(calls.iter().all(|call| *call == (false, calls[0].1)));
        assert_ne!(calls[0].1, thread::current().id());
    }

    #[test]
    fn a_drop_waits_for_the_call_in_progress() {
        let callbacks = start();
        let is_over = Arc::new(AtomicBool::new(false));
        let (entered, is_entered) = mpsc::channel();
        let over = is_over.clone();
        let (handle, sender) = callbacks.register_queue(1, move |(): &()| {
            entered.send(()).expect("the test waits");
            thread::sleep(Duration::from_millis(50));
            over.store(true, Ordering::SeqCst);
        });
        sender.try_send(()).expect("room");
        next(&is_entered);
        drop(handle);
        assert!(is_over.load(Ordering::SeqCst), "the drop returned during the call");
        assert_eq!(sender.try_send(()), Err(()));
        assert!(sender.is_gone());
    }

    #[test]
    fn no_call_follows_a_drop() {
        let callbacks = start();
        for round in 0..200 {
            let is_dropped = Arc::new(AtomicBool::new(false));
            let late_calls = Arc::new(AtomicUsize::new(0));
            let (dropped, late) = (is_dropped.clone(), late_calls.clone());
            let check = move |_: &u32| {
                for _ in 0..20 {
                    if dropped.load(Ordering::SeqCst) {
                        late.fetch_add(1, Ordering::SeqCst);
                    }
                    std::hint::spin_loop();
                }
            };
            let (queue, sender) = callbacks.register_queue(8, check.clone());
            let (latest, latest_sender) = callbacks.register_queue(1, check);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let _ = sender.try_send(1);
                        latest_sender.replace(1);
                    }
                });
                if round % 2 == 0 {
                    thread::sleep(Duration::from_micros(50));
                }
                drop(queue);
                drop(latest);
                is_dropped.store(true, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(50));
                stop.store(true, Ordering::SeqCst);
            });
            assert_eq!(late_calls.load(Ordering::SeqCst), 0, "round {round}");
        }
    }

    #[test]
    fn a_cancelled_observer_forgets_what_waits_and_what_it_holds() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let held = Arc::new(());
        let captured = held.clone();
        let (handle, sender) = callbacks.register_queue(4, move |event: &Arc<()>| {
            panic!("called with {event:?} and {captured:?}");
        });
        sender.try_send(held.clone()).expect("room");
        assert_eq!(Arc::strong_count(&held), 3);
        assert!(!handle.is_cancelled());
        handle.cancel();
        handle.cancel();
        assert!(handle.is_cancelled());
        assert_eq!(Arc::strong_count(&held), 1, "the sender alone keeps nothing");
        assert_eq!(callbacks.shared.ready_count(), 0);
        drop(gate);
    }

    #[test]
    fn an_observer_can_cancel_itself_in_its_last_call() {
        let callbacks = start();
        let own: Arc<Mutex<Option<Handle>>> = Arc::default();
        let (events, received) = mpsc::channel();
        let handle_in_callback = own.clone();
        let (handle, sender) = callbacks.register_queue(8, move |event: &u32| {
            let handle = handle_in_callback.lock().expect("a lock").take();
            let handle = handle.expect("the first call");
            handle.cancel();
            drop(handle);
            events.send(*event).expect("the test waits");
        });
        *own.lock().expect("a lock") = Some(handle);
        (0..3).for_each(|event| sender.send(event, no_overflow));
        assert_eq!(next(&received), 0);
        assert!(
            received.recv_timeout(SOON).is_err(),
            "the closure is gone, and its sender with it"
        );
        assert!(sender.is_gone());
    }

    #[test]
    fn an_observer_can_be_registered_fed_and_cancelled_inside_a_callback() {
        let callbacks = start();
        let (events, received) = mpsc::channel();
        let inner = callbacks.clone();
        let kept: OnceLock<Handle> = OnceLock::new();
        let (_outer, sender) = callbacks.register_queue(8, move |event: &u32| {
            let (never, _) = inner.register_queue(8, |(): &()| ());
            let events = events.clone();
            let (handle, sender) = inner.register_queue(8, move |event: &u32| {
                events.send(*event).expect("the test waits");
            });
            sender.send(event + 1, no_overflow);
            kept.set(handle).expect("one call");
            never.cancel();
        });
        sender.send(1, no_overflow);
        assert_eq!(next(&received), 2);
    }

    #[test]
    fn a_panic_keeps_the_observer_and_the_others() {
        let callbacks = start();
        let (_other, other_sender, other_received) = recorder(&callbacks);
        let (events, received) = mpsc::channel();
        let (handle, sender) = callbacks.register_queue(8, move |event: &u32| {
            assert_ne!(*event, 1, "this panic is part of a test");
            events.send(*event).expect("the test waits");
        });
        for event in [1, 2] {
            sender.send(event, no_overflow);
            other_sender.send(event, no_overflow);
        }
        assert_eq!(next(&received), 2);
        assert_eq!([next(&other_received), next(&other_received)], [1, 2]);
        assert!(!handle.is_cancelled());
    }

    #[test]
    fn a_close_delivers_what_waits_and_takes_no_more() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let (handle, sender, received) = recorder(&callbacks);
        (0..3).for_each(|event| sender.send(event, no_overflow));
        callbacks.close();
        assert_eq!(sender.try_send(9), Err(9));
        assert!(!callbacks.wait_ended(Duration::from_millis(5)));
        drop(gate);
        assert!(callbacks.wait_ended(SOON));
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        handle.cancel();
    }

    #[test]
    fn an_observer_of_a_closed_client_gets_one_event_on_a_thread() {
        let callbacks = start();
        callbacks.close();
        assert!(callbacks.wait_ended(SOON));
        for _ in 0..2 {
            let (handle, sender, received) = recorder(&callbacks);
            assert_eq!(sender.try_send(1), Ok(()));
            assert_eq!(sender.try_send(2), Err(2));
            assert_eq!(next(&received), 1);
            assert!(callbacks.wait_ended(SOON));
            drop(handle);
        }
    }

    #[test]
    fn the_last_handle_can_be_dropped_inside_a_callback() {
        let callbacks = start();
        let shared = callbacks.shared.clone();
        let own: Arc<Mutex<Option<CallbackThread>>> = Arc::default();
        let last = own.clone();
        let (events, received) = mpsc::channel();
        let (handle, sender) = callbacks.register_queue(2, move |(): &()| {
            let callbacks = last.lock().expect("a lock").take().expect("one call");
            assert!(callbacks.is_current());
            assert!(!callbacks.wait_ended(SOON), "the thread does not wait for itself");
            drop(callbacks);
            events.send(()).expect("the test waits");
        });
        *own.lock().expect("a lock") = Some(callbacks);
        sender.try_send(()).expect("room");
        next(&received);
        assert!(shared.wait_ended(SOON));
        drop(handle);
    }

    #[test]
    fn handles_are_equal_to_themselves_only() {
        let callbacks = start();
        let (one, ..) = recorder(&callbacks);
        let (other, ..) = recorder(&callbacks);
        assert_eq!(one, one);
        assert_ne!(one, other);
    }
}
