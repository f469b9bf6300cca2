//! One run: random clients do random things to a random server, then everything comes to rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headcount::policy::Heartbeat;
use headcount::shard::Listener;
use headcount::wire::sync::Layout;
use headcount::wire::websocket::{Opcode, close_body};
use siphasher::sip::SipHasher13;

use super::model::{Memberships, Phase, Terms};
use super::profile::{self, APPS, CHANNELS, Profile};
use super::rng::Rng;
use super::wire::{Carrier, Wire};
use super::world::{Ending, Faults, World};

/// An answer that the server owes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Ack { success: bool },
    Pong(u64),
    RefreshAck { success: bool },
}

/// A client's view of one channel: states by user, as broadcasts and leaves say.
pub type View = BTreeMap<String, Vec<String>>;

/// One connection of a client.
#[derive(Debug)]
pub struct Conn {
    pub wire: Wire,
    pub socket: usize,
    /// Bytes sent so far.
    pub sent: usize,
    /// Frames sent and not handled yet, by their end in the stream; the channel of an update.
    frames: VecDeque<(usize, Option<String>)>,
    /// When the core was last given a whole frame.
    heard_ms: u64,
    announced_ms: BTreeMap<String, u64>,
    pub owed: VecDeque<Owed>,
    pub acked: bool,
    /// The first greeting was good.
    known: bool,
    /// The first greeting was good, and no later one was bad.
    greeted: bool,
    stalled: bool,
    silent: bool,
    /// The server may end this connection.
    excused: bool,
    pinged_ms: u64,
}

/// A device or program: at most one connection at a time.
#[derive(Debug)]
pub struct Client {
    pub id: usize,
    pub app: &'static str,
    /// `None`: anonymous.
    pub user: Option<String>,
    lite_id: String,
    carrier: Carrier,
    layout: Layout,
    pub conn: Option<Conn>,
    pub connections: u32,
    /// A connection whose loss the core has not been told.
    losing: Option<Conn>,
    pub memberships: Memberships,
    pub views: BTreeMap<String, View>,
    /// The others that the last broadcast of each channel showed, and the own entry in it.
    pub last_set: BTreeMap<String, (Vec<String>, Option<String>)>,
    /// Every user name that it has had.
    pub names: BTreeSet<String>,
    seq: u64,
}

impl Client {
    pub fn is_anonymous(&self) -> bool {
        self.user.is_none()
    }
}

pub struct Run {
    pub world: World,
    pub profile: Profile,
    pub clients: Vec<Client>,
    /// When each state was first sent, by its text.
    pub sent_ms: BTreeMap<String, u64>,
    rng: Rng,
    step: Arc<AtomicU64>,
}

impl Run {
    pub fn new(seed: u64, step: Arc<AtomicU64>) -> Self {
        let mut rng = Rng::new(seed);
        let (settings, profile) = profile::random(&mut rng);
        let mut world = World::new(settings, rng.next());
        for link in world.links.iter_mut().flatten() {
            link.capacity = rng.between(profile.mailbox.0, profile.mailbox.1);
        }
        world.faults = Faults::ALL;
        world.interval_of = profile.calm.then_some(profile::interval_of as _);
        world.lag_ms = profile.lag_ms;
        let clients = (0..profile.clients).map(|id| random_client(&mut rng, id)).collect();
        Run { world, profile, clients, sent_ms: BTreeMap::new(), rng, step }
    }

    /// Hashes every effect and every written byte.
    pub fn hashing(mut self) -> Self {
        self.world.hasher = Some(SipHasher13::new());
        self
    }

    pub fn tracing(mut self) -> Self {
        self.world.trace = true;
        let (profile, limits) = (self.profile, &self.world.settings.limits);
        eprintln!("{profile:?}\n{limits:?}\n{:?}", self.world.settings.policies);
        self
    }

    /// Runs to the end; panics where the server and the model disagree.
    pub fn run(mut self) -> u64 {
        for step in 0..self.profile.steps {
            self.step.store(step as u64, Ordering::Relaxed);
            self.random_step();
            self.after_step();
        }
        self.come_to_rest();
        self.check_rest();
        self.check_placement();
        self.close_everything();
        self.check_emptiness();
        self.world.hasher.map_or(0, |hasher| std::hash::Hasher::finish(&hasher))
    }

