//! The members of one channel as the server shows them, and who in this program looks at them.

use indexmap::IndexMap;

use super::command::HandleId;
use super::digest::Comparison;
use super::messages::Phase;
use super::sinks::MemberSink;
use crate::client::handles::Opener;
use crate::client::member::{LeaveReason, Member, MemberEvent, MemberPeer, Present};
use crate::client::pending::Completer;
use crate::client::{ClientError, Result};
use crate::wire::foony::{self, Action};

/// The members of a channel, and everyone here who wants to know them.
#[derive(Default)]
pub(super) struct Roster {
    pub phase: Phase,
    /// The server does not show them on this connection.
    pub is_refused: bool,
    /// By client and connection, in the order in which they were first seen.
    pub members: IndexMap<(String, String), Present>,
    /// What has arrived of everyone who is present, or of those whom this copy has wrong, until all
    /// of it has.
    pub arriving: IndexMap<(String, String), Present>,
    observers: Vec<Observer>,
    queries: Vec<Completer<Vec<Member>>>,
    /// Confirmed requests to join, which are complete once the members are known, this client among
    /// them.
    pub joins: Vec<Completer<()>>,
    pub comparison: Comparison,
}

struct Observer {
    id: HandleId,
    sink: MemberSink,
    /// Set until it has been sent everyone who is present.
    ready: Option<Opener>,
}

impl Roster {
    /// Whether the program asks for the members, apart from the graph.
    pub fn is_wanted(&self) -> bool {
        !self.observers.is_empty() || !self.queries.is_empty()
    }

    pub fn disconnect(&mut self) {
        self.phase = Phase::Idle;
        self.is_refused = false;
        self.arriving.clear();
        self.comparison = Comparison::default();
    }

    /// Takes the requests to join that are complete. Members without the right to see others are
    /// members nevertheless.
    pub fn take_joins(&mut self, own_connection: &str) -> Vec<Completer<()>> {
        let is_shown = || self.members.keys().any(|(_, connection)| connection == own_connection);
        match self.is_refused || (self.phase == Phase::Live && is_shown()) {
            true => std::mem::take(&mut self.joins),
            false => Vec::new(),
        }
    }

    /// Nobody looks any longer.
    pub fn stop(&mut self) {
        self.disconnect();
        self.members.clear();
    }

    /// What is known of a member.
    pub fn find(&self, member: &foony::Member<'_>) -> Option<&MemberPeer> {
        let key = (member.client_id.to_string(), member.connection_id.to_string());
        self.members.get(&key)?.peer.as_ref()
    }

    pub fn members(&self) -> impl Iterator<Item = &Present> + Clone {
        self.members.values()
    }

    pub fn observe(&mut self, id: HandleId, sink: MemberSink, ready: Opener) {
        let mut observer = Observer { id, sink, ready: Some(ready) };
        match self.phase {
            Phase::Live => observer.begin(&self.members),
            // The answer may be another one by now, and is an answer in any case.
            Phase::Asked | Phase::Idle => self.is_refused = false,
        }
        self.observers.push(observer);
    }

    pub fn unobserve(&mut self, id: HandleId) {
        self.observers.retain(|observer| observer.id != id);
    }

    pub fn query(&mut self, completer: Completer<Vec<Member>>) {
        match self.phase {
            Phase::Live => completer.complete(Ok(list(&self.members))),
            Phase::Asked | Phase::Idle => {
                self.is_refused = false;
                self.queries.push(completer);
            }
        }
    }

    /// An event of the server.
    pub fn handle(&mut self, action: Action, reason: LeaveReason, present: Present) {
        let key = key_of(&present);
        if self.phase != Phase::Live || self.comparison.repairs(&key) {
            match action {
                Action::Leave => drop(self.arriving.shift_remove(&key)),
                Action::Enter | Action::Update => drop(self.arriving.insert(key, present)),
            }
            return;
        }
        self.apply(action, reason, present);
    }

    /// Changes the copy, and tells the observers if that is news.
    pub fn apply(&mut self, action: Action, reason: LeaveReason, present: Present) {
        let key = key_of(&present);
        let event = match action {
            Action::Leave => self.members.shift_remove(&key).map(|gone| {
                // The server may not have kept the last state.
                MemberEvent::Leave { member: gone.member, reason }
            }),
            Action::Enter | Action::Update => {
                let earlier = self.members.insert(key, present.clone());
                let earlier = earlier.map(|earlier| earlier.member);
                match earlier {
                    None => Some(MemberEvent::Enter(present.member)),
                    Some(earlier) if earlier == present.member => None,
                    Some(_) => Some(MemberEvent::Update(present.member)),
                }
            }
        };
        if let Some(event) = event {
            for observer in &self.observers {
                observer.sink.send(event.clone(), || present_event(&self.members));
            }
        }
    }

    /// Everyone who is present has arrived.
    pub fn complete(&mut self) {
        self.phase = Phase::Live;
        self.members = std::mem::take(&mut self.arriving);
        self.observers.iter_mut().for_each(|observer| observer.begin(&self.members));
        for query in self.queries.drain(..) {
            query.complete(Ok(list(&self.members)));
        }
    }

    /// The server does not show the members.
    pub fn refused(&mut self, error: &ClientError) {
        self.stop();
        self.is_refused = true;
        for observer in self.observers.drain(..) {
            observer.fail(error);
        }
        for query in self.queries.drain(..) {
            query.complete(Err(error.clone()));
        }
    }
}

impl Observer {
    fn begin(&mut self, members: &IndexMap<(String, String), Present>) {
        self.sink.send(present_event(members), || present_event(members));
        if let Some(ready) = self.ready.take() {
            ready.complete(Ok(()));
        }
    }

    fn fail(self, error: &ClientError) {
        let result: Result<()> = Err(error.clone());
        if let Some(ready) = self.ready {
            ready.complete(result);
        }
    }
}

fn key_of(present: &Present) -> (String, String) {
    (present.member.client_id.clone(), present.member.connection_id.clone())
}

fn list(members: &IndexMap<(String, String), Present>) -> Vec<Member> {
    members.values().map(|present| present.member.clone()).collect()
}

fn present_event(members: &IndexMap<(String, String), Present>) -> MemberEvent {
    MemberEvent::Present(list(members))
}
