//! When the shard must be called although nothing arrives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ids::ConnId;
use crate::session::Feed;

/// What is due. A timer whose cause is gone has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Check the time-outs of all connections.
    Sweep,
    /// Flush the changes of this owned channel.
    Flush { slot: u32, generation: u32 },
    /// Send the digest of the members of this owned channel.
    Digest { slot: u32, generation: u32 },
    /// Make the snapshot of this owned channel that subscribers wait for.
    Snapshot { slot: u32, generation: u32 },
    /// Continue a paused snapshot sweep of this home's channel.
    SnapshotSweep { slot: u32, generation: u32, feed: Feed },
    /// Drop the snapshot of this home's channel, unless it was used since.
    SnapshotExpiry { slot: u32, generation: u32, feed: Feed },
    /// The grace of a lost member is over.
    Grace { grace: u64 },
    /// Send presence that a connection's rate hint held back, and updates that its rate limit did.
    Rate { conn: ConnId },
    /// Deadlines of what a client decides about peers, and of direct messages to it.
    Edges { conn: ConnId },
    /// Expire messages and channels.
    Retention,
    /// Send documents of this owned app again, expire its rows.
    Documents { slot: u32 },
    /// Send the counts of this owned channel again, if they have changed.
    Occupancy { slot: u32, generation: u32 },
    /// Nobody has been in the channel with this hash for a while.
    Vacated { hash: u64 },
    /// Send a reader of documents all of them again.
    Replay { conn: ConnId },
}

/// Earliest first. Bounded: one sweep, one flush, one digest, one occupancy and one snapshot per
/// channel, two per snapshot sweep, one grace per loss, one rate per connection, one per deadline
/// of a connection's edges, one retention, one per channel that webhooks follow, one per reader of
/// documents, and a few per app.
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
