//! A compacted log: records in the order of their positions, of each key only the newest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::fold::Fold;
use super::record::{ArrayClock, Content, Key, Record};

#[derive(Debug, Default)]
pub struct Log {
    records: BTreeMap<u64, Arc<Record>>,
    newest: HashMap<(Arc<str>, Key), u64>,
    /// Records that were replaced, by the position of the one that replaces them. They are there
    /// until that one is on disk: readers see one of the two.
    replaced: BTreeMap<u64, u64>,
    /// Positions of records by collection, and of all schemas.
    of_collections: HashMap<Arc<str>, BTreeSet<u64>>,
    schemas: BTreeSet<u64>,
    /// Array ops by their clocks.
    ops: HashMap<Arc<str>, BTreeMap<ArrayClock, u64>>,
    /// When rows expire, and their positions.
    expiring: BTreeSet<(u64, u64)>,
    /// By collection.
    deltas: HashMap<Arc<str>, Deltas>,
    /// Position of the newest record ever.
    head: u64,
    bytes: u64,
}

/// The deltas of a collection.
#[derive(Clone, Copy, Debug, Default)]
struct Deltas {
    count: usize,
    bytes: usize,
    /// As many bytes have to be there before folding is tried again.
    fold_at: usize,
}

/// A collection with fewer deltas is not folded, nor one with fewer bytes.
const FOLD_COUNT_MIN: usize = 256;
const FOLD_BYTES_MIN: usize = 64 * 1024;

/// What a reader asks for next.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// It has all records up to this position. `u64::MAX`: it wants only what is yet to come.
    pub after: u64,
    /// Schemas up to this position come before all records; `None` before the first page.
    pub schemas_through: Option<u64>,
    /// Those up to this one were sent.
    pub schemas_sent: u64,
    /// Only this collection.
    pub collection: Option<Arc<str>>,
    /// Bytes of records, about.
    pub bytes_max: usize,
}

/// What a reader gets.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The schemas, before the records of the first page.
    pub schemas: Vec<Arc<Record>>,
    pub records: Vec<Arc<Record>>,
    /// Where the next page begins.
    pub next: u64,
    pub schemas_through: u64,
    pub schemas_sent: u64,
    /// There is no more.
    pub done: bool,
}

