//! One connection: transport, session, subscriptions, memberships, send queue.

use std::num::NonZeroU16;

use strum::IntoStaticStr;

use super::admission::Backlog;
use super::edges::Edges;
use super::handoff::Move;
use super::hook::Asked;
use super::long_poll::LongPoll;
use super::reader::Reader;
use super::send_queue::SendQueue;
use super::subscription::{HeldUpdate, LapsedMembership, Membership, Subscription};
use super::write_order::Due;
use crate::auth::Origin;
use crate::error::Disconnect;
use crate::ids::{Listener, Timestamp};
use crate::limits::Limits;
use crate::session::{Feed, FeedSet, Framing, Session};
use crate::shard::envelope::AnnounceReply;
use crate::shard::inline_vec::InlineVec;
use crate::wire::websocket;

/// How bytes become messages.
#[derive(Debug)]
pub enum Transport {
    /// Waiting for a complete PROXY header; then for what the listener speaks.
    Proxied(Listener),
    /// Waiting for a complete request head.
    Http,
    WebSocket(websocket::Decoder),
    /// Messages back to back.
    Stream,
    /// Requests and events in bodies of HTTP requests that the edge serves.
    LongPoll(Box<LongPoll>),
}

impl From<Listener> for Transport {
    fn from(listener: Listener) -> Self {
        match listener {
            Listener::Http => Transport::Http,
            Listener::SyncTcp => Transport::Stream,
        }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    Open,
    /// Receiving is being stopped; then it goes where its [`Move`] says.
    Moving,
    /// The session is over; the socket is being closed.
    Closing,
}

impl Phase {
    /// As operators see it.
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// A search for the memberships that an earlier connection of the session lost.
#[derive(Debug, Default)]
pub struct Resuming {
    /// Answers that have not arrived.
    pub answers: u32,
    /// Hashes of channels that the session has left meanwhile; they are not taken over. At most as
    /// many as a session may have channels; the leave of a further one is without effect.
    pub left: Vec<u64>,
}

/// Whether the session has authenticated, or greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthState {
    /// Not since this time, when the connection was accepted or upgraded.
    Pending { since: Timestamp },
    /// At this time. Of two connections that show the same name, the session is that of the later.
    Done { at: Timestamp },
}

impl AuthState {
    /// When the session last authenticated; 0 before.
    pub fn done_ms(self) -> u64 {
        match self {
            AuthState::Pending { .. } => 0,
            AuthState::Done { at } => at.ms(),
        }
    }
}

/// One connection: what fan-out reads, so that a hundred thousand of them are a few megabytes, and
/// pointers to the rest. An idle one owns no heap memory but its warm state, with the names of its
/// session and its subscriptions.
#[derive(Debug)]
pub struct Connection {
    pub queue: SendQueue,
    pub warm: Box<WarmState>,
    cold: Option<Box<ColdState>>,
    /// Updates that may still be sent to owners in `credit_second`. Fan-out has no use for these
    /// two; they fill the cache line.
    pub update_credit: u32,
    pub credit_second: u32,
    /// Presence of a channel is sent at most once in so many milliseconds.
    pub rate_hint: Option<NonZeroU16>,
    pub phase: Phase,
    pub flags: Flags,
}

/// The part of a connection that fan-out does not read.
#[derive(Debug)]
pub struct WarmState {
    pub transport: Transport,
    pub session: Session,
    pub subscriptions: InlineVec<Subscription>,
    pub memberships: InlineVec<Membership>,
    pub auth: AuthState,
    /// When a valid message last arrived.
    pub last_message: Timestamp,
    /// When anything last arrived.
    pub last_byte: Timestamp,
    /// Requests that have not been answered.
    pub unanswered: u32,
}

const _: () = assert!(size_of::<WarmState>() <= 120, "every idle connection pays for it");

/// What most connections have none of, most of the time.
#[derive(Debug, Default)]
pub struct ColdState {
    /// An incomplete request head or frame.
    pub unread: Vec<u8>,
    /// Set while requests wait, or large answers are expected.
    pub backlog: Option<Backlog>,
    /// Set while the admission hook is asked about the connection.
    pub asked: Option<Box<Asked>>,
    /// Set while a resume is in progress; until it is over the connection stays here.
    pub resuming: Option<Resuming>,
    /// Set in [`Phase::Moving`].
    pub hand_off: Option<Box<Move>>,
    /// Set when the peer has sent its last byte and is still to be answered.
    pub half_closed: Option<HalfClosed>,
    /// At most one per membership.
    pub held_updates: Vec<HeldUpdate>,
    /// At most one per channel that the session was a member of when it fell silent.
    pub lapsed: Vec<LapsedMembership>,
    /// Set while it decides about peers, or has been handed direct messages.
    pub edges: Option<Box<Edges>>,
    /// Set while it receives documents.
    pub reader: Option<Box<Reader>>,
}

/// The end of a stream whose requests are still being answered.
#[derive(Clone, Copy, Debug)]
pub struct HalfClosed {
    /// Why the connection ends when they have not been in time.
    pub reason: Disconnect,
    /// When it ends in any case.
    pub until: Timestamp,
}

impl ColdState {
    fn is_empty(&self) -> bool {
        let ColdState { unread, backlog, asked, resuming, hand_off, half_closed, .. } = self;
        let ColdState { held_updates, lapsed, edges, reader, .. } = self;
        unread.is_empty()
            && backlog.is_none()
            && asked.is_none()
            && resuming.is_none()
            && hand_off.is_none()
            && half_closed.is_none()
            && held_updates.is_empty()
            && lapsed.is_empty()
            && edges.as_ref().is_none_or(|edges| edges.is_empty())
            && reader.is_none()
    }

