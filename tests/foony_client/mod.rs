//! The real binary on port 0, and a blocking client of the Foony protocol for tests.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use headcount::client::protocol::{self, Closed, Connection, Credential, Dialect, Resume, Upgrade};
use headcount::wire::foony::{
    Action, Content, Cursor, Event, Message, PeerRequest, PeerUpdate, Presence, Publish, Request,
    binary,
};
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
        let listen = format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\nsync_tcp = \"127.0.0.1:0\"\n\
             admin = \"127.0.0.1:0\"\n{listen}\n{more}"
        );
        Server::start_with(&listen, &[])
    }

    /// With the test's key, another configuration, and more arguments.
    pub fn start_with(config: &str, arguments: &[&str]) -> Self {
        let dir = Dir::new();
        let text = format!(
            "{config}\n[data]\ndir = {:?}\n\
             [[auth.key]]\nname = \"demo.kid_main\"\nsecret = \"sk_main_secret\"\n\
             capability = {{ \"*\" = [\"*\"] }}\n",
            dir.path().join("data")
        );
        std::fs::write(dir.path().join("headcount.toml"), text).expect("a configuration");
        Server::start_in(dir, arguments)
    }

    /// Ends it, and starts another one in the same place.
    pub fn restart(self) -> Self {
        let Server { served, dir } = self;
        drop(served);
        Server::start_in(dir, &[])
    }

    fn start_in(dir: Dir, arguments: &[&str]) -> Self {
        let config = dir.path().join("headcount.toml");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["serve", "--config"]).arg(&config).args(arguments).stderr(Stdio::from(log));
        let served = Served::start(&mut command).expect("a ready line");
        Server { served, dir }
    }

    /// Changes its configuration, has it read it again, and returns the line that it logs then.
    pub fn reload(&self, change: impl FnOnce(String) -> String) -> String {
        let (config, log) = (self.dir.path().join("headcount.toml"), self.dir.path().join("log"));
        let text = std::fs::read_to_string(&config).expect("a configuration");
        std::fs::write(config, change(text)).expect("a configuration");
        let lines = || -> Vec<String> {
            let log = std::fs::read_to_string(&log).expect("a log");
            log.lines().filter(|line| line.contains("reloaded")).map(str::to_owned).collect()
        };
        let (before, deadline) = (lines().len(), Instant::now() + PATIENCE);
        let pid = self.served.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &pid]).status().expect("kill").success());
        loop {
            if let Some(line) = lines().get(before) {
                return line.clone();
            }
            assert!(Instant::now() < deadline, "no line of a reload");
            std::thread::sleep(Duration::from_millis(10));
        }
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

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Served {
        &mut self.served
    }
}

/// A connection that has authenticated.
pub struct Client {
    stream: TcpStream,
    connection: Connection,
    /// Bytes that the connection has not consumed.
    unread: Vec<u8>,
    /// Events that no test has seen, as records.
    events: VecDeque<Vec<u8>>,
    closed: Option<Closed>,
    key: String,
    resume: Resume,
    peer: Option<PeerUpdate<'static>>,
    pub connection_id: String,
    next_id: u64,
    /// Largest WebSocket message received, bytes.
    pub largest_message: usize,
}

impl Client {
    pub fn connect(server: &Server, client_id: &str, resume: &str) -> Self {
        Client::connect_as(server, KEY, client_id, resume, None)
    }

    /// With another key than the test's.
    pub fn connect_with(server: &Server, key: &str, client_id: &str) -> Self {
        Client::connect_as(server, key, client_id, "", None)
    }

    /// A peer of the presence graph.
    pub fn connect_peer(server: &Server, client_id: &str, peer: PeerUpdate<'static>) -> Self {
        Client::connect_as(server, KEY, client_id, "", Some(peer))
    }

