//! What one session has received of the documents of its app, and what it is to be sent next.

use std::collections::VecDeque;
use std::sync::Arc;

use super::connection::Connection;
use super::outgoing::Outgoing;
use super::write_order::Due;
use crate::counters::Dropped;
use crate::ids::ConnId;
use crate::relay::{Page, QUIET_MS, Read, Record};
use crate::session::{DocumentBatch, Replica, may_read};
use crate::shard::context::ShardContext;
use crate::shard::timers::Timer;

/// Bytes of records in a page, about.
const PAGE_BYTES: usize = 256 * 1024;

/// Replays that a session may wait for.
const REPLAYS_MAX: usize = 16;

/// What a reader was sent is sent again once instead of several times when it is more than this.
const REPEATED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a session has received of the documents of its app.
#[derive(Debug)]
pub struct Reader {
    pub app: Arc<str>,
    pub kind: ReaderKind,
    /// Shapes and their collections.
    pub shapes: Vec<(Arc<str>, Arc<str>)>,
    /// Where the next page of the log begins: the cursor.
    read: Read,
    /// There is more in the log.
    is_behind: bool,
    /// Parts of the log that are to be sent again, after what is new.
    replays: VecDeque<Replay>,
    /// The page that was asked for.
    awaited: Option<Awaited>,
    pages: u32,
    page_bytes: usize,
    quiet: Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderKind {
    /// It receives all collections but what it has pushed.
    Device(Replica),
    /// It may write, and receives what it subscribes to: a copy of a device, or one whose token
    /// covers no reading.
    Writer(Replica),
    /// A session without a device: it receives what it subscribes to.
    Viewer,
}

impl ReaderKind {
    pub fn replica(self) -> Option<Replica> {
        match self {
            ReaderKind::Device(replica) | ReaderKind::Writer(replica) => Some(replica),
            ReaderKind::Viewer => None,
        }
    }
}

/// A page that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    number: u32,
    is_replay: bool,
}

#[derive(Debug)]
struct Replay {
    read: Read,
    through: u64,
    /// The shape whose (empty) snapshot comes first.
    snapshot: Option<Arc<str>>,
    /// The client has asked: including what it has pushed.
    is_asked_for: bool,
}

/// What was sent lately, and how often again.
#[derive(Debug, Default)]
struct Quiet {
    /// Up to where everything was sent again after each of the pauses.
    done: [u64; QUIET_MS.len()],
    /// When something new was last sent; `None` when all was sent often enough.
    sent_ms: Option<u64>,
    /// How many of the pauses are over since.
    pauses: usize,
    /// Bytes of what was sent since everything was sent often enough.
    bytes: usize,
    is_timed: bool,
}

impl Reader {
    pub fn new(app: Arc<str>, kind: ReaderKind) -> Self {
        // What is in the log already is asked for by shape, unless all of it is received.
        let after = if matches!(kind, ReaderKind::Device(_)) { 0 } else { u64::MAX };
        Reader {
            app,
            kind,
            shapes: Vec::new(),
            read: Read { after, bytes_max: PAGE_BYTES, ..Read::default() },
            is_behind: true,
            replays: VecDeque::new(),
            awaited: None,
            pages: 0,
            page_bytes: 0,
            quiet: Quiet::default(),
        }
    }

    fn shape_of(&self, collection: &str) -> Option<&str> {
        let shape = self.shapes.iter().find(|(_, shown)| **shown == *collection);
        shape.map(|(shape, _)| &**shape)
    }

    /// Whether it receives a record; the token decides as well.
    fn wants(&self, record: &Record) -> bool {
        let is_own = self.kind.replica().is_some_and(|replica| replica.device == record.author);
        let is_device = matches!(self.kind, ReaderKind::Device(_));
        !is_own && (is_device || self.shape_of(&record.collection).is_some())
    }

    /// Something is to be read for it.
    pub fn is_waiting(&self) -> bool {
        self.is_behind || !self.replays.is_empty()
    }

