//! `GET /channels/{channel}/messages` and `.../presence/history`: a page of history, and the link
//! to the next one.

use std::fmt::Write as _;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::query::{Direction, HistoryQuery};
use super::reply::{Reply, push_string};
use super::route::Prefix;
use crate::channel::{Message, Part};
use crate::session::presence_history::read_part;

/// Encodes what `encodeURIComponent` does, among the characters of channel names.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A page of messages. Each message of a batch is an item with the id and serial of the batch.
///
/// `messages`: oldest first, at most the limit of the query; `more`: there are further ones in its
/// direction.
pub fn history(
    prefix: &Prefix,
    channel: &str,
    query: &HistoryQuery,
    messages: &[Arc<Message>],
    more: bool,
) -> Reply {
    let resource = Resource { prefix, channel, name: "messages" };
    page(&resource, query, messages, more, push_item)
}

/// A page of presence history: what happened to members, as items like those of present members.
/// Parameters as above.
pub fn presence_history(
    prefix: &Prefix,
    channel: &str,
    query: &HistoryQuery,
    entries: &[Arc<Message>],
    more: bool,
) -> Reply {
    let resource = Resource { prefix, channel, name: "presence/history" };
    page(&resource, query, entries, more, push_event)
}

/// What is read page by page.
struct Resource<'r> {
    prefix: &'r Prefix,
    channel: &'r str,
    name: &'static str,
}

fn page(
    resource: &Resource<'_>,
    query: &HistoryQuery,
    messages: &[Arc<Message>],
    more: bool,
    push_item: fn(&mut Vec<u8>, &Message, &Part),
) -> Reply {
    let (messages, more) = match query.direction {
        Direction::Forwards { before: Some(before), .. } => {
            let wanted = messages.partition_point(|message| message.serial < before);
            (&messages[..wanted], more && wanted == messages.len())
        }
        _ => (messages, more),
    };
    let mut body = b"[".to_vec();
    let items = messages
        .iter()
        .flat_map(|message| message.content.parts().iter().map(move |part| (message, part)));
    let mut push = |(message, part): (&Arc<Message>, &Part)| push_item(&mut body, message, part);
    let last = match query.direction {
        Direction::Backwards { .. } => {
            items.rev().for_each(&mut push);
            messages.first()
        }
        Direction::Forwards { .. } => {
            items.for_each(&mut push);
            messages.last()
        }
    };
    body.push(b']');
    let reply = Reply::json(body);
    match last {
        Some(last) if more => reply.with_header("link", link(resource, query, last.serial)),
        _ => reply,
    }
}

/// Appends a message of a publish to a JSON array.
pub(super) fn push_item(out: &mut Vec<u8>, message: &Message, part: &Part) {
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(b"{\"id\":");
    push_string(out, &message.id);
    out.extend_from_slice(b",\"name\":");
    push_string(out, &part.name);
    if !part.data.is_empty() {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(&part.data);
    }
    out.extend_from_slice(format!(",\"timestamp\":{}", message.timestamp_ms).as_bytes());
    if !message.client_id.is_empty() {
        out.extend_from_slice(b",\"clientId\":");
        push_string(out, &message.client_id);
    }
    if !part.encoding.is_empty() {
        out.extend_from_slice(b",\"encoding\":");
        push_string(out, &part.encoding);
    }
    if message.serial > 0 {
        out.extend_from_slice(format!(",\"serial\":{}", message.serial).as_bytes());
    }
    out.push(b'}');
}

fn push_event(out: &mut Vec<u8>, entry: &Message, part: &Part) {
    let Some((action, Some(member))) = read_part(part) else { return };
    if out.len() > 1 {
        out.push(b',');
    }
    // Serialization of strings and JSON values does not fail.
    let member = serde_json::to_string(&member).unwrap_or_default();
    let (action, member) = (<&str>::from(action), member.strip_suffix('}').unwrap_or_default());
    let (at_ms, serial) = (entry.timestamp_ms, entry.serial);
    let end =
        format!("{member},\"action\":\"{action}\",\"timestamp\":{at_ms},\"serial\":{serial}}}");
    out.extend_from_slice(end.as_bytes());
}

