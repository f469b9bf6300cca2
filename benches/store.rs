//! Messages on disk at scale: how long a start with a million stored channels takes, and the first
//! page of history from ten gigabytes.
//!
//! `cargo bench --bench store` writes about 11 GB below the current directory and removes them.
//! `HEADCOUNT_STORE_GB=1` writes less. What a publish costs is measured by
//! `headcount bench fanout --durability disk`.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, unbounded};
use headcount::channel::{Content, Message, Part};
use headcount::ids::{Router, ShardId};
use headcount::policy::{Durability, Policies, Policy};
use headcount::shard::{LogId, LogOf, StoreOperation, StoreOutcome, StoreReply, StoreRequest};
use headcount::store::{Store, Worker, WorkerParts};

const APP: &str = "demo";
const CHANNELS: u64 = 1_000_000;
const LARGE_CHANNELS: u64 = 1_000;
const LARGE_BYTES: usize = 4_000;

/// Requests that wait for the worker.
const WAITING_MAX: u64 = 8_192;

/// The engine has compacted when nothing was written for so long; how long that may take.
const QUIET: Duration = Duration::from_secs(8);
const COMPACTED_WITHIN: Duration = Duration::from_secs(300);

/// Pages that are read.
const PAGES: u64 = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::Builder::new().prefix(".headcount-bench-store-").tempdir_in(".")?;
    million_channels(dir.path())?;
    let gigabytes = std::env::var("HEADCOUNT_STORE_GB").ok().and_then(|text| text.parse().ok());
    first_pages(dir.path(), gigabytes.unwrap_or(10))
}

fn million_channels(dir: &Path) -> Result<(), Box<dyn Error>> {
    let data = dir.join("million");
    let began = Instant::now();
    let mut writer = Writer::start(&data)?;
    for channel in 0..CHANNELS {
        writer.append(channel, 1, 200)?;
    }
    writer.finish()?;
    println!("{CHANNELS} channels with a message each were written in {:?}", began.elapsed());
    let server = Server::start(&data)?;
    server.pages("a page of one of them", 0, CHANNELS)?;
    println!("resident {} MiB", server.resident_mib()?);
    Ok(())
}

fn first_pages(dir: &Path, gigabytes: u64) -> Result<(), Box<dyn Error>> {
    let data = dir.join("large");
    let began = Instant::now();
    let mut writer = Writer::start(&data)?;
    let messages = gigabytes * 1_000_000_000 / LARGE_BYTES as u64;
    for number in 0..messages {
        let serial = number / LARGE_CHANNELS + 1;
        writer.append(number % LARGE_CHANNELS, serial, LARGE_BYTES)?;
    }
    writer.finish()?;
    println!("{gigabytes} GB in {LARGE_CHANNELS} channels were written in {:?}", began.elapsed());
    let server = Server::start(&data)?;
    server.pages("the first page of one of them, 100 messages", 0, LARGE_CHANNELS)?;
    let waited = server.wait_until_compacted()?;
    println!("the engine has compacted after {waited:?}");
    server.pages("the first page of another one then", PAGES, LARGE_CHANNELS)
}

/// Writes to a store without a server.
struct Writer {
    requests: Sender<StoreRequest>,
    replies: Receiver<StoreReply>,
    worker: thread::JoinHandle<()>,
    policy: Arc<Policy>,
    router: Router,
    payload: Vec<u8>,
    began_ms: u64,
    sent: u64,
    answered: u64,
}

impl Writer {
    fn start(data: &Path) -> Result<Writer, Box<dyn Error>> {
        fs::create_dir_all(data)?;
        let policy = Arc::new(Policy {
            durability: Durability::Disk,
            history_messages: 1_000_000,
            history_bytes: 1 << 40,
            history_age_s: 31_536_000,
            ..Policy::default()
        });
        let policies = Policies { rules: Vec::new(), default: Arc::clone(&policy) };
        let store = Store::new(&data.join("store"), 0, policies);
        store.open()?;
        let (requests, to_serve) = unbounded();
        let (answers, replies) = unbounded();
        let router = Router::new((1, 2), 1);
        let worker = Worker::new(WorkerParts {
            store: Arc::new(store),
            shard: ShardId(0),
            router,
            requests: to_serve,
            replies: answers,
            wake: Box::new(|| ()),
        });
        let worker = thread::spawn(move || worker.run());
        // As hard to compress as JSON of an application may be.
        let random = |n: u32| b'!' + (n.wrapping_mul(2_654_435_761) >> 20) as u8 % 90;
        let payload = (0..LARGE_BYTES as u32).map(random).collect();
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        let (sent, answered) = (0, 0);
        Ok(Writer { requests, replies, worker, policy, router, payload, began_ms, sent, answered })
    }

