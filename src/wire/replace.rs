//! Replaces a header whose length is known only after the body is written.

use std::ops::Range;

/// Replaces `range` of `out` by `bytes`, which are at least as long. The bytes after the range
/// move.
///
/// # Panics
/// If `bytes` are shorter than the range.
pub(crate) fn replace(out: &mut Vec<u8>, range: Range<usize>, bytes: &[u8]) {
    assert!(bytes.len() >= range.len(), "{} bytes instead of {range:?}", bytes.len());
    let (end, longer) = (out.len(), bytes.len() - range.len());
    if longer > 0 {
        out.resize(end + longer, 0);
        out.copy_within(range.end..end, range.end + longer);
    }
    out[range.start..range.end + longer].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_after_the_range_move() {
        let cases: [(Range<usize>, &[u8], &[u8]); 4] = [
            (1..2, b"X", b"aXcd"),
            (1..2, b"XYZ", b"aXYZcd"),
            (0..0, b"XY", b"XYabcd"),
            (4..4, b"X", b"abcdX"),
        ];
        for (range, bytes, expected) in cases {
            let mut out = b"abcd".to_vec();
            replace(&mut out, range, bytes);
            assert_eq!(out, expected);
        }
    }
}
