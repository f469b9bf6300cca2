//! The connections of a shard: transport state, session, subscriptions, send queue.

use std::hint::black_box;

use super::backlog::Backlog;
use super::envelope::Welcome;
use super::few::Few;
use super::poll::Polling;
use super::segments::Segments;
use super::send_queue::SendQueue;
use super::subscription::{HeldUpdate, LapsedMembership, Membership, Subscription};
use super::write_order::Due;
use crate::auth::Origin;
use crate::error::Disconnect;
use crate::ids::{ConnId, Moment, ShardId};
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
    /// Waiting for a complete PROXY header; then for what the listener speaks.
    Proxied(Listener),
    /// Waiting for a complete request head.
    Http,
    WebSocket(websocket::Decoder),
    /// Sync frames back to back; the header generation once it is known.
    Stream(Option<Header>),
    /// Requests and events in bodies of HTTP requests that the edge serves.
    Poll(Box<Polling>),
}

impl From<Listener> for Transport {
    fn from(listener: Listener) -> Self {
        match listener {
            Listener::Http => Transport::Http,
            Listener::SyncTcp => Transport::Stream(None),
        }
    }
}

/// Which protocol a connection speaks.
#[derive(Debug)]
pub enum Session {
    /// The first message decides.
    Undecided,
    Sync(sync::Session),
    Foony(foony::Session),
    /// Sends every message back (the debug endpoint for conformance suites).
    Echo,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// Receiving is being stopped; then it goes where its [`Move`] says.
    Moving,
    /// The session is over; the socket is being closed.
    Closing,
}

/// A hand-off under way.
#[derive(Debug)]
pub struct Move {
    /// Another shard, or the edge.
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
    pub transport: Transport,
    pub session: Session,
    pub first: Option<FirstMessage>,
    /// Bytes received and not yet looked at.
    pub unread: Vec<u8>,
    pub unsent: SendQueue,
    pub pace: Pace,
    pub heard: Moment,
    pub greeting: Greeting,
    /// As in [`Flags`].
    pub small_reader: bool,
    pub origin: Origin,
}

impl Parcel {
    /// A connection that speaks HTTP, whose next request is in `unread`. `deadline_ms`: when
    /// its greeting must be complete.
    pub fn of_http(socket: i32, unread: Vec<u8>, now_ms: u64, deadline_ms: u64) -> Self {
        Parcel {
            socket,
            transport: Transport::Http,
            session: Session::Undecided,
            first: None,
            unread,
            unsent: SendQueue::default(),
            pace: Pace::AtOnce,
            small_reader: false,
            origin: Origin::default(),
            heard: Moment::at(now_ms),
            greeting: Greeting::Due(Moment::at(deadline_ms)),
        }
    }
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

/// Has the session said who it is?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The first request or greeting must be complete by then.
    Due(Moment),
    /// It was at that time: of two connections that show the same name, the one that greeted later
    /// is the session's.
    Done(Moment),
}

impl Greeting {
    pub fn deadline_ms(self) -> Option<u64> {
        match self {
            Greeting::Due(deadline) => Some(deadline.ms()),
            Greeting::Done(_) => None,
        }
    }

    /// When the session last greeted; 0 while it has to.
    pub fn done_ms(self) -> u64 {
        match self {
            Greeting::Due(_) => 0,
            Greeting::Done(at) => at.ms(),
        }
    }
}

/// One connection: what fan-out looks at, so that a hundred thousand of them are a few megabytes,
/// and where the rest is. An idle one owns no heap memory but its details, with its session's names
/// and its subscriptions.
#[derive(Debug)]
pub struct Connection {
    pub queue: SendQueue,
    pub details: Box<Details>,
    rare: Option<Box<Rare>>,
    /// Updates that may still be sent to owners in `credit_second`. Fan-out has no use for these
    /// two; they fill the cache line.
    pub update_credit: u32,
    pub credit_second: u32,
    pub pace: Pace,
    pub phase: Phase,
    pub flags: Flags,
}

/// The part of a connection that fan-out does not meet.
#[derive(Debug)]
pub struct Details {
    pub transport: Transport,
    pub session: Session,
    pub subscriptions: Few<Subscription>,
    pub memberships: Few<Membership>,
    pub greeting: Greeting,
    /// When a valid message last arrived: a heartbeat of its memberships.
    pub heard: Moment,
    /// When anything at all last arrived.
    pub alive: Moment,
    /// Requests that have not been answered.
    pub unanswered: u32,
}

