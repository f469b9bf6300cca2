//! What a shard knows of a channel: as its owner, and as the home of subscribers.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use super::envelope::HomeChannelId;
use super::few::Few;
use super::large_set::LargeSet;
use super::round::Round;
use super::slot_list::SlotList;
use super::table::Keyed;
use crate::channel::{Change, ChangeKind, Channel, Message, Messages};
use crate::ids::{ChannelKey, Moment, ShardId};
use crate::policy::Policy;
use crate::session::{Feed, FeedSet};

/// One channel that this shard owns: its truth, who is interested, and when to tell them.
#[derive(Debug)]
pub struct OwnedChannel {
    pub key: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    pub channel: Presence,
    /// Set from the first publish on.
    pub published: Option<Box<Published>>,
    pub interest: Few<Interest>,
    /// In the list of channels to flush this turn.
    pub dirty: bool,
    /// A flush timer is set.
    pub timed: bool,
    /// When watchers were last told something; `None` before the first time.
    pub told: Option<Moment>,
    /// Set while the set of members is large.
    pub large: Option<Box<LargeSet>>,
}

const _: () =
    assert!(size_of::<OwnedChannel>() <= 72, "subscribers with a channel each pay for it");

/// Who is present in a channel. Takes no memory of its own until somebody is.
#[derive(Debug, Default)]
pub struct Presence(Option<Box<Channel>>);

/// A channel in which nobody ever was.
static NOBODY: LazyLock<Channel> = LazyLock::new(Channel::default);

impl Presence {
    /// Gives the memory back when nobody is there and nothing is to be told; true if so.
    pub fn forget_if_empty(&mut self) -> bool {
        let is_empty = self.members().is_empty() && !self.has_changes();
        if is_empty {
            self.0 = None;
        }
        is_empty
    }
}

impl Deref for Presence {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        self.0.as_deref().unwrap_or_else(|| &NOBODY)
    }
}

impl DerefMut for Presence {
    fn deref_mut(&mut self) -> &mut Channel {
        self.0.get_or_insert_default()
    }
}

/// What is published in an owned channel.
#[derive(Debug, Default)]
pub struct Published {
    pub messages: Messages,
    /// Not yet routed; at most what one turn brings.
    pub pending: Vec<Arc<Message>>,
}

/// A home shard that has subscribers of an owned channel.
#[derive(Clone, Debug)]
pub struct Interest {
    pub home: HomeChannelId,
    pub shard: ShardId,
    /// What subscribers there are sent.
    pub feeds: FeedSet,
    /// Set while it has missed something, because its mailbox was full.
    owed: Option<Box<Owed>>,
}

const _: () = assert!(size_of::<Interest>() <= 24, "a block of every channel with subscribers");

/// What a home has missed.
#[derive(Clone, Debug, Default)]
struct Owed {
    /// A tick: it is owed the whole set.
    is_stale: bool,
    /// Feeds whose large set it is owed; made and sent when it is due and the mailbox has room.
    sets: FeedSet,
    /// Members whose leaving it missed, for subscribers whom a set does not tell. Bounded by the
    /// members that leave while one mailbox is full.
    left: Vec<Change>,
    /// The messages after this serial.
    after: Option<u64>,
}

impl Owed {
    fn is_nothing(&self) -> bool {
        !self.is_stale && self.sets.is_empty() && self.left.is_empty() && self.after.is_none()
    }
}

impl Interest {
    pub fn new(shard: ShardId, home: HomeChannelId, feed: Feed) -> Self {
        Interest { home, shard, feeds: FeedSet::from_iter([feed]), owed: None }
    }

    /// It missed a tick: it is owed the whole set, and who left since.
    pub fn miss_tick(&mut self, changes: &[Change]) {
        let is_told = !self.feeds.and(Feed::PRESENCE_CHANGES).is_empty();
        let left = changes.iter().filter(|change| is_told && change.kind == ChangeKind::Leave);
        self.owe_tick(left.cloned());
    }

