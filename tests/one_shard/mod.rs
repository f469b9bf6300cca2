//! One shard without a shell, and clients of it. Drives it as `src/server/turn` does.
#![allow(dead_code, reason = "each user takes its part")]

#[path = "../json_client/mod.rs"]
pub mod json_client;

use std::collections::VecDeque;
use std::sync::Arc;

use enumset::EnumSet;
use headcount::auth::{Capability, Grant, Key, Keyring, Material, Origins};
use headcount::channel::{self, Content, Part};
use headcount::ids::{Clocks, ConnId, Router, ShardId};
use headcount::limits::Limits;
use headcount::policy::{AdmitKind, Policies};
use headcount::relay::RelayPolicy;
use headcount::session::foony::encode;
use headcount::session::{self, Feed};
use headcount::shard::{
    Effect, Envelope, HomeChannelId, Listener, MessageBatch, Question, Settings, Shard, Verdict,
};
use headcount::wire::foony::{self, Auth, Cursor, Publish, Request, binary};
use headcount::wire::sync::message::presence::PresenceUpdate;
use headcount::wire::sync::message::session::Handshake;
use headcount::wire::sync::{self, Layout, Message};
use headcount::wire::websocket::{Opcode, append_masked_frame};

const APP: &str = "alpha";
const SECRET: &str = "sk_alpha_0123456789abcdef";

/// Free places in the mailbox of the edge, which nothing here is sent to.
const ROOM: usize = 8192;

/// Connections whose runs are gathered before they are submitted, as in the shell.
const GATHERED_MAX: usize = 512;

/// A prime, so that its multiples come to every place of a list of another length.
const SCATTER: usize = 7919;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Binary,
    Json,
}

/// A connection and how it speaks.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub conn: ConnId,
    mode: Mode,
}

/// What the sockets took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub sends: usize,
    pub bytes: usize,
}

/// A shard that owns every channel, at a time that stands still.
pub struct OneShard {
    shard: Shard,
    now: Clocks,
    requests: u64,
    flushing: Vec<(ConnId, usize)>,
    /// Questions to the admission hook that no test has seen.
    questions: VecDeque<Question>,
    /// Connections may be closed by the shard.
    may_close: bool,
}

impl OneShard {
    pub fn new() -> Self {
        OneShard::with(settings())
    }

    /// A shard whose connections come through a load balancer.
    pub fn proxied() -> Self {
        let proxied = vec![Listener::Http, Listener::SyncTcp];
        OneShard::with(Settings { proxied, ..settings() })
    }

    /// A shard with an admission hook that decides this.
    pub fn asking(asks: EnumSet<AdmitKind>) -> Self {
        let mut shard = OneShard::with(Settings { asks, ..settings() });
        shard.may_close = true;
        shard.begin_turn();
        shard
    }

    /// The next question to the admission hook.
    pub fn question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// The admission hook answers.
    pub fn decide(&mut self, question: &Question, verdict: Verdict) {
        let (conn, number) = (question.addr.conn, question.number);
        let envelope = Envelope::Verdict { conn, number, verdict };
        self.shard.handle_envelope(self.now, envelope);
        self.drain();
        self.end_turn();
        self.begin_turn();
    }

    /// The server stops.
    pub fn begin_drain(&mut self) {
        self.shard.begin_drain(self.now);
        self.drain();
    }

