//! What waits to be written to one connection, in order.
//!
//! Two words per connection, and an empty queue owns no memory. Neither does one that holds a
//! single run which other connections are sent as well. Several such runs wait in a list, which
//! goes back to a store of them when they are written: fan-out allocates nothing.

use std::collections::VecDeque;
use std::sync::Arc;

/// Memory that copies are gathered in.
const COPY_BYTES: usize = 16 * 1024;

/// Lists that are kept for later, 144 bytes each.
const POOLED_MAX: usize = 4096;

/// Runs that a list which is kept has memory for, at most.
const POOLED_RUNS_MAX: usize = 8;

/// Empty lists of one shard, to be used again by fan-out.
#[derive(Debug, Default)]
pub struct RunPool {
    #[expect(clippy::vec_box, reason = "a queue takes the box as it is")]
    lists: Vec<Box<Runs>>,
    /// The fewest that were left at any time since the last trim.
    least: usize,
}

impl RunPool {
    /// Keeps a list that fan-out has made. One with answers in it was not taken from here: to keep
    /// it would make the pool grow with every connection that is answered.
    fn keep(&mut self, mut runs: Box<Runs>) {
        let is_fan_out = runs.chunks.iter().all(|chunk| matches!(chunk, Chunk::Shared(_)));
        let is_small = runs.chunks.capacity() <= POOLED_RUNS_MAX;
        if is_fan_out && is_small && self.lists.len() < POOLED_MAX {
            runs.chunks.clear();
            (runs.written, runs.len) = (0, 0);
            self.lists.push(runs);
        }
    }

    fn take(&mut self) -> Box<Runs> {
        let list = self.lists.pop().unwrap_or_default();
        self.least = self.least.min(self.lists.len());
        list
    }

    /// Frees the lists that were not needed since the last trim.
    pub fn trim(&mut self) {
        self.lists.truncate(self.lists.len() - self.least);
        self.least = self.lists.len();
    }
}

/// Shared memory that one receiver may pin, for each byte of it that waits.
const PINNED_PER_WAITING: usize = 8;

/// Bounded by its callers: `deliver.rs` and `requests.rs` check [`SendQueue::len`] against
/// `send_queue_bytes_max` before they append (presence is conflated, messages leave a gap, and a
/// connection that does not read its answers is closed as slow).
#[derive(Debug, Default)]
pub struct SendQueue(Waiting);

#[derive(Debug)]
enum Waiting {
    /// One run of memory that other connections may be sent as well, none of it written yet.
    Shared(Arc<[u8]>),
    /// Anything else; `None` when nothing waits.
    Runs(Option<Box<Runs>>),
}

#[derive(Debug, Default)]
struct Runs {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are already written.
    written: usize,
    /// Bytes still to write.
    len: usize,
}

/// A run of bytes of the queue.
#[derive(Debug)]
enum Chunk {
    /// Memory that other connections may be sent as well.
    Shared(Arc<[u8]>),
    /// Replies of this connection, appended to each other.
    Own(Vec<u8>),
}

impl SendQueue {
    /// Bytes still to be written.
    pub fn len(&self) -> usize {
        match &self.0 {
            Waiting::Shared(bytes) => bytes.len(),
            Waiting::Runs(runs) => runs.as_ref().map_or(0, |runs| runs.len),
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self.0, Waiting::Runs(None))
    }

    /// Queues memory shared with other connections; nothing is copied.
    pub fn push(&mut self, bytes: Arc<[u8]>, pool: &mut RunPool) {
        if bytes.is_empty() {
            return;
        }
        self.0 = match std::mem::take(&mut self.0) {
            Waiting::Runs(None) => Waiting::Shared(bytes),
            Waiting::Runs(Some(mut runs)) => {
                runs.push(Chunk::Shared(bytes));
                Waiting::Runs(Some(runs))
            }
            Waiting::Shared(first) => {
                let mut runs = pool.take();
                runs.push(Chunk::Shared(first));
                runs.push(Chunk::Shared(bytes));
                Waiting::Runs(Some(runs))
            }
        };
    }

