//! A compacted log: records in the order of their positions, of each key only the newest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::fold::Fold;
use super::record::{Content, Key, Record};

#[derive(Debug, Default)]
pub struct Log {
    records: BTreeMap<u64, Arc<Record>>,
    newest: HashMap<(Arc<str>, Key), u64>,
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
    /// Schemas up to this position were sent before all records; `None` before the first page.
    pub schemas_through: Option<u64>,
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
    /// the one that it replaces.
    pub fn insert(&mut self, record: Record) -> Option<u64> {
        let (position, key) = (record.position, record.key());
        self.head = self.head.max(position);
        if let Content::Row { row: Some(_), expires_wall_ms, .. } = record.content
            && expires_wall_ms > 0
        {
            self.expiring.insert((expires_wall_ms, position));
        }
        let replaced =
            key.and_then(|key| self.newest.insert((Arc::clone(&record.collection), key), position));
        self.bytes += record.bytes() as u64;
        if matches!(record.content, Content::Delta { .. }) {
            let deltas = self.deltas.entry(Arc::clone(&record.collection)).or_default();
            (deltas.count, deltas.bytes) = (deltas.count + 1, deltas.bytes + record.bytes());
        }
        self.records.insert(position, Arc::new(record));
        if let Some(replaced) = replaced {
            self.remove(replaced);
        }
        replaced
    }

    fn remove(&mut self, position: u64) {
        let Some(record) = self.records.remove(&position) else { return };
        self.bytes -= record.bytes() as u64;
        match record.content {
            Content::Row { expires_wall_ms, .. } => {
                self.expiring.remove(&(expires_wall_ms, position));
            }
            Content::Delta { .. } => {
                if let Some(deltas) = self.deltas.get_mut(&record.collection) {
                    deltas.count -= 1;
                    deltas.bytes -= record.bytes();
                }
            }
            _ => {}
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
        let is_delta = |record: &&Arc<Record>| {
            record.collection == collection && matches!(record.content, Content::Delta { .. })
        };
        let records = self.records.range(..=through).map(|(_, record)| record);
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

    /// Array ops after a clock, in the order of their clocks.
    pub fn array_ops(&self, array: &str, after: &[u8; 18]) -> Vec<Arc<Record>> {
        let is_wanted = |record: &&Arc<Record>| match &record.content {
            Content::ArrayOp { clock, .. } => &*record.collection == array && clock > after,
            _ => false,
        };
        let mut ops: Vec<_> = self.records.values().filter(is_wanted).cloned().collect();
        ops.sort_by_key(|record| match &record.content {
            Content::ArrayOp { clock, .. } => *clock,
            _ => [0; 18],
        });
        ops
    }

    /// The next page for a reader. `through`: what is behind it is not shown to anybody yet.
    pub fn page(&self, read: &Read, through: u64) -> Page {
        let is_wanted = |record: &Record| {
            read.collection.as_ref().is_none_or(|wanted| *wanted == record.collection)
        };
        let schemas_through = read.schemas_through.unwrap_or(through);
        let mut page = Page { schemas_through, done: true, next: through, ..Page::default() };
        if read.after == u64::MAX {
            return page;
        }
        if read.schemas_through.is_none() {
            page.schemas = self.schemas(through, is_wanted);
        }
        let mut left = read.bytes_max;
        for (position, record) in self.records.range(read.after.saturating_add(1)..) {
            if *position > through {
                break;
            }
            let is_sent = is_schema(record) && *position <= schemas_through;
            if is_sent || !is_wanted(record) {
                continue;
            }
            let bytes = record.bytes();
            if bytes > left && !page.records.is_empty() {
                page.done = false;
                break;
            }
            left = left.saturating_sub(bytes);
            page.next = *position;
            page.records.push(Arc::clone(record));
        }
        if page.done {
            page.next = through.max(read.after);
        }
        page
    }

    fn schemas(&self, through: u64, is_wanted: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        let positions = self.newest.iter().filter(|((_, key), _)| *key == Key::Schema);
        let mut positions: Vec<u64> = positions.map(|(_, position)| *position).collect();
        positions.sort_unstable();
        let records = positions.iter().filter(|&&position| position <= through);
        let records = records.filter_map(|position| self.records.get(position));
        records.filter(|record| is_wanted(record)).cloned().collect()
    }
}

fn is_schema(record: &Record) -> bool {
    matches!(record.content, Content::Schema { .. })
}
