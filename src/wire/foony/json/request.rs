//! Requests of clients (`protocols/foony.md` sections 2.1 and 2.2).

use super::object::{Key, Object};
use super::write::{Fields, append_frame};
use crate::error::FrameError;
use crate::wire::foony::{Auth, Content, Cursor, Malformed, Presence, Publish, Request};

/// Decodes a request from one text message.
///
/// # Errors
/// [`FrameError::UnknownType`] also for events; [`FrameError::TooLong`] for a batch above
/// [`BATCH_MESSAGES_MAX`](crate::wire::foony::BATCH_MESSAGES_MAX); otherwise as for
/// [`validate_json`](crate::wire::foony::validate_json), [`FrameError::Body`] also for fields of
/// another type. An error affects this message only; the connection can continue.
pub fn decode_request(text: &[u8]) -> Result<Request<'_>, Malformed> {
    let mut object = Object::empty();
    simdutf8::basic::from_utf8(text)
        .map_err(|_| FrameError::Utf8)
        .and_then(|text| object.collect(text))
        .and_then(|()| decode(&object))
        .map_err(|error| Malformed { error, id: object.number(Key::Id).unwrap_or(0) })
}

fn decode<'a>(object: &Object<'a>) -> Result<Request<'a>, FrameError> {
    let frame_type = object.text(Key::Type)?;
    let (id, channel) = (object.number(Key::Id)?, object.text(Key::Channel)?);
    Ok(match &*frame_type {
        "auth" => Request::Auth(auth(object)?),
        "sub" => Request::Subscribe {
            id,
            channel,
            cursor: cursor(object, Key::LastSerial, Key::LastMessageId)?,
        },
        "unsub" => Request::Unsubscribe { id, channel },
        "pub" => Request::Publish(publish(object)?),
        "pres" => Request::Presence(presence(object)?),
        "presSub" => Request::PresenceSubscribe { id, channel },
        "presUnsub" => Request::PresenceUnsubscribe { id, channel },
        "hist" => {
            let before = cursor(object, Key::Before, Key::Start)?;
            Request::History { id, channel, limit: object.number(Key::Limit)?, before }
        }
        "fetch" => Request::Fetch { id, channel, from_serial: object.number(Key::FromSerial)? },
        "ping" => Request::Ping,
        _ => return Err(FrameError::UnknownType),
    })
}

/// Clients that support serials also send the message id, for older servers.
fn cursor<'a>(object: &Object<'a>, serial: Key, message_id: Key) -> Result<Cursor<'a>, FrameError> {
    let (serial, message_id) = (object.number(serial)?, object.text(message_id)?);
    Ok(match serial {
        0 if !message_id.is_empty() => Cursor::MessageId(message_id),
        serial => Cursor::at(serial),
    })
}

fn auth<'a>(object: &Object<'a>) -> Result<Auth<'a>, FrameError> {
    Ok(Auth {
        token: object.text(Key::Token)?,
        key: object.text(Key::Credential)?,
        client_id: object.text(Key::ClientId)?,
        resume_connection_id: object.text(Key::ResumeConnectionId)?,
        coalesce: object.is_set(Key::Coalesce)?,
        binary_delivery: object.is_set(Key::BinaryDelivery)?,
    })
}

fn publish<'a>(object: &Object<'a>) -> Result<Publish<'a>, FrameError> {
    let messages = object.list(Key::Messages, Object::message)?;
    let content = if messages.is_empty() {
        Content::One(object.message()?)
    } else {
        Content::Batch(messages)
    };
    Ok(Publish {
        id: object.number(Key::Id)?,
        channel: object.text(Key::Channel)?,
        message_id: object.text(Key::MessageId)?,
        ephemeral: object.is_set(Key::Ephemeral)?,
        ttl_ms: object.number(Key::TtlMs)?,
        content,
    })
}

