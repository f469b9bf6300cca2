//! Document pushes of devices as requests to the relay, and its records as frames.
//!
//! | input | answer | counter |
//! |---|---|---|
//! | the token may not publish to the collection | terminal ack, rejected; nothing for a schema | - |
//! | name of a collection empty or over 255 bytes | terminal ack, rejected | - |
//! | name of a shape, or of its collection, over 255 bytes | empty snapshot | `ignored{channel_name}` |
//! | id of an item of an engine over 1,024 bytes; a batch from no device | terminal ack, rejected | - |
//! | announcement of a collection over 64 KiB | - | `ignored{message_too_large}` |
//! | delta, row or op empty or above `documents.delta_bytes_max` | terminal ack, rejected | - |
//! | checksum of a delta wrong | DeltaAck, Gap: it is pushed again | - |
//! | push of an engine whose records no device receives, without a disk | terminal ack, rejected | - |
//! | the same, an array op or a delta of an older client | closed 1008 | `disconnect{old_client}` |
//! | array op whose clock cannot be read | - | `ignored{malformed_body}` |
//! | shape of a collection that the token may not subscribe to, or of a graph | empty snapshot | `ignored{forbidden}` |
//! | log of the app is full, or cannot be written | Gap, or its equal: it is pushed again | `ignored{documents_full}` |
//!
//! Sources: `protocols/nodedb.md` sections 4.6, 5, 8.3, 8.5 and 9.

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::super::{
    DocumentAnswer, DocumentRequest, Framing, Principal, PushRequest, Receipt, Replica,
    SessionContext, SessionOutput, append_message,
};
use super::Session;
use crate::auth::Operation;
use crate::counters::Ignored;
use crate::error::{FrameError, Reject};
use crate::ids::Clocks;
use crate::relay::{COLLECTION_BYTES_MAX, Content, Engine, Pushed, Record};
use crate::wire::sync::message::array::{
    ArrayDelta, ArrayDeltaBatch, ArrayOpOutcome, ArrayOpResult, ArrayOpResults, ArrayReject,
    ArrayRejectReason, ArraySchema, op_hlc,
};
use crate::wire::sync::message::delta::{AckStatus, DeltaPush, RowOp, RowPush};
use crate::wire::sync::message::engine::{KvPush, KvPushOp};
use crate::wire::sync::message::session::{Handshake, PingPong};
use crate::wire::sync::message::shape::{ShapeDelta, ShapeType};
use crate::wire::sync::{self, Layout, Message, MessageType, ack, append_frame};

/// Clients count on the answer to a ping with this bit: it comes after all array ops before it.
const BARRIER_BIT: u64 = 1 << 63;

/// The clock of a device is off by more than this: it is told.
const SKEW_MS: i64 = 24 * 60 * 60 * 1000;

/// Longest id of an item of an engine, which is part of a key of the store; bytes.
const ITEM_BYTES_MAX: usize = 1024;

/// Longest announcement of a collection, bytes.
const SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// Longest name of a shape, which is in every frame of it; bytes.
const SHAPE_BYTES_MAX: usize = COLLECTION_BYTES_MAX;

/// Ops in one message that answers a request for those of an array.
const CATCH_UP_OPS_MAX: usize = 256;

/// What a document message amounts to.
enum Judged {
    Request(DocumentRequest),
    /// Not the relay's business.
    Other,
    /// It is to be answered as what this server does not do.
    Refused(&'static str),
    /// It is to be pushed again.
    Again,
    Ignored(Ignored),
    EmptySnapshot(Ignored),
}

impl Session {
    /// What the relay is to know of a device that greets; `None` for sessions that keep no copies.
    pub(super) fn replica(
        &self,
        cx: &SessionContext<'_>,
        principal: &Principal,
        greeting: &Handshake<'_>,
    ) -> Option<Replica> {
        let is_device = !greeting.lite_id.is_empty() && self.layout >= Layout::V0_4;
        if !is_device || !cx.settings.relay.is_on() {
            return None;
        }
        let user = if principal.is_anonymous() { "" } else { &*principal.identity.user };
        let device = device_key(&principal.grant.app, user, greeting.lite_id);
        Some(Replica { device, epoch: greeting.epoch })
    }

