//! The edge's conversations with shards: questions and their answers, watched channels.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future;

use crate::counters::Counters;
use crate::ids::{ChannelKey, ShardId};
use crate::server::mesh::Mailboxes;
use crate::session::Feed;
use crate::shard::{
    Command, Envelope, HomeChannelId, MemberView, MembersFor, Parcel, PresenceTick,
};

/// How long a shard may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Events that wait for one watcher. When there are more it starts over with the present set.
const EVENTS_MAX: usize = 4096;

/// What a question is answered with.
pub enum Answer {
    Counters(Box<Counters>),
    Members(Vec<MemberView>),
}

/// What a watcher is sent.
pub enum WatchItem {
    /// The whole set; whatever came before is superseded.
    Members(Vec<MemberView>),
    Changes(Arc<PresenceTick>),
}

/// A shard did not answer in time, or there was no room to ask.
#[derive(Debug)]
pub struct NoAnswer;

pub struct Links {
    mailboxes: RefCell<Mailboxes>,
    /// Envelopes that found no room; sent before any other. Bounded by the HTTP connections, each
    /// of which asks one thing at a time, and one goodbye per watched channel.
    waiting: RefCell<VecDeque<(ShardId, Envelope)>>,
    questions: RefCell<HashMap<u64, Rc<Question>>>,
    watched: RefCell<HashMap<u32, Watched>>,
    next_number: Cell<u64>,
    http_connections: Rc<Cell<usize>>,
}

/// Somebody who waits for an answer, or a watcher that asked for the set.
enum Question {
    Once { answer: RefCell<Option<Answer>>, waker: RefCell<Option<Waker>> },
    Watcher(Rc<Watcher>),
}

/// A channel that somebody at the edge watches, under the number owners know it by.
struct Watched {
    key: Arc<ChannelKey>,
    owner: ShardId,
    watchers: Vec<Rc<Watcher>>,
}

