//! The turn loop: one shard, one ring, nothing else on its thread.
//!
//! A turn: completions into the core, mailbox into the core, timers, end of turn, writes, sleep if
//! there was nothing to do. The loop never waits for anything but its own ring.

mod close;
mod receive;
mod spin;
mod write;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use receive::Unarmed;
use spin::Spin;
use write::Gathered;

use crate::counters::{Dropped, TurnPhase};
use crate::ids::{Clocks, ConnId, ShardId};
use crate::server::clock::Clock;
use crate::server::listen::ShardListeners;
use crate::server::mesh::Mailboxes;
use crate::server::proxies::Proxies;
use crate::server::refusals::ShardRefusals;
use crate::server::reload::Reloadable;
use crate::server::ring::{Completion, Operation, Ring};
use crate::server::sockets::{Arrival, Sockets, Stage, token};
use crate::server::storage::StoreClient;
use crate::server::webhooks::WebhookSender;
use crate::shard::{self, CloseMode, Effect, Envelope, Listener, Shard, StoreReply, TurnIo, Wait};

/// Envelopes taken from one peer in one turn, so that a busy one does not starve the sockets.
const ENVELOPES_PER_PEER: usize = 1024;

/// How long accepting rests after the process ran out of descriptors.
const ACCEPT_PAUSE_MS: u64 = 100;

/// How long a shard that drains goes on listening: connections whose handshake is under way are
/// told to try again, and not reset. About what a handshake over a long distance takes.
const LISTEN_ON_MS: u64 = 200;

/// What every shard listens on, in the order of their numbers.
const LISTENERS: [Listener; 2] = [Listener::Http, Listener::SyncTcp];

/// Longest sleep while there is traffic; a lost wake-up costs no more than this.
const SLEEP_LOADED: Duration = Duration::from_millis(20);

/// Longest sleep without traffic.
const SLEEP_IDLE: Duration = Duration::from_millis(500);

/// What the main thread tells shards.
#[derive(Clone)]
pub enum Control {
    /// Take up other settings.
    Reload(Arc<Reloadable>),
    /// Accept no more, end every session or connection, and report when none is left. A shard goes
    /// on serving the edge.
    Drain,
    /// Nothing asks this shard anything any more.
    End,
}

/// Descriptors for connections, counted over all shards.
#[derive(Debug)]
pub struct DescriptorBudget {
    pub used: AtomicU32,
    pub limit: u32,
}

/// What a shard's thread is started with.
pub struct ShardParts {
    pub shard: Shard,
    pub mailboxes: Mailboxes,
    pub spin: Duration,
    pub host: Host,
}

/// What a shard uses of the process that it runs in.
pub struct Host {
    pub listeners: ShardListeners,
    pub proxies: Arc<Proxies>,
    pub control: Receiver<Control>,
    pub clock: Clock,
    pub budget: Arc<DescriptorBudget>,
    pub refusals: ShardRefusals,
    /// Set when any channel has its messages on disk.
    pub store: Option<StoreClient>,
    /// Set when webhooks are told of events.
    pub webhooks: Option<WebhookSender>,
}

impl Host {
    /// The next answer of the store.
    fn next_stored(&self) -> Option<StoreReply> {
        self.store.as_ref()?.next_reply()
    }

    /// Whether the store has answered something.
    fn has_stored(&self) -> bool {
        self.store.as_ref().is_some_and(|store| !store.is_empty())
    }
}

/// One shard at work.
pub struct TurnLoop {
    shard: Shard,
    ring: Ring,
    sockets: Sockets,
    mailboxes: Mailboxes,
    host: Host,
    spin: Spin,
    completions: Vec<Completion>,
    /// Receive completions of connections that have had their share of a pass.
    deferred: VecDeque<Completion>,
    rooms: Vec<usize>,
    loads: Vec<u32>,
    unarmed: Unarmed,
    /// Connections being written to, with the bytes given to the socket.
    flushing: Vec<(ConnId, usize)>,
    gathered: Gathered,
    /// Connections being closed, with the time at which they are closed by force.
    closing: VecDeque<(u64, ConnId)>,
    /// When to accept again on a listener that failed to.
    accept_again_ms: [Option<u64>; LISTENERS.len()],
    /// When a shard that drains closes its listeners.
    close_listeners_ms: Option<u64>,
    ended: bool,
    /// Something has arrived in this turn.
    has_arrived: bool,
    /// When the part of the turn that is under way began.
    phase_began: Instant,
    inbound: Inbound,
}

impl TurnIo for TurnLoop {
    type Error = io::Error;

