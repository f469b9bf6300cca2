//! Copies of a channel's members that differ from the server's are found and mended: records that
//! are lost or changed on their way to the Rust client.
#![cfg(feature = "server")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use headcount::client::prelude::*;
use headcount::wire::foony::binary;
use headcount::wire::websocket::{Opcode, append_frame};
use peers::{Server, WITHIN, names, until};
use serde_json::json;

mod command;
mod peers;
mod served;
mod tempdir;

/// Opcodes of the graph extension.
const MEMBER: u8 = 66;
const DIGEST: u8 = 73;

/// What is done to records about members: nothing, or those of Carl are lost, or their metadata is
/// changed.
const PASS: u8 = 0;
const DROP: u8 = 1;
const CHANGE: u8 = 2;

/// Forwards between one client and the server, record by record towards the client.
struct Proxy {
    url: String,
    fault: Arc<AtomicU8>,
    /// Members and digests that were forwarded.
    members: Arc<AtomicUsize>,
    digests: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(server: &Server) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let target = server.url.trim_start_matches("ws://").to_owned();
        let (fault, members, digests) = Default::default();
        let proxy = Proxy { url, fault, members, digests };
        let (fault, members, digests) =
            (Arc::clone(&proxy.fault), Arc::clone(&proxy.members), Arc::clone(&proxy.digests));
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let upstream = TcpStream::connect(target).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            let mut relay = Relay { upstream, client, fault, members, digests };
            drop(relay.run());
        });
        proxy
    }

    fn joined(&self, client_id: &str, channel: &str) -> Client {
        let config = ClientConfig::new(&self.url).key(peers::KEY).client_id(client_id);
        Client::connect(config.join(channel).graph_interval(Duration::ZERO)).unwrap()
    }
}

struct Relay {
    upstream: TcpStream,
    client: TcpStream,
    fault: Arc<AtomicU8>,
    members: Arc<AtomicUsize>,
    digests: Arc<AtomicUsize>,
}

