//! Standard input -> states, on a thread of its own, because reading blocks.

use std::io::{self, BufRead};
use std::thread;

use serde_json::value::RawValue;

use crate::cli::client::reason;
use crate::cli::input::{LineError, flaw, read_line};
use crate::cli::output;
use crate::client::{Channel, ClientError};

/// A state as its author wrote it.
///
/// # Errors
/// Why it is not JSON, and what to do.
pub(super) fn parse(text: &str) -> Result<Box<RawValue>, String> {
    let text = text.trim();
    let why = match (flaw(text), RawValue::from_string(text.to_owned())) {
        (None, Ok(state)) => return Ok(state),
        (None, Err(error)) => error.to_string(),
        (Some(why), _) => why,
    };
    Err(format!("not JSON: {why}: put a string in double quotes"))
}

/// Replaces the state with each line until standard input ends or the client is closed.
pub(super) fn follow(channel: Channel) -> io::Result<()> {
    let reader = thread::Builder::new().name("join-input".to_owned());
    let replace = move |state: &RawValue| channel.update(state).wait();
    reader.spawn(move || replace_all(io::stdin().lock(), replace, output::note)).map(drop)
}

/// Calls `replace` with the state of each line, and `note` with what is wrong with a line.
fn replace_all(
    mut input: impl BufRead,
    replace: impl Fn(&RawValue) -> Result<(), ClientError>,
    note: impl Fn(&str),
) {
    for number in 1_u64.. {
        let why = match read_line(&mut input) {
            Ok(None) => return,
            Ok(Some(line)) if line.trim().is_empty() => continue,
            Ok(Some(line)) => match parse(&line).map(|state| replace(&state)) {
                Ok(Ok(())) => continue,
                Ok(Err(ClientError::Closed)) => return,
                Ok(Err(error)) => reason(&error),
                Err(why) => why,
            },
            Err(error @ LineError::Unreadable(_)) => {
                return note(&format!("standard input {error}: the state stays as it is"));
            }
            Err(error) => {
                if matches!(error, LineError::TooLong) {
                    // An error comes back with the next line.
                    let _ = input.skip_until(b'\n');
                }
                error.to_string()
            }
        };
        note(&format!("line {number} of the input: {why}: the state stays as it is"));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cli::input::LINE_BYTES_MAX;

    /// The states that the lines are, and the notes.
    fn replaced(input: &[u8], answer: &Result<(), ClientError>) -> (Vec<String>, Vec<String>) {
        let (states, notes) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let replace = |state: &RawValue| {
            states.borrow_mut().push(state.get().to_owned());
            answer.clone()
        };
        replace_all(input, replace, |text| notes.borrow_mut().push(text.to_owned()));
        (states.into_inner(), notes.into_inner())
    }

    #[test]
    fn every_line_of_json_is_a_state_as_it_was_written() {
        let (states, notes) = replaced(b"{\"a\": 1.0}\n\n \r\n [2] \r\nnull", &Ok(()));
        assert_eq!(states, ["{\"a\": 1.0}", "[2]", "null"]);
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn a_line_that_is_no_state_is_one_note() {
        let long = format!("1\n{}\n{}\n2\n", "7".repeat(LINE_BYTES_MAX * 2), "\"");
        for (input, named) in [
            (&b"1\nhello\n2\n"[..], "line 2 of the input: not JSON: expected value"),
            (b"1\n\xff\n2\n", "line 2 of the input: not UTF-8: the state stays as it is"),
            (long.as_bytes(), "line 2 of the input: longer than"),
        ] {
            let (states, notes) = replaced(input, &Ok(()));
            assert_eq!(states, ["1", "2"]);
            assert!(notes[0].starts_with(named), "{notes:?}");
        }
    }

    #[test]
    fn a_refused_state_is_a_note_and_a_closed_client_the_end() {
        let refused = ClientError::Refused { code: 40001, reason: "too large".to_owned() };
        let (states, notes) = replaced(b"1\n2\n", &Err(refused));
        assert_eq!(states, ["1", "2"]);
        let expected = "line 2 of the input: too large (40001): the state stays as it is";
        assert_eq!(notes[1], expected);
        let (states, notes) = replaced(b"1\n2\n", &Err(ClientError::Closed));
        assert_eq!((states.len(), notes.len()), (1, 0));
    }
}
