//! The journals of the engine, looked at before it is opened.
//!
//! The engine takes whatever it cannot read for the end of a journal. A crash leaves half a batch
//! at the very end; anything else means that what follows would be lost without a word. A batch is
//! `start (tag 1, count, sequence number), items (tag 2), end (tag 3, checksum, magic)`; the
//! checksum is XXH3 of the items.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;
use super::format::ChannelRows;

/// The end of every batch, behind its checksum.
const MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// Bytes after the tag: of a start (count, sequence number) and of a clear (keyspace).
const START_BYTES: usize = 12;
const CLEAR_BYTES: usize = 8;

/// Bytes of an end: its tag, the checksum and the magic.
const END_BYTES: usize = 1 + 8 + MAGIC.len();

/// What a crash has cut off a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The last whole batch ends here.
    pub whole_bytes: usize,
    /// What is behind it, without the zeros at the end of the file.
    pub torn_bytes: usize,
}

/// A batch that has a beginning and an end.
struct Batch {
    end: usize,
    /// Where the keys of its items are.
    keys: Vec<Range<usize>>,
    has_checksum: bool,
}

/// The journals of an engine in the order in which they were written.
fn journals(engine: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(engine)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl")?.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    match numbers.is_empty() {
        true => Err(StoreError::corrupt("its journal is missing")),
        false => Ok(numbers.iter().map(|n| engine.join(format!("{n}.jnl"))).collect()),
    }
}

/// Looks at every journal of the engine in this folder. Returns what was torn off the newest.
///
/// # Errors
/// [`StoreError::Corrupt`] when a journal is unreadable before its end, or when none is there.
pub fn check(engine: &Path) -> Result<Option<TornTail>, StoreError> {
    let journals = journals(engine)?;
    let mut torn = None;
    for (at, path) in journals.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let checked = check_bytes(&fs::read(path)?);
        let corrupt = |what: &str| StoreError::Corrupt(format!("{name}: {what}"));
        torn = checked.map_err(|what| corrupt(&what))?;
        if torn.is_some() && at + 1 < journals.len() {
            return Err(corrupt("it ends within a batch, and there is a newer one"));
        }
    }
    Ok(torn)
}

fn check_bytes(journal: &[u8]) -> Result<Option<TornTail>, String> {
    let journal = without_zeros(journal);
    let mut at = 0;
    while let Some(batch) = whole_batch(journal, at) {
        at = batch.end;
    }
    if has_end(&journal[at..]) {
        return Err(format!("byte {at} and what follows it is not as it was written"));
    }
    let torn_bytes = journal.len() - at;
    Ok((torn_bytes > 0).then_some(TornTail { whole_bytes: at, torn_bytes }))
}

/// The engine makes files longer in advance, with zeros: 64 MiB of them. No batch ends with one.
fn without_zeros(journal: &[u8]) -> &[u8] {
    let end = journal.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    &journal[..end]
}

/// Whether a batch ends here, which then was written as a whole.
fn has_end(journal: &[u8]) -> bool {
    journal.windows(END_BYTES).any(|end| end[0] == END && end.ends_with(&MAGIC))
}

fn whole_batch(journal: &[u8], at: usize) -> Option<Batch> {
    batch(journal, at).filter(|batch| batch.has_checksum)
}

/// Where the next whole batch begins, at `from` or behind it.
fn next_whole(journal: &[u8], from: usize) -> Option<usize> {
    (from..journal.len()).find(|&at| journal[at] == START && whole_batch(journal, at).is_some())
}

fn batch(journal: &[u8], start: usize) -> Option<Batch> {
    let mut rest = journal.get(start..)?;
    let at = |rest: &[u8]| journal.len() - rest.len();
    if take(&mut rest, 1)? != [START] {
        return None;
    }
    take(&mut rest, START_BYTES)?;
    let (items, mut keys) = (at(rest), Vec::new());
    loop {
        let items_end = at(rest);
        match *take(&mut rest, 1)? {
            [ITEM] => {
                // Type, compression, keyspace, and the lengths of key, value, compressed value.
                take(&mut rest, 2 + 8)?;
                let key = u16::from_le_bytes(take(&mut rest, 2)?.try_into().ok()?);
                take(&mut rest, 4)?;
                let value = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
                keys.push(at(rest)..at(rest) + usize::from(key));
                take(&mut rest, usize::from(key))?;
                take(&mut rest, value as usize)?;
            }
            [CLEAR] => drop(take(&mut rest, CLEAR_BYTES)?),
            [END] => {
                let checksum = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
                let has_checksum = xxh3_64(&journal[items..items_end]) == checksum;
                let is_end = take(&mut rest, MAGIC.len())? == MAGIC;
                return is_end.then_some(Batch { end: at(rest), keys, has_checksum });
            }
            _ => return None,
        }
    }
}