impl Relay {
    fn run(&mut self) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.bytes(1)?);
        }
        self.client.write_all(&head)?;
        loop {
            let head = self.bytes(2)?;
            let length = match head[1] {
                126 => {
                    let length = self.bytes(2)?;
                    usize::from(u16::from_be_bytes([length[0], length[1]]))
                }
                127 => {
                    let length = self.bytes(8)?;
                    length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
                }
                length => usize::from(length),
            };
            let payload = self.bytes(length)?;
            let mut frame = Vec::new();
            match head[0] {
                0x82 => append_frame(&mut frame, Opcode::Binary, &self.records(&payload)),
                0x89 => append_frame(&mut frame, Opcode::Ping, &payload),
                _ => append_frame(&mut frame, Opcode::Close, &payload),
            }
            self.client.write_all(&frame)?;
        }
    }

    fn bytes(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.upstream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn records(&self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for record in binary::records(message).map(|record| record.unwrap().bytes()) {
            let is_about_member = record[0] == MEMBER;
            let mut record = record.to_vec();
            match self.fault.load(Ordering::Relaxed) {
                DROP if is_about_member && has(&record, b"carl").is_some() => continue,
                CHANGE if is_about_member => {
                    let at = has(&record, b"right");
                    at.into_iter().for_each(|at| record[at..at + 5].copy_from_slice(b"wrong"));
                }
                _ => {}
            }
            self.members.fetch_add(usize::from(is_about_member), Ordering::Relaxed);
            self.digests.fetch_add(usize::from(record[0] == DIGEST), Ordering::Relaxed);
            let mut length = record.len();
            while length > 0x7f {
                out.push(length as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            out.extend(record);
        }
        out
    }
}

/// Where these bytes are in a record.
fn has(record: &[u8], bytes: &[u8]) -> Option<usize> {
    record.windows(bytes.len()).position(|window| window == bytes)
}

const DIGESTS: &str = "[limits]\npeer_digest_ms = 100\n";

fn metadata_of(client: &Client, client_id: &str) -> Option<String> {
    let graph = client.presence().graph();
    let peer = graph.remote_peers.iter().find(|peer| peer.client_id() == Some(client_id))?;
    Some(peer.peer_metadata.get("is")?.as_str()?.to_owned())
}

#[test]
fn members_whose_enter_or_leave_was_lost_are_mended() {
    let server = Server::start(DIGESTS);
    let proxy = Proxy::start(&server);
    let ann = proxy.joined("ann", "shop");
    let _bob = server.joined("bob", "shop");
    until("bob", || names(&ann) == ["bob"]);
    proxy.fault.store(DROP, Ordering::Relaxed);
    let carl = server.joined("carl", "shop");
    // Its enter is lost, and so is the first answer; the next digest brings another.
    thread::sleep(Duration::from_millis(150));
    assert_eq!(names(&ann), ["bob"]);
    proxy.fault.store(PASS, Ordering::Relaxed);
    until("carl", || names(&ann) == ["bob", "carl"]);
    let (events, seen) = peers::collected();
    let _observer = ann.channel("shop").observe_members(events);
    seen.recv_timeout(WITHIN).unwrap();
    proxy.fault.store(DROP, Ordering::Relaxed);
    drop(carl);
    until("carl to go", || names(&ann) == ["bob"]);
    let Ok(MemberEvent::Leave { member, .. }) = seen.recv_timeout(WITHIN) else {
        panic!("a leave")
    };
    assert_eq!(member.client_id, "carl");
}

#[test]
fn a_member_that_was_changed_on_its_way_is_mended_by_the_next_digest() {
    let server = Server::start(DIGESTS);
    let proxy = Proxy::start(&server);
    let ann = proxy.joined("ann", "shop");
    let bob = server.joined("bob", "shop");
    bob.presence().set_peer_metadata(&json!({"is": "first"})).unwrap();
    until("bob", || metadata_of(&ann, "bob").as_deref() == Some("first"));
    let (callback, _) = peers::collected();
    let _observer = ann.presence().observe(callback);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (noted, observed) = (Arc::clone(&seen), Arc::clone(&ann.presence()));
    let _noting = observed.observe(move |graph| {
        let is = graph.remote_peers.iter().filter_map(|p| p.peer_metadata.get("is"));
        noted.lock().unwrap().extend(is.cloned());
    });
    proxy.fault.store(CHANGE, Ordering::Relaxed);
    bob.presence().set_peer_metadata(&json!({"is": "right"})).unwrap();
    until("what is wrong", || metadata_of(&ann, "bob").as_deref() == Some("wrong"));
    proxy.fault.store(PASS, Ordering::Relaxed);
    until("what is right", || metadata_of(&ann, "bob").as_deref() == Some("right"));
    let last = || seen.lock().unwrap().last().cloned();
    until("what is right, observed", || last() == Some(json!("right")));
}

#[test]
fn only_the_members_of_the_bucket_that_differs_are_sent_again() {
    const PEERS: usize = 130;
    let server = Server::start(DIGESTS);
    let proxy = Proxy::start(&server);
    let ann = proxy.joined("ann", "shop");
    let peers: Vec<Client> =
        (0..PEERS).map(|n| server.joined(&format!("peer-{n}"), "shop")).collect();
    until("everyone", || names(&ann).len() == PEERS);
    // While nothing is wrong, digests come and nothing is asked for.
    thread::sleep(Duration::from_millis(300));
    let members = proxy.members.load(Ordering::Relaxed);
    proxy.fault.store(CHANGE, Ordering::Relaxed);
    peers[7].presence().set_peer_metadata(&json!({"is": "right"})).unwrap();
    until("what is wrong", || metadata_of(&ann, "peer-7").as_deref() == Some("wrong"));
    proxy.fault.store(PASS, Ordering::Relaxed);
    until("what is right", || metadata_of(&ann, "peer-7").as_deref() == Some("right"));
    let again = proxy.members.load(Ordering::Relaxed) - members;
    assert!((2..PEERS / 2).contains(&again), "{again} members");
    // The last one shows that all is right.
    thread::sleep(Duration::from_millis(300));
    let digests = proxy.digests.load(Ordering::Relaxed);
    thread::sleep(Duration::from_millis(400));
    assert_eq!(proxy.digests.load(Ordering::Relaxed), digests, "no digest without a change");
}
