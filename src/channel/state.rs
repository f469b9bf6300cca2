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

#[derive(Debug, Default)]
struct Forms {
    announced: Form,
    message_pack: OnceLock<Bytes>,
    json: OnceLock<JsonState>,
}

/// Which form the member itself wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    MessagePack,
    Json,
}

impl State {
    /// One MessagePack value, unchecked; or no bytes.
    pub fn from_message_pack(bytes: Bytes) -> Self {
        let message_pack = OnceLock::from(bytes);
        State(Arc::new(Forms { announced: Form::MessagePack, message_pack, ..Forms::default() }))
    }

    /// JSON text that has been checked.
    pub fn from_json(json: JsonState) -> Self {
        let json = OnceLock::from(json);
        State(Arc::new(Forms { announced: Form::Json, json, ..Forms::default() }))
    }

    /// The MessagePack form; `convert` makes it of the JSON form when it is asked for first.
    pub fn message_pack(&self, convert: impl FnOnce(&JsonState) -> Bytes) -> &Bytes {
        let forms = &*self.0;
        forms.message_pack.get_or_init(|| forms.json.get().map(convert).unwrap_or_default())
    }

    /// The JSON form; `convert` makes it of the MessagePack form when it is asked for first.
    pub fn json(&self, convert: impl FnOnce(&Bytes) -> JsonState) -> &JsonState {
        let forms = &*self.0;
        forms.json.get_or_init(|| forms.message_pack.get().map(convert).unwrap_or_default())
    }

    /// Upper bound of the MessagePack form in bytes, whether or not it was made. A JSON number of
    /// two characters and the comma after it become nine bytes; an encoding adds a map around.
    pub fn message_pack_bytes_max(&self) -> usize {
        match (self.0.announced, self.0.json.get()) {
            (Form::Json, Some(json)) => 3 * json.data.len() + json.encoding.len() + 32,
            _ => self.0.message_pack.get().map_or(0, Bytes::len),
        }
    }
}

/// Equal as announced: the same bytes in the same form.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (&*self.0, &*other.0);
        mine.announced == theirs.announced
            && match mine.announced {
                Form::MessagePack => mine.message_pack.get() == theirs.message_pack.get(),
                Form::Json => mine.json.get() == theirs.json.get(),
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
