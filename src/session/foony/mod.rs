//! A session on the Foony protocol, binary or JSON, over WebSocket or long-polling.
//!
//! What a client can do wrong, and what happens then. `id` is the request's.
//!
//! | input | answer | connection | counter |
//! |---|---|---|---|
//! | first message is of no known protocol | - | closed 1003 | `disconnect{unknown_protocol}` |
//! | message of the other kind (text after binary) | - | kept | `ignored{text_message}` |
//! | record that reaches past its message | err 0 40001 | kept, records before it count | `ignored{malformed_*}` |
//! | record or frame that does not decode | err `id` 40001 | kept | `ignored{malformed_*}` |
//! | request without an id, or with one above 2^53 | err 0 40001 | kept | `ignored{malformed_body}` |
//! | no auth in time | - | closed 1008 | `disconnect{greeting_timeout}` |
//! | anything before auth | err `id` 40101 | kept until that deadline | `ignored{unauthenticated}` |
//! | bad key or token, more than its key may do, other or too long client id | err 0 40101 | closed 1008 | `disconnect{bad_credentials}`, `token_refusals{..}` |
//! | expired token | err 0 40102 | closed 1008 | `disconnect{bad_credentials}`, `token_refusals{expired}` |
//! | token expires during the session | err 0 40102 | closed 1008 | `disconnect{token_expired}` |
//! | a second auth | err 0 40001 | kept | `ignored{unsupported}` |
//! | channel name outside the grammar or too long | err `id` 40001 | kept | `ignored{channel_name}` |
//! | channel not granted | err `id` 40302 | kept | `ignored{forbidden}` |
//! | channel granted, operation not | err `id` 40301 | kept | `ignored{forbidden}` |
//! | message above `publish_bytes_max`, id above 255 bytes | err `id` 40001 | kept | `ignored{message_too_large}` |
//! | presence data above `state_bytes_max` | err `id` 40001 | kept | `ignored{state_too_large}` |
//! | more channels than `subscriptions_per_session_max` | err `id` 40300 | kept | `ignored{too_many_channels}` |
//! | channel full | err `id` 40300 | kept | `ignored{channel_full}` |
//! | connection denied by the admission hook | err 0 40101, its reason | closed 1008 | `disconnect{bad_credentials}`, `ignored{denied}` |
//! | request denied by the admission hook | err `id` 40300, its reason | kept | `ignored{denied}` |
//! | presence faster than `updates_per_second_max` | ack; the newest state is sent in the next second | kept | `conflated{update_rate}` |
//! | WebSocket message above `message_bytes_max` | - | closed 1009 | `disconnect{too_large}` |
//! | answers not read, more asked | - | closed 1013 once `message_bytes_max` of requests wait | `disconnect{slow}` |
//!
//! Sources: `protocols/foony.md` sections 0, 2, 4 and 5.

mod connection_id;
pub mod encode;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

pub use self::connection_id::secret;

use self::encode::{Form, Writer};
use super::dialect::or_never;
use super::{
    Answer, Arrival, ChannelRequest, Denial, Dialect, Feeds, Input, NO_REQUEST, Principal,
    Request as Asked, Scope, SessionContext, SessionOutput, Silences, Taken, is_silent,
};
use crate::auth::{CredentialError, Denied, Identity as Bearer, Operation, Origin};
use crate::channel::{Content, Draft, JsonState, Link, Part, Position, Resume, State, Storage};
use crate::counters::Ignored;
use crate::error::{Disconnect, FrameError, Reject};
use crate::ids::{Clocks, ConnectionName};
use crate::limits::{Limits, MESSAGE_ID_BYTES_MAX, USER_ID_BYTES_MAX};
use crate::wire::foony::{
    self, Action, Auth, Cursor, ErrorCode, Event, Grammar, Malformed, Request, binary,
    check_channel_name, json,
};
use crate::wire::websocket::MessageKind;

/// Messages of history that are sent when the client does not say how many, and at most
/// (`protocols/foony.md` section 5.6).
pub const HISTORY_LIMIT_DEFAULT: usize = 100;
pub const HISTORY_LIMIT_MAX: usize = 1000;

/// Clients keep numbers as doubles (`protocols/foony.md` section 0, 11).
const REQUEST_MAX: u64 = 1 << 53;

/// Close codes after which a client does not come back (`protocols/foony.md` section 5.7).
const GOODBYES: [u16; 2] = [1000, 1001];

/// Protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    form: Form,
    guests: Guests,
    principal: Option<Principal>,
}

