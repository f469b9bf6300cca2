//! The client's state machine, fed with the bytes of golden vectors, with those of a shard in this
//! process, and with invalid ones. The events are the same for every split of the bytes.
#![cfg(feature = "server")]

mod golden;
mod one_shard;

use headcount::client::protocol::{
    Awaited, Closed, Connection, Dialect, Event, Look, Refused, Upgrade,
};
use headcount::error::FrameError;
use headcount::ids::ConnId;
use headcount::wire::foony::{self, Action, Auth, Cursor, ErrorCode, Presence, Publish, Request};
use headcount::wire::foony::{Content, Message, binary};
use headcount::wire::http::AcceptKey;
use headcount::wire::sync::{self, Layout, append_presence_broadcast};
use headcount::wire::websocket::{Opcode, append_close, append_frame};
use one_shard::OneShard;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const NONCE: [u8; 16] = *b"the sample nonce";
const NONCE_BASE64: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";
const KEY: &str = "alpha.k:sk_alpha_0123456789abcdef";
const SPLITS: [usize; 5] = [1, 2, 7, 61, usize::MAX];

/// A connection, its unconsumed bytes, and its events so far.
struct Client {
    connection: Connection,
    unread: Vec<u8>,
    seen: Vec<String>,
    /// Its greeting.
    auth: Option<Auth<'static>>,
}

impl Client {
    fn new(dialect: Dialect) -> Client {
        let upgrade = Upgrade::new("test", "/", NONCE);
        let connection = Connection::websocket(0, dialect, &upgrade, 7);
        Client { connection, unread: Vec::new(), seen: Vec::new(), auth: None }
    }

    fn tcp() -> Client {
        Client { connection: Connection::stream(0), ..Client::new(Dialect::Sync) }
    }

    /// A client that greets with a key.
    fn foony() -> Client {
        let auth = Auth { key: KEY.into(), client_id: "ann".into(), ..Auth::default() };
        Client { auth: Some(auth), ..Client::new(Dialect::Foony) }
    }

    fn take(&mut self, bytes: &[u8], split: usize) -> Result<(), Closed> {
        for piece in bytes.chunks(split) {
            self.unread.extend_from_slice(piece);
            let (seen, auth) = (&mut self.seen, &mut self.auth);
            let used = self.connection.handle_bytes(0, &mut self.unread, |out, event| {
                match (&event, auth.take()) {
                    (Event::Open, Some(auth)) => out.auth(auth),
                    (Event::Open, None) => out.handshake(""),
                    (_, waiting) => *auth = waiting,
                }
                shown(event, seen);
                Ok::<(), Closed>(())
            })?;
            self.unread.drain(..used);
        }
        Ok(())
    }

    /// The bytes that it sends.
    fn pending(&mut self) -> Vec<u8> {
        let pending = self.connection.out.pending().to_vec();
        self.connection.out.written(pending.len());
        pending
    }
}

/// An event as short text.
fn shown(event: Event<'_>, seen: &mut Vec<String>) {
    match event {
        Event::Messages(deliveries) => seen.extend(deliveries.map(|delivered| {
            let delivered = delivered.expect("a delivery");
            let delivery = delivered.read().expect("a delivery");
            assert_eq!(delivered.serial(), Ok(delivery.serial));
            let data: Vec<_> = delivery.content.messages().iter().map(|m| m.data).collect();
            let data = String::from_utf8(data.join(&b" "[..])).expect("JSON");
            format!("{} {} {data}", delivery.channel, delivery.serial)
        })),
        Event::Greeted(greeted) => {
            let every = greeted.keep_alive_ms;
            seen.push(format!("greeted {:?} every {every}", greeted.client_id));
        }
        Event::Presence(mut presence) => {
            let (channel, members) = (presence.present.channel, presence.present.left());
            seen.push(format!("{channel}: {members} members in {}", presence.frame_bytes));
            while let Ok(Some(peer)) = presence.present.next_member() {
                seen.push(format!("{} is there", peer.user_id));
            }
        }
        Event::Foony(foony::Event::Member(member)) => {
            let data = String::from_utf8_lossy(member.data);
            seen.push(format!("{:?} {} {data}", member.action, member.client_id));
        }
        Event::Foony(foony::Event::History { id, messages, more, .. }) => {
            seen.push(format!("history {id}: {} messages, more: {more}", messages.len()));
        }
        Event::Foony(foony::Event::Fetched { id, messages, resumed, .. }) => {
            seen.push(format!("fetched {id}: {} messages, resumed: {resumed}", messages.len()));
        }
        Event::Foony(event) => seen.push(format!("{event:?}")),
        Event::Sync(message) => seen.push(format!("{message:?}")),
        Event::Open => seen.push("open".to_owned()),
    }
}

