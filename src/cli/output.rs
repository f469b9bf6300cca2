//! Standard output, whoever reads it and for however long.

use std::io::{self, IsTerminal, Write};

use super::failure::Failure;
use super::text::printable;

/// Writes all of `text` and does not keep any of it back.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// Tells people something beside the output, on standard error: `note: what`.
pub(super) fn note(text: &str) {
    // Nobody to read it is no reason to stop.
    let _ = writeln!(io::stderr(), "note: {}", printable(text));
}

/// Is there a person in front of it?
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
