//! The edge's side of the mesh: envelopes in both directions, calls to shards and their answers.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use derive_more::TryInto;
use futures_lite::future;

use super::trace::TracedChannels;
use super::watch::{WatchItem, WatchedChannels, Watcher};
use crate::admin::trace_line;
use crate::counters::Counters;
use crate::ids::{ChannelKey, ShardId};
use crate::server::mesh::Mailboxes;
use crate::session;
use crate::shard::{
    Command, Envelope, Handoff, Inspection, MemberList, MemberPage, MembersFor, PollOutcome,
    PollRequest, Question, ReplyTo, Report,
};

/// How long a shard may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The answer to a call.
#[derive(TryInto)]
pub enum Answer {
    Report(Report),
    Members(MemberList),
    Channel(session::Answer),
    Polled(PollOutcome),
}

/// What shards have sent besides answers.
#[derive(Debug, Default)]
pub struct Arrived {
    pub handoffs: Vec<Handoff>,
    pub questions: Vec<Question>,
}

/// A shard did not answer in time, or its mailbox is full.
#[derive(Debug)]
pub struct Unavailable;

/// Calls shards over the edge's mailboxes.
pub struct EdgeClient {
    mailboxes: RefCell<Mailboxes>,
    /// Envelopes for full mailboxes, by shard; sent before any other. Calls are refused instead, so
    /// the number of watched channels, of abandoned sessions and of connections, each of which has
    /// one question at most, bounds the backlog.
    backlog: RefCell<Vec<VecDeque<Envelope>>>,
    pub(super) pending: RefCell<HashMap<u64, Rc<PendingCall>>>,
    pub(super) watched: RefCell<WatchedChannels>,
    pub(super) traced: RefCell<TracedChannels>,
    next_number: Cell<u64>,
}

/// A caller that waits for an answer, or a watcher that waits for a snapshot.
pub enum PendingCall {
    Once { answer: RefCell<Option<Answer>>, waker: RefCell<Option<Waker>> },
    Watcher(Rc<Watcher>),
}

/// Removes a pending call when its caller stops waiting.
struct PendingGuard<'c> {
    client: &'c EdgeClient,
    number: u64,
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.client.pending.borrow_mut().remove(&self.number);
    }
}

pub fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}

impl EdgeClient {
    pub fn new(mailboxes: Mailboxes) -> Self {
        let peers = mailboxes.peers();
        EdgeClient {
            mailboxes: RefCell::new(mailboxes),
            backlog: RefCell::new((0..peers).map(|_| VecDeque::new()).collect()),
            pending: RefCell::default(),
            watched: RefCell::default(),
            traced: RefCell::default(),
            next_number: Cell::new(1),
        }
    }

    /// Sends the backlog and takes what has arrived. Returns what is not for a caller.
    pub fn pump(&self) -> Arrived {
        let mut arrived = Arrived::default();
        self.mailboxes.borrow().endpoint().count_turn();
        self.send_backlog();
        let peers = self.mailboxes.borrow().peers();
        for peer in 0..peers {
            loop {
                let taken = self.mailboxes.borrow_mut().take(peer);
                match taken {
                    Some(Envelope::Adopt(handoff)) => arrived.handoffs.push(*handoff),
                    Some(Envelope::Ask(question)) => arrived.questions.push(*question),
                    Some(envelope) => self.take(envelope),
                    None => break,
                }
            }
        }
        self.mailboxes.borrow_mut().wake_touched();
        arrived
    }

