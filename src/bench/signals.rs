//! What the conductor and the threads of a run tell each other. Atomics only: no thread waits for
//! another one, so that no connection goes unread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::clock::nanos;

const NOT_YET: u64 = u64::MAX;

/// A number that one thread writes and others look at.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// By the thread that writes it.
    pub fn add(&self, count: u64) {
        self.set(self.read() + count);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stage that the conductor lets begin.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

macro_rules! gauges {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Running totals of one thread.
        #[derive(Debug, Default)]
        pub struct Gauges {
            $($(#[$doc])* pub $name: Gauge,)*
        }

        /// The gauges of all threads, added up.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            fn add(&mut self, gauges: &Gauges) {
                $(self.$name += gauges.$name.read();)*
            }
        }
    };
}

gauges! {
    /// Connections that are open and have not greeted.
    opened,
    /// Sessions whose handshake was accepted.
    greeted,
    /// Members whose first update was processed.
    joined,
    /// Publishers among those.
    publishers_joined,
    /// States that receivers saw for the first time.
    delivered,
    /// Updates sent.
    updates,
    /// Presence frames, or messages of a Foony server, received.
    frames,
    /// Bytes received.
    bytes_in,
    /// Reads of sockets.
    reads,
    /// Publishes that the server has accepted.
    acknowledged,
    /// Connections opened and closed again.
    cycles,
    /// Pongs received by flooders.
    flood_pongs,
    /// Receivers that were shown a set with everybody in it.
    complete,
    /// Threads whose receivers have seen every publisher's final state.
    settled,
}

/// When things happen, by the run's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Publishing begins.
    pub start_ns: u64,
    /// Measuring begins.
    pub from_ns: u64,
    /// Publishing and measuring end.
    pub until_ns: u64,
}

impl Timeline {
    pub fn measures(&self, at_ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&at_ns)
    }
}

/// Shared by the conductor and all threads of one run.
#[derive(Debug)]
pub struct Signals {
    gauges: Vec<Gauges>,
    start_ns: AtomicU64,
    from_ns: AtomicU64,
    until_ns: AtomicU64,
    pub greeting: Flag,
    pub joining: Flag,
    pub finished: Flag,
    /// Last sequence of each publisher, once it will send no more.
    finals: Vec<AtomicU64>,
    /// By publisher or channel, then thread: what all receivers of that thread have seen.
    floors: Vec<Vec<AtomicU64>>,
    /// How often a floor was set.
    rises: AtomicU64,
}

impl Signals {
    /// `publishers`: those whose receivers set floors, or as many channels.
    pub fn new(threads: usize, publishers: usize) -> Self {
        let numbers = |count| (0..count).map(|_| AtomicU64::new(NOT_YET)).collect::<Vec<_>>();
        Signals {
            gauges: (0..threads).map(|_| Gauges::default()).collect(),
            start_ns: AtomicU64::new(NOT_YET),
            from_ns: AtomicU64::new(NOT_YET),
            until_ns: AtomicU64::new(NOT_YET),
            greeting: Flag::default(),
            joining: Flag::default(),
            finished: Flag::default(),
            finals: numbers(publishers),
            floors: (0..publishers).map(|_| numbers(threads)).collect(),
            rises: AtomicU64::new(0),
        }
    }

    pub fn gauges(&self, thread: usize) -> &Gauges {
        &self.gauges[thread]
    }

    pub fn threads(&self) -> usize {
        self.gauges.len()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.gauges.iter().for_each(|gauges| totals.add(gauges));
        totals
    }

    /// Lets the publishers begin.
    pub fn begin(&self, start_ns: u64, warm_up: Duration, duration: Duration) -> Timeline {
        let from_ns = start_ns + nanos(warm_up);
        let until_ns = from_ns + nanos(duration);
        self.from_ns.store(from_ns, Ordering::Relaxed);
        self.until_ns.store(until_ns, Ordering::Relaxed);
        self.start_ns.store(start_ns, Ordering::Release);
        Timeline { start_ns, from_ns, until_ns }
    }

    /// `None` until the publishers may begin.
    pub fn timeline(&self) -> Option<Timeline> {
        let start_ns = self.start_ns.load(Ordering::Acquire);
        (start_ns != NOT_YET).then(|| Timeline {
            start_ns,
            from_ns: self.from_ns.load(Ordering::Relaxed),
            until_ns: self.until_ns.load(Ordering::Relaxed),
        })
    }

    pub fn set_final(&self, publisher: usize, sequence: u64) {
        self.finals[publisher].store(sequence, Ordering::Release);
    }

    /// `None` until every publisher has sent its last.
    pub fn finals(&self) -> Option<Vec<u64>> {
        let finals = self.finals.iter().map(|last| last.load(Ordering::Acquire));
        finals.map(|last| (last != NOT_YET).then_some(last)).collect()
    }

    pub fn set_floor(&self, publisher: usize, thread: usize, sequence: u64) {
        self.floors[publisher][thread].store(sequence, Ordering::Release);
        self.rises.fetch_add(1, Ordering::Release);
    }

    /// Changes whenever a floor is set.
    pub fn rises(&self) -> u64 {
        self.rises.load(Ordering::Acquire)
    }

    /// What every receiver has seen of a publisher.
    pub fn floor(&self, publisher: usize) -> u64 {
        let floors = self.floors[publisher].iter().map(|floor| floor.load(Ordering::Acquire));
        floors.min().unwrap_or(NOT_YET)
    }
}
