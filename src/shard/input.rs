//! Bytes of one connection -> messages -> what its session asks for. Nothing is copied unless a
//! message is incomplete.

use super::Connection;
use super::Shard;
use super::backlog::REQUESTS_AT_ONCE;
use super::connection::{
    Ended, FirstMessage, Greeting, Listener, Parcel, Phase, Session, Transport,
};
use super::envelope::Effect;
use super::placement::Placed;
use super::write_order::Due;
use crate::auth::Origin;
use crate::counters::{Dropped, Ignored};
use crate::error::{Disconnect, FrameError};
use crate::ids::{ConnId, Moment, Now};
use crate::session::foony::encode::{Form, Writer};
use crate::session::{Arrival, Context, Framing, Step, foony, sync};
use crate::wire::foony::{Malformed, Request, binary, json};
use crate::wire::http::{self, HeadError, Parsed};
use crate::wire::proxy_protocol;
use crate::wire::sync::{
    Detection, Header, RawFrame, detect, detect_message, parse, parse_message,
};
use crate::wire::websocket::{self, Incoming, MessageKind, Opcode, Role};

/// Close codes after which a Foony client does not come back (`protocols/foony.md` section 5.7);
/// without a code it has said goodbye as well.
const FOONY_GOODBYES: [u16; 2] = [1000, 1001];

/// How long a peer that has sent its last byte is kept for the answers to its requests. Clients and
/// proxies that half-close their connection wait for these.
const ANSWERS_MS: u64 = 5_000;

/// Path of the debug endpoint that sends every message back.
const ECHO_PATH: &str = "/echo";

impl Shard {
    /// Takes what arrived on a connection; it may be any part of any number of messages. Messages
    /// are unmasked where they lie.
    pub fn handle_bytes(&mut self, now: Now, id: ConnId, bytes: &mut [u8]) {
        self.assert_drained();
        self.counters.bytes_in += bytes.len() as u64;
        self.take_bytes(now, id, bytes);
        self.enter_lapsed(now, id);
        self.drain_local(now);
    }

    pub(super) fn take_bytes(&mut self, now: Now, id: ConnId, bytes: &mut [u8]) {
        let is_draining = self.is_draining();
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.details.alive = Moment::at(now.mono_ms);
        connection.flags.pinged = false;
        match connection.phase {
            Phase::Closing => return,
            Phase::Moving => return connection.rare_mut().unread.extend_from_slice(bytes),
            // It is not carried out, and so not acknowledged.
            Phase::Open if is_draining => return,
            Phase::Open => {}
        }
        if connection.has_backlog() {
            connection.rare_mut().unread.extend_from_slice(bytes);
            if connection.unread().len() > self.settings.limits.message_bytes_max {
                self.disconnect(now, id, Disconnect::Slow);
            }
            return;
        }
        let is_head = matches!(connection.details.transport, Transport::Http);
        let (unread, most) =
            (connection.unread().len(), self.settings.limits.request_head_bytes_max);
        if unread == 0 {
            let consumed = self.read(now, id, bytes);
            self.keep_unread(id, &bytes[consumed..]);
        } else if is_head && http::stays_incomplete(unread, bytes, most) {
            connection.rare_mut().unread.extend_from_slice(bytes);
        } else {
            let unread = connection.change_rare(|rare| std::mem::take(&mut rare.unread));
            let mut unread = unread.unwrap_or_default();
            unread.extend_from_slice(bytes);
            match self.read(now, id, &mut unread) {
                0 => self.restore_unread(id, unread),
                // Copied: the beginning of a frame would keep the memory of a long head.
                consumed => self.keep_unread(id, &unread[consumed..]),
            }
        }
    }

    /// The peer has sent its last byte.
    pub fn handle_eof(&mut self, now: Now, id: ConnId) {
        self.work_off_all(now, id);
        self.drain_local(now);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let reason = connection.end_of_stream();
        if connection.awaits_answers() {
            let until = Moment::at(now.mono_ms + ANSWERS_MS);
            connection.rare_mut().ended = Some(Ended { reason, until });
            self.connections.set_check(id, now.mono_ms);
        } else {
            self.disconnect(now, id, reason);
        }
        self.drain_local(now);
    }

