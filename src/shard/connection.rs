//! The connections of a shard: transport state, session, subscriptions, send queue.

use std::sync::Arc;

use super::backlog::Backlog;
use super::poll::Polling;
use super::send_queue::SendQueue;
use super::write_order::Due;
use crate::channel::{Identity, State};
use crate::error::Disconnect;
use crate::ids::{ConnId, ShardId};
use crate::session::{Feed, FeedSet, Pace, Principal, foony, sync};
use crate::wire::sync::{Header, MessageType};
use crate::wire::websocket;

/// Where a connection was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    Http,
    SyncTcp,
}

/// How bytes become messages.
#[derive(Debug)]
pub enum Transport {
    /// Waiting for a complete request head.
    Http,
    WebSocket(websocket::Decoder),
    /// Sync frames back to back; the header generation once it is known.
    Stream(Option<Header>),
    /// Requests and events in bodies of HTTP requests that the edge serves.
    Poll(Polling),
}

/// Which protocol a connection speaks.
#[derive(Debug)]
pub enum Session {
    /// The first message decides.
    Undecided,
    Sync(Box<sync::Session>),
    Foony(Box<foony::Session>),
    /// Sends every message back (the debug endpoint for conformance suites).
    Echo,
}

/// Where a connection is in its life.
#[derive(Debug)]
pub enum Phase {
    Open,
    /// Receiving is being stopped; then it goes to another shard, or to the edge.
    Moving(Box<Move>),
    /// The session is over; the socket is being closed.
    Closing,
}

/// A hand-off under way.
#[derive(Debug)]
pub struct Move {
    pub to: ShardId,
    /// The message that named the channel, already unmasked; the new home begins with it.
    pub first: Option<FirstMessage>,
}

/// What was taken off the stream but not acted on, unmasked.
#[derive(Debug)]
pub enum FirstMessage {
    Sync {
        message_type: MessageType,
        body: Vec<u8>,
    },
    /// A Foony message from the request on that has not been carried out.
    Foony(Vec<u8>),
}

/// A connection in the mail: everything but its place in the tables of a shard.
#[derive(Debug)]
pub struct Parcel {
    /// Descriptor number, owned by the receiver of the parcel.
    pub socket: i32,
    pub listener: Listener,
    pub transport: Transport,
    pub session: Session,
    pub first: Option<FirstMessage>,
    /// Bytes received and not yet looked at.
    pub unread: Vec<u8>,
    pub unsent: SendQueue,
    pub pace: Pace,
    pub heard_ms: u64,
    pub greeting_deadline_ms: u64,
    /// As in [`Connection`].
    pub greeted_ms: u64,
    /// As in [`Flags`].
    pub small_reader: bool,
}

impl Parcel {
    /// A connection of [`Listener::Http`] whose next request is in `unread`. `deadline_ms`: when
    /// its greeting must be complete.
    pub fn of_http(socket: i32, unread: Vec<u8>, now_ms: u64, deadline_ms: u64) -> Self {
        Parcel {
            socket,
            listener: Listener::Http,
            transport: Transport::Http,
            session: Session::Undecided,
            first: None,
            unread,
            unsent: SendQueue::default(),
            pace: Pace::AtOnce,
            greeted_ms: 0,
            small_reader: false,
            heard_ms: now_ms,
            greeting_deadline_ms: deadline_ms,
        }
    }
}

/// A connection's wish to receive a channel's feed.
#[derive(Debug)]
pub struct Subscription {
    /// Slot of the channel in this home's table.
    pub channel: u32,
    pub feed: Feed,
    /// Where this connection stands in the channel's list of subscribers; `None` until the owner
    /// has said from when on. Before that nothing is delivered.
    pub place: Option<u32>,
    /// The request that it began with.
    pub request: u64,
    /// When presence of this channel was last queued; what the session's pace is measured from.
    pub shown_ms: u64,
    /// Set while the subscriber has not been sent everything; made good when it can take it.
    pub missed: Option<Box<Missed>>,
}

impl Subscription {
    /// The owner has been asked for what was missed, and has not answered.
    pub fn is_asked_for(&self) -> bool {
        match self.missed.as_deref() {
            Some(Missed::Changes { asked, .. } | Missed::Messages { asked, .. }) => {
                *asked == Asked::Waiting
            }
            Some(Missed::Set) | None => false,
        }
    }
}

