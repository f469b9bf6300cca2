//! Connections that move to another shard, or to the edge, and those that arrive.

use std::os::fd::OwnedFd;

use super::Home;
use super::connection::{AuthState, ColdState, Connection, Phase, Transport};
use super::connections::ActiveConnection;
use super::resume::{register_session, unregister_session};
use super::send_queue::SendQueue;
use super::write_order::Due;
use crate::auth::Origin;
use crate::counters::Dropped;
use crate::ids::{ConnId, ShardId, Timestamp};
use crate::session::{Framing, Input, RateHint, Session};
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

/// A connection in transit: everything but its place in the tables of a shard.
#[derive(Debug)]
pub struct Handoff {
    pub socket: OwnedFd,
    pub transport: Transport,
    pub session: Session,
    /// Requests that were taken off the stream and not carried out, unmasked.
    pub pending: Vec<u8>,
    /// Bytes received and not parsed.
    pub unread: Vec<u8>,
    pub unsent: SendQueue,
    pub rate_hint: RateHint,
    pub last_message: Timestamp,
    pub auth: AuthState,
    /// As in `Flags`.
    pub max_message_hint: u16,
    pub origin: Origin,
}

impl Handoff {
    /// A connection that speaks HTTP, whose next request is in `unread`.
    pub fn of_http(socket: OwnedFd, unread: Vec<u8>, now_ms: u64) -> Self {
        Handoff {
            socket,
            transport: Transport::Http,
            session: Session::undecided(),
            pending: Vec::new(),
            unread,
            unsent: SendQueue::default(),
            rate_hint: RateHint::Unlimited,
            last_message: Timestamp::at(now_ms),
            auth: AuthState::Pending { since: Timestamp::at(now_ms) },
            max_message_hint: 0,
            origin: Origin::default(),
        }
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
        conn.cold_mut().hand_off = Some(Move { to, pending });
        unregister_session(cx, conn);
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
        let Some(mut connection) = self.connections.remove(id) else { return Err(socket) };
        let ColdState { hand_off, unread, .. } = std::mem::take(connection.cold_mut());
        let Some(Move { to, pending }) = hand_off else {
            panic!("{id:?} moves nowhere");
        };
        let handoff = Handoff {
            socket,
            transport: connection.warm.transport,
            session: connection.warm.session,
            pending,
            unread,
            unsent: connection.queue,
            rate_hint: connection.rate_hint,
            last_message: connection.warm.last_message,
            auth: connection.warm.auth,
            max_message_hint: connection.flags.max_message_hint,
            origin: connection.flags.origin,
        };
        cx.counters.handed_off += 1;
        cx.outbox.send(to, Envelope::Adopt(Box::new(handoff)));
        Ok(())
    }

    /// A connection arrives from another shard, with what it has sent and not been answered. A full
    /// shard answers it and closes it.
    pub fn adopt(&mut self, cx: &mut ShardContext, handoff: Handoff) {
        let (now_ms, is_full) = (cx.now.mono_ms, self.is_full(cx));
        let Handoff { transport, session, auth, .. } = handoff;
        let mut connection = Connection::new(transport, session, now_ms, auth);
        connection.queue = handoff.unsent;
        connection.rate_hint = handoff.rate_hint;
        connection.warm.last_message = handoff.last_message;
        connection.flags.placement_final = true;
        connection.flags.max_message_hint = handoff.max_message_hint;
        connection.flags.origin = handoff.origin;
        let id = self.insert(cx, connection);
        cx.outbox.effect(Effect::Attach { conn: id, socket: handoff.socket });
        self.with(cx, id, |home, cx, conn| {
            if is_full {
                cx.counters.drop(Dropped::ConnectionLimit);
                return home.refuse(cx, conn, HeadError::ConnectionLimit);
            }
            cx.counters.adopted += 1;
            home.begin_adopted(cx, conn, handoff.pending, handoff.unread);
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