/// Clients append the target to their base address and split the header at commas, so it is an
/// absolute path without commas.
fn link(resource: &Resource<'_>, query: &HistoryQuery, last_serial: u64) -> String {
    let Resource { prefix, channel, name } = resource;
    let (prefix, channel) = (prefix.as_link(), utf8_percent_encode(channel, SEGMENT));
    let mut target = format!("{prefix}/channels/{channel}/{name}?limit={}", query.limit);
    // Writing to a string does not fail.
    let _ = match query.direction {
        Direction::Backwards { .. } => write!(target, "&before={last_serial}"),
        Direction::Forwards { before, .. } => {
            let _ = write!(target, "&direction=forwards&after={last_serial}");
            before.map_or(Ok(()), |before| write!(target, "&before={before}"))
        }
    };
    format!("<{target}>; rel=\"next\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Content;
    use bytes::Bytes;
    use serde_json::Value;

    fn part(name: &str, data: &str) -> Part {
        let data = Bytes::copy_from_slice(data.as_bytes());
        Part { name: name.into(), data, encoding: "".into() }
    }

    fn message(serial: u64, content: Content) -> Arc<Message> {
        let id = format!("m{serial}").into();
        Arc::new(Message { serial, timestamp_ms: 5, id, client_id: "".into(), content })
    }

    fn messages(serials: std::ops::RangeInclusive<u64>) -> Vec<Arc<Message>> {
        serials.map(|serial| message(serial, Content::One(part("n", "1")))).collect()
    }

    fn query(text: &str) -> HistoryQuery {
        HistoryQuery::parse(Some(text)).unwrap()
    }

    fn items(reply: &Reply) -> Vec<Value> {
        serde_json::from_slice(&reply.body).unwrap()
    }

    fn serials(reply: &Reply) -> Vec<u64> {
        items(reply).iter().map(|item| item["serial"].as_u64().unwrap()).collect()
    }

    fn history(channel: &str, query: &HistoryQuery, kept: &[Arc<Message>], more: bool) -> Reply {
        super::history(&Prefix::default(), channel, query, kept, more)
    }

    fn next(reply: &Reply) -> Option<&str> {
        let header = reply.headers.iter().find(|(name, _)| *name == "link");
        header.map(|(_, value)| value.as_str())
    }

    #[test]
    fn an_item_has_what_the_message_has_and_its_payload_to_the_byte() {
        let full = Message {
            serial: 3,
            timestamp_ms: 1_700_000_000_123,
            id: "m\"1".into(),
            client_id: "bob".into(),
            content: Content::One(Part { encoding: "e".into(), ..part("n\n", "{ \"a\": 1e999 }") }),
        };
        let reply = history("a", &query(""), &[Arc::new(full)], false);
        let expected = "[{\"id\":\"m\\\"1\",\"name\":\"n\\n\",\"data\":{ \"a\": 1e999 },\
            \"timestamp\":1700000000123,\"clientId\":\"bob\",\"encoding\":\"e\",\"serial\":3}]";
        assert_eq!(String::from_utf8(reply.body.clone()).unwrap(), expected);
        assert_eq!(reply.status, 200);
        let bare = message(0, Content::One(part("", "")));
        let reply = history("a", &query(""), &[bare], false);
        assert_eq!(reply.body, b"[{\"id\":\"m0\",\"name\":\"\",\"timestamp\":5}]");
        assert_eq!(history("a", &query(""), &[], false).body, b"[]");
    }

    #[test]
    fn members_of_a_batch_are_items_that_share_id_and_serial() {
        let batch = Content::Batch(vec![part("a", "1"), part("b", "2")]);
        let kept = [message(1, batch), message(2, Content::One(part("c", "3")))];
        let seen = |query_text: &str| -> Vec<(String, u64, u64)> {
            let reply = history("a", &query(query_text), &kept, false);
            let item = |item: &Value| {
                let number = |name: &str| item[name].as_u64().unwrap();
                (item["id"].as_str().unwrap().to_owned(), number("data"), number("serial"))
            };
            items(&reply).iter().map(item).collect()
        };
        let forwards = [("m1".into(), 1, 1), ("m1".into(), 2, 1), ("m2".into(), 3, 2)];
        let mut backwards = forwards.clone();
        backwards.reverse();
        assert_eq!(seen("direction=forwards"), forwards);
        assert_eq!(seen(""), backwards);
    }

    #[test]
    fn the_next_page_begins_where_this_one_ends() {
        let channel = "chat:a_b-c";
        for (asked, kept, more, expected, link) in [
            ("limit=2", 8..=9, true, vec![9, 8], Some("limit=2&before=8")),
            ("limit=2&before=3", 1..=2, false, vec![2, 1], None),
            (
                "limit=2&direction=forwards",
                1..=2,
                true,
                vec![1, 2],
                Some("limit=2&direction=forwards&after=2"),
            ),
            (
                "limit=2&direction=forwards&before=9",
                1..=2,
                true,
                vec![1, 2],
                Some("limit=2&direction=forwards&after=2&before=9"),
            ),
            ("limit=3&direction=forwards&before=3&after=1", 2..=4, true, vec![2], None),
            ("limit=3&direction=forwards&before=1", 1..=3, true, vec![], None),
        ] {
            let reply = history(channel, &query(asked), &messages(kept), more);
            assert_eq!(serials(&reply), expected, "{asked}");
            let link = link
                .map(|target| format!("</channels/chat%3Aa_b-c/messages?{target}>; rel=\"next\""));
            assert_eq!(next(&reply), link.as_deref(), "{asked}");
            assert!(link.is_none_or(|link| !link.contains(',')));
        }
    }

    #[test]
    fn a_link_leads_back_to_its_query_under_its_prefix() {
        let prefix_of = |path: &str| {
            let route = super::super::route("GET", &format!("{path}/channels/a/messages"), None);
            let Ok(super::super::Route::History { prefix, .. }) = route else { panic!("{path}") };
            prefix
        };
        for (text, path, escaped) in [
            ("limit=7&before=9", "", ""),
            ("limit=7&before=9", "/p,q/%2C\"<r>", "/p%2Cq/%2C%22%3Cr%3E"),
            ("limit=7&direction=forwards&after=4&before=9", "/p", "/p"),
        ] {
            let kept = messages(5..=6);
            let reply = super::history(&prefix_of(path), "chat:a", &query(text), &kept, true);
            let header = next(&reply).unwrap();
            let target = header.trim_start_matches('<').split('>').next().unwrap();
            let (path, query_text) = target.split_once('?').unwrap();
            let route = super::super::route("GET", path, Some(query_text)).unwrap();
            let direction = match query(text).direction {
                Direction::Backwards { .. } => Direction::Backwards { before: Some(5) },
                Direction::Forwards { before, .. } => Direction::Forwards { after: 6, before },
            };
            let (query, prefix) = (HistoryQuery { limit: 7, direction }, prefix_of(escaped));
            let expected = super::super::Route::History { prefix, channel: "chat:a".into(), query };
            assert_eq!(route, expected);
        }
    }
}
