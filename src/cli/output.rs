//! Standard output, which may lose its reader, and standard error.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::failure::Failure;
use super::text::printable;

/// Writes all of `text`, and flushes.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// Writes `note: TEXT` to standard error.
pub(super) fn note(text: &str) {
    complain(format!("note: {}\n", printable(text)));
}

/// Writes lines to standard error. A failure neither ends the command nor changes the exit code.
pub(super) fn complain(lines: String) {
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Whether the reader of standard output has ended, or its terminal has hung up.
pub(super) fn has_ended() -> bool {
    let output = io::stdout();
    let mut polled = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
    matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..))
}
