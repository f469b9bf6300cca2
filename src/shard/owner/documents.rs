//! The documents of the apps whose relay is on this shard. What is pushed in a turn is stored
//! together; it is acknowledged, and sent to others, when it is on disk.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | pushes that are being stored, above [`STORING_BYTES_MAX`] | further ones are put off | device: Gap | `ignored{documents_full}` |
//! | log of an app, above `documents.bytes_max` | pushes are put off | device: Gap | `ignored{documents_full}` |
//! | a log that could not be read or written, for 1 to 30 s | all requests are put off | device: Gap | `ignored{documents_full}` |
//! | requests that wait for the log to be opened, above 16,384, or 64 MiB of pushes | pushes are put off, readers ask again | device: Gap | `ignored{documents_full}` |

use std::sync::Arc;

use super::Owner;
use super::document_table::{AppDocuments, LogState, STORING_BYTES_MAX, Write, bytes_of};
use crate::counters::Ignored;
use crate::ids::{ChannelKey, ShardId};
use crate::relay::{CAN_FOLD, Documents, Page, Push, Pushed, Read, Record, Row};
use crate::session::{DocumentAnswer, DocumentBatch, PushRequest, Receipt, Replica};
use crate::shard::context::ShardContext;
use crate::shard::documents::{DocumentCommand, DocumentEvent};
use crate::shard::envelope::Effect;
use crate::shard::storage::{LogId, LogOf, StoreOperation, StoreOutcome, StoreRequest};
use crate::shard::timers::Timer;

/// Bytes of ops in the answer to a device that catches up with an array. It receives the others
/// with the log, and may ask again.
const CATCH_UP_BYTES: usize = 1024 * 1024;

/// Bytes of records that are sent again together.
const REPEAT_BYTES: usize = 128 * 1024;

/// The log of an app is looked at for deltas to fold when it has grown by so much.
const FOLD_EVERY_BYTES: u64 = 64 * 1024;

/// How long the log is left alone after a failure, at first and at most: opening it reads all of
/// it.
const PAUSE_MS_MIN: u64 = 1000;
const PAUSE_MS_MAX: u64 = 30_000;

/// How long documents on disk stay in memory when nobody uses them.
const UNUSED_MS: u64 = 60_000;

impl Owner {
    pub(super) fn handle_documents(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: &Arc<ChannelKey>,
        command: DocumentCommand,
    ) {
        let slot = self.documents.find_or_insert(cx, key);
        let app = &mut self.documents.apps[slot as usize];
        app.used_ms = cx.now.mono_ms;
        match command {
            DocumentCommand::Listen if !app.listeners.contains(&from) => app.listeners.push(from),
            DocumentCommand::Listen => {}
            DocumentCommand::Unlisten => app.listeners.retain(|home| *home != from),
            command if matches!(app.log, LogState::Open(_)) => {
                self.act_on_documents(cx, slot, from, command);
            }
            command if app.can_wait(cx.now.mono_ms, &command) => {
                app.waiting_bytes += bytes_of(&command);
                app.waiting.push((from, command));
                self.open_documents(cx, slot);
            }
            command => refuse(cx, app, from, command),
        }
        self.schedule_documents(cx, slot);
    }

    fn act_on_documents(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        from: ShardId,
        command: DocumentCommand,
    ) {
        let policy = cx.settings.session.relay;
        let app = &mut self.documents.apps[slot as usize];
        match command {
            DocumentCommand::Greet { conn, number, replica } => {
                let Replica { device, epoch } = replica;
                let is_fork = !app.documents.greet(device, epoch);
                app.send(cx, from, DocumentEvent::Greeted { conn, number, is_fork });
                self.documents.mark_dirty(slot);
            }
            DocumentCommand::Push { conn, replica, push } => {
                let (push, receipt) = push_of(replica, *push);
                let receipt_bytes = receipt.body.len();
                let has_room = app.storing_bytes <= STORING_BYTES_MAX;
                let outcomes =
                    app.documents.push(push, if has_room { policy.bytes_max } else { 0 });
                count(cx, &outcomes);
                let is_later = outcomes.first() == Some(&Pushed::Later);
                let answer = DocumentAnswer::Pushed { receipt, outcomes };
                let event = DocumentEvent::Answer { conn, answer };
                if is_later {
                    return app.send(cx, from, event);
                }
                app.events_bytes += receipt_bytes;
                app.storing_bytes += receipt_bytes;
                app.events.push((from, event));
                self.documents.mark_dirty(slot);
            }
            DocumentCommand::Barrier { conn, timestamp_ms } => {
                let answer = DocumentAnswer::Barrier { timestamp_ms };
                app.events.push((from, DocumentEvent::Answer { conn, answer }));
                self.documents.mark_dirty(slot);
            }
            DocumentCommand::Read { conn, number, read } => {
                let page = Box::new(app.documents.log().page(&read, app.stored()));
                app.send(cx, from, DocumentEvent::Page { conn, number, page });
            }
            DocumentCommand::CatchUp { conn, array, after } => {
                let ops =
                    app.documents.log().array_ops(&array, &after, app.stored(), CATCH_UP_BYTES);
                let answer = DocumentAnswer::ArrayOps { array, ops };
                app.send(cx, from, DocumentEvent::Answer { conn, answer });
            }
            DocumentCommand::Listen | DocumentCommand::Unlisten => {}
        }
    }

