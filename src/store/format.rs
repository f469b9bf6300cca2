//! Rows of the log. `docs/store.md` describes them byte by byte.

use std::sync::Arc;

use bytes::Bytes;

use crate::channel::{Content, Message, Part};
use crate::error::FrameError;
use crate::wire::msgpack::{self, Reader};

/// Version of everything in this file, and of the layout of the directory.
pub const FORMAT_VERSION: u32 = 1;

/// First byte of the key of a row that says where the log of a channel ends.
const HEAD: u8 = b'h';

/// First byte of the key of a message.
const MESSAGE: u8 = b'm';

/// The rows of one channel: the end of its log, and its messages by serial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelRows {
    /// The key of the head row; that of a message has another first byte, and the serial behind.
    head: Box<[u8]>,
}

impl ChannelRows {
    /// # Panics
    /// If a name is longer than 65,535 bytes; channel and app names are shorter.
    pub fn new(app: &str, channel: &str) -> Self {
        let mut head = Vec::with_capacity(1 + 2 + app.len() + channel.len());
        let app_bytes = u16::try_from(app.len()).unwrap_or(u16::MAX);
        assert!(usize::from(app_bytes) == app.len(), "an app name of {} bytes", app.len());
        head.push(HEAD);
        head.extend_from_slice(&app_bytes.to_be_bytes());
        head.extend_from_slice(app.as_bytes());
        head.extend_from_slice(channel.as_bytes());
        ChannelRows { head: head.into() }
    }

    /// The rows of the channel with this head row; `None` if it is none.
    pub fn of_head(key: &[u8]) -> Option<Self> {
        let rows = ChannelRows { head: key.into() };
        rows.names()?;
        Some(rows)
    }

    /// The app and the channel.
    pub fn names(&self) -> Option<(&str, &str)> {
        let (&[kind, a, b], names) = self.head.split_first_chunk()?;
        let (app, channel) = names.split_at_checked(u16::from_be_bytes([a, b]).into())?;
        let names = Some((str::from_utf8(app).ok()?, str::from_utf8(channel).ok()?));
        names.filter(|_| kind == HEAD)
    }

    pub fn head_key(&self) -> &[u8] {
        &self.head
    }

    /// The key of a message. The length of the names before the serial keeps the rows of one
    /// channel apart from those of another whose name is longer.
    pub fn message_key(&self, serial: u64) -> Vec<u8> {
        let names = &self.head[1..];
        let names_bytes = u16::try_from(names.len()).unwrap_or(u16::MAX);
        let mut key = Vec::with_capacity(1 + 2 + names.len() + 8);
        key.push(MESSAGE);
        key.extend_from_slice(&names_bytes.to_be_bytes());
        key.extend_from_slice(names);
        key.extend_from_slice(&serial.to_be_bytes());
        key
    }
}

/// The keys of all head rows begin with it.
pub const HEADS: [u8; 1] = [HEAD];

/// The keys of all messages begin with it.
pub const MESSAGES: [u8; 1] = [MESSAGE];

/// The keys of all documents begin with it.
pub const DOCUMENTS: [u8; 1] = [b'd'];

/// The key of a row of the documents of an app.
pub fn documents_key(app: &str, key: &[u8]) -> Vec<u8> {
    let app_bytes = u16::try_from(app.len()).unwrap_or(u16::MAX);
    let mut out = DOCUMENTS.to_vec();
    out.extend_from_slice(&app_bytes.to_be_bytes());
    out.extend_from_slice(app.as_bytes());
    out.extend_from_slice(key);
    out
}

/// The app, and the key among its documents.
pub fn documents_of(key: &[u8]) -> Option<(&str, &[u8])> {
    let (&[_, a, b], rest) = key.split_first_chunk()?;
    let (app, key) = rest.split_at_checked(u16::from_be_bytes([a, b]).into())?;
    Some((str::from_utf8(app).ok()?, key))
}

/// The keys of all events for webhooks begin with it.
pub const EVENTS: [u8; 1] = [b'w'];

