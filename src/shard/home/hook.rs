//! What the admission hook of the server decides before it happens: a greeting, and requests that
//! publish, subscribe or enter a channel. Greetings of devices are held for the document relay too.
//!
//! The shard asks with an envelope to the edge and holds what was asked for. Whatever else arrives
//! from that connection waits behind it, in order, within the bounds of its input: a connection
//! with more than `message_bytes_max` unread is closed as slow. Others are not affected. The edge
//! answers every question, in time; what a connection asked for that has ended is not carried out.
//! A socket that fails meanwhile is lost, although a Close of the client may be what waits: its
//! members keep their places for the grace.
//!
//! Not asked about: what gives something up; the state of a session that is a member already;
//! reading a channel that the session subscribes to; members that a session gets back.

use std::sync::Arc;

use enumset::enum_set;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use super::placement::Placed;
use crate::counters::Ignored;
use crate::error::{Disconnect, Reject};
use crate::ids::{ChannelKey, ConnId};
use crate::policy::AdmitKind;
use crate::session::{Answer, Arrival, Denial, Feed, FeedSet, Framing, Request};
use crate::shard::context::ShardContext;
use crate::shard::envelope::Envelope;
use crate::shard::question::{Question, Verdict};

/// Feeds that a session has subscribed to by itself.
const ASKED_FOR: FeedSet = enum_set!(Feed::MESSAGES | Feed::PRESENCE_CHANGES);

/// A question that is open, and what its verdict decides.
#[derive(Debug)]
pub struct Asked {
    number: u64,
    held: Held,
}

/// What waits for a verdict.
#[derive(Debug)]
pub enum Held {
    /// `answer`: what the session has answered, framed.
    Greeting {
        arrival: Arrival,
        answer: Vec<u8>,
    },
    Request {
        id: u64,
        key: Arc<ChannelKey>,
        request: Request,
    },
}

impl Connection {
    /// True while a question about it is open: nothing else that it has sent is acted on.
    pub(super) fn awaits_verdict(&self) -> bool {
        self.cold().is_some_and(|cold| cold.asked.is_some())
    }

    /// True while what arrives has to wait.
    pub(super) fn is_held(&self) -> bool {
        self.awaits_verdict() || self.has_backlog()
    }
}

impl Home {
    /// Asks about a greeting, which `reply` answers. Memberships under an earlier identity end.
    pub(super) fn ask_greeting(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        arrival: Arrival,
    ) {
        self.leave_all(cx, conn, Disconnect::Clean);
        let answer = std::mem::take(&mut self.reply);
        self.ask(cx, conn, AdmitKind::Connect, None, Held::Greeting { arrival, answer });
    }

    /// Carries a request out, or begins to, or asks whether it may be. Refused ones are answered.
    pub(super) fn begin_request(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        id: u64,
        key: Arc<ChannelKey>,
        request: Request,
    ) -> Placed {
        let asks = cx.settings.asks;
        if !asks.is_empty()
            && let Some(kind) = self.kind_of(conn, &key, &request)
            && asks.contains(kind)
        {
            let channel = Some(Arc::clone(&key));
            self.ask(cx, conn, kind, channel, Held::Request { id, key, request });
            return Placed::Waiting;
        }
        self.carry_out_or_refuse(cx, conn, id, key, request);
        Placed::Here
    }

    fn carry_out_or_refuse(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        id: u64,
        key: Arc<ChannelKey>,
        request: Request,
    ) {
        if let Err(reject) = self.carry_out(cx, conn, id, Arc::clone(&key), request) {
            self.answer(cx, conn, id, &key.name, &Answer::Refused(reject));
        }
    }

    /// What a request is to the hook; `None` when it is not its business.
    fn kind_of(&self, conn: &Connection, key: &ChannelKey, request: &Request) -> Option<AdmitKind> {
        let slot = self.channels.find_key(key);
        match request {
            Request::Publish(_) => Some(AdmitKind::Publish),
            Request::Announce(_) => {
                let is_member = slot.is_some_and(|slot| conn.is_member(slot));
                (!is_member).then_some(AdmitKind::Presence)
            }
            Request::Subscribe { .. }
            | Request::Watch
            | Request::History { .. }
            | Request::Fetch { .. } => {
                let is_to = |slot| {
                    let mut all = conn.warm.subscriptions.iter();
                    all.any(|s| s.channel() == slot && ASKED_FOR.contains(s.feed()))
                };
                (!slot.is_some_and(is_to)).then_some(AdmitKind::Subscribe)
            }
            // The last two only of members and subscribers, whom the hook has admitted.
            Request::Unsubscribe
            | Request::Unwatch
            | Request::Leave
            | Request::Direct(_)
            | Request::Check(_) => None,
        }
    }

