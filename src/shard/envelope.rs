//! The whole contract of a shard with the world: [`Envelope`] (shard <-> shard) and [`Effect`]
//! (shard -> shell).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::channel_event::ChannelEvent;
use super::documents::{DocumentCommand, DocumentEvent};
use super::home::{Handoff, PollOutcome, PollRequest};
use super::inspection::{Inspection, Report, Subscribers};
use super::question::{Question, Verdict};
use super::storage::StoreRequest;
use super::trace::{Traced, Tracing};
use crate::channel::{
    Change, Draft, EdgeVerdict, Identity, LeaveReason, Page, PageLimit, PeerKey, Position,
    ResumeKey, State,
};
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ConnId, ShardId};
use crate::session::{Answer, DirectMessage, EdgeRequest, Encoded, Feed, FeedSet};

/// A home shard's entry for a channel, as its owner names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeChannelId {
    pub slot: u32,
    pub generation: u32,
}

/// What shards send to each other, and the two halves of one shard. In order between each pair.
#[derive(Debug)]
pub enum Envelope {
    /// Home -> owner: do this to a channel of yours.
    Command { from: ShardId, channel: Arc<ChannelKey>, command: Command },
    /// Owner -> home: what happened to the members, one event for all subscribers there. `feeds`:
    /// what that home was subscribed to when the tick was made. The tick may hold more, which later
    /// subscribers must not receive.
    Presence { to: HomeChannelId, feeds: FeedSet, tick: Arc<PresenceTick> },
    /// Owner -> home: what was published, one event for all subscribers there. `feeds` as above.
    Messages { to: HomeChannelId, feeds: FeedSet, batch: Arc<MessageBatch> },
    /// Owner -> home: the next messages that one subscriber has missed.
    CaughtUp { to: HomeChannelId, conn: ConnId, page: Page },
    /// Owner -> the author of a request: the answer.
    Answer { to: ReplyTo, channel: Arc<ChannelKey>, answer: Answer },
    /// Owner -> home: who is present, for some or all of its subscribers there.
    Snapshot { to: HomeChannelId, snapshot: Snapshot, recipients: Recipients },
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
    /// Home, owner -> the registry of a session: what became of it. `hash`: of its name.
    Session { hash: u64, notice: SessionNotice },
    /// Registry -> home: the session of the connection in this slot may be claimed by another one.
    Contest { slot: u32, claim: SessionClaim },
    /// Registry -> home: the owners to ask for the memberships that a session lost.
    LostAt { key: Arc<ResumeKey>, conn: ConnId, owners: Vec<ShardId> },
    /// Home -> owner: this session has returned; give it the memberships it lost.
    Resume { key: Arc<ResumeKey>, addr: ConnAddr },
    /// Owner -> home: memberships that a session has back. `is_answer`: to a resume, empty when
    /// there was nothing; otherwise the session entered the channel before it asked.
    Resumed { conn: ConnId, memberships: Vec<ResumedMembership>, is_answer: bool },
    /// Owner -> home: a client has to decide whether a peer may connect to it.
    EdgeWanted { conn: ConnId, about: Box<EdgeRequest> },
    /// Owner -> home: that peer is no longer in the channel.
    EdgeUnwanted { conn: ConnId, channel: Arc<ChannelKey>, key: PeerKey },
    /// Owner -> home: a direct message to a client; the author receives its answer.
    Direct {
        conn: ConnId,
        channel: Arc<ChannelKey>,
        from: ConnAddr,
        request: u64,
        message: Arc<DirectMessage>,
    },
    /// Owner -> home: something about the documents of an app.
    Documents { app: Arc<str>, event: Box<DocumentEvent> },
    /// Home -> every shard: whether further subscribers of the channel with this hash should stay
    /// where they were accepted.
    ChannelLoad { hash: u64, load: ChannelLoad },
    /// Any -> home: a connection moves here.
    Adopt(Box<Handoff>),
    /// Home -> edge: may this be done?
    Ask(Box<Question>),
    /// Edge -> home: the answer to the question of this number.
    Verdict { conn: ConnId, number: u64, verdict: Verdict },
    /// Edge -> shard: a question of an operator.
    Inspect { from: ShardId, request: u64, inspection: Inspection },
    /// Shard -> edge: the answer to it.
    Inspected { request: u64, report: Report },
    /// Owner -> edge: the members of a channel, in join order.
    Members { to: MembersFor, list: MemberList },
    /// Owner -> edge: something that happened to a traced channel, in a turn.
    Traced { channel: Arc<ChannelKey>, wall_ms: u64, turn: u64, what: Traced },
    /// Edge -> shard: a request of a long-polling client.
    Poll { from: ShardId, number: u64, request: PollRequest },
    /// Shard -> edge: the answer to it.
    Polled { number: u64, outcome: PollOutcome },
}

