//! The presence graph under load: a client among many peers, of which some change their metadata.
//!
//! `cargo bench --bench graph` starts the server of this build and prints, for each number of
//! peers, what one client costs: processor time of its two threads, bytes on its connection per
//! update, the time from an update to the callback, and the time of the first snapshot.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use headcount::client::prelude::*;
use headcount::client::protocol::{
    Closed, Connection, Credential, Dialect, Event, Resume, Upgrade,
};
use headcount::wire::foony::{Action, PeerRequest, PeerUpdate, Presence, Request};

const KEY: &str = "demo.main:sk_main";
const CHANNEL: &str = "shop";
const UPDATES_PER_SECOND: u32 = 100;
const SECONDS: u32 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    for (peers, interval_ms) in [(100, 50), (1_000, 50), (100, 0), (1_000, 0)] {
        updates(&server, peers, Duration::from_millis(interval_ms))?;
    }
    snapshot(&server, 10_000)
}

/// One client sees the updates of some of its peers.
fn updates(server: &Server, count: usize, interval: Duration) -> Result<(), Box<dyn Error>> {
    let channel = format!("{CHANNEL}-{count}-{}", interval.as_millis());
    let mut peers = join_all(server, count, &channel)?;
    let (calls, called) = mpsc::channel();
    let client = server.client(&channel, interval)?;
    let observer = client.presence().observe_diff(move |diff| {
        let stamps = diff.updated.iter().filter_map(|peer| peer.peer_metadata.get("n")?.as_u64());
        let _ = calls.send((Instant::now(), stamps.collect::<Vec<_>>()));
    });
    until(|| client.presence().graph_arc().remote_peers.len() == count)?;
    while called.try_recv().is_ok() {}
    let (cpu, bytes) = (client_cpu()?, server.bytes_out()?);
    let began = Instant::now();
    let mut sent: VecDeque<Instant> = VecDeque::new();
    let mut latencies = Vec::new();
    let mut graphs = 0;
    for n in 0..UPDATES_PER_SECOND * SECONDS {
        let due = began + Duration::from_secs(1) / UPDATES_PER_SECOND * n;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        sent.push_back(Instant::now());
        let peer = n as usize % peers.len();
        peers[peer].update(&format!("{{\"n\":{n}}}"))?;
        take_calls(&called, &sent, &mut latencies, &mut graphs);
    }
    thread::sleep(interval + Duration::from_millis(200));
    take_calls(&called, &sent, &mut latencies, &mut graphs);
    let elapsed = began.elapsed().as_secs_f64();
    let cpu = (client_cpu()? - cpu).as_secs_f64() / elapsed * 100.0;
    // The acknowledgements of the updates are counted too: 5 bytes each.
    let bytes = (server.bytes_out()? - bytes) / u64::from(UPDATES_PER_SECOND * SECONDS);
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied();
    println!(
        "{count} peers, interval {} ms: {cpu:.1} % of a core, {bytes} bytes per update, {} updates \
         seen in {graphs} calls, p50 {:?}, p99 {:?}",
        interval.as_millis(),
        latencies.len(),
        at(0.5).unwrap_or_default(),
        at(0.99).unwrap_or_default(),
    );
    drop((observer, client));
    Ok(())
}

/// The time until a new client has the graph of a large channel.
fn snapshot(server: &Server, count: usize) -> Result<(), Box<dyn Error>> {
    let peers = join_all(server, count, CHANNEL)?;
    let began = Instant::now();
    let client = server.client(CHANNEL, Duration::from_millis(50))?;
    until(|| client.presence().graph_arc().remote_peers.len() >= count.min(10_000))?;
    println!(
        "{count} peers: the graph is complete {:?} after the call of connect",
        began.elapsed()
    );
    drop(peers);
    Ok(())
}

fn take_calls(
    called: &mpsc::Receiver<(Instant, Vec<u64>)>,
    sent: &VecDeque<Instant>,
    latencies: &mut Vec<Duration>,
    graphs: &mut u32,
) {
    while let Ok((at, stamps)) = called.try_recv() {
        *graphs += 1;
        let sent = stamps.iter().filter_map(|n| sent.get(*n as usize));
        latencies.extend(sent.map(|sent| at.saturating_duration_since(*sent)));
    }
}

