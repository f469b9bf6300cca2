//! A sync-wire server of one thread per connection: slow, simple, and faulty on demand.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::bench::Stamp;
use headcount::limits::REQUEST_HEAD_BYTES_MAX;
use headcount::wire::http;
use headcount::wire::sync::frame::Header;
use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::presence::{Peer, PresenceBroadcast, PresenceLeave};
use headcount::wire::sync::message::session::{HandshakeAck, PingPong};
use headcount::wire::sync::{self, Layout, Message, Parsed, RawFrame};
use headcount::wire::websocket::{self, Decoder, Incoming, MessageLimits, Opcode, Role};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1 << 20, fragments_max: 1 };

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    RefuseHandshake,
    RepeatEveryFrame,
    /// Shows only every second state, and every one from sequence 200 on.
    ShowEverySecond,
    /// Once shows the state before the last one again.
    ShowOlderStateAt {
        sequence: u64,
    },
    /// Shows nothing from here on.
    SilentFrom {
        sequence: u64,
    },
    /// Once sleeps before it goes on.
    StallAt {
        sequence: u64,
        for_ms: u64,
    },
    DisconnectWatcherAt {
        sequence: u64,
    },
}

pub struct FakeServer {
    pub http: SocketAddr,
    pub sync_tcp: SocketAddr,
}

impl FakeServer {
    /// Lives until the process ends.
    pub fn start(fault: Fault) -> FakeServer {
        let room = Arc::new(Mutex::new(PageLimit { fault, ..PageLimit::default() }));
        let http = listen(room.clone(), Wire::WebSocket);
        FakeServer { http, sync_tcp: listen(room, Wire::Tcp) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    WebSocket,
    Tcp,
}

struct Member {
    user_id: String,
    state: Vec<u8>,
    stream: TcpStream,
    wire: Wire,
}

/// Members by channel, then by connection in the order of connecting.
#[derive(Default)]
struct PageLimit {
    fault: Fault,
    connections: u64,
    channels: BTreeMap<String, BTreeMap<u64, Member>>,
}

fn listen(room: Arc<Mutex<PageLimit>>, wire: Wire) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, room) = (stream.unwrap(), room.clone());
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || serve(stream, room, wire));
        }
    });
    address
}

fn serve(stream: TcpStream, room: Arc<Mutex<PageLimit>>, wire: Wire) {
    let id = {
        let mut room = room.lock().unwrap();
        room.connections += 1;
        room.connections
    };
    let mut connection = Connection { id, stream, room, wire, bytes: Vec::new() };
    // A connection that broke is one that ended.
    let _ = connection.run();
    connection.leave();
    let _ = connection.stream.shutdown(Shutdown::Both);
}

struct Connection {
    id: u64,
    stream: TcpStream,
    room: Arc<Mutex<PageLimit>>,
    wire: Wire,
    bytes: Vec<u8>,
}

impl Connection {
    fn run(&mut self) -> Option<()> {
        if self.wire == Wire::WebSocket {
            self.upgrade()?;
        }
        let mut decoder = Decoder::new(Role::Server);
        loop {
            while self.step(&mut decoder)? {}
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        let got = self.stream.read(&mut buffer).ok().filter(|&got| got > 0)?;
        self.bytes.extend_from_slice(&buffer[..got]);
        Some(())
    }

    fn upgrade(&mut self) -> Option<()> {
        loop {
            if let http::Parsed::Upgrade(upgrade) =
                http::parse(&self.bytes, REQUEST_HEAD_BYTES_MAX).ok()?
            {
                let response = http::switching_protocols(&upgrade.key, None);
                let head_bytes = upgrade.head_bytes;
                self.bytes.drain(..head_bytes);
                return self.stream.write_all(&response).ok();
            }
            self.fill()?;
        }
    }

    /// `Some(false)`: no whole frame; `None`: the end.
    fn step(&mut self, decoder: &mut Decoder) -> Option<bool> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let used = match self.wire {
            Wire::Tcp => match sync::parse(Header::Ten, &bytes, LIMITS.message_bytes_max).ok()? {
                Parsed::Frame(frame) => {
                    self.take(frame)?;
                    frame.frame_bytes
                }
                _ => 0,
            },
            Wire::WebSocket => {
                let decoded = decoder.decode(&mut bytes, &LIMITS).ok()?;
                match decoded.incoming {
                    Some(Incoming::Message { payload, .. }) => {
                        self.take(sync::parse_message(Header::Ten, &payload).ok()?)?;
                    }
                    Some(Incoming::Close { .. }) => {
                        let mut reply = Vec::new();
                        websocket::append_close(&mut reply, 1000, "");
                        self.stream.write_all(&reply).ok()?;
                        return None;
                    }
                    _ => {}
                }
                decoded.consumed
            }
        };
        bytes.drain(..used);
        self.bytes = bytes;
        Some(used > 0)
    }

