//! Shards, the mailboxes between them and the sockets, driven exactly as `src/server/turn` does.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::hash::Hasher;
use std::sync::Arc;

use headcount::counters::Counters;
use headcount::ids::{Clocks, ConnId, ShardId};
use headcount::session::Answer;
use headcount::shard::{
    Command, Effect, Envelope, HomeChannelId, Listener, MemberPage, MemberView, MembersFor,
    PollOutcome, PollRequest, ReplyTo, Settings, Shard, TurnIo, Verdict, Wait, perform_all, turn,
};
use siphasher::sip::SipHasher13;

use super::rng::Rng;
use super::store::{Store, Trouble};
use crate::fake_sockets::FakeSockets;

/// How long a closed connection may take to let go of its socket, as in the shell.
const CLOSE_MS: u64 = 2_000;

/// Longest run to a standstill before it counts as a live lock.
const TURNS_MAX: usize = 20_000;

/// What goes wrong at random. `NONE` delivers everything at once, in order.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Bytes arrive in pieces of any size.
    pub split: bool,
    /// Mailboxes are emptied late, and those of different peers in any order.
    pub delay: bool,
    /// A detaching socket takes turns to come to rest.
    pub slow_detach: bool,
}

impl Faults {
    pub const NONE: Faults = Faults { split: false, delay: false, slow_detach: false };
    pub const ALL: Faults = Faults { split: true, delay: true, slow_detach: true };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Open,
    Detaching,
    Flushing,
    Shut,
}

/// Who has the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    On(usize, ConnId),
    InTransit,
    AtEdge,
    Closed,
}

/// How the client's direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After everything that was sent.
    Eof,
    /// After everything that was sent, and the client goes on reading.
    HalfClosed,
    /// At once; what was not received yet is gone.
    Reset,
}

/// One accepted socket; its number is its descriptor.
#[derive(Debug)]
pub struct Socket {
    pub place: Place,
    pub stage: Stage,
    /// From the client, not received yet.
    pub inbound: VecDeque<u8>,
    pub ending: Option<Ending>,
    /// The end was reported to the core, or the socket failed: when.
    pub ended_ms: Option<u64>,
    /// Bytes of the client's stream that the core has been given.
    pub delivered: usize,
    /// Written by the server, not read by the client.
    pub outbound: Vec<u8>,
    pub written: usize,
    /// Bytes that the socket takes until the client makes room.
    pub room: usize,
    pub blocked: bool,
    /// The server has sent its last byte.
    pub shut: bool,
    /// For positions in the outbound stream: the standstill before the turn that queued them, which
    /// may be the turn before the one that wrote them.
    pub queued: Vec<(usize, u64)>,
}

impl Socket {
    /// The client has closed it, and the core knows.
    fn is_gone(&self) -> bool {
        self.ended_ms.is_some() && self.ending != Some(Ending::HalfClosed)
    }
}

#[derive(Debug)]
pub struct Link {
    queue: VecDeque<Envelope>,
    pub capacity: usize,
    /// What is in it stays there.
    pub hold: bool,
}

impl Link {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.queue.len())
    }
}

/// A tick as it left its owner.
type TickKey = (usize, usize, u32, u32);