fn take<'j>(rest: &mut &'j [u8], bytes: usize) -> Option<&'j [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

/// What is left of journals that were damaged.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Something was taken out.
    pub is_damaged: bool,
    /// Part of what was taken out cannot be told: it may be of any channel.
    pub is_unknown: bool,
    /// Channels whose newest messages may be lost, by the keys of what was taken out.
    pub lost: HashSet<ChannelRows>,
    /// Channels whose ends were written after that, and so are known.
    pub known: HashSet<ChannelRows>,
}

impl Salvaged {
    /// Whether the end of a channel's log may have been lost.
    pub fn may_lack_end(&self, rows: &ChannelRows) -> bool {
        let is_lost = self.is_unknown || self.lost.contains(rows);
        is_lost && !self.known.contains(rows)
    }

    fn lose(&mut self, rows: impl Iterator<Item = ChannelRows>) {
        self.is_damaged = true;
        for rows in rows {
            self.known.remove(&rows);
            self.lost.insert(rows);
        }
    }

    fn lose_unknown(&mut self) {
        (self.is_damaged, self.is_unknown) = (true, true);
        self.known.clear();
    }
}

/// Takes everything that is not a whole batch out of the journals.
///
/// # Errors
/// They cannot be read or written.
pub fn salvage(engine: &Path) -> Result<Salvaged, StoreError> {
    let mut salvaged = Salvaged::default();
    let journals = match journals(engine) {
        Ok(journals) => journals,
        Err(StoreError::Corrupt(_)) => {
            salvaged.lose_unknown();
            return Ok(salvaged);
        }
        Err(error) => return Err(error),
    };
    for path in journals {
        let journal = fs::read(&path)?;
        let journal = without_zeros(&journal);
        let kept = salvage_bytes(journal, &mut salvaged);
        if kept.len() < journal.len() {
            fs::write(&path, &kept)?;
            fs::File::open(&path)?.sync_all()?;
        }
    }
    Ok(salvaged)
}

