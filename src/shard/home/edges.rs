//! Peers that want to connect to a client which decides about them, and direct messages to clients.
//!
//! A client is asked once about each peer, whatever the channels that they share. Bounded by
//! [`EDGES_MAX`] and [`DIRECT_MAX`]; who is beyond is denied, or not taken.

use std::sync::Arc;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use crate::channel::{Asks, EdgeDenial, EdgeVerdict, Peer, PeerKey};
use crate::counters::Ignored;
use crate::ids::{ChannelKey, ConnAddr, ConnId};
use crate::session::{Answer, Decision, DirectMessage, EdgeRequest, Outcome};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, Envelope, ReplyTo};
use crate::shard::timers::Timer;

/// Peers about which a client decides.
const EDGES_MAX: usize = 16 * 1024;

/// Direct messages that a client has not taken yet.
const DIRECT_MAX: usize = 1024;

/// How long a client may leave a direct message.
const DIRECT_MS: u64 = 10_000;

/// What a connection has to decide, and has been handed.
#[derive(Debug, Default)]
pub struct Edges {
    /// Of the client, from when it first said it.
    asks: Option<Asks>,
    list: Vec<Edge>,
    direct: Vec<Handed>,
    requests: u64,
    /// When the timer is due that is set.
    timed_ms: Option<u64>,
}

#[derive(Debug)]
struct Edge {
    about: EdgeRequest,
    state: EdgeState,
    /// Channels that both share.
    channels: Vec<Arc<ChannelKey>>,
}

#[derive(Clone, Debug)]
enum EdgeState {
    /// The client is deciding.
    Asked {
        request: u64,
        until_ms: u64,
    },
    Allowed,
    /// `asked_ms`: when it is asked again.
    Denied {
        denial: EdgeDenial,
        asked_ms: u64,
    },
}

/// A direct message on its way to a client.
#[derive(Debug)]
struct Handed {
    number: u64,
    from: ConnAddr,
    request: u64,
    channel: Arc<ChannelKey>,
    until_ms: u64,
}

impl Edges {
    pub fn is_empty(&self) -> bool {
        self.asks.is_none() && self.list.is_empty() && self.direct.is_empty()
    }

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn find(&mut self, key: &PeerKey) -> Option<&mut Edge> {
        self.list.iter_mut().find(|edge| edge.about.key == *key)
    }

    fn next_due_ms(&self) -> Option<u64> {
        let edges = self.list.iter().filter_map(|edge| match edge.state {
            EdgeState::Asked { until_ms, .. } => Some(until_ms),
            EdgeState::Denied { asked_ms, .. } => Some(asked_ms),
            EdgeState::Allowed => None,
        });
        edges.chain(self.direct.iter().map(|handed| handed.until_ms)).min()
    }
}

impl Edge {
    fn verdict(&self) -> Option<EdgeVerdict> {
        match &self.state {
            EdgeState::Asked { .. } => None,
            EdgeState::Allowed => Some(EdgeVerdict::Allowed),
            EdgeState::Denied { denial, .. } => Some(EdgeVerdict::Denied(denial.clone())),
        }
    }
}

impl Home {
    /// The owner of a channel asks whether a peer may connect to this client.
    pub(super) fn edge_wanted(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        about: EdgeRequest,
    ) {
        let channel = Arc::clone(&about.channel);
        let edges = conn.edges_mut();
        if let Some(edge) = edges.find(&about.key) {
            if !edge.channels.contains(&channel) {
                edge.channels.push(Arc::clone(&channel));
            }
            if let Some(verdict) = edge.verdict() {
                send_verdict(cx, conn.id, &channel, about.key, verdict);
            }
            return;
        }
        if edges.list.len() >= EDGES_MAX {
            let denial = self.denial(cx, &channel, "too many peers".into(), None);
            return send_verdict(cx, conn.id, &channel, about.key, EdgeVerdict::Denied(denial));
        }
        let (key, channels) = (about.key, vec![channel]);
        edges.list.push(Edge { about, state: EdgeState::Allowed, channels });
        self.ask_client(cx, conn, &key);
        self.set_edge_timer(cx, conn);
    }

    /// A peer has left a channel that it shared with this client. A denial stays for its time; the
    /// client is asked again about a peer that it had admitted.
    pub(super) fn edge_unwanted(
        &mut self,
        conn: &mut ActiveConnection,
        channel: &ChannelKey,
        key: &PeerKey,
    ) {
        conn.take_cold(|cold| {
            let Some(edges) = &mut cold.edges else { return };
            if let Some(edge) = edges.find(key) {
                edge.channels.retain(|known| **known != *channel);
            }
            edges.list.retain(|edge| {
                !edge.channels.is_empty() || matches!(edge.state, EdgeState::Denied { .. })
            });
        });
    }

    /// A connection has arrived from another shard with what its client decides about. Without it
    /// every peer would be admitted.
    pub(super) fn adopt_edges(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        edges: Option<Box<Edges>>,
    ) {
        let Some(mut edges) = edges.filter(|edges| !edges.is_empty()) else { return };
        edges.timed_ms = None;
        conn.cold_mut().edges = Some(edges);
        self.set_edge_timer(cx, conn);
    }

