//! Maps connections to rows of a table.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::ids::ConnAddr;

/// Row numbers by connection.
pub(super) type AddrIndex = HashMap<ConnAddr, u32, BuildHasherDefault<AddrHasher>>;

/// Hasher for connection addresses. The server assigns them itself, so clients cannot choose
/// colliding ones. A keyed hash would take several times as long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddrHasher(u64);

impl AddrHasher {
    fn mix(&mut self, word: u64) {
        // 2^64 divided by the golden ratio: consecutive numbers get distant hashes (Knuth, The Art
        // of Computer Programming, 6.4).
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

    /// The high bits depend on all input; hash tables also use the low ones.
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
    fn consecutive_addresses_collide_about_as_often_as_random_ones() {
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
