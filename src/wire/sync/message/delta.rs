//! Documents and rows, in both directions (`protocols/nodedb.md` section 3.3).

use super::codec::prelude::*;

structs! {
    /// 0x10.
    pub struct DeltaPush<'a> {
        collection: &'a str,
        document_id: &'a str,
        /// Loro update of the collection's document.
        delta: &'a [u8],
        peer_id: u64,
        mutation_id: u64,
        /// CRC-32C of `delta`; 0: unchecked.
        checksum: u32,
        device_valid_time_ms: Option<i64> [since V0_1],
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        /// From 1 per collection, continued after a reconnect.
        seq: u64 [since V0_4],
        device_id: u64 [since V0_6],
        /// All zeros: not signed.
        delta_signature: [u8; 32] [since V0_6],
    }

    /// 0x11. Before 0.4 an ack has no status and means applied.
    pub struct DeltaAck<'a> {
        mutation_id: u64,
        lsn: u64,
        /// Clock of the server minus that of the device.
        clock_skew_warning_ms: Option<i64> [since V0_1],
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0x12. Makes the client delete its local row for most hints, except for policy.
    pub struct DeltaReject<'a> {
        mutation_id: u64,
        reason: &'a str,
        compensation: Option<CompensationHint<'a>>,
    }

    /// 0x14.
    pub struct CollectionPurged<'a> {
        tenant_id: u64,
        database_id: u64 [since V0_6],
        name: &'a str,
        purge_lsn: u64,
    }

    /// 0x15.
    pub struct RowPush<'a> {
        collection: &'a str,
        document_id: &'a str,
        /// MessagePack map; empty for a delete.
        payload: &'a [u8],
        op: RowOp,
        lsn: u64,
        peer_id: u64,
        /// 0: apply regardless of order.
        sequence: u64,
    }

    /// 0x16.
    pub struct RowPushReject<'a> {
        collection: &'a str,
        document_id: &'a str,
        sequence: u64,
        peer_id: u64,
        refusal: RowPushRefusal<'a>,
    }

    /// 0x50.
    pub struct ResyncRequest<'a> {
        reason: ResyncReason,
        from_mutation_id: u64,
        collection: &'a str,
        shape_id: &'a str [since V0_4],
    }

    /// 0x70.
    pub struct DefinitionSync<'a> {
        tenant_id: u64 [since V0_6],
        database_id: u64 [since V0_6],
        definition_type: &'a str,
        name: &'a str,
        action: &'a str,
        /// JSON.
        payload: &'a [u8],
    }
}

enums! {
    /// Result of a pushed item. Acks before 0.4 have none and mean [`AckStatus::Applied`].
    #[derive(Default)]
    pub enum AckStatus<'a> {
        #[default]
        Applied,
        Duplicate,
        /// The epoch of the producer has ended; the client stops pushing.
        Fenced [since V0_4],
        /// Push again from `expected`.
        Gap { expected: u64 } [since V0_4],
        /// Accepted, not applied yet; the client keeps the item.
        Accepted [since V0_6],
        /// Not pushed again; the client keeps its local row.
        Rejected { reason: &'a str } [since V0_6],
    }

    /// Action of the client after a [`DeltaReject`].
    pub enum CompensationHint<'a> {
        UniqueViolation { field: &'a str, conflicting_value: &'a str },
        ForeignKeyMissing { referenced_id: &'a str },
        PermissionDenied,
        RateLimited { retry_after_ms: u64 },
        SchemaViolation { field: &'a str, reason: &'a str },
        Custom { constraint: &'a str, detail: &'a str },
        IntegrityViolation,
        Retry { retry_after_ms: u64 } [since V0_4],
    }

    /// Operation of a [`RowPush`].
    pub enum RowOp {
        Upsert,
        Delete,
    }

    /// Why a client did not apply a [`RowPush`].
    pub enum RowPushRefusal<'a> {
        Malformed { detail: &'a str },
        ApplyFailed { detail: &'a str },
    }

    /// Reason of a client to start over.
    pub enum ResyncReason {
        SequenceGap { expected: u64, received: u64 },
        ChecksumMismatch { mutation_id: u64 },
        CorruptedState,
    }
}
