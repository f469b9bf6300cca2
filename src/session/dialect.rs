//! What a wire protocol decides, and the closed set of those that this server speaks.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::foony::Guests;
use super::foony::encode::Form;
use super::{
    Answer, Denial, DirectMessage, DocumentAnswer, EdgeRequest, Feed, Framing, Principal, Replica,
    SessionContext, SessionOutput, echo, foony, peer, sync,
};
use crate::channel::{Identity, Peer};
use crate::error::Disconnect;
use crate::ids::Clocks;
use crate::limits::{Limits, UNAUTHENTICATED_MESSAGE_BYTES_MAX};
use crate::relay::Record;
use crate::wire::foony::binary;
use crate::wire::http;
use crate::wire::sync::{Detection, Header, detect, detect_message};
use crate::wire::websocket::MessageKind;

/// Bytes that a session is to act on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'m> {
    pub framing: Framing,
    /// Always binary on a stream.
    pub kind: MessageKind,
    /// [`Framing::WebSocket`]: a message, or what is left of one. [`Framing::Stream`]: what has
    /// arrived so far.
    pub bytes: &'m [u8],
}

/// What a session took off the front of its input.
#[derive(Debug)]
pub struct Taken<'m> {
    pub bytes: usize,
    pub output: SessionOutput<'m>,
}

impl<'m> Taken<'m> {
    pub(super) fn all(input: Input<'_>, output: SessionOutput<'m>) -> Self {
        Taken { bytes: input.bytes.len(), output }
    }
}

/// The feeds that a session subscribes to; `None` for what its protocol does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feeds {
    pub messages: Option<Feed>,
    /// Presence on request.
    pub presence: Option<Feed>,
    /// Presence that every member receives, as long as it is one.
    pub member: Option<Feed>,
}

/// How long a connection may be silent, milliseconds; `u64::MAX` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silences {
    /// Until it is pinged.
    pub ping_ms: u64,
    /// Until it is closed.
    pub idle_ms: u64,
}

