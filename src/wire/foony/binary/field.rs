//! Fields of a record (`protocols/foony.md` section 3.1).

use std::borrow::Cow;

use crate::error::FrameError;
use crate::wire::foony::{BATCH_MESSAGES_MAX, Message, validate_json};

/// Reads fields in sequence; text and bytes are borrowed from the input. A reader must not be used
/// after an error.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn byte(&mut self) -> Result<u8, FrameError> {
        let (byte, rest) = self.rest.split_first().ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// So many bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    /// Unsigned LEB128 of at most 64 bits; longer encodings than necessary are accepted. Nearly all
    /// lengths and counts take one byte.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u64, FrameError> {
        if let [byte @ ..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_uvarint()
    }

    #[inline(never)]
    fn long_uvarint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(FrameError::Body);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FrameError::Body)
    }

    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let len = usize::try_from(self.uvarint()?).map_err(|_| FrameError::Truncated)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub fn text(&mut self) -> Result<Cow<'a, str>, FrameError> {
        let text = simdutf8::basic::from_utf8(self.bytes()?).map_err(|_| FrameError::Utf8)?;
        Ok(Cow::Borrowed(text))
    }

    /// JSON text; empty if absent.
    pub fn payload(&mut self) -> Result<&'a [u8], FrameError> {
        let payload = self.bytes()?;
        validate_json(payload).map_err(|error| match error {
            // The payload is truncated, but the record is not.
            FrameError::Truncated => FrameError::Body,
            error => error,
        })?;
        Ok(payload)
    }

    pub fn message(&mut self) -> Result<Message<'a>, FrameError> {
        Ok(Message { name: self.text()?, data: self.payload()?, encoding: self.text()? })
    }

    /// The messages of a batch, preceded by their number.
    pub fn messages(&mut self) -> Result<Vec<Message<'a>>, FrameError> {
        self.list(Reader::message)
    }

    /// Items of a list, preceded by their number. Memory grows with the items read, not with the
    /// declared number.
    pub fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let count = self.uvarint()?;
        if count > BATCH_MESSAGES_MAX as u64 {
            return Err(FrameError::TooLong);
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

pub(super) fn write_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    write_bytes(out, text.as_bytes());
}

pub(super) fn write_message(out: &mut Vec<u8>, message: &Message<'_>) {
    write_text(out, &message.name);
    write_bytes(out, message.data);
    write_text(out, &message.encoding);
}

pub(super) fn write_messages(out: &mut Vec<u8>, messages: &[Message<'_>]) {
    write_uvarint(out, messages.len() as u64);
    messages.iter().for_each(|message| write_message(out, message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_to_64_bits_and_no_further() {
        for (value, bytes) in [
            (0, &b"\x00"[..]),
            (127, b"\x7f"),
            (128, b"\x80\x01"),
            (12_345, b"\xb9\x60"),
            (u64::MAX, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ] {
            let mut out = Vec::new();
            write_uvarint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(Reader::new(&out).uvarint(), Ok(value));
        }
        assert_eq!(Reader::new(b"\x80\x00").uvarint(), Ok(0));
        assert_eq!(Reader::new(b"").uvarint(), Err(FrameError::Truncated));
        assert_eq!(Reader::new(b"\x80").uvarint(), Err(FrameError::Truncated));
        let too_big = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
        assert_eq!(Reader::new(too_big).uvarint(), Err(FrameError::Body));
        assert_eq!(Reader::new(&[0x80; 11]).uvarint(), Err(FrameError::Body));
    }

    #[test]
    fn a_list_is_as_long_as_its_items_and_not_as_declared() {
        let endless = b"\xff\x7f\x00\x00\x00";
        assert_eq!(Reader::new(endless).messages(), Err(FrameError::Truncated));
        let too_long = b"\x81\x80\x01";
        assert_eq!(Reader::new(too_long).messages(), Err(FrameError::TooLong));
    }
}
