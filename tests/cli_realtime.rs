//! `publish` and `subscribe` as a person runs them, against a server that can be made to fail.
#![cfg(feature = "server")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use headcount::limits::REQUEST_HEAD_BYTES_MAX;
use headcount::wire::foony::binary::append_event;
use headcount::wire::foony::{ErrorCode, Event};
use headcount::wire::http;
use headcount::wire::websocket::{self, Opcode};
use serde_json::Value;

use command::{headcount, refusal, run, stdout};
use fake_realtime::{FakeRealtime, KEY};

mod command;
mod fake_realtime;

/// How long a test waits for an expected line.
const WITHIN: Duration = Duration::from_secs(20);

/// The command with the address of a fake server, and its key.
fn arguments<'a>(server: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let (command, rest) = rest.split_first().unwrap();
    [&[*command, "--http", server, "--key", KEY][..], rest].concat()
}

fn done(server: &FakeRealtime, rest: &[&str]) -> String {
    command::printed(&arguments(&server.address, rest))
}

fn refused(server: &FakeRealtime, rest: &[&str]) -> String {
    refusal(&arguments(&server.address, rest), 1)
}

/// Runs to the end with an input.
fn fed(server: &FakeRealtime, rest: &[&str], input: &str) -> Output {
    let mut command = headcount(&arguments(&server.address, rest));
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that stops reading has failed.
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A command that runs, and its lines.
struct Running {
    child: Child,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

impl Running {
    fn start(server: &FakeRealtime, rest: &[&str]) -> Running {
        let mut command = headcount(&arguments(&server.address, rest));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let notes = lines_of(child.stderr.take().unwrap());
        Running { child, lines, notes }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(WITHIN).expect("a line")
    }

    /// The data of the next lines.
    fn data(&self, lines: usize) -> Vec<String> {
        (0..lines).map(|_| json(&self.line())["data"].to_string()).collect()
    }

    fn note(&self) -> String {
        self.notes.recv_timeout(WITHIN).expect("a line on standard error")
    }

    /// Waits for the end; returns the output that was not read yet.
    fn end(mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        drop(self.child.stdin.take());
        let until = Instant::now() + WITHIN;
        let code = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                None => {
                    self.child.kill().unwrap();
                    self.child.wait().unwrap();
                    panic!("it does not end: {:?}", self.notes.iter().collect::<Vec<_>>());
                }
            }
        };
        (code, self.lines.iter().collect(), self.notes.iter().collect())
    }

    fn interrupt(self, signal: &str) -> (Option<i32>, Vec<String>, Vec<String>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        self.end()
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

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn data(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| json(line)["data"].to_string()).collect()
}

/// A server that upgrades one connection after the other, sends these bytes and closes it.
fn saying(bytes: &[u8]) -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let bytes = bytes.to_vec();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !matches!(
                http::parse(&head, REQUEST_HEAD_BYTES_MAX),
                Ok(http::Parsed::Upgrade(_))
            ) {
                let mut chunk = [0; 1024];
                let got = stream.read(&mut chunk).unwrap();
                head.extend_from_slice(&chunk[..got]);
            }
            if let Ok(http::Parsed::Upgrade(upgrade)) = http::parse(&head, REQUEST_HEAD_BYTES_MAX) {
                stream.write_all(&http::switching_protocols(&upgrade.key, None)).unwrap();
            }
            stream.write_all(&bytes).unwrap();
            // The greeting of the client is read, so that closing does not reset the connection.
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    address
}

/// A server that answers every request with these bytes.
fn answering(bytes: &'static str) -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(bytes.as_bytes());
        }
    });
    address
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    websocket::append_frame(&mut bytes, opcode, payload);
    bytes
}

