//! Shards without a shell, and crowds of sync-wire members whose sockets only count what they take.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use enumset::EnumSet;
use headcount::auth::{Grant, Keyring, Origins};
use headcount::ids::{Clocks, ConnId, Router, ShardId};
use headcount::limits::Limits;
use headcount::policy::{Policies, Policy};
use headcount::relay::RelayPolicy;
use headcount::session;
use headcount::shard::{
    Effect, Envelope, Listener, Settings, Shard, TurnIo, Wait, perform_all, turn,
};
use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::presence::{PresenceLeave, PresenceUpdate};
use headcount::wire::sync::message::session::Handshake;
use headcount::wire::sync::{self, Layout, Message};

use crate::fake_sockets::FakeSockets;

pub const CHANNEL: &str = "room:1";
const APP: &str = "alpha";

/// Free places in every mailbox.
const ROOM: usize = 8192;

/// Turns after which a crowd that has been told everything must have come to rest.
const TURNS_MAX: usize = 200_000;

/// What one member has been told, and how much its socket still takes.
#[derive(Debug)]
pub struct Member {
    pub shard: usize,
    conn: ConnId,
    /// Presence sets, and names of those who left.
    pub frames: u32,
    pub leaves: u32,
    pub bytes: u64,
    /// Members in the newest set that arrived whole, those named since taken off.
    pub sees: u32,
    /// Bytes of the newest set.
    pub set_bytes: u64,
    /// Bytes that the socket takes until somebody makes room.
    pub room: usize,
    blocked: bool,
    head: Vec<u8>,
    /// Bytes of the frame at hand that are still to come.
    rest: usize,
    coming: Option<u32>,
}

/// Some shards, driven as `src/server/turn` does.
pub struct MultiShard {
    pub shards: Vec<Shard>,
    pub now: Clocks,
    pub members: Vec<Member>,
    /// `links[from][to]`.
    links: Vec<Vec<VecDeque<Envelope>>>,
    inputs: Vec<(usize, Vec<u8>)>,
    places: HashMap<(usize, ConnId), usize>,
    sockets: FakeSockets,
}

impl MultiShard {
    pub fn new(shards: u16, limits: Limits, policy: Policy) -> Self {
        let settings = Arc::new(Settings {
            router: Router::new((1, 2), shards),
            edge: ShardId(shards),
            limits,
            policies: Policies { rules: Vec::new(), default: policy.into() },
            session: session::Settings {
                keyring: Keyring::new(Vec::new()).expect("no keys"),
                anonymous: Some(Arc::new(Grant::anonymous(APP))),
                origins: Origins::default(),
                ten_byte_layout: Layout::V0_6,
                connection_key: (3, 4),
                peer_metadata_bytes_max: 4096,
                graph_peers_max: 10_000,
                relay: RelayPolicy::off(),
            },
            proxied: Vec::new(),
            hint_app: APP.into(),
            serial_base: 0,
            name_key: 5,
            echo: false,
            asks: EnumSet::empty(),
            vacated_delay_ms: 3_000,
        });
        let count = usize::from(shards);
        let link = || (0..count).map(|_| VecDeque::new()).collect();
        MultiShard {
            shards: (0..shards).map(|i| Shard::new(ShardId(i), Arc::clone(&settings))).collect(),
            now: Clocks { mono_ms: 10_000, wall_ms: 1_700_000_000_000 },
            members: Vec::new(),
            links: (0..count).map(|_| link()).collect(),
            inputs: Vec::new(),
            places: HashMap::new(),
            sockets: FakeSockets::default(),
        }
    }

    /// A connection that has greeted, over TCP.
    pub fn connect(&mut self, shard: usize) -> usize {
        let conn = self.shards[shard].handle_open(self.now, Listener::SyncTcp).expect("room");
        let member = Member {
            shard,
            conn,
            frames: 0,
            leaves: 0,
            bytes: 0,
            sees: 0,
            set_bytes: 0,
            room: usize::MAX / 2,
            blocked: false,
            head: Vec::with_capacity(64),
            rest: 0,
            coming: None,
        };
        self.members.push(member);
        let who = self.members.len() - 1;
        self.places.insert((shard, conn), who);
        let greeting = Message::Handshake(Handshake {
            jwt_token: "",
            vector_clock: Map(Vec::new()),
            subscribed_shapes: Vec::new(),
            client_version: "0.1.0",
            lite_id: "",
            epoch: 1,
            wire_version: 1,
        });
        self.say(who, &greeting);
        who
    }