    /// Holds an update, in place of an earlier one of the same channel; returns what the author of
    /// that one is to receive.
    pub fn hold_update(&mut self, update: HeldUpdate) -> Option<AnnounceReply> {
        let earlier = self.held_updates.iter_mut().find(|held| held.channel == update.channel);
        match earlier {
            Some(earlier) => Some(std::mem::replace(&mut earlier.reply, update.reply)),
            None => {
                self.held_updates.push(update);
                None
            }
        }
    }
}

/// Small facts about a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// In the order of connections to write to.
    pub due: Option<Due>,
    /// Its transport is [`Transport::LongPoll`].
    pub long_poll: bool,
    /// The socket took less than it was given; nothing is written until it can take more.
    pub blocked: bool,
    /// A ping was sent since the last byte.
    pub pinged: bool,
    /// It stays here: it came from another shard, or answers are on their way to it.
    pub placement_final: bool,
    /// A rate timer is set.
    pub rate_timed: bool,
    /// In the list of connections with something that a full mailbox refused.
    pub retrying: bool,
    /// In the list of connections whose backlog is to be drained.
    pub scheduled: bool,
    /// Some subscription has missed something.
    pub stale: bool,
    /// Where it comes from.
    pub origin: Origin,
    /// Longest message that the client can read, KiB; 0 when it is not known to be short.
    pub max_message_hint: u16,
}

impl Connection {
    /// A connection that has not authenticated. `session`: undecided, unless its transport decides.
    pub fn new(transport: Transport, session: Session, now_ms: u64, auth: AuthState) -> Self {
        let long_poll = matches!(transport, Transport::LongPoll(_));
        let warm = WarmState {
            transport,
            session,
            subscriptions: InlineVec::None,
            memberships: InlineVec::None,
            auth,
            last_message: Timestamp::at(now_ms),
            last_byte: Timestamp::at(now_ms),
            unanswered: 0,
        };
        Connection {
            queue: SendQueue::default(),
            warm: Box::new(warm),
            cold: None,
            update_credit: 0,
            credit_second: 0,
            rate_hint: None,
            phase: Phase::Open,
            flags: Flags { long_poll, ..Flags::default() },
        }
    }

    pub fn session(&self) -> &Session {
        &self.warm.session
    }

    /// The cold state; `None` when all of it is empty.
    pub fn cold(&self) -> Option<&ColdState> {
        self.cold.as_deref()
    }

    /// The cold state, to add to it.
    pub fn cold_mut(&mut self) -> &mut ColdState {
        self.cold.get_or_insert_default()
    }

    /// Lets `change` take something away from the cold state; `None` when it is empty.
    pub fn take_cold<T>(&mut self, change: impl FnOnce(&mut ColdState) -> T) -> Option<T> {
        let cold = self.cold.as_mut()?;
        let result = change(cold);
        if cold.is_empty() {
            self.cold = None;
        }
        Some(result)
    }

    /// An incomplete request head or frame.
    pub fn unread(&self) -> &[u8] {
        self.cold().map_or(&[], |cold| &cold.unread)
    }

    pub fn resuming(&self) -> Option<&Resuming> {
        self.cold()?.resuming.as_ref()
    }

    /// An answer to a search for lost memberships arrived; `more` are expected because of it.
    pub fn resume_answered(&mut self, more: usize) {
        self.take_cold(|cold| {
            let Some(resuming) = &mut cold.resuming else { return };
            resuming.answers = resuming.answers - 1 + more as u32;
            if resuming.answers == 0 {
                cold.resuming = None;
            }
        });
    }

    pub fn half_closed(&self) -> Option<HalfClosed> {
        self.cold()?.half_closed
    }

