//! Everything that is not presence, without a relay of documents: always an answer, never a loss
//! (sections 8.3 and 9.5). `relay` has the same with one.

use headcount_blackbox::pushes::{columnar, fts, next_of, notes_shape, timeseries};
use headcount_blackbox::send;
use headcount_blackbox::{Config, DEADLINE, Generation, Received, Server, SyncClient, user};
use nodedb_types::sync::shape::{ShapeDefinition, ShapeType};
use nodedb_types::sync::wire::{
    AckStatus, ColumnarInsertAckMsg, DeltaAckMsg, DeltaPushMsg, FtsDeleteAckMsg, FtsDeleteMsg,
    FtsIndexAckMsg, KvPushAckMsg, KvPushMsg, KvPushOp, ResyncReason, ResyncRequestMsg,
    ShapeSnapshotMsg, ShapeSubscribeMsg, ShapeUnsubscribeMsg, SpatialDeleteAckMsg,
    SpatialDeleteMsg, SpatialInsertAckMsg, SpatialInsertMsg, SyncMessageType as Type, ThrottleMsg,
    TimeseriesAckMsg, VectorClockSyncMsg, VectorDeleteAckMsg, VectorDeleteMsg, VectorInsertAckMsg,
    VectorInsertMsg,
};
use std::collections::HashMap;

const LITE: &str = "lite-a";

/// Reads the next frame, which must be of this kind, as the message the context asks for.
macro_rules! receive {
    ($client:expr, $kind:expr) => {
        next_of(&mut $client, $kind).await.decode_body().expect("a body of 0.6.2")
    };
}

/// A device of a server without a relay.
async fn lite() -> (Server, SyncClient) {
    let server = Config::new().set("documents.durability", "\"none\"").start();
    let client = server.login(&user("alice").lite(LITE)).await;
    (server, client)
}

fn is_rejected(status: &AckStatus) -> bool {
    matches!(status, AckStatus::Rejected { reason } if !reason.is_empty())
}

fn clocks(entries: &[(&str, u64)]) -> HashMap<String, u64> {
    entries.iter().map(|(key, value)| (key.to_string(), *value)).collect()
}

#[tokio::test]
async fn vector_clocks_are_merged_to_the_maximum() {
    let (_server, mut client) = lite().await;
    let steps = [
        (clocks(&[("2a", 5), ("2b", 2)]), clocks(&[("2a", 5), ("2b", 2)])),
        (clocks(&[("2a", 3), ("2b", 7)]), clocks(&[("2a", 5), ("2b", 7)])),
        (clocks(&[("2c", u64::MAX)]), clocks(&[("2a", 5), ("2b", 7), ("2c", u64::MAX)])),
    ];
    for (sent, merged) in steps {
        send!(client, Type::VectorClockSync, VectorClockSyncMsg { clocks: sent, sender_id: 42 });
        let answer: VectorClockSyncMsg = receive!(client, Type::VectorClockSync);
        assert_eq!(answer.clocks, merged);
        assert_eq!(answer.sender_id, 0);
    }
}

fn delta(mutation_id: u64, bytes: &[u8], checksum: u32) -> DeltaPushMsg {
    DeltaPushMsg {
        collection: "notes".into(),
        document_id: "n1".into(),
        delta: bytes.to_vec(),
        peer_id: 7,
        mutation_id,
        checksum,
        device_valid_time_ms: Some(1_700_000_000_000),
        producer_id: 1,
        epoch: 1,
        seq: mutation_id,
        device_id: 0,
        delta_signature: [0; 32],
    }
}

#[tokio::test]
async fn a_document_delta_is_acked_as_rejected_and_never_answered_with_a_delta_reject() {
    let (_server, mut client) = lite().await;
    let deltas = [delta(1, b"loro", 0), delta(2, b"", 0), delta(3, b"loro", 1)];
    for pushed in deltas.iter().chain(&deltas[..1]) {
        send!(client, Type::DeltaPush, pushed);
        let ack: DeltaAckMsg = receive!(client, Type::DeltaAck);
        assert_eq!(ack.mutation_id, pushed.mutation_id);
        assert!(is_rejected(&ack.status), "{ack:?}");
    }
    client.expect_alive().await;
}

