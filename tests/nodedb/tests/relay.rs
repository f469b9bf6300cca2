//! The relay of documents, frame by frame (sections 5, 8.3, 8.5 and 9).

use headcount_blackbox::pushes::{columnar, expect_kind, fts, notes_shape, timeseries};
use headcount_blackbox::send;
use headcount_blackbox::{
    Config, Generation, Received, Server, SyncClient, Who, anonymous, ms, token, user,
};
use nodedb_types::sync::shape::{ShapeDefinition, ShapeType};
use nodedb_types::sync::wire::array::{
    ArrayCatchupRequestMsg, ArrayDeltaBatchMsg, ArrayDeltaMsg, ArrayOpOutcome, ArrayOpResultsMsg,
};
use nodedb_types::sync::wire::{
    AckStatus, ColumnarInsertAckMsg, DeltaAckMsg, DeltaPushMsg, FtsIndexAckMsg, KvPushAckMsg,
    KvPushMsg, KvPushOp, PingPongMsg, ResyncReason, ResyncRequestMsg, RowOp, RowPushMsg,
    ShapeDeltaMsg, ShapeSnapshotMsg, ShapeSubscribeMsg, ShapeUnsubscribeMsg, SyncFrame,
    SyncMessageType as Type, TimeseriesAckMsg,
};
use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

/// Reads the next frame of this kind, as the message the context asks for. Frames of documents that
/// are sent again are passed over.
macro_rules! receive {
    ($client:expr, $kind:expr) => {
        expect_kind(&$client.next_new().await, $kind).decode_body().expect("a body of 0.6.2")
    };
}

/// The device of alice.
const LITE: &str = "lite-alice";

/// A session that passes over documents which are sent again.
struct Device {
    client: SyncClient,
    seen: HashSet<Vec<u8>>,
}

impl Deref for Device {
    type Target = SyncClient;

    fn deref(&self) -> &SyncClient {
        &self.client
    }
}

impl DerefMut for Device {
    fn deref_mut(&mut self) -> &mut SyncClient {
        &mut self.client
    }
}

impl Device {
    async fn login(server: &Server, who: &Who) -> Device {
        Device { client: server.login(who).await, seen: HashSet::new() }
    }

    async fn next_new(&mut self) -> Vec<u8> {
        loop {
            let bytes = self.client.next_frame().await;
            let kind = SyncFrame::from_bytes(&bytes).expect("a frame of 0.6.2").msg_type;
            let is_document = matches!(kind, Type::ShapeDelta | Type::RowPush | Type::ArrayDelta);
            if !is_document || self.seen.insert(bytes.clone()) {
                return bytes;
            }
        }
    }
}

fn delta(number: u64, bytes: &[u8]) -> DeltaPushMsg {
    DeltaPushMsg {
        collection: "notes".into(),
        document_id: format!("n{number}"),
        delta: bytes.to_vec(),
        peer_id: 7,
        mutation_id: 100 + number,
        checksum: crc32c::crc32c(bytes),
        device_valid_time_ms: None,
        producer_id: 1,
        epoch: 1,
        seq: number,
        device_id: 0,
        delta_signature: [0; 32],
    }
}

/// Pushes and returns how it was acknowledged.
async fn push(client: &mut Device, pushed: &DeltaPushMsg) -> AckStatus {
    send!(client, Type::DeltaPush, pushed);
    let ack: DeltaAckMsg = receive!(client, Type::DeltaAck);
    assert_eq!((ack.mutation_id, ack.lsn), (pushed.mutation_id, 0));
    ack.status
}

async fn device(server: &Server, name: &str) -> Device {
    Device::login(server, &user(name).lite(&format!("lite-{name}"))).await
}

/// Everything that arrives within a time, as type and body.
async fn all_within(client: &mut SyncClient, time: std::time::Duration) -> Vec<SyncFrame> {
    let deadline = Instant::now() + time;
    let mut frames = Vec::new();
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match client.receive(left).await {
            Received::Frame(bytes) => frames.push(SyncFrame::from_bytes(&bytes).expect("a frame")),
            _ => break,
        }
    }
    frames
}

