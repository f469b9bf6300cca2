//! Draining: a shard that is about to stop carries nothing more out, answers what it has carried
//! out, and then tells every session that it ends.

use super::Shard;
use super::connection::{Listener, Transport};
use crate::ids::{ConnId, Now};
use crate::wire::http::HeadError;

/// How far a shard has come with draining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Drain {
    #[default]
    NotBegun,
    /// Requests that owners have carried out are still to be answered.
    Answering,
    /// Every session has ended, and new ones end at once.
    Ended,
}

impl Shard {
    /// The server stops: what arrives from here on is not carried out. Sessions end as soon as
    /// every request has been answered.
    pub fn begin_drain(&mut self, now: Now) {
        self.drain = Drain::Answering;
        self.end_drain_if_answered(now);
        self.drain_local(now);
    }

    /// Draining is over: no connection is left.
    pub fn has_drained(&self) -> bool {
        self.drain == Drain::Ended && self.connections.len() == 0
    }

    /// Has it begun to drain?
    pub fn is_draining(&self) -> bool {
        self.drain != Drain::NotBegun
    }

    pub(super) fn end_drain_if_answered(&mut self, now: Now) {
        if self.drain == Drain::Answering && self.unanswered == 0 {
            self.drain = Drain::Ended;
            let ids: Vec<ConnId> = self.connections.ids().collect();
            ids.into_iter().for_each(|id| self.refuse(now, id, HeadError::ShuttingDown));
        }
    }

    /// A connection that arrives after the sessions have ended is told so, too.
    pub(super) fn refuse_if_ended(&mut self, now: Now, id: ConnId) {
        if self.drain == Drain::Ended {
            self.refuse(now, id, HeadError::ShuttingDown);
        }
    }

    /// Ends a connection for a reason of the server, in the protocol that it speaks. One that moves
    /// is answered where it arrives.
    pub(super) fn refuse(&mut self, now: Now, id: ConnId, error: HeadError) {
        let Some(connection) = self.connections.get(id).filter(|c| c.is_open()) else { return };
        match connection.details.transport {
            Transport::Http | Transport::Proxied(Listener::Http) => {
                self.refuse_head(now, id, error);
            }
            _ => self.disconnect(now, id, error.into()),
        }
    }
}
