//! Draining: a shard that is about to stop carries nothing more out, answers what it has carried
//! out, and then ends every session.

use super::Home;
use super::connection::Transport;
use super::connections::ActiveConnection;
use crate::ids::{ConnId, Listener};
use crate::shard::context::ShardContext;
use crate::wire::http::HeadError;

/// Progress of draining.
#[derive(Debug, Default)]
pub struct Drain {
    stage: Stage,
    /// Requests of this home's sessions that have not been answered.
    unanswered: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    NotBegun,
    /// Requests that owners have carried out are still to be answered.
    Answering,
    /// Every session has ended, and new ones end at once.
    Ended,
}

impl Drain {
    pub fn is_draining(&self) -> bool {
        self.stage != Stage::NotBegun
    }

    pub(super) fn requested(&mut self) {
        self.unanswered += 1;
    }

    pub(super) fn answered(&mut self, requests: u32) {
        assert!(self.unanswered >= u64::from(requests), "{requests} answers too many");
        self.unanswered -= u64::from(requests);
    }

    fn is_due(&self) -> bool {
        self.stage == Stage::Answering && self.unanswered == 0
    }
}

impl Home {
    /// The server stops: what arrives from here on is not carried out. Sessions end as soon as
    /// every request has been answered.
    pub fn begin_drain(&mut self) {
        self.drain.stage = Stage::Answering;
    }

    /// True when draining is over: no connection is left.
    pub fn has_drained(&self) -> bool {
        self.drain.stage == Stage::Ended && self.connections.len() == 0
    }

    /// Ends all sessions once every request has been answered. Call when no connection is checked
    /// out.
    pub fn end_drain_if_answered(&mut self, cx: &mut ShardContext) {
        if self.drain.is_due() {
            self.drain.stage = Stage::Ended;
            let ids: Vec<ConnId> = self.connections.ids().collect();
            for id in ids {
                self.with(cx, id, |home, cx, conn| home.refuse(cx, conn, HeadError::ShuttingDown));
            }
        }
    }

    /// A connection that arrives after the sessions have ended is refused.
    pub(super) fn refuse_if_drained(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if self.drain.stage == Stage::Ended {
            self.refuse(cx, conn, HeadError::ShuttingDown);
        }
    }

    /// Ends a connection for a reason of the server, in the protocol that it speaks. One that moves
    /// is answered where it arrives.
    pub(super) fn refuse(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        error: HeadError,
    ) {
        match conn.warm.transport {
            _ if !conn.is_open() => {}
            Transport::Http | Transport::Proxied(Listener::Http) => {
                self.refuse_head(cx, conn, error);
            }
            _ => self.disconnect(cx, conn, error.into()),
        }
    }
}
