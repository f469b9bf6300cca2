//! Where the sessions whose names hash to a shard are connected, and which owners keep members that
//! they lost: a session that returns asks one shard.

use hashbrown::HashTable;

use super::channel_table::{kept, spread};
use super::context::ShardContext;
use super::envelope::{Envelope, SessionClaim, SessionNotice};
use crate::ids::{ConnAddr, ShardId};

/// Sessions by the hash of their names. The home or owner that is asked distinguishes those with
/// the same hash. Bounded by the connections and lost members of all shards.
#[derive(Debug, Default)]
pub struct SessionRegistry {
    connections: HashMultiMap<ConnAddr>,
    lost_at: HashMultiMap<ShardId>,
}

impl SessionRegistry {
    pub fn len(&self) -> usize {
        self.connections.0.len() + self.lost_at.0.len()
    }

    pub fn handle(&mut self, cx: &mut ShardContext, hash: u64, notice: SessionNotice) {
        match notice {
            SessionNotice::Connected(claim) => self.connected(cx, hash, claim),
            SessionNotice::Disconnected { addr } => self.connections.remove(hash, addr),
            SessionNotice::Lost { owner } => self.lost_at.insert(hash, owner),
            SessionNotice::NoneLost { owner } => self.lost_at.remove(hash, owner),
            SessionNotice::FindLost { key, addr } => {
                let mut owners: Vec<ShardId> = self.lost_at.get(hash).collect();
                owners.sort_unstable();
                owners.dedup();
                cx.outbox.send(addr.shard, Envelope::LostAt { key, conn: addr.conn, owners });
            }
        }
    }

    /// Adds a connection. If the session has another one, the homes decide which of them ends.
    fn connected(&mut self, cx: &mut ShardContext, hash: u64, claim: SessionClaim) {
        let addr = claim.addr;
        for other in self.connections.get(hash) {
            let claim = claim.clone();
            cx.outbox.send(other.shard, Envelope::Contest { conn: other.conn, claim });
        }
        self.connections.insert(hash, addr);
    }
}

/// Values by hash, of which half is kept. A value may be there more than once.
#[derive(Debug)]
struct HashMultiMap<T>(HashTable<(u32, T)>);

impl<T> Default for HashMultiMap<T> {
    fn default() -> Self {
        HashMultiMap(HashTable::new())
    }
}

impl<T: Copy + PartialEq> HashMultiMap<T> {
    fn insert(&mut self, hash: u64, value: T) {
        let hash = kept(hash);
        self.0.insert_unique(spread(hash), (hash, value), |&(hash, _)| spread(hash));
    }

    fn remove(&mut self, hash: u64, value: T) {
        let gone = (kept(hash), value);
        if let Ok(entry) = self.0.find_entry(spread(gone.0), |entry| *entry == gone) {
            entry.remove();
        }
    }

    fn get(&self, hash: u64) -> impl Iterator<Item = T> {
        let hash = kept(hash);
        self.0.iter_hash(spread(hash)).filter(move |entry| entry.0 == hash).map(|entry| entry.1)
    }
}
