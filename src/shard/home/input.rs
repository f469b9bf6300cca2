//! Bytes of one connection -> messages -> what its session asks for. Nothing is copied unless a
//! message is incomplete, or has to wait.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Home;
use super::connection::{AuthState, HalfClosed, Phase, Transport};
use super::connections::ActiveConnection;
use super::placement::Placed;
use super::resume::{find_lost, register_session};
use super::write_order::Due;
use crate::counters::Ignored;
use crate::error::Disconnect;
use crate::ids::{ConnId, Listener, ShardId, Timestamp};
use crate::policy::AdmitKind;
use crate::session::{Arrival, Framing, Input, Session, SessionContext, SessionOutput, Taken};
use crate::shard::context::ShardContext;
use crate::wire::http::{self, HeadError, Parsed};
use crate::wire::proxy_protocol;
use crate::wire::websocket::{self, Incoming, MessageKind, MessageLimits, Opcode, Role};

/// How long a peer that has sent its last byte is kept for the answers to its requests. Clients and
/// proxies that half-close their connection wait for these.
const ANSWERS_MS: u64 = 5_000;

impl Home {
    /// Takes what arrived on a connection; it may be any part of any number of messages. Messages
    /// are unmasked in place.
    pub fn handle_bytes(&mut self, cx: &mut ShardContext, id: ConnId, bytes: &mut [u8]) {
        cx.counters.bytes_in += bytes.len() as u64;
        self.with(cx, id, |home, cx, conn| {
            home.admission.begin_input();
            home.take_bytes(cx, conn, bytes);
            home.enter_lapsed(cx, conn);
        });
    }

    pub(super) fn take_bytes(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        bytes: &mut [u8],
    ) {
        conn.warm.last_byte = Timestamp::at(cx.now.mono_ms);
        conn.flags.pinged = false;
        match conn.phase {
            Phase::Closing => return,
            Phase::Moving => return conn.cold_mut().unread.extend_from_slice(bytes),
            // It is not carried out, and so not acknowledged.
            Phase::Open if self.drain.is_draining() => return,
            Phase::Open => {}
        }
        if conn.is_held() {
            conn.cold_mut().unread.extend_from_slice(bytes);
            if conn.unread().len() > cx.limits().message_bytes_max {
                self.disconnect(cx, conn, Disconnect::Slow);
            }
            return;
        }
        let is_head = matches!(conn.warm.transport, Transport::Http);
        let (unread, most) = (conn.unread().len(), cx.limits().request_head_bytes_max);
        if unread == 0 {
            let consumed = self.read(cx, conn, bytes);
            keep_unread(conn, &bytes[consumed..]);
        } else if is_head && http::stays_incomplete(unread, bytes, most) {
            conn.cold_mut().unread.extend_from_slice(bytes);
        } else {
            let unread = conn.take_cold(|cold| std::mem::take(&mut cold.unread));
            let mut unread = unread.unwrap_or_default();
            unread.extend_from_slice(bytes);
            match self.read(cx, conn, &mut unread) {
                0 => restore_unread(conn, unread),
                // Copied: the beginning of a frame would keep the memory of a long head.
                consumed => keep_unread(conn, &unread[consumed..]),
            }
        }
    }

    /// The peer has sent its last byte, and all its requests that need not wait were carried out.
    pub fn handle_eof(&mut self, cx: &mut ShardContext, id: ConnId) {
        self.with(cx, id, |home, cx, conn| {
            let reason = conn.end_of_stream();
            if conn.awaits_answers() {
                let until = Timestamp::at(cx.now.mono_ms + ANSWERS_MS);
                conn.cold_mut().half_closed = Some(HalfClosed { reason, until });
                home.connections.set_check(conn.id, cx.now.mono_ms);
            } else {
                home.disconnect(cx, conn, reason);
            }
        });
    }

