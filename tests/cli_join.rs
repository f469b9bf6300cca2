//! `join` and `watch --graph` as a person runs them, against the real server.
#![cfg(feature = "server")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use command::{headcount, printed, refusal, run};
use served::Served;
use tempdir::Dir;

mod command;
mod served;
mod tempdir;

const KEY: &str = "demo.main:sk_main";

/// How long a test waits for something that is expected.
const WITHIN: Duration = Duration::from_secs(20);

/// A server whose address for clients stays the same when it is started again.
struct Server {
    served: Option<Served>,
    config: PathBuf,
    http: String,
    _dir: Dir,
}

impl Server {
    fn start() -> Server {
        let dir = Dir::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let http = format!("127.0.0.1:{port}");
        let text = format!(
            "[cores]\nshards = 2\n[listen]\nhttp = \"{http}\"\nsync_tcp = \"127.0.0.1:0\"\n\
             admin = \"127.0.0.1:0\"\n[data]\ndir = {:?}\n\
             [[auth.key]]\nname = \"demo.main\"\nsecret = \"sk_main\"\n\
             [[auth.key]]\nname = \"demo.chat\"\nsecret = \"sk_chat\"\n\
             capability = {{ \"chat:*\" = [\"publish\"] }}\n\
             [[namespace]]\nmatch = \"*\"\npresence_grace_ms = 60000\n",
            dir.path().join("data"),
        );
        let config = dir.path().join("headcount.toml");
        fs::write(&config, text).unwrap();
        let mut server = Server { served: None, config, http, _dir: dir };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut command = headcount(&["serve", "--quiet", "--config"]);
        let command = command.arg(&self.config).stderr(Stdio::piped());
        self.served = Some(Served::start(command).unwrap());
    }

    fn admin(&self) -> String {
        self.served.as_ref().unwrap().admin.to_string()
    }