const _: () = assert!(size_of::<Details>() <= 120, "every idle connection pays for it");

/// What most connections have none of, most of the time.
#[derive(Debug, Default)]
pub struct Rare {
    /// An incomplete request head or frame.
    pub unread: Vec<u8>,
    /// Set while requests wait, or large answers are on their way.
    pub backlog: Option<Backlog>,
    /// Set while a resume is under way; until it is over the connection stays here.
    pub resuming: Option<Resuming>,
    /// Set in [`Phase::Moving`].
    pub hand_off: Option<Move>,
    /// Set when the peer has sent its last byte and is still to be answered.
    pub ended: Option<Ended>,
    /// At most one per membership.
    pub held_updates: Vec<HeldUpdate>,
    /// At most one per channel that the session was a member of when it fell silent.
    pub lapsed: Vec<LapsedMembership>,
}

/// The end of a stream whose requests are still being answered.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Why the connection ends once they have been.
    pub reason: Disconnect,
    /// When it ends in any case.
    pub until: Moment,
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Rare { unread, backlog, resuming, hand_off, ended, held_updates, lapsed } = self;
        unread.is_empty()
            && backlog.is_none()
            && resuming.is_none()
            && hand_off.is_none()
            && ended.is_none()
            && held_updates.is_empty()
            && lapsed.is_empty()
    }

    /// Holds an update, in place of an earlier one of the same channel; returns that one's welcome.
    pub fn hold_update(&mut self, update: HeldUpdate) -> Option<Welcome> {
        let earlier = self.held_updates.iter_mut().find(|held| held.channel == update.channel);
        match earlier {
            Some(earlier) => Some(std::mem::replace(&mut earlier.welcome, update.welcome)),
            None => {
                self.held_updates.push(update);
                None
            }
        }
    }
}

/// Connections that are fetched from memory together, ahead of what is done with them.
pub const FETCHED: usize = 16;

/// Small facts about a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// In the order of connections to write to.
    pub due: Option<Due>,
    /// Its transport is [`Transport::Poll`].
    pub polling: bool,
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
    /// Where it comes from.
    pub origin: Origin,
}

impl Connection {
    /// A connection that has greeted nobody yet.
    pub fn new(transport: Transport, now_ms: u64, greeting: Greeting) -> Self {
        let flags = Flags { polling: matches!(transport, Transport::Poll(_)), ..Flags::default() };
        let details = Details {
            transport,
            session: Session::Undecided,
            subscriptions: Few::None,
            memberships: Few::None,
            greeting,
            heard: Moment::at(now_ms),
            alive: Moment::at(now_ms),
            unanswered: 0,
        };
        Connection {
            queue: SendQueue::default(),
            details: Box::new(details),
            rare: None,
            update_credit: 0,
            credit_second: 0,
            pace: Pace::AtOnce,
            phase: Phase::Open,
            flags,
        }
    }

    /// What it has of the rare things; `None` when it has none of them.
    pub fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    /// The rare things, to add one to them.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Lets `change` take away from the rare things; `None` when there are none.
    pub fn change_rare<T>(&mut self, change: impl FnOnce(&mut Rare) -> T) -> Option<T> {
        let rare = self.rare.as_mut()?;
        let result = change(rare);
        if rare.is_empty() {
            self.rare = None;
        }
        Some(result)
    }

    /// An incomplete request head or frame.
    pub fn unread(&self) -> &[u8] {
        self.rare().map_or(&[], |rare| &rare.unread)
    }

    pub fn resuming(&self) -> Option<&Resuming> {
        self.rare()?.resuming.as_ref()
    }

    /// Does it hold an update of this channel?
    pub fn holds_update(&self, channel: u32) -> bool {
        self.rare().is_some_and(|rare| rare.held_updates.iter().any(|held| held.channel == channel))
    }

    /// Takes out the update that it holds of this channel.
    pub fn take_held_update(&mut self, channel: u32) -> Option<Welcome> {
        self.change_rare(|rare| {
            let at = rare.held_updates.iter().position(|held| held.channel == channel)?;
            Some(rare.held_updates.swap_remove(at).welcome)
        })?
    }