    fn random_step(&mut self) {
        match self.rng.below(100) {
            0..55 => {
                let shard = self.rng.below(self.world.count());
                self.turn(shard);
            }
            55..85 => {
                let client = self.rng.below(self.clients.len());
                self.act(client);
            }
            85..96 => {
                let ms = self.rng.between(1, 30) as u64;
                self.advance(ms);
            }
            96 => {
                let ms = self.rng.between(50, self.profile.ttl_ms as usize / 2) as u64;
                self.advance(ms);
            }
            97..99 => self.settle(),
            _ if self.rng.percent(20) => {
                let ms = self.rng.between(1, 2 * self.profile.ttl_ms as usize) as u64;
                self.advance(ms);
            }
            _ => {}
        }
    }

    fn after_step(&mut self) {
        self.follow_sockets();
        self.beat();
        if self.rng.percent(70) {
            self.read_all();
        }
        if self.world.is_still() {
            self.world.stand_still();
            self.standstill();
        }
    }

    fn turn(&mut self, shard: usize) {
        self.world.turn(shard);
        self.follow_sockets();
    }

    fn settle(&mut self) {
        self.world.note(|| "settle".into());
        self.world.settle();
        self.follow_sockets();
        self.standstill();
        self.read_all();
    }

    fn advance(&mut self, ms: u64) {
        self.world.advance(ms);
        let now_ms = self.world.now.mono_ms;
        self.world.note(|| format!("time {now_ms}"));
        let settings = Arc::clone(&self.world.settings);
        let terms = self.terms();
        for client in &mut self.clients {
            let conn = client.losing.as_ref().or(client.conn.as_ref());
            client.memberships.time(now_ms, terms, |_, channel| {
                let Some(conn) = conn else { return 0 };
                let announced_ms = conn.announced_ms.get(channel).copied().unwrap_or(0);
                match settings.policies.for_channel(channel).heartbeat {
                    Heartbeat::Transport | Heartbeat::AnyFrame => conn.heard_ms.max(announced_ms),
                    Heartbeat::Update => announced_ms,
                }
            });
        }
    }

    fn terms(&self) -> Terms {
        let Profile { ttl_ms, grace_ms, rate_ms, members_max, .. } = self.profile;
        Terms { ttl_ms, grace_ms, rate_ms, may_be_refused: members_max.is_some() }
    }

    fn standstill(&mut self) {
        let (number, now_ms) = (self.world.standstills, self.world.now.mono_ms);
        let terms = self.terms();
        for client in &mut self.clients {
            client.memberships.standstill(number, now_ms, terms);
        }
    }

    /// Learns from the sockets what the core has been given.
    fn follow_sockets(&mut self) {
        let now_ms = self.world.now.mono_ms;
        for client in &mut self.clients {
            if let Some(conn) = &client.losing
                && self.world.has_ended(conn.socket)
            {
                client.losing = None;
                client.memberships.loss_handled(now_ms);
            }
            let Some(conn) = &mut client.conn else { continue };
            let socket = &self.world.sockets[conn.socket];
            while conn.frames.front().is_some_and(|(end, _)| *end <= socket.delivered) {
                conn.heard_ms = now_ms;
                if let Some((_, Some(channel))) = conn.frames.pop_front() {
                    conn.announced_ms.insert(channel, now_ms);
                }
            }
            client.memberships.handled(socket.delivered, now_ms);
            if self.world.is_over(conn.socket) && conn.known {
                client.memberships.vanished(!client.lite_id.is_empty());
            }
        }
    }

    /// Clients that are not silent show signs of life in time.
    fn beat(&mut self) {
        let now_ms = self.world.now.mono_ms;
        for id in 0..self.clients.len() {
            let due = self.clients[id].conn.as_ref().is_some_and(|conn| {
                !conn.silent && now_ms >= conn.pinged_ms + self.profile.ttl_ms / 4
            });
            if due {
                self.ping(id);
                let strict: Vec<String> = self.strict_memberships(id);
                strict.iter().for_each(|channel| self.update(id, channel));
            }
        }
    }

    fn strict_memberships(&self, id: usize) -> Vec<String> {
        let policies = &self.world.settings.policies;
        let is_strict = |channel: &str| {
            policies.for_channel(channel).heartbeat == Heartbeat::Update
                && self.clients[id].memberships.is_expected(channel)
        };
        CHANNELS.iter().filter(|c| is_strict(c)).map(|c| c.to_string()).collect()
    }