/// Each once, in the order of their first copies.
fn firsts<T: Clone + PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut firsts = Vec::new();
    for one in all {
        if !firsts.contains(&one) {
            firsts.push(one);
        }
    }
    firsts
}

fn deltas(frames: &[SyncFrame]) -> Vec<Vec<u8>> {
    let deltas = frames.iter().filter(|frame| frame.msg_type == Type::ShapeDelta);
    deltas.map(|frame| frame.decode_body::<ShapeDeltaMsg>().expect("a body").delta).collect()
}

#[tokio::test]
async fn a_delta_is_acknowledged_and_sent_to_the_other_devices_only() {
    let server = Server::start();
    let (mut a, mut b) = (device(&server, "alice").await, device(&server, "bob").await);
    let mut watcher = Device::login(&server, &user("carol")).await;
    let mut other_app =
        Device::login(&server, &anonymous().lite("lite-x").with_token(String::new())).await;
    assert_eq!(push(&mut a, &delta(1, b"loro")).await, AckStatus::Applied);
    let received: ShapeDeltaMsg = receive!(b, Type::ShapeDelta);
    assert_eq!((received.collection.as_str(), received.document_id.as_str()), ("notes", "n1"));
    assert_eq!((received.delta.as_slice(), received.lsn), (b"loro".as_slice(), 0));
    assert_eq!(received.operation, "UPDATE");
    watcher.expect_silence(300).await;
    a.expect_silence(300).await;
    // The app of anonymous sessions is that of the first key.
    let received: ShapeDeltaMsg = receive!(other_app, Type::ShapeDelta);
    assert_eq!(received.delta, b"loro");
}

#[tokio::test]
async fn a_repetition_is_acknowledged_and_not_sent_again_as_new() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    for number in [1, 3, 2] {
        assert_eq!(push(&mut a, &delta(number, &[number as u8])).await, AckStatus::Applied);
    }
    for number in [1, 2, 3] {
        assert_eq!(push(&mut a, &delta(number, &[number as u8])).await, AckStatus::Duplicate);
    }
    let mut late = device(&server, "bob").await;
    let frames = all_within(&mut late, ms(400)).await;
    assert_eq!(firsts(deltas(&frames)), [[1], [3], [2]]);
    let mut again = device(&server, "alice").await;
    assert_eq!(push(&mut again, &delta(2, &[2])).await, AckStatus::Duplicate);
    assert_eq!(push(&mut again, &delta(4, &[4])).await, AckStatus::Applied);
}

#[tokio::test]
async fn a_wrong_checksum_is_pushed_again_and_nonsense_is_rejected_gently() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    let wrong = DeltaPushMsg { checksum: 1, ..delta(1, b"loro") };
    assert_eq!(push(&mut a, &wrong).await, AckStatus::Gap { expected: 1 });
    assert_eq!(push(&mut a, &delta(1, b"loro")).await, AckStatus::Applied);
    let unchecked = DeltaPushMsg { checksum: 0, ..delta(2, b"loro2") };
    assert_eq!(push(&mut a, &unchecked).await, AckStatus::Applied);
    let name = "x".repeat(256);
    let refused = [
        delta(3, b""),
        delta(4, &vec![7; 1024 * 1024 + 1]),
        DeltaPushMsg { collection: String::new(), ..delta(5, b"x") },
        DeltaPushMsg { collection: name, ..delta(6, b"x") },
    ];
    for pushed in refused {
        let status = push(&mut a, &pushed).await;
        assert!(
            matches!(&status, AckStatus::Rejected { reason } if !reason.is_empty()),
            "{status:?}"
        );
    }
    a.expect_alive().await;
}

#[tokio::test]
async fn what_was_pushed_is_sent_again_within_two_seconds() {
    let server = Server::start();
    let (mut a, mut b) = (device(&server, "alice").await, device(&server, "bob").await);
    assert_eq!(push(&mut a, &delta(1, b"one")).await, AckStatus::Applied);
    assert_eq!(push(&mut a, &delta(2, b"two")).await, AckStatus::Applied);
    let frames = deltas(&all_within(&mut b, ms(2400)).await);
    for bytes in [b"one", b"two"] {
        let copies = frames.iter().filter(|delta| *delta == bytes).count();
        assert!((4..=6).contains(&copies), "{copies} of {bytes:?}");
    }
}

