//! Decoder: frames to messages.

use std::ops::{Deref, DerefMut};

use super::header::{self, Position, Start};
use super::{MessageKind, Opcode, Role, apply_mask, utf8};
use crate::error::FrameError;

/// Limits of one message. A message above them closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Payload bytes of one message, including all its fragments.
    pub message_bytes_max: usize,
    /// Fragments of one message; 0 if it is not fragmented.
    pub fragments_max: u32,
}

/// Decodes the frames of one connection. Its size is two words; it owns memory only between the
/// first and the last fragment of a message.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// Present between the first and the last fragment of a message.
    assembly: Option<Box<Assembly>>,
}

/// The result of one decoding step.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Length of the decoded frame; 0 if it is incomplete. The input is then unchanged.
    pub consumed: usize,
    /// The completed message. `None` with `consumed > 0`: a fragment was stored.
    pub incoming: Option<Incoming<'a>>,
}

/// A message or a control frame from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    Message {
        kind: MessageKind,
        payload: Payload<'a>,
    },
    /// Must be answered with a pong of the same body.
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The last frame of the peer. `code` is valid in a close frame.
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
}

/// Unmasked bytes of a message; valid UTF-8 for a text message.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// An unfragmented message, within the input.
    InPlace(&'a mut [u8]),
    /// A message reassembled from fragments.
    Assembled(Vec<u8>),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Assembled(bytes) => bytes,
        }
    }
}

impl DerefMut for Payload<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Assembled(bytes) => bytes,
        }
    }
}

impl Decoded<'_> {
    const INCOMPLETE: Self = Decoded { consumed: 0, incoming: None };
}

impl Decoder {
    pub fn new(role: Role) -> Self {
        Decoder { role, assembly: None }
    }

    /// Decodes the frame at the front of `bytes`, and unmasks it in place once it is complete. The
    /// caller removes `consumed` bytes and calls again while that is above 0. It must not pass
    /// consumed bytes again.
    ///
    /// # Errors
    /// [`FrameError::WebSocket`] for a protocol violation, [`FrameError::TooLong`] and
    /// [`FrameError::TooManyFragments`] for a message above `limits`, [`FrameError::Utf8`] for text
    /// or a close reason that is not UTF-8. Errors in a header are returned before the payload
    /// arrives. The decoder must not be used after an error.
    pub fn decode<'a>(
        &mut self,
        bytes: &'a mut [u8],
        limits: &MessageLimits,
    ) -> Result<Decoded<'a>, FrameError> {
        let Some(frame) = self.find_frame(bytes, limits)? else { return Ok(Decoded::INCOMPLETE) };
        let consumed = frame.payload_start.saturating_add(frame.payload_bytes);
        let Some(payload) = bytes.get_mut(frame.payload_start..consumed) else {
            return Ok(Decoded::INCOMPLETE);
        };
        if self.role == Role::Server {
            apply_mask(payload, frame.key, 0);
        }
        let incoming = self.take(frame.start, payload)?;
        Ok(Decoded { consumed, incoming })
    }

    /// Checks the header as far as it has arrived; `None` while it is incomplete.
    fn find_frame(
        &self,
        bytes: &[u8],
        limits: &MessageLimits,
    ) -> Result<Option<Frame>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let start = header::start(first)?;
        self.check_order(start, limits)?;
        let Some(length) = header::length(bytes, self.role, start.opcode)? else {
            return Ok(None);
        };
        let payload_bytes = length.payload_bytes;
        self.check_length(start, payload_bytes, limits)?;
        let found = length.payload_start(bytes, self.role);
        Ok(found.map(|(payload_start, key)| Frame { start, payload_start, payload_bytes, key }))
    }

    /// Checks that such a frame is allowed now.
    fn check_order(&self, start: Start, limits: &MessageLimits) -> Result<(), FrameError> {
        let fragments = match (&self.assembly, start.opcode) {
            (_, Opcode::Close | Opcode::Ping | Opcode::Pong) => 0,
            (Some(assembly), Opcode::Continuation) => assembly.fragments.saturating_add(1),
            (None, Opcode::Continuation) => return Err(FrameError::WebSocket),
            (Some(_), Opcode::Text | Opcode::Binary) => return Err(FrameError::WebSocket),
            (None, Opcode::Text | Opcode::Binary) => match start.position {
                Position::Last => 0,
                Position::MoreFollow => 1,
            },
        };
        if fragments > limits.fragments_max {
            return Err(FrameError::TooManyFragments);
        }
        Ok(())
    }

    fn check_length(
        &self,
        start: Start,
        payload_bytes: usize,
        limits: &MessageLimits,
    ) -> Result<(), FrameError> {
        let held = self.assembly.as_ref().map_or(0, |assembly| assembly.bytes.len());
        let message_bytes = held.saturating_add(payload_bytes);
        if !start.opcode.is_control() && message_bytes > limits.message_bytes_max {
            return Err(FrameError::TooLong);
        }
        Ok(())
    }

    fn take<'a>(
        &mut self,
        start: Start,
        payload: &'a mut [u8],
    ) -> Result<Option<Incoming<'a>>, FrameError> {
        match (start.opcode, start.position) {
            (Opcode::Ping, _) => Ok(Some(Incoming::Ping(payload))),
            (Opcode::Pong, _) => Ok(Some(Incoming::Pong(payload))),
            (Opcode::Close, _) => close(payload).map(Some),
            (Opcode::Text, Position::Last) => unfragmented(MessageKind::Text, payload).map(Some),
            (Opcode::Binary, Position::Last) => {
                unfragmented(MessageKind::Binary, payload).map(Some)
            }
            (Opcode::Text, Position::MoreFollow) => {
                self.assemble(Assembly::new(MessageKind::Text), start.position, payload)
            }
            (Opcode::Binary, Position::MoreFollow) => {
                self.assemble(Assembly::new(MessageKind::Binary), start.position, payload)
            }
            (Opcode::Continuation, position) => {
                let assembly = self.assembly.take().ok_or(FrameError::WebSocket)?;
                self.assemble(assembly, position, payload)
            }
        }
    }

    fn assemble<'a>(
        &mut self,
        mut assembly: Box<Assembly>,
        position: Position,
        payload: &[u8],
    ) -> Result<Option<Incoming<'a>>, FrameError> {
        assembly.add(payload)?;
        match position {
            Position::Last => assembly.finish().map(Some),
            Position::MoreFollow => {
                self.assembly = Some(assembly);
                Ok(None)
            }
        }
    }
}

