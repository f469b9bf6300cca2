//! The sync wire against arbitrary input: round trips, every split of a stream, and no panic.

use headcount::error::FrameError;
use headcount::limits::VALUE_DEPTH_MAX;
use headcount::wire::msgpack;
use headcount::wire::sync::message::Map;
use headcount::wire::sync::message::delta::{AckStatus, DeltaAck};
use headcount::wire::sync::message::presence::{PresenceBroadcast, PresenceLeave, PresenceUpdate};
use headcount::wire::sync::message::session::{
    Handshake, HandshakeAck, PingPong, TokenRefresh, TokenRefreshAck,
};
use headcount::wire::sync::{
    self, Header, Layout, Message, MessageType, Parsed, Peer, append_frame, append_message,
    append_presence_broadcast, append_presence_leave,
};
use proptest::collection::vec;
use proptest::prelude::*;
use strum::VariantArray;

fn layouts() -> impl Strategy<Value = Layout> {
    proptest::sample::select(Layout::ALL.to_vec())
}

fn headers() -> impl Strategy<Value = Header> {
    proptest::sample::select(vec![Header::Five, Header::Ten])
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

/// Encodes, frames, parses and decodes; what comes out is what went in.
fn check_round_trip(message: &Message<'_>, layout: Layout) -> Result<(), TestCaseError> {
    let mut frame = Vec::new();
    append_message(message, layout, &mut frame).expect("expressible");
    let parsed = sync::parse(layout.header(), &frame, frame.len());
    let Ok(Parsed::Frame(raw)) = parsed else {
        return Err(TestCaseError::fail(format!("no frame: {parsed:?}")));
    };
    prop_assert_eq!(raw.frame_bytes, frame.len());
    prop_assert_eq!(&sync::decode(raw.message_type, raw.body, layout), &Ok(message.clone()));
    Ok(())
}

proptest! {
    #[test]
    fn presence_round_trips(
        layout in layouts(),
        channel in ".{0,40}",
        members in vec((".{0,40}", bytes(), any::<u64>()), 0..40),
    ) {
        let peers: Vec<Peer<'_>> = members
            .iter()
            .map(|(user_id, state, age)| Peer { user_id, state, last_seen_ms: *age })
            .collect();
        for peer in &peers {
            let update = PresenceUpdate { channel: &channel, state: peer.state };
            check_round_trip(&Message::PresenceUpdate(update), layout)?;
            let leave = PresenceLeave { channel: &channel, user_id: peer.user_id };
            let (mut fast, mut plain) = (Vec::new(), Vec::new());
            append_presence_leave(&mut fast, &channel, peer.user_id);
            let leave = Message::PresenceLeave(leave);
            sync::encode(&leave, layout, &mut plain).expect("expressible");
            prop_assert_eq!(fast, plain);
            check_round_trip(&leave, layout)?;
        }
        let (mut fast, mut plain) = (Vec::new(), Vec::new());
        append_presence_broadcast(&mut fast, &channel, peers.len(), peers.iter().cloned());
        let broadcast = Message::PresenceBroadcast(PresenceBroadcast { channel: &channel, peers });
        sync::encode(&broadcast, layout, &mut plain).expect("expressible");
        prop_assert_eq!(fast, plain);
        check_round_trip(&broadcast, layout)?;
    }

    #[test]
    fn greetings_round_trip(
        layout in layouts(),
        texts in vec(".{0,40}", 4),
        clocks in vec((".{0,20}", vec((".{0,20}", any::<u64>()), 0..4)), 0..4),
        numbers in any::<(u64, u64, u16, bool)>(),
        key in any::<[u8; 32]>(),
    ) {
        let (epoch, producer_id, wire_version, flag) = numbers;
        let clock = |pairs: &'static str| Map(vec![(pairs, epoch)]);
        let vector_clock = clocks.iter().map(|(name, peers)| {
            let peers = peers.iter().map(|(peer, count)| (peer.as_str(), *count)).collect();
            (name.as_str(), Map(peers))
        });
        check_round_trip(&Message::Handshake(Handshake {
            jwt_token: &texts[0],
            vector_clock: Map(vector_clock.collect()),
            subscribed_shapes: texts.iter().map(String::as_str).collect(),
            client_version: &texts[1],
            lite_id: &texts[2],
            epoch,
            wire_version,
        }), layout)?;
        let provenance = layout >= Layout::V0_4;
        check_round_trip(&Message::HandshakeAck(HandshakeAck {
            success: flag,
            session_id: &texts[0],
            server_clock: clock("orders"),
            error: flag.then_some(texts[3].as_str()),
            fork_detected: !flag,
            server_wire_version: wire_version,
            producer_id: if provenance { producer_id } else { 0 },
            accepted_epoch: if provenance { epoch } else { 0 },
            delta_signing_key: if layout == Layout::V0_6 { key } else { [0; 32] },
        }), layout)?;
    }

    #[test]
    fn session_messages_round_trip(
        layout in layouts(),
        token in ".{0,300}",
        flag in any::<bool>(),
        number in any::<u64>(),
        skew in any::<Option<i64>>(),
    ) {
        check_round_trip(&Message::TokenRefresh(TokenRefresh { new_token: &token }), layout)?;
        check_round_trip(&Message::TokenRefreshAck(TokenRefreshAck {
            success: flag,
            error: flag.then_some(token.as_str()),
            expires_in_secs: number,
        }), layout)?;
        let ping = PingPong { timestamp_ms: number, is_pong: flag };
        check_round_trip(&Message::PingPong(ping), layout)?;
        let ack = DeltaAck {
            mutation_id: number,
            lsn: 0,
            clock_skew_warning_ms: skew.filter(|_| layout >= Layout::V0_1),
            applied_seq: 0,
            status: AckStatus::Applied,
        };
        check_round_trip(&Message::DeltaAck(ack), layout)?;
    }

    #[test]
    fn any_split_of_a_stream_gives_the_same_frames(
        header in headers(),
        bodies in vec((any::<prop::sample::Index>(), bytes()), 1..8),
        cuts in vec(1usize..40, 1..60),
        corrupt in any::<Option<prop::sample::Index>>(),
    ) {
        let mut stream = Vec::new();
        let mut starts = Vec::new();
        for (kind, body) in &bodies {
            starts.push(stream.len());
            let message_type = MessageType::VARIANTS[kind.index(MessageType::VARIANTS.len())];
            append_frame(header, message_type, &mut stream, |out| out.extend_from_slice(body));
        }
        if let Some(index) = corrupt {
            // The type code: an unknown one, with any header.
            let code_at = starts[index.index(starts.len())] + usize::from(header == Header::Ten);
            stream[code_at] = 0x51;
        }
        let whole = drain(header, &mut stream.clone())?;
        prop_assert_eq!(whole.len(), bodies.len());
        let (mut buffer, mut pieces, mut at) = (Vec::new(), Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let end = (at + cut).min(stream.len());
            buffer.extend_from_slice(&stream[at..end]);
            pieces.extend(drain(header, &mut buffer)?);
            at = end;
            if at == stream.len() {
                break;
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn random_bytes_never_panic(input in vec(any::<u8>(), 0..200), layout in layouts()) {
        for header in [Header::Five, Header::Ten] {
            let _ = sync::parse(header, &input, 1 << 20);
            let _ = sync::parse_message(header, &input);
        }
        let _ = (sync::detect(&input), sync::detect_message(&input));
        for message_type in MessageType::VARIANTS {
            check_decoded(*message_type, &input, layout)?;
        }
        check_json(&input)?;
    }

    #[test]
    fn mutated_vectors_never_panic_and_what_decodes_round_trips(
        line in any::<prop::sample::Index>(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        keep in any::<prop::sample::Index>(),
        layout in layouts(),
    ) {
        let vectors = vector_bodies();
        let (code, mut body) = vectors[line.index(vectors.len())].clone();
        let message_type = MessageType::from_repr(code).expect("known code");
        for (at, byte) in edits {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        check_decoded(message_type, &body, layout)?;
        body.truncate(keep.index(body.len() + 1));
        check_decoded(message_type, &body, layout)?;
        check_json(&body)?;
    }

    #[test]
    fn json_round_trips(value in json_values()) {
        let mut out = Vec::new();
        prop_assert_eq!(msgpack::from_json(&value, &mut out), Some(()));
        prop_assert_eq!(msgpack::to_json(&out), Some(value));
    }
}

/// A frame that was read, or why it was skipped.
type Drained = Result<(MessageType, Vec<u8>), FrameError>;

/// Takes all whole frames off the front of the buffer.
fn drain(header: Header, buffer: &mut Vec<u8>) -> Result<Vec<Drained>, TestCaseError> {
    let mut frames = Vec::new();
    loop {
        let parsed = sync::parse(header, buffer, 1 << 20);
        let frame_bytes = match parsed {
            Ok(Parsed::NeedMore) => return Ok(frames),
            Ok(Parsed::Frame(frame)) => {
                frames.push(Ok((frame.message_type, frame.body.to_vec())));
                frame.frame_bytes
            }
            Ok(Parsed::Skip { frame_bytes, error }) => {
                frames.push(Err(error));
                frame_bytes
            }
            Err(error) => return Err(TestCaseError::fail(format!("{error}"))),
        };
        buffer.drain(..frame_bytes);
    }
}

/// A decoded message encodes to a body that decodes again and encodes to the same bytes; the body
/// may be refused.
fn check_decoded(
    message_type: MessageType,
    body: &[u8],
    layout: Layout,
) -> Result<(), TestCaseError> {
    let Ok(message) = sync::decode(message_type, body, layout) else { return Ok(()) };
    let _ = sync::refusal(&message, layout, "no");
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    prop_assert_eq!(sync::encode(&message, layout, &mut once), Ok(()));
    let again = sync::decode(message_type, &once, layout);
    prop_assert!(again.is_ok(), "{message:?} encodes to what does not decode: {again:?}");
    sync::encode(&again.expect("checked"), layout, &mut twice).expect("expressible");
    prop_assert_eq!(once, twice);
    Ok(())
}

/// A JSON value survives a round trip.
fn check_json(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut reader = msgpack::Reader::new(bytes);
    if let Ok(value) = reader.value_bytes() {
        prop_assert_eq!(value.len() + reader.rest().len(), bytes.len());
    }
    if let Some(value) = msgpack::to_json(bytes) {
        let mut out = Vec::new();
        prop_assert_eq!(msgpack::from_json(&value, &mut out), Some(()));
        prop_assert_eq!(msgpack::to_json(&out), Some(value));
    }
    Ok(())
}

fn json_values() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e300..1e300f64).prop_map(Value::from),
        ".{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(VALUE_DEPTH_MAX as u32 / 8, 64, 20, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..20).prop_map(Value::from),
            proptest::collection::btree_map(".{0,8}", inner, 0..20)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Code and body of every short positive golden vector.
fn vector_bodies() -> &'static [(u8, Vec<u8>)] {
    static BODIES: std::sync::OnceLock<Vec<(u8, Vec<u8>)>> = std::sync::OnceLock::new();
    BODIES.get_or_init(|| {
        let lines = include_str!("vectors/nodedb.jsonl").lines();
        let bodies: Vec<_> = lines.filter_map(vector_body).collect();
        assert!(bodies.len() > 150, "{} vectors", bodies.len());
        bodies
    })
}

fn vector_body(line: &str) -> Option<(u8, Vec<u8>)> {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let code = u8::try_from(line.get("code")?.as_u64()?).ok()?;
    let digits = line.get("body_hex")?.as_str().filter(|digits| digits.len() < 2000)?;
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex digits");
    Some((code, (0..digits.len()).step_by(2).map(byte).collect()))
}