#[tokio::test]
async fn a_device_with_a_lower_epoch_is_told_to_name_itself_anew() {
    let server = Server::start();
    let who = user("alice").lite("lite-a");
    let at = |epoch| Who { epoch, ..who.clone() };
    for (epoch, is_fork) in [(5, false), (5, false), (4, true), (6, false), (5, true)] {
        let mut client = Device { client: server.connect(&who).await, seen: HashSet::new() };
        let ack = client.greet(&at(epoch)).await;
        assert_eq!((ack.success, ack.fork_detected), (true, is_fork), "{epoch}: {ack:?}");
        if is_fork {
            assert_eq!(push(&mut client, &delta(epoch, b"x")).await, AckStatus::Fenced);
        }
    }
    let server = server.restart();
    let mut client = server.connect(&who).await;
    let ack = client.greet(&at(5)).await;
    assert_eq!((ack.success, ack.fork_detected), (true, true), "after a restart");
    // The same name of another user is another device.
    let mut other = server.connect(&user("bob")).await;
    let ack = other.greet(&Who { epoch: 1, ..user("bob").lite("lite-a") }).await;
    assert_eq!((ack.success, ack.fork_detected), (true, false));
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    for number in 1..=50 {
        assert_eq!(push(&mut a, &delta(number, &[number as u8])).await, AckStatus::Applied);
    }
    drop(a);
    let server = server.kill_and_restart();
    let mut a = device(&server, "alice").await;
    assert_eq!(push(&mut a, &delta(50, &[50])).await, AckStatus::Duplicate);
    let mut late = device(&server, "bob").await;
    let frames = firsts(deltas(&all_within(&mut late, ms(500)).await));
    let expected: Vec<Vec<u8>> = (1..=50).map(|number| vec![number]).collect();
    assert_eq!(frames, expected);
}

fn put(number: u64, key: &str, value: &[u8], expire_at_ms: u64) -> KvPushMsg {
    let op = KvPushOp::Put { row: value.to_vec(), expire_at_ms };
    KvPushMsg {
        lite_id: "lite-alice".into(),
        collection: "cfg".into(),
        key: key.as_bytes().to_vec(),
        op,
        batch_id: 40 + number,
        producer_id: 1,
        epoch: 1,
        seq: number,
    }
}

async fn push_row(client: &mut Device, pushed: KvPushMsg) -> AckStatus {
    let (key, batch_id) = (pushed.key.clone(), pushed.batch_id);
    send!(client, Type::KvPush, pushed);
    let ack: KvPushAckMsg = receive!(client, Type::KvPushAck);
    assert_eq!((ack.key, ack.batch_id), (key, batch_id));
    assert_eq!(ack.accepted, matches!(ack.status, AckStatus::Applied | AckStatus::Duplicate));
    ack.status
}