    /// Reads whole messages off the front of `bytes`; returns how many bytes they were.
    fn read(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        bytes: &mut [u8],
    ) -> usize {
        let mut consumed = 0;
        while consumed < bytes.len() && conn.is_open() && !conn.is_held() {
            let rest = &mut bytes[consumed..];
            let step = match conn.warm.transport {
                Transport::Proxied(listener) => self.read_proxy_header(cx, conn, listener, rest),
                Transport::Http => self.read_head(cx, conn, rest),
                Transport::WebSocket(_) => self.read_websocket(cx, conn, rest),
                Transport::Stream => {
                    let (framing, kind) = (Framing::Stream, MessageKind::Binary);
                    let input = Input { framing, kind, bytes: rest };
                    input.bytes.len() - self.act_on(cx, conn, input)
                }
                Transport::LongPoll(_) => break,
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
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        listener: Listener,
        bytes: &[u8],
    ) -> usize {
        let parsed = contained(|| proxy_protocol::parse(bytes));
        match parsed.and_then(|parsed| parsed.map_err(Disconnect::from)) {
            Ok(Some(header_bytes)) => {
                conn.warm.transport = Transport::from(listener);
                header_bytes
            }
            Ok(None) => 0,
            Err(reason) => {
                self.disconnect(cx, conn, reason);
                0
            }
        }
    }

    fn read_head(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        bytes: &[u8],
    ) -> usize {
        let empty_lines = http::empty_lines(bytes);
        if empty_lines > 0 {
            return empty_lines;
        }
        let most = cx.limits().request_head_bytes_max;
        match contained(|| http::parse(bytes, most)) {
            Ok(Ok(Parsed::Incomplete)) => {}
            Ok(Ok(Parsed::Upgrade(upgrade))) => return self.upgrade(cx, conn, &upgrade),
            Ok(Ok(Parsed::Plain(_))) => self.begin_move(cx, conn, cx.settings.edge, Vec::new()),
            Ok(Err(error)) => self.refuse_head(cx, conn, error),
            Err(reason) => self.disconnect(cx, conn, reason),
        }
        0
    }

    pub(super) fn refuse_head(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        error: HeadError,
    ) {
        if conn.is_open() {
            conn.queue.append(|out| out.extend_from_slice(&error.response()));
        }
        self.disconnect(cx, conn, error.into());
    }

    fn upgrade(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        request: &http::Upgrade<'_>,
    ) -> usize {
        if let Some(to) = self.hinted_home(cx, conn, request.query) {
            self.begin_move(cx, conn, to, Vec::new());
            return 0;
        }
        let upgraded = Session::upgrade(request, cx.settings.echo);
        let response = http::switching_protocols(&request.key, upgraded.subprotocol);
        conn.queue.append(|out| {
            out.extend_from_slice(&response);
            out.extend_from_slice(&upgraded.first);
        });
        let now = Timestamp::at(cx.now.mono_ms);
        conn.warm.transport = Transport::WebSocket(websocket::Decoder::new(Role::Server));
        conn.warm.session = upgraded.session;
        conn.warm.auth = AuthState::Pending { since: now };
        conn.warm.last_message = now;
        let hint_kib = upgraded.max_message_hint.map_or(0, |bytes| bytes / 1024);
        conn.flags.max_message_hint = u16::try_from(hint_kib).unwrap_or(u16::MAX);
        conn.flags.origin = cx.settings.session.origins.judge(request.origin);
        self.connections.set_check(conn.id, cx.now.mono_ms);
        self.outgoing.mark_due(conn.id, conn, Due::Answer);
        request.head_bytes
    }

    /// The owner of the channel that the URL names, when the connection should begin there.
    fn hinted_home(
        &self,
        cx: &mut ShardContext,
        conn: &ActiveConnection,
        query: Option<&str>,
    ) -> Option<ShardId> {
        if conn.flags.placement_final {
            return None;
        }
        let channel = http::channel_hint(query?)?;
        let key = cx.settings.router.key(&cx.settings.hint_app, &channel);
        let owner = Home::owner_of(cx, &key);
        self.should_move(cx, owner, key.hash).then_some(owner)
    }

    fn read_websocket(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        bytes: &mut [u8],
    ) -> usize {
        let limits = MessageLimits {
            message_bytes_max: conn.session().message_bytes_max(cx.limits()),
            fragments_max: cx.limits().fragments_max,
        };
        let Transport::WebSocket(decoder) = &mut conn.warm.transport else { return 0 };
        let decoded = contained(|| decoder.decode(bytes, &limits));
        match decoded.and_then(|decoded| decoded.map_err(Disconnect::from)) {
            Ok(decoded) => {
                if let Some(incoming) = decoded.incoming {
                    self.handle_incoming(cx, conn, incoming);
                }
                decoded.consumed
            }
            Err(reason) => {
                self.disconnect(cx, conn, reason);
                0
            }
        }
    }

    fn handle_incoming(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        incoming: Incoming<'_>,
    ) {
        match incoming {
            Incoming::Message { kind, payload } => {
                let input = Input { framing: Framing::WebSocket, kind, bytes: &payload };
                self.act_on_message(cx, conn, input);
            }
            Incoming::Ping(body) => self.queue_frame(cx, conn, Opcode::Pong, body),
            Incoming::Pong(_) => {}
            Incoming::Close { code, .. } => {
                let body = code.map(u16::to_be_bytes);
                let body = body.as_ref().map_or(&[][..], |code| &code[..]);
                // Not judged as slow: the goodbye was clean, however much waits before its answer.
                conn.queue.append(|out| websocket::append_frame(out, Opcode::Close, body));
                let is_goodbye = code.is_none_or(|code| conn.session().is_goodbye(code));
                let reason = if is_goodbye { Disconnect::Clean } else { Disconnect::Lost };
                self.disconnect(cx, conn, reason);
            }
        }
    }

    /// Queues one WebSocket frame of this connection's own.
    pub(super) fn queue_frame(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        opcode: Opcode,
        body: &[u8],
    ) {
        self.reply.clear();
        websocket::append_frame(&mut self.reply, opcode, body);
        self.send_reply(cx, conn);
    }

    /// Acts on a message, now or later.
    pub(super) fn act_on_message(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        input: Input<'_>,
    ) {
        let left = self.act_on(cx, conn, input);
        if left > 0 {
            self.defer(cx, conn, &input.bytes[input.bytes.len() - left..]);
        }
    }

    /// Acts on the requests in `input`, as long as the session lives, stays here, and need not
    /// wait. Returns how many bytes at its end are left: incomplete, or to wait.
    #[must_use]
    pub(super) fn act_on(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        input: Input<'_>,
    ) -> usize {
        let mut rest = input.bytes;
        loop {
            if !conn.is_open() {
                return 0;
            }
            if conn.session().has_flow_control() && !self.admission.admits(cx, conn, rest.len()) {
                return rest.len();
            }
            let Taken { bytes, output } =
                self.ask_session(cx, conn, Input { bytes: rest, ..input });
            if matches!(output, SessionOutput::NeedMore) {
                return rest.len();
            }
            self.admission.note(bytes);
            let placed = self.take_output(cx, conn, output);
            if let Placed::Elsewhere(to) = placed {
                return self.move_with(cx, conn, to, Input { bytes: rest, ..input });
            }
            rest = &rest[bytes..];
            if rest.is_empty() || placed == Placed::Waiting {
                return rest.len();
            }
        }
    }

    /// Moves a connection with a message that has not been acted on. Returns how many bytes stay
    /// on the stream.
    fn move_with(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        to: ShardId,
        input: Input<'_>,
    ) -> usize {
        match input.framing {
            Framing::WebSocket => {
                self.begin_move(cx, conn, to, input.bytes.to_vec());
                0
            }
            Framing::Stream => {
                self.begin_move(cx, conn, to, Vec::new());
                input.bytes.len()
            }
        }
    }

    /// Lets the session act on the first request of `input`.
    fn ask_session<'m>(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        input: Input<'m>,
    ) -> Taken<'m> {
        // A panic that was caught may have left the beginning of another peer's answer.
        self.reply.clear();
        let Home { names, reply, .. } = self;
        let (now, settings) = (cx.now, &cx.settings);
        let mut session_cx = SessionContext {
            now,
            settings: &settings.session,
            limits: &settings.limits,
            names,
            refusals: &mut cx.counters.refusals,
            origin: conn.flags.origin,
        };
        let session = &mut conn.warm.session;
        contained(|| session.handle(&mut session_cx, input, reply)).unwrap_or_else(|reason| {
            self.reply.clear();
            Taken { bytes: input.bytes.len(), output: SessionOutput::Close(reason) }
        })
    }

