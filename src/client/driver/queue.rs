//! Requests of the program on their way to the I/O thread, and what wakes that thread.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::command::Command;
use crate::client::pending::{Completer, Pending, pending};
use crate::client::{ClientError, Result};

/// Operations that may be under way. Beyond, the program is refused.
const OPERATIONS_MAX: usize = 16_384;

/// Commands at the end of the queue that may still be taken back.
const JUST_ASKED: usize = 64;

/// Commands, bounded by [`OPERATIONS_MAX`] as far as they are operations.
pub(crate) struct CommandQueue {
    commands: Mutex<State>,
    /// One byte in it wakes the I/O thread.
    bell: UnixStream,
    /// The other end, for the I/O thread.
    heard: UnixStream,
    is_ringing: AtomicBool,
    /// Operations that the I/O thread has not completed.
    outstanding: AtomicUsize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Command>,
    is_closed: bool,
}

impl State {
    /// Takes back what this command ends, if it has just been asked for and waits: a program that
    /// begins and ends in a loop while the I/O thread connects.
    fn take_begun(&mut self, end: &Command) -> bool {
        let is_begun = |command: &Command| match (command, end) {
            (Command::Subscribe { id: begun, .. }, Command::Unsubscribe { id, .. })
            | (Command::Observe { id: begun, .. }, Command::Unobserve { id, .. }) => begun == id,
            _ => false,
        };
        let from_end = self.waiting.iter().rev().take(JUST_ASKED).position(is_begun);
        let begun = from_end.and_then(|at| self.waiting.remove(self.waiting.len() - 1 - at));
        begun.is_some()
    }
}

impl CommandQueue {
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        Ok(CommandQueue {
            commands: Mutex::default(),
            bell,
            heard,
            is_ringing: AtomicBool::new(false),
            outstanding: AtomicUsize::new(0),
        })
    }

    /// Begins an operation; `command` is made with what completes it.
    pub fn ask<T>(&self, command: impl FnOnce(Completer<T>) -> Command) -> Pending<T> {
        let (completer, pending) = pending();
        match self.has_room() {
            // Dropping the completer of a closed client completes with `Closed`.
            Ok(()) => self.submit(command(completer)),
            Err(error) => completer.complete(Err(error)),
        }
        pending
    }

    /// As [`CommandQueue::ask`], however many operations are under way.
    pub fn ask_always<T>(&self, command: impl FnOnce(Completer<T>) -> Command) -> Pending<T> {
        let (completer, pending) = pending();
        self.submit(command(completer));
        pending
    }

    fn has_room(&self) -> Result<()> {
        let state = self.lock();
        let under_way = self.outstanding.load(Ordering::Relaxed) + state.waiting.len();
        match under_way < OPERATIONS_MAX || state.is_closed {
            true => Ok(()),
            false => Err(ClientError::QueueFull),
        }
    }

    /// Queues a command, unless the client is closed.
    pub fn submit(&self, command: Command) {
        let mut state = self.lock();
        // However often the metadata is set: the I/O thread reads the newest.
        let is_repeated = matches!(
            (&command, state.waiting.back()),
            (Command::PeerChanged, Some(Command::PeerChanged))
        );
        let is_void = state.take_begun(&command);
        if !state.is_closed && !is_repeated && !is_void {
            state.waiting.push_back(command);
            drop(state);
            self.ring();
        }
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Takes the commands that wait. `outstanding`: operations that are under way already.
    pub fn take(&self, outstanding: usize) -> VecDeque<Command> {
        self.outstanding.store(outstanding, Ordering::Relaxed);
        if self.is_ringing.swap(false, Ordering::AcqRel) {
            let mut bytes = [0; 16];
            // Nothing to read if the bell could not be rung; the flag says that it was.
            while (&self.heard).read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
        }
        std::mem::take(&mut self.lock().waiting)
    }

    /// Refuses commands from here on: they complete with `Closed`. Returns those that wait.
    pub fn close(&self) -> VecDeque<Command> {
        let mut state = self.lock();
        state.is_closed = true;
        std::mem::take(&mut state.waiting)
    }

    /// Readable when commands wait.
    pub fn heard(&self) -> &UnixStream {
        &self.heard
    }

    fn ring(&self) {
        if !self.is_ringing.swap(true, Ordering::AcqRel) {
            // Fails only when the pair is full of bytes that have not been heard.
            let _ = (&self.bell).write(&[1]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::MemberEvent;
    use crate::client::callbacks::CallbackThread;
    use crate::client::driver::MemberSink;
    use crate::client::handles::gate;

    #[test]
    fn metadata_that_is_set_again_and_again_waits_once() {
        let queue = CommandQueue::new().expect("descriptors");
        (0..100).for_each(|_| queue.submit(Command::PeerChanged));
        drop(queue.ask(Command::Ready));
        queue.submit(Command::PeerChanged);
        assert_eq!(queue.take(0).len(), 3);
        queue.submit(Command::PeerChanged);
        assert_eq!(queue.take(0).len(), 1);
    }

    #[test]
    fn what_begins_and_ends_in_a_loop_does_not_wait() {
        let queue = CommandQueue::new().expect("descriptors");
        let channel = || "room".to_owned();
        let callbacks = CallbackThread::start("test").expect("a thread");
        for id in 0..100 {
            let (_handle, sender) = callbacks.register_queue(1, |_: &MemberEvent| {});
            let (ready, _gate) = gate();
            let sink = MemberSink(sender);
            queue.submit(Command::Observe { channel: channel(), id, sink, ready });
            queue.submit(Command::Unobserve { channel: channel(), id });
        }
        assert!(queue.take(0).is_empty());
        queue.submit(Command::Unobserve { channel: channel(), id: 7 });
        assert_eq!(queue.take(0).len(), 1, "it is under way already");
    }

    #[test]
    fn operations_are_bounded_and_a_closed_queue_refuses() {
        let queue = CommandQueue::new().expect("descriptors");
        assert!(queue.take(OPERATIONS_MAX).is_empty());
        assert_eq!(queue.ask(Command::Ready).wait(), Err(ClientError::QueueFull));
        assert!(queue.take(0).is_empty());
        assert!(queue.close().is_empty());
        assert_eq!(queue.ask(Command::Ready).wait(), Err(ClientError::Closed));
    }
}
