//! The Rust client against the real server: channels, members, the presence graph, reconnects.
#![cfg(feature = "server")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use headcount::client::prelude::*;
use headcount::client::protocol::Connection;
use peers::{KEY, Server, WITHIN, collected, names, until};
use serde_json::{Value, json};
use tempdir::Dir;

mod command;
mod peers;
mod served;
mod tempdir;

#[test]
fn messages_reach_subscribers_in_order_and_history_has_them() {
    let server = Server::start("");
    let (ann, bob) = (server.client("ann"), server.client("bob"));
    let (callback, received) = collected();
    let subscription = bob.channel("chat:1").subscribe(callback);
    subscription.ready().wait_timeout(WITHIN).unwrap();
    let channel = ann.channel("chat:1");
    let published: Vec<Published> =
        (0..10).map(|n| channel.publish("n", &n)).map(|p| p.wait().unwrap()).collect();
    for (n, published) in published.iter().enumerate() {
        let Delivery::Message(message) = received.recv_timeout(WITHIN).unwrap() else {
            panic!("a gap")
        };
        assert_eq!((message.data.as_u64(), message.name.as_str()), (Some(n as u64), "n"));
        assert_eq!(message.client_id, "ann");
        assert_eq!(message.serial, Some(published.serial));
        assert_eq!(message.message_id, published.message_id);
    }
    let page = channel.history(HistoryQuery::default().limit(4)).wait().unwrap();
    let data = |page: &HistoryPage| -> Vec<u64> {
        page.messages.iter().filter_map(|message| message.data.as_u64()).collect()
    };
    assert_eq!(data(&page), [6, 7, 8, 9]);
    let older = channel.history(page.next.unwrap()).wait().unwrap();
    assert_eq!(data(&older), [2, 3, 4, 5]);
    let batch = channel.publish_batch([("a", 1), ("b", 2)]).wait().unwrap();
    let serials: Vec<Option<u64>> = (0..2)
        .map(|_| match received.recv_timeout(WITHIN).unwrap() {
            Delivery::Message(message) => message.serial,
            _ => None,
        })
        .collect();
    assert_eq!(serials, [Some(batch.serial); 2]);
    assert!(matches!(
        channel.publish_batch(Vec::<(&str, u8)>::new()).wait(),
        Err(ClientError::Config { .. })
    ));
}

#[test]
fn a_subscription_from_a_serial_replays_then_goes_live() {
    let server = Server::start("");
    let ann = server.client("ann");
    let channel = ann.channel("chat:1");
    let serials: Vec<u64> =
        (0..5).map(|n| channel.publish("n", &n).wait().unwrap().serial).collect();
    let data = |received: &mpsc::Receiver<Delivery>| match received.recv_timeout(WITHIN).unwrap() {
        Delivery::Message(message) => message.data.as_u64(),
        _ => None,
    };
    let (callback, first) = collected();
    let _first = channel.subscribe_from(serials[1], callback);
    assert_eq!([data(&first), data(&first), data(&first)], [Some(2), Some(3), Some(4)]);
    // The second one shares the subscription of the first on the wire.
    let (callback, second) = collected();
    let _second = channel.subscribe_from(serials[2], callback);
    assert_eq!([data(&second), data(&second)], [Some(3), Some(4)]);
    channel.publish("n", &5).wait().unwrap();
    assert_eq!([data(&first), data(&second)], [Some(5), Some(5)]);
}