    fn act(&mut self, id: usize) {
        if self.clients[id].conn.is_none() {
            return self.connect(id);
        }
        let calm = self.profile.calm;
        match self.rng.below(100) {
            0..43 => {
                let channel = *self.rng.pick(&CHANNELS);
                self.update(id, channel);
            }
            43..45 => self.greet_as_another(id),
            45..55 => self.leave_one(id),
            55..65 => self.ping(id),
            65..70 => self.close(id),
            70..78 if !calm => self.lose(id),
            78..80 if !calm => self.vanish(id),
            80..83 if !calm => self.toggle_silence(id),
            83..88 if !calm => self.throttle(id),
            88..93 if !calm => self.toggle_stall(id),
            93..95 => self.babble(id),
            95..97 => self.greet_again(id),
            97..98 if !calm => self.break_protocol(id),
            98.. => self.refresh(id),
            _ => {}
        }
    }

    fn connect(&mut self, id: usize) {
        let shard = self.rng.below(self.world.count());
        let client = &self.clients[id];
        let listener = match client.carrier {
            Carrier::WebSocket => Listener::Http,
            Carrier::Tcp => Listener::SyncTcp,
        };
        let Some(socket) = self.world.open(shard, listener) else { return };
        let now_ms = self.world.now.mono_ms;
        let good = !self.rng.percent(5);
        let client = &mut self.clients[id];
        client.connections += 1;
        client.views.clear();
        client.last_set.clear();
        client.conn = Some(Conn {
            wire: Wire::new(client.carrier, client.layout),
            socket,
            sent: 0,
            frames: VecDeque::new(),
            heard_ms: now_ms,
            announced_ms: BTreeMap::new(),
            owed: VecDeque::new(),
            acked: false,
            known: good,
            greeted: good,
            stalled: false,
            silent: false,
            excused: !good,
            pinged_ms: now_ms,
        });
        self.world.note(|| format!("client {id} connects to {shard} as socket {socket}"));
        let target = if self.rng.percent(40) {
            format!("/?channel={}", self.rng.pick(&CHANNELS))
        } else {
            "/".into()
        };
        if let Some(conn) = &mut self.clients[id].conn {
            let opening = conn.wire.opening(&target);
            self.send(id, &opening, None);
        }
        self.greet(id, good);
    }

    fn greet(&mut self, id: usize, good: bool) {
        let client = &mut self.clients[id];
        let token = match (&client.user, good) {
            (_, false) => "no.real.token".into(),
            (Some(user), _) => profile::token(client.app, user, self.world.now.wall_ms, 86_400_000),
            (None, _) => String::new(),
        };
        let lite_id = client.lite_id.clone();
        let Some(conn) = &mut client.conn else { return };
        let bytes = conn.wire.handshake(&token, &lite_id);
        conn.owed.push_back(Owed::Ack { success: good });
        let first = conn.sent < 400 && !conn.acked && conn.owed.len() == 1;
        self.send(id, &bytes, None);
        let client = &mut self.clients[id];
        let end = client.conn.as_ref().map_or(0, |conn| conn.sent);
        if first && good {
            let grace_ms = self.profile.grace_ms;
            client.memberships.returns(self.world.now.mono_ms, grace_ms, end);
        }
    }

    fn greet_again(&mut self, id: usize) {
        let Some(conn) = &mut self.clients[id].conn else { return };
        if !conn.greeted {
            return;
        }
        let good = self.rng.percent(70);
        conn.greeted = good;
        conn.excused |= !good;
        self.world.note(|| format!("client {id} greets again, good: {good}"));
        let pending = self.clients[id]
            .memberships
            .by_channel
            .values()
            .any(|m| matches!(m.phase, Phase::Resuming { .. } | Phase::Doubtful));
        if good && !pending {
            let mark = self.clients[id].memberships.clone();
            self.greet(id, true);
            self.clients[id].memberships = mark;
        } else if !good {
            self.greet(id, false);
            let end = self.clients[id].conn.as_ref().map_or(0, |conn| conn.sent);
            self.clients[id].memberships.left_all(end);
            self.clients[id].views.clear();
        }
    }

