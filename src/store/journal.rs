//! The journals of the engine, looked at before it is opened.
//!
//! The engine takes whatever it cannot read for the end of a journal. A crash leaves half a batch
//! at the very end; anything else means that what follows would be lost without a word. A batch is
//! `start (tag 1, count, sequence number), items (tag 2), end (tag 3, checksum, magic)`; the engine
//! itself verifies the checksums.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::StoreError;

/// The end of every batch, behind its checksum.
const MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// Bytes after the tag: of a start (count, sequence number) and of a clear (keyspace).
const START_BYTES: usize = 12;
const CLEAR_BYTES: usize = 8;

/// Bytes of an item after its tag and before its key: type, compression, keyspace, and the lengths
/// of key, value and compressed value.
const ITEM_BYTES: usize = 20;

/// Bytes of an end after its tag.
const END_BYTES: usize = 12;

/// What a crash has cut off a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The last whole batch ends here.
    pub whole_bytes: u64,
    /// What is behind it, without the zeros at the end of the file.
    pub torn_bytes: u64,
}

/// Looks at every journal of the engine in this directory. Returns what was torn off the newest.
///
/// # Errors
/// [`StoreError::Corrupt`] when a journal is unreadable before its end, or when none is there.
pub fn check(dir: &Path) -> Result<Option<TornTail>, StoreError> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl")?.parse::<u64>().ok());
        journals.extend(number);
    }
    journals.sort_unstable();
    if journals.is_empty() {
        return Err(StoreError::corrupt("its journal is missing"));
    }
    let mut torn = None;
    for number in journals {
        if let Some(earlier) = torn.take() {
            let TornTail { whole_bytes, .. } = earlier;
            let why = format!("a journal before {number}.jnl ends within a batch at {whole_bytes}");
            return Err(StoreError::Corrupt(why));
        }
        let path = dir.join(format!("{number}.jnl"));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        torn = check_bytes(&mut BufReader::with_capacity(1 << 16, File::open(&path)?))
            .map_err(|error| named(error, &name))?;
    }
    Ok(torn)
}

