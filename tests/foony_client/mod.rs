//! The real binary on port 0, and a blocking client of the Foony protocol for tests.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use headcount::wire::foony::{Auth, Cursor, Event, Request, binary};
use headcount::wire::websocket::{Opcode, append_masked_frame};

use crate::served::Served;
use crate::tempdir::Dir;

pub const KEY: &str = "demo.kid_main:sk_main_secret";

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own, ended with the test.
pub struct Server {
    served: Served,
    dir: Dir,
}

impl Server {
    /// Starts with the test's key and this much more configuration.
    pub fn start(more: &str) -> Self {
        Server::start_listening("", more)
    }

    /// The same with more keys in `[listen]`.
    pub fn start_listening(listen: &str, more: &str) -> Self {
        let dir = Dir::new();
        let text = format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\nsync_tcp = \"127.0.0.1:0\"\n\
             admin = \"127.0.0.1:0\"\n{listen}\n[data]\ndir = {:?}\n\
             [[auth.key]]\nname = \"demo.kid_main\"\nsecret = \"sk_main_secret\"\n\
             capability = {{ \"*\" = [\"*\"] }}\n{more}",
            dir.path().join("data")
        );
        std::fs::write(dir.path().join("headcount.toml"), text).expect("a configuration");
        Server::start_in(dir)
    }

    /// Ends it, and starts another one in the same place.
    pub fn restart(self) -> Self {
        let Server { served, dir } = self;
        drop(served);
        Server::start_in(dir)
    }

    fn start_in(dir: Dir) -> Self {
        let config = dir.path().join("headcount.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["serve", "--config"]).arg(&config).stderr(Stdio::null());
        let served = Served::start(&mut command).expect("a ready line");
        Server { served, dir }
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.served.child.id()));
        let pages = statm.expect("the server lives");
        let resident = pages.split(' ').nth(1).and_then(|text| text.parse::<u64>().ok());
        resident.expect("pages") * 4096
    }

    /// The sum of a counter over all shards and labels that contain `labels`.
    pub fn counter(&self, name: &str, labels: &str) -> u64 {
        let mut stream = TcpStream::connect(self.served.admin).expect("the admin address");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("metrics");
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Deref for Server {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

/// A connection that has authenticated.
pub struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    pub connection_id: String,
    next_id: u64,
    /// Largest WebSocket message received, bytes.
    pub largest_message: usize,
}

impl Client {
    pub fn connect(server: &Server, client_id: &str, resume: &str) -> Self {
        let mut stream = TcpStream::connect(server.http).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_nodelay(true).expect("an option");
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        let connection_id = String::new();
        let (inbox, largest_message) = (Vec::new(), 0);
        let mut client = Client { stream, inbox, connection_id, next_id: 1, largest_message };
        client.send(&[Request::Auth(Auth {
            key: KEY.into(),
            client_id: client_id.into(),
            resume_connection_id: resume.into(),
            ..Auth::default()
        })]);
        client.events(|event| match event {
            Event::Connected { connection_id, .. } => Some(connection_id.to_string()),
            other => panic!("not connected but {other:?}"),
        });
        client
    }

    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends requests in one WebSocket message.
    pub fn send(&mut self, requests: &[Request<'_>]) {
        let mut records = Vec::new();
        for request in requests {
            binary::append_request(request, &mut records).expect("a request that can be said");
        }
        let mut frame = Vec::new();
        append_masked_frame(&mut frame, Opcode::Binary, &records, [1, 2, 3, 4]);
        self.stream.write_all(&frame).expect("sent");
    }

    /// Sends one request and waits for its answer; whatever else comes is passed over.
    pub fn ask(&mut self, request: impl FnOnce(u64) -> Request<'static>) {
        let id = self.next_id();
        self.send(&[request(id)]);
        self.until(|event| match event {
            Event::Ack { id: answered, .. } => (*answered == id).then_some(()),
            Event::Error { .. } => panic!("refused: {event:?}"),
            _ => None,
        });
    }

    pub fn subscribe(&mut self, channel: &str) {
        let channel = channel.to_owned();
        self.ask(|id| Request::Subscribe { id, channel: channel.into(), cursor: Cursor::None });
    }

    /// Calls `visit` with every event until it returns something.
    pub fn until<T>(&mut self, mut visit: impl FnMut(&Event<'_>) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.message(deadline).expect("more from the server");
            let mut found = None;
            for record in binary::records(&message) {
                let event = record.expect("a record").event().expect("an event");
                found = found.or_else(|| visit(&event));
            }
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// As [`Client::until`], for what must come first.
    fn events(&mut self, visit: impl FnMut(&Event<'_>) -> Option<String>) {
        self.connection_id = self.until(visit);
    }

    /// Everything that comes within a time.
    pub fn for_a_while(&mut self, time: Duration, mut visit: impl FnMut(&Event<'_>)) {
        let deadline = Instant::now() + time;
        while let Some(message) = self.message(deadline) {
            for record in binary::records(&message) {
                visit(&record.expect("a record").event().expect("an event"));
            }
        }
    }

    /// The code of the close frame that ends the connection.
    pub fn close_code(&mut self) -> Option<u16> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.frame(deadline)? {
                (8, body) => return Some(u16::from_be_bytes([*body.first()?, *body.get(1)?])),
                _ => continue,
            }
        }
    }

    fn message(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            match self.frame(deadline)? {
                (2, payload) => {
                    self.largest_message = self.largest_message.max(payload.len());
                    return Some(payload);
                }
                (8, _) => return None,
                _ => continue,
            }
        }
    }

    fn frame(&mut self, deadline: Instant) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, header, length)) = frame_of(&self.inbox) {
                let payload = self.inbox[header..header + length].to_vec();
                self.inbox.drain(..header + length);
                return Some((opcode, payload));
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

/// Opcode, header bytes and payload bytes of a whole unmasked frame.
fn frame_of(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (header, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    (bytes.len() >= header + length).then_some((bytes[0] & 0x0f, header, length))
}
