//! The admission hook, as a webhook of the real binary and inside another program: what is asked,
//! what clients of each wire are answered, and what happens without an answer.
#![cfg(feature = "server")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use foony_client::{Client, KEY, Server};
use headcount::client::prelude as graph;
use headcount::config::Config;
use headcount::server::{self, AdmitAnswer, AdmitKind, Blocking, Handle, Hooks};
use headcount::wire::foony::{Auth, Content, Cursor, Event, Publish, Request, binary};
use headcount::wire::sync::message::presence::PresenceUpdate;
use headcount::wire::sync::message::session::Handshake;
use headcount::wire::sync::{self, Header, Layout, Message, Parsed};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};
use service::{Asked, SECRET, Service};

mod foony_client;
mod served;
mod service;
mod tempdir;

/// How long a test waits for something that is expected.
const WITHIN: Duration = Duration::from_secs(20);

/// A service that decides by a function; `None` hangs for longer than anybody waits.
fn service(decide: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static) -> Service {
    Service::start(move |question| decide(question).map(|answer| (200, answer)))
}

impl Service {
    fn count(&self, kind: &str) -> usize {
        self.asked().iter().filter(|asked| asked.json["kind"] == kind).count()
    }

    /// The first request of this kind.
    fn first(&self, kind: &str) -> Asked {
        self.asked().into_iter().find(|asked| asked.json["kind"] == kind).expect("a request")
    }

    /// Configuration of a server that asks it.
    fn config(&self, more: &str) -> String {
        let url = format!("http://{}/admit", self.address);
        format!("[admission]\nwebhook = {url:?}\nsecret = {SECRET:?}\n{more}\n")
    }
}

fn allow(_: &Value) -> Option<Value> {
    Some(json!({ "allow": true }))
}