pub struct World {
    pub settings: Arc<Settings>,
    pub now: Clocks,
    pub shards: Vec<Shard>,
    /// `links[from][to]`; the last station is the edge.
    pub links: Vec<Vec<Link>>,
    pub sockets: Vec<Socket>,
    descriptors: FakeSockets,
    /// Envelopes between shards so far.
    pub envelopes: u64,
    homes: Vec<BTreeMap<ConnId, usize>>,
    closing: Vec<VecDeque<(u64, ConnId)>>,
    edge: Vec<Envelope>,
    store: Store,
    /// Of a thousand writes to the store, so many fail.
    pub store_fails_per_mille: u64,
    asked: u64,
    /// Answers to long-polling clients that they have not taken, and the standstill before each.
    polled: BTreeMap<u64, (PollOutcome, u64)>,
    /// Bytes that may wait for a connection, one answer included; checked every turn.
    pub queue_bytes_max: usize,
    pub rng: Rng,
    pub faults: Faults,
    /// Standstills before the last turn of each shard.
    turned: Vec<u64>,
    /// Standstills so far: moments at which nothing was under way between shards.
    pub standstills: u64,
    /// When each of them was.
    stood_ms: Vec<u64>,
    /// Time that may pass before a set of members that is shown knows of a change.
    pub lag_ms: u64,
    /// Demanded between two ticks of one channel to one home, if that can be judged.
    pub interval_of: Option<fn(&Settings, &str) -> u64>,
    ticks: BTreeMap<TickKey, u64>,
    pub hasher: Option<SipHasher13>,
    pub trace: bool,
}

impl World {
    pub fn new(settings: Settings, seed: u64) -> Self {
        let settings = Arc::new(settings);
        let count = usize::from(settings.router.shards());
        let capacity = settings.limits.mailbox_envelopes_max;
        let link = || Link { queue: VecDeque::new(), capacity, hold: false };
        World {
            now: Clocks { mono_ms: 10_000, wall_ms: 1_700_000_000_000 },
            shards: (0..count)
                .map(|i| Shard::new(ShardId(i as u16), Arc::clone(&settings)))
                .collect(),
            links: (0..=count).map(|_| (0..=count).map(|_| link()).collect()).collect(),
            sockets: Vec::new(),
            descriptors: FakeSockets::default(),
            envelopes: 0,
            homes: vec![BTreeMap::new(); count],
            closing: vec![VecDeque::new(); count],
            edge: Vec::new(),
            store: Store::new(count),
            store_fails_per_mille: 0,
            asked: 0,
            polled: BTreeMap::new(),
            queue_bytes_max: usize::MAX,
            rng: Rng::new(seed),
            faults: Faults::NONE,
            turned: vec![0; count],
            standstills: 0,
            stood_ms: Vec::new(),
            lag_ms: 0,
            interval_of: None,
            ticks: BTreeMap::new(),
            hasher: None,
            trace: false,
            settings,
        }
    }

    pub fn count(&self) -> usize {
        self.shards.len()
    }