    fn shard(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn begin(&mut self, now: Clocks) {
        let endpoints = self.mailboxes.endpoints();
        for (load, endpoint) in self.loads.iter_mut().zip(endpoints.iter()) {
            *load = endpoint.connections.load(Ordering::Relaxed);
        }
        let count = self.shard.connection_count() as u32;
        let endpoint = self.mailboxes.endpoint();
        endpoint.connections.store(count, Ordering::Relaxed);
        endpoint.highest_serial.store(self.shard.highest_serial(), Ordering::Relaxed);
        self.shard.counters_mut().mailbox_depth = self.mailboxes.waiting() as u64;
        self.mailboxes.rooms(&mut self.rooms);
        self.shard.begin_turn(now, &self.rooms, &self.loads);
        self.has_arrived = false;
        self.inbound = Inbound::default();
    }

    fn receive(&mut self, now: Clocks) -> io::Result<()> {
        self.has_arrived = self.take_completions(now)?;
        while let Some(reply) = self.host.next_stored() {
            self.has_arrived = true;
            self.shard.handle_stored(now, reply);
            self.drain_effects(now)?;
        }
        self.end_phase(TurnPhase::Receive);
        Ok(())
    }

    fn next_envelope(&mut self) -> Option<Envelope> {
        while self.inbound.peer < self.mailboxes.peers() {
            if self.inbound.taken < ENVELOPES_PER_PEER
                && let Some(envelope) = self.mailboxes.take(self.inbound.peer)
            {
                self.inbound.taken += 1;
                self.has_arrived = true;
                return Some(envelope);
            }
            self.inbound = Inbound { peer: self.inbound.peer + 1, taken: 0 };
        }
        None
    }

    fn control(&mut self, now: Clocks) -> io::Result<()> {
        self.end_phase(TurnPhase::Mailbox);
        self.take_control(now)
    }

    fn perform(&mut self, now: Clocks, effect: Effect) -> io::Result<()> {
        match effect {
            Effect::Send { to, envelope } => self.post(to, envelope),
            Effect::Close { conn, mode } => self.begin_close(now, conn, mode),
            Effect::Detach { conn } => self.begin_detach(now, conn)?,
            Effect::Attach { conn, socket } => {
                self.sockets.insert(conn, socket);
                self.unarmed.push(conn);
            }
            Effect::Notify(event) => {
                if let Some(webhooks) = &self.host.webhooks {
                    webhooks.send(event);
                }
            }
            Effect::Store(request) => {
                let Some(store) = &self.host.store else {
                    return Err(io::Error::other("a channel is on disk, and there is no store"));
                };
                store.send(*request);
            }
        }
        Ok(())
    }

    fn write(&mut self, now: Clocks) -> io::Result<()> {
        self.end_phase(TurnPhase::Deliver);
        self.receive_again()?;
        self.accept_again(now)?;
        self.flush(now)?;
        self.finish_closing(now)?;
        self.end_phase(TurnPhase::Write);
        Ok(())
    }
}

/// The mailbox that envelopes are taken from in this turn, and how many were.
#[derive(Clone, Copy, Debug, Default)]
struct Inbound {
    peer: usize,
    taken: usize,
}

impl TurnLoop {
    /// Sets up the ring on the calling thread and starts to accept.
    ///
    /// # Errors
    /// What the kernel says about the ring.
    pub fn new(parts: ShardParts) -> io::Result<Self> {
        let shards = parts.mailboxes.peers() - 1;
        let mut ring = Ring::new()?;
        ring.poll_wake(parts.mailboxes.endpoint().event())?;
        let mut turns = TurnLoop {
            shard: parts.shard,
            ring,
            sockets: Sockets::default(),
            mailboxes: parts.mailboxes,
            host: parts.host,
            spin: Spin::new(parts.spin),
            completions: Vec::new(),
            deferred: VecDeque::new(),
            rooms: Vec::new(),
            loads: vec![0; shards],
            unarmed: Unarmed::default(),
            flushing: Vec::new(),
            gathered: Gathered::new(),
            closing: VecDeque::new(),
            accept_again_ms: [None; LISTENERS.len()],
            close_listeners_ms: None,
            ended: false,
            has_arrived: false,
            phase_began: Instant::now(),
            inbound: Inbound::default(),
        };
        turns.arm_accept()?;
        Ok(turns)
    }

    /// Takes turns until the shard has drained.
    ///
    /// # Errors
    /// A ring that no longer works; the process cannot go on.
    pub fn run_until_drained(&mut self) -> io::Result<()> {
        self.run_until(|turns| turns.shard.has_drained() && turns.host.listeners.are_closed())
    }

    /// Takes turns until the end, and until connections that came meanwhile have been told.
    ///
    /// # Errors
    /// A ring that no longer works; the process cannot go on.
    pub fn run_until_ended(&mut self) -> io::Result<()> {
        self.run_until(|turns| turns.ended && turns.shard.has_drained())
    }

