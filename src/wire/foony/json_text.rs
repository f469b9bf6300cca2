//! A JSON scanner that builds no values: it validates a text and finds the ends of values.
//!
//! The grammar is that of RFC 8259. As in JSON.parse, lone surrogate escapes and numbers of any
//! size are accepted.

use crate::error::FrameError;
use crate::limits::VALUE_DEPTH_MAX;

/// Nesting of a frame around its payloads: a page of messages, each a batch.
const FRAME_DEPTH_MAX: usize = 4;

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
    let mut scanner = Scanner::new(text, VALUE_DEPTH_MAX);
    scanner.value()?;
    scanner.end()
}

/// Calls `visit` with each key, in its quotes, and the text of its value. Fields visited before an
/// error are valid.
///
/// # Errors
/// As for [`validate_json`]; also if the text is not an object.
pub(super) fn each_field<'a>(
    text: &'a str,
    mut visit: impl FnMut(&'a str, &'a str),
) -> Result<(), FrameError> {
    let mut scanner = Scanner::new(text, VALUE_DEPTH_MAX + FRAME_DEPTH_MAX);
    scanner.punctuation(b'{')?;
    if scanner.take(b'}') {
        return scanner.end();
    }
    loop {
        let key = scanner.span(Scanner::string)?;
        scanner.colon()?;
        visit(key, scanner.span(Scanner::value)?);
        match scanner.after_value()? {
            b',' => scanner.whitespace(),
            b'}' => return scanner.end(),
            _ => return Err(FrameError::Body),
        }
    }
}

