//! State of a member, in the form of each kind of dialect.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Peer;

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
    /// The state of a member that is a peer of the presence graph. Never one of those within.
    OfPeer(State, Arc<Peer>),
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

    /// The same state, of a member that is this peer.
    pub fn of_peer(self, peer: Arc<Peer>) -> Self {
        let state = match &*self.0 {
            Forms::OfPeer(state, _) => state.clone(),
            _ => self,
        };
        State(Arc::new(Forms::OfPeer(state, peer)))
    }

    /// The peer whose state it is; `None` for members that have not said.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        match &*self.0 {
            Forms::OfPeer(_, peer) => Some(peer),
            _ => None,
        }
    }

    /// Whether all but the peers is equal.
    pub(crate) fn has_same_data(&self, other: &State) -> bool {
        self.data() == other.data()
    }

    fn data(&self) -> &State {
        match &*self.0 {
            Forms::OfPeer(state, _) => state,
            _ => self,
        }
    }

    /// The MessagePack form; `convert` makes it from the JSON form on first use.
    pub(crate) fn message_pack(&self, convert: impl FnOnce(&JsonState) -> Vec<u8>) -> &[u8] {
        match &*self.0 {
            Forms::MessagePack(bytes, _) => bytes,
            Forms::Json(json, converted) => converted.get_or_init(|| convert(json).into()),
            Forms::OfPeer(state, _) => state.message_pack(convert),
        }
    }

    /// The JSON form; `convert` makes it from the MessagePack form on first use.
    pub fn json(&self, convert: impl FnOnce(&[u8]) -> JsonState) -> &JsonState {
        match &*self.0 {
            Forms::Json(json, _) => json,
            Forms::MessagePack(bytes, converted) => {
                converted.get_or_init(|| Box::new(convert(bytes)))
            }
            Forms::OfPeer(state, _) => state.json(convert),
        }
    }

    /// Upper bound in bytes of the MessagePack form, even if it has not been made, and of the peer.
    /// A JSON number of two characters and the comma after it become nine bytes; an encoding adds a
    /// map.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        match &*self.0 {
            Forms::Json(json, _) => 3 * json.data.len() + json.encoding.len() + 32,
            Forms::MessagePack(bytes, _) => bytes.len(),
            Forms::OfPeer(state, peer) => state.encoded_bytes_max() + peer.encoded_bytes(),
        }
    }
}

/// Equal if announced as the same bytes in the same form.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        match (&*self.0, &*other.0) {
            (Forms::MessagePack(mine, _), Forms::MessagePack(theirs, _)) => mine == theirs,
            (Forms::Json(mine, _), Forms::Json(theirs, _)) => mine == theirs,
            (Forms::OfPeer(mine, a), Forms::OfPeer(theirs, b)) => mine == theirs && a == b,
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