impl Log {
    pub fn head(&self) -> u64 {
        self.head
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a record behind all others, or where it was before a restart. Returns the position of
    /// the one that it replaces, which stays until [`Log::settle`].
    pub fn insert(&mut self, record: Record) -> Option<u64> {
        let (position, key) = (record.position, record.key());
        self.head = self.head.max(position);
        let collection = Arc::clone(&record.collection);
        let replaced =
            key.and_then(|key| self.newest.insert((Arc::clone(&collection), key), position));
        match record.content {
            Content::Row { row: Some(_), expires_wall_ms, .. } if expires_wall_ms > 0 => {
                self.expiring.insert((expires_wall_ms, position));
            }
            Content::Schema { .. } => {
                self.schemas.insert(position);
            }
            Content::ArrayOp { clock, .. } => {
                self.ops.entry(Arc::clone(&collection)).or_default().insert(clock, position);
            }
            Content::Delta { .. } => {
                let deltas = self.deltas.entry(Arc::clone(&collection)).or_default();
                (deltas.count, deltas.bytes) = (deltas.count + 1, deltas.bytes + record.bytes());
            }
            _ => {}
        }
        self.of_collections.entry(collection).or_default().insert(position);
        self.bytes += record.bytes() as u64;
        self.records.insert(position, Arc::new(record));
        if let Some(replaced) = replaced {
            self.replaced.insert(position, replaced);
            self.forget_expiry(replaced);
        }
        replaced
    }

    /// Everything up to a position is on disk: what was replaced up to there goes.
    pub fn settle(&mut self, through: u64) {
        while let Some(entry) = self.replaced.first_entry().filter(|entry| *entry.key() <= through)
        {
            let replaced = entry.remove();
            self.remove(replaced);
        }
    }

    fn forget_expiry(&mut self, position: u64) {
        if let Some(record) = self.records.get(&position)
            && let Content::Row { expires_wall_ms, .. } = record.content
        {
            self.expiring.remove(&(expires_wall_ms, position));
        }
    }

    fn remove(&mut self, position: u64) {
        self.forget_expiry(position);
        let Some(record) = self.records.remove(&position) else { return };
        self.bytes -= record.bytes() as u64;
        self.schemas.remove(&position);
        if let Some(positions) = self.of_collections.get_mut(&record.collection) {
            positions.remove(&position);
        }
        if let (Content::Delta { .. }, Some(deltas)) =
            (&record.content, self.deltas.get_mut(&record.collection))
        {
            deltas.count -= 1;
            deltas.bytes -= record.bytes();
        }
    }

    /// Deltas up to a position of a collection that has many, if there is one. They are not given
    /// again before there are twice as many bytes.
    pub fn next_fold(&mut self, through: u64) -> Option<Fold> {
        let is_due = |deltas: &Deltas| {
            deltas.count >= FOLD_COUNT_MIN && deltas.bytes >= deltas.fold_at.max(FOLD_BYTES_MIN)
        };
        let due = self.deltas.iter_mut().filter(|(_, deltas)| is_due(deltas));
        let (collection, deltas) = due.min_by(|a, b| a.0.cmp(b.0))?;
        deltas.fold_at = 2 * deltas.bytes;
        let collection = Arc::clone(collection);
        let positions = self.of_collections.get(&collection)?.range(..=through);
        let records = positions.filter_map(|position| self.records.get(position));
        let is_delta = |record: &&Arc<Record>| matches!(record.content, Content::Delta { .. });
        let records = records.filter(is_delta).cloned().collect();
        Some(Fold { collection, records })
    }

    /// Puts one record in the place of several, of which it is the last.
    pub fn replace(&mut self, positions: &[u64], record: Record) {
        positions.iter().for_each(|position| self.remove(*position));
        let (collection, folded_bytes) = (Arc::clone(&record.collection), record.bytes());
        self.insert(record);
        if let Some(deltas) = self.deltas.get_mut(&collection) {
            // Folding costs as much as there is: it is done when there is twice as much.
            deltas.fold_at = deltas.bytes + folded_bytes.max(FOLD_BYTES_MIN);
        }
    }

    /// The newest record with this key.
    pub fn newest(&self, collection: &Arc<str>, key: Key) -> Option<&Arc<Record>> {
        let position = self.newest.get(&(Arc::clone(collection), key))?;
        self.records.get(position)
    }

    /// When the next row expires, milliseconds since the Unix epoch.
    pub fn next_expiry_wall_ms(&self) -> Option<u64> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Rows that have expired.
    pub fn expired(&self, now_wall_ms: u64) -> Vec<Arc<Record>> {
        let expired = self.expiring.range(..=(now_wall_ms, u64::MAX));
        expired.filter_map(|(_, position)| self.records.get(position).cloned()).collect()
    }

    /// Records after a position, up to another one.
    pub fn range(&self, after: u64, through: u64) -> Vec<Arc<Record>> {
        if after >= through {
            return Vec::new();
        }
        self.records.range(after + 1..=through).map(|(_, record)| Arc::clone(record)).collect()
    }

    /// Array ops after a clock, in the order of their clocks, as many bytes of them. `through`:
    /// what is behind it is not shown to anybody yet.
    pub fn array_ops(
        &self,
        array: &str,
        after: &ArrayClock,
        through: u64,
        bytes_max: usize,
    ) -> Vec<Arc<Record>> {
        let Some(ops) = self.ops.get(array) else { return Vec::new() };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for position in ops.range((Bound::Excluded(*after), Bound::Unbounded)).map(|(_, at)| *at) {
            let Some(op) = self.records.get(&position).filter(|_| position <= through) else {
                continue;
            };
            bytes += op.bytes();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(Arc::clone(op));
        }
        found
    }

    /// The next page for a reader. `through`: what is behind it is not shown to anybody yet.
    pub fn page(&self, read: &Read, through: u64) -> Page {
        let schemas_through = read.schemas_through.unwrap_or(through);
        let mut page = Page {
            schemas_through,
            schemas_sent: read.schemas_sent,
            done: true,
            next: through,
            ..Page::default()
        };
        if read.after == u64::MAX {
            page.schemas_sent = schemas_through;
            return page;
        }
        let mut left = read.bytes_max;
        if !self.add_schemas(read, &mut page, &mut left) {
            (page.next, page.done) = (read.after, false);
            return page;
        }
        let from = read.after.saturating_add(1);
        let records: Box<dyn Iterator<Item = &Arc<Record>>> = match &read.collection {
            None if from > through => Box::new(std::iter::empty()),
            None => Box::new(self.records.range(from..=through).map(|(_, record)| record)),
            Some(collection) => {
                let positions = self.of_collections.get(collection);
                let positions = positions.into_iter().flat_map(move |all| all.range(from..));
                let positions = positions.take_while(move |position| **position <= through);
                Box::new(positions.filter_map(|position| self.records.get(position)))
            }
        };
        for record in records {
            if is_schema(record) && record.position <= schemas_through {
                continue;
            }
            let bytes = record.bytes();
            if bytes > left && !(page.records.is_empty() && page.schemas.is_empty()) {
                page.done = false;
                break;
            }
            left = left.saturating_sub(bytes);
            page.next = record.position;
            page.records.push(Arc::clone(record));
        }
        if page.done {
            page.next = through.max(read.after);
        } else if page.records.is_empty() {
            page.next = read.after;
        }
        page
    }

    /// Adds the schemas that come first. False when not all of them fit.
    fn add_schemas(&self, read: &Read, page: &mut Page, left: &mut usize) -> bool {
        let from = read.schemas_sent.saturating_add(1);
        if from > page.schemas_through {
            return true;
        }
        for position in self.schemas.range(from..=page.schemas_through) {
            let Some(record) = self.records.get(position) else { continue };
            let is_wanted =
                read.collection.as_ref().is_none_or(|wanted| *wanted == record.collection);
            if is_wanted {
                let bytes = record.bytes();
                if bytes > *left && !page.schemas.is_empty() {
                    return false;
                }
                *left = left.saturating_sub(bytes);
                page.schemas.push(Arc::clone(record));
            }
            page.schemas_sent = *position;
        }
        page.schemas_sent = page.schemas_through;
        true
    }
}

fn is_schema(record: &Record) -> bool {
    matches!(record.content, Content::Schema { .. })
}
