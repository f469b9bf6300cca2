//! Channels whose messages are on disk. Before the first publish is carried out, or a subscriber
//! begins at a cursor, the store is asked where the log ends; requests wait for that, in order.
//! What is published is numbered at once, stored with all else that is published meanwhile, and
//! acknowledged when it is on disk.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | messages that are being stored, above [`STORING_BYTES_MAX`] | publishes are refused | client: code 42900 | `ignored{busy}` |
//! | requests that wait for a log, above [`WAITING_MAX`] | further ones are refused | client: code 42900 | `ignored{busy}` |
//! | pages that are being read, above [`READS_MAX`](super::log_reads) | further ones are refused | client: code 42900 | `ignored{busy}` |

use std::collections::VecDeque;
use std::sync::Arc;

use super::channel_entry::OwnedChannel;
use super::log_reads::{Read, is_page, take_read};
use super::{Owner, send_answer};
use crate::channel::{self, Draft, Message, Messages, StoredLog};
use crate::error::Reject;
use crate::ids::{ChannelKey, ShardId};
use crate::policy::{Deliver, Durability};
use crate::session::Answer;
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, Effect, ReplyTo};
use crate::shard::storage::{LogId, LogOf, StoreOperation, StoreOutcome, StoreReply, StoreRequest};

/// Bytes of messages that a shard has not yet been told to be on disk.
const STORING_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Requests of one channel that wait for its log to be opened.
const WAITING_MAX: usize = 16 * 1024;

/// The log of a channel on disk, as its owner knows it.
#[derive(Debug, Default)]
pub struct DurableLog {
    /// 0 before the first request to the store, and after a failure.
    opening: u64,
    /// The store was asked where the log ends, and has said so.
    is_asked: bool,
    is_open: bool,
    /// Subscribers have been sent everything up to this serial; set after a failure, when there may
    /// be more on disk.
    delivered: Option<u64>,
    /// Requests that came before the log was open.
    waiting: Vec<(ShardId, Command)>,
    /// The highest serial given to a message, and the highest that is on disk.
    assigned: u64,
    stored: u64,
    /// Given to the store with the next flush.
    unsent: Vec<Arc<Message>>,
    /// Publishes that are not acknowledged, in the order in which they will be.
    unacknowledged: VecDeque<Unacknowledged>,
    pub reads: Vec<Read>,
    pub reads_begun: u64,
}

/// A publish that waits until everything up to its serial is on disk.
#[derive(Debug)]
struct Unacknowledged {
    /// 0 for ephemeral messages, which wait for those before them only.
    serial: u64,
    /// What is then to be delivered; `None` for a repetition, and if it was delivered before.
    message: Option<Arc<Message>>,
    bytes: u64,
    from: ShardId,
    reply_to: ReplyTo,
}

impl DurableLog {
    /// Nothing waits for the store.
    pub fn is_idle(&self) -> bool {
        let is_opening = self.is_asked && !self.is_open;
        !is_opening && self.unacknowledged.is_empty() && self.reads.is_empty()
    }
}

impl Owner {
    /// Carries a request out that needs messages of a channel on disk, now or later; gives every
    /// other request back.
    pub(super) fn take_durable(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        command: Command,
    ) -> Option<Command> {
        if !needs_messages(&command) || !self.is_on_disk(cx, key) {
            return Some(command);
        }
        let slot = self.find_log(cx, from, key, &command)?;
        let Some(log) = self.durable_log(slot) else { return Some(command) };
        match command {
            Command::Publish { reply_to, draft } if log.is_open => {
                self.publish_durable(cx, from, slot, reply_to, *draft);
                None
            }
            command if log.is_open || is_page(&command) => {
                self.read_durable(cx, from, key, slot, command)
            }
            command if log.waiting.len() < WAITING_MAX => {
                log.waiting.push((from, command));
                self.begin_opening(cx, slot);
                None
            }
            command => {
                refuse(cx, from, key, &command, Reject::Busy);
                None
            }
        }
    }

    fn is_on_disk(&self, cx: &ShardContext, key: &ChannelKey) -> bool {
        let known = self.channels.find_key(key).and_then(|slot| self.channels.get(slot));
        let policy = known
            .map_or_else(|| cx.settings.policies.for_channel(&key.name), |channel| &channel.policy);
        policy.durability == Durability::Disk
    }

    /// The channel, with a log that may not be open yet; `None` without room for it.
    fn find_log(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        command: &Command,
    ) -> Option<u32> {
        match self.open(cx, key) {
            Ok(slot) => {
                let published = self.entry(slot).published.get_or_insert_default();
                published.durable.get_or_insert_default();
                self.begin_retention(cx);
                Some(slot)
            }
            Err(reject) => {
                refuse(cx, from, key, command, reject);
                None
            }
        }
    }

    /// Without effect on a log that is open, or is being opened.
    fn begin_opening(&mut self, cx: &mut ShardContext, slot: u32) {
        let Some(log) = self.durable_log(slot) else { return };
        if !std::mem::replace(&mut log.is_asked, true) {
            self.ask_store(cx, slot, StoreOperation::Open);
        }
    }

