//! What an operator who traces a channel is told.

use crate::error::Reject;
use crate::ids::ShardId;

use super::envelope::ReplyTo;

/// Whether the owner of a channel tells of what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    On,
    Off,
}

/// Something that happened to a traced channel.
#[derive(Clone, Debug)]
pub enum Traced {
    /// The trace begins. `homes`: shards with subscribers.
    Begun { homes: usize },
    /// A command of a session, of a request over HTTP or of the server arrived from a shard.
    Command { from: ShardId, text: String },
    /// The request is refused.
    Refused { to: ReplyTo, reject: Reject },
    /// Events were sent to the shards with subscribers.
    Routed { what: &'static str, count: usize, homes: usize },
}
