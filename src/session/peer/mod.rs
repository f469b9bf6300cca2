//! A session of a peer of the presence graph: the binary protocol of Foony, on which the client
//! says more of itself and is sent more about members (`docs/protocol.md`).
//!
//! What a client can do wrong with the records of the extension is in a table there, in addition to
//! that of [`foony`](super::foony).

pub mod encode;

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::foony::Guests;
use super::foony::encode::{Form, Writer};
use super::{
    Answer, ChannelRequest, Decision, Denial, Dialect, DirectMessage, EdgeRequest, Feed, Feeds,
    Input, NO_REQUEST, Outcome, Principal, Request, SessionContext, SessionOutput, Silences, Taken,
    foony,
};
use crate::channel::{Asks, DERIVED_KEY_BYTES, Device, Identity, Peer, PeerKey, Resume};
use crate::counters::Ignored;
use crate::error::{Disconnect, Reject};
use crate::ids::Clocks;
use crate::limits::Limits;
use crate::signature::NONCE_BYTES;
use crate::wire::foony::peer::{
    Check, DEVICE_BYTES_MAX, DEVICE_NAME_BYTES_MAX, Direct, OS_BYTES_MAX, SDK_VERSION_BYTES_MAX,
};
use crate::wire::foony::{
    ErrorCode, Event, Malformed, PeerGreeting, PeerRequest, PeerUpdate, binary, peer as foony_peer,
};

/// Limits of the time that a client may take to decide who may connect to it, milliseconds.
const ASKS_MS: (u64, u64) = (100, 60_000);
/// Signed updates of one client that are verified in a second. Each takes about 0.1 ms.
const SIGNATURES_PER_SECOND_MAX: u32 = 200;
/// Longest reason of a denial in characters that is passed on.
const REASON_CHARS_MAX: usize = 200;

/// Protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    foony: foony::Session,
    /// Set from the first update on, which follows the greeting.
    known: Option<Box<Known>>,
}

const _: () = assert!(size_of::<Session>() <= 40, "part of every connection");

/// What the client has said.
#[derive(Debug)]
struct Known {
    device: Box<[u8]>,
    /// What a client that signs has to sign, to prove that it holds its key.
    nonce: [u8; NONCE_BYTES],
    /// Signed updates in this second.
    second: u64,
    signatures: u32,
    /// It has announced itself in a channel, or tried to. Its key does not change from then on.
    is_member: bool,
    peer: Arc<Peer>,
}

impl Known {
    /// Takes one signed update off the allowance of this second.
    fn spend_signature(&mut self, now: Clocks) -> Result<(), Reject> {
        let second = now.mono_ms / 1000;
        if self.second != second {
            (self.second, self.signatures) = (second, 0);
        }
        self.signatures += 1;
        if self.signatures > SIGNATURES_PER_SECOND_MAX { Err(Reject::Busy) } else { Ok(()) }
    }

    /// The peer in a channel. One that may not see the members there is not asked about them.
    fn as_member(&self, is_seeing: bool) -> Arc<Peer> {
        match is_seeing || self.peer.asks.is_none() {
            true => Arc::clone(&self.peer),
            false => Arc::new(Peer { asks: None, ..Peer::clone(&self.peer) }),
        }
    }

    /// Whether these signatures have been verified.
    fn has_verified(&self, update: &PeerUpdate<'_>) -> bool {
        let is_key =
            update.key.as_ref().map(|key| PeerKey::Public(key.public)) == Some(self.peer.key);
        is_key && update.signature == self.peer.signature && self.peer.metadata == *update.metadata
    }
}

impl Session {
    /// A session that has not authenticated.
    pub fn new() -> Self {
        Session { foony: foony::Session::new(Form::Records, Guests::Named), known: None }
    }

