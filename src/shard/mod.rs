//! A shard: the [`Owner`](owner) of some channels and the [`Home`](home) of some connections.
//!
//! The two halves talk to each other, and to those of other shards, by [`Envelope`]s only; so does
//! the [registry](session_registry) of the sessions whose names hash to the shard.
//! Invariant: the same inputs in the same order give the same effects, byte for byte; every input
//! returns with all envelopes to this very shard handled. Must never know glommio, sockets, clocks,
//! or which dialect a session speaks.
//!
//! [`turn()`] has the order of a turn: `begin_turn`, then any number of `handle_*`, then
//! `end_turn`; after each, `poll_effect` is drained to `None`. Between `end_turn` and the next
//! input the shell writes what `next_dirty` and `queue` name and reports with `handle_written` and
//! `handle_blocked`.
//!
//! Overload, by queue:
//!
//! | queue full | what happens | who learns of it | counter |
//! |---|---|---|---|
//! | mailbox home -> owner, presence update | kept at home, newest state only, sent when there is room | none: the state arrives later | `dropped{request,mailbox_full}` |
//! | mailbox home -> owner, leave or interest; any -> session registry | waits in the outbox, in order | none | - |
//! | mailbox home -> home, hand-off | the connection stays where it was accepted | none | `dropped{handoff,mailbox_full}` |
//! | mailbox owner -> home, tick | (channel, home) is stale; everyone who is present follows | the set replaces what was missed | `dropped{event,mailbox_full}` |
//! | send queue: socket takes no more | presence: the subscription is stale; the set follows | by contract | `conflated{slow_receiver}` |
//! | send queue over `send_queue_bytes_max`, answers without flow control | connection closed, 1013 | close reason | `disconnect{slow}` |
//! | the same, with flow control | no further request is carried out before there is room; closed, 1013, when more than `message_bytes_max` of requests wait | close reason | `disconnect{slow}` |
//! | input of a connection that waits for the admission hook, over `message_bytes_max` | connection closed, 1013 | close reason | `disconnect{slow}` |
//! | requests of a pass | beyond a sixteenth of a send queue, the rest of messages over 4 KiB waits for the next pass, in turns; not that of a client which has ended its stream | none | - |
//! | mailbox home -> owner, requests | wait in the outbox, in order; above its bound nothing is read from connections | none | - |
//! | mailbox owner -> home, messages | the home gets them on a later turn, as far as they are kept | a gap where they are not | `dropped{message,mailbox_full}` |
//! | send queue over `send_queue_bytes_max`, messages | dropped; when it reads again it is sent them as far as they are kept; or closed, 1013, as `slow_consumer` says | a gap where they are not, or the close reason | `dropped{message,slow_consumer}`, `disconnect{slow}` |
//! | send queue over `send_queue_bytes_max`, changes of members | it is sent who left and who is present when it reads again; closed after 1,024 departures | by contract | `conflated{slow_receiver}`, `disconnect{slow}` |
//! | mailbox owner -> home, documents | wait in the outbox, in order; above its bound nothing is read from connections | none | - |
//! | send queue over `send_queue_bytes_max`, documents | read from the log when the queue has been written | none | - |
//! | snapshots over `presence_burst_bytes_max` for all members | made once for all who wait, delivered in sweeps; a newer one replaces one that was not delivered yet | by contract | `conflated{large_set}` |
//! | mailbox owner -> edge, lines of a trace | dropped | none | `dropped{trace,mailbox_full}` |
//! | queue of the shell, events for webhooks | dropped | the receiver: `docs/webhooks.md` | `webhook_dropped{queue_full}` |
//! | updates over `updates_per_second_max` | newest state kept, sent in the next second; requests for the others are acknowledged | none | `conflated{update_rate}` |

mod channel_event;
mod channel_table;
mod context;
mod departures;
mod documents;
mod envelope;
mod home;
mod inline_vec;
mod inspection;
mod outbox;
mod owner;
mod question;
mod segmented_vec;
mod session_registry;
mod storage;
#[cfg(test)]
mod testing;
mod timers;
mod trace;
mod turn;

