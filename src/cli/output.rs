//! Standard output, whoever reads it and for however long.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::failure::Failure;
use super::text::printable;
use crate::terminal;

/// Writes all of `text` and does not keep any of it back.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// Writes beside the output, to standard error: `note: what`.
pub(super) fn note(text: &str) {
    complain(format!("note: {}\n", printable(text)));
}

/// Writes lines to standard error, which may be gone or full: that is no reason to stop, and none
/// to change the exit code.
pub(super) fn complain(lines: String) {
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Is it a terminal that shows a screen?
pub(super) fn is_screen() -> bool {
    terminal::takes_escapes(&io::stdout())
}

/// Has its reader ended, or its terminal hung up?
pub(super) fn has_ended() -> bool {
    let output = io::stdout();
    let mut polled = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
    matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..))
}
