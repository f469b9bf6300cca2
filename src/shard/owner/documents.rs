//! The documents of the apps whose relay is on this shard. What is pushed in a turn is stored
//! together; it is acknowledged, and sent to others, when it is on disk.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | pushes that are being stored, above [`STORING_BYTES_MAX`] | further ones are put off | device: Gap | `ignored{documents_full}` |
//! | log of an app, above `documents.bytes_max` | pushes are put off | device: Gap | `ignored{documents_full}` |
//! | requests that wait for the log to be opened, above [`WAITING_MAX`] | pushes are put off, readers ask again | device: Gap | `ignored{documents_full}` |

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Owner;
use crate::counters::Ignored;
use crate::ids::{ChannelKey, ShardId};
use crate::policy::Durability;
use crate::relay::{CAN_FOLD, Documents, Page, Push, Pushed, Read, Record, Repeats};
use crate::session::{DocumentAnswer, DocumentBatch, PushRequest, Receipt, Replica};
use crate::shard::context::ShardContext;
use crate::shard::documents::{DocumentCommand, DocumentEvent};
use crate::shard::envelope::{Effect, Envelope};
use crate::shard::storage::{LogId, LogOf, StoreOperation, StoreOutcome, StoreRequest};
use crate::shard::timers::Timer;

/// Bytes of one app that are given to the store and not known to be on disk.
const STORING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Requests of one app that wait for its log to be opened.
const WAITING_MAX: usize = 16 * 1024;

/// Bytes of records that are sent again together.
const REPEAT_BYTES: usize = 128 * 1024;

/// The log of an app is looked at for deltas to fold when it has grown by so much.
const FOLD_EVERY_BYTES: u64 = 64 * 1024;

/// How long documents on disk stay in memory when nobody uses them.
const UNUSED_MS: u64 = 60_000;

/// The documents of the apps of one owner. As many as there are apps.
#[derive(Debug, Default)]
pub struct DocumentTable {
    apps: Vec<AppDocuments>,
    slots: HashMap<Arc<str>, u32>,
    /// Apps to flush this turn; each once.
    dirty: Vec<u32>,
    openings: u64,
}

impl DocumentTable {
    /// Something is to be stored or answered this turn.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

#[derive(Debug)]
struct AppDocuments {
    key: Arc<ChannelKey>,
    documents: Documents,
    log: LogState,
    /// Everything up to here is on disk, or need not be, and was sent; `None` before the log was
    /// open for the first time.
    stored: Option<u64>,
    /// Requests that came before the log was open.
    waiting: Vec<(ShardId, DocumentCommand)>,
    /// What is to be said when the pushes of this turn are stored.
    events: Vec<(ShardId, DocumentEvent)>,
    /// What the store was given, in order.
    writes: VecDeque<Write>,
    storing_bytes: usize,
    /// Homes with readers.
    listeners: Vec<ShardId>,
    repeats: Repeats,
    /// When the timer that counts is due.
    timer_ms: Option<u64>,
    used_ms: u64,
    is_dirty: bool,
    /// Deltas are being folded.
    is_folding: bool,
    /// Bytes of the log at which it is looked at again whether deltas should be folded.
    fold_at_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogState {
    Closed,
    Opening(u64),
    Open(u64),
}

/// Rows that the store is writing.
#[derive(Debug)]
struct Write {
    bytes: usize,
    /// Position of the newest record in it, or before it.
    through: u64,
    events: Vec<(ShardId, DocumentEvent)>,
}

impl AppDocuments {
    fn new(key: Arc<ChannelKey>, log: LogState) -> Self {
        AppDocuments {
            key,
            documents: Documents::default(),
            log,
            stored: None,
            waiting: Vec::new(),
            events: Vec::new(),
            writes: VecDeque::new(),
            storing_bytes: 0,
            listeners: Vec::new(),
            repeats: Repeats::default(),
            timer_ms: None,
            used_ms: 0,
            is_dirty: false,
            is_folding: false,
            fold_at_bytes: 0,
        }
    }

    fn stored(&self) -> u64 {
        self.stored.unwrap_or_default()
    }

    fn is_idle(&self) -> bool {
        self.listeners.is_empty()
            && self.waiting.is_empty()
            && self.events.is_empty()
            && self.writes.is_empty()
    }