    /// A crowd that has greeted, spread evenly over the shards.
    pub fn connect_many(&mut self, count: usize) {
        for i in 0..count {
            self.connect(i % self.shards.len());
        }
        self.turn();
    }

    /// Enters [`CHANNEL`], or says something new there; `state` tells the states apart.
    pub fn announce(&mut self, who: usize, state: u32) {
        let state = format!("{state:032}");
        let state = state.as_bytes();
        self.say(who, &Message::PresenceUpdate(PresenceUpdate { channel: CHANNEL, state }));
    }

    pub fn leave(&mut self, who: usize) {
        self.say(who, &Message::PresenceLeave(PresenceLeave { channel: CHANNEL, user_id: "" }));
    }

    fn say(&mut self, who: usize, message: &Message<'_>) {
        let mut bytes = Vec::new();
        sync::append_message(message, Layout::V0_6, &mut bytes).expect("expressible");
        self.inputs.push((who, bytes));
    }

    pub fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
    }

    /// One turn of every shard.
    pub fn turn(&mut self) {
        for (who, mut bytes) in std::mem::take(&mut self.inputs) {
            let (shard, conn) = (self.members[who].shard, self.members[who].conn);
            self.shards[shard].handle_bytes(self.now, conn, &mut bytes);
            self.drain(shard);
        }
        (0..self.shards.len()).for_each(|shard| self.turn_of(shard));
    }

    /// Turns, at this moment, until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn();
            if self.is_quiet() {
                return;
            }
        }
        panic!("no rest after {TURNS_MAX} turns");
    }

    /// Time passes.
    pub fn wait(&mut self, ms: u64) {
        for _ in 0..ms {
            self.settle();
            self.advance(1);
        }
        self.settle();
    }

    /// Time passes until everybody has been told of so many; how long that took, milliseconds.
    pub fn wait_for_all(&mut self, present: u32, most_ms: u64) -> u64 {
        let began_ms = self.now.mono_ms;
        loop {
            self.settle();
            if self.members.iter().all(|member| member.sees == present) {
                return self.now.mono_ms - began_ms;
            }
            let waited_ms = self.now.mono_ms - began_ms;
            assert!(
                waited_ms < most_ms,
                "not told after {waited_ms} ms: {:?}",
                self.unaware(present)
            );
            self.advance(1);
        }
    }

    fn unaware(&self, present: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.sees != present)
    }

    /// A socket that took no more takes `room` bytes.
    pub fn make_room(&mut self, who: usize, room: usize) {
        let member = &mut self.members[who];
        member.room = room;
        if std::mem::take(&mut member.blocked) {
            let (shard, conn) = (member.shard, member.conn);
            self.shards[shard].handle_writable(self.now, conn);
            self.drain(shard);
        }
    }

    fn is_quiet(&self) -> bool {
        let no_mail = self.links.iter().flatten().all(VecDeque::is_empty);
        no_mail
            && self.inputs.is_empty()
            && self.shards.iter().all(|shard| {
                let is_due = match shard.poll_wait() {
                    Wait::Now => true,
                    Wait::Until(due_ms) => due_ms <= self.now.mono_ms,
                    Wait::Idle => false,
                };
                !is_due && !shard.is_waiting_for_room()
            })
    }

    fn turn_of(&mut self, at: usize) {
        let now = self.now;
        let Ok(_) = turn(&mut Driven { all: self, at, peer: 0 }, now);
    }

    fn drain(&mut self, at: usize) {
        let now = self.now;
        let Ok(()) = perform_all(&mut Driven { all: self, at, peer: 0 }, now);
    }

    fn flush(&mut self, shard: usize) {
        let mut dirty = Vec::new();
        while let Some(conn) = self.shards[shard].next_dirty() {
            dirty.push(conn);
        }
        for conn in dirty {
            let who = self.places[&(shard, conn)];
            let queue = self.shards[shard].queue(conn).expect("the queue of a dirty connection");
            let waiting = queue.len();
            let member = &mut self.members[who];
            let taken = queue.runs().map(|run| member.take(run)).sum();
            self.shards[shard].handle_written(self.now, conn, taken);
            if taken < waiting && !self.members[who].blocked {
                self.members[who].blocked = true;
                self.shards[shard].handle_blocked(conn);
            }
            self.drain(shard);
        }
    }
}

