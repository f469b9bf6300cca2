//! Which place in a table belongs to which connection.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::ids::ConnAddr;

/// Places by the connection they belong to.
pub type Places = HashMap<ConnAddr, u32, BuildHasherDefault<AddrHasher>>;

/// Hashes addresses of connections. They are numbers that the server gives out itself, so that
/// nobody can choose ones that collide; a keyed hash would cost several times as much.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddrHasher(u64);

impl AddrHasher {
    fn mix(&mut self, word: u64) {
        // 2^64 divided by the golden ratio: consecutive numbers land far apart (Knuth, The Art of
        // Computer Programming, 6.4).
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for AddrHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.mix(byte.into()));
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(word.into());
    }

    /// The high bits depend on everything that was written; tables take the low ones as well.
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;
    use crate::ids::{ConnId, ShardId};

    #[test]
    fn neighbours_land_in_different_buckets_about_as_often_as_by_chance() {
        let hasher = BuildHasherDefault::<AddrHasher>::default();
        let buckets = |addrs: &[ConnAddr]| {
            let low = addrs.iter().map(|addr| hasher.hash_one(addr) & 0xfff);
            low.collect::<HashSet<u64>>().len()
        };
        let addr = |shard, slot, generation| ConnAddr {
            shard: ShardId(shard),
            conn: ConnId { slot, generation },
        };
        // 4,096 balls in 4,096 buckets hit 2,589 of them by chance.
        let slots: Vec<_> = (0..4096).map(|slot| addr(0, slot, 1)).collect();
        let generations: Vec<_> = (0..4096).map(|generation| addr(3, 7, generation)).collect();
        let shards: Vec<_> = (0..4096).map(|i| addr(i % 64, u32::from(i / 64), 1)).collect();
        for addrs in [slots, generations, shards] {
            assert!(buckets(&addrs) > 2_400, "{} buckets: {:?}", buckets(&addrs), addrs[1]);
        }
    }
}
