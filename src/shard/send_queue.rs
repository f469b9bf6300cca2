//! What waits to be written to one connection, in order. Empty queues own no memory.

use std::collections::VecDeque;

use bytes::Bytes;

/// Memory that copies are gathered in.
const COPY_BYTES: usize = 16 * 1024;

/// A run of bytes of the queue.
#[derive(Debug)]
enum Chunk {
    /// Memory that other connections may be sent as well.
    Shared(Bytes),
    /// Replies of this connection, appended to each other.
    Own(Vec<u8>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Shared(bytes) => bytes,
            Chunk::Own(bytes) => bytes,
        }
    }
}

/// Bounded by its owner: [`SendQueue::len`] is checked against `send_queue_bytes_max` by whoever
/// appends; the connection pays (presence is conflated, else it is closed as slow).
#[derive(Debug, Default)]
pub struct SendQueue {
    inner: Option<Box<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are already written.
    written: usize,
    /// Bytes still to write.
    len: usize,
}

impl SendQueue {
    /// Bytes still to be written.
    pub fn len(&self) -> usize {
        self.inner.as_ref().map_or(0, |queue| queue.len)
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Queues memory shared with other connections; nothing is copied.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let queue = self.inner.get_or_insert_default();
        queue.len += bytes.len();
        queue.chunks.push_back(Chunk::Shared(bytes));
    }

    /// Whether `bytes` more may be queued where `most` may wait. What is larger than that has to
    /// wait for an empty queue.
    pub fn has_room(&self, bytes: usize, most: usize) -> bool {
        self.is_empty() || self.len() + bytes <= most
    }

    /// Queues a copy of memory shared with other connections, in pieces of its own: the queue of a
    /// receiver that does not read then holds little more than what waits in it.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        let queue = self.inner.get_or_insert_default();
        queue.len += bytes.len();
        match queue.chunks.back_mut() {
            Some(Chunk::Own(tail)) if tail.len() + bytes.len() <= tail.capacity() => {
                tail.extend_from_slice(bytes);
            }
            _ => {
                let mut piece = Vec::with_capacity(bytes.len().max(COPY_BYTES));
                piece.extend_from_slice(bytes);
                queue.chunks.push_back(Chunk::Own(piece));
            }
        }
        if queue.len == 0 {
            self.inner = None;
        }
    }

    /// Lets `write` append this connection's own bytes.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let queue = self.inner.get_or_insert_default();
        if !matches!(queue.chunks.back(), Some(Chunk::Own(_))) {
            queue.chunks.push_back(Chunk::Own(Vec::new()));
        }
        if let Some(Chunk::Own(tail)) = queue.chunks.back_mut() {
            let before = tail.len();
            write(tail);
            queue.len += tail.len() - before;
        }
        if queue.len == 0 {
            self.inner = None;
        }
    }

    /// The unwritten runs, in order. They stay where they are until [`SendQueue::advance`].
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        let written = self.inner.as_ref().map_or(0, |queue| queue.written);
        let chunks = self.inner.iter().flat_map(|queue| queue.chunks.iter());
        chunks.enumerate().map(
            move |(i, chunk)| {
                if i == 0 { &chunk.bytes()[written..] } else { chunk.bytes() }
            },
        )
    }

    /// `count` bytes more have been written; at most [`SendQueue::len`].
    pub fn advance(&mut self, count: usize) {
        let Some(queue) = self.inner.as_mut() else { return };
        assert!(count <= queue.len, "wrote {count} of {} queued bytes", queue.len);
        queue.len -= count;
        if queue.len == 0 {
            self.inner = None;
            return;
        }
        let mut left = queue.written + count;
        while let Some(first) = queue.chunks.front() {
            let bytes = first.bytes().len();
            if left < bytes {
                break;
            }
            left -= bytes;
            queue.chunks.pop_front();
        }
        queue.written = left;
    }

    /// Copies what others share, so that a receiver that stopped reading pins only its own bytes.
    pub fn own(&mut self) {
        if let Some(queue) = self.inner.as_mut() {
            let mut bytes = Vec::with_capacity(queue.len);
            for (i, chunk) in queue.chunks.iter().enumerate() {
                bytes.extend_from_slice(&chunk.bytes()[if i == 0 { queue.written } else { 0 }..]);
            }
            queue.chunks.clear();
            queue.chunks.push_back(Chunk::Own(bytes));
            queue.written = 0;
        }
    }

    /// Forgets everything; used when the socket is gone.
    pub fn clear(&mut self) {
        self.inner = None;
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
        for step in 1..12 {
            let mut queue = SendQueue::default();
            queue.append(|out| out.extend_from_slice(b"ab"));
            queue.append(|out| out.extend_from_slice(b"c"));
            queue.push(Bytes::from_static(b"defg"));
            queue.append(|out| out.extend_from_slice(b"hijk"));
            let mut seen = Vec::new();
            while !queue.is_empty() {
                let left = flat(&queue);
                assert_eq!(left.len(), queue.len());
                let count = step.min(left.len());
                seen.extend_from_slice(&left[..count]);
                queue.advance(count);
                if step % 2 == 0 {
                    queue.own();
                }
            }
            assert_eq!(seen, b"abcdefghijk");
        }
    }

    #[test]
    fn an_empty_queue_owns_nothing() {
        let mut queue = SendQueue::default();
        queue.append(|_| ());
        queue.push(Bytes::new());
        assert!(queue.is_empty());
        assert_eq!(std::mem::size_of::<SendQueue>(), 8);
    }
}
