//! The whole contract of a shard with the world: [`Envelope`] (shard <-> shard) and [`Effect`]
//! (shard -> shell).

use std::sync::Arc;

use bytes::Bytes;

use super::connection::Parcel;
use crate::channel::{Change, Draft, Identity, Message, Position, ResumeKey, State};
use crate::counters::Counters;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ConnId, ShardId};
use crate::session::{Feed, FeedSet};

/// A home shard's entry for a channel, as its owner names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeChannelId {
    pub slot: u32,
    pub generation: u32,
}

/// What travels between two shards, in order.
#[derive(Debug)]
pub enum Envelope {
    /// Home -> owner: do this to a channel of yours.
    Command { from: ShardId, channel: Arc<ChannelKey>, command: Command },
    /// Owner -> home: what happened to the members; one for all subscribers there.
    /// `feeds`: what that home had subscribed to when the tick was made. The tick may hold more,
    /// and a later subscriber must not be shown what its home will not be told the end of.
    Presence { to: HomeChannelId, feeds: FeedSet, tick: Arc<PresenceTick> },
    /// Owner -> home: the present set for one connection.
    Snapshot { to: HomeChannelId, conn: ConnId, frames: Bytes },
    /// Owner -> home: a connection has become a member; what follows is meant for it as well.
    Admitted { to: HomeChannelId, conn: ConnId },
    /// Owner -> home: an announcement was refused, and the connection was no member then.
    Refused { to: HomeChannelId, conn: ConnId, number: u32, reject: Reject },
    /// Home -> every shard: this session is here; give it the memberships it lost.
    Resume { key: Arc<ResumeKey>, addr: ConnAddr },
    /// Owner -> home: the answer to a resume, empty when there was nothing.
    Resumed { conn: ConnId, memberships: Vec<(Arc<ChannelKey>, Arc<Identity>)> },
    /// Home -> every shard: whether further subscribers of the channel with this hash should stay
    /// where they were accepted.
    Heat { hash: u64, heat: Heat },
    /// Any -> home: a connection moves here.
    Adopt(Box<Parcel>),
    /// Edge -> shard: send your counters.
    Inspect { from: ShardId, request: u64 },
    /// Shard -> edge: the answer to an inspection.
    Inspected { request: u64, counters: Box<Counters> },
    /// Owner -> edge: the members of a channel, in join order.
    Members { to: MembersFor, members: Vec<MemberView> },
    /// Owner -> asker: what became of a command.
    Answer { to: Asker, channel: Arc<ChannelKey>, answer: Answer },
    /// Edge -> shard: a request of a long-polling client.
    Poll { from: ShardId, number: u64, ask: PollAsk },
    /// Shard -> edge: its answer.
    Polled { number: u64, outcome: PollOutcome },
}

/// Who asked, and how the answer finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Session { conn: ConnId, request: u64 },
    Edge(u64),
}

/// What a command is answered with.
#[derive(Debug)]
pub enum Answer {
    Published { serial: u64 },
    History { messages: Vec<Arc<Message>>, more: bool },
    Refused(Reject),
}

/// What a long-polling client asks.
#[derive(Debug)]
pub enum PollAsk {
    Connect { bytes: Vec<u8> },
    Send { session: PollSession, bytes: Vec<u8> },
    Receive { session: PollSession },
    Disconnect { session: PollSession },
}

/// A long-polling session as its client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollSession {
    pub shard: ShardId,
    pub conn: ConnId,
    pub secret: u64,
}

/// What a long-polling client is answered.
#[derive(Debug)]
pub enum PollOutcome {
    Connected { session: PollSession, bytes: Vec<u8> },
    Refused { bytes: Vec<u8> },
    Accepted,
    Frames { bytes: Vec<u8> },
    Gone,
    Busy,
}

/// Who at the edge wanted to know the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersFor {
    /// One question.
    Request(u64),
    /// A watcher that missed changes.
    Watcher(HomeChannelId),
}

/// Whether a channel has so many local subscribers on one shard that more should not move there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heat {
    Hot,
    Normal,
}

/// What a home shard asks of the owner of a channel.
#[derive(Debug)]
pub enum Command {
    /// Enter as a member, or replace the state. `number` tells the announcements of a connection
    /// apart when one is refused.
    Announce {
        addr: ConnAddr,
        identity: Arc<Identity>,
        state: Bytes,
        feed: Feed,
        number: u32,
    },
    /// The member is gone for good.
    Leave {
        addr: ConnAddr,
    },
    /// The member's connection was lost; keep its place for the channel's grace.
    Linger {
        addr: ConnAddr,
    },
    /// This home has subscribers of a feed, from here on.
    Subscribe {
        feed: Feed,
        home: HomeChannelId,
    },
    /// This home has no more subscribers of a feed.
    Unsubscribe {
        feed: Feed,
    },
    /// Send the present set to one connection.
    Snapshot {
        feed: Feed,
        home: HomeChannelId,
        conn: ConnId,
    },
    /// Send the members to the edge.
    Members {
        to: MembersFor,
    },
    Publish {
        asker: Asker,
        draft: Draft,
    },
    /// The newest messages before a position.
    History {
        asker: Asker,
        limit: usize,
        before: Position,
    },
    /// The oldest messages after a serial.
    HistoryForward {
        asker: Asker,
        limit: usize,
        after: u64,
    },
}

/// Everything subscribers of one channel are told at once: encoded once per feed.
#[derive(Debug)]
pub struct PresenceTick {
    pub changes: Vec<Change>,
    /// One entry per feed that somebody subscribes to; indexed by [`Feed`].
    pub encoded: [Option<Bytes>; Feed::COUNT],
    /// The one connection that need not be told, because it did all this itself.
    pub except: Option<ConnAddr>,
}

/// A member as admin requests show it.
#[derive(Clone, Debug)]
pub struct MemberView {
    pub addr: ConnAddr,
    pub user: Arc<str>,
    pub connection: Arc<str>,
    pub state: State,
    pub timestamp_ms: u64,
    pub age_ms: u64,
    /// Set while the connection is lost and the grace runs.
    pub lingering: bool,
}

/// What a shard asks of the shell that drives it.
#[derive(Debug)]
pub enum Effect {
    /// Put this into the mailbox of another shard; there is room for it.
    Send { to: ShardId, envelope: Envelope },
    /// Write what is queued, then close the socket and call `handle_released`.
    Close { conn: ConnId },
    /// Stop receiving; once nothing is under way for this socket, call `handle_detached`.
    Detach { conn: ConnId },
    /// This socket, detached elsewhere, is now this connection's: start receiving.
    Attach { conn: ConnId, socket: i32 },
}