    fn open_documents(&mut self, cx: &mut ShardContext, slot: u32) {
        if self.documents.apps[slot as usize].log == LogState::Closed {
            self.documents.openings += 1;
            let opening = self.documents.openings;
            self.documents.apps[slot as usize].log = LogState::Opening(opening);
            self.ask_for_documents(cx, slot, opening, StoreOperation::ReadRows);
        }
    }

    fn ask_for_documents(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        opening: u64,
        operation: StoreOperation,
    ) {
        let log = LogId { of: LogOf::Documents, slot, opening };
        let channel = Arc::clone(&self.documents.apps[slot as usize].key);
        let policy = Arc::clone(&cx.settings.policies.default);
        let request = StoreRequest { log, channel, policy, operation };
        cx.outbox.effect(Effect::Store(Box::new(request)));
    }

    /// Stores what was pushed since the last time, and answers what need not be stored.
    pub fn flush_documents(&mut self, cx: &mut ShardContext) {
        for slot in std::mem::take(&mut self.documents.dirty) {
            let app = &mut self.documents.apps[slot as usize];
            app.is_dirty = false;
            let changed_bytes = app.documents.changed_bytes();
            let changes = app.documents.take_changes();
            let events = std::mem::take(&mut app.events);
            let bytes = changed_bytes + std::mem::take(&mut app.events_bytes);
            let write = Write { bytes, through: app.documents.log().head(), events };
            let is_on_disk = cx.settings.session.relay.is_on_disk();
            match (app.log, app.writes.back_mut()) {
                (LogState::Open(opening), _) if is_on_disk && !changes.is_empty() => {
                    app.storing_bytes += changed_bytes;
                    app.writes.push_back(write);
                    let operation = StoreOperation::WriteRows(changes);
                    self.ask_for_documents(cx, slot, opening, operation);
                }
                (_, Some(earlier)) => {
                    earlier.events.extend(write.events);
                    earlier.bytes += bytes;
                }
                (_, None) => {
                    app.storing_bytes -= bytes - changed_bytes;
                    self.finish_write(cx, slot, write);
                }
            }
            self.schedule_documents(cx, slot);
        }
    }

    /// Acknowledges what is on disk, and sends it to the others.
    fn finish_write(&mut self, cx: &mut ShardContext, slot: u32, write: Write) {
        let app = &mut self.documents.apps[slot as usize];
        for (to, event) in write.events {
            app.send(cx, to, event);
        }
        let after = app.stored();
        app.stored = Some(write.through.max(after));
        app.documents.settle(write.through);
        if write.through > after {
            let records = app.documents.log().range(after, write.through);
            app.repeats.note(cx.now.mono_ms, after, write.through);
            deliver(cx, app, after, write.through, records, false);
        }
        self.fold_documents(cx, slot);
    }

    /// Has deltas folded that were sent often enough, where there are many.
    fn fold_documents(&mut self, cx: &mut ShardContext, slot: u32) {
        let app = &mut self.documents.apps[slot as usize];
        let is_on_disk = cx.settings.session.relay.is_on_disk();
        let LogState::Open(opening) = app.log else { return };
        let is_grown = app.documents.bytes() >= app.fold_at_bytes;
        if !CAN_FOLD || !is_on_disk || app.is_folding || !is_grown {
            return;
        }
        app.fold_at_bytes = app.documents.bytes() + FOLD_EVERY_BYTES;
        let through = app.repeats.finished(app.stored());
        if let Some(fold) = app.documents.next_fold(through) {
            app.is_folding = true;
            self.ask_for_documents(cx, slot, opening, StoreOperation::Fold(fold));
        }
    }

