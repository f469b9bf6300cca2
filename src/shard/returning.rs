//! Sessions that go on over another connection. The earlier connection ends without a word to
//! anybody, and its memberships wait for the session to enter again.

use std::sync::Arc;

use hashbrown::HashTable;

use super::Shard;
use super::connection::{Connection, Session};
use super::table::{kept, spread};
use crate::channel::{Identity, ResumeKey, SessionName};
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId, Now};

/// Slots of connections by the hash of a name. Half of the hash is kept beside each, so that
/// nothing else is looked at when the table grows.
#[derive(Debug, Default)]
pub(super) struct NamedSlots(HashTable<NamedSlot>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NamedSlot {
    hash: u32,
    slot: u32,
}

impl NamedSlots {
    fn insert(&mut self, hash: u64, slot: u32) {
        let hash = kept(hash);
        let entry = NamedSlot { hash, slot };
        self.0.insert_unique(spread(hash), entry, |entry| spread(entry.hash));
    }

    fn remove(&mut self, hash: u64, slot: u32) {
        let gone = NamedSlot { hash: kept(hash), slot };
        if let Ok(entry) = self.0.find_entry(spread(gone.hash), |entry| *entry == gone) {
            entry.remove();
        }
    }

    /// Slots whose names may have this hash.
    fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        let hash = kept(hash);
        self.0.iter_hash(spread(hash)).filter(move |entry| entry.hash == hash).map(|e| e.slot)
    }
}

/// An app, and a session that is known by its connection's name there.
#[derive(Clone, Copy)]
struct Named<'s> {
    app: &'s Arc<str>,
    identity: &'s Identity,
}

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
                && self
                    .connections
                    .get(id)
                    .is_some_and(|c| c.details.greeting.done_ms() <= greeted_ms)
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
        if let Some(earlier) = self.find_rival(newer) {
            self.disconnect(now, earlier, Disconnect::Replaced);
        }
    }

    /// Lets a session be found by the name of its connection.
    pub(super) fn note_name(&mut self, id: ConnId) {
        if let Some(hash) = self.named(id).map(|named| self.hash_of(named)) {
            self.named.insert(hash, id.slot);
        }
    }

    pub(super) fn forget_name(&mut self, id: ConnId) {
        if let Some(hash) = self.named(id).map(|named| self.hash_of(named)) {
            self.named.remove(hash, id.slot);
        }
    }

    /// Of two connections of one session the one that greeted earlier ends. Both may be found in
    /// one place when they were in the mail while the session returned. False when it is `id`.
    pub(super) fn outlives_rivals(&mut self, now: Now, id: ConnId) -> bool {
        let Some(rival) = self.find_rival(id) else { return true };
        let greeted_ms =
            |id| self.connections.get(id).map_or(0, |c: &Connection| c.details.greeting.done_ms());
        let is_later = greeted_ms(id) >= greeted_ms(rival);
        self.disconnect(now, if is_later { rival } else { id }, Disconnect::Replaced);
        is_later
    }

    /// The connection of this shard, if any, whose session shows this when it returns.
    fn find_named(&self, key: &ResumeKey) -> Option<ConnId> {
        let SessionName::Connection(name) = &key.session else { return None };
        let hash = self.settings.router.hash(&key.app, name);
        self.find_in_slots(hash, |_, Named { app, identity }| {
            identity.connection == *name
                && key.user.as_ref() == Some(&identity.user)
                && *app == key.app
        })
    }

    /// Another connection of this shard with the same session.
    fn find_rival(&self, id: ConnId) -> Option<ConnId> {
        let mine = self.named(id)?;
        self.find_in_slots(self.hash_of(mine), |other, theirs| {
            let is_same =
                mine.app == theirs.app && mine.identity.has_same_resume_key(theirs.identity);
            is_same && other != id
        })
    }

    fn find_in_slots(
        &self,
        hash: u64,
        is_wanted: impl Fn(ConnId, Named<'_>) -> bool,
    ) -> Option<ConnId> {
        let mut found = self.named.find(hash).filter_map(|slot| self.connections.tenant(slot));
        found.find(|&id| self.named(id).is_some_and(|named| is_wanted(id, named)))
    }

    /// What a Foony session is recognised by.
    fn named(&self, id: ConnId) -> Option<Named<'_>> {
        let connection = self.connections.get(id)?;
        let Session::Foony(session) = &connection.details.session else { return None };
        let principal = session.principal()?;
        Some(Named { app: &principal.grant.app, identity: &principal.identity })
    }

    fn hash_of(&self, named: Named<'_>) -> u64 {
        self.settings.router.hash(named.app, &named.identity.connection)
    }
}
