//! A session on the sync wire: greeting, tokens, keep-alive, presence, documents, and a harmless
//! answer to everything else.
//!
//! What a peer can do wrong, and what happens then:
//!
//! | input | answer | connection | counter |
//! |---|---|---|---|
//! | first message is no sync frame | - | closed 1003 | `disconnect{unknown_protocol}` |
//! | text message after the first | - | kept | `ignored{text_message}` |
//! | frame cut short, checksum wrong, unknown type, other version (WebSocket) | - | kept | `ignored{malformed_*}` |
//! | checksum wrong or unknown type (TCP) | - | kept | `ignored{malformed_*}` |
//! | other version (TCP): the next frame cannot be found | - | closed | `disconnect{protocol}` |
//! | declared length above `message_bytes_max` | - | closed 1009 | `disconnect{too_large}` |
//! | body of the wrong arity or type, trailing garbage excepted | - | kept | `ignored{malformed_*}` |
//! | undecodable Handshake | failed ack | kept until the greeting deadline | `ignored{malformed_body}` |
//! | wrong wire version | failed ack | closed 1008 | `disconnect{wire_version}` |
//! | bad, expired or missing token | failed ack | kept until the greeting deadline | `ignored{bad_token}`, `token_refusals{..}` |
//! | no token, from a web page of another site | failed ack | kept until the greeting deadline | `ignored{bad_token}` |
//! | a refresh with such a token | failed ack | kept | `ignored{bad_token}`, `token_refusals{..}` |
//! | no greeting in time | - | closed 1008 | `disconnect{greeting_timeout}` |
//! | presence, shapes, resync before the greeting | - | kept | `ignored{unauthenticated}` |
//! | channel name empty, over 255 bytes or reserved | - | kept | `ignored{channel_name}` |
//! | state over `state_bytes_max` | - | kept | `ignored{state_too_large}` |
//! | more channels than `channels_per_session_max` | - | kept | `ignored{too_many_channels}` |
//! | channel full | - | kept | `ignored{channel_full}` |
//! | greeting denied by the admission hook | failed ack, its reason | kept until the greeting deadline | `ignored{denied}` |
//! | presence denied by the admission hook | - | kept | `ignored{denied}` |
//! | capability does not cover the channel | - | kept | `ignored{forbidden}` |
//! | a message that only servers send | - | kept | `ignored{wrong_direction}` |
//! | document, engine or array push, without a relay | its terminal ack, rejected | kept | - |
//! | the same, with a relay | see [`documents`] | | |
//! | the same from a generation whose acks cannot say so | - | closed 1008 | `disconnect{old_client}` |
//! | token expires during the session | - | closed 1008 | `disconnect{token_expired}` |
//!
//! Sources: `protocols/nodedb.md` sections 4, 8 and 9.

pub mod documents;
pub mod presence;
pub mod roster;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::dialect::or_never;
use super::{
    Arrival, ChannelRequest, Denial, Dialect, DocumentAnswer, Feed, Feeds, Framing, Input,
    NO_REQUEST, Principal, Replica, Request, SessionContext, SessionOutput, Silences, Taken,
    append_message,
};
use crate::auth::{CredentialError, Identity as Bearer, Origin};
use crate::channel::{Device, DeviceOwner, Identity, Link, Resume, State};
use crate::counters::Ignored;
use crate::error::{Disconnect, FrameError, Reject};
use crate::ids::{Clocks, presence_logged};
use crate::limits::Limits;
use crate::relay::Record;
use crate::wire::sync::message::Map;
use crate::wire::sync::message::session::{
    Handshake, HandshakeAck, PingPong, Throttle, TokenRefreshAck, VectorClockSync,
};
use crate::wire::sync::message::shape::ShapeSnapshot;
use crate::wire::sync::{
    self, Direction, Header, Layout, Message, MessageType, Parsed, RawFrame, Refusal, layout_for,
};
use crate::wire::websocket::MessageKind;
use documents::append_record;

