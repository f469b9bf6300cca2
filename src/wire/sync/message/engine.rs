//! Pushes to the engines and their acks (`protocols/nodedb.md` section 3.6). `batch_id` identifies
//! the push in its ack.

use super::codec::prelude::*;
use super::delta::AckStatus;

structs! {
    /// 0x40.
    pub struct TimeseriesPush<'a> {
        lite_id: &'a str,
        batch_id: u64 [since V0_6],
        collection: &'a str,
        ts_block: &'a [u8],
        val_block: &'a [u8],
        series_block: &'a [u8],
        sample_count: u64,
        /// Milliseconds since the Unix epoch, like `max_ts`.
        min_ts: i64,
        max_ts: i64,
        watermarks: Map<u64, u64>,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0x41. Applied acknowledges every batch up to `applied_seq`, of any collection.
    pub struct TimeseriesAck<'a> {
        collection: &'a str,
        batch_id: u64 [since V0_6],
        accepted: u64,
        rejected: u64,
        lsn: u64,
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0xA0.
    pub struct ColumnarInsert<'a> {
        lite_id: &'a str,
        collection: &'a str,
        /// MessagePack; arrays of integers on the wire.
        rows: Vec<Vec<u8>>,
        batch_id: u64,
        schema_bytes: &'a [u8],
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xA1.
    pub struct ColumnarInsertAck<'a> {
        collection: &'a str,
        batch_id: u64,
        accepted: u64,
        rejected: u64,
        reject_reason: Option<&'a str>,
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0xA2.
    pub struct VectorInsert<'a> {
        lite_id: &'a str,
        collection: &'a str,
        id: &'a str,
        vector: Vec<f32>,
        dim: u64,
        field_name: &'a str,
        batch_id: u64,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xA3 and 0xA5.
    pub struct VectorAck<'a> {
        collection: &'a str,
        id: &'a str,
        batch_id: u64,
        accepted: bool,
        reject_reason: Option<&'a str>,
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0xA4.
    pub struct VectorDelete<'a> {
        lite_id: &'a str,
        collection: &'a str,
        id: &'a str,
        field_name: &'a str,
        batch_id: u64,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xA6.
    pub struct FtsIndex<'a> {
        lite_id: &'a str,
        collection: &'a str,
        doc_id: &'a str,
        text: &'a str [before V0_6],
        /// Name and text.
        fields: Vec<(&'a str, &'a str)> [since V0_6],
        batch_id: u64,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xA7 and 0xA9.
    pub struct FtsAck<'a> {
        collection: &'a str,
        doc_id: &'a str,
        batch_id: u64,
        accepted: bool,
        reject_reason: Option<&'a str>,
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0xA8.
    pub struct FtsDelete<'a> {
        lite_id: &'a str,
        collection: &'a str,
        doc_id: &'a str,
        batch_id: u64,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xAA.
    pub struct SpatialInsert<'a> {
        lite_id: &'a str,
        collection: &'a str,
        field: &'a str,
        doc_id: &'a str,
        geometry_bytes: &'a [u8],
        batch_id: u64,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xAB and 0xAD.
    pub struct SpatialAck<'a> {
        collection: &'a str,
        field: &'a str,
        doc_id: &'a str,
        batch_id: u64,
        accepted: bool,
        reject_reason: Option<&'a str>,
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0xAC.
    pub struct SpatialDelete<'a> {
        lite_id: &'a str,
        collection: &'a str,
        field: &'a str,
        doc_id: &'a str,
        batch_id: u64,
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0xAE.
    pub struct KvPush<'a> {
        lite_id: &'a str,
        collection: &'a str,
        key: &'a [u8],
        op: KvPushOp<'a>,
        batch_id: u64,
        producer_id: u64,
        epoch: u64,
        seq: u64,
    }

    /// 0xAF.
    pub struct KvPushAck<'a> {
        collection: &'a str,
        key: &'a [u8],
        batch_id: u64,
        accepted: bool,
        reject_reason: Option<&'a str>,
        applied_seq: u64,
        status: AckStatus<'a>,
    }
}

enums! {
    /// Operation of a [`KvPush`].
    pub enum KvPushOp<'a> {
        /// `expire_at_ms`: milliseconds since the Unix epoch, 0 for never.
        Put { row: &'a [u8], expire_at_ms: u64 },
        Delete,
    }
}
