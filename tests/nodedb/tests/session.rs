//! Greeting, identity, token refresh, keepalive (sections 3.2, 4.3-4.5, 8.2, 9.7, 9.11).

use headcount_blackbox::generation::HandshakeAck;
use headcount_blackbox::{
    Config, Generation, Message, Server, SyncClient, Transport, anonymous, cursor, token, user,
};
use serde_json::json;

async fn refuse(server: &Server, token: String) -> (SyncClient, HandshakeAck) {
    let who = anonymous().with_token(token);
    let mut client = server.connect(&who).await;
    let ack = client.greet(&who).await;
    assert!(!ack.success, "{ack:?}");
    assert!(ack.error.as_ref().is_some_and(|error| !error.is_empty()), "{ack:?}");
    (client, ack)
}

#[tokio::test]
async fn a_current_client_gets_an_ack_of_nine_fields() {
    let server = Server::start();
    let who = user("alice").lite("0190b3c8-5a77-7cc0-8f3b-2b5a0f6d9e11");
    let mut client = server.connect(&who).await;
    client.send(&who.greeting()).await;
    let frame = client.next_frame().await;
    assert_eq!(frame[..2], [1, 2], "a HandshakeAck with the 10-byte header");
    assert_eq!(frame[10], 0x99, "an array of nine fields");
    let Some(Message::HandshakeAck(ack)) = Generation::V06.decode(&frame) else {
        panic!("nodedb-types 0.6.2 cannot read {frame:02x?}");
    };
    assert!(ack.success, "{ack:?}");
    assert!(!ack.session_id.is_empty());
    assert_eq!(ack.error, None);
    assert!(!ack.fork_detected);
    assert_eq!(ack.server_wire_version, 1);
    assert_eq!(ack.accepted_epoch, Some(1), "the epoch that was sent");
    assert_eq!(ack.delta_signing_key, Some([0; 32]));
}

#[tokio::test]
async fn the_producer_id_of_a_lite_id_is_the_same_on_every_connection() {
    let server = Server::start();
    let who = user("alice").lite("lite-a");
    let first = server.connect(&who).await.greet(&who).await.producer_id;
    let again = server.connect(&who).await.greet(&who).await.producer_id;
    let other = user("alice").lite("lite-b");
    let other = server.connect(&other).await.greet(&other).await.producer_id;
    assert_ne!(first, Some(0));
    assert_eq!(first, again);
    assert_ne!(first, other, "another lite id is another producer");
}

#[tokio::test]
async fn the_producer_id_of_a_lite_id_survives_a_restart() {
    let who = user("alice").lite("lite-a");
    let server = Server::start();
    let before = server.connect(&who).await.greet(&who).await.producer_id;
    let server = server.restart();
    let after = server.connect(&who).await.greet(&who).await.producer_id;
    assert_eq!(before, after);
}

#[tokio::test]
async fn without_a_lite_id_the_producer_id_is_zero() {
    let server = Server::start();
    let who = user("alice");
    let ack = server.connect(&who).await.greet(&who).await;
    assert_eq!(ack.producer_id, Some(0));
}

#[tokio::test]
async fn a_five_byte_client_gets_an_ack_of_six_fields() {
    let server = Server::start();
    for generation in [Generation::V03, Generation::V00] {
        let who = user("alice").speaking(generation);
        let mut client = server.connect(&who).await;
        client.send(&who.greeting()).await;
        let frame = client.next_frame().await;
        assert_eq!(frame[0], 2, "{generation:?}: a HandshakeAck with the 5-byte header");
        assert_eq!(frame[5], 0x96, "{generation:?}: an array of six fields");
        let Some(Message::HandshakeAck(ack)) = generation.decode(&frame) else {
            panic!("{generation:?} cannot read {frame:02x?}");
        };
        assert!(ack.success, "{ack:?}");
        assert_eq!(ack.server_wire_version, generation.wire_version());
    }
}

#[tokio::test]
async fn an_unknown_wire_version_gets_a_failed_ack_and_a_close() {
    let server = Server::start();
    for generation in [Generation::V06, Generation::V03] {
        for transport in [Transport::WebSocket, Transport::Tcp] {
            let who = user("alice").speaking(generation).over(transport).with_wire_version(9);
            let mut client = server.connect(&who).await;
            let ack = client.greet(&who).await;
            assert!(!ack.success, "{generation:?} {transport:?}: {ack:?}");
            assert!(ack.error.is_some(), "{generation:?} {transport:?}: {ack:?}");
            let code = client.expect_closed().await;
            assert_eq!(code.is_some(), transport == Transport::WebSocket, "{code:?}");
        }
    }
}

#[tokio::test]
async fn after_a_refused_token_the_same_socket_may_try_again() {
    let server = Server::start();
    let (mut client, ack) = refuse(&server, "not-a-token".into()).await;
    assert!(!ack.fork_detected);
    assert_eq!(ack.producer_id, Some(0));
    let ack = client.greet(&user("alice")).await;
    assert!(ack.success, "{ack:?}");
}