    fn handle_peer(
        &mut self,
        cx: &mut SessionContext<'_>,
        request: PeerRequest<'_>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'static> {
        match request {
            PeerRequest::Update(update) => self.update(cx, &update, out),
            PeerRequest::Decide { request, decision } => {
                SessionOutput::Decided { request, decision: self::decision(decision) }
            }
            PeerRequest::Direct(direct) => match self.direct(cx, &direct) {
                Ok(request) => SessionOutput::Request(request),
                Err(reject) => refuse(direct.id, reject, out),
            },
            PeerRequest::Check(Check { id, channel, buckets }) => {
                let (channel, request) = (channel.into_owned().into(), buckets.into_boxed_slice());
                let request = Request::Check(request);
                SessionOutput::Request(ChannelRequest { id, channel, request })
            }
            PeerRequest::Took { number, is_taken } => {
                let outcome = if is_taken { Outcome::Taken } else { Outcome::NotTaken };
                SessionOutput::Took { number, outcome }
            }
        }
    }

    fn direct(
        &self,
        cx: &SessionContext<'_>,
        direct: &Direct<'_>,
    ) -> Result<ChannelRequest<'static>, Reject> {
        let known = self.known.as_ref().ok_or(Reject::Unauthenticated)?;
        if !self.foony.may_see_members(&direct.channel) {
            return Err(Reject::Forbidden);
        }
        let to = direct.to.try_into()?;
        if direct.name.len() + direct.data.len() > cx.limits.publish_bytes_max {
            return Err(Reject::MessageTooLarge);
        }
        let message = DirectMessage {
            to,
            from: known.peer.key,
            name: (&*direct.name).into(),
            data: Bytes::copy_from_slice(direct.data),
        };
        let channel = direct.channel.clone().into_owned().into();
        Ok(ChannelRequest { id: direct.id, channel, request: Request::Direct(Arc::new(message)) })
    }

    fn update(
        &mut self,
        cx: &mut SessionContext<'_>,
        update: &PeerUpdate<'_>,
        out: &mut Vec<u8>,
    ) -> SessionOutput<'static> {
        match self.accept(cx, update) {
            Ok(Known { peer, nonce, .. }) => {
                let out = &mut Writer::new(Form::Records, out);
                if update.id == NO_REQUEST {
                    out.event(&Event::PeerGreeting(PeerGreeting {
                        key: &peer.key,
                        metadata_bytes_max: cx.settings.peer_metadata_bytes_max.into(),
                        peers_max: cx.settings.graph_peers_max.into(),
                        nonce,
                    }));
                } else {
                    out.event(&Event::Ack { id: update.id, serial: 0, resumed: None });
                }
                SessionOutput::PeerChanged(Arc::clone(peer))
            }
            Err(reject) => refuse(update.id, reject, out),
        }
    }

    fn accept(
        &mut self,
        cx: &mut SessionContext<'_>,
        update: &PeerUpdate<'_>,
    ) -> Result<&Known, Reject> {
        let principal = self.foony.principal().ok_or(Reject::Unauthenticated)?;
        if let Some(known) = self.known.as_mut().filter(|_| update.key.is_some()) {
            known.spend_signature(cx.now)?;
        }
        let known = self.known.as_deref();
        if known.is_some_and(|known| *known.device != *update.device) {
            return Err(Reject::Unsupported);
        }
        check_lengths(update, cx.settings.peer_metadata_bytes_max)?;
        if known.is_none_or(|known| !known.has_verified(update)) {
            check_signatures(update, known)?;
        }
        let peer = Arc::new(Peer {
            key: match &update.key {
                Some(key) => PeerKey::Public(key.public),
                None => derived_key(&principal.grant.app, &principal.identity.user, &update.device),
            },
            signature: update.signature.clone(),
            device_name: (&*update.device_name).into(),
            os: (&*update.os).into(),
            sdk_version: (&*update.sdk_version).into(),
            metadata: Bytes::copy_from_slice(&update.metadata),
            asks: (update.asks_ms > 0).then(|| Asks {
                timeout_ms: update.asks_ms.clamp(ASKS_MS.0, ASKS_MS.1) as u32,
                handler: update.handler,
            }),
        });
        let known = self.known.get_or_insert_with(|| {
            let (device, nonce) = ((&*update.device).into(), nonce(cx));
            let (second, signatures) = (0, 0);
            let peer = Arc::clone(&peer);
            Box::new(Known { device, nonce, second, signatures, is_member: false, peer })
        });
        known.peer = peer;
        Ok(known)
    }

    /// A member of this session is this peer.
    fn with_peer<'m>(&mut self, output: SessionOutput<'m>) -> SessionOutput<'m> {
        match (output, &mut self.known) {
            (SessionOutput::Request(ChannelRequest { id, channel, request }), Some(known)) => {
                let request = match request {
                    Request::Announce(state) => {
                        known.is_member = true;
                        let is_seeing = self.foony.may_see_members(&channel);
                        Request::Announce(state.of_peer(known.as_member(is_seeing)))
                    }
                    request => request,
                };
                SessionOutput::Request(ChannelRequest { id, channel, request })
            }
            (output, _) => output,
        }
    }
}

