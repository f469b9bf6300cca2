//! Text for terminals: escaped, shortened, formatted.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with every character that could steer a terminal, or reorder what is read, written as its
/// `\uXXXX` escape. Inside a JSON string that escape means the same character.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_steering) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_steering(character) {
            // Writing to a `String` cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, the bidirectional formatting
/// characters (Unicode Standard Annex #9, section 2), and the byte-order mark.
fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
        )
}

/// Longest text in characters that a screen shows a part of.
const CLIPPED_CHARS_MAX: usize = 1000;

/// As much of a text as a screen could show.
pub(super) fn clipped(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(CLIPPED_CHARS_MAX) {
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}

/// What a piece of JSON text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Key,
    Text,
    /// A number, `true`, `false` or `null`.
    Literal,
    Punctuation,
}

/// Splits compact JSON into its tokens, in order. Other text is split at arbitrary positions,
/// without loss.
pub(super) fn tokens(mut json: &str) -> Vec<(Token, &str)> {
    let mut tokens = Vec::new();
    while let Some(first) = json.bytes().next() {
        let len = match first {
            b'"' => string_len(json),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => json.find(['"', '{', '}', '[', ']', ',', ':']).unwrap_or(json.len()),
        };
        let (token, rest) = json.split_at(len);
        let kind = match first {
            b'"' if rest.starts_with(':') => Token::Key,
            b'"' => Token::Text,
            _ if len == 1 && token.starts_with(['{', '}', '[', ']', ',', ':']) => {
                Token::Punctuation
            }
            _ => Token::Literal,
        };
        tokens.push((kind, token));
        json = rest;
    }
    tokens
}

/// Length of the string literal that `json` begins with, quotes included.
fn string_len(json: &str) -> usize {
    let mut is_escaped = false;
    for (index, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    json.len()
}

/// A duration in as many units as matter: `0.4s`, `12.3s`, `4m05s`, `3h07m`, `2d04h`.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}.{}s", ms % 1000 / 100),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Time of day (UTC) of a wall-clock time in milliseconds since 1970.
pub(super) fn clock(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// `1 member`, `2 members`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_peer_writes_steers_the_terminal() {
        for (text, safe) in [
            ("alice", "alice"),
            ("Zoë 👩‍👩‍👧 日本", "Zoë 👩‍👩‍👧 日本"),
            ("\x1b[2J", "\\u001b[2J"),
            ("a\r\nb\tc", "a\\u000d\\u000ab\\u0009c"),
            ("\u{9b}31m\x7f", "\\u009b31m\\u007f"),
            ("\u{202e}evil\u{2069}\u{2028}", "\\u202eevil\\u2069\\u2028"),
        ] {
            assert_eq!(printable(text), safe);
        }
    }

    #[test]
    fn escapes_keep_the_meaning_of_json() {
        let value = serde_json::json!({ "a\u{9b}": "\x7f\u{202e}" });
        let safe = printable(&value.to_string()).into_owned();
        assert!(safe.is_ascii(), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn json_is_split_at_its_tokens() {
        use Token::{Key, Literal, Punctuation, Text};
        let seen = tokens(r#"{"a\"":[1,true],"b":"x:\\"}"#);
        let expected = [
            (Punctuation, "{"),
            (Key, r#""a\"""#),
            (Punctuation, ":"),
            (Punctuation, "["),
            (Literal, "1"),
            (Punctuation, ","),
            (Literal, "true"),
            (Punctuation, "]"),
            (Punctuation, ","),
            (Key, r#""b""#),
            (Punctuation, ":"),
            (Text, r#""x:\\""#),
            (Punctuation, "}"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn splitting_loses_nothing_of_what_is_no_json() {
        for text in ["", "\"", "\"\\", "base64:wf8A", "{\"a", "ж\"ж\\"] {
            let joined: String = tokens(text).iter().map(|(_, token)| *token).collect();
            assert_eq!(joined, text);
        }
    }

    #[test]
    fn long_texts_are_clipped_between_characters() {
        assert_eq!(clipped("ж".repeat(1000)), "ж".repeat(1000));
        assert_eq!(clipped("ж".repeat(1001)), "ж".repeat(1000));
    }

    #[test]
    fn ages_have_the_units_that_matter() {
        for (ms, text) in [
            (0, "0.0s"),
            (1_249, "1.2s"),
            (59_999, "59.9s"),
            (245_000, "4m05s"),
            (11_220_000, "3h07m"),
            (187_200_000, "2d04h"),
        ] {
            assert_eq!(age(ms), text);
        }
    }

    #[test]
    fn clock_times_are_the_time_of_day_in_utc() {
        assert_eq!(clock(0), "00:00:00");
        assert_eq!(clock(1_700_000_000_999), "22:13:20");
    }
}
