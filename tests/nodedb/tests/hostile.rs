//! Limits, broken frames, and peers that speak something else: the offender pays, nobody else
//! notices (sections 2, 8.1; limits of the core configuration).

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headcount_blackbox::raw::{self, RawConnection};
use headcount_blackbox::room::state_of;
use headcount_blackbox::{
    Config, Generation, Message, Received, Server, SyncClient, Transport, cursor, join_room, ms,
    user, users,
};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as WsMessage;

fn frame_of(code: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a small body").to_le_bytes();
    let crc = crc32c::crc32c(body).to_le_bytes();
    [&[1, code], length.as_slice(), &crc, body].concat()
}

/// Frames that a session ignores, each with what is wrong about it.
fn undecodable() -> Vec<(&'static str, Vec<u8>)> {
    let update = Generation::V06.update("doc:1", &cursor(9));
    let mut crc_flipped = update.clone();
    crc_flipped[6] ^= 1;
    let mut body_flipped = update.clone();
    *body_flipped.last_mut().expect("a body") ^= 1;
    vec![
        ("a flipped checksum", crc_flipped),
        ("a flipped body", body_flipped),
        ("an unknown type", frame_of(0x9a, b"\x90")),
        ("type zero", frame_of(0, b"\x90")),
        ("an empty body", frame_of(0x80, b"")),
        ("too few fields", frame_of(0x80, b"\x91\xa5doc:1")),
        ("too many fields", frame_of(0x80, b"\x93\xa5doc:1\xc4\x00\xc0")),
        ("a map for the array", frame_of(0x80, b"\x82\x00\xa5doc:1\x01\xc4\x00")),
        ("a string for the state", frame_of(0x80, b"\x92\xa5doc:1\xa1x")),
        ("an array for the state", frame_of(0x80, b"\x92\xa5doc:1\x91\x01")),
        ("a channel that is not UTF-8", frame_of(0x80, b"\x92\xa2\xff\xfe\xc4\x00")),
        ("a string longer than the body", frame_of(0x80, b"\x92\xdb\xff\xff\xff\xffx")),
        ("an array longer than the body", frame_of(0x80, b"\xdd\xff\xff\xff\xff")),
        ("a state longer than the body", frame_of(0x80, b"\x92\xa5doc:1\xc6\xff\xff\xff\xff")),
        ("a signed timestamp", frame_of(0xff, b"\x92\xd0\x05\xc2")),
        ("deep nesting", frame_of(0x80, &[0x91; 5_000])),
        ("nothing but markers", frame_of(0x30, &[0xdf; 64])),
    ]
}

#[tokio::test]
async fn undecodable_frames_are_ignored_and_the_session_lives() {
    for transport in [Transport::WebSocket, Transport::Tcp] {
        let server = Server::start();
        let members = [user("alice").over(transport), user("bob")];
        let mut room = join_room(&server, "doc:1", &members).await;
        for (what, frame) in undecodable() {
            room[0].send(&frame).await;
            println!("{transport:?}: after {what}");
            room[0].expect_alive().await;
        }
        room[1].expect_silence(100).await;
        room[0].update("doc:1", &cursor(50)).await;
        let peers = room[1].expect_broadcast("doc:1").await;
        assert_eq!(state_of(&peers, "alice"), cursor(50));
    }
}

#[tokio::test]
async fn websocket_messages_that_are_no_frame_are_ignored_after_the_greeting() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    let update = Generation::V06.update("doc:1", &cursor(9));
    let mut future_version = update.clone();
    future_version[0] = 2;
    for bytes in [&b""[..], &[1], &[1, 0x80, 0xff], &update[..update.len() - 1], &future_version] {
        alice.send(bytes).await;
        alice.expect_alive().await;
    }
    alice.send_websocket(WsMessage::text("{\"t\":\"hello\"}")).await;
    alice.expect_alive().await;
}

#[tokio::test]
async fn bytes_after_the_declared_length_of_a_message_are_ignored() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    alice.send(&[Generation::V06.ping(7), b"trailing".to_vec()].concat()).await;
    assert_eq!(alice.next().await, Message::Ping { timestamp_ms: 7, is_pong: true });
    alice.expect_alive().await;
}

#[tokio::test]
async fn garbage_as_the_first_message_ends_the_connection() {
    let server = Server::start();
    for transport in [Transport::WebSocket, Transport::Tcp] {
        let mut client = server.connect(&user("alice").over(transport)).await;
        client.send(b"\xde\xad\xbe\xef no protocol of ours \xff\xff\xff\xff").await;
        client.expect_end().await;
    }
}

#[tokio::test]
async fn an_http_request_on_the_tcp_port_ends_the_connection() {
    let server = Server::start();
    let mut connection = RawConnection::open(server.sync_tcp).await;
    connection.send(raw::UPGRADE.as_bytes()).await;
    connection.expect_end().await;
}

#[tokio::test]
async fn an_unmasked_frame_is_closed_with_1002() {
    let server = Server::start();
    let mut connection = RawConnection::upgraded(server.http).await;
    connection.send(&raw::unmasked(raw::FINAL_BINARY, &user("alice").greeting())).await;
    assert_eq!(connection.read_close().await, 1002);
    connection.expect_end().await;
}

