//! The state of a client across its connections: what the program wants, what the server has
//! confirmed, and what is said again on a new connection. Without I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::command::{Command, HandleId};
use super::direct::{direct_error, wire};
use super::membership::{Announced, Membership};
use super::messages::{Fetch, Group, Messages, Phase};
use super::mirror::Mirror;
use super::publishing::Publishing;
use super::roster::Roster;
use crate::client::graph::PresenceGraph;
use crate::client::member::{LeaveReason, Present};
use crate::client::message::{HistoryPage, HistoryQuery, Published, messages_of};
use crate::client::pending::Completer;
use crate::client::protocol::{Event, Outbound};
use crate::client::{ClientError, Result};
use crate::wire::foony::binary::Deliveries;
use crate::wire::foony::{self, Action, Auth, Cursor, ErrorCode, PeerRequest, Presence, Request};

/// How long to wait after a server that limits the rate, which does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Request id of what is answered with an event of its own.
const NOT_ANSWERED: u64 = 0;

/// One channel, as far as this client has to do with it.
#[derive(Default)]
pub(super) struct Channel {
    messages: Messages,
    pub roster: Roster,
    pub membership: Option<Membership>,
}

/// A request that the server has not answered on this connection.
pub(super) enum Asked {
    Publish,
    Subscribe(String),
    /// The newest message of a channel, to know where a subscription began.
    Head(String),
    /// Messages that were missed, by all subscriptions or by one.
    Fetch(String, Option<HandleId>),
    History(String, HistoryQuery, Completer<HistoryPage>),
    Watch(String),
    /// To compare the members of a channel.
    Check(String),
    Announce(Announced),
    Leave(String, Completer<()>),
    Direct(Completer<()>),
    PeerUpdate,
    /// Something was given up.
    Release,
}

/// The state of a client across its connections.
pub(super) struct Core {
    pub channels: BTreeMap<String, Channel>,
    /// In the order in which they were made.
    publishing: VecDeque<Publishing>,
    pub asked: HashMap<u64, Asked>,
    /// Requests that are made once the client is live.
    pub waiting: Vec<Command>,
    /// Completed when the client is live.
    ready: Vec<Completer<()>>,
    /// Completed when the server has what this client says of itself.
    synced: Vec<Completer<()>>,
    /// The server of this connection has refused what this client says of itself.
    update_refused: Option<ClientError>,
    is_greeted: bool,
    is_live: bool,
    /// Some request to join is confirmed, and not complete.
    pub is_joining: bool,
    /// Memberships so far.
    pub memberships: u64,
    /// Why the server does not take this client for a peer.
    refused: Option<String>,
    pub mirror: Mirror,
}

impl Core {
    pub fn new(mirror: Mirror) -> Self {
        Core {
            channels: BTreeMap::new(),
            publishing: VecDeque::new(),
            asked: HashMap::new(),
            waiting: Vec::new(),
            ready: Vec::new(),
            synced: Vec::new(),
            update_refused: None,
            is_greeted: false,
            is_live: false,
            is_joining: false,
            memberships: 0,
            refused: None,
            mirror,
        }
    }

    /// Says who the client is, in one message. A server without the graph extension ignores the
    /// second record.
    pub fn greet(&self, auth: Auth<'_>, out: &mut Outbound) {
        out.auth(auth);
        out.send_peer(&PeerRequest::Update(self.mirror.first_update(NOT_ANSWERED)));
    }

    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Operations that are under way.
    pub fn outstanding(&self) -> usize {
        self.publishing.len() + self.asked.len() + self.waiting.len()
    }

    /// The server has greeted.
    pub fn handle_greeted(&mut self) {
        self.is_greeted = true;
    }

    /// Whether everything that the server has to say first has been said.
    pub fn can_begin(&self) -> bool {
        self.is_greeted && !self.is_live && !self.mirror.awaits_greeting()
    }

    /// Why the client cannot begin on this connection.
    pub fn take_refusal(&mut self) -> Option<ClientError> {
        self.refused.take().map(|why| ClientError::Unreachable { why })
    }