    pub(super) fn documents_stored(
        &mut self,
        cx: &mut ShardContext,
        log: LogId,
        outcome: StoreOutcome,
    ) {
        let Some(app) = self.documents.apps.get_mut(log.slot as usize) else { return };
        let (LogState::Opening(opening) | LogState::Open(opening)) = app.log else { return };
        if opening != log.opening {
            return;
        }
        match outcome {
            StoreOutcome::Rows(rows) => self.documents_opened(cx, log, rows),
            StoreOutcome::RowsWritten => {
                if let Some(write) = app.writes.pop_front() {
                    app.storing_bytes -= write.bytes;
                    app.pause_ms = 0;
                    self.finish_write(cx, log.slot, write);
                }
            }
            StoreOutcome::Folded(folded) => {
                app.is_folding = false;
                app.documents.fold(folded);
                app.fold_at_bytes = app.documents.bytes() + FOLD_EVERY_BYTES;
                self.documents.mark_dirty(log.slot);
            }
            StoreOutcome::Failed(_) => documents_failed(cx, app),
            _ => debug_assert!(false, "{outcome:?} is for messages"),
        }
        self.schedule_documents(cx, log.slot);
    }

    fn documents_opened(&mut self, cx: &mut ShardContext, log: LogId, rows: Vec<Row>) {
        let app = &mut self.documents.apps[log.slot as usize];
        let earlier = std::mem::take(&mut app.documents);
        app.documents = Documents::restore(rows).inherit(earlier);
        app.log = LogState::Open(log.opening);
        let through = app.documents.log().head();
        // After a failure there may be more on disk than was known.
        app.stored.get_or_insert(through);
        let waiting = std::mem::take(&mut app.waiting);
        app.waiting_bytes = 0;
        self.finish_write(cx, log.slot, Write { bytes: 0, through, events: Vec::new() });
        for (from, command) in waiting {
            self.act_on_documents(cx, log.slot, from, command);
        }
    }

    /// Sends again, deletes what has expired, forgets what nobody uses.
    pub(super) fn documents_due(&mut self, cx: &mut ShardContext, slot: u32) {
        let Some(app) = self.documents.apps.get_mut(slot as usize) else { return };
        if app.timer_ms.is_none_or(|at| cx.now.mono_ms < at) {
            return;
        }
        app.timer_ms = None;
        for (after, through) in app.repeats.take_due(cx.now.mono_ms) {
            let records = app.documents.log().range(after, through);
            deliver(cx, app, after, through, records, true);
        }
        if matches!(app.log, LogState::Open(_))
            && app.documents.log().next_expiry_wall_ms().is_some_and(|at| at <= cx.now.wall_ms)
        {
            app.documents.expire(cx.now.wall_ms);
            self.documents.mark_dirty(slot);
        }
        let is_on_disk = cx.settings.session.relay.is_on_disk();
        let app = &mut self.documents.apps[slot as usize];
        let is_unused = app.is_idle() && !app.is_dirty;
        if is_on_disk && is_unused && cx.now.mono_ms >= app.used_ms + UNUSED_MS {
            *app = AppDocuments::new(Arc::clone(&app.key), LogState::Closed);
        }
        self.schedule_documents(cx, slot);
    }

    fn schedule_documents(&mut self, cx: &mut ShardContext, slot: u32) {
        let is_on_disk = cx.settings.session.relay.is_on_disk();
        let app = &mut self.documents.apps[slot as usize];
        let (now_ms, is_open) = (cx.now.mono_ms, matches!(app.log, LogState::Open(_)));
        let expiry = app.documents.log().next_expiry_wall_ms().filter(|_| is_open);
        let expiry_ms = expiry.map(|at| now_ms + at.saturating_sub(cx.now.wall_ms));
        let unused_ms = (is_on_disk && is_open && app.is_idle()).then_some(app.used_ms + UNUSED_MS);
        let due = [app.repeats.due_ms(), expiry_ms, unused_ms].into_iter().flatten().min();
        let Some(due_ms) = due.map(|at| at.max(now_ms + 1)) else { return };
        if app.timer_ms.is_none_or(|at| due_ms < at) {
            app.timer_ms = Some(due_ms);
            cx.timers.set(due_ms, Timer::Documents { slot });
        }
    }
}