    /// The socket failed.
    pub fn handle_lost(&mut self, now: Now, id: ConnId) {
        self.disconnect(now, id, Disconnect::Lost);
        self.drain_local(now);
    }

    /// A connection arrives from another shard, with what it has sent and not been answered. A full
    /// shard answers it and lets go of it.
    pub(super) fn adopt(&mut self, now: Now, parcel: Parcel) {
        let is_full = self.is_full();
        let mut connection = Connection::new(parcel.transport, now.mono_ms, parcel.greeting);
        connection.details.session = parcel.session;
        connection.queue = parcel.unsent;
        connection.pace = parcel.pace;
        connection.details.heard = parcel.heard;
        connection.flags.settled = true;
        connection.flags.small_reader = parcel.small_reader;
        connection.flags.origin = parcel.origin;
        let id = self.insert(now, connection);
        self.outbox.effect(Effect::Attach { conn: id, socket: parcel.socket });
        if is_full {
            self.counters.drop(Dropped::ConnectionLimit);
            return self.refuse(now, id, HeadError::ConnectionLimit);
        }
        self.counters.adopted += 1;
        if !self.outlives_rivals(now, id) {
            return;
        }
        self.note_name(id);
        match parcel.first {
            _ if self.is_draining() => {}
            Some(FirstMessage::Sync { message_type, body }) => {
                let frame_bytes = body.len();
                self.handle_frame(now, id, RawFrame { message_type, body: &body, frame_bytes });
            }
            Some(FirstMessage::Foony(payload)) => self.handle_foony_payload(now, id, &payload),
            None => {}
        }
        let mut unread = parcel.unread;
        if !unread.is_empty() {
            self.take_bytes(now, id, &mut unread);
        }
        if self.connections.get(id).is_some_and(|connection| !connection.queue.is_empty()) {
            self.mark_due(id, Due::Answer);
        }
        self.refuse_if_ended(now, id);
    }

    fn keep_unread(&mut self, id: ConnId, rest: &[u8]) {
        self.restore_unread(id, rest.to_vec());
    }

    fn restore_unread(&mut self, id: ConnId, unread: Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(id)
            && connection.phase != Phase::Closing
            && !unread.is_empty()
        {
            connection.rare_mut().unread = unread;
        }
    }

    /// Reads whole messages off the front of `bytes`; returns how many bytes they were.
    fn read(&mut self, now: Now, id: ConnId, bytes: &mut [u8]) -> usize {
        let mut consumed = 0;
        while consumed < bytes.len() {
            let Some(connection) = self.connections.get(id) else { break };
            if !connection.is_open() || connection.has_backlog() {
                break;
            }
            let rest = &mut bytes[consumed..];
            let step = match connection.details.transport {
                Transport::Proxied(listener) => self.read_proxy_header(now, id, listener, rest),
                Transport::Http => self.read_head(now, id, rest),
                Transport::WebSocket(_) => self.read_websocket(now, id, rest),
                Transport::Stream(_) => self.read_stream(now, id, rest),
                Transport::Poll(_) => break,
            };
            if step == 0 {
                break;
            }
            consumed += step;
        }
        consumed
    }

    /// Takes the PROXY header off the stream.
    fn read_proxy_header(
        &mut self,
        now: Now,
        id: ConnId,
        listener: Listener,
        bytes: &[u8],
    ) -> usize {
        match (proxy_protocol::parse(bytes), self.connections.get_mut(id)) {
            (Ok(Some(header_bytes)), Some(connection)) => {
                connection.details.transport = Transport::from(listener);
                header_bytes
            }
            (Err(error), Some(_)) => {
                self.disconnect(now, id, error.into());
                0
            }
            _ => 0,
        }
    }