/// A frame with a valid header.
struct Frame {
    start: Start,
    payload_start: usize,
    payload_bytes: usize,
    key: [u8; 4],
}

/// A fragmented message whose last fragment has not arrived.
#[derive(Debug)]
struct Assembly {
    kind: MessageKind,
    fragments: u32,
    /// Length of the prefix that consists of complete UTF-8 characters. 0 for binary messages.
    checked: usize,
    bytes: Vec<u8>,
}

impl Assembly {
    fn new(kind: MessageKind) -> Box<Self> {
        Box::new(Assembly { kind, fragments: 0, checked: 0, bytes: Vec::new() })
    }

    fn add(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        self.fragments += 1;
        self.bytes.extend_from_slice(payload);
        if self.kind == MessageKind::Text {
            self.checked += utf8::whole_characters(&self.bytes[self.checked..])?;
        }
        Ok(())
    }

    fn finish<'a>(self) -> Result<Incoming<'a>, FrameError> {
        if self.kind == MessageKind::Text && self.checked != self.bytes.len() {
            return Err(FrameError::Utf8);
        }
        Ok(Incoming::Message { kind: self.kind, payload: Payload::Assembled(self.bytes) })
    }
}

fn unfragmented(kind: MessageKind, payload: &mut [u8]) -> Result<Incoming<'_>, FrameError> {
    if kind == MessageKind::Text {
        utf8::complete(payload)?;
    }
    Ok(Incoming::Message { kind, payload: Payload::InPlace(payload) })
}

/// Body of a close frame: nothing, or a code and a reason (RFC 6455 section 5.5.1).
fn close(payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    if payload.is_empty() {
        return Ok(Incoming::Close { code: None, reason: "" });
    }
    let (code, reason) = payload.split_first_chunk().ok_or(FrameError::WebSocket)?;
    let code = u16::from_be_bytes(*code);
    if !is_valid_close_code(code) {
        return Err(FrameError::WebSocket);
    }
    Ok(Incoming::Close { code: Some(code), reason: utf8::complete(reason)? })
}

