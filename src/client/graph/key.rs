//! Text of a peer key: `pk` and the unpadded standard base64 of its bytes (client-api.md, D25).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

const PREFIX: &str = "pk";

/// The text of a key. A key that is not known yet has no bytes and no text.
pub(crate) fn key_text(key: &[u8]) -> String {
    if key.is_empty() {
        return String::new();
    }
    let mut text = String::from(PREFIX);
    STANDARD_NO_PAD.encode_string(key, &mut text);
    text
}

/// The bytes of a key; `None` for what is not the text of any.
pub(crate) fn parse_key(text: &str) -> Option<Vec<u8>> {
    let key = STANDARD_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_texts_are_one_to_one() {
        let table: [(&[u8], &str); 4] = [
            (&[7], "pkBw"),
            (&[9], "pkCQ"),
            (&[0xff, 0xfe, 0xfb], "pk//77"),
            (&[0; 16], "pkAAAAAAAAAAAAAAAAAAAAAA"),
        ];
        for (key, text) in table {
            assert_eq!(key_text(key), text);
            assert_eq!(parse_key(text).as_deref(), Some(key));
        }
        assert_eq!(key_text(&[]), "");
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in ["", "pk", "Bw", "PKBw", "pkBw==", "pkBx", "pk_-77", "pkB", "pk B"] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
