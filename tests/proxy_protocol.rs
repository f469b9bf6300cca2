//! The real binary behind a load balancer that speaks the PROXY protocol.
#![cfg(feature = "server")]

mod foony_client;
mod raw;
mod served;
mod tempdir;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use foony_client::Server;
use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::session::Handshake;
use headcount::wire::sync::{Layout, Message, append_message};
use raw::UPGRADE;

/// Longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\x01\xbb\
    \x04\0\0";

const TIME: &[u8] = b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n";

fn upgrade() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n").into_bytes()
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads until what came satisfies `enough`, or the end.
fn read_until(stream: &mut TcpStream, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    while !enough(&got) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&piece[..count]),
            // The server had not read everything when it closed.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {}", got.escape_ascii()),
        }
    }
    got
}

fn status(stream: &mut TcpStream) -> String {
    let head = read_until(stream, |got| got.windows(4).any(|end| end == b"\r\n\r\n"));
    String::from_utf8_lossy(&head).chars().skip(9).take(3).collect()
}

fn greeting() -> Vec<u8> {
    let handshake = Handshake {
        jwt_token: "",
        vector_clock: Map::default(),
        subscribed_shapes: Vec::new(),
        client_version: "test",
        lite_id: "",
        epoch: 0,
        wire_version: 1,
    };
    let mut frame = Vec::new();
    append_message(&Message::Handshake(handshake), Layout::V0_6, &mut frame).unwrap();
    frame
}

/// Waits for a counter to come to `expected`.
fn await_counter(server: &Server, name: &str, labels: &str, expected: u64) {
    let deadline = Instant::now() + DEADLINE;
    while server.counter(name, labels) != expected {
        assert!(Instant::now() < deadline, "{name} {labels}: {}", server.counter(name, labels));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_header_is_taken_off_whatever_its_version_and_the_cut() {
    let server = Server::start_listening("proxy_protocol = [\"http\", \"sync_tcp\"]", "");
    for header in [V1, V2, V2_LOCAL] {
        let mut whole = open(server.http);
        whole.write_all(&[header, TIME].concat()).unwrap();
        assert_eq!(status(&mut whole), "200", "{}", header.escape_ascii());
        // What comes later on the connection has no header.
        whole.write_all(TIME).unwrap();
        assert_eq!(status(&mut whole), "200");

        let mut in_pieces = open(server.http);
        for byte in [header, &upgrade()].concat() {
            in_pieces.write_all(&[byte]).unwrap();
        }
        assert_eq!(status(&mut in_pieces), "101", "{}", header.escape_ascii());

        let mut sync = open(server.sync_tcp);
        sync.write_all(header).unwrap();
        sync.write_all(&greeting()).unwrap();
        assert!(!read_until(&mut sync, |got| got.len() >= 10).is_empty(), "an acknowledgement");
    }
    let mut admin = open(server.admin);
    admin.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(status(&mut admin), "200", "the admin address has no load balancer");
}

#[test]
fn what_a_trusted_address_sends_without_a_header_is_not_answered() {
    let server = Server::start_listening("proxy_protocol = [\"http\"]", "");
    for bytes in [TIME, &upgrade(), b"PROXY TCP9 \r\n", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0"] {
        let mut stream = open(server.http);
        stream.write_all(bytes).unwrap();
        assert_eq!(read_until(&mut stream, |_| false), b"", "{}", bytes.escape_ascii());
    }
    await_counter(&server, "headcount_disconnects_total", "reason=\"protocol\"", 4);
    let mut sync = open(server.sync_tcp);
    sync.write_all(&greeting()).unwrap();
    assert!(!read_until(&mut sync, |got| got.len() >= 10).is_empty(), "not behind it");
    // A check that opens a port and closes it again is no fault.
    drop(open(server.http));
    await_counter(&server, "headcount_disconnects_total", "reason=\"clean\"", 1);
}

#[test]
fn an_address_that_is_not_trusted_is_closed_and_counted() {
    let listen = "proxy_protocol = [\"http\"]\nproxy_trusted = [\"192.0.2.1\", \"::1\"]";
    let server = Server::start_listening(listen, "");
    for _ in 0..3 {
        let mut stream = open(server.http);
        // It may be closed before this.
        let _ = stream.write_all(&[V1, TIME].concat());
        assert_eq!(read_until(&mut stream, |_| false), b"");
    }
    let labels = "what=\"connection\",reason=\"untrusted\"";
    await_counter(&server, "headcount_dropped_total", labels, 3);
    assert_eq!(server.counter("headcount_accepted_total", ""), 0);
    let mut sync = open(server.sync_tcp);
    sync.write_all(&greeting()).unwrap();
    assert!(!read_until(&mut sync, |got| got.len() >= 10).is_empty(), "anyone may");
}
