//! Encodes objects, field by field.

use super::object::Key;
use crate::wire::foony::Message;

/// Appends an object with the fields that `append_fields` writes.
pub(super) fn append_object(out: &mut Vec<u8>, append_fields: impl FnOnce(&mut Fields<'_>)) {
    out.push(b'{');
    append_fields(&mut Fields { out, written: 0 });
    out.push(b'}');
}

/// Appends a frame: an object that begins with its type.
pub(super) fn append_frame(
    out: &mut Vec<u8>,
    frame_type: &str,
    append_fields: impl FnOnce(&mut Fields<'_>),
) {
    append_object(out, |fields| {
        fields.text(Key::Type, frame_type);
        append_fields(fields);
    });
}

/// The fields of an open object.
pub(super) struct Fields<'o> {
    out: &'o mut Vec<u8>,
    written: usize,
}

impl Fields<'_> {
    fn key(&mut self, key: Key) -> &mut Vec<u8> {
        if self.written > 0 {
            self.out.push(b',');
        }
        self.written += 1;
        write_string(self.out, key.text());
        self.out.push(b':');
        self.out
    }

    pub fn text(&mut self, key: Key, text: &str) {
        write_string(self.key(key), text);
    }

    pub fn text_unless_empty(&mut self, key: Key, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    pub fn number(&mut self, key: Key, number: u64) {
        write_number(self.key(key), number);
    }

    pub fn number_unless_zero(&mut self, key: Key, number: u64) {
        if number != 0 {
            self.number(key, number);
        }
    }

    pub fn flag(&mut self, key: Key, flag: bool) {
        self.key(key).extend_from_slice(if flag { b"true" } else { b"false" });
    }

    pub fn flag_if_set(&mut self, key: Key, flag: bool) {
        if flag {
            self.flag(key, flag);
        }
    }

    pub fn payload(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let out = self.key(Key::Data);
        let start = out.len();
        out.extend_from_slice(payload);
        // SDK 0.12.0 splits a text message at line feeds. In JSON they are only whitespace.
        if payload.contains(&b'\n') {
            out[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        }
    }

    pub fn message(&mut self, message: &Message<'_>) {
        self.text(Key::Name, &message.name);
        self.payload(message.data);
        self.text_unless_empty(Key::Encoding, &message.encoding);
    }

    pub fn messages(&mut self, messages: &[Message<'_>]) {
        self.list(Key::Messages, messages, |out, message| {
            append_object(out, |fields| fields.message(message));
        });
    }

    pub fn list<T>(&mut self, key: Key, items: &[T], append: impl Fn(&mut Vec<u8>, &T)) {
        let out = self.key(key);
        out.push(b'[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            append(out, item);
        }
        out.push(b']');
    }
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| needs_escape(*byte)) {
        out.extend_from_slice(&rest[..at]);
        write_escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_json_requires() {
        let text: String = (0..=0x2ff_u32).filter_map(char::from_u32).chain(['😀']).collect();
        let mut out = Vec::new();
        write_string(&mut out, &text);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn numbers_have_all_their_digits() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_frame_is_one_line_with_any_payload() {
        let mut out = Vec::new();
        append_object(&mut out, |fields| fields.payload(b"{\r\n\"a\\n\":\n1}"));
        assert_eq!(out, b"{\"data\":{\r \"a\\n\": 1}}");
    }
}
