//! The home: the connections of one shard, their subscriptions and memberships, send queues, and
//! the admission of their requests.
//!
//! Invariant: every request is answered once; what is delivered to a subscriber is complete and in
//! order, or the subscriber is marked as having missed something, which is made good.
//! Must never know the truth of a channel, or which dialect a session speaks.

mod admission;
mod channel_entry;
mod connection;
mod connections;
mod deliver;
mod documents;
mod drain;
mod edges;
mod handoff;
mod hook;
mod input;
mod inspect;
mod interest;
mod liveness;
mod long_poll;
mod membership;
mod missed;
mod outgoing;
mod placement;
mod reader;
mod reload;
mod requests;
mod resume;
mod send_queue;
mod snapshot_sweep;
mod subscriber_list;
mod subscription;
mod sweeps;
mod timeouts;
mod updates;
mod write_order;

pub use admission::{READ_BYTES, ReadBudget};
pub use connection::Phase;
pub use edges::NotTaken;
pub use handoff::Handoff;
pub use long_poll::{PollOutcome, PollRequest, PollSession};
pub use send_queue::{RunPool, SendQueue};
pub use write_order::WRITES_MAX;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::channel_table::ChannelTable;
use super::context::ShardContext;
use super::envelope::{CloseMode, Effect, Envelope, HomeChannelId, ReplyTo};
use super::timers::Timer;
use crate::error::Disconnect;
use crate::ids::{ChannelKey, ConnAddr, ConnId, Listener, ShardId, Timestamp};
use crate::session::{Answer, Feed, Session, SessionNames};
use crate::wire::websocket::append_close;
use admission::Admission;
use channel_entry::HomeChannel;
use connection::{AuthState, Connection, Transport};
use connections::{ActiveConnection, Connections};
use documents::Audience;
use drain::Drain;
use outgoing::Outgoing;
use placement::Placement;
use resume::unregister_session;
use sweeps::SweepTimer;
use write_order::Due;

#[derive(Debug)]
pub struct Home {
    pub(super) connections: Connections,
    pub(super) channels: ChannelTable<HomeChannel>,
    pub(super) outgoing: Outgoing,
    pub(super) admission: Admission,
    placement: Placement,
    names: SessionNames,
    pub(super) drain: Drain,
    /// Sessions that receive documents, by app.
    audiences: BTreeMap<Arc<str>, Audience>,
    /// Announcements sent to owners so far.
    announcements: u32,
    /// Sweeps with something to deliver; each once.
    sweeps: VecDeque<(HomeChannelId, Feed)>,
    /// Bytes of snapshots that may still be queued in this turn.
    snapshot_budget: usize,
    /// Connections with something that a full mailbox refused; each once.
    pub(super) retries: Vec<ConnId>,
    /// What the session at hand answers.
    reply: Vec<u8>,
    /// A sweep timer is set.
    sweeping: bool,
    /// Channels with occupancy whose subscribers have changed in this turn.
    recounted: Vec<u32>,
}

impl Home {
    pub fn new(cx: &ShardContext) -> Self {
        let shards = cx.settings.router.shards();
        Home {
            connections: Connections::default(),
            channels: ChannelTable::default(),
            outgoing: Outgoing::default(),
            admission: Admission::default(),
            placement: Placement::new(usize::from(shards)),
            names: SessionNames::new(cx.settings.name_key, cx.id.0, shards),
            drain: Drain::default(),
            audiences: BTreeMap::new(),
            announcements: 0,
            sweeps: VecDeque::new(),
            snapshot_budget: 0,
            retries: Vec::new(),
            recounted: Vec::new(),
            reply: Vec::new(),
            sweeping: false,
        }
    }

    /// Begins a turn. `loads`: the connections of every shard.
    pub fn begin_turn(&mut self, cx: &mut ShardContext, loads: &[u32]) {
        self.placement.set_loads(loads);
        self.snapshot_budget = cx.limits().presence_burst_bytes_max;
        self.outgoing.write_order.begin_turn();
        self.admission.begin_turn(self.outgoing.write_order.pass());
        self.retry_refused(cx);
    }