#[tokio::test]
async fn breaches_of_the_websocket_protocol_are_closed_with_1002() {
    let server = Server::start();
    let breaches = [
        ("a reserved bit", raw::masked(0xc2, b"x")),
        ("a reserved opcode", raw::masked(0x83, b"x")),
        ("a fragmented ping", raw::masked(0x09, b"x")),
        ("a ping of 126 bytes", raw::masked(raw::PING, &[0; 126])),
        ("a continuation of nothing", raw::masked(raw::FINAL_CONTINUATION, b"x")),
        ("a close of one byte", raw::masked(raw::CLOSE, b"x")),
    ];
    for (what, bytes) in breaches {
        let mut connection = RawConnection::upgraded(server.http).await;
        connection.send(&bytes).await;
        assert_eq!(connection.read_close().await, 1002, "{what}");
    }
}

#[tokio::test]
async fn an_oversize_message_is_closed_with_1009() {
    let server = Server::start();
    let mut connection = RawConnection::upgraded(server.http).await;
    // Header and mask of a 2 MiB frame: refused by its declared length, before its body.
    let mut header = raw::frame_header(raw::FINAL_BINARY, 2 * 1024 * 1024);
    header[1] |= 0x80;
    connection.send(&[header, vec![0; 4]].concat()).await;
    assert_eq!(connection.read_close().await, 1009);

    let mut connection = RawConnection::upgraded(server.http).await;
    let part = vec![0; 400 * 1024];
    connection.send(&raw::masked(raw::BINARY, &part)).await;
    for _ in 0..2 {
        connection.try_send(&raw::masked(raw::CONTINUATION, &part)).await;
    }
    assert_eq!(connection.read_close().await, 1009, "fragments are added up");
}

#[tokio::test]
async fn an_oversize_frame_over_tcp_ends_the_connection() {
    let server = Server::start();
    let mut alice = server.login(&user("alice").over(Transport::Tcp)).await;
    alice.send(&[1, 0x80, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]).await;
    alice.expect_end().await;
}

#[tokio::test]
async fn a_sync_frame_may_be_fragmented_around_a_websocket_ping() {
    let server = Server::start();
    let mut connection = RawConnection::upgraded(server.http).await;
    let greeting = user("alice").greeting();
    let (first, rest) = greeting.split_at(4);
    let (second, third) = rest.split_at(20);
    connection.send(&raw::masked(raw::BINARY, first)).await;
    connection.send(&raw::masked(raw::PING, b"are you there")).await;
    connection.send(&raw::masked(raw::CONTINUATION, second)).await;
    connection.send(&raw::masked(raw::CONTINUATION, b"")).await;
    connection.send(&raw::masked(raw::FINAL_CONTINUATION, third)).await;
    assert_eq!(connection.read_frame().await, (raw::PONG, b"are you there".to_vec()));
    let (opcode, frame) = connection.read_frame().await;
    assert_eq!(opcode, raw::FINAL_BINARY);
    let ack = Generation::V06.decode(&frame);
    assert!(matches!(&ack, Some(Message::HandshakeAck(ack)) if ack.success), "{ack:?}");
}

#[tokio::test]
async fn a_session_may_be_in_64_channels_and_further_ones_are_ignored() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    for number in 0..65 {
        alice.update(&format!("doc:{number}"), &cursor(1)).await;
        alice.expect_alive().await;
    }
    let mut bob = server.login(&user("bob")).await;
    bob.update("doc:64", &cursor(2)).await;
    bob.expect_silence(200).await;
    bob.update("doc:63", &cursor(3)).await;
    assert_eq!(users(&bob.expect_broadcast("doc:63").await), ["alice", "bob"]);
    assert_eq!(users(&alice.expect_broadcast("doc:63").await), ["alice", "bob"]);
    alice.leave("doc:0", "alice").await;
    alice.update("doc:64", &cursor(4)).await;
    assert_eq!(users(&bob.expect_broadcast("doc:64").await), ["bob", "alice"]);
}

#[tokio::test]
async fn a_state_over_the_limit_is_ignored_and_the_old_one_stays() {
    const STATE_BYTES_MAX: usize = 64 * 1024;
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    room[0].update("doc:1", &vec![7; STATE_BYTES_MAX + 1]).await;
    room[0].expect_alive().await;
    room[1].expect_silence(200).await;
    room[1].update("doc:1", &cursor(5)).await;
    let peers = room[0].expect_broadcast("doc:1").await;
    assert_eq!(state_of(&peers, "alice"), cursor(0));
    room[0].update("doc:1", &vec![7; STATE_BYTES_MAX]).await;
    let peers = room[1].expect_broadcast("doc:1").await;
    assert_eq!(state_of(&peers, "alice").len(), STATE_BYTES_MAX);
}

