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
//! | replays that a session waits for, above 16 | further ones are empty | none | `ignored{busy}` |
//! | shapes of a session, above `subscriptions_per_session_max` | further ones are empty | none | `ignored{too_many_channels}` |

use std::sync::Arc;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use super::hook::Held;
use super::reader::{Reader, ReaderKind, append_page, deliver_batch, reader_of, set_replay_timer};
use super::write_order::Due;
use crate::auth::Operation;
use crate::counters::Ignored;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnId};
use crate::relay::Page;
use crate::session::{
    Arrival, DocumentAnswer, DocumentBatch, DocumentRequest, PushRequest, Replica,
};
use crate::shard::context::ShardContext;
use crate::shard::documents::{CHANNEL, DocumentCommand, DocumentEvent};
use crate::shard::envelope::Command;

/// The number of requests of devices, which recognize answers by other means.
const DOCUMENT_REQUEST: u64 = 1;

/// When a page that the owner could not read is asked for again.
const RETRY_MS: u64 = 1000;

/// Homes tell the readers of an app here.
#[derive(Debug)]
pub struct Audience {
    key: Arc<ChannelKey>,
    readers: Vec<ConnId>,
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
        let may_read = conn
            .session()
            .principal()
            .is_some_and(|principal| principal.grant.capability.grants(Operation::Subscribe));
        // A copy is to name itself anew, and to come back.
        let kind = match may_read && !is_fork {
            true => ReaderKind::Device(replica),
            false => ReaderKind::Writer(replica),
        };
        self.begin_reading(cx, conn, kind);
        self.take_held_input(cx, conn);
    }

    /// Makes a reader of a session.
    pub(super) fn begin_reading(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        kind: ReaderKind,
    ) {
        self.stop_reading(cx, conn);
        let Some(app) = app_of(conn).filter(|_| conn.is_open()) else { return };
        conn.cold_mut().reader = Some(Box::new(Reader::new(Arc::clone(&app), kind)));
        let audience = self.audiences.entry(Arc::clone(&app)).or_insert_with(|| Audience {
            key: Arc::new(cx.settings.router.key(&app, CHANNEL)),
            readers: Vec::new(),
        });
        audience.readers.push(conn.id);
        if audience.readers.len() == 1 {
            self.ask_relay(cx, &app, DocumentCommand::Listen);
        }
        conn.flags.stale = true;
        self.refresh_stale(cx, conn);
    }

    /// The session ends, or moves. Returns what it is.
    pub(super) fn stop_reading(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) -> Option<ReaderKind> {
        let reader = conn.take_cold(|cold| cold.reader.take()).flatten()?;
        let audience = self.audiences.get_mut(&reader.app)?;
        audience.readers.retain(|reader| *reader != conn.id);
        if audience.readers.is_empty() {
            self.ask_relay(cx, &reader.app, DocumentCommand::Unlisten);
            self.audiences.remove(&reader.app);
        }
        Some(reader.kind)
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
        let replica = reader_of(conn).and_then(|reader| reader.kind.replica());
        self.ask_relay(cx, app, DocumentCommand::Push { conn: conn.id, replica, push });
    }

    fn subscribe_shape(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        shape: Arc<str>,
        collection: Arc<str>,
    ) {
        self.ensure_reader(cx, conn);
        let most = cx.limits().subscriptions_per_session_max;
        let Some(reader) = reader_of(conn) else { return };
        reader.shapes.retain(|(known, _)| *known != shape);
        if reader.shapes.len() >= most {
            cx.counters.ignore(Ignored::Refused(Reject::TooManyChannels));
            return self.send_shape_snapshot(cx, conn, &shape);
        }
        reader.shapes.push((Arc::clone(&shape), Arc::clone(&collection)));
        self.replay(cx, conn, Some(shape), Some(collection));
    }

    fn ensure_reader(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if reader_of(conn).is_none() {
            self.begin_reading(cx, conn, ReaderKind::Viewer);
        }
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
        self.ensure_reader(cx, conn);
        // What it has asked for does not move with it.
        conn.flags.placement_final = true;
        let Some(reader) = reader_of(conn) else { return };
        if !reader.replay(snapshot.clone(), collection) {
            cx.counters.ignore(Ignored::Refused(Reject::Busy));
            if let Some(shape) = snapshot {
                self.send_shape_snapshot(cx, conn, &shape);
            }
            return;
        }
        conn.flags.stale = true;
        self.refresh_stale(cx, conn);
    }

    /// Asks for the next page of a reader that has room for it.
    pub(super) fn read_documents(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let (id, is_empty) = (conn.id, conn.queue.is_empty());
        let Some(reader) = reader_of(conn).filter(|reader| reader.is_waiting()) else { return };
        let next = if is_empty { reader.next_read() } else { None };
        let app = Arc::clone(&reader.app);
        conn.flags.stale = true;
        if let Some((number, read)) = next {
            let read = Box::new(read);
            self.ask_relay(cx, &app, DocumentCommand::Read { conn: id, number, read });
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
        let id = conn.id;
        let awaited = reader_of(conn).and_then(|reader| reader.take_awaited(number));
        let Some(awaited) = awaited else { return };
        if !page.done && page.records.is_empty() && page.schemas.is_empty() {
            return set_replay_timer(cx, id, conn, cx.now.mono_ms + RETRY_MS);
        }
        let mut out = Vec::new();
        cx.counters.documents_delivered += append_page(conn, awaited, &page, &mut out);
        let Some(reader) = reader_of(conn) else { return };
        reader.note_page(cx.now.mono_ms, awaited, &page, out.len());
        let (is_waiting, due_ms) = (reader.is_waiting(), reader.quiet_due_ms());
        conn.flags.stale |= is_waiting;
        if let Some(due_ms) = due_ms {
            set_replay_timer(cx, id, conn, due_ms);
        }
        if out.is_empty() {
            self.refresh_stale(cx, conn);
        } else {
            conn.queue.push_own(out);
            self.outgoing.mark_due(id, conn, Due::Delivery);
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
        let (id, now_ms) = (conn.id, cx.now.mono_ms);
        let Some(reader) = reader_of(conn) else { return };
        reader.note_quiet(now_ms);
        if let Some(due_ms) = reader.quiet_due_ms() {
            // While it waits for room it is looked at now and then.
            set_replay_timer(cx, id, conn, due_ms.max(now_ms + RETRY_MS / 4));
        }
        conn.flags.stale = true;
        self.refresh_stale(cx, conn);
    }
}

fn app_of(conn: &Connection) -> Option<Arc<str>> {
    conn.session().principal().map(|principal| Arc::clone(&principal.grant.app))
}