    /// Has it asked for something that is not answered, or not even begun?
    pub fn awaits_answers(&self) -> bool {
        self.is_open() && (self.details.unanswered > 0 || self.has_backlog())
    }

    /// Has it memberships that ended while it was silent?
    pub fn has_lapsed(&self) -> bool {
        self.rare().is_some_and(|rare| !rare.lapsed.is_empty())
    }

    /// Where it is about to go.
    pub fn moves_to(&self) -> Option<ShardId> {
        self.rare()?.hand_off.as_ref().map(|hand_off| hand_off.to)
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Who the session is; `None` before its greeting.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.details.session {
            Session::Sync(session) => session.principal(),
            Session::Foony(session) => session.principal(),
            Session::Undecided | Session::Echo => None,
        }
    }

    /// When the connection's pace next lets presence of a channel through.
    pub fn due_ms(&self, subscription: &Subscription) -> u64 {
        match self.pace {
            Pace::AtOnce => 0,
            Pace::Every(ms) => subscription.shown_ms() + u64::from(ms.get()),
        }
    }

    /// Whether the pace lets presence of a channel through; if so it is taken for shown. Does not
    /// look for the subscription when there is no pace, which is what fan-out meets.
    pub fn may_show(&mut self, now_ms: u64, channel: u32, feed: Feed) -> bool {
        let Pace::Every(ms) = self.pace else { return true };
        let Some(subscription) = self.subscription_mut(channel, feed) else { return true };
        let due = subscription.shown_ms() + u64::from(ms.get()) <= now_ms;
        if due {
            subscription.set_shown(now_ms);
        }
        due
    }

    pub fn subscription(&self, channel: u32, feed: Feed) -> Option<&Subscription> {
        self.details.subscriptions.iter().find(|s| s.is_to(channel, feed))
    }

    pub fn subscription_mut(&mut self, channel: u32, feed: Feed) -> Option<&mut Subscription> {
        self.details.subscriptions.iter_mut().find(|s| s.is_to(channel, feed))
    }

    pub fn membership_mut(&mut self, channel: u32) -> Option<&mut Membership> {
        self.details.memberships.iter_mut().find(|membership| membership.channel == channel)
    }

    pub fn is_member(&self, channel: u32) -> bool {
        self.details.memberships.iter().any(|membership| membership.channel == channel)
    }

    /// Whether it subscribes to the channel, or is a member of it.
    pub fn is_attached(&self, channel: u32) -> bool {
        self.is_member(channel) || self.details.subscriptions.iter().any(|s| s.channel() == channel)
    }

    /// Whether it subscribes to a feed of this kind in the channel.
    pub fn is_subscribed(&self, channel: u32, kind: FeedSet) -> bool {
        self.details.subscriptions.iter().any(|s| s.channel() == channel && kind.contains(s.feed()))
    }

    /// Subscriptions to feeds of one kind.
    pub fn subscriptions_to(&self, kind: FeedSet) -> usize {
        self.details
            .subscriptions
            .iter()
            .filter(|subscription| kind.contains(subscription.feed()))
            .count()
    }

    /// Whether the end of the byte stream is a goodbye: raw TCP has no other one.
    pub fn end_of_stream(&self) -> Disconnect {
        match self.details.transport {
            Transport::Stream(_) | Transport::Proxied(_) if self.unread().is_empty() => {
                Disconnect::Clean
            }
            Transport::Http => Disconnect::Clean,
            _ => Disconnect::Lost,
        }
    }
}

/// Slots for connections. A slot is used again with the next generation.
#[derive(Debug, Default)]
pub struct Connections {
    slots: Segments<Slot>,
    /// When each slot must be looked at again; kept apart so that a sweep reads little memory.
    checks: Segments<Check>,
    free: Vec<u32>,
}

/// A cache line, which is what fan-out fetches of each.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// A time in steps of 64 ms, rounded down: whoever looks so much too early looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Check(u32);

impl Default for Check {
    fn default() -> Self {
        Check::NEVER
    }
}

impl Check {
    const NOW: Check = Check(0);
    const NEVER: Check = Check(u32::MAX);

