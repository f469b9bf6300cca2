//! Operation of a running server: signals, drains, takeovers, and access to the admin address.
#![cfg(feature = "server")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use command::{headcount, stdout};
use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::session::{Handshake, PingPong};
use headcount::wire::sync::{Layout, Message, append_message};
use raw::UPGRADE;
use serde_json::Value;
use served::Served;
use tempdir::Dir;

mod command;
mod raw;
mod served;
mod tempdir;

/// Timeout of every wait.
const WITHIN: Duration = Duration::from_secs(20);

const KEY: &str = "demo.kid_main:sk_main_secret";
const KEYED: &str = "[[auth.key]]\nname = \"demo.kid_main\"\nsecret = \"sk_main_secret\"\n";

/// `Basic` with [`KEY`].
const BASIC: &str = "Authorization: Basic ZGVtby5raWRfbWFpbjpza19tYWluX3NlY3JldA==";

struct Server(Served);

impl Server {
    fn start(folder: &Dir, config: &str, arguments: &[&str]) -> Server {
        let any = "127.0.0.1:0";
        let addresses = ["--http", any, "--sync-tcp", any, "--admin", any];
        Server::start_at(folder, config, &[&addresses, arguments].concat())
    }

    fn start_at(folder: &Dir, config: &str, arguments: &[&str]) -> Server {
        Server::try_start(folder, config, arguments).unwrap_or_else(|said| panic!("{said}"))
    }

