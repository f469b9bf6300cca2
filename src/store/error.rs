//! Why the store cannot be used.

use std::fmt::Display;
use std::io::{self, ErrorKind};

use thiserror::Error;

use super::format::ChannelRows;
use crate::error::Reject;

/// One sentence, with what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("another process is using it: stop that one")]
    Locked,
    #[error(
        "it has format {found}, and this version writes {wanted}: use the version that wrote it, \
         or move it away"
    )]
    Format { found: String, wanted: u32 },
    #[error("it is damaged: {0}: run `headcount store check` to see what is lost")]
    Corrupt(String),
    #[error("the disk is full")]
    DiskFull,
    #[error("{0}")]
    Io(io::Error),
}

impl StoreError {
    /// What clients are told.
    pub fn reject(&self) -> Reject {
        match self {
            StoreError::DiskFull => Reject::DiskFull,
            _ => Reject::StoreFailed,
        }
    }

    /// A message that is not as it was written, or missing.
    pub(super) fn message(rows: &ChannelRows, serial: u64, why: impl Display) -> Self {
        StoreError::corrupt(format_args!("message {serial} of {:?}: {why}", rows.names()))
    }

    pub(super) fn corrupt(what: impl ToString) -> Self {
        StoreError::Corrupt(what.to_string())
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                StoreError::DiskFull
            }
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => StoreError::corrupt(error),
            _ => StoreError::Io(error),
        }
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) => error.into(),
            fjall::Error::Storage(error) => error.into(),
            fjall::Error::Locked => StoreError::Locked,
            fjall::Error::Poisoned => StoreError::Io(io::Error::other("an earlier write failed")),
            error => StoreError::corrupt(format_args!("{error:?}")),
        }
    }
}

impl From<fjall::LsmError> for StoreError {
    fn from(error: fjall::LsmError) -> Self {
        match error {
            fjall::LsmError::Io(error) => error.into(),
            error => StoreError::corrupt(format_args!("{error:?}")),
        }
    }
}
