//! Shapes: document subscriptions of a client (`protocols/nodedb.md` section 3.4).

use super::codec::prelude::*;

structs! {
    /// 0x20.
    pub struct ShapeSubscribe<'a> {
        shape: ShapeDefinition<'a>,
    }

    /// The content of a [`ShapeSubscribe`].
    pub struct ShapeDefinition<'a> {
        shape_id: &'a str,
        tenant_id: u32,
        shape_type: ShapeType<'a>,
        description: &'a str,
        field_filter: Vec<&'a str>,
    }

    /// Applies to the whole coordinate; both ends are inclusive.
    pub struct ArrayCoordRange {
        start: Vec<u64>,
        end: Option<Vec<u64>>,
    }

    /// 0x21.
    pub struct ShapeSnapshot<'a> {
        shape_id: &'a str,
        data: &'a [u8],
        snapshot_lsn: u64,
        doc_count: u64,
    }

    /// 0x22.
    pub struct ShapeDelta<'a> {
        shape_id: &'a str,
        collection: &'a str,
        document_id: &'a str,
        /// `INSERT`, `UPDATE` or `DELETE`.
        operation: &'a str,
        delta: &'a [u8],
        /// 0 on every frame: the client does not check for gaps.
        lsn: u64,
    }

    /// 0x23.
    pub struct ShapeUnsubscribe<'a> {
        shape_id: &'a str,
    }
}

enums! {
    /// The data selected by a shape.
    pub enum ShapeType<'a> {
        /// An empty predicate selects everything.
        Document { collection: &'a str, predicate: &'a [u8] },
        Graph { root_nodes: Vec<&'a str>, max_depth: u64, edge_label: Option<&'a str> },
        Vector { collection: &'a str, field_name: Option<&'a str> },
        Array { array_name: &'a str, coord_range: Option<ArrayCoordRange> },
    }
}