/// What becomes of a client that shows no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// As in the protocol: refused.
    Refused,
    /// A name of the server's choice, where anonymous sessions are allowed.
    Named,
}

const _: () = assert!(size_of::<Session>() <= 32, "part of every connection");

/// Why a request is not passed on.
enum Refusal {
    Reject(Reject),
    Denied(Denied),
    Credential(CredentialError),
}

impl Dialect for Session {
    fn handle<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        input: Input<'m>,
        out: &mut Vec<u8>,
    ) -> Taken<'m> {
        match (self.form, input.kind) {
            (Form::Json, MessageKind::Binary) | (Form::Records, MessageKind::Text) => {
                return Taken::all(input, SessionOutput::Ignored(Ignored::Text));
            }
            (Form::Json, MessageKind::Text) => {
                let output = self.handle_decoded(cx, json::decode_request(input.bytes), out);
                return Taken::all(input, output);
            }
            _ => {}
        }
        let mut records = binary::records(input.bytes);
        let output = match records.next() {
            None => SessionOutput::Done,
            Some(Ok(record)) if record.is_unknown() => {
                SessionOutput::Ignored(Ignored::Malformed(FrameError::UnknownType))
            }
            Some(Ok(record)) => self.handle_decoded(cx, record.request(), out),
            Some(Err(error)) => {
                self.handle_decoded(cx, Err(Malformed { error, id: NO_REQUEST }), out)
            }
        };
        Taken { bytes: input.bytes.len() - records.rest().len(), output }
    }

    fn answer(&self, _: Clocks, id: u64, channel: &str, answer: &Answer, out: &mut Vec<u8>) {
        let out = &mut Writer::new(self.form, out);
        let acknowledge = |out: &mut Writer<'_>, serial, resumed| {
            if !is_silent(id) {
                out.event(&Event::Ack { id, serial, resumed });
            }
        };
        match answer {
            Answer::Done => acknowledge(out, 0, None),
            Answer::Published { serial } => acknowledge(out, *serial, None),
            Answer::Refused(reject) if !is_silent(id) => {
                let message = reject.to_string().into();
                out.event(&Event::Error { id, code: ErrorCode::from(*reject), message });
            }
            Answer::Denied(denial) if !is_silent(id) => {
                let message = denial.to_string().into();
                out.event(&Event::Error { id, code: ErrorCode::Forbidden, message });
            }
            Answer::Refused(_)
            | Answer::Denied(_)
            | Answer::NotTaken { .. }
            | Answer::Checked(_) => {}
            Answer::Subscribed { messages, resumed } => {
                for message in messages {
                    out.event(&Event::Delivery(encode::delivery(channel, message)));
                }
                acknowledge(out, 0, *resumed);
            }
            Answer::History { messages, more } => {
                let messages = messages.iter().map(|m| encode::delivery(channel, m)).collect();
                let channel = channel.into();
                out.event(&Event::History { id, channel, messages, more: *more });
            }
            Answer::Fetched { messages, resumed } => {
                let messages = messages.iter().map(|m| encode::delivery(channel, m)).collect();
                let channel = channel.into();
                out.event(&Event::Fetched { id, channel, messages, resumed: *resumed });
            }
        }
    }

    fn message_kind(&self) -> MessageKind {
        match self.form {
            Form::Json => MessageKind::Text,
            Form::Records | Form::Stream => MessageKind::Binary,
        }
    }

    /// The code of an expired token makes the client fetch a new one.
    fn farewell(&self, reason: Disconnect, out: &mut Vec<u8>) {
        if matches!(reason, Disconnect::TokenExpired | Disconnect::Revoked) {
            let (code, message) = (ErrorCode::AuthExpired, reason.to_string().into());
            Writer::new(self.form, out).event(&Event::Error { id: NO_REQUEST, code, message });
        }
    }

    fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    fn principal_mut(&mut self) -> Option<&mut Principal> {
        self.principal.as_mut()
    }

    fn deny(&mut self, denial: &Denial, out: &mut Vec<u8>) -> SessionOutput<'static> {
        self.principal = None;
        let (code, message) = (ErrorCode::BadAuth, denial.to_string().into());
        Writer::new(self.form, out).event(&Event::Error { id: NO_REQUEST, code, message });
        SessionOutput::Close(Disconnect::BadCredentials)
    }

    fn protocol(&self) -> &'static str {
        "foony"
    }

    fn feeds(&self) -> Feeds {
        Feeds {
            messages: Some(self.form.messages()),
            presence: Some(self.form.presence()),
            member: None,
        }
    }

    /// Clients have promised to ping.
    fn silences(&self, limits: &Limits, _: u64) -> Silences {
        let keep_alive_ms = or_never(limits.keep_alive_ms);
        let (ping_ms, idle_ms) = (or_never(limits.ping_after_ms), or_never(limits.idle_ms));
        match (keep_alive_ms, idle_ms) {
            (u64::MAX, _) | (_, u64::MAX) => Silences { ping_ms, idle_ms },
            _ => Silences {
                ping_ms: ping_ms.min(keep_alive_ms),
                idle_ms: idle_ms.min(2 * keep_alive_ms),
            },
        }
    }

    /// A client whose token expires is about to return with a new one.
    fn keeps_members(&self, reason: Disconnect) -> bool {
        matches!(
            reason,
            Disconnect::Lost | Disconnect::Slow | Disconnect::Replaced | Disconnect::TokenExpired
        )
    }

    fn is_goodbye(&self, code: u16) -> bool {
        GOODBYES.contains(&code)
    }

    fn has_flow_control(&self) -> bool {
        true
    }
}