    /// The next page to ask for, with its number; `None` while one is awaited.
    pub fn next_read(&mut self) -> Option<(u32, Read)> {
        if self.awaited.is_some() {
            return None;
        }
        let (read, is_replay) = match self.replays.front() {
            _ if self.is_behind => (self.read.clone(), false),
            replay => (replay?.read.clone(), true),
        };
        self.pages = self.pages.wrapping_add(1);
        self.awaited = Some(Awaited { number: self.pages, is_replay });
        Some((self.pages, read))
    }

    /// The page of this number has arrived; `None` if it is not awaited.
    pub fn take_awaited(&mut self, number: u32) -> Option<Awaited> {
        self.awaited.take_if(|awaited| awaited.number == number)
    }

    /// A page was queued, as so many bytes of records.
    pub fn note_page(&mut self, now_ms: u64, awaited: Awaited, page: &Page, bytes: usize) {
        let advance = |read: &mut Read| {
            (read.after, read.schemas_through) = (page.next, Some(page.schemas_through));
            read.schemas_sent = page.schemas_sent;
        };
        self.page_bytes = bytes;
        if !awaited.is_replay {
            let is_from_start = self.read.after != u64::MAX;
            advance(&mut self.read);
            self.is_behind = !page.done;
            if !is_from_start {
                self.quiet.done = [page.next; QUIET_MS.len()];
            } else if bytes > 0 {
                self.note_sent(now_ms, bytes);
            }
            return;
        }
        let Some(replay) = self.replays.front_mut() else { return };
        advance(&mut replay.read);
        replay.snapshot = None;
        let is_asked_for = replay.is_asked_for;
        if page.done || page.next >= replay.through {
            self.replays.pop_front();
        }
        if is_asked_for && matches!(self.kind, ReaderKind::Device(_)) && bytes > 0 {
            // A device that has asked has lost something.
            self.quiet.done = [0; QUIET_MS.len()];
            self.note_sent(now_ms, bytes);
        }
    }

    fn note_sent(&mut self, now_ms: u64, bytes: usize) {
        self.quiet.bytes += bytes;
        (self.quiet.sent_ms, self.quiet.pauses) = (Some(now_ms), 0);
    }

    /// Bytes of its last page, which may not have been written yet.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Adds what the client has asked to be sent again; false when too much waits.
    pub fn replay(&mut self, snapshot: Option<Arc<str>>, collection: Option<Arc<str>>) -> bool {
        let read = Read { collection, bytes_max: PAGE_BYTES, ..Read::default() };
        let has_room = self.replays.len() < REPLAYS_MAX;
        if has_room {
            let (through, is_asked_for) = (u64::MAX, true);
            self.replays.push_back(Replay { read, through, snapshot, is_asked_for });
        }
        has_room
    }

    /// When it is next sent something again.
    pub fn quiet_due_ms(&self) -> Option<u64> {
        self.quiet.sent_ms.map(|sent_ms| sent_ms + QUIET_MS[self.quiet.pauses])
    }

    /// Its timer has fired: when it has been quiet for long enough, what was not sent again after
    /// such a pause is to be.
    pub fn note_quiet(&mut self, now_ms: u64) {
        self.quiet.is_timed = false;
        let is_due = self.quiet_due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        if !is_due || self.is_waiting() {
            return;
        }
        let (through, snapshot) = (self.read.after, None);
        let after = std::mem::replace(&mut self.quiet.done[self.quiet.pauses], through);
        let schemas_sent = after;
        let read = Read { after, schemas_sent, bytes_max: PAGE_BYTES, ..Read::default() };
        self.replays.push_back(Replay { read, through, snapshot, is_asked_for: false });
        self.quiet.pauses += 1;
        if self.quiet.bytes > REPEATED_BYTES_MAX {
            self.quiet.done = [through; QUIET_MS.len()];
            self.quiet.pauses = QUIET_MS.len();
        }
        if self.quiet.pauses == QUIET_MS.len() {
            (self.quiet.sent_ms, self.quiet.pauses, self.quiet.bytes) = (None, 0, 0);
        }
    }
}

