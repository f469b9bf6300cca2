//! Commands in a terminal or a pipeline: their output, and their end when it closes.
#![cfg(feature = "server")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use fake_realtime::{FakeRealtime, KEY};
use served::Served;
use tempdir::Dir;

mod command;
mod fake_realtime;
mod served;
mod tempdir;

/// How long a test waits for expected output.
const WITHIN: Duration = Duration::from_secs(20);

/// How long a command may take to end.
const END_WITHIN: Duration = Duration::from_secs(2);

const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";

/// An admin address whose streams have one member and never end.
fn quiet_channel() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut streams = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while !lines.next().unwrap().unwrap().is_empty() {}
            let present = r#"{"event":"present","user":"alice","connection":"0.1.2","state":1}"#;
            let text = format!("{present}\n{{\"event\":\"ready\",\"members\":1}}\n");
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            write!(stream, "{head}{:x}\r\n{text}\r\n", text.len()).unwrap();
            streams.push(stream);
        }
    });
    address
}

fn ended_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Whether the kernel sends SIGHUP when the terminal hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    ControllingTerminal,
    NoControllingTerminal,
}

/// A command at a terminal of 80 by 24.
struct AtTerminal {
    child: Child,
    /// `None`: it has hung up.
    master: Option<OwnedFd>,
    shown: String,
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl AtTerminal {
    fn start(arguments: &[&str], session: Session, variables: &[(&str, &str)]) -> AtTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let mut command = Command::new("env");
        // The process that started the tests may ignore signals.
        command.args(["--default-signal", "setsid"]);
        if session == Session::ControllingTerminal {
            command.arg("--ctty");
        }
        command.arg(env!("CARGO_BIN_EXE_headcount")).args(arguments);
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap());
        let child = command.stderr(terminal).spawn().unwrap();
        AtTerminal { child, master: Some(master), shown: String::new() }
    }

    /// Reads until `text` is shown, or every process has closed the terminal.
    fn shows(&mut self, text: &str) -> bool {
        let mut master = File::from(self.master.as_ref().unwrap().try_clone().unwrap());
        let until = Instant::now() + WITHIN;
        while !self.shown.contains(text) && Instant::now() < until {
            let mut polled = [PollFd::new(&master, PollFlags::IN)];
            let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            if poll(&mut polled, Some(&pause)).unwrap() == 0 {
                continue;
            }
            let mut bytes = [0; 4096];
            let Ok(got) = master.read(&mut bytes) else { break };
            self.shown += &String::from_utf8_lossy(&bytes[..got]);
        }
        self.shown.contains(text)
    }

    /// Hangs up; returns how the command ended.
    fn hang_up(mut self) -> Option<ExitStatus> {
        self.master = None;
        ended_within(&mut self.child, END_WITHIN)
    }
}

fn watching(session: Session, variables: &[(&str, &str)]) -> AtTerminal {
    AtTerminal::start(&["watch", "doc:1", "--admin", &quiet_channel()], session, variables)
}

#[test]
fn watch_ends_when_its_terminal_hangs_up() {
    for session in [Session::ControllingTerminal, Session::NoControllingTerminal] {
        let mut watch = watching(session, &[]);
        assert!(watch.shows("alice"), "{}", watch.shown);
        assert!(watch.shown.contains(ENTER_SCREEN), "{}", watch.shown);
        let status = watch.hang_up().unwrap_or_else(|| panic!("{session:?}: it goes on"));
        assert_eq!(status.code(), Some(0), "{session:?}: {status}");
    }
}

#[test]
fn watch_restores_the_terminal_when_a_signal_ends_it() {
    for name in ["-TERM", "-HUP", "-INT", "-QUIT"] {
        let mut watch = watching(Session::ControllingTerminal, &[]);
        assert!(watch.shows("alice"), "{name}: {}", watch.shown);
        signal(&watch.child, name);
        assert!(watch.shows(LEAVE_SCREEN), "{name}: {}", watch.shown);
        let status = ended_within(&mut watch.child, END_WITHIN);
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{name}");
        let last = watch.shown.split(LEAVE_SCREEN).last().unwrap();
        assert!(!last.contains("panicked") && !last.contains("error"), "{name}: {last}");
    }
}

#[test]
fn commands_without_a_screen_end_with_their_terminal() {
    let realtime = FakeRealtime::start();
    let arguments = ["subscribe", "chat:1", "--http", &realtime.address, "--key", KEY];
    let admin = quiet_channel();
    for session in [Session::ControllingTerminal, Session::NoControllingTerminal] {
        let mut lines =
            AtTerminal::start(&["watch", "doc:1", "--json", "--admin", &admin], session, &[]);
        assert!(lines.shows("alice"), "{}", lines.shown);
        assert!(lines.hang_up().is_some(), "watch --json, {session:?}: it goes on");
        let subscribe = AtTerminal::start(&arguments, session, &[]);
        thread::sleep(Duration::from_millis(300));
        assert!(subscribe.hang_up().is_some(), "subscribe, {session:?}: it goes on");
        let publish = [&["publish"], &arguments[1..]].concat();
        let mut publish = AtTerminal::start(&publish, session, &[]);
        assert!(publish.shows("Ctrl-D ends"), "{}", publish.shown);
        assert!(publish.hang_up().is_some(), "publish, {session:?}: it goes on");
    }
}

