//! Lines of standard input, and whether they are JSON.

use std::io::{self, BufRead, Read};

use serde::de::IgnoredAny;

use crate::wire::foony::validate_json;

/// Longest line in bytes. Servers take less.
pub(super) const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Why a line cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The rest of the line has not been read.
    #[error("longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("not UTF-8")]
    NotUtf8,
}

/// The next line without its end; `None` when there is none.
///
/// # Errors
/// The line cannot be used.
pub(super) fn read_line(input: &mut impl BufRead) -> Result<Option<String>, LineError> {
    let mut line = Vec::new();
    let mut limited = input.take(LINE_BYTES_MAX as u64 + 1);
    limited.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let has_end = line.pop_if(|last| *last == b'\n').is_some();
    if !has_end && line.len() > LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    line.pop_if(|last| *last == b'\r');
    String::from_utf8(line).map(Some).map_err(|_| LineError::NotUtf8)
}

/// Why a text is not a JSON value, by the rules of the server.
pub(super) fn flaw(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("it is empty".to_owned());
    }
    let error = validate_json(text.as_bytes()).err()?;
    let explained = serde_json::from_str::<IgnoredAny>(text).err();
    Some(explained.map_or_else(|| error.to_string(), |explained| explained.to_string()))
}
