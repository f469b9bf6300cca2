//! Sessions that go on over another connection. The earlier connection ends without a word to
//! anybody, and its memberships wait for the session to enter again.

use std::sync::Arc;

use super::Shard;
use super::connection::Session;
use crate::channel::{ResumeKey, SessionName};
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId, Now};

impl Shard {
    /// Some shard has a session that may have lost memberships here, and may still have a
    /// connection here.
    pub(super) fn handle_resume(&mut self, now: Now, key: &Arc<ResumeKey>, addr: ConnAddr) {
        let is_newer = |id| addr == ConnAddr { shard: self.id, conn: id };
        if let Some(earlier) = self.find_named(key).filter(|&id| !is_newer(id)) {
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

    /// A connection that was in the mail while its session returned over another one.
    pub(super) fn is_superseded(&self, id: ConnId) -> bool {
        self.name_of(id).is_some_and(|key| self.find_named(&key).is_some())
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