/// Entries that a session's vector clock may have; further ones are ignored.
const CLOCKS_MAX: usize = 1024;

/// Bytes of a name in a vector clock (Lite's have 16); entries with longer ones are ignored.
const CLOCK_NAME_BYTES_MAX: usize = 128;

/// What an answer says the token's remaining life is when the token does not end (Origin's value).
const EXPIRES_IN_DEFAULT_S: u64 = 3600;

/// Protocol state of one connection on the sync wire.
#[derive(Debug)]
pub struct Session {
    header: Header,
    framing: Framing,
    layout: Layout,
    /// The connection's name as a number.
    number: u64,
    principal: Option<Principal>,
    clocks: Option<Box<VectorClock>>,
}

const _: () = assert!(size_of::<Session>() <= 48, "part of every connection");

/// What the client has seen, by the name of its peers; at most [`CLOCKS_MAX`].
type VectorClock = BTreeMap<Box<str>, u64>;

impl Dialect for Session {
    fn handle<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        input: Input<'m>,
        out: &mut Vec<u8>,
    ) -> Taken<'m> {
        if input.kind == MessageKind::Text {
            return Taken::all(input, SessionOutput::Ignored(Ignored::Text));
        }
        let parsed = match input.framing {
            Framing::WebSocket => match sync::parse_message(self.header, input.bytes) {
                Ok(frame) => Ok(Parsed::Frame(frame)),
                Err(error) => Ok(Parsed::Skip { frame_bytes: input.bytes.len(), error }),
            },
            Framing::Stream => {
                sync::parse(self.header, input.bytes, self.message_bytes_max(cx.limits))
            }
        };
        match parsed {
            Ok(Parsed::NeedMore) => Taken { bytes: 0, output: SessionOutput::NeedMore },
            Ok(Parsed::Frame(frame)) => {
                let output = self.handle_frame(cx, frame, out);
                match input.framing {
                    Framing::WebSocket => Taken::all(input, output),
                    Framing::Stream => Taken { bytes: frame.frame_bytes, output },
                }
            }
            Ok(Parsed::Skip { frame_bytes, error }) => {
                let output = SessionOutput::Ignored(Ignored::Malformed(error));
                Taken { bytes: frame_bytes, output }
            }
            Err(error) => Taken::all(input, SessionOutput::Close(error.into())),
        }
    }

    /// Clients answer it. A raw stream has no other ping.
    fn ping(&self, now: Clocks, out: &mut Vec<u8>) {
        if self.principal.is_some() {
            let ping = PingPong { timestamp_ms: now.wall_ms, is_pong: false };
            self.reply(out, &Message::PingPong(ping));
        }
    }

    fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    fn principal_mut(&mut self) -> Option<&mut Principal> {
        self.principal.as_mut()
    }

    fn deny(&mut self, denial: &Denial, out: &mut Vec<u8>) -> SessionOutput<'static> {
        let reason = Ignored::Refused(Reject::Denied);
        self.refuse_greeting(out, &denial.to_string(), reason)
    }

    fn protocol(&self) -> &'static str {
        "sync"
    }

    fn answer_documents(&self, now: Clocks, answer: &DocumentAnswer, out: &mut Vec<u8>) {
        self.append_answer(now, answer, out);
    }

    fn append_record(&self, record: &Record, shape: Option<&str>, out: &mut Vec<u8>) {
        append_record(self.layout, self.framing, record, shape, out);
    }

    fn append_shape_snapshot(&self, shape_id: &str, out: &mut Vec<u8>) {
        let snapshot = ShapeSnapshot { shape_id, data: &[], snapshot_lsn: 0, doc_count: 0 };
        self.reply(out, &Message::ShapeSnapshot(snapshot));
    }

    fn append_fork(&self, replica: Replica, out: &mut Vec<u8>) {
        let Some(principal) = &self.principal else { return };
        let lite_id = principal.identity.device().map_or("", |device| &**device);
        let ack = HandshakeAck {
            success: true,
            fork_detected: true,
            server_wire_version: self.wire_version(),
            producer_id: producer_id(&principal.grant.app, lite_id),
            accepted_epoch: replica.epoch,
            ..HandshakeAck::default()
        };
        self.acknowledge_greeting(ack, out);
    }

    fn adopt_identity(&mut self, identity: Arc<Identity>) {
        if let Some(principal) = &mut self.principal {
            principal.identity = identity;
        }
    }

    fn feeds(&self) -> Feeds {
        let member = Some(Feed::sync(self.header, self.framing));
        Feeds { messages: None, presence: None, member }
    }

    fn greeting_ms(&self, limits: &Limits) -> Option<u64> {
        Some(limits.greeting_ms)
    }

    fn channels_max(&self, limits: &Limits) -> usize {
        limits.channels_per_session_max
    }

    fn silences(&self, limits: &Limits, member_ping_ms: u64) -> Silences {
        Silences {
            ping_ms: or_never(limits.ping_after_ms).min(member_ping_ms),
            idle_ms: or_never(limits.idle_ms),
        }
    }

    fn members_expire(&self) -> bool {
        true
    }
}

