//! Requests of this home's sessions to channels, and the answers. Every request is answered once:
//! here, or by the owner of the channel.

use std::sync::Arc;

use super::Home;
use super::connections::ActiveConnection;
use super::membership::Departure;
use super::placement::Placed;
use super::subscription::Missed;
use super::write_order::Due;
use crate::channel::{PageLimit, Position};
use crate::counters::Ignored;
use crate::error::{Disconnect, Reject};
use crate::ids::ChannelKey;
use crate::session::{Answer, ChannelRequest, Feed, FeedSet, ON_BEHALF, Request, Scope, is_silent};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{AnnounceReply, Command, Recipients, Replaying, ReplyTo};

/// Most bytes of messages in a page of history, and in the answer to a fetch. A client that asks
/// for more learns that there is more, or fetches again from the next message.
const PAGE_BYTES_MAX: usize = 256 * 1024;
const FETCH_BYTES_MAX: usize = 1024 * 1024;

/// Answers above this are queued as they are; smaller ones are gathered.
const LARGE_ANSWER_BYTES: usize = 16 * 1024;

/// A request of the connection at hand, to a channel of this home.
#[derive(Clone, Copy)]
struct RequestCtx {
    id: u64,
    slot: u32,
}

/// What a session may have of as many channels as its limit says.
#[derive(Clone, Copy)]
enum Attachment {
    Subscription(FeedSet),
    Membership,
}

impl Home {
    /// Carries a request out, or begins to. Refused ones are answered.
    pub(super) fn handle_request(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        request: ChannelRequest<'_>,
    ) -> Placed {
        let ChannelRequest { id, channel, request } = request;
        let Some(principal) = conn.session().principal() else {
            debug_assert!(false, "{request:?} without authentication");
            return Placed::Here;
        };
        let app = Arc::clone(&principal.grant.app);
        let hash = cx.settings.router.hash(&app, &channel);
        let known = self.channels.find(&app, &channel, hash);
        let attached = known.filter(|&slot| conn.is_attached(slot));
        let key = match attached {
            Some(slot) => Arc::clone(&self.channel(slot).key),
            None => {
                let key = ChannelKey { app, name: (&*channel).into(), hash };
                if !request.is_release()
                    && let Some(to) = self.better_home(cx, conn, &key)
                {
                    return Placed::Elsewhere(to);
                }
                Arc::new(key)
            }
        };
        if !is_silent(id) {
            conn.flags.placement_final = true;
            conn.warm.unanswered += 1;
            self.drain.requested();
        }
        self.begin_request(cx, conn, id, key, request)
    }

    /// The outcome of a request that an owner has carried out, or refused.
    pub(super) fn handle_answer(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        id: u64,
        key: &ChannelKey,
        answer: Answer,
    ) {
        self.note_large_answer(cx, conn, id);
        let slot = self.channels.find_key(key);
        let answer = match (answer, slot) {
            (Answer::Subscribed { messages, resumed }, slot) => {
                let begins = slot.is_some_and(|slot| self.begin_messages(conn, slot, id));
                let messages = if begins { messages } else { Vec::new() };
                Answer::Subscribed { messages, resumed }
            }
            (Answer::Refused(reject), Some(slot)) => {
                self.abandon(cx, conn, slot, id);
                Answer::Refused(reject)
            }
            (answer, _) => answer,
        };
        self.answer(cx, conn, id, &key.name, &answer);
    }

    /// Appends an answer in the session's protocol.
    pub(super) fn answer(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        id: u64,
        channel: &str,
        answer: &Answer,
    ) {
        match answer {
            Answer::Refused(reject) => cx.counters.ignore(Ignored::Refused(*reject)),
            Answer::NotTaken { .. } => cx.counters.ignore(Ignored::NotTaken),
            _ => {}
        }
        if !conn.is_open() {
            return;
        }
        self.reply.clear();
        conn.session().answer(cx.now, id, channel, answer, &mut self.reply);
        self.finish_answer(cx, conn, id);
    }

    /// Sends what `reply` holds, the answer to a request.
    pub(super) fn finish_answer(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        id: u64,
    ) {
        self.send_reply(cx, conn);
        if !is_silent(id) && conn.is_open() {
            assert!(conn.warm.unanswered > 0, "an answer too many on {:?}", conn.id);
            conn.warm.unanswered -= 1;
            self.drain.answered(1);
            self.end_if_answered(cx, conn);
        }
    }

    /// Ends a connection whose peer has sent its last byte and received all its answers.
    pub(super) fn end_if_answered(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if conn.half_closed().is_some() && !conn.awaits_answers() {
            // Not the reason at the end of the stream, when whole messages may have been unread.
            self.disconnect(cx, conn, conn.end_of_stream());
        }
    }

