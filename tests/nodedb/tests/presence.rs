//! Who sees whom, what and when (sections 8.4, 9.6, 9.8, 9.11).

use headcount_blackbox::room::state_of;
use headcount_blackbox::{
    Config, Message, Server, Who, cursor, join_room, ms, states, token, user, users,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn an_update_reaches_the_other_members_without_their_asking() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    for value in 10..30 {
        let sent = Instant::now();
        room[0].update("doc:1", &cursor(value)).await;
        let peers = room[1].expect_broadcast("doc:1").await;
        assert_eq!(state_of(&peers, "alice"), cursor(value));
        let took = sent.elapsed();
        assert!(took < Duration::from_millis(500), "took {took:?}");
    }
}

#[tokio::test]
async fn the_sender_of_an_update_receives_nothing() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    room[0].update("doc:1", &cursor(9)).await;
    room[1].expect_broadcast("doc:1").await;
    room[0].expect_silence(200).await;
}

#[tokio::test]
async fn every_broadcast_is_the_full_set_in_the_order_of_joining() {
    let server = Server::start();
    let members = ["dora", "alice", "carol", "bob"].map(user);
    let mut room = join_room(&server, "doc:1", &members).await;
    room[1].update("doc:1", &cursor(9)).await;
    let expected =
        [("dora", cursor(0)), ("alice", cursor(9)), ("carol", cursor(2)), ("bob", cursor(3))];
    for index in [0, 2, 3] {
        let peers = room[index].expect_broadcast("doc:1").await;
        let expected = expected.each_ref().map(|(user, state)| (*user, state.as_slice()));
        assert_eq!(states(&peers), expected);
    }
}

#[tokio::test]
async fn a_joiner_receives_the_present_set_exactly_once() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    alice.update("doc:1", &cursor(1)).await;
    alice.expect_alive().await;
    let mut bob = server.login(&user("bob")).await;
    bob.update("doc:1", &cursor(2)).await;
    let alice_state = cursor(1);
    let bob_state = cursor(2);
    let expected = [("alice", alice_state.as_slice()), ("bob", bob_state.as_slice())];
    assert_eq!(states(&bob.expect_broadcast("doc:1").await), expected);
    assert_eq!(states(&alice.expect_broadcast("doc:1").await), expected);
    bob.update("doc:1", &cursor(3)).await;
    alice.expect_broadcast("doc:1").await;
    bob.expect_silence(200).await;
}

#[tokio::test]
async fn a_joiner_receives_nothing_when_nobody_else_is_present() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    alice.update("doc:1", &cursor(1)).await;
    alice.expect_silence(200).await;
}

#[tokio::test]
async fn a_namespace_may_leave_joiners_without_the_present_set() {
    let server = Config::new().namespace("presence_snapshot_on_join = false").start();
    let mut alice = server.login(&user("alice")).await;
    alice.update("doc:1", &cursor(1)).await;
    alice.expect_alive().await;
    let mut bob = server.login(&user("bob")).await;
    bob.update("doc:1", &cursor(2)).await;
    alice.expect_broadcast("doc:1").await;
    bob.expect_silence(200).await;
    alice.update("doc:1", &cursor(3)).await;
    assert_eq!(users(&bob.expect_broadcast("doc:1").await), ["alice", "bob"]);
}

#[tokio::test]
async fn only_members_of_the_channel_receive_its_broadcasts() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let mut stranger = server.login(&user("carol")).await;
    stranger.update("doc:2", &cursor(1)).await;
    stranger.expect_alive().await;
    room[0].update("doc:1", &cursor(9)).await;
    room[1].expect_broadcast("doc:1").await;
    stranger.expect_silence(200).await;
}

#[tokio::test]
async fn states_arrive_byte_for_byte_whatever_they_are() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let long = vec![0xab; 60_000];
    for state in [b"".as_slice(), b"\xc0", b"\xff\xff not msgpack \x00", &long, &cursor(1)] {
        room[0].update("doc:1", state).await;
        let peers = room[1].expect_broadcast("doc:1").await;
        assert_eq!(state_of(&peers, "alice"), state);
    }
}

#[tokio::test]
async fn channels_and_users_may_have_any_unicode_name() {
    let server = Server::start();
    let channel = "комната:🦀 / ?#%00";
    let mut room = join_room(&server, channel, &[user("алиса"), user("bob")]).await;
    room[0].update(channel, &cursor(9)).await;
    let peers = room[1].expect_broadcast(channel).await;
    assert_eq!(users(&peers), ["алиса", "bob"]);
}