/// One of the shards, while it takes a turn.
struct Driven<'s> {
    all: &'s mut MultiShard,
    at: usize,
    /// The shard whose envelopes are taken.
    peer: usize,
}

impl TurnIo for Driven<'_> {
    type Error = Infallible;

    fn shard(&mut self) -> &mut Shard {
        &mut self.all.shards[self.at]
    }

    fn begin(&mut self, now: Clocks) {
        let links = &self.all.links[self.at];
        let mut rooms: Vec<usize> =
            links.iter().map(|link| ROOM.saturating_sub(link.len())).collect();
        rooms.push(ROOM);
        let loads = self.all.shards.iter().map(|s| s.connection_count() as u32);
        let loads: Vec<u32> = loads.collect();
        self.shard().begin_turn(now, &rooms, &loads);
    }

    fn receive(&mut self, _: Clocks) -> Result<(), Infallible> {
        Ok(())
    }

    fn next_envelope(&mut self) -> Option<Envelope> {
        while let Some(links) = self.all.links.get_mut(self.peer) {
            if let Some(envelope) = links[self.at].pop_front() {
                return Some(envelope);
            }
            self.peer += 1;
        }
        None
    }

    fn perform(&mut self, now: Clocks, effect: Effect) -> Result<(), Infallible> {
        let MultiShard { shards, places, sockets, links, members, .. } = &mut *self.all;
        match effect {
            Effect::Send { to, envelope } => links[self.at][to.index()].push_back(envelope),
            Effect::Close { conn, .. } => shards[self.at].handle_released(conn),
            Effect::Detach { conn } => {
                let Some(who) = places.remove(&(self.at, conn)) else { return Ok(()) };
                let moved = shards[self.at].handle_detached(now, conn, sockets.detach(who));
                assert!(moved.is_ok(), "{conn:?} is to move");
            }
            Effect::Store(request) => panic!("nothing is on disk here: {request:?}"),
            Effect::Notify(event) => panic!("no webhooks are told: {event:?}"),
            Effect::Attach { conn, socket } => {
                let who = sockets.attach(socket);
                (members[who].shard, members[who].conn) = (self.at, conn);
                places.insert((self.at, conn), who);
            }
        }
        Ok(())
    }

    fn write(&mut self, _: Clocks) -> Result<(), Infallible> {
        self.all.flush(self.at);
        Ok(())
    }
}

impl Member {
    /// Takes as much as there is room for, and looks at no more than the beginning of each frame.
    fn take(&mut self, run: &[u8]) -> usize {
        let most = run.len().min(self.room);
        let mut bytes = &run[..most];
        self.room -= most;
        self.bytes += most as u64;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                self.arrived();
                continue;
            }
            let needed = match self.head.get(2..6) {
                None => 6,
                Some(len) => {
                    10 + HEAD_BYTES.min(u32::from_le_bytes(len.try_into().unwrap()) as usize)
                }
            };
            let more = (needed - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            if needed > 6 && self.head.len() == needed {
                self.understand();
            }
        }
        most
    }

    fn understand(&mut self) {
        let len = u32::from_le_bytes(self.head[2..6].try_into().unwrap()) as usize;
        self.rest = 10 + len - self.head.len();
        let body = &self.head[10..];
        match self.head[1] {
            0x81 => {
                self.frames += 1;
                self.set_bytes = 10 + len as u64;
                self.coming = Some(array_len(&body[2 + CHANNEL.len()..]));
            }
            0x82 => {
                self.leaves += 1;
                self.sees = self.sees.saturating_sub(1);
            }
            _ => {}
        }
        self.head.clear();
        self.arrived();
    }

    fn arrived(&mut self) {
        if self.rest == 0
            && let Some(count) = self.coming.take()
        {
            self.sees = count;
        }
    }
}

/// Of a body: an array of two, the channel, and the length of the list of peers.
const HEAD_BYTES: usize = 2 + CHANNEL.len() + 5;

fn array_len(bytes: &[u8]) -> u32 {
    match bytes[0] {
        0xdc => u32::from(u16::from_be_bytes([bytes[1], bytes[2]])),
        0xdd => u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]),
        short => u32::from(short & 0x0f),
    }
}
