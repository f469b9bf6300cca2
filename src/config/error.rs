//! Errors of the configuration.

use thiserror::Error;

/// One line, `what: why`, that says what to do. The command line prints it after `error: ` and
/// exits with 78 (`EX_CONFIG` of sysexits.h).
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
