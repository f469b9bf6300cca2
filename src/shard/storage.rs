//! What an owner asks of the store, and the answers. The store is outside the core: requests leave
//! as effects, answers arrive as inputs, in the order of the requests of one channel.

use std::sync::Arc;

use crate::channel::{Message, Page, PageLimit, Position, StoredLog};
use crate::error::Reject;
use crate::ids::ChannelKey;
use crate::policy::Policy;
use crate::relay::{Fold, Folded, Row, RowChange};

/// What a log consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogOf {
    /// Those of a channel.
    Messages,
    /// Those of an app.
    Documents,
}

/// A log from one opening to the next. Answers to earlier ones are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId {
    pub of: LogOf,
    /// Of the channel, or the app, in the table of its owner.
    pub slot: u32,
    pub opening: u64,
}

/// Asks the store to do something with the log of a channel.
#[derive(Debug)]
pub struct StoreRequest {
    pub log: LogId,
    pub channel: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    pub operation: StoreOperation,
}

#[derive(Debug)]
pub enum StoreOperation {
    /// Where does the log end? Comes before the first append of every [`LogId`].
    Open,
    /// Store these messages, which follow the end of the log, dense and in order.
    Append(Vec<Arc<Message>>),
    /// Read messages that are not in memory, as if `head` were the end of the log: what is behind
    /// it is not shown to anybody yet. `read` tells the reads of a log apart.
    Read { read: u64, range: StoreRange, limit: PageLimit, head: u64 },
    /// Read all rows of the documents of an app. Comes before the first write of every [`LogId`].
    ReadRows,
    /// Write these rows, all or none. Of rows with the same key the later request counts.
    WriteRows(Vec<RowChange>),
    /// Fold deltas, beside everything else.
    Fold(Fold),
}

/// Which messages to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRange {
    /// The newest before a position, or of all.
    Before(Option<Position>),
    /// Those right after a position, if all of them are stored.
    After(Position),
    /// The oldest that are stored after a serial.
    Following(u64),
}

/// An answer of the store.
#[derive(Debug)]
pub struct StoreReply {
    pub log: LogId,
    pub outcome: StoreOutcome,
}

#[derive(Debug)]
pub enum StoreOutcome {
    Opened(Box<StoredLog>),
    /// All messages up to this serial are on disk.
    Appended {
        head: u64,
    },
    /// `page`: `None` when some of the messages are no longer stored. `head`: what was
    /// taken for the end of the log.
    Page {
        read: u64,
        page: Option<Page>,
        head: u64,
    },
    /// What is stored of the documents of an app.
    Rows(Vec<Row>),
    RowsWritten,
    Folded(Folded),
    /// A read failed.
    Unreadable {
        read: u64,
        reject: Reject,
    },
    /// The log could not be opened, or not be written: it must be opened again, and what was being
    /// stored may be there or not.
    Failed(Reject),
}