fn presence<'a>(object: &Object<'a>) -> Result<Presence<'a>, FrameError> {
    Ok(Presence {
        id: object.number(Key::Id)?,
        channel: object.text(Key::Channel)?,
        action: object.action()?,
        data: object.payload()?,
        encoding: object.text(Key::Encoding)?,
    })
}

/// Appends a request as one frame.
pub fn append_request(request: &Request<'_>, out: &mut Vec<u8>) {
    match request {
        Request::Auth(auth) => append_auth(auth, out),
        Request::Subscribe { id, channel, cursor } => {
            append_frame(out, "sub", |fields| {
                append_id_and_channel(fields, *id, channel);
                append_cursor(fields, cursor, Key::LastSerial, Key::LastMessageId);
            });
        }
        Request::Unsubscribe { id, channel } => {
            append_frame(out, "unsub", |fields| append_id_and_channel(fields, *id, channel));
        }
        Request::Publish(publish) => append_publish(publish, out),
        Request::Presence(presence) => append_presence(presence, out),
        Request::PresenceSubscribe { id, channel } => {
            append_frame(out, "presSub", |fields| append_id_and_channel(fields, *id, channel));
        }
        Request::PresenceUnsubscribe { id, channel } => {
            append_frame(out, "presUnsub", |fields| append_id_and_channel(fields, *id, channel));
        }
        Request::History { id, channel, limit, before } => append_frame(out, "hist", |fields| {
            append_id_and_channel(fields, *id, channel);
            fields.put_unless_default(Key::Limit, *limit);
            append_cursor(fields, before, Key::Before, Key::Start);
        }),
        Request::Fetch { id, channel, from_serial } => append_frame(out, "fetch", |fields| {
            append_id_and_channel(fields, *id, channel);
            fields.put(Key::FromSerial, *from_serial);
        }),
        Request::Ping => append_frame(out, "ping", |_| {}),
    }
}

fn append_id_and_channel(fields: &mut Fields<'_>, id: u64, channel: &str) {
    fields.put(Key::Id, id);
    fields.put(Key::Channel, channel);
}

fn append_cursor(fields: &mut Fields<'_>, cursor: &Cursor<'_>, serial: Key, message_id: Key) {
    match cursor {
        Cursor::None => {}
        Cursor::Serial(number) => fields.put(serial, *number),
        Cursor::MessageId(id) => fields.put(message_id, id),
    }
}

fn append_auth(auth: &Auth<'_>, out: &mut Vec<u8>) {
    append_frame(out, "auth", |fields| {
        fields.put_unless_default(Key::Token, &*auth.token);
        fields.put_unless_default(Key::Credential, &*auth.key);
        fields.put_unless_default(Key::ClientId, &*auth.client_id);
        fields.put_unless_default(Key::ResumeConnectionId, &*auth.resume_connection_id);
        fields.put_unless_default(Key::Coalesce, auth.coalesce);
        fields.put_unless_default(Key::BinaryDelivery, auth.binary_delivery);
    });
}

fn append_publish(publish: &Publish<'_>, out: &mut Vec<u8>) {
    append_frame(out, "pub", |fields| {
        append_id_and_channel(fields, publish.id, &publish.channel);
        match &publish.content {
            Content::One(message) => fields.message(message),
            Content::Batch(messages) => {
                fields.put(Key::Name, "");
                fields.payload(b"null");
                fields.messages(messages);
            }
        }
        fields.put_unless_default(Key::MessageId, &*publish.message_id);
        fields.put_unless_default(Key::Ephemeral, publish.ephemeral);
        fields.put_unless_default(Key::TtlMs, publish.ttl_ms);
    });
}

fn append_presence(presence: &Presence<'_>, out: &mut Vec<u8>) {
    append_frame(out, "pres", |fields| {
        append_id_and_channel(fields, presence.id, &presence.channel);
        fields.put(Key::Action, presence.action);
        fields.payload(presence.data);
        fields.put_unless_default(Key::Encoding, &*presence.encoding);
    });
}