#[tokio::test]
async fn of_rows_newcomers_receive_the_newest_and_expired_ones_are_deleted() {
    let server = Server::start();
    let (mut a, mut b) = (device(&server, "alice").await, device(&server, "bob").await);
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let soon = soon.expect("after 1970").as_millis() as u64 + 800;
    let delete = KvPushMsg { op: KvPushOp::Delete, ..put(4, "l", b"", 0) };
    let pushes = [put(1, "k", b"old", 0), put(2, "l", b"gone", 0), put(3, "k", b"new", 0), delete];
    for pushed in pushes.iter().chain([&put(5, "m", b"short", soon)]) {
        assert_eq!(push_row(&mut a, pushed.clone()).await, AckStatus::Applied);
    }
    for pushed in pushes {
        assert_eq!(push_row(&mut a, pushed).await, AckStatus::Duplicate);
    }
    let row: RowPushMsg = receive!(b, Type::RowPush);
    assert_eq!((row.collection.as_str(), row.document_id.as_str()), ("cfg", "k"));
    assert_eq!((row.payload.as_slice(), row.sequence, row.peer_id), (b"old".as_slice(), 0, 0));
    let mut late = device(&server, "carol").await;
    let rows = |frames: &[SyncFrame]| {
        let rows = frames.iter().filter(|frame| frame.msg_type == Type::RowPush);
        let rows = rows.map(|frame| frame.decode_body::<RowPushMsg>().expect("a body"));
        rows.map(|row| (row.document_id, row.payload, row.op == RowOp::Delete)).collect::<Vec<_>>()
    };
    let newest = firsts(rows(&all_within(&mut late, ms(300)).await));
    let expected = [("k", &b"new"[..], false), ("l", b"", true), ("m", b"short", false)];
    let expected = expected.map(|(key, row, deleted)| (key.to_owned(), row.to_vec(), deleted));
    assert_eq!(newest, expected);
    let later = rows(&all_within(&mut late, ms(1200)).await);
    assert!(later.contains(&("m".to_owned(), Vec::new(), true)), "{later:?}");
}

#[tokio::test]
async fn a_shape_brings_a_snapshot_then_the_log_then_what_comes() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    assert_eq!(push(&mut a, &delta(1, b"one")).await, AckStatus::Applied);
    let mut elsewhere = DeltaPushMsg { collection: "tasks".into(), ..delta(2, b"other") };
    assert_eq!(push(&mut a, &elsewhere).await, AckStatus::Applied);
    let mut viewer = Device::login(&server, &user("bob")).await;
    send!(viewer, Type::ShapeSubscribe, ShapeSubscribeMsg { shape: notes_shape() });
    let snapshot: ShapeSnapshotMsg = receive!(viewer, Type::ShapeSnapshot);
    assert_eq!((snapshot.shape_id.as_str(), snapshot.data.len()), ("s1", 0));
    let first: ShapeDeltaMsg = receive!(viewer, Type::ShapeDelta);
    assert_eq!((first.shape_id.as_str(), first.delta.as_slice()), ("s1", b"one".as_slice()));
    elsewhere.seq = 3;
    assert_eq!(push(&mut a, &elsewhere).await, AckStatus::Applied);
    assert_eq!(push(&mut a, &delta(4, b"four")).await, AckStatus::Applied);
    let live: ShapeDeltaMsg = receive!(viewer, Type::ShapeDelta);
    assert_eq!((live.shape_id.as_str(), live.delta.as_slice()), ("s1", b"four".as_slice()));
    let shape_id = "s1".to_owned();
    send!(viewer, Type::ShapeUnsubscribe, ShapeUnsubscribeMsg { shape_id });
    viewer.expect_alive().await;
    all_within(&mut viewer, ms(100)).await;
    assert_eq!(push(&mut a, &delta(5, b"five")).await, AckStatus::Applied);
    let after = deltas(&all_within(&mut viewer, ms(500)).await);
    assert!(after.is_empty(), "{after:?}");
}

#[tokio::test]
async fn a_resync_request_brings_a_snapshot_and_the_log_with_what_is_its_own() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    assert_eq!(push(&mut a, &delta(1, b"mine")).await, AckStatus::Applied);
    let request = ResyncRequestMsg {
        reason: ResyncReason::CorruptedState,
        from_mutation_id: 1,
        collection: "notes".into(),
        shape_id: "s9".into(),
    };
    send!(a, Type::ResyncRequest, request);
    let snapshot: ShapeSnapshotMsg = receive!(a, Type::ShapeSnapshot);
    assert_eq!((snapshot.shape_id.as_str(), snapshot.snapshot_lsn), ("s9", 0));
    let own: ShapeDeltaMsg = receive!(a, Type::ShapeDelta);
    assert_eq!(own.delta, b"mine");
}

