//! Observers that get the latest value: graphs.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::schedule::{AfterClose, ObserverId, Place, Schedule, Shared};
use super::{Callback, Observer};

/// Longer intervals are as good as none between two calls, and would overflow clocks.
const INTERVAL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Sends values to one observer.
pub(crate) struct LatestSender<E> {
    observer: Arc<LatestObserver<E>>,
    shared: Arc<Shared>,
}

struct LatestObserver<E> {
    id: ObserverId,
    interval: Duration,
    after_close: AfterClose,
    slot: Mutex<Slot<E>>,
}

struct Slot<E> {
    /// `None` once the observer is cancelled.
    callback: Option<Callback<E>>,
    /// The latest value, as long as it is not delivered.
    value: Option<E>,
    /// Where the value waits; `None` without a value and during a call.
    place: Option<(Instant, Place)>,
    is_in_call: bool,
    /// The earliest time of the next call, once there was one.
    not_before: Option<Instant>,
}

impl<E: Send + 'static> LatestSender<E> {
    pub(super) fn new(shared: Arc<Shared>, interval: Duration, callback: Callback<E>) -> Self {
        let slot = Slot {
            callback: Some(callback),
            value: None,
            place: None,
            is_in_call: false,
            not_before: None,
        };
        let observer = Arc::new(LatestObserver {
            id: ObserverId::next(),
            interval: interval.min(INTERVAL_MAX),
            after_close: shared.after_close(),
            slot: Mutex::new(slot),
        });
        Self { observer, shared }
    }

    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        self.observer.clone()
    }

    /// Sends a value in place of one that is not delivered yet, which has its place in the order of
    /// all events. Lost after a cancel, and after the close.
    pub(crate) fn send(&self, value: E) {
        let _replaced = self.replace(value);
    }

    /// Whether the observer is cancelled, so that sending is in vain.
    pub(crate) fn is_gone(&self) -> bool {
        self.observer.is_cancelled()
    }

    /// What is not delivered: the value before, or this one. Dropped without the locks.
    fn replace(&self, value: E) -> Option<E> {
        let mut slot = self.observer.lock();
        if slot.callback.is_none() {
            return Some(value);
        }
        let Some(mut schedule) = self.shared.accept(&self.observer.after_close) else {
            return Some(value);
        };
        let replaced = slot.value.replace(value);
        if slot.place.is_none() && !slot.is_in_call {
            self.observer.clone().schedule(&mut slot, &mut schedule);
            drop(schedule);
            self.shared.notify();
        }
        replaced
    }
}

impl<E> Clone for LatestSender<E> {
    fn clone(&self) -> Self {
        Self { observer: self.observer.clone(), shared: self.shared.clone() }
    }
}

impl<E: Send + 'static> LatestObserver<E> {
    fn lock(&self) -> MutexGuard<'_, Slot<E>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(self: Arc<Self>, slot: &mut Slot<E>, schedule: &mut Schedule) {
        let now = Shared::now();
        let due = slot.not_before.unwrap_or(now);
        let place = schedule.next_place();
        slot.place = Some((due, place));
        if due <= now {
            schedule.add(place, self);
        } else {
            schedule.add_delayed(due, place, self);
        }
    }

    fn begin_call(&self, place: Place) -> Option<(Callback<E>, E)> {
        let mut slot = self.lock();
        let callback = slot.callback.clone()?;
        slot.place.take_if(|(_, own)| *own == place)?;
        let value = slot.value.take()?;
        slot.is_in_call = true;
        Some((callback, value))
    }

    /// The interval counts from the end of a call, so that slow ones leave room for others.
    fn end_call(self: Arc<Self>, shared: &Shared) {
        let observer = self.clone();
        let mut slot = observer.lock();
        slot.is_in_call = false;
        slot.not_before = Some(Shared::now() + self.interval);
        if slot.value.is_some() {
            self.schedule(&mut slot, &mut shared.reschedule());
        }
    }
}

impl<E: Send + 'static> Observer for LatestObserver<E> {
    fn id(&self) -> ObserverId {
        self.id
    }

    fn call(self: Arc<Self>, place: Place, shared: &Shared) {
        let Some((callback, value)) = self.begin_call(place) else { return };
        shared.run_guarded(move || {
            callback(&value);
            drop((value, callback));
        });
        self.end_call(shared);
    }

    fn take_all(&self, shared: &Shared) -> Box<dyn Any> {
        let mut slot = self.lock();
        let taken = (slot.callback.take(), slot.value.take());
        if let Some((due, place)) = slot.place.take() {
            shared.reschedule().remove_delayed(due, place);
        }
        Box::new(taken)
    }

    fn is_cancelled(&self) -> bool {
        self.lock().callback.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::super::tests::{SOON, block, next, no_overflow, recorder, start};

    #[test]
    fn the_latest_value_replaces_those_that_wait() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let (values, received) = mpsc::channel();
        let (_handle, sender) = callbacks.register_latest(Duration::ZERO, move |value: &u32| {
            values.send(*value).expect("the test waits");
        });
        (0..100).for_each(|value| sender.send(value));
        drop(gate);
        assert_eq!(next(&received), 99);
        sender.send(100);
        assert_eq!(next(&received), 100);
    }

    #[test]
    fn calls_of_one_observer_are_an_interval_apart_and_the_last_value_arrives() {
        const INTERVAL: Duration = Duration::from_millis(30);
        let callbacks = start();
        let (values, received) = mpsc::channel();
        let (_handle, sender) = callbacks.register_latest(INTERVAL, move |value: &u32| {
            values.send((*value, Instant::now())).expect("the test waits");
        });
        let sent_at = Instant::now();
        let mut last = 0;
        while sent_at.elapsed() < 4 * INTERVAL {
            last += 1;
            sender.send(last);
            thread::sleep(Duration::from_millis(1));
        }
        let mut calls = vec![next(&received)];
        while calls.last().is_some_and(|(value, _)| *value != last) {
            calls.push(next(&received));
        }
        assert_eq!(calls[0].0, 1, "the first comes at once");
        assert!(calls.len() >= 2);
        for pair in calls.windows(2) {
            assert!(pair[1].1 - pair[0].1 >= INTERVAL, "{calls:?}");
        }
        assert!(received.try_recv().is_err());
    }

    #[test]
    fn a_delayed_value_holds_nobody_up_and_comes_at_once_on_close() {
        const LONG: Duration = Duration::from_secs(3600);
        let callbacks = start();
        let (values, received) = mpsc::channel();
        let (_handle, sender) = callbacks.register_latest(LONG, move |value: &u32| {
            values.send(*value).expect("the test waits");
        });
        sender.send(1);
        assert_eq!(next(&received), 1);
        sender.send(2);
        let (_other, other, other_received) = recorder(&callbacks);
        other.send(7, no_overflow);
        assert_eq!(next(&other_received), 7);
        assert!(received.try_recv().is_err());
        callbacks.close();
        assert_eq!(next(&received), 2);
        assert!(callbacks.wait_ended(SOON));
    }
}
