//! The log on disk: messages of channels whose namespace has `durability = "disk"`, documents of
//! devices, and events that wait to be posted to webhooks ([`Spool`]).
//!
//! ```text
//!  shard -> StoreRequest -> Worker (one per shard) -> Engine (one) -> journal, fsync
//!  shard <- StoreReply  <-/
//! ```
//!
//! A worker takes all requests that wait, writes what is to be stored in one batch, and answers
//! when the batch is on disk: the more is published, the more share an fsync. A channel has one
//! owner and so one worker; the engine, an LSM tree with a journal, serves all of them.
//!
//! Invariants: an acknowledged message is on disk. The serials of a channel are dense. Nothing here
//! is called by an executor.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | requests to a worker | none: their bytes are bounded by the shard that sends them | - | - |
//! | disk, but for a reserve | appends are refused, reads go on | client: code 50001 | `ignored{disk_full}` |

mod documents;
mod engine;
mod error;
mod format;
mod inspect;
mod journal;
mod read;
mod retention;
mod spool;
mod worker;

pub use error::StoreError;
pub use inspect::{Report, check, export, repair, stats};
pub use spool::Spool;
pub use worker::{Worker, WorkerParts};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use engine::{Directory, Engine};

use crate::counters::Durations;
use crate::policy::Policies;

/// How long a store that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Space that appends leave to what the engine does by itself: at most this many bytes, and a
/// quarter of a small disk.
const RESERVED_BYTES: u64 = 64 * 1024 * 1024;

/// How long the previous server may take to let go of the store in a takeover.
const TAKEOVER_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// The log of this process, for all its workers.
pub struct Store {
    path: PathBuf,
    floor: u64,
    policies: RwLock<Arc<Policies>>,
    open: RwLock<Option<OpenStore>>,
    trouble: Mutex<Trouble>,
    /// How long batches took until they were on disk.
    writes: Mutex<Durations>,
}

struct OpenStore {
    engine: Engine,
    /// Where the log of a channel begins that has no rows.
    floor: u64,
}

/// Since when the store fails, and what was said of it.
#[derive(Default)]
struct Trouble {
    is_failing: bool,
    is_full: bool,
    retry_at: Option<Instant>,
}

impl Trouble {
    /// Why the store is not to be opened again yet.
    fn not_yet(&self) -> Option<StoreError> {
        self.retry_at.filter(|at| Instant::now() < *at)?;
        Some(match self.is_full {
            true => StoreError::DiskFull,
            false => StoreError::Io(std::io::Error::other("an earlier write failed")),
        })
    }
}

impl Store {
    /// The log in a directory, not open yet: the first request opens it, and waits for another
    /// server that has it. `floor`: if it is to be made, no serial of earlier runs is above it.
    pub fn new(path: &Path, floor: u64, policies: Policies) -> Self {
        Store {
            path: path.to_path_buf(),
            floor,
            policies: RwLock::new(Arc::new(policies)),
            open: RwLock::default(),
            trouble: Mutex::default(),
            writes: Mutex::default(),
        }
    }

    /// How long batches of messages and documents took until they were on disk.
    pub fn writes(&self) -> Durations {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_write(&self, took: Duration) {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).record(took);
    }

    /// How much of a channel without subscribers is kept.
    fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the policies of channels. Where they are stored stays the same.
    pub fn set_policies(&self, policies: Policies) {
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
    }

    /// Opens the log, or makes it.
    ///
    /// # Errors
    /// It is in use, damaged, of another format, or cannot be written.
    pub fn open(&self) -> Result<(), StoreError> {
        self.open_within(Duration::ZERO)
    }

    /// False before the first request, and while it fails.
    pub fn is_open(&self) -> bool {
        self.open.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn open_within(&self, locked_for: Duration) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            let deadline = Instant::now() + locked_for;
            *open = Some(loop {
                match self.try_open() {
                    Err(StoreError::Locked) if Instant::now() < deadline => {
                        thread::sleep(LOCKED_PAUSE);
                    }
                    opened => break opened?,
                }
            });
        }
        Ok(())
    }

    fn try_open(&self) -> Result<OpenStore, StoreError> {
        let directory = Directory::open(&self.path, self.floor)?;
        Ok(OpenStore { engine: directory.open_engine()?, floor: directory.floor })
    }

    /// Does something with the engine, which is opened again if it had failed.
    fn with<T>(
        &self,
        act: impl FnOnce(&OpenStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            if let Some(open) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
                return act(open);
            }
            if let Some(error) = self.trouble().not_yet() {
                return Err(error);
            }
            self.open_within(TAKEOVER_WITHIN).inspect_err(|error| self.note_trouble(error))?;
        }
    }

    /// Writing failed: the engine takes no more, and is opened again later.
    fn give_up(&self, error: &StoreError) {
        self.note_trouble(error);
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note_trouble(&self, error: &StoreError) {
        let mut trouble = self.trouble();
        trouble.retry_at = Some(Instant::now() + RETRY_AFTER);
        trouble.is_full = matches!(error, StoreError::DiskFull);
        if !std::mem::replace(&mut trouble.is_failing, true) {
            let path = self.path.display();
            tracing::error!(%path, %error, "the store failed: publishes to it are refused");
        }
    }

    fn note_success(&self) {
        let mut trouble = self.trouble();
        if std::mem::replace(&mut trouble.is_failing, false) {
            tracing::info!(path = %self.path.display(), "the store takes writes again");
        }
        trouble.retry_at = None;
    }

    /// Whether there is room for more than the engine needs by itself.
    fn check_space(&self) -> Result<(), StoreError> {
        let disk = rustix::fs::statvfs(&self.path).map_err(std::io::Error::from)?;
        let reserved = RESERVED_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 4);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < reserved { Err(StoreError::DiskFull) } else { Ok(()) }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