    /// A connection was accepted; `None` when the shard is full.
    pub fn handle_open(&mut self, cx: &mut ShardContext, listener: Listener) -> Option<ConnId> {
        let transport = match cx.settings.proxied.contains(&listener) {
            true => Transport::Proxied(listener),
            false => Transport::from(listener),
        };
        self.open(cx, transport, Session::undecided())
    }

    fn open(
        &mut self,
        cx: &mut ShardContext,
        transport: Transport,
        session: Session,
    ) -> Option<ConnId> {
        if self.is_full(cx) {
            return None;
        }
        cx.counters.accepted += 1;
        let since = Timestamp::at(cx.now.mono_ms);
        let auth = AuthState::Pending { since };
        let connection = Connection::new(transport, session, cx.now.mono_ms, auth);
        Some(self.insert(cx, connection))
    }

    /// True at the limit of connections.
    fn is_full(&self, cx: &ShardContext) -> bool {
        self.connections.len() >= cx.limits().connections_per_shard_max as usize
    }

    fn insert(&mut self, cx: &mut ShardContext, connection: Connection) -> ConnId {
        if !self.sweeping {
            self.sweeping = true;
            cx.timers.set(cx.now.mono_ms + cx.limits().sweep_ms, Timer::Sweep);
        }
        self.connections.insert(connection)
    }

    /// The shell has the socket of a connection that was accepted.
    pub fn handle_opened(&mut self, cx: &mut ShardContext, id: ConnId) {
        self.with(cx, id, |home, cx, conn| home.refuse_if_drained(cx, conn));
    }

    /// The socket failed. The end of the stream before that, if there was one, is the reason.
    pub fn handle_lost(&mut self, cx: &mut ShardContext, id: ConnId) {
        let half_closed = self.connections.get(id).and_then(|connection| connection.half_closed());
        self.disconnect_by_id(cx, id, half_closed.map_or(Disconnect::Lost, |half| half.reason));
    }

