//! The data directory: its lock, and the reserved serials that survive a restart.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::listen::Takeover;
use super::start::StartError;
use crate::config::{Config, create_data_dir, replace_file};
use crate::ids::Clocks;
use crate::shard::serial_base;

/// Locked by the server that uses the directory.
const LOCK: &str = "lock";

/// Locked by a server while it tries to lock, or waits for, [`LOCK`].
const NEXT_LOCK: &str = "lock.next";

/// Holds a number above every serial that any server has assigned.
const SERIALS: &str = "serials";

/// Serials reserved in advance. A channel cannot use them up between two calls of
/// [`DataDir::note_serial`], and a restart skips no more than 17 s of [`serial_base`].
const RESERVED: u64 = 1 << 24;

/// The data directory of this process; the default has none.
#[derive(Debug, Default)]
pub struct DataDir {
    dir: Option<PathBuf>,
    /// Serials of this process are above it.
    serial_base: u64,
    /// Serials of this process are below it, as stored in the directory.
    reserved: u64,
    /// The last reservation failed and was logged.
    is_failing: bool,
    /// Set once the lock is held; during a takeover that is later than the start.
    lock: Arc<OnceLock<File>>,
}

impl DataDir {
    /// Creates the directory if necessary and locks it. A second server in the same directory is
    /// refused: both would write its serials and use its key.
    ///
    /// # Errors
    /// The directory cannot be used; says what to do.
    pub fn open(config: &Config, takeover: Takeover, now: Clocks) -> Result<Self, StartError> {
        let Some(dir) = config.data_dir() else { return Ok(DataDir::default()) };
        create_data_dir(dir)?;
        let is_first = !dir.join(LOCK).exists();
        let lock = lock(dir, takeover)?;
        let reserved = read_reserved(dir).map_err(|error| unusable(dir, &error))?;
        let serial_base = match is_first {
            true => 0,
            false => serial_base(now).max(reserved),
        };
        let dir = Some(dir.to_path_buf());
        Ok(DataDir { dir, serial_base, reserved, is_failing: false, lock })
    }

    /// Whether the previous server, which is being taken over from, still uses the directory.
    pub fn is_awaited(&self) -> bool {
        self.dir.is_some() && self.lock.get().is_none()
    }

    /// No serial of an earlier process is above it: 0 on the first run, and without a directory.
    pub fn serial_base(&self) -> u64 {
        self.serial_base
    }

    /// Extends the reservation when `highest`, the highest assigned serial, comes close to its end.
    /// While the directory cannot be written, only the clock keeps the serials of the next process
    /// above those of this one.
    pub fn note_serial(&mut self, highest: u64) {
        let Some(dir) = self.dir.as_deref() else { return };
        if highest + RESERVED / 2 <= self.reserved {
            return;
        }
        match reserve(dir, highest + RESERVED) {
            Ok(reserved) => (self.reserved, self.is_failing) = (reserved, false),
            Err(_) if self.is_failing => {}
            Err(error) => {
                self.is_failing = true;
                let dir = dir.display();
                tracing::warn!(%dir, %error, "cannot reserve serials: free space there");
            }
        }
    }
}

/// During a takeover two processes reserve; the greater number is kept.
fn reserve(dir: &Path, wanted: u64) -> io::Result<u64> {
    let reserved = read_reserved(dir)?.max(wanted);
    replace_file(dir, SERIALS, &reserved.to_string())?;
    Ok(reserved)
}

/// Locks the directory at once, or, in a takeover, when the previous server has exited. The second
/// lock keeps a third server from taking over at the same time.
fn lock(dir: &Path, takeover: Takeover) -> Result<Arc<OnceLock<File>>, StartError> {
    let next = try_lock(dir, NEXT_LOCK)?.map_err(|_| {
        refused(dir, "another headcount is starting on it or taking it over: wait for that one")
    })?;
    let held = Arc::new(OnceLock::new());
    let file = match try_lock(dir, LOCK)? {
        Ok(file) => {
            name_holder(&file);
            let _ = held.set(file);
            return Ok(held);
        }
        Err(file) if takeover == Takeover::Allowed => file,
        Err(_) => {
            let by = fs::read_to_string(dir.join(LOCK)).unwrap_or_default();
            let id = by.trim().parse::<u32>().ok();
            let by = id.map_or_else(String::new, |id| format!(" (process {id})"));
            let why = format!(
                "another headcount{by} is using it: stop that one, or choose another with \
                 `--data-dir`"
            );
            return Err(refused(dir, &why));
        }
    };
    let awaited = Arc::clone(&held);
    let wait = move || {
        match file.lock() {
            Ok(()) => {
                name_holder(&file);
                let _ = awaited.set(file);
            }
            Err(error) => tracing::warn!(%error, "cannot lock the data directory"),
        }
        drop(next);
    };
    let waiter = thread::Builder::new().name("data-dir-lock".into()).spawn(wait);
    waiter.map_err(|error| unusable(dir, &error))?;
    Ok(held)
}

