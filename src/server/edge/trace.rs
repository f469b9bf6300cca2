//! Traced channels: what happens to them, line by line.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::Edge;
use super::client::{EdgeClient, wake};
use crate::admin::trace_lost;
use crate::ids::{ChannelKey, ShardId};
use crate::shard::{Command, Tracing};

/// Lines queued for one reader. Further ones are dropped, and their number told.
const LINES_MAX: usize = 4096;

/// The traced channels. Few: each is read by a person.
#[derive(Default)]
pub struct TracedChannels(Vec<TracedChannel>);

struct TracedChannel {
    key: Arc<ChannelKey>,
    owner: ShardId,
    readers: Vec<Rc<Reader>>,
}

#[derive(Default)]
struct Reader {
    lines: RefCell<VecDeque<String>>,
    lost: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Reader {
    fn push(&self, line: String) {
        let mut lines = self.lines.borrow_mut();
        match lines.len() < LINES_MAX {
            true => lines.push_back(line),
            false => self.lost.set(self.lost.get() + 1),
        }
        wake(&self.waker);
    }
}

/// A running trace; it ends when dropped.
pub struct Trace {
    edge: Rc<Edge>,
    key: Arc<ChannelKey>,
    reader: Rc<Reader>,
}

impl Trace {
    /// Waits for the next line.
    pub async fn next(&mut self) -> String {
        let reader = &self.reader;
        poll_fn(|cx| {
            if let Some(line) = reader.lines.borrow_mut().pop_front() {
                return Poll::Ready(line);
            }
            match reader.lost.take() {
                0 => {
                    *reader.waker.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
                lost => Poll::Ready(trace_lost(lost)),
            }
        })
        .await
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.edge.client.end_trace(&self.key, &self.reader);
    }
}

impl EdgeClient {
    /// Queues a line for every reader of a channel's trace.
    pub fn traced(&self, key: &ChannelKey, line: &str) {
        if let Some(channel) = self.traced.borrow().0.iter().find(|channel| *channel.key == *key) {
            channel.readers.iter().for_each(|reader| reader.push(line.to_owned()));
        }
    }

    fn begin_trace(&self, key: &Arc<ChannelKey>, owner: ShardId) -> Rc<Reader> {
        let reader = Rc::<Reader>::default();
        let mut traced = self.traced.borrow_mut();
        match traced.0.iter_mut().find(|channel| *channel.key == **key) {
            Some(channel) => channel.readers.push(Rc::clone(&reader)),
            None => {
                let (key, readers) = (Arc::clone(key), vec![Rc::clone(&reader)]);
                traced.0.push(TracedChannel { key, owner, readers });
            }
        }
        drop(traced);
        self.send(owner, self.command(Arc::clone(key), Command::Trace(Tracing::On)));
        reader
    }

    fn end_trace(&self, key: &Arc<ChannelKey>, reader: &Rc<Reader>) {
        let mut traced = self.traced.borrow_mut();
        let at = traced.0.iter().position(|channel| *channel.key == **key);
        let Some(at) = at else { return };
        traced.0[at].readers.retain(|other| !Rc::ptr_eq(other, reader));
        if !traced.0[at].readers.is_empty() {
            return;
        }
        let TracedChannel { key, owner, .. } = traced.0.swap_remove(at);
        drop(traced);
        self.send(owner, self.command(key, Command::Trace(Tracing::Off)));
    }
}

/// Starts to trace a channel.
pub fn trace(edge: &Rc<Edge>, key: Arc<ChannelKey>, owner: ShardId) -> Trace {
    let reader = edge.client.begin_trace(&key, owner);
    Trace { edge: Rc::clone(edge), key, reader }
}
