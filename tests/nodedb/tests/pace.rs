//! Bursts and slow receivers: states are conflated, the last one always arrives (section 9.13).

use headcount_blackbox::room::state_of;
use headcount_blackbox::{
    Config, DEADLINE, Generation, Message, Received, Server, SyncClient, cursor, join_room, ms,
    user,
};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

fn numbered(number: u16) -> Vec<u8> {
    [&[0xcd], number.to_be_bytes().as_slice()].concat()
}

/// Reads broadcasts until alice's state is `wanted`; gives how many there were.
async fn broadcasts_until(client: &mut SyncClient, wanted: &[u8]) -> usize {
    let deadline = Instant::now() + 3 * DEADLINE;
    for count in 1.. {
        let peers = client.expect_broadcast("doc:1").await;
        if state_of(&peers, "alice") == wanted {
            return count;
        }
        assert!(Instant::now() < deadline, "the final state did not come in {count} broadcasts");
    }
    unreachable!("the loop is endless")
}

#[tokio::test]
async fn with_an_interval_a_burst_becomes_one_broadcast_per_interval() {
    const INTERVAL_MS: u64 = 100;
    let server = Config::new().namespace(&format!("presence_interval_ms = {INTERVAL_MS}")).start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    room[1].expect_silence(2 * INTERVAL_MS).await;
    let started = Instant::now();
    for number in 0..1000 {
        room[0].update("doc:1", &numbered(number)).await;
    }
    let count = broadcasts_until(&mut room[1], &numbered(999)).await;
    let intervals = started.elapsed().as_millis() as usize / INTERVAL_MS as usize;
    assert!(count <= intervals + 2, "{count} broadcasts in {intervals} intervals");
    room[1].expect_silence(3 * INTERVAL_MS).await;
}

#[tokio::test]
async fn with_an_interval_a_lone_update_is_not_held_back() {
    let server = Config::new().namespace("presence_interval_ms = 2000").start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    room[1].expect_silence(2_200).await;
    let sent = Instant::now();
    room[0].update("doc:1", &cursor(9)).await;
    room[1].expect_broadcast("doc:1").await;
    assert!(sent.elapsed() < ms(1_000), "{:?}", sent.elapsed());
}

#[tokio::test]
async fn with_an_interval_a_leave_still_arrives() {
    let server = Config::new().namespace("presence_interval_ms = 100").start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let mut bob = room.pop().expect("two members");
    let mut alice = room.pop().expect("two members");
    alice.update("doc:1", &cursor(9)).await;
    alice.close().await;
    let deadline = Instant::now() + DEADLINE;
    while !matches!(bob.next().await, Message::Leave { user, .. } if user == "alice") {
        assert!(Instant::now() < deadline, "no leave");
    }
    bob.expect_silence(300).await;
}

#[tokio::test]
async fn the_last_state_of_a_burst_arrives() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    for number in 0..1000 {
        room[0].update("doc:1", &numbered(number)).await;
    }
    let count = broadcasts_until(&mut room[1], &numbered(999)).await;
    assert!(count <= 1000, "{count} broadcasts of 1000 updates");
    room[1].expect_silence(200).await;
}

#[tokio::test]
async fn states_of_a_burst_never_go_backwards() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &["alice", "bob", "carol"].map(user)).await;
    for number in 0..500 {
        room[0].update("doc:1", &numbered(number)).await;
    }
    for client in &mut room[1..] {
        let mut last = 0;
        while last < 499 {
            let peers = client.expect_broadcast("doc:1").await;
            let state = state_of(&peers, "alice");
            let number = u16::from_be_bytes([state[1], state[2]]);
            assert!(number >= last, "{}: {number} after {last}", client.name);
            last = number;
        }
    }
}

#[tokio::test]
async fn a_slow_watcher_is_given_the_latest_state_and_not_the_backlog() {
    const UPDATES: usize = 2_000;
    const STATE_BYTES: usize = 32 * 1024;
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    alice.update("doc:1", &cursor(0)).await;
    alice.expect_alive().await;
    let mut watcher = with_small_window(&server).await;
    watcher.update("doc:1", &cursor(1)).await;
    watcher.expect_broadcast("doc:1").await;
    alice.expect_broadcast("doc:1").await;

    let mut state = vec![0; STATE_BYTES];
    for number in 0..UPDATES {
        state[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let sent = timeout(DEADLINE, alice.update("doc:1", &state)).await;
        sent.expect("a slow watcher must not block a sender");
    }
    alice.expect_alive().await;
    let count = broadcasts_until(&mut watcher, &state).await;
    assert!(count < UPDATES / 2, "{count} broadcasts of {UPDATES} were kept for it");
}

/// A watcher whose kernel takes little, so that the server's own queue is what fills.
async fn with_small_window(server: &Server) -> SyncClient {
    let who = user("watcher");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    SockRef::from(&socket).set_recv_buffer_size(16 * 1024).expect("sets SO_RCVBUF");
    socket.connect(&server.http.into()).expect("connects");
    socket.set_nonblocking(true).expect("sets O_NONBLOCK");
    let stream = TcpStream::from_std(socket.into()).expect("a tokio stream");
    let mut client = SyncClient::over(stream, server.http, &who).await;
    assert!(client.greet(&who).await.success);
    client
}

#[tokio::test]
async fn a_ping_flood_that_is_never_read_harms_nobody_else() {
    let server = Server::start();
    let mut room = join_room(&server, "doc:1", &[user("alice"), user("bob")]).await;
    let mut flooder = server.login(&user("mallory")).await;
    let ping = Generation::V06.ping(1);
    let flood = async {
        for _ in 0..200_000 {
            flooder.send(&ping).await;
        }
    };
    // The flooder blocks once nobody reads its pongs; that is its own affair.
    let flood = timeout(ms(2_000), flood);
    let polite = async {
        for value in 50..100 {
            room[0].update("doc:1", &cursor(value)).await;
            let sent = Instant::now();
            room[1].expect_broadcast("doc:1").await;
            assert!(sent.elapsed() < ms(1_000), "{:?}", sent.elapsed());
        }
        assert_eq!(room[1].receive(ms(100)).await, Received::Silence);
    };
    let _ = tokio::join!(flood, polite);
}