pub use crate::ids::Listener;
pub use channel_event::{ChannelEvent, EventKind};
pub use envelope::{
    AnnounceReply, Announcement, ChannelLoad, CloseMode, Command, Effect, Envelope, HomeChannelId,
    MemberList, MemberPage, MemberView, MembersFor, MessageBatch, PresenceTick, Recipients,
    Replaying, ReplyTo, Snapshot,
};
pub use home::{
    Handoff, Phase, PollOutcome, PollRequest, PollSession, READ_BYTES, ReadBudget, RunPool,
    SendQueue, WRITES_MAX,
};
pub use inspection::{
    ChannelDetail, ChannelFilter, ChannelView, ConnectionDetail, ConnectionFilter, ConnectionView,
    Inspection, Report, Slice, Subscribers,
};
pub use owner::serial_base;
pub use question::{Question, Verdict};
#[cfg(feature = "server")]
pub(crate) use segmented_vec::SegmentedVec;
pub use storage::{
    LogId, LogOf, StoreOperation, StoreOutcome, StoreRange, StoreReply, StoreRequest,
};
pub use trace::{Traced, Tracing};
pub use turn::{TurnIo, Wait, perform_all, turn};

use std::os::fd::OwnedFd;
use std::sync::Arc;

use context::ShardContext;
use enumset::EnumSet;
use home::Home;
use owner::Owner;
use session_registry::SessionRegistry;
use timers::Timer;

use crate::auth::Refusals;
use crate::counters::Counters;
use crate::ids::{Clocks, ConnId, Router, ShardId};
use crate::limits::Limits;
use crate::policy::{AdmitKind, Policies};
use crate::session;

/// What all shards of a process agree on. Of a reload come `policies`, `hint_app`, and the keys and
/// origins of `session`; everything else is fixed at start.
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
    /// What the admission hook decides; nothing without one.
    pub asks: EnumSet<AdmitKind>,
    /// How long nobody has been in a channel when webhooks are told that it is vacated.
    pub vacated_delay_ms: u64,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    cx: ShardContext,
    owner: Owner,
    home: Home,
    sessions: SessionRegistry,
    /// The first slot of the tables that has not taken up the last reload.
    reloaded_to: Option<u32>,
}

/// Slots of each table that take up a reload in one turn.
const RELOADED_AT_ONCE: u32 = 512;

impl Shard {
    pub fn new(id: ShardId, settings: Arc<Settings>) -> Self {
        let cx = ShardContext::new(id, settings);
        let (owner, home) = (Owner::new(&cx), Home::new(&cx));
        Shard { cx, owner, home, sessions: SessionRegistry::default(), reloaded_to: None }
    }

    /// Connections, those being closed included.
    pub fn connection_count(&self) -> usize {
        self.home.connections.len()
    }

    /// Members whose connection was lost and whose grace runs.
    pub fn lost_member_count(&self) -> usize {
        self.owner.lost.len()
    }

    /// Connections and lost memberships of the sessions whose names hash to this shard.
    pub fn registered_session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Channels that connections of this shard subscribe to.
    pub fn home_channel_count(&self) -> usize {
        self.home.channels.len()
    }

    /// The highest serial that this shard, or an earlier process, has assigned.
    pub fn highest_serial(&self) -> u64 {
        self.owner.retention.highest_serial()
    }

    /// The counts since start, with the gauges of this moment.
    pub fn counters(&self) -> Counters {
        counters(&self.cx, &self.owner, &self.home)
    }

    /// Keys and tokens that sessions of this shard have refused.
    pub fn refusals(&self) -> &Refusals {
        &self.cx.counters.refusals
    }