impl Session {
    /// A session that has not authenticated.
    pub fn new(form: Form, guests: Guests) -> Self {
        Session { form, guests, principal: None }
    }

    fn handle_decoded<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        request: Result<Request<'m>, Malformed>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'m> {
        let out = &mut Writer::new(self.form, out);
        match request {
            Ok(request) => self.handle_request(cx, request, out),
            Err(malformed) => refuse_malformed(malformed, out),
        }
    }

    /// Acts on one request; what can be answered at once is appended to `out`.
    fn handle_request<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        request: Request<'m>,
        out: &mut Writer<'_>,
    ) -> SessionOutput<'m> {
        let (id, is_first) = (request.id(), self.principal.is_none());
        let prepared = match request {
            Request::Auth(auth) if is_first => return self.authenticate(cx, &auth, out),
            Request::Auth(_) => Err(Refusal::Reject(Reject::Unsupported)),
            Request::Ping if !is_first => {
                out.event(&Event::Pong);
                return SessionOutput::Done;
            }
            _ if is_first => Err(Refusal::Reject(Reject::Unauthenticated)),
            _ if id == NO_REQUEST || id > REQUEST_MAX => {
                let malformed = Malformed { error: FrameError::Body, id: NO_REQUEST };
                return refuse_malformed(malformed, out);
            }
            request => self.prepare(cx, request),
        };
        match prepared {
            Ok((channel, request)) => {
                SessionOutput::Request(ChannelRequest { id, channel, request })
            }
            Err(refusal) => refuse(id, &refusal, out),
        }
    }

    fn authenticate(
        &mut self,
        cx: &mut SessionContext<'_>,
        auth: &Auth<'_>,
        out: &mut Writer<'_>,
    ) -> SessionOutput<'static> {
        let name = cx.names.next_name();
        let bearer = match identify(cx, auth, &name, self.guests) {
            Ok(bearer) => bearer,
            Err(error) => {
                refuse(NO_REQUEST, &Refusal::Credential(cx.refusals.count(error)), out);
                return SessionOutput::Close(Disconnect::BadCredentials);
            }
        };
        let key = cx.settings.connection_key;
        let shown = &*auth.resume_connection_id;
        let app = &bearer.grant.app;
        let (connection, arrival) = match connection_id::is_ours(key, app, &bearer.user, shown) {
            true => (ConnectionName::from(shown), Arrival::Returning),
            false => {
                let made = connection_id::make(key, app, &bearer.user, &name);
                (ConnectionName::from(made.as_str()), Arrival::New)
            }
        };
        out.event(&Event::Connected {
            connection_id: (&*connection).into(),
            keep_alive_ms: cx.limits.keep_alive_ms,
            client_id: (&*bearer.user).into(),
        });
        self.principal = Some(Principal::new(bearer, connection, Resume::Connection, Link::Web));
        SessionOutput::Greeted(arrival)
    }

    /// Checks a request and puts it in the words of channels.
    fn prepare<'m>(
        &self,
        cx: &mut SessionContext<'_>,
        request: Request<'m>,
    ) -> Result<(Cow<'m, str>, Asked), Refusal> {
        match request {
            Request::Auth(_) | Request::Ping => Err(Refusal::Reject(Reject::Unsupported)),
            Request::Subscribe { channel, cursor, .. } => {
                self.check(cx, &channel, Some(Operation::Subscribe))?;
                let scope = self.scope(&channel);
                Ok((channel, Asked::Subscribe { after: position(cursor), scope }))
            }
            Request::Unsubscribe { channel, .. } => {
                self.check(cx, &channel, None)?;
                Ok((channel, Asked::Unsubscribe))
            }
            Request::Publish(publish) => {
                self.check(cx, &publish.channel, Some(Operation::Publish))?;
                let channel = publish.channel.clone();
                Ok((channel, Asked::Publish(Box::new(self.draft(cx, publish)?))))
            }
            Request::Presence(presence) => {
                self.check(cx, &presence.channel, Some(Operation::PresenceEnter))?;
                self.prepare_presence(cx, presence)
            }
            Request::PresenceSubscribe { channel, .. } => {
                self.check(cx, &channel, Some(Operation::PresenceSubscribe))?;
                Ok((channel, Asked::Watch))
            }
            Request::PresenceUnsubscribe { channel, .. } => {
                self.check(cx, &channel, None)?;
                Ok((channel, Asked::Unwatch))
            }
            Request::History { channel, limit, before, .. } => {
                self.check(cx, &channel, Some(Operation::History))?;
                let limit = match limit {
                    0 => HISTORY_LIMIT_DEFAULT,
                    limit => limit.min(HISTORY_LIMIT_MAX as u64) as usize,
                };
                Ok((channel, Asked::History { limit, before: position(before) }))
            }
            Request::Fetch { channel, from_serial, .. } => {
                self.check(cx, &channel, Some(Operation::Subscribe))?;
                Ok((channel, Asked::Fetch { after: from_serial }))
            }
        }
    }

    fn prepare_presence<'m>(
        &self,
        cx: &SessionContext<'_>,
        presence: foony::Presence<'m>,
    ) -> Result<(Cow<'m, str>, Asked), Refusal> {
        if presence.action == Action::Leave {
            return Ok((presence.channel, Asked::Leave));
        }
        if presence.data.len() + presence.encoding.len() > cx.limits.state_bytes_max {
            return Err(Refusal::Reject(Reject::StateTooLarge));
        }
        let data = Bytes::copy_from_slice(presence.data);
        let state = State::from_json(JsonState { data, encoding: presence.encoding.into() });
        Ok((presence.channel, Asked::Announce(state)))
    }

    /// May this be done to this channel, if it is a channel at all?
    fn check(
        &self,
        cx: &SessionContext<'_>,
        channel: &str,
        operation: Option<Operation>,
    ) -> Result<(), Refusal> {
        let grammar = match self.form {
            Form::Json => Grammar::ColonsOrDots,
            Form::Records | Form::Stream => Grammar::Colons,
        };
        let most = cx.limits.channel_name_bytes_max;
        check_channel_name(channel, grammar, most).map_err(Refusal::Reject)?;
        operation.map_or(Ok(()), |operation| self.allows(channel, operation))
    }

    /// Whether the session may know who is in a channel.
    pub fn may_see_members(&self, channel: &str) -> bool {
        self.allows(channel, Operation::PresenceSubscribe).is_ok()
    }

    fn allows(&self, channel: &str, operation: Operation) -> Result<(), Refusal> {
        let Some(principal) = &self.principal else { return Ok(()) };
        principal.grant.capability.allows(channel, operation).map_err(Refusal::Denied)
    }

    /// JSON clients are sent the presence of every channel that they subscribe to
    /// (`protocols/foony.md` section 2.1), as far as they may see it.
    fn scope(&self, channel: &str) -> Scope {
        match self.form {
            Form::Json if self.allows(channel, Operation::PresenceSubscribe).is_ok() => {
                Scope::MessagesAndPresence
            }
            _ => Scope::Messages,
        }
    }

    fn draft(
        &self,
        cx: &mut SessionContext<'_>,
        publish: foony::Publish<'_>,
    ) -> Result<Draft, Refusal> {
        let content = publish.content;
        let too_large = |message: &foony::Message<'_>| {
            let bytes = message.name.len() + message.data.len() + message.encoding.len();
            bytes > cx.limits.publish_bytes_max
        };
        let is_too_large = content.messages().iter().any(too_large);
        if is_too_large || publish.message_id.len() > MESSAGE_ID_BYTES_MAX {
            return Err(Refusal::Reject(Reject::MessageTooLarge));
        }
        let client_id = self.principal.as_ref().map(|p| Arc::clone(&p.identity.user));
        let id = match publish.message_id.is_empty() {
            // Clients before SDK 0.4 send none, but receive one.
            true => format!("{}-{}", cx.now.wall_ms, &cx.names.next_name()[..8]).into(),
            false => publish.message_id.into(),
        };
        Ok(Draft {
            id,
            client_id: client_id.unwrap_or_default(),
            content: match content.unwrapped() {
                foony::Content::One(message) => Content::One(part(message)),
                foony::Content::Batch(messages) => {
                    Content::Batch(messages.into_iter().map(part).collect())
                }
            },
            storage: if publish.ephemeral { Storage::Ephemeral } else { Storage::Stored },
        })
    }
}