impl Session {
    /// A session whose header generation is known and which has not greeted.
    pub fn new(header: Header, framing: Framing, cx: &mut SessionContext<'_>) -> Self {
        let layout = match header {
            Header::Ten => cx.settings.ten_byte_layout,
            Header::Five => Layout::V0_1,
        };
        let number = cx.names.next_number();
        Session { header, framing, layout, number, principal: None, clocks: None }
    }

    /// What the connection is called: 16 hexadecimal digits.
    fn name(&self) -> String {
        format!("{:016x}", self.number)
    }

    /// Acts on one frame; answers are appended to `out`, ready to be sent.
    fn handle_frame<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        frame: RawFrame<'m>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'m> {
        match sync::decode(frame.message_type, frame.body, self.layout) {
            Ok(message) => match self.take_document(cx, &message, frame.body, out) {
                Some(output) => output,
                None => self.handle_message(cx, message, out),
            },
            Err(_) if frame.message_type == MessageType::Handshake => {
                let reason = Ignored::Malformed(FrameError::Body);
                self.refuse_greeting(out, "malformed handshake", reason)
            }
            Err(error) => SessionOutput::Ignored(Ignored::Malformed(error)),
        }
    }

    fn handle_message<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        message: Message<'m>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'m> {
        match message {
            Message::Handshake(greeting) => self.greet(cx, &greeting, out),
            Message::PingPong(ping) => self.answer_ping(ping, out),
            Message::TokenRefresh(refresh) => {
                self.refresh_token(cx.now, cx, refresh.new_token, out)
            }
            Message::VectorClockSync(clocks) => self.merge_clocks(&clocks, out),
            Message::PresenceUpdate(update) => self.announce(cx, update.channel, update.state),
            Message::PresenceLeave(leave) if self.principal.is_some() => {
                request(leave.channel, Request::Leave)
            }
            Message::PresenceLeave(_) => {
                SessionOutput::Ignored(Ignored::Refused(Reject::Unauthenticated))
            }
            Message::Throttle(throttle) => SessionOutput::RateHint(rate_hint(throttle)),
            other => self.refuse(&other, out),
        }
    }