/// The key of an event for webhooks.
pub fn event_key(number: u64) -> [u8; 9] {
    let mut key = [EVENTS[0]; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in the key of an event for webhooks.
pub fn event_number(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(&EVENTS)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// The serial at the end of the key of a message.
pub fn serial_of(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The names in the key of a message: app and channel.
pub fn names_of(key: &[u8]) -> Option<ChannelRows> {
    let names = key.get(3..key.len().checked_sub(8)?)?;
    ChannelRows::of_head(&[&[HEAD], names].concat())
}

/// Where the log of a channel ends, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Serial of the newest message ever stored.
    pub head: u64,
    /// Serial of the oldest message that was not removed; the head plus one when all were.
    pub first: u64,
    /// Bytes of the rows from `first` to `head`.
    pub bytes: u64,
}

impl Head {
    /// A log whose first message follows `head`.
    pub fn starting_after(head: u64) -> Self {
        Head { head, first: head + 1, bytes: 0 }
    }

    /// Messages that are stored.
    pub fn count(&self) -> u64 {
        self.head + 1 - self.first
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(30);
        msgpack::write_array_len(&mut row, 3);
        for field in [self.head, self.first, self.bytes] {
            msgpack::write_u64(&mut row, field);
        }
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(row);
        reader.array_of(3)?;
        let head = Head { head: reader.u64()?, first: reader.u64()?, bytes: reader.u64()? };
        let is_valid = head.first > 0 && head.first <= head.head.saturating_add(1);
        if is_valid && reader.rest().is_empty() { Ok(head) } else { Err(FrameError::Body) }
    }
}

/// The row of a message, without its serial, which is in the key.
pub fn encode_message(message: &Message) -> Vec<u8> {
    let mut row = Vec::with_capacity(message.bytes());
    msgpack::write_array_len(&mut row, 4);
    msgpack::write_u64(&mut row, message.timestamp_ms);
    msgpack::write_str(&mut row, &message.client_id);
    msgpack::write_str(&mut row, &message.id);
    match &message.content {
        Content::One(part) => write_part(&mut row, part),
        Content::Batch(parts) => {
            msgpack::write_array_len(&mut row, 1);
            msgpack::write_array_len(&mut row, parts.len());
            parts.iter().for_each(|part| write_part(&mut row, part));
        }
    }
    row
}

fn write_part(row: &mut Vec<u8>, part: &Part) {
    msgpack::write_array_len(row, 3);
    msgpack::write_str(row, &part.name);
    msgpack::write_bin(row, &part.data);
    msgpack::write_str(row, &part.encoding);
}

/// Who published a message, and when.
pub struct Publish<'r> {
    pub timestamp_ms: u64,
    pub client_id: &'r str,
    pub message_id: &'r str,
}

fn read_publish<'r>(reader: &mut Reader<'r>) -> Result<Publish<'r>, FrameError> {
    reader.array_of(4)?;
    let timestamp_ms = reader.u64()?;
    Ok(Publish { timestamp_ms, client_id: reader.str()?, message_id: reader.str()? })
}

/// The beginning of the row of a message.
pub fn decode_publish(row: &[u8]) -> Result<Publish<'_>, FrameError> {
    read_publish(&mut Reader::new(row))
}

/// The message in a row.
pub fn decode_message(serial: u64, row: &[u8]) -> Result<Message, FrameError> {
    let mut reader = Reader::new(row);
    let Publish { timestamp_ms, client_id, message_id } = read_publish(&mut reader)?;
    let content = match reader.array_len()? {
        1 => {
            let parts = reader.array_len()?;
            Content::Batch((0..parts).map(|_| read_part(&mut reader, 3)).collect::<Result<_, _>>()?)
        }
        fields => Content::One(read_fields(&mut reader, fields)?),
    };
    if !reader.rest().is_empty() {
        return Err(FrameError::Body);
    }
    let (client_id, id) = (Arc::from(client_id), message_id.into());
    Ok(Message { serial, timestamp_ms, id, client_id, content })
}

fn read_part(reader: &mut Reader<'_>, fields: usize) -> Result<Part, FrameError> {
    let found = reader.array_len()?;
    if found == fields { read_fields(reader, found) } else { Err(FrameError::Body) }
}

fn read_fields(reader: &mut Reader<'_>, fields: usize) -> Result<Part, FrameError> {
    if fields != 3 {
        return Err(FrameError::Body);
    }
    Ok(Part {
        name: reader.str()?.into(),
        data: Bytes::copy_from_slice(reader.bin()?),
        encoding: reader.str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str) -> Part {
        Part { name: name.into(), data: Bytes::from_static(b"{\"a\":1}"), encoding: "".into() }
    }

    #[test]
    fn rows_come_back_as_they_were_and_nothing_else_is_read() {
        for content in [
            Content::One(part("x")),
            Content::Batch(vec![]),
            Content::Batch((0..3).map(|_| part("a")).collect()),
        ] {
            let message = Message {
                serial: 7,
                timestamp_ms: 1_700_000_000_000,
                id: "m".into(),
                client_id: "ann".into(),
                content,
            };
            let row = encode_message(&message);
            assert_eq!(decode_message(7, &row), Ok(message));
            for len in 0..row.len() {
                assert!(decode_message(7, &row[..len]).is_err(), "{len}");
            }
            assert!(decode_message(7, &[&row[..], &[0]].concat()).is_err());
        }
        let head = Head { head: u64::MAX - 1, first: 3, bytes: 1 << 40 };
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        assert!(Head::decode(&Head { first: 0, ..head }.encode()).is_err());
        assert!(Head::decode(&Head { head: 1, ..head }.encode()).is_err());
    }

    #[test]
    fn the_rows_of_one_channel_are_in_the_order_of_serials_and_apart_from_others() {
        let rows = ChannelRows::new("app", "room");
        assert_eq!(rows.names(), Some(("app", "room")));
        assert_eq!(ChannelRows::of_head(rows.head_key()), Some(rows.clone()));
        assert!(rows.message_key(255) < rows.message_key(256));
        assert_eq!(serial_of(&rows.message_key(300)), Some(300));
        assert_eq!(names_of(&rows.message_key(300)), Some(rows.clone()));
        let first = rows.message_key(0);
        for (app, channel) in [("app", "room2"), ("ap", "proom"), ("appr", "oom"), ("app", "roo")] {
            let other = ChannelRows::new(app, channel);
            for serial in [0, 1 << 32, u64::MAX] {
                let key = other.message_key(serial);
                assert!(key < first || key > rows.message_key(u64::MAX), "{app} {channel}");
            }
        }
        assert!(ChannelRows::of_head(b"h\0\xffx").is_none());
    }
}
