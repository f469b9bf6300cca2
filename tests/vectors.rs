//! Golden bytes of the sync wire: every line of `vectors/nodedb.jsonl`, both ways.

mod golden;

use golden::{hex, text};
use headcount::error::FrameError;
use headcount::wire::sync::{
    self, Detection, Header, Layout, Message, MessageType, Parsed, RawFrame, Refusal,
};
use serde_json::{Value, json};
use strum::VariantArray;

const LINES_MIN: usize = 242;

fn lines() -> Vec<Value> {
    golden::lines("nodedb.jsonl", LINES_MIN)
}

fn is_positive(line: &Value) -> bool {
    !text(line, "type").starts_with('_')
}

fn of_type(wanted: &str) -> Vec<Value> {
    let found: Vec<Value> = lines().into_iter().filter(|line| line["type"] == wanted).collect();
    assert!(!found.is_empty(), "no line of type {wanted}");
    found
}

fn layout_of(line: &Value) -> Layout {
    match text(line, "gen") {
        "0.0.6" => Layout::V0_0,
        "0.3.0" => Layout::V0_1,
        "0.4.0" => Layout::V0_4,
        "0.6.2" => Layout::V0_6,
        unknown => panic!("no layout for generation {unknown}"),
    }
}

fn whole_frame<'a>(header: Header, bytes: &'a [u8]) -> RawFrame<'a> {
    match sync::parse(header, bytes, bytes.len()) {
        Ok(Parsed::Frame(frame)) => frame,
        other => panic!("no frame: {other:?}"),
    }
}

#[test]
fn every_positive_vector_decodes_and_encodes_to_the_same_bytes() {
    let mut seen = Vec::new();
    for line in lines().into_iter().filter(is_positive) {
        let what = format!("{} {} {}", text(&line, "type"), text(&line, "gen"), line["note"]);
        let layout = layout_of(&line);
        let (bytes, body) = (hex(text(&line, "frame_hex")), hex(text(&line, "body_hex")));
        assert_eq!(line["header_len"], json!(layout.header().len_bytes()), "{what}");
        let frame = whole_frame(layout.header(), &bytes);
        assert_eq!(<&str>::from(frame.message_type), text(&line, "type"), "{what}");
        assert_eq!(line["code"], json!(frame.message_type.code()), "{what}");
        assert_eq!((frame.body, frame.frame_bytes), (&body[..], bytes.len()), "{what}");
        assert_eq!(sync::parse_message(layout.header(), &bytes), Ok(frame), "{what}");
        let message = sync::decode(frame.message_type, frame.body, layout)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut again = Vec::new();
        sync::append_message(&message, layout, &mut again)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(again, bytes, "{what}");
        if layout == Layout::V0_6 && !seen.contains(&frame.message_type) {
            seen.push(frame.message_type);
        }
    }
    assert_eq!(seen.len(), MessageType::VARIANTS.len(), "types without a vector");
}

#[test]
fn every_positive_vector_decodes_to_the_fields_it_lists() {
    for line in lines().into_iter().filter(is_positive) {
        let what = format!("{} {} {}", text(&line, "type"), text(&line, "gen"), line["note"]);
        let layout = layout_of(&line);
        let body = hex(text(&line, "body_hex"));
        let message_type = MessageType::from_repr(line["code"].as_u64().expect("code") as u8);
        let message = sync::decode(message_type.expect("known code"), &body, layout)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut expected = line["fields"].clone();
        if let Message::CollectionSchema(_) = message {
            keep_keys(&mut expected["descriptor"], &["tenant_id", "database_id", "name"]);
        }
        let decoded = serde_json::to_value(&message).expect("messages are JSON");
        for (name, value) in expected.as_object().expect("fields") {
            let decoded = decoded.get(name).unwrap_or_else(|| panic!("{what}: no field {name}"));
            assert!(same(decoded, value), "{what}: {name} is {decoded}, not {value}");
        }
    }
}

fn keep_keys(object: &mut Value, keys: &[&str]) {
    object.as_object_mut().expect("an object").retain(|key, _| keys.contains(&key.as_str()));
}

/// Is what was decoded the value of the vector? Vectors write bytes as `hex:` text, and some enum
/// variants in snake case.
fn same(decoded: &Value, vector: &Value) -> bool {
    match (decoded, vector) {
        (Value::Array(items), Value::String(text)) if text.starts_with("hex") => {
            items.iter().map(Value::as_u64).eq(bytes_of(text).into_iter().map(|b| Some(b.into())))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|((lk, l), (rk, r))| same_name(lk, rk) && same(l, r))
        }
        (Value::String(left), Value::String(right)) => left == right || same_name(left, right),
        _ => decoded == vector,
    }
}

fn same_name(decoded: &str, vector: &str) -> bool {
    decoded.to_lowercase() == vector.replace('_', "") || decoded == vector
}

fn bytes_of(text: &str) -> Vec<u8> {
    match text.strip_prefix("hexrepeat:").and_then(|rest| rest.split_once('*')) {
        Some((byte, times)) => hex(byte).repeat(times.parse().expect("a count")),
        None => hex(text.strip_prefix("hex:").expect("hex:")),
    }
}

#[test]
fn every_negative_vector_is_refused_where_the_real_decoder_refuses_it() {
    for line in of_type("_negative") {
        let what = text(&line, "note").to_owned();
        let layout = layout_of(&line);
        let bytes = hex(text(&line, "frame_hex"));
        let parsed = sync::parse_message(layout.header(), &bytes);
        assert_eq!(json!(parsed.is_ok()), line["from_bytes_ok"], "{what}: {parsed:?}");
        let decoded = parsed.map(|frame| sync::decode(frame.message_type, frame.body, layout));
        match decoded {
            Ok(message) => {
                assert_eq!(json!(message.is_ok()), line["decode_body_ok"], "{what}: {message:?}");
            }
            Err(_) => assert_eq!(line["decode_body_ok"], Value::Null, "{what}"),
        }
    }
}