#[tokio::test]
async fn a_token_decides_which_collections_are_written_and_received() {
    let server = Server::start();
    let capability = r#"{"notes":["subscribe"],"drafts":["publish","subscribe"]}"#;
    let who = user("bob").lite("lite-bob").with_token(token::with_capability("bob", capability));
    let mut bob = Device::login(&server, &who).await;
    let mut a = device(&server, "alice").await;
    let status = push(&mut bob, &delta(1, b"no")).await;
    assert!(matches!(status, AckStatus::Rejected { .. }), "{status:?}");
    let draft = DeltaPushMsg { collection: "drafts".into(), ..delta(1, b"draft") };
    assert_eq!(push(&mut bob, &draft).await, AckStatus::Applied);
    let received: ShapeDeltaMsg = receive!(a, Type::ShapeDelta);
    assert_eq!(received.collection, "drafts");
    let secret = DeltaPushMsg { collection: "secret".into(), ..delta(1, b"secret") };
    assert_eq!(push(&mut a, &secret).await, AckStatus::Applied);
    assert_eq!(push(&mut a, &delta(2, b"note")).await, AckStatus::Applied);
    let seen = deltas(&all_within(&mut bob, ms(400)).await);
    assert!(!seen.is_empty() && seen.iter().all(|delta| delta == b"note"), "{seen:?}");
    let shape = ShapeType::Document { collection: "secret".into(), predicate: Vec::new() };
    let shape = ShapeDefinition { shape_type: shape, shape_id: "s2".into(), ..notes_shape() };
    send!(bob, Type::ShapeSubscribe, ShapeSubscribeMsg { shape });
    let frames = all_within(&mut bob, ms(400)).await;
    assert!(frames.iter().any(|frame| frame.msg_type == Type::ShapeSnapshot));
    assert!(deltas(&frames).iter().all(|delta| delta == b"note"));
}

#[tokio::test]
async fn pushes_of_other_engines_are_kept_and_acknowledged() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    for status in [AckStatus::Applied, AckStatus::Duplicate] {
        send!(a, Type::ColumnarInsert, columnar(LITE, 11, 3));
        let ack: ColumnarInsertAckMsg = receive!(a, Type::ColumnarInsertAck);
        assert_eq!((ack.batch_id, ack.accepted, ack.rejected, ack.applied_seq), (11, 2, 0, 3));
        assert_eq!((ack.status, ack.reject_reason), (status.clone(), None));
        send!(a, Type::TimeseriesPush, timeseries(LITE, 12, 4));
        let ack: TimeseriesAckMsg = receive!(a, Type::TimeseriesAck);
        assert_eq!((ack.batch_id, ack.accepted, ack.rejected, ack.applied_seq), (12, 5, 0, 4));
        assert_eq!(ack.status, status);
        send!(a, Type::FtsIndex, fts(LITE, "n1", 15, 7));
        let ack: FtsIndexAckMsg = receive!(a, Type::FtsIndexAck);
        assert_eq!((ack.doc_id.as_str(), ack.batch_id, ack.accepted), ("n1", 15, true));
        assert_eq!(ack.status, status);
    }
}

#[tokio::test]
async fn a_barrier_ping_is_answered_after_the_pushes_before_it() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    let timestamp_ms = 1 << 63 | 7;
    send!(a, Type::DeltaPush, delta(1, b"one"));
    send!(a, Type::PingPong, PingPongMsg { timestamp_ms, is_pong: false });
    let _: DeltaAckMsg = receive!(a, Type::DeltaAck);
    let pong: PingPongMsg = receive!(a, Type::PingPong);
    assert_eq!((pong.timestamp_ms, pong.is_pong), (timestamp_ms, true));
}

#[tokio::test]
async fn a_full_log_puts_devices_off_without_loss() {
    let server = Config::new().set("documents.bytes_max", "4096").start();
    let mut a = device(&server, "alice").await;
    assert_eq!(push(&mut a, &delta(1, &[1; 2000])).await, AckStatus::Applied);
    let large = delta(2, &[2; 3000]);
    assert_eq!(push(&mut a, &large).await, AckStatus::Gap { expected: 2 });
    assert_eq!(push(&mut a, &delta(1, &[1; 2000])).await, AckStatus::Duplicate);
    a.expect_alive().await;
}

