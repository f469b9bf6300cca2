//! JSON text that is validated and divided into values, which stay text.
//!
//! The grammar is that of RFC 8259. As in JSON.parse, lone surrogate escapes and numbers of any
//! size are accepted.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use crate::error::FrameError;
use crate::limits::VALUE_DEPTH_MAX;

/// Validates a payload: empty, or exactly one JSON value in UTF-8.
///
/// # Errors
/// [`FrameError::Utf8`]; [`FrameError::Truncated`]; [`FrameError::Body`], also for containers
/// nested deeper than [`VALUE_DEPTH_MAX`].
pub fn validate_json(payload: &[u8]) -> Result<(), FrameError> {
    if payload.is_empty() {
        return Ok(());
    }
    let text = simdutf8::basic::from_utf8(payload).map_err(|_| FrameError::Utf8)?;
    if is_too_deep(payload) {
        return Err(FrameError::Body);
    }
    serde_json::from_str::<&RawValue>(text).map(|_| ()).map_err(frame_error)
}

/// Calls `visit` with each key, in its quotes, and the text of its value. Fields visited before an
/// error are valid.
///
/// # Errors
/// As for [`validate_json`], except that any depth is accepted; also if the text is not an object.
pub(super) fn each_field<'a>(
    text: &'a str,
    visit: impl FnMut(&'a str, &'a str),
) -> Result<(), FrameError> {
    let mut parser = Deserializer::from_str(text);
    parser.deserialize_map(Fields(visit)).and_then(|()| parser.end()).map_err(frame_error)
}

/// The texts of the values of an array; of a longer one than `most`, one more than that.
///
/// # Errors
/// As for [`each_field`]; also if the text is not an array.
pub(super) fn items(text: &str, most: usize) -> Result<Vec<&str>, FrameError> {
    let mut parser = Deserializer::from_str(text);
    let items = parser.deserialize_seq(Items(most)).map_err(frame_error)?;
    if items.len() <= most {
        parser.end().map_err(frame_error)?;
    }
    Ok(items)
}

fn frame_error(error: serde_json::Error) -> FrameError {
    if error.is_eof() { FrameError::Truncated } else { FrameError::Body }
}

/// Whether containers are nested deeper than [`VALUE_DEPTH_MAX`]. Exact for valid JSON.
fn is_too_deep(text: &[u8]) -> bool {
    // Most texts have fewer containers in all, which is counted many bytes at a time.
    let opened = text.iter().filter(|&&byte| byte == b'[' || byte == b'{').count();
    opened > VALUE_DEPTH_MAX && json_depth(text) > VALUE_DEPTH_MAX
}

/// Most containers within each other, the outermost one included. Exact for valid JSON.
pub fn json_depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = string_end(text, at + 1),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// Where the string ends that begins here: at its closing quote.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(byte) = text.get(at).filter(|byte| **byte != b'"') {
        at += 1 + usize::from(*byte == b'\\');
    }
    at
}

struct Fields<F>(F);

impl<'de, F: FnMut(&'de str, &'de str)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        while let Some((key, value)) = fields.next_entry::<&RawValue, &RawValue>()? {
            (self.0)(key.get(), value.get());
        }
        Ok(())
    }
}

/// Collects so many items and one more.
struct Items(usize);

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Vec<&'de str>, A::Error> {
        let mut items = Vec::new();
        while items.len() <= self.0
            && let Some(value) = values.next_element::<&RawValue>()?
        {
            items.push(value.get());
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_empty_or_one_value() {
        for valid in [
            "",
            "null",
            " 1 ",
            "-0",
            "1.5e+10",
            "1E9",
            "1e999",
            "\"\"",
            "\"\\ud800\"",
            "[]",
            "{}",
            "[1, [], {\"a\" : [true,false]}]",
            "{\"a\":1,\"a\":2}",
            "\t{\n}\r",
            "\"日本 😀\"",
        ] {
            assert_eq!(validate_json(valid.as_bytes()), Ok(()), "{valid}");
        }
        for invalid in [
            " ",
            "nul",
            "nulll",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "[",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "1 2",
            "NaN",
            "'a'",
            "\u{feff}1",
            "{\"a\":1]",
            "]",
        ] {
            assert!(validate_json(invalid.as_bytes()).is_err(), "{invalid}");
        }
        assert_eq!(validate_json(b"\"\xff\""), Err(FrameError::Utf8));
    }

    #[test]
    fn values_are_accepted_up_to_the_depth_limit() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| [&open.repeat(depth), "1", &close.repeat(depth)].concat();
            assert_eq!(validate_json(nested(VALUE_DEPTH_MAX).as_bytes()), Ok(()));
            let deeper = nested(VALUE_DEPTH_MAX + 1);
            assert_eq!(validate_json(deeper.as_bytes()), Err(FrameError::Body));
            assert_eq!(validate_json(open.repeat(1 << 20).as_bytes()), Err(FrameError::Body));
        }
    }

    #[test]
    fn fields_before_an_error_are_visited() {
        let mut seen = Vec::new();
        let visited = each_field("{\"id\" : 7 ,\"data\":{\"a\":[", |key, value| {
            seen.push((key, value));
        });
        assert_eq!(visited, Err(FrameError::Truncated));
        assert_eq!(seen, [("\"id\"", "7")]);
    }
}
