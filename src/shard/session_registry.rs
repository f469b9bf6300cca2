//! Where the sessions whose names hash to a shard are connected, and which owners keep members that
//! they lost: a session that returns asks one shard.

use hashbrown::HashTable;

use super::context::ShardContext;
use super::envelope::{Envelope, SessionClaim, SessionNotice};
use crate::ids::{ConnAddr, ShardId};

/// Sessions by the hash of their names. The home or owner that is asked distinguishes those with
/// the same hash. Bounded by the connections and lost members of all shards.
#[derive(Debug, Default)]
pub struct SessionRegistry {
    connections: HashMultiMap<Place>,
    lost_at: HashMultiMap<ShardId>,
}

impl SessionRegistry {
    pub fn len(&self) -> usize {
        self.connections.0.len() + self.lost_at.0.len()
    }

    pub fn handle(&mut self, cx: &mut ShardContext, hash: u64, notice: SessionNotice) {
        match notice {
            SessionNotice::Connected(claim) => self.connected(cx, hash, claim),
            SessionNotice::Disconnected { addr } => self.connections.remove(hash, addr.into()),
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
        let place = Place::from(claim.addr);
        for other in self.connections.get(hash) {
            let (slot, claim) = (other.slot(), claim.clone());
            cx.outbox.send(other.shard(), Envelope::Contest { slot, claim });
        }
        self.connections.insert(hash, place);
    }
}

/// The slot of a connection and its shard, as bytes: there is one for every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    slot: [u8; 4],
    shard: [u8; 2],
}

impl From<ConnAddr> for Place {
    fn from(addr: ConnAddr) -> Self {
        Place { slot: addr.conn.slot.to_ne_bytes(), shard: addr.shard.0.to_ne_bytes() }
    }
}

impl Place {
    fn slot(self) -> u32 {
        u32::from_ne_bytes(self.slot)
    }

    fn shard(self) -> ShardId {
        ShardId(u16::from_ne_bytes(self.shard))
    }
}

/// Values by hash, of which 24 bits are kept. A value may be there more than once.
#[derive(Debug)]
struct HashMultiMap<T>(HashTable<Entry<T>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry<T> {
    hash: [u8; 3],
    value: T,
}

const _: () = assert!(size_of::<Entry<Place>>() == 9, "every named session has one");

impl<T> Entry<T> {
    fn new(hash: u64, value: T) -> Self {
        let [first, second, third, ..] = hash.to_le_bytes();
        Entry { hash: [first, second, third], value }
    }

    fn hash(&self) -> u64 {
        let [first, second, third] = self.hash;
        let hash = u64::from(u32::from_le_bytes([first, second, third, 0]));
        // Tables look at its highest and its lowest bits.
        hash << 40 | hash
    }
}

impl<T> Default for HashMultiMap<T> {
    fn default() -> Self {
        HashMultiMap(HashTable::new())
    }
}

impl<T: Copy + PartialEq> HashMultiMap<T> {
    fn insert(&mut self, hash: u64, value: T) {
        let entry = Entry::new(hash, value);
        self.0.insert_unique(entry.hash(), entry, Entry::hash);
    }

    fn remove(&mut self, hash: u64, value: T) {
        let gone = Entry::new(hash, value);
        if let Ok(entry) = self.0.find_entry(gone.hash(), |entry| *entry == gone) {
            entry.remove();
        }
    }

    fn get(&self, hash: u64) -> impl Iterator<Item = T> {
        let hash = Entry::new(hash, ()).hash();
        self.0.iter_hash(hash).filter(move |entry| entry.hash() == hash).map(|entry| entry.value)
    }
}