/// A change that a home or an owner reports to the registry of a session, or a question.
#[derive(Debug)]
pub enum SessionNotice {
    Connected(SessionClaim),
    Disconnected {
        addr: ConnAddr,
    },
    /// This owner keeps members that the session lost.
    Lost {
        owner: ShardId,
    },
    /// It keeps none any longer.
    NoneLost {
        owner: ShardId,
    },
    /// The session has returned: answer with the owners that keep members for it.
    FindLost {
        key: Arc<ResumeKey>,
        addr: ConnAddr,
    },
}

/// A connection that greeted as a session. Of several the one that greeted last keeps the session.
#[derive(Clone, Debug)]
pub struct SessionClaim {
    pub app: Arc<str>,
    /// One per greeting, also when the connection moves to another shard.
    pub identity: Arc<Identity>,
    pub addr: ConnAddr,
    /// On the clock that all shards share.
    pub greeted_ms: u64,
}

/// The author of a request to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// A session on the shard that the command came from. `request`: the client's own number.
    Session { conn: ConnId, request: u64 },
    /// A request of the edge.
    Edge(u64),
    /// The owner itself: nobody waits for the answer.
    Nobody,
}

/// Which of a home's subscribers a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// All but the one whose change alone made it differ from the one before.
    All { except: Option<ConnAddr> },
    /// Those who wait for an earlier one, which is outdated.
    Waiting,
    /// One subscriber. `request`: what it is the answer to, if not silent.
    One { conn: ConnId, request: u64 },
}

/// Who is present in a channel, encoded for one feed.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub feed: Feed,
    /// Tells the conflated snapshots of one owner apart. `None` for one of a small channel: it is
    /// cheap to make anew, so it is not kept for later.
    pub number: Option<u64>,
    pub bytes: Arc<[u8]>,
}

/// Which members are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberPage {
    /// Those who joined after the member with this number.
    pub after: u64,
    /// How many of them.
    pub limit: usize,
}

impl MemberPage {
    pub const ALL: MemberPage = MemberPage { after: 0, limit: usize::MAX };
}

/// Which request of the edge the members answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersFor {
    Request(u64),
    /// A watcher that missed changes.
    Watcher(HomeChannelId),
}

/// Whether a channel has so many local subscribers on its owner that more should not move there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelLoad {
    Hot,
    Normal,
}

