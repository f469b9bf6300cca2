//! Which observer is called next, and the thread that calls it.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
#[cfg(test)]
use std::time::Duration;
use std::time::Instant;

use super::Observer;
use super::panics::{self, PanicLog};

/// Position of an event in the order of all events of a client.
pub(super) type Place = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObserverId(u64);

impl ObserverId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether events are taken after the close: none, or one by an observer that is registered then.
pub(super) struct AfterClose(AtomicBool);

/// What the thread, the senders and the handles of a client share.
pub(super) struct Shared {
    name: String,
    schedule: Mutex<Schedule>,
    /// Something can be called, or the thread is to end.
    work: Condvar,
    /// A call is over, or the thread has ended.
    idle: Condvar,
    panics: Mutex<PanicLog>,
}

pub(super) struct Schedule {
    ready: BTreeMap<Place, Arc<dyn Observer>>,
    next_place: Place,
    running: Option<ObserverId>,
    thread: Option<ThreadId>,
    is_closed: bool,
}

impl Schedule {
    pub(super) fn next_place(&mut self) -> Place {
        self.next_place += 1;
        self.next_place
    }

    pub(super) fn add(&mut self, place: Place, observer: Arc<dyn Observer>) {
        self.ready.insert(place, observer);
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.ready.remove(&place);
    }
}

impl Shared {
    pub(super) fn new(name: &str) -> Arc<Self> {
        let schedule = Schedule {
            ready: BTreeMap::new(),
            next_place: 0,
            running: None,
            thread: None,
            is_closed: false,
        };
        Arc::new(Self {
            name: name.to_string(),
            schedule: Mutex::new(schedule),
            work: Condvar::new(),
            idle: Condvar::new(),
            panics: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        self.start_locked(&mut self.lock())
    }

    fn start_locked(self: &Arc<Self>, schedule: &mut Schedule) -> io::Result<()> {
        let shared = self.clone();
        let thread = thread::Builder::new().name(self.name.clone()).spawn(move || shared.run())?;
        schedule.thread = Some(thread.thread().id());
        Ok(())
    }

    /// Whether an observer that is registered now gets an event after the close.
    pub(super) fn after_close(&self) -> AfterClose {
        AfterClose(AtomicBool::new(self.lock().is_closed))
    }

    /// The schedule, to add an event; `None` when no more are taken.
    pub(super) fn accept(
        self: &Arc<Self>,
        after_close: &AfterClose,
    ) -> Option<MutexGuard<'_, Schedule>> {
        let mut schedule = self.lock();
        if schedule.is_closed {
            if !after_close.0.swap(false, Ordering::Relaxed) {
                return None;
            }
            if schedule.thread.is_none() {
                self.start_locked(&mut schedule).ok()?;
            }
        }
        Some(schedule)
    }

    /// The schedule, for events that were accepted before.
    pub(super) fn reschedule(&self) -> MutexGuard<'_, Schedule> {
        self.lock()
    }

    pub(super) fn notify(&self) {
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_one();
    }

    #[cfg(test)]
    pub(super) fn ready_count(&self) -> usize {
        self.lock().ready.len()
    }

    pub(super) fn is_current(&self) -> bool {
        self.lock().thread == Some(thread::current().id())
    }

    /// Waits until this observer is not being called, except on the thread itself.
    pub(super) fn wait_for_call(&self, id: ObserverId) {
        let mut schedule = self.lock();
        if schedule.thread == Some(thread::current().id()) {
            return;
        }
        while schedule.running == Some(id) {
            schedule = self.idle.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[cfg(test)]
    pub(super) fn wait_ended(&self, limit: Duration) -> bool {
        let schedule = self.lock();
        if schedule.thread == Some(thread::current().id()) {
            return false;
        }
        let is_alive = |schedule: &mut Schedule| schedule.thread.is_some();
        let waited = self.idle.wait_timeout_while(schedule, limit, is_alive);
        waited.unwrap_or_else(PoisonError::into_inner).0.thread.is_none()
    }

    fn run(&self) {
        let _ended = EndedOnDrop(self);
        while let Some((place, observer)) = self.next() {
            observer.call(place, self);
            self.lock().running = None;
            self.idle.notify_all();
        }
    }

    /// The next observer to call; `None`, with the thread as good as ended, when none can follow.
    fn next(&self) -> Option<(Place, Arc<dyn Observer>)> {
        let mut schedule = self.lock();
        loop {
            if let Some((place, observer)) = schedule.ready.pop_first() {
                schedule.running = Some(observer.id());
                return Some((place, observer));
            }
            if schedule.is_closed {
                schedule.thread = None;
                return None;
            }
            schedule = self.work.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs code of the application. A panic is written to standard error and ends there.
    pub(super) fn run_guarded(&self, code: impl FnOnce()) {
        let Err(payload) = catch_unwind(AssertUnwindSafe(code)) else { return };
        let message = panics::message(payload);
        let mut log = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        let line = log.line(Instant::now(), &self.name, &message);
        drop(log);
        if let Some(line) = line {
            panics::write_line(&line);
        }
    }
}

/// Lets nobody wait for a thread that is gone, however it ended.
struct EndedOnDrop<'a>(&'a Shared);

impl Drop for EndedOnDrop<'_> {
    fn drop(&mut self) {
        let mut schedule = self.0.lock();
        if schedule.thread == Some(thread::current().id()) {
            schedule.thread = None;
            schedule.running = None;
        }
        drop(schedule);
        self.0.idle.notify_all();
    }
}
