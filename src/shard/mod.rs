//! A shard: the channels it owns, the connections it is home to, and the queues between them.
//!
//! Owns the directory, subscriptions, send queues and timers of one core. Invariant: the same
//! inputs in the same order give the same effects, byte for byte; every input returns with all
//! envelopes to this very shard handled. Must never know glommio, sockets, clocks.
//!
//! The shell calls `begin_turn`, then any number of `handle_*`, then `end_turn`; after each it
//! drains `poll_effect` to `None`. Between `end_turn` and the next input it writes what
//! `next_dirty` and `queue` name and reports with `handle_written` and `handle_blocked`.
//!
//! Overload, by queue:
//!
//! | queue full | what happens | who is told | counter |
//! |---|---|---|---|
//! | mailbox home -> owner, presence update | kept at home, newest state only, sent when there is room | nobody: the state arrives later | `dropped{request,mailbox_full}` |
//! | mailbox home -> owner, leave or interest | waits in the outbox, in order | nobody | - |
//! | mailbox home -> home, hand-off | the connection stays where it was accepted | nobody | `dropped{handoff,mailbox_full}` |
//! | mailbox owner -> home, tick | (channel, home) is stale; the whole set follows | the set replaces what was missed | `dropped{event,mailbox_full}` |
//! | send queue: socket takes no more | presence: the subscription is stale; the set follows | by contract | `conflated{slow_receiver}` |
//! | send queue over `send_queue_bytes_max`, answers on the sync wire | connection closed, 1013 | close reason | `disconnect{slow}` |
//! | the same, Foony answers | no further request is carried out before there is room; closed, 1013, when more than `message_bytes_max` of requests wait | close reason | `disconnect{slow}` |
//! | requests of a pass, Foony | beyond a sixteenth of a send queue, what is left of messages over 4 KiB waits for the next pass, in turns; not that of a client which has ended its stream | nobody | - |
//! | mailbox home -> owner, Foony requests | wait in the outbox, in order; above its bound nothing is read from connections | nobody | - |
//! | mailbox owner -> home, messages | the home gets them on a later turn, as far as they are kept | a gap where they are not | `dropped{message,mailbox_full}` |
//! | send queue over `send_queue_bytes_max`, messages | dropped; when it reads again it is sent them as far as they are kept; or closed, 1013, as `slow_consumer` says | a gap where they are not, or the close reason | `dropped{message,slow_consumer}`, `disconnect{slow}` |
//! | send queue over `send_queue_bytes_max`, changes of members | it is shown who left and who is present when it reads again; closed after 1,024 departures | by contract | `conflated{slow_receiver}`, `disconnect{slow}` |
//! | presence sets over `presence_burst_bytes_max` for all members | made once for all who wait, shown in rounds over the subscribers; a newer set takes the place of one that was not shown yet | by contract | `conflated{large_set}` |
//! | updates over `updates_per_second_max` | newest state kept, sent in the next second; requests for the others are acknowledged | nobody | `conflated{update_rate}` |

mod backlog;
mod connection;
mod deliver;
mod drain;
mod envelope;
mod few;
mod home;
mod input;
mod large_set;
mod liveness;
mod membership;
mod outbox;
mod owner;
mod placement;
mod poll;
mod publish;
mod requests;
mod retention;
mod returning;
mod round;
mod rounds;
mod segments;
mod send_queue;
mod slot_list;
mod subscription;
mod table;
mod tables;
mod timeouts;
mod timers;
mod updates;
mod write_order;

