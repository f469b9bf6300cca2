//! The bounded queue behind the streams of the public API.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

/// The stream of what its [`EventSender`] pushes; ends after the close, with the sender at the
/// latest.
pub(crate) struct EventQueue<T> {
    shared: Arc<Mutex<Queue<T>>>,
}

/// Pushes to one [`EventQueue`]. Closes it when it is dropped.
pub(crate) struct EventSender<T> {
    shared: Arc<Mutex<Queue<T>>>,
    capacity: usize,
}

struct Queue<T> {
    events: VecDeque<T>,
    waker: Option<Waker>,
    is_closed: bool,
    /// The stream was dropped.
    is_gone: bool,
}

fn lock<T>(shared: &Mutex<Queue<T>>) -> MutexGuard<'_, Queue<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> EventQueue<T> {
    /// A stream that keeps `capacity` events for its reader.
    pub(crate) fn new(capacity: usize) -> (EventSender<T>, Self) {
        let queue =
            Queue { events: VecDeque::new(), waker: None, is_closed: false, is_gone: false };
        let shared = Arc::new(Mutex::new(queue));
        let sender = EventSender { shared: shared.clone(), capacity: capacity.max(1) };
        (sender, Self { shared })
    }

    /// A stream that keeps the newest value; see [`EventSender::replace`].
    pub(crate) fn latest() -> (EventSender<T>, Self) {
        Self::new(1)
    }
}

impl<T> EventSender<T> {
    /// Pushes an event. When as many wait as there is room for, `overflow` decides what becomes of
    /// them and of this one, oldest first; it must leave no more than there is room for. Lost when
    /// the stream is gone or closed.
    pub(crate) fn push(&self, event: T, overflow: impl FnOnce(&mut VecDeque<T>, T)) {
        self.change(event, |events, event| {
            if events.len() < self.capacity {
                events.push_back(event);
            } else {
                overflow(events, event);
            }
        });
    }

    /// Pushes a value in place of those that wait.
    pub(crate) fn replace(&self, event: T) {
        self.change(event, |events, event| {
            events.clear();
            events.push_back(event);
        });
    }

    /// The stream gives what waits, then ends.
    pub(crate) fn close(&self) {
        let waker = {
            let mut queue = lock(&self.shared);
            queue.is_closed = true;
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the stream was dropped, so that pushing is in vain.
    pub(crate) fn is_gone(&self) -> bool {
        lock(&self.shared).is_gone
    }

    /// Wakers run without the lock.
    fn change(&self, event: T, change: impl FnOnce(&mut VecDeque<T>, T)) {
        let waker = {
            let mut queue = lock(&self.shared);
            if queue.is_gone || queue.is_closed {
                return;
            }
            change(&mut queue.events, event);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for EventSender<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> Stream for EventQueue<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        // Cloned, and the old one dropped, without the lock: both are the executor's code.
        let waker = context.waker().clone();
        let _old_waker = {
            let mut queue = lock(&self.shared);
            if let Some(event) = queue.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if queue.is_closed {
                return Poll::Ready(None);
            }
            queue.waker.replace(waker)
        };
        Poll::Pending
    }
}

impl<T> Drop for EventQueue<T> {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared);
        queue.is_gone = true;
        let dropped = (std::mem::take(&mut queue.events), queue.waker.take());
        drop(queue);
        drop(dropped);
    }
}

impl<T> fmt::Debug for EventQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue").field("waiting", &lock(&self.shared).events.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Reader(EventQueue<u32>, Arc<CountingWaker>);

    impl Reader {
        fn poll(&mut self) -> Poll<Option<u32>> {
            let waker = self.1.clone().into();
            Pin::new(&mut self.0).poll_next(&mut Context::from_waker(&waker))
        }

        fn wakes(&self) -> usize {
            self.1.0.load(Ordering::SeqCst)
        }
    }

    fn queue(capacity: usize) -> (EventSender<u32>, Reader) {
        let (sender, stream) = EventQueue::new(capacity);
        (sender, Reader(stream, Arc::default()))
    }

    fn no_overflow(_: &mut VecDeque<u32>, event: u32) {
        panic!("no room for {event}");
    }

    #[test]
    fn streams_can_be_sent_and_moved_between_polls() {
        fn check<T: Stream<Item = u32> + Send + Unpin + 'static>(_: &T) {}
        check(&EventQueue::new(1).1);
    }

    #[test]
    fn a_reader_that_waits_is_woken_once_and_reads_in_order() {
        let (sender, mut reader) = queue(4);
        assert_eq!(reader.poll(), Poll::Pending);
        assert_eq!(reader.wakes(), 0);
        sender.push(1, no_overflow);
        sender.push(2, no_overflow);
        assert_eq!(reader.wakes(), 1);
        assert_eq!([reader.poll(), reader.poll()], [Poll::Ready(Some(1)), Poll::Ready(Some(2))]);
        assert_eq!(reader.poll(), Poll::Pending);
    }

    #[test]
    fn a_full_queue_asks_what_to_give_up() {
        let (sender, mut reader) = queue(2);
        for event in [1, 2] {
            sender.push(event, no_overflow);
        }
        sender.push(3, |events, event| {
            assert_eq!(events.pop_front(), Some(1));
            events.push_back(event);
        });
        assert_eq!([reader.poll(), reader.poll()], [Poll::Ready(Some(2)), Poll::Ready(Some(3))]);
    }

    #[test]
    fn the_latest_value_replaces_those_that_wait() {
        let (sender, stream) = EventQueue::latest();
        let mut reader = Reader(stream, Arc::default());
        (0..10).for_each(|value| sender.replace(value));
        assert_eq!(reader.poll(), Poll::Ready(Some(9)));
        assert_eq!(reader.poll(), Poll::Pending);
    }

    #[test]
    fn what_waits_is_read_after_the_close_and_then_the_stream_ends() {
        let (sender, mut reader) = queue(4);
        assert_eq!(reader.poll(), Poll::Pending);
        sender.push(1, no_overflow);
        sender.close();
        sender.push(2, no_overflow);
        assert_eq!(reader.poll(), Poll::Ready(Some(1)));
        assert_eq!([reader.poll(), reader.poll()], [Poll::Ready(None), Poll::Ready(None)]);
    }

    #[test]
    fn a_reader_that_waits_learns_that_the_sender_was_dropped() {
        let (sender, mut reader) = queue(4);
        assert_eq!(reader.poll(), Poll::Pending);
        drop(sender);
        assert_eq!(reader.wakes(), 1);
        assert_eq!(reader.poll(), Poll::Ready(None));
    }

    #[test]
    fn a_sender_learns_that_the_stream_was_dropped() {
        let (sender, stream) = EventQueue::new(4);
        let event = Arc::new(());
        sender.push(event.clone(), |_, _| ());
        assert!(!sender.is_gone());
        drop(stream);
        assert!(sender.is_gone());
        sender.push(event.clone(), |_, _| ());
        assert_eq!(Arc::strong_count(&event), 1, "nothing is kept");
    }
}
