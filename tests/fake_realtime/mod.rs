//! A Foony server of one thread per connection: slow, simple, and faulty on demand.
#![allow(dead_code, reason = "each test binary uses its part")]

mod connection;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use headcount::wire::foony::binary::append_event;
use headcount::wire::foony::{Content, Delivery, ErrorCode, Event, Message};
use headcount::wire::websocket::{self, Opcode};

use connection::Connection;

/// The key that is good; the token that is good is `good`.
pub const KEY: &str = "demo.kid_main:sk_main_secret";

/// How long a test waits for what must come.
const WITHIN: Duration = Duration::from_secs(20);

/// Lives until the process ends.
pub struct FakeRealtime {
    pub address: String,
    world: Arc<Mutex<World>>,
}

/// A stored message.
#[derive(Clone)]
pub struct Stored {
    serial: u64,
    client_id: String,
    message_id: String,
    name: String,
    data: Vec<u8>,
}

/// What a channel keeps.
#[derive(Default)]
struct Log {
    head: u64,
    kept: Vec<Stored>,
}

struct Peer {
    stream: TcpStream,
    channels: BTreeSet<String>,
}

#[derive(Default)]
struct World {
    connections: u64,
    channels: BTreeMap<String, Log>,
    peers: BTreeMap<u64, Peer>,
    /// Requests so far, in short.
    requests: Vec<String>,
    keep_alive_ms: u64,
    /// First words of requests, and how they are refused.
    refusals: BTreeMap<String, (ErrorCode, String)>,
    /// First words of requests that are not answered.
    ignored: BTreeSet<String>,
    /// Publishes until the connection is cut behind one that was stored and not acknowledged.
    cut_after: Option<u64>,
    /// Most messages in the answer to a fetch or a page of history.
    page_max: Option<usize>,
}

impl FakeRealtime {
    pub fn start() -> FakeRealtime {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let world = Arc::new(Mutex::new(World::default()));
        let shared = world.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, world) = (stream.unwrap(), shared.clone());
                std::thread::spawn(move || Connection::serve(stream, world));
            }
        });
        FakeRealtime { address, world }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn ask_for_pings(&self, keep_alive_ms: u64) {
        self.world().keep_alive_ms = keep_alive_ms;
    }

    /// Refuses requests that begin like this, from now on.
    pub fn refuse(&self, request: &str, code: ErrorCode, message: &str) {
        self.world().refusals.insert(request.to_owned(), (code, message.to_owned()));
    }

    /// Never answers requests that begin like this, from now on.
    pub fn ignore(&self, request: &str) {
        self.world().ignored.insert(request.to_owned());
    }

    pub fn cut_after(&self, publishes: u64) {
        self.world().cut_after = Some(publishes);
    }

    pub fn limit_pages(&self, messages: usize) {
        self.world().page_max = Some(messages);
    }

    /// Stores and delivers.
    pub fn publish(&self, channel: &str, data: &str) {
        self.world().publish("server", "", channel, "n", data.as_bytes());
    }

    /// Stores and delivers to nobody, as to a consumer that is too slow.
    pub fn lose(&self, channel: &str, data: &str) {
        self.world().store("server", "", channel, "n", data.as_bytes());
    }

    /// Forgets every message up to a serial.
    pub fn forget(&self, channel: &str, serial: u64) {
        let mut world = self.world();
        let log = world.channels.entry(channel.to_owned()).or_default();
        log.kept.retain(|stored| stored.serial > serial);
    }

    /// Says something to everybody.
    pub fn say(&self, event: &Event<'_>) {
        let mut bytes = Vec::new();
        append_event(event, &mut bytes);
        self.send_frame(Opcode::Binary, &bytes);
    }

    /// Sends a frame to everybody.
    pub fn send_frame(&self, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        websocket::append_frame(&mut bytes, opcode, payload);
        self.world().peers.values().for_each(|peer| send_bytes(&peer.stream, &bytes));
    }

    /// Ends every connection without a word.
    pub fn cut(&self) {
        let world = self.world();
        world.peers.values().for_each(|peer| drop(peer.stream.shutdown(Shutdown::Both)));
    }

    /// Data of what is stored, in order.
    pub fn stored(&self, channel: &str) -> Vec<String> {
        let world = self.world();
        let kept = world.channels.get(channel).map_or(&[][..], |log| &log.kept);
        kept.iter().map(|stored| String::from_utf8(stored.data.clone()).unwrap()).collect()
    }

    pub fn requests(&self) -> Vec<String> {
        self.world().requests.clone()
    }

    /// Waits until so many requests that begin like this were answered.
    pub fn wait_for(&self, request: &str, times: usize) {
        let until = Instant::now() + WITHIN;
        loop {
            let requests = self.requests();
            if requests.iter().filter(|seen| seen.starts_with(request)).count() >= times {
                return;
            }
            assert!(Instant::now() < until, "no {times} x `{request}`: {requests:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl World {
    /// Stores a message once and returns its serial.
    fn store(&mut self, client: &str, id: &str, channel: &str, name: &str, data: &[u8]) -> u64 {
        let log = self.channels.entry(channel.to_owned()).or_default();
        let is_same = |stored: &&Stored| {
            !id.is_empty() && stored.message_id == id && stored.client_id == client
        };
        if let Some(stored) = log.kept.iter().find(is_same) {
            return stored.serial;
        }
        log.head += 1;
        let message_id = if id.is_empty() { format!("m-{}", log.head) } else { id.to_owned() };
        let (client_id, name) = (client.to_owned(), name.to_owned());
        let data = data.to_vec();
        log.kept.push(Stored { serial: log.head, client_id, message_id, name, data });
        log.head
    }

    /// Stores a message, and delivers it if it is new.
    fn publish(&mut self, client: &str, id: &str, channel: &str, name: &str, data: &[u8]) -> u64 {
        let head = self.channels.get(channel).map_or(0, |log| log.head);
        let serial = self.store(client, id, channel, name, data);
        if serial > head {
            let stored = self.channels[channel].kept.last().unwrap().clone();
            self.deliver(&delivery(channel, &stored));
        }
        serial
    }

    fn deliver(&self, delivery: &Delivery<'_>) {
        for peer in self.peers.values() {
            if peer.channels.contains(&*delivery.channel) {
                send(&peer.stream, &Event::Delivery(delivery.clone()));
            }
        }
    }
}

fn delivery<'a>(channel: &'a str, stored: &'a Stored) -> Delivery<'a> {
    let message = Message { name: (&*stored.name).into(), data: &stored.data, encoding: "".into() };
    Delivery {
        channel: channel.into(),
        message_id: (&*stored.message_id).into(),
        client_id: (&*stored.client_id).into(),
        timestamp_ms: 1_700_000_000_000 + stored.serial,
        serial: stored.serial,
        ephemeral: false,
        content: Content::One(message),
    }
}

fn send(stream: &TcpStream, event: &Event<'_>) {
    let (mut record, mut frame) = (Vec::new(), Vec::new());
    append_event(event, &mut record);
    websocket::append_frame(&mut frame, Opcode::Binary, &record);
    send_bytes(stream, &frame);
}

/// Every write happens under the lock of the world, so that frames never mix.
fn send_bytes(mut stream: &TcpStream, bytes: &[u8]) {
    // One that has gone is told by its own thread.
    let _ = std::io::Write::write_all(&mut stream, bytes);
}
