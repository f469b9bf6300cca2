//! Observers and what waits for them: messages, states, members, direct messages, graphs.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::schedule::{AfterClose, ObserverId, Place, Schedule, Shared};
use super::{Callback, Observer};

/// Sends events to one observer.
pub(crate) struct QueueSender<E> {
    observer: Arc<QueueObserver<E>>,
    shared: Arc<Shared>,
}

struct QueueObserver<E> {
    id: ObserverId,
    capacity: usize,
    after_close: AfterClose,
    waiting: Mutex<Waiting<E>>,
}

struct Waiting<E> {
    /// `None` once the observer is cancelled.
    callback: Option<Callback<E>>,
    events: VecDeque<E>,
    /// One for each event, ascending.
    places: VecDeque<Place>,
}

impl<E: Send + 'static> QueueSender<E> {
    pub(super) fn new(shared: Arc<Shared>, capacity: usize, callback: Callback<E>) -> Self {
        let waiting =
            Waiting { callback: Some(callback), events: VecDeque::new(), places: VecDeque::new() };
        let observer = Arc::new(QueueObserver {
            id: ObserverId::next(),
            capacity: capacity.max(1),
            after_close: shared.after_close(),
            waiting: Mutex::new(waiting),
        });
        Self { observer, shared }
    }

    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        self.observer.clone()
    }

    /// Sends an event. When `capacity` events wait, `overflow` decides what becomes of them and of
    /// this one, oldest first; it must leave `capacity` or fewer. The newest event then has the
    /// newest place in the order of all events, and surplus places of the oldest are given up.
    /// Lost, as the observer is, after a cancel; lost after the close.
    pub(crate) fn send(&self, event: E, overflow: impl FnOnce(&mut VecDeque<E>, E)) {
        // Whatever is refused is dropped without the locks.
        let _refused = self.send_or_return(event, |events, event| {
            overflow(events, event);
            None
        });
    }

    /// Sends an event, or gives it back when `capacity` events wait, when the observer is
    /// cancelled, and after the close.
    pub(crate) fn try_send(&self, event: E) -> Result<(), E> {
        self.send_or_return(event, |_, event| Some(event))
    }

    /// Sends an event in place of the newest that waits, if there is one, whose place in the order
    /// of all events it takes. Lost after a cancel, and after the close.
    pub(crate) fn replace(&self, mut event: E) {
        let mut waiting = self.observer.lock();
        if let Some(newest) = waiting.events.back_mut() {
            // What is replaced is dropped without the lock.
            std::mem::swap(newest, &mut event);
            return;
        }
        let _refused = self.push(waiting, event, |_, event| Some(event));
    }

    /// Whether the observer is cancelled, so that sending is in vain.
    pub(crate) fn is_gone(&self) -> bool {
        self.observer.is_cancelled()
    }

    fn send_or_return(
        &self,
        event: E,
        overflow: impl FnOnce(&mut VecDeque<E>, E) -> Option<E>,
    ) -> Result<(), E> {
        self.push(self.observer.lock(), event, overflow)
    }

    fn push(
        &self,
        mut waiting: MutexGuard<'_, Waiting<E>>,
        event: E,
        overflow: impl FnOnce(&mut VecDeque<E>, E) -> Option<E>,
    ) -> Result<(), E> {
        if waiting.callback.is_none() {
            return Err(event);
        }
        let Some(mut schedule) = self.shared.accept(&self.observer.after_close) else {
            return Err(event);
        };
        if waiting.events.len() < self.observer.capacity {
            waiting.events.push_back(event);
        } else if let Some(refused) = overflow(&mut waiting.events, event) {
            return Err(refused);
        }
        self.align_places(&mut waiting, &mut schedule);
        drop(schedule);
        self.shared.notify();
        Ok(())
    }

    /// A new place for the newest event, then as many places as events.
    fn align_places(&self, waiting: &mut Waiting<E>, schedule: &mut Schedule) {
        let count = waiting.events.len();
        let added = count.saturating_sub(waiting.places.len()).max(1);
        for _ in 0..added {
            let place = schedule.next_place();
            waiting.places.push_back(place);
            schedule.add(place, self.observer.clone());
        }
        while waiting.places.len() > count {
            let Some(place) = waiting.places.pop_front() else { return };
            schedule.remove(place);
        }
    }
}