impl Dialect for Session {
    fn handle<'m>(
        &mut self,
        cx: &mut SessionContext<'_>,
        input: Input<'m>,
        out: &mut Vec<u8>,
    ) -> Taken<'m> {
        let mut records = binary::records(input.bytes);
        if let Some(Ok(record)) = records.next()
            && let Some(request) = record.peer_request()
        {
            let bytes = input.bytes.len() - records.rest().len();
            let output = match request {
                Ok(request) => self.handle_peer(cx, request, out),
                Err(error) => malformed(&error, out),
            };
            return Taken { bytes, output };
        }
        let Taken { bytes, output } = self.foony.handle(cx, input, out);
        Taken { bytes, output: self.with_peer(output) }
    }

    fn answer(&self, now: Clocks, id: u64, channel: &str, answer: &Answer, out: &mut Vec<u8>) {
        match answer {
            Answer::NotTaken { denial, why } => {
                encode::direct_refused(now, id, denial.as_ref(), why, out);
            }
            Answer::Checked(members) => {
                out.extend_from_slice(members);
                self.foony.answer(now, id, channel, &Answer::Done, out);
            }
            answer => self.foony.answer(now, id, channel, answer, out),
        }
    }

    fn edge_request(&self, request: u64, edge: &EdgeRequest, out: &mut Vec<u8>) {
        encode::edge_request(request, edge, out);
    }

    fn direct_message(&self, number: u64, message: &DirectMessage, out: &mut Vec<u8>) {
        encode::direct_message(number, message, out);
    }

    fn farewell(&self, reason: Disconnect, out: &mut Vec<u8>) {
        self.foony.farewell(reason, out);
    }

    fn principal(&self) -> Option<&Principal> {
        self.foony.principal()
    }

    fn principal_mut(&mut self) -> Option<&mut Principal> {
        self.foony.principal_mut()
    }

    fn deny(&mut self, denial: &Denial, out: &mut Vec<u8>) -> SessionOutput<'static> {
        self.foony.deny(denial, out)
    }

    fn protocol(&self) -> &'static str {
        "peer"
    }

    fn peer(&self) -> Option<&Arc<Peer>> {
        self.known.as_ref().map(|known| &known.peer)
    }

    fn feeds(&self) -> Feeds {
        Feeds { presence: Some(Feed::FoonyPeers), ..self.foony.feeds() }
    }

    fn silences(&self, limits: &Limits, member_ping_ms: u64) -> Silences {
        self.foony.silences(limits, member_ping_ms)
    }

    fn keeps_members(&self, reason: Disconnect) -> bool {
        self.foony.keeps_members(reason)
    }

    fn is_goodbye(&self, code: u16) -> bool {
        self.foony.is_goodbye(code)
    }

    fn has_flow_control(&self) -> bool {
        self.foony.has_flow_control()
    }
}

fn decision(decision: foony_peer::Decision<'_>) -> Decision {
    match decision {
        foony_peer::Decision::Allow => Decision::Allow,
        foony_peer::Decision::Deny { reason, retry_after_ms } => Decision::Deny {
            reason: reason.chars().take(REASON_CHARS_MAX).collect::<String>().into(),
            retry_after_ms: Some(retry_after_ms).filter(|ms| *ms > 0),
        },
    }
}