/// Writes the id of this process into its lock, for whoever is refused. A lock without it works.
fn name_holder(mut file: &File) {
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::debug!(%error, "the lock does not name its process");
    }
}

/// Locks a file; `Err` is the open file when another process holds its lock.
fn try_lock(dir: &Path, name: &str) -> Result<Result<File, File>, StartError> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(name));
    let file = open.map_err(|error| unusable(dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Ok(file)),
        Err(TryLockError::WouldBlock) => Ok(Err(file)),
        Err(TryLockError::Error(error)) => Err(refused(dir, &error.to_string())),
    }
}

fn refused(dir: &Path, why: &str) -> StartError {
    StartError::DataDir { path: dir.display().to_string(), why: why.to_string() }
}

fn unusable(dir: &Path, error: &io::Error) -> StartError {
    refused(
        dir,
        &format!("{error}: make it writable, or choose another with `--data-dir` or [data]"),
    )
}

/// Reads the reservation; 0 when there is none yet.
fn read_reserved(dir: &Path) -> io::Result<u64> {
    match fs::read_to_string(dir.join(SERIALS)) {
        Ok(text) => text.trim().parse().map_err(|_| {
            let why =
                format!("`{SERIALS}` in it is not a number, remove that file if it is not ours");
            io::Error::new(io::ErrorKind::InvalidData, why)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty directory that ends with the value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("headcount-data-dir-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }

        fn open(&self, takeover: Takeover, wall_ms: u64) -> Result<DataDir, StartError> {
            let mut config = Config::default();
            config.data.dir.clone_from(&self.0);
            DataDir::open(&config, takeover, Clocks { mono_ms: 0, wall_ms })
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn serials_never_go_below_earlier_ones_whatever_the_clock_reads() {
        let folder = Folder::new("serials");
        let open = |wall_ms| {
            let mut opened = folder.open(Takeover::Refused, wall_ms).unwrap();
            opened.note_serial(opened.serial_base());
            opened
        };
        assert_eq!(open(5_000_000).serial_base(), 0, "the first server");
        let mut second = open(9_000_000);
        assert_eq!(second.serial_base(), 9_000_000_000);
        let busy = second.serial_base() + 5 * RESERVED;
        second.note_serial(busy);
        drop(second);
        let third = open(1_000);
        assert!(third.serial_base() > busy, "{} after {busy}", third.serial_base());
        drop(third);
        assert_eq!(open(8_000_000_000).serial_base(), 8_000_000_000_000, "time has passed it");
    }

    #[test]
    fn a_file_that_holds_no_number_is_reported() {
        let folder = Folder::new("garbage");
        drop(folder.open(Takeover::Refused, 1).unwrap());
        fs::write(folder.0.join(SERIALS), "x").unwrap();
        let error = folder.open(Takeover::Refused, 1).unwrap_err().to_string();
        assert!(error.contains("not a number"), "{error}");
    }

    #[test]
    fn a_takeover_inherits_the_lock_and_excludes_a_third_server() {
        let folder = Folder::new("lock");
        let old = folder.open(Takeover::Refused, 1).unwrap();
        let refused = |takeover| folder.open(takeover, 1).unwrap_err().to_string();
        assert!(refused(Takeover::Refused).contains("is using it"));
        let new = folder.open(Takeover::Allowed, 1).unwrap();
        assert!(refused(Takeover::Refused).contains("taking it over"));
        assert!(refused(Takeover::Allowed).contains("taking it over"));
        drop(old);
        while new.lock.get().is_none() {
            assert!(folder.open(Takeover::Refused, 1).is_err(), "a third server");
            thread::yield_now();
        }
        // Dropped after the first lock is held.
        while !refused(Takeover::Refused).contains("is using it") {
            thread::yield_now();
        }
        drop(new);
        assert!(folder.open(Takeover::Refused, 1).is_ok());
    }
}
