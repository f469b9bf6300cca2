//! The graph extension byte by byte, against the real server: the tables of `docs/protocol.md`.
#![cfg(feature = "server")]

use std::borrow::Cow;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use foony_client::{Client, Server};
use headcount::limits::VALUE_DEPTH_MAX;
use headcount::signature::{MetadataSignature, ProvenKey};
use headcount::wire::foony::peer::{Check, Decision, Direct};
use headcount::wire::foony::{Action, Event, PeerRequest, PeerUpdate, Presence, Request, binary};

mod foony_client;
mod golden;
mod served;
mod tempdir;

const NOTHING_WITHIN: Duration = Duration::from_millis(100);

fn update(id: u64, metadata: &str) -> PeerUpdate<'static> {
    PeerUpdate {
        id,
        device: b"device".into(),
        device_name: "till".into(),
        os: "Linux".into(),
        sdk_version: "1".into(),
        metadata: Cow::Owned(metadata.as_bytes().to_vec()),
        ..PeerUpdate::default()
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn signed(
    key: &SigningKey,
    nonce: &[u8],
    id: u64,
    version: u64,
    metadata: &str,
) -> PeerUpdate<'static> {
    PeerUpdate {
        key: Some(Box::new(ProvenKey::new(key, nonce))),
        signature: Some(Box::new(MetadataSignature::new(key, version, 1, metadata.as_bytes()))),
        ..update(id, metadata)
    }
}

/// A peer that has been greeted, and what it has to sign.
fn greeted(server: &Server, name: &str) -> (Client, Vec<u8>) {
    let mut client = Client::connect_peer(server, name, update(0, "{}"));
    let nonce = client.until(|event| match event {
        Event::PeerGreeting(greeting) => Some(greeting.nonce.to_vec()),
        _ => None,
    });
    (client, nonce)
}

fn enter(client: &mut Client, channel: &'static str) {
    client.ask(|id| {
        let (channel, encoding) = (channel.into(), "".into());
        Request::Presence(Presence { id, channel, action: Action::Enter, data: b"1", encoding })
    });
}

/// The code of the error that answers a request.
fn code_of(client: &mut Client, request: u64) -> u32 {
    client.until(|event| match event {
        Event::Error { id, code, .. } if *id == request => Some(code.code()),
        Event::Ack { id, .. } if *id == request => panic!("accepted"),
        _ => None,
    })
}

fn is_silent(client: &mut Client) -> bool {
    let mut events = 0;
    client.for_a_while(NOTHING_WITHIN, |_| events += 1);
    events == 0
}

#[test]
fn every_record_reads_back_as_it_was_written() {
    let requests = [
        PeerRequest::Update(PeerUpdate { asks_ms: 300, handler: 7, ..update(5, "{}") }),
        PeerRequest::Update(signed(&key(1), &[7; 32], 6, 300, "{}")),
        PeerRequest::Decide { request: 3, decision: Decision::Allow },
        PeerRequest::Decide {
            request: u64::MAX,
            decision: Decision::Deny { reason: "no".into(), retry_after_ms: 9 },
        },
        PeerRequest::Direct(Direct {
            id: 1,
            channel: "shop".into(),
            to: &[1; 16],
            name: "n".into(),
            data: b"[1]",
        }),
        PeerRequest::Took { number: 300, is_taken: true },
        PeerRequest::Took { number: 0, is_taken: false },
        PeerRequest::Check(Check { id: 9, channel: "shop".into(), buckets: vec![1, u128::MAX] }),
    ];
    for request in &requests {
        let mut bytes = Vec::new();
        binary::append_peer_request(request, &mut bytes);
        let record = binary::records(&bytes).next().unwrap().unwrap();
        assert_eq!(record.peer_request().unwrap().as_ref(), Ok(request));
        for cut in 1..record.bytes().len() {
            // Its length as a `uvarint` of two bytes.
            let mut message = vec![cut as u8 | 0x80, (cut >> 7) as u8];
            message.extend_from_slice(&record.bytes()[..cut]);
            let cut_record = binary::records(&message).next().unwrap().unwrap();
            assert!(cut_record.peer_request().unwrap().is_err(), "{request:?} of {cut} bytes");
        }
    }
}