impl<E> Clone for QueueSender<E> {
    fn clone(&self) -> Self {
        Self { observer: self.observer.clone(), shared: self.shared.clone() }
    }
}

impl<E> QueueObserver<E> {
    fn lock(&self) -> MutexGuard<'_, Waiting<E>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event at this place, unless it was given up in the meantime.
    fn take(&self, place: Place) -> Option<(Callback<E>, E)> {
        let mut waiting = self.lock();
        let callback = waiting.callback.clone()?;
        if *waiting.places.front()? != place {
            return None;
        }
        waiting.places.pop_front();
        Some((callback, waiting.events.pop_front()?))
    }
}

impl<E: Send + 'static> Observer for QueueObserver<E> {
    fn id(&self) -> ObserverId {
        self.id
    }

    fn call(self: Arc<Self>, place: Place, shared: &Shared) {
        let Some((callback, event)) = self.take(place) else { return };
        shared.run_guarded(move || {
            callback(&event);
            drop((event, callback));
        });
    }

    fn take_all(&self, shared: &Shared) -> Box<dyn Any> {
        let mut waiting = self.lock();
        let callback = waiting.callback.take();
        let events = std::mem::take(&mut waiting.events);
        let mut schedule = shared.reschedule();
        waiting.places.drain(..).for_each(|place| schedule.remove(place));
        Box::new((callback, events))
    }

    fn is_cancelled(&self) -> bool {
        self.lock().callback.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::tests::{block, next, no_overflow, start};

    #[test]
    fn a_full_queue_asks_what_to_give_up() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let (events, received) = mpsc::channel();
        let other_events = events.clone();
        let (_one, one) = callbacks
            .register_queue(3, move |event: &u32| events.send(*event).expect("the test waits"));
        let (_other, other) = callbacks.register_queue(9, move |event: &u32| {
            other_events.send(*event).expect("the test waits")
        });
        for event in [1, 2, 3] {
            one.send(event, no_overflow);
            other.send(event + 100, no_overflow);
        }
        assert_eq!(one.try_send(4), Err(4));
        one.send(4, |events, event| {
            events.pop_front();
            events.push_back(event);
        });
        drop(gate);
        let got: Vec<_> = (0..6).map(|_| next(&received)).collect();
        assert_eq!(got, [101, 2, 102, 3, 103, 4], "the newest has the newest place");
    }

    #[test]
    fn the_latest_event_takes_the_place_of_one_that_waits() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let (events, received) = mpsc::channel();
        let other_events = events.clone();
        let (_latest, latest) = callbacks
            .register_queue(1, move |event: &u32| events.send(*event).expect("the test waits"));
        let (_other, other) = callbacks.register_queue(1, move |event: &u32| {
            other_events.send(*event).expect("the test waits")
        });
        latest.replace(0);
        other.send(100, no_overflow);
        (1..50).for_each(|event| latest.replace(event));
        drop(gate);
        assert_eq!([next(&received), next(&received)], [49, 100]);
        latest.replace(50);
        assert_eq!(next(&received), 50);
    }

    #[test]
    fn a_collapsed_queue_gives_its_places_up() {
        let callbacks = start();
        let (_blocker, gate) = block(&callbacks);
        let (events, received) = mpsc::channel();
        let (_handle, sender) = callbacks
            .register_queue(4, move |event: &u32| events.send(*event).expect("the test waits"));
        for event in 0..1000 {
            sender.send(event, |events, event| {
                events.clear();
                events.push_back(event);
            });
        }
        let places = callbacks.shared.ready_count();
        assert!(places <= 4, "{places} places");
        drop(gate);
        assert_eq!([(); 4].map(|()| next(&received)), [996, 997, 998, 999]);
    }
}
