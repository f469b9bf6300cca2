//! Requests of this home's sessions that name a channel, and the answers to them. Every request is
//! answered once: here, or by the owner of the channel.

use std::collections::HashSet;
use std::sync::Arc;

use super::Shard;
use super::connection::Session;
use super::envelope::{Asker, Command, Replaying, Welcome};
use super::membership::Departure;
use super::placement::Placed;
use super::write_order::Due;
use crate::channel::{Identity, PageLimit, Position};
use crate::counters::Ignored;
use crate::error::{Disconnect, Reject};
use crate::ids::{ChannelKey, ConnId, Now};
use crate::session::foony::encode::Writer;
use crate::session::foony::{self, ON_BEHALF};
use crate::session::{Answer, Feed, FeedSet, Present, Request, Scope};

/// Most bytes of messages in a page of history, and in the answer to a fetch. Who asks for more is
/// told that there is more, or fetches again at the next message.
const PAGE_BYTES_MAX: usize = 256 * 1024;
const FETCH_BYTES_MAX: usize = 1024 * 1024;

/// Both, for clients that end the connection at 32 KiB (`protocols/foony.md` section 5.11).
const SMALL_ANSWER_BYTES_MAX: usize = 24 * 1024;

/// Answers above this are queued as they are; smaller ones are gathered.
const LARGE_ANSWER_BYTES: usize = 16 * 1024;

/// Who asks, under which number, about which channel of this home.
#[derive(Clone, Copy)]
struct Asking {
    id: ConnId,
    number: u64,
    slot: u32,
}

/// What a session may have of as many channels as its limit says.
#[derive(Clone, Copy)]
enum Wish {
    Subscription(FeedSet),
    Membership,
}

impl Shard {
    /// Carries a request out, or begins to. Refused ones are answered.
    pub(super) fn handle_request(
        &mut self,
        now: Now,
        id: ConnId,
        number: u64,
        channel: &str,
        request: Request,
    ) -> Placed {
        let app = self.app_of(id);
        let hash = self.settings.router.hash(&app, channel);
        let known = self.homes.find(&app, channel, hash);
        let attached = known.filter(|&slot| self.is_attached(id, slot));
        let key = match attached.and_then(|slot| self.homes.get(slot)) {
            Some(home) => Arc::clone(&home.key),
            None => {
                let key = ChannelKey { app, name: channel.into(), hash };
                if let Some(to) = self.better_home(id, &key) {
                    return Placed::Elsewhere(to);
                }
                Arc::new(key)
            }
        };
        if let Some(connection) = self.connections.get_mut(id) {
            connection.flags.settled = true;
            connection.details.unanswered += 1;
            self.unanswered += 1;
        }
        if let Err(reject) = self.carry_out(now, id, number, key, request) {
            self.answer(now, id, number, channel, &Answer::Refused(reject));
        }
        Placed::Here
    }

    /// Tells a session what became of a request.
    pub(super) fn handle_answer(
        &mut self,
        now: Now,
        id: ConnId,
        number: u64,
        key: &ChannelKey,
        answer: Answer,
    ) {
        self.note_answer(id, number);
        let slot = self.homes.find_key(key);
        let answer = match (answer, slot) {
            (Answer::Subscribed { messages, resumed }, slot) => {
                let begins = slot.is_some_and(|slot| self.begin_messages(id, slot, number));
                let messages = if begins { messages } else { Vec::new() };
                Answer::Subscribed { messages, resumed }
            }
            (Answer::Watched { members, .. }, Some(slot)) => {
                return self.begin_watching(now, id, number, slot, members);
            }
            (Answer::Watched { .. }, None) => {
                Answer::Watched { left: Vec::new(), members: Vec::new() }
            }
            (Answer::Refused(reject), Some(slot)) => {
                self.abandon(id, slot, number);
                Answer::Refused(reject)
            }
            (answer, _) => answer,
        };
        self.answer(now, id, number, &key.name, &answer);
    }

    /// Appends an answer in the session's own words.
    pub(super) fn answer(
        &mut self,
        now: Now,
        id: ConnId,
        number: u64,
        channel: &str,
        answer: &Answer,
    ) {
        if let Answer::Refused(reject) = answer {
            self.counters.ignore(Ignored::Refused(*reject));
        }
        let Some(connection) = self.connections.get(id).filter(|c| c.is_open()) else { return };
        let Session::Foony(session) = &connection.details.session else { return };
        self.reply.clear();
        let mut out = Writer::new(session.form(), &mut self.reply);
        session.answer(now, number, channel, answer, &mut out);
        self.send_reply(now, id);
        if !foony::is_silent(number) {
            self.note_answered(now, id);
        }
    }