/// What a home requests of the owner of a channel.
#[derive(Debug)]
pub enum Command {
    /// Enter as a member, or replace the state.
    Announce(Box<Announcement>),
    /// The member is gone for good.
    Leave { addr: ConnAddr, reason: LeaveReason },
    /// The member's connection was lost; it keeps its place for the channel's grace.
    Linger { addr: ConnAddr },
    /// This home has subscribers of a feed, from here on.
    Subscribe { feed: Feed, home: HomeChannelId },
    /// This home has no more subscribers of a feed.
    Unsubscribe { feed: Feed },
    /// Send who is present to some subscribers of a feed.
    Snapshot { feed: Feed, home: HomeChannelId, recipients: Recipients },
    /// Send the members to the edge, or some of them.
    Members { to: MembersFor, page: MemberPage },
    /// One subscriber receives messages from here on, and those after the cursor.
    Attach { reply_to: ReplyTo, feed: Feed, after: Option<Position>, replay: Replaying },
    /// Number, store and deliver a message.
    Publish { reply_to: ReplyTo, draft: Box<Draft> },
    /// Send the newest messages, or the newest before a place.
    History { reply_to: ReplyTo, before: Option<Position>, limit: PageLimit },
    /// Send the oldest messages after a serial, as a page of history.
    HistoryForward { reply_to: ReplyTo, after: u64, limit: PageLimit },
    /// Send all messages after a serial, or as many as there is room for.
    Fetch { reply_to: ReplyTo, after: u64, limit: PageLimit },
    /// A member has decided whether a peer may connect to it.
    Verdict { addr: ConnAddr, about: PeerKey, verdict: EdgeVerdict },
    /// Hand a message to one member.
    Direct { reply_to: ReplyTo, message: Arc<DirectMessage> },
    /// This home has so many subscribers.
    Count(Subscribers),
    /// Send the members that differ from a copy with these digests.
    Check { reply_to: ReplyTo, copy: Box<[u128]> },
    /// One subscriber has missed the messages after a serial.
    CatchUp { home: HomeChannelId, conn: ConnId, after: u64 },
    /// Tell the edge of what happens to the channel, or no more.
    Trace(Tracing),
    /// Something about the documents of the app.
    Documents(Box<DocumentCommand>),
}

/// A state and its author.
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
    pub reply: AnnounceReply,
}

/// What a returning session is a member of again.
#[derive(Debug)]
pub struct ResumedMembership {
    pub channel: Arc<ChannelKey>,
    pub identity: Arc<Identity>,
    pub state: State,
}

/// What the author of an announcement receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceReply {
    /// This feed, as long as it is a member.
    Feed(Feed),
    /// An answer to this request.
    Answer(u64),
}

/// Whether a subscriber wants what it may have missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaying {
    Wanted,
    /// It has been receiving all along.
    Needless,
}

/// Messages that one channel routes at once.
#[derive(Debug)]
pub struct MessageBatch {
    pub encoded: Encoded,
    /// Of the first stored message; `None` when none is.
    pub first_serial: Option<u64>,
    pub messages: u32,
}

/// Changes of members that one channel routes at once.
#[derive(Debug)]
pub struct PresenceTick {
    pub changes: Vec<Change>,
    pub encoded: Encoded,
    /// The connection that made all these changes; feeds of sets leave it out.
    pub except: Option<ConnAddr>,
}

impl PresenceTick {
    /// True when no subscriber receives anything.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.encoded.iter().all(Option::is_none)
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
    /// Its number in join order.
    pub joined: u64,
}

/// Members of a channel, and how far webhooks were told of it then.
#[derive(Clone, Debug, Default)]
pub struct MemberList {
    pub members: Vec<MemberView>,
    /// The sequence of the last event; 0 without one.
    pub sequence: u64,
}

/// How the socket of a connection that has ended is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// The peer may be sending. What arrives is received and dropped, so that no reset keeps it
    /// from reading what was written last.
    Linger,
    /// The peer has closed its side.
    Immediate,
}

/// What a shard asks of the shell that drives it.
#[derive(Debug)]
pub enum Effect {
    /// Put this into the mailbox of another shard; there is room for it.
    Send { to: ShardId, envelope: Envelope },
    /// Write what is queued, then close the socket and call `handle_released`.
    Close { conn: ConnId, mode: CloseMode },
    /// Stop receiving; once nothing is in progress for this socket, call `handle_detached`.
    Detach { conn: ConnId },
    /// Ask the store; its answer goes to `handle_stored`.
    Store(Box<StoreRequest>),
    /// Notify the webhooks.
    Notify(Box<ChannelEvent>),
    /// This socket, detached elsewhere, is now this connection's: start receiving.
    Attach { conn: ConnId, socket: OwnedFd },
}
