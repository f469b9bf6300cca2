//! Many clients and many messages on the Foony protocol, against the real binary.
#![cfg(feature = "server")]

mod foony_client;
mod served;
mod tempdir;

use std::time::Duration;

use foony_client::{Client, Server};
use headcount::wire::foony::{Action, Content, Cursor, Event, Message, Presence, Publish, Request};

const MIB: u64 = 1024 * 1024;

fn publish(id: u64, channel: &str, data: &'static [u8]) -> Request<'static> {
    let message = Message { name: "n".into(), data, encoding: "".into() };
    Request::Publish(Publish {
        id,
        channel: channel.to_owned().into(),
        message_id: format!("m-{id}").into(),
        ephemeral: false,
        ttl_ms: 0,
        content: Content::One(message),
    })
}

/// Publishes `count` messages, at most some hundreds unanswered at a time.
fn publish_many(client: &mut Client, channel: &str, count: u64) {
    const AT_ONCE: u64 = 500;
    for _ in 0..count / AT_ONCE {
        let requests: Vec<_> =
            (0..AT_ONCE).map(|_| publish(client.next_id(), channel, b"\"0123456789\"")).collect();
        let last = requests.last().map_or(0, Request::id);
        client.send(&requests);
        client.until(|event| match event {
            Event::Ack { id, .. } => (*id == last).then_some(()),
            Event::Error { .. } => panic!("refused: {event:?}"),
            _ => None,
        });
    }
}

/// Receives until the serial, which must come without gap or repetition.
fn receive_all(client: &mut Client, from: u64, to: u64) {
    let mut head = from;
    client.until(|event| {
        if let Event::Delivery(delivery) = event {
            assert_eq!(delivery.serial, head + 1, "dense and in order");
            head = delivery.serial;
        }
        (head >= to).then_some(())
    });
}

#[test]
fn a_subscriber_that_stops_reading_costs_its_send_queue_and_sees_the_gap() {
    const COUNT: u64 = 1_000_000;
    let server = Server::start("[cores]\nshards = 2\n");
    let mut stalled = Client::connect(&server, "stalled", "");
    let mut polite = Client::connect(&server, "polite", "");
    let mut publisher = Client::connect(&server, "publisher", "");
    stalled.subscribe("room:1");
    polite.subscribe("room:1");
    publish_many(&mut publisher, "room:1", 1_000);
    receive_all(&mut polite, 0, 1_000);
    let before = server.resident_bytes();
    let reader = std::thread::spawn(move || {
        receive_all(&mut polite, 1_000, COUNT + 1_000);
        polite
    });
    publish_many(&mut publisher, "room:1", COUNT);
    reader.join().expect("the polite subscriber received everything in order");
    let grown = server.resident_bytes().saturating_sub(before);
    // The send queue, the history and the publishes that may be sent again have 1 MiB, 1 MiB and
    // about 6 MiB; the allocator keeps some more.
    println!("resident memory grew by {} KiB", grown / 1024);
    assert!(grown < 16 * MIB, "grown by {} MiB", grown / MIB);
    assert!(server.counter("headcount_dropped", "slow_consumer") > 0, "drops are counted");

    let mut head = 0;
    let newest = stalled.until(|event| {
        let Event::Delivery(delivery) = event else { return None };
        let is_gap = head != 0 && delivery.serial != head + 1;
        head = delivery.serial;
        (is_gap || delivery.serial == COUNT + 1_000).then_some(delivery.serial)
    });
    assert!(newest > 1_000, "the gap is seen at {newest}");
    let id = stalled.next_id();
    stalled.send(&[Request::Fetch { id, channel: "room:1".into(), from_serial: COUNT + 950 }]);
    let fetched = stalled.until(|event| match event {
        Event::Fetched { messages, resumed, .. } => {
            Some((*resumed, messages.iter().map(|m| m.serial).collect::<Vec<_>>()))
        }
        _ => None,
    });
    assert_eq!(fetched, (true, (COUNT + 951..=COUNT + 1_000).collect()));
    publish_many(&mut publisher, "room:1", 500);
    stalled.until(|event| match event {
        Event::Delivery(delivery) => (delivery.serial == COUNT + 1_500).then_some(()),
        _ => None,
    });
}

#[test]
fn a_subscriber_that_stops_reading_misses_nothing_that_is_kept() {
    const COUNT: u64 = 100_000;
    let kept = "[[namespace]]\nmatch = \"kept:*\"\nhistory_messages = 200000\n\
                history_bytes = 100000000\n";
    let server = Server::start(&format!("[cores]\nshards = 4\n{kept}"));
    let mut stalled = Client::connect(&server, "stalled", "");
    let mut publisher = Client::connect(&server, "publisher", "");
    stalled.subscribe("kept:1");
    publish_many(&mut publisher, "kept:1", COUNT);
    receive_all(&mut stalled, 0, COUNT);
    assert!(stalled.largest_message <= 32 * 1024, "{} bytes", stalled.largest_message);
    publish_many(&mut publisher, "kept:1", 500);
    receive_all(&mut stalled, COUNT, COUNT + 500);
}

#[test]
fn a_subscriber_that_stops_reading_is_closed_where_the_namespace_says_so() {
    let strict = "[[namespace]]\nmatch = \"strict:*\"\nslow_consumer = \"close\"\n";
    let server = Server::start(&format!("[cores]\nshards = 2\n{strict}"));
    let mut stalled = Client::connect(&server, "stalled", "");
    let mut publisher = Client::connect(&server, "publisher", "");
    stalled.subscribe("strict:1");
    while server.counter("headcount_disconnects", "slow") == 0 {
        publish_many(&mut publisher, "strict:1", 50_000);
    }
    // The reason reaches those who read on in time; the connection ends for all.
    let code = stalled.close_code();
    assert!(code.is_none_or(|code| code == 1013), "{code:?}");
}

fn enter(client: &mut Client, channel: &'static str) {
    client.ask(|id| {
        Request::Presence(Presence {
            id,
            channel: channel.into(),
            action: Action::Enter,
            data: b"{\"here\":true}",
            encoding: "".into(),
        })
    });
}

/// Counts of enters, updates and leaves.
fn count(counts: &mut [usize; 3], event: &Event<'_>) {
    if let Event::Member(member) = event {
        counts[match member.action {
            Action::Enter => 0,
            Action::Update => 1,
            Action::Leave => 2,
        }] += 1;
    }
}

#[test]
fn a_thousand_clients_that_return_within_the_grace_were_never_away() {
    const CLIENTS: usize = 1_000;
    let grace = "[[namespace]]\nmatch = \"*\"\npresence_grace_ms = 15000\n";
    for shards in [2, 4] {
        let server = Server::start(&format!("[cores]\nshards = {shards}\n{grace}"));
        let mut watcher = Client::connect(&server, "watcher", "");
        watcher.ask(|id| Request::PresenceSubscribe { id, channel: "room:1".into() });
        let join = |at: usize, resume: &str| {
            let mut client = Client::connect(&server, &format!("client-{at}"), resume);
            client.subscribe("room:1");
            enter(&mut client, "room:1");
            client
        };
        let clients: Vec<Client> = (0..CLIENTS).map(|at| join(at, "")).collect();
        let mut counts = [0; 3];
        watcher.until(|event| {
            count(&mut counts, event);
            (counts[0] == CLIENTS).then_some(())
        });
        let ids: Vec<String> = clients.iter().map(|client| client.connection_id.clone()).collect();
        drop(clients);
        let again: Vec<Client> = ids.iter().enumerate().map(|(at, id)| join(at, id)).collect();
        assert!(again.iter().zip(&ids).all(|(client, id)| client.connection_id == *id));
        let mut counts = [0; 3];
        watcher.for_a_while(Duration::from_secs(1), |event| count(&mut counts, event));
        assert_eq!(counts, [0, 0, 0], "events at {shards} shards");
    }
}

#[test]
fn clients_that_stay_away_leave_in_one_frame_per_interval() {
    const CLIENTS: usize = 300;
    let rules = "[[namespace]]\nmatch = \"*\"\npresence_grace_ms = 1000\n\
                 presence_interval_ms = 1000\n";
    let server = Server::start(&format!("[cores]\nshards = 4\n{rules}"));
    let mut watcher = Client::connect(&server, "watcher", "");
    watcher.ask(|id| Request::PresenceSubscribe { id, channel: "room:1".into() });
    let mut join = |at: usize| {
        let mut client = Client::connect(&server, &format!("client-{at}"), "");
        enter(&mut client, "room:1");
        client
    };
    let clients: Vec<Client> = (0..CLIENTS).map(&mut join).collect();
    let mut counts = [0; 3];
    watcher.until(|event| {
        count(&mut counts, event);
        (counts[0] == CLIENTS).then_some(())
    });
    let began = std::time::Instant::now();
    drop(clients);
    let mut frames = std::collections::BTreeSet::new();
    watcher.until(|event| {
        count(&mut counts, event);
        if let Event::Member(member) = event {
            frames.insert(member.timestamp_ms);
        }
        (counts[2] == CLIENTS).then_some(())
    });
    let most = began.elapsed().as_millis() as usize / 1000 + 1;
    assert!(frames.len() <= most, "{} frames in {most} intervals", frames.len());
    assert_eq!(counts, [CLIENTS, 0, CLIENTS]);
}

#[test]
fn an_open_connection_that_is_taken_over_ends_without_an_event() {
    for shards in [1, 2, 4] {
        let server = Server::start(&format!("[cores]\nshards = {shards}\n"));
        let mut watcher = Client::connect(&server, "watcher", "");
        for room in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let channel = format!("room:{room}");
            let asked = channel.clone();
            watcher.ask(|id| Request::PresenceSubscribe { id, channel: asked.into() });
            let mut earlier = Client::connect(&server, "alice", "");
            let announce = |client: &mut Client| {
                let channel = channel.clone();
                client.ask(|id| {
                    Request::Presence(Presence {
                        id,
                        channel: channel.into(),
                        action: Action::Enter,
                        data: b"1",
                        encoding: "".into(),
                    })
                });
            };
            announce(&mut earlier);
            watcher.until(|event| matches!(event, Event::Member(_)).then_some(()));
            // Shards tell which is the later one by the time at which their turns began.
            std::thread::sleep(Duration::from_millis(30));
            let mut later = Client::connect(&server, "alice", &earlier.connection_id);
            assert_eq!(later.connection_id, earlier.connection_id);
            announce(&mut later);
            assert!(earlier.close_code().is_some(), "the earlier one ends");
            let mut counts = [0; 3];
            watcher.for_a_while(Duration::from_millis(100), |event| count(&mut counts, event));
            assert_eq!(counts, [0, 0, 0], "events in {channel} at {shards} shards");
            drop(earlier);
            let id = later.next_id();
            later.send(&[Request::Unsubscribe { id, channel: channel.clone().into() }]);
            watcher.until(|event| match event {
                Event::Member(member) => {
                    assert_eq!(member.action, Action::Leave);
                    Some(())
                }
                _ => None,
            });
        }
    }
}