#[test]
fn members_come_change_and_go_with_a_reason() {
    let server = Server::start("[[namespace]]\nmatch = \"*\"\npresence_grace_ms = 300\n");
    let (ann, bob) = (server.client("ann"), server.client("bob"));
    let (callback, events) = collected();
    ann.channel("room").enter(&json!({"mood": "fine"})).wait().unwrap();
    let observer = bob.channel("room").observe_members(callback);
    observer.ready().wait_timeout(WITHIN).unwrap();
    let next = || events.recv_timeout(WITHIN).unwrap();
    let MemberEvent::Present(present) = next() else { panic!("present first") };
    assert_eq!(present.len(), 1);
    assert_eq!(present[0].client_id, "ann");
    assert_eq!(present[0].state, Some(json!({"mood": "fine"})));
    assert!(present[0].peer_key_string.as_ref().is_some_and(|key| key.starts_with("pk")));
    ann.channel("room").update(&1).wait().unwrap();
    let MemberEvent::Update(member) = next() else { panic!("an update") };
    assert_eq!(member.state, Some(json!(1)));
    bob.channel("room").join().wait().unwrap();
    let MemberEvent::Enter(member) = next() else { panic!("an enter") };
    assert_eq!((member.client_id.as_str(), member.state), ("bob", None));
    assert_eq!(bob.channel("room").members().wait().unwrap().len(), 2);
    ann.channel("room").leave().wait().unwrap();
    let MemberEvent::Leave { member, reason } = next() else { panic!("a leave") };
    assert_eq!((member.client_id.as_str(), reason), ("ann", LeaveReason::Left));
    ann.channel("room").join().wait().unwrap();
    assert!(matches!(next(), MemberEvent::Enter(_)));
    drop(ann);
    let MemberEvent::Leave { reason, .. } = next() else { panic!("a leave") };
    assert_eq!(reason, LeaveReason::Left);
}

#[test]
fn a_refused_state_leaves_the_member_with_the_accepted_one() {
    let mut server = Server::start("");
    let (ann, bob) = (server.client("ann"), server.client("bob"));
    let room = ann.channel("room");
    let too_long = "x".repeat(70_000);
    let refused = room.enter(&too_long).wait().unwrap_err();
    assert!(matches!(refused, ClientError::Refused { code: 40001, .. }), "{refused}");
    assert_eq!(bob.channel("room").members().wait().unwrap().len(), 0);
    room.enter(&1).wait().unwrap();
    // A newer state decides for itself, whatever becomes of those before it.
    let updates = [room.update(&too_long), room.update(&2), room.update(&too_long)];
    let updates = updates.map(|update| update.wait_timeout(WITHIN).is_ok());
    assert_eq!(updates, [false, true, false]);
    let states = |client: &Client| -> Vec<Option<serde_json::Value>> {
        let members = client.channel("room").members().wait_timeout(WITHIN).unwrap();
        members.into_iter().map(|member| member.state).collect()
    };
    assert_eq!(states(&bob), [Some(2.into())]);
    server.kill();
    until("ann noticed", || matches!(ann.state(), ClientState::Stale { .. }));
    let late = room.update(&too_long);
    server.run();
    assert!(matches!(late.wait_timeout(WITHIN), Err(ClientError::Refused { .. })));
    until("ann is back", || states(&bob) == [Some(2.into())]);
}

#[test]
fn members_that_are_not_shown_are_refused_each_time() {
    let server = Server::start("");
    let client = Client::connect(ClientConfig::new(&server.url).key("demo.chat:sk_chat")).unwrap();
    for _ in 0..2 {
        let refused = client.channel("chat:1").members().wait_timeout(WITHIN).unwrap_err();
        assert!(matches!(refused, ClientError::Refused { code: 40301, .. }), "{refused}");
    }
}

