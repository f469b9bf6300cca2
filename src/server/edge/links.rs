//! The edge's conversations with shards: envelopes both ways, questions and their answers.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future;

use super::watch::{WatchItem, WatchedChannels, Watcher};
use crate::counters::Counters;
use crate::ids::{ChannelKey, ShardId};
use crate::server::mesh::Mailboxes;
use crate::session;
use crate::shard::{
    Command, Envelope, Handoff, MemberView, MembersFor, PollOutcome, PollRequest, ReplyTo,
};

/// How long a shard may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What a question is answered with.
pub enum Answer {
    Counters(Box<Counters>),
    Members(Vec<MemberView>),
    Channel(session::Answer),
    Polled(PollOutcome),
}

/// A shard did not answer in time, or there was no room to ask.
#[derive(Debug)]
pub struct NoAnswer;

pub struct Links {
    mailboxes: RefCell<Mailboxes>,
    /// Envelopes that found no room, by shard; sent before any other. Questions are refused
    /// instead, so what waits is bounded by the watched channels and the sessions that nobody
    /// waited for.
    waiting: RefCell<Vec<VecDeque<Envelope>>>,
    pub(super) questions: RefCell<HashMap<u64, Rc<Question>>>,
    pub(super) watched: RefCell<WatchedChannels>,
    next_number: Cell<u64>,
}

/// Somebody who waits for an answer, or a watcher that asked for the set.
pub enum Question {
    Once { answer: RefCell<Option<Answer>>, waker: RefCell<Option<Waker>> },
    Watcher(Rc<Watcher>),
}

/// A question that is taken back when nobody waits for its answer any more.
struct Asked<'l> {
    links: &'l Links,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.links.questions.borrow_mut().remove(&self.number);
    }
}

pub fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}

impl Links {
    pub fn new(mailboxes: Mailboxes) -> Self {
        let peers = mailboxes.peers();
        Links {
            mailboxes: RefCell::new(mailboxes),
            waiting: RefCell::new((0..peers).map(|_| VecDeque::new()).collect()),
            questions: RefCell::default(),
            watched: RefCell::default(),
            next_number: Cell::new(1),
        }
    }

    /// Moves envelopes both ways. Returns the connections that arrived.
    pub fn pump(&self) -> Vec<Handoff> {
        let mut handoffs = Vec::new();
        self.mailboxes.borrow().station().count_turn();
        self.send_waiting();
        let peers = self.mailboxes.borrow().peers();
        for peer in 0..peers {
            loop {
                let taken = self.mailboxes.borrow_mut().take(peer);
                match taken {
                    Some(Envelope::Adopt(handoff)) => handoffs.push(*handoff),
                    Some(envelope) => self.take(envelope),
                    None => break,
                }
            }
        }
        self.mailboxes.borrow_mut().wake_touched();
        handoffs
    }

