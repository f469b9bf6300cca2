//! Arrays (`protocols/nodedb.md` section 3.7). A logical time is 18 bytes, see [`HlcBytes`].

use super::codec::prelude::*;
use super::delta::AckStatus;

/// Hybrid logical clock: physical_ms u64, logical u16, replica_id u64, each big endian, so that
/// byte order is time order.
pub type HlcBytes = [u8; 18];

structs! {
    /// 0x90.
    pub struct ArrayDelta<'a> {
        array: &'a str,
        op_payload: &'a [u8],
        producer_id: u64 [since V0_4],
        epoch: u64 [since V0_4],
        seq: u64 [since V0_4],
    }

    /// 0x91.
    pub struct ArrayDeltaBatch<'a> {
        array: &'a str,
        /// Arrays of integers on the wire.
        op_payloads: Vec<Vec<u8>>,
    }

    /// 0x92.
    pub struct ArraySnapshot<'a> {
        array: &'a str,
        header_payload: &'a [u8],
    }

    /// 0x93.
    pub struct ArraySnapshotChunk<'a> {
        array: &'a str,
        snapshot_hlc_bytes: HlcBytes,
        chunk_index: u32,
        total_chunks: u32,
        payload: &'a [u8],
    }

    /// 0x94.
    pub struct ArraySchema<'a> {
        array: &'a str,
        replica_id: u64,
        schema_hlc_bytes: HlcBytes,
        /// Byte 0x01, then a Loro snapshot.
        snapshot_payload: &'a [u8],
    }

    /// 0x95.
    pub struct ArrayAck<'a> {
        array: &'a str,
        replica_id: u64,
        ack_hlc_bytes: HlcBytes,
        applied_seq: u64 [since V0_4],
        status: AckStatus<'a> [since V0_4],
    }

    /// 0x96. A clock of zeros blocks the whole window of the client.
    pub struct ArrayReject<'a> {
        array: &'a str,
        op_hlc_bytes: HlcBytes,
        reason: ArrayRejectReason,
        detail: &'a str,
    }

    /// 0x97.
    pub struct ArrayCatchupRequest<'a> {
        array: &'a str,
        /// Zeros: from the beginning.
        from_hlc_bytes: HlcBytes,
    }

    /// 0x98.
    pub struct ArrayOpResults<'a> {
        array: &'a str,
        results: Vec<ArrayOpResult<'a>>,
    }

    /// One entry of [`ArrayOpResults`].
    pub struct ArrayOpResult<'a> {
        op_hlc_bytes: HlcBytes,
        outcome: ArrayOpOutcome<'a>,
    }

    /// 0x99.
    pub struct ArrayAdvisoryRefused<'a> {
        array: &'a str,
        request: ArrayAdvisoryKind,
        reason: ArrayRejectReason,
        detail: &'a str,
    }
}

enums! {
    /// Reason why an array frame was rejected; determines the reaction of the client.
    pub enum ArrayRejectReason {
        SchemaTooNew,
        ArrayUnknown,
        ShapeInvalid,
        EngineRejected [before V0_6],
        QuotaExceeded [before V0_6],
        WireVersionMismatch [before V0_6],
        RetentionFloor,
        EngineUnavailable [since V0_6],
        EngineRefused [since V0_6],
        /// The client drops the op.
        PermissionDenied [since V0_6],
        Unauthenticated [since V0_6],
        SnapshotCapacity [since V0_6],
        SnapshotBufferLost [since V0_6],
    }

    /// Result of one op of an [`ArrayDeltaBatch`].
    pub enum ArrayOpOutcome<'a> {
        Applied,
        Duplicate,
        Rejected { reason: ArrayRejectReason, detail: &'a str },
    }

    /// The request that an [`ArrayAdvisoryRefused`] answers.
    pub enum ArrayAdvisoryKind {
        Ack,
        CatchupRequest,
    }
}

/// The clock of an op: `[[array, [physical_ms, logical, replica_id], ..], ..]`. `None` if the
/// payload has another form.
pub fn op_hlc(op_payload: &[u8]) -> Option<HlcBytes> {
    let mut reader = Reader::new(op_payload);
    reader.array_of(4).ok()?;
    reader.array_of(6).ok()?;
    reader.str().ok()?;
    reader.array_of(3).ok()?;
    let physical_ms = reader.u64().ok()?;
    let logical = u16::try_from(reader.u64().ok()?).ok()?;
    let replica_id = reader.u64().ok()?;
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&physical_ms.to_be_bytes());
    bytes[8..10].copy_from_slice(&logical.to_be_bytes());
    bytes[10..].copy_from_slice(&replica_id.to_be_bytes());
    Some(bytes)
}