#[test]
fn peers_see_each_other_and_their_metadata() {
    let server = Server::start("");
    let ann = server.joined("ann", "shop");
    ann.presence().set_peer_metadata(&json!({"role": "till"})).unwrap();
    let (callback, graphs) = collected();
    let _observer = ann.presence().observe(callback);
    assert_eq!(graphs.recv_timeout(WITHIN).unwrap().remote_peers.len(), 0);
    let bob = server.joined("bob", "shop");
    until("ann sees bob", || names(&ann) == ["bob"]);
    until("bob sees ann's role", || {
        let graph = bob.presence().graph();
        graph.direct_peers().any(|peer| peer.peer_metadata.get("role").is_some())
    });
    let (a, b) = (ann.presence().graph(), bob.presence().graph());
    assert_eq!(a.local_peer.key(), b.remote_peers[0].key());
    assert_eq!(b.local_peer.key(), a.remote_peers[0].key());
    assert_eq!(a.local_peer.connections, b.local_peer.connections);
    assert_eq!(a.local_peer.connections[0].connection_type, ConnectionType::WebSocket);
    assert!(a.is_direct(b.local_peer.key()) && a.local_peer.is_connected_to_ditto_cloud);
    ann.presence().set_peer_metadata_json_str(r#"{"role":"kitchen"}"#).unwrap();
    assert_eq!(ann.presence().graph().local_peer.peer_metadata["role"], "kitchen");
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    until("bob sees ann's new role", || {
        bob.presence().graph().remote_peers[0].peer_metadata["role"] == "kitchen"
    });
    drop(bob);
    until("ann sees nobody", || names(&ann).is_empty());
    until("the observer saw both", || {
        graphs.try_iter().last().is_none_or(|graph| graph.remote_peers.is_empty())
    });
}

#[test]
fn observers_are_called_once_per_interval_and_the_last_graph_arrives() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let server = Server::start("");
    let ann = server.joined("ann", "shop");
    let config = server.config("bob").join("shop").graph_interval(INTERVAL);
    let bob = Client::connect(config).unwrap();
    until("bob sees ann", || names(&bob) == ["ann"]);
    let (calls, called) = mpsc::channel();
    let _observer = bob.presence().observe(move |graph| {
        let n = graph.remote_peers[0].peer_metadata.get("n").and_then(Value::as_u64);
        let _ = calls.send((Instant::now(), n));
    });
    let began = Instant::now();
    for n in 0..60 {
        ann.presence().set_peer_metadata(&json!({ "n": n })).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    let mut seen = vec![called.recv_timeout(WITHIN).unwrap()];
    while seen.last().is_some_and(|(_, n)| *n != Some(59)) {
        seen.push(called.recv_timeout(WITHIN).unwrap());
    }
    // The first graph comes at once, then one after each interval.
    let intervals = began.elapsed().as_millis() / INTERVAL.as_millis();
    assert!((3..=intervals as usize + 2).contains(&seen.len()), "{seen:?} in {intervals}");
    assert_eq!(names(&bob), ["ann"]);
    assert!(called.recv_timeout(2 * INTERVAL).is_err(), "a graph that is the same");
}

#[test]
fn the_graph_has_everyone_when_a_join_is_complete() {
    let server = Server::start("");
    let mut clients: Vec<Client> = Vec::new();
    for n in 0..20 {
        let client = server.joined(&format!("peer-{n}"), "shop");
        assert_eq!(client.presence().graph().direct_peers().count(), n);
        clients.push(client);
    }
}

#[test]
fn others_are_peers_too_and_edges_among_them_are_shown() {
    let server = Server::start("");
    let clients: Vec<Client> = ["a", "b", "c"].map(|name| server.joined(name, "shop")).into();
    let watcher = Client::connect(server.config("w").join("shop").join("office")).unwrap();
    until("everyone is there", || names(&watcher) == ["a", "b", "c"]);
    let graph = watcher.presence().graph();
    assert_eq!(graph.direct_peers().count(), 3);
    assert!(graph.remote_peers.iter().all(|peer| peer.connections.len() == 3), "{graph}");
    assert_eq!(graph.local_peer.connections.len(), 3);
    // Peers of another channel are not connected to those of this one.
    let other = server.joined("o", "office");
    until("the other one is there", || names(&watcher) == ["a", "b", "c", "o"]);
    let graph = watcher.presence().graph();
    let other_key = other.presence().graph().local_peer.key().to_owned();
    assert_eq!(graph.peer(&other_key).unwrap().connections.len(), 1);
    drop(clients);
}

#[test]
fn devices_of_the_sync_protocol_are_peers_with_what_is_known_of_them() {
    let server = Server::start("[auth]\nanonymous = true\nanonymous_app = \"demo\"\n");
    let ann = server.joined("ann", "shop");
    let mut device = TcpStream::connect(server.sync_tcp()).unwrap();
    let mut out = Connection::stream(0).out;
    out.handshake("");
    out.update("shop", b"\x01");
    device.write_all(out.pending()).unwrap();
    until("ann sees the device", || names(&ann).len() == 1);
    let graph = ann.presence().graph();
    let peer = &graph.remote_peers[0];
    assert!(peer.client_id().unwrap().starts_with("anonymous-"));
    assert_eq!((peer.os, peer.peer_metadata.len()), (Some(PresenceOs::Generic), 0));
    assert_eq!(peer.connections[0].connection_type, ConnectionType::AccessPoint);
    let members = ann.channel("shop").members().wait().unwrap();
    assert!(members.iter().any(|member| member.state == Some(1.into())));
}

#[test]
fn connections_of_one_device_are_one_peer() {
    let server = Server::start("");
    let state = Dir::new();
    let config = || server.config("ann").join("shop").state_dir(state.path());
    let (first, second) = (Client::connect(config()).unwrap(), Client::connect(config()).unwrap());
    let bob = server.joined("bob", "shop");
    until("bob sees one peer", || names(&bob) == ["ann"]);
    assert_eq!(bob.channel("shop").members().wait().unwrap().len(), 3);
    until("ann sees bob alone", || names(&first) == ["bob"] && names(&second) == ["bob"]);
    drop(second);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(names(&bob), ["ann"]);
    drop(first);
    until("ann is gone", || names(&bob).is_empty());
}

#[test]
fn metadata_survives_in_the_state_directory() {
    let server = Server::start("");
    let state = Dir::new();
    let config = || server.config("ann").join("shop").state_dir(state.path());
    let text = "{ \"a\" : 1 }";
    let first = Client::connect(config()).unwrap();
    first.presence().set_peer_metadata_json_str(text).unwrap();
    let key = first.presence().graph().local_peer.key().to_owned();
    drop(first);
    let second = Client::connect(config()).unwrap();
    assert_eq!(second.presence().peer_metadata_json_str(), text);
    assert_eq!(second.presence().graph().local_peer.key(), key);
    let bob = server.joined("bob", "shop");
    until("bob sees it", || {
        let graph = bob.presence().graph();
        graph.remote_peers.first().is_some_and(|peer| peer.peer_metadata.contains_key("a"))
    });
}

#[test]
fn everything_goes_on_after_the_server_was_killed_and_started_again() {
    let mut server = Server::start("");
    let (ann, bob) = (server.joined("ann", "shop"), server.joined("bob", "shop"));
    ann.presence().set_peer_metadata_json_str(r#"{"role":"till"}"#).unwrap();
    ann.channel("shop").enter(&"here").wait().unwrap();
    let (on_state, states) = collected();
    let _states = bob.on_state(on_state);
    let (callback, received) = collected();
    let subscription = bob.channel("shop").subscribe(callback);
    subscription.ready().wait_timeout(WITHIN).unwrap();
    until("bob sees ann", || names(&bob) == ["ann"]);
    server.kill();
    until("bob noticed", || matches!(bob.state(), ClientState::Stale { .. }));
    let graph = bob.presence().graph();
    assert!(!graph.local_peer.is_connected_to_ditto_cloud);
    assert_eq!(graph.remote_peers.len(), 1, "the graph is kept");
    thread::sleep(Duration::from_millis(20));
    assert!(bob.presence().graph().staleness() >= Duration::from_millis(20));
    let pending = ann.channel("shop").publish("late", &1);
    server.run();
    pending.wait_timeout(WITHIN).unwrap();
    until("bob is live", || bob.state() == ClientState::Live);
    until("bob sees ann's role again", || {
        let graph = bob.presence().graph();
        graph.direct_peers().any(|peer| peer.peer_metadata.get("role").is_some())
    });
    let members = bob.channel("shop").members().wait().unwrap();
    let ann_state = members.iter().find(|member| member.client_id == "ann").unwrap();
    assert_eq!(ann_state.state, Some("here".into()));
    assert_eq!(
        states.try_iter().map(|state| matches!(state, ClientState::Live)).collect::<Vec<_>>(),
        [true, false, true]
    );
    ann.channel("shop").publish("now", &2).wait_timeout(WITHIN).unwrap();
    until("bob receives what came after", || {
        received.try_iter().any(|delivery| match delivery {
            Delivery::Message(message) => message.name == "now",
            _ => false,
        })
    });
}

#[test]
fn refusals_and_failures_are_typed() {
    let server = Server::start("");
    let closed = |config: ClientConfig| Client::connect(config).map(drop).unwrap_err();
    assert!(matches!(
        closed(ClientConfig::new(&server.url).key("demo.main:wrong")),
        ClientError::Unauthorized { code: 40101, .. }
    ));
    assert!(matches!(closed(ClientConfig::new("http://x")), ClientError::Config { .. }));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(
        closed(ClientConfig::new(format!("ws://{nobody}")).key(KEY)),
        ClientError::Unreachable { .. }
    ));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    let config = ClientConfig::new(url).connect_timeout(Duration::from_millis(200));
    assert_eq!(closed(config), ClientError::Timeout);
    let chat = || ClientConfig::new(&server.url).key("demo.chat:sk_chat");
    assert!(matches!(closed(chat().join("shop")), ClientError::Refused { code: 40302, .. }));
    let client = Client::connect(chat()).unwrap();
    let subscription = client.channel("chat:1").subscribe(|_| ());
    let refused = subscription.ready().wait_timeout(WITHIN).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { code: 40301, .. }), "{refused}");
    let wrong_name = client.channel("a.b").publish("x", &1).wait().unwrap_err();
    assert!(matches!(wrong_name, ClientError::Refused { code: 40001, .. }), "{wrong_name}");
    let lazy = Client::connect_lazy(ClientConfig::new(&server.url).key("demo.main:wrong")).unwrap();
    until("the lazy client is closed", || matches!(lazy.state(), ClientState::Closed { .. }));
    assert!(matches!(lazy.ready().wait().unwrap_err(), ClientError::Unauthorized { .. }));
}