#[test]
fn a_message_is_published_and_its_serial_printed() {
    let server = FakeRealtime::start();
    server.publish("chat:1", "0");
    assert_eq!(done(&server, &["publish", "chat:1", " {\"x\": 1} ", "--name", "chat"]), "2\n");
    assert_eq!(server.stored("chat:1"), ["0", "{\"x\": 1}"]);
    let requests = server.requests();
    assert_eq!(requests[1..], ["publish chat:1 chat {\"x\": 1}", "close"]);
    assert_eq!(done(&server, &["publish", "chat:1", "-1", "--quiet"]), "");
    assert_eq!(done(&server, &["publish", "chat:1", "say \"hi\"", "--text"]), "4\n");
    assert_eq!(server.stored("chat:1")[2..], ["-1", "\"say \\\"hi\\\"\""]);
    assert_eq!(done(&server, &["publish", "chat:1", "3", "--ephemeral"]), "");
    assert_eq!(server.requests().iter().filter(|one| one.contains("ephemeral")).count(), 1);
    assert_eq!(server.stored("chat:1").len(), 4);
}

#[test]
fn a_message_that_is_published_again_under_its_id_is_stored_once() {
    let server = FakeRealtime::start();
    let again = ["publish", "chat:1", "1", "--id", "order-7", "--client-id", "shop"];
    assert_eq!(done(&server, &again), "1\n");
    assert_eq!(done(&server, &again), "1\n");
    assert_eq!(server.stored("chat:1"), ["1"]);
    assert_eq!(server.requests()[0], "auth client=shop resume=");
}

#[test]
fn every_line_of_the_input_is_a_message() {
    let server = FakeRealtime::start();
    let output = fed(&server, &["publish", "log", "-"], "1\n\n{\"a\":[]}\r\n\"x\"");
    assert!(output.status.success(), "{output:?}");
    assert_eq!((stdout(&output), stderr(&output)), ("1\n2\n3\n", ""));
    assert_eq!(server.stored("log"), ["1", "{\"a\":[]}", "\"x\""]);
    let output = fed(&server, &["publish", "log", "--text"], "a\n\nb\n");
    assert_eq!(stdout(&output), "4\n5\n6\n");
    assert_eq!(server.stored("log")[3..], ["\"a\"", "\"\"", "\"b\""]);
    let output = fed(&server, &["publish", "log"], "");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_long_input_is_published_in_order() {
    let server = FakeRealtime::start();
    let input: String = (1..=3000).map(|number| format!("{number}\n")).collect();
    let output = fed(&server, &["publish", "log"], &input);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), input);
    assert!(
        server.stored("log").iter().map(|data| format!("{data}\n")).eq(input.split_inclusive('\n'))
    );
}

#[test]
fn an_endless_input_ends_with_the_reader_of_the_serials() {
    let server = FakeRealtime::start();
    let mut command = headcount(&arguments(&server.address, &["publish", "log"]));
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || while stdin.write_all(b"1\n").is_ok() {});
    let mut serials = BufReader::new(child.stdout.take().unwrap());
    serials.read_line(&mut String::new()).unwrap();
    drop(serials);
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_line_is_published_when_it_is_written_and_not_when_the_input_ends() {
    let server = FakeRealtime::start();
    let mut running = Running::start(&server, &["publish", "log"]);
    let mut stdin = running.child.stdin.take().unwrap();
    for number in 1..=3 {
        writeln!(stdin, "{number}").unwrap();
        assert_eq!(running.line(), number.to_string());
    }
    drop(stdin);
    assert_eq!(running.end(), (Some(0), vec![], vec![]));
}