/// Cuts every journal after its last whole batch, whatever follows.
///
/// # Errors
/// They cannot be read or written.
pub fn cut(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        let file = File::options().read(true).write(true).open(&path)?;
        let mut reader = Reader { journal: &mut BufReader::new(&file), position: 0 };
        let mut whole_bytes = 0;
        while let Ok(true) = reader.batch() {
            whole_bytes = reader.position;
        }
        file.set_len(whole_bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

fn named(error: StoreError, name: &str) -> StoreError {
    match error {
        StoreError::Corrupt(what) => StoreError::Corrupt(format!("{name}: {what}")),
        error => error,
    }
}

fn check_bytes(journal: &mut (impl Read + Seek)) -> Result<Option<TornTail>, StoreError> {
    let mut reader = Reader { journal, position: 0 };
    let mut whole_bytes = 0;
    loop {
        match reader.batch() {
            Ok(true) => whole_bytes = reader.position,
            Ok(false) => break,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    // Lengths may be what is damaged, so nothing behind the last whole batch is skipped.
    let rest = reader.rest_after(whole_bytes)?;
    if rest.has_end {
        let why = format!("unreadable at byte {whole_bytes}, with whole batches behind it");
        return Err(StoreError::Corrupt(why));
    }
    let torn_bytes = rest.data_end.saturating_sub(whole_bytes);
    Ok((torn_bytes > 0).then_some(TornTail { whole_bytes, torn_bytes }))
}

struct Reader<'j, R> {
    journal: &'j mut R,
    position: u64,
}

/// What follows the last whole batch.
struct Rest {
    /// The last byte that is not zero ends here.
    data_end: u64,
    has_end: bool,
}

impl<R: Read + Seek> Reader<'_, R> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.journal.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.journal.take(bytes), &mut io::sink())?;
        self.position += skipped;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads one batch. False where none begins, or where it is unreadable.
    fn batch(&mut self) -> io::Result<bool> {
        if self.take::<1>()? != [START] {
            return Ok(false);
        }
        self.take::<START_BYTES>()?;
        loop {
            match self.take::<1>()? {
                [ITEM] => {
                    let fields = self.take::<ITEM_BYTES>()?;
                    let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = fields;
                    let key = u64::from(u16::from_le_bytes([k0, k1]));
                    self.skip(key + u64::from(u32::from_le_bytes([v0, v1, v2, v3])))?;
                }
                [CLEAR] => drop(self.take::<CLEAR_BYTES>()?),
                [END] => {
                    let [.., a, b, c, d] = self.take::<END_BYTES>()?;
                    return Ok([a, b, c, d] == MAGIC);
                }
                _ => return Ok(false),
            }
        }
    }

    /// Looks through what is left for the end of a whole batch.
    fn rest_after(mut self, position: u64) -> io::Result<Rest> {
        self.position = self.journal.seek(SeekFrom::Start(position))?;
        let mut last = [0; 1 + END_BYTES];
        let mut rest = Rest { data_end: 0, has_end: false };
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = self.journal.read(&mut chunk)?;
            if read == 0 {
                return Ok(rest);
            }
            for &byte in &chunk[..read] {
                self.position += 1;
                last.rotate_left(1);
                last[END_BYTES] = byte;
                if byte != 0 {
                    rest.data_end = self.position;
                }
                rest.has_end |= last[0] == END && last[END_BYTES - 3..] == MAGIC;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn batch(value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![START];
        bytes.extend([0; START_BYTES]);
        bytes.extend([ITEM, 0, 0]);
        bytes.extend([0; 8]);
        bytes.extend(3u16.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(b"key");
        bytes.extend(value);
        bytes.push(END);
        bytes.extend([9; 8]);
        bytes.extend(MAGIC);
        bytes
    }

    #[test]
    fn a_torn_tail_is_told_from_damage_before_it() {
        let whole = [batch(b"one"), batch(b"two"), batch(b"three")].concat();
        let check = |bytes: &[u8]| check_bytes(&mut Cursor::new(bytes));
        assert_eq!(check(&whole).unwrap(), None);
        assert_eq!(check(&[&whole[..], &[0; 500]].concat()).unwrap(), None, "reserved space");
        let two = batch(b"one").len() + batch(b"two").len();
        for len in two + 1..whole.len() {
            let torn = check(&whole[..len]).unwrap().expect("a torn tail");
            assert_eq!(torn.whole_bytes, two as u64, "{len}");
        }
        // A byte of the first two batches that tells where things are.
        for at in [0, START_BYTES + 1, START_BYTES + 20, two - 1, two - 13] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            assert!(matches!(check(&bytes), Err(StoreError::Corrupt(_))), "{at}");
        }
    }

    #[test]
    fn what_the_engine_writes_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(dir.path()).open().expect("a database");
        let keys = db.keyspace("x", fjall::KeyspaceCreateOptions::default).expect("a keyspace");
        for n in 0..10u64 {
            let mut batch = db.batch().durability(Some(fjall::PersistMode::SyncData));
            batch.insert(&keys, n.to_be_bytes(), vec![7; 5000]);
            batch.remove(&keys, b"other");
            batch.commit().expect("a commit");
        }
        assert_eq!(check(dir.path()).expect("it is whole"), None);
        drop((keys, db));
        let journal = dir.path().join("0.jnl");
        let journal = if journal.exists() { journal } else { dir.path().join("1.jnl") };
        let bytes = fs::read(&journal).expect("the journal");
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("some bytes");
        fs::write(&journal, &bytes[..end - 5]).expect("a shorter one");
        assert!(check(dir.path()).expect("a torn tail").is_some());
        let mut flipped = bytes;
        flipped[0] ^= 1;
        fs::write(&journal, flipped).expect("a damaged one");
        assert!(matches!(check(dir.path()), Err(StoreError::Corrupt(_))));
    }
}
