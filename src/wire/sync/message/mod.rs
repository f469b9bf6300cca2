//! Typed messages. The submodules define their fields; the table below defines their codes.
//!
//! Invariant: a layout decodes exactly what that generation of clients accepts, and encodes the
//! bytes that they write.
//!
//! Must never know: the purpose of a message.

pub mod array;
mod codec;
pub mod delta;
pub mod engine;
pub mod presence;
pub mod schema;
pub mod session;
pub mod shape;

use serde::Serialize;
use strum::{FromRepr, IntoStaticStr, VariantArray};

use crate::error::FrameError;
use crate::wire::msgpack::Reader;
use crate::wire::sync::layout::Layout;
use codec::Field;

pub use codec::Map;

/// Sender of a message, according to the protocol documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    ClientToServer,
    ServerToClient,
    Both,
}

/// The table of messages: code, name and type, direction, first layout.
macro_rules! messages {
    ($($code:literal $name:ident($type:ty), $direction:ident, since $since:ident;)*) => {
        /// Frame types, by name (`protocols/nodedb.md` section 2.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromRepr, IntoStaticStr, VariantArray)]
        #[repr(u8)]
        pub enum MessageType {
            $($name = $code,)*
        }

        impl MessageType {
            /// Its sender.
            pub fn direction(self) -> Direction {
                match self {
                    $(MessageType::$name => Direction::$direction,)*
                }
            }

            /// The first layout with this type.
            pub fn since(self) -> Layout {
                match self {
                    $(MessageType::$name => Layout::$since,)*
                }
            }
        }

        /// A message that borrows from its encoded body.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Message<'a> {
            $($name($type),)*
        }

        impl Message<'_> {
            /// The type of its frame.
            pub fn message_type(&self) -> MessageType {
                match self {
                    $(Message::$name(_) => MessageType::$name,)*
                }
            }

            /// Appends the body, even if the layout cannot express it.
            pub(super) fn append_body(&self, layout: Layout, out: &mut Vec<u8>) {
                match self {
                    $(Message::$name(message) => message.append(layout, out),)*
                }
            }

            fn fields_expressible(&self, layout: Layout) -> bool {
                match self {
                    $(Message::$name(message) => message.expressible(layout),)*
                }
            }
        }

        fn decode_fields<'a>(
            message_type: MessageType,
            reader: &mut Reader<'a>,
            layout: Layout,
        ) -> Result<Message<'a>, FrameError> {
            match message_type {
                $(MessageType::$name => Field::decode(reader, layout).map(Message::$name),)*
            }
        }
    };
}