#[test]
fn a_closed_client_answers_and_does_nothing() {
    let server = Server::start("");
    let client = server.joined("ann", "shop");
    let (presence, channel) = (client.presence(), client.channel("shop"));
    client.close().wait_timeout(WITHIN).unwrap();
    client.close().wait_timeout(WITHIN).unwrap();
    assert_eq!(client.state(), ClientState::Closed { reason: ClientError::Closed });
    assert_eq!(channel.publish("x", &1).wait().map(drop), Err(ClientError::Closed));
    drop(client);
    assert!(!presence.graph().local_peer.device_name.is_empty());
    assert_eq!(presence.set_peer_metadata_json_str("{}"), Ok(()));
    assert!(presence.register_observer(|_| ()).is_err());
    let _observer = presence.observe(|_| ());
}

#[test]
fn graphs_converge_while_peers_come_and_go() {
    const PEERS: usize = 60;
    let server = Server::start("");
    let stay: Vec<Client> = (0..4).map(|n| server.joined(&format!("stay-{n}"), "shop")).collect();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let observer = stay[0].presence().observe(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    thread::scope(|scope| {
        for part in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..PEERS / 4 {
                    let client = server.joined(&format!("come-{part}-{n}"), "shop");
                    client.presence().set_peer_metadata(&json!({"n": n})).unwrap();
                }
            });
        }
    });
    until("all graphs are equal", || {
        stay.iter().all(|client| client.presence().graph().remote_peers.len() == 3)
    });
    drop(observer);
    let after = calls.load(Ordering::SeqCst);
    let more = server.joined("more", "shop");
    until("they see it", || stay.iter().all(|c| c.presence().graph().remote_peers.len() == 4));
    assert_eq!(calls.load(Ordering::SeqCst), after, "no call after the drop");
    drop(more);
}