#[tokio::test]
async fn a_history_larger_than_a_send_queue_arrives_whole_and_in_order() {
    let server = Config::new().set("limits.send_queue_bytes_max", "65536").start();
    let mut a = device(&server, "alice").await;
    for number in 1..=400u64 {
        let mut bytes = vec![7; 4000];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        assert_eq!(push(&mut a, &delta(number, &bytes)).await, AckStatus::Applied);
    }
    let mut late = device(&server, "bob").await;
    let mut numbers = Vec::new();
    while numbers.len() < 400 {
        let received: ShapeDeltaMsg = receive!(late, Type::ShapeDelta);
        numbers.push(u64::from_be_bytes(received.delta[..8].try_into().expect("8 bytes")));
    }
    assert!(numbers.iter().copied().eq(1..=400), "{numbers:?}");
}

#[tokio::test]
async fn a_device_of_the_generation_before_shares_documents() {
    let server = Config::new().set("sync.ten_byte_layout", "\"0.4\"").start();
    let who = |name: &str| user(name).speaking(Generation::V04).lite(name);
    let mut a = Device::login(&server, &who("alice")).await;
    let mut b = Device::login(&server, &who("bob")).await;
    let push = nodedb_types_04::sync::wire::DeltaPushMsg {
        collection: "notes".into(),
        document_id: "n1".into(),
        delta: b"loro".to_vec(),
        peer_id: 7,
        mutation_id: 1,
        checksum: 0,
        device_valid_time_ms: None,
        producer_id: 1,
        epoch: 1,
        seq: 1,
    };
    let kind = nodedb_types_04::sync::wire::SyncMessageType::DeltaPush;
    let frame = nodedb_types_04::sync::wire::SyncFrame::new_msgpack(kind, &push).expect("encodes");
    a.send(&frame.to_bytes()).await;
    let ack = SyncFrame::from_bytes(&a.next_frame().await).expect("a frame");
    assert_eq!(ack.msg_type, Type::DeltaAck);
    let received: ShapeDeltaMsg = receive!(b, Type::ShapeDelta);
    assert_eq!(received.delta, b"loro");
}

/// Pushes without waiting for each answer; every one must be applied.
async fn push_all(client: &mut Device, numbers: std::ops::RangeInclusive<u64>, bytes: usize) {
    let mut unanswered = 0;
    for number in numbers {
        let mut delta_bytes = vec![7; bytes];
        delta_bytes[..8].copy_from_slice(&number.to_be_bytes());
        send!(client, Type::DeltaPush, delta(number, &delta_bytes));
        unanswered += 1;
        while unanswered > 100 {
            let ack: DeltaAckMsg = receive!(client, Type::DeltaAck);
            assert_eq!(ack.status, AckStatus::Applied);
            unanswered -= 1;
        }
    }
    for _ in 0..unanswered {
        let ack: DeltaAckMsg = receive!(client, Type::DeltaAck);
        assert_eq!(ack.status, AckStatus::Applied);
    }
}

#[tokio::test]
async fn a_device_that_does_not_read_for_a_while_lacks_nothing_then() {
    const COUNT: u64 = 4000;
    let server = Config::new().set("limits.send_queue_bytes_max", "65536").start();
    let (mut a, mut b) = (device(&server, "alice").await, device(&server, "bob").await);
    push_all(&mut a, 1..=COUNT, 4000).await;
    let mut next = 1;
    while next <= COUNT {
        let received: ShapeDeltaMsg = receive!(b, Type::ShapeDelta);
        let number = u64::from_be_bytes(received.delta[..8].try_into().expect("8 bytes"));
        assert_eq!(number, next, "in order, none missing");
        next += 1;
    }
    a.expect_alive().await;
}