    /// Time passes, and what is due is done.
    pub fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.shard.handle_timeout(self.now);
        self.drain();
    }

    /// A client that has connected over TCP.
    pub fn open_tcp(&mut self) -> ConnId {
        self.shard.handle_open(self.now, Listener::SyncTcp).expect("room")
    }

    /// The socket of a client fails.
    pub fn fail(&mut self, conn: ConnId) {
        self.shard.handle_lost(self.now, conn);
        self.drain();
    }

    /// Connections that ended for a reason.
    pub fn disconnected(&self, label: &str) -> u64 {
        let counters = self.shard.counters();
        let found = counters.disconnects().find(|(found, _)| *found == label);
        found.expect("a reason").1
    }

    pub fn ignored(&self, label: &str) -> u64 {
        let counters = self.shard.counters();
        let found = counters.ignored().find(|(found, _)| *found == label);
        found.expect("a reason").1
    }

    fn with(settings: Settings) -> Self {
        let shard = Shard::new(ShardId(0), Arc::new(settings));
        let now = Clocks { mono_ms: 10_000, wall_ms: 1_700_000_000_000 };
        let flushing = Vec::with_capacity(GATHERED_MAX);
        OneShard { shard, now, requests: 0, flushing, questions: VecDeque::new(), may_close: false }
    }

    /// A client whose connection has become a WebSocket, and no more.
    pub fn open(&mut self) -> ConnId {
        self.open_in_pieces(&[&handshake("")])
    }

    /// A client whose bytes arrive in pieces.
    pub fn open_in_pieces(&mut self, pieces: &[&[u8]]) -> ConnId {
        let conn = self.shard.handle_open(self.now, Listener::Http).expect("room");
        for piece in pieces {
            self.receive_on(conn, &mut piece.to_vec());
        }
        conn
    }

    /// A client that has not said who it is.
    pub fn stranger(&mut self) -> Client {
        Client { conn: self.open(), mode: Mode::Binary }
    }

    /// A client that has authenticated; without a name it is given one.
    pub fn connect(&mut self, user: &str, mode: Mode) -> Client {
        let client = Client { conn: self.open(), mode };
        let key = format!("{APP}.k:{SECRET}").into();
        let auth = Auth { key, client_id: user.into(), ..Auth::default() };
        self.ask(client, &Request::Auth(auth));
        client
    }

    /// A client of the sync wire that has greeted, anonymously.
    pub fn greet(&mut self) -> ConnId {
        let conn = self.open();
        let handshake = Handshake {
            jwt_token: "",
            client_version: "test",
            wire_version: 1,
            ..Handshake::default()
        };
        self.say(conn, &Message::Handshake(handshake));
        conn
    }

    /// A client of the sync wire enters a channel.
    pub fn announce(&mut self, conn: ConnId, channel: &str, state: &[u8]) {
        self.say(conn, &Message::PresenceUpdate(PresenceUpdate { channel, state }));
    }

    /// A client of the sync wire.
    pub fn say(&mut self, conn: ConnId, message: &Message<'_>) {
        let mut frame = Vec::new();
        sync::append_message(message, Layout::V0_6, &mut frame).expect("expressible");
        self.receive_on(conn, &mut framed(Opcode::Binary, &frame));
    }

    /// Connections of which each subscribes to all the channels, in another order than they came:
    /// fan-out does not walk through memory from one end to the other.
    pub fn subscribers(&mut self, count: usize, mode: Mode, channels: &[&str]) -> Vec<Client> {
        let clients: Vec<Client> =
            (0..count).map(|at| self.connect(&format!("user{at}"), mode)).collect();
        for client in (0..count).map(|at| clients[at * SCATTER % count]) {
            for channel in channels {
                let (id, channel) = (self.next_request(), (*channel).into());
                self.ask(client, &Request::Subscribe { id, channel, cursor: Cursor::None });
            }
        }
        self.end_turn();
        self.flush();
        clients
    }

    pub fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// A publish as it comes in, which is no resend of an earlier one.
    pub fn publish_bytes(&mut self, mode: Mode, channel: &str, data: &str) -> Vec<u8> {
        let id = self.next_request();
        let message =
            foony::Message { name: "n".into(), data: data.as_bytes(), encoding: "".into() };
        let publish = Publish {
            id,
            channel: channel.into(),
            message_id: format!("m{id}").into(),
            ephemeral: false,
            ttl_ms: 0,
            content: foony::Content::One(message),
        };
        request_bytes(mode, &Request::Publish(publish))
    }

    pub fn ask(&mut self, client: Client, request: &Request<'_>) {
        self.receive(client, &mut request_bytes(client.mode, request));
    }

    /// What waits to be written to a connection.
    pub fn unsent(&self, conn: ConnId) -> Vec<u8> {
        self.shard
            .queue(conn)
            .map_or_else(Vec::new, |queue| queue.runs().flatten().copied().collect())
    }

    /// Bytes arrive.
    pub fn receive(&mut self, client: Client, bytes: &mut [u8]) {
        self.receive_on(client.conn, bytes);
    }

    /// The client sends no more. Its socket is closed.
    pub fn end(&mut self, conn: ConnId) {
        self.shard.handle_eof(self.now, conn);
        while let Some(effect) = self.shard.poll_effect() {
            assert!(matches!(effect, Effect::Close { .. }), "{effect:?}");
        }
    }

    /// As [`OneShard::receive`].
    pub fn receive_on(&mut self, conn: ConnId, bytes: &mut [u8]) {
        self.shard.handle_bytes(self.now, conn, bytes);
        self.drain();
    }

    pub fn begin_turn(&mut self) {
        let load = self.shard.connection_count() as u32;
        self.shard.begin_turn(self.now, &[0, ROOM], &[load]);
        self.drain();
    }

    pub fn end_turn(&mut self) {
        self.shard.end_turn(self.now);
        self.drain();
    }

    /// A batch arrives from the owner of a channel.
    pub fn deliver(&mut self, to: HomeChannelId, batch: &Arc<MessageBatch>) {
        let batch = Arc::clone(batch);
        let envelope = Envelope::Messages { to, feeds: Feed::MESSAGES, batch };
        self.shard.handle_envelope(self.now, envelope);
        self.drain();
    }

    /// Sockets take everything that waits for them.
    pub fn flush(&mut self) -> Taken {
        let mut taken = Taken::default();
        while let Some(id) = self.shard.next_dirty() {
            if self.flushing.len() == GATHERED_MAX {
                self.complete_flush();
            }
            let queue = self.shard.queue(id).expect("the queue of a dirty connection");
            let bytes = queue.runs().map(<[u8]>::len).sum();
            self.flushing.push((id, bytes));
            taken.sends += 1;
            taken.bytes += bytes;
        }
        self.complete_flush();
        taken
    }

    fn complete_flush(&mut self) {
        for (id, bytes) in self.flushing.drain(..) {
            self.shard.handle_written(self.now, id, bytes);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.shard.poll_effect() {
            match effect {
                Effect::Send { envelope: Envelope::Ask(question), .. } => {
                    self.questions.push_back(*question);
                }
                Effect::Close { .. } if self.may_close => {}
                effect => panic!("nothing leaves this shard but {effect:?}"),
            }
        }
    }
}

