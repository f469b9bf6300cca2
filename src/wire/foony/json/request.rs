//! Requests of clients (`protocols/foony.md` sections 2.1 and 2.2).

use super::object::{Key, Object};
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
