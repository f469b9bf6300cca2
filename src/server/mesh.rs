//! Mailboxes between shards: one single-producer single-consumer ring each way for every pair, and
//! one event descriptor per shard to wake it.
//!
//! Invariant: between two shards there is exactly one queue each way, so what one sends the other
//! arrives in order. A shard that sleeps has said so before it looked at its mailboxes for the last
//! time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use atomic_waker::AtomicWaker;
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

use crate::ids::ShardId;
use crate::shard::Envelope;

/// The state of a shard, or of the edge, that other threads may read, and its wake-up.
#[derive(Debug)]
#[repr(align(128))]
pub struct Endpoint {
    sleeping: AtomicBool,
    /// Turns taken; the watchdog detects a stalled shard by it.
    turns: AtomicU64,
    /// Connections held.
    pub connections: AtomicU32,
    /// No serial that the shard has assigned is above it.
    pub highest_serial: AtomicU64,
    event: OwnedFd,
    /// The edge's pump, which sleeps in its executor and not in a ring of its own.
    pub task: AtomicWaker,
}

impl Endpoint {
    /// Creates an endpoint with its event descriptor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Endpoint {
            sleeping: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            highest_serial: AtomicU64::new(0),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            task: AtomicWaker::new(),
        })
    }

    /// Becomes readable when the shard is to wake up.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Wakes the shard, asleep or not.
    pub fn wake(&self) {
        // A full counter (EAGAIN) means that a wake-up is pending already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        self.task.wake();
    }

    /// Wakes the shard if it sleeps. Call after putting something into its mailbox.
    pub fn wake_if_sleeping(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Announces that the shard is about to sleep. It must check its mailboxes once more after
    /// this.
    pub fn set_sleeping(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub fn set_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Clears the event descriptor.
    pub fn clear_event(&self) {
        // Without a wake-up (EAGAIN) there is nothing to clear.
        let _ = rustix::io::read(&self.event, &mut [0; size_of::<u64>()]);
    }

    pub fn count_turn(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns + 1, Ordering::Relaxed);
    }

    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// Envelopes that all mailboxes together have room for, about: 176 MiB of memory, which the kernel
/// gives when it is first used.
const ENVELOPES_OF_ALL: usize = 1 << 21;

/// Envelopes that every mailbox has room for, however many there are.
const ENVELOPES_MIN: usize = 128;

const _: () = assert!(size_of::<Envelope>() <= 88, "every slot of every mailbox has this size");

/// The endpoints of all shards and, last, of the edge.
pub type Endpoints = Arc<[Endpoint]>;

/// One shard's ends of all its mailboxes.
pub struct Mailboxes {
    me: ShardId,
    endpoints: Endpoints,
    inbound: Vec<Option<Consumer<Envelope>>>,
    outbound: Vec<Option<Producer<Envelope>>>,
    /// Peers that were sent something and not woken since.
    touched: Vec<bool>,
}

/// Makes the mailboxes for `count` endpoints, each with room for `envelopes_max` envelopes.
///
/// # Errors
/// No descriptor is left.
pub fn build(count: usize, envelopes_max: usize) -> io::Result<(Endpoints, Vec<Mailboxes>)> {
    let envelopes_max = capacity(count, envelopes_max);
    let endpoints: io::Result<Vec<Endpoint>> = (0..count).map(|_| Endpoint::new()).collect();
    let endpoints: Endpoints = endpoints?.into();
    let mut ends: Vec<Mailboxes> = (0..count)
        .map(|me| Mailboxes {
            me: ShardId(me as u16),
            endpoints: Arc::clone(&endpoints),
            inbound: (0..count).map(|_| None).collect(),
            outbound: (0..count).map(|_| None).collect(),
            touched: vec![false; count],
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(envelopes_max);
            ends[from].outbound[to] = Some(producer);
            ends[to].inbound[from] = Some(consumer);
        }
    }
    Ok((endpoints, ends))
}

/// Envelopes of one mailbox among `count` endpoints: there is one for every ordered pair of them,
/// so that many endpoints have smaller ones.
fn capacity(count: usize, envelopes_max: usize) -> usize {
    let pairs = (count * count.saturating_sub(1)).max(1);
    envelopes_max.min((ENVELOPES_OF_ALL / pairs).max(ENVELOPES_MIN))
}

/// Memory of all mailboxes of `count` endpoints when all of it is used, bytes.
pub fn mailbox_bytes(count: usize, envelopes_max: usize) -> u64 {
    let envelopes = count * count.saturating_sub(1) * capacity(count, envelopes_max);
    (envelopes * size_of::<Envelope>()) as u64
}

impl Mailboxes {
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.me.index()]
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Free places towards every endpoint.
    pub fn rooms(&self, into: &mut Vec<usize>) {
        into.clear();
        into.extend(self.outbound.iter().map(|end| end.as_ref().map_or(0, Producer::slots)));
    }

    /// Puts an envelope into a mailbox.
    ///
    /// # Errors
    /// Gives it back when the mailbox is full, which the sender should have known.
    pub fn post(&mut self, to: ShardId, envelope: Envelope) -> Result<(), Envelope> {
        let Some(producer) = &mut self.outbound[to.index()] else { return Err(envelope) };
        self.touched[to.index()] = true;
        producer.push(envelope).map_err(|rtrb::PushError::Full(envelope)| envelope)
    }

    /// Wakes the sleepers among those that were sent something.
    pub fn wake_touched(&mut self) {
        for (to, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.endpoints[to].wake_if_sleeping();
            }
        }
    }

    /// Takes the next envelope from one peer.
    pub fn take(&mut self, from: usize) -> Option<Envelope> {
        self.inbound[from].as_mut()?.pop().ok()
    }

    /// Envelopes that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.inbound.iter().flatten().map(Consumer::slots).sum()
    }

    /// How many mailboxes there are to take from; the own one is always empty.
    pub fn peers(&self) -> usize {
        self.inbound.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inbound.iter().flatten().all(Consumer::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SHARDS_MAX;

    #[test]
    fn mailboxes_of_many_shards_take_no_more_memory_than_those_of_some() {
        for shards in 1..=usize::from(SHARDS_MAX) {
            let endpoints = shards + 1;
            let capacity = capacity(endpoints, 8192);
            let bytes = mailbox_bytes(endpoints, 8192);
            assert!(bytes <= 200 << 20, "{shards} shards: {bytes} bytes");
            assert!(capacity >= ENVELOPES_MIN, "{shards} shards: {capacity}");
            assert!(shards > 15 || capacity == 8192, "{shards} shards: {capacity}");
        }
        assert_eq!(capacity(3, 16), 16, "no more than the operator says");
    }
}
