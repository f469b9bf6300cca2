//! The state of the documents that one owner has.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::ids::{ChannelKey, ShardId};
use crate::relay::{Documents, Repeats};
use crate::shard::context::ShardContext;
use crate::shard::documents::{DocumentCommand, DocumentEvent};
use crate::shard::envelope::Envelope;

/// Bytes of one app that are given to the store and not known to be on disk.
pub const STORING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Requests of one app that wait for its log to be opened.
pub const WAITING_MAX: usize = 16 * 1024;

/// The documents of the apps of one owner. As many as there are apps.
#[derive(Debug, Default)]
pub struct DocumentTable {
    pub apps: Vec<AppDocuments>,
    pub slots: HashMap<Arc<str>, u32>,
    /// Apps to flush this turn; each once.
    pub dirty: Vec<u32>,
    pub openings: u64,
}

impl DocumentTable {
    /// Something is to be stored or answered this turn.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

#[derive(Debug)]
pub struct AppDocuments {
    pub key: Arc<ChannelKey>,
    pub documents: Documents,
    pub log: LogState,
    /// Everything up to here is on disk, or need not be, and was sent; `None` before the log was
    /// open for the first time.
    pub stored: Option<u64>,
    /// Requests that came before the log was open, and the bytes of pushes among them.
    pub waiting: Vec<(ShardId, DocumentCommand)>,
    pub waiting_bytes: usize,
    /// After a failure the log is not opened again before this time; how long it was waited.
    pub retry_ms: u64,
    pub pause_ms: u64,
    /// What is to be said when the pushes of this turn are stored, and its bytes.
    pub events: Vec<(ShardId, DocumentEvent)>,
    pub events_bytes: usize,
    /// What the store was given, in order.
    pub writes: VecDeque<Write>,
    pub storing_bytes: usize,
    /// Homes with readers.
    pub listeners: Vec<ShardId>,
    pub repeats: Repeats,
    /// When the timer that counts is due.
    pub timer_ms: Option<u64>,
    pub used_ms: u64,
    pub is_dirty: bool,
    /// Deltas are being folded.
    pub is_folding: bool,
    /// Bytes of the log at which it is looked at again whether deltas should be folded.
    pub fold_at_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    Closed,
    Opening(u64),
    Open(u64),
}

/// Rows that the store is writing.
#[derive(Debug)]
pub struct Write {
    pub bytes: usize,
    /// Position of the newest record in it, or before it.
    pub through: u64,
    pub events: Vec<(ShardId, DocumentEvent)>,
}

impl AppDocuments {
    pub fn new(key: Arc<ChannelKey>, log: LogState) -> Self {
        AppDocuments {
            key,
            documents: Documents::default(),
            log,
            stored: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            retry_ms: 0,
            pause_ms: 0,
            events: Vec::new(),
            events_bytes: 0,
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

    pub fn stored(&self) -> u64 {
        self.stored.unwrap_or_default()
    }

    /// Whether a request may wait for the log to be opened.
    pub fn can_wait(&self, now_ms: u64, command: &DocumentCommand) -> bool {
        let is_push = matches!(command, DocumentCommand::Push { .. });
        // Small ones are answered in order, behind the pushes before them.
        let most = if is_push { WAITING_MAX } else { 4 * WAITING_MAX };
        now_ms >= self.retry_ms
            && self.waiting.len() < most
            && self.waiting_bytes + bytes_of(command) <= STORING_BYTES_MAX
    }

    pub fn is_idle(&self) -> bool {
        self.listeners.is_empty()
            && self.waiting.is_empty()
            && self.events.is_empty()
            && self.writes.is_empty()
    }

    pub fn send(&self, cx: &mut ShardContext, to: ShardId, event: DocumentEvent) {
        let (app, event) = (Arc::clone(&self.key.app), Box::new(event));
        cx.outbox.send(to, Envelope::Documents { app, event });
    }
}

impl DocumentTable {
    pub fn find_or_insert(&mut self, cx: &ShardContext, key: &Arc<ChannelKey>) -> u32 {
        if let Some(&slot) = self.slots.get(&key.app) {
            return slot;
        }
        let log = match cx.settings.session.relay.is_on_disk() {
            true => LogState::Closed,
            false => LogState::Open(0),
        };
        let slot = self.apps.len() as u32;
        self.apps.push(AppDocuments::new(Arc::clone(key), log));
        self.slots.insert(Arc::clone(&key.app), slot);
        slot
    }

    pub fn mark_dirty(&mut self, slot: u32) {
        let app = &mut self.apps[slot as usize];
        if !std::mem::replace(&mut app.is_dirty, true) {
            self.dirty.push(slot);
        }
    }
}

/// Bytes that a request keeps in memory while it waits.
pub fn bytes_of(command: &DocumentCommand) -> usize {
    match command {
        DocumentCommand::Push { push, .. } => push.receipt.body.len(),
        _ => 0,
    }
}