pub use connection::{Connection, FirstMessage, Listener, Parcel, Session, Transport};
pub use envelope::{
    Announcement, Asker, Audience, Command, Effect, Envelope, Heat, HomeChannelId, Left,
    MemberView, MembersFor, MessageBatch, Parting, PresenceTick, Replaying, Welcome,
};
pub use poll::{PollAsk, PollOutcome, PollSession};
pub use retention::serial_base;
pub use round::PresenceSet;
#[cfg(feature = "server")]
pub(crate) use segments::Segments;
pub use send_queue::{SendQueue, Spares};
pub use write_order::WRITES_MAX;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use backlog::Intake;
use connection::{Connections, Greeting, Phase, Rare};
use drain::Drain;
use outbox::Outbox;
use owner::LostMembers;
use retention::Retention;
use returning::NamedSlots;
use rounds::RoundTimer;
use table::ChannelTable;
use tables::{HomeChannel, OwnedChannel};
use timers::{Timer, Timers};
use write_order::{Due, WriteOrder};

use crate::auth::Refusals;
use crate::counters::Counters;
use crate::error::Disconnect;
use crate::ids::{ConnId, Moment, Now, Router, ShardId};
use crate::limits::{Limits, STRANGER_MESSAGE_BYTES_MAX};
use crate::policy::Policies;
use crate::session::foony::encode::Writer;
use crate::session::{self, Answer, Feed, SessionNames};
use crate::wire::websocket::{MessageLimits, Opcode, close_body};

/// What all shards of a process agree on. Fixed at start.
#[derive(Debug)]
pub struct Settings {
    pub router: Router,
    /// The number by which shards address the edge executor: the one after the last shard.
    pub edge: ShardId,
    pub limits: Limits,
    pub policies: Policies,
    pub session: session::Settings,
    /// Listeners whose connections begin with a PROXY header.
    pub proxied: Vec<Listener>,
    /// The app that channel hints in URLs mean.
    pub hint_app: Arc<str>,
    /// Channels are numbered after this: 0 on the first run with a data directory, and above every
    /// serial of an earlier run otherwise.
    pub serial_base: u64,
    /// Random per process; makes session names.
    pub name_key: u64,
    /// The debug endpoint `/echo` is served.
    pub echo: bool,
}

impl Settings {
    fn message_limits(&self, connection: &Connection) -> MessageLimits {
        let most = self.limits.message_bytes_max;
        MessageLimits {
            message_bytes_max: match (connection.principal(), &connection.details.session) {
                (None, Session::Echo) | (Some(_), _) => most,
                (None, _) => most.min(STRANGER_MESSAGE_BYTES_MAX),
            },
            fragments_max: self.limits.fragments_max,
        }
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    settings: Arc<Settings>,
    connections: Connections,
    homes: ChannelTable<HomeChannel>,
    owned: ChannelTable<OwnedChannel>,
    lost: LostMembers,
    retention: Retention,
    outbox: Outbox,
    timers: Timers,
    names: SessionNames,
    /// Announcements sent to owners so far.
    announcements: u32,
    counters: Counters,
    /// Owned channels with something to tell; each once.
    dirty_channels: Vec<u32>,
    /// Owned channels some of whose homes missed a tick.
    stale_channels: Vec<u32>,
    /// Large sets of members made so far.
    sets_made: u64,
    /// Rounds of large sets with somebody to show them to; each once.
    showing: VecDeque<(HomeChannelId, Feed)>,
    /// Connections with bytes to write.
    write_order: WriteOrder,
    spares: Spares,
    /// Connections with something that a full mailbox refused; each once.
    retries: Vec<ConnId>,
    /// Hashes of channels whose further subscribers stay where they were accepted. Bounded by all
    /// connections over `home_subscribers_max`.
    hot: HashSet<u64>,
    /// Connections of every shard, as last reported by the shell.
    loads: Vec<u32>,
    /// Connections whose sessions can be continued elsewhere, by the hash of their names. At most
    /// one entry per connection.
    named: NamedSlots,
    /// Connections whose backlog can be looked at; each once.
    backlogged: VecDeque<ConnId>,
    intake: Intake,
    /// Long-polling connections with something to say; each once.
    dirty_polling: Vec<ConnId>,
    /// What the long-polling session that ended last had left to say.
    last_words: Vec<u8>,
    /// Answers of the message at hand.
    reply: Vec<u8>,
    sweeping: bool,
    /// Requests of this home's sessions that have not been answered.
    unanswered: u64,
    drain: Drain,
}

impl Shard {
    pub fn new(id: ShardId, settings: Arc<Settings>) -> Self {
        let shards = settings.router.shards();
        Shard {
            id,
            connections: Connections::default(),
            homes: ChannelTable::default(),
            owned: ChannelTable::default(),
            lost: LostMembers::default(),
            retention: Retention::new(&settings.limits, settings.serial_base),
            outbox: Outbox::new(id, usize::from(shards) + 1),
            timers: Timers::default(),
            names: SessionNames::new(settings.name_key, id.0, shards),
            announcements: 0,
            counters: Counters::default(),
            dirty_channels: Vec::new(),
            stale_channels: Vec::new(),
            sets_made: 0,
            showing: VecDeque::new(),
            write_order: WriteOrder::default(),
            spares: Spares::default(),
            retries: Vec::new(),
            hot: HashSet::new(),
            loads: vec![0; usize::from(shards)],
            named: NamedSlots::default(),
            backlogged: VecDeque::new(),
            intake: Intake::default(),
            dirty_polling: Vec::new(),
            last_words: Vec::new(),
            reply: Vec::new(),
            sweeping: false,
            unanswered: 0,
            drain: Drain::default(),
            settings,
        }
    }

    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Connections, those being closed included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Members whose connection was lost and whose grace runs.
    pub fn lost_member_count(&self) -> usize {
        self.lost.len()
    }