    fn publish_durable(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        slot: u32,
        reply_to: ReplyTo,
        draft: Draft,
    ) {
        let (now, storing_bytes) = (cx.now, self.storing_bytes);
        let key = Arc::clone(&self.entry(slot).key);
        if storing_bytes > STORING_BYTES_MAX {
            return send_answer(cx, from, reply_to, &key, Answer::Refused(Reject::Busy));
        }
        let Some(log) = self.durable_log(slot) else { return };
        let (next, stored) = (log.assigned + 1, log.stored);
        let published =
            self.with_messages(cx, Some(slot), |messages, _| messages.admit(now, draft, next));
        let Some(published) = published else { return };
        let waiting = |serial, message: Option<Arc<Message>>| {
            let bytes = message.as_ref().map_or(0, |message| message.bytes() as u64);
            Unacknowledged { serial, message, bytes, from, reply_to }
        };
        let unacknowledged = match published {
            channel::Published::Duplicate { serial } => {
                cx.counters.messages_resent += 1;
                if serial <= stored {
                    return send_answer(cx, from, reply_to, &key, Answer::Published { serial });
                }
                waiting(serial, None)
            }
            channel::Published::New(message) => waiting(message.serial, Some(message)),
        };
        self.await_store(cx, slot, unacknowledged);
    }

    fn await_store(&mut self, cx: &mut ShardContext, slot: u32, mut publish: Unacknowledged) {
        self.storing_bytes += publish.bytes;
        self.retention.note_serial(publish.serial);
        let deliver = self.entry(slot).policy.deliver;
        let Some(log) = self.durable_log(slot) else { return };
        let mut deliver_now = None;
        if let Some(message) = &publish.message {
            if publish.serial != 0 {
                log.assigned = publish.serial;
                log.unsent.push(Arc::clone(message));
            }
            if deliver == Deliver::BeforeDurable {
                deliver_now = publish.message.take();
            }
        }
        log.unacknowledged.push_back(publish);
        if let Some(message) = deliver_now {
            self.deliver_stored(cx, slot, message);
        }
        self.mark_dirty(slot);
        self.acknowledge(cx, slot);
    }

    /// Readers and subscribers have a message from here on.
    fn deliver_stored(&mut self, cx: &mut ShardContext, slot: u32, message: Arc<Message>) {
        // Its age counts from when it was accepted.
        let now = cx.now.at_wall(message.timestamp_ms);
        if message.serial != 0 {
            let stored = Arc::clone(&message);
            self.with_messages(cx, Some(slot), |messages, policy| {
                messages.append(now, stored, policy);
            });
        }
        self.queue_message(cx, slot, message);
    }

    /// Gives the store what was published since the last time.
    pub(super) fn store_unsent(&mut self, cx: &mut ShardContext, slot: u32) {
        let Some(log) = self.durable_log(slot).filter(|log| !log.unsent.is_empty()) else { return };
        let messages = std::mem::take(&mut log.unsent);
        self.ask_store(cx, slot, StoreOperation::Append(messages));
    }

    pub(super) fn ask_store(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        operation: StoreOperation,
    ) {
        let next = self.openings + 1;
        let Some(log) = self.durable_log(slot) else { return };
        if log.opening == 0 {
            log.opening = next;
        }
        let log = LogId { of: LogOf::Messages, slot, opening: log.opening };
        self.openings = self.openings.max(log.opening);
        let OwnedChannel { key, policy, .. } = self.entry(slot);
        let (channel, policy) = (Arc::clone(key), Arc::clone(policy));
        let request = StoreRequest { log, channel, policy, operation };
        cx.outbox.effect(Effect::Store(Box::new(request)));
    }

    /// Takes an answer of the store.
    pub fn handle_stored(&mut self, cx: &mut ShardContext, reply: StoreReply) {
        let StoreReply { log: log @ LogId { slot, opening, .. }, outcome } = reply;
        if log.of == LogOf::Documents {
            return self.documents_stored(cx, log, outcome);
        }
        if self.channels.get(slot).is_none() {
            return;
        }
        let Some(log) = self.durable_log(slot).filter(|log| log.opening == opening) else { return };
        match outcome {
            StoreOutcome::Opened(stored) => self.log_opened(cx, slot, *stored),
            StoreOutcome::Appended { head } => self.log_appended(cx, slot, head),
            StoreOutcome::Page { read, page, head } => {
                let Some(read) = take_read(log, read) else { return };
                self.finish_read(cx, slot, read, page, head);
            }
            StoreOutcome::Unreadable { read, reject } => {
                let Some(read) = take_read(log, read) else { return };
                let key = Arc::clone(&self.entry(slot).key);
                send_answer(cx, read.from, read.reply_to, &key, Answer::Refused(reject));
            }
            StoreOutcome::Failed(reject) => self.log_failed(cx, slot, reject),
            StoreOutcome::Rows(_) | StoreOutcome::RowsWritten | StoreOutcome::Folded(_) => {
                debug_assert!(false, "{outcome:?} is for documents");
            }
        }
    }

