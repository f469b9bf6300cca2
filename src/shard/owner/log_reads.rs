//! Requests to channels on disk, once their turn has come: from memory as far as it goes, else from
//! the store, which answers later.

use std::sync::Arc;

use super::channel_entry::OwnedChannel;
use super::durable::DurableLog;
use super::{Owner, send_answer};
use crate::channel::{Message, Page, PageLimit, Position};
use crate::error::Reject;
use crate::ids::{ChannelKey, Clocks, ShardId};
use crate::session::{Answer, Feed};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, Replaying, ReplyTo};
use crate::shard::storage::{StoreOperation, StoreRange};

/// Reads of one channel that wait for the store.
const READS_MAX: usize = 16 * 1024;

/// A request that waits for messages from disk.
#[derive(Debug)]
pub struct Read {
    number: u64,
    pub from: ShardId,
    pub reply_to: ReplyTo,
    answer: ReadAnswer,
}

/// How a page becomes an answer.
#[derive(Debug)]
enum ReadAnswer {
    History,
    Fetch,
    Attach(Attaching),
}

/// A subscriber begins.
#[derive(Debug)]
struct Attaching {
    feed: Feed,
    replay: Replaying,
    /// What it has missed, as far as it has been read.
    replayed: Vec<Arc<Message>>,
}

/// A read that is to begin.
struct ReadRequest {
    from: ShardId,
    reply_to: ReplyTo,
    answer: ReadAnswer,
    range: StoreRange,
    limit: PageLimit,
}

impl Owner {
    /// Carries out a request that reads messages; gives it back when all of them are in memory.
    pub(super) fn read_durable(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        slot: u32,
        command: Command,
    ) -> Option<Command> {
        let now = cx.now;
        match command {
            Command::Attach { reply_to, feed, after: Some(after), replay } => {
                if self.has_after(now, slot, &after, PageLimit::UNLIMITED) {
                    return Some(Command::Attach { reply_to, feed, after: Some(after), replay });
                }
                let answer = ReadAnswer::Attach(Attaching { feed, replay, replayed: Vec::new() });
                let (range, limit) = (StoreRange::After(after), PageLimit::UNLIMITED);
                self.read(cx, slot, ReadRequest { from, reply_to, answer, range, limit });
            }
            Command::Fetch { reply_to, after, limit } => {
                if self.has_after(now, slot, &Position::Serial(after), limit) {
                    return Some(Command::Fetch { reply_to, after, limit });
                }
                let range = StoreRange::After(Position::Serial(after));
                let answer = ReadAnswer::Fetch;
                self.read(cx, slot, ReadRequest { from, reply_to, answer, range, limit });
            }
            Command::History { reply_to, before, limit } => {
                let page = self.with_messages(cx, Some(slot), |messages, policy| {
                    messages.before(now, before.as_ref(), limit, policy)
                });
                // Without older messages in memory, as before the log is open, there may be some on
                // disk.
                if let Some(Page { messages, more: true }) = page {
                    let answer = Answer::History { messages, more: true };
                    send_answer(cx, from, reply_to, key, answer);
                } else {
                    let (range, answer) = (StoreRange::Before(before), ReadAnswer::History);
                    self.read(cx, slot, ReadRequest { from, reply_to, answer, range, limit });
                }
            }
            Command::HistoryForward { reply_to, after, limit } => {
                let is_open = self.is_log_open(slot);
                let messages = self.entry(slot).published.as_ref().map(|p| &p.messages);
                if is_open && messages.is_some_and(|m| after >= m.last_evicted()) {
                    return Some(Command::HistoryForward { reply_to, after, limit });
                }
                let (range, answer) = (StoreRange::Following(after), ReadAnswer::History);
                self.read(cx, slot, ReadRequest { from, reply_to, answer, range, limit });
            }
            command => return Some(command),
        }
        None
    }

    /// Whether everything after a position is in memory.
    fn has_after(&mut self, now: Clocks, slot: u32, after: &Position, limit: PageLimit) -> bool {
        if !self.is_log_open(slot) {
            return false;
        }
        let OwnedChannel { published, policy, .. } = self.entry(slot);
        let Some(published) = published else { return false };
        published.messages.after(now, after, limit, policy).is_some()
    }

    fn read(&mut self, cx: &mut ShardContext, slot: u32, request: ReadRequest) {
        let ReadRequest { from, reply_to, answer, range, limit } = request;
        let key = Arc::clone(&self.entry(slot).key);
        let is_open = self.is_log_open(slot);
        let published = self.entry(slot).published.as_ref().filter(|_| is_open);
        // Of a log that is not open, nothing is in memory.
        let head = published.map_or(u64::MAX, |published| published.messages.head());
        let Some(log) = self.durable_log(slot) else { return };
        if log.reads.len() >= READS_MAX {
            return send_answer(cx, from, reply_to, &key, Answer::Refused(Reject::Busy));
        }
        log.reads_begun += 1;
        let number = log.reads_begun;
        log.reads.push(Read { number, from, reply_to, answer });
        self.ask_store(cx, slot, StoreOperation::Read { read: number, range, limit, head });
    }

    pub(super) fn finish_read(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        read: Read,
        page: Option<Page>,
        head: u64,
    ) {
        let Read { from, reply_to, answer, .. } = read;
        let key = Arc::clone(&self.entry(slot).key);
        let resumed = page.is_some();
        let Page { messages, more } = page.unwrap_or_default();
        let answer = match answer {
            ReadAnswer::History => Answer::History { messages, more },
            ReadAnswer::Fetch => Answer::Fetched { messages, resumed },
            ReadAnswer::Attach(_) if !resumed => {
                Answer::Subscribed { messages: Vec::new(), resumed: Some(false) }
            }
            ReadAnswer::Attach(mut attaching) => {
                let last = messages.last().filter(|_| more).map_or(head, |m| m.serial);
                attaching.replayed.extend(messages);
                return self.attach_rest(cx, slot, from, reply_to, attaching, last);
            }
        };
        send_answer(cx, from, reply_to, &key, answer);
    }

    /// A subscriber begins: what it has missed was read up to `after`, and the rest is in memory,
    /// unless it was evicted meanwhile.
    fn attach_rest(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        from: ShardId,
        reply_to: ReplyTo,
        attaching: Attaching,
        after: u64,
    ) {
        let position = Position::Serial(after);
        if !self.has_after(cx.now, slot, &position, PageLimit::UNLIMITED) {
            let answer = ReadAnswer::Attach(attaching);
            let (range, limit) = (StoreRange::After(position), PageLimit::UNLIMITED);
            return self.read(cx, slot, ReadRequest { from, reply_to, answer, range, limit });
        }
        let Attaching { feed, replay, mut replayed } = attaching;
        let key = Arc::clone(&self.entry(slot).key);
        let answer = match self.attach(cx, from, &key, feed, Some(&position), replay) {
            Answer::Subscribed { messages, resumed } => {
                replayed.extend(messages);
                if replay == Replaying::Needless {
                    replayed.clear();
                }
                Answer::Subscribed { messages: replayed, resumed }
            }
            answer => answer,
        };
        send_answer(cx, from, reply_to, &key, answer);
    }
}

pub(super) fn take_read(log: &mut DurableLog, number: u64) -> Option<Read> {
    let at = log.reads.iter().position(|read| read.number == number)?;
    Some(log.reads.swap_remove(at))
}

/// Whether a request reads one page, which the store gives also while the log is not open.
pub(super) fn is_page(command: &Command) -> bool {
    matches!(
        command,
        Command::History { .. } | Command::HistoryForward { .. } | Command::Fetch { .. }
    )
}