    /// It is owed the whole set, and is to be told that these have left.
    pub fn owe_tick(&mut self, left: impl IntoIterator<Item = Change>) {
        let owed = self.owed.get_or_insert_default();
        owed.is_stale = true;
        owed.left.extend(left);
    }

    pub fn is_stale(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| owed.is_stale)
    }

    /// Who left while it was stale. From here on it is owed no tick any longer.
    pub fn take_left(&mut self) -> Vec<Change> {
        let left = self.change_owed(|owed| {
            owed.is_stale = false;
            std::mem::take(&mut owed.left)
        });
        left.unwrap_or_default()
    }

    /// The serial after which it missed messages.
    pub fn missed_after(&self) -> Option<u64> {
        self.owed.as_ref().and_then(|owed| owed.after)
    }

    pub fn set_missed_after(&mut self, after: Option<u64>) {
        match after {
            Some(_) => self.owed.get_or_insert_default().after = after,
            None => _ = self.change_owed(|owed| owed.after = None),
        }
    }

    /// Everybody there is to be shown the newest large set.
    pub fn owe_sets(&mut self) {
        let sets = self.feeds.and(Feed::PRESENCE_SETS);
        if !sets.is_empty() {
            self.owed.get_or_insert_default().sets = sets;
        }
    }

    /// Feeds whose large set it is owed.
    pub fn owed_sets(&self) -> FeedSet {
        self.owed.as_ref().map_or(FeedSet::default(), |owed| owed.sets)
    }

    /// The large set of a feed is no longer owed.
    pub fn forget_set(&mut self, feed: Feed) {
        self.change_owed(|owed| owed.sets.remove(feed));
    }

    /// Lets `change` take away from what is owed; `None` when nothing is.
    fn change_owed<T>(&mut self, change: impl FnOnce(&mut Owed) -> T) -> Option<T> {
        let owed = self.owed.as_mut()?;
        let result = change(owed);
        if owed.is_nothing() {
            self.owed = None;
        }
        Some(result)
    }
}

impl Keyed for OwnedChannel {
    fn key(&self) -> &Arc<ChannelKey> {
        &self.key
    }
}

impl OwnedChannel {
    pub fn new(key: Arc<ChannelKey>, policy: Arc<Policy>) -> Self {
        OwnedChannel {
            key,
            policy,
            channel: Presence::default(),
            published: None,
            interest: Few::None,
            dirty: false,
            timed: false,
            told: None,
            large: None,
        }
    }

    /// Forgets of members what is not needed when nobody is there. They are numbered anew from then
    /// on, so that nothing must be left of what was remembered by number.
    pub fn forget_if_empty(&mut self) {
        if self.channel.forget_if_empty()
            && let Some(large) = &mut self.large
        {
            large.forget_members();
        }
    }

    /// True when nothing would be lost by forgetting the channel.
    pub fn is_unused(&self) -> bool {
        self.published.is_none() && self.is_unused_but_for_messages()
    }

    /// True when nobody is there and nothing is to be told.
    pub fn is_unused_but_for_messages(&self) -> bool {
        let is_idle = !self.dirty && !self.timed;
        self.channel.members().is_empty() && self.interest.is_empty() && is_idle
    }

    pub fn subscribe(&mut self, shard: ShardId, feed: Feed, home: HomeChannelId) {
        match self.interest.iter_mut().find(|interest| interest.shard == shard) {
            Some(interest) => {
                interest.home = home;
                interest.feeds.insert(feed);
            }
            None => self.interest.push(Interest::new(shard, home, feed)),
        }
    }

    pub fn unsubscribe(&mut self, shard: ShardId, feed: Feed) {
        let Some(at) = self.interest.iter().position(|i| i.shard == shard) else { return };
        self.interest[at].feeds.remove(feed);
        self.interest[at].forget_set(feed);
        if self.interest[at].feeds.is_empty() {
            self.interest.swap_remove(at);
        }
    }

    pub fn is_any_wanted(&self, feeds: FeedSet) -> bool {
        self.interest.iter().any(|interest| !interest.feeds.and(feeds).is_empty())
    }

    pub fn is_wanted(&self, feed: Feed) -> bool {
        self.interest.iter().any(|interest| interest.feeds.contains(feed))
    }
}