    /// For what only the shell sees happen.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.cx.counters
    }

    /// Begins a turn. `rooms`: free places in the mailbox of each shard and the edge. `loads`: the
    /// connections of every shard. Sends what waited for room.
    pub fn begin_turn(&mut self, now: Clocks, rooms: &[usize], loads: &[u32]) {
        self.begin_input(now);
        self.cx.counters.turns += 1;
        for (peer, &room) in rooms.iter().enumerate() {
            self.cx.outbox.set_room(ShardId(peer as u16), room);
        }
        self.owner.begin_turn();
        self.home.begin_turn(&mut self.cx, loads);
        self.go_on_reloading();
        if self.has_room() && !self.is_draining() {
            let Shard { cx, owner, home, sessions, .. } = self;
            home.drain_backlogs(cx, |home, cx| handle_local(cx, owner, home, sessions));
        }
        self.finish_input();
    }

    /// Routes and delivers what this turn changed.
    pub fn end_turn(&mut self, now: Clocks) {
        self.begin_input(now);
        self.home.send_counts(&mut self.cx);
        self.finish_input();
        self.flush();
        self.home.deliver_snapshots(&mut self.cx);
        self.finish_input();
        self.flush();
    }

    /// Other settings are in force from here on. Channels and sessions that are there take them up
    /// in the turns to come: sessions whose keys no longer grant what they may do end.
    pub fn reload(&mut self, now: Clocks, settings: Arc<Settings>) {
        self.cx.now = now;
        self.cx.settings = settings;
        self.reloaded_to = Some(0);
    }

    fn go_on_reloading(&mut self) {
        let Some(from) = self.reloaded_to else { return };
        let slots = from..from.saturating_add(RELOADED_AT_ONCE);
        self.owner.reload(&self.cx, slots.clone());
        self.home.reload(&mut self.cx, slots.clone());
        let all = self.owner.channels.slot_count().max(self.home.slot_count());
        self.reloaded_to = (slots.end < all).then_some(slots.end);
    }

    fn flush(&mut self) {
        while self.owner.is_dirty() || !self.home.outgoing.long_polls.is_empty() {
            self.owner.flush(&mut self.cx);
            self.finish_input();
            self.home.flush_long_polls(&mut self.cx);
            self.finish_input();
        }
        self.home.outgoing.write_order.begin_writing();
    }

    /// A connection was accepted. It is refused by `None` when the shard is full. One that arrives
    /// when the shard has drained is answered so.
    pub fn handle_open(&mut self, now: Clocks, listener: Listener) -> Option<ConnId> {
        self.cx.now = now;
        self.home.handle_open(&mut self.cx, listener)
    }

    /// The shell has the socket of a connection that was accepted.
    pub fn handle_opened(&mut self, now: Clocks, id: ConnId) {
        self.cx.now = now;
        self.home.handle_opened(&mut self.cx, id);
    }

    /// Takes what arrived on a connection; it may be any part of any number of messages. Messages
    /// are unmasked in place.
    pub fn handle_bytes(&mut self, now: Clocks, id: ConnId, bytes: &mut [u8]) {
        self.begin_input(now);
        self.home.handle_bytes(&mut self.cx, id, bytes);
        self.finish_input();
    }

    /// The peer has sent its last byte.
    pub fn handle_eof(&mut self, now: Clocks, id: ConnId) {
        self.begin_input(now);
        while self.home.drain_ended(&mut self.cx, id) {
            self.finish_input();
        }
        self.finish_input();
        self.home.handle_eof(&mut self.cx, id);
        self.finish_input();
    }

    /// The socket failed.
    pub fn handle_lost(&mut self, now: Clocks, id: ConnId) {
        self.begin_input(now);
        self.home.handle_lost(&mut self.cx, id);
        self.finish_input();
    }

    /// Takes an envelope from another shard.
    pub fn handle_envelope(&mut self, now: Clocks, envelope: Envelope) {
        self.begin_input(now);
        let Shard { cx, owner, home, sessions, .. } = self;
        dispatch(cx, owner, home, sessions, envelope);
        self.finish_input();
    }

    /// Takes an answer of the store.
    pub fn handle_stored(&mut self, now: Clocks, reply: StoreReply) {
        self.begin_input(now);
        self.owner.handle_stored(&mut self.cx, reply);
        self.finish_input();
    }

    /// Does what is due. Call when `poll_timeout` says so.
    pub fn handle_timeout(&mut self, now: Clocks) {
        self.begin_input(now);
        while let Some(timer) = self.cx.timers.pop_due(now.mono_ms) {
            match timer {
                Timer::Flush { .. }
                | Timer::Snapshot { .. }
                | Timer::Digest { .. }
                | Timer::Grace { .. }
                | Timer::Retention
                | Timer::Vacated { .. }
                | Timer::Occupancy { .. }
                | Timer::Documents { .. } => self.owner.handle_timer(&mut self.cx, timer),
                Timer::Sweep
                | Timer::SnapshotSweep { .. }
                | Timer::SnapshotExpiry { .. }
                | Timer::Edges { .. }
                | Timer::Replay { .. }
                | Timer::Rate { .. } => self.home.handle_timer(&mut self.cx, timer),
            }
        }
        self.finish_input();
    }

    /// When the next turn is due although nothing arrives.
    pub fn poll_wait(&self) -> Wait {
        if self.has_backlog() || !self.home.outgoing.write_order.is_empty() {
            return Wait::Now;
        }
        // What waits for room in a mailbox is tried again every millisecond.
        let retry_ms = self.is_waiting_for_room().then_some(self.cx.now.mono_ms + 1);
        let due_ms = retry_ms.into_iter().chain(self.poll_timeout()).min();
        due_ms.map_or(Wait::Idle, Wait::Until)
    }

    /// When `handle_timeout` must be called, in milliseconds of the monotonic clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.cx.timers.next_due_ms()
    }

    /// True while something waits for room in a mailbox.
    pub fn is_waiting_for_room(&self) -> bool {
        self.cx.outbox.is_waiting() || !self.home.retries.is_empty() || !self.owner.stale.is_empty()
    }

    /// True while so much waits for room in mailboxes that nothing more should be read: clients
    /// that send to this shard wait in their sockets.
    pub fn is_congested(&self) -> bool {
        self.cx.outbox.is_congested()
    }

    /// True while requests or subscribers wait for nothing but their turn.
    fn has_backlog(&self) -> bool {
        self.home.has_backlog() || self.owner.is_dirty() || self.reloaded_to.is_some()
    }

    /// False while so many connections are to be written to that no more should be taken from
    /// sockets and mailboxes.
    pub fn has_room(&self) -> bool {
        self.home.outgoing.write_order.has_room()
    }

    /// How much may be read in this pass: a pass is over when every connection that had bytes to
    /// write at its beginning has been written to.
    pub fn read_budget(&self) -> ReadBudget {
        self.home.admission.read
    }

    /// So many bytes were read from a connection; 0 when all that arrived waits for a later pass.
    /// `is_first`: nothing had arrived from it in this pass.
    pub fn note_read(&mut self, bytes: usize, is_first: bool) {
        self.home.admission.read.note(bytes, is_first);
    }

    /// The next thing the shell must do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.cx.outbox.effects.pop_front()
    }

    /// How many connections are to be written to in this turn, at most [`WRITES_MAX`].
    pub fn writes_of_turn(&self) -> usize {
        self.home.outgoing.write_order.writes()
    }

    /// The next connection with bytes to write. Its queue stays as it is until `handle_written`.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        self.home.next_dirty()
    }

    /// True while an unauthenticated connection has sent something and was not answered: what it
    /// has sent is to be acknowledged at once.
    pub fn needs_quick_ack(&self, id: ConnId) -> bool {
        self.home.needs_quick_ack(&self.cx, id)
    }

    /// True while requests of the connection wait for nothing but their turn.
    pub fn waits_for_turn(&self, id: ConnId) -> bool {
        self.home.connections.get(id).is_some_and(|connection| connection.flags.scheduled)
    }

    /// What waits to be written to a connection.
    pub fn queue(&self, id: ConnId) -> Option<&SendQueue> {
        self.home.connections.get(id).map(|connection| &connection.queue)
    }

    /// The socket took `count` bytes of the queue.
    pub fn handle_written(&mut self, now: Clocks, id: ConnId, count: usize) {
        self.cx.now = now;
        self.home.handle_written(&mut self.cx, id, count);
        self.finish_input();
    }

    /// The socket takes no more until `handle_writable`.
    pub fn handle_blocked(&mut self, id: ConnId) {
        self.home.handle_blocked(&mut self.cx, id);
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, now: Clocks, id: ConnId) {
        self.cx.now = now;
        self.home.handle_writable(&mut self.cx, id);
        self.finish_input();
    }

    /// Nothing is in progress any more for a connection that is to move: sends it off.
    ///
    /// # Errors
    /// Gives the socket back when the connection has ended meanwhile; the shell closes it.
    pub fn handle_detached(
        &mut self,
        now: Clocks,
        id: ConnId,
        socket: OwnedFd,
    ) -> Result<(), OwnedFd> {
        self.cx.now = now;
        let done = self.home.handle_detached(&mut self.cx, id, socket);
        self.finish_input();
        done
    }

    /// The shell has closed the socket; the connection's slot is free again.
    pub fn handle_released(&mut self, id: ConnId) {
        let gone = self.home.connections.remove(id);
        self.cx.counters.blocked -= u64::from(gone.is_some_and(|gone| gone.flags.blocked));
    }

    /// The server stops: what arrives from here on is not carried out. Sessions end as soon as
    /// every request has been answered.
    pub fn begin_drain(&mut self, now: Clocks) {
        self.cx.now = now;
        self.home.begin_drain();
        self.finish_input();
    }

    /// True when draining is over: no connection is left.
    pub fn has_drained(&self) -> bool {
        self.home.has_drained()
    }

    pub fn is_draining(&self) -> bool {
        self.home.drain.is_draining()
    }

    /// One input, then its effects: nothing may get lost or out of order between inputs.
    fn begin_input(&mut self, now: Clocks) {
        debug_assert!(
            self.cx.outbox.effects.is_empty(),
            "effects of the last input were not drained"
        );
        self.cx.now = now;
    }

    /// Handles what the input has sent to this very shard.
    fn finish_input(&mut self) {
        let Shard { cx, owner, home, sessions, .. } = self;
        handle_local(cx, owner, home, sessions);
    }
}