/// Sends records to every home with readers; those sent again in pieces that fit queues.
fn deliver(
    cx: &mut ShardContext,
    app: &AppDocuments,
    mut after: u64,
    through: u64,
    records: Vec<Arc<Record>>,
    is_repeat: bool,
) {
    let layout = cx.settings.session.ten_byte_layout;
    let mut records = records.into_iter().peekable();
    while after < through {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while let Some(record) = records.next_if(|_| bytes < REPEAT_BYTES) {
            bytes += record.bytes();
            piece.push(record);
        }
        let last = piece.last().map_or(through, |record| record.position);
        let last = if records.peek().is_none() { through } else { last };
        let batch = DocumentBatch::new(after, last, piece, layout);
        let batch = Arc::new(if is_repeat { batch.repeated() } else { batch });
        for &home in &app.listeners {
            app.send(cx, home, DocumentEvent::Batch(Arc::clone(&batch)));
        }
        after = last;
    }
}

fn count(cx: &mut ShardContext, outcomes: &[Pushed]) {
    for outcome in outcomes {
        match outcome {
            Pushed::Applied => cx.counters.documents_pushed += 1,
            Pushed::Duplicate => cx.counters.documents_resent += 1,
            Pushed::Fenced => cx.counters.ignore(Ignored::NothingToDo),
            Pushed::Later => cx.counters.ignore(Ignored::DocumentsFull),
        }
    }
}

fn push_of(replica: Option<Replica>, push: PushRequest) -> (Push, Receipt) {
    let Replica { device, epoch } = replica.unwrap_or(Replica { device: 0, epoch: 0 });
    let PushRequest { engine, collection, number, contents, receipt } = push;
    (Push { device, epoch, number, engine, collection, contents }, receipt)
}

/// Everything that waits for the store is put off; what was given to it may be on disk or not. The
/// next request opens the log again.
fn documents_failed(cx: &mut ShardContext, app: &mut AppDocuments) {
    app.log = LogState::Closed;
    app.documents = Documents::default().inherit(std::mem::take(&mut app.documents));
    (app.storing_bytes, app.events_bytes, app.waiting_bytes) = (0, 0, 0);
    app.is_folding = false;
    app.pause_ms = (2 * app.pause_ms).clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
    app.retry_ms = cx.now.mono_ms + app.pause_ms;
    let writes = std::mem::take(&mut app.writes);
    let events = writes.into_iter().flat_map(|write| write.events);
    let events: Vec<_> = events.chain(std::mem::take(&mut app.events)).collect();
    for (to, event) in events {
        let event = match event {
            DocumentEvent::Answer {
                conn,
                answer: DocumentAnswer::Pushed { receipt, outcomes },
            } => {
                cx.counters.ignore(Ignored::DocumentsFull);
                let outcomes = vec![Pushed::Later; outcomes.len()];
                DocumentEvent::Answer { conn, answer: DocumentAnswer::Pushed { receipt, outcomes } }
            }
            event => event,
        };
        app.send(cx, to, event);
    }
    for (from, command) in std::mem::take(&mut app.waiting) {
        refuse(cx, app, from, command);
    }
}

/// Answers a request that cannot be carried out now.
fn refuse(cx: &mut ShardContext, app: &mut AppDocuments, to: ShardId, command: DocumentCommand) {
    let event = match command {
        DocumentCommand::Greet { conn, number, .. } => {
            DocumentEvent::Greeted { conn, number, is_fork: false }
        }
        DocumentCommand::Push { conn, replica, push } => {
            cx.counters.ignore(Ignored::DocumentsFull);
            let PushRequest { engine, collection, number, contents, receipt } = *push;
            if let Some(Replica { device, .. }) = replica.filter(|_| number != 0) {
                app.documents.put_off(device, engine, &collection, number);
            }
            let outcomes = vec![Pushed::Later; contents.len()];
            DocumentEvent::Answer { conn, answer: DocumentAnswer::Pushed { receipt, outcomes } }
        }
        DocumentCommand::Barrier { conn, timestamp_ms } => {
            DocumentEvent::Answer { conn, answer: DocumentAnswer::Barrier { timestamp_ms } }
        }
        DocumentCommand::Read { conn, number, read } => {
            let page = Box::new(unread(&read));
            DocumentEvent::Page { conn, number, page }
        }
        DocumentCommand::CatchUp { conn, array, .. } => {
            let answer = DocumentAnswer::ArrayOps { array, ops: Vec::new() };
            DocumentEvent::Answer { conn, answer }
        }
        DocumentCommand::Listen | DocumentCommand::Unlisten => return,
    };
    app.send(cx, to, event);
}

/// Nothing, and not the end: the reader asks again later.
fn unread(read: &Read) -> Page {
    let schemas_through = read.schemas_through.unwrap_or_default();
    Page { next: read.after, schemas_through, ..Page::default() }
}
