//! What a member says about itself, in the form of each kind of dialect.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// A state as JSON dialects carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonState {
    /// JSON text as its author wrote it; empty when there is none.
    pub data: Bytes,
    /// How `data` was transformed; empty when it was not.
    pub encoding: Box<str>,
}

/// A member's state. It has the form it was announced in, and the other one from the moment
/// somebody of the other kind of dialect is shown it: converted once, shared by all.
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

    /// The MessagePack form; `convert` makes it of the JSON form when it is asked for first.
    pub fn message_pack(&self, convert: impl FnOnce(&JsonState) -> Vec<u8>) -> &[u8] {
        match &*self.0 {
            Forms::MessagePack(bytes, _) => bytes,
            Forms::Json(json, converted) => converted.get_or_init(|| convert(json).into()),
        }
    }

    /// The JSON form; `convert` makes it of the MessagePack form when it is asked for first.
    pub fn json(&self, convert: impl FnOnce(&[u8]) -> JsonState) -> &JsonState {
        match &*self.0 {
            Forms::Json(json, _) => json,
            Forms::MessagePack(bytes, converted) => {
                converted.get_or_init(|| Box::new(convert(bytes)))
            }
        }
    }

    /// Upper bound of the MessagePack form in bytes, whether or not it was made. A JSON number of
    /// two characters and the comma after it become nine bytes; an encoding adds a map around.
    pub fn message_pack_bytes_max(&self) -> usize {
        match &*self.0 {
            Forms::Json(json, _) => 3 * json.data.len() + json.encoding.len() + 32,
            Forms::MessagePack(bytes, _) => bytes.len(),
        }
    }
}

/// Equal as announced: the same bytes in the same form.
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
    fn the_other_form_is_made_once_and_does_not_make_states_differ() {
        let state = State::from_message_pack(Bytes::from_static(b"\x01"));
        let same = State::from_message_pack(Bytes::from_static(b"\x01"));
        let one = JsonState { data: Bytes::from_static(b"1"), encoding: "".into() };
        assert_eq!(state.json(|_| one.clone()), &one);
        assert_eq!(state.json(|_| unreachable!()), &one);
        assert_eq!(state, same);
        assert_ne!(state, State::from_json(one));
    }
}
