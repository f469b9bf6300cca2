//! The embedded engine, and the directory that it is in.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    UserKey, UserValue,
};

use super::format::{ChannelRows, FORMAT_VERSION, Head};
use super::{StoreError, journal};
use crate::config::replace_file;

/// Names the format, and the serial after which logs begin.
const FORMAT: &str = "format";

/// The folder of the engine.
const ENGINE: &str = "engine";

/// Locked by the engine.
const LOCK: &str = "lock";

/// Rows of all kinds.
const KEYSPACE: &str = "log";

/// Memory for blocks that were read lately, bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// A table in memory is written out when it has this size, bytes.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;

/// Journals are kept below this size, so that a start that reads them is quick. The least that the
/// engine allows.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// An open engine.
pub struct Engine {
    db: Database,
    rows: Keyspace,
}

/// A key and its value.
type Row = Result<(UserKey, UserValue), StoreError>;

/// Rows that are written together or not at all.
pub struct Batch<'e> {
    rows: &'e Keyspace,
    batch: OwnedWriteBatch,
}

/// A directory with a log, or for one.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// The serial after which the log of a channel begins that has no rows.
    pub floor: u64,
}

impl Directory {
    /// Reads what the directory says of itself, or makes it. `floor`: where logs begin in a new
    /// one.
    ///
    /// # Errors
    /// It is not ours, of another format, or cannot be used.
    pub fn open(path: &Path, floor: u64) -> Result<Self, StoreError> {
        let text = match fs::read_to_string(path.join(FORMAT)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Directory::create(path, floor);
            }
            Err(error) => return Err(error.into()),
        };
        let mut words = text.split_whitespace();
        let found = words.next().unwrap_or_default();
        let floor = words.next().and_then(|word| word.parse().ok());
        match floor {
            Some(floor) if found == FORMAT_VERSION.to_string() => {
                Ok(Directory { path: path.to_path_buf(), floor })
            }
            _ => Err(StoreError::Format { found: found.to_owned(), wanted: FORMAT_VERSION }),
        }
    }

    /// Makes it beside its place, so that it is there as a whole or not at all.
    fn create(path: &Path, floor: u64) -> Result<Self, StoreError> {
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(StoreError::corrupt("its file `format` is missing"));
        }
        let draft = Directory { path: path.with_extension("new"), floor };
        match fs::remove_dir_all(&draft.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&draft.path)?,
        }
        drop(Engine::open(&draft.engine())?);
        draft.write_format()?;
        fs::rename(&draft.path, path)?;
        Ok(Directory { path: path.to_path_buf(), floor })
    }

    /// Says in the directory where logs begin.
    fn write_format(&self) -> Result<(), StoreError> {
        let text = format!("{FORMAT_VERSION} {}", self.floor);
        Ok(replace_file(&self.path, FORMAT, &text)?)
    }

    /// Where the engine is.
    pub fn engine(&self) -> PathBuf {
        self.path.join(ENGINE)
    }

    /// Opens the engine. A torn tail is cut, with a warning.
    ///
    /// # Errors
    /// It is damaged, in use, or cannot be read.
    pub fn open_engine(&self) -> Result<Engine, StoreError> {
        let engine = self.engine();
        if !engine.is_dir() {
            return Err(StoreError::corrupt("its folder `engine` is missing"));
        }
        // Whoever has the lock may be writing.
        let lock = File::options().create(true).truncate(false).write(true).open(engine.join(LOCK));
        let lock = lock?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let torn = journal::check(&engine)?;
        drop(lock);
        if let Some(torn) = torn {
            let path = self.path.display();
            let (whole, torn) = (torn.whole_bytes, torn.torn_bytes);
            tracing::warn!(
                %path, whole, torn,
                "the log was cut off within a batch, as a crash leaves it: what follows the last \
                 whole batch is dropped"
            );
        }
        Engine::open(&engine)
    }
}

impl Engine {
    fn open(path: &Path) -> Result<Engine, StoreError> {
        let db = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .journal_compression(CompressionType::None)
            .worker_threads(1)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let rows = db.keyspace(KEYSPACE, options)?;
        Ok(Engine { db, rows })
    }

    /// Where the log of a channel ends; `None` when it has none.
    pub fn head(&self, rows: &ChannelRows) -> Result<Option<Head>, StoreError> {
        let Some(row) = self.rows.get(rows.head_key())? else { return Ok(None) };
        Head::decode(&row).map(Some).map_err(|error| {
            StoreError::corrupt(format_args!("the end of {:?}: {error}", rows.names()))
        })
    }

    /// The rows between two keys, both included, ascending.
    pub fn range(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = Row> + use<> {
        self.rows.range(from..=to).map(|row| Ok(row.into_inner()?))
    }

    /// The rows whose keys begin with these bytes, ascending.
    pub fn prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Row> + use<> {
        self.rows.prefix(prefix).map(|row| Ok(row.into_inner()?))
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch<'_> {
        Batch { rows: &self.rows, batch: self.db.batch() }
    }

    /// Bytes of all files.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.db.disk_space()?)
    }
}

impl Batch<'_> {
    pub fn insert(&mut self, key: &[u8], row: &[u8]) {
        self.batch.insert(self.rows, key, row);
    }

    pub fn remove(&mut self, key: &[u8]) {
        self.batch.remove(self.rows, key);
    }

    /// Writes all of it, and returns when it is on disk.
    ///
    /// # Errors
    /// The engine takes no more writes; what was to be written is there or not.
    pub fn commit_durably(self) -> Result<(), StoreError> {
        Ok(self.batch.durability(Some(PersistMode::SyncData)).commit()?)
    }

    /// Writes all of it. A crash of the machine may take it back.
    ///
    /// # Errors
    /// As above.
    pub fn commit(self) -> Result<(), StoreError> {
        Ok(self.batch.commit()?)
    }
}
