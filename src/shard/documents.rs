//! What homes and owners say to each other about documents. All documents of an app belong to one
//! owner, that of the channel [`CHANNEL`].

use std::sync::Arc;

use crate::ids::ConnId;
use crate::relay::{ArrayClock, Page, Read};
use crate::session::{DocumentAnswer, DocumentBatch, PushRequest, Replica};

/// Its owner has the documents of an app. Nothing else is known of the channel.
pub const CHANNEL: &str = "documents";

/// What a home requests of the owner of the documents of an app.
#[derive(Debug)]
pub enum DocumentCommand {
    /// A device greets. `number` tells the greetings of a home apart.
    Greet { conn: ConnId, number: u64, replica: Replica },
    /// `replica`: `None` for a session without a device.
    Push { conn: ConnId, replica: Option<Replica>, push: Box<PushRequest> },
    /// Answer when everything before it is answered.
    Barrier { conn: ConnId, timestamp_ms: u64 },
    /// Send the next page. `number` tells the pages of a reader apart.
    Read { conn: ConnId, number: u32, read: Box<Read> },
    /// Send the ops of an array after a clock.
    CatchUp { conn: ConnId, array: Arc<str>, after: ArrayClock },
    /// This home has readers, from here on.
    Listen,
    /// This home has no more readers.
    Unlisten,
}

/// What the owner of the documents of an app sends to a home.
#[derive(Debug)]
pub enum DocumentEvent {
    /// `is_fork`: there are two copies of the device.
    Greeted {
        conn: ConnId,
        number: u64,
        is_fork: bool,
    },
    Answer {
        conn: ConnId,
        answer: DocumentAnswer,
    },
    Page {
        conn: ConnId,
        number: u32,
        page: Box<Page>,
    },
    /// For every reader here that has what comes before it.
    Batch(Arc<DocumentBatch>),
}