    fn at(mono_ms: u64) -> Self {
        u32::try_from(mono_ms / 64).map_or(Check::NEVER, Check)
    }
}

impl Connections {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, connection: Connection) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.checks.grow();
            self.slots.grow() as u32
        });
        let mut generation = 0;
        if let Some(entry) = self.slots.get_mut(slot as usize) {
            entry.generation = entry.generation.wrapping_add(1);
            entry.connection = Some(connection);
            generation = entry.generation;
        }
        self.note_check(slot, Check::NOW);
        ConnId { slot, generation }
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        let gone = self.slot_mut(id)?.connection.take()?;
        self.free.push(id.slot);
        self.note_check(id.slot, Check::NEVER);
        Some(gone)
    }

    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.slot_mut(id)?.connection.as_mut()
    }

    /// The present tenant of a slot.
    pub fn tenant(&self, slot: u32) -> Option<ConnId> {
        let entry = self.slots.get(slot as usize)?;
        entry.connection.as_ref()?;
        Some(ConnId { slot, generation: entry.generation })
    }

    /// Fetches connections that will be needed in a moment from memory, all at once: one after the
    /// other, each would be waited for.
    pub fn fetch(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            let entry = self.slots.get(slot as usize);
            let connection = entry.and_then(|entry| entry.connection.as_ref());
            black_box(connection.map(|c| (c.queue.is_empty(), c.is_open(), c.flags.polling)));
        }
    }

    /// Looks at a connection again at the time, or as much as 64 ms earlier.
    pub fn set_check(&mut self, id: ConnId, at_ms: u64) {
        if self.get(id).is_some() {
            self.note_check(id.slot, Check::at(at_ms));
        }
    }

    /// The next tenant at or after `slot` whose check is due.
    pub fn next_due(&self, slot: u32, now_ms: u64) -> Option<ConnId> {
        let now = Check::at(now_ms);
        let due = self.checks.position(slot as usize, |&check| check <= now)?;
        self.tenant(due as u32)
    }

    /// All present tenants.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        (0..self.slots.len() as u32).filter_map(|slot| self.tenant(slot))
    }

    fn slot_mut(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)
    }

    fn note_check(&mut self, slot: u32, check: Check) {
        if let Some(place) = self.checks.get_mut(slot as usize) {
            *place = check;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let deadline = Greeting::Due(Moment::at(1000));
        Connection::new(Transport::from(Listener::Http), 0, deadline)
    }

    #[test]
    fn a_check_is_never_late_and_less_than_a_step_early() {
        for at_ms in [0, 1, 63, 64, 65, 1_000_000, 40_000_123] {
            let mut connections = Connections::default();
            let id = connections.insert(connection());
            connections.set_check(id, at_ms);
            assert_eq!(connections.next_due(0, at_ms), Some(id), "{at_ms}");
            if let Some(early_ms) = at_ms.checked_sub(64) {
                assert_eq!(connections.next_due(0, early_ms), None, "{at_ms}");
            }
            connections.set_check(id, u64::MAX);
            assert_eq!(connections.next_due(0, u64::from(u32::MAX)), None);
            assert_eq!(connections.next_due(1, at_ms), None, "nobody after the last one");
        }
    }

    #[test]
    fn an_earlier_tenant_is_not_found() {
        let mut connections = Connections::default();
        let first = connections.insert(connection());
        assert!(connections.remove(first).is_some());
        assert!(connections.remove(first).is_none());
        let second = connections.insert(connection());
        assert_eq!((first.slot, connections.len()), (second.slot, 1));
        assert!(connections.get(first).is_none() && connections.get_mut(first).is_none());
        assert_eq!(connections.tenant(first.slot), Some(second));
    }

    #[test]
    fn rare_things_take_no_memory_once_they_are_gone() {
        let mut connection = connection();
        assert!(connection.rare().is_none());
        connection.rare_mut().unread.push(1);
        connection.rare_mut().resuming = Some(Resuming::default());
        connection.change_rare(|rare| rare.unread = Vec::new());
        assert!(connection.resuming().is_some());
        connection.change_rare(|rare| rare.resuming = None);
        assert!(connection.rare().is_none());
        assert_eq!(connection.change_rare(|_| ()), None);
    }
}