    /// The same device greets as another user, and announces itself there.
    fn greet_as_another(&mut self, id: usize) {
        let user = random_user(&mut self.rng);
        let client = &mut self.clients[id];
        let greeted = client.conn.as_ref().is_some_and(|conn| conn.greeted);
        if !greeted || client.is_anonymous() || client.user.as_ref() == Some(&user) {
            return;
        }
        self.world.note(|| format!("client {id} greets as {user}"));
        client.names.insert(user.clone());
        client.user = Some(user);
        client.views.clear();
        client.last_set.clear();
        self.greet(id, true);
        let client = &mut self.clients[id];
        let end = client.conn.as_ref().map_or(0, |conn| conn.sent);
        client.memberships.becomes_another(end);
        if self.rng.percent(50) {
            let channel = *self.rng.pick(&CHANNELS);
            self.update(id, channel);
        }
    }

    fn send(&mut self, id: usize, bytes: &[u8], channel: Option<&str>) -> usize {
        let Some(conn) = &mut self.clients[id].conn else { return 0 };
        conn.sent += bytes.len();
        conn.frames.push_back((conn.sent, channel.map(str::to_owned)));
        self.world.send(conn.socket, bytes);
        conn.sent
    }

    fn update(&mut self, id: usize, channel: &str) {
        let pad = self.rng.between(self.profile.state_bytes.0, self.profile.state_bytes.1);
        let client = &mut self.clients[id];
        let Some(conn) = &mut client.conn else { return };
        if !conn.greeted {
            return;
        }
        client.seq += 1;
        let seq = client.seq;
        let state = state_text(client.app, id, channel, seq, pad);
        let bytes = conn.wire.update(channel, state.as_bytes());
        self.world.note(|| format!("client {id} updates {state}"));
        self.sent_ms.insert(state, self.world.now.mono_ms);
        let end = self.send(id, &bytes, Some(channel));
        let client = &mut self.clients[id];
        client.memberships.announced(channel, seq, end);
    }

    fn leave_one(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let joined = |channel: &&str| {
            let phase = client.memberships.phase(channel);
            matches!(phase, Phase::Pending | Phase::Sure { .. } | Phase::Resuming { .. })
        };
        let joined: Vec<&str> = CHANNELS.into_iter().filter(joined).collect();
        if joined.is_empty() {
            return;
        }
        let channel = *self.rng.pick(&joined);
        let Some(conn) = &mut client.conn else { return };
        let bytes = conn.wire.leave(channel);
        client.views.remove(channel);
        client.last_set.remove(channel);
        self.world.note(|| format!("client {id} leaves {channel}"));
        let end = self.send(id, &bytes, None);
        self.clients[id].memberships.left(channel, end);
        if self.rng.percent(30) {
            self.update(id, channel);
        }
    }

    fn ping(&mut self, id: usize) {
        let now_ms = self.world.now.mono_ms;
        let stamp = self.rng.next();
        let Some(conn) = &mut self.clients[id].conn else { return };
        conn.pinged_ms = now_ms;
        conn.owed.push_back(Owed::Pong(stamp));
        let bytes = conn.wire.ping(stamp);
        self.send(id, &bytes, None);
    }

    fn close(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let Some(mut conn) = client.conn.take() else { return };
        self.world.note(|| format!("client {id} closes"));
        if client.carrier == Carrier::WebSocket {
            let bytes = conn.wire.websocket(Opcode::Close, &close_body(1000, "bye"));
            self.world.send(conn.socket, &bytes);
        }
        let socket = &mut self.world.sockets[conn.socket];
        socket.ending = Some(Ending::Eof);
        socket.room = usize::MAX / 2;
        if conn.known && self.profile.may_be_slow {
            // It may end as slow before its goodbye is read, and then it lingers.
            client.memberships.vanished(!client.lite_id.is_empty());
        } else if conn.known {
            client.memberships.closed();
        }
        client.views.clear();
    }

    fn lose(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let Some(conn) = client.conn.take() else { return };
        let eof = client.carrier == Carrier::WebSocket && self.rng.percent(30);
        let ending = if eof { Ending::Eof } else { Ending::Reset };
        self.world.note(|| format!("client {id} is lost: {ending:?}"));
        self.world.sockets[conn.socket].ending = Some(ending);
        if conn.known {
            client.memberships.lost(self.profile.grace_ms, !client.lite_id.is_empty());
            client.losing = Some(conn);
        }
        client.views.clear();
    }

    fn vanish(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let Some(conn) = client.conn.take() else { return };
        self.world.note(|| format!("client {id} vanishes"));
        self.world.sockets[conn.socket].room = 300;
        if conn.known {
            client.memberships.vanished(!client.lite_id.is_empty());
        }
        client.views.clear();
    }

