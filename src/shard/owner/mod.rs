//! The owner: the channels of one shard, their members and messages, members in grace, and what is
//! to be sent to homes.
//!
//! Invariant: a change is routed once per interested home and turn; what a full mailbox refuses is
//! kept in [`HomeSubscription`](home_subscription::HomeSubscription) and sent later.
//! Must never know connections, sessions, dialects.

mod channel_entry;
mod home_subscription;
mod lost_members;
mod presence;
mod publish;
mod repair;
mod retention;
mod snapshot;

pub use retention::serial_base;

use std::sync::Arc;

use super::channel_table::ChannelTable;
use super::context::ShardContext;
use super::envelope::{Command, Envelope, MemberView, MembersFor, ReplyTo};
use super::timers::Timer;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnAddr, ShardId};
use crate::session::Answer;
use channel_entry::OwnedChannel;
use lost_members::LostMembers;
use retention::Retention;

#[derive(Debug)]
pub struct Owner {
    channels: ChannelTable<OwnedChannel>,
    lost: LostMembers,
    retention: Retention,
    /// Channels to flush this turn; each once.
    dirty: Vec<u32>,
    /// Channels some of whose homes missed something; looked at each turn.
    stale: Vec<u32>,
    snapshots_made: u64,
}

impl Owner {
    pub fn new(cx: &ShardContext) -> Self {
        Owner {
            channels: ChannelTable::default(),
            lost: LostMembers::default(),
            retention: Retention::new(cx.limits(), cx.settings.serial_base),
            dirty: Vec::new(),
            stale: Vec::new(),
            snapshots_made: 0,
        }
    }

    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Members whose connection was lost and whose grace runs.
    pub fn lost_member_count(&self) -> usize {
        self.lost.len()
    }

    /// The highest serial that this shard, or an earlier process, has assigned.
    pub fn highest_serial(&self) -> u64 {
        self.retention.highest_serial()
    }

    /// True while some home waits for room in its mailbox.
    pub fn is_waiting_for_room(&self) -> bool {
        !self.stale.is_empty()
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Marks channels with homes that missed something for another try.
    pub fn begin_turn(&mut self) {
        for slot in std::mem::take(&mut self.stale) {
            self.mark_dirty(slot);
        }
    }

    pub fn handle_command(
        &mut self,
        cx: &mut ShardContext,
        from: ShardId,
        key: Arc<ChannelKey>,
        command: Command,
    ) {
        match command {
            Command::Announce(new) => self.announce(cx, &key, *new),
            Command::Leave { addr } => self.leave(cx, &key, addr),
            Command::Linger { addr } => self.linger(cx, &key, addr),
            Command::Subscribe { feed, home } => {
                // Without room for the channel the requests that follow are refused.
                if let Ok(slot) = self.open(cx, &key) {
                    self.entry(slot).subscribe(from, feed, home);
                }
            }
            Command::Unsubscribe { feed } => self.unsubscribe(&key, from, feed),
            Command::Snapshot { feed, home, recipients } => {
                self.request_snapshot(cx, from, &key, feed, home, recipients);
            }
            Command::Members { to } => self.send_members(cx, &key, from, to),
            Command::Publish { reply_to, draft } => self.publish(cx, from, &key, reply_to, *draft),
            Command::Attach { reply_to, feed, after, replay } => {
                let answer = self.attach(cx, from, &key, feed, after.as_ref(), replay);
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::History { reply_to, before, limit } => {
                let answer = self.history(cx, &key, before.as_ref(), limit);
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::HistoryForward { reply_to, after, limit } => {
                let answer = self.history_forward(cx, &key, after, limit);
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::Fetch { reply_to, after, limit } => {
                let answer = self.fetch(cx, &key, after, limit);
                send_answer(cx, from, reply_to, &key, answer);
            }
            Command::CatchUp { home, conn, after } => {
                self.catch_up(cx, &key, ConnAddr { shard: from, conn }, home, after);
            }
        }
    }

    pub fn handle_timer(&mut self, cx: &mut ShardContext, timer: Timer) {
        match timer {
            Timer::Flush { slot, generation } => {
                if let Some(channel) = self.channels.get_tenant(slot, generation) {
                    channel.timed = false;
                    self.mark_dirty(slot);
                }
            }
            Timer::Snapshot { slot, generation } => {
                let channel = self.channels.get_tenant(slot, generation);
                if let Some(snapshots) = channel.and_then(|channel| channel.snapshots.as_mut()) {
                    snapshots.timed = false;
                    self.mark_dirty(slot);
                }
            }
            Timer::Grace { grace } => self.end_grace(cx, grace),
            Timer::Retention => self.retain(cx),
            _ => debug_assert!(false, "{timer:?} is for the home"),
        }
    }

    /// Routes what every dirty channel has to say, each once.
    pub fn flush(&mut self, cx: &mut ShardContext) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let channel = self.entry(slot);
            channel.dirty = false;
            self.flush_messages(cx, slot);
            self.flush_presence(cx, slot);
            self.entry(slot).free_if_empty();
            self.close_if_unused(slot);
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// The channel's entry, made if there is room for it.
    fn open(&mut self, cx: &ShardContext, key: &Arc<ChannelKey>) -> Result<u32, Reject> {
        if let Some(slot) = self.channels.find_key(key) {
            return Ok(slot);
        }
        if self.channels.len() >= cx.limits().channels_per_shard_max {
            return Err(Reject::ServerFull);
        }
        let policy = Arc::clone(cx.settings.policies.for_channel(&key.name));
        Ok(self.channels.insert(OwnedChannel::new(Arc::clone(key), policy)))
    }

    /// The channel in a slot that is in use.
    fn entry(&mut self, slot: u32) -> &mut OwnedChannel {
        match self.channels.get_mut(slot) {
            Some(channel) => channel,
            None => panic!("owned channel {slot} is gone"),
        }
    }

    fn close_if_unused(&mut self, slot: u32) {
        if self.entry(slot).is_unused() {
            self.channels.remove(slot);
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        if let Some(channel) = self.channels.get_mut(slot)
            && !channel.dirty
        {
            channel.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn send_members(
        &mut self,
        cx: &mut ShardContext,
        key: &ChannelKey,
        from: ShardId,
        to: MembersFor,
    ) {
        let slot = self.channels.find_key(key);
        let members = slot.map(|slot| member_views(cx, self.entry(slot))).unwrap_or_default();
        cx.outbox.send(from, Envelope::Members { to, members });
    }
}

fn send_answer(
    cx: &mut ShardContext,
    shard: ShardId,
    to: ReplyTo,
    key: &Arc<ChannelKey>,
    answer: Answer,
) {
    let channel = Arc::clone(key);
    cx.outbox.send(shard, Envelope::Answer { to, channel, answer });
}

fn member_views(cx: &ShardContext, channel: &OwnedChannel) -> Vec<MemberView> {
    let view = |member: &crate::channel::Member| MemberView {
        addr: member.addr,
        identity: Arc::clone(&member.identity),
        state: member.state.clone(),
        age_ms: member.age_ms(cx.now),
        announced_wall_ms: cx.now.wall_ms.saturating_sub(member.age_ms(cx.now)),
        lingering: member.grace_until.is_some(),
    };
    channel.presence.members().iter().map(view).collect()
}