    /// True while it holds an update of this channel.
    pub fn holds_update(&self, channel: u32) -> bool {
        self.cold().is_some_and(|cold| cold.held_updates.iter().any(|held| held.channel == channel))
    }

    /// Takes out the update that it holds of this channel.
    pub fn take_held_update(&mut self, channel: u32) -> Option<AnnounceReply> {
        self.take_cold(|cold| {
            let at = cold.held_updates.iter().position(|held| held.channel == channel)?;
            Some(cold.held_updates.swap_remove(at).reply)
        })?
    }

    /// True while requests have not been answered, or not even begun.
    pub fn awaits_answers(&self) -> bool {
        self.is_open() && (self.warm.unanswered > 0 || self.is_held())
    }

    /// True when memberships have expired while it was silent.
    pub fn has_lapsed(&self) -> bool {
        self.cold().is_some_and(|cold| !cold.lapsed.is_empty())
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub fn framing(&self) -> Framing {
        match self.warm.transport {
            Transport::WebSocket(_) => Framing::WebSocket,
            _ => Framing::Stream,
        }
    }

    /// When it is closed unless the session has authenticated.
    pub fn auth_deadline_ms(&self, limits: &Limits) -> Option<u64> {
        let AuthState::Pending { since } = self.warm.auth else { return None };
        if self.awaits_verdict() {
            return None;
        }
        let limit_ms = match self.warm.transport {
            Transport::WebSocket(_) => self.session().greeting_ms(limits)?,
            _ => limits.greeting_ms,
        };
        Some(since.ms() + limit_ms)
    }

    /// When the rate hint next lets presence of a channel through.
    pub fn next_delivery_ms(&self, subscription: &Subscription) -> u64 {
        self.rate_hint.map_or(0, |ms| subscription.delivered_ms() + u64::from(ms.get()))
    }

    /// True when the rate hint lets presence of a channel through, which then counts as delivered.
    /// Does not look for the subscription without a rate hint, which is the common case of fan-out.
    pub fn can_deliver(&mut self, now_ms: u64, channel: u32, feed: Feed) -> bool {
        let Some(ms) = self.rate_hint else { return true };
        let Some(subscription) = self.subscription_mut(channel, feed) else { return true };
        let due = subscription.delivered_ms() + u64::from(ms.get()) <= now_ms;
        if due {
            subscription.set_delivered(now_ms);
        }
        due
    }

    pub fn subscription(&self, channel: u32, feed: Feed) -> Option<&Subscription> {
        self.warm.subscriptions.iter().find(|s| s.is_to(channel, feed))
    }

    pub fn subscription_mut(&mut self, channel: u32, feed: Feed) -> Option<&mut Subscription> {
        self.warm.subscriptions.iter_mut().find(|s| s.is_to(channel, feed))
    }

    pub fn is_subscribed(&self, channel: u32, feed: Feed) -> bool {
        self.subscription(channel, feed).is_some()
    }

    pub fn membership_mut(&mut self, channel: u32) -> Option<&mut Membership> {
        self.warm.memberships.iter_mut().find(|membership| membership.channel == channel)
    }

    pub fn is_member(&self, channel: u32) -> bool {
        self.warm.memberships.iter().any(|membership| membership.channel == channel)
    }

    /// True when it subscribes to the channel, or is a member of it.
    pub fn is_attached(&self, channel: u32) -> bool {
        self.is_member(channel) || self.warm.subscriptions.iter().any(|s| s.channel() == channel)
    }

    /// Number of subscriptions to feeds of one kind.
    pub fn subscriptions_to(&self, kind: FeedSet) -> usize {
        self.warm.subscriptions.iter().filter(|s| kind.contains(s.feed())).count()
    }

    /// Why the connection ends with its byte stream: raw TCP has no other goodbye. What waits for
    /// the admission hook was whole, as far as is known.
    pub fn end_of_stream(&self) -> Disconnect {
        let is_whole = self.unread().is_empty() || self.awaits_verdict();
        match self.warm.transport {
            Transport::Stream | Transport::Proxied(_) if is_whole => Disconnect::Clean,
            Transport::Http => Disconnect::Clean,
            _ => Disconnect::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_state_takes_no_memory_once_it_is_empty() {
        let auth = AuthState::Pending { since: Timestamp::at(0) };
        let mut connection = Connection::new(Transport::Http, Session::undecided(), 0, auth);
        assert!(connection.cold().is_none());
        connection.cold_mut().unread.push(1);
        connection.cold_mut().resuming = Some(Resuming::default());
        connection.take_cold(|cold| cold.unread = Vec::new());
        assert!(connection.resuming().is_some());
        connection.take_cold(|cold| cold.resuming = None);
        assert!(connection.cold().is_none());
        assert_eq!(connection.take_cold(|_| ()), None);
    }
}