    /// Name and state of everyone in the channel.
    fn members(&self, channel: &str) -> Vec<(String, Value)> {
        let admin = self.admin();
        let page = printed(&["members", channel, "--app", "demo", "--admin", &admin, "--json"]);
        let page: Value = serde_json::from_str(&page).unwrap();
        let name = |member: &Value| member["user"].as_str().unwrap().to_owned();
        page["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| (name(member), member["state"].clone()))
            .collect()
    }

    #[track_caller]
    fn shows(&self, channel: &str, expected: &[(&str, Value)]) {
        let expected: Vec<(String, Value)> =
            expected.iter().map(|(name, state)| ((*name).to_owned(), state.clone())).collect();
        let until = Instant::now() + WITHIN;
        loop {
            let members = self.members(channel);
            if members == expected {
                return;
            }
            assert!(Instant::now() < until, "{members:?} instead of {expected:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn start_command(&self, rest: &[&str]) -> Running {
        Running::start(&[rest, &["--http", &self.http, "--key", KEY]].concat())
    }

    /// A member, when it says that it is one.
    fn join(&self, channel: &str, rest: &[&str]) -> Running {
        let running = self.start_command(&[&["join", channel], rest].concat());
        assert!(running.line().starts_with(&format!("joined {channel} as ")));
        running
    }
}

/// A command that runs, and its lines.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut command = headcount(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let notes = lines_of(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Running { child, stdin, lines, notes }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(WITHIN).unwrap_or_else(|_| panic!("no line: {:?}", self.said()))
    }

    fn note(&self) -> String {
        self.notes.recv_timeout(WITHIN).expect("a line on standard error")
    }

    /// What is on standard error.
    fn said(&self) -> Vec<String> {
        self.notes.try_iter().collect()
    }

    fn types(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal; the exit code, and the lines that were not read.
    fn ends_by(mut self, signal: &str) -> (Option<i32>, Vec<String>, Vec<String>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let until = Instant::now() + WITHIN;
        while self.is_running() {
            assert!(Instant::now() < until, "it does not end: {:?}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        (code, self.lines.iter().collect(), self.notes.iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            // The test has dropped its receiver.
            let _ = sender.send(line.unwrap());
        }
    });
    lines
}

#[test]
fn a_member_has_its_state_changes_it_by_lines_and_leaves_at_once() {
    let server = Server::start();
    let arguments = ["join", "room:1", "--as", "alice", "--state", r#"{"mood":"fine"}"#];
    let mut alice = server.start_command(&arguments);
    assert_eq!(alice.line(), "joined room:1 as alice");
    assert_eq!(server.members("room:1"), [("alice".to_owned(), json!({"mood": "fine"}))]);
    alice.types("{\"mood\": \"busy\"}\n");
    server.shows("room:1", &[("alice", json!({"mood": "busy"}))]);
    // The grace is a minute: who is gone earlier has left.
    for signal in ["-INT", "-TERM"] {
        let bob = server.join("room:2", &["--as", "bob"]);
        assert_eq!(bob.ends_by(signal), (Some(0), vec![], vec![]), "{signal}");
        server.shows("room:2", &[]);
    }
    assert_eq!(alice.ends_by("-INT"), (Some(0), vec![], vec![]));
    server.shows("room:1", &[]);
}

#[test]
fn the_end_of_standard_input_is_not_the_end() {
    let server = Server::start();
    let mut alice = server.join("room:1", &["--as", "alice"]);
    alice.types("1");
    alice.stdin = None;
    server.shows("room:1", &[("alice", json!(1))]);
    thread::sleep(Duration::from_millis(300));
    assert!(alice.is_running());
    server.shows("room:1", &[("alice", json!(1))]);
    assert_eq!(alice.ends_by("-INT"), (Some(0), vec![], vec![]));
}

#[test]
fn a_line_that_is_no_state_is_one_note_and_the_state_stays() {
    let server = Server::start();
    let mut alice = server.join("room:1", &["--as", "alice", "--state", "\"first\""]);
    alice.types("nonsense\n\n");
    let note = alice.note();
    assert!(note.starts_with("note: line 1 of the input: not JSON: "), "{note}");
    assert!(note.ends_with("the state stays as it is"), "{note}");
    assert_eq!(server.members("room:1"), [("alice".to_owned(), json!("first"))]);
    alice.types(&format!("\"{}\"\n", "x".repeat(70_000)));
    let note = alice.note();
    assert!(note.starts_with("note: line 3 of the input: "), "{note}");
    assert!(note.ends_with(" (40001): the state stays as it is"), "{note}");
    assert_eq!(server.members("room:1"), [("alice".to_owned(), json!("first"))]);
    alice.types("\"second\"\n");
    server.shows("room:1", &[("alice", json!("second"))]);
    assert_eq!(alice.ends_by("-INT"), (Some(0), vec![], vec![]));
}

#[test]
fn a_lost_connection_is_made_again_with_the_last_accepted_state() {
    let mut server = Server::start();
    let mut alice = server.join("room:1", &["--as", "alice"]);
    alice.types("{\"n\":1}\n");
    server.shows("room:1", &[("alice", json!({"n": 1}))]);
    alice.types(&format!("\"{}\"\n", "x".repeat(70_000)));
    assert!(alice.note().contains("(40001)"));
    server.served = None;
    let lost = format!("note: lost the server at {}; connecting again", server.http);
    assert_eq!(alice.note(), lost);
    server.run();
    assert_eq!(alice.note(), "note: connected again");
    server.shows("room:1", &[("alice", json!({"n": 1}))]);
    assert_eq!(alice.ends_by("-INT"), (Some(0), vec![], vec![]));
    server.shows("room:1", &[]);
}

#[test]
fn what_cannot_be_is_one_line_and_an_exit_code() {
    let server = Server::start();
    let http = server.http.as_str();
    let join =
        |rest: &[&str], code| refusal(&[&["join", "room:1", "--http", http], rest].concat(), code);
    let line = join(&["--as", "alice", "--key", "demo.main:wrong"], 1);
    assert!(line.starts_with(&format!("error: the server at {http} refused the key")), "{line}");
    assert!(line.contains("(40101)"), "{line}");
    let line = join(&["--key", "demo.chat:sk_chat"], 1);
    assert!(line.starts_with("error: cannot join room:1: "), "{line}");
    assert!(line.contains("(40302): use a --key or --token that allows it"), "{line}");
    let line = join(&["--key", KEY, "--state", "nonsense"], 2);
    assert!(line.starts_with("error: --state: not JSON: "), "{line}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let line = refusal(&["join", "room:1", "--http", &nobody, "--key", KEY], 1);
    assert!(line.starts_with(&format!("error: no headcount server at {nobody}: ")), "{line}");
    let graph = ["watch", "--graph", "room:1", "--http", http, "--key"];
    let line = refusal(&[&graph[..], &["demo.main:wrong"]].concat(), 1);
    assert!(line.contains("(40101)"), "{line}");
    let line = refusal(&[&graph[..], &["demo.chat:sk_chat"]].concat(), 1);
    assert!(line.starts_with("error: cannot join room:1: "), "{line}");
    for arguments in [
        &["watch", "room:1", "--http", http][..],
        &["watch", "room:1", "--graph", "--json"],
        &["watch", "room:1", "--graph", "--admin", http],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(server.members("room:1"), []);
}

#[test]
fn a_token_says_who_the_member_is() {
    let server = Server::start();
    let token = printed(&["token", "alice", "--key", KEY]);
    let arguments = ["join", "room:1", "--http", &server.http, "--token", token.trim_end()];
    let unnamed = Running::start(&arguments);
    assert_eq!(unnamed.line(), "joined room:1 as alice");
    let named = Running::start(&[&arguments[..], &["--as", "alice"]].concat());
    assert_eq!(named.line(), "joined room:1 as alice");
    let line = refusal(&[&arguments[..], &["--as", "bob"]].concat(), 2);
    assert!(line.starts_with("error: --as: the token is that of alice"), "{line}");
    server.shows("room:1", &[("alice", Value::Null), ("alice", Value::Null)]);
}

#[test]
fn a_name_is_made_for_a_member_that_gives_none() {
    let server = Server::start();
    let member = server.start_command(&["join", "room:1"]);
    let line = member.line();
    let name = line.strip_prefix("joined room:1 as ").unwrap();
    assert!(!name.is_empty(), "{line}");
    server.shows("room:1", &[(name, Value::Null)]);
}

#[test]
fn the_graph_is_printed_after_each_change() {
    let server = Server::start();
    let alice = server.join("room:1", &["--as", "alice"]);
    let watch = server.start_command(&["watch", "--graph", "room:1"]);
    assert_eq!(watch.line(), "");
    let shown = |text: &str| {
        while !watch.line().contains(text) {}
    };
    shown("direct peers: 1");
    let line = watch.line();
    assert!(line.contains("\"alice\" on ") && line.ends_with("online: WebSocket"), "{line}");
    assert_eq!(watch.line(), "`-- other peers: 0");
    assert_eq!(alice.ends_by("-INT").0, Some(0));
    shown("direct peers: 0");
    assert_eq!(server.members("room:1").len(), 1, "the one that watches");
    assert_eq!(watch.ends_by("-INT").0, Some(0));
    server.shows("room:1", &[]);
}
