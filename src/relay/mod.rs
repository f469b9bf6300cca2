//! The document relay: what devices on the sync wire push is kept, in order, for all other devices
//! of their app.
//!
//! Owns one app's compacted log of records, the gates that recognize repeated pushes, and the
//! epochs of devices. What is to be stored leaves as [`RowChange`]s; a restart gives the rows back.
//!
//! Invariants: positions only grow. Of every schema, row and array op the log has the newest; of
//! deltas all, or with the feature `compaction` one that says the same. A push that was applied is
//! never applied again.
//! Must never know: sockets, sessions, clocks, the encoding of frames.
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | log of an app, above `documents.bytes_max` | pushes are to be tried again | device: Gap | `ignored{documents_full}` |
//! | holes in the numbers of a stream, above [`gate::RANGES_MAX`] | the oldest are closed: those are of refused pushes, since what is to be tried again holds up what follows | none | - |
//!
//! Sources: `protocols/nodedb.md` sections 4.6, 5, 8.3, 8.5 and 9.

mod documents;
mod fold;
mod gate;
mod log;
mod record;
mod repeats;
mod rows;

pub use documents::{Documents, Push, Pushed};
pub use fold::{CAN_FOLD, Fold, Folded};
pub use gate::Engine;
pub use log::{Log, Page, Read};
pub use record::{ArrayClock, Content, Record};
pub use repeats::{QUIET_MS, Repeats};
pub use rows::{LOADED, Row, RowChange};

use crate::policy::Durability;

/// Longest name of a collection or an array, bytes.
pub const COLLECTION_BYTES_MAX: usize = 255;

/// What the relay keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayPolicy {
    /// [`Durability::None`]: there is no relay.
    pub durability: Durability,
    /// Bytes of records of one app.
    pub bytes_max: u64,
    /// Bytes of one delta, row or array op.
    pub delta_bytes_max: usize,
}

impl RelayPolicy {
    /// No relay.
    pub fn off() -> Self {
        RelayPolicy { durability: Durability::None, bytes_max: 0, delta_bytes_max: 0 }
    }

    pub fn is_on(&self) -> bool {
        self.durability != Durability::None
    }

    pub fn is_on_disk(&self) -> bool {
        self.durability == Durability::Disk
    }
}