    /// # Errors
    /// The output of a server that did not start.
    fn try_start(folder: &Dir, config: &str, arguments: &[&str]) -> Result<Server, String> {
        let file = folder.path().join("headcount.toml");
        fs::write(&file, config).unwrap();
        let mut command = headcount(&["serve", "--quiet", "--shards", "2"]);
        command.arg("--config").arg(file).arg("--data-dir").arg(folder.path().join("data"));
        Served::start(command.args(arguments).stderr(Stdio::piped())).map(Server)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end; the exit code.
    fn end(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < WITHIN, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Deref for Server {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Served {
        &mut self.0
    }
}

fn open(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn read_all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends the answer as well.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// The status of a GET with one more header, `Host: x` unless that is another.
fn get(address: SocketAddr, path: &str, header: &str) -> u16 {
    let host = if header.starts_with("Host:") { "" } else { "Host: x\r\n" };
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let request = format!("GET {path} HTTP/1.1\r\n{host}{header}Connection: close\r\n\r\n");
    status(&read_all(open(address, &request)))
}

fn publish_request(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /channels/a/messages HTTP/1.1\r\nHost: x\r\n{BASIC}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// An upgrade request with one more header.
fn upgrade(header: &str) -> String {
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    format!("GET / HTTP/1.1\r\nHost: x\r\n{header}{UPGRADE}\r\n")
}

/// A client frame of less than 126 bytes whose mask is zero.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).unwrap();
    [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// A WebSocket of a Foony client that has authenticated.
fn foony(server: &Server) -> TcpStream {
    let mut stream = open(server.http, &upgrade(""));
    let auth = format!("{{\"t\":\"auth\",\"key\":\"{KEY}\"}}");
    stream.write_all(&frame(1, auth.as_bytes())).unwrap();
    let mut said = Vec::new();
    while !said.windows(11).any(|window| window == b"\"connected\"") {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..count]);
    }
    stream
}

#[test]
fn signals_that_do_not_stop_a_server_leave_it_alone() {
    let folder = Dir::new();
    let mut server = Server::start(&folder, KEYED, &[]);
    let mut client = foony(&server);
    for signal in ["HUP", "USR1", "USR2"] {
        server.signal(signal);
        client.write_all(&frame(1, b"{\"t\":\"ping\"}")).unwrap();
        let mut pong = [0; 14];
        client.read_exact(&mut pong).unwrap_or_else(|error| panic!("{signal}: {error}"));
        assert!(pong.ends_with(b"\"pong\"}"), "{signal}: {pong:?}");
    }
    server.signal("TERM");
    assert_eq!(server.end(), Some(0));
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("reloaded the configuration").count(), 1, "{log}");
}

#[test]
fn a_json_log_has_an_object_in_each_line_also_for_a_failure() {
    let folder = Dir::new();
    let mut server = Server::start(&folder, KEYED, &["--log-format", "json"]);
    let taken = server.http.to_string();
    server.signal("HUP");
    server.signal("TERM");
    assert_eq!(server.end(), Some(0));
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |message: &str| lines.iter().any(|line| line["message"] == message);
    assert!(has("draining") && lines.iter().all(|line| line["level"].is_string()), "{log}");

    let folder = Dir::new();
    let other = std::net::TcpListener::bind(taken).unwrap();
    let address = other.local_addr().unwrap().to_string();
    let arguments = ["--log-format", "json", "--http", &address];
    let said = Server::try_start(&folder, KEYED, &arguments).map(drop).unwrap_err();
    let line: Value = serde_json::from_str(&said).unwrap();
    assert!(line["message"].as_str().unwrap().contains(&address), "{said}");
    assert_eq!(line["level"], "ERROR");
    let said = Server::try_start(&folder, "[cores]\nshards = 0\n", &arguments[..2]);
    let line: Value = serde_json::from_str(&said.map(drop).unwrap_err()).unwrap();
    assert!(line["message"].as_str().unwrap().contains("cores.shards"), "{line}");
}

#[test]
fn signals_that_stop_a_server_drain_it_and_a_second_one_ends_it() {
    let folder = Dir::new();
    for signal in ["TERM", "INT", "QUIT"] {
        let mut server = Server::start(&folder, KEYED, &[]);
        let client = foony(&server);
        server.signal(signal);
        let said = read_all(client);
        assert!(said.contains("shutting down"), "{signal}: {said:?}");
        assert_eq!(server.end(), Some(0), "{signal}");
    }
    let config = format!("{KEYED}[listen]\ndrain_delay_ms = 60000\n");
    let mut server = Server::start(&folder, &config, &[]);
    server.signal("TERM");
    thread::sleep(Duration::from_millis(200));
    assert!(server.child.try_wait().unwrap().is_none());
    server.signal("TERM");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn between_not_ready_and_accepting_nothing_is_the_configured_time() {
    let folder = Dir::new();
    let config = format!("{KEYED}[listen]\ndrain_delay_ms = 1500\n");
    let mut server = Server::start(&folder, &config, &[]);
    assert_eq!(get(server.admin, "/readyz", ""), 200);
    server.signal("TERM");
    let begun = Instant::now();
    while get(server.admin, "/readyz", "") != 503 {
        assert!(begun.elapsed() < Duration::from_secs(1), "still ready");
    }
    assert_eq!(get(server.http, "/time", ""), 200, "it takes work all the same");
    let answer = read_all(open(server.http, &publish_request("{\"data\":1}")));
    assert_eq!(status(&answer), 201, "{answer}");
    assert_eq!(server.end(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn requests_under_way_are_answered_before_a_server_ends() {
    let folder = Dir::new();
    let mut server = Server::start(&folder, KEYED, &[]);
    let body = "{\"name\":\"a\",\"data\":1}";
    let request = publish_request(body);
    let (first, rest) = request.split_at(request.len() - 7);
    let mut publishing = open(server.http, first);
    let idle = open(server.http, "GET /time HTTP/1.1\r\nHost: x\r\n\r\n");
    let watching =
        open(server.admin, "GET /v1/apps/demo/channels/a/watch HTTP/1.1\r\nHost: x\r\n\r\n");
    thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    thread::sleep(Duration::from_millis(300));
    publishing.write_all(rest.as_bytes()).unwrap();
    let answer = read_all(publishing);
    assert_eq!(status(&answer), 201, "its head came before the signal: {answer}");
    assert_eq!(status(&read_all(idle)), 200);
    assert!(read_all(watching).ends_with("0\r\n\r\n"), "the stream ends in good order");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_body_that_never_comes_does_not_keep_a_server() {
    let folder = Dir::new();
    let mut server = Server::start(&folder, KEYED, &[]);
    let request = publish_request("{\"name\":\"a\",\"data\":1}");
    let publishing = open(server.http, &request[..request.len() - 7]);
    thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    let begun = Instant::now();
    assert_eq!(status(&read_all(publishing)), 503);
    assert_eq!(server.end(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_has_sent_its_last_byte_is_answered() {
    let folder = Dir::new();
    let server = Server::start(&folder, KEYED, &[]);
    for round in 0..20 {
        let half_closed = |address, request: &[u8]| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(WITHIN)).unwrap();
            stream.write_all(request).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(stream)
        };
        let answer = half_closed(server.http, publish_request("{\"data\":1}").as_bytes());
        assert_eq!(status(&answer), 201, "{round}: {answer:?}");
        assert_eq!(status(&half_closed(server.http, upgrade("").as_bytes())), 101, "{round}");
        // A publish for each of some channels, so that both shards own some.
        let mut talk = upgrade("").into_bytes();
        talk.extend(frame(1, format!("{{\"t\":\"auth\",\"key\":\"{KEY}\"}}").as_bytes()));
        for id in 1..=8 {
            let publish =
                format!("{{\"t\":\"pub\",\"id\":{id},\"channel\":\"c:{id}\",\"data\":1}}");
            talk.extend(frame(1, publish.as_bytes()));
        }
        let answer = half_closed(server.http, &talk);
        assert_eq!(answer.matches("\"t\":\"ack\"").count(), 8, "{round}: {answer:?}");
        let ping = sync_frame(&Message::PingPong(PingPong { timestamp_ms: 7, is_pong: false }));
        let answer = half_closed(server.sync_tcp, &ping);
        assert_ne!(answer, "", "{round}: the pong over TCP");
    }
}

#[test]
fn a_takeover_keeps_the_directory_to_itself_and_loses_no_connection_in_the_queue() {
    let folder = Dir::new();
    let mut old = Server::start(&folder, KEYED, &[]);
    let (http, sync_tcp, admin) =
        (old.http.to_string(), old.sync_tcp.to_string(), old.admin.to_string());
    let same = ["--http", &http, "--sync-tcp", &sync_tcp, "--admin", &admin, "--takeover"];
    let mut new = Server::start_at(&folder, KEYED, &same);
    let any = "127.0.0.1:0";
    let elsewhere = ["--http", any, "--sync-tcp", any, "--admin", any];
    let third = |folder: &Dir| Server::try_start(folder, KEYED, &elsewhere).map(drop);
    assert!(third(&folder).unwrap_err().contains("taking it over"));
    old.signal("TERM");
    let begun = Instant::now();
    while old.child.try_wait().unwrap().is_none() {
        // New connections are served by either, or refused with a request to retry.
        let address = new.http;
        let asked = [(); 4].map(|()| thread::spawn(move || get(address, "/time", "")));
        let answered = asked.map(|answer| answer.join().unwrap());
        assert!(answered.iter().all(|status| [200, 503].contains(status)), "{answered:?}");
        assert!(begun.elapsed() < WITHIN);
    }
    assert_eq!(old.end(), Some(0));
    assert!(third(&folder).unwrap_err().contains("data"), "the lock is held");
    assert_eq!(get(new.http, "/time", ""), 200);
    new.signal("TERM");
    assert_eq!(new.end(), Some(0));
    assert!(third(&folder).is_ok());
}

fn sync_frame(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_message(message, Layout::V0_6, &mut bytes).unwrap();
    bytes
}

/// Whether a greeting without a token is accepted over WebSocket.
fn greeted_anonymously(server: &Server, header: &str) -> bool {
    let greeting = sync_frame(&Message::Handshake(Handshake {
        jwt_token: "",
        vector_clock: Map::default(),
        subscribed_shapes: Vec::new(),
        client_version: "test",
        lite_id: "",
        epoch: 1,
        wire_version: 1,
    }));
    let mut stream = open(server.http, &upgrade(header));
    stream.write_all(&frame(2, &greeting)).unwrap();
    let mut said = Vec::new();
    let head_end = loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..count]);
        let end = said.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end.filter(|end| said.len() > end + 20) {
            break end + 4;
        }
    };
    // WebSocket header of 2 bytes (4 above 125), frame header of 10, array header, success.
    let message = &said[head_end..];
    let body = if message[1] < 126 { 2 } else { 4 } + 10;
    match message[body + 1] {
        0xc3 => true,
        0xc2 => false,
        other => panic!("neither true nor false: {other:#x} in {message:?}"),
    }
}

#[test]
fn pages_of_other_sites_open_no_anonymous_session() {
    let folder = Dir::new();
    let server = Server::start(&folder, "[auth]\norigins = [\"https://app.example\"]\n", &[]);
    let cases = [
        ("", true),
        ("Origin: http://localhost:5173", true),
        ("Origin: http://127.0.0.1:8080", true),
        ("Origin: https://app.example", true),
        ("Origin: https://evil.example", false),
        ("Origin: null", false),
    ];
    for (header, expected) in cases {
        assert_eq!(greeted_anonymously(&server, header), expected, "{header}");
    }
}

const MEMBERS: &str = "/v1/apps/demo/channels/doc:1/members";

#[test]
fn on_loopback_the_admin_address_asks_for_no_credential_but_checks_the_host() {
    let folder = Dir::new();
    let server = Server::start(&folder, "[admin]\nhosts = [\"ops.example\"]\n", &[]);
    for path in [MEMBERS, "/metrics", "/healthz", "/readyz", "/"] {
        for host in ["127.0.0.1:7402", "localhost:7402", "[::1]", "ops.example:80"] {
            assert_eq!(get(server.admin, path, &format!("Host: {host}")), 200, "{path} {host}");
        }
        assert_eq!(get(server.admin, path, "Host: rebound.evil.example"), 421, "{path}");
    }
}

#[test]
fn from_the_network_members_are_shown_with_a_credential_only() {
    let folder = Dir::new();
    let more_keys = "[[auth.key]]\nname = \"demo.client\"\nsecret = \"s\"\n\
        capability = { \"*\" = [\"subscribe\", \"presence\"] }\n\
        [admin]\ntoken_file = \"token\"\nmetrics = \"token\"\n";
    fs::write(folder.path().join("token"), "sesame\n").unwrap();
    let config = format!("{KEYED}{more_keys}");
    let every = ["--http", "127.0.0.1:0", "--sync-tcp", "127.0.0.1:0", "--admin", "0.0.0.0:0"];
    let arguments = [&every[..], &["--insecure-plaintext"]].concat();
    let server = Server::start_at(&folder, &config, &arguments);
    let admin = SocketAddr::from(([127, 0, 0, 1], server.admin.port()));
    let watch = "/v1/apps/demo/channels/doc:1/watch";
    let client = "Authorization: Basic ZGVtby5jbGllbnQ6cw==";
    let cases = [
        (MEMBERS, "", 401),
        (watch, "", 401),
        (MEMBERS, "Authorization: Bearer wrong", 401),
        (MEMBERS, client, 403),
        (MEMBERS, BASIC, 200),
        (MEMBERS, "Authorization: Bearer sesame", 200),
        ("/v1/apps/other/channels/doc:1/members", BASIC, 403),
        ("/metrics", "", 401),
        ("/metrics", BASIC, 401),
        ("/metrics", "Authorization: Bearer sesame", 200),
        ("/healthz", "", 200),
        ("/readyz", "", 200),
    ];
    for (path, header, expected) in cases {
        assert_eq!(get(admin, path, header), expected, "{path} with {header:?}");
    }
    let admin = admin.to_string();
    let members = ["members", "doc:1", "--admin", &admin];
    let refused = headcount(&members).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("401") && said.contains("--key"), "{said}");
    for credential in [["--key", KEY], ["--token", "sesame"]] {
        let shown = headcount(&[&members[..], &credential].concat()).output().unwrap();
        assert!(stdout(&shown).contains("0 members"), "{credential:?}: {shown:?}");
    }
    let by_environment = headcount(&members).env("HEADCOUNT_ADMIN_TOKEN", "sesame").output();
    assert!(by_environment.unwrap().status.success());
}

#[test]
fn metrics_that_need_a_token_need_one_to_be_there() {
    let folder = Dir::new();
    let config = "[admin]\nmetrics = \"token\"\n";
    let said = Server::try_start(&folder, config, &["--http", "127.0.0.1:0"]).map(drop);
    assert!(said.unwrap_err().contains("HEADCOUNT_ADMIN_TOKEN"));
}

/// A server whose two shards may hold one connection each.
fn server_with_one_connection_per_shard(folder: &Dir) -> Server {
    let config = format!("{KEYED}[limits]\nconnections_per_shard_max = 1\n");
    Server::start(folder, &config, &[])
}

/// The head of the next response; its beginning when the connection ended before.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// The sum of a metric over its labels that contain `label`.
fn metric(server: &Server, name: &str, label: &str) -> u64 {
    let page = read_all(open(
        server.admin,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ));
    let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Waits until the shards hold `count` connections.
fn await_connections(server: &Server, count: u64) {
    let begun = Instant::now();
    while metric(server, "headcount_connections{", "") != count {
        assert!(begun.elapsed() < WITHIN, "{}", metric(server, "headcount_connections{", ""));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn upgrades_on_kept_connections_count_against_the_connection_limit() {
    let folder = Dir::new();
    let server = server_with_one_connection_per_shard(&folder);
    let mut kept = Vec::new();
    for _ in 0..6 {
        await_connections(&server, 0);
        let mut stream = open(server.http, "GET /time HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(status(&read_head(&mut stream)), 200);
        stream.read_exact(&mut [0; 15]).unwrap();
        kept.push(stream);
    }
    let mut statuses = Vec::new();
    for stream in &mut kept {
        stream.write_all(upgrade("").as_bytes()).unwrap();
        let head = read_head(stream);
        statuses.push(status(&head));
        if status(&head) == 503 {
            let mut body = String::new();
            stream.read_to_string(&mut body).unwrap();
            assert!(body.contains("its connection limit"), "{body:?}");
        }
    }
    assert_eq!(statuses, [101, 101, 503, 503, 503, 503], "one on each shard");
    await_connections(&server, 2);
    assert_eq!(metric(&server, "headcount_dropped_total{", "reason=\"limit\""), 4);
    drop(kept);
    await_connections(&server, 0);
    assert_eq!(status(&read_head(&mut open(server.http, &upgrade("")))), 101);
}

#[test]
fn connections_that_move_between_shards_count_against_the_connection_limit() {
    let folder = Dir::new();
    let server = server_with_one_connection_per_shard(&folder);
    let hinted = upgrade("").replace("GET / ", "GET /?channel=doc%3A1 ");
    let mut held = Vec::new();
    // Enough for both shards to accept some, with any choice of the kernel.
    for _ in 0..40 {
        let mut stream = open(server.http, &hinted);
        match status(&read_head(&mut stream)) {
            101 => held.push(stream),
            refused => assert!([0, 503].contains(&refused), "{refused}"),
        }
    }
    assert_eq!(held.len(), 2, "one on each shard");
    await_connections(&server, 2);
    assert_eq!(metric(&server, "headcount_dropped_total{", "reason=\"limit\""), 38);
}