    fn take_output(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        output: SessionOutput<'_>,
    ) -> Placed {
        if let SessionOutput::Ignored(reason @ Ignored::Malformed(_)) = output {
            cx.counters.ignore(reason);
            self.send_reply(cx, conn);
            return Placed::Here;
        }
        conn.warm.last_message = Timestamp::at(cx.now.mono_ms);
        cx.counters.messages_in += 1;
        if let SessionOutput::Greeted(arrival) = output
            && cx.settings.asks.contains(AdmitKind::Connect)
        {
            self.ask_greeting(cx, conn, arrival);
            return Placed::Waiting;
        }
        if let SessionOutput::Greeted(arrival @ Arrival::Replica(replica)) = output {
            let answer = std::mem::take(&mut self.reply);
            self.greet_relay(cx, conn, arrival, replica, answer);
            return Placed::Waiting;
        }
        self.send_reply(cx, conn);
        let placed = self.apply(cx, conn, output);
        // A request that moves is counted where it is carried out.
        cx.counters.messages_in -= u64::from(matches!(placed, Placed::Elsewhere(_)));
        placed
    }

    /// Does what a session asks for, whose reply has been sent.
    pub(super) fn apply(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        output: SessionOutput<'_>,
    ) -> Placed {
        match output {
            SessionOutput::Request(request) => return self.handle_request(cx, conn, request),
            SessionOutput::Documents(request) => self.handle_documents(cx, conn, request),
            SessionOutput::Ignored(reason) => cx.counters.ignore(reason),
            SessionOutput::Greeted(arrival) => self.greeted(cx, conn, arrival),
            SessionOutput::Ungreeted => self.ungreeted(cx, conn),
            SessionOutput::Renewed => self.connections.set_check(conn.id, cx.now.mono_ms),
            SessionOutput::PeerChanged(peer) => self.change_peer(cx, conn, &peer),
            SessionOutput::Decided { request, decision } => {
                self.decided(cx, conn, request, decision);
            }
            SessionOutput::Took { number, outcome } => {
                self.direct_taken(cx, conn, number, outcome);
            }
            SessionOutput::RateHint(hint) => self.set_rate_hint(cx, conn, hint),
            SessionOutput::Close(reason) => self.disconnect(cx, conn, reason),
            SessionOutput::Done | SessionOutput::NeedMore => {}
        }
        Placed::Here
    }