/// The home's entry of the channel that was subscribed to first.
pub const FIRST_HOME: HomeChannelId = HomeChannelId { slot: 0, generation: 1 };

/// One message as the owner of a channel routes it to subscribers of `mode`.
pub fn batch(mode: Mode, channel: &str, data: &str) -> Arc<MessageBatch> {
    let data = data.as_bytes().to_vec().into();
    let part = Part { name: "n".into(), data, encoding: "".into() };
    let message = channel::Message {
        serial: 1,
        timestamp_ms: 1_700_000_000_000,
        id: "m1".into(),
        client_id: "ann".into(),
        content: Content::One(part),
    };
    let feed = match mode {
        Mode::Binary => Feed::FoonyMessages,
        Mode::Json => Feed::FoonyMessagesJson,
    };
    let mut encoded = [const { None }; Feed::COUNT];
    encoded[feed as usize] = Some(encode::messages(feed, channel, [&message]));
    Arc::new(MessageBatch { encoded, first_serial: Some(1), messages: 1 })
}

/// A WebSocket handshake with one more header, or none.
pub fn handshake(header: &str) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         {header}\r\n"
    )
    .into_bytes()
}

/// A request as it comes in.
pub fn request_bytes(mode: Mode, request: &Request<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    let opcode = match mode {
        Mode::Binary => {
            binary::append_request(request, &mut payload).expect("expressible");
            Opcode::Binary
        }
        Mode::Json => {
            json_client::append_request(request, &mut payload);
            Opcode::Text
        }
    };
    framed(opcode, &payload)
}

/// A message as a client sends it.
pub fn framed(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_masked_frame(&mut bytes, opcode, payload, [1, 2, 3, 4]);
    bytes
}

fn settings() -> Settings {
    let secret = Material::Hs256(SECRET.into());
    let key = Key::new(&format!("{APP}.k"), secret, Capability::all()).expect("a key");
    Settings {
        router: Router::new((1, 2), 1),
        edge: ShardId(1),
        limits: Limits { home_subscribers_max: u32::MAX, ..Limits::default() },
        policies: Policies::default(),
        session: session::Settings {
            keyring: Keyring::new(vec![key]).expect("keys"),
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
    }
}
