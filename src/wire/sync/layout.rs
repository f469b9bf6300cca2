//! Field layouts by client generation.

use super::frame::Header;

/// Field layouts, named after the first crate version with the layout (`protocols/nodedb.md`
/// section 2.4), in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// nodedb-types 0.0.x.
    V0_0,
    /// nodedb-types 0.1 to 0.3.
    V0_1,
    /// nodedb-types 0.4.
    V0_4,
    /// nodedb-types 0.6.
    V0_6,
}

impl Layout {
    /// Every layout, oldest first.
    pub const ALL: [Layout; 4] = [Layout::V0_0, Layout::V0_1, Layout::V0_4, Layout::V0_6];

    /// The frame header of the same generation.
    pub fn header(self) -> Header {
        if self < Layout::V0_4 { Header::Five } else { Header::Ten }
    }
}

/// The layout of a client with this header and the `wire_version` of its Handshake; `None` for a
/// version of no supported client (`protocols/nodedb.md` section 9, decision 3).
///
/// `ten_byte_default`: [`Layout::V0_6`] or [`Layout::V0_4`], which have the same Handshake. The
/// result is `None` for a layout without the 10-byte header.
pub fn layout_for(header: Header, wire_version: u16, ten_byte_default: Layout) -> Option<Layout> {
    match (header, wire_version) {
        (Header::Five, 0 | 1) => Some(Layout::V0_0),
        (Header::Five, 4) => Some(Layout::V0_1),
        (Header::Ten, 1) => Some(ten_byte_default).filter(|layout| layout.header() == Header::Ten),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_wire_version_decide_the_layout() {
        let cases = [
            (Header::Five, 0, Some(Layout::V0_0)),
            (Header::Five, 1, Some(Layout::V0_0)),
            (Header::Five, 4, Some(Layout::V0_1)),
            (Header::Five, 2, None),
            (Header::Ten, 1, Some(Layout::V0_4)),
            (Header::Ten, 0, None),
            (Header::Ten, 4, None),
        ];
        for (header, wire_version, layout) in cases {
            assert_eq!(layout_for(header, wire_version, Layout::V0_4), layout, "{wire_version}");
        }
        assert_eq!(layout_for(Header::Ten, 1, Layout::V0_1), None);
    }
}