    fn greet(
        &mut self,
        cx: &mut SessionContext<'_>,
        greeting: &Handshake<'_>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'static> {
        let ten_byte = cx.settings.ten_byte_layout;
        let Some(layout) = layout_for(self.header, greeting.wire_version, ten_byte) else {
            let error = format!("incompatible wire version: {}", greeting.wire_version);
            self.refuse_greeting(out, &error, Ignored::Refused(Reject::Unsupported));
            return SessionOutput::Close(Disconnect::WireVersion);
        };
        self.layout = layout;
        match self.identify(cx, greeting) {
            Ok(principal) => self.accept_greeting(cx, greeting, principal, out),
            Err(error) => self.refuse_greeting(out, &error, Ignored::Refused(Reject::BadToken)),
        }
    }

    fn identify(
        &self,
        cx: &mut SessionContext<'_>,
        greeting: &Handshake<'_>,
    ) -> Result<Principal, Cow<'static, str>> {
        if greeting.jwt_token.is_empty() {
            let grant = cx.settings.anonymous.as_ref();
            let grant = grant.ok_or("anonymous sessions are not allowed here: send a token")?;
            if cx.origin == Origin::Foreign {
                let why = "anonymous sessions are not for web pages of other sites: send a token, \
                           or name the page's origin in [auth] origins";
                return Err(why.into());
            }
            let user = format!("anonymous-{}", &self.name()[..8]).into();
            let grant = Arc::clone(grant);
            let bearer = Bearer { user, grant, expires_at_wall_ms: None, metadata: None };
            return Ok(self.principal_of(bearer, resume(DeviceOwner::Anonymous, greeting.lite_id)));
        }
        let token = cx.settings.keyring.verify_token(greeting.jwt_token, cx.now.wall_ms);
        let bearer = token.map_err(|error| invalid_token(cx, error))?;
        Ok(self.principal_of(bearer, resume(DeviceOwner::User, greeting.lite_id)))
    }

    fn principal_of(&self, bearer: Bearer, resume: Resume) -> Principal {
        let link = match self.framing {
            Framing::WebSocket => Link::Web,
            Framing::Stream => Link::Tcp,
        };
        Principal::new(bearer, self.name().as_str().into(), resume, link)
    }

    fn accept_greeting(
        &mut self,
        cx: &SessionContext<'_>,
        greeting: &Handshake<'_>,
        principal: Principal,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'static> {
        let Handshake { lite_id, epoch, wire_version, .. } = *greeting;
        let ack = HandshakeAck {
            success: true,
            server_wire_version: wire_version,
            producer_id: producer_id(&principal.grant.app, lite_id),
            accepted_epoch: epoch,
            ..HandshakeAck::default()
        };
        self.acknowledge_greeting(ack, out);
        let renewed = self.principal.as_ref().is_some_and(|old| is_same_session(old, &principal));
        if renewed {
            self.renew(principal);
            return SessionOutput::Renewed;
        }
        let arrival = match (self.replica(cx, &principal, greeting), principal.identity.resume()) {
            (Some(replica), _) => Arrival::Replica(replica),
            (None, Resume::Never) => Arrival::New,
            (None, _) => Arrival::Returning,
        };
        self.principal = Some(principal);
        SessionOutput::Greeted(arrival)
    }

    fn acknowledge_greeting(&self, ack: HandshakeAck<'_>, out: &mut Vec<u8>) {
        let name = self.name();
        let ack = HandshakeAck { session_id: &name, ..ack };
        self.reply(out, &Message::HandshakeAck(ack));
    }

