//! Connections that move to another shard, or to the edge, and those that arrive.

use std::os::fd::OwnedFd;

use super::Home;
use super::connection::{AuthState, ColdState, Connection, Flags, Phase, Transport};
use super::connections::ActiveConnection;
use super::edges::Edges;
use super::reader::ReaderKind;
use super::reload::is_revoked;
use super::resume::{register_session, unregister_session};
use super::write_order::Due;
use crate::counters::Dropped;
use crate::error::Disconnect;
use crate::ids::{ConnId, ShardId, Timestamp};
use crate::session::{Framing, Input, Session};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Effect, Envelope};
use crate::wire::http::HeadError;

/// A hand-off in progress.
#[derive(Debug)]
pub struct Move {
    /// Another shard, or the edge.
    pub to: ShardId,
    /// Requests that were taken off the stream and not carried out, unmasked.
    pub pending: Vec<u8>,
}

/// A connection in transit.
#[derive(Debug)]
pub struct Handoff {
    pub socket: OwnedFd,
    pub connection: Connection,
    /// Requests that were taken off the stream and not carried out, unmasked.
    pub pending: Vec<u8>,
    /// Bytes received and not parsed.
    pub unread: Vec<u8>,
    /// What its client decides about, if it does.
    pub edges: Option<Box<Edges>>,
    /// What it is to the relay of documents, if anything.
    pub reader: Option<ReaderKind>,
}

impl Handoff {
    /// A connection that speaks HTTP, whose next request is in `unread`.
    pub fn of_http(socket: OwnedFd, unread: Vec<u8>, now_ms: u64) -> Self {
        let auth = AuthState::Pending { since: Timestamp::at(now_ms) };
        let connection = Connection::new(Transport::Http, Session::undecided(), now_ms, auth);
        Handoff { socket, connection, pending: Vec::new(), unread, edges: None, reader: None }
    }
}

impl Home {
    /// Begins a hand-off; the new home begins with the `pending` requests.
    pub(super) fn begin_move(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        to: ShardId,
        pending: Vec<u8>,
    ) {
        conn.phase = Phase::Moving;
        unregister_session(cx, conn);
        conn.cold_mut().hand_off = Some(Box::new(Move { to, pending }));
        cx.outbox.effect(Effect::Detach { conn: conn.id });
    }

    /// Nothing is in progress any more for a connection that is to move: sends it off.
    ///
    /// # Errors
    /// Gives the socket back when the connection has ended meanwhile.
    pub fn handle_detached(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        socket: OwnedFd,
    ) -> Result<(), OwnedFd> {
        if self.connections.get(id).is_none_or(|c| c.phase != Phase::Moving) {
            return Err(socket);
        }
        let reader = self.with(cx, id, |home, cx, conn| home.stop_reading(cx, conn)).flatten();
        let Some(mut connection) = self.connections.remove(id) else { return Err(socket) };
        cx.counters.blocked -= u64::from(connection.flags.blocked);
        let cold = connection.take_cold(std::mem::take).unwrap_or_default();
        let ColdState { hand_off: Some(hand_off), unread, edges, .. } = cold else {
            panic!("{id:?} moves nowhere");
        };
        let Move { to, pending } = *hand_off;
        let handoff = Handoff { socket, connection, pending, unread, edges, reader };
        cx.counters.handed_off += 1;
        cx.outbox.send(to, Envelope::Adopt(Box::new(handoff)));
        Ok(())
    }

    /// A connection arrives from another shard, with what it has sent and not been answered. A full
    /// shard answers it and closes it.
    pub fn adopt(&mut self, cx: &mut ShardContext, handoff: Handoff) {
        let is_full = self.is_full(cx);
        let Handoff { socket, mut connection, pending, unread, edges, reader } = handoff;
        connection.phase = Phase::Open;
        connection.warm.last_byte = Timestamp::at(cx.now.mono_ms);
        let Flags { origin, max_message_hint, .. } = connection.flags;
        connection.flags =
            Flags { placement_final: true, origin, max_message_hint, ..Flags::default() };
        let id = self.insert(cx, connection);
        cx.outbox.effect(Effect::Attach { conn: id, socket });
        self.with(cx, id, |home, cx, conn| {
            if is_full {
                cx.counters.drop(Dropped::ConnectionLimit);
                return home.refuse(cx, conn, HeadError::ConnectionLimit);
            }
            cx.counters.adopted += 1;
            if is_revoked(cx, conn) {
                return home.disconnect(cx, conn, Disconnect::Revoked);
            }
            home.adopt_edges(cx, conn, edges);
            if let Some(kind) = reader {
                home.begin_reading(cx, conn, kind);
            }
            home.begin_adopted(cx, conn, pending, unread);
        });
    }

    fn begin_adopted(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        pending: Vec<u8>,
        mut unread: Vec<u8>,
    ) {
        register_session(cx, conn);
        if !pending.is_empty() && !self.drain.is_draining() {
            let input = Input {
                framing: Framing::WebSocket,
                kind: conn.session().message_kind(),
                bytes: &pending,
            };
            self.act_on_message(cx, conn, input);
        }
        if !unread.is_empty() {
            self.take_bytes(cx, conn, &mut unread);
        }
        if !conn.queue.is_empty() {
            self.outgoing.mark_due(conn.id, conn, Due::Answer);
        }
        self.refuse_if_drained(cx, conn);
    }

    /// Where a connection is about to go.
    pub(super) fn moves_to(conn: &Connection) -> Option<ShardId> {
        conn.cold()?.hand_off.as_ref().map(|hand_off| hand_off.to)
    }
}