    /// The client is another peer, or decides in another way. What it has admitted stays.
    pub(super) fn set_asks(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        peer: &Peer,
    ) {
        let earlier = conn.cold().and_then(|cold| cold.edges.as_ref()).and_then(|e| e.asks);
        if earlier == peer.asks {
            return;
        }
        let edges = conn.edges_mut();
        edges.asks = peer.asks;
        let is_open = |edge: &&Edge| !matches!(edge.state, EdgeState::Allowed);
        let open: Vec<PeerKey> =
            edges.list.iter().filter(is_open).map(|edge| edge.about.key).collect();
        for key in open {
            match peer.asks {
                Some(_) => self.ask_client(cx, conn, &key),
                None => self.decide(cx, conn, &key, EdgeState::Allowed),
            }
        }
        self.set_edge_timer(cx, conn);
    }

    /// The client's decision. One about a request that is over has no effect.
    pub(super) fn decided(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        request: u64,
        decision: Decision,
    ) {
        let is_asked = |edge: &&Edge| match edge.state {
            EdgeState::Asked { request: asked, .. } => asked == request,
            _ => false,
        };
        let edges = conn.cold().and_then(|cold| cold.edges.as_ref());
        let edge = edges.and_then(|edges| edges.list.iter().find(is_asked));
        let asked = edge.map(|edge| (edge.about.key, Arc::clone(&edge.about.channel)));
        let Some((key, channel)) = asked else { return cx.counters.ignore(Ignored::NotAsked) };
        let state = match decision {
            Decision::Allow => EdgeState::Allowed,
            Decision::Deny { reason, retry_after_ms } => {
                self.denied(cx, &channel, reason, retry_after_ms)
            }
        };
        self.decide(cx, conn, &key, state);
        self.set_edge_timer(cx, conn);
    }

    fn decide(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        key: &PeerKey,
        state: EdgeState,
    ) {
        let id = conn.id;
        let Some(edge) = conn.edges_mut().find(key) else { return };
        edge.state = state;
        if let Some(verdict) = edge.verdict() {
            for channel in &edge.channels {
                send_verdict(cx, id, channel, *key, verdict.clone());
            }
        }
    }

    fn ask_client(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection, key: &PeerKey) {
        let edges = conn.edges_mut();
        let Some(Asks { timeout_ms, .. }) = edges.asks else {
            return self.decide(cx, conn, key, EdgeState::Allowed);
        };
        let request = edges.next_request();
        let Some(edge) = edges.find(key) else { return };
        let until_ms = cx.now.mono_ms + u64::from(timeout_ms);
        edge.state = EdgeState::Asked { request, until_ms };
        let about = edge.about.clone();
        self.reply.clear();
        conn.session().edge_request(request, &about, &mut self.reply);
        self.send_reply(cx, conn);
    }

    /// A direct message to a client of this home.
    pub(super) fn deliver_direct(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        channel: Arc<ChannelKey>,
        (from, request): (ConnAddr, u64),
        message: &DirectMessage,
    ) {
        let Some(mut conn) = self.connections.check_out(id) else {
            return answer_direct(cx, &channel, from, request, NotTaken::Gone.answer());
        };
        self.hand_direct(cx, &mut conn, channel, (from, request), message);
        self.connections.check_in(conn);
    }

    /// Hands a direct message to the client, whose answer goes to the author.
    fn hand_direct(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        channel: Arc<ChannelKey>,
        (from, request): (ConnAddr, u64),
        message: &DirectMessage,
    ) {
        let waiting =
            conn.cold().and_then(|cold| cold.edges.as_ref()).map_or(0, |e| e.direct.len());
        if waiting >= DIRECT_MAX || !conn.is_open() {
            return answer_direct(cx, &channel, from, request, NotTaken::Busy.answer());
        }
        let until_ms = cx.now.mono_ms + DIRECT_MS;
        let edges = conn.edges_mut();
        let number = edges.next_request();
        edges.direct.push(Handed { number, from, request, channel, until_ms });
        self.reply.clear();
        conn.session().direct_message(number, message, &mut self.reply);
        self.send_reply(cx, conn);
        self.set_edge_timer(cx, conn);
    }

    /// The client has taken a direct message, or not.
    pub(super) fn direct_taken(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        number: u64,
        outcome: Outcome,
    ) {
        let handed = conn.take_cold(|cold| {
            let edges = cold.edges.as_mut()?;
            let at = edges.direct.iter().position(|handed| handed.number == number)?;
            Some(edges.direct.remove(at))
        });
        let Some(Some(Handed { from, request, channel, .. })) = handed else {
            return cx.counters.ignore(Ignored::NotAsked);
        };
        let answer = match outcome {
            Outcome::Taken => Answer::Done,
            Outcome::NotTaken => NotTaken::NoObserver.answer(),
        };
        answer_direct(cx, &channel, from, request, answer);
    }

