//! Causes of refused keys and tokens: the errors for clients of each wire, the metrics and the log.
//! Tested with the real binary.
#![cfg(feature = "server")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use headcount::client::protocol::{self, Closed, Connection, Dialect, Upgrade};
use headcount::wire::foony::{Auth, Event, Request, binary};
use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::session::{Handshake, TokenRefresh};
use headcount::wire::sync::{self, Header, Layout, Message, Parsed};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use command::headcount;
use served::Served;

mod command;
mod served;

/// Timeout of every wait.
const DEADLINE: Duration = Duration::from_secs(20);

const KEY: &str = "demo.main:sk_main";

const CONFIG: &str = r#"
    [cores]
    shards = 2
    [listen]
    http = "127.0.0.1:0"
    sync_tcp = "127.0.0.1:0"
    admin = "127.0.0.1:0"
    [data]
    dir = ""
    [[auth.key]]
    name = "demo.main"
    secret = "sk_main"
"#;

/// A server and its log.
struct Server {
    served: Served,
    log: PathBuf,
}

impl Deref for Server {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Server {
    fn start(test: &str) -> Server {
        let file =
            |end| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refusals-{test}.{end}"));
        let (config, log) = (file("toml"), file("log"));
        fs::write(&config, CONFIG).unwrap();
        let mut command = headcount(&["serve", "--quiet", "--config"]);
        command.arg(&config).env_remove("HEADCOUNT_LOG").stderr(fs::File::create(&log).unwrap());
        Server { served: Served::start(&mut command).unwrap(), log }
    }