    fn read_head(&mut self, now: Now, id: ConnId, bytes: &[u8]) -> usize {
        let empty_lines = http::empty_lines(bytes);
        if empty_lines > 0 {
            return empty_lines;
        }
        match http::parse(bytes, self.settings.limits.request_head_bytes_max) {
            Ok(Parsed::Incomplete) => 0,
            Ok(Parsed::Upgrade(upgrade)) => self.upgrade(now, id, &upgrade),
            Ok(Parsed::Plain(_)) => {
                self.begin_move(id, self.settings.edge, None);
                0
            }
            Err(error) => {
                self.refuse_head(now, id, error);
                0
            }
        }
    }

    pub(super) fn refuse_head(&mut self, now: Now, id: ConnId, error: HeadError) {
        if let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) {
            connection.queue.append(|out| out.extend_from_slice(&error.response()));
        }
        self.disconnect(now, id, error.into());
    }

    fn upgrade(&mut self, now: Now, id: ConnId, upgrade: &http::Upgrade<'_>) -> usize {
        if let Some(to) = self.hinted_home(id, upgrade.query) {
            self.begin_move(id, to, None);
            return 0;
        }
        let auth_ms = self.settings.limits.auth_ms.min(self.settings.limits.greeting_ms);
        let Some(connection) = self.connections.get_mut(id) else { return 0 };
        let response = http::switching_protocols(&upgrade.key, None);
        connection.queue.append(|out| out.extend_from_slice(&response));
        connection.details.transport = Transport::WebSocket(websocket::Decoder::new(Role::Server));
        connection.details.greeting = Greeting::Due(Moment::at(now.mono_ms + auth_ms));
        if self.settings.echo && upgrade.path == ECHO_PATH {
            connection.details.session = Session::Echo;
            connection.details.greeting = Greeting::Done(Moment::at(0));
        }
        connection.flags.small_reader = upgrade.user_agent.is_some_and(is_small_reader);
        connection.flags.origin = self.settings.session.origins.judge(upgrade.origin);
        connection.details.heard = Moment::at(now.mono_ms);
        self.connections.set_check(id, now.mono_ms);
        self.mark_due(id, Due::Answer);
        upgrade.head_bytes
    }

    /// The owner of the channel that the URL names, when the connection should begin there.
    fn hinted_home(&mut self, id: ConnId, query: Option<&str>) -> Option<crate::ids::ShardId> {
        if self.connections.get(id)?.flags.settled {
            return None;
        }
        let channel = http::channel_hint(query?)?;
        let key = self.settings.router.key(&self.settings.hint_app, &channel);
        let owner = self.settings.router.shard_of(&key);
        self.should_move(owner, key.hash).then_some(owner)
    }

    fn read_websocket(&mut self, now: Now, id: ConnId, bytes: &mut [u8]) -> usize {
        let Some(connection) = self.connections.get_mut(id) else { return 0 };
        let limits = self.settings.message_limits(connection);
        let Transport::WebSocket(decoder) = &mut connection.details.transport else { return 0 };
        match decoder.decode(bytes, &limits) {
            Ok(decoded) => {
                if let Some(incoming) = decoded.incoming {
                    self.handle_incoming(now, id, incoming);
                }
                decoded.consumed
            }
            Err(error) => {
                self.disconnect(now, id, error.into());
                0
            }
        }
    }

    fn handle_incoming(&mut self, now: Now, id: ConnId, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Message { kind, payload } => self.handle_message(now, id, kind, &payload),
            Incoming::Ping(body) => self.queue_frame(now, id, Opcode::Pong, body),
            Incoming::Pong(_) => {}
            Incoming::Close { code, .. } => {
                let body = code.map(u16::to_be_bytes);
                let body = body.as_ref().map_or(&[][..], |code| &code[..]);
                // Not judged as slow: the goodbye was clean, however much waits before its answer.
                let Some(connection) = self.connections.get_mut(id) else { return };
                connection.queue.append(|out| {
                    websocket::append_frame(out, Opcode::Close, body);
                });
                let is_foony = matches!(connection.details.session, Session::Foony(_));
                let reason = match code {
                    Some(code) if is_foony && !FOONY_GOODBYES.contains(&code) => Disconnect::Lost,
                    _ => Disconnect::Clean,
                };
                self.disconnect(now, id, reason);
            }
        }
    }

    /// Queues one WebSocket frame of this connection's own.
    pub(super) fn queue_frame(&mut self, now: Now, id: ConnId, opcode: Opcode, body: &[u8]) {
        self.reply.clear();
        websocket::append_frame(&mut self.reply, opcode, body);
        self.send_reply(now, id);
    }

    fn handle_message(&mut self, now: Now, id: ConnId, kind: MessageKind, payload: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        match (&connection.details.session, kind) {
            (Session::Echo, MessageKind::Text) => {
                self.queue_frame(now, id, Opcode::Text, payload);
            }
            (Session::Echo, MessageKind::Binary) => {
                self.queue_frame(now, id, Opcode::Binary, payload);
            }
            (Session::Undecided, MessageKind::Binary) => self.begin_session(now, id, payload),
            (Session::Undecided, MessageKind::Text) if payload.trim_ascii().starts_with(b"{") => {
                self.open_foony_session(id, Form::Json);
                self.handle_foony_payload(now, id, payload);
            }
            (Session::Undecided, MessageKind::Text) => {
                self.disconnect(now, id, Disconnect::UnknownProtocol);
            }
            (Session::Foony(session), kind) => match (session.form(), kind) {
                (Form::Json, MessageKind::Binary) | (Form::Records, MessageKind::Text) => {
                    self.counters.ignore(Ignored::Text);
                }
                _ => self.handle_foony_payload(now, id, payload),
            },
            (Session::Sync(_), MessageKind::Text) => self.counters.ignore(Ignored::Text),
            (Session::Sync(session), MessageKind::Binary) => {
                let header = session.header();
                self.handle_sync_message(now, id, header, payload);
            }
        }
    }

    fn begin_session(&mut self, now: Now, id: ConnId, message: &[u8]) {
        let header = match detect_message(message) {
            Detection::Ten => Header::Ten,
            Detection::Five => Header::Five,
            Detection::NeedMore | Detection::Neither if binary::begins(message) => {
                self.open_foony_session(id, Form::Records);
                return self.handle_foony_payload(now, id, message);
            }
            Detection::NeedMore | Detection::Neither => {
                return self.disconnect(now, id, Disconnect::UnknownProtocol);
            }
        };
        let limits = &self.settings.limits;
        let more_ms = limits.greeting_ms.saturating_sub(limits.auth_ms);
        if let Some(connection) = self.connections.get_mut(id)
            && let Some(deadline_ms) = connection.details.greeting.deadline_ms()
        {
            connection.details.greeting = Greeting::Due(Moment::at(deadline_ms + more_ms));
        }
        self.open_sync_session(now, id, header, Framing::WebSocket);
        self.handle_sync_message(now, id, header, message);
    }

    fn open_sync_session(&mut self, now: Now, id: ConnId, header: Header, framing: Framing) {
        let (settings, limits) = (&self.settings.session, &self.settings.limits);
        let (names, refusals) = (&mut self.names, &mut self.counters.refusals);
        let origin = Origin::default();
        let mut cx = Context { now, settings, limits, names, refusals, origin };
        let session = sync::Session::new(header, framing, &mut cx);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.details.session = Session::Sync(session);
        }
    }

    fn handle_sync_message(&mut self, now: Now, id: ConnId, header: Header, message: &[u8]) {
        match parse_message(header, message) {
            Ok(frame) => {
                self.counters.messages_in += 1;
                self.handle_frame(now, id, frame);
            }
            Err(error) => self.counters.ignore(Ignored::Malformed(error)),
        }
    }

    fn read_stream(&mut self, now: Now, id: ConnId, bytes: &[u8]) -> usize {
        use crate::wire::sync::Parsed;
        let Some(header) = self.stream_header(now, id, bytes) else { return 0 };
        let Some(connection) = self.connections.get(id) else { return 0 };
        let most = self.settings.message_limits(connection).message_bytes_max;
        match parse(header, bytes, most) {
            Ok(Parsed::NeedMore) => 0,
            Ok(Parsed::Frame(frame)) => {
                self.counters.messages_in += 1;
                self.handle_frame(now, id, frame);
                frame.frame_bytes
            }
            Ok(Parsed::Skip { frame_bytes, error }) => {
                self.counters.ignore(Ignored::Malformed(error));
                frame_bytes
            }
            Err(error) => {
                self.disconnect(now, id, error.into());
                0
            }
        }
    }

    /// The header generation of a TCP connection, told by its first frame.
    fn stream_header(&mut self, now: Now, id: ConnId, bytes: &[u8]) -> Option<Header> {
        let connection = self.connections.get_mut(id)?;
        let Transport::Stream(known) = &mut connection.details.transport else { return None };
        if known.is_none() {
            *known = match detect(bytes) {
                Detection::Ten => Some(Header::Ten),
                Detection::Five => Some(Header::Five),
                Detection::NeedMore => None,
                Detection::Neither => {
                    self.disconnect(now, id, Disconnect::UnknownProtocol);
                    return None;
                }
            };
            let header = (*known)?;
            self.open_sync_session(now, id, header, Framing::Stream);
            return Some(header);
        }
        *known
    }

    fn handle_frame(&mut self, now: Now, id: ConnId, frame: RawFrame<'_>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Session::Sync(session) = &mut connection.details.session else { return };
        let (settings, limits) = (&self.settings.session, &self.settings.limits);
        let (names, refusals) = (&mut self.names, &mut self.counters.refusals);
        let origin = connection.flags.origin;
        let mut cx = Context { now, settings, limits, names, refusals, origin };
        // A fault that was caught may have left the beginning of another peer's answer.
        self.reply.clear();
        let step = session.handle_frame(&mut cx, frame, &mut self.reply);
        if !matches!(step, Step::Ignored(Ignored::Malformed(_))) {
            connection.details.heard = Moment::at(now.mono_ms);
        }
        self.send_reply(now, id);
        self.take_sync_step(now, id, step, frame);
    }

    fn open_foony_session(&mut self, id: ConnId, form: Form) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.details.session = Session::Foony(foony::Session::new(form));
        }
    }

    /// Acts on one message of a Foony client, in the form of its session, now or later.
    pub(super) fn handle_foony_payload(&mut self, now: Now, id: ConnId, payload: &[u8]) {
        let left = self.begin_payload(now, id, payload);
        if left > 0 {
            self.put_off(now, id, &payload[payload.len() - left..]);
        }
    }

    /// Acts on a message as far as it need not wait; returns how many bytes at its end have to.
    #[must_use]
    pub(super) fn begin_payload(&mut self, now: Now, id: ConnId, payload: &[u8]) -> usize {
        let Some(connection) = self.connections.get(id) else { return 0 };
        let Session::Foony(session) = &connection.details.session else { return 0 };
        if session.form() != Form::Json {
            return self.begin_records(now, id, payload);
        }
        if self.must_wait(id) || self.has_had_its_share(id, payload.len()) {
            return payload.len();
        }
        self.intake.add(payload.len());
        let request = json::decode_request(payload);
        if let Placed::Elsewhere(to) = self.handle_foony_request(now, id, request) {
            let first = FirstMessage::Foony(payload.to_vec());
            self.begin_move(id, to, Some(first));
        }
        0
    }

    /// Acts on records back to back, as long as the session lives, stays here, and need not wait.
    fn begin_records(&mut self, now: Now, id: ConnId, payload: &[u8]) -> usize {
        let mut records = binary::records(payload);
        for handled in 0.. {
            if handled % 64 == 63 {
                self.drain_local(now);
            }
            let unread = records.rest();
            let Some(record) = records.next() else { return 0 };
            if self.must_wait(id) {
                self.drain_local(now);
            }
            if !self.connections.get(id).is_some_and(|connection| connection.is_open()) {
                return 0;
            }
            let left = unread.len();
            let enough = handled == REQUESTS_AT_ONCE || self.has_had_its_share(id, left);
            if enough || self.must_wait(id) {
                return left;
            }
            self.intake.add(left - records.rest().len());
            let request = match record {
                Ok(record) if record.is_noise() => {
                    self.counters.ignore(Ignored::Malformed(FrameError::UnknownType));
                    continue;
                }
                Ok(record) => record.request(),
                Err(error) => Err(Malformed { error, id: foony::NO_REQUEST }),
            };
            if let Placed::Elsewhere(to) = self.handle_foony_request(now, id, request) {
                self.begin_move(id, to, Some(FirstMessage::Foony(unread.to_vec())));
                return 0;
            }
        }
        0
    }

    fn handle_foony_request(
        &mut self,
        now: Now,
        id: ConnId,
        request: Result<Request<'_>, Malformed>,
    ) -> Placed {
        self.counters.messages_in += 1;
        self.reply.clear();
        let Some(connection) = self.connections.get_mut(id) else { return Placed::Here };
        let Session::Foony(session) = &mut connection.details.session else { return Placed::Here };
        let (settings, limits) = (&self.settings.session, &self.settings.limits);
        let (names, refusals) = (&mut self.names, &mut self.counters.refusals);
        let origin = connection.flags.origin;
        let mut cx = Context { now, settings, limits, names, refusals, origin };
        let mut out = Writer::new(session.form(), &mut self.reply);
        let step = match request {
            Ok(request) => session.handle_request(&mut cx, request, &mut out),
            Err(malformed) => session.refuse_malformed(malformed, &mut out),
        };
        connection.details.heard = Moment::at(now.mono_ms);
        self.send_reply(now, id);
        match step {
            Step::Request { id: number, channel, request } => {
                let placed = self.handle_request(now, id, number, &channel, request);
                if placed != Placed::Here {
                    // It is counted where it is carried out.
                    self.counters.messages_in -= 1;
                }
                return placed;
            }
            Step::Ignored(reason) => self.counters.ignore(reason),
            Step::Greeted(arrival) => self.greeted(now, id, arrival),
            Step::Close(reason) => self.disconnect(now, id, reason),
            _ => {}
        }
        Placed::Here
    }

    fn take_sync_step(&mut self, now: Now, id: ConnId, step: Step<'_>, frame: RawFrame<'_>) {
        match step {
            Step::Done | Step::Request { .. } => {}
            Step::Ignored(reason) => self.counters.ignore(reason),
            Step::Greeted(arrival) => self.greeted(now, id, arrival),
            Step::Ungreeted => self.ungreeted(now, id),
            Step::Renewed => self.connections.set_check(id, now.mono_ms),
            Step::Announce { channel, state } => match self.announce(now, id, channel, state) {
                Ok(Placed::Here) => {}
                Ok(Placed::Elsewhere(to)) => {
                    let body = frame.body.to_vec();
                    let first = FirstMessage::Sync { message_type: frame.message_type, body };
                    self.begin_move(id, to, Some(first));
                }
                Err(reject) => self.counters.ignore(Ignored::Refused(reject)),
            },
            Step::Leave { channel } => self.leave(now, id, channel),
            Step::Pace(pace) => self.set_pace(now, id, pace),
            Step::Close(reason) => self.disconnect(now, id, reason),
        }
    }

    /// Memberships under an earlier identity end; those that this one lost come back.
    fn greeted(&mut self, now: Now, id: ConnId, arrival: Arrival) {
        self.leave_all(now, id, Disconnect::Clean);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.details.greeting = Greeting::Done(Moment::at(now.mono_ms));
        }
        self.connections.set_check(id, now.mono_ms);
        self.end_earlier_local(now, id);
        self.note_name(id);
        if arrival == Arrival::Returning {
            self.resume(id);
        }
    }

    fn ungreeted(&mut self, now: Now, id: ConnId) {
        self.leave_all(now, id, Disconnect::Clean);
        let deadline_ms = now.mono_ms + self.settings.limits.greeting_ms;
        if let Some(connection) = self.connections.get_mut(id) {
            connection.details.greeting = Greeting::Due(Moment::at(deadline_ms));
        }
        self.connections.set_check(id, now.mono_ms);
    }
}

/// Go's SDK keeps its WebSocket library's limit of 32 KiB per message.
fn is_small_reader(user_agent: &str) -> bool {
    user_agent.starts_with("Go-http-client")
}
