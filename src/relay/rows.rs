//! Rows of an app's documents in the store. `docs/store.md` describes them byte by byte.

use std::sync::Arc;

use bytes::Bytes;

use super::gate::Gate;
use super::record::{Content, Record};
use crate::error::FrameError;
use crate::wire::msgpack::{self, Reader};

/// First bytes of keys: a record by position, an epoch by device, a gate by device and stream, a
/// push of an engine.
const RECORD: u8 = b'r';
const EPOCH: u8 = b'e';
const GATE: u8 = b'g';
const ENGINE: u8 = b'x';

/// First bytes of the keys of rows that [`super::Documents::restore`] needs.
pub const LOADED: [u8; 3] = [RECORD, EPOCH, GATE];

/// A row that is to be written, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    pub key: Vec<u8>,
    /// `None`: it is removed.
    pub row: Option<Vec<u8>>,
}

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Record(Record),
    Epoch {
        device: u64,
        epoch: u64,
    },
    Gate {
        device: u64,
        stream: u64,
        gate: Gate,
    },
    /// A push of an engine, with its collection.
    Engine {
        kind: u8,
        collection: Arc<str>,
        body: Bytes,
    },
}

pub fn record_key(position: u64) -> Vec<u8> {
    numbered(RECORD, &[position])
}

pub fn epoch_key(device: u64) -> Vec<u8> {
    numbered(EPOCH, &[device])
}

pub fn gate_key(device: u64, stream: u64) -> Vec<u8> {
    numbered(GATE, &[device, stream])
}

fn numbered(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 * numbers.len());
    key.push(kind);
    numbers.iter().for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
    key
}

/// The key of a push of an engine. The length of the collection keeps two of them apart.
pub fn engine_key(kind: u8, collection: &str, key: &[u8]) -> Vec<u8> {
    let collection_bytes = u16::try_from(collection.len()).unwrap_or(u16::MAX);
    let mut out = vec![ENGINE, kind];
    out.extend_from_slice(&collection_bytes.to_be_bytes());
    out.extend_from_slice(collection.as_bytes());
    out.extend_from_slice(key);
    out
}

pub fn encode_number(number: u64) -> Vec<u8> {
    let mut row = Vec::new();
    msgpack::write_u64(&mut row, number);
    row
}

pub fn encode_gate(gate: &Gate) -> Vec<u8> {
    let mut row = Vec::new();
    msgpack::write_array_len(&mut row, 2 * gate.ranges().len());
    for (first, last) in gate.ranges() {
        msgpack::write_u64(&mut row, *first);
        msgpack::write_u64(&mut row, *last);
    }
    row
}

/// The row of a record, without its position, which is in the key.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut row = Vec::with_capacity(record.bytes());
    let head = |row: &mut Vec<u8>, kind: u64, fields: usize| {
        msgpack::write_array_len(row, 3 + fields);
        msgpack::write_u64(row, kind);
        msgpack::write_u64(row, record.author);
        msgpack::write_str(row, &record.collection);
    };
    match &record.content {
        Content::Schema { body } => {
            head(&mut row, 0, 1);
            msgpack::write_bin(&mut row, body);
        }
        Content::Delta { document, delta } => {
            head(&mut row, 1, 2);
            msgpack::write_bin(&mut row, document);
            msgpack::write_bin(&mut row, delta);
        }
        Content::Row { key, row: value, expires_wall_ms } => {
            head(&mut row, 2, 3);
            msgpack::write_bin(&mut row, key);
            match value {
                Some(value) => msgpack::write_bin(&mut row, value),
                None => msgpack::write_nil(&mut row),
            }
            msgpack::write_u64(&mut row, *expires_wall_ms);
        }
        Content::ArrayOp { clock, op } => {
            head(&mut row, 3, 2);
            msgpack::write_bin(&mut row, clock);
            msgpack::write_bin(&mut row, op);
        }
        Content::ArraySchema { replica, clock, snapshot } => {
            head(&mut row, 4, 3);
            msgpack::write_u64(&mut row, *replica);
            msgpack::write_bin(&mut row, clock);
            msgpack::write_bin(&mut row, snapshot);
        }
        Content::Engine { body, .. } => row.extend_from_slice(body),
    }
    row
}