    /// Asks for everything again.
    pub fn begin(&mut self, out: &mut Outbound) {
        self.is_live = true;
        self.update_refused = None;
        if self.mirror.has_more_to_say() {
            self.send_peer_update(out);
        }
        for name in self.channels.keys().cloned().collect::<Vec<_>>() {
            self.settle(&name, out);
        }
        for publishing in &mut self.publishing {
            publishing.request = publishing.send(out);
            self.asked.insert(publishing.request, Asked::Publish);
        }
        for command in std::mem::take(&mut self.waiting) {
            match command {
                // What was announced since has been sent.
                Command::Leave { channel, completer } if self.is_member(&channel) => {
                    completer.complete(Ok(()));
                }
                command => self.handle_command(command, Some(out)),
            }
        }
        self.ready.drain(..).for_each(|ready| ready.complete(Ok(())));
        if !self.is_update_pending() {
            self.synced.drain(..).for_each(|synced| synced.complete(Ok(())));
        }
    }

    /// The connection is lost. What was not answered is asked again on the next one.
    pub fn handle_disconnected(&mut self) {
        self.is_live = false;
        self.is_greeted = false;
        self.mirror.handle_disconnected();
        for channel in self.channels.values_mut() {
            channel.messages.disconnect();
            channel.roster.disconnect();
            if let Some(membership) = &mut channel.membership {
                membership.is_sent = false;
                membership.is_accepted_here = false;
            }
        }
        for (_, asked) in std::mem::take(&mut self.asked) {
            match asked {
                Asked::History(channel, query, completer) => {
                    self.waiting.push(Command::History { channel, query, completer });
                }
                Asked::Leave(channel, completer) => {
                    self.waiting.push(Command::Leave { channel, completer });
                }
                Asked::Announce(announced) => self.announce_again(announced),
                Asked::Direct(completer) => {
                    let why = "the connection was lost".to_owned();
                    completer.complete(Err(ClientError::PeerUnavailable { why }));
                }
                _ => {}
            }
        }
    }

    /// The client is closed: every operation fails.
    pub fn close(&mut self, error: &ClientError) {
        for publishing in self.publishing.drain(..) {
            publishing.completer.complete(Err(error.clone()));
        }
        for ready in self.ready.drain(..).chain(self.synced.drain(..)) {
            ready.complete(Err(error.clone()));
        }
        for (_, channel) in std::mem::take(&mut self.channels) {
            let Channel { mut messages, mut roster, membership } = channel;
            messages.refused(error);
            roster.refused(error);
            let confirmations = membership.map(|m| m.confirmations).unwrap_or_default();
            let joins = confirmations.into_iter().chain(roster.joins);
            joins.for_each(|join| join.complete(Err(error.clone())));
        }
        self.asked.clear();
        self.waiting.clear();
    }

    /// A request of the program. `out`: while live.
    pub fn handle_command(&mut self, command: Command, out: Option<&mut Outbound>) {
        match command {
            Command::Publish { channel, message_id, parts, completer } => {
                let request = 0;
                let mut new = Publishing { channel, message_id, parts, completer, request };
                if let Some(out) = out {
                    new.request = new.send(out);
                    self.asked.insert(new.request, Asked::Publish);
                }
                self.publishing.push_back(new);
            }
            Command::Ready(completer) if self.is_live => completer.complete(Ok(())),
            Command::Ready(completer) => self.ready.push(completer),
            Command::PeerChanged => {
                self.mirror.mark_changed();
                if let Some(out) = out {
                    self.send_peer_update(out);
                }
            }
            Command::PeerSynced(completer) => self.await_synced(completer),
            Command::History { .. } | Command::Direct { .. } if !self.is_live => {
                self.waiting.push(command);
            }
            Command::History { channel, query, completer } => {
                let Some(out) = out else { return };
                let (limit, before) = (query.limit, Cursor::at(query.before));
                let name = (&*channel).into();
                let id = out.request(|id| Request::History { id, channel: name, limit, before });
                self.asked.insert(id, Asked::History(channel, query, completer));
            }
            Command::Direct { to, part, completer } => {
                if let Some(out) = out {
                    self.send_direct(&to, &part, completer, out);
                }
            }
            Command::Decide { connection, request, decision } => {
                if let Some(out) = out.filter(|_| connection == self.mirror.connection()) {
                    out.send_peer(&PeerRequest::Decide { request, decision: wire(&decision) });
                }
            }
            Command::Close(_) => {}
            command => self.handle_channel_command(command, out),
        }
    }

