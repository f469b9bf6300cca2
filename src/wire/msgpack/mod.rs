//! Strict MessagePack: a reader, writers of single values, and conversion to and from JSON.
//!
//! Invariant: reading never panics, never recurses on input, and allocates nothing.
//!
//! Must never know: the meaning of a value.
//!
//! The rules are those of zerompk, the codec of the sync protocol's clients (`protocols/nodedb.md`
//! section 3.1): a `u64` has unsigned markers only, an `i64` signed markers only, bytes are `bin`
//! only, booleans are `c2`/`c3` only. Longer encodings than necessary are accepted; the shortest
//! encoding is written.

mod json;

use rmp::Marker;

use crate::error::FrameError;
use crate::limits::VALUE_DEPTH_MAX;

pub use json::{from_json, to_json};

/// Reads values in sequence; text and bytes are borrowed from the input.
///
/// Every method returns [`FrameError::Truncated`] if the input ends inside the value and
/// [`FrameError::Body`] if the value has another type. A reader must not be used after an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The unread bytes.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn peek(&self) -> Result<Marker, FrameError> {
        self.rest.first().map(|&byte| Marker::from_u8(byte)).ok_or(FrameError::Truncated)
    }

    fn marker(&mut self) -> Result<Marker, FrameError> {
        let [byte] = self.fixed()?;
        Ok(Marker::from_u8(byte))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn len8(&mut self) -> Result<usize, FrameError> {
        self.fixed().map(|[byte]: [u8; 1]| usize::from(byte))
    }

    fn len16(&mut self) -> Result<usize, FrameError> {
        self.fixed().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn len32(&mut self) -> Result<usize, FrameError> {
        self.fixed().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    /// Skips a nil if it is next.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] at the end of the input.
    pub fn take_nil(&mut self) -> Result<bool, FrameError> {
        let is_nil = self.peek()? == Marker::Null;
        if is_nil {
            self.marker()?;
        }
        Ok(is_nil)
    }

    /// Whether the next value is text. Consumes nothing.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] at the end of the input.
    pub fn at_str(&self) -> Result<bool, FrameError> {
        let marker = self.peek()?;
        Ok(matches!(marker, Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32))
    }

    /// `c2` or `c3`.
    pub fn bool(&mut self) -> Result<bool, FrameError> {
        match self.marker()? {
            Marker::False => Ok(false),
            Marker::True => Ok(true),
            _ => Err(FrameError::Body),
        }
    }

    /// An integer with an unsigned marker.
    pub fn u64(&mut self) -> Result<u64, FrameError> {
        match self.marker()? {
            Marker::FixPos(value) => Ok(u64::from(value)),
            Marker::U8 => self.fixed().map(|bytes| u64::from(u8::from_be_bytes(bytes))),
            Marker::U16 => self.fixed().map(|bytes| u64::from(u16::from_be_bytes(bytes))),
            Marker::U32 => self.fixed().map(|bytes| u64::from(u32::from_be_bytes(bytes))),
            Marker::U64 => self.fixed().map(u64::from_be_bytes),
            _ => Err(FrameError::Body),
        }
    }

    /// An integer with a signed marker or a fixint.
    pub fn i64(&mut self) -> Result<i64, FrameError> {
        match self.marker()? {
            Marker::FixPos(value) => Ok(i64::from(value)),
            Marker::FixNeg(value) => Ok(i64::from(value)),
            Marker::I8 => self.fixed().map(|bytes| i64::from(i8::from_be_bytes(bytes))),
            Marker::I16 => self.fixed().map(|bytes| i64::from(i16::from_be_bytes(bytes))),
            Marker::I32 => self.fixed().map(|bytes| i64::from(i32::from_be_bytes(bytes))),
            Marker::I64 => self.fixed().map(i64::from_be_bytes),
            _ => Err(FrameError::Body),
        }
    }

    /// A single-precision number, marker `ca` only.
    pub fn f32(&mut self) -> Result<f32, FrameError> {
        match self.marker()? {
            Marker::F32 => self.fixed().map(f32::from_be_bytes),
            _ => Err(FrameError::Body),
        }
    }

    /// Text.
    ///
    /// # Errors
    /// Also [`FrameError::Utf8`].
    pub fn str(&mut self) -> Result<&'a str, FrameError> {
        let len = match self.marker()? {
            Marker::FixStr(len) => usize::from(len),
            Marker::Str8 => self.len8()?,
            Marker::Str16 => self.len16()?,
            Marker::Str32 => self.len32()?,
            _ => return Err(FrameError::Body),
        };
        simdutf8::basic::from_utf8(self.take(len)?).map_err(|_| FrameError::Utf8)
    }

    /// Bytes as `bin`; an array of integers is refused.
    pub fn bin(&mut self) -> Result<&'a [u8], FrameError> {
        let len = match self.marker()? {
            Marker::Bin8 => self.len8()?,
            Marker::Bin16 => self.len16()?,
            Marker::Bin32 => self.len32()?,
            _ => return Err(FrameError::Body),
        };
        self.take(len)
    }

    /// Number of values of an array. At most the number of remaining bytes.
    pub fn array_len(&mut self) -> Result<usize, FrameError> {
        let len = match self.marker()? {
            Marker::FixArray(len) => usize::from(len),
            Marker::Array16 => self.len16()?,
            Marker::Array32 => self.len32()?,
            _ => return Err(FrameError::Body),
        };
        self.at_least(len, len)
    }

    /// An array of exactly `len` values.
    pub fn array_of(&mut self, len: usize) -> Result<(), FrameError> {
        if self.array_len()? == len { Ok(()) } else { Err(FrameError::Body) }
    }

    /// Number of pairs of a map. At most half the number of remaining bytes.
    pub fn map_len(&mut self) -> Result<usize, FrameError> {
        let len = match self.marker()? {
            Marker::FixMap(len) => usize::from(len),
            Marker::Map16 => self.len16()?,
            Marker::Map32 => self.len32()?,
            _ => return Err(FrameError::Body),
        };
        self.at_least(len.saturating_mul(2), len)
    }

    /// A value takes at least one byte, so a count above the remaining bytes is invalid.
    fn at_least(&self, values: usize, len: usize) -> Result<usize, FrameError> {
        if values > self.rest.len() { Err(FrameError::Truncated) } else { Ok(len) }
    }

    /// Skips one value of any type. It must be well formed, but its text need not be UTF-8.
    ///
    /// # Errors
    /// [`FrameError::Body`] for containers nested deeper than [`VALUE_DEPTH_MAX`].
    pub fn skip_value(&mut self) -> Result<(), FrameError> {
        let mut open = OpenContainers::default();
        loop {
            match self.skip_head()? {
                0 if open.close_value() => return Ok(()),
                0 => {}
                children => open.push(children)?,
            }
        }
    }

    /// The bytes of the next value, of any type. Errors as for [`Reader::skip_value`].
    pub fn value_bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let start = self.rest;
        self.skip_value()?;
        Ok(&start[..start.len() - self.rest.len()])
    }

    /// Skips a scalar, or the head of a container; returns the number of values inside.
    fn skip_head(&mut self) -> Result<usize, FrameError> {
        let payload = match self.peek()? {
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => return self.array_len(),
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                return self.map_len().map(|pairs| pairs * 2);
            }
            _ => self.scalar_payload_len()?,
        };
        self.take(payload).map(|_| 0)
    }

    /// Reads the head of a scalar; returns the length of its payload.
    fn scalar_payload_len(&mut self) -> Result<usize, FrameError> {
        match self.marker()? {
            Marker::Null | Marker::False | Marker::True => Ok(0),
            Marker::FixPos(_) | Marker::FixNeg(_) => Ok(0),
            Marker::U8 | Marker::I8 => Ok(1),
            Marker::U16 | Marker::I16 => Ok(2),
            Marker::U32 | Marker::I32 | Marker::F32 => Ok(4),
            Marker::U64 | Marker::I64 | Marker::F64 => Ok(8),
            Marker::FixStr(len) => Ok(usize::from(len)),
            Marker::Str8 | Marker::Bin8 => self.len8(),
            Marker::Str16 | Marker::Bin16 => self.len16(),
            Marker::Str32 | Marker::Bin32 => self.len32(),
            Marker::FixExt1 => Ok(2),
            Marker::FixExt2 => Ok(3),
            Marker::FixExt4 => Ok(5),
            Marker::FixExt8 => Ok(9),
            Marker::FixExt16 => Ok(17),
            Marker::Ext8 => self.len8().map(|len| len + 1),
            Marker::Ext16 => self.len16().map(|len| len + 1),
            Marker::Ext32 => self.len32().map(|len| len.saturating_add(1)),
            _ => Err(FrameError::Body),
        }
    }
}

