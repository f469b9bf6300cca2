//! Events of channels as webhooks post them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::history::push_item;
use crate::channel::{ChangeKind, Message};
use crate::session::presence_history::LoggedMember;
use crate::shard::{ChannelEvent, EventKind};

/// Version of requests.
const VERSION: u32 = 1;

/// An event as a JSON object.
#[derive(Serialize)]
struct Posted<'e> {
    event: &'static str,
    app: &'e str,
    channel: &'e str,
    sequence: u64,
    previous: u64,
    timestamp: u64,
    process: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<LoggedMember>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Cow<'e, RawValue>>,
}

/// The JSON object of one event. `process`: tells the processes of a server apart.
pub fn channel_event(event: &ChannelEvent, process: &str) -> Vec<u8> {
    let (name, member, messages) = match &event.what {
        EventKind::Occupied => ("occupied", None, None),
        EventKind::Vacated => ("vacated", None, None),
        EventKind::Message(message) => ("message", None, items(message)),
        EventKind::Member { kind, identity, state } => {
            let name = match kind {
                ChangeKind::Enter => "enter",
                ChangeKind::Update | ChangeKind::Peer => "update",
                ChangeKind::Leave => "leave",
            };
            (name, Some(LoggedMember::new(identity, Some(state))), None)
        }
    };
    let posted = Posted {
        event: name,
        app: &event.channel.app,
        channel: &event.channel.name,
        sequence: event.sequence,
        previous: event.previous,
        timestamp: event.wall_ms,
        process,
        member,
        messages,
    };
    // Serialization of strings, numbers and JSON values does not fail.
    serde_json::to_vec(&posted).unwrap_or_default()
}

/// The messages of a publish, as items of history.
fn items(message: &Message) -> Option<Cow<'static, RawValue>> {
    let mut list = b"[".to_vec();
    message.content.parts().iter().for_each(|part| push_item(&mut list, message, part));
    list.push(b']');
    let text = String::from_utf8(list).ok()?;
    RawValue::from_string(text).ok().map(Cow::Owned)
}

/// The body of a request with these events. `dropped`: how many the process has dropped so far.
pub fn webhook_body(dropped: u64, events: &[Vec<u8>]) -> Vec<u8> {
    let mut body = format!("{{\"v\":{VERSION},\"dropped\":{dropped},\"events\":[").into_bytes();
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    body
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::channel::{Content, Part};
    use crate::ids::Router;

    #[test]
    fn a_message_is_posted_as_history_shows_it() {
        let part = |name: &str, data: &'static [u8]| Part {
            name: name.into(),
            data: data.into(),
            encoding: "".into(),
        };
        let message = Message {
            id: "m1".into(),
            client_id: "ann".into(),
            timestamp_ms: 5,
            serial: 7,
            content: Content::Batch(vec![part("a", b"1"), part("b", b"{\"c\":2}")]),
        };
        let event = ChannelEvent {
            channel: Arc::new(Router::new((1, 2), 1).key(&"demo".into(), "room")),
            sequence: 9,
            previous: 8,
            wall_ms: 6,
            what: EventKind::Message(Arc::new(message)),
        };
        let body = webhook_body(3, &[channel_event(&event, "p"), channel_event(&event, "p")]);
        let body: Value = serde_json::from_slice(&body).unwrap();
        let item = |name: &str, data: Value| {
            json!({ "id": "m1", "name": name, "data": data, "timestamp": 5, "clientId": "ann",
                    "serial": 7 })
        };
        let expected = json!({
            "event": "message", "app": "demo", "channel": "room", "sequence": 9, "previous": 8,
            "timestamp": 6, "process": "p",
            "messages": [item("a", json!(1)), item("b", json!({ "c": 2 }))],
        });
        assert_eq!(body, json!({ "v": 1, "dropped": 3, "events": [expected, expected] }));
    }
}