    /// The next connection with bytes to write. Its queue stays as it is until `handle_written`.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        let Home { connections, outgoing, .. } = self;
        connections.fetch(outgoing.write_order.upcoming());
        while let Some((id, due)) = outgoing.write_order.pop() {
            let Some(connection) = connections.get_mut(id) else { continue };
            if connection.flags.due != Some(due) {
                continue;
            }
            connection.flags.due = None;
            if !connection.flags.blocked && !connection.queue.is_empty() {
                return Some(id);
            }
        }
        None
    }

    /// The socket took `count` bytes of the queue.
    pub fn handle_written(&mut self, cx: &mut ShardContext, id: ConnId, count: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.cold().is_none() && !connection.flags.stale {
            connection.queue.advance(count, &mut self.outgoing.run_pool);
            cx.counters.bytes_out += count as u64;
            if !connection.queue.is_empty() {
                self.outgoing.mark_due(id, connection, Due::Delivery);
            }
            return;
        }
        self.with(cx, id, |home, cx, conn| home.written(cx, conn, count));
    }

    fn written(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection, count: usize) {
        conn.queue.advance(count, &mut self.outgoing.run_pool);
        cx.counters.bytes_out += count as u64;
        self.admission.schedule(cx, conn);
        if !conn.queue.is_empty() {
            self.outgoing.mark_due(conn.id, conn, Due::Delivery);
        } else {
            self.refresh_stale(cx, conn);
        }
    }

    /// The socket takes no more until `handle_writable`.
    pub fn handle_blocked(&mut self, cx: &mut ShardContext, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            cx.counters.blocked += u64::from(!connection.flags.blocked);
            connection.flags.blocked = true;
            connection.queue.own();
        }
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, cx: &mut ShardContext, id: ConnId) {
        self.with(cx, id, |home, cx, conn| {
            cx.counters.blocked -= u64::from(conn.flags.blocked);
            conn.flags.blocked = false;
            if conn.queue.is_empty() {
                home.refresh_stale(cx, conn);
            } else {
                home.outgoing.mark_due(conn.id, conn, Due::Delivery);
            }
        });
    }

    /// True while an unauthenticated connection has sent something and was not answered. More may
    /// follow when it is acknowledged: the rest of a head or a greeting, or a body for the edge.
    pub fn needs_quick_ack(&self, cx: &ShardContext, id: ConnId) -> bool {
        let is_edge = |to| to == cx.settings.edge;
        self.connections.get(id).is_some_and(|c| {
            matches!(c.warm.auth, AuthState::Pending { .. })
                && c.queue.is_empty()
                && Home::moves_to(c).is_none_or(is_edge)
        })
    }

    /// Takes an envelope of an owner, another home or the edge.
    pub fn handle_envelope(&mut self, cx: &mut ShardContext, envelope: Envelope) {
        match envelope {
            Envelope::Presence { to, feeds, tick } => self.deliver_tick(cx, to, feeds, &tick),
            Envelope::Messages { to, feeds, batch } => {
                self.deliver_messages(cx, to, feeds, &batch);
            }
            Envelope::Snapshot { to, snapshot, recipients } => {
                self.take_snapshot(cx, to, snapshot, recipients);
            }
            Envelope::CaughtUp { to, conn, page } => {
                self.with(cx, conn, |home, cx, conn| home.deliver_missed(cx, to, conn, &page));
            }
            Envelope::Admitted { to, conn } => {
                self.with(cx, conn, |home, _, conn| home.handle_admitted(to, conn));
            }
            Envelope::Refused { to, channel, conn, number, request, reject } => {
                let answer = Answer::Refused(reject);
                self.with(cx, conn, |home, cx, conn| {
                    home.handle_refused(cx, to, conn, number);
                    home.answer(cx, conn, request, &channel.name, &answer);
                });
            }
            Envelope::Answer { to: ReplyTo::Session { conn, request }, channel, answer } => {
                self.with(cx, conn, |home, cx, conn| {
                    home.handle_answer(cx, conn, request, &channel, answer);
                });
            }
            Envelope::Contest { slot, claim } => self.handle_contest(cx, slot, claim),
            Envelope::LostAt { key, conn, owners } => self.handle_lost_at(cx, conn, &key, &owners),
            Envelope::Resumed { conn, memberships, is_answer } => {
                self.handle_resumed(cx, conn, memberships, is_answer);
            }
            Envelope::ChannelLoad { hash, load } => self.placement.set_channel_load(hash, load),
            Envelope::EdgeWanted { conn, about } => {
                self.with(cx, conn, |home, cx, conn| home.edge_wanted(cx, conn, *about));
            }
            Envelope::EdgeUnwanted { conn, channel, key } => {
                self.with(cx, conn, |home, _, conn| home.edge_unwanted(conn, &channel, &key));
            }
            Envelope::Direct { conn, channel, from, request, message } => {
                self.deliver_direct(cx, conn, channel, (from, request), &message);
            }
            Envelope::Documents { app, event } => self.handle_document_event(cx, &app, *event),
            Envelope::Adopt(handoff) => self.adopt(cx, *handoff),
            Envelope::Verdict { conn, number, verdict } => {
                self.handle_verdict(cx, conn, number, verdict);
            }
            Envelope::Poll { from, number, request } => {
                self.handle_poll(cx, from, number, request);
            }
            _ => debug_assert!(false, "{envelope:?} is not for the home of shard {}", cx.id),
        }
    }

    pub fn handle_timer(&mut self, cx: &mut ShardContext, timer: Timer) {
        let home = |slot, generation| HomeChannelId { slot, generation };
        match timer {
            Timer::Sweep => self.sweep(cx),
            Timer::SnapshotSweep { slot, generation, feed } => {
                self.sweep_due(home(slot, generation), feed, SweepTimer::Pause);
            }
            Timer::SnapshotExpiry { slot, generation, feed } => {
                self.sweep_due(home(slot, generation), feed, SweepTimer::Expiry);
            }
            Timer::Edges { conn } => {
                self.with(cx, conn, |home, cx, conn| home.edges_due(cx, conn));
            }
            Timer::Replay { conn } => {
                self.with(cx, conn, |home, cx, conn| home.replay_due(cx, conn));
            }
            Timer::Rate { conn } => {
                self.with(cx, conn, |home, cx, conn| home.rate_due(cx, conn));
            }
            _ => debug_assert!(false, "{timer:?} is for the owner"),
        }
    }

    /// Calls `act` with a connection; `None` when it is gone.
    fn with<T>(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        act: impl FnOnce(&mut Home, &mut ShardContext, &mut ActiveConnection) -> T,
    ) -> Option<T> {
        let mut conn = self.connections.check_out(id)?;
        let result = act(self, cx, &mut conn);
        self.connections.check_in(conn);
        Some(result)
    }

    /// The channel in a slot that a subscription or membership names.
    fn channel(&mut self, slot: u32) -> &mut HomeChannel {
        match self.channels.get_mut(slot) {
            Some(channel) => channel,
            None => panic!("channel {slot} of a home is gone"),
        }
    }

    fn channel_id(&self, slot: u32) -> HomeChannelId {
        HomeChannelId { slot, generation: self.channels.generation(slot) }
    }

    /// True while the entry that an envelope names has not been removed.
    fn is_current(&self, to: HomeChannelId) -> bool {
        self.channels.generation(to.slot) == to.generation && self.channels.get(to.slot).is_some()
    }

    /// Ends a session: its memberships leave or linger, the peer receives the reason, the socket is
    /// closed after what is queued has been tried.
    fn disconnect(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        reason: Disconnect,
    ) {
        if conn.phase == Phase::Closing {
            return;
        }
        cx.counters.disconnect(reason);
        conn.phase = Phase::Closing;
        self.leave_all(cx, conn, reason);
        unregister_session(cx, conn);
        self.drop_edges(cx, conn);
        self.stop_reading(cx, conn);
        let connection = &mut **conn;
        connection.queue.append(|out| connection.warm.session.farewell(reason, out));
        connection.take_cold(|cold| {
            (cold.unread, cold.backlog) = (Vec::new(), None);
            (cold.half_closed, cold.asked) = (None, None);
        });
        let is_clean = matches!(reason, Disconnect::Clean | Disconnect::Lost);
        if matches!(connection.warm.transport, Transport::WebSocket(_)) && !is_clean {
            let text = reason.to_string();
            connection.queue.append(|out| append_close(out, reason.close_code(), &text));
        }
        connection.warm.session = Session::undecided();
        self.drain.answered(std::mem::take(&mut connection.warm.unanswered));
        if connection.flags.long_poll {
            self.close_long_poll(cx, conn);
        } else {
            self.outgoing.mark_due(conn.id, conn, Due::Answer);
            let mode = if is_clean { CloseMode::Immediate } else { CloseMode::Linger };
            cx.outbox.effect(Effect::Close { conn: conn.id, mode });
        }
    }

    /// Ends a session by its connection's id, which is not the connection at hand.
    pub fn disconnect_by_id(&mut self, cx: &mut ShardContext, id: ConnId, reason: Disconnect) {
        self.with(cx, id, |home, cx, conn| home.disconnect(cx, conn, reason));
    }

    fn retry_later(&mut self, conn: &mut ActiveConnection) {
        if !conn.flags.retrying {
            conn.flags.retrying = true;
            self.retries.push(conn.id);
        }
    }

    fn addr(cx: &ShardContext, id: ConnId) -> ConnAddr {
        ConnAddr { shard: cx.id, conn: id }
    }

    fn owner_of(cx: &ShardContext, key: &ChannelKey) -> ShardId {
        cx.settings.router.shard_of(key.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::envelope::Command;
    use crate::shard::testing::{context, sent};
    use crate::wire::sync::message::Map;
    use crate::wire::sync::message::presence::{PresenceLeave, PresenceUpdate};
    use crate::wire::sync::message::session::Handshake;
    use crate::wire::sync::{self, Layout, Message};
    use crate::wire::websocket::{Opcode, append_masked_frame};

    fn upgrade(path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes()
    }

    fn send_sync(home: &mut Home, cx: &mut ShardContext, id: ConnId, message: &Message<'_>) {
        let mut bytes = Vec::new();
        sync::append_message(message, Layout::V0_6, &mut bytes).unwrap();
        home.handle_bytes(cx, id, &mut bytes);
    }

    #[test]
    fn an_announcement_subscribes_and_asks_the_owner() {
        let mut cx = context();
        let mut home = Home::new(&cx);
        let id = home.handle_open(&mut cx, Listener::SyncTcp).unwrap();
        let handshake = Handshake {
            jwt_token: "",
            vector_clock: Map::default(),
            subscribed_shapes: Vec::new(),
            client_version: "test",
            lite_id: "",
            epoch: 0,
            wire_version: 1,
        };
        send_sync(&mut home, &mut cx, id, &Message::Handshake(handshake));
        let channel = "room:1";
        let update = PresenceUpdate { channel, state: &[1] };
        home.placement.set_channel_load(
            crate::shard::testing::key(&cx, channel).hash,
            crate::shard::envelope::ChannelLoad::Hot,
        );
        send_sync(&mut home, &mut cx, id, &Message::PresenceUpdate(update));
        let sent = sent(&mut cx);
        let [Envelope::Command { command: first, .. }, Envelope::Command { command: second, .. }] =
            &sent[..]
        else {
            panic!("{sent:?}")
        };
        assert!(matches!(first, Command::Subscribe { .. }), "{first:?}");
        assert!(matches!(second, Command::Announce(_)), "{second:?}");
        assert_eq!(home.channels.len(), 1);
    }

    #[test]
    fn a_leave_before_the_greeting_is_ignored() {
        let mut cx = context();
        let mut home = Home::new(&cx);
        let id = home.handle_open(&mut cx, Listener::SyncTcp).unwrap();
        let leave = PresenceLeave { channel: "room:1", user_id: "ann" };
        send_sync(&mut home, &mut cx, id, &Message::PresenceLeave(leave));
        let counted: Vec<_> = cx.counters.ignored().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("unauthenticated", 1)]);
        assert!(home.connections.get(id).unwrap().is_open());
    }

    #[test]
    fn a_panic_in_a_session_ends_its_connection_and_no_other() {
        let mut cx = context();
        let mut home = Home::new(&cx);
        let [first, other] = [(); 2].map(|()| {
            let id = home.handle_open(&mut cx, Listener::Http).unwrap();
            home.handle_bytes(&mut cx, id, &mut upgrade("/echo"));
            id
        });
        let mut send = |id, text: &[u8]| {
            let mut bytes = Vec::new();
            append_masked_frame(&mut bytes, Opcode::Text, text, [1, 2, 3, 4]);
            home.handle_bytes(&mut cx, id, &mut bytes);
        };
        send(first, crate::session::PANIC);
        send(other, b"still here");
        let queued = |home: &Home, id| -> Vec<u8> {
            home.connections.get(id).unwrap().queue.runs().flatten().copied().collect()
        };
        assert!(queued(&home, other).ends_with(b"still here"));
        assert!(!queued(&home, first).ends_with(b"panic"), "nothing is answered");
        assert_eq!(home.connections.get(first).map(|c| c.phase), Some(Phase::Closing));
        assert_eq!(home.connections.get(other).map(|c| c.phase), Some(Phase::Open));
    }
}