impl Row {
    /// Reads a row.
    ///
    /// # Errors
    /// It is none of ours, or damaged.
    pub fn decode(key: &[u8], row: &[u8]) -> Result<Self, FrameError> {
        let Some((&kind, rest)) = key.split_first() else { return Err(FrameError::Body) };
        let number = |at: usize| {
            let bytes = rest.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_be_bytes).ok_or(FrameError::Body)
        };
        match (kind, rest.len()) {
            (RECORD, 8) => decode_record(number(0)?, row).map(Row::Record),
            (EPOCH, 8) => {
                Ok(Row::Epoch { device: number(0)?, epoch: whole(row, |reader| reader.u64())? })
            }
            (GATE, 16) => {
                let gate = whole(row, decode_gate)?;
                Ok(Row::Gate { device: number(0)?, stream: number(8)?, gate })
            }
            (ENGINE, 3..) => {
                let len = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
                let collection = rest.get(3..3 + len).ok_or(FrameError::Body)?;
                let collection = str::from_utf8(collection).map_err(|_| FrameError::Utf8)?;
                let body = Bytes::copy_from_slice(row);
                Ok(Row::Engine { kind: rest[0], collection: collection.into(), body })
            }
            _ => Err(FrameError::Body),
        }
    }
}

/// Reads a value that has nothing behind it.
fn whole<'r, T>(
    row: &'r [u8],
    read: impl FnOnce(&mut Reader<'r>) -> Result<T, FrameError>,
) -> Result<T, FrameError> {
    let mut reader = Reader::new(row);
    let value = read(&mut reader)?;
    if reader.rest().is_empty() { Ok(value) } else { Err(FrameError::Body) }
}

fn decode_gate(reader: &mut Reader<'_>) -> Result<Gate, FrameError> {
    let numbers = reader.array_len()?;
    let ranges = (0..numbers / 2).map(|_| Ok((reader.u64()?, reader.u64()?)));
    let ranges = ranges.collect::<Result<Vec<_>, FrameError>>()?;
    Gate::restore(ranges).ok_or(FrameError::Body)
}

fn decode_record(position: u64, row: &[u8]) -> Result<Record, FrameError> {
    whole(row, |reader| {
        let fields = reader.array_len()?;
        let (kind, author) = (reader.u64()?, reader.u64()?);
        let collection = reader.str()?.into();
        let content = match (kind, fields) {
            (0, 4) => Content::Schema { body: bytes(reader)? },
            (1, 5) => Content::Delta { document: bytes(reader)?, delta: bytes(reader)? },
            (2, 6) => {
                let key = bytes(reader)?;
                let row = if reader.take_nil()? { None } else { Some(bytes(reader)?) };
                Content::Row { key, row, expires_wall_ms: reader.u64()? }
            }
            (3, 5) => Content::ArrayOp { clock: clock(reader)?, op: bytes(reader)? },
            (4, 6) => Content::ArraySchema {
                replica: reader.u64()?,
                clock: clock(reader)?,
                snapshot: bytes(reader)?,
            },
            _ => return Err(FrameError::Body),
        };
        Ok(Record { position, author, collection, content })
    })
}

fn bytes(reader: &mut Reader<'_>) -> Result<Bytes, FrameError> {
    reader.bin().map(Bytes::copy_from_slice)
}

fn clock(reader: &mut Reader<'_>) -> Result<[u8; 18], FrameError> {
    reader.bin()?.try_into().map_err(|_| FrameError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_and_nothing_else_is_read() {
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let contents = [
            Content::Schema { body: text("schema") },
            Content::Delta { document: text("n1"), delta: text("loro") },
            Content::Row { key: text("k"), row: Some(text("v")), expires_wall_ms: 7 },
            Content::Row { key: text("k"), row: None, expires_wall_ms: 0 },
            Content::ArrayOp { clock: [7; 18], op: text("op") },
            Content::ArraySchema { replica: 3, clock: [9; 18], snapshot: text("s") },
        ];
        for content in contents {
            let record = Record { position: 300, author: 1, collection: "notes".into(), content };
            let (key, row) = (record_key(300), encode_record(&record));
            assert_eq!(Row::decode(&key, &row), Ok(Row::Record(record)));
            for len in 0..row.len() {
                assert!(Row::decode(&key, &row[..len]).is_err(), "{len}");
            }
        }
        let mut gate = Gate::default();
        [1, 2, 9].into_iter().for_each(|number| gate.insert(number));
        let row = encode_gate(&gate);
        assert_eq!(
            Row::decode(&gate_key(1, 2), &row),
            Ok(Row::Gate { device: 1, stream: 2, gate })
        );
        let epoch = Row::Epoch { device: 5, epoch: 6 };
        assert_eq!(Row::decode(&epoch_key(5), &encode_number(6)), Ok(epoch));
        let engine = Row::Engine { kind: 0xa0, collection: "c".into(), body: text("b") };
        assert_eq!(Row::decode(&engine_key(0xa0, "c", b"k"), b"b"), Ok(engine));
    }
}
