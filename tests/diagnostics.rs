//! Output that cannot be written: the server continues, and exit codes are unchanged.
#![cfg(feature = "server")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use command::{headcount, stdout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use served::Served;

mod command;
mod served;

/// Timeout for the start and the end of a server.
const WITHIN: Duration = Duration::from_secs(20);

fn full_disk() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn closed_pipe() -> io::PipeWriter {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer
}

/// A full pipe, with a reader that does not read.
fn stuck_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let has_room = |writer: &io::PipeWriter| {
        let mut polled = [PollFd::new(writer, PollFlags::OUT)];
        poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
    };
    while has_room(&writer) {
        writer.write_all(&[b'.'; 4096]).unwrap();
    }
    (reader, writer)
}

struct Server(Served);

impl Server {
    fn start(stderr: impl Into<Stdio>, variables: &[(&str, &str)]) -> Server {
        let any = "127.0.0.1:0";
        let mut command = headcount(&["serve", "--http", any, "--sync-tcp", any, "--admin", any]);
        command.args(["--data-dir", "", "--shards", "1"]).envs(variables.iter().copied());
        Server(Served::start(command.stderr(stderr)).unwrap())
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.0.admin).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn lines_lost(&self) -> u64 {
        let metrics = self.get("/metrics");
        let line = metrics.lines().find_map(|l| l.strip_prefix("headcount_log_lines_lost_total "));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }

    /// Asks it to drain.
    fn drain(mut self) -> ExitStatus {
        let pid = self.0.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        let until = Instant::now() + WITHIN;
        while Instant::now() < until {
            if let Some(status) = self.0.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

#[test]
fn a_server_whose_log_is_lost_serves_and_drains() {
    let streams: [(&str, Stdio); 2] =
        [("full disk", full_disk().into()), ("closed pipe", closed_pipe().into())];
    for (name, stderr) in streams {
        // A filter that is not understood is one more line than the banner.
        let server = Server::start(stderr, &[("HEADCOUNT_LOG", "a=b=c")]);
        assert_eq!(server.lines_lost(), 2, "{name}");
        assert_eq!(server.drain().code(), Some(0), "{name}");
    }
}

#[test]
fn a_server_whose_log_is_stuck_serves_and_drains() {
    let (reader, writer) = stuck_pipe();
    let server = Server::start(writer, &[]);
    assert!(server.get("/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(server.drain().code(), Some(0));
    drop(reader);
}

#[test]
fn what_is_logged_last_is_written_before_the_end() {
    let (mut reader, writer) = io::pipe().unwrap();
    let server = Server::start(writer, &[("HEADCOUNT_LOG", "")]);
    assert_eq!(server.lines_lost(), 0);
    assert_eq!(server.drain().code(), Some(0));
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("development key") && log.contains("INFO"), "{log}");
    assert!(log.trim_end().ends_with("draining"), "{log}");
}

#[test]
fn exit_codes_do_not_depend_on_standard_error() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let any = "127.0.0.1:0";
    let serve = ["serve", "--http", &taken, "--sync-tcp", any, "--admin", any, "--data-dir", ""];
    let cases: [(&[&str], i32); 6] = [
        (&serve, 78),
        (&["serve", "--config", "/no/such/file"], 78),
        (&["serve", "--shards", "many"], 2),
        (&[], 2),
        (&["members", "doc:1", "--admin", "127.0.0.1:1"], 1),
        (&["bench", "compare", "/no/such/a", "/no/such/b"], 1),
    ];
    for (arguments, code) in cases {
        let streams: [Stdio; 2] = [full_disk().into(), closed_pipe().into()];
        for stderr in streams {
            let output = headcount(arguments).stderr(stderr).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
            assert_eq!(stdout(&output), "", "{arguments:?}");
        }
    }
    drop(holder);
}

/// A server that cannot start ends, also when its error line cannot be written.
#[test]
fn a_stuck_standard_error_does_not_delay_an_exit_for_long() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let (reader, writer) = stuck_pipe();
    let arguments = ["serve", "--http", &taken, "--data-dir", ""];
    let mut child = headcount(&arguments).stderr(writer).spawn().unwrap();
    let until = Instant::now() + WITHIN;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it waits for {reader:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(78));
}

#[test]
fn a_standard_output_that_is_full_is_an_error_and_a_closed_one_is_not() {
    for arguments in [&["--help"][..], &["--version"], &["watch", "--help"], &["config", "print"]] {
        let output = headcount(arguments).stdout(full_disk()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: cannot write to standard output: "), "{stderr}");
        assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
        let output = headcount(arguments).stdout(closed_pipe()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let names = ["HEADCOUNT_CONFIG", "HEADCOUNT_KEY", "HEADCOUNT_TOKEN", "HEADCOUNT_LOG"];
    let run = |arguments: &[&str]| {
        let mut command = headcount(arguments);
        command.envs(names.map(|name| (name, ""))).output().unwrap()
    };
    for arguments in [
        &["config", "check"][..],
        &["config", "print"],
        &["config", "explain", "chat:1"],
        &["token", "alice", "--key", "demo.k:s"],
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let nowhere = ["--http", "127.0.0.1:1", "--once"];
    for (arguments, code, named) in [
        (&["token", "alice"][..], 2, "--key"),
        (&[&["publish", "c", "1", "--key", "demo.k:s"], &nowhere[..]].concat(), 1, "no server"),
        (&[&["subscribe", "c", "--key", "demo.k:s"], &nowhere[..]].concat(), 1, "no server"),
        (&["bench", "idle", "--http", "127.0.0.1:1", "--connections", "1"], 1, "127.0.0.1:1"),
    ] {
        let output = run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
    }
    let config = run(&["serve", "--shards", "0"]);
    assert_eq!(config.status.code(), Some(78), "{config:?}");
}
