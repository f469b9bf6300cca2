//! What the client is a member of: states that are announced, repeated on every connection, and
//! given up when the server refuses them.

use std::sync::Arc;

use super::command::Command;
use super::core::{Asked, Channel, Core, presence};
use crate::client::pending::Completer;
use crate::client::protocol::Outbound;
use crate::client::{ClientError, Result};
use crate::wire::foony::{Action, Request};

/// JSON text; `None` without a state.
pub(super) type State = Option<Arc<str>>;

/// What the client announces in a channel.
#[derive(Default)]
pub(super) struct Membership {
    /// Tells it from an earlier one in the same channel.
    pub number: u64,
    pub state: State,
    /// The last state that the server has accepted; `None` before the first.
    pub accepted: Option<State>,
    /// It was accepted on this connection.
    pub is_accepted_here: bool,
    /// Completed when the server has confirmed the state.
    pub confirmations: Vec<Completer<()>>,
    /// The state has been sent on this connection.
    pub is_sent: bool,
}

/// A state that was sent and not answered.
pub(super) struct Announced {
    channel: String,
    /// Of the membership.
    number: u64,
    state: State,
    confirmations: Vec<Completer<()>>,
}

impl Channel {
    fn membership_of(&mut self, announced: &Announced) -> Option<&mut Membership> {
        self.membership.as_mut().filter(|membership| membership.number == announced.number)
    }

    /// The server refused a state. The member keeps the last state that was accepted, if that is
    /// another one; a newer state that is under way decides for itself.
    fn give_up(&mut self, refused: &Announced, error: &ClientError) {
        let Some(membership) = self.membership_of(refused) else { return };
        if membership.state != refused.state {
            return;
        }
        match &membership.accepted {
            Some(accepted) if *accepted != refused.state => {
                membership.state = accepted.clone();
                membership.is_sent = membership.is_accepted_here;
            }
            _ => {
                self.membership = None;
                let joins = self.roster.joins.drain(..);
                joins.for_each(|join| join.complete(Err(error.clone())));
            }
        }
    }
}

impl Core {
    pub fn announce(&mut self, name: &str, state: Option<String>, completer: Completer<()>) {
        self.memberships += 1;
        let number = self.memberships;
        let new = || Membership { number, ..Membership::default() };
        let membership = self.channel(name).membership.get_or_insert_with(new);
        if let Some(state) = state {
            membership.state = Some(state.into());
        }
        membership.confirmations.push(completer);
        membership.is_sent = false;
        self.mirror.mark_changed();
    }

    /// Sends the state of a membership, unless it has been sent.
    pub fn send_state(&mut self, name: &str, out: &mut Outbound) {
        let channel = self.channels.get_mut(name);
        let membership = channel.and_then(|channel| channel.membership.as_mut());
        let Some(membership) = membership.filter(|m| !m.is_sent) else { return };
        membership.is_sent = true;
        let state = membership.state.as_deref().unwrap_or_default();
        let id = out.request(|id| Request::Presence(presence(id, name, Action::Enter, state)));
        let announced = Announced {
            channel: name.to_owned(),
            number: membership.number,
            state: membership.state.clone(),
            confirmations: std::mem::take(&mut membership.confirmations),
        };
        self.asked.insert(id, Asked::Announce(announced));
    }

    /// The connection was lost before the answer: the next one confirms the newest state.
    pub fn announce_again(&mut self, announced: Announced) {
        let channel = self.channels.get_mut(&announced.channel);
        match channel.and_then(|channel| channel.membership_of(&announced)) {
            Some(membership) => membership.confirmations.extend(announced.confirmations),
            None => complete(announced.confirmations, &Ok(())),
        }
    }

    pub fn is_member(&self, name: &str) -> bool {
        self.channels.get(name).is_some_and(|channel| channel.membership.is_some())
    }

    pub fn leave(&mut self, name: &str, completer: Completer<()>, out: Option<&mut Outbound>) {
        let channel = self.channel(name);
        let confirmations = channel.membership.take().map(|m| m.confirmations).unwrap_or_default();
        let joins = confirmations.into_iter().chain(channel.roster.joins.drain(..));
        joins.for_each(|join| join.complete(Ok(())));
        self.mirror.mark_changed();
        let Some(out) = out else {
            let channel = name.to_owned();
            return self.waiting.push(Command::Leave { channel, completer });
        };
        let id = out.request(|id| Request::Presence(presence(id, name, Action::Leave, "")));
        self.asked.insert(id, Asked::Leave(name.to_owned(), completer));
    }

    /// A member is confirmed; who joins also waits for the members of the channel.
    pub fn confirm(&mut self, announced: Announced) {
        let channel = self.channels.get_mut(&announced.channel);
        let membership = channel.and_then(|channel| channel.membership_of(&announced));
        // It may have left meanwhile.
        let Some(membership) = membership else {
            return complete(announced.confirmations, &Ok(()));
        };
        membership.accepted = Some(announced.state);
        membership.is_accepted_here = true;
        self.channel(&announced.channel).roster.joins.extend(announced.confirmations);
        self.is_joining = true;
    }

    /// A state was refused.
    pub fn give_up(&mut self, announced: Announced, error: &ClientError, out: &mut Outbound) {
        if let Some(channel) = self.channels.get_mut(&announced.channel) {
            channel.give_up(&announced, error);
        }
        complete(announced.confirmations, &Err(error.clone()));
        self.mirror.mark_changed();
        self.settle(&announced.channel, out);
    }

    /// Completes requests to join: their channels are part of the graph.
    pub fn complete_joins(&mut self, own_connection: &str) {
        if !self.is_joining {
            return;
        }
        let mut is_joining = false;
        for channel in self.channels.values_mut() {
            let joins = channel.roster.take_joins(own_connection);
            is_joining |= !channel.roster.joins.is_empty();
            joins.into_iter().for_each(|join| join.complete(Ok(())));
        }
        self.is_joining = is_joining;
    }
}

fn complete(confirmations: Vec<Completer<()>>, outcome: &Result<()>) {
    confirmations.into_iter().for_each(|completer| completer.complete(outcome.clone()));
}
