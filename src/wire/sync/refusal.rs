//! Acks of pushes, and replies that reject unsupported features permanently without data loss on
//! the client.
//!
//! A client keeps a push until it is answered, and keeps the local row unless the answer is a
//! `DeltaReject`. So unsupported requests are always answered, and never with `DeltaReject`
//! (`protocols/nodedb.md` sections 5.5, 8.3 and 9):
//!
//! | request | answer |
//! |---|---|
//! | DeltaPush | DeltaAck, Rejected |
//! | TimeseriesPush, ColumnarInsert | their acks, Rejected, nothing accepted |
//! | VectorInsert, VectorDelete, FtsIndex, FtsDelete | their acks, Rejected |
//! | SpatialInsert, SpatialDelete, KvPush | their acks, Rejected |
//! | ShapeSubscribe, ResyncRequest | ShapeSnapshot: no data, LSN 0, no documents |
//! | ArrayDelta | ArrayReject, PermissionDenied, with the clock of the op; zeros would block the window |
//! | ArrayDeltaBatch | ArrayOpResults, each op Rejected, PermissionDenied |
//! | everything else | none: no client waits for an answer, or the session sends it |
//!
//! A generation that cannot express the rejection is not answered: an ack without it would mean
//! that the push was applied. Its session is closed (decision 4).

use super::layout::Layout;
use super::message::Message;
use super::message::array::{
    ArrayDelta, ArrayDeltaBatch, ArrayOpOutcome, ArrayOpResult, ArrayOpResults, ArrayReject,
    ArrayRejectReason, op_hlc,
};
use super::message::delta::{AckStatus, DeltaAck};
use super::message::engine::{
    ColumnarInsertAck, FtsAck, KvPushAck, SpatialAck, TimeseriesAck, VectorAck,
};
use super::message::shape::ShapeSnapshot;

/// Reaction to an unsupported request.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal<'a> {
    /// Send this message.
    Answer(Message<'a>),
    /// Send nothing.
    Silent,
    /// Close the session with a clean Close whose reason recommends a newer client.
    CloseOldClient,
}

/// Rejects a message of a client of this layout. `reason` is human-readable.
///
/// An array op whose clock cannot be read has no answer that would not block the ops after it. A
/// single op is not answered; in a batch it is identified by zeros.
pub fn refusal<'a>(message: &Message<'a>, layout: Layout, reason: &'a str) -> Refusal<'a> {
    match answer(message, reason) {
        None => Refusal::Silent,
        Some(answer) if answer.expressible(layout).is_ok() => Refusal::Answer(answer),
        Some(_) => Refusal::CloseOldClient,
    }
}

fn answer<'a>(message: &Message<'a>, reason: &'a str) -> Option<Message<'a>> {
    Some(match message {
        Message::ShapeSubscribe(subscribe) => empty_snapshot(subscribe.shape.shape_id),
        Message::ResyncRequest(request) => empty_snapshot(request.shape_id),
        Message::ArrayDelta(delta) => return refuse_array_delta(delta, reason),
        Message::ArrayDeltaBatch(batch) => refuse_array_batch(batch, reason),
        _ => return ack(message, AckStatus::Rejected { reason }),
    })
}

/// What an ack says besides its status: whether the push was taken, why not, and how many numbers
/// the last one that was applied is behind.
fn outcome<'a>(status: &AckStatus<'a>) -> (bool, Option<&'a str>, u64) {
    match *status {
        AckStatus::Applied | AckStatus::Duplicate => (true, None, 0),
        AckStatus::Rejected { reason } => (false, Some(reason), 0),
        AckStatus::Gap { .. } => (false, None, 1),
        AckStatus::Fenced | AckStatus::Accepted => (false, None, 0),
    }
}

/// The ack of a push, with the fields that the client finds it by; `None` for what has no ack.
pub fn ack<'a>(message: &Message<'a>, status: AckStatus<'a>) -> Option<Message<'a>> {
    let (accepted, reject_reason, unapplied) = outcome(&status);
    let applied = |seq: u64| seq.saturating_sub(unapplied);
    let count = |items: u64| if accepted { (items, 0) } else { (0, items) };
    Some(match message {
        Message::DeltaPush(push) => Message::DeltaAck(DeltaAck {
            mutation_id: push.mutation_id,
            lsn: 0,
            clock_skew_warning_ms: None,
            applied_seq: applied(push.seq),
            status,
        }),
        Message::TimeseriesPush(push) => Message::TimeseriesAck(TimeseriesAck {
            collection: push.collection,
            batch_id: push.batch_id,
            accepted: count(push.sample_count).0,
            rejected: count(push.sample_count).1,
            lsn: 0,
            applied_seq: applied(push.seq),
            status,
        }),
        Message::ColumnarInsert(push) => Message::ColumnarInsertAck(ColumnarInsertAck {
            collection: push.collection,
            batch_id: push.batch_id,
            accepted: count(push.rows.len() as u64).0,
            rejected: count(push.rows.len() as u64).1,
            reject_reason,
            applied_seq: applied(push.seq),
            status,
        }),
        Message::KvPush(push) => Message::KvPushAck(KvPushAck {
            collection: push.collection,
            key: push.key,
            batch_id: push.batch_id,
            accepted,
            reject_reason,
            applied_seq: applied(push.seq),
            status,
        }),
        _ => return index_ack(message, status),
    })
}