    /// Channels that connections of this shard subscribe to.
    pub fn home_channel_count(&self) -> usize {
        self.homes.len()
    }

    /// The counts since start, with the gauges of this moment.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.connections = self.connections.len() as u64;
        counters.channels = self.owned.len() as u64;
        counters
    }

    /// For what only the shell sees happen.
    /// Keys and tokens that sessions of this shard have refused.
    pub fn refusals(&self) -> &Refusals {
        &self.counters.refusals
    }

    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Learns how much room each mailbox has (`rooms`: one entry per shard and the edge) and how
    /// many connections each shard holds, and sends what waited for room.
    pub fn begin_turn(&mut self, now: Now, rooms: &[usize], loads: &[u32]) {
        self.assert_drained();
        self.counters.turns += 1;
        self.loads.copy_from_slice(loads);
        for (peer, &room) in rooms.iter().enumerate() {
            self.outbox.set_room(ShardId(peer as u16), room);
        }
        self.write_order.begin_turn();
        self.intake.begin_turn(self.pass());
        self.retry_stale_channels();
        self.retry_refused(now);
        if self.has_room() && !self.is_draining() {
            self.work_off_backlogs(now);
        }
        self.drain_local(now);
    }

    /// Tells watchers what this turn changed.
    pub fn end_turn(&mut self, now: Now) {
        self.assert_drained();
        self.flush_all(now);
        self.show_sets(now);
        self.drain_local(now);
        self.flush_all(now);
    }

    fn flush_all(&mut self, now: Now) {
        while !self.dirty_channels.is_empty() || !self.dirty_polling.is_empty() {
            self.flush_channels(now);
            self.drain_local(now);
            self.flush_polling(now);
            self.drain_local(now);
        }
        self.write_order.begin_writing();
    }

    /// A connection was accepted. It is refused by `None` when the shard is full. One that arrives
    /// when the shard has drained is told so.
    pub fn handle_open(&mut self, now: Now, listener: Listener) -> Option<ConnId> {
        let transport = match self.settings.proxied.contains(&listener) {
            true => Transport::Proxied(listener),
            false => Transport::from(listener),
        };
        self.open(now, transport)
    }

    /// The shell has the socket of a connection that was accepted.
    pub fn handle_opened(&mut self, now: Now, id: ConnId) {
        self.refuse_if_ended(now, id);
    }