    /// Waits until somebody wakes the edge or has put something into a mailbox.
    pub async fn woken(&self, has_work: impl Fn() -> bool) {
        let mut registered = false;
        poll_fn(|cx| {
            let mailboxes = self.mailboxes.borrow();
            if registered {
                mailboxes.station().set_awake();
                return Poll::Ready(());
            }
            registered = true;
            mailboxes.station().task.register(cx.waker());
            mailboxes.station().set_sleeping();
            let waits = self.waiting.borrow().iter().any(|waiting| !waiting.is_empty());
            if !mailboxes.is_empty() || has_work() || waits {
                mailboxes.station().set_awake();
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Asks one shard for its counters.
    pub async fn counters(&self, shard: ShardId) -> Result<Counters, NoAnswer> {
        let from = self.me();
        let question = |request| Envelope::Inspect { from, request };
        match self.ask(shard, ANSWER_WITHIN, question).await? {
            Answer::Counters(counters) => Ok(*counters),
            _ => Err(NoAnswer),
        }
    }

    /// Asks the owner of a channel for its members.
    pub async fn members(
        &self,
        owner: ShardId,
        channel: Arc<ChannelKey>,
    ) -> Result<Vec<MemberView>, NoAnswer> {
        let question =
            |request| self.command(channel, Command::Members { to: MembersFor::Request(request) });
        match self.ask(owner, ANSWER_WITHIN, question).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(NoAnswer),
        }
    }

    /// Asks the owner of a channel to do something with it.
    pub async fn order(
        &self,
        owner: ShardId,
        channel: Arc<ChannelKey>,
        command: impl FnOnce(ReplyTo) -> Command,
    ) -> Result<session::Answer, NoAnswer> {
        let question = |number| self.command(channel, command(ReplyTo::Edge(number)));
        match self.ask(owner, ANSWER_WITHIN, question).await? {
            Answer::Channel(answer) => Ok(answer),
            _ => Err(NoAnswer),
        }
    }

    /// Asks a shard on behalf of a long-polling client.
    pub async fn poll(
        &self,
        shard: ShardId,
        within: Duration,
        ask: PollRequest,
    ) -> Result<PollOutcome, NoAnswer> {
        let from = self.me();
        let question = |number| Envelope::Poll { from, number, request: ask };
        match self.ask(shard, within, question).await? {
            Answer::Polled(outcome) => Ok(outcome),
            _ => Err(NoAnswer),
        }
    }

    /// A number that was not given out before.
    pub fn number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    pub(super) fn command(&self, channel: Arc<ChannelKey>, command: Command) -> Envelope {
        Envelope::Command { from: self.me(), channel, command }
    }

    /// Sends what must arrive; it waits here while there is no room.
    pub(super) fn send(&self, to: ShardId, envelope: Envelope) {
        self.waiting.borrow_mut()[to.index()].push_back(envelope);
        self.send_waiting();
        self.mailboxes.borrow_mut().wake_touched();
    }

    fn me(&self) -> ShardId {
        ShardId((self.mailboxes.borrow().peers() - 1) as u16)
    }

    /// Waits for the answer to a question. A shard that does not keep up is not asked: whoever asks
    /// can try again, and knows that nothing was done.
    async fn ask(
        &self,
        shard: ShardId,
        within: Duration,
        envelope: impl FnOnce(u64) -> Envelope,
    ) -> Result<Answer, NoAnswer> {
        let number = self.number();
        let question =
            Rc::new(Question::Once { answer: RefCell::default(), waker: RefCell::default() });
        self.questions.borrow_mut().insert(number, Rc::clone(&question));
        let _asked = Asked { links: self, number };
        self.try_send(shard, envelope(number))?;
        let answered = poll_fn(|cx| {
            let Question::Once { answer, waker } = &*question else { return Poll::Pending };
            if let Some(answer) = answer.borrow_mut().take() {
                return Poll::Ready(Ok(answer));
            }
            *waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let late = async {
            glommio::timer::sleep(within).await;
            Err(NoAnswer)
        };
        future::or(answered, late).await
    }

    /// Sends unless there is no room.
    pub(super) fn try_send(&self, to: ShardId, envelope: Envelope) -> Result<(), NoAnswer> {
        if !self.waiting.borrow()[to.index()].is_empty() {
            return Err(NoAnswer);
        }
        let mut mailboxes = self.mailboxes.borrow_mut();
        mailboxes.post(to, envelope).map_err(|_| NoAnswer)?;
        mailboxes.wake_touched();
        Ok(())
    }

    fn send_waiting(&self) {
        let mut mailboxes = self.mailboxes.borrow_mut();
        for (to, waiting) in self.waiting.borrow_mut().iter_mut().enumerate() {
            while let Some(envelope) = waiting.pop_front() {
                if let Err(envelope) = mailboxes.post(ShardId(to as u16), envelope) {
                    waiting.push_front(envelope);
                    break;
                }
            }
        }
    }

    fn take(&self, envelope: Envelope) {
        match envelope {
            Envelope::Inspected { request, counters } => {
                self.answer(request, Answer::Counters(counters));
            }
            Envelope::Members { to: MembersFor::Request(request), members } => {
                self.answer(request, Answer::Members(members));
            }
            Envelope::Members { to: MembersFor::Watcher(channel), members } => {
                self.tell(channel, || WatchItem::Members(members.clone()));
            }
            Envelope::Presence { to, tick, .. } => {
                if !tick.changes.is_empty() {
                    self.tell(to, || WatchItem::Changes(Arc::clone(&tick)));
                }
            }
            Envelope::Answer { to: ReplyTo::Edge(number), answer, .. } => {
                self.answer(number, Answer::Channel(answer));
            }
            Envelope::Polled { number, outcome } => {
                let unclaimed = self.answer(number, Answer::Polled(outcome));
                if let Some(Answer::Polled(PollOutcome::Connected { session, .. })) = unclaimed {
                    let (from, number) = (self.me(), self.number());
                    let ask = PollRequest::Disconnect { session };
                    self.send(session.shard, Envelope::Poll { from, number, request: ask });
                }
            }
            other => debug_assert!(false, "the edge was sent {other:?}"),
        }
    }

    /// Hands an answer to whoever asked; gives it back when nobody waits for it any more.
    fn answer(&self, number: u64, given: Answer) -> Option<Answer> {
        let Some(question) = self.questions.borrow_mut().remove(&number) else {
            return Some(given);
        };
        match (&*question, given) {
            (Question::Once { answer, waker }, given) => {
                *answer.borrow_mut() = Some(given);
                wake(waker);
                None
            }
            (Question::Watcher(watcher), Answer::Members(members)) => {
                watcher.push(WatchItem::Members(members));
                None
            }
            (Question::Watcher(_), given) => Some(given),
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

    /// The edge's links, and the mailboxes of the one shard, with room for one envelope each way.
    fn links() -> (Links, Mailboxes) {
        let (_, mut ends) = mesh::build(2, 1).unwrap();
        let edge = Links::new(ends.pop().unwrap());
        (edge, ends.pop().unwrap())
    }

    fn session() -> PollSession {
        PollSession { shard: SHARD, conn: ConnId { slot: 1, generation: 2 }, secret: 3 }
    }

    #[test]
    fn a_shard_without_room_is_not_asked() {
        let (links, mut shard) = links();
        links.send(SHARD, Envelope::Inspect { from: links.me(), request: 0 });
        let asked = future::block_on(links.counters(SHARD));
        assert!(asked.is_err(), "at once: there is no timer here");
        links.send(SHARD, Envelope::Inspect { from: links.me(), request: 1 });
        assert!(shard.take(EDGE).is_some());
        let asked = links.try_send(SHARD, Envelope::Inspect { from: links.me(), request: 2 });
        assert!(asked.is_err(), "what waits goes first");
        links.pump();
        assert!(matches!(shard.take(EDGE), Some(Envelope::Inspect { request: 1, .. })));
        assert!(links.questions.borrow().is_empty());
    }

    #[test]
    fn an_answer_finds_who_asked_and_a_question_ends_with_who_asked() {
        let (links, mut shard) = links();
        let conversation = async {
            let asking =
                links.poll(SHARD, ANSWER_WITHIN, PollRequest::Receive { session: session() });
            let answering = async {
                let Some(Envelope::Poll { number, .. }) = shard.take(EDGE) else { panic!("none") };
                let polled = Envelope::Polled { number, outcome: PollOutcome::Gone };
                shard.post(ShardId(EDGE as u16), polled).unwrap();
                links.pump();
                future::pending().await
            };
            let outcome = future::or(asking, answering).await;
            assert!(matches!(outcome, Ok(PollOutcome::Gone)), "{outcome:?}");
            let asking = links.counters(SHARD);
            let gone = async { Err(NoAnswer) };
            assert!(future::or(asking, gone).await.is_err());
            assert!(links.questions.borrow().is_empty(), "nobody asks any more");
            let late = links.poll(
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
    fn a_session_that_nobody_waited_for_is_ended() {
        let (links, mut shard) = links();
        let outcome = PollOutcome::Connected { session: session(), bytes: Vec::new() };
        let polled = Envelope::Polled { number: 7, outcome };
        shard.post(ShardId(EDGE as u16), polled).unwrap();
        links.pump();
        let sent = shard.take(EDGE);
        let Some(Envelope::Poll { request: PollRequest::Disconnect { session: ended }, .. }) = sent
        else {
            panic!("{sent:?}")
        };
        assert_eq!(ended, session());
    }
}