#[test]
fn checksums_are_those_of_the_vectors() {
    for line in of_type("_crc32c") {
        let sum = crc32c::crc32c(&hex(text(&line, "input_hex")));
        assert_eq!(json!(sum), line["crc32c"]);
        assert_eq!(sum.to_le_bytes(), hex(text(&line, "le_hex"))[..]);
    }
}

#[test]
fn the_header_of_every_vector_is_told_from_its_message() {
    for line in lines().into_iter().filter(is_positive) {
        let expected = match layout_of(&line).header() {
            Header::Five => Detection::Five,
            Header::Ten => Detection::Ten,
        };
        let bytes = hex(text(&line, "frame_hex"));
        assert_eq!(sync::detect_message(&bytes), expected, "{line}");
        if expected == Detection::Ten || line["type"] == "Handshake" {
            assert_eq!(sync::detect(&bytes), expected, "{line}");
        }
    }
}

#[test]
fn a_type_that_a_generation_never_had_is_refused_in_it() {
    for line in lines().into_iter().filter(is_positive) {
        let body = hex(text(&line, "body_hex"));
        let code = line["code"].as_u64().expect("code") as u8;
        let message_type = MessageType::from_repr(code).expect("known code");
        for layout in Layout::ALL.into_iter().filter(|layout| !message_type.exists_in(*layout)) {
            let decoded = sync::decode(message_type, &body, layout);
            assert_eq!(decoded, Err(FrameError::UnknownType), "{message_type:?} {layout:?}");
        }
    }
}

#[test]
fn unit_variants_come_with_nil_before_0_4_and_are_read_without_it_too() {
    let name = "ae436f727275707465645374617465";
    let body = hex(&format!("9392{name}c000a0"));
    let bare = hex(&format!("93{name}00a0"));
    for layout in [Layout::V0_0, Layout::V0_1] {
        let with_nil = sync::decode(MessageType::ResyncRequest, &body, layout).expect("with nil");
        let without = sync::decode(MessageType::ResyncRequest, &bare, layout).expect("bare");
        assert_eq!(with_nil, without);
        let mut out = Vec::new();
        sync::encode(&without, layout, &mut out).expect("expressible");
        assert_eq!(out, body);
    }
}

/// The answer to each request vector, by the table in `wire::sync::refusal`.
#[test]
fn refused_requests_are_answered_in_kind_or_the_old_client_is_let_go() {
    let mut answered = 0;
    for line in lines().into_iter().filter(is_positive) {
        let layout = layout_of(&line);
        let body = hex(text(&line, "body_hex"));
        let code = line["code"].as_u64().expect("code") as u8;
        let message_type = MessageType::from_repr(code).expect("known code");
        let message = sync::decode(message_type, &body, layout).expect("a good vector");
        let Some(answer_type) = answer_type(message_type) else {
            assert_eq!(sync::refusal(&message, layout, "no"), Refusal::Silent, "{line}");
            continue;
        };
        let shown = serde_json::to_value(&message).expect("messages are JSON");
        match sync::refusal(&message, layout, "no") {
            Refusal::Answer(answer) => {
                assert_eq!(answer.message_type(), answer_type, "{line}");
                check_answer(&shown, &serde_json::to_value(&answer).expect("JSON"));
                answered += 1;
            }
            Refusal::CloseOldClient => assert!(layout < Layout::V0_6, "{line}"),
            Refusal::Silent => panic!("no answer to {line}"),
        }
    }
    assert!(answered >= 20, "{answered} answers");
}

fn answer_type(request: MessageType) -> Option<MessageType> {
    use MessageType::*;
    Some(match request {
        DeltaPush => DeltaAck,
        TimeseriesPush => TimeseriesAck,
        ColumnarInsert => ColumnarInsertAck,
        VectorInsert => VectorInsertAck,
        VectorDelete => VectorDeleteAck,
        FtsIndex => FtsIndexAck,
        FtsDelete => FtsDeleteAck,
        SpatialInsert => SpatialInsertAck,
        SpatialDelete => SpatialDeleteAck,
        KvPush => KvPushAck,
        ShapeSubscribe | ResyncRequest => ShapeSnapshot,
        ArrayDelta => ArrayReject,
        ArrayDeltaBatch => ArrayOpResults,
        _ => return None,
    })
}

/// An answer echoes what names the request, and accepts nothing.
fn check_answer(request: &Value, answer: &Value) {
    for key in ["collection", "id", "doc_id", "field", "key", "batch_id", "mutation_id", "array"] {
        if let Some(echo) = answer.get(key) {
            assert_eq!(Some(echo), request.get(key), "{key}");
        }
    }
    if let Some(status) = answer.get("status") {
        assert_eq!(status, &json!({"Rejected": {"reason": "no"}}));
        assert_eq!(answer["applied_seq"], request["seq"]);
    }
    if let Some(accepted) = answer.get("accepted") {
        assert!([json!(0), json!(false)].contains(accepted));
    }
    if let Some(reason) = answer.get("reason") {
        assert_eq!(reason, "PermissionDenied");
        assert_eq!(answer["op_hlc_bytes"], json!(hex("0000018bcfe5687b0005000000000000002a")));
    }
    if let Some(data) = answer.get("data") {
        assert_eq!(
            (data, &answer["snapshot_lsn"], &answer["doc_count"]),
            (&json!([]), &json!(0), &json!(0))
        );
    }
}
