//! The thread that does what one shard asks of the store.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::documents::{read_documents, write_documents};
use super::format::{self, ChannelRows, Head};
use super::read::Log;
use super::retention::{Retained, has_too_many_bytes, next_trim, trim};
use super::{OpenStore, Store, StoreError};
use crate::channel::Message;
use crate::error::Reject;
use crate::ids::{ChannelKey, Router, ShardId};
use crate::policy::Policy;
use crate::relay::RowChange;
use crate::shard::{LogId, StoreOperation, StoreOutcome, StoreReply, StoreRequest};

/// Requests served at once.
const REQUESTS_MAX: usize = 4096;

/// Bytes of messages written with one fsync, about.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Ends of logs that are remembered; with as many, all are forgotten.
const HEADS_MAX: usize = 64 * 1024;

/// How often some channels are looked at for messages that are too old, and how many.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEPT_AT_ONCE: usize = 2048;

/// What a worker is started with.
pub struct WorkerParts {
    pub store: Arc<Store>,
    pub shard: ShardId,
    pub router: Router,
    pub requests: Receiver<StoreRequest>,
    pub replies: Sender<StoreReply>,
    /// Called after replies were sent.
    pub wake: Box<dyn Fn() + Send>,
}

/// Serves the requests of one shard, in order, until their sender is gone.
pub struct Worker {
    parts: WorkerParts,
    heads: HashMap<ChannelRows, KnownHead>,
    /// The last opening of documents that failed, by their place. What was asked for under it, or
    /// before, builds on rows that may not be there.
    failed: HashMap<u32, u64>,
    /// Where the next sweep begins; empty at the beginning of a pass.
    swept: Vec<u8>,
    sweep_at_ms: u64,
}

/// The end of a log that this worker has written.
#[derive(Clone, Copy, Debug)]
struct KnownHead {
    head: Head,
    /// The log is trimmed when its head is there.
    trim_at: u64,
}

/// Messages of one channel that are to be stored.
struct Append {
    log: LogId,
    rows: ChannelRows,
    policy: Arc<Policy>,
    messages: Vec<Arc<Message>>,
}

/// Rows of the documents of an app that are to be written.
struct RowWrite {
    log: LogId,
    app: Arc<str>,
    changes: Vec<RowChange>,
}

/// What is written with one fsync.
#[derive(Default)]
struct Writes {
    appends: Vec<Append>,
    rows: Vec<RowWrite>,
}

impl Writes {
    fn logs(&self) -> impl Iterator<Item = LogId> {
        let appends = self.appends.iter().map(|append| append.log);
        appends.chain(self.rows.iter().map(|write| write.log))
    }
}

/// A request that writes nothing.
struct Reading {
    log: LogId,
    channel: Arc<ChannelKey>,
    policy: Arc<Policy>,
    operation: StoreOperation,
}

impl Worker {
    pub fn new(parts: WorkerParts) -> Self {
        let (heads, failed) = (HashMap::new(), HashMap::new());
        Worker { parts, heads, failed, swept: Vec::new(), sweep_at_ms: 0 }
    }