    fn handle_channel_command(&mut self, command: Command, mut out: Option<&mut Outbound>) {
        let name = match command {
            Command::Subscribe { channel, id, after, sink, ready } => {
                let fetch = self.channel(&channel).messages.add(id, after, sink, ready);
                if let Some(out) = out.as_deref_mut() {
                    self.fetch(&channel, fetch, out);
                }
                channel
            }
            Command::Unsubscribe { channel, id } => {
                self.channel(&channel).messages.remove(id);
                channel
            }
            Command::Announce { channel, state, completer } => {
                self.announce(&channel, state, completer);
                channel
            }
            Command::Leave { channel, completer } => {
                self.leave(&channel, completer, out.as_deref_mut());
                channel
            }
            Command::Members { channel, completer } => {
                self.channel(&channel).roster.query(completer);
                channel
            }
            Command::Observe { channel, id, sink, ready } => {
                self.channel(&channel).roster.observe(id, sink, ready);
                channel
            }
            Command::Unobserve { channel, id } => {
                self.channel(&channel).roster.unobserve(id);
                channel
            }
            _ => return,
        };
        if let Some(out) = out {
            self.settle(&name, out);
        }
    }

    /// Asks the server for what is wanted of a channel, and gives up what is not.
    pub fn settle(&mut self, name: &str, out: &mut Outbound) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let asked = &mut self.asked;
        if channel.messages.is_wanted() && channel.messages.phase == Phase::Idle {
            subscribe(name, &mut channel.messages, asked, out);
        }
        let is_watched = channel.roster.is_wanted() || channel.membership.is_some();
        match (is_watched, channel.roster.phase) {
            (true, Phase::Idle) if !channel.roster.is_refused => {
                channel.roster.phase = Phase::Asked;
                let id = out.request(|id| Request::PresenceSubscribe { id, channel: name.into() });
                asked.insert(id, Asked::Watch(name.to_owned()));
            }
            (false, Phase::Asked | Phase::Live) => {
                channel.roster.stop();
                let id =
                    out.request(|id| Request::PresenceUnsubscribe { id, channel: name.into() });
                asked.insert(id, Asked::Release);
            }
            _ => {}
        }
        self.send_state(name, out);
        let Some(channel) = self.channels.get_mut(name) else { return };
        let asked = &mut self.asked;
        if !is_watched && !channel.messages.is_wanted() {
            if channel.messages.phase != Phase::Idle {
                let id = out.request(|id| Request::Unsubscribe { id, channel: name.into() });
                asked.insert(id, Asked::Release);
            }
            self.channels.remove(name);
        }
    }

    fn send_peer_update(&mut self, out: &mut Outbound) {
        let mirror = &self.mirror;
        let id = out.peer_request(|id| PeerRequest::Update(mirror.peer_update(id)));
        self.asked.insert(id, Asked::PeerUpdate);
    }

    fn await_synced(&mut self, completer: Completer<()>) {
        match self.is_live && !self.is_update_pending() {
            true => completer.complete(self.update_refused.clone().map_or(Ok(()), Err)),
            false => self.synced.push(completer),
        }
    }

    fn is_update_pending(&self) -> bool {
        self.asked.values().any(|asked| matches!(asked, Asked::PeerUpdate))
    }

    /// What the server sent after its greeting.
    pub fn handle_event(&mut self, event: Event<'_>, out: &mut Outbound) {
        match event {
            Event::Messages(deliveries) => self.handle_messages(deliveries, out),
            Event::Foony(event) => self.handle_foony(event, out),
            _ => {}
        }
    }

    fn handle_messages(&mut self, deliveries: Deliveries<'_>, out: &mut Outbound) {
        // What cannot be read leaves a gap, which is fetched.
        for delivery in deliveries.map_while(std::result::Result::ok) {
            let Ok(delivery) = delivery.read() else { continue };
            let group = messages_of(&delivery);
            let Some(channel) = self.channels.get_mut(&*delivery.channel) else { continue };
            if !group.is_empty() {
                let fetch = channel.messages.handle(group);
                self.fetch(&delivery.channel, fetch, out);
            }
        }
    }

    fn handle_foony(&mut self, event: foony::Event<'_>, out: &mut Outbound) {
        match event {
            foony::Event::Ack { id, serial, .. } => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.handle_ack(asked, id, serial, out);
                }
            }
            foony::Event::Error { id: NOT_ANSWERED, message, .. } if !self.is_live => {
                self.refused = Some(message.into_owned());
            }
            foony::Event::Error { id, code, message } => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.handle_refusal(asked, id, &refusal(code, &message), out);
                }
            }
            foony::Event::History { id, messages, more, .. } => {
                self.handle_history(id, &messages, more);
            }
            foony::Event::Fetched { id, messages, resumed, .. } => {
                let groups = if resumed { groups(&messages) } else { Vec::new() };
                if let Some(Asked::Fetch(channel, handle)) = self.asked.remove(&id) {
                    self.handle_fetched(&channel, handle, groups, out);
                }
            }
            foony::Event::Member(member) => {
                let (action, present) = (member.action, Present::plain(&member));
                self.handle_member(&member.channel, action, LeaveReason::Unknown, present);
            }
            foony::Event::PeerMember(peer) => {
                let (action, reason) = (peer.member.action, LeaveReason::of_code(peer.reason));
                let channel = self.channels.get(&*peer.member.channel);
                let known = channel.and_then(|channel| channel.roster.find(&peer.member));
                let present = Present::of_peer(&peer, known);
                self.handle_member(&peer.member.channel, action, reason, present);
            }
            foony::Event::EdgeRequest(request) => self.mirror.decide(&request),
            foony::Event::DirectMessage(message) => {
                let (number, is_taken) = (message.number, self.mirror.take_direct(&message));
                out.send_peer(&PeerRequest::Took { number, is_taken });
            }
            foony::Event::DirectRefused(refused) => {
                if let Some(Asked::Direct(completer)) = self.asked.remove(&refused.id) {
                    completer.complete(Err(direct_error(&refused)));
                }
            }
            foony::Event::MembersDigest(digest) => self.handle_digest(&digest, out),
            foony::Event::PeerGreeting(greeting) => self.mirror.handle_greeting(&greeting),
            _ => {}
        }
    }

    fn handle_member(&mut self, name: &str, action: Action, reason: LeaveReason, present: Present) {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.roster.handle(action, reason, present);
            if channel.membership.is_some() {
                self.mirror.mark_changed();
            }
        }
    }

    fn handle_ack(&mut self, asked: Asked, id: u64, serial: u64, out: &mut Outbound) {
        match asked {
            Asked::Publish => self.end_publish(id, Ok(serial)),
            Asked::Subscribe(name) => {
                let Some(channel) = self.channels.get_mut(&name) else { return };
                for fetch in channel.messages.subscribed() {
                    self.fetch(&name, fetch, out);
                }
            }
            Asked::Watch(name) => {
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.roster.complete();
                    self.mirror.mark_changed();
                }
                self.settle(&name, out);
            }
            Asked::Check(name) => self.end_check(&name, out),
            Asked::Announce(announced) => self.confirm(announced),
            Asked::Leave(_, completer) | Asked::Direct(completer) => completer.complete(Ok(())),
            Asked::PeerUpdate => self.end_peer_update(&Ok(())),
            Asked::Release | Asked::Head(_) | Asked::Fetch(..) | Asked::History(..) => {}
        }
    }

    fn handle_refusal(&mut self, asked: Asked, id: u64, error: &ClientError, out: &mut Outbound) {
        match asked {
            Asked::Publish => self.end_publish(id, Err(error.clone())),
            Asked::Subscribe(name) => {
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.messages.refused(error);
                }
                self.settle(&name, out);
            }
            Asked::Watch(name) => {
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.roster.refused(error);
                }
                self.settle(&name, out);
            }
            Asked::Check(name) => self.give_up_check(&name),
            Asked::Fetch(name, handle) => self.handle_fetched(&name, handle, Vec::new(), out),
            Asked::Announce(announced) => self.give_up(announced, error, out),
            Asked::History(.., completer) => completer.complete(Err(error.clone())),
            Asked::Leave(_, completer) | Asked::Direct(completer) => {
                completer.complete(Err(error.clone()));
            }
            Asked::PeerUpdate => self.end_peer_update(&Err(error.clone())),
            Asked::Head(name) => {
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.messages.head_refused();
                }
            }
            Asked::Release => {}
        }
    }

    fn end_publish(&mut self, request: u64, outcome: Result<u64>) {
        let at = self.publishing.iter().position(|publishing| publishing.request == request);
        let Some(publishing) = at.and_then(|at| self.publishing.remove(at)) else { return };
        let Publishing { message_id, completer, .. } = publishing;
        completer.complete(outcome.map(|serial| Published { serial, message_id }));
    }

    fn end_peer_update(&mut self, outcome: &Result<()>) {
        if !self.is_update_pending() {
            let outcome = outcome.as_ref().copied().map_err(|error| self.mirror.refusal(error));
            self.update_refused = outcome.clone().err();
            self.synced.drain(..).for_each(|synced| synced.complete(outcome.clone()));
        }
    }

    fn handle_history(&mut self, id: u64, deliveries: &[foony::Delivery<'_>], more: bool) {
        match self.asked.remove(&id) {
            Some(Asked::Head(name)) => {
                let head = deliveries.last().map_or(0, |delivery| delivery.serial);
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.messages.note_head(head);
                }
            }
            Some(Asked::History(_, query, completer)) => {
                let oldest = deliveries.first().map(|delivery| delivery.serial);
                let next = oldest.filter(|_| more).map(|serial| query.before(serial));
                let messages = deliveries.iter().flat_map(messages_of).collect();
                completer.complete(Ok(HistoryPage { messages, next }));
            }
            _ => {}
        }
    }

    fn handle_fetched(
        &mut self,
        name: &str,
        handle: Option<HandleId>,
        groups: Vec<Group>,
        out: &mut Outbound,
    ) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let fetch = match handle {
            Some(handle) => channel.messages.fetched_for(handle, groups),
            None => channel.messages.fetched(groups),
        };
        self.fetch(name, fetch, out);
    }

    fn fetch(&mut self, name: &str, fetch: Fetch, out: &mut Outbound) {
        let (handle, from_serial) = match fetch {
            Fetch::Nothing => return,
            Fetch::After(serial) => (None, serial),
            Fetch::For(handle, serial) => (Some(handle), serial),
        };
        let id = out.request(|id| Request::Fetch { id, channel: name.into(), from_serial });
        self.asked.insert(id, Asked::Fetch(name.to_owned(), handle));
    }

    /// The presence graph: the members of the channels that this client is a member of.
    pub fn graph(&mut self) -> PresenceGraph {
        let present = joined(&self.channels).flat_map(|(name, channel)| {
            channel.roster.members().map(move |present| (name, present))
        });
        self.mirror.graph(present, self.is_live)
    }

    /// The channels that this client is a member of.
    pub fn joined(&self) -> impl Iterator<Item = (&str, &Channel)> {
        joined(&self.channels)
    }

    pub fn channel_mut(&mut self, name: &str) -> Option<&mut Channel> {
        self.channels.get_mut(name)
    }

    pub fn channel(&mut self, name: &str) -> &mut Channel {
        self.channels.entry(name.to_owned()).or_default()
    }
}

