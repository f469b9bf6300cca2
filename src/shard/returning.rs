//! Sessions that go on over another connection: the earlier one ends without a word to anybody, and
//! what it was a member of is claimed.

use std::sync::Arc;

use super::Shard;
use super::connection::Session;
use super::envelope::{Answered, Envelope, ResumeAsked};
use crate::channel::ResumeKey;
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId, Now, ShardId};

impl Shard {
    /// Some shard has a session that may have lost memberships here, and may still have a
    /// connection here.
    pub(super) fn handle_resume(
        &mut self,
        now: Now,
        key: &Arc<ResumeKey>,
        addr: ConnAddr,
        greeted_ms: u64,
        asked: ResumeAsked,
    ) {
        let answer = match asked {
            ResumeAsked::Again => Answered::Again,
            ResumeAsked::BySession => {
                Answered::Own { asked_again: self.end_earlier(now, key, addr, greeted_ms) }
            }
        };
        self.own_resume(key, addr, greeted_ms, answer);
    }

    /// Ends a connection of this shard that a session has left for a newer one here.
    pub(super) fn end_earlier_local(&mut self, now: Now, newer: ConnId) {
        let Some(key) = self.name_of(newer) else { return };
        if let Some(earlier) = self.find_named(&key).filter(|&earlier| earlier != newer) {
            self.disconnect(now, earlier, Disconnect::Replaced);
        }
    }

    /// Lets a session be found by the name of its connection.
    pub(super) fn note_name(&mut self, id: ConnId) {
        if let Some(key) = self.name_of(id) {
            self.named.insert(self.hash_of(&key), id);
        }
    }

    pub(super) fn forget_name(&mut self, id: ConnId) {
        let Some(hash) = self.name_of(id).map(|key| self.hash_of(&key)) else { return };
        if self.named.get(&hash) == Some(&id) {
            self.named.remove(&hash);
        }
    }

    /// Ends an earlier connection of a session, if it is here. Its memberships are on their way to
    /// their owners then, and behind them the session's question goes there once more. Returns how
    /// many shards are asked.
    fn end_earlier(
        &mut self,
        now: Now,
        key: &Arc<ResumeKey>,
        newer: ConnAddr,
        greeted_ms: u64,
    ) -> u16 {
        let is_earlier = |&id: &ConnId| {
            let is_newer = newer == ConnAddr { shard: self.id, conn: id };
            // The question may have been long under way.
            !is_newer && self.connections.get(id).is_some_and(|c| c.greeted_ms <= greeted_ms)
        };
        let Some(earlier) = self.find_named(key).filter(is_earlier) else { return 0 };
        self.disconnect(now, earlier, Disconnect::Replaced);
        let shards = self.settings.router.shards();
        for shard in (0..shards).map(ShardId) {
            let (key, asked) = (Arc::clone(key), ResumeAsked::Again);
            self.outbox.send(shard, Envelope::Resume { key, addr: newer, greeted_ms, asked });
        }
        shards
    }

    fn find_named(&self, key: &ResumeKey) -> Option<ConnId> {
        let id = *self.named.get(&self.hash_of(key))?;
        (self.name_of(id).as_ref() == Some(key)).then_some(id)
    }

    /// What a Foony session is recognised by.
    fn name_of(&self, id: ConnId) -> Option<ResumeKey> {
        match &self.connections.get(id)?.session {
            Session::Foony(session) => session.principal()?.resume_key().cloned(),
            _ => None,
        }
    }

    fn hash_of(&self, key: &ResumeKey) -> u64 {
        self.settings.router.hash(&key.app, &key.device)
    }
}