    fn log_opened(&mut self, cx: &mut ShardContext, slot: u32, stored: StoredLog) {
        let (now, head) = (cx.now, stored.head);
        let delivered = self.durable_log(slot).and_then(|log| log.delivered.take());
        let is_missed = |message: &&Arc<Message>| delivered.is_some_and(|d| message.serial > d);
        let missed: Vec<_> = stored.messages.iter().filter(is_missed).cloned().collect();
        self.with_messages(cx, Some(slot), |messages, policy| {
            *messages = Messages::restore(now, stored);
            messages.expire(now, policy);
        });
        let key = Arc::clone(&self.entry(slot).key);
        let Some(log) = self.durable_log(slot) else { return };
        (log.is_open, log.assigned, log.stored) = (true, head, head);
        let waiting = std::mem::take(&mut log.waiting);
        missed.into_iter().for_each(|message| self.queue_message(cx, slot, message));
        for (from, command) in waiting {
            self.handle_command(cx, from, Arc::clone(&key), command);
        }
    }

    fn log_appended(&mut self, cx: &mut ShardContext, slot: u32, head: u64) {
        if let Some(log) = self.durable_log(slot) {
            log.stored = head;
        }
        self.acknowledge(cx, slot);
    }

    /// Delivers and acknowledges what is on disk, and what waits for nothing else.
    fn acknowledge(&mut self, cx: &mut ShardContext, slot: u32) {
        while let Some(publish) = self.next_stored(slot) {
            self.finish_publish(cx, slot, publish);
        }
    }

    fn next_stored(&mut self, slot: u32) -> Option<Unacknowledged> {
        let log = self.durable_log(slot)?;
        let is_stored = log.unacknowledged.front()?.serial <= log.stored;
        if is_stored { log.unacknowledged.pop_front() } else { None }
    }

    fn finish_publish(&mut self, cx: &mut ShardContext, slot: u32, publish: Unacknowledged) {
        let Unacknowledged { serial, message, bytes, from, reply_to } = publish;
        self.storing_bytes -= bytes;
        let key = Arc::clone(&self.entry(slot).key);
        if let Some(message) = message {
            self.deliver_stored(cx, slot, message);
        }
        send_answer(cx, from, reply_to, &key, Answer::Published { serial });
    }

    /// Everything that waits for the store is refused. The next request opens the log again.
    fn log_failed(&mut self, cx: &mut ShardContext, slot: u32, reject: Reject) {
        let key = Arc::clone(&self.entry(slot).key);
        let head =
            self.with_messages(cx, Some(slot), |messages, _| std::mem::take(messages).head());
        let Some(log) = self.durable_log(slot).map(std::mem::take) else { return };
        if let Some(closed) = self.durable_log(slot) {
            closed.delivered = if log.is_open { head } else { log.delivered };
        }
        for publish in log.unacknowledged {
            self.storing_bytes -= publish.bytes;
            send_answer(cx, publish.from, publish.reply_to, &key, Answer::Refused(reject));
        }
        for read in log.reads {
            send_answer(cx, read.from, read.reply_to, &key, Answer::Refused(reject));
        }
        for (from, command) in log.waiting {
            refuse(cx, from, &key, &command, reject);
        }
        self.mark_dirty(slot);
    }

    /// Forgets the messages of a channel that nobody uses, when no repetition of a publish is to be
    /// recognized any more.
    pub(super) fn close_idle_log(&mut self, cx: &mut ShardContext, slot: u32) {
        let published = self.entry(slot).published.as_ref();
        if published.is_some_and(|published| published.messages.has_publishes()) {
            return;
        }
        self.with_messages(cx, Some(slot), |messages, _| *messages = Messages::default());
        self.channels.remove(slot);
    }

    pub(super) fn is_log_open(&mut self, slot: u32) -> bool {
        self.durable_log(slot).is_some_and(|log| log.is_open)
    }

    pub(super) fn durable_log(&mut self, slot: u32) -> Option<&mut DurableLog> {
        self.entry(slot).published.as_mut()?.durable.as_deref_mut()
    }
}

/// Whether a request reads or adds messages.
fn needs_messages(command: &Command) -> bool {
    match command {
        Command::Publish { .. } => true,
        Command::Attach { after, .. } => after.is_some(),
        command => is_page(command),
    }
}

/// Refuses a request that needs messages.
fn refuse(
    cx: &mut ShardContext,
    from: ShardId,
    key: &Arc<ChannelKey>,
    command: &Command,
    reject: Reject,
) {
    if let Some(reply_to) = reply_to(command) {
        send_answer(cx, from, reply_to, key, Answer::Refused(reject));
    }
}

fn reply_to(command: &Command) -> Option<ReplyTo> {
    match command {
        Command::Publish { reply_to, .. }
        | Command::History { reply_to, .. }
        | Command::HistoryForward { reply_to, .. }
        | Command::Fetch { reply_to, .. }
        | Command::Attach { reply_to, .. } => Some(*reply_to),
        _ => None,
    }
}