    /// Waits until the edge is woken, or an envelope arrives.
    pub async fn woken(&self, has_work: impl Fn() -> bool) {
        let mut registered = false;
        poll_fn(|cx| {
            let mailboxes = self.mailboxes.borrow();
            if registered {
                mailboxes.endpoint().set_awake();
                return Poll::Ready(());
            }
            registered = true;
            mailboxes.endpoint().task.register(cx.waker());
            mailboxes.endpoint().set_sleeping();
            let has_backlog = self.backlog.borrow().iter().any(|backlog| !backlog.is_empty());
            if !mailboxes.is_empty() || has_work() || has_backlog {
                mailboxes.endpoint().set_awake();
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Asks one shard a question of an operator, whose answer is a `T`.
    pub async fn inspect<T: TryFrom<Report>>(
        &self,
        shard: ShardId,
        inspection: Inspection,
    ) -> Result<T, Unavailable> {
        let from = self.me();
        let envelope = |request| Envelope::Inspect { from, request, inspection };
        let report: Report = self.request(shard, ANSWER_WITHIN, envelope).await?;
        report.try_into().map_err(|_| Unavailable)
    }

    /// Gets the counters of one shard.
    pub async fn counters(&self, shard: ShardId) -> Result<Counters, Unavailable> {
        self.inspect::<Box<Counters>>(shard, Inspection::Counters).await.map(|counters| *counters)
    }

    /// Gets members of a channel from its owner.
    pub async fn members(
        &self,
        owner: ShardId,
        channel: Arc<ChannelKey>,
        page: MemberPage,
    ) -> Result<MemberList, Unavailable> {
        let envelope = |request| {
            self.command(channel, Command::Members { to: MembersFor::Request(request), page })
        };
        self.request(owner, ANSWER_WITHIN, envelope).await
    }

    /// Has the owner of a channel execute a command.
    pub async fn call(
        &self,
        owner: ShardId,
        channel: Arc<ChannelKey>,
        command: impl FnOnce(ReplyTo) -> Command,
    ) -> Result<session::Answer, Unavailable> {
        let envelope = |number| self.command(channel, command(ReplyTo::Edge(number)));
        self.request(owner, ANSWER_WITHIN, envelope).await
    }

    /// Forwards a request of a long-polling client to the shard that holds its session.
    pub async fn poll(
        &self,
        shard: ShardId,
        within: Duration,
        request: PollRequest,
    ) -> Result<PollOutcome, Unavailable> {
        let from = self.me();
        let envelope = |number| Envelope::Poll { from, number, request };
        self.request(shard, within, envelope).await
    }

    /// A number that is unique in this process.
    pub fn number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    pub(super) fn command(&self, channel: Arc<ChannelKey>, command: Command) -> Envelope {
        Envelope::Command { from: self.me(), channel, command }
    }

    /// Sends an envelope that must arrive: when the mailbox is full it joins the backlog.
    pub(super) fn send(&self, to: ShardId, envelope: Envelope) {
        self.backlog.borrow_mut()[to.index()].push_back(envelope);
        self.send_backlog();
        self.mailboxes.borrow_mut().wake_touched();
    }

    /// Connections that a shard held at the beginning of its last turn.
    pub fn connections_of(&self, shard: ShardId) -> u32 {
        self.mailboxes.borrow().endpoints()[shard.index()].connections.load(Ordering::Relaxed)
    }

    fn me(&self) -> ShardId {
        ShardId((self.mailboxes.borrow().peers() - 1) as u16)
    }

    /// Sends a request and waits for its answer. When the mailbox is full nothing is sent: the
    /// caller can retry, and knows that nothing was done.
    async fn request<T: TryFrom<Answer>>(
        &self,
        shard: ShardId,
        within: Duration,
        envelope: impl FnOnce(u64) -> Envelope,
    ) -> Result<T, Unavailable> {
        let number = self.number();
        let call =
            Rc::new(PendingCall::Once { answer: RefCell::default(), waker: RefCell::default() });
        self.pending.borrow_mut().insert(number, Rc::clone(&call));
        let _guard = PendingGuard { client: self, number };
        self.try_send(shard, envelope(number))?;
        let answered = poll_fn(|cx| {
            let PendingCall::Once { answer, waker } = &*call else { return Poll::Pending };
            if let Some(answer) = answer.borrow_mut().take() {
                return Poll::Ready(answer.try_into().map_err(|_| Unavailable));
            }
            *waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let late = async {
            glommio::timer::sleep(within).await;
            Err(Unavailable)
        };
        future::or(answered, late).await
    }

    /// Sends an envelope, unless the mailbox is full or has a backlog.
    pub(super) fn try_send(&self, to: ShardId, envelope: Envelope) -> Result<(), Unavailable> {
        if !self.backlog.borrow()[to.index()].is_empty() {
            return Err(Unavailable);
        }
        let mut mailboxes = self.mailboxes.borrow_mut();
        mailboxes.post(to, envelope).map_err(|_| Unavailable)?;
        mailboxes.wake_touched();
        Ok(())
    }

    fn send_backlog(&self) {
        let mut mailboxes = self.mailboxes.borrow_mut();
        for (to, backlog) in self.backlog.borrow_mut().iter_mut().enumerate() {
            while let Some(envelope) = backlog.pop_front() {
                if let Err(envelope) = mailboxes.post(ShardId(to as u16), envelope) {
                    backlog.push_front(envelope);
                    break;
                }
            }
        }
    }

    fn take(&self, envelope: Envelope) {
        match envelope {
            Envelope::Inspected { request, report } => {
                self.answer(request, Answer::Report(report));
            }
            Envelope::Members { to: MembersFor::Request(request), list } => {
                self.answer(request, Answer::Members(list));
            }
            Envelope::Members { to: MembersFor::Watcher(channel), list } => {
                self.notify(channel, || WatchItem::Members(list.members.clone()));
            }
            Envelope::Traced { channel, wall_ms, turn, what } => {
                self.traced(&channel, &trace_line(wall_ms, turn, &what));
            }
            Envelope::Presence { to, tick, .. } => {
                if !tick.changes.is_empty() {
                    self.notify(to, || WatchItem::Changes(Arc::clone(&tick)));
                }
            }
            Envelope::Answer { to: ReplyTo::Edge(number), answer, .. } => {
                self.answer(number, Answer::Channel(answer));
            }
            Envelope::Polled { number, outcome } => {
                let unclaimed = self.answer(number, Answer::Polled(outcome));
                if let Some(Answer::Polled(PollOutcome::Connected { session, .. })) = unclaimed {
                    let (from, number) = (self.me(), self.number());
                    let request = PollRequest::Disconnect { session };
                    self.send(session.shard, Envelope::Poll { from, number, request });
                }
            }
            other => debug_assert!(false, "the edge was sent {other:?}"),
        }
    }

    /// Completes a pending call; returns the answer when its caller has stopped waiting.
    fn answer(&self, number: u64, given: Answer) -> Option<Answer> {
        let Some(call) = self.pending.borrow_mut().remove(&number) else {
            return Some(given);
        };
        match (&*call, given) {
            (PendingCall::Once { answer, waker }, given) => {
                *answer.borrow_mut() = Some(given);
                wake(waker);
                None
            }
            (PendingCall::Watcher(watcher), Answer::Members(list)) => {
                watcher.push(WatchItem::Members(list.members));
                None
            }
            (PendingCall::Watcher(_), given) => Some(given),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;
    use crate::server::mesh;
    use crate::shard::PollSession;

    const SHARD: ShardId = ShardId(0);
    const EDGE: usize = 1;

    /// The edge's client, and the mailboxes of the one shard, of one envelope each.
    fn client() -> (EdgeClient, Mailboxes) {
        let (_, mut ends) = mesh::build(2, 1).unwrap();
        let edge = EdgeClient::new(ends.pop().unwrap());
        (edge, ends.pop().unwrap())
    }

    fn session() -> PollSession {
        PollSession { shard: SHARD, conn: ConnId { slot: 1, generation: 2 }, secret: 3 }
    }

    #[test]
    fn a_call_to_a_full_mailbox_is_refused() {
        let (client, mut shard) = client();
        let inspect = |request| Envelope::Inspect {
            from: client.me(),
            request,
            inspection: Inspection::Counters,
        };
        client.send(SHARD, inspect(0));
        let called = future::block_on(client.counters(SHARD));
        assert!(called.is_err(), "at once: there is no timer here");
        client.send(SHARD, inspect(1));
        assert!(shard.take(EDGE).is_some());
        let sent = client.try_send(SHARD, inspect(2));
        assert!(sent.is_err(), "the backlog goes first");
        client.pump();
        assert!(matches!(shard.take(EDGE), Some(Envelope::Inspect { request: 1, .. })));
        assert!(client.pending.borrow().is_empty());
    }

    #[test]
    fn an_answer_completes_its_call_and_a_dropped_call_is_removed() {
        let (client, mut shard) = client();
        let conversation = async {
            let calling =
                client.poll(SHARD, ANSWER_WITHIN, PollRequest::Receive { session: session() });
            let answering = async {
                let Some(Envelope::Poll { number, .. }) = shard.take(EDGE) else { panic!("none") };
                let polled = Envelope::Polled { number, outcome: PollOutcome::Gone };
                shard.post(ShardId(EDGE as u16), polled).unwrap();
                client.pump();
                future::pending().await
            };
            let outcome = future::or(calling, answering).await;
            assert!(matches!(outcome, Ok(PollOutcome::Gone)), "{outcome:?}");
            let calling = client.counters(SHARD);
            let gone = async { Err(Unavailable) };
            assert!(future::or(calling, gone).await.is_err());
            assert!(client.pending.borrow().is_empty(), "no call is pending");
            let late = client.poll(
                SHARD,
                Duration::from_millis(1),
                PollRequest::Connect { bytes: Vec::new() },
            );
            shard.take(EDGE);
            assert!(late.await.is_err(), "no answer in time");
        };
        glommio::LocalExecutorBuilder::default().make().unwrap().run(conversation);
    }

    #[test]
    fn an_abandoned_session_is_ended() {
        let (client, mut shard) = client();
        let outcome = PollOutcome::Connected { session: session(), bytes: Vec::new() };
        let polled = Envelope::Polled { number: 7, outcome };
        shard.post(ShardId(EDGE as u16), polled).unwrap();
        client.pump();
        let sent = shard.take(EDGE);
        let Some(Envelope::Poll { request: PollRequest::Disconnect { session: ended }, .. }) = sent
        else {
            panic!("{sent:?}")
        };
        assert_eq!(ended, session());
    }
}
