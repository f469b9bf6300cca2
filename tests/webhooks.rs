//! Webhooks, as a receiver sees them: in order, each until it is accepted, across restarts, and
//! with a list of members to begin with.
#![cfg(feature = "server")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use foony_client::{Client, Server};
use headcount::wire::foony::Action;
use serde_json::{Value, json};
use service::{SECRET, Service};
use ureq::Agent;

mod foony_client;
mod served;
mod service;
mod tempdir;

/// How long a test waits for something that is expected.
const WITHIN: Duration = Duration::from_secs(20);

/// A receiver that accepts everything.
fn accepting() -> Service {
    Service::start(|_| Some((204, json!({}))))
}

fn config(service: &Service, webhooks: &str, events: &str) -> String {
    let url = format!("http://{}/admit", service.address);
    format!(
        "[webhooks]\nurl = {url:?}\nsecret = {SECRET:?}\n{webhooks}\n\
         [[namespace]]\nmatch = \"room:*\"\nwebhook_events = [{events}]\n"
    )
}

const DATA: &[u8] = b"{\"a\":1}";

const ALL: &str = "\"presence\", \"occupancy\", \"messages\"";

fn events(service: &Service) -> Vec<Value> {
    let asked = service.asked();
    let lists = asked.iter().map(|asked| asked.json["events"].as_array().expect("events"));
    lists.flatten().cloned().collect()
}