    fn append(&mut self, channel: u64, serial: u64, bytes: usize) -> Result<(), Box<dyn Error>> {
        let mut data = self.payload[..bytes].to_vec();
        data[0] = b'"';
        data[bytes - 1] = b'"';
        data[1..bytes - 1].iter_mut().filter(|b| matches!(b, b'"' | b'\\')).for_each(|b| *b = b'x');
        let number = self.sent.to_string();
        data[1..1 + number.len()].copy_from_slice(number.as_bytes());
        let part = Part { name: "n".into(), data: data.into(), encoding: "".into() };
        let message = Message {
            serial,
            timestamp_ms: self.began_ms + self.sent / 1000,
            id: number.into(),
            client_id: "bench".into(),
            content: Content::One(part),
        };
        let channel = self.router.key(&APP.into(), &format!("channel-{channel}"));
        self.requests.send(StoreRequest {
            log: LogId { of: LogOf::Messages, slot: 0, opening: 1 },
            channel: Arc::new(channel),
            policy: Arc::clone(&self.policy),
            operation: StoreOperation::Append(vec![Arc::new(message)]),
        })?;
        self.sent += 1;
        while self.sent - self.answered > WAITING_MAX {
            self.take_answer()?;
        }
        Ok(())
    }

    fn take_answer(&mut self) -> Result<(), Box<dyn Error>> {
        match self.replies.recv()?.outcome {
            StoreOutcome::Appended { .. } => self.answered += 1,
            outcome => return Err(format!("{outcome:?}").into()),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Box<dyn Error>> {
        while self.answered < self.sent {
            self.take_answer()?;
        }
        drop(self.requests);
        self.worker.join().map_err(|_| "the worker panicked")?;
        Ok(())
    }
}

struct Server {
    child: Child,
    http: SocketAddr,
}

impl Server {
    fn start(data: &Path) -> Result<Server, Box<dyn Error>> {
        let config = data.join("headcount.toml");
        fs::write(
            &config,
            format!(
                "[listen]\nhttp = \"127.0.0.1:0\"\nsync_tcp = \"127.0.0.1:0\"\n\
                 admin = \"127.0.0.1:0\"\n[data]\ndir = {data:?}\n[[auth.key]]\n\
                 name = \"demo.main\"\nsecret = \"sk_main\"\n[[namespace]]\nmatch = \"*\"\n\
                 durability = \"disk\"\nhistory_messages = 1000000\nhistory_age_s = 31536000\n\
                 history_bytes = 1073741824\n"
            ),
        )?;
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_headcount"))
            .args(["serve", "--quiet", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let ready = lines.find(|line| line.starts_with("ready ")).ok_or("it is not ready")?;
        let ready_after = began.elapsed();
        let http = ready.split_whitespace().find_map(|word| word.strip_prefix("http="));
        let http = http.and_then(|address| address.parse().ok()).ok_or("no address")?;
        let server = Server { child, http };
        let (resident, disk) = (server.resident_mib()?, disk_bytes(data)? >> 20);
        println!("ready after {ready_after:?}, resident {resident} MiB, {disk} MiB on disk");
        Ok(server)
    }

    fn resident_mib(&self) -> Result<u64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no size")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    }

    /// Waits until nothing has been written for a while.
    fn wait_until_compacted(&self) -> Result<Duration, Box<dyn Error>> {
        let began = Instant::now();
        let (mut written, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET && began.elapsed() < COMPACTED_WITHIN {
            thread::sleep(Duration::from_millis(500));
            let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
            let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            let bytes: u64 = bytes.ok_or("no count")?.parse()?;
            if bytes != written {
                (written, since) = (bytes, Instant::now());
            }
        }
        Ok(began.elapsed())
    }

    /// Reads the first page of some channels, each for the first time. `from`: how many channels
    /// have been read before.
    fn pages(&self, what: &str, from: u64, channels: u64) -> Result<(), Box<dyn Error>> {
        let mut times = Vec::new();
        for n in 0..PAGES {
            let channel = (from + n) * 7_919 % channels;
            let began = Instant::now();
            let page = self.get(&format!("/channels/channel-{channel}/messages"))?;
            times.push((began.elapsed(), n));
            let count = page.matches("\"serial\"").count();
            if count == 0 {
                return Err(format!("nothing in channel {channel}: {page}").into());
            }
        }
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100].0;
        let slowest: Vec<_> = times.iter().rev().take(3).collect();
        println!("{what}: p50 {:?}, p99 {:?}; the slowest: {slowest:?}", at(50), at(99));
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.http)?;
        // demo.main:sk_main
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic ZGVtby5tYWluOnNrX21haW4=\r\n\
             Connection: close\r\n\r\n"
        )?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn disk_bytes(dir: &Path) -> Result<u64, Box<dyn Error>> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}