    fn toggle_silence(&mut self, id: usize) {
        if let Some(conn) = &mut self.clients[id].conn {
            conn.silent = !conn.silent;
        }
    }

    fn throttle(&mut self, id: usize) {
        let rate = *self.rng.pick(&[None, Some(2), Some(5), Some(50)]);
        let Some(conn) = &mut self.clients[id].conn else { return };
        let bytes = conn.wire.throttle(rate);
        self.world.note(|| format!("client {id} throttles {rate:?}"));
        self.send(id, &bytes, None);
    }

    fn toggle_stall(&mut self, id: usize) {
        let room = self.rng.below(200);
        let Some(conn) = &mut self.clients[id].conn else { return };
        conn.stalled = !conn.stalled;
        let stalled = conn.stalled;
        self.world.sockets[conn.socket].room = if stalled { room } else { usize::MAX / 2 };
        self.world.note(|| format!("client {id} stalled: {stalled}"));
    }

    /// Sends what every server must step over.
    fn babble(&mut self, id: usize) {
        let Some(conn) = &mut self.clients[id].conn else { return };
        if conn.sent == 0 {
            return;
        }
        let ten = conn.wire.layout >= Layout::V0_4;
        let bytes = match (conn.wire.carrier, ten) {
            (Carrier::WebSocket, _) if conn.acked && self.rng.percent(30) => {
                conn.wire.websocket(Opcode::Text, b"hello")
            }
            (_, true) => conn.wire.wrap(&[1, 0x80, 3, 0, 0, 0, 9, 9, 9, 9, 1, 2, 3]),
            (_, false) => conn.wire.wrap(&[0x9a, 2, 0, 0, 0, 1, 2]),
        };
        conn.sent += bytes.len();
        self.world.send(conn.socket, &bytes);
    }

    /// Sends what ends the connection; its members leave at once.
    fn break_protocol(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let Some(conn) = &mut client.conn else { return };
        let bytes = match conn.wire.carrier {
            Carrier::WebSocket => vec![0x82, 0x01, 0x00],
            Carrier::Tcp if conn.wire.layout >= Layout::V0_4 => vec![9; 12],
            Carrier::Tcp => vec![0x80, 0xff, 0xff, 0xff, 0xff, 0],
        };
        conn.excused = true;
        conn.silent = true;
        self.world.note(|| format!("client {id} breaks the protocol"));
        self.world.send(conn.socket, &bytes);
        client.memberships.vanished(!client.lite_id.is_empty());
    }

    fn refresh(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let (Some(user), Some(conn)) = (&client.user, &mut client.conn) else { return };
        if !conn.greeted {
            return;
        }
        let token = profile::token(client.app, user, self.world.now.wall_ms, 86_400_000);
        conn.owed.push_back(Owed::RefreshAck { success: true });
        let bytes = conn.wire.refresh(&token);
        self.send(id, &bytes, None);
    }

    fn read_all(&mut self) {
        for id in 0..self.clients.len() {
            self.read(id);
        }
    }

    fn read(&mut self, id: usize) {
        let Some(conn) = &mut self.clients[id].conn else { return };
        if conn.stalled && conn.acked {
            return;
        }
        let socket = &mut self.world.sockets[conn.socket];
        let bytes = std::mem::take(&mut socket.outbound);
        let shut = socket.shut;
        for (end, heard) in conn.wire.read(&bytes) {
            let made_after = self.clients[id]
                .conn
                .as_ref()
                .map_or(0, |conn| self.world.made_after(conn.socket, end));
            self.hear(id, made_after, heard);
        }
        if shut && self.clients[id].conn.is_some() {
            self.ended_by_server(id);
        }
    }

    fn ended_by_server(&mut self, id: usize) {
        let may_be_slow = self.profile.may_be_slow;
        let client = &mut self.clients[id];
        let Some(conn) = client.conn.take() else { return };
        self.world.note(|| format!("client {id} was closed by the server"));
        assert!(conn.excused || may_be_slow || !conn.acked, "client {id} was closed for nothing");
        if conn.known {
            client.memberships.vanished(!client.lite_id.is_empty());
        }
        client.views.clear();
        let socket = &mut self.world.sockets[conn.socket];
        socket.ending = Some(Ending::Eof);
        socket.room = usize::MAX / 2;
    }