    fn connect_as(
        server: &Server,
        key: &str,
        client_id: &str,
        resume: &str,
        peer: Option<PeerUpdate<'static>>,
    ) -> Self {
        let stream = TcpStream::connect(server.http).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let upgrade = Upgrade::new("x", "/", [7; 16]);
        let resume = Resume { client_id: client_id.into(), connection_id: resume.into() };
        let mut client = Client {
            stream,
            connection: Connection::websocket(0, Dialect::Foony, &upgrade, 7),
            unread: Vec::new(),
            events: VecDeque::new(),
            closed: None,
            key: key.into(),
            resume,
            peer,
            connection_id: String::new(),
            next_id: 1,
            largest_message: 0,
        };
        client.write();
        let deadline = Instant::now() + PATIENCE;
        while client.connection_id.is_empty() {
            assert!(client.read(deadline), "not connected but {:?}", client.closed);
        }
        client
    }

    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends requests in one WebSocket message, as far as they fit.
    pub fn send(&mut self, requests: &[Request<'_>]) {
        requests.iter().for_each(|request| self.connection.out.send(request));
        self.write();
    }

    /// Sends requests of the graph extension.
    pub fn send_peer(&mut self, requests: &[PeerRequest<'_>]) {
        requests.iter().for_each(|request| self.connection.out.send_peer(request));
        self.write();
    }

    /// Sends a WebSocket message of any bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.connection
            .out
            .send_encoded(|out| append_masked_frame(out, Opcode::Binary, bytes, [1; 4]));
        self.write();
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

    /// Publishes a message, and waits for its answer.
    pub fn publish(&mut self, channel: &'static str, name: &'static str, data: &'static [u8]) {
        let message = Message { name: name.into(), data, encoding: "".into() };
        self.ask(|id| {
            Request::Publish(Publish {
                id,
                channel: channel.into(),
                message_id: "".into(),
                ephemeral: false,
                ttl_ms: 0,
                content: Content::One(message),
            })
        });
    }

    /// Enters, updates or leaves, and waits for the answer.
    pub fn presence(&mut self, channel: &'static str, action: Action, data: &'static [u8]) {
        self.ask(|id| {
            let channel = channel.into();
            Request::Presence(Presence { id, action, channel, data, encoding: "".into() })
        });
    }

    pub fn unsubscribe(&mut self, channel: &'static str) {
        self.ask(|id| Request::Unsubscribe { id, channel: channel.into() });
    }

    /// Calls `visit` with every event until it returns something.
    pub fn until<T>(&mut self, mut visit: impl FnMut(&Event<'_>) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = self
                .next(deadline)
                .unwrap_or_else(|| panic!("more from the server, {:?}", self.closed));
            if let Some(found) = visit(&event(&record)) {
                return found;
            }
        }
    }

    /// Everything that comes within a time.
    pub fn for_a_while(&mut self, time: Duration, mut visit: impl FnMut(&Event<'_>)) {
        let deadline = Instant::now() + time;
        while let Some(record) = self.next(deadline) {
            visit(&event(&record));
        }
    }

    /// The code of the close frame that ends the connection.
    pub fn close_code(&mut self) -> Option<u16> {
        let deadline = Instant::now() + PATIENCE;
        while self.read(deadline) {}
        match self.closed {
            Some(Closed::ByServer { code, .. }) => code,
            _ => None,
        }
    }

    /// The code with which the server ends the session.
    pub fn refusal(&mut self) -> Option<u32> {
        let deadline = Instant::now() + PATIENCE;
        while self.read(deadline) {}
        match &self.closed {
            Some(Closed::Refused(refused)) => refused.code.map(|code| code.code()),
            _ => None,
        }
    }

    /// The next event, as a record.
    fn next(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        while self.events.is_empty() {
            if !self.read(deadline) {
                return None;
            }
        }
        self.events.pop_front()
    }

    fn write(&mut self) {
        let pending = self.connection.out.pending();
        self.stream.write_all(pending).expect("sent");
        let sent = pending.len();
        self.connection.out.written(sent);
    }

    /// Waits for bytes; `false` when there are none in time, or the connection is over.
    fn read(&mut self, deadline: Instant) -> bool {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
        let left = left.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("an option");
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.closed = Some(self.connection.handle_end(&self.unread)),
            Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(_) => return false,
        }
        let Client { events, key, resume, peer, connection_id, largest_message, .. } = self;
        let credential = Credential::Key(key.clone());
        let used = self.connection.handle_bytes(0, &mut self.unread, |out, event| {
            let mut records = Vec::new();
            match event {
                protocol::Event::Open => {
                    out.auth(resume.auth(&credential));
                    peer.iter().for_each(|p| out.send_peer(&PeerRequest::Update(p.clone())));
                }
                protocol::Event::Greeted(greeted) => {
                    greeted.connection_id.clone_into(connection_id);
                }
                protocol::Event::Messages(deliveries) => {
                    for delivered in deliveries {
                        let delivery = delivered.and_then(|one| one.read()).expect("a delivery");
                        records.push(record(&Event::Delivery(delivery)));
                    }
                }
                protocol::Event::Foony(event) => records.push(record(&event)),
                other => panic!("{other:?}"),
            }
            let message_bytes = records.iter().map(Vec::len).sum();
            *largest_message = (*largest_message).max(message_bytes);
            events.extend(records);
            Ok::<(), Closed>(())
        });
        match used {
            Ok(used) => drop(self.unread.drain(..used)),
            Err(closed) => self.closed = Some(closed),
        }
        if self.closed.is_none() {
            self.write();
        }
        self.closed.is_none()
    }
}

fn record(event: &Event<'_>) -> Vec<u8> {
    let mut record = Vec::new();
    binary::append_event(event, &mut record);
    record
}

fn event(record: &[u8]) -> Event<'_> {
    let record = binary::records(record).next().expect("a record");
    record.expect("a record").event().expect("an event")
}