    /// Acts on a message that is for the relay; `None` if it is not.
    pub(super) fn take_document<'m>(
        &self,
        cx: &SessionContext<'_>,
        message: &Message<'_>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<SessionOutput<'m>> {
        let principal = self.principal.as_ref()?;
        if !cx.settings.relay.is_on() || self.layout < Layout::V0_4 {
            return None;
        }
        Some(match self.judge(cx, principal, message, body) {
            Judged::Other => return None,
            Judged::Request(request) => SessionOutput::Documents(request),
            Judged::Refused(reason) => self.refuse_as(message, reason, out),
            Judged::Again => {
                let expected = match message {
                    Message::DeltaPush(push) => push.seq,
                    _ => 0,
                };
                if let Some(ack) = ack(message, AckStatus::Gap { expected }) {
                    self.reply(out, &ack);
                }
                SessionOutput::Done
            }
            Judged::Ignored(reason) => SessionOutput::Ignored(reason),
            Judged::EmptySnapshot(reason) => {
                self.refuse_as(message, "", out);
                SessionOutput::Ignored(reason)
            }
        })
    }

    fn judge(
        &self,
        cx: &SessionContext<'_>,
        principal: &Principal,
        message: &Message<'_>,
        body: &[u8],
    ) -> Judged {
        match message {
            Message::ShapeSubscribe(subscribe) => {
                let shape = subscribe.shape.shape_id;
                let collection = collection_of(&subscribe.shape.shape_type);
                match collection {
                    _ if [shape, collection.unwrap_or_default()]
                        .iter()
                        .any(|name| name.len() > SHAPE_BYTES_MAX) =>
                    {
                        Judged::EmptySnapshot(Ignored::Refused(Reject::ChannelName))
                    }
                    Some(collection) if may_read(principal, collection) => {
                        let (shape, collection) = (shape.into(), collection.into());
                        Judged::Request(DocumentRequest::Subscribe { shape, collection })
                    }
                    Some(_) => Judged::EmptySnapshot(Ignored::Refused(Reject::Forbidden)),
                    None => Judged::EmptySnapshot(Ignored::NothingToDo),
                }
            }
            Message::ShapeUnsubscribe(unsubscribe) => {
                let shape = unsubscribe.shape_id.into();
                Judged::Request(DocumentRequest::Unsubscribe { shape })
            }
            Message::ResyncRequest(request) => {
                let collection = Some(request.collection).filter(|name| !name.is_empty());
                if collection.is_some_and(|name| !may_read(principal, name)) {
                    return Judged::EmptySnapshot(Ignored::Refused(Reject::Forbidden));
                }
                if request.shape_id.len() > SHAPE_BYTES_MAX {
                    return Judged::EmptySnapshot(Ignored::Refused(Reject::ChannelName));
                }
                let (shape, collection) = (request.shape_id.into(), collection.map(Arc::from));
                Judged::Request(DocumentRequest::Resync { shape, collection })
            }
            Message::ArrayCatchupRequest(request) => match may_read(principal, request.array) {
                true => Judged::Request(DocumentRequest::CatchUp {
                    array: request.array.into(),
                    after: request.from_hlc_bytes,
                }),
                false => Judged::Ignored(Ignored::Refused(Reject::Forbidden)),
            },
            Message::PingPong(ping) if !ping.is_pong && ping.timestamp_ms & BARRIER_BIT != 0 => {
                let timestamp_ms = ping.timestamp_ms;
                Judged::Request(DocumentRequest::Barrier { timestamp_ms })
            }
            _ => self.judge_push(cx, principal, message, body),
        }
    }