    /// Memberships under an earlier identity end; those that this one lost come back.
    pub(super) fn greeted(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        arrival: Arrival,
    ) {
        self.leave_all(cx, conn, Disconnect::Clean);
        self.stop_reading(cx, conn);
        conn.warm.auth = AuthState::Done { at: Timestamp::at(cx.now.mono_ms) };
        self.connections.set_check(conn.id, cx.now.mono_ms);
        register_session(cx, conn);
        if arrival != Arrival::New {
            find_lost(cx, conn);
        }
    }

    fn ungreeted(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        self.leave_all(cx, conn, Disconnect::Clean);
        self.stop_reading(cx, conn);
        conn.warm.auth = AuthState::Pending { since: Timestamp::at(cx.now.mono_ms) };
        self.connections.set_check(conn.id, cx.now.mono_ms);
    }
}

/// Calls code that touches nothing but the state of one connection: a panic there ends that
/// connection. A panic anywhere else in a shard ends the server.
fn contained<T>(act: impl FnOnce() -> T) -> Result<T, Disconnect> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|_| Disconnect::Internal)
}

fn keep_unread(conn: &mut ActiveConnection, rest: &[u8]) {
    if !rest.is_empty() {
        restore_unread(conn, rest.to_vec());
    }
}

fn restore_unread(conn: &mut ActiveConnection, unread: Vec<u8>) {
    if conn.phase != Phase::Closing && !unread.is_empty() {
        conn.cold_mut().unread = unread;
    }
}
