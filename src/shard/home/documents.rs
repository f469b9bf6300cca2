//! Sessions that receive documents: devices, which receive all that their token covers, and those
//! that have subscribed to shapes.
//!
//! A reader has everything up to its cursor. It reads the log in pages, the next when the last one
//! has been written; from its end on it receives the batches of the owner. One that missed a batch
//! reads on from its cursor. Everything that a reader was sent is sent again when it has been quiet
//! for a while, since devices lose some of what they receive.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | send queue over `send_queue_bytes_max`, documents | read from the log when it has been written | none | - |
//! | the same, documents that are sent again | left out | none: they are sent once more | `dropped{document,slow_consumer}` |
//! | replays that a session waits for, above [`REPLAYS_MAX`] | further ones are empty | none | `ignored{busy}` |
//! | shapes of a session, above `subscriptions_per_session_max` | further ones are empty | none | `ignored{too_many_channels}` |

use std::collections::VecDeque;
use std::sync::Arc;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use super::hook::Held;
use super::outgoing::Outgoing;
use super::write_order::Due;
use crate::counters::{Dropped, Ignored};
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnId};
use crate::relay::{Page, QUIET_MS, Read, Record};
use crate::session::{
    Arrival, DocumentAnswer, DocumentBatch, DocumentRequest, PushRequest, Replica, may_read,
};
use crate::shard::context::ShardContext;
use crate::shard::documents::{CHANNEL, DocumentCommand, DocumentEvent};
use crate::shard::envelope::Command;
use crate::shard::timers::Timer;

/// The number of requests of devices, which recognize answers by other means.
const DOCUMENT_REQUEST: u64 = 1;

/// Bytes of records in a page, about.
const PAGE_BYTES: usize = 256 * 1024;

/// Replays that a session may wait for.
const REPLAYS_MAX: usize = 16;

/// What a reader was sent is sent again once instead of several times when it is more than this.
const REPEATED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// When a page that the owner could not read is asked for again.
const RETRY_MS: u64 = 1000;

/// Homes tell the readers of an app here.
#[derive(Debug)]
pub struct Audience {
    key: Arc<ChannelKey>,
    readers: Vec<ConnId>,
}

/// What a session has received of the documents of its app.
#[derive(Debug)]
pub struct Reader {
    app: Arc<str>,
    /// `None` for a session without a device.
    replica: Option<Replica>,
    /// A device receives all collections.
    is_device: bool,
    /// Shapes and their collections.
    shapes: Vec<(Arc<str>, Arc<str>)>,
    /// Where the next page of the log begins.
    read: Read,
    /// There is more in the log.
    is_behind: bool,
    /// Parts of the log that are to be sent again, after what is new.
    replays: VecDeque<Replay>,
    /// The page that was asked for.
    awaited: Option<Awaited>,
    pages: u32,
    quiet: Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Awaited {
    number: u32,
    is_replay: bool,
}

#[derive(Debug)]
struct Replay {
    read: Read,
    through: u64,
    /// The shape whose (empty) snapshot comes first.
    snapshot: Option<Arc<str>>,
    /// Including what the device has pushed.
    with_own: bool,
}

/// What was sent since the reader was last sent everything again.
#[derive(Debug, Default)]
struct Quiet {
    /// Everything up to here was sent often enough.
    confirmed: u64,
    bytes: usize,
    /// When something new was last sent; `None` when all was sent often enough.
    sent_ms: Option<u64>,
    /// How often it was sent again since.
    times: usize,
    is_timed: bool,
}

impl Reader {
    fn new(app: Arc<str>, replica: Option<Replica>, is_device: bool) -> Self {
        // Without a device, what is in the log already is asked for by shape.
        let after = if is_device { 0 } else { u64::MAX };
        Reader {
            app,
            replica,
            is_device,
            shapes: Vec::new(),
            read: Read { after, bytes_max: PAGE_BYTES, ..Read::default() },
            is_behind: true,
            replays: VecDeque::new(),
            awaited: None,
            pages: 0,
            quiet: Quiet::default(),
        }
    }