    fn judge_push(
        &self,
        cx: &SessionContext<'_>,
        principal: &Principal,
        message: &Message<'_>,
        body: &[u8],
    ) -> Judged {
        let Some((engine, collection, number)) = stream_of(message) else { return Judged::Other };
        if engine == Engine::Array && self.layout < Layout::V0_6 {
            return Judged::Refused("array ops need a newer client");
        }
        if collection.is_empty() || collection.len() > COLLECTION_BYTES_MAX {
            return Judged::Refused("the name of a collection has 1 to 255 bytes");
        }
        if principal.grant.capability.allows(collection, Operation::Publish).is_err() {
            return match message {
                Message::CollectionSchema(_) | Message::ArraySchema(_) => {
                    Judged::Ignored(Ignored::Refused(Reject::Forbidden))
                }
                _ => Judged::Refused("the token may not publish to this collection"),
            };
        }
        if let Message::DeltaPush(push) = message
            && push.checksum != 0
            && push.checksum != crc32c::crc32c(push.delta)
        {
            return Judged::Again;
        }
        let body = Bytes::copy_from_slice(body);
        let Some(contents) = contents_of(message, &body) else {
            return Judged::Ignored(Ignored::Malformed(FrameError::Body));
        };
        if let Some(Content::Engine { key, .. }) = contents.first() {
            let is_numbered = number != 0 && principal.identity.device().is_some();
            if !cx.settings.relay.is_on_disk() {
                return Judged::Refused("this server keeps nothing of this engine without a disk");
            }
            if key.len() > ITEM_BYTES_MAX || (key.is_empty() && !is_numbered) {
                return Judged::Refused("its id is too long, or it comes from no device");
            }
        }
        let largest = contents.iter().map(Content::bytes).max().unwrap_or_default();
        if matches!(message, Message::CollectionSchema(_)) && largest > SCHEMA_BYTES_MAX {
            return Judged::Ignored(Ignored::Refused(Reject::MessageTooLarge));
        }
        match message {
            Message::DeltaPush(push) if push.delta.is_empty() => {
                return Judged::Refused("the delta is empty");
            }
            _ if largest > cx.settings.relay.delta_bytes_max => {
                return Judged::Refused("it is larger than this server takes");
            }
            _ => {}
        }
        let receipt = Receipt { message_type: message.message_type(), body };
        let collection = collection.into();
        let push = PushRequest { engine, collection, number, contents, receipt };
        Judged::Request(DocumentRequest::Push(Box::new(push)))
    }

    /// Appends the answer of the relay.
    pub(super) fn append_answer(&self, now: Clocks, answer: &DocumentAnswer, out: &mut Vec<u8>) {
        match answer {
            DocumentAnswer::Barrier { timestamp_ms } => {
                let pong = PingPong { timestamp_ms: *timestamp_ms, is_pong: true };
                self.reply(out, &Message::PingPong(pong));
            }
            DocumentAnswer::ArrayOps { array, ops } => {
                for ops in ops.chunks(CATCH_UP_OPS_MAX) {
                    let op = |record: &Arc<Record>| match &record.content {
                        Content::ArrayOp { op, .. } => op.to_vec(),
                        _ => Vec::new(),
                    };
                    let op_payloads = ops.iter().map(op).collect();
                    let batch = ArrayDeltaBatch { array, op_payloads };
                    self.reply(out, &Message::ArrayDeltaBatch(batch));
                }
            }
            DocumentAnswer::Pushed { receipt, outcomes } => {
                let Receipt { message_type, body } = receipt;
                let Ok(pushed) = sync::decode(*message_type, body, self.layout) else { return };
                self.acknowledge(now, &pushed, outcomes, out);
            }
        }
    }

    fn acknowledge(
        &self,
        now: Clocks,
        pushed: &Message<'_>,
        outcomes: &[Pushed],
        out: &mut Vec<u8>,
    ) {
        let outcome = outcomes.first().copied().unwrap_or(Pushed::Applied);
        let answer = match pushed {
            Message::ArrayDelta(delta) => reject_array_op(delta, outcome),
            Message::ArrayDeltaBatch(batch) => Some(array_results(batch, outcomes)),
            _ => ack(pushed, status(pushed, outcome)),
        };
        let Some(mut answer) = answer else { return };
        if let (Message::DeltaAck(ack), Message::DeltaPush(push)) = (&mut answer, pushed) {
            let skew = push.device_valid_time_ms.map(|ms| (now.wall_ms as i64).saturating_sub(ms));
            ack.clock_skew_warning_ms = skew.filter(|skew| skew.abs() > SKEW_MS);
        }
        self.reply(out, &answer);
    }
}

/// Appends a record as sessions receive it; nothing if this layout has no message for it.
pub fn append_record(
    layout: Layout,
    framing: Framing,
    record: &Record,
    shape: Option<&str>,
    out: &mut Vec<u8>,
) {
    let collection = &*record.collection;
    let message = match &record.content {
        Content::Schema { body } => {
            return append_message(framing, out, |out| {
                append_frame(layout.header(), MessageType::CollectionSchema, out, |out| {
                    out.extend_from_slice(body);
                });
            });
        }
        Content::Delta { document, delta } => {
            let Ok(document_id) = str::from_utf8(document) else { return };
            let shape_id = shape.unwrap_or(collection);
            let operation = "UPDATE";
            Message::ShapeDelta(ShapeDelta {
                shape_id,
                collection,
                document_id,
                operation,
                delta,
                lsn: 0,
            })
        }
        Content::Row { key, row, .. } => {
            let Ok(document_id) = str::from_utf8(key) else { return };
            let op = if row.is_some() { RowOp::Upsert } else { RowOp::Delete };
            let payload = row.as_ref().map_or(&[][..], |row| row);
            Message::RowPush(RowPush {
                collection,
                document_id,
                payload,
                op,
                lsn: 0,
                peer_id: 0,
                sequence: 0,
            })
        }
        Content::ArrayOp { op, .. } => Message::ArrayDelta(ArrayDelta {
            array: collection,
            op_payload: op,
            producer_id: 0,
            epoch: 0,
            seq: 0,
        }),
        Content::ArraySchema { replica, clock, snapshot } => Message::ArraySchema(ArraySchema {
            array: collection,
            replica_id: *replica,
            schema_hlc_bytes: *clock,
            snapshot_payload: snapshot,
        }),
        Content::Engine { .. } => return,
    };
    if message.expressible(layout).is_ok() {
        append_message(framing, out, |out| {
            let encoded = sync::append_message(&message, layout, out);
            debug_assert!(encoded.is_ok(), "{layout:?} cannot say {message:?}");
        });
    }
}

/// Names a device to the relay: the same device of two users are two.
fn device_key(app: &str, user: &str, lite_id: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x6865_6164_636f_756e, 0x7472_656c_6179_3031);
    for part in [app, user, lite_id] {
        hasher.write_u64(part.len() as u64);
        hasher.write(part.as_bytes());
    }
    hasher.finish().max(1)
}