#[tokio::test]
async fn an_undecodable_greeting_body_gets_a_failed_ack_and_another_try() {
    let server = Server::start();
    let mut client = server.connect(&user("alice")).await;
    // A body of one empty array: the arity is wrong. CRC-32C of 0x90 computed with the crate.
    let mut frame = vec![1, 1, 1, 0, 0, 0];
    frame.extend_from_slice(&crc32c::crc32c(&[0x90]).to_le_bytes());
    frame.push(0x90);
    client.send(&frame).await;
    let Message::HandshakeAck(ack) = client.next().await else { panic!("not an ack") };
    assert!(!ack.success, "{ack:?}");
    assert!(client.greet(&user("alice")).await.success);
}

#[tokio::test]
async fn an_empty_token_is_refused_where_anonymous_sessions_are_off() {
    let server = Config::new().set("auth.anonymous", "false").start();
    let (mut client, _) = refuse(&server, String::new()).await;
    assert!(client.greet(&user("alice")).await.success, "a token is still welcome");
}

#[tokio::test]
async fn expired_tokens_are_refused() {
    let server = Server::start();
    let claims = token::claims("alice", -60);
    refuse(&server, token::signed(token::KEY_NAME, token::KEY_SECRET, &claims)).await;
}

#[tokio::test]
async fn tokens_of_algorithm_none_are_refused() {
    let server = Server::start();
    refuse(&server, token::unsigned(token::KEY_NAME, &token::claims("alice", 60))).await;
}

#[tokio::test]
async fn tokens_signed_with_another_secret_are_refused() {
    let server = Server::start();
    let claims = token::claims("alice", 60);
    refuse(&server, token::signed(token::KEY_NAME, "sk_other", &claims)).await;
}

#[tokio::test]
async fn tokens_of_an_unknown_key_or_without_one_are_refused() {
    let server = Server::start();
    let claims = token::claims("alice", 60);
    refuse(&server, token::signed("demo.kid_other", token::KEY_SECRET, &claims)).await;
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    refuse(&server, token::with_header(&header, token::KEY_SECRET, &claims)).await;
}

#[tokio::test]
async fn tokens_with_another_algorithm_in_their_header_are_refused() {
    let server = Server::start();
    let claims = token::claims("alice", 60);
    for algorithm in ["RS256", "HS512", "ES256", "nOnE"] {
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": token::KEY_NAME });
        refuse(&server, token::with_header(&header, token::KEY_SECRET, &claims)).await;
    }
}

#[tokio::test]
async fn tokens_whose_claims_were_changed_are_refused() {
    let server = Server::start();
    let alice = token::good("alice");
    let mallory = token::good("mallory");
    let [header, _, signature] = parts(&alice);
    let [_, claims, _] = parts(&mallory);
    refuse(&server, format!("{header}.{claims}.{signature}")).await;
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("three parts")
}

#[tokio::test]
async fn a_token_without_a_subject_is_refused() {
    let server = Server::start();
    let mut claims = token::claims("alice", 60);
    claims.as_object_mut().expect("an object").remove("sub");
    refuse(&server, token::signed(token::KEY_NAME, token::KEY_SECRET, &claims)).await;
}

#[tokio::test]
async fn the_user_of_a_token_is_its_subject() {
    let server = Server::start();
    let who = [user("alice"), user("bob")];
    let mut room = headcount_blackbox::join_room(&server, "doc:1", &who).await;
    room[0].update("doc:1", &cursor(9)).await;
    let peers = room[1].expect_broadcast("doc:1").await;
    assert_eq!(headcount_blackbox::users(&peers), ["alice", "bob"]);
}

#[tokio::test]
async fn anonymous_users_are_named_after_their_session_and_never_shared() {
    let server = Server::start();
    let mut first = server.login(&anonymous()).await;
    first.update("doc:1", &cursor(1)).await;
    first.expect_alive().await;
    let mut second = server.login(&anonymous()).await;
    second.update("doc:1", &cursor(2)).await;
    let peers = second.expect_broadcast("doc:1").await;
    let names = headcount_blackbox::users(&peers);
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1]);
    for name in names {
        let digits = name.strip_prefix("anonymous-").expect("anonymous-<8 hex digits>");
        assert_eq!(digits.len(), 8, "{name}");
        assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
}

#[tokio::test]
async fn anonymous_sessions_meet_those_of_the_first_key() {
    let server = Config::new().key("other.kid_other", "sk_other").start();
    let mut room =
        headcount_blackbox::join_room(&server, "doc:1", &[user("alice"), anonymous()]).await;
    room[1].update("doc:1", &cursor(3)).await;
    room[0].expect_broadcast("doc:1").await;
}