    /// The connection ends: the authors of what it was handed learn that it was not taken.
    pub(super) fn drop_edges(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let edges = conn.take_cold(|cold| cold.edges.take()).flatten();
        for handed in edges.map(|edges| edges.direct).unwrap_or_default() {
            let Handed { from, request, channel, .. } = handed;
            answer_direct(cx, &channel, from, request, NotTaken::Gone.answer());
        }
    }

    /// Deadlines of decisions, denials and direct messages.
    pub(super) fn edges_due(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let now_ms = cx.now.mono_ms;
        let Some(edges) = conn.edges_mut_if_any() else { return };
        edges.timed_ms = None;
        let mut late = Vec::new();
        let mut again = Vec::new();
        for edge in &edges.list {
            match edge.state {
                EdgeState::Asked { until_ms, .. } if until_ms <= now_ms => {
                    late.push((edge.about.key, Arc::clone(&edge.about.channel)));
                }
                EdgeState::Denied { asked_ms, .. } if asked_ms <= now_ms => {
                    again.push(edge.about.key);
                }
                _ => {}
            }
        }
        edges.list.retain(|edge| !(edge.channels.is_empty() && again.contains(&edge.about.key)));
        let overdue: Vec<u64> = edges
            .direct
            .iter()
            .filter(|handed| handed.until_ms <= now_ms)
            .map(|handed| handed.number)
            .collect();
        for (key, channel) in late {
            let state = self.denied(cx, &channel, "no answer in time".into(), None);
            self.decide(cx, conn, &key, state);
        }
        for key in again {
            self.ask_client(cx, conn, &key);
        }
        for number in overdue {
            self.direct_taken(cx, conn, number, Outcome::NotTaken);
        }
        self.set_edge_timer(cx, conn);
    }

    fn denied(
        &mut self,
        cx: &ShardContext,
        channel: &ChannelKey,
        reason: Arc<str>,
        retry_after_ms: Option<u64>,
    ) -> EdgeState {
        let denial = self.denial(cx, channel, reason, retry_after_ms);
        // Up to a quarter later, so that those who were denied together do not come back together.
        let wait_ms = denial.until_ms - cx.now.mono_ms;
        let jitter_ms = self.names.next_number() % (wait_ms / 4 + 1);
        EdgeState::Denied { asked_ms: denial.until_ms + jitter_ms, denial }
    }

    fn denial(
        &self,
        cx: &ShardContext,
        channel: &ChannelKey,
        reason: Arc<str>,
        retry_after_ms: Option<u64>,
    ) -> EdgeDenial {
        const RETRY_MS_MAX: u64 = 24 * 3600 * 1000;
        let policy = cx.settings.policies.for_channel(&channel.name);
        let retry_ms = retry_after_ms.unwrap_or(policy.deny_ttl_ms).min(RETRY_MS_MAX);
        EdgeDenial { reason, until_ms: cx.now.mono_ms + retry_ms }
    }

    fn set_edge_timer(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        let id = conn.id;
        let Some(edges) = conn.edges_mut_if_any() else { return };
        let Some(due_ms) = edges.next_due_ms() else { return };
        if edges.timed_ms.is_none_or(|timed_ms| due_ms < timed_ms) {
            edges.timed_ms = Some(due_ms);
            cx.timers.set(due_ms, Timer::Edges { conn: id });
        }
    }
}

/// Why nobody took a direct message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    NoObserver,
    Busy,
    Gone,
    NotInChannel,
}

impl NotTaken {
    pub fn answer(self) -> Answer {
        let why = match self {
            NotTaken::NoObserver => "the peer takes no direct messages",
            NotTaken::Busy => "the peer has too many direct messages to take",
            NotTaken::Gone => "the peer's connection ended",
            NotTaken::NotInChannel => "the peer is not a member of the channel",
        };
        Answer::NotTaken { denial: None, why }
    }
}

impl Connection {
    fn edges_mut(&mut self) -> &mut Edges {
        self.cold_mut().edges.get_or_insert_default()
    }

    fn edges_mut_if_any(&mut self) -> Option<&mut Edges> {
        self.cold()?.edges.as_ref()?;
        Some(self.edges_mut())
    }
}

fn send_verdict(
    cx: &mut ShardContext,
    id: ConnId,
    channel: &Arc<ChannelKey>,
    about: PeerKey,
    verdict: EdgeVerdict,
) {
    let (owner, addr) = (Home::owner_of(cx, channel), Home::addr(cx, id));
    cx.command(owner, Arc::clone(channel), Command::Verdict { addr, about, verdict });
}

fn answer_direct(
    cx: &mut ShardContext,
    channel: &Arc<ChannelKey>,
    from: ConnAddr,
    request: u64,
    answer: Answer,
) {
    let to = ReplyTo::Session { conn: from.conn, request };
    let channel = Arc::clone(channel);
    cx.outbox.send(from.shard, Envelope::Answer { to, channel, answer });
}