    fn run_until(&mut self, is_over: impl Fn(&Self) -> bool) -> io::Result<()> {
        loop {
            let wait = self.turn()?;
            if is_over(self) {
                return Ok(());
            }
            match wait {
                Wait::Now => self.spin.note_work(),
                _ if self.spin_for_work()? => {}
                Wait::Until(due_ms) => self.sleep(Some(due_ms))?,
                Wait::Idle => self.sleep(None)?,
            }
        }
    }

    /// Takes a turn. `Wait::Now` also while there is something to read, or has been.
    fn turn(&mut self) -> io::Result<Wait> {
        let (began, now) = (Instant::now(), self.host.clock.now());
        self.phase_began = began;
        self.mailboxes.endpoint().count_turn();
        self.ring.submit()?;
        let wait = shard::turn(self, now)?;
        self.shard.counters_mut().turn_durations.record(self.phase_began - began);
        self.host.refusals.note(self.shard.refusals());
        self.mailboxes.wake_touched();
        let pending = !self.completions.is_empty() || self.can_read_on();
        Ok(if self.has_arrived || pending { Wait::Now } else { wait })
    }

    /// A part of the turn is over, and the next one begins.
    fn end_phase(&mut self, phase: TurnPhase) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.phase_began, now);
        self.shard.counters_mut().turn_phases[phase].record(took);
    }

    fn take_completions(&mut self, now: Clocks) -> io::Result<bool> {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions)?;
        let any = completions.iter().any(|completion| completion.token.operation.is_work());
        self.drain_effects(now)?;
        for _ in 0..self.deferred.len() {
            let Some(completion) = self.deferred.pop_front() else { break };
            self.take_received(now, completion, Arrival::Deferred)?;
            self.drain_effects(now)?;
        }
        for completion in completions.drain(..) {
            self.take_completion(now, completion)?;
            self.drain_effects(now)?;
        }
        if self.completions.is_empty() {
            self.completions = completions;
        }
        Ok(any)
    }

    fn take_completion(&mut self, now: Clocks, completion: Completion) -> io::Result<()> {
        match completion.token.operation {
            Operation::AcceptHttp => self.take_accept(now, Listener::Http, completion),
            Operation::AcceptSyncTcp => self.take_accept(now, Listener::SyncTcp, completion),
            Operation::Receive => self.take_received(now, completion, Arrival::Fresh),
            Operation::Writable => self.take_writable(now, completion),
            Operation::Wake => {
                self.mailboxes.endpoint().clear_event();
                self.ring.poll_wake(self.mailboxes.endpoint().event())
            }
            Operation::Send => {
                self.take_send_result(completion);
                Ok(())
            }
            Operation::WarmUpReceive => {
                self.take_warm_up(completion);
                Ok(())
            }
            Operation::Cancel | Operation::WarmUpSend => Ok(()),
        }
    }

    fn take_accept(
        &mut self,
        now: Clocks,
        listener: Listener,
        completion: Completion,
    ) -> io::Result<()> {
        if completion.result >= 0 {
            // SAFETY: the descriptor was just accepted and has no other owner.
            let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
            self.open(now, listener, socket)?;
        }
        if completion.more || self.host.listeners.are_closed() {
            return Ok(());
        }
        if completion.result >= 0 {
            return self.arm_accept_of(listener);
        }
        self.accept_again_ms[listener as usize] = Some(now.mono_ms + ACCEPT_PAUSE_MS);
        Ok(())
    }

    fn open(&mut self, now: Clocks, listener: Listener, socket: OwnedFd) -> io::Result<()> {
        if !self.host.proxies.admit(listener, &socket) {
            self.shard.counters_mut().drop(Dropped::ConnectionUntrusted);
            return Ok(());
        }
        let full = self.host.budget.used.load(Ordering::Relaxed) >= self.host.budget.limit;
        let id = if full { None } else { self.shard.handle_open(now, listener) };
        let Some(id) = id else {
            self.shard.counters_mut().drop(Dropped::ConnectionLimit);
            return Ok(());
        };
        self.host.budget.used.fetch_add(1, Ordering::Relaxed);
        self.sockets.insert(id, socket);
        self.receive(id)?;
        self.shard.handle_opened(now, id);
        self.drain_effects(now)
    }

    fn take_writable(&mut self, now: Clocks, completion: Completion) -> io::Result<()> {
        let Some(id) = self.sockets.resolve(completion.token) else { return Ok(()) };
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.polling = false;
            if socket.stage == Stage::Detaching {
                return self.finish_detach(now, id);
            }
        }
        self.shard.handle_writable(now, id);
        Ok(())
    }

    fn take_send_result(&mut self, completion: Completion) {
        let id = self.sockets.resolve(completion.token);
        if let Some(socket) = id.and_then(|id| self.sockets.get_mut(id)) {
            socket.send_result = Some(completion.result);
        }
    }

    fn take_control(&mut self, now: Clocks) -> io::Result<()> {
        while let Ok(control) = self.host.control.try_recv() {
            match control {
                Control::End => self.ended = true,
                Control::Reload(new) => {
                    self.shard.reload(now, Arc::clone(&new.settings));
                    new.note_taken();
                }
                Control::Drain => {
                    self.close_listeners_ms = Some(now.mono_ms + LISTEN_ON_MS);
                    self.shard.begin_drain(now);
                    self.drain_effects(now)?;
                }
            }
        }
        if self.close_listeners_ms.is_some_and(|close_ms| close_ms <= now.mono_ms) {
            self.close_listeners_ms = None;
            for (listener, socket) in self.host.listeners.close() {
                self.open(now, listener, socket)?;
            }
        }
        Ok(())
    }

    fn drain_effects(&mut self, now: Clocks) -> io::Result<()> {
        shard::perform_all(self, now)
    }

    fn post(&mut self, to: ShardId, mut envelope: Envelope) {
        if let Envelope::Ask(question) = &mut envelope {
            question.ip = self.address_of(question.addr.conn);
        }
        let posted = self.mailboxes.post(to, envelope);
        assert!(posted.is_ok(), "the core sent to shard {to}, whose mailbox it knew to be full");
    }

    /// Where a connection comes from; `None` where that may be a load balancer.
    fn address_of(&mut self, id: ConnId) -> Option<IpAddr> {
        match self.host.proxies.is_empty() {
            true => self.sockets.get_mut(id)?.peer(),
            false => None,
        }
    }

    fn begin_detach(&mut self, now: Clocks, id: ConnId) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        socket.stage = Stage::Detaching;
        if socket.is_quiet() {
            return self.finish_detach(now, id);
        }
        if socket.receiving {
            self.ring.cancel(token(Operation::Receive, id))?;
        }
        Ok(())
    }

    fn finish_detach(&mut self, now: Clocks, id: ConnId) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        if !socket.is_quiet() {
            return Ok(());
        }
        let Some(socket) = self.sockets.remove(id) else { return Ok(()) };
        if let Err(socket) = self.shard.handle_detached(now, id, socket) {
            self.sockets.insert(id, socket);
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.stage = Stage::Flushing(CloseMode::Linger);
            }
        }
        Ok(())
    }

    /// Accepts again after a pause.
    fn accept_again(&mut self, now: Clocks) -> io::Result<()> {
        for listener in LISTENERS {
            let again_ms = &mut self.accept_again_ms[listener as usize];
            if again_ms.is_some_and(|again_ms| again_ms <= now.mono_ms) {
                *again_ms = None;
                self.arm_accept_of(listener)?;
            }
        }
        Ok(())
    }

    fn arm_accept(&mut self) -> io::Result<()> {
        LISTENERS.into_iter().try_for_each(|listener| self.arm_accept_of(listener))
    }

    fn arm_accept_of(&mut self, listener: Listener) -> io::Result<()> {
        let operation = match listener {
            Listener::Http => Operation::AcceptHttp,
            Listener::SyncTcp => Operation::AcceptSyncTcp,
        };
        match self.host.listeners.fd(listener) {
            Some(fd) => self.ring.accept(fd, operation),
            None => Ok(()),
        }
    }

    fn sleep(&mut self, due_ms: Option<u64>) -> io::Result<()> {
        let timeout = self.sleep_time(self.host.clock.now(), due_ms);
        self.mailboxes.endpoint().set_sleeping();
        let awaited = self.mailboxes.is_empty()
            && !self.ring.has_completions()
            && self.host.control.is_empty()
            && !self.host.has_stored()
            && !timeout.is_zero();
        let slept = if awaited { self.ring.wait(timeout) } else { Ok(()) };
        self.mailboxes.endpoint().set_awake();
        slept
    }

    fn sleep_time(&self, now: Clocks, due_ms: Option<u64>) -> Duration {
        let is_closing = !self.closing.is_empty()
            || self.accept_again_ms != [None; LISTENERS.len()]
            || self.shard.is_draining();
        let most = match (self.unarmed.is_empty(), is_closing) {
            (false, _) => Duration::from_millis(1),
            (true, true) => SLEEP_LOADED,
            (true, false) => SLEEP_IDLE,
        };
        let due = due_ms.map(|due_ms| due_ms.saturating_sub(now.mono_ms));
        due.map_or(most, |ms| Duration::from_millis(ms).min(most))
    }
}