/// The number of missing values in each open container.
struct OpenContainers {
    missing: [usize; VALUE_DEPTH_MAX],
    depth: usize,
}

impl Default for OpenContainers {
    fn default() -> Self {
        OpenContainers { missing: [0; VALUE_DEPTH_MAX], depth: 0 }
    }
}

impl OpenContainers {
    fn push(&mut self, children: usize) -> Result<(), FrameError> {
        *self.missing.get_mut(self.depth).ok_or(FrameError::Body)? = children;
        self.depth += 1;
        Ok(())
    }

    /// Closes a value, and every container of which it was the last. Whether the outermost one was
    /// closed.
    fn close_value(&mut self) -> bool {
        while self.depth > 0 {
            self.missing[self.depth - 1] -= 1;
            if self.missing[self.depth - 1] > 0 {
                return false;
            }
            self.depth -= 1;
        }
        true
    }
}

/// Appends `c0`.
pub fn write_nil(out: &mut Vec<u8>) {
    out.push(Marker::Null.to_u8());
}

/// Appends `c2` or `c3`.
pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { Marker::True } else { Marker::False }.to_u8());
}

/// Appends the shortest form with an unsigned marker.
pub fn write_u64(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => append(out, Marker::U8, [value as u8]),
        0x100..=0xffff => append(out, Marker::U16, (value as u16).to_be_bytes()),
        0x1_0000..=0xffff_ffff => append(out, Marker::U32, (value as u32).to_be_bytes()),
        _ => append(out, Marker::U64, value.to_be_bytes()),
    }
}

