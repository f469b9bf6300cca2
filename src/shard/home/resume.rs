//! Sessions that are resumed over another connection. The earlier connection ends without an event,
//! and its memberships wait for the session to enter again.

use std::sync::Arc;

use hashbrown::HashTable;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use crate::channel::{Identity, ResumeKey, SessionName};
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId};
use crate::shard::channel_table::{kept, spread};
use crate::shard::context::ShardContext;

/// Slots of connections by the hash of their session's name. Half of the hash is kept beside each,
/// so that nothing else is read when the table grows. At most one entry per connection.
#[derive(Debug, Default)]
pub struct SessionIndex(HashTable<NamedSlot>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NamedSlot {
    hash: u32,
    slot: u32,
}

impl SessionIndex {
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

    /// Slots of sessions whose names may have this hash.
    fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        let hash = kept(hash);
        self.0.iter_hash(spread(hash)).filter(move |entry| entry.hash == hash).map(|e| e.slot)
    }
}

/// A session that is known by the name of its connection.
#[derive(Clone, Copy)]
struct NamedSession<'s> {
    app: &'s Arc<str>,
    identity: &'s Identity,
}

impl<'s> NamedSession<'s> {
    fn of(connection: &'s Connection) -> Option<Self> {
        let principal = connection.session().principal()?;
        let identity = &*principal.identity;
        identity
            .is_named_by_connection()
            .then_some(NamedSession { app: &principal.grant.app, identity })
    }

    fn hash(self, cx: &ShardContext) -> u64 {
        cx.settings.router.hash(self.app, &self.identity.connection)
    }
}

impl Home {
    /// A session has returned on some shard, and may still have an earlier connection here.
    /// `greeted_ms`: when it greeted; the question may have been in transit for long.
    pub fn end_earlier(
        &mut self,
        cx: &mut ShardContext,
        key: &ResumeKey,
        addr: ConnAddr,
        greeted_ms: u64,
    ) {
        let Some(earlier) = self.find_named(cx, key) else { return };
        let is_earlier = |c: &Connection| c.warm.auth.done_ms() <= greeted_ms;
        if addr != Home::addr(cx, earlier) && self.connections.get(earlier).is_some_and(is_earlier)
        {
            self.disconnect_by_id(cx, earlier, Disconnect::Replaced);
        }
    }

    /// Ends a connection of this shard that its session has left for `newer`.
    pub(super) fn end_local_rival(&mut self, cx: &mut ShardContext, newer: &ActiveConnection) {
        if let Some(earlier) = self.find_rival(cx, newer) {
            self.disconnect_by_id(cx, earlier, Disconnect::Replaced);
        }
    }

    /// Lets a session be found by the name of its connection.
    pub(super) fn note_session(&mut self, cx: &ShardContext, conn: &ActiveConnection) {
        if let Some(named) = NamedSession::of(conn) {
            self.sessions.insert(named.hash(cx), conn.id.slot);
        }
    }

    pub(super) fn forget_session(&mut self, cx: &ShardContext, conn: &ActiveConnection) {
        if let Some(named) = NamedSession::of(conn) {
            self.sessions.remove(named.hash(cx), conn.id.slot);
        }
    }

    /// Of two connections of one session the one that greeted earlier ends. Both may arrive at one
    /// shard when they were in transit while the session returned. False when it is `conn`.
    pub(super) fn outlives_rivals(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
    ) -> bool {
        let Some(rival) = self.find_rival(cx, conn) else { return true };
        let rival_ms = self.connections.get(rival).map_or(0, |c| c.warm.auth.done_ms());
        let is_later = conn.warm.auth.done_ms() >= rival_ms;
        match is_later {
            true => self.disconnect_by_id(cx, rival, Disconnect::Replaced),
            false => self.disconnect(cx, conn, Disconnect::Replaced),
        }
        is_later
    }

    /// The connection of this shard, if any, whose session shows this when it returns.
    fn find_named(&self, cx: &ShardContext, key: &ResumeKey) -> Option<ConnId> {
        let SessionName::Connection(name) = &key.session else { return None };
        let hash = cx.settings.router.hash(&key.app, name);
        self.find_session(hash, |NamedSession { app, identity }| {
            identity.connection == *name
                && key.user.as_ref() == Some(&identity.user)
                && *app == key.app
        })
    }

    /// Another connection of this shard with the same session.
    fn find_rival(&self, cx: &ShardContext, conn: &ActiveConnection) -> Option<ConnId> {
        let mine = NamedSession::of(conn)?;
        self.find_session(mine.hash(cx), |theirs| {
            mine.app == theirs.app && mine.identity.has_same_resume_key(theirs.identity)
        })
    }

    /// The connection at hand is not found: it is checked out.
    fn find_session(
        &self,
        hash: u64,
        is_wanted: impl Fn(NamedSession<'_>) -> bool,
    ) -> Option<ConnId> {
        let mut found = self.sessions.find(hash).filter_map(|slot| self.connections.tenant(slot));
        found.find(|&id| {
            let connection = self.connections.get(id);
            connection.and_then(NamedSession::of).is_some_and(&is_wanted)
        })
    }
}
