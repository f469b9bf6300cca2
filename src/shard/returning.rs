//! Sessions that go on over another connection. The earlier connection ends without a word to
//! anybody, and its memberships wait for the session to enter again.

use std::sync::Arc;

use super::Shard;
use super::connection::{Connection, Session};
use crate::channel::{ResumeKey, SessionName};
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId, Now};

impl Shard {
    /// Some shard has a session that may have lost memberships here, and may still have a
    /// connection here.
    pub(super) fn handle_resume(
        &mut self,
        now: Now,
        key: &Arc<ResumeKey>,
        addr: ConnAddr,
        greeted_ms: u64,
    ) {
        let is_earlier = |&id: &ConnId| {
            let is_asker = addr == ConnAddr { shard: self.id, conn: id };
            // The question may have been long under way.
            !is_asker
                && self.connections.get(id).is_some_and(|c| c.greeting.done_ms() <= greeted_ms)
        };
        if let Some(earlier) = self.find_named(key).filter(is_earlier) {
            self.disconnect(now, earlier, Disconnect::Replaced);
        }
        match key.session {
            SessionName::Device(_) => self.own_resume(key, addr),
            SessionName::Connection(_) => self.own_await(now, key, addr),
        }
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

    /// Of two connections of one session the one that greeted earlier ends. Both may be found in
    /// one place when they were in the mail while the session returned. False when it is `id`.
    pub(super) fn outlives_rivals(&mut self, now: Now, id: ConnId) -> bool {
        let Some(rival) = self.name_of(id).and_then(|key| self.find_named(&key)) else {
            return true;
        };
        let greeted_ms =
            |id| self.connections.get(id).map_or(0, |c: &Connection| c.greeting.done_ms());
        let is_later = greeted_ms(id) >= greeted_ms(rival);
        self.disconnect(now, if is_later { rival } else { id }, Disconnect::Replaced);
        is_later
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
        let (SessionName::Device(name) | SessionName::Connection(name)) = &key.session;
        self.settings.router.hash(&key.app, name)
    }
}