#[test]
fn everything_is_allowed_in_callbacks() {
    let server = Server::start("");
    let client = Arc::new(server.joined("ann", "shop"));
    let (done, waiting) = mpsc::channel();
    let (inner, done) = (Arc::downgrade(&client), Mutex::new(done));
    let observer = client.presence().observe(move |_| {
        let Some(client) = inner.upgrade() else { return };
        let nested = client.presence().observe(|_| ());
        client.presence().set_peer_metadata_json_str(r#"{"x":1}"#).unwrap();
        client.channel("shop").publish("x", &1).wait().unwrap();
        drop(nested);
        let _ = done.lock().unwrap().send(client.presence().graph().local_peer.peer_metadata.len());
    });
    assert_eq!(waiting.recv_timeout(WITHIN).unwrap(), 1);
    drop(observer);
}

/// Trust and metadata of the peer with this client id, as another client sees it.
fn trust_in(client: &Client, client_id: &str) -> Option<(MetadataTrust, Option<Value>)> {
    let graph = client.presence().graph();
    let peer = graph.remote_peers.iter().find(|peer| peer.client_id() == Some(client_id))?;
    Some((peer.metadata_trust(), peer.peer_metadata.get("n").cloned()))
}

#[test]
fn signed_metadata_is_verified_and_its_key_outlives_the_client() {
    let mut server = Server::start("");
    let state = Dir::new();
    let config = server.config("ann").state_dir(state.path()).sign_metadata().join("shop");
    let signer = || Client::connect(config.clone());
    let ann = signer().unwrap();
    let bob = server.joined("bob", "shop");
    ann.presence().set_peer_metadata(&json!({"n": 1})).unwrap();
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    let verified = |n: u64| Some((MetadataTrust::Verified, Some(json!(n))));
    until("verified metadata", || trust_in(&bob, "ann") == verified(1));
    let key = ann.presence().graph().local_peer.key().to_owned();
    assert_eq!(key.len(), 2 + 43, "a public key");
    assert!(bob.presence().graph().is_direct(&key));
    assert_eq!(ann.presence().graph().local_peer.metadata_trust(), MetadataTrust::Verified);
    until("an unsigned peer", || trust_in(&ann, "bob") == Some((MetadataTrust::Unsigned, None)));
    // Another run of the program, and another of the server.
    drop(ann);
    let ann = signer().unwrap();
    until("verified metadata again", || trust_in(&bob, "ann") == verified(1));
    assert_eq!(ann.presence().graph().local_peer.key(), key);
    // A new server has other nonces.
    server.kill();
    server.run();
    ann.presence().set_peer_metadata(&json!({"n": 2})).unwrap();
    until("verified metadata after a restart", || trust_in(&bob, "ann") == verified(2));
    let (taken, received) = collected();
    let _observer = bob.on_direct_message(taken);
    let bob_key = bob.presence().graph().local_peer.key().to_owned();
    ann.send_to(&bob_key, "hi", &1).wait_timeout(WITHIN).unwrap();
    assert_eq!(received.recv_timeout(WITHIN).unwrap().from_peer_key, key);
}

#[test]
fn metadata_that_a_server_finds_too_large_is_reported() {
    let server = Server::start("[[namespace]]\nmatch = \"*\"\npeer_metadata_max_bytes = 16\n");
    let state = Dir::new();
    let config = || server.config("ann").state_dir(state.path());
    let ann = Client::connect(config()).unwrap();
    let large = json!({"a": "more than sixteen bytes"});
    ann.presence().set_peer_metadata(&large).unwrap();
    let got = large.to_string().len();
    let is_refused = |ann: &Client| match ann.presence().peer_metadata_synced().wait_timeout(WITHIN)
    {
        Err(ClientError::SizeLimitExceeded { limit: 16, got: found, .. }) => found == got,
        _ => false,
    };
    assert!(is_refused(&ann));
    // Also when it is said as soon as the server has greeted.
    drop(ann);
    let ann = Client::connect_lazy(config()).unwrap();
    assert!(is_refused(&ann));
    ann.presence().set_peer_metadata(&json!({"a": 1})).unwrap();
    assert_eq!(ann.presence().peer_metadata_synced().wait_timeout(WITHIN), Ok(()));
}

#[test]
fn a_namespace_limits_the_peers_of_a_graph_and_their_metadata() {
    let server = Server::start(
        "[[namespace]]\nmatch = \"small:*\"\npeer_metadata_max_bytes = 20\n\
         [[namespace]]\nmatch = \"*\"\ngraph_max_peers = 10001\n",
    );
    let ann = server.client("ann");
    ann.presence().set_peer_metadata(&json!({"a": "more than twenty bytes"})).unwrap();
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    ann.channel("large").join().wait_timeout(WITHIN).unwrap();
    let refused = ann.channel("small:1").join().wait_timeout(WITHIN);
    assert!(matches!(refused, Err(ClientError::Refused { code: 40001, .. })), "{refused:?}");
    let server = Server::start("[[namespace]]\nmatch = \"*\"\ngraph_max_peers = 2\n");
    let ann = server.joined("ann", "shop");
    let others: Vec<Client> = ["b", "c"].map(|name| server.joined(name, "shop")).into();
    until("both others", || names(&ann).len() == 2);
    assert!(!ann.presence().graph().is_truncated());
    let _third = server.joined("d", "shop");
    until("a truncated graph", || ann.presence().graph().is_truncated());
    assert_eq!(ann.presence().graph().remote_peers.len(), 2);
    drop(others);
}