#[test]
fn what_is_no_json_is_refused_before_it_is_sent() {
    let server = FakeRealtime::start();
    let line = refusal(&arguments(&server.address, &["publish", "log", "hello"]), 2);
    assert!(line.starts_with("error: DATA: not JSON: expected value"), "{line}");
    assert!(line.contains("double quotes") && line.contains("--text"), "{line}");
    assert_eq!(server.requests(), Vec::<String>::new());
    let output = fed(&server, &["publish", "log"], "1\n2\n\nhello\n3\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), "1\n2\n"));
    let line = stderr(&output);
    assert!(line.starts_with("error: line 4: not JSON: "), "{line}");
    assert!(line.ends_with("; the lines before it are published\n"), "{line}");
    assert_eq!(server.stored("log"), ["1", "2"]);
}

#[test]
fn a_refused_message_is_an_error_with_the_servers_words() {
    let server = FakeRealtime::start();
    server.refuse("publish secret", ErrorCode::ChannelDenied, "channel\u{1b} denied");
    let line = refused(&server, &["publish", "secret", "1"]);
    let expected = "error: cannot publish to secret: channel\\u001b denied (40302): use a --key or \
                    --token that allows it\n";
    assert_eq!(line, expected);
    server.refuse("publish log message 3", ErrorCode::RateLimited, "slower");
    let output = fed(&server, &["publish", "log"], "1\n2\n3\n4\n5\n");
    assert_eq!(output.status.code(), Some(1));
    let start = "error: cannot publish line 3 to log: slower (42900): try again later; ";
    assert!(stderr(&output).starts_with(start), "{output:?}");
    assert!(stdout(&output).starts_with("1\n2\n"), "{output:?}");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["publish"][..],
        &["publish", "", "1"],
        &["publish", "c", "1", "--http", "nowhere"],
        &["publish", "c", "1", "--key", KEY, "--token", "t"],
        &["publish", "c", "1", "--key", "nonsense"],
        &["publish", "c", "--key", KEY, "--id", "x"],
        &["publish", "c", "1", "--token", "t", "--client-id", "me"],
        &["subscribe"],
        &["subscribe", "c", "--key", KEY, "--from", "0"],
        &["subscribe", "c", "d", "--key", KEY, "--from", "1"],
        &["subscribe", "c", "--key", KEY, "--count", "0"],
        &["subscribe", "c", "--from", "1", "--history", "1"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    let mut by_token = headcount(&["publish", "c", "1", "--client-id", "me"]);
    let output = by_token.env("HEADCOUNT_TOKEN", "t").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn without_a_server_the_error_says_what_to_do() {
    // Bound, and closed when dropped: no server listens on the port.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in [&["publish", "c", "1"][..], &["subscribe", "c"]] {
        let line = refusal(&arguments(&address, command), 1);
        let expected = format!(
            "error: no server at {address}: connection refused: start one with `headcount serve` \
             or name its address with --http\n"
        );
        assert_eq!(line, expected);
    }
}

#[test]
fn a_bad_key_or_token_is_refused_with_where_it_is_from() {
    let server = FakeRealtime::start();
    for (given, origin) in [
        (["--key", "demo.kid_main:wrong"], "the key of --key"),
        (["--token", "bad"], "the token of --token"),
    ] {
        for command in [&["publish", "c", "1"][..], &["subscribe", "c"]] {
            let address = ["--http", &server.address];
            let line = refusal(&[command, &address, &given].concat(), 1);
            let expected = format!(
                "error: the server at {} refused {origin}: unknown key or token (40101): give the \
                 right one with --key or --token\n",
                server.address
            );
            assert_eq!(line, expected);
        }
    }
    let mut by_token = headcount(&["publish", "c", "1", "--http", &server.address]);
    let output = by_token.env("HEADCOUNT_TOKEN", "good").env("HEADCOUNT_KEY", "bad").output();
    assert_eq!(stdout(&output.unwrap()), "1\n");
}

#[test]
fn the_development_key_of_the_data_directory_is_used_when_none_is_given() {
    use std::os::unix::fs::PermissionsExt;

    let server = FakeRealtime::start();
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-realtime-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("dev-key");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let dir = dir.to_str().unwrap();
    let by_dir = ["publish", "c", "1", "--http", &server.address, "--data-dir", dir];
    assert_eq!(command::printed(&by_dir), "1\n");

    let config = format!("{dir}/server.toml");
    let text = format!("[listen]\nhttp = \"{}\"\n[data]\ndir = \"{dir}\"\n", server.address);
    fs::write(&config, text).unwrap();
    assert_eq!(command::printed(&["publish", "c", "2", "--config", &config]), "2\n");

    let none = format!("{dir}/none");
    let nowhere = ["publish", "c", "1", "--http", &server.address, "--data-dir", &none];
    let line = refusal(&nowhere, 1);
    assert!(line.starts_with("error: no key: no development key in ") && line.contains(&none));
    let elsewhere = ["publish", "c", "1", "--http", "192.0.2.1:7400", "--data-dir", dir];
    assert!(refusal(&elsewhere, 1).contains("192.0.2.1:7400 is not on this host: give --key"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(&by_dir, 78).contains("chmod 600"));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn whoever_is_no_headcount_server_is_told_from_one() {
    let text = saying(&frame(Opcode::Text, b"{\"t\":\"connected\"}"));
    let garbage = saying(&frame(Opcode::Binary, b"hello"));
    let broken = saying(b"\x83\x00");
    let closing = saying(&[]);
    for (address, named) in [
        (answering("HTTP/1.1 404 Not Found\r\n\r\n"), "it answered 404 Not Found"),
        (answering("SSH-2.0-OpenSSH\r\n"), "its answer is not HTTP"),
        (text, "it answers in text where a `connected` record was expected"),
        (garbage, "where a `connected` record was expected"),
        (broken, "WebSocket protocol error where a `connected` record was expected"),
    ] {
        let line = refusal(&arguments(&address, &["publish", "c", "1"]), 1);
        let start = format!("error: no headcount server at {address}: ");
        assert!(line.starts_with(&start) && line.contains(named), "{line}");
        assert!(line.ends_with(": name its http address with --http\n"), "{line}");
    }
    let unready = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let line = refusal(&arguments(&unready, &["subscribe", "c"]), 1);
    assert!(line.contains("is not ready: it answered 503 Service Unavailable"), "{line}");
    for address in [answering(""), closing] {
        let line = refusal(&arguments(&address, &["subscribe", "c"]), 1);
        assert!(line.starts_with(&format!("error: lost the server at {address}: ")), "{line}");
    }
}

#[test]
fn records_that_cannot_be_read_are_an_error() {
    let connected =
        Event::Connected { connection_id: "c".into(), keep_alive_ms: 0, client_id: "me".into() };
    let mut records = Vec::new();
    append_event(&connected, &mut records);
    // An acknowledgement that is cut off.
    records.extend_from_slice(b"\x02\x0c\x00");
    let address = saying(&frame(Opcode::Binary, &records));
    for command in [&["publish", "c", "1"][..], &["subscribe", "c"]] {
        let line = refusal(&arguments(&address, command), 1);
        let start = format!("error: the server at {address} broke the protocol: truncated: ");
        assert!(line.starts_with(&start), "{line}");
    }
}

#[test]
fn a_lost_connection_costs_no_message_and_makes_no_double() {
    let server = FakeRealtime::start();
    server.cut_after(2);
    let output = fed(&server, &["publish", "log"], "1\n2\n3\n4\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "1\n2\n3\n4\n"), "{output:?}");
    assert_eq!(server.stored("log"), ["1", "2", "3", "4"]);
    let note = stderr(&output);
    assert!(
        note.starts_with("note: lost the server at ") && note.contains("again in 1 s"),
        "{note}"
    );
    let again = "auth client=client-1 resume=conn-1";
    assert!(server.requests().contains(&again.to_owned()), "{:?}", server.requests());
}

#[test]
fn a_lost_connection_is_an_error_for_those_who_want_it_so() {
    let server = FakeRealtime::start();
    server.cut_after(2);
    let output = fed(&server, &["publish", "log", "--once"], "1\n2\n3\n4\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), "1\n"), "{output:?}");
    let expected = format!(
        "error: lost the server at {}: it closed the connection; line 2 is the first that it may \
         not have published\n",
        server.address
    );
    assert_eq!(stderr(&output), expected);
    server.cut_after(1);
    let line = refused(&server, &["publish", "log", "9", "--once"]);
    assert!(line.ends_with("; it may have published the message or not\n"), "{line}");
    server.cut_after(1);
    let line = refused(&server, &["publish", "log", "9", "--ephemeral"]);
    assert!(line.ends_with("; it may have published the message or not\n"), "{line}");
}

#[test]
fn pings_are_sent_and_answered_and_silence_is_noticed() {
    let server = FakeRealtime::start();
    server.ask_for_pings(250);
    let running = Running::start(&server, &["subscribe", "chat:1", "--once"]);
    server.wait_for("ping", 3);
    server.send_frame(Opcode::Ping, b"hi");
    server.wait_for("pong hi", 1);
    server.ignore("ping");
    let (code, lines, notes) = running.end();
    assert_eq!((code, lines), (Some(1), vec![]));
    let expected = format!("error: lost the server at {}: it does not answer", server.address);
    assert_eq!(notes, [expected]);
}

#[test]
fn messages_are_printed_as_they_are_published() {
    let server = FakeRealtime::start();
    server.publish("chat:1", "0");
    let running = Running::start(&server, &["subscribe", "chat:1", "log", "--count", "3"]);
    server.wait_for("history", 2);
    server.publish("chat:1", "{\"x\": 1.50}");
    server.publish("other", "1");
    let expected = concat!(
        r#"{"channel":"chat:1","serial":2,"timestamp":1700000000002,"clientId":"server","#,
        r#""name":"n","id":"m-2","data":{"x": 1.50}}"#
    );
    assert_eq!(running.line(), expected);
    assert_eq!(done(&server, &["publish", "log", "3", "--ephemeral"]), "");
    let ephemeral = json(&running.line());
    assert_eq!((&ephemeral["channel"], &ephemeral["serial"]), (&"log".into(), &Value::Null));
    server.publish("log", "4");
    server.publish("log", "5");
    let (code, lines, notes) = running.end();
    assert_eq!((code, data(&lines), notes), (Some(0), vec!["4".to_owned()], vec![]));
    server.wait_for("close", 2);
}

#[test]
fn history_comes_first() {
    let server = FakeRealtime::start();
    (1..=9).for_each(|number| server.publish("log", &number.to_string()));
    let newest = done(&server, &["subscribe", "log", "--history", "3", "--count", "3"]);
    let newest: Vec<String> = newest.lines().map(str::to_owned).collect();
    assert_eq!(data(&newest), ["7", "8", "9"]);
    server.limit_pages(2);
    let running = Running::start(&server, &["subscribe", "log", "--history", "5"]);
    assert_eq!(running.data(5), ["5", "6", "7", "8", "9"]);
    server.publish("log", "10");
    assert_eq!(running.data(1), ["10"]);
    assert_eq!(running.interrupt("-INT"), (Some(0), vec![], vec![]));
}

#[test]
fn a_subscription_goes_on_from_a_serial_if_it_can() {
    let server = FakeRealtime::start();
    (1..=5).for_each(|number| server.publish("log", &number.to_string()));
    let running = Running::start(&server, &["subscribe", "log", "--from", "2", "--count", "4"]);
    assert_eq!(running.data(3), ["3", "4", "5"]);
    server.publish("log", "6");
    assert_eq!(running.end(), (Some(0), running_lines(&["6"], 6), vec![]));

    server.forget("log", 4);
    let running = Running::start(&server, &["subscribe", "log", "--from", "2"]);
    let note = "note: log: the server cannot go on from serial 2: messages may be missing";
    assert_eq!(running.note(), note);
    server.wait_for("history", 1);
    server.publish("log", "7");
    assert_eq!(running.data(3), ["5", "6", "7"]);
    assert_eq!(running.interrupt("-TERM"), (Some(0), vec![], vec![]));
}

/// Lines of the fake server's own messages, from a serial on.
fn running_lines(data: &[&str], serial: u64) -> Vec<String> {
    let line = |(data, serial): (&&str, u64)| {
        format!(
            "{{\"channel\":\"log\",\"serial\":{serial},\"timestamp\":{},\"clientId\":\"server\",\
             \"name\":\"n\",\"id\":\"m-{serial}\",\"data\":{data}}}",
            1_700_000_000_000 + serial
        )
    };
    data.iter().zip(serial..).map(line).collect()
}

#[test]
fn a_gap_is_healed_and_nothing_is_printed_twice() {
    let server = FakeRealtime::start();
    server.publish("log", "1");
    let running = Running::start(&server, &["subscribe", "log"]);
    server.wait_for("history", 1);
    server.publish("log", "2");
    server.lose("log", "3");
    server.lose("log", "4");
    server.publish("log", "5");
    assert_eq!(running.data(4), ["2", "3", "4", "5"]);
    server.limit_pages(1);
    server.lose("log", "6");
    server.lose("log", "7");
    server.publish("log", "8");
    assert_eq!(running.data(3), ["6", "7", "8"]);
    server.lose("log", "9");
    server.lose("log", "9.5");
    server.forget("log", 9);
    server.publish("log", "11");
    let note = "note: log: the server cannot go on from serial 8: messages may be missing";
    assert_eq!(running.note(), note);
    assert_eq!(running.data(2), ["9.5", "11"]);
    assert_eq!(running.interrupt("-INT"), (Some(0), vec![], vec![]));
}

#[test]
fn after_a_lost_connection_it_goes_on_where_it_was() {
    let server = FakeRealtime::start();
    let running = Running::start(&server, &["subscribe", "a", "log", "quiet", "--presence"]);
    server.wait_for("history", 3);
    server.publish("log", "1");
    let enter =
        r#"{"channel":"a","action":"enter","timestamp":7,"clientId":"alice","connectionId":"#;
    let presence: Vec<String> = (0..3).map(|_| running.line()).collect();
    assert!(presence[0].starts_with(enter) && presence[0].ends_with(r#""data":{"x":1}}"#));
    assert_eq!(running.data(1), ["1"]);
    server.cut();
    server.publish("log", "2");
    server.publish("quiet", "3");
    assert!(running.note().ends_with("it closed the connection; connecting again in 1 s"));
    assert_eq!(running.note(), "note: connected again");
    let resets: Vec<String> = (0..3).map(|_| running.line()).collect();
    assert_eq!(resets[0], r#"{"channel":"a","action":"reset"}"#);
    server.wait_for("fetch", 2);
    server.publish("log", "4");
    let mut after: Vec<String> = (0..6).map(|_| running.line()).collect();
    after.retain(|line| !line.contains("action"));
    assert_eq!(data(&after), ["2", "3", "4"]);
    let requests = server.requests();
    for expected in ["auth client=client-1 resume=conn-1", "subscribe log 1", "fetch quiet 0"] {
        assert!(requests.contains(&expected.to_owned()), "{expected}: {requests:?}");
    }
    assert_eq!(running.interrupt("-INT"), (Some(0), vec![], vec![]));
}

#[test]
fn a_subscription_that_is_refused_is_an_error() {
    let server = FakeRealtime::start();
    server.refuse("subscribe secret", ErrorCode::Capability, "not granted");
    server.refuse("presence mute", ErrorCode::Capability, "not granted");
    server.refuse("history mute", ErrorCode::Capability, "not granted");
    let advice = "not granted (40301): use a --key or --token that allows it\n";
    for (arguments, what) in [
        (&["subscribe", "a", "secret"][..], "cannot subscribe to secret"),
        (&["subscribe", "mute", "--presence"], "cannot watch the presence of mute"),
        (&["subscribe", "mute", "--history", "1"], "cannot read the history of mute"),
    ] {
        let line = refused(&server, arguments);
        assert_eq!(line, format!("error: {what}: {advice}"));
    }
    // Its history was not requested.
    server.refuse("history short", ErrorCode::Capability, "not granted");
    let running = Running::start(&server, &["subscribe", "short", "--count", "1"]);
    server.wait_for("history short", 1);
    server.publish("short", "1");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_server_that_says_why_it_goes_is_heard() {
    let server = FakeRealtime::start();
    let running = Running::start(&server, &["subscribe", "log", "--once"]);
    server.wait_for("history", 1);
    let (code, message) = (ErrorCode::Server, "going down".into());
    server.say(&Event::Error { id: 0, code, message });
    server.send_frame(Opcode::Close, &websocket::close_body(1001, "bye"));
    let (code, _, notes) = running.end();
    let expected = format!(
        "error: lost the server at {}: it closed the connection (1001 bye): going down (50000): \
         try again later",
        server.address
    );
    assert_eq!((code, notes), (Some(1), vec![expected]));

    let running = Running::start(&server, &["subscribe", "log"]);
    server.wait_for("history", 2);
    let (code, message) = (ErrorCode::AuthExpired, "token expired".into());
    server.say(&Event::Error { id: 0, code, message });
    let (code, _, notes) = running.end();
    assert_eq!(code, Some(1));
    assert!(notes[0].contains("refused the key of --key: token expired (40102): "), "{notes:?}");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let server = FakeRealtime::start();
    (1..=2000).for_each(|number| server.publish("log", &number.to_string()));
    let mut command =
        headcount(&arguments(&server.address, &["subscribe", "log", "--history", "2000"]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    server.wait_for("history", 2);
    server.publish("log", "1");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stderr, b"");
    assert!(output.status.success(), "{output:?}");
}