#[tokio::test]
async fn a_ping_is_echoed_exactly_before_and_after_the_greeting() {
    let server = Server::start();
    let (mut client, _) = refuse(&server, "not-a-token".into()).await;
    for greeted in [false, true] {
        if greeted {
            assert!(client.greet(&user("alice")).await.success);
        }
        for timestamp_ms in [0, 127, 128, 1 << 32, 1 << 63, (1 << 63) | 42, u64::MAX] {
            client.send(&Generation::V06.ping(timestamp_ms)).await;
            let pong = Message::Ping { timestamp_ms, is_pong: true };
            assert_eq!(client.next().await, pong, "greeted: {greeted}");
        }
    }
}

#[tokio::test]
async fn a_ping_may_be_the_very_first_frame() {
    let server = Server::start();
    let mut client = server.connect(&user("alice")).await;
    client.expect_alive().await;
    assert!(client.greet(&user("alice")).await.success);
}

#[tokio::test]
async fn pings_are_answered_in_order() {
    let server = Server::start();
    for transport in [Transport::WebSocket, Transport::Tcp] {
        let mut client = server.login(&user("alice").over(transport)).await;
        for timestamp_ms in 0..500 {
            client.send(&Generation::V06.ping(timestamp_ms)).await;
        }
        for timestamp_ms in 0..500 {
            assert_eq!(client.next().await, Message::Ping { timestamp_ms, is_pong: true });
        }
    }
}

async fn refresh(client: &mut SyncClient, token: &str) -> (bool, Option<String>, u64) {
    client.send(&Generation::V06.token_refresh(token)).await;
    match client.next().await {
        Message::TokenRefreshAck { success, error, expires_in_s } => (success, error, expires_in_s),
        other => panic!("expected a TokenRefreshAck, got {other:?}"),
    }
}

#[tokio::test]
async fn a_new_token_of_the_same_user_is_taken() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    let claims = token::claims("alice", 7200);
    let token = token::signed(token::KEY_NAME, token::KEY_SECRET, &claims);
    let (success, error, expires_in_s) = refresh(&mut alice, &token).await;
    assert!(success, "{error:?}");
    assert_eq!(error, None);
    assert!((7000..=7200).contains(&expires_in_s), "{expires_in_s}");
}

#[tokio::test]
async fn a_refused_new_token_leaves_the_identity_as_it_was() {
    let server = Config::new().key("other.kid_other", "sk_other").start();
    let members = [user("alice"), user("bob")];
    let mut room = headcount_blackbox::join_room(&server, "doc:1", &members).await;
    let elsewhere = token::signed("other.kid_other", "sk_other", &token::claims("alice", 3600));
    let expired = token::signed(token::KEY_NAME, token::KEY_SECRET, &token::claims("alice", -60));
    let another_user = token::good("mallory");
    for bad in [another_user.as_str(), &elsewhere, &expired, "garbage", "a.b.c", ""] {
        let (success, error, _) = refresh(&mut room[0], bad).await;
        assert!(!success, "{bad:?}");
        assert!(error.is_some_and(|error| !error.is_empty()), "{bad:?}");
    }
    room[1].expect_silence(100).await;
    room[0].update("doc:1", &cursor(5)).await;
    let peers = room[1].expect_broadcast("doc:1").await;
    assert_eq!(headcount_blackbox::room::state_of(&peers, "alice"), cursor(5));
}

#[tokio::test]
async fn a_refused_second_greeting_wipes_the_first_identity() {
    let server = Server::start();
    let members = [user("alice"), user("bob")];
    let mut room = headcount_blackbox::join_room(&server, "doc:1", &members).await;
    let ack = room[0].greet(&anonymous().with_token("bad".into())).await;
    assert!(!ack.success, "{ack:?}");
    assert_eq!(room[1].expect_leave("doc:1").await, "alice");
    room[0].update("doc:1", &cursor(5)).await;
    room[0].expect_alive().await;
    room[1].expect_silence(200).await;
}

#[tokio::test]
async fn presence_before_the_greeting_is_ignored() {
    let server = Server::start();
    let mut bob = server.login(&user("bob")).await;
    bob.update("doc:1", &cursor(1)).await;
    let (mut client, _) = refuse(&server, "not-a-token".into()).await;
    client.update("doc:1", &cursor(2)).await;
    client.expect_alive().await;
    bob.expect_silence(200).await;
}

#[tokio::test]
async fn a_connection_that_never_greets_is_ended() {
    let server =
        Config::new().set("limits.greeting_ms", "500").set("limits.sweep_ms", "100").start();
    for transport in [Transport::WebSocket, Transport::Tcp] {
        let mut silent = server.connect(&user("alice").over(transport)).await;
        silent.expect_end().await;
    }
    let (mut refused, _) = refuse(&server, "not-a-token".into()).await;
    refused.expect_end().await;
    let mut greeted = server.login(&user("alice")).await;
    greeted.expect_silence(1000).await;
    greeted.expect_alive().await;
}
