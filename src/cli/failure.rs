//! Why a command ended without doing what was asked.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use super::text::printable;
use crate::config::ConfigError;

/// The request failed.
const REQUEST: u8 = 1;

/// Wrong usage, as the parser of the command line has it.
const USAGE: u8 = 2;

/// The configuration or the host does not allow it (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// `what: why`, and the exit code.
    Told { message: String, code: u8 },
    /// Whoever read standard output has stopped. That is how pipelines end, and nobody is told.
    OutputClosed,
}

impl Failure {
    pub fn new(message: &impl Display, code: u8) -> Self {
        Failure::Told { message: message.to_string(), code }
    }

    /// `what` is missing or went wrong, `why` includes what to do.
    pub fn request(what: impl Display, why: impl Display) -> Self {
        Failure::Told { message: format!("{what}: {why}"), code: REQUEST }
    }

    /// An argument that cannot be right; `why` includes how to write it.
    pub fn usage(what: impl Display, why: impl Display) -> Self {
        Failure::Told { message: format!("{what}: {why}"), code: USAGE }
    }

    /// Says more at the end of the line.
    pub fn and(self, more: impl Display) -> Self {
        match self {
            Failure::Told { message, code } => {
                Failure::Told { message: format!("{message}; {more}"), code }
            }
            Failure::OutputClosed => Failure::OutputClosed,
        }
    }

    /// What went wrong, for a command that goes on.
    pub fn message(&self) -> &str {
        match self {
            Failure::Told { message, .. } => message,
            Failure::OutputClosed => "nobody reads the output",
        }
    }

    /// Writes the one line to standard error.
    pub fn report(self) -> ExitCode {
        match self {
            Failure::OutputClosed => ExitCode::SUCCESS,
            Failure::Told { message, code } => {
                eprintln!("error: {}", printable(&message));
                ExitCode::from(code)
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(&error, CONFIG)
    }
}

/// A problem with writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::request("cannot write to standard output", error),
        }
    }
}
