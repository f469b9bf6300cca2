//! What the log of an app consists of.

use std::sync::Arc;

use bytes::Bytes;

/// Hybrid logical clock of an array op, big endian, so that byte order is time order.
pub type ArrayClock = [u8; 18];

/// One entry of the log. A newer one with the same [`Key`] replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// From 1, ascending, with holes where records were replaced.
    pub position: u64,
    /// The device that pushed it; 0 for none.
    pub author: u64,
    /// The collection or array.
    pub collection: Arc<str>,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The announcement of the collection, as it came.
    Schema {
        body: Bytes,
    },
    /// An update of the collection's CRDT document, opaque.
    Delta {
        document: Bytes,
        delta: Bytes,
    },
    /// The newest row of a key; `None` when it was deleted. `expires_wall_ms`: 0 for never.
    Row {
        key: Bytes,
        row: Option<Bytes>,
        expires_wall_ms: u64,
    },
    ArrayOp {
        clock: ArrayClock,
        op: Bytes,
    },
    ArraySchema {
        replica: u64,
        clock: ArrayClock,
        snapshot: Bytes,
    },
    /// A push of an engine that no device receives: it is stored and not kept in memory. Replaces
    /// an earlier one of the same kind and key; without a key it stays beside all others.
    Engine {
        kind: u8,
        key: Bytes,
        body: Bytes,
    },
}

/// Of records of one collection with the same key only the newest is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Schema,
    Row(Bytes),
    ArrayOp(ArrayClock),
    ArraySchema,
}

/// Memory of a record besides its bytes, about.
const OVERHEAD_BYTES: usize = 128;

impl Record {
    /// `None` for records that stay beside all others.
    pub fn key(&self) -> Option<Key> {
        match &self.content {
            Content::Schema { .. } => Some(Key::Schema),
            Content::Row { key, .. } => Some(Key::Row(key.clone())),
            Content::ArrayOp { clock, .. } => Some(Key::ArrayOp(*clock)),
            Content::ArraySchema { .. } => Some(Key::ArraySchema),
            Content::Delta { .. } | Content::Engine { .. } => None,
        }
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.collection.len() + self.content.bytes()
    }
}

impl Content {
    /// Bytes of its parts.
    pub fn bytes(&self) -> usize {
        match self {
            Content::Schema { body } => body.len(),
            Content::Delta { document, delta } => document.len() + delta.len(),
            Content::Row { key, row, .. } => key.len() + row.as_ref().map_or(0, Bytes::len),
            Content::ArrayOp { op, .. } => op.len(),
            Content::ArraySchema { snapshot, .. } => snapshot.len(),
            Content::Engine { key, body, .. } => key.len() + body.len(),
        }
    }
}
