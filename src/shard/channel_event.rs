//! Events of a channel, for the webhooks of its namespace.

use std::sync::Arc;

use crate::channel::{ChangeKind, Identity, Message, State};
use crate::ids::ChannelKey;

/// Something that happened to a channel. In order per channel.
#[derive(Clone, Debug)]
pub struct ChannelEvent {
    pub channel: Arc<ChannelKey>,
    /// Above that of every earlier event of the channel, also of earlier processes that had the
    /// same data directory.
    pub sequence: u64,
    /// The sequence of the event before it in the channel; 0 if that is unknown: the first one, the
    /// first one after the channel was vacated, or after `webhook_events` have changed.
    pub previous: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The channel has a first subscriber or member.
    Occupied,
    /// It has had none for `vacated_delay_ms`.
    Vacated,
    /// A member has entered, changed its state, or left.
    Member { kind: ChangeKind, identity: Arc<Identity>, state: State },
    /// Published.
    Message(Arc<Message>),
}
