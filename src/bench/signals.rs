//! What the conductor and the threads of a run share. Atomics only: no thread waits for another
//! one, so that no connection goes unread.

use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use enum_map::{Enum, EnumMap};

use super::time::Timeline;

/// What the threads of a run count, each for itself. "Measured": due within the measured time.
#[derive(Clone, Copy, Debug, Enum)]
pub enum Counter {
    /// Connections that were opened, and upgraded where that applies.
    Opened,
    /// Sessions whose credentials were accepted.
    Greeted,
    /// Members that are in, active subscriptions, and connections that have nothing to join.
    Joined,
    /// Publishers among the members that are in.
    PublishersJoined,
    /// Messages, or presence updates, sent.
    Published,
    PublishedMeasured,
    /// Publishes that the server has accepted.
    Acknowledged,
    /// Messages, or states that a receiver saw for the first time.
    Delivered,
    DeliveredMeasured,
    /// What was asked of the server: deliveries to each receiver, acknowledgements, and ends of
    /// connections.
    Owed,
    /// What has come of that. A state that a newer one overtook has come.
    Settled,
    /// Measured states that were never shown because a newer one overtook them.
    Conflated,
    Duplicated,
    Reordered,
    /// Presence frames, or messages of a Foony server or a peer, received.
    Frames,
    BytesIn,
    /// Reads of sockets.
    Reads,
    /// Connections opened and closed again.
    Cycles,
    /// Receivers that were shown a set with every member in it.
    Complete,
    /// Connections that ended too early.
    Disconnected,
    FloodPongs,
    FloodersDisconnected,
    /// Threads that ask for nothing more.
    Finished,
    /// Within the measured time: that of turns in which something happened, all of it, and that in
    /// which something else had the thread's CPU.
    BusyNs,
    TotalNs,
    WaitedNs,
}

/// Sums over all threads.
pub type Totals = EnumMap<Counter, u64>;

/// One thread's counters, in cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters(EnumMap<Counter, AtomicU64>);

/// What a connection does before the run, in order. The conductor allows one step after the other.
#[derive(Clone, Copy, Debug, Enum, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Created,
    Opened,
    Greeted,
    Joined,
    /// The threads end.
    Ended,
}

/// Shared by the conductor and all threads of one run.
#[derive(Debug)]
pub struct Signals {
    counters: Vec<Counters>,
    allowed: AtomicU8,
    timeline: OnceLock<Timeline>,
    /// By feed, then thread: what all receivers of that thread have seen of it.
    floors: Vec<Vec<AtomicU64>>,
}

impl Signals {
    /// `feeds`: see [`floor`](Self::floor).
    pub fn new(threads: usize, feeds: usize) -> Self {
        let floors = |_| (0..threads).map(|_| AtomicU64::new(u64::MAX)).collect();
        Signals {
            counters: (0..threads).map(|_| Counters::default()).collect(),
            allowed: AtomicU8::new(Step::Created as u8),
            timeline: OnceLock::new(),
            floors: (0..feeds).map(floors).collect(),
        }
    }

    pub fn threads(&self) -> usize {
        self.counters.len()
    }

    pub fn totals(&self) -> Totals {
        let of = |counter| self.counters.iter().map(move |c| c.0[counter].load(Ordering::Relaxed));
        EnumMap::from_fn(|counter| of(counter).sum())
    }

    pub fn allow(&self, step: Step) {
        self.allowed.store(step as u8, Ordering::Release);
    }

    pub fn allows(&self, step: Step) -> bool {
        self.allowed.load(Ordering::Acquire) >= step as u8
    }

    /// Lets the run begin, once.
    pub fn begin(&self, timeline: Timeline) {
        let _ = self.timeline.set(timeline);
    }

    /// `None` until the run may begin.
    #[inline]
    pub fn timeline(&self) -> Option<Timeline> {
        self.timeline.get().copied()
    }

    /// Is it within the measured time?
    #[inline]
    pub fn measures(&self, at_ns: u64) -> bool {
        self.timeline.get().is_some_and(|timeline| timeline.measures(at_ns))
    }

    /// The position up to which every receiver has seen a feed: the messages of a channel, or those
    /// of one publisher.
    pub fn floor(&self, feed: usize) -> u64 {
        let floors = self.floors[feed].iter().map(|floor| floor.load(Ordering::Acquire));
        floors.min().unwrap_or(u64::MAX)
    }
}

/// The signals as one thread uses them.
#[derive(Clone, Debug)]
pub struct ThreadSignals {
    signals: Arc<Signals>,
    thread: usize,
}

impl ThreadSignals {
    pub fn of(signals: &Arc<Signals>, thread: usize) -> Self {
        ThreadSignals { signals: signals.clone(), thread }
    }

    /// How many of `count` things are this thread's.
    pub fn share_of(&self, count: usize) -> usize {
        (self.thread..count).step_by(self.threads()).len()
    }

    /// No other thread writes the same number.
    #[inline]
    pub fn add(&self, counter: Counter, count: u64) {
        let number = &self.signals.counters[self.thread].0[counter];
        number.store(number.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub fn set(&self, counter: Counter, value: u64) {
        self.signals.counters[self.thread].0[counter].store(value, Ordering::Relaxed);
    }

    pub fn set_floor(&self, feed: usize, position: u64) {
        self.signals.floors[feed][self.thread].store(position, Ordering::Release);
    }
}

impl Deref for ThreadSignals {
    type Target = Signals;

    fn deref(&self) -> &Signals {
        &self.signals
    }
}