/// Acks of pushes to the indexes are alike; inserts and deletes have the same shape.
fn index_ack<'a>(message: &Message<'a>, status: AckStatus<'a>) -> Option<Message<'a>> {
    let (accepted, reject_reason, unapplied) = outcome(&status);
    /// The ack of `$push`; `$key` are the fields that it echoes in addition to the common ones.
    macro_rules! ack {
        ($ack:ident, $push:ident, $($key:ident),+) => {
            $ack {
                collection: $push.collection,
                $($key: $push.$key,)+
                batch_id: $push.batch_id,
                accepted,
                reject_reason,
                applied_seq: $push.seq.saturating_sub(unapplied),
                status,
            }
        };
    }
    Some(match message {
        Message::VectorInsert(push) => Message::VectorInsertAck(ack!(VectorAck, push, id)),
        Message::VectorDelete(push) => Message::VectorDeleteAck(ack!(VectorAck, push, id)),
        Message::FtsIndex(push) => Message::FtsIndexAck(ack!(FtsAck, push, doc_id)),
        Message::FtsDelete(push) => Message::FtsDeleteAck(ack!(FtsAck, push, doc_id)),
        Message::SpatialInsert(push) => {
            Message::SpatialInsertAck(ack!(SpatialAck, push, field, doc_id))
        }
        Message::SpatialDelete(push) => {
            Message::SpatialDeleteAck(ack!(SpatialAck, push, field, doc_id))
        }
        _ => return None,
    })
}

fn empty_snapshot(shape_id: &str) -> Message<'_> {
    Message::ShapeSnapshot(ShapeSnapshot { shape_id, data: &[], snapshot_lsn: 0, doc_count: 0 })
}

fn refuse_array_delta<'a>(delta: &ArrayDelta<'a>, detail: &'a str) -> Option<Message<'a>> {
    Some(Message::ArrayReject(ArrayReject {
        array: delta.array,
        op_hlc_bytes: op_hlc(delta.op_payload)?,
        reason: ArrayRejectReason::PermissionDenied,
        detail,
    }))
}

fn refuse_array_batch<'a>(batch: &ArrayDeltaBatch<'a>, detail: &'a str) -> Message<'a> {
    let refuse = |op: &Vec<u8>| ArrayOpResult {
        op_hlc_bytes: op_hlc(op).unwrap_or_default(),
        outcome: ArrayOpOutcome::Rejected { reason: ArrayRejectReason::PermissionDenied, detail },
    };
    let results = batch.op_payloads.iter().map(refuse).collect();
    Message::ArrayOpResults(ArrayOpResults { array: batch.array, results })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array_delta(op_payload: &[u8]) -> Message<'_> {
        let array = "scores";
        Message::ArrayDelta(ArrayDelta { array, op_payload, producer_id: 1, epoch: 1, seq: 1 })
    }

    /// An op at physical_ms 300, logical 5, replica 42.
    const OP: &[u8] = b"\x94\x96\xa1a\x93\xcd\x01\x2c\x05\x2a\x93\0\0\0\0\0\0\xa3Put\x90\xc0";

    #[test]
    fn an_array_op_is_refused_by_its_own_clock_or_not_at_all() {
        let clock = [0, 0, 0, 0, 0, 0, 1, 0x2c, 0, 5, 0, 0, 0, 0, 0, 0, 0, 42];
        let Refusal::Answer(Message::ArrayReject(reject)) =
            refusal(&array_delta(OP), Layout::V0_6, "no")
        else {
            panic!("no ArrayReject");
        };
        assert_eq!(reject.op_hlc_bytes, clock);
        assert_eq!(refusal(&array_delta(&[1, 2]), Layout::V0_6, "no"), Refusal::Silent);
        let op_payloads = vec![OP.to_vec(), vec![1, 2]];
        let batch = Message::ArrayDeltaBatch(ArrayDeltaBatch { array: "scores", op_payloads });
        let Refusal::Answer(Message::ArrayOpResults(answer)) = refusal(&batch, Layout::V0_6, "no")
        else {
            panic!("no ArrayOpResults");
        };
        let clocks: Vec<_> = answer.results.iter().map(|result| result.op_hlc_bytes).collect();
        assert_eq!(clocks, [clock, [0; 18]]);
    }

    #[test]
    fn an_old_client_is_let_go_rather_than_told_that_all_went_well() {
        for layout in [Layout::V0_1, Layout::V0_4] {
            assert_eq!(refusal(&array_delta(OP), layout, "no"), Refusal::CloseOldClient);
        }
    }
}
