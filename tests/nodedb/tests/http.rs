//! The HTTP edge: upgrades good and bad, and the admin address.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use headcount_blackbox::raw::{self, RawConnection, get, request};
use headcount_blackbox::{Config, DEADLINE, Generation, Message, Server, ms, user};

#[tokio::test]
async fn a_good_upgrade_is_accepted_with_the_key_of_the_rfc() {
    let server = Server::start();
    let mut connection = RawConnection::open(server.http).await;
    connection.send(raw::UPGRADE.as_bytes()).await;
    let head = connection.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_ascii_lowercase();
    let accept = format!("sec-websocket-accept: {}", raw::UPGRADE_ACCEPT.to_ascii_lowercase());
    assert!(lower.contains(&accept), "{head}");
    assert!(lower.contains("upgrade: websocket"), "{head}");
    assert!(lower.contains("connection: upgrade"), "{head}");
    assert!(!lower.contains("sec-websocket-extensions"), "none was asked for: {head}");
}

#[tokio::test]
async fn an_upgrade_may_arrive_one_byte_at_a_time() {
    let server = Server::start();
    let mut connection = RawConnection::open(server.http).await;
    connection.send_slowly(raw::UPGRADE.as_bytes()).await;
    let head = connection.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    connection.send_slowly(&raw::masked(raw::FINAL_BINARY, &user("alice").greeting())).await;
    expect_ack(&mut connection).await;
}

#[tokio::test]
async fn an_upgrade_and_the_first_frames_may_arrive_together() {
    let server = Server::start();
    let mut connection = RawConnection::open(server.http).await;
    let greeting = raw::masked(raw::FINAL_BINARY, &user("alice").greeting());
    let ping = raw::masked(raw::FINAL_BINARY, &Generation::V06.ping(5));
    connection.send(&[raw::UPGRADE.as_bytes(), &greeting, &ping].concat()).await;
    connection.read_head().await;
    expect_ack(&mut connection).await;
    let (_, frame) = connection.read_frame().await;
    let pong = Message::Ping { timestamp_ms: 5, is_pong: true };
    assert_eq!(Generation::V06.decode(&frame), Some(pong));
}

async fn expect_ack(connection: &mut RawConnection) {
    let (opcode, frame) = connection.read_frame().await;
    assert_eq!(opcode, raw::FINAL_BINARY);
    let message = Generation::V06.decode(&frame);
    assert!(matches!(&message, Some(Message::HandshakeAck(ack)) if ack.success), "{message:?}");
}

#[tokio::test]
async fn header_names_and_tokens_are_read_in_any_case() {
    let server = Server::start();
    let head = "GET /sync HTTP/1.1\r\nhOST: x\r\nCONNECTION: keep-alive, UPGRADE\r\n\
        UPGRADE: WebSocket\r\nsec-websocket-VERSION: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut connection = RawConnection::open(server.http).await;
    connection.send(head.as_bytes()).await;
    assert!(connection.read_head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn the_page_at_the_root_is_served() {
    let server = Server::start();
    let response = get(server.http, "/").await;
    assert_eq!(response.status, 200, "{}", response.text);
    assert!(response.text.to_ascii_lowercase().contains("headcount"), "{}", response.text);
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    let server = Server::start();
    assert_eq!(get(server.http, "/no/such/path").await.status, 404);
    assert_eq!(get(server.admin, "/no/such/path").await.status, 404);
}

#[tokio::test]
async fn incomplete_upgrades_are_400() {
    let server = Server::start();
    let good = raw::UPGRADE;
    let bad = [
        ("no key", good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "")),
        ("a short key", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")),
        (
            "a key that is not base64",
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "?".repeat(24).as_str()),
        ),
        ("no connection token", good.replace("Connection: Upgrade", "Connection: close")),
    ];
    for (what, head) in bad {
        let response = request(server.http, &head).await;
        assert_eq!(response.status, 400, "{what}: {}", response.text);
    }
}

#[tokio::test]
async fn upgrades_by_another_method_or_http_version_are_refused() {
    let server = Server::start();
    for head in [raw::UPGRADE.replace("GET", "POST"), raw::UPGRADE.replace("HTTP/1.1", "HTTP/1.0")]
    {
        let response = request(server.http, &head).await;
        assert!((400..=505).contains(&response.status), "{head}: {}", response.text);
    }
}

#[tokio::test]
async fn another_websocket_version_is_426_and_names_ours() {
    let server = Server::start();
    let version = "Sec-WebSocket-Version: ";
    let head = raw::UPGRADE.replace(&format!("{version}13"), &format!("{version}12"));
    let response = request(server.http, &head).await;
    assert_eq!(response.status, 426, "{}", response.text);
    let lower = response.text.to_ascii_lowercase();
    assert!(lower.contains("sec-websocket-version: 13"), "{}", response.text);
}

#[tokio::test]
async fn oversize_headers_are_431() {
    let server = Server::start();
    let long = format!("X-Long: {}\r\n\r\n", "x".repeat(33 * 1024));
    let many: String = (0..150).map(|number| format!("X-{number}: y\r\n")).collect();
    for more in [long, many + "\r\n"] {
        let head = raw::UPGRADE.trim_end().to_owned() + "\r\n" + &more;
        let response = request(server.http, &head).await;
        assert_eq!(response.status, 431, "{}", response.text);
    }
}

#[tokio::test]
async fn a_request_that_is_no_http_is_answered_400_or_ended() {
    let server = Server::start();
    let mut connection = RawConnection::open(server.http).await;
    connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await;
    connection.expect_end().await;
}

#[tokio::test]
async fn health_and_readiness_are_served() {
    let server = Server::start();
    for path in ["/healthz", "/readyz"] {
        let response = get(server.admin, path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text);
    }
}

#[tokio::test]
async fn metrics_are_in_the_exposition_format() {
    let server = Server::start();
    let mut alice = server.login(&user("alice")).await;
    alice.update("doc:1", b"\x80").await;
    alice.expect_alive().await;
    let response = get(server.admin, "/metrics").await;
    assert_eq!(response.status, 200, "{}", response.text);
    assert!(response.text.contains("# TYPE headcount_"), "{}", response.text);
}

/// Connections that the server has accepted.
async fn open_connections(server: &Server) -> u32 {
    let metrics = get(server.admin, "/metrics").await.text;
    let shards = metrics.lines().filter(|line| line.starts_with("headcount_connections{"));
    let counts = shards.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u32>().ok());
    counts.sum()
}