/// The token of a session covers receiving a collection.
pub fn may_read(principal: &Principal, collection: &str) -> bool {
    principal.grant.capability.allows(collection, Operation::Subscribe).is_ok()
}

/// The collection that a shape shows; a graph has none.
fn collection_of<'a>(shape: &ShapeType<'a>) -> Option<&'a str> {
    match shape {
        ShapeType::Document { collection, .. } | ShapeType::Vector { collection, .. } => {
            Some(collection)
        }
        ShapeType::Array { array_name, .. } => Some(array_name),
        ShapeType::Graph { .. } => None,
    }
}

/// Engine, collection and number of a push; `None` for messages that are none.
fn stream_of<'a>(message: &Message<'a>) -> Option<(Engine, &'a str, u64)> {
    Some(match message {
        Message::DeltaPush(push) => (Engine::Crdt, push.collection, push.seq),
        Message::CollectionSchema(schema) => (Engine::Crdt, schema.descriptor.name, 0),
        Message::KvPush(push) => (Engine::Kv, push.collection, push.seq),
        Message::ColumnarInsert(push) => (Engine::Columnar, push.collection, push.seq),
        Message::TimeseriesPush(push) => (Engine::Timeseries, push.collection, push.seq),
        Message::VectorInsert(push) => (Engine::Vector, push.collection, push.seq),
        Message::VectorDelete(push) => (Engine::Vector, push.collection, push.seq),
        Message::FtsIndex(push) => (Engine::Fts, push.collection, push.seq),
        Message::FtsDelete(push) => (Engine::Fts, push.collection, push.seq),
        Message::SpatialInsert(push) => (Engine::Spatial, push.collection, push.seq),
        Message::SpatialDelete(push) => (Engine::Spatial, push.collection, push.seq),
        // Ops are recognized by their clocks.
        Message::ArrayDelta(delta) => (Engine::Array, delta.array, 0),
        Message::ArrayDeltaBatch(batch) => (Engine::Array, batch.array, 0),
        Message::ArraySchema(schema) => (Engine::Array, schema.array, 0),
        _ => return None,
    })
}

/// What a push adds to the log. The memory is that of its body. `None` if a clock is missing.
fn contents_of(message: &Message<'_>, body: &Bytes) -> Option<Vec<Content>> {
    let content = match message {
        Message::DeltaPush(DeltaPush { document_id, delta, .. }) => Content::Delta {
            document: within(body, document_id.as_bytes()),
            delta: within(body, delta),
        },
        Message::CollectionSchema(_) => Content::Schema { body: body.clone() },
        Message::KvPush(KvPush { key, op, .. }) => {
            let (row, expires_wall_ms) = match op {
                KvPushOp::Put { row, expire_at_ms } => (Some(within(body, row)), *expire_at_ms),
                KvPushOp::Delete => (None, 0),
            };
            Content::Row { key: within(body, key), row, expires_wall_ms }
        }
        Message::ArrayDelta(delta) => Content::ArrayOp {
            clock: op_hlc(delta.op_payload)?,
            op: within(body, delta.op_payload),
        },
        Message::ArrayDeltaBatch(batch) => {
            let op = |payload: &Vec<u8>| {
                let op = Bytes::copy_from_slice(payload);
                Some(Content::ArrayOp { clock: op_hlc(payload)?, op })
            };
            return batch.op_payloads.iter().map(op).collect();
        }
        Message::ArraySchema(schema) => Content::ArraySchema {
            replica: schema.replica_id,
            clock: schema.schema_hlc_bytes,
            snapshot: within(body, schema.snapshot_payload),
        },
        _ => engine_content(message, body)?,
    };
    Some(vec![content])
}

