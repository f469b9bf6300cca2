//! What devices push, as clients of the current generation say it. Tests change what matters to
//! them.

use crate::SyncClient;
use nodedb_types::sync::shape::{ShapeDefinition, ShapeType};
use nodedb_types::sync::wire::{
    ColumnarInsertMsg, FtsIndexMsg, SyncFrame, SyncMessageType, TimeseriesPushMsg,
};
use std::collections::HashMap;

/// Sends one message of the current generation.
#[macro_export]
macro_rules! send {
    ($client:expr, $kind:expr, $message:expr) => {
        $client
            .send(
                &nodedb_types::sync::wire::SyncFrame::new_msgpack($kind, &$message)
                    .expect("encodes")
                    .to_bytes(),
            )
            .await
    };
}

/// Reads a frame, which must be of this kind.
pub fn expect_kind(bytes: &[u8], kind: SyncMessageType) -> SyncFrame {
    let frame = SyncFrame::from_bytes(bytes).expect("a frame of 0.6.2");
    assert_eq!(frame.msg_type, kind, "{bytes:02x?}");
    frame
}

/// Reads the next frame, which must be of this kind.
pub async fn next_of(client: &mut SyncClient, kind: SyncMessageType) -> SyncFrame {
    expect_kind(&client.next_frame().await, kind)
}

/// Two rows.
pub fn columnar(lite_id: &str, batch_id: u64, seq: u64) -> ColumnarInsertMsg {
    ColumnarInsertMsg {
        lite_id: lite_id.into(),
        collection: "rows".into(),
        rows: vec![vec![0x91, 0x01], vec![0x91, 0xcc, 0xff]],
        batch_id,
        schema_bytes: vec![1, 2],
        producer_id: 1,
        epoch: 1,
        seq,
    }
}

/// Five samples.
pub fn timeseries(lite_id: &str, batch_id: u64, seq: u64) -> TimeseriesPushMsg {
    TimeseriesPushMsg {
        lite_id: lite_id.into(),
        batch_id,
        collection: "metrics".into(),
        ts_block: vec![1],
        val_block: vec![2],
        series_block: Vec::new(),
        sample_count: 5,
        min_ts: -5,
        max_ts: 1_700_000_000_000,
        watermarks: HashMap::new(),
        producer_id: 1,
        epoch: 1,
        seq,
    }
}

/// The text of one document.
pub fn fts(lite_id: &str, doc_id: &str, batch_id: u64, seq: u64) -> FtsIndexMsg {
    FtsIndexMsg {
        lite_id: lite_id.into(),
        collection: "notes".into(),
        doc_id: doc_id.into(),
        fields: vec![("title".into(), "hello".into())],
        batch_id,
        producer_id: 1,
        epoch: 1,
        seq,
    }
}

/// The shape `s1` of all notes.
pub fn notes_shape() -> ShapeDefinition {
    ShapeDefinition {
        shape_id: "s1".into(),
        tenant_id: 1,
        shape_type: ShapeType::Document { collection: "notes".into(), predicate: Vec::new() },
        description: "all notes".into(),
        field_filter: Vec::new(),
    }
}