/// A socket that has not set TCP_NODELAY sends the next small piece when the one before has been
/// acknowledged, which may take a kernel 40 ms unless it is told otherwise.
#[test]
fn whoever_sends_its_first_request_in_pieces_is_not_kept_waiting() {
    let server = Server::start();
    let (upgrade, greeting) = (raw::UPGRADE.as_bytes(), user("alice").greeting());
    let poll = b"POST /lp/connect HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef";
    // Nobody answers an update before the greeting.
    let update = Generation::V06.update("doc:1", b"\x80");
    let late_greeting = [&*update, &*greeting].concat();
    let metrics = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    for (what, address, bytes, cuts) in [
        ("upgrade", server.http, upgrade, [20, 40]),
        ("request with a body", server.http, poll, [poll.len() - 6, poll.len() - 3]),
        ("part of a head", server.http, poll, [10, poll.len() - 3]),
        ("greeting", server.sync_tcp, &greeting, [3, 20]),
        (
            "greeting after an update",
            server.sync_tcp,
            &late_greeting,
            [update.len(), update.len() + 5],
        ),
        ("admin", server.admin, metrics, [10, 20]),
    ] {
        let delay = || {
            let mut client = TcpStream::connect(address).expect("connects");
            client.set_read_timeout(Some(DEADLINE)).expect("sets a time-out");
            let began = Instant::now();
            for (from, to) in [(0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], bytes.len())] {
                client.write_all(&bytes[from..to]).expect("sends");
                // Otherwise the last two would leave together.
                std::thread::sleep(ms(3));
            }
            let answered = client.read(&mut [0; 512]).expect("an answer");
            assert!(answered > 0, "{what}");
            began.elapsed()
        };
        let least = (0..5).map(|_| delay()).min().expect("five");
        assert!(least < ms(30), "{what}: {least:?}");
    }
}

#[tokio::test]
async fn connections_are_accepted_when_they_have_sent_something_if_so_configured() {
    let server = Config::new().set("listen.defer_accept", "true").start();
    let mut silent = RawConnection::open(server.http).await;
    let mut quick = RawConnection::upgraded(server.http).await;
    assert_eq!(open_connections(&server).await, 1);
    tokio::time::sleep(ms(500)).await;
    assert_eq!(open_connections(&server).await, 1);
    silent.send(raw::UPGRADE.as_bytes()).await;
    assert!(silent.read_head().await.starts_with("HTTP/1.1 101 "));
    // Whoever stays silent is accepted in the end, and timed like anybody else.
    let _silent = RawConnection::open(server.http).await;
    tokio::time::sleep(ms(2_500)).await;
    assert_eq!(open_connections(&server).await, 3);
    quick.half_close().await;
    quick.expect_end().await;
}

#[tokio::test]
async fn a_connection_is_let_go_of_once_both_have_said_goodbye() {
    let server = Server::start();
    let goodbye = raw::masked(raw::CLOSE, &1000_u16.to_be_bytes());
    // Whatever a client says after its goodbye is not heard.
    let babble = raw::masked(raw::FINAL_BINARY, &user("alice").greeting());
    let mut clients = Vec::new();
    for after in [&[][..], &babble] {
        let mut client = RawConnection::upgraded(server.http).await;
        client.send(&[&goodbye, after].concat()).await;
        assert_eq!(client.read_close().await, 1000);
        client.try_send(after).await;
        clients.push(client);
    }
    // The clients' sides are open still.
    tokio::time::sleep(ms(500)).await;
    assert_eq!(open_connections(&server).await, 0);
}