#[test]
fn every_vector_decodes_to_its_value_and_encodes_to_its_bytes() {
    for line in golden::lines("graph.jsonl", 20) {
        let (bytes, value) = (golden::hex(golden::text(&line, "hex")), &line["value"]);
        let record = binary::records(&bytes).next().unwrap().unwrap();
        let mut again = Vec::new();
        let found = if golden::text(&line, "dir") == "c2s" {
            let request = record.peer_request().unwrap().unwrap();
            binary::append_peer_request(&request, &mut again);
            format!("{request:?}")
        } else {
            let event = record.event().unwrap();
            if let Event::PeerMember(peer) = &event {
                let hash = format!("{:032x}", binary::member_hash(peer));
                assert_eq!(golden::text(&line, "hash"), hash, "{}", line["name"]);
                let (client_id, connection_id) = (&*peer.member.client_id, "c1");
                let bucket = binary::bucket_of(client_id, connection_id, 7);
                assert_eq!(line["bucket_of_7"], bucket, "{}", line["name"]);
            }
            binary::append_event(&event, &mut again);
            format!("{event:?}")
        };
        assert_eq!(again, bytes, "{}", line["name"]);
        assert_eq!(*value, found, "{}", line["name"]);
    }
}

#[test]
fn a_peer_is_greeted_with_its_key_and_sent_more_about_members() {
    let server = Server::start("");
    let mut ann = Client::connect_peer(&server, "ann", update(0, r#"{"role":"till"}"#));
    let key = ann.until(|event| match event {
        Event::PeerGreeting(greeting) => {
            assert_eq!(greeting.metadata_bytes_max, 4096);
            Some(greeting.key.to_vec())
        }
        _ => None,
    });
    // SHA-256 of "headcount peer key 1", then "demo", "ann" and "device", each after its length.
    assert_eq!(hex(&key), "5139e1e4f7107578100b20dd406eb8e5");
    enter(&mut ann, "shop");
    let mut bob = Client::connect(&server, "bob", "");
    enter(&mut bob, "shop");
    let id = ann.next_id();
    ann.send(&[Request::PresenceSubscribe { id, channel: "shop".into() }]);
    let mut seen = Vec::new();
    ann.until(|event| match event {
        Event::PeerMember(peer) => {
            assert_eq!((peer.is_lost, peer.reason, peer.transport as u8), (false, 0, 1));
            let metadata = String::from_utf8(peer.metadata.to_vec()).unwrap();
            seen.push((peer.member.client_id.to_string(), peer.device_name.to_string(), metadata));
            None
        }
        Event::Ack { id: answered, .. } => (*answered == id).then_some(()),
        _ => None,
    });
    let expected = [("ann", "till", r#"{"role":"till"}"#), ("bob", "bob", "")];
    assert_eq!(seen, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    // Bob, who is no peer, is sent what he has always been sent.
    let id = bob.next_id();
    bob.send(&[Request::PresenceSubscribe { id, channel: "shop".into() }]);
    bob.until(|event| match event {
        Event::PeerMember(_) => panic!("not asked for"),
        Event::Ack { id: answered, .. } => (*answered == id).then_some(()),
        _ => None,
    });
    ann.send_peer(&[PeerRequest::Update(update(77, "{}"))]);
    ann.until(|event| matches!(event, Event::Ack { id: 77, .. }).then_some(()));
    ann.until(|event| match event {
        Event::PeerMember(peer) => {
            assert_eq!((peer.metadata, peer.member.action), (&b"{}"[..], Action::Update));
            Some(())
        }
        _ => None,
    });
    assert!(is_silent(&mut bob), "metadata is no change for him");
}

#[test]
fn bad_input_is_answered_and_harms_nobody() {
    let server = Server::start("");
    let mut plain = Client::connect(&server, "plain", "");
    plain.send_peer(&[PeerRequest::Update(update(9, "{}"))]);
    assert_eq!(code_of(&mut plain, 9), 40001);
    let mut ann = Client::connect_peer(&server, "ann", update(0, "{}"));
    ann.until(|event| matches!(event, Event::PeerGreeting(_)).then_some(()));
    enter(&mut ann, "shop");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(VALUE_DEPTH_MAX), "]".repeat(VALUE_DEPTH_MAX));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(4096));
    let refused = [
        update(10, &deep),
        update(11, &long),
        update(12, "[]"),
        update(13, ""),
        PeerUpdate { device: b"other".into(), ..update(14, "{}") },
        PeerUpdate { device_name: "x".repeat(256).into(), ..update(15, "{}") },
        PeerUpdate { os: "x".repeat(33).into(), ..update(16, "{}") },
    ];
    for update in refused {
        let id = update.id;
        ann.send_peer(&[PeerRequest::Update(update)]);
        assert_eq!(code_of(&mut ann, id), 40001, "request {id}");
    }
    // A record that does not decode.
    ann.send_bytes(&[2, 64, 0x80]);
    assert_eq!(code_of(&mut ann, 0), 40001);
    // Answers to what was not asked.
    ann.send_peer(&[
        PeerRequest::Decide { request: 1, decision: Decision::Allow },
        PeerRequest::Took { number: 1, is_taken: true },
    ]);
    let direct = |id, channel: &'static str, to| {
        PeerRequest::Direct(Direct {
            id,
            channel: channel.into(),
            to,
            name: "n".into(),
            data: b"1",
        })
    };
    for (id, channel) in [(20, "shop"), (21, "elsewhere")] {
        ann.send_peer(&[direct(id, channel, &[1; 16])]);
        ann.until(|event| match event {
            Event::DirectRefused(refused) if refused.id == id => {
                assert!(!refused.is_denied);
                Some(())
            }
            _ => None,
        });
    }
    ann.send_peer(&[direct(22, "shop", &[1; 15])]);
    assert_eq!(code_of(&mut ann, 22), 40001);
    // Everything else goes on.
    enter(&mut ann, "office");
}

#[test]
fn a_client_that_proves_its_key_is_the_peer_with_that_key() {
    let server = Server::start("");
    let (mut ann, nonce) = greeted(&server, "ann");
    assert_eq!(nonce.len(), 32);
    ann.send_peer(&[PeerRequest::Update(signed(&key(1), &nonce, 8, 5, r#"{"role":"till"}"#))]);
    ann.until(|event| matches!(event, Event::Ack { id: 8, .. }).then_some(()));
    enter(&mut ann, "shop");
    let id = ann.next_id();
    ann.send(&[Request::PresenceSubscribe { id, channel: "shop".into() }]);
    ann.until(|event| match event {
        Event::PeerMember(peer) => {
            assert_eq!(peer.key, key(1).verifying_key().as_bytes());
            let signature = peer.signature.unwrap();
            assert_eq!((signature.version, signature.issued_ms), (5, 1));
            assert!(signature.is_valid(peer.key, peer.metadata));
            Some(())
        }
        _ => None,
    });
}

#[test]
fn a_check_is_answered_with_the_members_that_differ() {
    let server = Server::start("");
    let (mut ann, _) = greeted(&server, "ann");
    enter(&mut ann, "shop");
    let check = |id, buckets| PeerRequest::Check(Check { id, channel: "shop".into(), buckets });
    ann.send_peer(&[check(50, vec![])]);
    assert_eq!(code_of(&mut ann, 50), 40001, "only of a channel whose members it is sent");
    let id = ann.next_id();
    ann.send(&[Request::PresenceSubscribe { id, channel: "shop".into() }]);
    let mut hash = 0;
    let (epoch, version) = ann.until(|event| match event {
        Event::PeerMember(peer) => {
            hash = binary::member_hash(peer);
            None
        }
        Event::MembersDigest(digest) => {
            assert!(digest.has_all && !digest.is_answer && digest.buckets.is_empty());
            assert_eq!(digest.count, 1);
            Some((digest.epoch, digest.version))
        }
        _ => None,
    });
    ann.until(|event| matches!(event, Event::Ack { id: acked, .. } if *acked == id).then_some(()));
    for (buckets, expected) in
        [(vec![], 0), (vec![hash], 0), (vec![hash ^ 1], 1), (vec![hash, 0], 1)]
    {
        ann.send_peer(&[check(60, buckets)]);
        let mut members = 0;
        ann.until(|event| match event {
            Event::MembersDigest(digest) => {
                assert!(digest.is_answer && !digest.has_all);
                assert_eq!((digest.epoch, digest.version), (epoch, version));
                assert_eq!(digest.buckets, [hash]);
                assert_eq!(digest.repaired.len() as u64, expected);
                None
            }
            Event::PeerMember(peer) => {
                members += 1;
                assert_eq!(binary::member_hash(peer), hash);
                None
            }
            Event::Ack { id: 60, .. } => Some(()),
            _ => None,
        });
        assert_eq!(members, expected);
    }
    ann.send_peer(&[check(61, vec![0; 257])]);
    assert_eq!(code_of(&mut ann, 61), 40001);
}

#[test]
fn what_is_forged_replayed_or_stripped_is_refused() {
    let server = Server::start("");
    let early = signed(&key(1), &[0; 32], 0, 5, "{}");
    let mut eve = Client::connect_peer(&server, "eve", early);
    assert_eq!(code_of(&mut eve, 0), 40001);
    let (mut eve, nonce) = greeted(&server, "eve");
    let (_, other_nonce) = greeted(&server, "other");
    assert_ne!(nonce, other_nonce);
    let good = signed(&key(1), &nonce, 30, 5, "{}");
    let refused = [
        // Proven to another connection; the key of another; metadata of another, changed, unsigned.
        signed(&key(1), &other_nonce, 10, 5, "{}"),
        PeerUpdate {
            key: Some(Box::new(ProvenKey {
                public: key(2).verifying_key().to_bytes(),
                ..ProvenKey::new(&key(1), &nonce)
            })),
            id: 11,
            ..good.clone()
        },
        PeerUpdate {
            signature: signed(&key(2), &nonce, 0, 5, "{}").signature,
            id: 12,
            ..good.clone()
        },
        PeerUpdate { metadata: b"{ }".into(), id: 13, ..good.clone() },
        PeerUpdate { signature: None, id: 14, ..good.clone() },
        PeerUpdate { key: None, id: 15, ..good.clone() },
    ];
    for update in refused {
        let id = update.id;
        eve.send_peer(&[PeerRequest::Update(update)]);
        assert_eq!(code_of(&mut eve, id), 40001, "request {id}");
    }
    eve.send_peer(&[PeerRequest::Update(good)]);
    eve.until(|event| matches!(event, Event::Ack { id: 30, .. }).then_some(()));
    enter(&mut eve, "shop");
    let refused = [
        signed(&key(1), &nonce, 40, 4, "{}"),
        signed(&key(2), &nonce, 41, 6, "{}"),
        update(42, "{}"),
    ];
    for update in refused {
        let id = update.id;
        eve.send_peer(&[PeerRequest::Update(update)]);
        assert_eq!(code_of(&mut eve, id), 40001, "request {id}");
    }
    // What has been verified is not verified again; of the rest a second has so many.
    for _ in 0..2 {
        eve.send_peer(&[PeerRequest::Update(signed(&key(1), &nonce, 43, 5, "{}"))]);
        eve.until(|event| matches!(event, Event::Ack { id: 43, .. }).then_some(()));
    }
    let (mut bob, nonce) = greeted(&server, "bob");
    enter(&mut bob, "shop");
    // A member does not become another peer.
    bob.send_peer(&[PeerRequest::Update(signed(&key(3), &nonce, 50, 1, "{}"))]);
    assert_eq!(code_of(&mut bob, 50), 40001);
    for (reason, count) in [("bad_signature", 8), ("replayed", 1), ("unsupported", 2)] {
        let counted = server.counter("headcount_ignored", &format!("\"{reason}\""));
        assert_eq!(counted, count, "{reason}");
    }
}

#[test]
fn a_flood_of_signed_updates_is_refused() {
    let server = Server::start("");
    let (mut eve, nonce) = greeted(&server, "eve");
    let mut refused = 0;
    for version in 0..500 {
        let update = signed(&key(1), &nonce, 1_000 + version, version, "{}");
        eve.send_peer(&[PeerRequest::Update(update)]);
        eve.until(|event| match event {
            Event::Error { code, .. } => {
                assert_eq!(code.code(), 42900);
                refused += 1;
                Some(())
            }
            Event::Ack { id, .. } => (*id == 1_000 + version).then_some(()),
            _ => None,
        });
    }
    // Each second has 200, and this takes less than two.
    assert!(refused > 0 && server.counter("headcount_ignored", "\"busy\"") == refused, "{refused}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
