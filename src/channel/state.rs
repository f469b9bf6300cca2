//! State of a member, in the form of each kind of dialect.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// A state in the form of the JSON dialects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonState {
    /// JSON text as received from the client; empty if there is none.
    pub data: Bytes,
    /// How the client encoded `data`; empty if it did not.
    pub encoding: Box<str>,
}

/// State of a member. It has the form in which it was announced. The other form is converted when
/// it is first needed, and shared.
#[derive(Clone, Debug)]
pub struct State(Arc<Forms>);

/// The announced form first.
#[derive(Debug)]
enum Forms {
    MessagePack(Box<[u8]>, OnceLock<Box<JsonState>>),
    Json(Box<JsonState>, OnceLock<Box<[u8]>>),
}

const _: () = assert!(size_of::<Forms>() <= 40, "every member has one");

impl State {
    /// One MessagePack value, unchecked; or no bytes.
    pub fn from_message_pack(bytes: Bytes) -> Self {
        State(Arc::new(Forms::MessagePack(Vec::from(bytes).into(), OnceLock::new())))
    }

    /// JSON text that has been checked.
    pub fn from_json(json: JsonState) -> Self {
        State(Arc::new(Forms::Json(Box::new(json), OnceLock::new())))
    }

    /// The MessagePack form; `convert` makes it from the JSON form on first use.
    pub(crate) fn message_pack(&self, convert: impl FnOnce(&JsonState) -> Vec<u8>) -> &[u8] {
        match &*self.0 {
            Forms::MessagePack(bytes, _) => bytes,
            Forms::Json(json, converted) => converted.get_or_init(|| convert(json).into()),
        }
    }

    /// The JSON form; `convert` makes it from the MessagePack form on first use.
    pub fn json(&self, convert: impl FnOnce(&[u8]) -> JsonState) -> &JsonState {
        match &*self.0 {
            Forms::Json(json, _) => json,
            Forms::MessagePack(bytes, converted) => {
                converted.get_or_init(|| Box::new(convert(bytes)))
            }
        }
    }

    /// Upper bound of the MessagePack form in bytes, even if it has not been made. A JSON number of
    /// two characters and the comma after it become nine bytes; an encoding adds a map.
    pub(crate) fn message_pack_bytes_max(&self) -> usize {
        match &*self.0 {
            Forms::Json(json, _) => 3 * json.data.len() + json.encoding.len() + 32,
            Forms::MessagePack(bytes, _) => bytes.len(),
        }
    }
}

/// Equal if announced as the same bytes in the same form.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        match (&*self.0, &*other.0) {
            (Forms::MessagePack(mine, _), Forms::MessagePack(theirs, _)) => mine == theirs,
            (Forms::Json(mine, _), Forms::Json(theirs, _)) => mine == theirs,
            _ => false,
        }
    }
}

impl Eq for State {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_form_is_made_once_and_does_not_affect_equality() {
        let state = State::from_message_pack(Bytes::from_static(b"\x01"));
        let same = State::from_message_pack(Bytes::from_static(b"\x01"));
        let one = JsonState { data: Bytes::from_static(b"1"), encoding: "".into() };
        assert_eq!(state.json(|_| one.clone()), &one);
        assert_eq!(state.json(|_| unreachable!()), &one);
        assert_eq!(state, same);
        assert_ne!(state, State::from_json(one));
    }
}
