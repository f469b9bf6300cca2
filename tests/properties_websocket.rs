//! Properties of the WebSocket codec: any split of any stream gives the same events, any bytes
//! give an answer, and what is encoded decodes to itself.

mod any_split;

use any_split::{Event, check_any_split, decode_all};
use headcount::error::FrameError;
use headcount::wire::websocket::{
    MessageKind, MessageLimits, Opcode, Role, append_frame, append_masked_frame, apply_mask,
    close_body,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 4096, fragments_max: 8 };

/// A frame as the wire has it; unlike the encoder's it may be a fragment.
#[derive(Clone, Debug)]
struct WireFrame {
    first: u8,
    payload: Vec<u8>,
}

fn append_wire_frame(out: &mut Vec<u8>, role: Role, frame: &WireFrame, mask: [u8; 4]) {
    let start = out.len();
    match role {
        Role::Server => append_masked_frame(out, Opcode::Binary, &frame.payload, mask),
        Role::Client => append_frame(out, Opcode::Binary, &frame.payload),
    }
    out[start] = frame.first;
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 100..300)]
}

fn message() -> impl Strategy<Value = Event> {
    prop_oneof![
        payload().prop_map(|bytes| Event::Message(MessageKind::Binary, bytes)),
        ".{0,60}".prop_map(|text| Event::Message(MessageKind::Text, text.into())),
    ]
}

fn control() -> impl Strategy<Value = Event> {
    prop_oneof![
        vec(any::<u8>(), 0..=125).prop_map(Event::Ping),
        vec(any::<u8>(), 0..=125).prop_map(Event::Pong),
    ]
}

fn close() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Close(None, String::new())),
        (3000u16..5000, "[a-zé]{0,40}").prop_map(|(code, why)| Event::Close(Some(code), why)),
    ]
}

/// A message, where to cut it into fragments, and the control frames that stand in the gaps.
type Sent = (Event, Vec<(Index, Option<Event>)>);

fn sent() -> impl Strategy<Value = Sent> {
    (message(), vec((any::<Index>(), proptest::option::of(control())), 0..5))
}

fn opcode(event: &Event) -> Opcode {
    match event {
        Event::Message(kind, _) => (*kind).into(),
        Event::Ping(_) => Opcode::Ping,
        Event::Pong(_) => Opcode::Pong,
        Event::Close(..) => Opcode::Close,
        Event::Refused(error) => unreachable!("{error} is not sent"),
    }
}

fn body(event: &Event) -> Vec<u8> {
    match event {
        Event::Message(_, bytes) | Event::Ping(bytes) | Event::Pong(bytes) => bytes.clone(),
        Event::Close(Some(code), reason) => close_body(*code, reason),
        Event::Close(None, _) | Event::Refused(_) => Vec::new(),
    }
}

fn whole(event: &Event) -> WireFrame {
    WireFrame { first: 0x80 | opcode(event) as u8, payload: body(event) }
}