    pub fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
    }

    /// Accepts a connection; `None` when the shard is full.
    pub fn open(&mut self, shard: usize, listener: Listener) -> Option<usize> {
        let id = self.shards[shard].handle_open(self.now, listener)?;
        self.sockets.push(Socket {
            place: Place::On(shard, id),
            stage: Stage::Open,
            inbound: VecDeque::new(),
            ending: None,
            ended_ms: None,
            delivered: 0,
            outbound: Vec::new(),
            written: 0,
            room: usize::MAX / 2,
            blocked: false,
            shut: false,
            queued: Vec::new(),
        });
        self.homes[shard].insert(id, self.sockets.len() - 1);
        self.drain(shard);
        Some(self.sockets.len() - 1)
    }

    pub fn send(&mut self, socket: usize, bytes: &[u8]) {
        self.sockets[socket].inbound.extend(bytes);
    }

    /// One turn of one shard.
    pub fn turn(&mut self, at: usize) {
        let now = self.now;
        let Ok(_) = turn(&mut Driven { world: self, at, budget: 0 }, now);
    }

    /// Nothing is under way between shards.
    pub fn stand_still(&mut self) {
        self.standstills += 1;
        self.stood_ms.push(self.now.mono_ms);
    }

    /// The last standstill before which whatever happened is known to everybody by now: there has
    /// been another one after the time that this may take.
    fn known_standstill(&self) -> u64 {
        let Some(last_ms) = self.stood_ms.last() else { return 0 };
        let is_known = |stood_ms: &u64| stood_ms + self.lag_ms <= *last_ms;
        self.stood_ms.partition_point(is_known) as u64
    }

    /// Nothing is under way between shards, and no timer is due.
    pub fn is_still(&self) -> bool {
        let count = self.count();
        let empty = |from: usize| self.links[from][..count].iter().all(|l| l.queue.is_empty());
        (0..=count).all(empty)
            && self.store.is_idle()
            && self.shards.iter().all(|shard| {
                let is_due = match shard.poll_wait() {
                    Wait::Now => true,
                    Wait::Until(due_ms) => due_ms <= self.now.mono_ms,
                    Wait::Idle => false,
                };
                !is_due && !shard.is_waiting_for_room()
            })
            && self
                .sockets
                .iter()
                .all(|socket| socket.place != Place::InTransit && socket.stage != Stage::Detaching)
    }

    /// The server stops.
    pub fn close_all(&mut self) {
        for s in 0..self.count() {
            self.shards[s].begin_drain(self.now);
            self.drain(s);
        }
    }

    /// Everything that was sent has been received, and nothing is left to do.
    pub fn settle(&mut self) {
        let faults = std::mem::replace(&mut self.faults, Faults::NONE);
        for turns in 0.. {
            assert!(turns < TURNS_MAX, "no standstill after {turns} rounds");
            (0..self.count()).for_each(|s| self.turn(s));
            if self.is_still() && !self.has_input() {
                break;
            }
        }
        (0..self.count()).for_each(|s| self.turn(s));
        assert!(self.is_still());
        self.stand_still();
        self.faults = faults;
    }

    fn has_input(&self) -> bool {
        self.sockets.iter().any(|socket| {
            let open = matches!(socket.place, Place::On(..)) && socket.stage == Stage::Open;
            let ends = socket.ending.is_some() && socket.ended_ms.is_none();
            let writable = socket.blocked && socket.room > 0;
            open && (ends || writable || !socket.inbound.is_empty())
        })
    }

    /// The core has been told that the client's direction ended, or will not be told.
    pub fn has_ended(&self, socket: usize) -> bool {
        let Socket { place, ended_ms, .. } = &self.sockets[socket];
        ended_ms.is_some() || !matches!(place, Place::On(..) | Place::InTransit)
    }

    /// The server has ended the session.
    pub fn is_over(&self, socket: usize) -> bool {
        let Socket { place, stage, .. } = &self.sockets[socket];
        let here = matches!(place, Place::On(..) | Place::InTransit);
        !here || matches!(stage, Stage::Flushing | Stage::Shut)
    }

    /// The gauges of all shards together.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        for shard in &self.shards {
            let counters = shard.counters();
            total.members = total.members.wrapping_add(counters.members);
            total.subscriptions += counters.subscriptions;
            total.channels += counters.channels;
            total.connections += counters.connections;
            total.handed_off += counters.handed_off;
            total.adopted += counters.adopted;
        }
        total
    }

    /// What the owner says are the members of a channel. Call at a standstill.
    pub fn members(&mut self, app: &str, channel: &str) -> Vec<MemberView> {
        let key = Arc::new(self.settings.router.key(&app.into(), channel));
        let owner = self.settings.router.shard_of(key.hash).index();
        self.turn(owner);
        self.asked += 1;
        let request = self.asked;
        let from = self.settings.edge;
        let command = Command::Members { to: MembersFor::Request(request), page: MemberPage::ALL };
        let envelope = Envelope::Command { from, channel: key, command };
        self.shards[owner].handle_envelope(self.now, envelope);
        self.drain(owner);
        let answer = self.edge.pop();
        match answer {
            Some(Envelope::Members { to: MembersFor::Request(to), list }) if to == request => {
                list.members
            }
            other => panic!("no answer of {owner} to a request for members: {other:?}"),
        }
    }

    /// Asks on behalf of a long-polling client; the number of the question.
    pub fn ask(&mut self, shard: usize, request: PollRequest) -> u64 {
        self.asked += 1;
        let (edge, number) = (self.settings.edge, self.asked);
        let envelope = Envelope::Poll { from: edge, number, request };
        self.links[edge.index()][shard].queue.push_back(envelope);
        number
    }

    /// What a long-polling client is answered, once.
    pub fn take_polled(&mut self, number: u64) -> Option<(PollOutcome, u64)> {
        self.polled.remove(&number)
    }

    /// What the owner answers when the edge asks it something about a channel.
    pub fn query(
        &mut self,
        app: &str,
        channel: &str,
        command: impl FnOnce(ReplyTo) -> Command,
    ) -> Answer {
        let key = Arc::new(self.settings.router.key(&app.into(), channel));
        let owner = self.settings.router.shard_of(key.hash).index();
        self.asked += 1;
        let asked = ReplyTo::Edge(self.asked);
        let (from, command) = (self.settings.edge, command(asked));
        let envelope = Envelope::Command { from, channel: key, command };
        let fails_per_mille = std::mem::take(&mut self.store_fails_per_mille);
        self.shards[owner].handle_envelope(self.now, envelope);
        self.drain(owner);
        for _ in 0..TURNS_MAX {
            let is_answer = |e: &Envelope| matches!(e, Envelope::Answer { to, .. } if *to == asked);
            if let Some(at) = self.edge.iter().position(is_answer)
                && let Envelope::Answer { answer, .. } = self.edge.remove(at)
            {
                self.store_fails_per_mille = fails_per_mille;
                return answer;
            }
            self.turn(owner);
        }
        panic!("no answer of {owner} to the edge");
    }

    /// The standstill before which nothing of the stream up to `offset` had been made.
    pub fn made_after(&self, socket: usize, offset: usize) -> u64 {
        let queued = &self.sockets[socket].queued;
        let at = queued.partition_point(|(end, _)| *end < offset);
        queued.get(at).map_or(0, |(_, standstill)| *standstill)
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("  {}", line());
        }
    }

    fn mix(&mut self, line: impl FnOnce() -> String) {
        if let Some(hasher) = &mut self.hasher {
            hasher.write(line().as_bytes());
        }
    }

    fn drain(&mut self, at: usize) {
        let now = self.now;
        let Ok(()) = perform_all(&mut Driven { world: self, at, budget: 0 }, now);
    }

    fn post(&mut self, from: usize, to: usize, envelope: Envelope) {
        assert!(from != to, "shard {from} sent to itself through the shell");
        self.check_interval(from, to, &envelope);
        if to < self.count() {
            let room = self.links[from][to].room();
            assert!(room > 0, "shard {from} sent to {to}, whose mailbox it knew to be full");
            self.envelopes += 1;
            return self.links[from][to].queue.push_back(envelope);
        }
        match envelope {
            Envelope::Adopt(handoff) => {
                let at = self.descriptors.attach(handoff.socket);
                self.sockets[at].place = Place::AtEdge;
                self.sockets[at].shut = true;
            }
            Envelope::Polled { number, outcome } => {
                self.polled.insert(number, (outcome, self.standstills));
            }
            Envelope::Ask(question) => {
                let (addr, number) = (question.addr, question.number);
                let verdict = Verdict::Allowed { metadata: None };
                let verdict = Envelope::Verdict { conn: addr.conn, number, verdict };
                let edge = self.settings.edge.index();
                self.links[edge][addr.shard.index()].queue.push_back(verdict);
            }
            other => self.edge.push(other),
        }
    }

    /// Notes how much waits for each connection, also for those whose socket takes no more.
    fn look_at_queues(&mut self, s: usize) {
        for (&id, &at) in &self.homes[s] {
            let waiting = self.shards[s].queue(id).map_or(0, |queue| queue.len());
            let most = self.queue_bytes_max;
            assert!(waiting <= most, "{waiting} of {most} bytes wait for {id:?} of shard {s}");
            let socket = &mut self.sockets[at];
            let end = socket.written + waiting;
            if socket.blocked && socket.queued.last().is_none_or(|(last, _)| *last < end) {
                socket.queued.push((end, self.turned[s]));
            }
        }
    }

    fn check_interval(&mut self, from: usize, to: usize, envelope: &Envelope) {
        let (Some(interval_of), Envelope::Presence { to: home, tick, .. }) =
            (self.interval_of, envelope)
        else {
            return;
        };
        let HomeChannelId { slot, generation } = *home;
        let shown = tick.encoded.iter().flatten().next();
        let Some(channel) = shown.and_then(|bytes| channel_in(bytes)) else { return };
        let interval_ms = interval_of(&self.settings, &channel);
        let before = self.ticks.insert((from, to, slot, generation), self.now.mono_ms);
        if let Some(before_ms) = before {
            let pause_ms = self.now.mono_ms - before_ms;
            assert!(pause_ms >= interval_ms, "{channel}: ticks {pause_ms} ms apart");
        }
    }

    fn begin_close(&mut self, s: usize, id: ConnId) {
        match self.homes[s].get(&id) {
            Some(&at) => {
                self.sockets[at].stage = Stage::Flushing;
                self.closing[s].push_back((self.now.mono_ms + CLOSE_MS, id));
            }
            None => self.shards[s].handle_released(id),
        }
    }

    fn begin_detach(&mut self, s: usize, id: ConnId) {
        let Some(&at) = self.homes[s].get(&id) else { return };
        self.sockets[at].stage = Stage::Detaching;
        if !(self.faults.slow_detach && self.rng.percent(50)) {
            self.finish_detach(s, id);
        }
    }

    fn finish_detach(&mut self, s: usize, id: ConnId) {
        let at = self.homes[s][&id];
        // Before the handoff is in transit: handling it may bring it back at once.
        self.sockets[at].place = Place::InTransit;
        let socket = self.descriptors.detach(at);
        match self.shards[s].handle_detached(self.now, id, socket) {
            Ok(()) => _ = self.homes[s].remove(&id),
            Err(socket) => {
                self.descriptors.attach(socket);
                self.sockets[at].place = Place::On(s, id);
                self.sockets[at].stage = Stage::Flushing;
            }
        }
    }

    fn receive(&mut self, s: usize) {
        let mut here: Vec<(ConnId, usize)> = self.homes[s].iter().map(|(&i, &a)| (i, a)).collect();
        if self.faults.delay {
            self.rng.shuffle(&mut here);
        }
        for (id, at) in here {
            if self.faults.delay && self.rng.percent(30) {
                continue;
            }
            self.receive_from(s, id, at);
            if self.sockets[at].stage == Stage::Detaching
                && self.homes[s].get(&id) == Some(&at)
                && !(self.faults.slow_detach && self.rng.percent(50))
            {
                self.finish_detach(s, id);
                self.drain(s);
            }
        }
    }

    fn receive_stored(&mut self, s: usize) {
        let (is_slow, now) = (self.faults.delay, self.now);
        let fails_per_mille = if is_slow { self.store_fails_per_mille } else { 0 };
        let trouble = Trouble { is_slow, fails_per_mille };
        for reply in self.store.work(s, now, &mut self.rng, trouble) {
            self.note(|| format!("{s}: stored {reply:?}"));
            self.shards[s].handle_stored(now, reply);
            self.drain(s);
        }
    }

    fn receive_from(&mut self, s: usize, id: ConnId, at: usize) {
        if self.sockets[at].stage == Stage::Detaching {
            // Whoever attaches the socket is told how it ended.
            return self.hand_over(s, id, at);
        }
        if self.sockets[at].ending == Some(Ending::Reset) && self.sockets[at].ended_ms.is_none() {
            return self.lose(s, id, at);
        }
        if self.sockets[at].blocked && self.sockets[at].room > 0 {
            self.sockets[at].blocked = false;
            self.shards[s].handle_writable(self.now, id);
            self.drain(s);
        }
        self.hand_over(s, id, at);
        let socket = &mut self.sockets[at];
        let all = socket.inbound.is_empty() && socket.ending.is_some();
        let detaching = socket.stage == Stage::Detaching || socket.place != Place::On(s, id);
        if all && socket.ended_ms.is_none() && !detaching {
            socket.ended_ms = Some(self.now.mono_ms);
            if socket.stage == Stage::Open {
                self.shards[s].handle_eof(self.now, id);
                self.drain(s);
            }
        }
    }

    fn lose(&mut self, s: usize, id: ConnId, at: usize) {
        self.sockets[at].ended_ms = Some(self.now.mono_ms);
        self.sockets[at].inbound.clear();
        if self.sockets[at].stage == Stage::Open {
            self.shards[s].handle_lost(self.now, id);
            self.drain(s);
        }
    }

    fn hand_over(&mut self, s: usize, id: ConnId, at: usize) {
        let most = self.sockets[at].inbound.len();
        if most == 0 {
            return;
        }
        let count = match self.faults.split && self.rng.percent(60) {
            true => self.rng.between(1, most.min(200)),
            false => most,
        };
        let mut bytes: Vec<u8> = self.sockets[at].inbound.drain(..count).collect();
        self.sockets[at].delivered += count;
        self.shards[s].handle_bytes(self.now, id, &mut bytes);
        self.drain(s);
    }

    fn flush(&mut self, s: usize) {
        let mut dirty = Vec::new();
        while let Some(id) = self.shards[s].next_dirty() {
            dirty.push(id);
        }
        for id in dirty {
            let Some(&at) = self.homes[s].get(&id) else { continue };
            self.write(s, id, at);
            self.drain(s);
        }
    }

    fn write(&mut self, s: usize, id: ConnId, at: usize) {
        let Some(queue) = self.shards[s].queue(id) else { return };
        let bytes: Vec<u8> = queue.runs().flatten().copied().collect();
        assert_eq!(bytes.len(), queue.len());
        let standstill = self.turned[s];
        let socket = &mut self.sockets[at];
        if socket.shut || (socket.is_gone() && self.rng.percent(50)) {
            return self.shards[s].handle_lost(self.now, id);
        }
        socket.queued.push((socket.written + bytes.len(), standstill));
        let taken = bytes.len().min(socket.room);
        socket.outbound.extend_from_slice(&bytes[..taken]);
        socket.written += taken;
        socket.room -= taken;
        let stage = socket.stage;
        self.mix(|| format!("{at} {:?}", &bytes[..taken]));
        self.shards[s].handle_written(self.now, id, taken);
        let left = self.shards[s].queue(id).map_or(0, |queue| queue.len());
        let socket = &mut self.sockets[at];
        socket.queued.push((socket.written + left, standstill));
        if left > 0 && !self.sockets[at].blocked && stage != Stage::Detaching {
            self.sockets[at].blocked = true;
            self.shards[s].handle_blocked(id);
        }
    }

    fn finish_closing(&mut self, s: usize) {
        for _ in 0..self.closing[s].len() {
            let Some((deadline_ms, id)) = self.closing[s].pop_front() else { break };
            if !self.advance_close(s, id, deadline_ms <= self.now.mono_ms) {
                self.closing[s].push_back((deadline_ms, id));
            }
        }
    }

    fn advance_close(&mut self, s: usize, id: ConnId, late: bool) -> bool {
        let Some(&at) = self.homes[s].get(&id) else { return true };
        let flushed = self.shards[s].queue(id).is_none_or(|queue| queue.is_empty());
        let socket = &mut self.sockets[at];
        let ended = socket.ended_ms.is_some();
        if socket.stage == Stage::Flushing && (flushed || late || socket.is_gone()) {
            socket.shut = true;
            socket.stage = Stage::Shut;
        }
        if socket.stage != Stage::Shut || !(ended || late) {
            return false;
        }
        socket.place = Place::Closed;
        self.homes[s].remove(&id);
        self.shards[s].handle_released(id);
        true
    }
}