    /// Queues bytes of this connection's own where they are.
    pub fn push_own(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.runs_mut().push(Chunk::Own(bytes));
        }
    }

    /// Whether `bytes` more may be queued where `most` may wait. What is larger than that has to
    /// wait for an empty queue.
    pub fn has_room(&self, bytes: usize, most: usize) -> bool {
        self.is_empty() || self.len() + bytes <= most
    }

    /// Queues a copy of memory shared with other connections, in pieces of its own: the queue of a
    /// receiver that does not read then holds little more than what waits in it.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        let runs = self.runs_mut();
        match runs.chunks.back_mut() {
            Some(Chunk::Own(tail)) if tail.len() + bytes.len() <= tail.capacity() => {
                tail.extend_from_slice(bytes);
                runs.len += bytes.len();
            }
            _ => {
                let mut piece = Vec::with_capacity(bytes.len().max(COPY_BYTES));
                piece.extend_from_slice(bytes);
                runs.push(Chunk::Own(piece));
            }
        }
        self.forget_empty_list();
    }

    /// Lets `write` append this connection's own bytes.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let runs = self.runs_mut();
        if !matches!(runs.chunks.back(), Some(Chunk::Own(_))) {
            runs.push(Chunk::Own(Vec::new()));
        }
        if let Some(Chunk::Own(tail)) = runs.chunks.back_mut() {
            let before = tail.len();
            write(tail);
            runs.len += tail.len() - before;
        }
        self.forget_empty_list();
    }

    /// The unwritten runs, in order. They stay where they are until [`SendQueue::advance`].
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        let (only, runs) = match &self.0 {
            Waiting::Shared(bytes) => (Some(&**bytes), None),
            Waiting::Runs(runs) => (None, runs.as_deref()),
        };
        only.into_iter().chain(runs.into_iter().flat_map(Runs::unwritten))
    }

    /// `count` bytes more have been written; at most [`SendQueue::len`].
    pub fn advance(&mut self, count: usize, pool: &mut RunPool) {
        let len = self.len();
        assert!(count <= len, "wrote {count} of {len} queued bytes");
        if count < len {
            self.runs_mut().advance(count);
        } else if let Waiting::Runs(Some(runs)) = std::mem::take(&mut self.0) {
            pool.keep(runs);
        }
    }

    /// Copies what others share, so that a receiver that stopped reading pins little more than what
    /// waits for it: at most `PINNED_PER_WAITING` times as much. Large sets of members, of which
    /// many receivers have most to come, stay one piece of memory for all of them.
    pub fn own(&mut self) {
        match &self.0 {
            Waiting::Shared(bytes) if bytes.len() >= COPY_BYTES => {}
            Waiting::Runs(None) => {}
            _ => self.runs_mut().own(),
        }
    }

    /// Forgets everything; used when the socket is gone.
    pub fn clear(&mut self) {
        self.0 = Waiting::default();
    }

    /// What waits as a list, to which something is about to be added.
    fn runs_mut(&mut self) -> &mut Runs {
        let runs = match std::mem::take(&mut self.0) {
            Waiting::Shared(bytes) => Box::new(Runs::of(bytes)),
            Waiting::Runs(runs) => runs.unwrap_or_default(),
        };
        match &mut self.0 {
            Waiting::Runs(place) => place.insert(runs),
            Waiting::Shared(_) => unreachable!("nothing waits after a take"),
        }
    }

    /// Nothing was added to what was empty before.
    fn forget_empty_list(&mut self) {
        if matches!(&self.0, Waiting::Runs(Some(runs)) if runs.len == 0) {
            self.clear();
        }
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting::Runs(None)
    }
}

impl Runs {
    fn of(bytes: Arc<[u8]>) -> Self {
        let mut runs = Runs::default();
        runs.push(Chunk::Shared(bytes));
        runs
    }

    fn push(&mut self, chunk: Chunk) {
        self.len += chunk.bytes().len();
        self.chunks.push_back(chunk);
    }

    fn unwritten(&self) -> impl Iterator<Item = &[u8]> {
        let mut written = self.written;
        self.chunks.iter().map(move |chunk| &chunk.bytes()[std::mem::take(&mut written)..])
    }

    /// `count` bytes more have been written, and some have not.
    fn advance(&mut self, count: usize) {
        self.len -= count;
        let mut left = self.written + count;
        while let Some(first) = self.chunks.front() {
            let bytes = first.bytes().len();
            if left < bytes {
                break;
            }
            left -= bytes;
            self.chunks.pop_front();
        }
        self.written = left;
    }

