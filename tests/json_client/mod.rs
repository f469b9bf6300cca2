//! The client's half of the JSON protocol (`protocols/foony.md` sections 2.1 and 2.2): requests
//! written as the SDKs up to 0.12.0 write them, events read as they read them.

#![allow(dead_code, reason = "each user takes its part")]

use std::borrow::Cow;
use std::collections::HashMap;

use headcount::error::FrameError;
use headcount::wire::foony::{
    Auth, Content, Cursor, Delivery, ErrorCode, Event, Member, Message, Presence, Publish, Request,
    validate_json,
};
use serde::Serialize;
use serde_json::value::RawValue;

/// Appends a request as one frame.
pub fn append_request(request: &Request<'_>, out: &mut Vec<u8>) {
    let fields = match request {
        Request::Auth(auth) => auth_fields(auth),
        Request::Subscribe { id, channel, cursor } => {
            Fields::of("sub", *id, channel).cursor(cursor, "lastSerial", "lastMessageId")
        }
        Request::Unsubscribe { id, channel } => Fields::of("unsub", *id, channel),
        Request::Publish(publish) => publish_fields(publish),
        Request::Presence(presence) => presence_fields(presence),
        Request::PresenceSubscribe { id, channel } => Fields::of("presSub", *id, channel),
        Request::PresenceUnsubscribe { id, channel } => Fields::of("presUnsub", *id, channel),
        Request::History { id, channel, limit, before } => Fields::of("hist", *id, channel)
            .put_unless_default("limit", *limit)
            .cursor(before, "before", "start"),
        Request::Fetch { id, channel, from_serial } => {
            Fields::of("fetch", *id, channel).put("fromSerial", *from_serial)
        }
        Request::Ping => Fields::default().put("t", "ping"),
    };
    out.extend_from_slice(fields.object().as_bytes());
}

fn auth_fields(auth: &Auth<'_>) -> Fields {
    Fields::default()
        .put("t", "auth")
        .put_unless_default("token", &*auth.token)
        .put_unless_default("key", &*auth.key)
        .put_unless_default("clientId", &*auth.client_id)
        .put_unless_default("resumeConnectionId", &*auth.resume_connection_id)
        .put_unless_default("coalesce", auth.coalesce)
        .put_unless_default("binaryDelivery", auth.binary_delivery)
}

fn publish_fields(publish: &Publish<'_>) -> Fields {
    let fields = Fields::of("pub", publish.id, &publish.channel);
    let fields = match &publish.content {
        Content::One(message) => fields.message(message),
        Content::Batch(messages) => {
            let items = messages.iter().map(|message| Fields::default().message(message).object());
            let list = items.collect::<Vec<_>>().join(",");
            fields.put("name", "").payload(b"null").raw("messages", &format!("[{list}]"))
        }
    };
    fields
        .put_unless_default("messageId", &*publish.message_id)
        .put_unless_default("ephemeral", publish.ephemeral)
        .put_unless_default("ttlMs", publish.ttl_ms)
}

fn presence_fields(presence: &Presence<'_>) -> Fields {
    Fields::of("pres", presence.id, &presence.channel)
        .put("action", presence.action)
        .payload(presence.data)
        .put_unless_default("encoding", &*presence.encoding)
}

/// The fields of an object, each with its key.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn of(frame_type: &str, id: u64, channel: &str) -> Self {
        Fields::default().put("t", frame_type).put("id", id).put("channel", channel)
    }

    fn raw(mut self, key: &str, json: &str) -> Self {
        self.0.push(format!("\"{key}\":{json}"));
        self
    }

    fn put(self, key: &str, value: impl Serialize) -> Self {
        self.raw(key, &serde_json::to_string(&value).expect("a text, number or flag"))
    }

    fn put_unless_default<T: Serialize + Default + PartialEq>(self, key: &str, value: T) -> Self {
        if value == T::default() { self } else { self.put(key, value) }
    }

    fn cursor(self, cursor: &Cursor<'_>, serial: &str, message_id: &str) -> Self {
        match cursor {
            Cursor::None => self,
            Cursor::Serial(number) => self.put(serial, *number),
            Cursor::MessageId(id) => self.put(message_id, id),
        }
    }

    /// Line feeds between its tokens become spaces.
    fn payload(self, payload: &[u8]) -> Self {
        match std::str::from_utf8(payload).expect("JSON text") {
            "" => self,
            text => self.raw("data", &text.replace('\n', " ")),
        }
    }

    fn message(self, message: &Message<'_>) -> Self {
        self.put("name", &message.name)
            .payload(message.data)
            .put_unless_default("encoding", &*message.encoding)
    }

    fn object(&self) -> String {
        format!("{{{}}}", self.0.join(","))
    }
}