fn check_lengths(update: &PeerUpdate<'_>, metadata_bytes_max: u32) -> Result<(), Reject> {
    let lengths = [
        (update.metadata.len(), metadata_bytes_max as usize),
        (update.device.len(), DEVICE_BYTES_MAX),
        (update.device_name.len(), DEVICE_NAME_BYTES_MAX),
        (update.os.len(), OS_BYTES_MAX),
        (update.sdk_version.len(), SDK_VERSION_BYTES_MAX),
    ];
    match lengths.iter().all(|(length, most)| length <= most) {
        true => Ok(()),
        false => Err(Reject::StateTooLarge),
    }
}

/// The client holds the key that it names, which is the same from its first membership on; and it
/// has signed this metadata, later than any before. `known`: before this update.
fn check_signatures(update: &PeerUpdate<'_>, known: Option<&Known>) -> Result<(), Reject> {
    let (Some(key), Some(signature)) = (&update.key, &update.signature) else {
        let has_signed = known.is_some_and(|known| known.peer.signature.is_some());
        let is_unsigned = update.key.is_none() && update.signature.is_none() && !has_signed;
        return if is_unsigned { Ok(()) } else { Err(Reject::BadSignature) };
    };
    let known = known.ok_or(Reject::BadSignature)?;
    let is_proven = known.peer.key == PeerKey::Public(key.public);
    if !is_proven && (known.is_member || known.peer.signature.is_some()) {
        return Err(Reject::Unsupported);
    }
    if !is_proven && !key.is_proven(&known.nonce)
        || !signature.is_valid(&key.public, &update.metadata)
    {
        return Err(Reject::BadSignature);
    }
    let newest = known.peer.signature.as_ref().map_or(0, |signature| signature.version);
    if signature.version < newest { Err(Reject::Replayed) } else { Ok(()) }
}

/// What a client that signs has to sign: known to nobody before, and not used again.
fn nonce(cx: &mut SessionContext<'_>) -> [u8; NONCE_BYTES] {
    let (a, b) = cx.settings.connection_key;
    let mut hash = Sha256::new_with_prefix("headcount peer nonce 1");
    for part in [a, b, cx.names.next_number(), cx.now.wall_ms] {
        hash.update(part.to_be_bytes());
    }
    hash.finalize().into()
}

fn refuse(id: u64, reject: Reject, out: &mut Vec<u8>) -> SessionOutput<'static> {
    let (code, message) = (ErrorCode::from(reject), reject.to_string().into());
    Writer::new(Form::Records, out).event(&Event::Error { id, code, message });
    SessionOutput::Ignored(Ignored::Refused(reject))
}

fn malformed(malformed: &Malformed, out: &mut Vec<u8>) -> SessionOutput<'static> {
    let (code, message) = (ErrorCode::BadFrame, malformed.error.to_string().into());
    Writer::new(Form::Records, out).event(&Event::Error { id: malformed.id, code, message });
    SessionOutput::Ignored(Ignored::Malformed(malformed.error))
}

/// The key of a member: the first half of a SHA-256 over the app, the user and the device, each
/// with its length before it. It is the same on every server.
fn derived_key(app: &str, user: &str, device: &[u8]) -> PeerKey {
    let mut hash = Sha256::new_with_prefix("headcount peer key 1");
    for part in [app.as_bytes(), user.as_bytes(), device] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut key = [0; DERIVED_KEY_BYTES];
    key.copy_from_slice(&hash.finalize()[..DERIVED_KEY_BYTES]);
    PeerKey::Derived(key)
}

/// The key of a member. Of those that speak another protocol, tabs of a user are one peer, and so
/// are the sessions of a device. `peer`: what it has said of itself.
pub fn key_of(app: &str, identity: &Identity, peer: Option<&Peer>) -> PeerKey {
    if let Some(peer) = peer {
        return peer.key;
    }
    let device = match identity.resume() {
        Resume::Device(Device { id, .. }) => Some(id),
        Resume::Connection | Resume::Never => None,
    };
    let device = device.as_deref().unwrap_or_default();
    derived_key(app, &identity.user, device.as_bytes())
}