    fn own(&mut self) {
        let mut written = std::mem::take(&mut self.written);
        for chunk in std::mem::take(&mut self.chunks) {
            let start = std::mem::take(&mut written);
            let left = &chunk.bytes()[start..];
            let is_kept = matches!(chunk, Chunk::Shared(_))
                && left.len() >= COPY_BYTES
                && left.len() * PINNED_PER_WAITING >= chunk.bytes().len();
            match self.chunks.back_mut() {
                // Only the first chunk can have been written in part.
                _ if is_kept => {
                    self.written += start;
                    self.chunks.push_back(chunk);
                }
                Some(Chunk::Own(tail)) => tail.extend_from_slice(left),
                _ => self.chunks.push_back(Chunk::Own(left.to_vec())),
            }
        }
    }
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Shared(bytes) => bytes,
            Chunk::Own(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(queue: &SendQueue) -> Vec<u8> {
        queue.runs().flatten().copied().collect()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_whatever_the_steps() {
        let mut pool = RunPool::default();
        for step in 1..12 {
            let mut queue = SendQueue::default();
            queue.append(|out| out.extend_from_slice(b"ab"));
            queue.append(|out| out.extend_from_slice(b"c"));
            queue.push(Arc::from(*b"defg"), &mut pool);
            queue.push_own(b"hi".to_vec());
            queue.append(|out| out.extend_from_slice(b"jk"));
            let mut seen = Vec::new();
            while !queue.is_empty() {
                let left = flat(&queue);
                assert_eq!(left.len(), queue.len());
                let count = step.min(left.len());
                seen.extend_from_slice(&left[..count]);
                queue.advance(count, &mut pool);
                if step % 2 == 0 {
                    queue.own();
                }
            }
            assert_eq!(seen, b"abcdefghijk");
        }
    }

    #[test]
    fn what_is_large_stays_shared_until_little_of_it_waits() {
        let large: Arc<[u8]> = (0..200_000u32).map(|i| i as u8).collect();
        let small: Arc<[u8]> = Arc::from([7u8; 100]);
        let (mut queue, mut pool) = (SendQueue::default(), RunPool::default());
        for bytes in [&large, &small, &large] {
            queue.push(Arc::clone(bytes), &mut pool);
        }
        let whole = flat(&queue);
        for (taken, large_kept, small_kept) in
            [(0, 2, false), (150_000, 2, false), (180_000, 1, false), (200_100, 1, false)]
        {
            queue.advance(taken - (whole.len() - queue.len()), &mut pool);
            queue.own();
            assert_eq!(flat(&queue), whole[taken..], "{taken} taken");
            assert_eq!(Arc::strong_count(&large) - 1, large_kept, "{taken} taken");
            assert_eq!(Arc::strong_count(&small) > 1, small_kept, "{taken} taken");
        }
        queue.advance(queue.len() - 1, &mut pool);
        queue.own();
        assert_eq!((flat(&queue).len(), Arc::strong_count(&large)), (1, 1));
    }

    #[test]
    fn an_empty_queue_owns_nothing() {
        let mut queue = SendQueue::default();
        queue.append(|_| ());
        queue.push(Arc::default(), &mut RunPool::default());
        queue.push_own(Vec::new());
        queue.push_copy(b"");
        assert!(queue.is_empty());
        assert_eq!(size_of::<SendQueue>(), 16);
    }

    #[test]
    fn lists_with_answers_are_not_kept() {
        let (mut queue, mut pool) = (SendQueue::default(), RunPool::default());
        queue.append(|out| out.extend_from_slice(b"ab"));
        queue.advance(2, &mut pool);
        queue.push(Arc::from(*b"ab"), &mut pool);
        queue.push(Arc::from(*b"cd"), &mut pool);
        queue.append(|out| out.extend_from_slice(b"e"));
        queue.advance(5, &mut pool);
        assert!(pool.lists.is_empty());
        queue.push(Arc::from(*b"ab"), &mut pool);
        queue.push(Arc::from(*b"cd"), &mut pool);
        queue.advance(4, &mut pool);
        assert_eq!(pool.lists.len(), 1);
    }

    #[test]
    fn lists_that_nobody_wants_are_given_back() {
        let mut pool = RunPool::default();
        let deliver = |count: usize, pool: &mut RunPool| {
            let mut queues: Vec<_> = (0..count).map(|_| SendQueue::default()).collect();
            for queue in &mut queues {
                queue.push(Arc::from(*b"ab"), pool);
                queue.push(Arc::from(*b"cd"), pool);
            }
            queues.iter_mut().for_each(|queue| queue.advance(4, pool));
        };
        deliver(8, &mut pool);
        pool.trim();
        assert_eq!(pool.lists.len(), 8, "they came since the last trim");
        deliver(3, &mut pool);
        pool.trim();
        assert_eq!(pool.lists.len(), 3, "three were wanted");
        pool.trim();
        assert!(pool.lists.is_empty());
    }

    #[test]
    fn a_single_shared_run_may_leave_in_pieces_and_be_followed() {
        let mut pool = RunPool::default();
        for cut in 0..=4 {
            let mut queue = SendQueue::default();
            queue.push(Arc::from(*b"abcd"), &mut pool);
            queue.advance(cut, &mut pool);
            assert_eq!((flat(&queue), queue.len()), (b"abcd"[cut..].to_vec(), 4 - cut));
            queue.push(Arc::from(*b"ef"), &mut pool);
            queue.push_copy(b"g");
            assert_eq!(flat(&queue), [&b"abcd"[cut..], b"efg"].concat(), "cut at {cut}");
        }
    }

    #[test]
    fn lists_are_used_again_unless_they_have_grown() {
        let mut pool = RunPool::default();
        for (runs, kept) in [(1, 0), (2, 1), (POOLED_RUNS_MAX, 1), (100 * POOLED_RUNS_MAX, 0)] {
            let mut queue = SendQueue::default();
            (0..runs).for_each(|_| queue.push(Arc::from(*b"ab"), &mut pool));
            assert_eq!(flat(&queue), b"ab".repeat(runs));
            queue.advance(2 * runs, &mut pool);
            assert_eq!(pool.lists.len(), kept, "{runs} runs");
        }
    }
}
