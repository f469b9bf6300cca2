//! Why a command ended without doing what was asked.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use signal_hook::low_level::emulate_default_handler;

use super::output;
use super::text::printable;
use crate::bench::BenchError;
use crate::config::ConfigError;

/// The request failed.
pub(super) const REQUEST: u8 = 1;

/// Wrong usage, as the parser of the command line has it.
const USAGE: u8 = 2;

/// The configuration or the host does not allow it (`EX_CONFIG` of sysexits.h).
pub(super) const CONFIG: u8 = 78;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// `what: why`, and the exit code.
    Message { message: String, code: u8 },
    /// Standard output has no reader. That is no error: pipelines end so.
    OutputClosed,
    /// The line was already written.
    Reported { code: u8 },
    /// A signal ended the command, after cleanup.
    Signal(i32),
}

impl Failure {
    pub fn new(message: &impl Display, code: u8) -> Self {
        Failure::Message { message: message.to_string(), code }
    }

    /// `what` is missing or went wrong, `why` includes what to do.
    pub fn request(what: impl Display, why: impl Display) -> Self {
        Failure::Message { message: format!("{what}: {why}"), code: REQUEST }
    }

    /// The host does not allow what was asked for.
    pub fn config(what: impl Display, why: impl Display) -> Self {
        Failure::Message { message: format!("{what}: {why}"), code: CONFIG }
    }

    /// An argument that cannot be right; `why` includes how to write it.
    pub fn usage(what: impl Display, why: impl Display) -> Self {
        Failure::Message { message: format!("{what}: {why}"), code: USAGE }
    }

    /// Appends `more` to the message.
    pub fn and(self, more: impl Display) -> Self {
        match self {
            Failure::Message { message, code } => {
                Failure::Message { message: format!("{message}; {more}"), code }
            }
            other => other,
        }
    }

    /// What went wrong, for a command that continues.
    pub fn message(&self) -> &str {
        match self {
            Failure::Message { message, .. } => message,
            Failure::OutputClosed => "standard output has no reader",
            Failure::Reported { .. } => "reported",
            Failure::Signal(_) => "ended by a signal",
        }
    }

    /// Passes the line for standard error to `write`.
    pub fn reported(self, write: impl FnOnce(String)) -> Self {
        match self {
            Failure::Message { message, code } => {
                write(format!("error: {}\n", printable(&message)));
                Failure::Reported { code }
            }
            other => other,
        }
    }

    /// Writes the one line to standard error, and gives the exit code, which does not depend on
    /// whether the line could be written.
    pub fn report(self) -> ExitCode {
        match self.reported(output::complain) {
            Failure::OutputClosed => ExitCode::SUCCESS,
            Failure::Message { code, .. } | Failure::Reported { code } => ExitCode::from(code),
            Failure::Signal(signal) => {
                // Does not return for a signal that ends a process.
                let _ = emulate_default_handler(signal);
                ExitCode::FAILURE
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(&error, CONFIG)
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Signal(signal) => Failure::Signal(signal),
            BenchError::Output(error) => Failure::from(error),
            error => Failure::new(&error, REQUEST),
        }
    }
}

/// A problem with writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ if output::has_ended() => Failure::OutputClosed,
            _ => Failure::request("cannot write to standard output", error),
        }
    }
}