/// Reads an event from one text message.
pub fn decode_event(text: &[u8]) -> Result<Event<'_>, FrameError> {
    let object: Object<'_> = serde_json::from_slice(text).map_err(|_| FrameError::Body)?;
    Ok(match &*object.text("t")? {
        "connected" => Event::Connected {
            connection_id: object.text("connectionId")?,
            keep_alive_ms: object.number("keepAliveMs")?,
            client_id: object.text("clientId")?,
        },
        "ack" => Event::Ack {
            id: object.number("id")?,
            serial: object.number("seq")?,
            resumed: object.flag("resumed")?,
        },
        "msg" if object.has("bundle") => {
            let channel = object.text("channel")?;
            let items = object.list("bundle", delivery)?.into_iter();
            Event::Bundle(items.map(|item| Delivery { channel: channel.clone(), ..item }).collect())
        }
        "msg" => Event::Delivery(delivery(&object)?),
        "presEvt" => Event::Member(Member {
            action: object.text("action")?.parse().map_err(|_| FrameError::Body)?,
            timestamp_ms: object.number("timestamp")?,
            channel: object.text("channel")?,
            client_id: object.text("clientId")?,
            connection_id: object.text("connectionId")?,
            data: object.payload()?,
            encoding: object.text("encoding")?,
        }),
        "err" => Event::Error {
            id: object.number("id")?,
            code: ErrorCode::from_code(object.number("code")?).ok_or(FrameError::Body)?,
            message: object.text("message")?,
        },
        "pong" => Event::Pong,
        "histRes" => Event::History {
            id: object.number("id")?,
            channel: object.text("channel")?,
            messages: object.list("messages", delivery)?,
            more: object.flag("more")? == Some(true),
        },
        "fetchRes" => Event::Fetched {
            id: object.number("id")?,
            channel: object.text("channel")?,
            messages: object.list("messages", delivery)?,
            resumed: object.flag("resumed")? == Some(true),
        },
        _ => return Err(FrameError::UnknownType),
    })
}

fn delivery<'a>(object: &Object<'a>) -> Result<Delivery<'a>, FrameError> {
    let content = match object.has("messages") {
        true => Content::Batch(object.list("messages", message)?),
        false => Content::One(message(object)?),
    };
    Ok(Delivery {
        channel: object.text("channel")?,
        message_id: object.text("messageId")?,
        client_id: object.text("clientId")?,
        timestamp_ms: object.number("timestamp")?,
        serial: object.number("seq")?,
        ephemeral: object.flag("ephemeral")? == Some(true),
        content,
    })
}

fn message<'a>(object: &Object<'a>) -> Result<Message<'a>, FrameError> {
    let (name, encoding) = (object.text("name")?, object.text("encoding")?);
    Ok(Message { name, data: object.payload()?, encoding })
}

/// Fields by name; `null` means absent except for a payload.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Object<'a>(#[serde(borrow)] HashMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    fn present(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(|value| value.get()).filter(|text| *text != "null")
    }

    fn has(&self, key: &str) -> bool {
        self.present(key).is_some()
    }

    fn value<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, FrameError> {
        let value = self.present(key).map(serde_json::from_str).transpose();
        value.map_err(|_| FrameError::Body)
    }

    fn text(&self, key: &str) -> Result<Cow<'a, str>, FrameError> {
        Ok(Cow::Owned(self.value::<String>(key)?.unwrap_or_default()))
    }

    fn number(&self, key: &str) -> Result<u64, FrameError> {
        Ok(self.value(key)?.unwrap_or_default())
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, FrameError> {
        self.value(key)
    }

    fn payload(&self) -> Result<&'a [u8], FrameError> {
        let payload = self.0.get("data").map_or("", |value| value.get()).as_bytes();
        validate_json(payload).map(|()| payload)
    }

    fn list<T>(
        &self,
        key: &str,
        item: impl Fn(&Object<'a>) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let items = self.present(key).unwrap_or("[]");
        let items: Vec<Object<'a>> = serde_json::from_str(items).map_err(|_| FrameError::Body)?;
        items.iter().map(item).collect()
    }
}
