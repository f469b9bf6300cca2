//! Standard input -> messages, on a thread of its own, because reading blocks.

use std::io::{self, BufRead};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;

use crate::cli::input::{flaw, read_line};

/// Lines that wait to be published. At this number no more are read.
const WAITING_MAX: usize = 256;

/// The form of the text of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    /// Any text; it becomes a JSON string.
    Text,
}

impl Encoding {
    /// The text as the payload of a message.
    ///
    /// # Errors
    /// Why it is not JSON, and what to do.
    pub fn encode(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Encoding::Text => Ok(Value::from(text).to_string().into_bytes()),
            Encoding::Json => {
                let text = text.trim();
                let Some(why) = flaw(text) else { return Ok(text.as_bytes().to_vec()) };
                Err(format!("not JSON: {why}: put a string in double quotes, or give --text"))
            }
        }
    }

    fn skips(self, line: &str) -> bool {
        self == Encoding::Json && line.trim().is_empty()
    }
}

/// One line of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub number: u64,
    /// The message, or why the line is none; then it is the last one.
    pub data: Result<Vec<u8>, String>,
}

/// Reads standard input until it ends or the receiver is dropped.
pub(super) fn read(encoding: Encoding) -> io::Result<Receiver<Line>> {
    let (sender, lines) = bounded(WAITING_MAX);
    let reader = thread::Builder::new().name("publish-input".to_owned());
    reader.spawn(move || read_lines(io::stdin().lock(), encoding, &sender))?;
    Ok(lines)
}

fn read_lines(mut input: impl BufRead, encoding: Encoding, lines: &Sender<Line>) {
    for number in 1.. {
        let data = match read_line(&mut input) {
            Ok(None) => return,
            Ok(Some(line)) if encoding.skips(&line) => continue,
            Ok(Some(line)) => encoding.encode(&line),
            Err(error) => Err(error.to_string()),
        };
        let is_last = data.is_err();
        if lines.send(Line { number, data }).is_err() || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::cli::input::LINE_BYTES_MAX;

    fn lines(input: &[u8], encoding: Encoding) -> Vec<Line> {
        let (sender, lines) = unbounded();
        read_lines(input, encoding, &sender);
        lines.try_iter().collect()
    }

    fn message(number: u64, data: &str) -> Line {
        Line { number, data: Ok(data.into()) }
    }

    #[test]
    fn every_line_is_a_message() {
        let json = lines(b"{\"a\": 1}\n\n  \r\n [2] \r\nnull", Encoding::Json);
        assert_eq!(json, [message(1, "{\"a\": 1}"), message(4, "[2]"), message(5, "null")]);
        let text = lines("a \"b\"\n\nж\r\n".as_bytes(), Encoding::Text);
        assert_eq!(text, [message(1, r#""a \"b\"""#), message(2, "\"\""), message(3, "\"ж\"")]);
        assert_eq!(lines(b"", Encoding::Text), []);
    }

    #[test]
    fn a_line_that_is_no_message_is_the_last() {
        for (input, named) in [
            (&b"1\nhello\n2\n"[..], "not JSON: expected value at line 1 column 1"),
            (b"1\n\xff\n2\n", "not UTF-8"),
            (b"1\n{\"a\":\n2\n", "not JSON: EOF"),
        ] {
            let seen = lines(input, Encoding::Json);
            let [first, Line { number: 2, data: Err(why) }] = &seen[..] else { panic!("{seen:?}") };
            assert_eq!(*first, message(1, "1"));
            assert!(why.starts_with(named), "{why}");
        }
    }

    #[test]
    fn lines_have_a_longest() {
        let longest = "x".repeat(LINE_BYTES_MAX);
        let seen = lines(format!("{longest}\n{longest}x\n").as_bytes(), Encoding::Text);
        assert!(matches!(&seen[0].data, Ok(data) if data.len() == LINE_BYTES_MAX + 2));
        let data = Err(format!("longer than {LINE_BYTES_MAX} bytes"));
        assert_eq!(seen[1..], [Line { number: 2, data }]);
    }

    #[test]
    fn json_is_what_the_server_takes_for_it() {
        for good in ["1", " {\"a\":[1,2]} ", "\"x\"", "null"] {
            assert_eq!(Encoding::Json.encode(good), Ok(good.trim().into()));
        }
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        for bad in ["", " ", "x", "{'a':1}", "1 2", "\"\n\"", &deep] {
            let why = Encoding::Json.encode(bad).unwrap_err();
            assert!(why.starts_with("not JSON: ") && why.ends_with("--text"), "{why}");
        }
    }
}