/// The channel that an encoded tick is about: the first string in it that looks like one.
fn channel_in(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(2).position(|two| matches!(two, b"ns"))?;
    let name = bytes[at..].iter().take_while(|b| b.is_ascii_graphic()).take(5);
    String::from_utf8(name.copied().collect()).ok()
}

/// One of the shards, while it takes a turn.
struct Driven<'w> {
    world: &'w mut World,
    at: usize,
    /// Envelopes that are still taken in this turn.
    budget: usize,
}

impl TurnIo for Driven<'_> {
    type Error = Infallible;

    fn shard(&mut self) -> &mut Shard {
        &mut self.world.shards[self.at]
    }

    fn begin(&mut self, now: Clocks) {
        let Driven { world, at, .. } = self;
        let room = |to: usize| if to == *at { 0 } else { world.links[*at][to].room() };
        let rooms: Vec<usize> = (0..=world.count()).map(room).collect();
        let loads: Vec<u32> = world.shards.iter().map(|s| s.connection_count() as u32).collect();
        world.shards[*at].begin_turn(now, &rooms, &loads);
    }

    fn receive(&mut self, _: Clocks) -> Result<(), Infallible> {
        let world = &mut *self.world;
        world.receive(self.at);
        world.receive_stored(self.at);
        self.budget = if world.faults.delay { world.rng.below(12) } else { usize::MAX };
        Ok(())
    }

    fn next_envelope(&mut self) -> Option<Envelope> {
        let Driven { world, at, budget } = self;
        let links = &mut world.links;
        let waits = |from: &usize| {
            let link = &links[*from][*at];
            !link.hold && !link.queue.is_empty()
        };
        let full: Vec<usize> = (0..links.len()).filter(waits).collect();
        if *budget == 0 || full.is_empty() {
            return None;
        }
        *budget -= 1;
        let from = if world.faults.delay { *world.rng.pick(&full) } else { full[0] };
        links[from][*at].queue.pop_front()
    }

    fn perform(&mut self, _: Clocks, effect: Effect) -> Result<(), Infallible> {
        let (world, s) = (&mut *self.world, self.at);
        if world.hasher.is_some() {
            world.mix(|| without_descriptors(format!("{s} {effect:?}")));
        }
        world.note(|| format!("{s}: {}", brief(&effect)));
        match effect {
            Effect::Send { to, envelope } => world.post(s, to.index(), envelope),
            Effect::Close { conn, .. } => world.begin_close(s, conn),
            Effect::Detach { conn } => world.begin_detach(s, conn),
            Effect::Store(request) => world.store.ask(s, *request),
            Effect::Notify(event) => panic!("no webhooks are told: {event:?}"),
            Effect::Attach { conn, socket } => {
                let at = world.descriptors.attach(socket);
                assert_eq!(world.sockets[at].place, Place::InTransit);
                world.sockets[at].place = Place::On(s, conn);
                world.sockets[at].stage = Stage::Open;
                world.homes[s].insert(conn, at);
            }
        }
        Ok(())
    }

    fn write(&mut self, _: Clocks) -> Result<(), Infallible> {
        let (world, s) = (&mut *self.world, self.at);
        world.look_at_queues(s);
        world.flush(s);
        world.finish_closing(s);
        world.turned[s] = world.known_standstill();
        Ok(())
    }
}

/// Numbers of descriptors depend on what else the process has open.
fn without_descriptors(mut text: String) -> String {
    const BEFORE: &str = "OwnedFd { fd: ";
    while let Some(at) = text.find(BEFORE) {
        let len = text[at..].find('}').expect("the end of a descriptor");
        text.replace_range(at..at + len, "socket");
    }
    text
}

fn brief(effect: &Effect) -> String {
    let mut text = format!("{effect:?}");
    text.truncate(text.char_indices().nth(260).map_or(text.len(), |(at, _)| at));
    text
}
