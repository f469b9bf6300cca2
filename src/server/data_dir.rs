//! The data directory: one server at a time, and whether there was one before.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::listen::Takeover;
use super::start::StartError;
use crate::config::{Config, create_data_dir};

/// Has a server used the directory before?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Not that anybody could know.
    First,
    Earlier,
}

/// The directory as this process holds it.
#[derive(Debug)]
pub struct DataDir {
    pub history: History,
    /// Locked while the process lives; `None` without a directory, or when it takes over from
    /// another process.
    _lock: Option<File>,
}

impl DataDir {
    /// Makes the directory and locks it. Two servers in one would both hold its log and key; the
    /// second one is refused.
    ///
    /// # Errors
    /// Why the directory cannot be used, and what to do about it.
    pub fn open(config: &Config, takeover: Takeover) -> Result<Self, StartError> {
        let Some(dir) = config.data_dir() else {
            return Ok(DataDir { history: History::First, _lock: None });
        };
        let refused = |why: String| StartError::DataDir { path: dir.display().to_string(), why };
        create_data_dir(dir)?;
        let history = match lock_path(dir).exists() {
            true => History::Earlier,
            false => History::First,
        };
        let file = open_lock(dir).map_err(|error| {
            refused(format!(
                "{error}: make it writable, or choose another with `--data-dir` or [data]"
            ))
        })?;
        match file.try_lock() {
            Ok(()) => Ok(DataDir { history, _lock: Some(file) }),
            Err(_) if takeover == Takeover::Allowed => Ok(DataDir { history, _lock: None }),
            Err(TryLockError::WouldBlock) => Err(refused(
                "another headcount is using it: stop that one, or choose another with `--data-dir`"
                    .to_string(),
            )),
            Err(TryLockError::Error(error)) => Err(refused(error.to_string())),
        }
    }
}

fn lock_path(dir: &Path) -> std::path::PathBuf {
    dir.join("lock")
}

fn open_lock(dir: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(lock_path(dir))
}
