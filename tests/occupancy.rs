//! Occupancy: the numbers of members and subscribers, for those who see neither.
#![cfg(feature = "server")]

use std::thread;
use std::time::{Duration, Instant};

use foony_client::{Client, Server};
use headcount::wire::foony::{Action, Content, Event, Presence, Request};
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

fn enter(client: &mut Client) {
    client.ask(|id| {
        let (action, channel) = (Action::Enter, "room".into());
        Request::Presence(Presence { id, action, channel, data: b"{}", encoding: "".into() })
    });
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
        clients.iter_mut().take(4).for_each(enter);
        let id = clients[0].next_id();
        clients[0].send(&[Request::PresenceSubscribe { id, channel: "room".into() }]);
        await_counts(&mut counter, &of(4, 7, 1));
        clients[5].ask(|id| Request::Unsubscribe { id, channel: "room".into() });
        await_counts(&mut counter, &of(4, 6, 1));
        clients[1].ask(|id| {
            let (action, channel) = (Action::Leave, "room".into());
            Request::Presence(Presence { id, action, channel, data: b"", encoding: "".into() })
        });
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
        client.ask(|id| Request::Unsubscribe { id, channel: "room".into() });
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
