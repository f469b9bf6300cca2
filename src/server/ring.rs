//! The ring that drives all sockets of one shard, and the buffers it receives into.
//!
//! Invariant: memory named by an entry outlives the entry. Receive buffers live as long as the
//! ring; memory to send from is only borrowed until `submit` returns, because sends never wait.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use memmap2::{MmapOptions, MmapRaw};
use strum::FromRepr;

use crate::shard::READ_BYTES;

/// Entries prepared before they are submitted. A longer batch is submitted in parts.
const SUBMISSIONS: u32 = 4096;

/// Completions the kernel may post before it has to keep them aside.
const COMPLETIONS: u32 = 32_768;

/// Bytes of one receive buffer.
pub const BUFFER_BYTES: usize = READ_BYTES;

/// Receive buffers that the connections of a shard share. Connections that exceed their read budget
/// use a separate pool, one buffer each, so that they cannot exhaust the common one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Common,
    Throttled,
}

impl Pool {
    pub const ALL: [Pool; 2] = [Pool::Common, Pool::Throttled];

    /// A power of two.
    const fn buffers(self) -> u16 {
        match self {
            Pool::Common => 256,
            Pool::Throttled => 64,
        }
    }

    /// The number of its first buffer; what the kernel names a buffer by is unique in a ring.
    const fn first(self) -> u16 {
        match self {
            Pool::Common => 0,
            Pool::Throttled => Pool::Common.buffers(),
        }
    }

    fn of(buffer: u16) -> Pool {
        if buffer < Pool::Throttled.first() { Pool::Common } else { Pool::Throttled }
    }

    /// What the kernel knows it by.
    const fn group(self) -> u16 {
        self as u16
    }
}

/// What an entry was for; comes back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum Operation {
    AcceptHttp,
    AcceptSyncTcp,
    Receive,
    Send,
    Writable,
    Wake,
    Cancel,
    WarmUpSend,
    WarmUpReceive,
}

impl Operation {
    /// False for entries that only keep the shard's caches warm.
    pub fn is_work(self) -> bool {
        !matches!(self, Operation::WarmUpSend | Operation::WarmUpReceive)
    }
}

/// Who an entry was for: a connection's slot and the low bits of its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub operation: Operation,
    pub slot: u32,
    pub generation: u32,
}

/// Generations are compared by the bits that fit beside the operation.
pub const GENERATION_MASK: u32 = (1 << 28) - 1;

impl Token {
    pub fn of(operation: Operation) -> Self {
        Token { operation, slot: 0, generation: 0 }
    }

    fn to_bits(self) -> u64 {
        let generation = u64::from(self.generation & GENERATION_MASK);
        (self.operation as u64) << 60 | generation << 32 | u64::from(self.slot)
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let operation = Operation::from_repr((bits >> 60) as u8)?;
        let generation = (bits >> 32) as u32 & GENERATION_MASK;
        Some(Token { operation, slot: bits as u32, generation })
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub token: Token,
    /// Bytes, a descriptor, or a negative error number.
    pub result: i32,
    /// The receive buffer that holds the bytes; to be given back.
    pub buffer: Option<u16>,
    /// The entry stays armed.
    pub more: bool,
}

impl Completion {
    fn of(entry: &cqueue::Entry) -> Option<Self> {
        Some(Completion {
            token: Token::from_bits(entry.user_data())?,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        })
    }
}

/// A ring and its receive buffers.
pub struct Ring {
    uring: IoUring,
    buffers: [BufferRing; Pool::ALL.len()],
    spins: u64,
}

impl Ring {
    /// Sets up a ring for the calling thread, which must be the only one to use it.
    ///
    /// # Errors
    /// What the kernel says; `probe` explains it to people.
    pub fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let [common, throttled] = Pool::ALL.map(|pool| BufferRing::register(&uring, pool));
        let buffers = [common?, throttled?];
        Ok(Ring { uring, buffers, spins: 0 })
    }