    fn shape_of(&self, collection: &str) -> Option<&str> {
        let shape = self.shapes.iter().find(|(_, shown)| **shown == *collection);
        shape.map(|(shape, _)| &**shape)
    }

    fn is_own(&self, record: &Record) -> bool {
        self.replica.is_some_and(|replica| replica.device == record.author)
    }

    /// Whether it receives a record; the token decides as well.
    fn wants(&self, record: &Record) -> bool {
        self.is_device || self.shape_of(&record.collection).is_some()
    }

    fn is_waiting(&self) -> bool {
        self.is_behind || !self.replays.is_empty()
    }

    fn note_sent(&mut self, now_ms: u64, bytes: usize) {
        self.quiet.bytes += bytes;
        (self.quiet.sent_ms, self.quiet.times) = (Some(now_ms), 0);
    }
}

impl Home {
    /// Tells the relay of a device that greets, before `answer`.
    pub(super) fn greet_relay(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        arrival: Arrival,
        replica: Replica,
        answer: Vec<u8>,
    ) {
        let Some(app) = app_of(conn) else { return };
        let number = self.hold(conn, Held::Greeting { arrival, answer });
        let command = DocumentCommand::Greet { conn: conn.id, number, replica };
        self.ask_relay(cx, &app, command);
    }

    /// The relay knows a device, whose greeting is answered.
    fn relay_greeted(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        number: u64,
        is_fork: bool,
    ) {
        let Some(held) = self.take_held(conn, number) else { return };
        let Held::Greeting { arrival: arrival @ Arrival::Replica(replica), answer } = held else {
            debug_assert!(false, "{held:?} does not wait for the relay");
            return;
        };
        self.reply = answer;
        if is_fork {
            self.reply.clear();
            conn.session().append_fork(replica, &mut self.reply);
        }
        self.send_reply(cx, conn);
        self.greeted(cx, conn, arrival);
        // A copy is to name itself anew, and to come back.
        self.begin_reading(cx, conn, Some(replica), !is_fork);
        self.take_held_input(cx, conn);
    }

    /// Makes a reader of a session.
    pub(super) fn begin_reading(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        replica: Option<Replica>,
        is_device: bool,
    ) {
        self.stop_reading(cx, conn);
        let Some(app) = app_of(conn).filter(|_| conn.is_open()) else { return };
        let reader = Reader::new(Arc::clone(&app), replica, is_device);
        conn.cold_mut().reader = Some(Box::new(reader));
        let is_first = match self.audiences.get_mut(&app) {
            Some(audience) => {
                audience.readers.push(conn.id);
                false
            }
            None => {
                let key = Arc::new(cx.settings.router.key(&app, CHANNEL));
                let readers = vec![conn.id];
                self.audiences.insert(Arc::clone(&app), Audience { key, readers });
                true
            }
        };
        if is_first {
            self.ask_relay(cx, &app, DocumentCommand::Listen);
        }
        conn.flags.stale = true;
        self.refresh_stale(cx, conn);
    }

    /// The session ends, or moves. Returns what its device is.
    pub(super) fn stop_reading(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) -> Option<(Option<Replica>, bool)> {
        let reader = conn.take_cold(|cold| cold.reader.take()).flatten()?;
        if let Some(audience) = self.audiences.get_mut(&reader.app) {
            audience.readers.retain(|reader| *reader != conn.id);
            if audience.readers.is_empty() {
                self.ask_relay(cx, &reader.app, DocumentCommand::Unlisten);
                self.audiences.remove(&reader.app);
            }
        }
        Some((reader.replica, reader.is_device))
    }

