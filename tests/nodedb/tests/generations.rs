//! Every client generation over every transport, together in one channel (sections 2 and 9.1-9.3).

use headcount_blackbox::room::state_of;
use headcount_blackbox::{
    Config, Generation, Message, Server, SyncClient, Transport, Who, cursor, join_room, user, users,
};

const KINDS: [(Generation, Transport); 6] = [
    (Generation::V06, Transport::WebSocket),
    (Generation::V06, Transport::Tcp),
    (Generation::V03, Transport::WebSocket),
    (Generation::V03, Transport::Tcp),
    (Generation::V00, Transport::WebSocket),
    (Generation::V00, Transport::Tcp),
];

fn one_of_each() -> Vec<Who> {
    let who = |(index, &(generation, transport))| {
        user(&format!("user-{index}")).speaking(generation).over(transport)
    };
    KINDS.iter().enumerate().map(who).collect()
}

/// The next frame must be what this generation's own encoder makes of its content.
async fn expect_canonical_broadcast(client: &mut SyncClient) -> Vec<headcount_blackbox::Peer> {
    let frame = client.next_frame().await;
    let Some(Message::Broadcast { channel, peers }) = client.generation.decode(&frame) else {
        panic!("{}: not a broadcast of {:?}: {frame:02x?}", client.name, client.generation);
    };
    assert_eq!(frame, client.generation.broadcast(&channel, &peers), "{}", client.name);
    peers
}

#[tokio::test]
async fn members_of_all_generations_and_transports_see_each_other() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &one_of_each()).await;
    for sender in 0..room.len() {
        let state = cursor(100 + sender as u8);
        room[sender].update("doc:1", &state).await;
        for (receiver, client) in room.iter_mut().enumerate() {
            if receiver != sender {
                let peers = expect_canonical_broadcast(client).await;
                assert_eq!(peers.len(), KINDS.len());
                assert_eq!(state_of(&peers, &format!("user-{sender}")), state);
            }
        }
    }
}

#[tokio::test]
async fn a_leave_reaches_all_generations_in_their_own_bytes() {
    let server = Server::start();
    let mut members = one_of_each();
    members.insert(0, user("alice"));
    let mut room = join_room(&server, "doc:1", &members).await;
    room.remove(0).close().await;
    for client in &mut room {
        let frame = client.next_frame().await;
        assert_eq!(frame, client.generation.leave("doc:1", "alice"), "{}", client.name);
    }
}

#[tokio::test]
async fn large_sets_have_the_bytes_of_each_generations_encoder() {
    let server = Server::start();
    let members: Vec<Who> = (0..20)
        .map(|index| {
            let (generation, transport) = KINDS[index % KINDS.len()];
            let name = format!("{index:0width$}", width = 1 + index * 10);
            user(&name).speaking(generation).over(transport)
        })
        .collect();
    let mut room = join_room(&server, "doc:1", &members).await;
    for state_bytes in [0, 1, 255, 256, 40_000] {
        room[0].update("doc:1", &vec![0xc1; state_bytes]).await;
        for client in &mut room[1..] {
            let peers = expect_canonical_broadcast(client).await;
            assert_eq!(peers.len(), 20);
            assert_eq!(peers[0].state.len(), state_bytes);
        }
    }
}

/// The setting that makes a server answer 10-byte greetings in the layout of 0.4.
const ACK_OF_0_4: (&str, &str) = ("sync.ten_byte_layout", "\"0.4\"");

#[tokio::test]
async fn a_server_configured_for_0_4_sends_acks_that_0_4_can_read() {
    let server = Config::new().set(ACK_OF_0_4.0, ACK_OF_0_4.1).start();
    let who = user("alice").speaking(Generation::V04).lite("lite-a");
    let mut client = server.connect(&who).await;
    client.send(&who.greeting()).await;
    let frame = client.next_frame().await;
    assert_eq!(frame[10], 0x98, "an array of eight fields");
    let Some(Message::HandshakeAck(ack)) = Generation::V04.decode(&frame) else {
        panic!("nodedb-types 0.4.0 cannot read {frame:02x?}");
    };
    assert!(ack.success, "{ack:?}");
    assert!(ack.producer_id.is_some_and(|producer| producer != 0));
    client.expect_alive().await;
}