    /// Queues what `reply` holds. Answers are never dropped: a peer that asks without reading them
    /// is closed as slow, or its requests wait.
    pub(super) fn send_reply(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) {
        if self.reply.is_empty() {
            return;
        }
        // A page of documents may be larger, and the answer comes right behind it.
        let page_bytes = conn.cold().and_then(|cold| cold.reader.as_ref());
        let page_bytes = page_bytes.map_or(0, |reader| reader.page_bytes());
        let is_slow = conn.queue.len() > cx.limits().send_queue_bytes_max + page_bytes;
        if is_slow && !conn.session().has_flow_control() {
            self.reply.clear();
            return self.disconnect(cx, conn, Disconnect::Slow);
        }
        if self.reply.len() > LARGE_ANSWER_BYTES {
            conn.queue.push_own(std::mem::take(&mut self.reply));
        } else {
            let reply = &self.reply;
            conn.queue.append(|out| out.extend_from_slice(reply));
            self.reply.clear();
        }
        self.outgoing.mark_due(conn.id, conn, Due::Answer);
    }

    /// Does what a request asks for, or asks the owner to do it and to answer.
    ///
    /// # Errors
    /// Why it is refused here; that is the answer then.
    pub(super) fn carry_out(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        id: u64,
        key: Arc<ChannelKey>,
        request: Request,
    ) -> Result<(), Reject> {
        let reply_to = ReplyTo::Session { conn: conn.id, request: id };
        let owner = Home::owner_of(cx, &key);
        match request {
            Request::Publish(draft) => cx.command(owner, key, Command::Publish { reply_to, draft }),
            Request::History { limit, before } => {
                let limit = page_limit(conn, limit, PAGE_BYTES_MAX);
                conn.expect_large_answer(id);
                cx.command(owner, key, Command::History { reply_to, before, limit });
            }
            Request::Direct(message) => {
                cx.command(owner, key, Command::Direct { reply_to, message });
            }
            Request::Check(copy) => {
                let slot = self.channels.find_key(&key);
                if !slot.is_some_and(|slot| conn.is_subscribed(slot, Feed::FoonyPeers)) {
                    return Err(Reject::Unsupported);
                }
                conn.expect_large_answer(id);
                cx.command(owner, key, Command::Check { reply_to, copy });
            }
            Request::Fetch { after } => {
                let limit = page_limit(conn, usize::MAX, FETCH_BYTES_MAX);
                conn.expect_large_answer(id);
                cx.command(owner, key, Command::Fetch { reply_to, after, limit });
            }
            Request::Subscribe { after, scope } => {
                let slot = self.attach(cx, conn, key, Attachment::Subscription(Feed::MESSAGES))?;
                self.begin_subscription(cx, conn, RequestCtx { id, slot }, after, scope);
            }
            Request::Watch => {
                let presence = Attachment::Subscription(Feed::PRESENCE_CHANGES);
                let slot = self.attach(cx, conn, key, presence)?;
                self.watch(cx, conn, RequestCtx { id, slot });
            }
            Request::Announce(state) => {
                let slot = self.attach(cx, conn, key, Attachment::Membership)?;
                let feed = conn.session().feeds().member;
                if let Some(feed) = feed.filter(|&feed| !conn.is_subscribed(slot, feed)) {
                    self.subscribe(cx, conn, slot, feed, id);
                }
                let reply = feed.map_or(AnnounceReply::Answer(id), AnnounceReply::Feed);
                self.announce_state(cx, conn, slot, state, reply);
            }
            Request::Unsubscribe | Request::Unwatch | Request::Leave => {
                self.release(cx, conn, &key, &request);
                self.answer(cx, conn, id, &key.name, &Answer::Done);
            }
        }
        Ok(())
    }

    /// The channel's entry, if the session may be attached to it, or is already.
    fn attach(
        &mut self,
        cx: &ShardContext,
        conn: &ActiveConnection,
        key: Arc<ChannelKey>,
        attachment: Attachment,
    ) -> Result<u32, Reject> {
        let slot = self.channels.find_key(&key);
        let is_attached = slot.is_some_and(|slot| match attachment {
            Attachment::Membership => conn.is_member(slot),
            Attachment::Subscription(kind) => conn
                .warm
                .subscriptions
                .iter()
                .any(|s| s.channel() == slot && kind.contains(s.feed())),
        });
        let count = match attachment {
            Attachment::Membership => conn.warm.memberships.len(),
            Attachment::Subscription(kind) => conn.subscriptions_to(kind),
        };
        if !is_attached && count >= conn.session().channels_max(cx.limits()) {
            return Err(Reject::TooManyChannels);
        }
        Ok(self.open_channel(cx, key))
    }

