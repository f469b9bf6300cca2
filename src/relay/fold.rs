//! Compaction: many deltas of a collection become one that brings a device to the same state. Only
//! a CRDT library can do it, so it is done with the feature `compaction` only.

use std::sync::Arc;

use bytes::Bytes;

use super::record::Record;

/// Whether anything is ever folded.
pub const CAN_FOLD: bool = cfg!(feature = "compaction");

/// Deltas of a collection that may be folded, in the order of the log.
#[derive(Clone, Debug)]
pub struct Fold {
    pub collection: Arc<str>,
    pub records: Vec<Arc<Record>>,
}

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    pub collection: Arc<str>,
    /// Positions of those that `delta` stands for; empty when nothing was folded.
    pub positions: Vec<u64>,
    pub delta: Bytes,
}

/// Largest delta that is made: it has to fit into a frame of the clients.
#[cfg(feature = "compaction")]
const FOLDED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Fold {
    /// Folds the deltas. Those that cannot be read, or build on others that are missing, stay as
    /// they are. Takes a millisecond per hundred deltas, about.
    pub fn run(self) -> Folded {
        let (positions, delta) = fold(&self.records).unwrap_or_default();
        Folded { collection: self.collection, positions, delta }
    }
}

#[cfg(feature = "compaction")]
fn fold(records: &[Arc<Record>]) -> Option<(Vec<u64>, Bytes)> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::record::Content;

    // What devices push has been checked by nobody; the library may panic on it.
    let folded = catch_unwind(AssertUnwindSafe(|| {
        let document = loro::LoroDoc::new();
        let mut positions = Vec::new();
        for record in records {
            let Content::Delta { delta, .. } = &record.content else { continue };
            let imported = document.import(delta);
            if imported.is_ok_and(|status| status.pending.is_none()) {
                positions.push(record.position);
            }
        }
        let delta = document.export(loro::ExportMode::Snapshot).ok()?;
        Some((positions, Bytes::from(delta)))
    }));
    let (positions, delta) = folded.ok().flatten()?;
    let pays = |record: &&Arc<Record>| positions.binary_search(&record.position).is_ok();
    let before: usize = records.iter().filter(pays).map(|record| record.bytes()).sum();
    let is_worth_it = delta.len() < before && delta.len() <= FOLDED_BYTES_MAX;
    is_worth_it.then_some((positions, delta))
}

#[cfg(not(feature = "compaction"))]
fn fold(_: &[Arc<Record>]) -> Option<(Vec<u64>, Bytes)> {
    None
}

#[cfg(test)]
#[cfg(feature = "compaction")]
mod tests {
    use super::*;
    use crate::relay::Content;

    fn record(position: u64, delta: Vec<u8>) -> Arc<Record> {
        let content = Content::Delta { document: Bytes::new(), delta: delta.into() };
        Arc::new(Record { position, author: 1, collection: "notes".into(), content })
    }

    /// What a device has after these deltas.
    fn state(deltas: &[&[u8]]) -> loro::LoroValue {
        let document = loro::LoroDoc::new();
        deltas.iter().for_each(|delta| drop(document.import(delta).expect("a delta")));
        document.get_deep_value()
    }

    /// The deltas of writes to a map, one for each.
    fn written(count: usize) -> Vec<Vec<u8>> {
        let document = loro::LoroDoc::new();
        let map = document.get_map("notes");
        let write = |n: usize| {
            let seen = document.oplog_vv();
            map.insert(&format!("k{}", n % 10), n as i64).expect("writes");
            document.commit();
            document.export(loro::ExportMode::updates(&seen)).expect("exports")
        };
        (0..count).map(write).collect()
    }

    #[test]
    fn one_delta_brings_a_device_to_the_same_state_and_later_ones_build_on_it() {
        let deltas = written(120);
        let records = (1..).zip(&deltas[..100]).map(|(at, delta)| record(at, delta.clone()));
        let fold = Fold { collection: "notes".into(), records: records.collect() };
        let folded = fold.run();
        assert_eq!(folded.positions, (1..=100).collect::<Vec<u64>>());
        let all: Vec<&[u8]> = deltas.iter().map(Vec::as_slice).collect();
        let bytes: usize = all[..100].iter().map(|delta| delta.len()).sum();
        assert!(folded.delta.len() * 2 < bytes, "{} of {bytes}", folded.delta.len());
        let after: Vec<&[u8]> =
            [&folded.delta[..]].into_iter().chain(all[100..].to_vec()).collect();
        assert_eq!(state(&after), state(&all));
    }

    #[test]
    fn what_cannot_be_read_or_lacks_what_it_builds_on_stays() {
        let deltas = written(100);
        let mut records: Vec<_> = (1..).zip(deltas).map(|(at, d)| record(at, d)).collect();
        records[50] = record(51, b"no delta".to_vec());
        let folded = Fold { collection: "notes".into(), records }.run();
        assert_eq!(folded.positions, (1..=50).collect::<Vec<u64>>());
        let junk = Fold { collection: "x".into(), records: vec![record(1, vec![1, 2, 3])] };
        assert!(junk.run().positions.is_empty());
    }
}