/// A push of an engine. An insert and the delete of the same item replace each other.
fn engine_content(message: &Message<'_>, body: &Bytes) -> Option<Content> {
    let kind = |message_type: MessageType| message_type.code();
    let item = |parts: [&str; 2]| Bytes::from(parts.join("\0"));
    let (kind, key): (u8, Bytes) = match message {
        // Batches are told apart by the device and its numbers.
        Message::ColumnarInsert(_) => (kind(MessageType::ColumnarInsert), Bytes::new()),
        Message::TimeseriesPush(_) => (kind(MessageType::TimeseriesPush), Bytes::new()),
        Message::VectorInsert(push) => {
            (kind(MessageType::VectorInsert), item([push.field_name, push.id]))
        }
        Message::VectorDelete(push) => {
            (kind(MessageType::VectorInsert), item([push.field_name, push.id]))
        }
        Message::FtsIndex(push) => (kind(MessageType::FtsIndex), item(["", push.doc_id])),
        Message::FtsDelete(push) => (kind(MessageType::FtsIndex), item(["", push.doc_id])),
        Message::SpatialInsert(push) => {
            (kind(MessageType::SpatialInsert), item([push.field, push.doc_id]))
        }
        Message::SpatialDelete(push) => {
            (kind(MessageType::SpatialInsert), item([push.field, push.doc_id]))
        }
        _ => return None,
    };
    let mut logged = Vec::with_capacity(1 + body.len());
    logged.push(message.message_type().code());
    logged.extend_from_slice(body);
    Some(Content::Engine { kind, key, body: logged.into() })
}

/// A part of a body, which shares its memory.
fn within(body: &Bytes, part: &[u8]) -> Bytes {
    let inside = body.as_ptr_range().contains(&part.as_ptr()) && !part.is_empty();
    if inside { body.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}

fn status<'a>(pushed: &Message<'_>, outcome: Pushed) -> AckStatus<'a> {
    match outcome {
        Pushed::Applied => AckStatus::Applied,
        Pushed::Duplicate => AckStatus::Duplicate,
        Pushed::Fenced => AckStatus::Fenced,
        Pushed::Later => {
            AckStatus::Gap { expected: stream_of(pushed).map_or(0, |(_, _, number)| number) }
        }
    }
}

/// A single op is answered only when it failed; the client keeps it then.
fn reject_array_op<'a>(delta: &ArrayDelta<'a>, outcome: Pushed) -> Option<Message<'a>> {
    let is_applied = matches!(outcome, Pushed::Applied | Pushed::Duplicate);
    Some(Message::ArrayReject(ArrayReject {
        array: delta.array,
        op_hlc_bytes: op_hlc(delta.op_payload).filter(|_| !is_applied)?,
        reason: ArrayRejectReason::EngineUnavailable,
        detail: "try again",
    }))
}

fn array_results<'a>(batch: &ArrayDeltaBatch<'a>, outcomes: &[Pushed]) -> Message<'a> {
    let outcome = |outcome: &Pushed| match outcome {
        Pushed::Applied => ArrayOpOutcome::Applied,
        Pushed::Duplicate => ArrayOpOutcome::Duplicate,
        Pushed::Fenced | Pushed::Later => ArrayOpOutcome::Rejected {
            reason: ArrayRejectReason::EngineUnavailable,
            detail: "try again",
        },
    };
    let result = |(op, pushed): (&Vec<u8>, &Pushed)| ArrayOpResult {
        op_hlc_bytes: op_hlc(op).unwrap_or_default(),
        outcome: outcome(pushed),
    };
    let results = batch.op_payloads.iter().zip(outcomes).map(result).collect();
    Message::ArrayOpResults(ArrayOpResults { array: batch.array, results })
}