/// One watcher's queue.
pub struct Watcher {
    items: RefCell<VecDeque<WatchItem>>,
    /// Items were lost; only a whole set makes sense now.
    overrun: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watcher {
    fn new() -> Self {
        // Nothing makes sense before the first whole set.
        Watcher { items: RefCell::default(), overrun: Cell::new(true), waker: RefCell::default() }
    }

    fn push(&self, item: WatchItem) {
        let mut items = self.items.borrow_mut();
        match &item {
            WatchItem::Members(_) => {
                items.clear();
                self.overrun.set(false);
            }
            WatchItem::Changes(_) if self.overrun.get() => return,
            WatchItem::Changes(_) if items.len() >= EVENTS_MAX => {
                items.clear();
                self.overrun.set(true);
                return wake(&self.waker);
            }
            WatchItem::Changes(_) => {}
        }
        items.push_back(item);
        wake(&self.waker);
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}

/// A watcher's end of a watch; the watch ends with it.
pub struct Watch {
    links: Rc<super::Edge>,
    channel: u32,
    watcher: Rc<Watcher>,
}

/// What comes next in a watch.
pub enum Next {
    Item(WatchItem),
    /// Items were lost and the set was asked for again.
    Restarted,
}

impl Watch {
    /// Waits for the next item.
    pub async fn next(&mut self) -> Next {
        let watcher = Rc::clone(&self.watcher);
        let was_overrun = watcher.overrun.get();
        let item = poll_fn(|cx| {
            if let Some(item) = watcher.items.borrow_mut().pop_front() {
                return Poll::Ready(Some(item));
            }
            if watcher.overrun.get() && !was_overrun {
                return Poll::Ready(None);
            }
            *watcher.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        match item.await {
            Some(item) => Next::Item(item),
            None => {
                self.links.links.ask_set(self.channel, &self.watcher);
                Next::Restarted
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.links.links.unwatch(self.channel, &self.watcher);
    }
}

impl Links {
    pub fn new(mailboxes: Mailboxes) -> Self {
        Links {
            mailboxes: RefCell::new(mailboxes),
            waiting: RefCell::default(),
            questions: RefCell::default(),
            watched: RefCell::default(),
            next_number: Cell::new(1),
            http_connections: Rc::default(),
        }
    }

    /// HTTP connections being served.
    pub fn http_connections(&self) -> usize {
        self.http_connections.get()
    }

    /// Counts one HTTP connection for as long as the result lives.
    pub fn count_http_connection(&self) -> Counted {
        self.http_connections.set(self.http_connections.get() + 1);
        Counted(Rc::clone(&self.http_connections))
    }

    /// Moves envelopes both ways. Returns the connections that arrived.
    pub fn pump(&self) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        self.mailboxes.borrow().station().count_turn();
        self.send_waiting();
        let peers = self.mailboxes.borrow().peers();
        for peer in 0..peers {
            loop {
                let taken = self.mailboxes.borrow_mut().take(peer);
                match taken {
                    Some(Envelope::Adopt(parcel)) => parcels.push(*parcel),
                    Some(envelope) => self.take(envelope),
                    None => break,
                }
            }
        }
        self.mailboxes.borrow_mut().wake_touched();
        parcels
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
            if !mailboxes.is_empty() || has_work() || !self.waiting.borrow().is_empty() {
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
        match self.ask(shard, |request| Envelope::Inspect { from, request }).await? {
            Answer::Counters(counters) => Ok(*counters),
            Answer::Members(_) => Err(NoAnswer),
        }
    }

    /// Asks the owner of a channel for its members.
    pub async fn members(
        &self,
        owner: ShardId,
        channel: Arc<ChannelKey>,
    ) -> Result<Vec<MemberView>, NoAnswer> {
        let from = self.me();
        let question = |request| {
            let command = Command::Members { to: MembersFor::Request(request) };
            Envelope::Command { from, channel, command }
        };
        match self.ask(owner, question).await? {
            Answer::Members(members) => Ok(members),
            Answer::Counters(_) => Err(NoAnswer),
        }
    }

    fn me(&self) -> ShardId {
        ShardId((self.mailboxes.borrow().peers() - 1) as u16)
    }

    fn number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    async fn ask(
        &self,
        shard: ShardId,
        envelope: impl FnOnce(u64) -> Envelope,
    ) -> Result<Answer, NoAnswer> {
        let number = self.number();
        let question =
            Rc::new(Question::Once { answer: RefCell::default(), waker: RefCell::default() });
        self.questions.borrow_mut().insert(number, Rc::clone(&question));
        self.send(shard, envelope(number));
        let answered = poll_fn(|cx| {
            let Question::Once { answer, waker } = &*question else { return Poll::Pending };
            if let Some(answer) = answer.borrow_mut().take() {
                return Poll::Ready(Ok(answer));
            }
            *waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let late = async {
            glommio::timer::sleep(ANSWER_WITHIN).await;
            Err(NoAnswer)
        };
        let result = future::or(answered, late).await;
        self.questions.borrow_mut().remove(&number);
        result
    }

    fn send(&self, to: ShardId, envelope: Envelope) {
        self.waiting.borrow_mut().push_back((to, envelope));
        self.send_waiting();
        self.mailboxes.borrow_mut().wake_touched();
    }

    fn send_waiting(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some((to, envelope)) = waiting.pop_front() {
            if let Err(envelope) = self.mailboxes.borrow_mut().post(to, envelope) {
                waiting.push_front((to, envelope));
                break;
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
            other => debug_assert!(false, "the edge was sent {other:?}"),
        }
    }

    fn answer(&self, request: u64, given: Answer) {
        let Some(question) = self.questions.borrow_mut().remove(&request) else { return };
        match (&*question, given) {
            (Question::Once { answer, waker }, given) => {
                *answer.borrow_mut() = Some(given);
                wake(waker);
            }
            (Question::Watcher(watcher), Answer::Members(members)) => {
                watcher.push(WatchItem::Members(members));
            }
            (Question::Watcher(_), Answer::Counters(_)) => {}
        }
    }

    fn tell(&self, channel: HomeChannelId, item: impl Fn() -> WatchItem) {
        if let Some(watched) = self.watched.borrow().get(&channel.slot) {
            for watcher in &watched.watchers {
                watcher.push(item());
            }
        }
    }

    fn subscribe(&self, channel: Arc<ChannelKey>, owner: ShardId) -> (u32, Rc<Watcher>) {
        let watcher = Rc::new(Watcher::new());
        let known = self.watched.borrow().iter().find(|(_, w)| *w.key == *channel).map(|w| *w.0);
        let number = known.unwrap_or_else(|| self.number() as u32);
        let mut watched = self.watched.borrow_mut();
        let entry = watched.entry(number).or_insert_with(|| Watched {
            key: Arc::clone(&channel),
            owner,
            watchers: Vec::new(),
        });
        entry.watchers.push(Rc::clone(&watcher));
        drop(watched);
        if known.is_none() {
            let home = HomeChannelId { slot: number, generation: 1 };
            let command = Command::Subscribe { feed: Feed::Changes, home };
            self.send(owner, Envelope::Command { from: self.me(), channel, command });
        }
        (number, watcher)
    }

    /// Asks for the whole set on behalf of one watcher; it comes in order with the changes.
    fn ask_set(&self, channel: u32, watcher: &Rc<Watcher>) {
        let Some((owner, key)) =
            self.watched.borrow().get(&channel).map(|w| (w.owner, Arc::clone(&w.key)))
        else {
            return;
        };
        let number = self.number();
        let question = Rc::new(Question::Watcher(Rc::clone(watcher)));
        self.questions.borrow_mut().insert(number, question);
        let command = Command::Members { to: MembersFor::Request(number) };
        self.send(owner, Envelope::Command { from: self.me(), channel: key, command });
    }

    fn unwatch(&self, channel: u32, watcher: &Rc<Watcher>) {
        let mut watched = self.watched.borrow_mut();
        let Some(entry) = watched.get_mut(&channel) else { return };
        entry.watchers.retain(|other| !Rc::ptr_eq(other, watcher));
        if !entry.watchers.is_empty() {
            return;
        }
        let Some(Watched { key, owner, .. }) = watched.remove(&channel) else { return };
        drop(watched);
        let command = Command::Unsubscribe { feed: Feed::Changes };
        self.send(owner, Envelope::Command { from: self.me(), channel: key, command });
    }
}

/// Begins to watch a channel: its members, then every change.
pub fn watch(edge: &Rc<super::Edge>, channel: Arc<ChannelKey>, owner: ShardId) -> Watch {
    let (number, watcher) = edge.links.subscribe(channel, owner);
    edge.links.ask_set(number, &watcher);
    Watch { links: Rc::clone(edge), channel: number, watcher }
}

/// One HTTP connection, counted while it lives.
pub struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
