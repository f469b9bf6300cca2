//! What an operator is told when the server cannot start as configured.

use thiserror::Error;

/// One line, `what: why`, with what to do. The command line prints `error: ` before it and exits
/// with 78 (`EX_CONFIG` of sysexits.h).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}: {why}")]
pub struct ConfigError {
    what: String,
    why: String,
}

impl ConfigError {
    pub(super) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        ConfigError { what: what.into(), why: why.into() }
    }
}
