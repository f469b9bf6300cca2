//! What the client is a member of: states that are announced, repeated on every connection, and
//! given up when the server refuses them.

use std::sync::Arc;

use super::command::Command;
use super::core::{Asked, Channel, Core, presence};
use crate::client::pending::Completer;
use crate::client::protocol::Outbound;
use crate::wire::foony::{Action, Request};

/// JSON text; `None` without a state.
pub(super) type State = Option<Arc<str>>;

/// What the client announces in a channel.
#[derive(Default)]
pub(super) struct Membership {
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

impl Channel {
    /// The server refused a state. The member keeps the last state that was accepted, if that is
    /// another one; a newer state that is under way decides for itself.
    pub fn give_up(&mut self, refused: &State) {
        let Some(membership) = self.membership.as_mut().filter(|m| m.state == *refused) else {
            return;
        };
        match &membership.accepted {
            Some(accepted) if accepted != refused => {
                membership.state = accepted.clone();
                membership.is_sent = membership.is_accepted_here;
            }
            _ => self.membership = None,
        }
    }
}

impl Core {
    pub fn announce(&mut self, name: &str, state: Option<String>, completer: Completer<()>) {
        let membership = self.channel(name).membership.get_or_insert_default();
        if let Some(state) = state {
            membership.state = Some(state.into());
        }
        membership.confirmations.push(completer);
        membership.is_sent = false;
        self.mirror.mark_changed();
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
    pub fn confirm(&mut self, name: &str, state: State, confirmations: Vec<Completer<()>>) {
        let mut channel = self.channels.get_mut(name);
        if let Some(membership) = channel.as_mut().and_then(|c| c.membership.as_mut()) {
            membership.accepted = Some(state);
            membership.is_accepted_here = true;
        }
        match channel {
            Some(channel) if channel.membership.is_some() => {
                channel.roster.joins.extend(confirmations);
                self.is_joining = true;
            }
            // It has left meanwhile.
            _ => confirmations.into_iter().for_each(|c| c.complete(Ok(()))),
        }
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