    /// Answers a ping of the server.
    pub fn answer(&mut self, id: usize, pong: impl FnOnce(&mut Wire) -> Vec<u8>) {
        let Some(conn) = &mut self.clients[id].conn else { return };
        let bytes = pong(&mut conn.wire);
        conn.sent += bytes.len();
        self.world.send(conn.socket, &bytes);
    }

    fn come_to_rest(&mut self) {
        self.world.note(|| "coming to rest".into());
        for client in &mut self.clients {
            if let Some(conn) = &mut client.conn {
                conn.stalled = false;
                conn.silent = false;
                self.world.sockets[conn.socket].room = usize::MAX / 2;
            }
        }
        self.settle();
        self.end_doubts();
        let span_ms = self.profile.ttl_ms
            + self.profile.grace_ms
            + 2 * self.world.settings.limits.sweep_ms
            + self.profile.rate_ms
            + self.world.settings.limits.greeting_ms;
        let pace_ms = (self.profile.ttl_ms / 5).min(400);
        for _ in 0..span_ms.div_ceil(pace_ms) + 2 {
            self.beat();
            self.settle();
            self.advance(pace_ms);
            self.end_doubts();
        }
        self.settle();
        self.settle_held_states();
        if self.profile.members_max.is_none() {
            self.check_rest();
        }
        self.last_words();
    }

    /// Everybody updates once more and then nobody says a word: what has to be made good for must
    /// not need a frame of the receiver's own.
    fn last_words(&mut self) {
        if self.profile.rate_ms > 0 {
            return;
        }
        for id in 0..self.clients.len() {
            self.ping(id);
            let memberships = &self.clients[id].memberships;
            let joined: Vec<&str> =
                CHANNELS.into_iter().filter(|c| memberships.is_expected(c)).collect();
            joined.iter().for_each(|channel| self.update(id, channel));
            self.settle();
        }
        for _ in 0..22 {
            self.world.advance(50);
            self.settle();
        }
    }

    /// Whoever cannot know whether it is still a member announces itself again.
    fn end_doubts(&mut self) {
        for id in 0..self.clients.len() {
            let memberships = &self.clients[id].memberships;
            let doubtful = memberships.by_channel.iter();
            let doubtful: Vec<String> = doubtful
                .filter(|(_, m)| matches!(m.phase, Phase::Doubtful))
                .map(|(channel, _)| channel.clone())
                .collect();
            doubtful.iter().for_each(|channel| self.update(id, channel));
        }
    }

    /// States that wait for the next second arrive, and throttled receivers get their frames.
    fn settle_held_states(&mut self) {
        for _ in 0..30 {
            self.advance(self.profile.ttl_ms / 8);
            (0..self.clients.len()).for_each(|id| self.ping(id));
            self.settle();
        }
    }

    fn close_everything(&mut self) {
        let politely = self.rng.percent(80);
        for id in 0..self.clients.len() {
            match politely && self.rng.percent(60) {
                true => self.close(id),
                false => self.lose(id),
            }
        }
        for socket in &mut self.world.sockets {
            socket.ending = socket.ending.or(Some(Ending::Reset));
            socket.room = usize::MAX / 2;
        }
        for _ in 0..4 {
            self.world.settle();
            self.world.advance(self.profile.grace_ms + 2_500);
        }
        self.world.settle();
    }
}

/// The text of a state: whose it is, and which one.
pub fn state_text(app: &str, id: usize, channel: &str, seq: u64, pad: usize) -> String {
    format!("{app}/{id}/{channel}/{seq}/{}", "x".repeat(pad))
}

fn random_user(rng: &mut Rng) -> String {
    format!("u{}", rng.below(5))
}

fn random_client(rng: &mut Rng, id: usize) -> Client {
    let anonymous = rng.percent(30);
    let app = if anonymous { APPS[0] } else { *rng.pick(&APPS) };
    let user = (!anonymous).then(|| random_user(rng));
    let lite_id = if rng.percent(60) { format!("lite-{id}") } else { String::new() };
    Client {
        id,
        app,
        names: user.iter().cloned().collect(),
        user,
        lite_id,
        carrier: *rng.pick(&[Carrier::WebSocket, Carrier::WebSocket, Carrier::Tcp]),
        layout: *rng.pick(&[Layout::V0_6, Layout::V0_6, Layout::V0_1, Layout::V0_0]),
        conn: None,
        connections: 0,
        losing: None,
        memberships: Memberships::default(),
        views: BTreeMap::new(),
        last_set: BTreeMap::new(),
        seq: 0,
    }
}
