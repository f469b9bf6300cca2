//! Occupancy: the numbers of members and subscribers, for those who see neither.
#![cfg(feature = "server")]

use std::thread;
use std::time::{Duration, Instant};

use foony_client::{Client, Server};
use headcount::wire::foony::{Action, Content, Event, Request};
use serde_json::{Value, json};

mod foony_client;
mod served;
mod tempdir;

const INTERVAL: Duration = Duration::from_millis(300);

fn config(shards: u16) -> String {
    format!(
        "[cores]\nshards = {shards}\n[[namespace]]\nmatch = \"room\"\noccupancy_interval_ms = 300\n\
         [[auth.key]]\nname = \"demo.counter\"\nsecret = \"s1\"\n\
         capability = {{ \"room\" = [\"subscribe\"] }}\n"
    )
}

/// The counts that a message has; `None` for another message.
fn counts(event: &Event<'_>) -> Option<Value> {
    let deliveries = match event {
        Event::Delivery(delivery) => std::slice::from_ref(delivery),
        Event::Bundle(deliveries) => &deliveries[..],
        _ => return None,
    };
    deliveries.iter().find_map(|delivery| match &delivery.content {
        Content::One(message) if message.name == "[meta]occupancy" => {
            assert!(delivery.ephemeral && delivery.client_id.is_empty(), "{delivery:?}");
            Some(serde_json::from_slice(message.data).expect("JSON"))
        }
        _ => None,
    })
}

fn await_counts(client: &mut Client, expected: &Value) {
    client.until(|event| counts(event).filter(|found| found == expected));
}

#[test]
fn subscribers_are_told_how_many_are_there_on_every_shard() {
    for shards in [1, 3] {
        let server = Server::start(&config(shards));
        let mut counter = Client::connect_with(&server, "demo.counter:s1", "eve");
        counter.subscribe("room");
        let of = |members, subscribers, watchers| {
            json!({ "members": members, "subscribers": subscribers,
                    "presenceSubscribers": watchers })
        };
        await_counts(&mut counter, &of(0, 1, 0));
        let mut clients: Vec<Client> =
            (0..6).map(|n| Client::connect(&server, &format!("user{n}"), "")).collect();
        clients.iter_mut().for_each(|client| client.subscribe("room"));
        clients.iter_mut().take(4).for_each(|c| c.presence("room", Action::Enter, b"{}"));
        let id = clients[0].next_id();
        clients[0].send(&[Request::PresenceSubscribe { id, channel: "room".into() }]);
        await_counts(&mut counter, &of(4, 7, 1));
        clients[5].unsubscribe("room");
        await_counts(&mut counter, &of(4, 6, 1));
        clients[1].presence("room", Action::Leave, b"");
        await_counts(&mut counter, &of(3, 6, 1));
    }
}

#[test]
fn counts_come_at_most_once_per_interval_and_not_without_a_change() {
    let server = Server::start(&config(2));
    let mut counter = Client::connect_with(&server, "demo.counter:s1", "eve");
    counter.subscribe("room");
    await_counts(&mut counter, &json!({"members": 0, "subscribers": 1, "presenceSubscribers": 0}));
    let begun = Instant::now();
    let mut client = Client::connect(&server, "bob", "");
    for _ in 0..50 {
        client.subscribe("room");
        client.unsubscribe("room");
        thread::sleep(Duration::from_millis(10));
    }
    client.subscribe("room");
    let mut received = 0;
    counter.for_a_while(2 * INTERVAL, |event| received += usize::from(counts(event).is_some()));
    let intervals = begun.elapsed().as_millis() / INTERVAL.as_millis() + 1;
    assert!((1..=intervals).contains(&(received as u128)), "{received} in {intervals} intervals");
    let mut more = 0;
    counter.for_a_while(2 * INTERVAL, |event| more += usize::from(counts(event).is_some()));
    assert_eq!(more, 0, "nothing has changed");
}

#[test]
fn who_subscribes_is_told_although_nothing_has_changed_for_the_others() {
    let server = Server::start(&config(1));
    let mut counter = Client::connect_with(&server, "demo.counter:s1", "eve");
    counter.subscribe("room");
    let one = json!({"members": 0, "subscribers": 1, "presenceSubscribers": 0});
    await_counts(&mut counter, &one);
    // Another one takes its place: the numbers are the same.
    let mut next = Client::connect_with(&server, "demo.counter:s1", "bob");
    counter.unsubscribe("room");
    next.subscribe("room");
    await_counts(&mut next, &one);
}

#[test]
fn a_reload_turns_occupancy_on_for_open_channels() {
    let server = Server::start("[cores]\nshards = 2\n");
    let mut client = Client::connect(&server, "ann", "");
    client.subscribe("room");
    server.reload(|text| {
        format!("{text}\n[[namespace]]\nmatch = \"*\"\noccupancy_interval_ms = 100\n")
    });
    await_counts(&mut client, &json!({"members": 0, "subscribers": 1, "presenceSubscribers": 0}));
}

#[test]
fn presence_is_as_fast_as_its_own_interval_says() {
    let namespaces = "[[namespace]]\nmatch = \"*\"\npresence_interval_ms = 100\n\
                      occupancy_interval_ms = 60000\n";
    let server = Server::start(namespaces);
    let mut watcher = Client::connect(&server, "ann", "");
    watcher.subscribe("room");
    let id = watcher.next_id();
    watcher.send(&[Request::PresenceSubscribe { id, channel: "room".into() }]);
    thread::sleep(Duration::from_millis(200));
    // Their counts wait for a minute, they themselves do not.
    let begun = Instant::now();
    let mut clients: Vec<Client> =
        (0..3).map(|n| Client::connect(&server, &format!("user{n}"), "")).collect();
    clients.iter_mut().for_each(|client| client.presence("room", Action::Enter, b"{}"));
    let mut seen = 0;
    watcher.until(|event| match event {
        Event::Member(member) if member.action == Action::Enter => {
            seen += 1;
            (seen == 3).then_some(())
        }
        _ => None,
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
