//! Encodes objects, field by field.

use serde::Serialize;

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
        fields.put(Key::Type, frame_type);
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
        append_json(self.out, <&str>::from(key));
        self.out.push(b':');
        self.out
    }

    pub fn put(&mut self, key: Key, value: impl Serialize) {
        append_json(self.key(key), value);
    }

    /// Leaves out an empty text, 0 and `false`.
    pub fn put_unless_default<T: Serialize + Default + PartialEq>(&mut self, key: Key, value: T) {
        if value != T::default() {
            self.put(key, value);
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
        self.put(Key::Name, &message.name);
        self.payload(message.data);
        self.put_unless_default(Key::Encoding, &*message.encoding);
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

fn append_json(out: &mut Vec<u8>, value: impl Serialize) {
    let written = serde_json::to_writer(out, &value);
    debug_assert!(written.is_ok(), "texts, numbers and flags can be written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_line_with_any_payload() {
        let mut out = Vec::new();
        append_object(&mut out, |fields| fields.payload(b"{\r\n\"a\\n\":\n1}"));
        assert_eq!(out, b"{\"data\":{\r \"a\\n\": 1}}");
    }
}
