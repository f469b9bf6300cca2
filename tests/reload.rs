//! SIGHUP: keys, namespaces and the rules of the admin address change while the server runs, and a
//! configuration with an error changes nothing.
#![cfg(feature = "server")]

use std::time::{Duration, Instant};

use foony_client::{Client, KEY, Server};
use headcount::wire::foony::{Action, Cursor, Event, Request};
use ureq::Agent;

mod foony_client;
mod served;
mod tempdir;

const RELOADED: &str = "reloaded the configuration";
const OTHER: &str = "demo.other:sk_other";
const OTHER_KEY: &str = "[[auth.key]]\nname = \"demo.other\"\nsecret = \"sk_other\"\n";

fn start(more: &str) -> Server {
    Server::start_listening("", &format!("[cores]\nshards = 1\n{more}"))
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent()
}

fn status(server: &Server, key: &str) -> u16 {
    let url = format!("http://127.0.0.1:{}/channels/a/messages", server.http.port());
    let key = key.split_once(':').expect("a key");
    let encoded = base64_of(&format!("{}:{}", key.0, key.1));
    let request = agent().get(url).header("Authorization", format!("Basic {encoded}"));
    request.call().expect("an answer").status().as_u16()
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn history(client: &mut Client, channel: &'static str) -> usize {
    let id = client.next_id();
    let before = Cursor::None;
    client.send(&[Request::History { id, channel: channel.into(), limit: 100, before }]);
    client.until(|event| match event {
        Event::History { id: answered, messages, .. } if *answered == id => Some(messages.len()),
        _ => None,
    })
}

#[test]
fn a_key_that_is_gone_or_changed_ends_its_sessions_and_no_others() {
    let server = start(OTHER_KEY);
    let (mut main, mut other) =
        (Client::connect(&server, "ann", ""), Client::connect_with(&server, OTHER, "bob"));
    other.subscribe("room");
    main.presence("room", Action::Enter, b"{}");

    let line = server.reload(|text| text.replace("sk_main_secret", "sk_new"));
    assert!(line.contains(RELOADED), "{line}");
    assert_eq!(main.refusal(), Some(40102));
    other.publish("room", "still here", b"1");
    assert_eq!((status(&server, KEY), status(&server, "demo.kid_main:sk_new")), (401, 200));
    assert_eq!(server.counter("headcount_disconnects_total", "reason=\"revoked\""), 1);

    // The key of the other session may do less than the session.
    server.reload(|text| {
        let narrow = format!("{OTHER_KEY}capability = {{ \"room\" = [\"subscribe\"] }}\n");
        text.replace(OTHER_KEY, &narrow)
    });
    assert_eq!(other.refusal(), Some(40102));
    assert_eq!(status(&server, OTHER), 403);
    server.reload(|text| text.replace("[\"subscribe\"]", "[\"*\"], \"a\" = [\"*\"]"));
    assert_eq!(status(&server, OTHER), 200);
    assert_eq!(server.counter("headcount_disconnects_total", "reason=\"revoked\""), 2);
}

#[test]
fn open_channels_take_up_their_namespace_all_of_them() {
    let server = start("[[namespace]]\nmatch = \"h:*\"\nhistory_messages = 50\n");
    let mut client = Client::connect(&server, "ann", "");
    // More than a shard looks at in one turn.
    let names: Vec<&'static str> =
        (0..1_500).map(|n| &*Box::leak(format!("h:{n}").into_boxed_str())).collect();
    names.iter().for_each(|name| client.publish(name, "first", b"1"));
    let line = server.reload(|text| text.replace("history_messages = 50", "history_messages = 2"));
    assert!(line.contains(RELOADED), "{line}");
    std::thread::sleep(Duration::from_millis(50));
    for name in [names[0], names[750], names[1_499]] {
        (0..4).for_each(|_| client.publish(name, "again", b"1"));
        assert_eq!(history(&mut client, name), 2, "{name}");
    }
}

#[test]
fn members_expire_by_the_time_to_live_that_is_in_force() {
    let server = start("[[namespace]]\nmatch = \"*\"\npresence_grace_ms = 60000\n");
    let (mut watcher, mut member) =
        (Client::connect(&server, "ann", ""), Client::connect(&server, "bob", ""));
    let id = watcher.next_id();
    watcher.send(&[Request::PresenceSubscribe { id, channel: "room".into() }]);
    member.presence("room", Action::Enter, b"{}");
    server.reload(|text| text.replace("presence_grace_ms = 60000", "presence_grace_ms = 100"));
    drop(member);
    let begun = Instant::now();
    watcher.until(|event| match event {
        Event::Member(member) if member.action == Action::Leave => Some(()),
        _ => None,
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "the old grace would be 60 s");
}

#[test]
fn a_configuration_with_an_error_changes_nothing_and_says_why() {
    let server = start("[admin]\ntoken = \"first token\"\n");
    let mut client = Client::connect(&server, "ann", "");
    for (from, to, named) in [
        ("shards = 1", "shards = \"many\"", "cores.shards"),
        ("sk_main_secret", "", "secret"),
        ("[[auth.key]]", "[[auth.kay]]", "auth.key"),
        ("[data]", "[[namespace]]\nmatch = \"a\"\ndurability = \"disk\"\n[data]", "durability"),
    ] {
        let mut good = String::new();
        let line = server.reload(|text| {
            good.clone_from(&text);
            text.replacen(from, to, 1)
        });
        assert!(line.contains("nothing has changed") && line.contains(named), "{from}: {line}");
        assert!(line.contains("ERROR"), "{line}");
        assert_eq!(status(&server, KEY), 200, "{from}");
        client.publish("room", "still here", b"1");
        // A configuration that is right again is as good as before.
        let line = server.reload(|_| good);
        assert!(line.contains(RELOADED), "{from}: {line}");
    }
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_in_force() {
    let server = start("[admin]\ntoken = \"first token\"\nmetrics = \"token\"\n");
    let metrics = |token: &str| {
        let url = format!("http://127.0.0.1:{}/metrics", server.admin.port());
        let request = agent().get(url).header("Authorization", format!("Bearer {token}"));
        request.call().expect("an answer").status().as_u16()
    };
    assert_eq!(metrics("first token"), 200);
    let line = server.reload(|text| {
        text.replace("first token", "second token").replace("shards = 1", "shards = 2")
    });
    assert!(line.contains("[cores]") && line.contains("WARN"), "{line}");
    assert_eq!((metrics("first token"), metrics("second token")), (401, 200));
}
