//! How a member ceases to be present: goodbye, grace, heartbeat (sections 8.4, 9.6, 9.12).
//!
//! Times are short so that the tests are; every one leaves room for a slow machine.

use headcount_blackbox::client::Vanish;
use headcount_blackbox::room::state_of;
use headcount_blackbox::{
    Config, Message, Received, Server, SyncClient, Transport, Who, cursor, join_room, ms, user,
    users,
};
use std::time::Duration;
use tokio::time::Instant;

const GRACE_MS: u64 = 1_500;
const TTL_MS: u64 = 1_000;

fn with_grace() -> Config {
    Config::new().set("limits.sweep_ms", "50").namespace(&format!("presence_grace_ms = {GRACE_MS}"))
}

fn with_ttl(more: &str) -> Config {
    Config::new()
        .set("limits.sweep_ms", "50")
        .namespace(&format!("presence_ttl_ms = {TTL_MS}\npresence_grace_ms = 0\n{more}"))
}

/// Two members of `doc:1`; the first may be anybody, the second is bob.
async fn pair(server: &Server, first: &Who) -> (SyncClient, SyncClient) {
    let mut room = join_room(server, "doc:1", &[first.clone(), user("bob")]).await;
    let bob = room.pop().expect("two members");
    (room.pop().expect("two members"), bob)
}

fn leaves(messages: &[Message]) -> Vec<&str> {
    let mut users = Vec::new();
    for message in messages {
        if let Message::Leave { user, .. } = message {
            users.push(user.as_str());
        }
    }
    users
}

#[tokio::test]
async fn a_clean_close_is_a_leave_at_once() {
    let server = with_grace().start();
    let (alice, mut bob) = pair(&server, &user("alice").lite("lite-a")).await;
    let closed = Instant::now();
    alice.close().await;
    assert_eq!(bob.expect_leave("doc:1").await, "alice");
    let took = closed.elapsed();
    assert!(took < ms(GRACE_MS / 2), "{took:?}");
}

#[tokio::test]
async fn a_lost_connection_is_a_leave_after_the_grace_and_not_before() {
    for how in [Vanish::Fin, Vanish::Reset] {
        let server = with_grace().start();
        let (alice, mut bob) = pair(&server, &user("alice").lite("lite-a")).await;
        let lost = Instant::now();
        alice.vanish(how);
        assert_eq!(bob.expect_leave("doc:1").await, "alice", "{how:?}");
        let took = lost.elapsed();
        assert!(took >= ms(GRACE_MS - 100), "{how:?}: after {took:?} only");
        assert!(took < ms(GRACE_MS + 1_500), "{how:?}: after {took:?}");
    }
}

#[tokio::test]
async fn a_tcp_session_that_ends_leaves_too() {
    for how in [Vanish::Fin, Vanish::Reset] {
        let config = Config::new().set("limits.sweep_ms", "50");
        let server = config.namespace("presence_grace_ms = 200").start();
        let (alice, mut bob) = pair(&server, &user("alice").over(Transport::Tcp)).await;
        alice.vanish(how);
        assert_eq!(bob.expect_leave("doc:1").await, "alice", "{how:?}");
    }
}

#[tokio::test]
async fn a_return_within_the_grace_is_seen_by_nobody() {
    for how in [Vanish::Fin, Vanish::Reset] {
        let server = with_grace().start();
        let who = user("alice").lite("lite-a");
        let (alice, mut bob) = pair(&server, &who).await;
        alice.vanish(how);
        bob.expect_silence(200).await;
        let mut returned = server.login(&who).await;
        bob.expect_silence(GRACE_MS + 500).await;

        bob.update("doc:1", &cursor(77)).await;
        let seen = |peers: &[headcount_blackbox::Peer]| {
            peers.iter().any(|peer| peer.user == "bob" && peer.state == cursor(77))
        };
        let peers = returned.until_broadcast("doc:1", seen).await;
        assert_eq!(users(&peers), ["alice", "bob"], "{how:?}");
        returned.update("doc:1", &cursor(78)).await;
        let peers = bob.expect_broadcast("doc:1").await;
        assert_eq!(state_of(&peers, "alice"), cursor(78));
    }
}

#[tokio::test]
async fn a_return_with_another_identity_takes_nothing_over() {
    let server = with_grace().start();
    let (alice, mut bob) = pair(&server, &user("alice").lite("lite-a")).await;
    alice.vanish(Vanish::Reset);
    let mut mallory = server.login(&user("mallory").lite("lite-a")).await;
    assert_eq!(bob.expect_leave("doc:1").await, "alice");
    bob.update("doc:1", &cursor(9)).await;
    mallory.expect_silence(200).await;
}

#[tokio::test]
async fn without_a_lite_id_the_same_user_replaces_its_lost_session() {
    let server = with_grace().start();
    let (alice, mut bob) = pair(&server, &user("alice")).await;
    alice.vanish(Vanish::Reset);
    bob.expect_silence(100).await;
    let mut again = server.login(&user("alice")).await;
    again.update("doc:1", &cursor(42)).await;
    let peers = bob.expect_broadcast("doc:1").await;
    assert_eq!(peers.len(), 2, "{peers:?}");
    assert_eq!(state_of(&peers, "alice"), cursor(42));
    bob.expect_silence(GRACE_MS + 500).await;
}

