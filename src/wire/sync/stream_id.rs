//! The stream id, which scopes sequence numbers for idempotency. Both ends derive it; it is never
//! sent.

/// Engines with their discriminants (`protocols/nodedb.md` section 3.8).
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

/// FNV-1a, 64 bits, over the discriminant of the engine and the name of the collection.
pub fn stream_id(engine: Engine, collection: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    std::iter::once(engine as u8)
        .chain(collection.bytes())
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