    /// Answers a greeting that failed. The session is unauthenticated from then on.
    fn refuse_greeting(
        &mut self,
        out: &mut Vec<u8>,
        error: &str,
        reason: Ignored,
    ) -> SessionOutput<'static> {
        let ack = HandshakeAck {
            error: Some(error),
            server_wire_version: self.wire_version(),
            ..HandshakeAck::default()
        };
        self.acknowledge_greeting(ack, out);
        match self.principal.take() {
            Some(_) => SessionOutput::Ungreeted,
            None => SessionOutput::Ignored(reason),
        }
    }

    fn wire_version(&self) -> u16 {
        match self.header {
            Header::Ten => 1,
            Header::Five => 4,
        }
    }

    fn answer_ping(&self, ping: PingPong, out: &mut Vec<u8>) -> SessionOutput<'static> {
        if ping.is_pong {
            return SessionOutput::Done;
        }
        let pong = PingPong { timestamp_ms: ping.timestamp_ms, is_pong: true };
        self.reply(out, &Message::PingPong(pong));
        SessionOutput::Done
    }

    fn refresh_token(
        &mut self,
        now: Clocks,
        cx: &mut SessionContext<'_>,
        token: &str,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'static> {
        let outcome = self.verify_refresh(cx, token);
        let expires_wall_ms = outcome.as_ref().ok().and_then(Principal::expires_wall_ms);
        let ack = TokenRefreshAck {
            success: outcome.is_ok(),
            error: outcome.as_ref().err().map(|error| &**error),
            expires_in_secs: match (&outcome, expires_wall_ms) {
                (Err(_), _) => 0,
                (Ok(_), None) => EXPIRES_IN_DEFAULT_S,
                (Ok(_), Some(end_ms)) => end_ms.saturating_sub(now.wall_ms) / 1000,
            },
        };
        self.reply(out, &Message::TokenRefreshAck(ack));
        match outcome {
            Ok(renewed) if self.principal.is_some() => {
                self.renew(renewed);
                SessionOutput::Renewed
            }
            Ok(_) => SessionOutput::Done,
            Err(_) => SessionOutput::Ignored(Ignored::Refused(Reject::BadToken)),
        }
    }

    fn verify_refresh(
        &self,
        cx: &mut SessionContext<'_>,
        token: &str,
    ) -> Result<Principal, Cow<'static, str>> {
        if token.is_empty() {
            cx.refusals.count(CredentialError::Malformed);
            return Err("empty token".into());
        }
        let bearer = cx.settings.keyring.verify_token(token, cx.now.wall_ms);
        let bearer = bearer.map_err(|error| invalid_token(cx, error))?;
        if let Some(principal) = &self.principal {
            if principal.grant.app != bearer.grant.app {
                cx.refusals.count(CredentialError::OtherApp);
                return Err("tenant mismatch".into());
            }
            if principal.is_anonymous() || principal.identity.user != bearer.user {
                cx.refusals.count(CredentialError::OtherSubject);
                return Err("user mismatch".into());
            }
        }
        Ok(self.principal_of(bearer, Resume::Never))
    }

    /// New rights and a new end, the same identity.
    fn renew(&mut self, renewed: Principal) {
        if let Some(principal) = &mut self.principal {
            principal.grant = renewed.grant;
            principal.expires = renewed.expires;
        }
    }

    fn merge_clocks(
        &mut self,
        theirs: &VectorClockSync<'_>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'static> {
        let mut known = self.clocks.take().unwrap_or_default();
        for &(name, clock) in &theirs.clocks.0 {
            if let Some(known) = known.get_mut(name) {
                *known = clock.max(*known);
            } else if known.len() < CLOCKS_MAX && name.len() <= CLOCK_NAME_BYTES_MAX {
                known.insert(name.into(), clock);
            }
        }
        let merged = known.iter().map(|(name, &clock)| (&**name, clock));
        let clocks = Map(merged.collect());
        self.reply(out, &Message::VectorClockSync(VectorClockSync { clocks, sender_id: 0 }));
        self.clocks = Some(known).filter(|known| !known.is_empty());
        SessionOutput::Done
    }

    fn announce<'m>(
        &self,
        cx: &SessionContext<'_>,
        channel: &'m str,
        state: &'m [u8],
    ) -> SessionOutput<'m> {
        match self.check_announce(cx, channel, state) {
            Ok(()) => {
                let state = State::from_message_pack(Bytes::copy_from_slice(state));
                request(channel, Request::Announce(state))
            }
            Err(reject) => SessionOutput::Ignored(Ignored::Refused(reject)),
        }
    }

    fn check_announce(
        &self,
        cx: &SessionContext<'_>,
        channel: &str,
        state: &[u8],
    ) -> Result<(), Reject> {
        let principal = self.principal.as_ref().ok_or(Reject::Unauthenticated)?;
        // Who announces itself on this wire is sent the members as well.
        if principal.grant.capability.allows_presence(channel).is_err() {
            return Err(Reject::Forbidden);
        }
        let is_reserved = presence_logged(channel).is_some();
        if channel.is_empty() || is_reserved || channel.len() > cx.limits.channel_name_bytes_max {
            return Err(Reject::ChannelName);
        }
        if state.len() > cx.limits.state_bytes_max {
            return Err(Reject::StateTooLarge);
        }
        Ok(())
    }

    /// Answers what this server does not do, in the way that harms nothing.
    fn refuse<'m>(&self, message: &Message<'_>, out: &mut Vec<u8>) -> SessionOutput<'m> {
        let message_type = message.message_type();
        if message_type.direction() == Direction::ServerToClient {
            return SessionOutput::Ignored(Ignored::WrongDirection);
        }
        let reason = match self.principal {
            Some(_) => "this server does not store documents",
            None if is_question(message_type) => {
                return SessionOutput::Ignored(Ignored::Refused(Reject::Unauthenticated));
            }
            None => "session is not authenticated",
        };
        self.refuse_as(message, reason, out)
    }

    fn refuse_as<'m>(
        &self,
        message: &Message<'_>,
        reason: &str,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'m> {
        match sync::refusal(message, self.layout, reason) {
            Refusal::Answer(answer) => {
                self.reply(out, &answer);
                SessionOutput::Done
            }
            Refusal::Silent => SessionOutput::Ignored(Ignored::NothingToDo),
            Refusal::CloseOldClient => SessionOutput::Close(Disconnect::OldClient),
        }
    }

    fn reply(&self, out: &mut Vec<u8>, message: &Message<'_>) {
        append_message(self.framing, out, |out| {
            let encoded = sync::append_message(message, self.layout, out);
            debug_assert!(encoded.is_ok(), "{:?} cannot say {message:?}", self.layout);
        });
    }
}