#[tokio::test]
async fn a_delta_of_a_generation_without_refusals_ends_its_session_with_a_reason() {
    use nodedb_types_03::sync::wire as old;
    let server = Server::start();
    let mut client = server.login(&user("alice").speaking(Generation::V03).lite(LITE)).await;
    let push = old::DeltaPushMsg {
        collection: "notes".into(),
        document_id: "n1".into(),
        delta: b"loro".to_vec(),
        peer_id: 7,
        mutation_id: 1,
        checksum: 0,
        device_valid_time_ms: None,
    };
    let frame = old::SyncFrame::new_msgpack(old::SyncMessageType::DeltaPush, &push);
    client.send(&frame.expect("encodes").to_bytes()).await;
    match client.receive(DEADLINE).await {
        Received::Closed { code: Some(_), reason } => assert!(!reason.is_empty()),
        other => panic!("expected a Close with a reason, got {other:?}"),
    }
}

#[tokio::test]
async fn a_columnar_insert_is_acked() {
    let (_server, mut client) = lite().await;
    send!(client, Type::ColumnarInsert, columnar(LITE, 11, 3));
    let ack: ColumnarInsertAckMsg = receive!(client, Type::ColumnarInsertAck);
    assert_eq!((ack.collection.as_str(), ack.batch_id, ack.accepted), ("rows", 11, 0));
    assert!(is_rejected(&ack.status), "{ack:?}");
}

#[tokio::test]
async fn a_timeseries_push_is_acked() {
    let (_server, mut client) = lite().await;
    send!(client, Type::TimeseriesPush, timeseries(LITE, 12, 4));
    let ack: TimeseriesAckMsg = receive!(client, Type::TimeseriesAck);
    assert_eq!((ack.collection.as_str(), ack.batch_id, ack.accepted), ("metrics", 12, 0));
    assert!(is_rejected(&ack.status), "{ack:?}");
}

#[tokio::test]
async fn vector_pushes_are_acked() {
    let (_server, mut client) = lite().await;
    let insert = VectorInsertMsg {
        lite_id: LITE.into(),
        collection: "embeddings".into(),
        id: "v1".into(),
        vector: vec![0.5, -1.0],
        dim: 2,
        field_name: String::new(),
        batch_id: 13,
        producer_id: 1,
        epoch: 1,
        seq: 5,
    };
    send!(client, Type::VectorInsert, insert);
    let ack: VectorInsertAckMsg = receive!(client, Type::VectorInsertAck);
    assert_eq!((ack.id.as_str(), ack.batch_id, ack.accepted), ("v1", 13, false));
    assert!(is_rejected(&ack.status), "{ack:?}");
    let delete = VectorDeleteMsg {
        lite_id: LITE.into(),
        collection: "embeddings".into(),
        id: "v1".into(),
        field_name: String::new(),
        batch_id: 14,
        producer_id: 1,
        epoch: 1,
        seq: 6,
    };
    send!(client, Type::VectorDelete, delete);
    let ack: VectorDeleteAckMsg = receive!(client, Type::VectorDeleteAck);
    assert_eq!((ack.id.as_str(), ack.batch_id, ack.accepted), ("v1", 14, false));
    assert!(is_rejected(&ack.status), "{ack:?}");
}

#[tokio::test]
async fn full_text_pushes_are_acked() {
    let (_server, mut client) = lite().await;
    let index = fts(LITE, "n1", 15, 7);
    send!(client, Type::FtsIndex, index);
    let ack: FtsIndexAckMsg = receive!(client, Type::FtsIndexAck);
    assert_eq!((ack.doc_id.as_str(), ack.batch_id, ack.accepted), ("n1", 15, false));
    assert!(is_rejected(&ack.status), "{ack:?}");
    let delete = FtsDeleteMsg {
        lite_id: LITE.into(),
        collection: "notes".into(),
        doc_id: "n1".into(),
        batch_id: 16,
        producer_id: 1,
        epoch: 1,
        seq: 8,
    };
    send!(client, Type::FtsDelete, delete);
    let ack: FtsDeleteAckMsg = receive!(client, Type::FtsDeleteAck);
    assert_eq!((ack.doc_id.as_str(), ack.batch_id, ack.accepted), ("n1", 16, false));
    assert!(is_rejected(&ack.status), "{ack:?}");
}

