//! The whole contract of a shard with the world: [`Envelope`] (shard <-> shard) and [`Effect`]
//! (shard -> shell).

use std::sync::Arc;

use super::connection::Parcel;
use super::poll::{PollAsk, PollOutcome};
use super::round::PresenceSet;
use crate::channel::{Change, Draft, Identity, Message, PageLimit, Position, ResumeKey, State};
use crate::counters::Counters;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ConnId, ShardId};
use crate::session::{Answer, Feed, FeedSet};

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
    /// Owner -> home: what was published; one for all subscribers there. `feeds` as for presence.
    Messages { to: HomeChannelId, feeds: FeedSet, batch: Arc<MessageBatch> },
    /// Owner -> home: the next messages that one subscriber has missed, and whether that was all.
    CaughtUp { to: HomeChannelId, conn: ConnId, messages: Vec<Arc<Message>>, left: Left },
    /// Owner -> whoever asked: what became of a request.
    Answer { to: Asker, channel: Arc<ChannelKey>, answer: Answer },
    /// Owner -> home: the present set, for some or all of its subscribers there.
    Set { to: HomeChannelId, set: PresenceSet, audience: Audience },
    /// Owner -> home: a connection has become a member; what follows is meant for it as well.
    Admitted { to: HomeChannelId, conn: ConnId },
    /// Owner -> home: an announcement was refused, and the connection was no member then. `request`
    /// is to be answered.
    Refused {
        to: HomeChannelId,
        channel: Arc<ChannelKey>,
        conn: ConnId,
        number: u32,
        request: u64,
        reject: Reject,
    },
    /// Home -> every shard: this session is here; give it the memberships it lost. `greeted_ms`:
    /// when it greeted, on the clock that all shards share.
    Resume { key: Arc<ResumeKey>, addr: ConnAddr, greeted_ms: u64 },
    /// Owner -> home: the answer to a resume, empty when there was nothing.
    Resumed { conn: ConnId, memberships: Vec<ResumedMembership> },
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
    /// Edge -> shard: something a long-polling client has sent, or waits for.
    Poll { from: ShardId, number: u64, ask: PollAsk },
    /// Shard -> edge: the answer to that.
    Polled { number: u64, outcome: PollOutcome },
}

/// Who asked something of an owner, and how the answer finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A session on the shard that the command came from. `request`: the client's own number.
    Session { conn: ConnId, request: u64 },
    /// A question of the edge.
    Edge(u64),
}

/// Whom of a home's subscribers a set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody but the one who alone made it differ from the set before.
    All {
        except: Option<ConnAddr>,
    },
    /// Those who wait for an earlier set: that one must not be shown any more.
    Waiting,
    One(ConnId),
}

/// Is there more of what a subscriber has missed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    More,
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
    /// Enter as a member, or replace the state.
    Announce(Box<Announcement>),
    /// The member is gone for good.
    Leave { addr: ConnAddr },
    /// The member's connection was lost; keep its place for the channel's grace.
    Linger { addr: ConnAddr },
    /// This home has subscribers of a feed, from here on.
    Subscribe { feed: Feed, home: HomeChannelId },
    /// This home has no more subscribers of a feed.
    Unsubscribe { feed: Feed },
    /// Send the present set to some subscribers.
    Snapshot { feed: Feed, home: HomeChannelId, audience: Audience },
    /// Send the members to the edge.
    Members { to: MembersFor },
    /// One subscriber wants messages from here on, and those after the cursor.
    Attach { asker: Asker, feed: Feed, after: Option<Position>, replay: Replaying },
    /// One subscriber wants changes of members from here on, and who is present.
    Watch { asker: Asker, feed: Feed },
    /// Number, store and deliver a message.
    Publish { asker: Asker, draft: Box<Draft> },
    /// Send the newest messages, or the newest before a place.
    History { asker: Asker, before: Option<Position>, room: PageLimit },
    /// Send the oldest messages after a serial, as a page of history.
    HistoryForward { asker: Asker, after: u64, room: PageLimit },
    /// Send all messages after a serial, or as many as there is room for.
    Fetch { asker: Asker, after: u64, room: PageLimit },
    /// One subscriber has missed the messages after a serial.
    CatchUp { home: HomeChannelId, conn: ConnId, after: u64 },
}

/// A state, and whose it is.
#[derive(Debug)]
pub struct Announcement {
    pub addr: ConnAddr,
    pub home: HomeChannelId,
    pub identity: Arc<Identity>,
    /// When the session greeted over this connection.
    pub greeted_ms: u64,
    pub state: State,
    /// Tells the announcements of a home apart when one is refused.
    pub number: u32,
    pub welcome: Welcome,
}

/// What a returning session is a member of again.
#[derive(Debug)]
pub struct ResumedMembership {
    pub channel: Arc<ChannelKey>,
    pub identity: Arc<Identity>,
    pub state: State,
}

/// What its author expects of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// To be shown the set on entering.
    Set(Feed),
    /// An answer to this request.
    Answer(u64),
}

/// Does a subscriber want what it may have missed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaying {
    Wanted,
    /// It has been receiving all along.
    Needless,
}

/// Everything subscribers of one channel are sent of its messages at once: encoded once per feed.
#[derive(Debug)]
pub struct MessageBatch {
    /// One entry per feed that somebody subscribes to; indexed by [`Feed`].
    pub encoded: [Option<Arc<[u8]>>; Feed::COUNT],
    /// Of the first stored message; `None` when none is.
    pub first_serial: Option<u64>,
    pub messages: u32,
}

/// Everything subscribers of one channel are told at once: encoded once per feed.
#[derive(Debug)]
pub struct PresenceTick {
    pub changes: Vec<Change>,
    /// One entry per feed that somebody subscribes to; indexed by [`Feed`].
    pub encoded: [Option<Arc<[u8]>>; Feed::COUNT],
    /// The one connection that need not be told, because it did all this itself.
    pub except: Option<ConnAddr>,
}

impl PresenceTick {
    /// Is anybody told anything?
    pub fn is_something(&self) -> bool {
        !self.changes.is_empty() || self.encoded.iter().any(Option::is_some)
    }
}

/// A member as admin requests show it.
#[derive(Clone, Debug)]
pub struct MemberView {
    pub addr: ConnAddr,
    pub identity: Arc<Identity>,
    pub state: State,
    pub age_ms: u64,
    /// When it last announced its state, milliseconds since the Unix epoch.
    pub announced_wall_ms: u64,
    /// Set while the connection is lost and the grace runs.
    pub lingering: bool,
}

/// Does a peer whose connection is closed have more to say?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It may be sending; what comes is received and dropped, so that it can read our last words.
    MayGoOn,
    /// It has said goodbye, or ended its stream.
    HeardOut,
}

/// What a shard asks of the shell that drives it.
#[derive(Debug)]
pub enum Effect {
    /// Put this into the mailbox of another shard; there is room for it.
    Send { to: ShardId, envelope: Envelope },
    /// Write what is queued, then close the socket and call `handle_released`.
    Close { conn: ConnId, parting: Parting },
    /// Stop receiving; once nothing is under way for this socket, call `handle_detached`.
    Detach { conn: ConnId },
    /// This socket, detached elsewhere, is now this connection's: start receiving.
    Attach { conn: ConnId, socket: i32 },
}