    fn ask_relay(&mut self, cx: &mut ShardContext, app: &Arc<str>, command: DocumentCommand) {
        let key = match self.audiences.get(app) {
            Some(audience) => Arc::clone(&audience.key),
            None => Arc::new(cx.settings.router.key(app, CHANNEL)),
        };
        let owner = Home::owner_of(cx, &key);
        cx.command(owner, key, Command::Documents(Box::new(command)));
    }

    /// Carries out what a session asks of the relay.
    pub(super) fn handle_documents(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        request: DocumentRequest,
    ) {
        let Some(app) = app_of(conn) else { return };
        let id = conn.id;
        match request {
            DocumentRequest::Push(push) => self.push(cx, conn, &app, push),
            DocumentRequest::Barrier { timestamp_ms } => {
                self.begin_answered(conn);
                self.ask_relay(cx, &app, DocumentCommand::Barrier { conn: id, timestamp_ms });
            }
            DocumentRequest::CatchUp { array, after } => {
                self.begin_answered(conn);
                self.ask_relay(cx, &app, DocumentCommand::CatchUp { conn: id, array, after });
            }
            DocumentRequest::Subscribe { shape, collection } => {
                self.subscribe_shape(cx, conn, shape, collection);
            }
            DocumentRequest::Unsubscribe { shape } => {
                if let Some(reader) = reader_of(conn) {
                    reader.shapes.retain(|(known, _)| *known != shape);
                }
            }
            DocumentRequest::Resync { shape, collection } => {
                let known = reader_of(conn).and_then(|reader| {
                    let shape = reader.shapes.iter().find(|(known, _)| *known == shape);
                    shape.map(|(_, collection)| Arc::clone(collection))
                });
                self.replay(cx, conn, Some(shape), collection.or(known));
            }
        }
    }

    /// A request is answered later; the connection stays here until then.
    fn begin_answered(&mut self, conn: &mut ActiveConnection) {
        conn.flags.placement_final = true;
        conn.warm.unanswered += 1;
        self.drain.requested();
    }

    fn push(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        app: &Arc<str>,
        push: Box<PushRequest>,
    ) {
        self.begin_answered(conn);
        let replica = reader_of(conn).and_then(|reader| reader.replica);
        self.ask_relay(cx, app, DocumentCommand::Push { conn: conn.id, replica, push });
    }

    fn subscribe_shape(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        shape: Arc<str>,
        collection: Arc<str>,
    ) {
        if reader_of(conn).is_none() {
            self.begin_reading(cx, conn, None, false);
        }
        let most = cx.limits().subscriptions_per_session_max;
        let Some(reader) = reader_of(conn) else { return };
        reader.shapes.retain(|(known, _)| *known != shape);
        if reader.shapes.len() >= most {
            cx.counters.ignore(Ignored::Refused(Reject::TooManyChannels));
            return self.send_shape_snapshot(cx, conn, &shape);
        }
        conn.flags.placement_final = true;
        let Some(reader) = reader_of(conn) else { return };
        reader.shapes.push((Arc::clone(&shape), Arc::clone(&collection)));
        self.replay(cx, conn, Some(shape), Some(collection));
    }

    fn send_shape_snapshot(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        shape: &str,
    ) {
        self.reply.clear();
        conn.session().append_shape_snapshot(shape, &mut self.reply);
        self.send_reply(cx, conn);
    }

    /// Sends a collection again, or everything, what the session has pushed included.
    fn replay(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        snapshot: Option<Arc<str>>,
        collection: Option<Arc<str>>,
    ) {
        if reader_of(conn).is_none() {
            self.begin_reading(cx, conn, None, false);
        }
        let Some(reader) = reader_of(conn) else { return };
        if reader.replays.len() >= REPLAYS_MAX {
            cx.counters.ignore(Ignored::Refused(Reject::Busy));
            if let Some(shape) = snapshot {
                self.send_shape_snapshot(cx, conn, &shape);
            }
            return;
        }
        let read = Read { collection, bytes_max: PAGE_BYTES, ..Read::default() };
        reader.replays.push_back(Replay { read, through: u64::MAX, snapshot, with_own: true });
        conn.flags.stale = true;
        self.refresh_stale(cx, conn);
    }

