//! Golden bytes of the Foony protocol: every line of `vectors/foony.jsonl`, both ways and in both
//! codecs. The frames in memory of the SDK are the frames of the JSON protocol.

mod golden;
mod json_client;

use golden::{hex, text};
use headcount::error::FrameError;
use headcount::wire::foony::{Content, Event, Malformed, Message, Request, binary, json};
use serde_json::{Value, json};

const LINES_MIN: usize = 70;

fn lines() -> Vec<Value> {
    golden::lines("foony.jsonl", LINES_MIN)
}

fn frames(direction: &str) -> Vec<Value> {
    let wanted = |line: &Value| line["dir"] == direction && !is_stream(line);
    let found: Vec<Value> = lines().into_iter().filter(wanted).collect();
    assert!(found.len() >= 29, "{} lines in direction {direction}", found.len());
    found
}

fn is_stream(line: &Value) -> bool {
    line["kind"] == "stream"
}

/// The only record of a message.
fn only_record<'a>(message: &'a [u8], what: &str) -> binary::Record<'a> {
    let mut records = binary::records(message);
    let record = records.next().unwrap_or_else(|| panic!("{what}: no record"));
    assert_eq!(records.next(), None, "{what}");
    record.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// As the SDK shows it: an error that names no request has the id 0, which JSON leaves out.
fn shown(mut frame: Value) -> Value {
    if frame["t"] == "err" && frame.get("id").is_none() {
        frame["id"] = json!(0);
    }
    frame
}

fn json_of_request(request: &Request<'_>) -> Value {
    let mut out = Vec::new();
    json_client::append_request(request, &mut out);
    serde_json::from_slice(&out).expect("a frame is JSON")
}

fn json_of_event(event: &Event<'_>) -> Value {
    let mut out = Vec::new();
    json::append_event(event, &mut out);
    shown(serde_json::from_slice(&out).expect("a frame is JSON"))
}

#[test]
fn every_request_of_the_sdk_is_read_and_written_the_same_in_both_codecs() {
    for line in frames("c2s") {
        let what = text(&line, "name");
        let framed = hex(text(&line, "framed"));
        let record = only_record(&framed, what);
        assert_eq!(record.bytes(), hex(text(&line, "hex")), "{what}");
        let request = record.request().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(record.event(), Err(FrameError::UnknownType), "{what}");
        let mut again = Vec::new();
        binary::append_request(&request, &mut again).expect("expressible");
        assert_eq!(again, framed, "{what}");
        assert_eq!(json_of_request(&request), line["decoded"], "{what}");
        let frame = line["frame"].to_string();
        assert_eq!(json::decode_request(frame.as_bytes()).as_ref(), Ok(&request), "{what}");
        assert_eq!(json!(request.id()), *line["decoded"].get("id").unwrap_or(&json!(0)), "{what}");
        assert_eq!(channel_of(&request), line["decoded"]["channel"].as_str(), "{what}");
    }
}

fn channel_of<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    match request {
        Request::Auth(_) | Request::Ping => None,
        Request::Publish(publish) => Some(&publish.channel),
        Request::Presence(presence) => Some(&presence.channel),
        Request::Subscribe { channel, .. }
        | Request::Unsubscribe { channel, .. }
        | Request::PresenceSubscribe { channel, .. }
        | Request::PresenceUnsubscribe { channel, .. }
        | Request::History { channel, .. }
        | Request::Fetch { channel, .. } => Some(channel),
    }
}

#[test]
fn every_event_of_the_sdk_is_read_and_written_the_same_in_both_codecs() {
    for line in frames("s2c") {
        let what = text(&line, "name");
        let framed = hex(text(&line, "framed"));
        let record = only_record(&framed, what);
        assert_eq!(record.bytes(), hex(text(&line, "hex")), "{what}");
        let event = record.event().unwrap_or_else(|error| panic!("{what}: {error}"));
        let unknown = Malformed { error: FrameError::UnknownType, id: 0 };
        assert_eq!(record.request(), Err(unknown), "{what}");
        let mut again = Vec::new();
        binary::append_event(&event, &mut again);
        assert_eq!(again, framed, "{what}");
        assert_eq!(json_of_event(&event), line["decoded"], "{what}");
        let frame = line["frame"].to_string();
        assert_eq!(json_client::decode_event(frame.as_bytes()).as_ref(), Ok(&event), "{what}");
    }
}

#[test]
fn every_stream_gives_what_the_sdk_gets_out_of_it() {
    let streams: Vec<Value> = lines().into_iter().filter(is_stream).collect();
    assert!(streams.len() >= 10, "{} streams", streams.len());
    for line in streams {
        let message = hex(text(&line, "hex"));
        let events: Vec<Value> = binary::records(&message)
            .filter_map(|record| record.ok()?.event().ok())
            .map(|event| json_of_event(&event))
            .collect();
        assert_eq!(json!(events), line["decoded"], "{}", text(&line, "name"));
    }
}

#[test]
fn a_stream_says_what_is_wrong_with_it_and_whether_it_goes_on() {
    let wrong = |name: &str| -> Vec<FrameError> {
        let line = lines().into_iter().find(|line| line["name"] == name);
        let message = hex(text(&line.unwrap_or_else(|| panic!("no {name}")), "hex"));
        binary::records(&message)
            .filter_map(|record| record.and_then(|record| record.event()).err())
            .collect()
    };
    for (name, expected) in [
        ("stream/malformed-tail-is-dropped", &[FrameError::Truncated][..]),
        ("stream/unknown-opcode-skipped", &[FrameError::UnknownType]),
        ("stream/length-past-end-drops-tail", &[FrameError::Truncated]),
        ("stream/zero-length-record-skipped", &[FrameError::Truncated]),
        ("stream/invalid-json-data-drops-record", &[FrameError::Body]),
        ("stream/trailing-bytes-in-record-ignored", &[]),
    ] {
        assert_eq!(wrong(name), expected, "{name}");
    }
}