#[tokio::test]
async fn spatial_pushes_are_acked() {
    let (_server, mut client) = lite().await;
    let insert = SpatialInsertMsg {
        lite_id: LITE.into(),
        collection: "places".into(),
        field: "at".into(),
        doc_id: "p1".into(),
        geometry_bytes: vec![1, 2, 3],
        batch_id: 17,
        producer_id: 1,
        epoch: 1,
        seq: 9,
    };
    send!(client, Type::SpatialInsert, insert);
    let ack: SpatialInsertAckMsg = receive!(client, Type::SpatialInsertAck);
    assert_eq!((ack.field.as_str(), ack.batch_id, ack.accepted), ("at", 17, false));
    assert!(is_rejected(&ack.status), "{ack:?}");
    let delete = SpatialDeleteMsg {
        lite_id: LITE.into(),
        collection: "places".into(),
        field: "at".into(),
        doc_id: "p1".into(),
        batch_id: 18,
        producer_id: 1,
        epoch: 1,
        seq: 10,
    };
    send!(client, Type::SpatialDelete, delete);
    let ack: SpatialDeleteAckMsg = receive!(client, Type::SpatialDeleteAck);
    assert_eq!((ack.field.as_str(), ack.batch_id, ack.accepted), ("at", 18, false));
    assert!(is_rejected(&ack.status), "{ack:?}");
}

#[tokio::test]
async fn key_value_pushes_are_acked() {
    let (_server, mut client) = lite().await;
    let put = KvPushOp::Put { row: vec![0x80], expire_at_ms: 0 };
    for (batch_id, op) in [(19, put), (20, KvPushOp::Delete)] {
        let push = KvPushMsg {
            lite_id: LITE.into(),
            collection: "cfg".into(),
            key: b"k1".to_vec(),
            op,
            batch_id,
            producer_id: 1,
            epoch: 1,
            seq: batch_id,
        };
        send!(client, Type::KvPush, push);
        let ack: KvPushAckMsg = receive!(client, Type::KvPushAck);
        assert_eq!((ack.key.as_slice(), ack.batch_id), (b"k1".as_slice(), batch_id));
        assert!(!ack.accepted);
        assert!(is_rejected(&ack.status), "{ack:?}");
    }
}

fn assert_empty(snapshot: &ShapeSnapshotMsg) {
    assert_eq!(snapshot.shape_id, "s1");
    assert_eq!(snapshot.data, b"");
    assert_eq!((snapshot.snapshot_lsn, snapshot.doc_count), (0, 0));
}

#[tokio::test]
async fn a_shape_subscription_gets_an_empty_snapshot() {
    let (_server, mut client) = lite().await;
    let vector = ShapeType::Vector { collection: "notes".into(), field_name: None };
    for shape in [notes_shape(), ShapeDefinition { shape_type: vector, ..notes_shape() }] {
        send!(client, Type::ShapeSubscribe, ShapeSubscribeMsg { shape });
        assert_empty(&receive!(client, Type::ShapeSnapshot));
    }
    send!(client, Type::ShapeUnsubscribe, ShapeUnsubscribeMsg { shape_id: "s1".into() });
    client.expect_alive().await;
}

#[tokio::test]
async fn a_resync_request_gets_an_empty_snapshot() {
    let (_server, mut client) = lite().await;
    let reasons = [
        ResyncReason::CorruptedState,
        ResyncReason::SequenceGap { expected: 4, received: 9 },
        ResyncReason::ChecksumMismatch { mutation_id: 3 },
    ];
    for reason in reasons {
        let request = ResyncRequestMsg {
            reason,
            from_mutation_id: 1,
            collection: "notes".into(),
            shape_id: "s1".into(),
        };
        send!(client, Type::ResyncRequest, request);
        assert_empty(&receive!(client, Type::ShapeSnapshot));
    }
}

#[tokio::test]
async fn frames_that_need_no_answer_get_none() {
    let (_server, mut client) = lite().await;
    let throttle = ThrottleMsg { throttle: true, queue_depth: 9, suggested_rate: 100 };
    send!(client, Type::Throttle, throttle);
    client.send(&Generation::V06.broadcast("doc:1", &[])).await;
    client.expect_alive().await;
}

#[tokio::test]
async fn a_presence_only_member_never_receives_document_frames() {
    let (server, mut lite) = lite().await;
    let mut watcher = server.login(&user("bob")).await;
    watcher.update("doc:1", b"\x80").await;
    watcher.expect_alive().await;
    send!(lite, Type::DeltaPush, delta(1, b"loro", 0));
    let _: DeltaAckMsg = receive!(lite, Type::DeltaAck);
    watcher.expect_silence(200).await;
}