/// What a subscriber was not sent.
#[derive(Debug)]
pub enum Missed {
    /// The newest set of members.
    Set,
    /// Changes of members. Those who left must be named, for the set does not tell of them; when
    /// there are more than `DEPARTURES_MAX` the subscriber is closed as slow.
    Changes { left: Vec<Arc<Identity>>, asked: Asked },
    /// Messages after a serial.
    Messages { after: u64, asked: Asked },
}

/// Has the owner been asked for what was missed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    NotYet,
    Waiting,
}

/// A session's being a member of a channel, or about to become one.
#[derive(Debug)]
pub struct Membership {
    /// Slot of the channel in this home's table.
    pub channel: u32,
    /// When the member last announced its state.
    pub announced_ms: u64,
    /// Number of the last announcement that was sent to the owner.
    pub number: u32,
    /// A state that the owner has not been sent yet: its mailbox was full, or the sender too fast.
    pub unsent_state: Option<State>,
}

/// A search for the memberships that an earlier connection of the session lost.
#[derive(Debug, Default)]
pub struct Resuming {
    /// Answers that have not come in.
    pub answers: u32,
    /// Hashes of channels that the session has left meanwhile; they are not taken over. At most as
    /// many as a session may have channels; the leave of a further one is without effect.
    pub left: Vec<u64>,
}

/// One connection. An idle one owns no heap memory but its session and subscriptions.
#[derive(Debug)]
pub struct Connection {
    pub listener: Listener,
    pub transport: Transport,
    pub session: Session,
    pub phase: Phase,
    /// An incomplete request head or frame.
    pub unread: Vec<u8>,
    pub queue: SendQueue,
    pub subscriptions: Vec<Subscription>,
    pub memberships: Vec<Membership>,
    /// When a valid message last arrived: a heartbeat of its memberships.
    pub heard_ms: u64,
    /// When anything at all last arrived.
    pub alive_ms: u64,
    /// When the first request or greeting must be complete; 0 once it is.
    pub greeting_deadline_ms: u64,
    /// When the session last greeted: of two connections that show the same name, the one that
    /// greeted later is the session's.
    pub greeted_ms: u64,
    pub pace: Pace,
    /// Set while a resume is under way; until it is over the connection stays here.
    pub resuming: Option<Box<Resuming>>,
    /// Set while requests wait, or large answers are on their way.
    pub backlog: Option<Box<Backlog>>,
    /// Announcements sent to owners so far.
    pub announcements: u32,
    /// Updates that may still be sent to owners in `credit_second`.
    pub update_credit: u32,
    pub credit_second: u32,
    pub flags: Flags,
}

/// Small facts about a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// In the order of connections to write to.
    pub due: Option<Due>,
    /// The socket took less than it was given; nothing is written until it can take more.
    pub blocked: bool,
    /// A WebSocket ping was sent since the peer was last heard.
    pub pinged: bool,
    /// It stays here: it came from another shard, or answers are on their way to it.
    pub settled: bool,
    /// A pace timer is set.
    pub pacing: bool,
    /// In the list of connections with something that a full mailbox refused.
    pub retrying: bool,
    /// In the list of connections whose backlog is to be looked at.
    pub scheduled: bool,
    /// Some subscription has missed something.
    pub stale: bool,
    /// The client cannot read large messages (`protocols/foony.md` section 5.11).
    pub small_reader: bool,
}