/// The frames that carry a message in fragments, and the events they give in order.
fn fragments((message, gaps): &Sent) -> (Vec<WireFrame>, Vec<Event>) {
    let bytes = body(message);
    let mut cuts: Vec<usize> = gaps.iter().map(|(cut, _)| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let (mut frames, mut events) = (Vec::new(), Vec::new());
    let (mut start, mut code) = (0, opcode(message) as u8);
    for (&cut, (_, between)) in cuts.iter().zip(gaps) {
        frames.push(WireFrame { first: code, payload: bytes[start..cut].to_vec() });
        frames.extend(between.as_ref().map(whole));
        events.extend(between.clone());
        (start, code) = (cut, Opcode::Continuation as u8);
    }
    frames.push(WireFrame { first: 0x80 | code, payload: bytes[start..].to_vec() });
    events.push(message.clone());
    (frames, events)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

/// Bytes that look enough like frames to get past the first header.
fn likely_frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => prop::sample::select(vec![0x00u8, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let frame = (first, vec(any::<u8>(), 0..12)).prop_map(|(first, payload)| {
        let mut bytes = Vec::new();
        append_wire_frame(&mut bytes, Role::Server, &WireFrame { first, payload }, [9, 8, 7, 6]);
        bytes
    });
    vec(frame, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_split_of_a_valid_stream_gives_what_was_sent(
        role in role(),
        messages in vec(sent(), 0..6),
        last in close(),
        mask in any::<[u8; 4]>(),
        cuts in vec(any::<usize>(), 0..10),
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for message in &messages {
            let (frames, events) = fragments(message);
            for frame in &frames {
                append_wire_frame(&mut stream, role, frame, mask);
            }
            expected.extend(events);
        }
        append_wire_frame(&mut stream, role, &whole(&last), mask);
        expected.push(last);
        prop_assert_eq!(check_any_split(role, &LIMITS, &stream, &cuts), expected);
    }

    #[test]
    fn random_bytes_never_panic_and_never_depend_on_the_split(
        role in role(),
        stream in prop_oneof![vec(any::<u8>(), 0..200), likely_frames()],
        cuts in vec(any::<usize>(), 0..6),
    ) {
        check_any_split(role, &LIMITS, &stream, &cuts);
    }

    #[test]
    fn a_valid_stream_with_one_byte_changed_never_depends_on_the_split(
        message in sent(),
        place in any::<Index>(),
        byte in any::<u8>(),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let mut stream = Vec::new();
        for frame in &fragments(&message).0 {
            append_wire_frame(&mut stream, Role::Server, frame, [1, 2, 3, 4]);
        }
        let place = place.index(stream.len());
        stream[place] = byte;
        check_any_split(Role::Server, &LIMITS, &stream, &cuts);
    }

    #[test]
    fn what_is_encoded_decodes_to_itself_at_every_length(
        role in role(),
        len in prop_oneof![0usize..300, 65_500usize..65_600],
        byte in any::<u8>(),
        mask in any::<[u8; 4]>(),
    ) {
        let payload: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
        let mut stream = Vec::new();
        let frame = WireFrame { first: 0x82, payload: payload.clone() };
        append_wire_frame(&mut stream, role, &frame, mask);
        let limits = MessageLimits { message_bytes_max: len, ..LIMITS };
        let message = Event::Message(MessageKind::Binary, payload);
        prop_assert_eq!(decode_all(role, &limits, [&stream[..]]), vec![message]);
        if len > 0 {
            let limits = MessageLimits { message_bytes_max: len - 1, ..LIMITS };
            let refused = Event::Refused(FrameError::TooLong);
            prop_assert_eq!(decode_all(role, &limits, [&stream[..]]), vec![refused]);
        }
    }

    #[test]
    fn fragmented_text_is_judged_like_whole_text(
        bytes in vec(prop_oneof![any::<u8>(), Just(0x80), Just(0xe2), Just(0xf0)], 0..12),
        gaps in vec(any::<Index>(), 0..6),
    ) {
        let gaps = gaps.into_iter().map(|cut| (cut, None)).collect();
        let message = Event::Message(MessageKind::Text, bytes.clone());
        let mut stream = Vec::new();
        for frame in &fragments(&(message.clone(), gaps)).0 {
            append_wire_frame(&mut stream, Role::Server, frame, [1, 2, 3, 4]);
        }
        let expected = match std::str::from_utf8(&bytes) {
            Ok(_) => message,
            Err(_) => Event::Refused(FrameError::Utf8),
        };
        prop_assert_eq!(check_any_split(Role::Server, &LIMITS, &stream, &[3, 7]), vec![expected]);
    }

    #[test]
    fn masking_twice_restores(
        plain in payload(),
        mask in any::<[u8; 4]>(),
        offset in any::<usize>(),
    ) {
        let mut bytes = plain.clone();
        apply_mask(&mut bytes, mask, offset);
        apply_mask(&mut bytes, mask, offset);
        prop_assert_eq!(bytes, plain);
    }
}
