//! The process under test: its configuration file, its start, its ready line, its end.

use crate::client::{SyncClient, Transport, Who};
use crate::token::{KEY_NAME, KEY_SECRET};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(10);
const EXIT_WITHIN: Duration = Duration::from_secs(5);

/// The configuration file of one server. Starts from what every test needs: port 0 everywhere,
/// a fresh data directory, anonymous sessions, and the key `demo.kid_main`.
#[derive(Clone, Debug)]
pub struct Config {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    keys: Vec<(String, String)>,
    namespaces: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let empty = Config { sections: BTreeMap::new(), keys: Vec::new(), namespaces: Vec::new() };
        let shards = std::env::var("HEADCOUNT_TEST_SHARDS").unwrap_or_else(|_| "2".into());
        empty
            .set("cores.shards", &shards)
            .set("listen.http", "\"127.0.0.1:0\"")
            .set("listen.sync_tcp", "\"127.0.0.1:0\"")
            .set("listen.admin", "\"127.0.0.1:0\"")
            .set("auth.anonymous", "true")
            .key(KEY_NAME, KEY_SECRET)
    }
}

impl Config {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `section.key` to a TOML value, replacing what was there.
    pub fn set(mut self, path: &str, value: &str) -> Self {
        let (section, key) = path.rsplit_once('.').expect("section.key");
        let section = self.sections.entry(section.into()).or_default();
        section.insert(key.into(), value.into());
        self
    }

    /// Adds a key that may do everything in its app.
    pub fn key(mut self, name: &str, secret: &str) -> Self {
        self.keys.push((name.into(), secret.into()));
        self
    }

    /// Adds settings of all channels, as TOML lines.
    pub fn namespace(mut self, lines: &str) -> Self {
        self.namespaces.push(format!("match = \"*\"\n{lines}"));
        self
    }

    fn to_toml(&self) -> String {
        let mut text = String::new();
        for (section, settings) in &self.sections {
            text += &format!("[{section}]\n");
            for (key, value) in settings {
                text += &format!("{key} = {value}\n");
            }
        }
        for (name, secret) in &self.keys {
            text += &format!("[[auth.key]]\nname = \"{name}\"\nsecret = \"{secret}\"\n");
            text += "capability = { \"*\" = [\"*\"] }\n";
        }
        for lines in &self.namespaces {
            text += &format!("[[namespace]]\n{lines}\n");
        }
        text
    }

    /// Starts a server and waits until it says that it is ready.
    pub fn start(self) -> Server {
        let home = tempfile::tempdir().expect("temporary directory");
        Server::start_in(self, home)
    }

    /// Starts a server that is expected to refuse, and gives how it ended.
    pub fn refused(self) -> Refusal {
        let home = tempfile::tempdir().expect("temporary directory");
        let mut child = Launch::new(&self, home.path()).spawn();
        let status = wait(&mut child, READY_WITHIN);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mut stdout = String::new();
        let pipe = child.stdout.as_mut().expect("piped");
        pipe.read_to_string(&mut stdout).expect("standard output is UTF-8");
        Refusal { status, stdout, stderr: stderr_of(home.path()) }
    }
}

/// How a server ended that did not start.
#[derive(Debug)]
pub struct Refusal {
    /// `None`: it was still running after ten seconds.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

impl Refusal {
    /// The one line that says what is wrong; panics unless the process ended with a non-zero
    /// exit code and exactly one such line.
    pub fn error_line(&self) -> &str {
        let status = self.status.unwrap_or_else(|| panic!("it started: {self:?}"));
        assert!(status.code().is_some_and(|code| code != 0), "{status}: {self:?}");
        assert!(!self.stdout.contains("ready "), "it said that it is ready: {self:?}");
        let mut lines = self.stderr.lines().filter(|line| line.starts_with("error:"));
        let line = lines.next().unwrap_or_else(|| panic!("no line `error: ...`: {self:?}"));
        assert_eq!(lines.next(), None, "more than one error line: {self:?}");
        line
    }
}

/// A running server; ended by SIGTERM when dropped.
pub struct Server {
    pub http: SocketAddr,
    pub sync_tcp: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    config: Config,
    home: Option<TempDir>,
}

impl Server {
    pub fn start() -> Server {
        Config::new().start()
    }

    fn start_in(config: Config, home: TempDir) -> Server {
        let mut child = Launch::new(&config, home.path()).spawn();
        let line = ready_line(&mut child).unwrap_or_else(|problem| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{problem}\n--- standard error\n{}", stderr_of(home.path()));
        });
        let [http, sync_tcp, admin] = parse_ready(&line);
        Server { http, sync_tcp, admin, child, config, home: Some(home) }
    }

    /// Ends the process and starts another one on the same data directory.
    pub fn restart(mut self) -> Server {
        self.terminate();
        let status = wait(&mut self.child, EXIT_WITHIN).expect("exits after SIGTERM");
        assert!(status.success(), "after SIGTERM: {status}");
        let home = self.home.take().expect("a running server has its directory");
        let config = self.config.clone();
        drop(self);
        Server::start_in(config, home)
    }

