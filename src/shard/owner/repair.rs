//! Homes that missed something because their mailbox was full: they receive everyone who is
//! present, and messages as far as they are kept.

use std::sync::Arc;

use super::Owner;
use super::channel_entry::OwnedChannel;
use super::presence::encode_each;
use super::publish::make_batch;
use crate::channel::{Change, ChangeKind, LeaveReason, Page, PageLimit};
use crate::ids::ShardId;
use crate::session::{Feed, FeedKind, FeedSet};
use crate::shard::context::ShardContext;
use crate::shard::departures::Departures;
use crate::shard::envelope::{Envelope, MemberPage, MembersFor, PresenceTick};
use crate::shard::outbox::Outbox;

/// Most that is sent at once to a subscriber, or a home, that catches up.
const CATCH_UP: PageLimit = PageLimit { messages: usize::MAX, bytes: 256 * 1024 };

impl Owner {
    /// Sends homes that missed a tick who has left and who is present, as far as their mailboxes
    /// have room.
    pub(super) fn repair_stale_homes(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        let stale = channel.homes.iter().filter(|home| home.is_stale()).map(|home| home.shard);
        for shard in stale.collect::<Vec<_>>() {
            if cx.outbox.has_room(shard) {
                self.repair_stale_home(cx, slot, shard);
            } else {
                self.stale.push(slot);
            }
        }
    }

    fn repair_stale_home(&mut self, cx: &mut ShardContext, slot: u32, shard: ShardId) {
        let channel = self.entry(slot);
        let conflates = channel.conflates_snapshots();
        let Some(home) = channel.home_mut(shard) else { return };
        let departures = home.take_departures();
        let mut feeds = home.feeds & Feed::PRESENCE;
        if conflates {
            home.request_snapshots();
            feeds -= Feed::PRESENCE_SETS;
        }
        let to = home.home;
        channel.presence.set_snapshot_sent();
        if feeds.is_empty() {
            return;
        }
        let tick = Arc::new(make_repair(cx, channel, feeds, departures));
        cx.outbox.send(shard, Envelope::Presence { to, feeds, tick });
        let key = Arc::clone(&channel.key);
        if feeds.contains(Feed::FoonyPeers) {
            self.time_digest(cx, slot);
        }
        if feeds.contains(Feed::Changes) {
            self.send_members(cx, &key, shard, (MembersFor::Watcher(to), MemberPage::ALL));
        }
    }

    /// Sends homes what they missed while their mailboxes were full, in order, as far as there is
    /// room.
    pub(super) fn repair_missed_messages(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        let behind = channel.homes.iter().filter(|home| home.missed_after().is_some());
        for shard in behind.map(|home| home.shard).collect::<Vec<_>>() {
            let repaired = self.send_missed(cx, slot, shard, |outbox, to, envelope| {
                outbox.try_send(to, envelope).is_ok()
            });
            if !repaired {
                self.stale.push(slot);
            }
        }
    }

    /// Routes everything to a home that it has missed, however full its mailbox, so that nothing of
    /// it can arrive after what it is sent next.
    pub(super) fn catch_home_up(&mut self, cx: &mut ShardContext, slot: u32, shard: ShardId) {
        self.flush_messages(cx, slot);
        self.send_missed(cx, slot, shard, |outbox, to, envelope| {
            outbox.send(to, envelope);
            true
        });
    }

    /// Sends one home what it missed, as far as it is kept. False when the mailbox is full.
    fn send_missed(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        shard: ShardId,
        send: impl Fn(&mut Outbox, ShardId, Envelope) -> bool,
    ) -> bool {
        loop {
            let Some(home) = self.entry(slot).home_mut(shard) else { return true };
            let Some(after) = home.missed_after() else { return true };
            let (to, feeds) = (home.home, home.feeds & Feed::MESSAGES);
            let Page { messages, more } = self.take_missed(cx, slot, after);
            if !feeds.is_empty() && !messages.is_empty() {
                let batch = Arc::new(make_batch(self.entry(slot), &messages));
                if !send(&mut cx.outbox, shard, Envelope::Messages { to, feeds, batch }) {
                    return false;
                }
            }
            let last = messages.last().map(|message| message.serial);
            if let Some(home) = self.entry(slot).home_mut(shard) {
                home.set_missed_after(last.filter(|_| more));
            }
        }
    }

    /// The next messages after a serial, as far as they are kept; what is not leaves a gap.
    pub(super) fn take_missed(&mut self, cx: &mut ShardContext, slot: u32, after: u64) -> Page {
        let now = cx.now;
        let page = self.with_messages(cx, Some(slot), |messages, policy| {
            messages.following(now, after, CATCH_UP, policy)
        });
        page.unwrap_or_default()
    }
}

/// For feeds of sets the set; for the others, and in the tick itself, leave events, then everyone
/// who is present as if they had just entered.
fn make_repair(
    cx: &ShardContext,
    channel: &OwnedChannel,
    feeds: FeedSet,
    departures: Departures,
) -> PresenceTick {
    let (key, members) = (&channel.key, channel.presence.members());
    let mut changes = Vec::new();
    let mut departed = 0;
    if !feeds.is_disjoint(Feed::PRESENCE_CHANGES) {
        changes.extend(departures.into_changes());
        departed = changes.len();
        changes.extend(members.iter().map(|member| Change {
            kind: ChangeKind::Enter,
            reason: LeaveReason::default(),
            addr: member.addr,
            identity: Arc::clone(&member.identity),
            state: member.state.clone(),
        }));
    }
    let encoded = encode_each(feeds, |feed| match feed.kind() {
        FeedKind::Sets => feed.encode_members(cx.now, key, members),
        _ => {
            let left = feed.encode_changes(cx.now, key, members, &changes[..departed]);
            [&*left, &*feed.encode_members(cx.now, key, members)].concat().into()
        }
    });
    PresenceTick { changes, encoded, except: None }
}