#[test]
fn a_cursor_is_replayed_before_its_answer_and_live_messages_follow() {
    let server = Server::start("[cores]\nshards = 4\n");
    let mut publisher = Client::connect(&server, "publisher", "");
    for room in 0..16 {
        let channel = format!("room:{room}");
        for _ in 0..10 {
            let channel = channel.clone();
            publisher.ask(|id| publish(id, &channel, b"1"));
        }
        let mut client = Client::connect(&server, "alice", "");
        let id = client.next_id();
        let cursor = Cursor::Serial(4);
        client.send(&[
            Request::Subscribe { id, channel: channel.clone().into(), cursor },
            publish(id + 1, &channel, b"2"),
        ]);
        let mut seen = Vec::new();
        client.until(|event| {
            match event {
                Event::Delivery(delivery) => seen.push(delivery.serial as i64),
                Event::Ack { id: acked, resumed, .. } if *acked == id => {
                    assert_eq!(*resumed, Some(true));
                    seen.push(-1);
                }
                _ => {}
            }
            (seen.last() == Some(&11)).then_some(())
        });
        assert_eq!(seen, [5, 6, 7, 8, 9, 10, -1, 11]);
    }
}

#[test]
fn a_cursor_from_before_a_restart_is_not_mistaken_for_a_good_one() {
    let server = Server::start("[cores]\nshards = 2\n");
    let mut publisher = Client::connect(&server, "publisher", "");
    publish_many(&mut publisher, "room:1", 500);
    drop(publisher);
    let server = server.restart();
    let mut publisher = Client::connect(&server, "publisher", "");
    publish_many(&mut publisher, "room:1", 1_000);
    let mut client = Client::connect(&server, "alice", "");
    let id = client.next_id();
    let cursor = Cursor::Serial(499);
    client.send(&[Request::Subscribe { id, channel: "room:1".into(), cursor }]);
    let resumed = client.until(|event| match event {
        Event::Ack { resumed, .. } => Some(*resumed),
        _ => None,
    });
    assert_eq!(resumed, Some(false), "what was published in between is not kept");
    let id = client.next_id();
    let (channel, limit, before) = ("room:1".into(), 1, Cursor::None);
    client.send(&[Request::History { id, channel, limit, before }]);
    let newest = client.until(|event| match event {
        Event::History { messages, .. } => messages.first().map(|message| message.serial),
        _ => None,
    });
    assert!((1_001..1 << 53).contains(&newest), "{newest} is above all earlier ones");
}