fn until(condition: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        if Instant::now() > deadline {
            return Err("it did not happen within a minute".into());
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

fn join_all(server: &Server, count: usize, channel: &str) -> Result<Vec<Raw>, Box<dyn Error>> {
    (0..count).map(|n| Raw::join(server.http, &format!("peer-{n}"), channel)).collect()
}

/// Processor time of the threads of the client.
fn client_cpu() -> Result<Duration, Box<dyn Error>> {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        let Some((name, fields)) = stat.rsplit_once(')') else { continue };
        if name.contains("(headcount-") {
            let fields: Vec<&str> = fields.split_whitespace().collect();
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// A peer that says what it is and looks at nothing.
struct Raw {
    stream: TcpStream,
    connection: Connection,
    unread: Vec<u8>,
}

impl Raw {
    fn join(server: SocketAddr, name: &str, channel: &str) -> Result<Raw, Box<dyn Error>> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let upgrade = Upgrade::new("bench", "/", [7; 16]);
        let connection = Connection::websocket(0, Dialect::Foony, &upgrade, 7);
        let mut raw = Raw { stream, connection, unread: Vec::new() };
        let resume = Resume { client_id: name.to_owned(), connection_id: String::new() };
        let credential = Credential::Key(KEY.to_owned());
        let mut is_greeted = false;
        while !is_greeted {
            raw.write()?;
            let mut chunk = [0; 4096];
            let read = raw.stream.read(&mut chunk)?;
            raw.unread.extend_from_slice(&chunk[..read]);
            let used = raw.connection.handle_bytes(0, &mut raw.unread, |out, event| {
                match event {
                    Event::Open => {
                        out.auth(resume.auth(&credential));
                        out.send_peer(&PeerRequest::Update(update("{}")));
                    }
                    Event::Greeted(_) => is_greeted = true,
                    _ => {}
                }
                Ok::<(), Closed>(())
            });
            let used = used.map_err(|closed| closed.to_string())?;
            raw.unread.drain(..used);
        }
        raw.connection.out.send(&Request::Presence(Presence {
            id: 1,
            channel: channel.into(),
            action: Action::Enter,
            data: b"",
            encoding: "".into(),
        }));
        raw.write()?;
        raw.stream.set_nonblocking(true)?;
        Ok(raw)
    }

    fn update(&mut self, metadata: &str) -> Result<(), Box<dyn Error>> {
        let update = PeerUpdate { id: 2, ..update(metadata) };
        self.connection.out.send_peer(&PeerRequest::Update(update));
        self.write()?;
        // What it is sent are acknowledgements and pings.
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("the server closed a peer".into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self) -> Result<(), Box<dyn Error>> {
        let pending = self.connection.out.pending();
        let bytes = pending.len();
        self.stream.write_all(pending)?;
        self.connection.out.written(bytes);
        Ok(())
    }
}

fn update(metadata: &str) -> PeerUpdate<'static> {
    PeerUpdate {
        device: b"bench".into(),
        device_name: "a device".into(),
        os: "Linux".into(),
        sdk_version: "1".into(),
        metadata: metadata.as_bytes().to_vec().into(),
        ..PeerUpdate::default()
    }
}

/// The server of this build.
struct Server {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start() -> Result<Server, Box<dyn Error>> {
        let config =
            std::env::temp_dir().join(format!("headcount-graph-{}.toml", std::process::id()));
        fs::write(
            &config,
            "[listen]\nhttp = \"127.0.0.1:0\"\nsync_tcp = \"127.0.0.1:0\"\n\
             admin = \"127.0.0.1:0\"\n[cores]\nshards = 1\n[data]\ndir = \"\"\n[limits]\n\
             idle_ms = 0\n[[auth.key]]\nname = \"demo.main\"\nsecret = \"sk_main\"\n",
        )?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        let command = command.args(["serve", "--quiet", "--config"]).arg(&config);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let ready = lines.find(|line| line.starts_with("ready ")).ok_or("it is not ready")?;
        let address = |name: &str| {
            let word = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.and_then(|address| address.parse().ok()).ok_or("no address")
        };
        let (http, admin) = (address("http=")?, address("admin=")?);
        fs::remove_file(config)?;
        Ok(Server { child, http, admin })
    }

    fn client(&self, channel: &str, interval: Duration) -> Result<Client, ClientError> {
        let config =
            ClientConfig::new(format!("ws://{}", self.http)).key(KEY).client_id("observer");
        Client::connect(config.join(channel).graph_interval(interval))
    }

    /// Bytes written to clients so far.
    fn bytes_out(&self) -> Result<u64, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let lines = page.lines().filter(|line| line.starts_with("headcount_bytes_out"));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