/// Waits for so many events.
fn await_events(service: &Service, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let found = events(service);
        if found.len() >= count {
            return found;
        }
        assert!(begun.elapsed() < WITHIN, "{count} events, but {found:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a metric is at least this.
fn await_count(server: &Server, name: &str, labels: &str, least: u64) {
    let begun = Instant::now();
    while server.counter(name, labels) < least {
        assert!(begun.elapsed() < WITHIN, "{name} {labels} is not {least}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("a name")).collect()
}

/// Checks that every event follows the one before it in its channel, and none is missing.
fn check_order(events: &[Value]) {
    let mut last: HashMap<&str, u64> = HashMap::new();
    for event in events {
        let channel = event["channel"].as_str().expect("a channel");
        let (sequence, previous) =
            (event["sequence"].as_u64().unwrap(), event["previous"].as_u64().unwrap());
        assert_eq!(previous, last.get(channel).copied().unwrap_or(0), "{event}");
        assert!(sequence > previous, "{event}");
        last.insert(channel, if event["event"] == "vacated" { 0 } else { sequence });
    }
}

fn members(server: &Server, channel: &str) -> Value {
    let agent: Agent = Agent::config_builder().proxy(None).build().new_agent();
    let port = server.admin.port();
    let url = format!("http://127.0.0.1:{port}/v1/apps/demo/channels/{channel}/members");
    let mut response = agent.get(url).call().expect("an answer");
    serde_json::from_str(&response.body_mut().read_to_string().expect("a body")).expect("JSON")
}

#[test]
fn a_channel_is_told_of_from_its_first_visitor_to_its_last() {
    let service = accepting();
    let server = Server::start(&config(&service, "vacated_delay_ms = 200", ALL));
    let mut ann = Client::connect(&server, "ann", "");
    ann.subscribe("room:1");
    ann.presence("room:1", Action::Enter, b"{\"x\":1}");
    ann.presence("room:1", Action::Update, b"{\"x\":2}");
    ann.publish("room:1", "n", DATA);
    let sequence = await_events(&service, 4)[3]["sequence"].clone();
    let list = members(&server, "room:1");
    assert_eq!((&list["sequence"], &list["members"][0]["user"]), (&sequence, &json!("ann")));
    assert_eq!(list["members"][0]["session"], *ann.connection_id, "as in events");
    ann.presence("room:1", Action::Leave, b"");
    ann.unsubscribe("room:1");
    // Another namespace.
    ann.subscribe("hall");
    ann.publish("hall", "n", DATA);

    let told = await_events(&service, 6);
    assert_eq!(names(&told), ["occupied", "enter", "update", "message", "leave", "vacated"]);
    check_order(&told);
    let member = &told[1]["member"];
    assert_eq!((&member["clientId"], &member["data"]), (&json!("ann"), &json!({ "x": 1 })));
    assert_eq!(member["connectionId"], *ann.connection_id);
    assert_eq!(told[2]["member"]["data"], json!({ "x": 2 }));
    assert_eq!(told[3]["messages"][0]["data"], json!({ "a": 1 }));
    assert_eq!((&told[0]["app"], &told[0]["channel"]), (&json!("demo"), &json!("room:1")));
    service.asked().iter().for_each(service::Asked::check_signature);
    assert_eq!(members(&server, "room:1")["sequence"], Value::Null);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(events(&service).len(), 6, "nothing of the other namespace");
}

#[test]
fn who_comes_back_within_the_delay_makes_no_noise() {
    let service = accepting();
    let server = Server::start(&config(&service, "vacated_delay_ms = 1000", "\"occupancy\""));
    let mut ann = Client::connect(&server, "ann", "");
    for _ in 0..5 {
        ann.subscribe("room:1");
        ann.unsubscribe("room:1");
    }
    ann.subscribe("room:1");
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(names(&events(&service)), ["occupied"]);
    drop(ann);
    assert_eq!(names(&await_events(&service, 2)), ["occupied", "vacated"]);
}

#[test]
fn events_are_batched_and_in_order_on_all_shards() {
    const CHANNELS: usize = 40;
    let service = accepting();
    let shards = format!("[cores]\nshards = 4\n{}", config(&service, "batch_ms = 50", ALL));
    let server = Server::start(&shards);
    let mut ann = Client::connect(&server, "ann", "");
    let channels: Vec<&'static str> =
        (0..CHANNELS).map(|n| &*Box::leak(format!("room:{n}").into_boxed_str())).collect();
    for _ in 0..10 {
        channels.iter().for_each(|channel| ann.publish(channel, "n", DATA));
    }
    let told = await_events(&service, 10 * CHANNELS);
    check_order(&told);
    assert!(service.asked().len() < 10 * CHANNELS / 4, "{} requests", service.asked().len());
}

#[test]
fn what_is_not_accepted_is_posted_again_and_survives_a_restart() {
    let status = Arc::new(AtomicU16::new(503));
    let answer = Arc::clone(&status);
    let service = Service::start(move |_| Some((answer.load(Ordering::Relaxed), json!({}))));
    let server = Server::start(&config(&service, "batch_ms = 0", "\"messages\""));
    let mut ann = Client::connect(&server, "ann", "");
    ann.publish("room:1", "n", DATA);
    let begun = Instant::now();
    while service.asked().len() < 3 {
        assert!(begun.elapsed() < WITHIN, "no second and third attempt");
        thread::sleep(Duration::from_millis(10));
    }
    ann.publish("room:1", "n", DATA);
    await_count(&server, "headcount_webhook_waiting", "", 2);
    assert!(server.counter("headcount_webhook_failures_total", "") >= 2);
    // Killed, and started anew.
    let server = server.restart();
    let refused = service.asked().len();
    status.store(200, Ordering::Relaxed);
    await_count(&server, "headcount_webhook_events_total", "", 2);
    let asked = service.asked();
    let lists = asked[refused..].iter().map(|asked| asked.json["events"].as_array().unwrap());
    let told: Vec<Value> = lists.flatten().cloned().collect();
    check_order(&told[told.len() - 2..]);
    Client::connect(&server, "ann", "").publish("room:1", "n", DATA);
    await_count(&server, "headcount_webhook_events_total", "", 3);
    let process = |event: &Value| event["process"].as_str().expect("a process").to_owned();
    let of_new = process(events(&service).last().expect("an event"));
    assert_ne!(process(&told[told.len() - 1]), of_new, "what was left is of the process before");
    assert_eq!(server.counter("headcount_webhook_waiting", ""), 0);
}

#[test]
fn a_backlog_is_bounded_and_its_gap_is_seen() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let service = Service::start(move |_| match is_open.load(Ordering::Relaxed) {
        true => Some((200, json!({}))),
        false => Some((500, json!({}))),
    });
    let webhooks = "spool_events_max = 3\nbatch_ms = 0";
    let server = Server::start(&config(&service, webhooks, "\"messages\""));
    let mut ann = Client::connect(&server, "ann", "");
    ann.subscribe("room:1");
    (0..8).for_each(|_| ann.publish("room:1", "n", DATA));
    await_count(&server, "headcount_webhook_dropped_total", "backlog_full", 5);
    open.store(true, Ordering::Relaxed);
    await_count(&server, "headcount_webhook_events_total", "", 3);
    ann.publish("room:1", "n", DATA);
    await_count(&server, "headcount_webhook_events_total", "", 4);
    let told = events(&service);
    let (last, before) = (&told[told.len() - 1], &told[told.len() - 2]);
    assert_eq!(
        (&last["messages"][0]["serial"], &before["messages"][0]["serial"]),
        (&9.into(), &3.into())
    );
    assert_ne!(last["previous"], before["sequence"], "the receiver sees that some are missing");
    assert_eq!(service.asked().last().expect("a request").json["dropped"], 5);
}

#[test]
fn a_reload_begins_and_ends_the_events_of_open_channels() {
    let service = accepting();
    let server = Server::start(&config(&service, "", "\"messages\""));
    let mut ann = Client::connect(&server, "ann", "");
    ann.subscribe("room:1");
    ann.publish("room:1", "n", DATA);
    assert_eq!(names(&await_events(&service, 1)), ["message"]);
    let line = server.reload(|text| text.replace("[\"messages\"]", &format!("[{ALL}]")));
    assert!(line.contains("reloaded the configuration"), "{line}");
    let told = await_events(&service, 2);
    assert_eq!((names(&told)[1], &told[1]["previous"]), ("occupied", &json!(0)));
    ann.presence("room:1", Action::Enter, b"{}");
    assert_eq!(names(&await_events(&service, 3))[2], "enter");
    server.reload(|text| text.replace(&format!("[{ALL}]"), "[]"));
    // The open channel is told in a turn to come.
    thread::sleep(Duration::from_millis(100));
    ann.publish("room:1", "n", DATA);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(events(&service).len(), 3);
    // What needs a restart is refused as a whole, and said.
    let line =
        server.reload(|text| text.replace("[webhooks]\nurl", "[webhooks]\ntimeout_ms = 9\nurl"));
    assert!(line.contains("nothing has changed") && line.contains("timeout_ms"), "{line}");
}