/// The reader of a connection.
pub fn reader_of(conn: &mut Connection) -> Option<&mut Reader> {
    conn.cold()?;
    conn.cold_mut().reader.as_deref_mut()
}

/// Without effect while a timer is set.
pub fn set_replay_timer(cx: &mut ShardContext, id: ConnId, conn: &mut Connection, due_ms: u64) {
    let Some(reader) = reader_of(conn) else { return };
    if !std::mem::replace(&mut reader.quiet.is_timed, true) {
        cx.timers.set(due_ms.max(cx.now.mono_ms + 1), Timer::Replay { conn: id });
    }
}

/// Appends the records of a page that the session is to receive: schemas, the snapshot of a shape,
/// then the rest. Returns how many.
pub fn append_page(conn: &Connection, awaited: Awaited, page: &Page, out: &mut Vec<u8>) -> u64 {
    let session = conn.session();
    let reader = conn.cold().and_then(|cold| cold.reader.as_deref());
    let (Some(reader), Some(principal)) = (reader, session.principal()) else { return 0 };
    let mut records = 0;
    let replay = reader.replays.front().filter(|_| awaited.is_replay);
    let is_asked_for = replay.is_some_and(|replay| replay.is_asked_for);
    let is_for = |record: &&Arc<Record>| {
        (is_asked_for || reader.wants(record)) && may_read(principal, &record.collection)
    };
    for record in page.schemas.iter().filter(is_for) {
        session.append_record(record, None, out);
        records += 1;
    }
    if let Some(shape) = replay.and_then(|replay| replay.snapshot.as_ref()) {
        session.append_shape_snapshot(shape, out);
    }
    for record in page.records.iter().filter(is_for) {
        session.append_record(record, reader.shape_of(&record.collection), out);
        records += 1;
    }
    records
}

/// Delivers a batch to a reader, or leaves it to be read from the log. True if that can begin at
/// once: nothing waits to be written.
pub fn deliver_batch(
    cx: &mut ShardContext,
    outgoing: &mut Outgoing,
    id: ConnId,
    connection: &mut Connection,
    batch: &DocumentBatch,
) -> bool {
    let Some(reader) = reader_of(connection) else { return false };
    let cursor = reader.read.after;
    let is_current = !reader.is_behind && cursor != u64::MAX;
    if batch.is_repeat {
        let is_known = is_current && cursor >= batch.through;
        if is_known && queue_batch(cx, outgoing, id, connection, batch).is_none() {
            cx.counters.drop_many(Dropped::DocumentSlowConsumer, batch.records.len() as u32);
        }
        return false;
    }
    if is_current && cursor >= batch.through {
        return false;
    }
    let queued = match is_current && cursor == batch.after {
        true => queue_batch(cx, outgoing, id, connection, batch),
        false => None,
    };
    let is_idle = connection.queue.is_empty();
    let Some(reader) = reader_of(connection) else { return false };
    let Some(bytes) = queued else {
        reader.is_behind = true;
        connection.flags.stale = true;
        return is_idle;
    };
    reader.read.after = batch.through;
    if bytes > 0 {
        reader.note_sent(cx.now.mono_ms, bytes);
        set_replay_timer(cx, id, connection, cx.now.mono_ms + QUIET_MS[0]);
    }
    false
}

