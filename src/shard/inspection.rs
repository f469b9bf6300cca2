//! What operators ask of a shard, and its answers. For one question a shard looks at a bounded
//! number of connections or channels, so that none lengthens a turn: whoever wants all of them asks
//! again, from where the answer ended.

use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::Arc;

use derive_more::TryInto;

use super::home::Phase;
use crate::counters::Counters;
use crate::ids::{ChannelKey, ConnAddr, ConnId, ShardId};
use crate::session::{Feed, FeedKind};

/// Slots that are looked at for one question.
pub const SLOTS_LOOKED_AT: u32 = 256;

/// A question to one shard.
#[derive(Debug)]
pub enum Inspection {
    /// Its counts since start.
    Counters,
    /// Channels that it owns, from a slot on, at most `limit` of them.
    Channels {
        filter: Arc<ChannelFilter>,
        from: u32,
        limit: usize,
    },
    /// What a channel is, to its owner.
    Channel(Arc<ChannelKey>),
    /// How many of its connections receive a channel.
    Subscribers(Arc<ChannelKey>),
    /// Its connections, from a slot on, at most `limit` of them.
    Connections {
        filter: Arc<ConnectionFilter>,
        from: u32,
        limit: usize,
    },
    Connection(ConnId),
    /// End a connection.
    Disconnect(ConnId),
}

/// The answer to an [`Inspection`].
#[derive(Debug, TryInto)]
pub enum Report {
    Counters(Box<Counters>),
    Channels(Slice<ChannelView>),
    /// `None` when there is no such channel.
    Channel(Option<Box<ChannelDetail>>),
    Subscribers(Subscribers),
    Connections(Slice<ConnectionView>),
    /// `None` when it is gone.
    Connection(Option<Box<ConnectionDetail>>),
    /// Whether it was there.
    Disconnected(bool),
}

/// What was found in some slots of a table, and the slot to go on from; `None` after the last.
#[derive(Debug)]
pub struct Slice<T> {
    pub found: Vec<T>,
    pub next: Option<u32>,
}

/// Which channels are asked for.
#[derive(Debug)]
pub struct ChannelFilter {
    pub app: Arc<str>,
    /// Of the names.
    pub prefix: Box<str>,
}

impl ChannelFilter {
    pub fn is_met_by(&self, key: &ChannelKey) -> bool {
        *key.app == *self.app && key.name.starts_with(&*self.prefix)
    }
}

/// Which connections are asked for.
#[derive(Debug, Default)]
pub struct ConnectionFilter {
    /// Of any app without one.
    pub app: Option<Arc<str>>,
    /// Any user, and connections without one as yet, when it is `None`.
    pub users: Option<HashSet<Box<str>>>,
}

/// A channel as operators see it.
#[derive(Clone, Debug)]
pub struct ChannelView {
    pub key: Arc<ChannelKey>,
    pub owner: ShardId,
    pub members: usize,
    /// Shards with subscribers.
    pub homes: Vec<ShardId>,
    /// Serial of the last message; 0 before the first.
    pub serial: u64,
    /// Bytes of messages in memory.
    pub history_bytes: u64,
}

/// The same with what takes longer to find out.
#[derive(Clone, Debug)]
pub struct ChannelDetail {
    pub view: ChannelView,
    /// Different users among the members.
    pub users: usize,
}

/// Connections of one shard that receive a channel, by what they receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribers {
    pub messages: usize,
    pub presence: usize,
}

impl Subscribers {
    /// Counts the subscriptions to one feed.
    pub fn count(&mut self, feed: Feed, subscriptions: usize) {
        match feed.kind() {
            FeedKind::Messages => self.messages += subscriptions,
            FeedKind::Sets | FeedKind::Changes => self.presence += subscriptions,
        }
    }
}

impl AddAssign for Subscribers {
    fn add_assign(&mut self, other: Subscribers) {
        self.messages += other.messages;
        self.presence += other.presence;
    }
}

/// A connection as operators see it.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    pub addr: ConnAddr,
    /// Empty until the session has greeted, as is `user`.
    pub app: Arc<str>,
    pub user: Arc<str>,
    /// Name of the session, which members see.
    pub name: String,
    pub protocol: &'static str,
    pub transport: &'static str,
    pub phase: Phase,
    pub subscriptions: usize,
    pub memberships: usize,
    pub queue_bytes: usize,
    /// Requests that have not been answered.
    pub unanswered: u32,
    /// Since it sent anything.
    pub silent_ms: u64,
    /// Since the session greeted; `None` before.
    pub greeted_ms: Option<u64>,
}

/// The same with what it takes part in.
#[derive(Clone, Debug)]
pub struct ConnectionDetail {
    pub view: ConnectionView,
    pub subscribed: Vec<(Arc<ChannelKey>, Feed)>,
    pub member_of: Vec<Arc<ChannelKey>>,
    /// It takes no more at the moment.
    pub is_blocked: bool,
    /// Something was not delivered and will be made good.
    pub is_behind: bool,
}