#[test]
fn a_request_in_error_names_the_request_that_waits_for_an_answer() {
    use FrameError::{Body, Header, Truncated, UnknownType, Utf8};
    for (record, error, id) in [
        ("", Truncated, 0),
        ("63", UnknownType, 0),
        ("10", UnknownType, 0),
        ("01", Truncated, 0),
        ("010100000000", Header, 0),
        ("02", Truncated, 0),
        ("0207", Truncated, 7),
        ("02070001", Truncated, 7),
        ("02070001ff", Utf8, 7),
        ("0307", Truncated, 7),
        ("040007", Truncated, 7),
        ("0400070161016e017b00000000", Body, 7),
        ("0400070161016e0022000000", Truncated, 7),
        ("0400070161016e04747275650000000201610131000162017d00", Body, 7),
        ("040007016100000000000381808080", Truncated, 7),
        ("0500070161000000", Body, 7),
        ("0501070161032261", Truncated, 7),
        ("050107016102226100", Body, 7),
        ("0607", Truncated, 7),
        ("0707", Truncated, 7),
        ("0807", Truncated, 7),
        ("0907", Truncated, 7),
        ("09ffffffffffffffffffff", Body, 0),
    ] {
        let bytes = hex(record);
        let message = [&[bytes.len() as u8], &bytes[..]].concat();
        let request = only_record(&message, record).request();
        assert_eq!(request, Err(Malformed { error, id }), "{record}");
    }
}

#[test]
fn a_json_request_in_error_names_the_request_that_waits_for_an_answer() {
    use FrameError::{Body, Truncated, UnknownType};
    for (frame, error, id) in [
        ("", Truncated, 0),
        ("[]", Body, 0),
        ("{}", UnknownType, 0),
        (r#"{"t":"ack","id":7}"#, UnknownType, 7),
        (r#"{"t":"sub","id":7,"channel":1}"#, Body, 7),
        (r#"{"t":"sub","id":7,"channel":"a""#, Truncated, 7),
        (r#"{"t":"sub","id":7,"channel":"a"}{}"#, Body, 7),
        (r#"{"t":"sub","id":"7","channel":"a"}"#, Body, 0),
        (r#"{"t":"pub","id":7,"channel":"a","name":"n","data":{]}"#, Body, 7),
        (r#"{"t":"pub","id":7,"channel":"a","messages":[1]}"#, Body, 7),
        (r#"{"t":"pres","id":7,"channel":"a","action":"here"}"#, Body, 7),
        (r#"{"t":"pub","id":7,"channel":"a","name":"\ud800"}"#, Body, 7),
    ] {
        let request = json::decode_request(frame.as_bytes());
        assert_eq!(request, Err(Malformed { error, id }), "{frame}");
    }
    let malformed = Malformed { error: FrameError::Utf8, id: 0 };
    assert_eq!(json::decode_request(b"{\"t\":\"\xff\"}"), Err(malformed));
}

#[test]
fn what_old_clients_say_is_read() {
    use headcount::wire::foony::Cursor;
    let read = |frame: &'static str| json::decode_request(frame.as_bytes()).expect("a request");
    let cursor_of = |request| match request {
        Request::Subscribe { cursor, .. } | Request::History { before: cursor, .. } => cursor,
        other => panic!("{other:?}"),
    };
    let by_message = || Cursor::MessageId("m-1".into());
    for (frame, expected) in [
        (r#"{"t":"sub","channel":"a.b","id":1}"#, Cursor::None),
        (r#"{"t":"sub","channel":"a","id":1,"lastMessageId":"m-1"}"#, by_message()),
        (
            r#"{"t":"sub","channel":"a","id":1,"lastMessageId":"m-1","lastSerial":5}"#,
            Cursor::Serial(5),
        ),
        (r#"{"t":"hist","channel":"a","id":1,"start":"m-1"}"#, by_message()),
        (r#"{"t":"hist","channel":"a","id":1,"before":5}"#, Cursor::Serial(5)),
    ] {
        assert_eq!(cursor_of(read(frame)), expected, "{frame}");
    }
    let Request::Auth(auth) = read(r#"{"t":"auth","coalesce":true,"binaryDelivery":true}"#) else {
        panic!("no auth");
    };
    assert!(auth.coalesce && auth.binary_delivery);
    let frame = r#"{"t":"pub","channel":"a","name":"n","data":[1, 2 ],"ttlMs":60000,"id":3}"#;
    let Request::Publish(publish) = read(frame) else { panic!("no publish") };
    assert_eq!((publish.ttl_ms, &*publish.message_id), (60_000, ""));
    let message = Message { name: "n".into(), data: b"[1, 2 ]", encoding: "".into() };
    assert_eq!(publish.content, Content::One(message));
}

#[test]
fn a_batch_of_one_becomes_the_message_in_it() {
    let line = lines().into_iter().find(|line| line["name"] == "pub/autobatch-of-one");
    let framed = hex(text(&line.expect("the vector"), "framed"));
    let Ok(Request::Publish(publish)) = only_record(&framed, "pub").request() else {
        panic!("no publish");
    };
    let message = Message { name: "chat".into(), data: b"{\"i\":1}", encoding: "".into() };
    assert_eq!(publish.content.messages(), std::slice::from_ref(&message));
    assert!(matches!(publish.content, Content::Batch(_)));
    assert_eq!(publish.content.unwrapped(), Content::One(message.clone()));
    let two = Content::Batch(vec![message.clone(), message]);
    assert_eq!(two.clone().unwrapped(), two);
}
