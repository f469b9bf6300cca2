//! Requests of clients, opcodes 1 to 10 (`protocols/foony.md` section 3.2).

use std::borrow::Cow;

use super::field::{Reader, write_bytes, write_message, write_messages, write_text, write_uvarint};
use super::{
    AUTH, FETCH, HISTORY, PEER_CHECK, PEER_DIRECT, PEER_UPDATE, PING, PRESENCE, PRESENCE_SUBSCRIBE,
    PRESENCE_UNSUBSCRIBE, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, append_record,
};
use crate::error::FrameError;
use crate::wire::foony::{Action, Auth, Content, Cursor, Message, Presence, Publish, Request};

const VERSION: u8 = 0;
const EPHEMERAL: u8 = 1;

/// Placeholder message of a publish that has a batch.
const BATCH_PLACEHOLDER: Message<'static> =
    Message { name: Cow::Borrowed(""), data: b"null", encoding: Cow::Borrowed("") };

pub(super) fn decode<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, FrameError> {
    Ok(match reader.byte()? {
        AUTH => Request::Auth(auth(reader)?),
        SUBSCRIBE => {
            let (id, serial) = (reader.uvarint()?, reader.uvarint()?);
            Request::Subscribe { id, channel: reader.text()?, cursor: Cursor::at(serial) }
        }
        UNSUBSCRIBE => Request::Unsubscribe { id: reader.uvarint()?, channel: reader.text()? },
        PUBLISH => Request::Publish(publish(reader)?),
        PRESENCE => Request::Presence(presence(reader)?),
        PRESENCE_SUBSCRIBE => {
            Request::PresenceSubscribe { id: reader.uvarint()?, channel: reader.text()? }
        }
        PRESENCE_UNSUBSCRIBE => {
            Request::PresenceUnsubscribe { id: reader.uvarint()?, channel: reader.text()? }
        }
        HISTORY => Request::History {
            id: reader.uvarint()?,
            limit: reader.uvarint()?,
            channel: reader.text()?,
            before: Cursor::at(reader.uvarint()?),
        },
        FETCH => Request::Fetch {
            id: reader.uvarint()?,
            from_serial: reader.uvarint()?,
            channel: reader.text()?,
        },
        PING => Request::Ping,
        _ => return Err(FrameError::UnknownType),
    })
}

/// The id of a request whose later fields may be malformed.
pub(super) fn id(record: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(record);
    match reader.byte().ok()? {
        PUBLISH | PRESENCE => {
            reader.byte().ok()?;
        }
        SUBSCRIBE | UNSUBSCRIBE | PRESENCE_SUBSCRIBE | PRESENCE_UNSUBSCRIBE | HISTORY | FETCH
        | PEER_UPDATE | PEER_DIRECT | PEER_CHECK => {}
        _ => return None,
    }
    reader.uvarint().ok()
}

fn auth<'a>(reader: &mut Reader<'a>) -> Result<Auth<'a>, FrameError> {
    if reader.byte()? != VERSION {
        return Err(FrameError::Header);
    }
    Ok(Auth {
        token: reader.text()?,
        key: reader.text()?,
        client_id: reader.text()?,
        resume_connection_id: reader.text()?,
        ..Auth::default()
    })
}

fn publish<'a>(reader: &mut Reader<'a>) -> Result<Publish<'a>, FrameError> {
    let flags = reader.byte()?;
    let (id, channel) = (reader.uvarint()?, reader.text()?);
    let only = reader.message()?;
    let message_id = reader.text()?;
    let _reserved = reader.uvarint()?;
    let messages = reader.messages()?;
    let content = if messages.is_empty() { Content::One(only) } else { Content::Batch(messages) };
    let ephemeral = flags & EPHEMERAL != 0;
    Ok(Publish { id, channel, message_id, ephemeral, ttl_ms: 0, content })
}

fn presence<'a>(reader: &mut Reader<'a>) -> Result<Presence<'a>, FrameError> {
    Ok(Presence {
        action: Action::from_repr(reader.byte()?).ok_or(FrameError::Body)?,
        id: reader.uvarint()?,
        channel: reader.text()?,
        data: reader.payload()?,
        encoding: reader.text()?,
    })
}