    pub fn run(mut self) {
        loop {
            match self.parts.requests.recv_timeout(SWEEP_EVERY) {
                Ok(first) => self.serve(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if unix_ms() >= self.sweep_at_ms {
                self.sweep_at_ms = unix_ms() + SWEEP_EVERY.as_millis() as u64;
                self.sweep();
            }
        }
    }

    /// Serves a request and all others that wait: reads first, but for those of channels that are
    /// being written to.
    fn serve(&mut self, first: StoreRequest) {
        let (mut writes, mut late) = (Writes::default(), Vec::new());
        let mut written = HashSet::new();
        let (mut served, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(StoreRequest { log, channel, policy, operation }) = next {
            match operation {
                StoreOperation::Append(messages) => {
                    bytes += messages.iter().map(|message| message.bytes()).sum::<usize>();
                    written.insert(log);
                    let rows = ChannelRows::new(&channel.app, &channel.name);
                    writes.appends.push(Append { log, rows, policy, messages });
                }
                // For a client without a thread for it.
                StoreOperation::Fold(fold) => {
                    self.reply(log, StoreOutcome::Folded(fold.run()));
                }
                StoreOperation::WriteRows(_) if self.has_failed(log) => {
                    self.reply(log, StoreOutcome::Failed(Reject::StoreFailed));
                }
                StoreOperation::WriteRows(changes) => {
                    let sizes = changes.iter().map(|c| c.row.as_ref().map_or(0, Vec::len));
                    bytes += sizes.sum::<usize>();
                    written.insert(log);
                    let app = Arc::clone(&channel.app);
                    writes.rows.push(RowWrite { log, app, changes });
                }
                operation => {
                    let read = Reading { log, channel, policy, operation };
                    match written.contains(&log) {
                        true => late.push(read),
                        false => self.read(read),
                    }
                }
            }
            served += 1;
            let has_room = served < REQUESTS_MAX && bytes < BATCH_BYTES_MAX;
            next = if has_room { self.parts.requests.try_recv().ok() } else { None };
        }
        if writes.logs().next().is_some() {
            self.write(&writes);
        }
        late.into_iter().for_each(|read| self.read(read));
        (self.parts.wake)();
    }

    fn read(&self, reading: Reading) {
        let Reading { log, channel, policy, operation } = reading;
        let rows = ChannelRows::new(&channel.app, &channel.name);
        let (read, head_max) = match &operation {
            StoreOperation::Read { read, head, .. } => (Some(*read), *head),
            _ => (None, u64::MAX),
        };
        let outcome = guarded(|| {
            self.parts.store.with(|store| {
                if matches!(operation, StoreOperation::ReadRows) {
                    return read_documents(store, &channel.app).map(StoreOutcome::Rows);
                }
                let log = Log::new(store, &rows, &policy, unix_ms(), head_max)?;
                Ok(match &operation {
                    StoreOperation::Read { read, range, limit, .. } => {
                        let page = log.page(range, *limit)?;
                        StoreOutcome::Page { read: *read, page, head: log.head.head }
                    }
                    _ => StoreOutcome::Opened(Box::new(log.open(&policy)?)),
                })
            })
        });
        let outcome = outcome.unwrap_or_else(|error| {
            let (reject, names) = (error.reject(), rows.names());
            tracing::warn!(?names, %error, "a log cannot be read");
            match read {
                Some(read) => StoreOutcome::Unreadable { read, reject },
                None => StoreOutcome::Failed(reject),
            }
        });
        self.reply(log, outcome);
    }

    fn write(&mut self, writes: &Writes) {
        let store = Arc::clone(&self.parts.store);
        if let Err(error) = store.check_space() {
            store.note_trouble(&error);
            return self.fail(writes, error.reject());
        }
        let began = Instant::now();
        match guarded(|| store.with(|open| self.write_durably(open, writes))) {
            Ok(outcomes) => {
                store.note_success();
                store.note_write(began.elapsed());
                writes.logs().zip(outcomes).for_each(|(log, outcome)| self.reply(log, outcome));
            }
            Err(error) => {
                store.give_up(&error);
                self.heads.clear();
                self.fail(writes, error.reject());
            }
        }
    }

    fn has_failed(&self, log: LogId) -> bool {
        self.failed.get(&log.slot).is_some_and(|opening| log.opening <= *opening)
    }

    fn fail(&mut self, writes: &Writes, reject: Reject) {
        let rows = writes.rows.iter().map(|write| (write.log.slot, write.log.opening));
        self.failed.extend(rows);
        writes.logs().for_each(|log| self.reply(log, StoreOutcome::Failed(reject)));
    }

    /// Writes everything with one fsync. One outcome for each.
    fn write_durably(
        &mut self,
        store: &OpenStore,
        writes: &Writes,
    ) -> Result<Vec<StoreOutcome>, StoreError> {
        let appends = &writes.appends;
        let mut batch = store.engine.batch();
        let mut written = HashMap::<&ChannelRows, (KnownHead, &Policy)>::new();
        let mut outcomes = Vec::with_capacity(appends.len());
        for Append { rows, policy, messages, .. } in appends {
            let known = match written.get(rows) {
                Some((known, _)) => Ok(*known),
                None => self.known_head(store, rows, policy),
            };
            let mut known = match known {
                Ok(known) => known,
                // One damaged log is no reason to refuse the others.
                Err(error @ StoreError::Corrupt(_)) => {
                    tracing::warn!(names = ?rows.names(), %error, "a log cannot be written");
                    outcomes.push(StoreOutcome::Failed(error.reject()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let expected = messages.iter().zip(known.head.head + 1..);
            if !expected.clone().all(|(message, serial)| message.serial == serial) {
                // What came before it failed, and the owner does not know yet.
                outcomes.push(StoreOutcome::Failed(Reject::StoreFailed));
                continue;
            }
            for (message, _) in expected {
                let row = format::encode_message(message);
                batch.insert(&rows.message_key(message.serial), &row);
                known.head.head = message.serial;
                known.head.bytes += row.len() as u64;
            }
            outcomes.push(StoreOutcome::Appended { head: known.head.head });
            written.insert(rows, (known, policy));
        }
        for (rows, (known, policy)) in &mut written {
            let KnownHead { head, trim_at } = known;
            if head.head >= *trim_at || has_too_many_bytes(policy, head) {
                let retained = Retained::new(policy, head.head, unix_ms());
                let trimmed = trim(&store.engine, &mut batch, rows, head, &retained);
                if let Err(error) = trimmed {
                    tracing::warn!(names = ?rows.names(), %error, "a log is not trimmed");
                }
                *trim_at = next_trim(policy, head.head);
            }
            batch.insert(rows.head_key(), &head.encode());
        }
        for RowWrite { app, changes, .. } in &writes.rows {
            write_documents(&mut batch, app, changes);
            outcomes.push(StoreOutcome::RowsWritten);
        }
        batch.commit_durably()?;
        if self.heads.len() + written.len() > HEADS_MAX {
            self.heads.clear();
        }
        let written = written.into_iter().map(|(rows, (known, _))| (rows.clone(), known));
        self.heads.extend(written);
        Ok(outcomes)
    }

    fn known_head(
        &self,
        store: &OpenStore,
        rows: &ChannelRows,
        policy: &Policy,
    ) -> Result<KnownHead, StoreError> {
        if let Some(known) = self.heads.get(rows) {
            return Ok(*known);
        }
        let head = store.engine.head(rows)?.unwrap_or_else(|| Head::starting_after(store.floor));
        let retained = policy.stored_messages_max() as u64;
        let over = head.count().saturating_sub(retained);
        let trim_at = next_trim(policy, head.head).saturating_sub(over).max(head.head);
        Ok(KnownHead { head, trim_at })
    }

    /// Removes what has become too old, of some of the channels of this shard.
    fn sweep(&mut self) {
        if !self.parts.store.is_open() {
            return;
        }
        let store = Arc::clone(&self.parts.store);
        let swept = guarded(|| store.with(|open| self.sweep_some(open)));
        if let Err(error) = swept {
            tracing::debug!(%error, "no sweep");
        }
    }

    fn sweep_some(&mut self, store: &OpenStore) -> Result<(), StoreError> {
        let from = if self.swept.is_empty() { format::HEADS.to_vec() } else { self.swept.clone() };
        let to = [format::HEADS[0] + 1];
        let policies = self.parts.store.policies();
        let mut batch = store.engine.batch();
        let mut trimmed = Vec::new();
        let mut next = Vec::new();
        for (count, row) in store.engine.range(&from, &to).enumerate() {
            let (key, row) = row?;
            if count == SWEPT_AT_ONCE {
                next = key.to_vec();
                break;
            }
            let Some(rows) = ChannelRows::of_head(&key).filter(|rows| self.is_mine(rows)) else {
                continue;
            };
            let mut head = Head::decode(&row).map_err(StoreError::corrupt)?;
            let Some((_, channel)) = rows.names().filter(|_| head.count() > 0) else { continue };
            let policy = policies.for_channel(channel);
            let (first, retained) = (head.first, Retained::new(policy, head.head, unix_ms()));
            trim(&store.engine, &mut batch, &rows, &mut head, &retained)?;
            if head.first != first {
                batch.insert(&key, &head.encode());
                trimmed.push((rows, head));
            }
        }
        batch.commit()?;
        for (rows, head) in trimmed {
            if let Some(known) = self.heads.get_mut(&rows) {
                known.head = head;
            }
        }
        self.swept = next;
        Ok(())
    }

    /// Whether the channel belongs to the shard of this worker.
    fn is_mine(&self, rows: &ChannelRows) -> bool {
        let Some((app, channel)) = rows.names() else { return false };
        let router = &self.parts.router;
        router.shard_of(router.hash(app, channel)) == self.parts.shard
    }

    fn reply(&self, log: LogId, outcome: StoreOutcome) {
        // Without a receiver the shard has ended.
        let _ = self.parts.replies.send(StoreReply { log, outcome });
    }
}

/// A panic of the engine is a failure like any other: whoever waits gets an answer.
fn guarded<T>(act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(StoreError::corrupt("the engine panicked")))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