/// What a wire protocol decides.
pub trait Dialect: Debug {
    /// Acts on the first message or request of `input`. What can be answered at once is appended to
    /// `out`, framed.
    fn handle<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        input: Input<'m>,
        out: &mut Vec<u8>,
    ) -> Taken<'m>;

    /// Appends the answer to request `id`; for a silent one only what it brought.
    fn answer(&self, _now: Clocks, _id: u64, _channel: &str, _answer: &Answer, _out: &mut Vec<u8>) {
    }

    /// Appends the answer of the document relay.
    fn answer_documents(&self, _now: Clocks, _answer: &DocumentAnswer, _out: &mut Vec<u8>) {}

    /// Appends a record of the document relay, under the name of a shape if the session has
    /// subscribed to one.
    fn append_record(&self, _record: &Record, _shape: Option<&str>, _out: &mut Vec<u8>) {}

    /// Appends what a shape begins with: nothing, before the log.
    fn append_shape_snapshot(&self, _shape: &str, _out: &mut Vec<u8>) {}

    /// Appends the answer to a greeting which says that there are two copies of the device: it is
    /// to name itself anew.
    fn append_fork(&self, _replica: Replica, _out: &mut Vec<u8>) {}

    /// Asks the client whether a peer may connect to it.
    fn edge_request(&self, _request: u64, _edge: &EdgeRequest, _out: &mut Vec<u8>) {}

    /// Hands a direct message to the client.
    fn direct_message(&self, _number: u64, _message: &DirectMessage, _out: &mut Vec<u8>) {}

    /// The kind of WebSocket message that the protocol uses.
    fn message_kind(&self) -> MessageKind {
        MessageKind::Binary
    }

    /// Appends what the client must know before its connection ends.
    fn farewell(&self, _reason: Disconnect, _out: &mut Vec<u8>) {}

    /// Appends a ping of this protocol. Only asked for where the transport has none.
    fn ping(&self, _now: Clocks, _out: &mut Vec<u8>) {}

    /// Who the session is; `None` before its greeting.
    fn principal(&self) -> Option<&Principal> {
        None
    }

    fn principal_mut(&mut self) -> Option<&mut Principal> {
        None
    }

    /// The admission hook denies the greeting, which was not answered: the session is
    /// unauthenticated. Appends the refusal.
    fn deny(&mut self, _: &Denial, _out: &mut Vec<u8>) -> SessionOutput<'static> {
        SessionOutput::Close(Disconnect::BadCredentials)
    }

    /// What the protocol is called towards the admission hook.
    fn protocol(&self) -> &'static str {
        "echo"
    }

    /// What the client has said of itself as a peer of the presence graph.
    fn peer(&self) -> Option<&Arc<Peer>> {
        None
    }

    /// The session goes on under the identity of an earlier one that it resumes.
    fn adopt_identity(&mut self, _identity: Arc<Identity>) {}

    fn feeds(&self) -> Feeds {
        Feeds::default()
    }

    /// Time from the upgrade to a complete greeting; `None` for a protocol without one.
    fn greeting_ms(&self, limits: &Limits) -> Option<u64> {
        Some(limits.auth_ms.min(limits.greeting_ms))
    }

    /// Longest message that the session may send.
    fn message_bytes_max(&self, limits: &Limits) -> usize {
        match self.principal() {
            Some(_) => limits.message_bytes_max,
            None => limits.message_bytes_max.min(UNAUTHENTICATED_MESSAGE_BYTES_MAX),
        }
    }

    /// Channels that the session may be a member of, or subscribe to.
    fn channels_max(&self, limits: &Limits) -> usize {
        limits.subscriptions_per_session_max
    }

    /// When a silent peer is pinged and closed. `member_ping_ms`: when its members ask for a ping.
    fn silences(&self, limits: &Limits, _member_ping_ms: u64) -> Silences {
        Silences { ping_ms: or_never(limits.ping_after_ms), idle_ms: or_never(limits.idle_ms) }
    }

    /// True when a member without a sign of life expires although its connection is open.
    fn members_expire(&self) -> bool {
        false
    }

    /// True when the members of a connection that ends for this reason keep their place for a
    /// grace.
    fn keeps_members(&self, reason: Disconnect) -> bool {
        matches!(reason, Disconnect::Lost | Disconnect::Slow | Disconnect::Replaced)
    }

    /// True when a WebSocket Close with this code says that the client does not come back.
    fn is_goodbye(&self, _code: u16) -> bool {
        true
    }

    /// True when requests wait while their answers are not read. Otherwise such a client is closed
    /// as slow.
    fn has_flow_control(&self) -> bool {
        false
    }
}

/// `ms`, where 0 means never.
pub(super) fn or_never(ms: u64) -> u64 {
    if ms == 0 { u64::MAX } else { ms }
}

/// The dialect of a connection.
#[derive(Debug)]
pub enum Session {
    /// The first message decides.
    Undecided(Undecided),
    Sync(sync::Session),
    Foony(foony::Session),
    /// Larger than the others, of which there are more.
    Peer(Box<peer::Session>),
    Echo(echo::Session),
}

/// A connection that has not said anything.
#[derive(Debug)]
pub struct Undecided;

impl Dialect for Undecided {
    fn handle<'m>(
        &mut self,
        _: &mut SessionContext<'_>,
        input: Input<'m>,
        _: &mut Vec<u8>,
    ) -> Taken<'m> {
        Taken::all(input, SessionOutput::Close(Disconnect::UnknownProtocol))
    }
}

/// What a WebSocket upgrade decides.
#[derive(Debug)]
pub struct Upgraded {
    pub session: Session,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<&'static str>,
    /// What the server says first, framed.
    pub first: Vec<u8>,
    /// Longest message that the client can read, if it is known to be short.
    pub max_message_hint: Option<usize>,
}

