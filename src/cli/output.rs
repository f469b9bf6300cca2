//! Standard output, whoever reads it and for however long.

use std::io::{self, IsTerminal, Write};

use super::failure::Failure;

/// Writes all of `text` and does not keep any of it back.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// Is there a person in front of it?
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