/// One channel that connections of this shard subscribe to, whoever owns it.
#[derive(Debug)]
pub struct HomeChannel {
    pub key: Arc<ChannelKey>,
    pub policy: Arc<Policy>,
    audiences: Few<Audience>,
    /// Connections that are members, or about to be.
    pub members: u32,
    pub owner: ShardId,
    /// Other shards were told that further subscribers should stay where they are.
    pub hot: bool,
}

const _: () = assert!(size_of::<HomeChannel>() <= 40, "subscribers with a channel each pay for it");

/// Those who subscribe to one encoded feed of a channel.
#[derive(Debug)]
struct Audience {
    feed: Feed,
    /// Subscriptions, those included that nothing is delivered to yet; not 0.
    subscriptions: u32,
    /// The connections that are delivered to.
    subscribers: SlotList,
    /// What is under way of large sets, for feeds of sets.
    round: Option<Box<Round>>,
}

impl Keyed for HomeChannel {
    fn key(&self) -> &Arc<ChannelKey> {
        &self.key
    }
}

impl HomeChannel {
    pub fn new(key: Arc<ChannelKey>, owner: ShardId, policy: Arc<Policy>) -> Self {
        HomeChannel { key, policy, audiences: Few::None, members: 0, owner, hot: false }
    }

    /// What is under way of large sets of a feed.
    pub fn round(&self, feed: Feed) -> Option<&Round> {
        self.audiences.iter().find(|audience| audience.feed == feed)?.round.as_deref()
    }

    pub fn round_mut(&mut self, feed: Feed) -> Option<&mut Round> {
        self.audience_mut(feed)?.round.as_deref_mut()
    }

    /// Puts a round, or none, in the place of the one of a feed.
    pub fn set_round(&mut self, feed: Feed, round: Option<Round>) {
        if let Some(audience) = self.audience_mut(feed) {
            audience.round = round.map(Box::new);
        }
    }

    /// The round of a feed, and those who are delivered to; `None` when nobody subscribes.
    pub fn audience_of(&mut self, feed: Feed) -> Option<(Option<&mut Round>, &mut SlotList)> {
        let audience = self.audience_mut(feed)?;
        Some((audience.round.as_deref_mut(), &mut audience.subscribers))
    }

    pub fn subscribers(&self, feed: Feed) -> &[u32] {
        let audience = self.audiences.iter().find(|audience| audience.feed == feed);
        audience.map_or(&[], |audience| audience.subscribers.slots())
    }

    /// True when no connection of this shard has to do with the channel.
    pub fn is_unused(&self) -> bool {
        self.members == 0 && self.audiences.is_empty()
    }

    pub fn subscription_count(&self) -> usize {
        self.audiences.iter().map(|audience| audience.subscriptions as usize).sum()
    }

    /// A subscription begins; returns how many there are of its feed.
    pub fn begin_subscription(&mut self, feed: Feed) -> u32 {
        if let Some(audience) = self.audience_mut(feed) {
            audience.subscriptions += 1;
            return audience.subscriptions;
        }
        self.audiences.push(Audience {
            feed,
            subscriptions: 1,
            subscribers: SlotList::None,
            round: None,
        });
        1
    }

    /// A subscription has ended, and is not delivered to any longer; returns how many are left.
    pub fn end_subscription(&mut self, feed: Feed) -> u32 {
        let Some(at) = self.audiences.iter().position(|a| a.feed == feed) else { return 0 };
        let audience = &mut self.audiences[at];
        audience.subscriptions -= 1;
        let left = audience.subscriptions;
        if left == 0 {
            self.audiences.swap_remove(at);
        }
        left
    }

    /// Those who are delivered to, slots of connections; `None` when nobody subscribes.
    pub fn subscribers_mut(&mut self, feed: Feed) -> Option<&mut SlotList> {
        Some(&mut self.audience_mut(feed)?.subscribers)
    }

    fn audience_mut(&mut self, feed: Feed) -> Option<&mut Audience> {
        self.audiences.iter_mut().find(|audience| audience.feed == feed)
    }
}
