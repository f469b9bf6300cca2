//! Peers that decide who may connect to them, and direct messages, against the real server.
#![cfg(feature = "server")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ConnectionRequestAuthorization as Answer;
use headcount::client::prelude::*;
use peers::{Server, WITHIN, collected, names, until};

mod command;
mod peers;
mod served;
mod tempdir;

fn key(client: &Client) -> String {
    client.presence().graph().local_peer.key().to_owned()
}

fn are_connected(a: &Client, b: &Client) -> bool {
    let (key_a, key_b) = (key(a), key(b));
    a.presence().graph().is_direct(&key_b) && b.presence().graph().is_direct(&key_a)
}

fn denial(error: ClientError) -> (String, Duration) {
    match error {
        ClientError::Denied { reason, retry_after, .. } => (reason, retry_after),
        error => panic!("not denied: {error:?}"),
    }
}

#[test]
fn direct_messages_arrive_in_order_and_are_acknowledged_by_the_client() {
    let server = Server::start("");
    let (ann, bob) = (server.joined("ann", "shop"), server.joined("bob", "shop"));
    until("they are connected", || are_connected(&ann, &bob));
    let unavailable = ann.send_to(&key(&bob), "x", &1).wait_timeout(WITHIN).unwrap_err();
    assert!(matches!(unavailable, ClientError::PeerUnavailable { .. }), "{unavailable}");
    let (callback, received) = collected();
    let observer = bob.on_direct_message(callback);
    let sent: Vec<Pending<()>> = (0..50).map(|n| ann.send_to(&key(&bob), "n", &n)).collect();
    for (n, sent) in sent.into_iter().enumerate() {
        sent.wait_timeout(WITHIN).unwrap();
        let message: DirectMessage = received.recv_timeout(WITHIN).unwrap();
        assert_eq!(message.data.as_u64(), Some(n as u64));
        assert_eq!((message.from_peer_key, message.name.as_str()), (key(&ann), "n"));
    }
    drop(observer);
    assert!(ann.send_to(&key(&bob), "x", &1).wait_timeout(WITHIN).is_err());
    let stranger = server.joined("stranger", "elsewhere");
    let unavailable = stranger.send_to(&key(&bob), "x", &1).wait_timeout(WITHIN).unwrap_err();
    assert!(matches!(unavailable, ClientError::PeerUnavailable { .. }), "{unavailable}");
    assert!(ann.send_to("pkAA", "x", &1).wait_timeout(WITHIN).is_err());
}

#[test]
fn a_denied_peer_is_discovered_and_not_connected_until_it_is_asked_about_again() {
    let server = Server::start("");
    let ann = server.joined("ann", "shop");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    ann.presence().set_connection_request_handler(move |request: ConnectionRequest| {
        assert_eq!(request.channel(), "shop");
        assert_eq!(request.connection_type(), ConnectionType::WebSocket);
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::deny_with("not today", Duration::from_millis(700)),
            _ => Answer::Allow,
        }
    });
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    let (callback, _received) = collected::<DirectMessage>();
    let _observer = ann.on_direct_message(callback);
    let began = Instant::now();
    let bob = server.joined("bob", "shop");
    let (callback, _messages) = collected::<DirectMessage>();
    let _messages_of_bob = bob.on_direct_message(callback);
    until("they discover each other", || names(&ann) == ["bob"] && names(&bob) == ["ann"]);
    until("bob is denied", || {
        let error = bob.send_to(&key(&ann), "x", &1).wait_timeout(WITHIN).unwrap_err();
        denial(error).0 == "not today"
    });
    let (_, retry_after) = denial(bob.send_to(&key(&ann), "x", &1).wait().unwrap_err());
    assert!(retry_after <= Duration::from_millis(700), "{retry_after:?}");
    assert!(ann.send_to(&key(&bob), "x", &1).wait().is_err(), "refused in both directions");
    for (client, other) in [(&ann, &bob), (&bob, &ann)] {
        let graph = client.presence().graph();
        assert!(!graph.is_direct(&key(other)));
        assert!(graph.remote_peers[0].connections.is_empty(), "{graph}");
    }
    until("they are connected", || are_connected(&ann, &bob));
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    bob.send_to(&key(&ann), "x", &1).wait_timeout(WITHIN).unwrap();
}