/// Queues the records of a batch that a reader is to receive. Returns their bytes; `None` without
/// room.
fn queue_batch(
    cx: &mut ShardContext,
    outgoing: &mut Outgoing,
    id: ConnId,
    connection: &mut Connection,
    batch: &DocumentBatch,
) -> Option<usize> {
    let most = cx.limits().send_queue_bytes_max;
    let encoded = batch.encoded(connection.framing());
    let session = connection.session();
    let reader = connection.cold().and_then(|cold| cold.reader.as_deref())?;
    let principal = session.principal()?;
    let is_for = |record: &Record| reader.wants(record) && may_read(principal, &record.collection);
    let is_whole = reader.shapes.is_empty() && batch.records.iter().all(|record| is_for(record));
    let mut own = Vec::new();
    let mut records = batch.records.len() as u64;
    if !is_whole {
        records = 0;
        for (at, record) in batch.records.iter().enumerate().filter(|(_, record)| is_for(record)) {
            records += 1;
            match reader.shape_of(&record.collection) {
                None => own.extend_from_slice(encoded.frame(at)),
                shape => session.append_record(record, shape, &mut own),
            }
        }
    }
    let len = if is_whole { encoded.bytes.len() } else { own.len() };
    if len == 0 {
        return Some(0);
    }
    if !connection.queue.has_room(len, most) {
        return None;
    }
    match (is_whole, connection.flags.blocked) {
        (true, false) => outgoing.push_shared(id, connection, &encoded.bytes),
        (true, true) => connection.queue.push_copy(&encoded.bytes),
        (false, _) => {
            connection.queue.push_copy(&own);
            outgoing.mark_due(id, connection, Due::Delivery);
        }
    }
    cx.counters.documents_delivered += records;
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that has read everything up to a position.
    fn reader(through: u64, bytes: usize) -> Reader {
        let kind = ReaderKind::Device(Replica { device: 7, epoch: 1 });
        let mut reader = Reader::new("demo".into(), kind);
        read(&mut reader, 0, through, bytes);
        reader
    }

    /// Asks for a page and gets it.
    fn read(reader: &mut Reader, now_ms: u64, through: u64, bytes: usize) -> u64 {
        let Some((number, read)) = reader.next_read() else { panic!("nothing to read") };
        let Some(awaited) = reader.take_awaited(number) else { panic!("a page") };
        let page = Page { next: through, done: true, ..Page::default() };
        reader.note_page(now_ms, awaited, &page, bytes);
        read.after
    }

    /// Something new is sent.
    fn send(reader: &mut Reader, now_ms: u64) {
        reader.read.after += 1;
        reader.note_sent(now_ms, 100);
    }

    /// What is sent again until a time: when, and from where.
    fn replays(reader: &mut Reader, until_ms: u64) -> Vec<(u64, u64)> {
        let mut replays = Vec::new();
        while let Some(due_ms) = reader.quiet_due_ms().filter(|due_ms| *due_ms < until_ms) {
            reader.note_quiet(due_ms);
            let through = reader.read.after;
            replays.push((due_ms, read(reader, due_ms, through, 0)));
        }
        replays
    }

    #[test]
    fn all_is_sent_again_after_each_pause() {
        let mut reader = reader(10, 1000);
        let all: Vec<_> = QUIET_MS.iter().map(|pause_ms| (*pause_ms, 0)).collect();
        assert_eq!(replays(&mut reader, 1_000_000), all);
        assert_eq!(reader.quiet_due_ms(), None);
    }

    #[test]
    fn with_something_new_every_now_and_then_each_record_is_sent_again_once_per_pause() {
        let mut reader = reader(10, 1000);
        let mut replayed = Vec::new();
        for at in 1..=5 {
            replayed.extend(replays(&mut reader, 3000 * at));
            send(&mut reader, 3000 * at);
        }
        let short: Vec<u64> = replayed.iter().map(|(_, after)| *after).collect();
        assert_eq!(short, [0, 0, 10, 10, 11, 11, 12, 12, 13, 13]);
        let rest = replays(&mut reader, 1_000_000);
        let rest: Vec<u64> = rest.into_iter().map(|(_, after)| after).collect();
        assert_eq!(rest, [14, 14, 0, 0], "the long pauses, for all of it");
    }

    #[test]
    fn very_much_is_sent_again_once() {
        let mut reader = reader(10, REPEATED_BYTES_MAX + 1);
        assert_eq!(replays(&mut reader, 1_000_000), [(QUIET_MS[0], 0)]);
    }
}