    fn begin_subscription(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        request: RequestCtx,
        after: Option<Position>,
        scope: Scope,
    ) {
        let RequestCtx { id, slot } = request;
        let Some(feed) = conn.session().feeds().messages else { return };
        if scope == Scope::MessagesAndPresence {
            self.watch(cx, conn, RequestCtx { id: id | ON_BEHALF, slot });
        }
        let replay = match conn.is_subscribed(slot, feed) {
            true => Replaying::Needless,
            false => {
                self.subscribe(cx, conn, slot, feed, id);
                Replaying::Wanted
            }
        };
        if after.is_some() {
            conn.expect_large_answer(id);
        }
        let reply_to = ReplyTo::Session { conn: conn.id, request: id };
        self.command_owner(cx, slot, Command::Attach { reply_to, feed, after, replay });
    }

    fn watch(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection, request: RequestCtx) {
        let RequestCtx { id, slot } = request;
        let Some(feed) = conn.session().feeds().presence else { return };
        if !conn.is_subscribed(slot, feed) {
            self.subscribe(cx, conn, slot, feed, id);
        }
        conn.expect_large_answer(id);
        let recipients = Recipients::One { conn: conn.id, request: id };
        let home = self.channel_id(slot);
        self.command_owner(cx, slot, Command::Snapshot { feed, home, recipients });
    }

    /// Gives up what the session has of a channel; without effect where it has nothing.
    fn release(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        key: &ChannelKey,
        request: &Request,
    ) {
        let feeds = conn.session().feeds();
        let slot = self.channels.find_key(key);
        if matches!(request, Request::Leave | Request::Unsubscribe) {
            if let Some(slot) = slot {
                self.leave_and_unsubscribe(cx, conn, slot, Departure::AtOnce);
            }
            note_left(cx, conn, key);
        }
        let released = match request {
            Request::Unwatch => [feeds.presence, None],
            Request::Unsubscribe => [feeds.messages, feeds.presence],
            _ => [None, None],
        };
        for feed in released.into_iter().flatten() {
            if let Some(slot) = self.channels.find_key(key) {
                self.unsubscribe(cx, conn, slot, feed);
            }
        }
    }

    /// Messages flow from here on, if this is the answer that the subscription waits for.
    fn begin_messages(&mut self, conn: &mut ActiveConnection, slot: u32, id: u64) -> bool {
        let Some(feed) = conn.session().feeds().messages else { return false };
        let is_awaited = conn.subscription(slot, feed).is_some_and(|s| s.awaits(id));
        if is_awaited {
            self.activate(conn, slot, feed);
        }
        is_awaited
    }

    /// The owner cannot take the subscriptions that a request began with.
    fn abandon(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection, slot: u32, id: u64) {
        let feeds = conn.session().feeds();
        for feed in [feeds.messages, feeds.presence].into_iter().flatten() {
            if conn.subscription(slot, feed).is_some_and(|s| s.awaits(id)) {
                self.unsubscribe(cx, conn, slot, feed);
            }
        }
    }

    /// Answers requests whose snapshot will not be delivered, because the subscription has ended.
    pub(super) fn answer_unserved(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        channel: &str,
        missed: Option<Box<Missed>>,
    ) {
        let Some(Missed::Changes { requests, .. }) = missed.map(|missed| *missed) else { return };
        for id in requests {
            self.note_large_answer(cx, conn, id);
            self.answer(cx, conn, id, channel, &Answer::Done);
        }
    }
}

/// Limits of the answer to a client.
fn page_limit(conn: &ActiveConnection, messages: usize, bytes: usize) -> PageLimit {
    let bytes = match usize::from(conn.flags.max_message_hint) * 1024 {
        0 => bytes,
        // A quarter is for what messages take besides their data.
        hint => bytes.min(hint / 4 * 3),
    };
    PageLimit { messages, bytes }
}

/// Remembers that a session has left, for memberships that it may still get back.
fn note_left(cx: &ShardContext, conn: &mut ActiveConnection, key: &ChannelKey) {
    let most = cx.limits().channels_per_session_max;
    conn.take_cold(|cold| {
        cold.lapsed.retain(|lapsed| *lapsed.channel != *key);
        if let Some(resuming) = cold.resuming.as_mut().filter(|r| r.left.len() < most) {
            resuming.left.push(key.hash);
        }
    });
}