#[tokio::test]
async fn two_readers_of_one_app_and_one_of_another() {
    let server = Config::new().key("other.kid_main", "sk_other").start();
    let (mut a, mut b) = (device(&server, "alice").await, device(&server, "bob").await);
    let claims = token::claims("eve", 3600);
    let other = token::signed("other.kid_main", "sk_other", &claims);
    let mut eve = Device::login(&server, &user("eve").lite("lite-eve").with_token(other)).await;
    assert_eq!(push(&mut a, &delta(1, b"one")).await, AckStatus::Applied);
    let received: ShapeDeltaMsg = receive!(b, Type::ShapeDelta);
    assert_eq!(received.delta, b"one");
    eve.expect_silence(400).await;
    // The same number of another app is another push.
    assert_eq!(push(&mut eve, &delta(1, b"hers")).await, AckStatus::Applied);
    let seen = deltas(&all_within(&mut b, ms(400)).await);
    assert!(seen.iter().all(|delta| delta == b"one"), "{seen:?}");
}

#[tokio::test]
async fn a_device_over_tcp_shares_documents() {
    use headcount_blackbox::Transport;
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    let who = user("bob").lite("lite-bob").over(Transport::Tcp);
    let mut b = Device::login(&server, &who).await;
    assert_eq!(push(&mut a, &delta(1, b"one")).await, AckStatus::Applied);
    let received: ShapeDeltaMsg = receive!(b, Type::ShapeDelta);
    assert_eq!(received.delta, b"one");
    assert_eq!(push(&mut b, &delta(1, b"two")).await, AckStatus::Applied);
    let received: ShapeDeltaMsg = receive!(a, Type::ShapeDelta);
    assert_eq!(received.delta, b"two");
}

#[tokio::test]
async fn a_device_that_moves_to_the_core_of_its_channel_goes_on_receiving() {
    let server = Config::new().set("cores.shards", "4").start();
    let mut a = device(&server, "alice").await;
    for number in 1..=8 {
        let mut b = Device::login(&server, &user("bob").lite(&format!("lite-{number}"))).await;
        b.update(&format!("doc:{number}"), b"\x80").await;
        assert_eq!(push(&mut a, &delta(number, &[number as u8])).await, AckStatus::Applied);
        loop {
            let received: ShapeDeltaMsg = receive!(b, Type::ShapeDelta);
            if received.delta == [number as u8] {
                break;
            }
        }
    }
}

/// An op of array `a` at this time: `[[array, clock, ..], "Put", [], nil]`.
fn array_op(physical_ms: u8) -> Vec<u8> {
    let clock = [0x93, physical_ms, 0x05, 0x2a];
    [b"\x94\x96\xa1a".as_slice(), &clock, b"\x93\0\0\0\0\0\0\xa3Put\x90\xc0"].concat()
}

fn array_delta(physical_ms: u8) -> ArrayDeltaMsg {
    let op_payload = array_op(physical_ms);
    ArrayDeltaMsg { array: "a".into(), op_payload, producer_id: 1, epoch: 1, seq: 1 }
}

