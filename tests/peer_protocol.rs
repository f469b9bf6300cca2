//! The graph extension byte by byte, against the real server: the tables of `docs/protocol.md`.
#![cfg(feature = "server")]

use std::borrow::Cow;
use std::time::Duration;

use foony_client::{Client, Server};
use headcount::limits::VALUE_DEPTH_MAX;
use headcount::wire::foony::peer::{Decision, Direct};
use headcount::wire::foony::{Action, Event, PeerRequest, PeerUpdate, Presence, Request, binary};

mod foony_client;
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
    ];
    for request in &requests {
        let mut bytes = Vec::new();
        binary::append_peer_request(request, &mut bytes);
        let record = binary::records(&bytes).next().unwrap().unwrap();
        assert_eq!(record.peer_request().unwrap().as_ref(), Ok(request));
        for cut in 1..record.bytes().len() {
            let mut message = vec![cut as u8];
            message.extend_from_slice(&record.bytes()[..cut]);
            let cut_record = binary::records(&message).next().unwrap().unwrap();
            assert!(cut_record.peer_request().unwrap().is_err(), "{request:?} of {cut} bytes");
        }
    }
}

#[test]
fn golden_bytes() {
    let mut bytes = Vec::new();
    binary::append_peer_request(&PeerRequest::Update(update(0, "{}")), &mut bytes);
    let expected = b"\x1b\x40\x00\x06device\x04till\x05Linux\x011\x00\x00\x02{}";
    assert_eq!(bytes, expected);
    bytes.clear();
    binary::append_peer_request(&PeerRequest::Took { number: 300, is_taken: true }, &mut bytes);
    assert_eq!(bytes, [4, 69, 0xac, 2, 1]);
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