    pub fn accept(&mut self, listener: RawFd, operation: Operation) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC);
        self.push(entry.build(), Token::of(operation))
    }

    /// Receives whatever comes, into common buffers.
    pub fn receive(&mut self, socket: RawFd, token: Token) -> io::Result<()> {
        self.push(opcode::RecvMulti::new(Fd(socket), Pool::Common.group()).build(), token)
    }

    /// Receives once, one buffer at most.
    pub fn receive_once(&mut self, socket: RawFd, pool: Pool, token: Token) -> io::Result<()> {
        let entry = opcode::Recv::new(Fd(socket), ptr::null_mut(), BUFFER_BYTES as u32);
        let entry = entry.buf_group(pool.group()).build();
        self.push(entry.flags(squeue::Flags::BUFFER_SELECT), token)
    }

    /// One completion when the socket takes bytes again.
    pub fn poll_writable(&mut self, socket: RawFd, token: Token) -> io::Result<()> {
        self.push(opcode::PollAdd::new(Fd(socket), libc::POLLOUT as u32).build(), token)
    }

    /// One completion when the event descriptor is signalled.
    pub fn poll_wake(&mut self, event: BorrowedFd<'_>) -> io::Result<()> {
        let event = Fd(event.as_raw_fd());
        let entry = opcode::PollAdd::new(event, libc::POLLIN as u32).build();
        self.push(entry, Token::of(Operation::Wake))
    }

    /// Cancels an armed entry; its last completion still comes.
    pub fn cancel(&mut self, target: Token) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(target.to_bits()).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry, Token::of(Operation::Cancel))
    }

    /// Sends at once, as much as the socket takes. A completion comes only when that was not all:
    /// the count of bytes taken, or the error.
    ///
    /// # Safety
    /// `bytes` stay valid and unchanged until [`Ring::submit`] has returned.
    pub unsafe fn send(
        &mut self,
        socket: RawFd,
        bytes: &[u8],
        after: After,
        token: Token,
    ) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let flags = SEND_FLAGS | after.flag();
        let entry = opcode::Send::new(Fd(socket), bytes.as_ptr(), len).flags(flags).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), token)
    }

    /// Like [`Ring::send`], from several places.
    ///
    /// # Safety
    /// `message`, its vector and the bytes named there stay valid and unchanged until
    /// [`Ring::submit`] has returned.
    pub unsafe fn send_message(
        &mut self,
        socket: RawFd,
        message: *const libc::msghdr,
        after: After,
        token: Token,
    ) -> io::Result<()> {
        let flags = SEND_FLAGS | after.flag();
        let entry = opcode::SendMsg::new(Fd(socket), message).flags(flags as u32).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), token)
    }

    /// Hands all prepared entries to the kernel. Sends are done when this returns.
    pub fn submit(&mut self) -> io::Result<()> {
        let queue = self.uring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        loop {
            match self.uring.submit() {
                Ok(_) if self.uring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            self.check_progress()?;
        }
    }

    /// Sleeps until something completes or `timeout` is over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        match self.uring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// True when completions wait, or would if the kernel were asked.
    pub fn has_completions(&mut self) -> bool {
        let waiting = !self.uring.completion().is_empty();
        let queue = self.uring.submission();
        waiting || queue.taskrun() || queue.cq_overflow()
    }

    /// Takes all completions there are.
    ///
    /// # Errors
    /// The kernel does not hand over what it kept aside when the queue was full.
    pub fn reap(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        self.spins = 0;
        loop {
            let from = into.len();
            into.extend(self.uring.completion().filter_map(|entry| Completion::of(&entry)));
            let taken = into[from..].iter().filter_map(|completion| completion.buffer);
            taken.for_each(|buffer| self.buffers[Pool::of(buffer) as usize].free -= 1);
            if !self.uring.submission().cq_overflow() {
                return Ok(());
            }
            match self.uring.submit() {
                Err(error) if !is_passing(&error) => return Err(error),
                _ => self.check_progress()?,
            }
        }
    }

    /// The bytes of a received buffer.
    pub fn buffer(&mut self, id: u16, len: usize) -> &mut [u8] {
        self.buffers[Pool::of(id) as usize].bytes(id, len)
    }

    /// Buffers that are not in use here. The kernel may have filled some of them meanwhile.
    pub fn free_buffers(&self, pool: Pool) -> u16 {
        self.buffers[pool as usize].free
    }

    /// The kernel may receive into this buffer again.
    pub fn give_back(&mut self, id: u16) {
        self.buffers[Pool::of(id) as usize].offer(id);
    }

    fn push(&mut self, entry: squeue::Entry, token: Token) -> io::Result<()> {
        let entry = entry.user_data(token.to_bits());
        loop {
            // SAFETY: receive buffers live as long as the ring; the memory of sends is the
            // caller's promise; no other entry names memory.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// A kernel that takes nothing although it says that it will must not hang the shard.
    fn check_progress(&mut self) -> io::Result<()> {
        self.spins += 1;
        if self.spins < 1_000_000 { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// What follows a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing that is known of: the bytes leave at once.
    Nothing,
    /// Our side is shut: the bytes leave together with that.
    Shutdown,
}

impl After {
    fn flag(self) -> i32 {
        match self {
            After::Nothing => 0,
            After::Shutdown => libc::MSG_MORE,
        }
    }
}

/// Never wait, send all or say how much, no signal when the peer is gone.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// Receive buffers that the kernel picks from.
struct BufferRing {
    pool: Pool,
    entries: MmapRaw,
    memory: MmapRaw,
    tail: u16,
    free: u16,
}

impl BufferRing {
    fn register(uring: &IoUring, pool: Pool) -> io::Result<Self> {
        let (count, group) = (pool.buffers(), pool.group());
        let pages = |bytes| MmapOptions::new().len(bytes).populate().map_anon().map(MmapRaw::from);
        let entries = pages(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = pages(usize::from(count) * BUFFER_BYTES)?;
        let address = entries.as_ptr() as u64;
        // SAFETY: the mapping holds `count` entries, is page-aligned, and is unmapped only with
        // this value, when the ring that uses it is closed as well.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(address, count, group, 0)?;
        }
        let mut ring = BufferRing { pool, entries, memory, tail: 0, free: 0 };
        for at in 0..count {
            ring.offer(pool.first() + at);
        }
        Ok(ring)
    }

    fn start(&self, id: u16) -> *mut u8 {
        let at = id.wrapping_sub(self.pool.first());
        assert!(at < self.pool.buffers(), "the kernel named buffer {id} of {:?}", self.pool);
        // SAFETY: `at` is below the number of buffers, so the offset lies within the mapping.
        unsafe { self.memory.as_mut_ptr().add(usize::from(at) * BUFFER_BYTES) }
    }

    fn bytes(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(len <= BUFFER_BYTES, "{len} bytes in a buffer of {BUFFER_BYTES}");
        // SAFETY: the kernel has handed this buffer over and leaves it alone until it is offered
        // again, which needs `&mut self`; the bounds are checked above.
        unsafe { std::slice::from_raw_parts_mut(self.start(id), len) }
    }

    fn offer(&mut self, id: u16) {
        let at = usize::from(self.tail & (self.pool.buffers() - 1));
        let address = self.start(id) as u64;
        let entries = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: `at` is below the number of entries; the kernel reads an entry only after the
        // tail has passed it.
        let entry = unsafe { &mut *entries.add(at) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        // SAFETY: the tail lies in the first entry of the mapping, aligned for u16; the kernel only
        // reads it, and every writer here goes through this atomic.
        unsafe {
            let tail = BufRingEntry::tail(entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for operation in (0..=u8::MAX).filter_map(Operation::from_repr) {
            let token = Token { operation, slot: u32::MAX, generation: GENERATION_MASK };
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
    }
}