    fn ask(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        kind: AdmitKind,
        channel: Option<Arc<ChannelKey>>,
        held: Held,
    ) {
        let number = self.hold(conn, held);
        let Some(principal) = conn.session().principal() else {
            debug_assert!(false, "a question without authentication");
            return;
        };
        let question = Question {
            addr: Home::addr(cx, conn.id),
            number,
            kind,
            identity: Arc::clone(&principal.identity),
            grant: Arc::clone(&principal.grant),
            peer: conn.session().peer().cloned(),
            channel,
            protocol: conn.session().protocol(),
            framing: if conn.flags.long_poll { Framing::WebSocket } else { conn.framing() },
            ip: None,
        };
        cx.outbox.send(cx.settings.edge, Envelope::Ask(Box::new(question)));
    }

    /// Holds something until the question of the number that is returned is answered.
    pub(super) fn hold(&mut self, conn: &mut ActiveConnection, held: Held) -> u64 {
        let number = self.admission.next_question();
        conn.cold_mut().asked = Some(Box::new(Asked { number, held }));
        number
    }

    /// What waits for the answer to this question, if it still does.
    pub(super) fn take_held(&mut self, conn: &mut ActiveConnection, number: u64) -> Option<Held> {
        let asked = conn.take_cold(|cold| cold.asked.take_if(|asked| asked.number == number));
        let held = asked.flatten()?.held;
        self.admission.begin_input();
        Some(held)
    }

    /// A verdict arrives. It is without effect when its connection has ended meanwhile.
    pub(super) fn handle_verdict(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        number: u64,
        verdict: Verdict,
    ) {
        self.with(cx, id, |home, cx, conn| home.settle(cx, conn, number, verdict));
    }

    fn settle(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        number: u64,
        verdict: Verdict,
    ) {
        let Some(held) = self.take_held(conn, number) else { return };
        if matches!(verdict, Verdict::Denied(_)) {
            cx.counters.ignore(Ignored::Refused(Reject::Denied));
        }
        match (held, verdict) {
            (Held::Greeting { arrival, answer }, Verdict::Allowed { metadata }) => {
                self.admit_greeting(cx, conn, metadata, arrival, answer);
            }
            (Held::Greeting { .. }, Verdict::Denied(denial)) => {
                self.deny_greeting(cx, conn, &denial);
            }
            (Held::Request { id, key, request }, Verdict::Allowed { .. }) => {
                self.carry_out_or_refuse(cx, conn, id, key, request);
            }
            (Held::Request { id, key, .. }, Verdict::Denied(denial)) => {
                self.answer(cx, conn, id, &key.name, &Answer::Denied(denial));
            }
        }
        self.answer_poll_connect(cx, conn);
        self.take_held_input(cx, conn);
    }

    fn admit_greeting(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        metadata: Option<Arc<str>>,
        arrival: Arrival,
        answer: Vec<u8>,
    ) {
        let principal = conn.warm.session.principal_mut();
        if let (Some(principal), Some(metadata)) = (principal, metadata) {
            principal.describe(metadata);
        }
        if let Arrival::Replica(replica) = arrival {
            return self.greet_relay(cx, conn, arrival, replica, answer);
        }
        self.reply = answer;
        self.send_reply(cx, conn);
        self.greeted(cx, conn, arrival);
    }

    fn deny_greeting(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        denial: &Denial,
    ) {
        self.reply.clear();
        let output = conn.warm.session.deny(denial, &mut self.reply);
        self.send_reply(cx, conn);
        let placed = self.apply(cx, conn, output);
        debug_assert_eq!(placed, Placed::Here, "a refusal is no request");
    }

    /// Goes on with what has arrived while the question was open.
    pub(super) fn take_held_input(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if !conn.is_open() || self.drain.is_draining() {
            return;
        }
        if conn.has_backlog() {
            self.admission.schedule(cx, conn);
        } else if !conn.unread().is_empty() {
            self.take_bytes(cx, conn, &mut []);
        }
        self.end_if_answered(cx, conn);
    }
}