messages! {
    0x01 Handshake(session::Handshake<'a>), ClientToServer, since V0_0;
    0x02 HandshakeAck(session::HandshakeAck<'a>), ServerToClient, since V0_0;
    0x10 DeltaPush(delta::DeltaPush<'a>), ClientToServer, since V0_0;
    0x11 DeltaAck(delta::DeltaAck<'a>), ServerToClient, since V0_0;
    0x12 DeltaReject(delta::DeltaReject<'a>), ServerToClient, since V0_0;
    0x13 CollectionSchema(schema::CollectionSchema<'a>), Both, since V0_4;
    0x14 CollectionPurged(delta::CollectionPurged<'a>), ServerToClient, since V0_0;
    0x15 RowPush(delta::RowPush<'a>), ServerToClient, since V0_6;
    0x16 RowPushReject(delta::RowPushReject<'a>), ClientToServer, since V0_6;
    0x20 ShapeSubscribe(shape::ShapeSubscribe<'a>), ClientToServer, since V0_0;
    0x21 ShapeSnapshot(shape::ShapeSnapshot<'a>), ServerToClient, since V0_0;
    0x22 ShapeDelta(shape::ShapeDelta<'a>), ServerToClient, since V0_0;
    0x23 ShapeUnsubscribe(shape::ShapeUnsubscribe<'a>), ClientToServer, since V0_0;
    0x30 VectorClockSync(session::VectorClockSync<'a>), Both, since V0_0;
    0x40 TimeseriesPush(engine::TimeseriesPush<'a>), ClientToServer, since V0_0;
    0x41 TimeseriesAck(engine::TimeseriesAck<'a>), ServerToClient, since V0_0;
    0x50 ResyncRequest(delta::ResyncRequest<'a>), Both, since V0_0;
    0x52 Throttle(session::Throttle), ClientToServer, since V0_0;
    0x60 TokenRefresh(session::TokenRefresh<'a>), ClientToServer, since V0_0;
    0x61 TokenRefreshAck(session::TokenRefreshAck<'a>), ServerToClient, since V0_0;
    0x70 DefinitionSync(delta::DefinitionSync<'a>), ServerToClient, since V0_0;
    0x80 PresenceUpdate(presence::PresenceUpdate<'a>), ClientToServer, since V0_0;
    0x81 PresenceBroadcast(presence::PresenceBroadcast<'a>), ServerToClient, since V0_0;
    0x82 PresenceLeave(presence::PresenceLeave<'a>), ServerToClient, since V0_0;
    0x90 ArrayDelta(array::ArrayDelta<'a>), Both, since V0_1;
    0x91 ArrayDeltaBatch(array::ArrayDeltaBatch<'a>), Both, since V0_1;
    0x92 ArraySnapshot(array::ArraySnapshot<'a>), Both, since V0_1;
    0x93 ArraySnapshotChunk(array::ArraySnapshotChunk<'a>), Both, since V0_1;
    0x94 ArraySchema(array::ArraySchema<'a>), Both, since V0_1;
    0x95 ArrayAck(array::ArrayAck<'a>), ClientToServer, since V0_1;
    0x96 ArrayReject(array::ArrayReject<'a>), ServerToClient, since V0_1;
    0x97 ArrayCatchupRequest(array::ArrayCatchupRequest<'a>), ClientToServer, since V0_1;
    0x98 ArrayOpResults(array::ArrayOpResults<'a>), ServerToClient, since V0_6;
    0x99 ArrayAdvisoryRefused(array::ArrayAdvisoryRefused<'a>), ServerToClient, since V0_6;
    0xA0 ColumnarInsert(engine::ColumnarInsert<'a>), ClientToServer, since V0_1;
    0xA1 ColumnarInsertAck(engine::ColumnarInsertAck<'a>), ServerToClient, since V0_1;
    0xA2 VectorInsert(engine::VectorInsert<'a>), ClientToServer, since V0_1;
    0xA3 VectorInsertAck(engine::VectorAck<'a>), ServerToClient, since V0_1;
    0xA4 VectorDelete(engine::VectorDelete<'a>), ClientToServer, since V0_1;
    0xA5 VectorDeleteAck(engine::VectorAck<'a>), ServerToClient, since V0_1;
    0xA6 FtsIndex(engine::FtsIndex<'a>), ClientToServer, since V0_1;
    0xA7 FtsIndexAck(engine::FtsAck<'a>), ServerToClient, since V0_1;
    0xA8 FtsDelete(engine::FtsDelete<'a>), ClientToServer, since V0_1;
    0xA9 FtsDeleteAck(engine::FtsAck<'a>), ServerToClient, since V0_1;
    0xAA SpatialInsert(engine::SpatialInsert<'a>), ClientToServer, since V0_1;
    0xAB SpatialInsertAck(engine::SpatialAck<'a>), ServerToClient, since V0_1;
    0xAC SpatialDelete(engine::SpatialDelete<'a>), ClientToServer, since V0_1;
    0xAD SpatialDeleteAck(engine::SpatialAck<'a>), ServerToClient, since V0_1;
    0xAE KvPush(engine::KvPush<'a>), ClientToServer, since V0_6;
    0xAF KvPushAck(engine::KvPushAck<'a>), ServerToClient, since V0_6;
    0xFF PingPong(session::PingPong), Both, since V0_0;
}

impl MessageType {
    /// The byte in the frame header.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether clients of this layout support the type.
    pub fn exists_in(self, layout: Layout) -> bool {
        layout >= self.since()
    }
}

impl Message<'_> {
    /// Checks that a client of this layout can interpret the message correctly.
    ///
    /// # Errors
    /// [`FrameError::UnknownType`] if the layout lacks the type, [`FrameError::Body`] if it lacks a
    /// variant in the message, such as a rejection.
    pub fn expressible(&self, layout: Layout) -> Result<(), FrameError> {
        if !self.message_type().exists_in(layout) {
            return Err(FrameError::UnknownType);
        }
        if self.fields_expressible(layout) { Ok(()) } else { Err(FrameError::Body) }
    }
}

/// Decodes a body. Bytes after its value are ignored, as by the decoder of the clients. Fields that
/// the layout lacks have their defaults. Handshake, presence and pings are the same in every
/// layout.
///
/// # Errors
/// [`FrameError::UnknownType`] if the layout lacks the type; [`FrameError::Truncated`],
/// [`FrameError::Body`] or [`FrameError::Utf8`] if the body is not a valid message of this type.
pub fn decode<'a>(
    message_type: MessageType,
    body: &'a [u8],
    layout: Layout,
) -> Result<Message<'a>, FrameError> {
    if !message_type.exists_in(layout) {
        return Err(FrameError::UnknownType);
    }
    decode_fields(message_type, &mut Reader::new(body), layout)
}

/// Appends a body as clients of this layout write and read it.
///
/// # Errors
/// Those of [`Message::expressible`]; nothing is appended.
pub fn encode(message: &Message<'_>, layout: Layout, out: &mut Vec<u8>) -> Result<(), FrameError> {
    message.expressible(layout)?;
    message.append_body(layout, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use array::{ArrayOpOutcome, ArrayOpResult, ArrayOpResults, ArrayRejectReason};
    use delta::{AckStatus, DeltaAck};

    fn ack(status: AckStatus<'_>) -> Message<'_> {
        Message::DeltaAck(DeltaAck {
            mutation_id: 1,
            lsn: 0,
            clock_skew_warning_ms: None,
            applied_seq: 1,
            status,
        })
    }

    #[test]
    fn codes_and_types_are_one_to_one() {
        assert_eq!(MessageType::VARIANTS.len(), 51);
        let known = (0..=255).filter_map(MessageType::from_repr);
        assert!(known.eq(MessageType::VARIANTS.iter().copied()));
        for message_type in MessageType::VARIANTS {
            assert_eq!(MessageType::from_repr(message_type.code()), Some(*message_type));
        }
    }

    #[test]
    fn a_status_is_never_left_out_for_a_client_that_lacks_it() {
        let cases = [
            (AckStatus::Applied, Layout::V0_0),
            (AckStatus::Duplicate, Layout::V0_0),
            (AckStatus::Fenced, Layout::V0_4),
            (AckStatus::Gap { expected: 1 }, Layout::V0_4),
            (AckStatus::Accepted, Layout::V0_6),
            (AckStatus::Rejected { reason: "no" }, Layout::V0_6),
        ];
        for (status, since) in cases {
            for layout in Layout::ALL {
                let mut out = Vec::new();
                let encoded = encode(&ack(status.clone()), layout, &mut out);
                assert_eq!(encoded.is_ok(), layout >= since, "{status:?} {layout:?}");
                assert_eq!(out.is_empty(), encoded.is_err(), "{status:?} {layout:?}");
            }
        }
    }

    #[test]
    fn variants_deep_in_a_message_are_asked_too() {
        let results = |reason| {
            let outcome = ArrayOpOutcome::Rejected { reason, detail: "" };
            let results = vec![ArrayOpResult { op_hlc_bytes: [0; 18], outcome }];
            Message::ArrayOpResults(ArrayOpResults { array: "a", results })
        };
        let (old, new) = (ArrayRejectReason::QuotaExceeded, ArrayRejectReason::PermissionDenied);
        assert_eq!(results(old).expressible(Layout::V0_6), Err(FrameError::Body));
        assert_eq!(results(new.clone()).expressible(Layout::V0_6), Ok(()));
        assert_eq!(results(new).expressible(Layout::V0_4), Err(FrameError::UnknownType));
    }
}