/// A shard, and a client of it.
struct Pair {
    shard: OneShard,
    conn: ConnId,
    client: Client,
    split: usize,
}

impl Pair {
    fn new(mut client: Client, split: usize) -> Pair {
        let mut shard = OneShard::new();
        let conn = shard.open_in_pieces(&[&client.pending()]);
        Pair { shard, conn, client, split }
    }

    /// Runs until both are idle; returns the events of the client, or why it ended.
    fn settle(&mut self) -> Result<Vec<String>, Closed> {
        loop {
            let mut said = self.client.pending();
            self.shard.begin_turn();
            for piece in said.chunks_mut(self.split) {
                self.shard.receive_on(self.conn, piece);
            }
            self.shard.end_turn();
            let answer = self.shard.unsent(self.conn);
            self.shard.flush();
            if said.is_empty() && answer.is_empty() {
                return Ok(std::mem::take(&mut self.client.seen));
            }
            self.client.take(&answer, self.split)?;
        }
    }
}

fn message(data: &'static [u8]) -> Message<'static> {
    Message { name: "n".into(), data, encoding: "".into() }
}

fn publish(id: u64, message_id: &'static str, data: &'static [u8]) -> Publish<'static> {
    Publish {
        id,
        channel: "room:1".into(),
        message_id: message_id.into(),
        ephemeral: false,
        ttl_ms: 0,
        content: Content::One(message(data)),
    }
}

#[test]
fn a_foony_session_with_a_server_from_its_upgrade_to_its_end() {
    let channel = || "room:1".into();
    for split in SPLITS {
        let mut pair = Pair::new(Client::foony(), split);
        assert_eq!(pair.settle().unwrap(), ["open", "greeted \"ann\" every 15000"]);
        let out = &mut pair.client.connection.out;
        let subscribe = |id| Request::Subscribe { id, channel: channel(), cursor: Cursor::None };
        assert_eq!(out.request(subscribe), 1);
        out.request(|id| Request::Publish(publish(id, "m-1", b"1")));
        out.request(|id| Request::PresenceSubscribe { id, channel: channel() });
        let mut seen = pair.settle().unwrap();
        seen.sort();
        let ack =
            |id: u64, serial: u64| format!("Ack {{ id: {id}, serial: {serial}, resumed: None }}");
        assert_eq!(seen, [ack(1, 0), ack(2, 1), ack(3, 0), "room:1 1 1".to_owned()], "{split}");
        let out = &mut pair.client.connection.out;
        out.request(|id| {
            let (action, encoding) = (Action::Enter, "".into());
            Request::Presence(Presence { id, channel: channel(), action, data: b"{}", encoding })
        });
        out.send_batched(&publish(5, "m-2", b"2"));
        let mut seen = pair.settle().unwrap();
        seen.sort();
        let expected = [ack(4, 0), ack(5, 2), "Enter ann {}".to_owned(), "room:1 2 2".to_owned()];
        assert_eq!(seen, expected);
        let out = &mut pair.client.connection.out;
        let before = Cursor::None;
        out.request(|id| Request::History { id, channel: channel(), limit: 1, before });
        out.request(|id| Request::Fetch { id, channel: channel(), from_serial: 1 });
        out.request(|id| Request::Unsubscribe { id, channel: "no.such name".into() });
        let seen = pair.settle().unwrap();
        assert!(seen.contains(&"history 5: 1 messages, more: true".to_owned()), "{seen:?}");
        assert!(seen.contains(&"fetched 6: 1 messages, resumed: true".to_owned()), "{seen:?}");
        assert!(seen.iter().any(|one| one.contains("id: 7, code: BadFrame")), "{seen:?}");
        pair.client.connection.handle_timeout(15_000).unwrap();
        assert_eq!(pair.settle().unwrap(), ["Pong"]);
    }
}

#[test]
fn a_sync_session_with_a_server() {
    for split in SPLITS {
        let mut pair = Pair::new(Client::new(Dialect::Sync), split);
        assert_eq!(pair.settle().unwrap(), ["open", "greeted \"\" every 30000"]);
        let out = &mut pair.client.connection.out;
        out.update("room", b"\x80");
        out.ping(1 << 63);
        let seen = pair.settle().unwrap();
        let pong = format!("PingPong(PingPong {{ timestamp_ms: {}, is_pong: true }})", 1_u64 << 63);
        assert_eq!(seen, [pong], "{split}");
        assert_eq!(pair.client.connection.poll_timeout(0), Some(30_000));
    }
}

