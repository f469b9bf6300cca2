//! Small files that outlive the process: below the state directory, for its owner alone, written
//! as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const DEVICE_ID_FILE: &str = "device_id";

/// Makes the directory, with those above it that are missing.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Missing,
    /// More bytes than were asked for.
    TooLarge,
    Bytes(Vec<u8>),
}

/// Reads a file of `bytes_max` at most.
pub(crate) fn read(path: &Path, bytes_max: usize) -> io::Result<Content> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Missing),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() > bytes_max { Content::TooLarge } else { Content::Bytes(bytes) })
}

/// Replaces a file: after a crash it has the old content or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    publish(path, bytes, |temporary| fs::rename(temporary, path))
}

/// Makes a file unless it exists, whoever made it.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    publish(path, bytes, |temporary| match fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A file system without links.
            fs::rename(temporary, path)
        }
        _ => Ok(()),
    })
}

/// Writes a temporary file beside `path`, puts it in place, and removes what is left of it.
fn publish(path: &Path, bytes: &[u8], put: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_path(path);
    let published = write_synced(&temporary, bytes).and_then(|()| put(&temporary));
    let _ = fs::remove_file(&temporary);
    published?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name that no other writer uses: processes may share a state directory.
fn temporary_path(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    PathBuf::from(name)
}

/// One line on standard error: a file is not used as it is.
pub(crate) fn warn(path: &Path, why: &str) {
    let line = format!("headcount client: {}: {why}\n", path.display());
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The random id of this device, the same for all clients with this state directory.
///
/// # Errors
///
/// As [`random_bytes`].
pub(crate) fn device_id(state_dir: Option<&Path>) -> io::Result<[u8; 16]> {
    random_bytes(state_dir, DEVICE_ID_FILE)
}

/// Random bytes, the same for all clients with this state directory. Without one, new ones each
/// time. A damaged file is replaced, with a warning.
///
/// # Errors
///
/// The directory or the file cannot be made or read, or the kernel has no random bytes.
pub(crate) fn random_bytes<const N: usize>(
    state_dir: Option<&Path>,
    file: &str,
) -> io::Result<[u8; N]> {
    let Some(dir) = state_dir else { return random() };
    create(dir)?;
    let path = dir.join(file);
    // Hexadecimal digits and the end of the line.
    let text_bytes = 2 * N + 1;
    match read(&path, text_bytes)? {
        Content::Missing => write_new(&path, text(random::<N>()?).as_bytes())?,
        content => match parse(&content) {
            Some(bytes) => return Ok(bytes),
            None => {
                warn(&path, "damaged, replaced by a new one");
                write(&path, text(random::<N>()?).as_bytes())?;
            }
        },
    }
    // Another process may have been first.
    parse(&read(&path, text_bytes)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{file} was changed")))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

fn text<const N: usize>(bytes: [u8; N]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits + "\n"
}

fn parse<const N: usize>(content: &Content) -> Option<[u8; N]> {
    let Content::Bytes(text) = content else { return None };
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let is_whole = digits.len() == 2 * N && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    is_whole.then_some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::thread;

    use super::*;

    /// A directory that does not exist yet, and that goes with the test.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new(test: &str) -> Self {
            let name = format!("headcount-{test}-{}", std::process::id());
            let scratch = Self(std::env::temp_dir().join(name));
            let _ = fs::remove_dir_all(&scratch.0);
            scratch
        }

        pub(crate) fn dir(&self) -> PathBuf {
            self.0.join("a").join("state")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(crate) fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    pub(crate) fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_device_keeps_its_id_in_a_file_of_its_own() {
        let scratch = Scratch::new("device-id");
        let dir = scratch.dir();
        let id = device_id(Some(&dir)).expect("an id");
        assert_eq!(device_id(Some(&dir)).expect("an id"), id);
        assert_eq!((mode(&dir), mode(&dir.join("device_id"))), (0o700, 0o600));
        assert_eq!(names(&dir), ["device_id"]);
    }

    #[test]
    fn without_a_directory_each_id_is_new() {
        assert_ne!(device_id(None).expect("an id"), device_id(None).expect("an id"));
    }

    #[test]
    fn all_who_make_the_first_id_at_once_have_the_same() {
        let scratch = Scratch::new("device-id-race");
        let dir = scratch.dir();
        let ids: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| device_id(Some(&dir)).expect("an id"))).collect();
            threads.into_iter().map(|thread| thread.join().expect("joined")).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_damaged_id_is_replaced_for_good() {
        let scratch = Scratch::new("device-id-damaged");
        let dir = scratch.dir();
        create(&dir).expect("a directory");
        let long = "0".repeat(5000);
        for damaged in ["", "xyz", "+0000000000000000000000000000001\n", long.as_str()] {
            fs::write(dir.join("device_id"), damaged).expect("written");
            let id = device_id(Some(&dir)).expect("an id");
            assert_eq!(device_id(Some(&dir)).expect("an id"), id);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let scratch = Scratch::new("no-directory");
        create(scratch.dir().parent().expect("a parent")).expect("a directory");
        fs::write(scratch.dir(), "a file").expect("written");
        assert!(device_id(Some(&scratch.dir())).is_err());
    }
}
