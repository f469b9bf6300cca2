//! Member states between dialects: MessagePack <=> JSON, as far as both can say the same.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::channel::{JsonState, State};
use crate::wire::msgpack;

/// What `encoding` says of MessagePack that JSON cannot express: `data` is a string with all of
/// it in base64.
const BASE64: &str = "base64";

/// The state for dialects that carry MessagePack. Data with an `encoding` becomes a map of both;
/// no data remains no bytes.
pub fn message_pack_state(state: &State) -> &[u8] {
    state.message_pack(|json| {
        if json.data.is_empty() && json.encoding.is_empty() {
            return Vec::new();
        }
        let value = if json.data.is_empty() { Some(Value::Null) } else { parse(&json.data) };
        let mut out = Vec::new();
        let written = value.and_then(|value| match &*json.encoding {
            "" => msgpack::from_json(&value, &mut out),
            encoding => {
                let both = serde_json::json!({ "data": value, "encoding": encoding });
                msgpack::from_json(&both, &mut out)
            }
        });
        if written.is_none() {
            // Nested deeper than MessagePack may be here, or a number out of range: as it stands.
            out.clear();
            msgpack::write_bin(&mut out, &json.data);
        }
        out
    })
}

/// The state for dialects that carry JSON. What JSON cannot express becomes base64 with an
/// `encoding` that says so.
pub fn json_state(state: &State) -> &JsonState {
    state.json(|bytes| {
        if bytes.is_empty() {
            return JsonState::default();
        }
        match msgpack::to_json(bytes) {
            Some(value) => {
                JsonState { data: value.to_string().into_bytes().into(), encoding: "".into() }
            }
            None => {
                let text = Value::from(STANDARD.encode(bytes)).to_string();
                JsonState { data: text.into_bytes().into(), encoding: BASE64.into() }
            }
        }
    })
}

fn parse(data: &[u8]) -> Option<Value> {
    serde_json::from_slice(data).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(data: &str, encoding: &str) -> State {
        State::from_json(JsonState {
            data: Bytes::copy_from_slice(data.as_bytes()),
            encoding: encoding.into(),
        })
    }

    fn pack(bytes: &[u8]) -> State {
        State::from_message_pack(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn json_becomes_message_pack_that_says_the_same() {
        for (data, encoding, expected) in [
            ("", "", &b""[..]),
            ("null", "", b"\xc0"),
            ("{\"x\": 1}", "", b"\x81\xa1x\x01"),
            ("[true,-1,\"ä\"]", "", b"\x93\xc3\xff\xa2\xc3\xa4"),
            ("1", "e", b"\x82\xa4data\x01\xa8encoding\xa1e"),
            ("", "e", b"\x82\xa4data\xc0\xa8encoding\xa1e"),
        ] {
            assert_eq!(message_pack_state(&json(data, encoding)), expected, "{data}");
        }
    }

    #[test]
    fn message_pack_becomes_json_or_base64() {
        for (bytes, data, encoding) in [
            (&b""[..], "", ""),
            (b"\xc0", "null", ""),
            (b"\x81\xa1x\x01", "{\"x\":1}", ""),
            (b"\xc4\x01\xff", "\"xAH/\"", "base64"),
            (b"\xc1", "\"wQ==\"", "base64"),
        ] {
            let state = pack(bytes);
            let converted = json_state(&state);
            assert_eq!((&converted.data[..], &*converted.encoding), (data.as_bytes(), encoding));
        }
    }

    #[test]
    fn the_bound_of_the_converted_size_holds() {
        for data in ["", "[-0,-0,-0,-0]", "[1e5,1e5,1e5,1e5,1e5]", "{\"\":-0}", "\"\"", "[[[[1]]]]"]
        {
            for encoding in ["", "cipher"] {
                let state = json(data, encoding);
                let most = state.encoded_bytes_max();
                assert!(message_pack_state(&state).len() <= most, "{data}");
            }
        }
    }
}