#[tokio::test]
async fn a_tcp_stream_may_arrive_one_byte_at_a_time() {
    for generation in [Generation::V06, Generation::V03] {
        let server = Server::start();
        let mut bob = server.login(&user("bob")).await;
        bob.update("doc:1", &cursor(1)).await;
        bob.expect_alive().await;
        let who = user("alice").speaking(generation).over(Transport::Tcp);
        let mut alice = server.connect(&who).await;
        let update = generation.update("doc:1", &cursor(2));
        for byte in [who.greeting(), update].concat() {
            alice.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        assert!(matches!(alice.next().await, Message::HandshakeAck(ack) if ack.success));
        assert_eq!(users(&alice.expect_broadcast("doc:1").await), ["bob", "alice"]);
        assert_eq!(users(&bob.expect_broadcast("doc:1").await), ["bob", "alice"]);
    }
}

#[tokio::test]
async fn a_tcp_stream_may_be_cut_anywhere() {
    let server = Server::start();
    let who = user("alice").over(Transport::Tcp);
    let greeting = who.greeting();
    let ping = |timestamp_ms| Generation::V06.ping(timestamp_ms);
    let stream = [greeting.clone(), ping(1), ping(1 << 40), ping(u64::MAX)].concat();
    // Each cut is its own session; past the greeting every position, inside it every seventh.
    let cuts = (1..greeting.len()).step_by(7).chain(greeting.len()..stream.len());
    for cut in cuts {
        let mut client = server.connect(&who).await;
        client.send(&stream[..cut]).await;
        tokio::task::yield_now().await;
        client.send(&stream[cut..]).await;
        assert!(matches!(client.next().await, Message::HandshakeAck(ack) if ack.success), "{cut}");
        for timestamp_ms in [1, 1 << 40, u64::MAX] {
            let pong = Message::Ping { timestamp_ms, is_pong: true };
            assert_eq!(client.next().await, pong, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn many_frames_in_one_tcp_write_are_all_handled() {
    let server = Server::start();
    for generation in [Generation::V06, Generation::V03] {
        let who = user("alice").speaking(generation).over(Transport::Tcp);
        let mut client = server.connect(&who).await;
        let mut stream = who.greeting();
        for timestamp_ms in 0..2_000 {
            stream.extend(generation.ping(timestamp_ms));
        }
        client.send(&stream).await;
        assert!(matches!(client.next().await, Message::HandshakeAck(ack) if ack.success));
        for timestamp_ms in 0..2_000 {
            assert_eq!(client.next().await, Message::Ping { timestamp_ms, is_pong: true });
        }
    }
}

#[tokio::test]
async fn a_five_byte_greeting_that_looks_like_a_ten_byte_one_is_told_apart() {
    let server = Server::start();
    for body_bytes in [257, 513] {
        let unpadded = user("alice").speaking(Generation::V03).over(Transport::Tcp);
        let missing = body_bytes - (unpadded.greeting().len() - 5);
        // The string's own header may grow with it.
        let sized = |pad: usize| unpadded.clone().lite(&"x".repeat(pad));
        let pads = missing.saturating_sub(3)..=missing;
        let who = pads.map(sized).find(|who| who.greeting().len() == body_bytes + 5);
        let who = who.unwrap_or_else(|| panic!("no lite id makes a body of {body_bytes} bytes"));
        assert_eq!(who.greeting()[..2], [1, 1], "as the 10-byte header begins");
        let mut client = server.login(&who).await;
        client.expect_alive().await;
    }
}

#[tokio::test]
async fn a_channel_hint_in_the_url_changes_nothing_but_the_way() {
    let server = Config::new().set("cores.shards", "4").start();
    let members: Vec<Who> = (0..8)
        .map(|index| {
            let who = user(&format!("user-{index}"));
            match index % 4 {
                0 => who.at("/sync?channel=doc%3A1"),
                1 => who.at("/?a=b&channel=doc:1"),
                2 => who.at("/sync?channel=another"),
                _ => who.at("/anything/at/all"),
            }
        })
        .collect();
    let mut room = join_room(&server, "doc:1", &members).await;
    room[0].update("doc:1", &cursor(99)).await;
    for client in &mut room[1..] {
        let peers = client.expect_broadcast("doc:1").await;
        assert_eq!(state_of(&peers, "user-0"), cursor(99));
    }
    // A hint is no membership and no limit: hinted sessions join other channels as well.
    let mut hinted = server.login(&user("hinted").at("/sync?channel=doc%3A1")).await;
    hinted.update("doc:2", &cursor(1)).await;
    hinted.expect_alive().await;
    room[0].update("doc:2", &cursor(2)).await;
    assert_eq!(users(&hinted.expect_broadcast("doc:2").await), ["hinted", "user-0"]);
}