/// Appends the shortest form with a signed marker: 128 is `d1 00 80`, which is why this is not
/// `rmp::encode::write_sint`.
pub fn write_i64(out: &mut Vec<u8>, value: i64) {
    if (-32..=127).contains(&value) {
        out.push(value as i8 as u8);
    } else if let Ok(value) = i8::try_from(value) {
        append(out, Marker::I8, value.to_be_bytes());
    } else if let Ok(value) = i16::try_from(value) {
        append(out, Marker::I16, value.to_be_bytes());
    } else if let Ok(value) = i32::try_from(value) {
        append(out, Marker::I32, value.to_be_bytes());
    } else {
        append(out, Marker::I64, value.to_be_bytes());
    }
}

/// Appends a single-precision number.
pub fn write_f32(out: &mut Vec<u8>, value: f32) {
    append(out, Marker::F32, value.to_be_bytes());
}

/// Appends a double-precision number.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    append(out, Marker::F64, value.to_be_bytes());
}

/// Appends text.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..=31 => out.push(Marker::FixStr(len as u8).to_u8()),
        len @ 32..=0xff => append(out, Marker::Str8, [len as u8]),
        len => write_len(out, Marker::Str16, Marker::Str32, len),
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends bytes as `bin`.
pub fn write_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..=0xff => append(out, Marker::Bin8, [len as u8]),
        len => write_len(out, Marker::Bin16, Marker::Bin32, len),
    }
    out.extend_from_slice(bytes);
}