fn publish(id: u64, channel: &'static str) -> Request<'static> {
    Request::Publish(Publish {
        id,
        channel: channel.into(),
        message_id: format!("m{id}").into(),
        ephemeral: false,
        ttl_ms: 0,
        content: Content::One(headcount::wire::foony::Message {
            name: "n".into(),
            data: b"1",
            encoding: "".into(),
        }),
    })
}

/// Sends a request; `Err` is the code and the message of its refusal.
fn outcome(
    client: &mut Client,
    request: impl FnOnce(u64) -> Request<'static>,
) -> Result<(), (u32, String)> {
    let id = client.next_id();
    client.send(&[request(id)]);
    client.until(|event| match event {
        Event::Ack { id: found, .. } if *found == id => Some(Ok(())),
        Event::Error { id: found, code, message } if *found == id => {
            Some(Err((code.code(), message.to_string())))
        }
        _ => None,
    })
}

fn subscribe(channel: &'static str) -> impl FnOnce(u64) -> Request<'static> {
    move |id| Request::Subscribe { id, channel: channel.into(), cursor: Cursor::None }
}

/// Messages of the sync wire over TCP.
struct SyncClient {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl SyncClient {
    fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.sync_tcp).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        SyncClient { stream, unread: Vec::new() }
    }

    fn send(&mut self, message: &Message<'_>) {
        let mut bytes = Vec::new();
        sync::append_message(message, Layout::V0_6, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Greets; the error of the answer.
    fn greet(&mut self) -> Option<String> {
        self.send(&Message::Handshake(Handshake {
            jwt_token: "",
            client_version: "test",
            wire_version: 1,
            ..Handshake::default()
        }));
        loop {
            let parsed = sync::parse(Header::Ten, &self.unread, 1 << 20).unwrap();
            if let Parsed::Frame(frame) = parsed
                && let Message::HandshakeAck(ack) =
                    sync::decode(frame.message_type, frame.body, Layout::V0_6).unwrap()
            {
                let error = ack.error.map(str::to_owned);
                assert_eq!(ack.success, error.is_none());
                let frame_bytes = frame.frame_bytes;
                self.unread.drain(..frame_bytes);
                return error;
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "closed");
            self.unread.extend_from_slice(&chunk[..count]);
        }
    }
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A REST request: status and body.
fn rest(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    request(server.http, method, path, &format!("Basic {}", STANDARD.encode(KEY)), body.as_bytes())
}

fn request(
    http: SocketAddr,
    method: &str,
    path: &str,
    authorization: &str,
    body: &[u8],
) -> (u16, Value) {
    let (head, body) = exchange(http, method, path, authorization, body);
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn exchange(
    http: SocketAddr,
    method: &str,
    path: &str,
    authorization: &str,
    body: &[u8],
) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(http).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: {authorization}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
}

#[test]
fn requests_are_signed_and_have_every_field() {
    let service = service(allow);
    let server = Server::start(&service.config(""));
    let mut client = Client::connect(&server, "ann", "");
    assert_eq!(outcome(&mut client, subscribe("room:1")), Ok(()));
    assert_eq!(outcome(&mut client, |id| publish(id, "room:1")), Ok(()));
    let asked = service.first("publish");
    asked.check_signature();
    let json = &asked.json;
    for (name, value) in [
        ("v", json!(1)),
        ("kind", json!("publish")),
        ("client_id", json!("ann")),
        ("channel", json!("room:1")),
        ("metadata", json!({})),
        ("ip", json!("127.0.0.1")),
        ("connection_type", json!("WebSocket")),
        ("protocol", json!("foony")),
        (
            "identity",
            json!({"app": "demo", "key": "demo.kid_main", "identity_service_metadata": {}}),
        ),
    ] {
        assert_eq!(json[name], value, "{name} of {json}");
    }
    assert!(json["peer_key"].as_str().unwrap().starts_with("pk"), "{json}");
    assert_eq!(service.first("connect").json["channel"], Value::Null);
    assert_eq!(server.counter("headcount_admission_requests", "\"allow\""), 3);
    assert_eq!(server.counter("headcount_admission_latency_seconds_count", ""), 3);
}

#[test]
fn a_denial_reaches_a_foony_client_with_its_reason() {
    let service = service(|asked| {
        let of = |kind: &str| asked["kind"] == kind;
        Some(match asked["channel"].as_str() {
            None if asked["client_id"] == "mallory" => {
                json!({"allow": false, "reason": "go away", "retry_after_ms": 1500})
            }
            Some("room:closed") => json!({"allow": false, "reason": "closed room"}),
            Some("room:quiet") if of("publish") => json!({"allow": false}),
            _ => json!({"allow": true}),
        })
    });
    let server = Server::start(&service.config(""));
    let mut ann = Client::connect(&server, "ann", "");
    let closed = (40300, "closed room".to_owned());
    assert_eq!(outcome(&mut ann, subscribe("room:closed")), Err(closed.clone()));
    assert_eq!(outcome(&mut ann, |id| publish(id, "room:closed")), Err(closed.clone()));
    let history = |id| {
        let before = Cursor::None;
        Request::History { id, channel: "room:closed".into(), limit: 1, before }
    };
    assert_eq!(outcome(&mut ann, history), Err(closed), "history is no way around");
    assert_eq!(outcome(&mut ann, subscribe("room:quiet")), Ok(()));
    let quiet = (40300, "denied".to_owned());
    assert_eq!(outcome(&mut ann, |id| publish(id, "room:quiet")), Err(quiet));
    assert_eq!(server.counter("headcount_ignored", "\"denied\""), 4);

    let auth = Auth { key: KEY.into(), client_id: "mallory".into(), ..Auth::default() };
    let (code, message) = refused_connect(&server, &auth);
    assert_eq!((code, &*message), (40101, "go away (retry after 1500 ms)"));
}

/// Connects by long-polling, where the whole answer is one body: the refusal.
fn refused_connect(server: &Server, auth: &Auth<'_>) -> (u32, String) {
    let (head, body) = poll_connect(server, auth);
    let mut records = binary::records(&body);
    match records.next().map(|record| record.unwrap().event().unwrap()) {
        Some(Event::Error { code, message, .. }) => (code.code(), message.to_string()),
        other => panic!("{head} {other:?}"),
    }
}

fn poll_connect(server: &Server, auth: &Auth<'_>) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    binary::append_request(&Request::Auth(auth.clone()), &mut body).unwrap();
    exchange(server.http, "POST", "/lp/connect", "none", &body)
}

#[test]
fn a_long_polling_client_is_connected_once_it_is_admitted() {
    let service = service(|_| {
        thread::sleep(Duration::from_millis(300));
        allow(&Value::Null)
    });
    let server = Server::start(&service.config(""));
    let auth = Auth { key: KEY.into(), client_id: "ann".into(), ..Auth::default() };
    let (head, body) = poll_connect(&server, &auth);
    let event = binary::records(&body).next().expect("a record").unwrap();
    assert!(matches!(event.event(), Ok(Event::Connected { .. })), "{head}");
    assert_eq!(service.count("connect"), 1);
}

#[test]
fn a_denial_on_the_sync_wire_is_its_own_refusal() {
    let denials = Arc::new(Mutex::new(VecDeque::from(["connect", "presence"])));
    let service = service(move |asked| {
        let mut denials = denials.lock().unwrap();
        let is_denied = denials.front().is_some_and(|kind| asked["kind"] == *kind);
        if is_denied {
            denials.pop_front();
        }
        Some(json!({"allow": !is_denied, "reason": "not yet"}))
    });
    let server = Server::start(&format!("{}[auth]\nanonymous = true\n", service.config("")));
    let mut client = SyncClient::connect(&server);
    assert_eq!(client.greet().as_deref(), Some("not yet"));
    assert_eq!(client.greet(), None, "it may try again");
    for state in [&[1][..], &[2]] {
        let channel = "room:1";
        client.send(&Message::PresenceUpdate(PresenceUpdate { channel, state }));
    }
    until("the second state is announced", || server.counter("headcount_members", "") == 1);
    assert_eq!(service.count("presence"), 2);
    assert_eq!(service.first("presence").json["connection_type"], "AccessPoint");
    assert_eq!(service.first("presence").json["protocol"], "sync");
    assert_eq!(server.counter("headcount_ignored", "\"denied\""), 2);
}

#[test]
fn rest_requests_are_asked_about_too() {
    let service = service(|asked| {
        let is_closed = asked["channel"] == "room:closed";
        Some(json!({"allow": !is_closed, "reason": "closed room"}))
    });
    let server = Server::start(&service.config(""));
    let message = r#"{"name":"n","data":1,"clientId":"ann"}"#;
    let path = |room: &str, end: &str| format!("/channels/room:{room}/{end}");
    assert_eq!(rest(&server, "POST", &path("open", "messages"), message).0, 201);
    assert_eq!(service.first("publish").json["client_id"], "ann");
    assert_eq!(service.first("publish").json["protocol"], "rest");
    for (method, end, body) in
        [("POST", "messages", message), ("GET", "messages", ""), ("GET", "presence", "")]
    {
        let (status, body) = rest(&server, method, &path("closed", end), body);
        assert_eq!((status, &body["error"]["code"]), (403, &json!(40300)), "{method} {end}");
        assert_eq!(body["error"]["message"], "closed room");
    }
}

#[test]
fn without_an_answer_in_time_a_request_is_denied_or_allowed_as_configured() {
    for (on_timeout, is_allowed) in [("deny", false), ("allow", true)] {
        let service = service(|asked| (asked["kind"] == "connect").then(|| json!({"allow": true})));
        let more = format!("timeout_ms = 400\non_timeout = {on_timeout:?}");
        let server = Server::start(&service.config(&more));
        let mut client = Client::connect(&server, "ann", "");
        let began = Instant::now();
        let answered = outcome(&mut client, |id| publish(id, "room:1"));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        match answered {
            Ok(()) => assert!(is_allowed),
            Err((code, message)) => {
                assert!(!is_allowed && code == 40300, "{message}");
                assert!(message.contains("time"), "{message}");
            }
        }
        assert_eq!(server.counter("headcount_admission_requests", "\"timeout\""), 1);
    }
}

#[test]
fn an_answer_holds_for_its_time_to_live() {
    let service = service(|asked| {
        let is_denied = asked["channel"] == "room:no";
        Some(json!({"allow": !is_denied, "ttl_s": if is_denied { 60 } else { 1 }}))
    });
    let server = Server::start(&service.config(r#"kinds = ["publish"]"#));
    let mut client = Client::connect(&server, "ann", "");
    for _ in 0..5 {
        assert!(outcome(&mut client, |id| publish(id, "room:yes")).is_ok());
        assert!(outcome(&mut client, |id| publish(id, "room:no")).is_err());
    }
    assert_eq!(service.count("publish"), 2);
    assert_eq!(service.asked().len(), 2, "nothing else is asked about");
    assert_eq!(server.counter("headcount_admission_requests", "\"cached\""), 8);
    thread::sleep(Duration::from_millis(1_100));
    assert!(outcome(&mut client, |id| publish(id, "room:yes")).is_ok());
    assert!(outcome(&mut client, |id| publish(id, "room:no")).is_err());
    assert_eq!(service.count("publish"), 3);
}

#[test]
fn a_service_that_fails_is_left_alone_for_a_while() {
    let is_broken = Arc::new(Mutex::new(false));
    let broken = Arc::clone(&is_broken);
    let service = service(move |_| match *broken.lock().unwrap() {
        true => Some(json!("no answer")),
        false => Some(json!({"allow": true})),
    });
    let more = "kinds = [\"publish\"]\nbreaker_failures = 3\nbreaker_ms = 1000";
    let server = Server::start(&service.config(more));
    let mut client = Client::connect(&server, "ann", "");
    assert!(outcome(&mut client, |id| publish(id, "room:1")).is_ok());
    *is_broken.lock().unwrap() = true;
    for _ in 0..10 {
        let (code, _) = outcome(&mut client, |id| publish(id, "room:1")).unwrap_err();
        assert_eq!(code, 40300);
    }
    assert_eq!(service.count("publish"), 4, "one that was answered, three that failed");
    assert_eq!(server.counter("headcount_admission_requests", "\"error\""), 3);
    assert_eq!(server.counter("headcount_admission_requests", "\"breaker_open\""), 7);
    assert_eq!(server.counter("headcount_admission_breaker_open", ""), 1);
    *is_broken.lock().unwrap() = false;
    thread::sleep(Duration::from_millis(1_100));
    assert!(outcome(&mut client, |id| publish(id, "room:1")).is_ok());
    assert_eq!(server.counter("headcount_admission_breaker_open", ""), 0);
}

#[test]
fn a_service_that_is_not_there_denies() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = Service::gone(gone);
    let server = Server::start(&service.config(r#"kinds = ["publish"]"#));
    let mut client = Client::connect(&server, "ann", "");
    let (code, message) = outcome(&mut client, |id| publish(id, "room:1")).unwrap_err();
    assert_eq!((code, &*message), (40300, "the admission hook failed"));
}

#[test]
fn no_more_questions_of_a_shard_are_in_progress_than_configured() {
    let in_progress = Arc::new(Mutex::new((0, 0)));
    let counted = Arc::clone(&in_progress);
    let service = service(move |_| {
        let begin = |(now, most): (i32, i32)| (now + 1, most.max(now + 1));
        let mut progress = counted.lock().unwrap();
        *progress = begin(*progress);
        drop(progress);
        thread::sleep(Duration::from_millis(30));
        counted.lock().unwrap().0 -= 1;
        allow(&Value::Null)
    });
    let more = "kinds = [\"publish\"]\nin_flight_max = 2\n[cores]\nshards = 1";
    let server = Server::start(&service.config(more));
    let mut clients: Vec<Client> =
        (0..10).map(|at| Client::connect(&server, &format!("c{at}"), "")).collect();
    let ids: Vec<u64> = clients.iter_mut().map(|client| client.next_id()).collect();
    for (client, &id) in clients.iter_mut().zip(&ids) {
        client.send(&[publish(id, "room:1")]);
    }
    for (client, &id) in clients.iter_mut().zip(&ids) {
        client.until(|event| {
            matches!(event, Event::Ack { id: found, .. } if *found == id).then_some(())
        });
    }
    assert_eq!(in_progress.lock().unwrap().1, 2);
    assert_eq!(service.count("publish"), 10);
}

/// A token of the test's key with these further claims.
fn token(user: &str, claim: &str, metadata: &Value) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut payload = json!({"sub": user, "iat": now_s, "exp": now_s + 600});
    payload[claim] = metadata.clone();
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message =
        format!("{}.{}", part(&json!({"alg": "HS256", "kid": "demo.kid_main"})), part(&payload));
    let key = EncodingKey::from_secret(b"sk_main_secret");
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// What `observer` sees of each of these clients, which are in the same channel.
fn identity_metadata(
    url: &str,
    configs: impl IntoIterator<Item = graph::ClientConfig>,
) -> Vec<Value> {
    let observer = graph::ClientConfig::new(url).key(KEY).client_id("observer").join("room:1");
    let observer = graph::Client::connect(observer).unwrap();
    let seen = configs.into_iter().map(|config| {
        let peer = graph::Client::connect(config.join("room:1")).unwrap();
        let key = peer.presence().graph().local_peer.peer_key_string.clone();
        until("the peer is seen", || observer.presence().graph().peer(&key).is_some());
        let graph = observer.presence().graph();
        Value::Object((*graph.peer(&key).unwrap().identity_service_metadata).clone())
    });
    seen.collect()
}

#[test]
fn identity_service_metadata_is_that_of_the_token_the_key_or_the_webhook() {
    let service = service(|asked| {
        let mut answer = json!({"allow": true});
        if asked["client_id"] == "hooked" {
            answer["identity_service_metadata"] = json!({"from": "webhook"});
        }
        Some(answer)
    });
    let more = "[auth]\nidentity_claim = \"about\"\n[[auth.key]]\nname = \"demo.other\"\n\
                secret = \"sk_other\"\nidentity_metadata = { from = \"key\", level = 3 }\n";
    let server = Server::start(&format!("{}{more}", service.config("")));
    let url = format!("ws://{}", server.http);
    let config = || graph::ClientConfig::new(&url);
    let of_token = json!({"from": "token"});
    let seen = identity_metadata(
        &url,
        [
            config().key(KEY).client_id("plain"),
            config().token(token("tokened", "about", &of_token)),
            config().token(token("default", "ism", &of_token)),
            config().key("demo.other:sk_other").client_id("keyed"),
            config().key("demo.other:sk_other").client_id("hooked"),
        ],
    );
    let of_key = json!({"from": "key", "level": 3});
    assert_eq!(seen, [json!({}), of_token, json!({}), of_key.clone(), json!({"from": "webhook"})]);
    let asked = service.asked();
    let keyed = asked.iter().find(|asked| asked.json["client_id"] == "keyed").unwrap();
    assert_eq!(keyed.json["identity"]["identity_service_metadata"], of_key);
    assert_eq!(keyed.json["protocol"], "peer");
}

#[test]
fn the_claim_of_identity_service_metadata_is_ism_by_default() {
    let server = Server::start("");
    let url = format!("ws://{}", server.http);
    let metadata = json!({"role": "editor"});
    let config = graph::ClientConfig::new(&url).token(token("ann", "ism", &metadata));
    assert_eq!(identity_metadata(&url, [config]), [metadata]);
    let wrong = graph::ClientConfig::new(&url).token(token("ann", "ism", &json!("text")));
    assert!(graph::Client::connect(wrong).is_err(), "it is no object");
}

#[test]
fn a_program_decides_by_itself_and_stops_its_server() {
    let config = "[cores]\nshards = 1\n[listen]\nhttp = \"127.0.0.1:0\"\n\
        sync_tcp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[data]\ndir = \"\"\n\
        [[auth.key]]\nname = \"demo.kid_main\"\nsecret = \"sk_main_secret\"\n";
    let config = Config::from_toml(config, std::path::Path::new("embedded.toml")).unwrap();
    let hook = Blocking::new(2, |ctx| match (ctx.kind, &*ctx.client_id) {
        (AdmitKind::Connect, "ann") => {
            Ok(AdmitAnswer::allow().with_identity_metadata(r#"{"from":"program"}"#))
        }
        (AdmitKind::Publish, "ann") => Ok(AdmitAnswer::deny("ann only listens")),
        (AdmitKind::Connect, "panic") => panic!("as asked"),
        _ => Ok(AdmitAnswer::allow()),
    });
    let handle = Handle::new();
    let of_server = handle.clone();
    let (sender, ready) = mpsc::channel();
    let hooks =
        Hooks::new().admission(hook.unwrap()).on_ready(move |addresses| _ = sender.send(addresses));
    let server = thread::spawn(move || server::run(config, hooks, of_server));
    let url = format!("ws://{}", ready.recv_timeout(WITHIN).unwrap().http);
    let config = |client| graph::ClientConfig::new(&url).key(KEY).client_id(client);
    assert_eq!(identity_metadata(&url, [config("ann")]), [json!({"from": "program"})]);
    let ann = graph::Client::connect(config("ann")).unwrap();
    match ann.channel("room:2").publish("n", &1).wait_timeout(WITHIN) {
        Err(graph::ClientError::Refused { code, reason, .. }) => {
            assert_eq!((code, &*reason), (40300, "ann only listens"));
        }
        other => panic!("{other:?}"),
    }
    match graph::Client::connect(config("panic")).err() {
        Some(graph::ClientError::Unauthorized { code: 40101, .. }) => {}
        other => panic!("{other:?}"),
    }
    handle.stop();
    server.join().unwrap().unwrap();
}