    /// Asks for the next page of a reader that has room for it.
    pub(super) fn read_documents(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let (id, is_empty) = (conn.id, conn.queue.is_empty());
        let Some(reader) = reader_of(conn) else { return };
        if !reader.is_waiting() {
            return;
        }
        let next = match reader.replays.front() {
            _ if reader.awaited.is_some() || !is_empty => None,
            _ if reader.is_behind => Some((reader.read.clone(), false)),
            replay => replay.map(|replay| (replay.read.clone(), true)),
        };
        let mut asked = None;
        if let Some((read, is_replay)) = next {
            reader.pages = reader.pages.wrapping_add(1);
            let number = reader.pages;
            reader.awaited = Some(Awaited { number, is_replay });
            let read = Box::new(read);
            let command = DocumentCommand::Read { conn: id, number, read };
            asked = Some((Arc::clone(&reader.app), command));
        }
        conn.flags.stale = true;
        if let Some((app, command)) = asked {
            self.ask_relay(cx, &app, command);
        }
    }

    pub(super) fn handle_document_event(
        &mut self,
        cx: &mut ShardContext,
        app: &Arc<str>,
        event: DocumentEvent,
    ) {
        match event {
            DocumentEvent::Greeted { conn, number, is_fork } => {
                self.with(cx, conn, |home, cx, conn| {
                    home.relay_greeted(cx, conn, number, is_fork);
                });
            }
            DocumentEvent::Answer { conn, answer } => {
                self.with(cx, conn, |home, cx, conn| home.answer_documents(cx, conn, &answer));
            }
            DocumentEvent::Page { conn, number, page } => {
                self.with(cx, conn, |home, cx, conn| home.take_page(cx, conn, number, *page));
            }
            DocumentEvent::Batch(batch) => self.deliver_documents(cx, app, &batch),
        }
    }

    fn answer_documents(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        answer: &DocumentAnswer,
    ) {
        if !conn.is_open() {
            return;
        }
        self.reply.clear();
        conn.session().answer_documents(cx.now, answer, &mut self.reply);
        self.finish_answer(cx, conn, DOCUMENT_REQUEST);
    }

    fn take_page(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        number: u32,
        page: Page,
    ) {
        let Some(reader) = reader_of(conn) else { return };
        let Some(awaited) = reader.awaited.take_if(|awaited| awaited.number == number) else {
            return;
        };
        if !page.done && page.records.is_empty() && page.schemas.is_empty() {
            set_replay_timer(cx, conn, cx.now.mono_ms + RETRY_MS);
            return;
        }
        let mut out = Vec::new();
        append_page(conn, awaited, &page, &mut out);
        let Some(reader) = reader_of(conn) else { return };
        let advance = |read: &mut Read| {
            (read.after, read.schemas_through) = (page.next, Some(page.schemas_through));
        };
        if !awaited.is_replay {
            let is_from_start = reader.read.after != u64::MAX;
            advance(&mut reader.read);
            reader.is_behind = !page.done;
            match (is_from_start, out.is_empty()) {
                (false, _) => reader.quiet.confirmed = page.next,
                (true, false) => reader.note_sent(cx.now.mono_ms, out.len()),
                (true, true) => {}
            }
        } else if let Some(replay) = reader.replays.front_mut() {
            advance(&mut replay.read);
            replay.snapshot = None;
            if page.done || page.next >= replay.through {
                reader.replays.pop_front();
            }
        }
        let (is_waiting, quiet_ms) = (reader.is_waiting(), reader.quiet.sent_ms);
        conn.flags.stale |= is_waiting;
        if let Some(sent_ms) = quiet_ms {
            set_replay_timer(cx, conn, sent_ms + QUIET_MS[0]);
        }
        if out.is_empty() {
            self.refresh_stale(cx, conn);
        } else {
            conn.queue.push_own(out);
            self.outgoing.mark_due(conn.id, conn, Due::Delivery);
        }
    }