/// The code of an operation that the capability does not cover.
pub fn denied_code(denied: Denied) -> ErrorCode {
    match denied {
        Denied::NoPattern => ErrorCode::ChannelDenied,
        Denied::NotThisOperation => ErrorCode::Capability,
    }
}

/// Answers what could not be read.
fn refuse_malformed(malformed: Malformed, out: &mut Writer<'_>) -> SessionOutput<'static> {
    let message = malformed.error.to_string().into();
    out.event(&Event::Error { id: malformed.id, code: ErrorCode::BadFrame, message });
    SessionOutput::Ignored(Ignored::Malformed(malformed.error))
}

fn refuse(id: u64, refusal: &Refusal, out: &mut Writer<'_>) -> SessionOutput<'static> {
    let (code, message, reject) = match refusal {
        Refusal::Reject(reject) => (ErrorCode::from(*reject), reject.to_string(), *reject),
        Refusal::Denied(denied) => (denied_code(*denied), denied.to_string(), Reject::Forbidden),
        Refusal::Credential(error) => {
            let (reject, reason) = (Reject::from(*error), error.reason());
            (ErrorCode::from(reject), format!("invalid key or token: {reason}"), reject)
        }
    };
    out.event(&Event::Error { id, code, message: message.into() });
    SessionOutput::Ignored(Ignored::Refused(reject))
}

/// The user whom the credential names. A key may speak for anybody; a token for its subject only.
/// Who presents a key and no name is named after its connection, `name` or the one that it shows:
/// clients that are given a name do not say it when they return.
fn identify(
    cx: &SessionContext<'_>,
    auth: &Auth<'_>,
    name: &str,
    guests: Guests,
) -> Result<Bearer, CredentialError> {
    let keyring = &cx.settings.keyring;
    if guests == Guests::Named
        && auth.token.is_empty()
        && auth.key.is_empty()
        && let Some(grant) = cx.settings.anonymous.as_ref().filter(|_| cx.origin != Origin::Foreign)
    {
        let user = earlier_name(cx, auth, &grant.app, guest_named_after);
        let user = user.unwrap_or_else(|| guest_named_after(name)).into();
        let grant = Arc::clone(grant);
        return Ok(Bearer { user, grant, expires_at_wall_ms: None, metadata: None });
    }
    if auth.token.is_empty() {
        let key = keyring.verify_key(&auth.key).map_err(CredentialError::of_key)?;
        if !auth.client_id.is_empty() {
            return key.identity(&auth.client_id);
        }
        let earlier = earlier_name(cx, auth, key.app(), client_named_after);
        return key.identity(&earlier.unwrap_or_else(|| client_named_after(name)));
    }
    let bearer = keyring.verify_token(&auth.token, cx.now.wall_ms)?;
    if auth.client_id.len() > USER_ID_BYTES_MAX {
        return Err(CredentialError::Subject);
    }
    if !auth.client_id.is_empty() && *auth.client_id != *bearer.user {
        return Err(CredentialError::OtherSubject);
    }
    Ok(bearer)
}

/// The name that a client without one was given on the connection that it shows.
fn earlier_name(
    cx: &SessionContext<'_>,
    auth: &Auth<'_>,
    app: &str,
    named_after: impl Fn(&str) -> String,
) -> Option<String> {
    let shown = &*auth.resume_connection_id;
    let is_ours =
        |client: &String| connection_id::is_ours(cx.settings.connection_key, app, client, shown);
    connection_id::name_in(shown).map(named_after).filter(is_ours)
}

fn guest_named_after(connection: &str) -> String {
    format!("anonymous-{}", &connection[..8])
}

fn client_named_after(connection: &str) -> String {
    format!("client-{}", &connection[..8])
}

fn position(cursor: Cursor<'_>) -> Option<Position> {
    match cursor {
        Cursor::None => None,
        Cursor::Serial(serial) => Some(Position::Serial(serial)),
        Cursor::MessageId(id) => Some(Position::MessageId(id.into())),
    }
}

fn part(message: foony::Message<'_>) -> Part {
    Part {
        name: message.name.into(),
        data: Bytes::copy_from_slice(message.data),
        encoding: message.encoding.into(),
    }
}