/// Calls `visit` with the text of each value of an array.
///
/// # Errors
/// As for [`validate_json`]; also if the text is not an array; those of `visit`.
pub(super) fn each_item<'a>(
    text: &'a str,
    mut visit: impl FnMut(&'a str) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    let mut scanner = Scanner::new(text, VALUE_DEPTH_MAX + FRAME_DEPTH_MAX);
    scanner.punctuation(b'[')?;
    if scanner.take(b']') {
        return scanner.end();
    }
    loop {
        visit(scanner.span(Scanner::value)?)?;
        match scanner.after_value()? {
            b',' => scanner.whitespace(),
            b']' => return scanner.end(),
            _ => return Err(FrameError::Body),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// The open containers: one bit each, the innermost lowest.
struct OpenContainers {
    are_objects: u128,
    depth: usize,
    depth_max: usize,
}

const _: () = assert!(VALUE_DEPTH_MAX + FRAME_DEPTH_MAX <= u128::BITS as usize);

impl OpenContainers {
    fn push(&mut self, container: Container) -> Result<(), FrameError> {
        if self.depth == self.depth_max {
            return Err(FrameError::Body);
        }
        self.depth += 1;
        self.are_objects = self.are_objects << 1 | u128::from(container == Container::Object);
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.are_objects >>= 1;
    }

    fn innermost(&self) -> Option<Container> {
        match (self.depth, self.are_objects & 1) {
            (0, _) => None,
            (_, 0) => Some(Container::Array),
            _ => Some(Container::Object),
        }
    }
}

/// Scans text. Between two steps the position is never at whitespace, except after a value.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth_max: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str, depth_max: usize) -> Self {
        let mut scanner = Scanner { text, at: 0, depth_max };
        scanner.whitespace();
        scanner
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn first(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn peek(&self) -> Result<u8, FrameError> {
        self.first().ok_or(FrameError::Truncated)
    }

    fn next(&mut self) -> Result<u8, FrameError> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.first() {
            self.at += 1;
        }
    }

    fn punctuation(&mut self, byte: u8) -> Result<(), FrameError> {
        if self.next()? != byte {
            return Err(FrameError::Body);
        }
        self.whitespace();
        Ok(())
    }

    /// Skips this byte if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.first() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// The text that a step scans. Values and strings begin and end with ASCII.
    fn span(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), FrameError>,
    ) -> Result<&'a str, FrameError> {
        let start = self.at;
        step(self)?;
        Ok(&self.text[start..self.at])
    }

    fn end(&mut self) -> Result<(), FrameError> {
        self.whitespace();
        if self.first().is_none() { Ok(()) } else { Err(FrameError::Body) }
    }

    fn value(&mut self) -> Result<(), FrameError> {
        let mut open = OpenContainers { are_objects: 0, depth: 0, depth_max: self.depth_max };
        loop {
            if self.head(&mut open)? {
                continue;
            }
            if self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Scans a scalar, an empty container, or the start of a container up to its first value.
    /// Whether a value follows directly.
    fn head(&mut self, open: &mut OpenContainers) -> Result<bool, FrameError> {
        let (container, end) = match self.peek()? {
            b'{' => (Container::Object, b'}'),
            b'[' => (Container::Array, b']'),
            _ => return self.scalar().map(|()| false),
        };
        open.push(container)?;
        self.at += 1;
        self.whitespace();
        if self.take(end) {
            open.pop();
            return Ok(false);
        }
        if container == Container::Object {
            self.key()?;
        }
        Ok(true)
    }

    /// After a value: scans the ends of containers and the comma before the next value. Whether the
    /// outermost value ended.
    fn close(&mut self, open: &mut OpenContainers) -> Result<bool, FrameError> {
        while let Some(container) = open.innermost() {
            match (self.after_value()?, container) {
                (b'}', Container::Object) | (b']', Container::Array) => open.pop(),
                (b',', _) => {
                    self.whitespace();
                    if container == Container::Object {
                        self.key()?;
                    }
                    return Ok(false);
                }
                _ => return Err(FrameError::Body),
            }
        }
        Ok(true)
    }

    fn after_value(&mut self) -> Result<u8, FrameError> {
        self.whitespace();
        self.next()
    }

    fn key(&mut self) -> Result<(), FrameError> {
        self.string()?;
        self.colon()
    }

    fn colon(&mut self) -> Result<(), FrameError> {
        self.whitespace();
        self.punctuation(b':')
    }

    fn scalar(&mut self) -> Result<(), FrameError> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), FrameError> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(FrameError::Body);
        }
        self.at += word.len();
        Ok(())
    }

    fn string(&mut self) -> Result<(), FrameError> {
        if self.next()? != b'"' {
            return Err(FrameError::Body);
        }
        loop {
            self.at += plain_bytes(self.rest());
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                _ => return Err(FrameError::Body),
            }
        }
    }

    fn escape(&mut self) -> Result<(), FrameError> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let digits = self.rest().first_chunk::<4>().ok_or(FrameError::Truncated)?;
                self.at += digits.len();
                let are_digits = digits.iter().all(u8::is_ascii_hexdigit);
                if are_digits { Ok(()) } else { Err(FrameError::Body) }
            }
            _ => Err(FrameError::Body),
        }
    }

    fn number(&mut self) -> Result<(), FrameError> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// One or more digits.
    fn digits(&mut self) -> Result<(), FrameError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.first() {
            self.at += 1;
        }
        match self.peek() {
            _ if self.at > start => Ok(()),
            Ok(_) => Err(FrameError::Body),
            Err(error) => Err(error),
        }
    }
}

/// Length of the prefix of a string without quotes, backslashes and control characters. Checks
/// eight bytes at a time; only the lowest flag of a word is exact, which suffices (Bit Twiddling
/// Hacks, "Determine if a word has a byte less than n").
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH_BITS: u64 = ONES << 7;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH_BITS;
    let (words, _) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let special = quote | backslash | below(word, 0x20);
        if special != 0 {
            return i * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let done = words.len() * 8;
    done + bytes[done..].iter().take_while(|byte| is_plain(**byte)).count()
}

fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_end_at_the_first_special_one() {
        for special in 0..=u8::MAX {
            for at in 0..20 {
                for filler in [b'a', 0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xff] {
                    let mut bytes = [filler; 20];
                    bytes[at] = special;
                    let expected = if is_plain(special) { 20 } else { at };
                    assert_eq!(plain_bytes(&bytes), expected, "{special:x} {filler:x} {at}");
                }
            }
        }
    }

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
