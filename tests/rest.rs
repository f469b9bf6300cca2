//! REST and the HTTP side of long-polling, tested with the real binary over plain sockets.
#![cfg(feature = "server")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headcount::wire::foony::{Auth, Cursor, ErrorCode, Event, Request, binary};
use serde_json::{Value, json};

use command::headcount;
use raw::UPGRADE;
use served::Served;

mod command;
mod raw;
mod served;

/// Timeout of every wait.
const DEADLINE: Duration = Duration::from_secs(20);

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
    [[auth.key]]
    name = "demo.chat"
    secret = "sk_chat"
    capability = { "chat:*" = ["publish"] }
"#;

const MAIN: &str = "demo.main:sk_main";
const CHAT: &str = "demo.chat:sk_chat";

fn serve(test: &str) -> Served {
    let config = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rest-{test}.toml"));
    fs::write(&config, CONFIG).unwrap();
    Served::start(headcount(&["serve", "--quiet", "--config"]).arg(&config)).unwrap()
}

/// A connection that is kept for the next request.
struct Connection(BufReader<TcpStream>);

#[derive(Debug)]
struct Response {
    status: u16,
    /// Lower case, one header a line.
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let of_name = |line: &'_ str| line.starts_with(&format!("{name}:"));
        let line = self.head.lines().find(|line| of_name(line))?;
        Some(line[name.len() + 1..].trim())
    }
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Connection(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn read_head(&mut self) -> (u16, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "ended inside a head: {head:?}");
        }
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {head}")), head.to_ascii_lowercase())
    }

    fn read(&mut self) -> Response {
        let (status, head) = self.read_head();
        let mut response = Response { status, head, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |text| text.parse().unwrap());
        response.body.resize(length, 0);
        self.0.read_exact(&mut response.body).unwrap();
        response
    }

    /// `line`: method and target; `headers`: lines, each with its end.
    fn ask(&mut self, line: &str, headers: &str, body: &[u8]) -> Response {
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.send(&[head.as_bytes(), body].concat());
        self.read()
    }
}

fn basic(key: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(key))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn code(response: &Response) -> (u16, u64) {
    let body = response.json();
    assert_eq!(body["error"]["statusCode"], response.status, "{response:?}");
    (response.status, body["error"]["code"].as_u64().unwrap())
}