/// Go's SDK keeps its WebSocket library's limit of 32 KiB per message
/// (`protocols/foony.md` section 5.11).
const GO_MESSAGE_BYTES_MAX: usize = 32 * 1024;

impl Session {
    /// A session whose first message decides.
    pub fn undecided() -> Self {
        Session::Undecided(Undecided)
    }

    /// The session of a long-polling client, whose requests and events are records back to back.
    pub fn long_polling() -> Self {
        Session::Foony(foony::Session::new(Form::Stream, Guests::Refused))
    }

    /// The session that a WebSocket upgrade begins. `echo`: the debug endpoint is served.
    pub fn upgrade(request: &http::Upgrade<'_>, echo: bool) -> Upgraded {
        let session = match request.path {
            echo::PATH if echo => Session::Echo(echo::Session),
            _ => Session::undecided(),
        };
        let is_go = request.user_agent.is_some_and(|agent| agent.starts_with("Go-http-client"));
        let max_message_hint = is_go.then_some(GO_MESSAGE_BYTES_MAX);
        Upgraded { session, subprotocol: None, first: Vec::new(), max_message_hint }
    }

    /// Acts on the first message or request of `input`, which decides the dialect if nothing has.
    pub fn handle<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        input: Input<'m>,
        out: &mut Vec<u8>,
    ) -> Taken<'m> {
        if let Session::Undecided(_) = self {
            match Session::detect(cx, input) {
                Ok(Some(session)) => *self = session,
                Ok(None) => return Taken { bytes: 0, output: SessionOutput::NeedMore },
                Err(reason) => return Taken::all(input, SessionOutput::Close(reason)),
            }
        }
        (**self).handle(cx, input, out)
    }

    /// The dialect of a first message; `None` while it is not complete enough.
    fn detect(cx: &mut SessionContext<'_>, input: Input<'_>) -> Result<Option<Self>, Disconnect> {
        let Input { framing, kind, bytes } = input;
        let detected = match (framing, kind) {
            (Framing::Stream, _) => detect(bytes),
            (Framing::WebSocket, MessageKind::Binary) => detect_message(bytes),
            (Framing::WebSocket, MessageKind::Text) => Detection::Neither,
        };
        let header = match (detected, framing, kind) {
            (Detection::Ten, ..) => Header::Ten,
            (Detection::Five, ..) => Header::Five,
            (Detection::NeedMore, Framing::Stream, _) => return Ok(None),
            (_, Framing::WebSocket, MessageKind::Binary)
                if binary::is_first_message_of_peer(bytes) =>
            {
                return Ok(Some(Session::Peer(Box::new(peer::Session::new()))));
            }
            (_, Framing::WebSocket, MessageKind::Binary) if binary::is_first_message(bytes) => {
                return Ok(Some(Session::Foony(foony::Session::new(
                    Form::Records,
                    Guests::Refused,
                ))));
            }
            (_, Framing::WebSocket, MessageKind::Text) if bytes.trim_ascii().starts_with(b"{") => {
                return Ok(Some(Session::Foony(foony::Session::new(Form::Json, Guests::Refused))));
            }
            _ => return Err(Disconnect::UnknownProtocol),
        };
        Ok(Some(Session::Sync(sync::Session::new(header, framing, cx))))
    }
}

impl Deref for Session {
    type Target = dyn Dialect;

    fn deref(&self) -> &Self::Target {
        match self {
            Session::Undecided(undecided) => undecided,
            Session::Sync(session) => session,
            Session::Foony(session) => session,
            Session::Peer(session) => &**session,
            Session::Echo(session) => session,
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Session::Undecided(undecided) => undecided,
            Session::Sync(session) => session,
            Session::Foony(session) => session,
            Session::Peer(session) => &mut **session,
            Session::Echo(session) => session,
        }
    }
}
