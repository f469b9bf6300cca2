//! Channels that somebody at the edge watches: the members, then every change, in order.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::Edge;
use super::links::{Links, Question, wake};
use crate::ids::{ChannelKey, ShardId};
use crate::session::Feed;
use crate::shard::{Command, HomeChannelId, MemberView, MembersFor, PresenceTick};

/// Events that wait for one watcher. When there are more it starts over with the present set.
const EVENTS_MAX: usize = 4096;

/// What a watcher is sent.
pub enum WatchItem {
    /// The whole set; whatever came before is superseded.
    Members(Vec<MemberView>),
    Changes(Arc<PresenceTick>),
}

/// The watched channels, under the numbers owners know them by.
#[derive(Default)]
pub struct WatchedChannels {
    by_number: HashMap<u32, Watched>,
    begun: u32,
}

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

    pub fn push(&self, item: WatchItem) {
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

/// A watcher's end of a watch; the watch ends with it.
pub struct Watch {
    edge: Rc<Edge>,
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
                self.edge.links.ask_set(self.channel, &self.watcher);
                Next::Restarted
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.edge.links.unwatch(self.channel, &self.watcher);
    }
}

impl Links {
    /// Tells the watchers of a channel.
    pub fn tell(&self, channel: HomeChannelId, item: impl Fn() -> WatchItem) {
        if let Some(watched) = self.watched.borrow().by_number.get(&channel.slot) {
            for watcher in &watched.watchers {
                watcher.push(item());
            }
        }
    }

    fn subscribe(&self, channel: Arc<ChannelKey>, owner: ShardId) -> (u32, Rc<Watcher>) {
        let watcher = Rc::new(Watcher::new());
        let mut watched = self.watched.borrow_mut();
        let known = watched.by_number.iter_mut().find(|(_, watched)| *watched.key == *channel);
        if let Some((number, watched)) = known {
            watched.watchers.push(Rc::clone(&watcher));
            return (*number, watcher);
        }
        watched.begun = watched.begun.wrapping_add(1);
        let number = watched.begun;
        let watchers = vec![Rc::clone(&watcher)];
        let key = Arc::clone(&channel);
        watched.by_number.insert(number, Watched { key, owner, watchers });
        drop(watched);
        let home = HomeChannelId { slot: number, generation: 1 };
        let command = Command::Subscribe { feed: Feed::Changes, home };
        self.send(owner, self.command(channel, command));
        (number, watcher)
    }

    /// Asks for the whole set on behalf of one watcher; it comes in order with the changes.
    fn ask_set(&self, channel: u32, watcher: &Rc<Watcher>) {
        let watched = self.watched.borrow();
        let Some(Watched { owner, key, .. }) = watched.by_number.get(&channel) else { return };
        let (owner, key) = (*owner, Arc::clone(key));
        drop(watched);
        let number = self.number();
        let question = Rc::new(Question::Watcher(Rc::clone(watcher)));
        self.questions.borrow_mut().insert(number, question);
        let command = Command::Members { to: MembersFor::Request(number) };
        self.send(owner, self.command(key, command));
    }

    fn unwatch(&self, channel: u32, watcher: &Rc<Watcher>) {
        let mut watched = self.watched.borrow_mut();
        let Some(entry) = watched.by_number.get_mut(&channel) else { return };
        entry.watchers.retain(|other| !Rc::ptr_eq(other, watcher));
        if !entry.watchers.is_empty() {
            return;
        }
        let Some(Watched { key, owner, .. }) = watched.by_number.remove(&channel) else { return };
        drop(watched);
        let command = Command::Unsubscribe { feed: Feed::Changes };
        self.send(owner, self.command(key, command));
    }
}

/// Begins to watch a channel: its members, then every change.
pub fn watch(edge: &Rc<Edge>, channel: Arc<ChannelKey>, owner: ShardId) -> Watch {
    let (number, watcher) = edge.links.subscribe(channel, owner);
    edge.links.ask_set(number, &watcher);
    Watch { edge: Rc::clone(edge), channel: number, watcher }
}
