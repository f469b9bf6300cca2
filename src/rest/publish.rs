//! `POST /channels/{channel}/messages`: parses a publish, and makes the response.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::caller::Caller;
use super::object::Object;
use super::refusal::Refusal;
use super::reply::{Reply, push_string};
use crate::channel::{Content, Draft, Part, Storage};
use crate::error::Reject;
use crate::limits::MESSAGE_ID_BYTES_MAX;
use crate::wire::foony::{BATCH_MESSAGES_MAX, validate_json};

/// Makes a message id when the client sends none. The pair is unique.
#[derive(Clone, Copy, Debug)]
pub struct FreshId {
    /// Nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
    pub number: u32,
}

impl FreshId {
    fn text(self) -> String {
        format!("{}-{:08x}", self.unix_nanos, self.number)
    }
}

/// A message in the body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    /// A payload of `null` is a payload, so this is not an `Option`.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    client_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    ephemeral: Option<bool>,
    #[serde(borrow, default)]
    encoding: Option<Cow<'a, str>>,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// The messages of an array, up to the limit of a batch.
struct Items<'a>(Vec<Item<'a>>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message or an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < BATCH_MESSAGES_MAX {
            match seq.next_element()? {
                Some(Object(item)) => items.push(item),
                None => return Ok(Items(items)),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => Err(serde::de::Error::custom("too many messages in one publish")),
            None => Ok(Items(items)),
        }
    }
}

/// Parses a publish: one object, or an array, which is published as one atomic batch.
/// `message_bytes_max`: name, payload and encoding of one message together.
///
/// # Errors
/// 400 for an invalid or too large body; 403 for a `clientId` that is not the caller's.
pub fn parse_publish(
    caller: &Caller<'_>,
    body: &[u8],
    fresh: FreshId,
    message_bytes_max: usize,
) -> Result<Draft, Refusal> {
    let items = parse_items(body)?;
    let first = items.first().ok_or(Refusal::bad("there is no message in the array"))?;
    check_ids(&items)?;
    let id = first.id.as_deref().filter(|id| !id.is_empty());
    let id = id.map_or_else(|| fresh.text().into(), Box::from);
    let ephemeral = first.ephemeral.unwrap_or(false);
    if items.iter().any(|item| item.ephemeral.unwrap_or(false) != ephemeral) {
        return Err(Refusal::bad("the messages of a batch must all be ephemeral, or none"));
    }
    let client_id = caller.client_id(first.client_id.as_deref().unwrap_or_default())?;
    for item in &items[1..] {
        if caller.client_id(item.client_id.as_deref().unwrap_or_default())? != client_id {
            return Err(Refusal::bad("the messages of a batch must have the same clientId"));
        }
    }
    let storage = if ephemeral { Storage::Ephemeral } else { Storage::Stored };
    Ok(Draft { id, client_id, content: content(items, message_bytes_max)?, storage })
}

fn parse_items(body: &[u8]) -> Result<Vec<Item<'_>>, Refusal> {
    let bad = |error: serde_json::Error| Refusal::bad(format!("the body is no publish: {error}"));
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    match is_array {
        true => serde_json::from_slice::<Items<'_>>(body).map(|items| items.0).map_err(bad),
        false => serde_json::from_slice(body).map(|Object(item)| vec![item]).map_err(bad),
    }
}