    fn open(&mut self, now: Now, transport: Transport) -> Option<ConnId> {
        if self.is_full() {
            return None;
        }
        self.counters.accepted += 1;
        let deadline = Moment::at(now.mono_ms + self.settings.limits.greeting_ms);
        let connection = Connection::new(transport, now.mono_ms, Greeting::Due(deadline));
        Some(self.insert(now, connection))
    }

    /// Holds the shard as many connections as it may?
    pub(super) fn is_full(&self) -> bool {
        self.connections.len() >= self.settings.limits.connections_per_shard_max as usize
    }

    /// Takes an envelope from another shard.
    pub fn handle_envelope(&mut self, now: Now, envelope: Envelope) {
        self.assert_drained();
        self.take_envelope(now, envelope);
        self.drain_local(now);
    }

    /// Does what is due. Call when `poll_timeout` says so.
    pub fn handle_timeout(&mut self, now: Now) {
        self.assert_drained();
        while let Some(timer) = self.timers.pop_due(now.mono_ms) {
            match timer {
                Timer::Sweep => self.sweep(now),
                Timer::Flush { slot, generation } => self.own_flush_due(slot, generation),
                Timer::LargeSet { slot, generation } => self.own_large_set_due(slot, generation),
                Timer::Round { slot, generation, feed } => {
                    self.round_due(HomeChannelId { slot, generation }, feed, RoundTimer::Rest);
                }
                Timer::KeptSet { slot, generation, feed } => {
                    self.round_due(HomeChannelId { slot, generation }, feed, RoundTimer::Keep);
                }
                Timer::Grace { grace } => self.own_grace_over(now, grace),
                Timer::Pace { conn } => self.pace_due(now, conn),
                Timer::Retention => self.retain(now),
            }
        }
        self.drain_local(now);
    }