/// Whether a close frame may carry this code: RFC 6455 section 7.4 and the IANA registry.
fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::websocket::any_split::{Event, check_any_split, decode_all};

    const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 70_000, fragments_max: 4 };
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A masked frame built by hand: `first` is the whole first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                bytes.push(0xfe);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0xff);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(KEY);
        bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]));
        bytes
    }

    fn events(stream: &[u8]) -> Vec<Event> {
        check_any_split(Role::Server, &LIMITS, stream, &[1, 2, 3, 5, 8, 13, 21])
    }

    fn text(text: &str) -> Event {
        Event::Message(MessageKind::Text, text.into())
    }

    fn binary(bytes: &[u8]) -> Event {
        Event::Message(MessageKind::Binary, bytes.into())
    }

    /// Each row: frames as first byte and payload, and what they give.
    type Row<'a> = (&'a [(u8, &'a [u8])], Vec<Event>);

    fn check_rows(rows: &[Row<'_>]) {
        for (frames, expected) in rows {
            let stream: Vec<u8> =
                frames.iter().flat_map(|(first, body)| frame(*first, body)).collect();
            assert_eq!(events(&stream), *expected, "{frames:02x?}");
        }
    }

    #[test]
    fn a_decoder_is_two_words() {
        assert!(size_of::<Decoder>() <= 16);
    }

    #[test]
    fn whole_messages_of_every_length_encoding_arrive() {
        for len in [0, 1, 125, 126, 127, 128, 0xffff, 0x1_0000] {
            let payload = vec![b'*'; len];
            let mut decoder = Decoder::new(Role::Server);
            let mut bytes = frame(0x82, &payload);
            let frame_bytes = bytes.len();
            let decoded = decoder.decode(&mut bytes, &LIMITS).unwrap();
            assert_eq!(decoded.consumed, frame_bytes);
            assert_eq!(decoded.incoming.map(Event::from), Some(binary(&payload)), "length {len}");
        }
    }

    #[test]
    fn an_unfragmented_payload_lies_in_the_input_and_what_follows_is_not_touched() {
        let mut bytes = frame(0x81, b"Hello");
        bytes.extend(b"next");
        let mut decoder = Decoder::new(Role::Server);
        let decoded = decoder.decode(&mut bytes, &LIMITS).unwrap();
        let Some(Incoming::Message { payload: Payload::InPlace(payload), .. }) = decoded.incoming
        else {
            panic!("not in place")
        };
        payload.make_ascii_uppercase();
        assert_eq!(&bytes[6..], b"HELLOnext");
    }

    #[test]
    fn an_incomplete_frame_is_left_as_it_was() {
        let whole = frame(0x82, &[7; 300]);
        for len in 0..whole.len() {
            let mut bytes = whole[..len].to_vec();
            let decoded = Decoder::new(Role::Server).decode(&mut bytes, &LIMITS);
            assert_eq!(decoded, Ok(Decoded::INCOMPLETE));
            assert_eq!(bytes, whole[..len]);
        }
    }

    #[test]
    fn fragments_are_put_together_and_control_frames_may_stand_between_them() {
        check_rows(&[
            (&[(0x01, b"Hel"), (0x80, b"lo")], vec![text("Hello")]),
            (&[(0x02, b""), (0x00, b""), (0x80, b"")], vec![binary(b"")]),
            (
                &[(0x01, b"a"), (0x89, b"?"), (0x00, b"b"), (0x8a, b"!"), (0x80, b"c")],
                vec![Event::Ping(b"?".into()), Event::Pong(b"!".into()), text("abc")],
            ),
            (
                &[(0x02, b"1"), (0x80, b"2"), (0x02, b"3"), (0x80, b"4"), (0x82, b"5")],
                vec![binary(b"12"), binary(b"34"), binary(b"5")],
            ),
        ]);
    }

    #[test]
    fn an_order_of_frames_that_makes_no_message_is_refused() {
        let refused = Event::Refused(FrameError::WebSocket);
        check_rows(&[
            (&[(0x80, b"x")], vec![refused.clone()]),
            (&[(0x00, b"x")], vec![refused.clone()]),
            (&[(0x01, b"a"), (0x81, b"b")], vec![refused.clone()]),
            (&[(0x01, b"a"), (0x02, b"b")], vec![refused.clone()]),
            (&[(0x01, b"a"), (0x80, b"b"), (0x80, b"c")], vec![text("ab"), refused]),
        ]);
    }

    #[test]
    fn headers_that_break_a_rule_are_refused_without_their_payload() {
        let table: [(&[u8], FrameError); 19] = [
            (&[0xc1], FrameError::WebSocket),
            (&[0xa1], FrameError::WebSocket),
            (&[0x91], FrameError::WebSocket),
            (&[0x83], FrameError::WebSocket),
            (&[0x87], FrameError::WebSocket),
            (&[0x8b], FrameError::WebSocket),
            (&[0x8f], FrameError::WebSocket),
            (&[0x08], FrameError::WebSocket),
            (&[0x09], FrameError::WebSocket),
            (&[0x0a], FrameError::WebSocket),
            (&[0x81, 0x05], FrameError::WebSocket),
            (&[0x89, 0xfe], FrameError::WebSocket),
            (&[0x88, 0xff], FrameError::WebSocket),
            (&[0x82, 0xfe, 0, 125], FrameError::WebSocket),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::WebSocket),
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0], FrameError::WebSocket),
            (&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], FrameError::TooLong),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x71], FrameError::TooLong),
            (&[0x01, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x71], FrameError::TooLong),
        ];
        for (header, error) in table {
            assert_eq!(events(header), [Event::Refused(error)], "{header:02x?}");
            let shorter = &header[..header.len() - 1];
            assert_eq!(events(shorter), [], "{shorter:02x?} is too short to judge");
        }
    }

    #[test]
    fn a_client_refuses_masked_frames_and_takes_plain_ones() {
        let masked = check_any_split(Role::Client, &LIMITS, &frame(0x81, b"x"), &[2]);
        assert_eq!(masked, [Event::Refused(FrameError::WebSocket)]);
        let plain = check_any_split(Role::Client, &LIMITS, b"\x81\x02hi\x89\x00", &[3]);
        assert_eq!(plain, [text("hi"), Event::Ping(vec![])]);
    }

    #[test]
    fn fragments_together_may_not_pass_the_limit_whatever_the_control_frames_weigh() {
        let half = [b'x'; 35_000];
        let mut stream = [frame(0x01, &half), frame(0x00, &half)].concat();
        let fits = [stream.clone(), frame(0x89, &[0; 125]), frame(0x80, b"")].concat();
        assert_eq!(events_at_once(&fits).len(), 2);
        stream.extend([0x80, 0x81]);
        assert_eq!(events_at_once(&stream), [Event::Refused(FrameError::TooLong)]);
    }

    fn events_at_once(stream: &[u8]) -> Vec<Event> {
        decode_all(Role::Server, &LIMITS, [stream])
    }

    #[test]
    fn one_fragment_above_the_limit_is_refused_at_its_first_byte() {
        let mut stream = frame(0x02, b"1");
        stream.extend([frame(0x00, b"2"), frame(0x00, b"3")].concat());
        let four = [stream.clone(), frame(0x80, b"4")].concat();
        assert_eq!(events(&four), [binary(b"1234")]);
        let five = [stream, frame(0x00, b"4"), vec![0x80]].concat();
        assert_eq!(events(&five), [Event::Refused(FrameError::TooManyFragments)]);
    }

    #[test]
    fn text_is_checked_across_fragments_and_refused_where_it_goes_wrong() {
        let refused = Event::Refused(FrameError::Utf8);
        let ping = Event::Ping(vec![]);
        check_rows(&[
            (&[(0x81, "κόσμε".as_bytes())], vec![text("κόσμε")]),
            (&[(0x81, b"\xce\xba\xed\xa0\x80")], vec![refused.clone()]),
            (&[(0x81, b"\xce")], vec![refused.clone()]),
            (&[(0x01, b"\xf0"), (0x00, b"\x9f\x98"), (0x80, b"\x80!")], vec![text("😀!")]),
            (&[(0x01, b"a\xc3"), (0x89, b""), (0x80, b"\xa9")], vec![ping.clone(), text("aé")]),
            (
                &[(0x01, b"\xf4"), (0x89, b""), (0x00, b"\x90"), (0x89, b"")],
                vec![ping, refused.clone()],
            ),
            (&[(0x01, b"\xff"), (0x89, b"")], vec![refused.clone()]),
            (&[(0x01, b"\xe2\x82"), (0x80, b"")], vec![refused]),
            (&[(0x02, b"\xff"), (0x80, b"\xff")], vec![binary(b"\xff\xff")]),
        ]);
    }

    #[test]
    fn control_frames_carry_up_to_125_bytes() {
        let body = [0xfe; 125];
        check_rows(&[
            (&[(0x89, b"")], vec![Event::Ping(vec![])]),
            (
                &[(0x89, &body), (0x8a, &body)],
                vec![Event::Ping(body.into()), Event::Pong(body.into())],
            ),
        ]);
    }

    #[test]
    fn close_bodies_are_empty_or_a_code_with_text() {
        let protocol = Event::Refused(FrameError::WebSocket);
        let reason = [b"\x03\xe8".as_slice(), &[b'*'; 123]].concat();
        check_rows(&[
            (&[(0x88, b"")], vec![Event::Close(None, String::new())]),
            (&[(0x88, b"\x03")], vec![protocol]),
            (&[(0x88, b"\x03\xe8")], vec![Event::Close(Some(1000), String::new())]),
            (&[(0x88, b"\x03\xe9bye")], vec![Event::Close(Some(1001), "bye".into())]),
            (&[(0x88, &reason)], vec![Event::Close(Some(1000), "*".repeat(123))]),
            (&[(0x88, b"\x03\xe8\xce")], vec![Event::Refused(FrameError::Utf8)]),
        ]);
    }

    #[test]
    fn close_codes_are_those_of_the_registry() {
        let good = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
        let good: std::collections::BTreeSet<u16> = good.collect();
        for code in 0..=u16::MAX {
            let expected = match good.contains(&code) {
                true => Event::Close(Some(code), String::new()),
                false => Event::Refused(FrameError::WebSocket),
            };
            assert_eq!(events_at_once(&frame(0x88, &code.to_be_bytes())), [expected], "{code}");
        }
    }
}