    fn send(&self, cx: &mut ShardContext, to: ShardId, event: DocumentEvent) {
        let (app, event) = (Arc::clone(&self.key.app), Box::new(event));
        cx.outbox.send(to, Envelope::Documents { app, event });
    }
}

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
            command if app.waiting.len() < WAITING_MAX => {
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
                let is_fork = epoch != 0 && !app.documents.greet(device, epoch);
                app.send(cx, from, DocumentEvent::Greeted { conn, number, is_fork });
                self.documents.mark_dirty(slot);
            }
            DocumentCommand::Push { conn, replica, push } => {
                let (push, receipt) = push_of(replica, *push);
                let has_room = app.storing_bytes <= STORING_BYTES_MAX;
                let outcomes =
                    app.documents.push(push, if has_room { policy.bytes_max } else { 0 });
                count(cx, &outcomes);
                let answer = DocumentAnswer::Pushed { receipt, outcomes };
                app.events.push((from, DocumentEvent::Answer { conn, answer }));
                self.documents.mark_dirty(slot);
            }
            DocumentCommand::Barrier { conn, timestamp_ms } => {
                let answer = DocumentAnswer::Barrier { timestamp_ms };
                app.events.push((from, DocumentEvent::Answer { conn, answer }));
                self.documents.mark_dirty(slot);
            }
            DocumentCommand::Read { conn, number, read } => {
                let page = Box::new(app.documents.page(&read, app.stored()));
                app.send(cx, from, DocumentEvent::Page { conn, number, page });
            }
            DocumentCommand::CatchUp { conn, array, after } => {
                let stored = app.stored();
                let mut ops = app.documents.array_ops(&array, &after);
                ops.retain(|op| op.position <= stored);
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
            let bytes = app.documents.changed_bytes();
            let changes = app.documents.take_changes();
            let events = std::mem::take(&mut app.events);
            let write = Write { bytes, through: app.documents.head(), events };
            let is_on_disk = cx.settings.session.relay.durability == Durability::Disk;
            match (app.log, app.writes.back_mut()) {
                (LogState::Open(opening), _) if is_on_disk && !changes.is_empty() => {
                    app.storing_bytes += bytes;
                    app.writes.push_back(write);
                    let operation = StoreOperation::WriteRows(changes);
                    self.ask_for_documents(cx, slot, opening, operation);
                }
                (_, Some(earlier)) => earlier.events.extend(write.events),
                (_, None) => self.finish_write(cx, slot, write),
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
        if write.through > after {
            let records = app.documents.range(after, write.through);
            app.repeats.note(cx.now.mono_ms, after, write.through);
            deliver(cx, app, after, write.through, records, false);
        }
        self.fold_documents(cx, slot);
    }

    /// Has deltas folded that were sent often enough, where there are many.
    fn fold_documents(&mut self, cx: &mut ShardContext, slot: u32) {
        let app = &mut self.documents.apps[slot as usize];
        let is_on_disk = cx.settings.session.relay.durability == Durability::Disk;
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

    fn documents_opened(&mut self, cx: &mut ShardContext, log: LogId, rows: Vec<(Vec<u8>, Bytes)>) {
        let app = &mut self.documents.apps[log.slot as usize];
        match Documents::restore(rows) {
            Ok(documents) => app.documents = documents,
            // The store has checked them.
            Err(_) => return documents_failed(cx, app),
        }
        app.log = LogState::Open(log.opening);
        let through = app.documents.head();
        // After a failure there may be more on disk than was known.
        app.stored.get_or_insert(through);
        let waiting = std::mem::take(&mut app.waiting);
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
            let records = app.documents.range(after, through);
            deliver(cx, app, after, through, records, true);
        }
        if matches!(app.log, LogState::Open(_))
            && app.documents.next_expiry_wall_ms().is_some_and(|at| at <= cx.now.wall_ms)
        {
            app.documents.expire(cx.now.wall_ms);
            self.documents.mark_dirty(slot);
        }
        let is_on_disk = cx.settings.session.relay.durability == Durability::Disk;
        let app = &mut self.documents.apps[slot as usize];
        let is_unused = app.is_idle() && !app.is_dirty;
        if is_on_disk && is_unused && cx.now.mono_ms >= app.used_ms + UNUSED_MS {
            *app = AppDocuments::new(Arc::clone(&app.key), LogState::Closed);
        }
        self.schedule_documents(cx, slot);
    }

    fn schedule_documents(&mut self, cx: &mut ShardContext, slot: u32) {
        let is_on_disk = cx.settings.session.relay.durability == Durability::Disk;
        let app = &mut self.documents.apps[slot as usize];
        let (now_ms, is_open) = (cx.now.mono_ms, matches!(app.log, LogState::Open(_)));
        let expiry = app.documents.next_expiry_wall_ms().filter(|_| is_open);
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

impl DocumentTable {
    fn find_or_insert(&mut self, cx: &ShardContext, key: &Arc<ChannelKey>) -> u32 {
        if let Some(&slot) = self.slots.get(&key.app) {
            return slot;
        }
        let log = match cx.settings.session.relay.durability {
            Durability::Disk => LogState::Closed,
            Durability::None | Durability::Memory => LogState::Open(0),
        };
        let slot = self.apps.len() as u32;
        self.apps.push(AppDocuments::new(Arc::clone(key), log));
        self.slots.insert(Arc::clone(&key.app), slot);
        slot
    }

    fn mark_dirty(&mut self, slot: u32) {
        let app = &mut self.apps[slot as usize];
        if !std::mem::replace(&mut app.is_dirty, true) {
            self.dirty.push(slot);
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
    app.documents = Documents::default();
    (app.storing_bytes, app.is_folding) = (0, false);
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
fn refuse(cx: &mut ShardContext, app: &AppDocuments, to: ShardId, command: DocumentCommand) {
    let event = match command {
        DocumentCommand::Greet { conn, number, .. } => {
            DocumentEvent::Greeted { conn, number, is_fork: false }
        }
        DocumentCommand::Push { conn, push, .. } => {
            cx.counters.ignore(Ignored::DocumentsFull);
            let PushRequest { contents, receipt, .. } = *push;
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