    /// When `handle_timeout` must be called, in milliseconds of the monotonic clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.next_due_ms()
    }

    /// True while something waits for room in a mailbox, or for its turn: the next turn must come
    /// soon although nothing arrives.
    pub fn is_waiting_for_room(&self) -> bool {
        self.outbox.is_waiting()
            || !self.retries.is_empty()
            || !self.stale_channels.is_empty()
            || self.has_backlog()
    }

    /// True while so much waits for room in mailboxes that nothing more should be read: whoever
    /// sends to this shard waits in its socket.
    pub fn is_congested(&self) -> bool {
        self.outbox.is_congested()
    }

    /// True while requests or subscribers wait for nothing but their turn.
    pub fn has_backlog(&self) -> bool {
        !self.backlogged.is_empty() || !self.showing.is_empty() || !self.dirty_channels.is_empty()
    }

    /// True while some connection has bytes to write.
    pub fn has_dirty_connections(&self) -> bool {
        !self.write_order.is_empty()
    }

    /// False while so many connections are to be written to that no more should be taken from
    /// sockets and mailboxes.
    pub fn has_room(&self) -> bool {
        self.write_order.has_room()
    }

    /// The number of this pass: a pass is over when everybody who had bytes to write at its
    /// beginning has been written to. How much is read from each connection is bounded by pass.
    pub fn pass(&self) -> u64 {
        self.write_order.pass()
    }

    /// The next thing the shell must do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.outbox.next_effect()
    }

    /// How many connections are to be written to in this turn, at most [`WRITES_MAX`].
    pub fn writes_of_turn(&self) -> usize {
        self.write_order.writes()
    }

    /// The next connection with bytes to write. Its queue stays as it is until `handle_written`.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        self.connections.fetch(self.write_order.upcoming());
        while let Some((id, due)) = self.write_order.pop() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
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

    /// Has a connection that has not greeted sent something without being answered? More may follow
    /// when that is acknowledged: the rest of a head or a greeting, or a body for the edge.
    pub fn is_owed_acknowledgement(&self, id: ConnId) -> bool {
        let is_edge = |to| to == self.settings.edge;
        let is_owed = |c: &Connection| {
            let has_greeted = matches!(c.details.greeting, Greeting::Done(_));
            !has_greeted && c.queue.is_empty() && c.moves_to().is_none_or(is_edge)
        };
        self.connections.get(id).is_some_and(is_owed)
    }

    /// What waits to be written to a connection.
    pub fn queue(&self, id: ConnId) -> Option<&SendQueue> {
        self.connections.get(id).map(|connection| &connection.queue)
    }

    /// The socket took `count` bytes of the queue.
    pub fn handle_written(&mut self, now: Now, id: ConnId, count: usize) {
        self.written(now, id, count);
        self.drain_local(now);
    }

    fn written(&mut self, now: Now, id: ConnId, count: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.queue.advance(count, &mut self.spares);
        self.counters.bytes_out += count as u64;
        if connection.rare().is_some() {
            self.schedule_backlog(id);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.queue.is_empty() {
            self.mark_due(id, Due::Delivery);
        } else if connection.flags.stale {
            self.refresh_stale(now, id);
        }
    }

    /// The socket takes no more until `handle_writable`.
    pub fn handle_blocked(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.flags.blocked = true;
            connection.queue.own();
        }
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.flags.blocked = false;
        if connection.queue.is_empty() {
            self.refresh_stale(now, id);
            self.drain_local(now);
        } else {
            self.mark_due(id, Due::Delivery);
        }
    }

    /// Nothing is under way any more for a connection that is to move: makes it a parcel and sends
    /// it off. False when the connection has ended meanwhile; then the shell closes the socket.
    pub fn handle_detached(&mut self, now: Now, id: ConnId, socket: i32) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        if connection.phase != Phase::Moving {
            return false;
        }
        let Rare { hand_off, unread, .. } = std::mem::take(connection.rare_mut());
        let Some(hand_off) = hand_off else { return false };
        let Some(connection) = self.connections.remove(id) else { return false };
        let parcel = Parcel {
            socket,
            transport: connection.details.transport,
            session: connection.details.session,
            first: hand_off.first,
            unread,
            unsent: connection.queue,
            pace: connection.pace,
            small_reader: connection.flags.small_reader,
            origin: connection.flags.origin,
            heard: connection.details.heard,
            greeting: connection.details.greeting,
        };
        self.counters.handed_off += 1;
        self.outbox.send(hand_off.to, Envelope::Adopt(Box::new(parcel)));
        self.drain_local(now);
        true
    }

    /// The shell has closed the socket; the connection's slot is free again.
    pub fn handle_released(&mut self, id: ConnId) {
        self.connections.remove(id);
    }

    /// Ends one connection from the shell's side (a fault in handling it, or a stuck close).
    pub fn handle_fault(&mut self, now: Now, id: ConnId) {
        self.disconnect(now, id, Disconnect::Internal);
        self.drain_local(now);
    }

    /// One input, then its effects: nothing may get lost or out of order between inputs.
    fn assert_drained(&self) {
        debug_assert!(self.outbox.is_drained(), "effects of the last input were not drained");
    }

    fn take_envelope(&mut self, now: Now, envelope: Envelope) {
        match envelope {
            Envelope::Command { from, channel, command } => {
                self.handle_command(now, from, channel, command);
            }
            Envelope::Presence { to, feeds, tick } => self.deliver_tick(now, to, feeds, &tick),
            Envelope::Set { to, set, audience } => self.take_set(now, to, set, audience),
            Envelope::Admitted { to, conn } => self.handle_admitted(to, conn),
            Envelope::Refused { to, channel, conn, number, request, reject } => {
                self.handle_refused(now, to, conn, number);
                self.answer(now, conn, request, &channel.name, &Answer::Refused(reject));
            }
            Envelope::Messages { to, feeds, batch } => {
                self.deliver_messages(now, to, feeds, &batch);
            }
            Envelope::CaughtUp { to, conn, messages, left } => {
                self.deliver_missed(now, to, conn, &messages, left);
            }
            Envelope::Answer { to: Asker::Session { conn, request }, channel, answer } => {
                self.handle_answer(now, conn, request, &channel, answer);
            }
            Envelope::Poll { from, number, ask } => self.handle_poll(now, from, number, ask),
            Envelope::Resume { key, addr, greeted_ms } => {
                self.handle_resume(now, &key, addr, greeted_ms);
            }
            Envelope::Resumed { conn, memberships } => self.handle_resumed(now, conn, memberships),
            Envelope::Heat { hash, heat: Heat::Hot } => {
                self.hot.insert(hash);
            }
            Envelope::Heat { hash, heat: Heat::Normal } => {
                self.hot.remove(&hash);
            }
            Envelope::Adopt(parcel) => self.adopt(now, *parcel),
            Envelope::Inspect { from, request } => {
                let counters = Box::new(self.counters());
                self.outbox.send(from, Envelope::Inspected { request, counters });
            }
            Envelope::Inspected { .. }
            | Envelope::Members { .. }
            | Envelope::Polled { .. }
            | Envelope::Answer { .. } => {
                debug_assert!(false, "answers for the edge came to shard {}", self.id);
            }
        }
    }

    fn drain_local(&mut self, now: Now) {
        while let Some(envelope) = self.outbox.next_local() {
            self.take_envelope(now, envelope);
        }
    }

    fn insert(&mut self, now: Now, connection: Connection) -> ConnId {
        if !self.sweeping {
            self.sweeping = true;
            self.timers.set(now.mono_ms + self.settings.limits.sweep_ms, Timer::Sweep);
        }
        self.connections.insert(connection)
    }

    /// Notes that a connection has bytes to write.
    fn mark_due(&mut self, id: ConnId, due: Due) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.flags.polling {
            return self.write_order.note(id, &mut connection.flags.due, due);
        }
        if connection.flags.due.replace(due).is_none() {
            self.dirty_polling.push(id);
        }
    }

    /// Ends a session: its memberships leave or linger, the peer is told why, the socket is closed
    /// after what is queued has been tried.
    fn disconnect(&mut self, now: Now, id: ConnId, reason: Disconnect) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.phase == Phase::Closing {
            return;
        }
        self.counters.disconnect(reason);
        self.leave_all(now, id, reason);
        self.forget_name(id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if let Session::Foony(session) = &connection.details.session {
            let form = session.form();
            connection.queue.append(|out| session.farewell(reason, &mut Writer::new(form, out)));
        }
        connection.phase = Phase::Closing;
        connection.change_rare(|rare| {
            (rare.unread, rare.backlog, rare.ended) = (Vec::new(), None, None);
        });
        if says_goodbye(&connection.details.transport, reason) {
            let body = close_body(reason.close_code(), &reason.to_string());
            connection
                .queue
                .append(|out| crate::wire::websocket::append_frame(out, Opcode::Close, &body));
        }
        connection.details.session = Session::Undecided;
        let unanswered = std::mem::take(&mut connection.details.unanswered);
        self.unanswered = self.unanswered.saturating_sub(unanswered.into());
        if connection.flags.polling {
            self.close_polling(now, id);
        } else {
            self.mark_due(id, Due::Answer);
            let parting = match reason {
                Disconnect::Clean | Disconnect::Lost => Parting::HeardOut,
                _ => Parting::MayGoOn,
            };
            self.outbox.effect(Effect::Close { conn: id, parting });
        }
        self.end_drain_if_answered(now);
    }
}

/// Whether the peer can be told why its connection ends.
fn says_goodbye(transport: &Transport, reason: Disconnect) -> bool {
    matches!(transport, Transport::WebSocket(_))
        && !matches!(reason, Disconnect::Clean | Disconnect::Lost)
}
