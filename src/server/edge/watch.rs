//! Watched channels: a snapshot of the members, then every change, in order.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::Edge;
use super::client::{EdgeClient, PendingCall, wake};
use crate::ids::{ChannelKey, ShardId};
use crate::session::Feed;
use crate::shard::{Command, HomeChannelId, MemberPage, MemberView, MembersFor, PresenceTick};

/// Events queued for one watcher. Above it they are dropped and replaced by a snapshot.
const EVENTS_MAX: usize = 4096;

/// An event of a watch.
pub enum WatchItem {
    /// A snapshot; it supersedes all earlier events.
    Members(Vec<MemberView>),
    Changes(Arc<PresenceTick>),
}

/// The watched channels, by the slot in the [`HomeChannelId`] that owners send to.
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
    /// Events were dropped; changes are ignored until the next snapshot.
    lagged: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watcher {
    fn new() -> Self {
        // Changes before the first snapshot are ignored.
        Watcher { items: RefCell::default(), lagged: Cell::new(true), waker: RefCell::default() }
    }

    pub fn push(&self, item: WatchItem) {
        let mut items = self.items.borrow_mut();
        match &item {
            WatchItem::Members(_) => {
                items.clear();
                self.lagged.set(false);
            }
            WatchItem::Changes(_) if self.lagged.get() => return,
            WatchItem::Changes(_) if items.len() >= EVENTS_MAX => {
                items.clear();
                self.lagged.set(true);
                return wake(&self.waker);
            }
            WatchItem::Changes(_) => {}
        }
        items.push_back(item);
        wake(&self.waker);
    }
}

/// A running watch; it ends when dropped.
pub struct Watch {
    edge: Rc<Edge>,
    channel: u32,
    watcher: Rc<Watcher>,
}

/// The next event of a watch.
pub enum Next {
    Item(WatchItem),
    /// Events were dropped; a snapshot follows.
    Restarted,
}

impl Watch {
    /// Waits for the next event.
    pub async fn next(&mut self) -> Next {
        let watcher = Rc::clone(&self.watcher);
        let had_lagged = watcher.lagged.get();
        let item = poll_fn(|cx| {
            if let Some(item) = watcher.items.borrow_mut().pop_front() {
                return Poll::Ready(Some(item));
            }
            if watcher.lagged.get() && !had_lagged {
                return Poll::Ready(None);
            }
            *watcher.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        match item.await {
            Some(item) => Next::Item(item),
            None => {
                self.edge.client.request_snapshot(self.channel, &self.watcher);
                Next::Restarted
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.edge.client.unwatch(self.channel, &self.watcher);
    }
}

impl EdgeClient {
    /// Queues an event for every watcher of a channel.
    pub fn notify(&self, channel: HomeChannelId, item: impl Fn() -> WatchItem) {
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

    /// Requests a snapshot for one watcher; it arrives in order with the changes.
    fn request_snapshot(&self, channel: u32, watcher: &Rc<Watcher>) {
        let watched = self.watched.borrow();
        let Some(Watched { owner, key, .. }) = watched.by_number.get(&channel) else { return };
        let (owner, key) = (*owner, Arc::clone(key));
        drop(watched);
        let number = self.number();
        let call = Rc::new(PendingCall::Watcher(Rc::clone(watcher)));
        self.pending.borrow_mut().insert(number, call);
        let command = Command::Members { to: MembersFor::Request(number), page: MemberPage::ALL };
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

/// Starts to watch a channel.
pub fn watch(edge: &Rc<Edge>, channel: Arc<ChannelKey>, owner: ShardId) -> Watch {
    let (number, watcher) = edge.client.subscribe(channel, owner);
    edge.client.request_snapshot(number, &watcher);
    Watch { edge: Rc::clone(edge), channel: number, watcher }
}