fn salvage_bytes(journal: &[u8], salvaged: &mut Salvaged) -> Vec<u8> {
    let channels = |batch: &Batch| -> Vec<ChannelRows> {
        batch.keys.iter().filter_map(|key| ChannelRows::of_head(&journal[key.clone()])).collect()
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < journal.len() {
        match batch(journal, at) {
            Some(whole) if whole.has_checksum => {
                salvaged.known.extend(channels(&whole));
                kept.extend_from_slice(&journal[at..whole.end]);
                at = whole.end;
            }
            // Lengths and keys may be what is damaged, but then the next batch is not behind it.
            Some(damaged) if at_batch_or_end(journal, damaged.end) => {
                salvaged.lose(channels(&damaged).into_iter());
                at = damaged.end;
            }
            _ => match next_whole(journal, at + 1) {
                Some(next) => {
                    salvaged.lose_unknown();
                    at = next;
                }
                // Torn off: it was never acknowledged.
                None => break,
            },
        }
    }
    kept
}

fn at_batch_or_end(journal: &[u8], at: usize) -> bool {
    at >= journal.len() || batch(journal, at).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(channel: &str) -> ChannelRows {
        ChannelRows::new("app", channel)
    }

    /// Stores the end of a channel's log.
    fn batch_of(channel: &str, value: &[u8]) -> Vec<u8> {
        let rows = rows(channel);
        let mut items = vec![ITEM, 0, 0];
        items.extend([0; 8]);
        items.extend((rows.head_key().len() as u16).to_le_bytes());
        items.extend([0; 4]);
        items.extend((value.len() as u32).to_le_bytes());
        items.extend(rows.head_key());
        items.extend(value);
        let mut bytes = vec![START];
        bytes.extend([0; START_BYTES]);
        bytes.extend(&items);
        bytes.push(END);
        bytes.extend(xxh3_64(&items).to_le_bytes());
        bytes.extend(MAGIC);
        bytes
    }

    #[test]
    fn a_torn_tail_is_told_from_damage_before_it() {
        let batches = [batch_of("a", b"one"), batch_of("b", b"two"), batch_of("a", b"end")];
        let whole = batches.concat();
        assert_eq!(check_bytes(&whole), Ok(None));
        assert_eq!(check_bytes(&[&whole[..], &[0; 500]].concat()), Ok(None), "reserved space");
        let two = batches[0].len() + batches[1].len();
        for len in two + 1..whole.len() {
            let torn = check_bytes(&whole[..len]).unwrap().expect("a torn tail");
            assert_eq!(torn.whole_bytes, two, "{len}");
        }
        for at in 0..whole.len() {
            // Counts and sequence numbers have no checksum, and the last bytes are those of an end.
            let in_batch = at % batches[0].len();
            let in_last = at.checked_sub(two);
            if (1..=START_BYTES).contains(&in_batch)
                || in_last.is_some_and(|at| at + END_BYTES >= batches[2].len())
            {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            assert!(check_bytes(&bytes).is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_whole_is_kept_and_who_may_have_lost_something_is_known() {
        let batches = ["a", "b", "c", "a"].map(|channel| batch_of(channel, b"value"));
        let whole = batches.concat();
        let one = batches[0].len();
        let mut salvaged = Salvaged::default();
        let mut bytes = whole.clone();
        assert_eq!(without_zeros(&[&whole[..], &[0; 100]].concat()), whole);
        assert_eq!(salvage_bytes(&bytes, &mut salvaged), whole);
        assert!(!salvaged.is_damaged && !salvaged.may_lack_end(&rows("a")));
        // The values of the first two: the end of `a` is known from the last one.
        for at in [one - 14, 2 * one - 14] {
            bytes[at] ^= 1;
        }
        assert_eq!(salvage_bytes(&bytes, &mut salvaged), &whole[2 * one..]);
        assert!(salvaged.is_damaged && !salvaged.is_unknown);
        let lacking = ["a", "b", "c"].map(|channel| salvaged.may_lack_end(&rows(channel)));
        assert_eq!(lacking, [false, true, false]);
        // The tag of the second.
        bytes[one] = 9;
        let mut salvaged = Salvaged::default();
        assert_eq!(salvage_bytes(&bytes, &mut salvaged), &whole[2 * one..]);
        assert!(salvaged.is_unknown && salvaged.may_lack_end(&rows("x")));
        assert!(!salvaged.may_lack_end(&rows("c")));
    }

    #[test]
    fn what_the_engine_writes_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(dir.path())
            .journal_compression(fjall::CompressionType::None)
            .open()
            .expect("a database");
        let keys = db.keyspace("x", fjall::KeyspaceCreateOptions::default).expect("a keyspace");
        for n in 0..10u64 {
            let mut batch = db.batch().durability(Some(fjall::PersistMode::SyncData));
            batch.insert(&keys, n.to_be_bytes(), vec![7; 5000]);
            batch.remove(&keys, b"other".as_slice());
            batch.commit().expect("a commit");
        }
        assert_eq!(check(dir.path()).expect("it is whole"), None);
        drop((keys, db));
        let path = journals(dir.path()).expect("a journal").pop().expect("one");
        let bytes = fs::read(&path).expect("the journal");
        let count =
            std::iter::successors(Some(0), |&at| Some(whole_batch(&bytes, at)?.end)).count();
        assert!(count > 10, "{count} batches");
        fs::write(&path, &bytes[..without_zeros(&bytes).len() - 5]).expect("a shorter one");
        assert!(check(dir.path()).expect("a torn tail").is_some());
        let mut flipped = bytes;
        flipped[0] ^= 1;
        fs::write(&path, flipped).expect("a damaged one");
        assert!(matches!(check(dir.path()), Err(StoreError::Corrupt(_))));
    }
}