/// Appends a request as one record.
///
/// # Errors
/// [`FrameError::Body`] for features that only JSON has: cursors by message id, a time to live,
/// delivery options. `out` is unchanged.
pub fn append_request(request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), FrameError> {
    if !is_expressible(request) {
        return Err(FrameError::Body);
    }
    match request {
        Request::Auth(auth) => append_auth(auth, out),
        Request::Subscribe { id, channel, cursor } => {
            append_numbered(out, SUBSCRIBE, &[*id, serial_of(cursor)], channel);
        }
        Request::Unsubscribe { id, channel } => append_numbered(out, UNSUBSCRIBE, &[*id], channel),
        Request::Publish(publish) => append_publish(publish, out),
        Request::Presence(presence) => append_presence(presence, out),
        Request::PresenceSubscribe { id, channel } => {
            append_numbered(out, PRESENCE_SUBSCRIBE, &[*id], channel);
        }
        Request::PresenceUnsubscribe { id, channel } => {
            append_numbered(out, PRESENCE_UNSUBSCRIBE, &[*id], channel);
        }
        Request::History { id, channel, limit, before } => append_record(out, HISTORY, |out| {
            write_uvarint(out, *id);
            write_uvarint(out, *limit);
            write_text(out, channel);
            write_uvarint(out, serial_of(before));
        }),
        Request::Fetch { id, channel, from_serial } => {
            append_numbered(out, FETCH, &[*id, *from_serial], channel);
        }
        Request::Ping => append_record(out, PING, |_| {}),
    }
    Ok(())
}

fn is_expressible(request: &Request<'_>) -> bool {
    match request {
        Request::Auth(auth) => !auth.coalesce && !auth.binary_delivery,
        Request::Publish(publish) => publish.ttl_ms == 0,
        Request::Subscribe { cursor, .. } | Request::History { before: cursor, .. } => {
            !matches!(cursor, Cursor::MessageId(_))
        }
        _ => true,
    }
}

fn serial_of(cursor: &Cursor<'_>) -> u64 {
    match cursor {
        Cursor::Serial(serial) => *serial,
        Cursor::None | Cursor::MessageId(_) => 0,
    }
}

fn append_numbered(out: &mut Vec<u8>, opcode: u8, numbers: &[u64], channel: &str) {
    append_record(out, opcode, |out| {
        numbers.iter().for_each(|number| write_uvarint(out, *number));
        write_text(out, channel);
    });
}

fn append_auth(auth: &Auth<'_>, out: &mut Vec<u8>) {
    append_record(out, AUTH, |out| {
        out.push(VERSION);
        for text in [&auth.token, &auth.key, &auth.client_id, &auth.resume_connection_id] {
            write_text(out, text);
        }
    });
}

fn append_publish(publish: &Publish<'_>, out: &mut Vec<u8>) {
    match &publish.content {
        Content::One(message) => append_publish_of(publish, message, &[], out),
        Content::Batch(_) => append_batched_publish(publish, out),
    }
}

/// Appends a publish, also of one message, as a batch. SDKs send every stored publish so.
pub fn append_batched_publish(publish: &Publish<'_>, out: &mut Vec<u8>) {
    append_publish_of(publish, &BATCH_PLACEHOLDER, publish.content.messages(), out);
}

fn append_publish_of(
    publish: &Publish<'_>,
    only: &Message<'_>,
    batch: &[Message<'_>],
    out: &mut Vec<u8>,
) {
    append_record(out, PUBLISH, |out| {
        out.push(if publish.ephemeral { EPHEMERAL } else { 0 });
        write_uvarint(out, publish.id);
        write_text(out, &publish.channel);
        write_message(out, only);
        write_text(out, &publish.message_id);
        write_uvarint(out, 0);
        write_messages(out, batch);
    });
}

fn append_presence(presence: &Presence<'_>, out: &mut Vec<u8>) {
    append_record(out, PRESENCE, |out| {
        out.push(presence.action as u8);
        write_uvarint(out, presence.id);
        write_text(out, &presence.channel);
        write_bytes(out, presence.data);
        write_text(out, &presence.encoding);
    });
}