#[test]
fn a_peer_without_a_handler_is_asked_nothing_and_none_admits_again() {
    let server = Server::start("");
    let (ann, bob) = (server.joined("ann", "shop"), server.joined("bob", "shop"));
    until("they are connected", || are_connected(&ann, &bob));
    ann.presence().set_connection_request_handler(|_: ConnectionRequest| Answer::Deny);
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(are_connected(&ann, &bob), "existing edges are kept");
    let carl = server.joined("carl", "shop");
    until("carl is discovered", || names(&ann) == ["bob", "carl"]);
    thread::sleep(Duration::from_millis(100));
    assert!(!are_connected(&ann, &carl) && are_connected(&bob, &carl));
    ann.presence().set_connection_request_handler(None);
    until("carl is admitted", || are_connected(&ann, &carl));
}

#[test]
fn a_handler_that_takes_too_long_denies_and_one_that_panics_too() {
    let server = Server::start("");
    let timeout = Duration::from_millis(300);
    let config = server.config("ann").join("shop").connection_request_timeout(timeout);
    let ann = Client::connect(config).unwrap();
    ann.presence().set_connection_request_handler(move |request: ConnectionRequest| {
        match request.peer_metadata().get("how").and_then(|how| how.as_str()) {
            Some("slow") => thread::sleep(2 * timeout),
            Some("panic") => panic!("as it should"),
            _ => {}
        }
        Answer::Allow
    });
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    let peer = |name: &str, how: &str| {
        let client = server.client(name);
        client.presence().set_peer_metadata(&serde_json::json!({ "how": how })).unwrap();
        client.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
        client.channel("shop").join().wait_timeout(WITHIN).unwrap();
        client
    };
    let reason_of = |client: &Client| {
        denial(client.send_to(&key(&ann), "x", &1).wait_timeout(WITHIN).unwrap_err()).0
    };
    let (slow, panics) = (peer("slow", "slow"), peer("panics", "panic"));
    let quick = peer("quick", "quick");
    until("the next one is served", || are_connected(&ann, &quick));
    until("the slow one is denied", || reason_of(&slow).contains("time"));
    until("the panic denies", || !reason_of(&panics).contains("not decided"));
    assert!(!are_connected(&ann, &slow) && !are_connected(&ann, &panics));
}

#[test]
fn fifty_handlers_run_side_by_side() {
    const PEERS: usize = 50;
    let server = Server::start("");
    let ann = server.joined("ann", "shop");
    let (begun, waiting) = mpsc::channel();
    ann.presence().set_connection_request_handler_async(move |_| {
        let (release, released) = Gate::new();
        begun.send(release).unwrap();
        async move {
            released.await;
            Answer::Allow
        }
    });
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    let peers: Vec<Client> =
        (0..PEERS).map(|n| server.joined(&format!("peer-{n}"), "shop")).collect();
    // Each of them waits until all of them have begun.
    let gates: Vec<_> = (0..PEERS).map(|_| waiting.recv_timeout(WITHIN).unwrap()).collect();
    assert_eq!(ann.presence().graph().direct_peers().count(), 0);
    gates.into_iter().for_each(Gate::open);
    until("all are admitted", || ann.presence().graph().direct_peers().count() == PEERS);
    drop(peers);
}

/// Opens a future.
struct Gate(Arc<std::sync::Mutex<(bool, Option<std::task::Waker>)>>);

impl Gate {
    fn new() -> (Gate, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::<std::sync::Mutex<(bool, Option<std::task::Waker>)>>::default();
        let gate = Gate(Arc::clone(&shared));
        let opened = std::future::poll_fn(move |cx| {
            let mut shared = shared.lock().unwrap();
            shared.1 = Some(cx.waker().clone());
            match shared.0 {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        });
        (gate, opened)
    }

    fn open(self) {
        let mut shared = self.0.lock().unwrap();
        shared.0 = true;
        shared.1.take().into_iter().for_each(std::task::Waker::wake);
    }
}

#[test]
fn a_plain_denial_lasts_as_long_as_the_namespace_says() {
    let server = Server::start("[[namespace]]\nmatch = \"shop:*\"\ndeny_ttl_ms = 400\n");
    let ann = server.joined("ann", "shop:1");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    ann.presence().set_connection_request_handler(move |_: ConnectionRequest| {
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Deny,
            _ => Answer::Allow,
        }
    });
    ann.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
    let began = Instant::now();
    let bob = server.joined("bob", "shop:1");
    until("they are connected", || are_connected(&ann, &bob));
    assert!((400..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}
