//! Presence history: what happened to the members of a channel, and who was present at a time.
#![cfg(feature = "server")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headcount::client::prelude::*;
use peers::{Server, WITHIN, until};
use serde_json::{Value, json};

mod command;
mod peers;
mod served;
mod tempdir;

const KEPT: &str = "[[namespace]]\nmatch = \"room:*\"\npresence_history_s = 3600\n";

/// Time enough between two moments that are told apart.
const MOMENT: Duration = Duration::from_millis(30);

fn now_ms() -> u64 {
    thread::sleep(MOMENT);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    thread::sleep(MOMENT);
    since.as_millis() as u64
}

/// Status, the target of the link to the next page, and body of a request to the REST API.
fn get(server: &Server, path: &str) -> (u16, Option<String>, Value) {
    // `demo.main:sk_main`.
    let key = "ZGVtby5tYWluOnNrX21haW4=";
    let mut stream = TcpStream::connect(server.url.trim_start_matches("ws://")).expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head[9..12].parse().expect("a status");
    let link = head.lines().find_map(|line| line.strip_prefix("link: <"));
    let link = link.and_then(|link| link.split_once('>')).map(|(target, _)| target.to_owned());
    (status, link, serde_json::from_str(body).unwrap_or_default())
}

/// What happened, oldest first: user and action.
fn events(server: &Server, channel: &str) -> Vec<(String, String)> {
    let mut path = Some(format!("/channels/{channel}/presence/history?direction=forwards&limit=2"));
    let mut events = Vec::new();
    while let Some(next) = path {
        let (status, link, body) = get(server, &next);
        assert_eq!(status, 200, "{body}");
        for event in body.as_array().expect("a list") {
            let text = |name: &str| event[name].as_str().expect(name).to_owned();
            assert!(event["timestamp"].is_u64() && event["serial"].is_u64(), "{event}");
            events.push((text("clientId"), text("action")));
        }
        path = link;
    }
    // What a list of everyone says is said by the events around it.
    events.retain(|(_, action)| action != "present");
    events
}

/// Users and states at a time, as `headcount members --at` prints them.
fn members(server: &Server, channel: &str, at: &str) -> Vec<(String, Value)> {
    let admin = server.admin().to_string();
    let arguments = ["members", channel, "--admin", &admin, "--at", at, "--json"];
    let printed: Value = serde_json::from_str(&command::printed(&arguments)).expect("JSON");
    let members = printed["members"].as_array().expect("members").clone();
    let user = |member: &Value| member["user"].as_str().expect("a user").to_owned();
    members.iter().map(|member| (user(member), member["state"].clone())).collect()
}

fn enter(server: &Server, name: &str, state: Value) -> Client {
    let client = server.client(name);
    client.channel("room:1").enter(&state).wait_timeout(WITHIN).expect("it enters");
    client
}

#[test]
fn who_was_present_at_a_time_is_known_also_after_a_restart() {
    let mut server = Server::start(KEPT);
    let before = now_ms();
    let ann = enter(&server, "ann", json!({"is": 1}));
    let one = now_ms();
    let bob = enter(&server, "bob", json!("here"));
    ann.channel("room:1").update(&json!({"is": 2})).wait_timeout(WITHIN).expect("it updates");
    let two = now_ms();
    ann.channel("room:1").leave().wait_timeout(WITHIN).expect("it leaves");
    let last = now_ms();
    let expected = [
        (before, vec![]),
        (one, vec![("ann", json!({"is": 1}))]),
        (two, vec![("ann", json!({"is": 2})), ("bob", json!("here"))]),
        (last, vec![("bob", json!("here"))]),
    ];
    let check = |server: &Server| {
        for (at, members_then) in &expected {
            let mut found = members(server, "room:1", &at.to_string());
            found.sort_by(|a, b| a.0.cmp(&b.0));
            let owned = members_then.iter().map(|(user, state)| (user.to_string(), state.clone()));
            assert_eq!(found, owned.collect::<Vec<_>>(), "at {at}");
        }
        let happened = events(server, "room:1");
        let happened: Vec<_> = happened.iter().map(|(u, a)| (u.as_str(), a.as_str())).collect();
        let all = [("ann", "enter"), ("bob", "enter"), ("ann", "update"), ("ann", "leave")];
        assert_eq!(happened[..4], all);
    };
    check(&server);
    server.kill();
    server.run();
    check(&server);
    // The client comes back by itself, and enters anew.
    until("bob", || members(&server, "room:1", "0s") == [("bob".to_owned(), json!("here"))]);
    drop(bob);
    until("nobody", || members(&server, "room:1", "0s").is_empty());
}

#[test]
fn a_channel_without_history_says_so() {
    let server = Server::start(KEPT);
    let (status, _, body) = get(&server, "/channels/hall/presence/history");
    assert_eq!(status, 404);
    assert!(body["error"]["message"].as_str().is_some_and(|m| m.contains("presence_history_s")));
    let (status, _, body) = get(&server, "/channels/room:none/presence/history");
    assert_eq!((status, body), (200, json!([])));
    let admin = server.admin().to_string();
    let refusal = command::refusal(&["members", "hall", "--admin", &admin, "--at", "1m"], 1);
    assert!(refusal.contains("presence_history_s"), "{refusal}");
    assert!(!refusal.contains("is this the admin address"), "{refusal}");
    assert_eq!(members(&server, "room:none", "1m"), []);
}

#[test]
fn a_long_history_is_read_from_its_last_list_of_everyone() {
    let server = Server::start(KEPT);
    let clients: Vec<Client> =
        (0..3).map(|n| enter(&server, &format!("user{n}"), json!({"n": n}))).collect();
    let channel = clients[0].channel("room:1");
    let early = now_ms();
    for n in 0..3000 {
        channel.update(&json!({"n": n})).wait_timeout(WITHIN).expect("it updates");
    }
    let users = |at: u64| {
        let mut found = members(&server, "room:1", &at.to_string());
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(user, state)| (user, state["n"].clone())).collect::<Vec<_>>()
    };
    let user = |n: u64, state: u64| (format!("user{n}"), json!(state));
    assert_eq!(users(early), [user(0, 0), user(1, 1), user(2, 2)]);
    assert_eq!(users(now_ms()), [user(0, 2999), user(1, 1), user(2, 2)]);
}

/// Members about whom nothing is to be said are listed every now and then.
#[test]
fn members_that_are_quiet_are_known_for_as_long_as_history_is_kept() {
    let server = Server::start("[[namespace]]\nmatch = \"room:*\"\npresence_history_s = 2\n");
    let begun = now_ms();
    let _ann = enter(&server, "ann", json!(1));
    thread::sleep(Duration::from_secs(5));
    let ann = [("ann".to_owned(), json!(1))];
    assert_eq!(members(&server, "room:1", "0s"), ann);
    assert_eq!(members(&server, "room:1", "1s"), ann);
    let (admin, at) = (server.admin().to_string(), begun.to_string());
    let refusal = command::refusal(&["members", "room:1", "--admin", &admin, "--at", &at], 1);
    assert!(refusal.contains("does not reach back"), "{refusal}");
}