#[test]
fn a_command_that_waits_ends_with_the_reader_of_its_output() {
    let realtime = FakeRealtime::start();
    let admin = quiet_channel();
    let json = ["watch", "doc:1", "--admin", &admin, "--json"];
    let text = ["watch", "doc:1", "--admin", &admin];
    let subscribe = ["subscribe", "chat:1", "--presence", "--http", &realtime.address];
    let subscribe = [&subscribe[..], &["--key", KEY]].concat();
    for arguments in [&json[..], &text, &subscribe] {
        let mut command = command::headcount(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        if arguments[0] == "watch" {
            output.read_exact(&mut [0; 10]).unwrap();
        } else {
            thread::sleep(Duration::from_millis(300));
        }
        drop(output);
        let status = ended_within(&mut child, END_WITHIN);
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{arguments:?}");
        let mut notes = String::new();
        child.stderr.take().unwrap().read_to_string(&mut notes).unwrap();
        assert_eq!(notes, "", "{arguments:?}");
    }
}

#[test]
fn a_terminal_that_takes_no_escapes_is_shown_lines() {
    for variable in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        // Some programs take these for a terminal that has colours.
        let variables = [variable, ("CI", "true"), ("CLICOLOR", "1"), ("CLICOLOR_FORCE", "1")];
        let mut watch = watching(Session::ControllingTerminal, &variables);
        assert!(watch.shows("1 member\r\n"), "{}", watch.shown);
        assert!(watch.shown.contains("present alice 1"), "{}", watch.shown);
        assert!(!watch.shown.contains('\x1b'), "{}", watch.shown);
        for arguments in [&["--help"][..], &["watch", "--help"], &["serve", "--shards", "x"]] {
            let mut command =
                AtTerminal::start(arguments, Session::ControllingTerminal, &variables);
            assert!(command.shows("--help") || command.shows("Example:"), "{}", command.shown);
            assert!(!command.shown.contains('\x1b'), "{arguments:?}: {}", command.shown);
        }
    }
}

#[test]
fn a_member_and_a_graph_at_a_terminal_end_with_it() {
    let data = Dir::new();
    let dir = data.path().to_str().unwrap();
    let any = ["--http", "--sync-tcp", "--admin"].map(|name| [name, "127.0.0.1:0"]).concat();
    let serve = [&["serve", "--quiet", "--shards", "1", "--data-dir", dir], &any[..]].concat();
    let server = Served::start(&mut command::headcount(&serve)).unwrap();
    let (http, admin) = (server.http.to_string(), server.admin.to_string());
    let access = ["--http", &http, "--data-dir", dir];
    let start = |rest: &[&str], variables: &[(&str, &str)]| {
        let arguments = [rest, &access].concat();
        AtTerminal::start(&arguments, Session::ControllingTerminal, variables)
    };
    let graph = ["watch", "--graph", "room:1"];
    let mut watch = start(&graph, &[]);
    assert!(watch.shows("\x1b[2J") && watch.shows("direct peers: 0"), "{}", watch.shown);
    let mut plain = start(&graph, &[("TERM", "dumb")]);
    assert!(plain.shows("direct peers: 1"), "{}", plain.shown);
    assert!(!plain.shown.contains('\x1b'), "{}", plain.shown);
    let mut join = start(&["join", "room:1", "--as", "alice"], &[]);
    assert!(join.shows("joined room:1 as alice") && join.shows("Ctrl-C leaves"), "{}", join.shown);
    assert!(watch.shows("\"alice\" on "), "{}", watch.shown);
    for (command, name) in [(join, "join"), (plain, "TERM=dumb"), (watch, "watch")] {
        let status = command.hang_up().unwrap_or_else(|| panic!("{name}: it goes on"));
        assert_eq!(status.code(), Some(0), "{name}");
    }
    let members = command::printed(&["members", "room:1", "--admin", &admin]);
    assert!(members.contains("0 members"), "{members}");
}

#[test]
fn an_empty_no_color_asks_for_nothing() {
    let mut watch = watching(Session::ControllingTerminal, &[("NO_COLOR", "")]);
    assert!(watch.shows("alice"), "{}", watch.shown);
    assert!(watch.shown.contains(ENTER_SCREEN), "{}", watch.shown);
}

fn wait_for_line(stderr: &mut BufReader<ChildStderr>, text: &str) {
    let found = stderr.lines().any(|line| line.unwrap().contains(text));
    assert!(found, "no {text}");
}

fn children(pid: u32) -> Vec<String> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_benchmark_that_is_ended_ends_the_server_it_started() {
    for (name, number) in [("-TERM", 15), ("-HUP", 1), ("-INT", 2), ("-QUIT", 3)] {
        let mut command = Command::new("env");
        command.args(["--default-signal", env!("CARGO_BIN_EXE_headcount"), "bench", "latency"]);
        command.args(["--duration", "60s", "--wait", "sleep"]);
        command.current_dir(Path::new(env!("CARGO_TARGET_TMPDIR")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        wait_for_line(&mut stderr, "measuring");
        let servers = children(child.id());
        assert_eq!(servers.len(), 1, "{servers:?}");
        signal(&child, name);
        let status = ended_within(&mut child, Duration::from_secs(10)).expect(name);
        assert_eq!(status.signal(), Some(number), "{status}");
        assert!(!Path::new(&format!("/proc/{}", servers[0])).exists(), "{name}: {servers:?}");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert!(!rest.contains("error") && !rest.contains("panicked"), "{rest}");
    }
}