    /// The same, at the same addresses.
    pub fn restart_in_place(mut self) -> Server {
        self.keep_addresses();
        self.restart()
    }

    /// Ends the process without a word (SIGKILL) and starts another one on the same data directory
    /// and addresses.
    pub fn kill_and_restart(mut self) -> Server {
        self.keep_addresses();
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
        let home = self.home.take().expect("a running server has its directory");
        let config = self.config.clone();
        drop(self);
        Server::start_in(config, home)
    }

    fn keep_addresses(&mut self) {
        let all = [("http", self.http), ("sync_tcp", self.sync_tcp), ("admin", self.admin)];
        for (key, address) in all {
            let config = std::mem::take(&mut self.config);
            self.config = config.set(&format!("listen.{key}"), &format!("\"{address}\""));
        }
    }

    /// Sends SIGTERM and returns at once.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).expect("a pid is positive");
        // SAFETY: signals one process, the child; it has not been waited for, so its pid is ours.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }

    /// Waits for the process to end without blocking the test's other tasks.
    pub async fn exited(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {within:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// CPU time of the process so far; counted in ticks of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // proc(5): the third field follows the name in brackets; 14 and 15 are utime and stime.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>());
        let ticks: u64 = ticks.map(|ticks| ticks.expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    pub fn address(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::WebSocket => self.http,
            Transport::Tcp => self.sync_tcp,
        }
    }

    /// Opens a connection and says nothing on it.
    pub async fn connect(&self, who: &Who) -> SyncClient {
        SyncClient::connect(self.address(who.transport), who).await
    }

    /// Opens a connection and greets; panics when the server refuses.
    pub async fn login(&self, who: &Who) -> SyncClient {
        let mut client = self.connect(who).await;
        let ack = client.greet(who).await;
        assert!(ack.success, "{who:?} refused: {ack:?}");
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // No directory: `restart` has taken it and the process has been waited for.
        let Some(home) = &self.home else { return };
        if self.child.try_wait().expect("a child").is_none() {
            self.terminate();
        }
        let status = wait(&mut self.child, EXIT_WITHIN);
        if status.is_none() {
            eprintln!("server still running {EXIT_WITHIN:?} after SIGTERM: killed");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- configuration\n{}", self.config.to_toml());
            eprintln!("--- standard error of the server ({status:?})\n{}", stderr_of(home.path()));
        } else if status.is_some_and(|status| !status.success()) {
            let stderr = stderr_of(home.path());
            panic!("the server ended with {status:?} during the test\n{stderr}");
        }
    }
}

/// The path of the binary under test.
pub fn binary() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/headcount");
    std::env::var_os("HEADCOUNT_BIN").map_or(built, PathBuf::from)
}

struct Launch {
    config_path: PathBuf,
    home: PathBuf,
}

impl Launch {
    fn new(config: &Config, home: &Path) -> Launch {
        let mut config = config.clone();
        let data = config.sections.entry("data".into()).or_default();
        data.entry("dir".into()).or_insert_with(|| format!("{:?}", home.join("data")));
        let config_path = home.join("headcount.toml");
        std::fs::write(&config_path, config.to_toml()).expect("writes the configuration");
        Launch { config_path, home: home.into() }
    }

    fn spawn(&self) -> Child {
        let stderr = File::create(self.home.join("stderr")).expect("creates a file");
        let binary = binary();
        Command::new(&binary)
            .args(["serve", "--config"])
            .arg(&self.config_path)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (set HEADCOUNT_BIN)", binary.display()))
    }
}

fn stderr_of(home: &Path) -> String {
    let bytes = std::fs::read(home.join("stderr")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        let status = child.try_wait().expect("a child");
        if status.is_some() || Instant::now() >= deadline {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads standard output up to the ready line, and in the background ever after so that the pipe
/// never fills.
fn ready_line(child: &mut Child) -> Result<String, String> {
    let output = child.stdout.take().expect("piped");
    let (lines, received) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.starts_with("ready ") => return Ok(line),
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(format!("no ready line within {READY_WITHIN:?}"));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err("ended before it was ready".into());
            }
        }
    }
}

fn parse_ready(line: &str) -> [SocketAddr; 3] {
    ["http", "sync_tcp", "admin"].map(|name| {
        let prefix = format!("{name}=");
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(&prefix));
        let address = word.unwrap_or_else(|| panic!("no {name}= in {line:?}"));
        address.parse().unwrap_or_else(|error| panic!("{name}={address}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_gives_three_addresses() {
        let line = "ready http=127.0.0.1:1 sync_tcp=127.0.0.1:2 admin=127.0.0.1:3";
        assert_eq!(parse_ready(line).map(|address| address.port()), [1, 2, 3]);
    }

    #[test]
    fn a_later_setting_replaces_an_earlier_one() {
        let text = Config::new().set("auth.anonymous", "false").to_toml();
        assert!(text.contains("anonymous = false\n"), "{text}");
        assert!(!text.contains("anonymous = true\n"), "{text}");
        assert_eq!(text.matches("[auth]\n").count(), 1, "{text}");
    }
}