/// The id of a single message, if it has one; the id of a batch is made here.
fn check_ids(items: &[Item<'_>]) -> Result<(), Refusal> {
    let mut ids = items.iter().filter_map(|item| item.id.as_deref());
    if ids.clone().any(|id| id.len() > MESSAGE_ID_BYTES_MAX) {
        return Err(Refusal::bad("id must not have more than 255 bytes"));
    }
    match items.len() > 1 && ids.any(|id| !id.is_empty()) {
        true => Err(Refusal::bad("an id can be given to a single message, not in a batch")),
        false => Ok(()),
    }
}

/// A batch of one is a single message: clients do not record the serial of a batch.
fn content(items: Vec<Item<'_>>, message_bytes_max: usize) -> Result<Content, Refusal> {
    let mut parts = Vec::with_capacity(items.len());
    for item in items {
        let part = part(item)?;
        if part.name.len() + part.data.len() + part.encoding.len() > message_bytes_max {
            return Err(Reject::MessageTooLarge.into());
        }
        parts.push(part);
    }
    match parts.len() {
        1 => Ok(Content::One(parts.swap_remove(0))),
        _ => Ok(Content::Batch(parts)),
    }
}

fn part(item: Item<'_>) -> Result<Part, Refusal> {
    let data = item.data.map_or("", RawValue::get);
    // Stricter than the parser of the body: it limits the depth.
    validate_json(data.as_bytes())
        .map_err(|error| Refusal::bad(format!("data cannot be published: {error}")))?;
    Ok(Part {
        name: item.name.unwrap_or_default().into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        encoding: item.encoding.unwrap_or_default().into(),
    })
}

/// 201, with the serial of a stored message. `serial`: 0 for an ephemeral one.
pub fn published(channel: &str, message_id: &str, serial: u64) -> Reply {
    let mut body = b"{\"channel\":".to_vec();
    push_string(&mut body, channel);
    body.extend_from_slice(b",\"messageId\":");
    push_string(&mut body, message_id);
    if serial > 0 {
        body.extend_from_slice(format!(",\"serial\":{serial}").as_bytes());
    }
    body.push(b'}');
    Reply::json(body).with_status(201)
}

#[cfg(test)]
mod tests {
    use super::super::caller::tests::{NOW_MS, bearer, keyring};
    use super::*;

    const BYTES_MAX: usize = 256 * 1024;

    const FRESH: FreshId = FreshId { unix_nanos: 1_700_000_000_000_000_000, number: 0xab };

    fn parse(body: &str) -> Result<Draft, Refusal> {
        let keyring = keyring();
        let caller = Caller::Key(keyring.key("demo.main").unwrap());
        parse_publish(&caller, body.as_bytes(), FRESH, BYTES_MAX)
    }

    fn parts(body: &str) -> Vec<(String, String, String)> {
        let text = |data: &Bytes| String::from_utf8(data.to_vec()).unwrap();
        let part = |p: &Part| (p.name.to_string(), text(&p.data), p.encoding.to_string());
        parse(body).unwrap().content.parts().iter().map(part).collect()
    }

    #[test]
    fn payloads_are_kept_to_the_byte() {
        for data in [
            "1e999",
            "18446744073709551616",
            "{ \"b\" : 1,\"a\":2,\"b\":3 }",
            "\"\\u0041\\/\\ud800\"",
            "null",
            "[ ]",
            "-0.0",
            "\"é😀\"",
        ] {
            let body = format!(" {{\"name\":\"n\",\"data\": {data} ,\"encoding\":\"e\"}} ");
            assert_eq!(parts(&body), [("n".into(), data.into(), "e".into())], "{body}");
        }
        assert_eq!(parts("{}"), [("".into(), "".into(), "".into())]);
        let nulls = r#"{"name":null,"clientId":null,"id":null,"ephemeral":null,"encoding":null}"#;
        assert_eq!(parts(nulls), [("".into(), "".into(), "".into())]);
        let escaped = r#"{"name":"\u0061\n","data":1,"unknown":[{}]}"#;
        assert_eq!(parts(escaped), [("a\n".into(), "1".into(), "".into())]);
    }

    #[test]
    fn an_array_is_one_batch_and_an_array_of_one_is_a_message() {
        let two = parse(r#"[{"name":"a","data":1},{"name":"b"}]"#).unwrap();
        assert!(matches!(&two.content, Content::Batch(parts) if parts.len() == 2), "{two:?}");
        let one = parse(r#"[{"name":"a","id":"m"}]"#).unwrap();
        assert!(matches!(one.content, Content::One(_)), "{one:?}");
        assert_eq!(&*one.id, "m");
    }

    #[test]
    fn id_client_and_keeping_are_those_given_or_the_defaults() {
        for (body, id, client_id, storage) in [
            (r#"{"name":"n"}"#, "1700000000000000000-000000ab", "", Storage::Stored),
            (r#"{"id":"","ephemeral":false}"#, "1700000000000000000-000000ab", "", Storage::Stored),
            (r#"{"id":"m","clientId":"bob","ephemeral":true}"#, "m", "bob", Storage::Ephemeral),
            (
                r#"[{"clientId":"b","ephemeral":true},{"clientId":"b","ephemeral":true,"id":""}]"#,
                "1700000000000000000-000000ab",
                "b",
                Storage::Ephemeral,
            ),
        ] {
            let draft = parse(body).unwrap();
            assert_eq!((&*draft.id, &*draft.client_id, draft.storage), (id, client_id, storage));
        }
    }

    #[test]
    fn a_token_publishes_as_its_own_client() {
        let keyring = keyring();
        let header = bearer(&keyring, "alice");
        let alice = Caller::identify(&keyring, Some(header.as_bytes()), NOW_MS).unwrap();
        let publish = |body: &str| {
            parse_publish(&alice, body.as_bytes(), FRESH, BYTES_MAX)
                .map(|draft| draft.client_id.to_string())
                .map_err(|refusal| (refusal.status, refusal.code.code()))
        };
        assert_eq!(publish("{}"), Ok("alice".to_string()));
        assert_eq!(publish(r#"{"clientId":"alice"}"#), Ok("alice".to_string()));
        assert_eq!(publish(r#"[{"clientId":"alice"},{}]"#), Ok("alice".to_string()));
        assert_eq!(publish(r#"{"clientId":"bob"}"#), Err((403, 40300)));
        assert_eq!(publish(r#"[{},{"clientId":"bob"}]"#), Err((403, 40300)));
    }

    #[test]
    fn what_is_no_publish_is_refused() {
        let deep = format!("{{\"data\":{}1{}}}", "[".repeat(65), "]".repeat(65));
        let very_deep = format!("{{\"data\":{}", "[".repeat(1 << 20));
        let long_id = format!("{{\"id\":\"{}\"}}", "x".repeat(256));
        let long_client = format!("{{\"clientId\":\"{}\"}}", "x".repeat(256));
        let too_many = format!("[{}{{}}]", "{},".repeat(BATCH_MESSAGES_MAX));
        for body in [
            "",
            " ",
            "null",
            "1",
            "\"n\"",
            "[]",
            "[1]",
            "[[]]",
            r#"[["n",1,"c","m",false,"e"]]"#,
            "[{}",
            "[{}]]",
            "{} {}",
            "{",
            r#"{"name":1}"#,
            r#"{"name":"a","name":"b"}"#,
            r#"{"data":}"#,
            r#"{"data":01}"#,
            r#"{"data":"a\qb"}"#,
            r#"{"name":"\ud800"}"#,
            r#"{"ephemeral":"yes"}"#,
            r#"{"encoding":{}}"#,
            r#"[{"id":"m"},{}]"#,
            r#"[{},{"id":"m"}]"#,
            r#"[{"ephemeral":true},{}]"#,
            r#"[{"clientId":"a"},{"clientId":"b"}]"#,
            r#"[{"clientId":"a"},{}]"#,
            &deep,
            &very_deep,
            &long_id,
            &long_client,
            &too_many,
        ] {
            let shown = &body[..body.len().min(40)];
            let refusal = parse(body).expect_err(shown);
            assert_eq!((refusal.status, refusal.code.code()), (400, 40001), "{shown}");
        }
        let keyring = keyring();
        let caller = Caller::Key(keyring.key("demo.main").unwrap());
        assert!(parse_publish(&caller, b"{\"data\":\"\xff\"}", FRESH, BYTES_MAX).is_err());
        assert!(parse_publish(&caller, b"{\"name\":\"\xff\"}", FRESH, BYTES_MAX).is_err());
    }

    #[test]
    fn every_message_has_a_limit() {
        let message = |bytes: usize| format!("{{\"data\":\"{}\"}}", "x".repeat(bytes - 2));
        assert!(parse(&message(BYTES_MAX)).is_ok());
        assert_eq!(parse(&message(BYTES_MAX + 1)).unwrap_err(), Reject::MessageTooLarge.into());
        let whole = message(BYTES_MAX);
        assert!(parse(&format!("[{whole},{whole}]")).is_ok());
        let named = whole.replace("{\"data", "{\"name\":\"n\",\"data");
        assert!(parse(&format!("[{{}},{named}]")).is_err());
    }

    #[test]
    fn the_answer_has_a_serial_when_there_is_one() {
        let text = |reply: Reply| String::from_utf8(reply.body).unwrap();
        let stored = published("chat:a", "m\"1", 7);
        assert_eq!(stored.status, 201);
        assert_eq!(text(stored), r#"{"channel":"chat:a","messageId":"m\"1","serial":7}"#);
        assert_eq!(text(published("a", "m", 0)), r#"{"channel":"a","messageId":"m"}"#);
    }
}
