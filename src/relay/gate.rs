//! Recognizes pushes that were applied before. Devices number what they push, from 1 per engine and
//! collection, and push the same again until it is acknowledged.

/// Ranges that a gate remembers. Holes are numbers that were refused, or are still to come.
pub const RANGES_MAX: usize = 64;

/// What a device numbers separately; the values are those of the clients
/// (`protocols/nodedb.md` section 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Engine {
    Crdt = 0,
    Columnar = 1,
    Timeseries = 2,
    Vector = 3,
    Fts = 4,
    Spatial = 5,
    Array = 6,
    Kv = 7,
}

impl Engine {
    /// The number by which clients name the stream of a collection: FNV-1a, 64 bits.
    pub fn stream(self, collection: &str) -> u64 {
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        collection.bytes().fold(fold(0xcbf2_9ce4_8422_2325, self as u8), fold)
    }
}

/// The numbers of one stream that were applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// First and last, ascending, not adjacent. At most [`RANGES_MAX`].
    ranges: Vec<(u64, u64)>,
}

impl Gate {
    /// `None` unless the ranges are ascending and apart.
    pub fn restore(ranges: Vec<(u64, u64)>) -> Option<Self> {
        let in_order = ranges.iter().all(|(first, last)| first <= last);
        let apart = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        (in_order && apart).then_some(Gate { ranges })
    }

    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Whether the number was applied.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.1 < number);
        self.ranges.get(at).is_some_and(|range| range.0 <= number)
    }

    /// Notes that the number was applied. What came before the first number ever seen is open: the
    /// log may have been lost, or the device may have been elsewhere.
    pub fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let at = self.ranges.partition_point(|range| range.1 < number);
        let joins_left = at > 0 && self.ranges[at - 1].1 + 1 == number;
        let joins_right = self.ranges.get(at).is_some_and(|range| range.0 == number + 1);
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = number,
            (false, true) => self.ranges[at].0 = number,
            (false, false) => self.ranges.insert(at, (number, number)),
        }
        if self.ranges.len() > RANGES_MAX {
            let first = self.ranges.remove(0).0;
            self.ranges[0].0 = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_the_numbers_of_the_clients() {
        let engines = [
            (Engine::Crdt, 12_382_567_288_767_684_198),
            (Engine::Columnar, 8_723_825_130_331_746_037),
            (Engine::Timeseries, 12_621_646_162_170_851_436),
            (Engine::Vector, 13_265_335_333_527_250_651),
            (Engine::Fts, 3_233_284_138_619_367_378),
            (Engine::Spatial, 13_345_120_890_270_455_249),
            (Engine::Array, 674_344_631_503_129_704),
            (Engine::Kv, 9_759_516_435_840_888_759),
        ];
        for (engine, stream) in engines {
            assert_eq!(engine.stream("orders"), stream, "{engine:?}");
        }
    }

    #[test]
    fn a_number_is_new_once_in_any_order() {
        let mut gate = Gate::default();
        for number in [5, 7, 6, 1, 3, 2, 4, u64::MAX] {
            assert!(!gate.contains(number), "{number}");
            gate.insert(number);
            assert!(gate.contains(number), "{number}");
            assert_eq!(Gate::restore(gate.ranges().to_vec()), Some(gate.clone()));
        }
        assert_eq!(gate.ranges(), [(1, 7), (u64::MAX, u64::MAX)]);
    }

    #[test]
    fn with_too_many_holes_the_oldest_is_closed() {
        let mut gate = Gate::default();
        (1..=RANGES_MAX as u64 + 1).for_each(|n| gate.insert(2 * n));
        assert_eq!(gate.ranges().len(), RANGES_MAX);
        assert!(gate.contains(3) && !gate.contains(5));
    }
}