    fn refusals(&self, cause: &str) -> u64 {
        let page = http(self.admin, "GET /metrics", "", b"");
        let sample = format!("headcount_token_refusals_total{{cause=\"{cause}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
        count.unwrap_or_else(|| panic!("no {sample}in {page}"))
    }

    /// The counts in the lines of the log about a cause.
    fn logged(&self, cause: &str) -> Vec<u64> {
        let log = fs::read_to_string(&self.log).unwrap();
        let of_cause = format!("cause=\"{cause}\"");
        let lines = log.lines().filter(|line| line.contains(&of_cause));
        let count = |line: &str| line.split("count=").nth(1)?.split(' ').next()?.parse().ok();
        lines.map(|line| count(line).unwrap_or_else(|| panic!("no count: {line}"))).collect()
    }

    /// Waits until the log has counted all refusals for a cause.
    fn await_logged(&self, cause: &str, count: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.logged(cause).iter().sum::<u64>() != count {
            assert!(Instant::now() < deadline, "{cause}: {:?} of {count}", self.logged(cause));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// One request on a connection of its own; the whole answer.
fn http(address: SocketAddr, line: &str, headers: &str, body: &[u8]) -> String {
    let mut stream = open(address);
    let headers = format!("{headers}Connection: close\r\n");
    stream.write_all(&request(line, &headers, body)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Code and message of a REST error.
fn rest(server: &Server, authorization: &str) -> (u64, String) {
    let header = format!("Authorization: {authorization}\r\n");
    let answer = http(server.http, "GET /channels/a/messages", &header, b"");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let error = &body["error"];
    (error["code"].as_u64().unwrap(), error["message"].as_str().unwrap().to_owned())
}

fn auth(credential: &Credential, client_id: &str) -> Auth<'static> {
    let (token, key) = match credential {
        Credential::Token(token) => (token.as_str(), ""),
        Credential::Key(key) => ("", key.as_str()),
    };
    let (token, key) = (token.to_owned().into(), key.to_owned().into());
    Auth { token, key, client_id: client_id.to_owned().into(), ..Auth::default() }
}

/// Code and message of the first record, which is an error.
fn error_of(records: &[u8]) -> (u64, String) {
    let record = binary::records(records).next().unwrap().unwrap();
    match record.event().unwrap() {
        Event::Error { id: 0, code, message } => (code.code().into(), message.to_string()),
        event => panic!("not refused but {event:?}"),
    }
}

fn websocket(server: &Server, auth: Auth<'_>) -> (u64, String) {
    let mut stream = open(server.http);
    let upgrade = Upgrade::new("x", "/", [7; 16]);
    let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, 7);
    let mut unread = Vec::new();
    loop {
        stream.write_all(connection.out.pending()).unwrap();
        connection.out.written(connection.out.pending_bytes());
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "ended without an answer");
        unread.extend_from_slice(&chunk[..count]);
        let used = connection.handle_bytes(0, &mut unread, |out, event| match event {
            protocol::Event::Open => {
                out.auth(auth.clone());
                Ok(())
            }
            event => panic!("not refused but {event:?}"),
        });
        match used {
            Ok(used) => drop(unread.drain(..used)),
            Err(Closed::Refused(refused)) => {
                return (refused.code.unwrap().code().into(), refused.message);
            }
            Err(closed) => panic!("{closed}"),
        }
    }
}

fn long_polling(server: &Server, auth: Auth<'_>) -> (u64, String) {
    let mut records = Vec::new();
    binary::append_request(&Request::Auth(auth), &mut records).unwrap();
    let mut stream = open(server.http);
    let asked = request("POST /lp/connect", "Connection: close\r\n", &records);
    stream.write_all(&asked).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    error_of(&answer[end + 4..])
}

/// A connection of the sync wire.
struct Sync(TcpStream);

impl Sync {
    fn open(server: &Server) -> Sync {
        Sync(open(server.sync_tcp))
    }

    /// Sends a message; returns whether it was accepted, and the error in the answer.
    fn ask(&mut self, message: &Message<'_>) -> (bool, Option<String>) {
        let mut frame = Vec::new();
        sync::append_message(message, Layout::V0_6, &mut frame).unwrap();
        self.0.write_all(&frame).unwrap();
        let mut bytes = Vec::new();
        loop {
            if let Parsed::Frame(frame) = sync::parse(Header::Ten, &bytes, 65_536).unwrap() {
                let body = sync::decode(frame.message_type, frame.body, Layout::V0_6).unwrap();
                return match body {
                    Message::HandshakeAck(ack) => (ack.success, ack.error.map(str::to_owned)),
                    Message::TokenRefreshAck(ack) => (ack.success, ack.error.map(str::to_owned)),
                    other => panic!("answered {other:?}"),
                };
            }
            let mut chunk = [0; 1024];
            let count = self.0.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "ended without an answer");
            bytes.extend_from_slice(&chunk[..count]);
        }
    }

    fn greet(&mut self, token: &str) -> (bool, Option<String>) {
        self.ask(&Message::Handshake(Handshake {
            jwt_token: token,
            vector_clock: Map::default(),
            subscribed_shapes: Vec::new(),
            client_version: "test",
            lite_id: "",
            epoch: 0,
            wire_version: 1,
        }))
    }

    fn refresh(&mut self, token: &str) -> (bool, Option<String>) {
        self.ask(&Message::TokenRefresh(TokenRefresh { new_token: token }))
    }
}

enum Credential {
    Token(String),
    Key(String),
}

fn sign(header: Value, payload: Value, secret: &str) -> Credential {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(&header), part(&payload));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    Credential::Token(format!("{message}.{signature}"))
}

/// A token that is accepted, but for some claims.
fn token(changes: Value) -> Credential {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({ "sub": "alice", "iat": now_s, "exp": now_s + 600 });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = match value.as_i64() {
            Some(offset_s) => json!(now_s as i64 + offset_s),
            None => value.clone(),
        };
    }
    sign(json!({ "alg": "HS256", "kid": "demo.main" }), claims, "sk_main")
}

/// Label of the metric, reason for the client, a credential with that fault.
fn faulty() -> Vec<(&'static str, &'static str, Credential)> {
    let headed = |header| sign(header, json!({}), "sk_main");
    let key = |text: &str| Credential::Key(text.to_owned());
    let limit = "the client id must have 1 to 255 bytes";
    vec![
        ("missing_kid", "malformed", headed(json!({ "alg": "HS256" }))),
        ("unknown_key", "unknown key", headed(json!({ "alg": "HS256", "kid": "demo.other" }))),
        ("issuer_or_audience", "refused", token(json!({ "aud": "authenticated" }))),
        ("expired", "expired", token(json!({ "exp": -10 }))),
        ("not_yet_valid", "not yet valid", token(json!({ "nbf": 300 }))),
        ("malformed", "malformed", Credential::Token("no token".to_owned())),
        ("claims", "malformed", token(json!({ "exp": "tomorrow" }))),
        ("client_id_length", limit, token(json!({ "sub": "x".repeat(256) }))),
        (
            "bad_signature",
            "refused",
            sign(json!({ "alg": "HS256", "kid": "demo.main" }), json!({}), "other"),
        ),
        ("bad_secret", "refused", key("demo.main:wrong")),
        ("unknown_key", "unknown key", key("demo.nobody:sk_main")),
        ("malformed", "malformed", key("demo.main")),
    ]
}

#[test]
fn every_wire_reports_the_public_reason_and_counts_the_cause() {
    let server = Server::start("causes");
    let mut expected = std::collections::BTreeMap::<&str, u64>::new();
    for (cause, reason, credential) in &faulty() {
        let code = if *cause == "expired" { 40102 } else { 40101 };
        let told = (code, format!("invalid key or token: {reason}"));
        assert_eq!(websocket(&server, auth(credential, "")), told, "{cause}");
        assert_eq!(long_polling(&server, auth(credential, "")), told, "{cause}");
        let authorization = match credential {
            Credential::Token(token) => format!("Bearer {token}"),
            Credential::Key(key) => format!("Basic {}", STANDARD.encode(key)),
        };
        assert_eq!(rest(&server, &authorization), told, "{cause}");
        *expected.entry(cause).or_default() += 3;
        if let Credential::Token(token) = credential {
            let told = (false, Some(format!("invalid bearer token: {reason}")));
            let mut connection = Sync::open(&server);
            assert_eq!(connection.greet(token), told, "{cause}");
            assert_eq!(connection.refresh(token), told, "{cause}");
            *expected.entry(cause).or_default() += 2;
        }
    }
    for (cause, count) in expected {
        assert_eq!(server.refusals(cause), count, "{cause}");
        server.await_logged(cause, count);
    }
    assert_eq!(server.refusals("no_expiry"), 0, "what did not happen is there as well");
}

#[test]
fn a_session_does_not_continue_with_the_token_of_another_user() {
    let server = Server::start("refresh");
    let Credential::Token(alice) = token(json!({})) else { unreachable!() };
    let Credential::Token(bob) = token(json!({ "sub": "bob" })) else { unreachable!() };
    let mut connection = Sync::open(&server);
    assert_eq!(connection.greet(&alice), (true, None));
    assert_eq!(connection.refresh(&bob), (false, Some("user mismatch".to_owned())));
    assert_eq!(connection.refresh(""), (false, Some("empty token".to_owned())));
    assert_eq!(connection.refresh(&alice), (true, None));
    assert_eq!((server.refusals("other_client_id"), server.refusals("malformed")), (1, 1));
}

#[test]
fn a_client_id_that_is_too_long_is_refused_with_the_limit() {
    let server = Server::start("client-id");
    let long = "x".repeat(256);
    let told = (40101, "invalid key or token: the client id must have 1 to 255 bytes".to_owned());
    for credential in [Credential::Key(KEY.to_owned()), token(json!({}))] {
        assert_eq!(websocket(&server, auth(&credential, &long)), told);
        assert_eq!(long_polling(&server, auth(&credential, &long)), told);
    }
    assert_eq!(server.refusals("client_id_length"), 4);
    let key = format!("Authorization: Basic {}\r\n", STANDARD.encode(KEY));
    let body = json!({ "clientId": long }).to_string();
    for line in ["POST /channels/a/messages", "POST /keys/demo.main/requestToken"] {
        let answer = http(server.http, line, &key, body.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("255 bytes"), "{answer}");
    }
}

#[test]
fn a_cause_is_logged_once_a_second_and_counted_every_time() {
    let server = Server::start("flood");
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        rest(&server, "Bearer no");
        asked += 1;
    }
    assert_eq!(server.refusals("malformed"), asked);
    server.await_logged("malformed", asked);
    let (lines, seconds) = (server.logged("malformed"), begun.elapsed().as_secs() as usize);
    assert!((2..=seconds + 2).contains(&lines.len()), "{lines:?} in {seconds} s");
}