/// The server's answer to the upgrade.
fn upgraded() -> Vec<u8> {
    headcount::wire::http::switching_protocols(&AcceptKey::answering(NONCE_BASE64).unwrap(), None)
}

/// The same and its greeting.
fn greeting() -> Vec<u8> {
    let mut bytes = upgraded();
    let (connection_id, client_id) = ("c".into(), "ann".into());
    let connected = foony::Event::Connected { connection_id, keep_alive_ms: 20_000, client_id };
    append_frame(&mut bytes, Opcode::Binary, &records(&[connected]));
    bytes
}

fn records(events: &[foony::Event<'_>]) -> Vec<u8> {
    let mut records = Vec::new();
    events.iter().for_each(|event| binary::append_event(event, &mut records));
    records
}

/// The events of a Foony client for these bytes after the greeting.
fn outcome(bytes: &[u8], split: usize) -> (Vec<String>, Result<(), Closed>) {
    let mut client = Client::foony();
    let end = client.take(&[&greeting()[..], bytes].concat(), split);
    assert_eq!(client.seen[..2], ["open", "greeted \"ann\" every 20000"]);
    (client.seen.split_off(2), end)
}

/// Messages of the SDK's vectors, and the events of a client.
fn vectors() -> (Vec<u8>, Vec<String>) {
    let lines = golden::lines("foony.jsonl", 70);
    let frames = lines.iter().filter(|line| line["dir"] == "s2c" && line["kind"] != "stream");
    let (mut stream, mut expected) = (Vec::new(), Vec::new());
    for line in frames {
        let framed = golden::hex(golden::text(line, "framed"));
        let event = binary::records(&framed).next().unwrap().unwrap().event().unwrap();
        // A greeting comes once, and these end the connection.
        if matches!(event, foony::Event::Connected { .. } | foony::Event::Error { id: 0, .. }) {
            continue;
        }
        append_frame(&mut stream, Opcode::Binary, &framed);
        match event {
            foony::Event::Delivery(_) | foony::Event::Bundle(_) => {
                let deliveries = binary::Deliveries::split_off(&mut &framed[..]).unwrap();
                shown(Event::Messages(deliveries), &mut expected);
            }
            event => shown(Event::Foony(event), &mut expected),
        }
    }
    assert!(expected.len() >= 25, "{expected:?}");
    (stream, expected)
}

#[test]
fn every_event_of_the_sdk_arrives_however_it_is_cut() {
    let (stream, expected) = vectors();
    for split in SPLITS {
        assert_eq!(outcome(&stream, split), (expected.clone(), Ok(())), "{split}");
    }
}

#[test]
fn fragments_pings_and_unknown_records_are_no_obstacle() {
    let mut stream = Vec::new();
    let pongs = records(&[foony::Event::Pong, foony::Event::Pong]);
    let start = stream.len();
    append_frame(&mut stream, Opcode::Binary, &[&pongs[..], b"\x02\x63\x00", &pongs[..1]].concat());
    // More fragments follow.
    stream[start] &= 0x7f;
    append_frame(&mut stream, Opcode::Ping, b"hi");
    append_frame(&mut stream, Opcode::Continuation, &pongs[1..]);
    append_close(&mut stream, 1001, "bye");
    for split in SPLITS {
        let (seen, end) = outcome(&stream, split);
        assert_eq!(seen, ["Pong"; 4]);
        let reason = "bye".to_owned();
        assert_eq!(end, Err(Closed::ByServer { code: Some(1001), reason, error: None }));
    }
    let mut client = Client::foony();
    let _ = client.take(&[&greeting()[..], &stream].concat(), usize::MAX);
    // After the upgrade request and the greeting: a pong and a close.
    let said = client.pending();
    let frames = said.iter().filter(|byte| [0x8a, 0x88].contains(*byte)).count();
    assert!(frames >= 2, "{said:x?}");
}

#[test]
fn what_is_not_the_protocol_ends_the_connection() {
    let frame = |opcode, payload: &[u8]| {
        let mut bytes = Vec::new();
        append_frame(&mut bytes, opcode, payload);
        bytes
    };
    for (bytes, expected) in [
        (frame(Opcode::Binary, b"\x02\x0c\x00"), FrameError::Truncated),
        (frame(Opcode::Binary, b"\x05\x0c"), FrameError::Truncated),
        (frame(Opcode::Text, b"{}"), FrameError::UnknownProtocol),
        (b"\x82\x81abcde".to_vec(), FrameError::WebSocket),
        (b"\x82\x7f\x00\x00\x00\x00\x02\x00\x00\x00".to_vec(), FrameError::TooLong),
    ] {
        assert_eq!(outcome(&bytes, usize::MAX), (vec![], Err(Closed::Broken(expected))));
    }
    for (bytes, why) in [
        (frame(Opcode::Text, b"{}"), "it answers in text where a `connected` record"),
        (frame(Opcode::Binary, b"hello"), "truncated where a `connected` record"),
        (frame(Opcode::Binary, b""), "it says nothing where a `connected` record"),
        (frame(Opcode::Binary, b"\x01\x10"), "it says something else where a `connected` record"),
    ] {
        let mut client = Client::foony();
        let end = client.take(&[upgraded(), bytes].concat(), 3);
        assert!(end.as_ref().unwrap_err().to_string().starts_with(why), "{end:?}");
    }
}

#[test]
fn a_refused_greeting_ends_the_connection_with_the_servers_words() {
    let (code, message) = (ErrorCode::BadAuth, "unknown key".into());
    let mut bytes = upgraded();
    let error = foony::Event::Error { id: 0, code, message };
    append_frame(&mut bytes, Opcode::Binary, &records(&[error]));
    let refused = Refused::new(Some(code), "unknown key");
    assert_eq!(Client::foony().take(&bytes, 9), Err(Closed::Refused(refused)));
    let refused = Refused::new(None, "bad token");
    let end = Client::tcp().take(&handshake_ack(Some("bad token")), 9);
    assert_eq!(end, Err(Closed::Refused(refused)));
}

/// The greeting of the sync wire.
fn handshake_ack(error: Option<&str>) -> Vec<u8> {
    let ack = sync::message::session::HandshakeAck {
        success: error.is_none(),
        session_id: "s",
        server_clock: Default::default(),
        error,
        fork_detected: false,
        server_wire_version: 1,
        producer_id: 0,
        accepted_epoch: 0,
        delta_signing_key: [0; 32],
    };
    let mut bytes = Vec::new();
    sync::append_message(&sync::Message::HandshakeAck(ack), Layout::V0_6, &mut bytes).unwrap();
    bytes
}

#[test]
fn kinds_of_frames_that_are_not_known_are_skipped() {
    let unknown = (0..=u8::MAX).find(|code| sync::MessageType::from_repr(*code).is_none()).unwrap();
    // The checksum of no bytes is 0.
    let frame = [1, unknown, 0, 0, 0, 0, 0, 0, 0, 0];
    for split in SPLITS {
        let mut client = Client::tcp();
        client
            .take(&[&handshake_ack(None)[..], &frame, &handshake_ack(None)].concat(), split)
            .unwrap();
        assert_eq!(client.seen.len(), 2, "{:?}", client.seen);
    }
    assert!(Client::tcp().take(&frame, 1).is_err());
}

#[test]
fn an_error_about_no_request_says_why_the_server_closes() {
    let error = |code| foony::Event::Error { id: 0, code, message: "going down".into() };
    let mut stream = Vec::new();
    append_frame(&mut stream, Opcode::Binary, &records(&[error(ErrorCode::Server)]));
    append_close(&mut stream, 1001, "");
    let (seen, end) = outcome(&stream, 5);
    assert_eq!(seen.len(), 1);
    let expected = "it closed the connection (1001): going down (50000)";
    assert_eq!(end.unwrap_err().to_string(), expected);
    stream.clear();
    append_frame(&mut stream, Opcode::Binary, &records(&[error(ErrorCode::AuthExpired)]));
    assert!(matches!(outcome(&stream, 5).1, Err(Closed::Refused(_))));
}

#[test]
fn the_end_of_the_stream_says_how_far_it_had_come() {
    let mut client = Client::foony();
    assert_eq!(client.connection.handle_end(b""), Closed::Silent(Awaited::Upgrade));
    let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno o";
    let closed = client.connection.handle_end(refusal);
    assert_eq!(closed, Closed::Upgrade { status: 403, reason: "Forbidden: no o".to_owned() });
    client.take(&greeting(), usize::MAX).unwrap();
    let lost = Closed::ByServer { code: None, reason: String::new(), error: None };
    assert_eq!(client.connection.handle_end(b""), lost);
    client.connection.close(0, "client close");
    assert_eq!(client.connection.handle_end(b""), Closed::ByUs);
    assert_eq!(client.connection.poll_timeout(0), Some(500));
    assert_eq!(client.connection.handle_timeout(500), Err(Closed::ByUs));
}

#[test]
fn requests_without_an_answer_are_noticed() {
    let mut client = Client::foony();
    client.take(&greeting(), usize::MAX).unwrap();
    assert_eq!(client.connection.poll_timeout(0), Some(20_000));
    client.connection.out.request(|id| Request::Unsubscribe { id, channel: "c".into() });
    assert_eq!(client.connection.poll_timeout(100), Some(15_100));
    let silent = Err(Closed::Silent(Awaited::Answer));
    assert_eq!(client.connection.handle_timeout(15_100), silent);
    let mut answer = Vec::new();
    let ack = foony::Event::Ack { id: 1, serial: 0, resumed: None };
    append_frame(&mut answer, Opcode::Binary, &records(&[ack]));
    client.take(&answer, usize::MAX).unwrap();
    assert_eq!(client.connection.poll_timeout(15_100), Some(20_000));
}

proptest! {
    #[test]
    fn wrong_bytes_never_panic_and_never_depend_on_the_split(
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        splits in vec(1..200_usize, 1..5),
    ) {
        let (mut stream, _) = vectors();
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let whole = bytes_outcome(&stream, usize::MAX);
        for split in splits {
            prop_assert_eq!(&bytes_outcome(&stream, split), &whole);
        }
    }
}

/// How many events of each kind came, and the end.
fn bytes_outcome(bytes: &[u8], split: usize) -> ([usize; 2], Result<(), Closed>) {
    let mut client = Client::foony();
    client.take(&greeting(), usize::MAX).unwrap();
    let mut counts = [0; 2];
    for piece in bytes.chunks(split) {
        client.unread.extend_from_slice(piece);
        let used = client.connection.handle_bytes(0, &mut client.unread, |_, event| {
            match event {
                Event::Messages(deliveries) => counts[0] += deliveries.count(),
                _ => counts[1] += 1,
            }
            Ok(())
        });
        match used {
            Ok(used) => drop(client.unread.drain(..used)),
            Err(closed) => return (counts, Err(closed)),
        }
    }
    (counts, Ok(()))
}

/// A presence frame on the sync wire.
fn presence(members: usize) -> Vec<u8> {
    let peer = sync::Peer { user_id: "bob", state: &[7; 64], last_seen_ms: 1 };
    let mut frame = Vec::new();
    let kind = sync::MessageType::PresenceBroadcast;
    sync::append_frame(sync::Header::Ten, kind, &mut frame, |body| {
        append_presence_broadcast(body, "room", members, std::iter::repeat_n(peer, members));
    });
    frame
}

#[test]
fn of_a_large_presence_frame_the_beginning_is_enough() {
    let large = presence(1000);
    let mut next = Vec::new();
    let pong = sync::message::session::PingPong { timestamp_ms: 1, is_pong: true };
    sync::append_message(&sync::Message::PingPong(pong), Layout::V0_6, &mut next).unwrap();
    let count = format!("room: 1000 members in {}", large.len());
    for split in [1, 600, 5_000, usize::MAX] {
        let mut client = Client::tcp();
        client.connection.set_look(Look::Beginnings);
        client.take(&large, split).unwrap();
        assert!(client.unread.is_empty(), "{} bytes are held", client.unread.len());
        client.take(&next, split).unwrap();
        assert_eq!(client.seen[0], count);
        let members = if split == usize::MAX { 1000 } else { client.seen.len() - 2 };
        assert!(members <= 1000 && client.seen[members + 1].starts_with("PingPong"), "{split}");
    }
    // The rest need not be read.
    let mut client = Client::tcp();
    client.connection.set_look(Look::Beginnings);
    client.take(&large[..2_000], usize::MAX).unwrap();
    assert_eq!(client.connection.skipping(), large.len() - 2_000);
    assert_eq!(client.connection.skipped(usize::MAX), large.len() - 2_000);
    client.take(&next, usize::MAX).unwrap();
    assert!(client.seen.last().unwrap().starts_with("PingPong"));
}

#[test]
fn a_connection_is_small() {
    let bytes = size_of::<Connection>();
    assert!(bytes <= 256, "{bytes} bytes");
}