#[tokio::test]
async fn channel_names_are_one_to_255_bytes() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    let mut bob = server.login(&user("bob")).await;
    // 254 bytes of two-byte characters and one more make 255; bytes count, not characters.
    let longest = "é".repeat(127) + "x";
    for (name, allowed) in [
        (String::new(), false),
        ("x".repeat(256), false),
        ("é".repeat(128), false),
        (longest, true),
    ] {
        alice.update(&name, &cursor(1)).await;
        alice.expect_alive().await;
        bob.update(&name, &cursor(2)).await;
        if allowed {
            // Over two cores either may be first.
            let broadcast = bob.expect_broadcast(&name).await;
            let mut present = users(&broadcast);
            present.sort_unstable();
            assert_eq!(present, ["alice", "bob"]);
        } else {
            bob.expect_silence(100).await;
            alice.expect_silence(100).await;
        }
    }
}

#[tokio::test]
async fn a_full_channel_admits_nobody_until_somebody_leaves() {
    let server = Config::new().set("limits.members_per_channel_max", "2").start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let mut carol = server.login(&user("carol")).await;
    carol.update("doc:1", &cursor(3)).await;
    carol.expect_alive().await;
    room[0].expect_silence(200).await;
    room[0].update("doc:1", &cursor(9)).await;
    room[1].expect_broadcast("doc:1").await;
    carol.expect_silence(100).await;

    room.remove(0).close().await;
    assert_eq!(room[0].expect_leave("doc:1").await, "alice");
    carol.update("doc:1", &cursor(4)).await;
    assert_eq!(users(&room[0].expect_broadcast("doc:1").await), ["bob", "carol"]);
}

#[tokio::test]
async fn a_hostile_connection_never_disturbs_another_one() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    for seed in 0..200_u32 {
        abuse(&server, seed).await;
    }
    for value in 100..110 {
        room[0].update("doc:1", &cursor(value)).await;
        room[1].expect_broadcast("doc:1").await;
    }
    for client in &mut room {
        assert_eq!(client.receive(headcount_blackbox::ms(100)).await, Received::Silence);
    }
}

/// One connection that sends pseudo-random bytes, raw or as sync frames, and goes away.
async fn abuse(server: &Server, seed: u32) {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut noise = Vec::new();
    for _ in 0..300 {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        noise.push(state as u8);
    }
    match seed % 4 {
        0 => RawConnection::open(server.http).await.try_send(&noise).await,
        1 => RawConnection::open(server.sync_tcp).await.try_send(&noise).await,
        2 => RawConnection::upgraded(server.http).await.try_send(&noise).await,
        _ => send_framed(&mut server.login(&user("mallory")).await, &noise).await,
    }
}

async fn send_framed(client: &mut SyncClient, noise: &[u8]) {
    for piece in noise.chunks(30) {
        client.send(&frame_of(piece[0], &piece[1..])).await;
    }
}

#[tokio::test]
async fn whatever_is_sent_in_one_go_before_the_end_is_answered_in_order() {
    const PINGS: u32 = 1_500;
    let server = Server::start();
    let pings: Vec<u8> = (0..PINGS)
        .flat_map(|number| {
            let mut body = [0x2e; 60];
            body[..4].copy_from_slice(&number.to_be_bytes());
            raw::masked(raw::PING, &body)
        })
        .collect();
    for channel in 0..8 {
        // Some of the channels belong to another shard than the one that accepts.
        let upgrade = raw::UPGRADE.replace("/sync", &format!("/sync?channel=doc:{channel}"));
        let mut connection = RawConnection::open(server.http).await;
        connection.send(&[upgrade.as_bytes(), &pings].concat()).await;
        connection.half_close().await;
        connection.read_head().await;
        for number in 0..PINGS {
            let (opcode, body) = connection.read_frame().await;
            assert_eq!((opcode, &body[..4]), (raw::PONG, number.to_be_bytes().as_slice()));
        }
    }
}

/// As many as there are receive buffers of a shard, and more.
const FLOODERS: usize = 300;

/// Writes to all of them whatever they take, until told to stop.
fn flood(mut streams: Vec<std::net::TcpStream>, bytes: &[u8], stop: &AtomicBool) {
    // A write may end within a frame, so each goes on where it stopped.
    let mut written = vec![0; streams.len()];
    while !stop.load(Ordering::Relaxed) {
        for (stream, at) in streams.iter_mut().zip(&mut written) {
            *at = (*at + stream.write(&bytes[*at..]).unwrap_or(0)) % bytes.len();
        }
    }
}

#[tokio::test]
async fn however_many_flood_whoever_is_polite_is_answered() {
    let server = Server::start();
    let mut polite = server.login(&user("alice")).await;
    let mut flooders = Vec::new();
    for _ in 0..FLOODERS {
        flooders.push(RawConnection::upgraded(server.http).await.into_std());
    }
    // Pongs that nobody asked for are read, and not answered: the flood never has to stop.
    let pongs = raw::masked(raw::PONG, &[b'.'; 100]).repeat(600);
    let stop = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || flood(flooders, &pongs, &stop)
    });
    let (mut slowest, began) = (Duration::ZERO, Instant::now());
    while began.elapsed() < ms(3_000) {
        let asked = Instant::now();
        polite.expect_alive().await;
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(ms(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("the flood ends");
    assert!(slowest < ms(1_000), "{slowest:?}");
}