    /// One request fewer is to be answered.
    fn note_answered(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.is_open()) else { return };
        debug_assert!(connection.details.unanswered > 0, "an answer too many on {id:?}");
        connection.details.unanswered = connection.details.unanswered.saturating_sub(1);
        self.unanswered = self.unanswered.saturating_sub(1);
        self.end_if_answered(now, id);
        self.end_drain_if_answered(now);
    }

    /// Ends a connection whose peer has sent its last byte, and been answered all that it asked.
    pub(super) fn end_if_answered(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connections.get(id).filter(|c| !c.awaits_answers()) else {
            return;
        };
        if let Some(ended) = connection.rare().and_then(|rare| rare.ended) {
            self.disconnect(now, id, ended.reason);
        }
    }

    /// Queues what `reply` holds. Answers are never dropped: a peer that asks without reading them
    /// ends, or is not listened to before it has.
    pub(super) fn send_reply(&mut self, now: Now, id: ConnId) {
        let most = self.settings.limits.send_queue_bytes_max;
        let Some(connection) = self.connections.get_mut(id) else { return };
        if self.reply.is_empty() {
            return;
        }
        let has_turns = matches!(connection.details.session, Session::Foony(_));
        if connection.queue.len() > most && !has_turns {
            self.reply.clear();
            return self.disconnect(now, id, Disconnect::Slow);
        }
        if self.reply.len() > LARGE_ANSWER_BYTES {
            connection.queue.push_own(std::mem::take(&mut self.reply));
        } else {
            let reply = &self.reply;
            connection.queue.append(|out| out.extend_from_slice(reply));
            self.reply.clear();
        }
        self.mark_due(id, Due::Answer);
    }

    /// Does what a request asks for, or asks the owner to do it and to answer.
    ///
    /// # Errors
    /// Why it is refused here; that is the answer then.
    fn carry_out(
        &mut self,
        now: Now,
        id: ConnId,
        number: u64,
        key: Arc<ChannelKey>,
        request: Request,
    ) -> Result<(), Reject> {
        let asker = Asker::Session { conn: id, request: number };
        let asking = |slot| Asking { id, number, slot };
        match request {
            Request::Publish(draft) => self.pass_on(key, Command::Publish { asker, draft }),
            Request::History { limit, before } => {
                let room = self.room(id, limit, PAGE_BYTES_MAX);
                self.expect_large_answer(id, number);
                self.pass_on(key, Command::History { asker, before, room });
            }
            Request::Fetch { after } => {
                let room = self.room(id, usize::MAX, FETCH_BYTES_MAX);
                self.expect_large_answer(id, number);
                self.pass_on(key, Command::Fetch { asker, after, room });
            }
            Request::Subscribe { after, scope } => {
                let slot = self.open_for(id, key, Wish::Subscription(Feed::MESSAGES))?;
                self.begin_subscription(now, &asking(slot), after, scope);
            }
            Request::Watch => {
                let slot = self.open_for(id, key, Wish::Subscription(Feed::PRESENCE_CHANGES))?;
                self.watch(now, &asking(slot));
            }
            Request::Announce(state) => {
                let slot = self.open_for(id, key, Wish::Membership)?;
                self.announce_state(now, id, slot, state, Welcome::Answer(number));
            }
            Request::Unsubscribe | Request::Unwatch | Request::Leave => {
                self.detach(now, id, &key, &request);
                self.answer(now, id, number, &key.name, &Answer::Done);
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, key: Arc<ChannelKey>, command: Command) {
        let owner = self.settings.router.shard_of(&key);
        self.command(owner, key, command);
    }

    /// How much the answer to a client may hold.
    fn room(&self, id: ConnId, messages: usize, bytes: usize) -> PageLimit {
        let is_small = self.connections.get(id).is_some_and(|c| c.flags.small_reader);
        PageLimit { messages, bytes: if is_small { SMALL_ANSWER_BYTES_MAX } else { bytes } }
    }

    /// The channel's entry, if the session may have what it wishes there, or has it already.
    fn open_for(&mut self, id: ConnId, key: Arc<ChannelKey>, wish: Wish) -> Result<u32, Reject> {
        let most = self.settings.limits.subscriptions_per_session_max;
        let Some(connection) = self.connections.get(id) else { return Err(Reject::Unsupported) };
        let has = |slot| match wish {
            Wish::Membership => connection.is_member(slot),
            Wish::Subscription(kind) => connection.is_subscribed(slot, kind),
        };
        let count = match wish {
            Wish::Membership => connection.details.memberships.len(),
            Wish::Subscription(kind) => connection.subscriptions_to(kind),
        };
        if !self.homes.find_key(&key).is_some_and(has) && count >= most {
            return Err(Reject::TooManyChannels);
        }
        Ok(self.home_open(key))
    }

    fn begin_subscription(
        &mut self,
        now: Now,
        asking: &Asking,
        after: Option<Position>,
        scope: Scope,
    ) {
        let Some(feed) = self.foony_feeds(asking.id).map(|feeds| feeds.0) else { return };
        if scope == Scope::MessagesAndPresence {
            self.watch(now, &Asking { number: asking.number | ON_BEHALF, ..*asking });
        }
        let replay = match self.is_subscribed(asking.id, asking.slot, feed) {
            true => Replaying::Needless,
            false => {
                self.subscribe(now, asking.id, asking.slot, feed, asking.number);
                Replaying::Wanted
            }
        };
        if after.is_some() {
            self.expect_large_answer(asking.id, asking.number);
        }
        let asker = Asker::Session { conn: asking.id, request: asking.number };
        self.command_home(asking.slot, Command::Attach { asker, feed, after, replay });
    }

    fn watch(&mut self, now: Now, asking: &Asking) {
        let Some(feed) = self.foony_feeds(asking.id).map(|feeds| feeds.1) else { return };
        if !self.is_subscribed(asking.id, asking.slot, feed) {
            self.subscribe(now, asking.id, asking.slot, feed, asking.number);
        }
        self.expect_large_answer(asking.id, asking.number);
        let asker = Asker::Session { conn: asking.id, request: asking.number };
        self.command_home(asking.slot, Command::Watch { asker, feed });
    }

    /// Gives up what the session has of a channel; nothing happens where it has nothing.
    fn detach(&mut self, now: Now, id: ConnId, key: &ChannelKey, request: &Request) {
        let slot = self.homes.find_key(key);
        let (Some(slot), Some((messages, presence))) = (slot, self.foony_feeds(id)) else { return };
        match request {
            Request::Unwatch => self.unsubscribe(id, slot, presence),
            Request::Leave => self.withdraw(now, id, slot, Departure::AtOnce),
            _ => {
                self.withdraw(now, id, slot, Departure::AtOnce);
                self.unsubscribe(id, slot, messages);
                self.unsubscribe(id, slot, presence);
            }
        }
    }

    /// The feeds of messages and of presence that a session reads.
    fn foony_feeds(&self, id: ConnId) -> Option<(Feed, Feed)> {
        match &self.connections.get(id)?.details.session {
            Session::Foony(session) => Some((session.messages(), session.presence())),
            _ => None,
        }
    }

    /// Messages flow from here on, if this is the answer that the subscription waits for.
    fn begin_messages(&mut self, id: ConnId, slot: u32, number: u64) -> bool {
        let Some((feed, _)) = self.foony_feeds(id) else { return false };
        let awaited = self.awaits(id, slot, feed, number);
        if awaited {
            self.admit(id, slot, feed);
        }
        awaited
    }

    /// The owner cannot take the subscriptions that a request began with.
    fn abandon(&mut self, id: ConnId, slot: u32, number: u64) {
        let Some((messages, presence)) = self.foony_feeds(id) else { return };
        for feed in [messages, presence] {
            if self.awaits(id, slot, feed, number) {
                self.unsubscribe(id, slot, feed);
            }
        }
    }

    /// Is there a subscription that begins with the answer to this request?
    fn awaits(&self, id: ConnId, slot: u32, feed: Feed, number: u64) -> bool {
        let subscription = self.connections.get(id).and_then(|c| c.subscription(slot, feed));
        subscription.is_some_and(|s| s.awaits(number))
    }

    /// Shows who is present, and those to have left of whom the session was not told.
    fn begin_watching(
        &mut self,
        now: Now,
        id: ConnId,
        number: u64,
        slot: u32,
        members: Vec<Present>,
    ) {
        let Some((_, feed)) = self.foony_feeds(id) else { return };
        let Some(name) = self.homes.get(slot).map(|home| Arc::clone(&home.key)) else { return };
        let connection = self.connections.get(id);
        let subscription = connection.and_then(|c| c.subscription(slot, feed));
        if !subscription.is_some_and(|s| s.place().is_some() || s.awaits(number)) {
            // An answer to a wish that the session has given up since.
            let nobody = Answer::Watched { left: Vec::new(), members: Vec::new() };
            return self.answer(now, id, number, &name.name, &nobody);
        }
        self.admit(id, slot, feed);
        let mut left = self.take_departures(id, slot);
        if !left.is_empty() {
            let present: HashSet<_> = members.iter().map(|m| member_name(&m.identity)).collect();
            left.retain(|gone| !present.contains(&member_name(gone)));
        }
        self.answer(now, id, number, &name.name, &Answer::Watched { left, members });
        if self.connections.get(id).is_some_and(|connection| connection.queue.is_empty()) {
            self.refresh_stale(now, id);
        }
    }
}

/// What tells members apart for those who watch.
fn member_name(identity: &Identity) -> (&str, &str) {
    (&identity.user, &identity.connection)
}