impl Connection {
    pub fn new(listener: Listener, now_ms: u64, greeting_ms: u64) -> Self {
        Connection {
            listener,
            transport: match listener {
                Listener::Http => Transport::Http,
                Listener::SyncTcp => Transport::Stream(None),
            },
            session: Session::Undecided,
            phase: Phase::Open,
            unread: Vec::new(),
            queue: SendQueue::default(),
            subscriptions: Vec::new(),
            memberships: Vec::new(),
            heard_ms: now_ms,
            alive_ms: now_ms,
            greeting_deadline_ms: now_ms + greeting_ms,
            greeted_ms: 0,
            pace: Pace::AtOnce,
            resuming: None,
            backlog: None,
            announcements: 0,
            update_credit: 0,
            credit_second: 0,
            flags: Flags::default(),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Who the session is; `None` before its greeting.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.session {
            Session::Sync(session) => session.principal(),
            Session::Foony(session) => session.principal(),
            Session::Undecided | Session::Echo => None,
        }
    }

    /// When the connection's pace next lets presence of a channel through.
    pub fn due_ms(&self, subscription: &Subscription) -> u64 {
        match self.pace {
            Pace::AtOnce => 0,
            Pace::Every(ms) => subscription.shown_ms + ms,
        }
    }

    /// Whether the pace lets presence of a channel through; if so it is taken for shown. Does not
    /// look for the subscription when there is no pace, which is what fan-out meets.
    pub fn may_show(&mut self, now_ms: u64, channel: u32, feed: Feed) -> bool {
        let Pace::Every(ms) = self.pace else { return true };
        let Some(subscription) = self.subscription_mut(channel, feed) else { return true };
        let due = subscription.shown_ms + ms <= now_ms;
        if due {
            subscription.shown_ms = now_ms;
        }
        due
    }

    pub fn subscription(&self, channel: u32, feed: Feed) -> Option<&Subscription> {
        self.subscriptions.iter().find(|s| s.channel == channel && s.feed == feed)
    }

    pub fn subscription_mut(&mut self, channel: u32, feed: Feed) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|s| s.channel == channel && s.feed == feed)
    }

    pub fn membership_mut(&mut self, channel: u32) -> Option<&mut Membership> {
        self.memberships.iter_mut().find(|membership| membership.channel == channel)
    }

    pub fn is_member(&self, channel: u32) -> bool {
        self.memberships.iter().any(|membership| membership.channel == channel)
    }

    /// Whether it subscribes to the channel, or is a member of it.
    pub fn is_attached(&self, channel: u32) -> bool {
        self.is_member(channel) || self.subscriptions.iter().any(|s| s.channel == channel)
    }

    /// Whether it subscribes to a feed of this kind in the channel.
    pub fn is_subscribed(&self, channel: u32, kind: FeedSet) -> bool {
        self.subscriptions.iter().any(|s| s.channel == channel && kind.contains(s.feed))
    }

    /// Subscriptions to feeds of one kind.
    pub fn subscriptions_to(&self, kind: FeedSet) -> usize {
        self.subscriptions.iter().filter(|subscription| kind.contains(subscription.feed)).count()
    }

    /// Whether the end of the byte stream is a goodbye: raw TCP has no other one.
    pub fn end_of_stream(&self) -> Disconnect {
        match self.transport {
            Transport::Stream(_) if self.unread.is_empty() => Disconnect::Clean,
            Transport::Http => Disconnect::Clean,
            _ => Disconnect::Lost,
        }
    }
}

/// Slots for connections. A slot is used again with the next generation.
#[derive(Debug, Default)]
pub struct Connections {
    slots: Vec<Slot>,
    /// When each slot must be looked at again; kept apart so that a sweep reads little memory.
    check_ms: Vec<u64>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

impl Connections {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, connection: Connection) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.check_ms.push(u64::MAX);
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.connection = Some(connection);
        self.check_ms[slot as usize] = 0;
        ConnId { slot, generation: entry.generation }
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        self.free.push(id.slot);
        self.check_ms[id.slot as usize] = u64::MAX;
        self.slots[id.slot as usize].connection.take()
    }

    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_mut() } else { None }
    }

    /// The present tenant of a slot.
    pub fn tenant(&self, slot: u32) -> Option<ConnId> {
        let entry = self.slots.get(slot as usize)?;
        entry.connection.as_ref()?;
        Some(ConnId { slot, generation: entry.generation })
    }

    pub fn set_check(&mut self, id: ConnId, at_ms: u64) {
        if self.get(id).is_some() {
            self.check_ms[id.slot as usize] = at_ms;
        }
    }

    /// The next tenant at or after `slot` whose check is due.
    pub fn next_due(&self, slot: u32, now_ms: u64) -> Option<ConnId> {
        let checks = self.check_ms.get(slot as usize..)?;
        let ahead = checks.iter().position(|&at_ms| at_ms <= now_ms)?;
        self.tenant(slot + ahead as u32)
    }

    /// All present tenants.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        (0..self.slots.len() as u32).filter_map(|slot| self.tenant(slot))
    }
}
