//! Bytes from the server -> frames.

use super::super::redis;
use super::outbound::WEBSOCKET_ACCEPT;
use super::skim::{Look, Skim};
use super::{Closed, Greeting, Target, Transport};
use crate::error::FrameError;
use crate::wire::sync::frame::Header;
use crate::wire::sync::{self, Parsed, RawFrame};
use crate::wire::websocket::{Decoder, Incoming, MessageLimits, Role};

/// Largest frame in bytes that is accepted: what real clients of this protocol accept.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

const LIMITS: MessageLimits =
    MessageLimits { message_bytes_max: FRAME_BYTES_MAX, fragments_max: 1024 };

const RESPONSE_HEADERS_MAX: usize = 32;

pub(super) enum Arrived<'a> {
    Frame(RawFrame<'a>),
    /// One message of a Foony server, or whole replies of Redis.
    Records(&'a [u8]),
    /// A WebSocket ping, to be answered.
    Ping(&'a [u8]),
    /// A WebSocket close.
    Close(Option<u16>),
}

/// What a stream of the server is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    SyncMessages,
    SyncStream,
    FoonyMessages,
    RedisStream,
}

impl Cut {
    fn of(target: &Target) -> Cut {
        match (&target.greeting, target.transport) {
            (Greeting::Redis, _) => Cut::RedisStream,
            (Greeting::Foony { .. }, _) => Cut::FoonyMessages,
            (Greeting::Sync { .. }, Transport::Ws) => Cut::SyncMessages,
            (Greeting::Sync { .. }, Transport::Tcp) => Cut::SyncStream,
        }
    }
}

/// Cuts a stream into frames. It owns memory only for a frame that is not all there.
pub(super) struct Inbound {
    cut: Cut,
    decoder: Decoder,
    held: Vec<u8>,
    look: Look,
    pub(super) skim: Skim,
}

impl Inbound {
    pub(super) fn new(target: &Target) -> Self {
        Inbound {
            cut: Cut::of(target),
            decoder: Decoder::new(Role::Client),
            held: Vec::new(),
            look: target.look,
            skim: Skim::default(),
        }
    }

    /// Puts the unfinished frame of this connection at the front of `scratch`, with room for
    /// `budget` bytes or as much as is held again, and returns its length.
    pub(super) fn restore(&mut self, scratch: &mut Vec<u8>, budget: usize) -> usize {
        let held = self.held.len();
        let wanted = held + budget.max(held);
        if scratch.len() < wanted {
            scratch.resize(wanted, 0);
        }
        scratch[..held].copy_from_slice(&self.held);
        self.held.clear();
        held
    }

    /// Keeps what did not make a frame.
    pub(super) fn hold(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    /// Hands over whole frames; returns the bytes they took.
    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        mut take: impl FnMut(Arrived<'_>) -> Result<(), FrameError>,
    ) -> Result<usize, FrameError> {
        let used = match self.cut {
            Cut::SyncMessages | Cut::FoonyMessages => self.decode_messages(bytes, &mut take)?,
            Cut::SyncStream => decode_stream(bytes, &mut take)?,
            Cut::RedisStream => decode_replies(bytes, &mut take)?,
        };
        if self.look == Look::Whole {
            return Ok(used);
        }
        let transport = match self.cut {
            Cut::SyncMessages | Cut::FoonyMessages => Transport::Ws,
            Cut::SyncStream | Cut::RedisStream => Transport::Tcp,
        };
        match self.skim.begin(transport, &bytes[used..])? {
            None => Ok(used),
            Some(beginning) => {
                take(Arrived::Frame(beginning))?;
                Ok(bytes.len())
            }
        }
    }

    fn decode_messages(
        &mut self,
        bytes: &mut [u8],
        mut take: impl FnMut(Arrived<'_>) -> Result<(), FrameError>,
    ) -> Result<usize, FrameError> {
        let mut used = 0;
        loop {
            let decoded = self.decoder.decode(&mut bytes[used..], &LIMITS)?;
            if decoded.consumed == 0 {
                return Ok(used);
            }
            used += decoded.consumed;
            match decoded.incoming {
                Some(Incoming::Message { payload, .. }) if self.cut == Cut::FoonyMessages => {
                    take(Arrived::Records(&payload))?;
                }
                Some(Incoming::Message { payload, .. }) => {
                    take(Arrived::Frame(sync::parse_message(Header::Ten, &payload)?))?;
                }
                Some(Incoming::Ping(body)) => take(Arrived::Ping(body))?,
                Some(Incoming::Close { code, .. }) => take(Arrived::Close(code))?,
                Some(Incoming::Pong(_)) | None => {}
            }
        }
    }
}

fn decode_replies(
    bytes: &[u8],
    mut take: impl FnMut(Arrived<'_>) -> Result<(), FrameError>,
) -> Result<usize, FrameError> {
    let used = redis::whole(bytes)?;
    if used > 0 {
        take(Arrived::Records(&bytes[..used]))?;
    }
    Ok(used)
}

fn decode_stream(
    bytes: &[u8],
    mut take: impl FnMut(Arrived<'_>) -> Result<(), FrameError>,
) -> Result<usize, FrameError> {
    let mut used = 0;
    loop {
        match sync::parse(Header::Ten, &bytes[used..], FRAME_BYTES_MAX)? {
            Parsed::NeedMore => return Ok(used),
            Parsed::Frame(frame) => {
                used += frame.frame_bytes;
                take(Arrived::Frame(frame))?;
            }
            Parsed::Skip { error, .. } => return Err(error),
        }
    }
}

/// Length of the response to our upgrade; `None` while it is not all there.
pub(super) fn upgrade_response(bytes: &[u8]) -> Result<Option<usize>, Closed> {
    let mut headers = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Err(_) => return Err(Closed::Broken(FrameError::UnknownProtocol)),
    };
    let status = response.code.unwrap_or_default();
    let accepted = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("sec-websocket-accept")
            && header.value == WEBSOCKET_ACCEPT.as_bytes()
    });
    if status == 101 && accepted { Ok(Some(head_bytes)) } else { Err(Closed::Upgrade { status }) }
}