    /// Delivers a batch to every reader here that has what comes before it. The others read it from
    /// the log.
    fn deliver_documents(
        &mut self,
        cx: &mut ShardContext,
        app: &Arc<str>,
        batch: &Arc<DocumentBatch>,
    ) {
        let Some(audience) = self.audiences.get(app) else { return };
        let Home { connections, outgoing, .. } = self;
        let mut idle = Vec::new();
        for &id in &audience.readers {
            let Some(connection) = connections.get_mut(id) else { continue };
            if connection.is_open() && deliver_batch(cx, outgoing, id, connection, batch) {
                idle.push(id);
            }
        }
        for id in idle {
            self.with(cx, id, |home, cx, conn| home.refresh_stale(cx, conn));
        }
    }

    /// A reader has been sent nothing new for a while: it is sent all that is not confirmed again.
    pub(super) fn replay_due(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let now_ms = cx.now.mono_ms;
        let Some(reader) = reader_of(conn) else { return };
        reader.quiet.is_timed = false;
        let cursor = reader.read.after;
        let mut next_ms = None;
        if let Some(sent_ms) = reader.quiet.sent_ms {
            let due_ms = sent_ms + QUIET_MS[reader.quiet.times];
            if now_ms >= due_ms && !reader.is_waiting() {
                let read = Read {
                    after: reader.quiet.confirmed,
                    bytes_max: PAGE_BYTES,
                    ..Read::default()
                };
                let (snapshot, with_own) = (None, false);
                reader.replays.push_back(Replay { read, through: cursor, snapshot, with_own });
                let is_large = reader.quiet.bytes > REPEATED_BYTES_MAX;
                reader.quiet.times = if is_large { QUIET_MS.len() } else { reader.quiet.times + 1 };
                if reader.quiet.times == QUIET_MS.len() {
                    reader.quiet = Quiet { confirmed: cursor, ..Quiet::default() };
                }
            }
            let times = reader.quiet.times;
            next_ms = reader.quiet.sent_ms.map(|sent_ms| sent_ms + QUIET_MS[times]);
        }
        if let Some(next_ms) = next_ms {
            set_replay_timer(cx, conn, next_ms.max(now_ms + QUIET_MS[0]));
        }
        conn.flags.stale = true;
        self.refresh_stale(cx, conn);
    }
}

fn app_of(conn: &Connection) -> Option<Arc<str>> {
    conn.session().principal().map(|principal| Arc::clone(&principal.grant.app))
}

fn reader_of(conn: &mut Connection) -> Option<&mut Reader> {
    conn.cold()?;
    conn.cold_mut().reader.as_deref_mut()
}

fn set_replay_timer(cx: &mut ShardContext, conn: &mut ActiveConnection, due_ms: u64) {
    let id = conn.id;
    note_replay_timer(cx, id, conn, due_ms);
}

fn note_replay_timer(cx: &mut ShardContext, id: ConnId, conn: &mut Connection, due_ms: u64) {
    let Some(reader) = reader_of(conn) else { return };
    if !std::mem::replace(&mut reader.quiet.is_timed, true) {
        cx.timers.set(due_ms.max(cx.now.mono_ms + 1), Timer::Replay { conn: id });
    }
}

/// Appends the records of a page that the session is to receive: schemas, the snapshot of a shape,
/// then the rest.
fn append_page(conn: &Connection, awaited: Awaited, page: &Page, out: &mut Vec<u8>) {
    let session = conn.session();
    let reader = conn.cold().and_then(|cold| cold.reader.as_deref());
    let (Some(reader), Some(principal)) = (reader, session.principal()) else { return };
    let replay = reader.replays.front().filter(|_| awaited.is_replay);
    let is_asked_for = replay.is_some_and(|replay| replay.with_own);
    let is_for = |record: &&Arc<Record>| {
        let is_wanted = is_asked_for || (reader.wants(record) && !reader.is_own(record));
        is_wanted && may_read(principal, &record.collection)
    };
    for record in page.schemas.iter().filter(is_for) {
        session.append_record(record, None, out);
    }
    if let Some(shape) = replay.and_then(|replay| replay.snapshot.as_ref()) {
        session.append_shape_snapshot(shape, out);
    }
    for record in page.records.iter().filter(is_for) {
        session.append_record(record, reader.shape_of(&record.collection), out);
    }
}

/// Delivers a batch to a reader, or leaves it to be read from the log. True if that can begin at
/// once: nothing waits to be written.
fn deliver_batch(
    cx: &mut ShardContext,
    outgoing: &mut Outgoing,
    id: ConnId,
    connection: &mut Connection,
    batch: &DocumentBatch,
) -> bool {
    let most = cx.limits().send_queue_bytes_max;
    let Some(reader) = connection.cold().and_then(|cold| cold.reader.as_deref()) else {
        return false;
    };
    let cursor = reader.read.after;
    let is_current = !reader.is_behind && cursor != u64::MAX;
    if batch.is_repeat {
        if is_current
            && cursor >= batch.through
            && queue_batch(outgoing, id, connection, batch, most).is_none()
        {
            cx.counters.drop_many(Dropped::DocumentSlowConsumer, batch.records.len() as u32);
        }
        return false;
    }
    if is_current && cursor >= batch.through {
        return false;
    }
    let queued = match is_current && cursor == batch.after {
        true => queue_batch(outgoing, id, connection, batch, most),
        false => None,
    };
    let is_idle = connection.queue.is_empty();
    let Some(reader) = reader_of(connection) else { return false };
    match queued {
        Some(bytes) => {
            reader.read.after = batch.through;
            if bytes > 0 {
                reader.note_sent(cx.now.mono_ms, bytes);
                note_replay_timer(cx, id, connection, cx.now.mono_ms + QUIET_MS[0]);
            }
            false
        }
        None => {
            reader.is_behind = true;
            connection.flags.stale = true;
            is_idle
        }
    }
}

/// Queues the records of a batch that a reader is to receive. Returns their bytes; `None` without
/// room.
fn queue_batch(
    outgoing: &mut Outgoing,
    id: ConnId,
    connection: &mut Connection,
    batch: &DocumentBatch,
    most: usize,
) -> Option<usize> {
    let encoded = batch.encoded(connection.framing());
    let session = connection.session();
    let reader = connection.cold().and_then(|cold| cold.reader.as_deref())?;
    let principal = session.principal()?;
    let is_for = |record: &Record| {
        reader.wants(record) && !reader.is_own(record) && may_read(principal, &record.collection)
    };
    let is_whole = reader.shapes.is_empty() && batch.records.iter().all(|record| is_for(record));
    if is_whole {
        let bytes = &encoded.bytes;
        if bytes.is_empty() || !connection.queue.has_room(bytes.len(), most) {
            return bytes.is_empty().then_some(0);
        }
        let len = bytes.len();
        match connection.flags.blocked {
            true => connection.queue.push_copy(bytes),
            false => outgoing.push_shared(id, connection, bytes),
        }
        return Some(len);
    }
    let mut own = Vec::new();
    for (at, record) in batch.records.iter().enumerate().filter(|(_, record)| is_for(record)) {
        match reader.shape_of(&record.collection) {
            None => own.extend_from_slice(encoded.frame(at)),
            shape => session.append_record(record, shape, &mut own),
        }
    }
    if own.is_empty() || !connection.queue.has_room(own.len(), most) {
        return own.is_empty().then_some(0);
    }
    connection.queue.push_copy(&own);
    outgoing.mark_due(id, connection, Due::Delivery);
    Some(own.len())
}
