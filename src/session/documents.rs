//! What sessions of devices ask of the document relay, and what they are sent.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Framing, sync};
use crate::relay::{ArrayClock, Content, Engine, Pushed, Record};
use crate::wire::sync::{Layout, MessageType};

/// A device that keeps copies of documents, as its session greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// A hash of app, user and name of the device; not 0.
    pub device: u64,
    /// Grows whenever the device opens its database; 0 if it does not say.
    pub epoch: u64,
}

/// A request to the document relay, allowed and within all limits.
#[derive(Debug)]
pub enum DocumentRequest {
    /// Keep these, and send them to others. Answered by [`DocumentAnswer::Pushed`].
    Push(Box<PushRequest>),
    /// Send this collection under the name of a shape: the log, then what comes.
    Subscribe {
        shape: Arc<str>,
        collection: Arc<str>,
    },
    Unsubscribe {
        shape: Arc<str>,
    },
    /// Send a collection again, or with `None` everything that the session receives.
    Resync {
        shape: Arc<str>,
        collection: Option<Arc<str>>,
    },
    /// Send the ops of an array after a clock. Answered by [`DocumentAnswer::ArrayOps`].
    CatchUp {
        array: Arc<str>,
        after: ArrayClock,
    },
    /// Answer when all pushes before it are answered: [`DocumentAnswer::Barrier`].
    Barrier {
        timestamp_ms: u64,
    },
}

/// A push without what the connection knows of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRequest {
    pub engine: Engine,
    pub collection: Arc<str>,
    /// Of the device in the stream of its engine and collection; 0 for none.
    pub number: u64,
    pub contents: Vec<Content>,
    pub receipt: Receipt,
}

/// By what the device recognizes the answer to its push: the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub message_type: MessageType,
    pub body: Bytes,
}

/// The outcome of a request to the document relay.
#[derive(Debug)]
pub enum DocumentAnswer {
    /// One outcome for each of the contents.
    Pushed {
        receipt: Receipt,
        outcomes: Vec<Pushed>,
    },
    Barrier {
        timestamp_ms: u64,
    },
    ArrayOps {
        array: Arc<str>,
        ops: Vec<Arc<Record>>,
    },
}

/// Records for all sessions that have everything before them, encoded at most once per framing.
#[derive(Debug)]
pub struct DocumentBatch {
    /// A session that has all records up to here, and no more, is to receive the batch.
    pub after: u64,
    pub through: u64,
    /// The batch was sent before: sessions that have it may receive it again.
    pub is_repeat: bool,
    pub records: Vec<Arc<Record>>,
    layout: Layout,
    encoded: [OnceLock<EncodedRecords>; 2],
}

/// Frames of records, one after another.
#[derive(Debug)]
pub struct EncodedRecords {
    pub bytes: Arc<[u8]>,
    /// Where the frame of each record ends.
    ends: Vec<usize>,
}

impl EncodedRecords {
    /// The frame of a record; empty for one that sessions do not receive.
    pub fn frame(&self, record: usize) -> &[u8] {
        let begin = if record == 0 { 0 } else { self.ends[record - 1] };
        &self.bytes[begin..self.ends[record]]
    }
}

impl DocumentBatch {
    pub fn new(after: u64, through: u64, records: Vec<Arc<Record>>, layout: Layout) -> Self {
        let encoded = Default::default();
        DocumentBatch { after, through, is_repeat: false, records, layout, encoded }
    }

    /// The same for sessions that have it already.
    pub fn repeated(self) -> Self {
        DocumentBatch { is_repeat: true, ..self }
    }

    pub fn encoded(&self, framing: Framing) -> &EncodedRecords {
        let at = usize::from(framing == Framing::Stream);
        self.encoded[at].get_or_init(|| {
            let (mut out, mut ends) = (Vec::new(), Vec::with_capacity(self.records.len()));
            for record in &self.records {
                sync::documents::append_record(self.layout, framing, record, None, &mut out);
                ends.push(out.len());
            }
            EncodedRecords { bytes: out.into(), ends }
        })
    }
}