    fn take(&mut self, frame: RawFrame<'_>) -> Option<()> {
        match sync::decode(frame.message_type, frame.body, Layout::V0_6).ok()? {
            Message::Handshake(_) => self.greet(),
            Message::PingPong(ping) => {
                let pong = PingPong { timestamp_ms: ping.timestamp_ms, is_pong: true };
                let room = self.room.clone();
                // Every write happens under the lock, so that frames never mix.
                let _room = room.lock().unwrap();
                send(&self.stream, self.wire, &Message::PingPong(pong))
            }
            Message::PresenceUpdate(update) => self.update(update.channel, update.state),
            _ => Some(()),
        }
    }

    fn greet(&mut self) -> Option<()> {
        let success = self.room.lock().unwrap().fault != Fault::RefuseHandshake;
        let ack = HandshakeAck {
            success,
            session_id: "fake",
            server_clock: Map::default(),
            error: (!success).then_some("invalid bearer token"),
            fork_detected: false,
            server_wire_version: 1,
            producer_id: 0,
            accepted_epoch: 0,
            delta_signing_key: [0; 32],
        };
        send(&self.stream, self.wire, &Message::HandshakeAck(ack))
    }

    fn update(&mut self, channel: &str, state: &[u8]) -> Option<()> {
        let room = self.room.clone();
        let mut room = room.lock().unwrap();
        let fault = room.fault;
        let members = room.channels.entry(channel.to_owned()).or_default();
        let stream = self.stream.try_clone().unwrap();
        let (user_id, state) = (format!("anonymous-{:08x}", self.id), state.to_vec());
        let member = Member { user_id, state, stream, wire: self.wire };
        let before = members.insert(self.id, member);
        let sequence = Stamp::read(&members[&self.id].state).map_or(0, |stamp| stamp.sequence);
        match fault {
            Fault::SilentFrom { sequence: from } if sequence >= from => return Some(()),
            Fault::ShowEverySecond if sequence % 2 == 1 && sequence < 200 => return Some(()),
            Fault::StallAt { sequence: at, for_ms } if sequence == at => {
                std::thread::sleep(Duration::from_millis(for_ms));
            }
            Fault::DisconnectWatcherAt { sequence: at } if sequence == at => {
                let others = members.iter().filter(|(id, _)| **id != self.id);
                others.for_each(|(_, other)| drop(other.stream.shutdown(Shutdown::Both)));
            }
            _ => {}
        }
        let newcomer = before.is_none();
        show(members, |id| newcomer || id != self.id);
        match fault {
            Fault::RepeatEveryFrame => show(members, |id| id != self.id),
            Fault::ShowOlderStateAt { sequence: at } if sequence == at => {
                let newest = members.insert(self.id, before.unwrap()).unwrap();
                show(members, |id| id != self.id);
                members.insert(self.id, newest);
            }
            _ => {}
        }
        Some(())
    }

    fn leave(&self) {
        let mut room = self.room.lock().unwrap();
        for (channel, members) in &mut room.channels {
            let Some(gone) = members.remove(&self.id) else { continue };
            let leave = PresenceLeave { channel, user_id: &gone.user_id };
            for other in members.values() {
                let _ = send(&other.stream, other.wire, &Message::PresenceLeave(leave.clone()));
            }
        }
    }
}

/// Sends the full set to some of the members.
fn show(members: &BTreeMap<u64, Member>, to: impl Fn(u64) -> bool) {
    let peer = |member: &'_ Member| (member.user_id.clone(), member.state.clone());
    let owned: Vec<_> = members.values().map(peer).collect();
    let peers: Vec<_> =
        owned.iter().map(|(user_id, state)| Peer { user_id, state, last_seen_ms: 0 }).collect();
    let broadcast = PresenceBroadcast { channel: "any", peers };
    for (_, other) in members.iter().filter(|(id, _)| to(**id)) {
        let message = Message::PresenceBroadcast(broadcast.clone());
        // One that left is told by its own thread.
        let _ = send(&other.stream, other.wire, &message);
    }
}

fn send(mut stream: &TcpStream, wire: Wire, message: &Message<'_>) -> Option<()> {
    let mut frame = Vec::new();
    sync::append_message(message, Layout::V0_6, &mut frame).unwrap();
    let mut bytes = Vec::new();
    match wire {
        Wire::Tcp => bytes = frame,
        Wire::WebSocket => websocket::append_frame(&mut bytes, Opcode::Binary, &frame),
    }
    stream.write_all(&bytes).ok()
}