#[tokio::test]
async fn last_seen_is_an_age() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &["alice", "bob", "carol"].map(user)).await;
    room[0].update("doc:1", &cursor(9)).await;
    room[2].expect_broadcast("doc:1").await;
    room[1].expect_broadcast("doc:1").await;
    sleep(ms(400)).await;
    room[1].update("doc:1", &cursor(8)).await;
    let peers = room[2].expect_broadcast("doc:1").await;
    let [alice, bob, _] = peers.as_slice() else { panic!("{peers:?}") };
    assert!((350..5_000).contains(&alice.last_seen_ms), "{alice:?}");
    assert!(bob.last_seen_ms < 300, "{bob:?}");
}

#[tokio::test]
async fn two_sessions_of_one_user_are_two_entries_until_the_last_one_leaves() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &["alice", "alice", "bob"].map(user)).await;
    let bob = room.pop().expect("three members");
    let second = room.pop().expect("three members");
    let first = room.pop().expect("three members");
    let (mut second, mut bob) = (second, bob);

    first.close().await;
    let (remaining, bobs) = (cursor(1), cursor(2));
    let expected = [("alice", remaining.as_slice()), ("bob", bobs.as_slice())];
    assert_eq!(states(&bob.expect_broadcast("doc:1").await), expected);
    assert_eq!(states(&second.expect_broadcast("doc:1").await), expected);

    second.close().await;
    assert_eq!(bob.expect_leave("doc:1").await, "alice");
    bob.expect_silence(200).await;
}

#[tokio::test]
async fn apps_do_not_see_each_other() {
    let server = Config::new().key("other.kid_other", "sk_other").start();
    let elsewhere = |name: &str| -> Who {
        let claims = token::claims(name, 3600);
        user(name).with_token(token::signed("other.kid_other", "sk_other", &claims))
    };
    let mut here = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let mut there = join_room(&server, "doc:1", &[elsewhere("alice"), elsewhere("carol")]).await;
    here[0].update("doc:1", &cursor(9)).await;
    assert_eq!(users(&here[1].expect_broadcast("doc:1").await), ["alice", "bob"]);
    there[1].expect_silence(200).await;
    there[0].update("doc:1", &cursor(8)).await;
    assert_eq!(users(&there[1].expect_broadcast("doc:1").await), ["alice", "carol"]);
    here[1].expect_silence(200).await;
}

#[tokio::test]
async fn one_session_may_be_in_many_channels_and_leaves_them_all() {
    let server = Server::start();
    let channels: Vec<String> = (0..20).map(|number| format!("doc:{number}")).collect();
    let mut bob = server.login(&user("bob")).await;
    let mut alice = server.login(&user("alice")).await;
    for channel in &channels {
        bob.update(channel, &cursor(1)).await;
        bob.expect_alive().await;
        alice.update(channel, &cursor(2)).await;
        assert_eq!(users(&alice.expect_broadcast(channel).await), ["bob", "alice"]);
        assert_eq!(users(&bob.expect_broadcast(channel).await), ["bob", "alice"]);
    }
    alice.close().await;
    let mut left = Vec::new();
    for _ in &channels {
        match bob.next().await {
            Message::Leave { channel, user } if user == "alice" => left.push(channel),
            other => panic!("expected a leave of alice, got {other:?}"),
        }
    }
    left.sort();
    let mut expected = channels;
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn many_channels_and_members_end_in_one_view_on_every_shard() {
    const CHANNELS: usize = 24;
    const MEMBERS: usize = 6;
    const ROUNDS: u8 = 5;
    let server = Config::new().set("cores.shards", "4").start();
    let channels: Vec<String> = (0..CHANNELS).map(|number| format!("doc:{number}")).collect();
    let mut members = Vec::new();
    for index in 0..MEMBERS {
        members.push(server.login(&user(&format!("user-{index}"))).await);
    }
    for round in 0..ROUNDS {
        for (index, member) in members.iter_mut().enumerate() {
            for channel in &channels {
                member.update(channel, &[index as u8, round]).await;
            }
        }
    }
    // The last member to be updated differs per channel, so a view is final when it has them all.
    let last = ROUNDS - 1;
    for (index, member) in members.iter_mut().enumerate() {
        let mut open: Vec<&str> = channels.iter().map(String::as_str).collect();
        let deadline = Instant::now() + headcount_blackbox::DEADLINE;
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "member {index} never saw the end of {open:?}");
            let Message::Broadcast { channel, peers } = member.next().await else {
                panic!("member {index}: not a broadcast")
            };
            let others_final = (0..MEMBERS).filter(|other| *other != index).all(|other| {
                let user = format!("user-{other}");
                let state = [other as u8, last];
                peers.iter().any(|peer| peer.user == user && peer.state == state)
            });
            if others_final {
                assert_eq!(peers.len(), MEMBERS, "{channel}: {peers:?}");
                open.retain(|name| *name != channel);
            }
        }
    }
}