#[tokio::test]
async fn without_a_heartbeat_a_member_leaves_and_its_next_update_joins_again() {
    let server = with_ttl("").start();
    let (mut alice, mut bob) = pair(&server, &user("alice")).await;
    let seen = bob.keep_pinging(TTL_MS / 2).await;
    assert_eq!(seen, [], "before the time to live");
    let seen = bob.keep_pinging(TTL_MS + 1_000).await;
    assert_eq!(leaves(&seen), ["alice"], "{seen:?}");
    alice.update("doc:1", &cursor(7)).await;
    let peers = bob.expect_broadcast("doc:1").await;
    assert_eq!(users(&peers), ["bob", "alice"]);
}

#[tokio::test]
async fn pings_are_heartbeats() {
    let server = with_ttl("").start();
    let (mut alice, mut bob) = pair(&server, &user("alice")).await;
    let (at_alice, at_bob) =
        tokio::join!(alice.keep_pinging(3 * TTL_MS), bob.keep_pinging(3 * TTL_MS));
    assert_eq!((at_alice, at_bob), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn pings_are_no_heartbeats_where_the_namespace_says_update() {
    let server = with_ttl("presence_heartbeat = \"update\"").start();
    let (mut alice, mut bob) = pair(&server, &user("alice")).await;
    let update = bob.generation.update("doc:1", &cursor(1));
    let (_, at_bob) = tokio::join!(
        alice.keep_pinging(2 * TTL_MS + 500),
        bob.keep_sending(&update, 150, 2 * TTL_MS + 500)
    );
    assert_eq!(leaves(&at_bob), ["alice"], "{at_bob:?}");
}

#[tokio::test]
async fn a_half_open_connection_is_no_ghost() {
    // A stopped client: the socket stays open and says nothing more, not even a WebSocket pong.
    let server = with_ttl("").set("limits.ping_after_ms", "300").start();
    let (alice, mut bob) = pair(&server, &user("alice").lite("lite-a")).await;
    let seen = bob.keep_pinging(2 * TTL_MS + 500).await;
    assert_eq!(leaves(&seen), ["alice"], "{seen:?}");
    drop(alice);
}

#[tokio::test]
async fn an_explicit_leave_is_honoured_and_the_session_lives() {
    let server = with_grace().start();
    let (mut alice, mut bob) = pair(&server, &user("alice")).await;
    alice.leave("doc:1", "alice").await;
    assert_eq!(bob.expect_leave("doc:1").await, "alice");
    alice.expect_alive().await;
    bob.update("doc:1", &cursor(5)).await;
    alice.expect_silence(200).await;
    alice.update("doc:1", &cursor(6)).await;
    assert_eq!(users(&bob.expect_broadcast("doc:1").await), ["bob", "alice"]);
}

#[tokio::test]
async fn nobody_can_make_another_user_leave() {
    let server = with_grace().start();
    let (mut alice, mut bob) = pair(&server, &user("alice")).await;
    let mut mallory = server.login(&user("mallory")).await;
    mallory.leave("doc:1", "alice").await;
    mallory.expect_alive().await;
    bob.expect_silence(200).await;
    bob.update("doc:1", &cursor(5)).await;
    assert_eq!(users(&alice.expect_broadcast("doc:1").await), ["alice", "bob"]);
}

#[tokio::test]
async fn a_session_that_greets_again_as_somebody_else_leaves_as_who_it_was() {
    let server = with_grace().start();
    let (mut alice, mut bob) = pair(&server, &user("alice")).await;
    assert!(alice.greet(&user("carol")).await.success);
    assert_eq!(bob.expect_leave("doc:1").await, "alice");
    alice.update("doc:1", &cursor(5)).await;
    assert_eq!(users(&bob.expect_broadcast("doc:1").await), ["bob", "carol"]);
}

#[tokio::test]
async fn hundreds_of_joins_and_losses_leave_no_ghost() {
    let server =
        Config::new().set("limits.sweep_ms", "50").namespace("presence_grace_ms = 100").start();
    let mut bob = server.login(&user("bob")).await;
    bob.update("doc:1", &cursor(0)).await;
    bob.expect_alive().await;
    for round in 0..200 {
        let mut guest = server.login(&user(&format!("guest-{}", round % 7))).await;
        guest.update("doc:1", &cursor(1)).await;
        match round % 3 {
            0 => guest.close().await,
            1 => guest.vanish(Vanish::Fin),
            _ => guest.vanish(Vanish::Reset),
        }
    }
    while !matches!(bob.receive(Duration::from_secs(1)).await, Received::Silence) {}
    let mut carol = server.login(&user("carol")).await;
    carol.update("doc:1", &cursor(2)).await;
    let peers = carol.expect_broadcast("doc:1").await;
    assert_eq!(users(&peers), ["bob", "carol"]);
}