#[test]
fn what_is_published_is_in_the_history_to_the_byte() {
    let server = serve("history");
    let mut connection = Connection::open(server.http);
    let key = basic(MAIN);
    let path = "/channels/chat%3A1/messages";
    let one = br#"{"name":"a","data":{ "x": 1e999 },"id":"m1","clientId":"bob"}"#;
    let published = connection.ask(&format!("POST {path}"), &key, one);
    assert_eq!(published.status, 201, "{published:?}");
    let expected = json!({ "channel": "chat:1", "messageId": "m1", "serial": 1 });
    assert_eq!(published.json(), expected);
    let again = connection.ask("POST /channels/chat:1/messages", &key, one);
    assert_eq!(again.json(), expected, "the same publish");
    let batch = connection.ask(&format!("POST {path}"), &key, br#"[{"name":"b"},{"name":"c"}]"#);
    assert_eq!(batch.json()["serial"], 2);
    let ephemeral = connection.ask(&format!("POST {path}"), &key, br#"{"ephemeral":true}"#);
    assert_eq!((ephemeral.status, ephemeral.json().get("serial")), (201, None));

    let page = connection.ask(&format!("GET {path}?limit=1"), &key, b"");
    let names: Vec<Value> =
        page.json().as_array().unwrap().iter().map(|item| item["name"].clone()).collect();
    assert_eq!(names, ["c", "b"]);
    let link = page.header("link").unwrap();
    let target = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap().0;
    // The header was made lower case for comparison; the escape in it means the same.
    let last = connection.ask(&format!("GET {target}"), &key, b"");
    let text = String::from_utf8(last.body.clone()).unwrap();
    assert!(text.starts_with(r#"[{"id":"m1","name":"a","data":{ "x": 1e999 },"timestamp":"#));
    assert!(text.ends_with(r#","clientId":"bob","serial":1}]"#), "{text}");
    assert_eq!(last.header("link"), None);
}

#[test]
fn a_token_is_made_and_then_speaks_for_its_client_only() {
    let server = serve("token");
    let mut connection = Connection::open(server.http);
    let line = "POST /keys/demo.chat/requestToken";
    let answer = connection.ask(line, &basic(CHAT), br#"{"clientId":"alice"}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["capability"], r#"{"chat:*":["publish"]}"#);
    let alice = bearer(answer["token"].as_str().unwrap());
    let publish = "POST /channels/chat:1/messages";
    let published = connection.ask(publish, &alice, br#"{"clientId":"alice"}"#);
    assert_eq!(published.status, 201, "{published:?}");
    for (line, headers, body, expected) in [
        (publish, &alice, &br#"{"clientId":"bob"}"#[..], (403, 40300)),
        (publish, &alice, b"no", (400, 40001)),
        ("POST /channels/game/messages", &alice, b"{}", (403, 40302)),
        ("GET /channels/chat:1/messages", &alice, b"", (403, 40301)),
        ("GET /channels/chat:1/presence", &alice, b"", (403, 40301)),
        (line, &alice, br#"{"clientId":"eve"}"#, (401, 40101)),
        (line, &basic(MAIN), br#"{"clientId":"eve"}"#, (403, 40300)),
        (line, &basic(CHAT), br#"{"clientId":"a","capability":{"*":["*"]}}"#, (403, 40301)),
        (publish, &basic("demo.chat:wrong"), b"{}", (401, 40101)),
        (publish, &String::new(), b"{}", (401, 40101)),
        ("GET /channels/a.b/messages", &basic(MAIN), b"", (400, 40001)),
        ("GET /channels/a/messages?limit=x", &basic(MAIN), b"", (400, 40001)),
        ("GET /nothing", &basic(MAIN), b"", (404, 40400)),
        ("PUT /time", &basic(MAIN), b"", (405, 40001)),
    ] {
        assert_eq!(code(&connection.ask(line, headers, body)), expected, "{line} {headers}");
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let server = serve("head");
    let mut connection = Connection::open(server.http);
    let key = basic(MAIN);
    for body in [br#"{"data":1}"#, br#"{"data":2}"#] {
        connection.ask("POST /channels/a/messages", &key, body);
    }
    let without_date = |head: &str| -> Vec<String> {
        let lines = head.lines().filter(|line| !line.starts_with("date:"));
        lines.map(str::to_owned).collect()
    };
    for path in [
        "/",
        "/time",
        "/channels/a/messages?limit=1",
        "/channels/a/presence",
        "/channels/b/messages?limit=x",
        "/nothing",
        "/lp/poll",
    ] {
        let get = connection.ask(&format!("GET {path}"), &key, b"");
        let asked = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n{key}\r\n");
        connection.send(asked.as_bytes());
        // A body would be read as the beginning of the next answer.
        let (_, head) = connection.read_head();
        assert_eq!(without_date(&head), without_date(&get.head), "{path}");
    }
    let mut admin = Connection::open(server.admin);
    let members = "/v1/apps/demo/channels/a/members";
    for path in ["/", "/healthz", "/readyz", members, "/metrics", "/v1/apps/demo/channels/a/watch"]
    {
        admin.send(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let (status, head) = admin.read_head();
        assert_eq!(status, 200, "{path}: {head}");
        // A streamed response has no length, and 0 would be wrong.
        assert!(!head.contains("content-length: 0"), "{path}: {head}");
    }
    let answer = connection.ask("DELETE /", "", b"");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head, options")));
}

#[test]
fn everything_is_there_under_the_prefix_of_a_proxy() {
    let server = serve("prefix");
    let mut connection = Connection::open(server.http);
    let key = basic(MAIN);
    let path = "/any/prefix/channels/a/messages";
    for body in [br#"{"data":1}"#, br#"{"data":2}"#, br#"{"data":3}"#] {
        assert_eq!(connection.ask(&format!("POST {path}"), &key, body).status, 201);
    }
    assert_eq!(connection.ask("GET /any/prefix/time", "", b"").status, 200);
    let token = "POST /any/prefix/keys/demo.main/requestToken";
    assert_eq!(connection.ask(token, &key, br#"{"clientId":"alice"}"#).status, 200);
    let presence = connection.ask("GET /any/prefix/channels/a/presence", &key, b"");
    assert_eq!((presence.status, presence.body.as_slice()), (200, &b"[]"[..]));

    // One client resolves the link against its request URL, the other appends it to its base.
    for base in ["", "/any/prefix"] {
        let mut target = format!("{path}?limit=1");
        let mut seen = Vec::new();
        loop {
            let page = connection.ask(&format!("GET {target}"), &key, b"");
            seen.push(page.json()[0]["data"].as_u64().unwrap());
            let Some(link) = page.header("link") else { break };
            assert!(link.starts_with("</any/prefix/channels/a/messages?"), "{link}");
            let next = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap().0;
            target = format!("{base}{next}");
        }
        assert_eq!(seen, [3, 2, 1], "{base}");
    }

    let connected = connection.ask("POST /any/prefix/lp/connect", "", &greeting(MAIN));
    assert!(matches!(events(&connected)[..], [Event::Connected { .. }]), "{connected:?}");
    let session = connected.header("foony-lp-session").unwrap();
    let header = format!("Foony-LP-Session: {session}\r\n");
    let ended = connection.ask("POST /any/prefix/lp/disconnect", &header, b"");
    assert_eq!(ended.status, 204);
    for path in ["//lp/connect", "//other.example/channels/a/messages"] {
        assert_eq!(connection.ask(&format!("POST {path}"), &key, b"").status, 404, "{path}");
    }
}

#[test]
fn a_compressed_body_is_refused_before_it_is_read() {
    let server = serve("coding");
    let key = basic(MAIN);
    for path in ["/channels/a/messages", "/keys/demo.main/requestToken", "/lp/connect"] {
        let mut connection = Connection::open(server.http);
        // The declared body does not arrive.
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 9\r\n");
        connection.send(format!("{head}Content-Encoding: gzip\r\n\r\n").as_bytes());
        let answer = connection.read();
        assert_eq!(code(&answer), (415, 40001), "{path}");
        assert_eq!(answer.header("accept-encoding"), Some("identity"), "{path}");
    }
    let mut connection = Connection::open(server.http);
    let plain = format!("{key}Content-Encoding: identity\r\n");
    let published = connection.ask("POST /channels/a/messages", &plain, b"{}");
    assert_eq!(published.status, 201, "{published:?}");
}

#[test]
fn scrapers_get_the_format_that_they_ask_for() {
    let server = serve("metrics");
    let mut admin = Connection::open(server.admin);
    let mut ask = |accept: &str| {
        let answer = admin.ask("GET /metrics", accept, b"");
        let content_type = answer.header("content-type").unwrap().to_owned();
        (content_type, String::from_utf8(answer.body).unwrap())
    };
    let (content_type, text) = ask("");
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("\n# TYPE headcount_accepted_total counter\n"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    let (content_type, metrics) = ask("Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(metrics.ends_with("\n# EOF\n"), "{metrics}");

    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // Without it, the unit tests of `admin` check the same rules.
    let Ok(mut promtool) = promtool else { return };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn an_empty_channel_has_no_members() {
    let server = serve("presence");
    let mut connection = Connection::open(server.http);
    let answer = connection.ask("GET /channels/chat:1/presence?limit=5", &basic(MAIN), b"");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"[]"[..]));
}

#[test]
fn browsers_are_let_through_and_may_read_what_they_need() {
    let server = serve("cors");
    let mut connection = Connection::open(server.http);
    for line in ["OPTIONS /lp/send", "OPTIONS /channels/a/messages", "OPTIONS /"] {
        let preflight = connection.ask(line, "Origin: http://page\r\n", b"");
        assert_eq!(preflight.status, 204, "{line}");
        let allowed = preflight.header("access-control-allow-headers").unwrap();
        assert!(allowed.contains("foony-lp-session") && allowed.contains("authorization"));
        assert!(preflight.header("access-control-allow-methods").unwrap().contains("post"));
    }
    for line in ["GET /time", "GET /", "GET /nothing", "POST /lp/poll", "POST /channels/a/messages"]
    {
        let answer = connection.ask(line, "", b"");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{line}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("foony-lp-session") && exposed.contains("link"), "{line}");
    }
    let admin = Connection::open(server.admin).ask("GET /healthz", "", b"");
    assert_eq!(admin.header("access-control-allow-origin"), None, "operators are no web page");
}

fn records(requests: &[Request<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for request in requests {
        binary::append_request(request, &mut bytes).unwrap();
    }
    bytes
}

fn greeting(key: &str) -> Vec<u8> {
    let (key, client_id) = (key.to_owned().into(), "alice".into());
    records(&[Request::Auth(Auth { key, client_id, ..Auth::default() })])
}

fn events(response: &Response) -> Vec<Event<'_>> {
    assert_eq!(response.status, 200, "{response:?}");
    let records = binary::records(&response.body);
    records.map(|record| record.unwrap().event().unwrap()).collect()
}

#[test]
fn a_client_without_a_websocket_is_sent_what_it_subscribes_to() {
    let server = serve("poll");
    let mut connection = Connection::open(server.http);
    let connected = connection.ask("POST /lp/connect", "", &greeting(MAIN));
    assert!(matches!(events(&connected)[..], [Event::Connected { .. }]), "{connected:?}");
    let header = format!("Foony-LP-Session: {}\r\n", connected.header("foony-lp-session").unwrap());
    let subscribe =
        Request::Subscribe { id: 1, channel: "chat:1".into(), cursor: Cursor::default() };
    let sent = connection.ask("POST /lp/send", &header, &records(&[subscribe]));
    assert_eq!((sent.status, sent.body.len()), (204, 0));
    let mut polling = Connection::open(server.http);
    let acknowledged = polling.ask("POST /lp/poll", &header, b"");
    assert!(matches!(events(&acknowledged)[..], [Event::Ack { id: 1, .. }]), "{acknowledged:?}");

    let poll = format!("POST /lp/poll HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 0\r\n\r\n");
    polling.send(poll.as_bytes());
    let publish = "POST /channels/chat:1/messages";
    let published = connection.ask(publish, &basic(MAIN), br#"{"name":"n","data": 1}"#);
    assert_eq!(published.status, 201);
    let answer = polling.read();
    let [Event::Delivery(delivery)] = &events(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!((delivery.serial, delivery.content.messages()[0].data), (1, &b"1"[..]));

    polling.send(poll.as_bytes());
    assert_eq!(connection.ask("POST /lp/disconnect", &header, b"").status, 204);
    assert_eq!(code(&polling.read()), (410, 40400), "a waiting poll is answered");
    assert_eq!(code(&connection.ask("POST /lp/send", &header, b"")), (410, 40400));
}

#[test]
fn a_refused_greeting_is_no_error_of_http() {
    let server = serve("refused");
    let mut connection = Connection::open(server.http);
    let refused = connection.ask("POST /lp/connect", "", &greeting("demo.main:wrong"));
    assert_eq!(refused.header("foony-lp-session"), None);
    let events = events(&refused);
    assert!(matches!(events[..], [Event::Error { code: ErrorCode::BadAuth, .. }]), "{events:?}");
}

#[test]
fn a_session_that_never_was_is_gone() {
    let server = serve("gone");
    let mut connection = Connection::open(server.http);
    for session in ["", "x", "00000000000100000001ffffffffffffffff", &"f".repeat(36)] {
        for path in ["/lp/send", "/lp/poll"] {
            let header = format!("Foony-LP-Session: {session}\r\n");
            let answer = connection.ask(&format!("POST {path}"), &header, b"");
            assert_eq!(code(&answer), (410, 40400), "{path} {session}");
        }
    }
}

#[test]
fn bodies_have_a_limit_whether_or_not_they_say_how_long_they_are() {
    let server = serve("limit");
    let head = format!("POST /channels/a/messages HTTP/1.1\r\nHost: x\r\n{}", basic(MAIN));
    let mut declared = Connection::open(server.http);
    declared.send(format!("{head}Content-Length: 9999999\r\n\r\n").as_bytes());
    assert_eq!(code(&declared.read()), (413, 40001));
    let mut endless = Connection::open(server.http);
    endless.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    for _ in 0..65 {
        // It may be refused before all of it was sent.
        let _ = endless.0.get_mut().write_all(&chunk);
    }
    assert_eq!(code(&endless.read()), (413, 40001));
}

#[test]
fn a_connection_is_kept_and_can_still_become_a_websocket() {
    let server = serve("kept");
    let mut connection = Connection::open(server.http);
    assert_eq!(connection.ask("GET /time", "", b"").status, 200);
    connection.send("GET /time HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3).as_bytes());
    for _ in 0..3 {
        assert!(connection.read().json()[0].is_u64());
    }
    connection.send(b"GET /time HTTP/1.1\r\n\r\n");
    assert_eq!(connection.read().status, 400, "no Host");
    let upgrade = format!("GET /sync HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n");
    let ping = b"\x89\x80\0\0\0\0";
    connection.send(&[upgrade.as_bytes(), ping].concat());
    let (status, head) = connection.read_head();
    assert_eq!(status, 101, "{head}");
    let mut pong = [0; 2];
    connection.0.read_exact(&mut pong).unwrap();
    assert_eq!(pong, *b"\x8a\0");
}

#[test]
fn an_invalid_upgrade_on_a_kept_connection_is_answered_with_the_reason() {
    let server = serve("wrong");
    let mut connection = Connection::open(server.http);
    assert_eq!(connection.ask("GET /time", "", b"").status, 200);
    let headers = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
    assert_eq!(connection.ask("GET /time", headers, b"").status, 200, "another protocol");
    let headers = UPGRADE.replace("Version: 13", "Version: 12");
    assert_eq!(connection.ask("GET /", &headers, b"").status, 426);
}

/// As many bytes of cookies as browsers and proxies let through.
fn cookies() -> String {
    format!("Cookie: {}\r\n", "x".repeat(16 * 1024))
}

#[test]
fn heads_with_many_cookies_are_served_and_larger_ones_are_answered_431() {
    let server = serve("heads");
    let mut connection = Connection::open(server.http);
    for round in ["first", "kept"] {
        assert_eq!(connection.ask("GET /time", &cookies(), b"").status, 200, "{round}");
    }
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}{}\r\n", cookies());
    connection.send(request.as_bytes());
    assert_eq!(connection.read_head().0, 101, "a kept connection becomes a WebSocket");

    let too_large = format!("{}{}", cookies(), cookies());
    let mut first = Connection::open(server.http);
    assert_eq!(first.ask("GET /time", &too_large, b"").status, 431);
    let mut kept = Connection::open(server.http);
    assert_eq!(kept.ask("GET /time", "", b"").status, 200);
    assert_eq!(kept.ask("GET /time", &too_large, b"").status, 431);
}

#[test]
fn a_head_that_arrives_byte_by_byte_is_answered() {
    let server = serve("bytes");
    let mut connection = Connection::open(server.http);
    connection.0.get_ref().set_nodelay(true).unwrap();
    for byte in b"\r\n\n\r\nGET /time HTTP/1.1\r\nHost: x\r\n\r\n" {
        connection.send(&[*byte]);
    }
    assert_eq!(connection.read().status, 200);
}