/// Appends the head of an array of `len` values.
pub fn write_array_len(out: &mut Vec<u8>, len: usize) {
    match len {
        0..=15 => out.push(Marker::FixArray(len as u8).to_u8()),
        _ => write_len(out, Marker::Array16, Marker::Array32, len),
    }
}

/// Appends the head of a map of `len` pairs.
pub fn write_map_len(out: &mut Vec<u8>, len: usize) {
    match len {
        0..=15 => out.push(Marker::FixMap(len as u8).to_u8()),
        _ => write_len(out, Marker::Map16, Marker::Map32, len),
    }
}

fn append<const N: usize>(out: &mut Vec<u8>, marker: Marker, payload: [u8; N]) {
    out.push(marker.to_u8());
    out.extend_from_slice(&payload);
}

/// The head of a length that needs 16 or 32 bits.
fn write_len(out: &mut Vec<u8>, marker16: Marker, marker32: Marker, len: usize) {
    if let Ok(len) = u16::try_from(len) {
        return append(out, marker16, len.to_be_bytes());
    }
    assert!(len <= u32::MAX as usize, "MessagePack has no length of {len}");
    append(out, marker32, (len as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_the_shortest_form_of_their_signedness() {
        let unsigned: [(u64, &[u8]); 5] = [
            (127, &[0x7f]),
            (128, &[0xcc, 0x80]),
            (256, &[0xcd, 1, 0]),
            (0x1_0000, &[0xce, 0, 1, 0, 0]),
            (1 << 32, &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
        ];
        for (value, bytes) in unsigned {
            let mut out = Vec::new();
            write_u64(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(Reader::new(&out).u64(), Ok(value));
        }
        let signed: [(i64, &[u8]); 6] = [
            (127, &[0x7f]),
            (128, &[0xd1, 0, 0x80]),
            (-32, &[0xe0]),
            (-33, &[0xd0, 0xdf]),
            (-129, &[0xd1, 0xff, 0x7f]),
            (32768, &[0xd2, 0, 0, 0x80, 0]),
        ];
        for (value, bytes) in signed {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(Reader::new(&out).i64(), Ok(value));
        }
    }

    #[test]
    fn the_other_signedness_is_refused() {
        assert_eq!(Reader::new(&[0xd0, 5]).u64(), Err(FrameError::Body));
        assert_eq!(Reader::new(&[0xcc, 0x80]).i64(), Err(FrameError::Body));
    }

    #[test]
    fn a_declared_length_beyond_the_input_is_refused_at_once() {
        assert_eq!(
            Reader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff]).array_len(),
            Err(FrameError::Truncated)
        );
        assert_eq!(Reader::new(&[0xde, 0, 2, 0xa0, 0xc0]).map_len(), Err(FrameError::Truncated));
        assert_eq!(Reader::new(&[0xc6, 0xff, 0xff, 0xff, 0xff]).bin(), Err(FrameError::Truncated));
    }

    #[test]
    fn values_are_skipped_up_to_the_depth_limit() {
        let nested = |depth: usize| {
            let mut bytes = vec![0x91; depth];
            bytes.push(0xc0);
            bytes
        };
        let deepest = nested(VALUE_DEPTH_MAX);
        assert_eq!(Reader::new(&deepest).value_bytes(), Ok(&deepest[..]));
        let too_deep = nested(VALUE_DEPTH_MAX + 1);
        assert_eq!(Reader::new(&too_deep).skip_value(), Err(FrameError::Body));
        assert_eq!(Reader::new(&vec![0x91; 1 << 20]).skip_value(), Err(FrameError::Body));
    }

    #[test]
    fn the_bytes_of_a_value_end_with_it() {
        let bytes = [0x92, 0x81, 0xa1, b'k', 0xc7, 1, 9, 7, 0x90, 0xff, 0xc0];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.value_bytes(), Ok(&bytes[..9]));
        assert_eq!(reader.rest(), &[0xff, 0xc0]);
    }
}