/// Counts a refused token; returns what the client is sent. It begins as Origin's answer does.
fn invalid_token(cx: &mut SessionContext<'_>, error: CredentialError) -> Cow<'static, str> {
    let reason = cx.refusals.count(error).reason();
    format!("invalid bearer token: {reason}").into()
}

/// Requests that Origin meets with silence before the greeting.
fn is_question(message_type: MessageType) -> bool {
    matches!(
        message_type,
        MessageType::ShapeSubscribe | MessageType::ShapeUnsubscribe | MessageType::ResyncRequest
    )
}

fn is_same_session(old: &Principal, new: &Principal) -> bool {
    old.grant.app == new.grant.app
        && old.is_anonymous() == new.is_anonymous()
        && old.identity.has_same_resume_key(&new.identity)
        && (old.is_anonymous() || old.identity.user == new.identity.user)
}

fn resume(owner: DeviceOwner, lite_id: &str) -> Resume {
    match lite_id {
        "" => Resume::Never,
        id => Resume::Device(Device { id: id.into(), owner }),
    }
}

/// A number that a device keeps across sessions, restarts and servers: a hash of its id. 0 says
/// that there is no device. The key is fixed because the number is no secret and must not change.
fn producer_id(app: &str, lite_id: &str) -> u64 {
    if lite_id.is_empty() {
        return 0;
    }
    let mut hasher = SipHasher13::new_with_keys(0x6865_6164_636f_756e, 0x7470_726f_6475_6365);
    hasher.write_u64(app.len() as u64);
    hasher.write(app.as_bytes());
    hasher.write(lite_id.as_bytes());
    hasher.finish().max(1)
}

/// A request without an answer: the wire does not number requests.
fn request(channel: &str, request: Request) -> SessionOutput<'_> {
    SessionOutput::Request(ChannelRequest { id: NO_REQUEST, channel: channel.into(), request })
}

/// The client's rate hint as a pause between presence frames: at least one a second, at most 1,000.
fn rate_hint(throttle: Throttle) -> Option<NonZeroU16> {
    let pause_ms = match throttle.throttle {
        true => 1000 / throttle.suggested_rate.clamp(1, 1000) as u16,
        false => 0,
    };
    NonZeroU16::new(pause_ms)
}
