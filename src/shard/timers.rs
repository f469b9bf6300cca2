//! When the shard must be called again although nothing arrives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ids::ConnId;
use crate::session::Feed;

/// What is due. A timer that outlived its cause finds nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Look over all connections.
    Sweep,
    /// Tell watchers of this owned channel what changed.
    Flush { slot: u32, generation: u32 },
    /// Make the large set of this owned channel for those who wait for it.
    LargeSet { slot: u32, generation: u32 },
    /// Go on with a round of this home's channel that rests.
    Round { slot: u32, generation: u32, feed: Feed },
    /// Forget a set of this home's channel, unless somebody has needed it since.
    KeptSet { slot: u32, generation: u32, feed: Feed },
    /// The grace of a lost member is over.
    Grace { grace: u64 },
    /// Send held-back presence to a connection that asked for fewer frames, or to the owner what a
    /// fast sender announced meanwhile.
    Pace { conn: ConnId },
    /// Look for messages and channels that need not be kept any longer.
    Retention,
}

/// Earliest first. Bounded: one sweep, one flush and one large set per channel, two per round, one
/// grace per loss, one pace per connection, one retention.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, Timer)>>,
}

impl Timers {
    pub fn set(&mut self, due_ms: u64, timer: Timer) {
        self.heap.push(Reverse((due_ms, timer)));
    }

    /// When the earliest timer is due.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_ms, _))| *due_ms)
    }

    /// Takes a timer that is due.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<Timer> {
        if self.next_due_ms()? > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}