#[tokio::test]
async fn array_ops_are_kept_by_their_clocks_and_caught_up_with() {
    let server = Server::start();
    let (mut a, mut b) = (device(&server, "alice").await, device(&server, "bob").await);
    for physical_ms in [9, 7, 9] {
        send!(a, Type::ArrayDelta, array_delta(physical_ms));
    }
    // Nothing but the pong says that they were taken.
    a.expect_alive().await;
    for physical_ms in [9, 7] {
        let bytes = b.next_new().await;
        let frame = SyncFrame::from_bytes(&bytes).expect("a frame");
        assert_eq!(frame.msg_type, Type::ArrayDelta);
        let received: ArrayDeltaMsg = frame.decode_body().expect("a body");
        assert_eq!((received.array.as_str(), received.op_payload), ("a", array_op(physical_ms)));
    }
    let from_hlc_bytes = [0; 18];
    let request = ArrayCatchupRequestMsg { array: "a".into(), from_hlc_bytes };
    send!(a, Type::ArrayCatchupRequest, request);
    let caught_up: ArrayDeltaBatchMsg = receive!(a, Type::ArrayDeltaBatch);
    assert_eq!(caught_up.op_payloads, [array_op(7), array_op(9)], "in the order of their clocks");
    let op_payloads = vec![array_op(9), array_op(10)];
    send!(a, Type::ArrayDeltaBatch, ArrayDeltaBatchMsg { array: "a".into(), op_payloads });
    let results: ArrayOpResultsMsg = receive!(a, Type::ArrayOpResults);
    let outcomes: Vec<_> = results.results.iter().map(|result| &result.outcome).collect();
    assert!(
        matches!(outcomes[..], [ArrayOpOutcome::Duplicate, ArrayOpOutcome::Applied]),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn long_names_are_refused_and_harm_nobody() {
    let server = Server::start();
    let mut a = device(&server, "alice").await;
    send!(a, Type::FtsIndex, fts(LITE, &"x".repeat(70_000), 1, 1));
    let ack: FtsIndexAckMsg = receive!(a, Type::FtsIndexAck);
    assert!(matches!(ack.status, AckStatus::Rejected { .. }), "{ack:?}");
    send!(a, Type::FtsIndex, fts(LITE, "n1", 2, 2));
    let ack: FtsIndexAckMsg = receive!(a, Type::FtsIndexAck);
    assert_eq!(ack.status, AckStatus::Applied);
    assert_eq!(push(&mut a, &delta(1, b"one")).await, AckStatus::Applied);
    let shape = ShapeDefinition { shape_id: "s".repeat(70_000), ..notes_shape() };
    send!(a, Type::ShapeSubscribe, ShapeSubscribeMsg { shape });
    let snapshot: ShapeSnapshotMsg = receive!(a, Type::ShapeSnapshot);
    assert_eq!(snapshot.shape_id.len(), 70_000);
    a.expect_silence(200).await;
}

/// A device numbers its batches from 1 whenever it is opened; the numbers of its stream go on.
#[tokio::test]
async fn batches_of_a_device_that_was_opened_again_do_not_replace_earlier_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let server = Config::new().set("data.dir", &format!("{data:?}")).start();
    for (epoch, seq) in [(1, 1), (2, 2)] {
        let who = Who { epoch, ..user("alice").lite("lite-alice") };
        let mut a = Device::login(&server, &who).await;
        send!(a, Type::ColumnarInsert, columnar(LITE, 1, seq));
        let ack: ColumnarInsertAckMsg = receive!(a, Type::ColumnarInsertAck);
        assert_eq!(ack.status, AckStatus::Applied);
    }
    drop(server);
    let exported = std::process::Command::new(headcount_blackbox::server::binary())
        .args(["store", "export", "--data-dir"])
        .arg(&data)
        .output()
        .expect("it runs");
    let exported = String::from_utf8_lossy(&exported.stdout).into_owned();
    assert_eq!(exported.matches("\"engine\":160").count(), 2, "{exported}");
}

/// The server is killed again and again while a device pushes.
#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_is_there_twice_when_the_server_is_killed() {
    const ROUNDS: u64 = 8;
    let mut server = Server::start();
    let (mut next, mut acknowledged) = (1u64, 0u64);
    for round in 0..ROUNDS {
        let mut a = device(&server, "alice").await;
        let begun = Instant::now();
        // What was not acknowledged is pushed again, as devices do.
        next = acknowledged + 1;
        while begun.elapsed() < ms(60 + 37 * round) {
            for _ in 0..16 {
                send!(a, Type::DeltaPush, delta(next, &next.to_be_bytes()));
                next += 1;
            }
            for _ in 0..12 {
                let ack: DeltaAckMsg = receive!(a, Type::DeltaAck);
                assert!(matches!(ack.status, AckStatus::Applied | AckStatus::Duplicate), "{ack:?}");
                acknowledged = ack.applied_seq.max(acknowledged);
            }
        }
        server = server.kill_and_restart();
    }
    let mut late = device(&server, "bob").await;
    let mut numbers = Vec::new();
    while numbers.last() < Some(&acknowledged) {
        let received: ShapeDeltaMsg = receive!(late, Type::ShapeDelta);
        numbers.push(u64::from_be_bytes(received.delta[..].try_into().expect("8 bytes")));
    }
    let expected: Vec<u64> = (1..=acknowledged).collect();
    assert_eq!(numbers[..expected.len()], expected[..], "{next} were pushed");
}
