//! What the conductor and the threads of a run share. Atomics only: no thread waits for another
//! one, so that no connection goes unread.

use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use enum_map::{Enum, EnumMap};

use super::time::Timeline;

const NOT_YET: u64 = u64::MAX;

/// What the threads of a run count, each for itself.
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
    /// Those that were due within the measured time.
    PublishedMeasured,
    /// Publishes that the server has accepted.
    Acknowledged,
    /// Publishes that were never acknowledged.
    Unacknowledged,
    /// Messages, or states that a receiver saw for the first time.
    Delivered,
    /// States that were due within the measured time.
    DeliveredMeasured,
    /// States that were never shown because a newer one overtook them.
    Conflated,
    Duplicated,
    Reordered,
    /// Messages, final states or complete sets that never came, summed over receivers.
    Lost,
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
    /// Threads whose receivers have seen every publisher's final state.
    Settled,
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

/// Stages that the conductor lets begin, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    Opening,
    Greeting,
    Joining,
    /// The threads end.
    End,
}

/// Shared by the conductor and all threads of one run.
#[derive(Debug)]
pub struct Signals {
    counters: Vec<Counters>,
    allowed: AtomicU8,
    timeline: OnceLock<Timeline>,
    /// Last sequence of each publisher, once it will send no more.
    finals: Vec<AtomicU64>,
    /// By feed, then thread: what all receivers of that thread have seen of it.
    floors: Vec<Vec<AtomicU64>>,
    /// How often a floor was set.
    rises: AtomicU64,
}

impl Signals {
    /// `feeds`: see [`floor`](Self::floor).
    pub fn new(threads: usize, publishers: usize, feeds: usize) -> Self {
        let numbers = |count| (0..count).map(|_| AtomicU64::new(NOT_YET)).collect::<Vec<_>>();
        Signals {
            counters: (0..threads).map(|_| Counters::default()).collect(),
            allowed: AtomicU8::new(Allowed::Opening as u8),
            timeline: OnceLock::new(),
            finals: numbers(publishers),
            floors: (0..feeds).map(|_| numbers(threads)).collect(),
            rises: AtomicU64::new(0),
        }
    }

    pub fn threads(&self) -> usize {
        self.counters.len()
    }

    pub fn totals(&self) -> Totals {
        let of = |counter| self.counters.iter().map(move |c| c.0[counter].load(Ordering::Relaxed));
        EnumMap::from_fn(|counter| of(counter).sum())
    }

    pub fn allow(&self, stage: Allowed) {
        self.allowed.store(stage as u8, Ordering::Release);
    }

    pub fn allows(&self, stage: Allowed) -> bool {
        self.allowed.load(Ordering::Acquire) >= stage as u8
    }

    /// Lets the publishers begin, once.
    pub fn begin(&self, timeline: Timeline) {
        let _ = self.timeline.set(timeline);
    }

    /// `None` until the publishers may begin.
    pub fn timeline(&self) -> Option<Timeline> {
        self.timeline.get().copied()
    }

    pub fn set_final(&self, publisher: usize, sequence: u64) {
        self.finals[publisher].store(sequence, Ordering::Release);
    }

    /// `None` until every publisher has sent its last.
    pub fn finals(&self) -> Option<Vec<u64>> {
        let finals = self.finals.iter().map(|last| last.load(Ordering::Acquire));
        finals.map(|last| (last != NOT_YET).then_some(last)).collect()
    }

    /// Changes whenever a floor is set.
    pub fn rises(&self) -> u64 {
        self.rises.load(Ordering::Acquire)
    }

    /// The position up to which every receiver has seen a feed: the messages of a channel, or those
    /// of one publisher.
    pub fn floor(&self, feed: usize) -> u64 {
        let floors = self.floors[feed].iter().map(|floor| floor.load(Ordering::Acquire));
        floors.min().unwrap_or(NOT_YET)
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
        self.signals.rises.fetch_add(1, Ordering::Release);
    }
}

impl Deref for ThreadSignals {
    type Target = Signals;

    fn deref(&self) -> &Signals {
        &self.signals
    }
}