fn counters(cx: &ShardContext, owner: &Owner, home: &Home) -> Counters {
    let mut counters = cx.counters.clone();
    counters.connections = home.connections.len() as u64;
    counters.channels = owner.channels.len() as u64;
    counters.storing_bytes = owner.storing_bytes();
    counters
}

/// Handles envelopes to this very shard, and goes on with requests that paused for them.
fn handle_local(
    cx: &mut ShardContext,
    owner: &mut Owner,
    home: &mut Home,
    sessions: &mut SessionRegistry,
) {
    loop {
        while let Some(envelope) = cx.outbox.local.pop_front() {
            dispatch(cx, owner, home, sessions, envelope);
        }
        if home.resume_paused(cx) {
            continue;
        }
        home.end_drain_if_answered(cx);
        if cx.outbox.local.is_empty() {
            return;
        }
    }
}

fn dispatch(
    cx: &mut ShardContext,
    owner: &mut Owner,
    home: &mut Home,
    sessions: &mut SessionRegistry,
    envelope: Envelope,
) {
    match envelope {
        Envelope::Command { from, channel, command } => {
            owner.handle_command(cx, from, channel, command);
        }
        Envelope::Resume { key, addr } => owner.handle_resume(cx, &key, addr),
        Envelope::Session { hash, notice } => sessions.handle(cx, hash, notice),
        Envelope::Inspect { from, request, inspection } => {
            let report = inspect(cx, owner, home, inspection);
            cx.outbox.send(from, Envelope::Inspected { request, report });
        }
        envelope => home.handle_envelope(cx, envelope),
    }
}

fn inspect(
    cx: &mut ShardContext,
    owner: &Owner,
    home: &mut Home,
    inspection: Inspection,
) -> Report {
    match inspection {
        Inspection::Counters => Report::Counters(Box::new(counters(cx, owner, home))),
        Inspection::Channels { filter, from, limit } => {
            Report::Channels(owner.inspect_channels(cx.id, &filter, from, limit))
        }
        Inspection::Channel(key) => {
            Report::Channel(owner.inspect_channel(cx.id, &key).map(Box::new))
        }
        Inspection::Subscribers(key) => Report::Subscribers(home.inspect_subscribers(&key)),
        Inspection::Connections { filter, from, limit } => {
            Report::Connections(home.inspect_connections(cx, &filter, from, limit))
        }
        Inspection::Connection(id) => {
            Report::Connection(home.inspect_connection(cx, id).map(Box::new))
        }
        Inspection::Disconnect(id) => Report::Disconnected(home.disconnect_for_operator(cx, id)),
    }
}