fn joined(channels: &BTreeMap<String, Channel>) -> impl Iterator<Item = (&str, &Channel)> + Clone {
    let joined = channels.iter().filter(|(_, channel)| channel.membership.is_some());
    joined.map(|(name, channel)| (name.as_str(), channel))
}

/// Subscribes after the cursor. A channel that had no messages has no cursor on the wire: what came
/// since is fetched.
fn subscribe(
    name: &str,
    messages: &mut Messages,
    asked: &mut HashMap<u64, Asked>,
    out: &mut Outbound,
) {
    messages.phase = Phase::Asked;
    let cursor = Cursor::at(messages.cursor.unwrap_or_default());
    let id = out.request(|id| Request::Subscribe { id, channel: name.into(), cursor });
    asked.insert(id, Asked::Subscribe(name.to_owned()));
    match messages.cursor {
        Some(0) => {
            messages.begin_fetch();
            let from_serial = 0;
            let id = out.request(|id| Request::Fetch { id, channel: name.into(), from_serial });
            asked.insert(id, Asked::Fetch(name.to_owned(), None));
        }
        Some(_) => {}
        None => {
            let (limit, before) = (1, Cursor::None);
            let channel = name.into();
            let id = out.request(|id| Request::History { id, channel, limit, before });
            asked.insert(id, Asked::Head(name.to_owned()));
        }
    }
}

pub(super) fn presence<'a>(id: u64, name: &'a str, action: Action, state: &'a str) -> Presence<'a> {
    Presence { id, channel: name.into(), action, data: state.as_bytes(), encoding: "".into() }
}

fn groups(deliveries: &[foony::Delivery<'_>]) -> Vec<Group> {
    deliveries.iter().map(messages_of).filter(|group| !group.is_empty()).collect()
}

fn refusal(code: ErrorCode, message: &str) -> ClientError {
    match code {
        ErrorCode::RateLimited => ClientError::RateLimited { retry_after: RETRY_AFTER },
        code => ClientError::Refused { code: code.code(), reason: message.to_owned() },
    }
}
