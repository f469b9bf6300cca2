//! What an owner keeps of channels without members and subscribers: messages until they expire,
//! then the serial to continue from.

use std::collections::HashMap;

use super::Owner;
use super::channel_entry::Published;
use crate::channel::Messages;
use crate::ids::Clocks;
use crate::limits::Limits;
use crate::shard::context::ShardContext;
use crate::shard::timers::Timer;

/// Time between two passes, and channels that are checked in each.
const CHECK_EVERY_MS: u64 = 1_000;
const CHANNELS_AT_ONCE: u32 = 2_048;

/// Memory for messages, and the heads of channels that were closed.
#[derive(Debug)]
pub struct Retention {
    bytes: u64,
    bytes_max: u64,
    /// Heads by the hash of the log. At most `heads_max`; with as many they are forgotten, and
    /// every log begins at `base`.
    heads: HashMap<u64, u64>,
    heads_max: usize,
    /// Not below any serial of a channel whose head was forgotten.
    base: u64,
    /// Not below any serial that was assigned here.
    highest: u64,
    /// Where the next pass begins.
    next_slot: u32,
    /// A timer is set.
    timed: bool,
}

impl Retention {
    /// `serial_base`: what no serial of an earlier process is above.
    pub(super) fn new(limits: &Limits, serial_base: u64) -> Self {
        Retention {
            bytes: 0,
            bytes_max: limits.history_bytes_per_shard_max,
            heads: HashMap::new(),
            heads_max: limits.channels_per_shard_max,
            base: serial_base,
            highest: serial_base,
            next_slot: 0,
            timed: false,
        }
    }

    /// Where the channel with this hash ended when it was closed.
    pub(super) fn head(&self, hash: u64) -> u64 {
        self.heads.get(&hash).copied().unwrap_or(self.base)
    }

    /// An empty log that goes on where the channel with this hash ended when it was closed.
    pub(super) fn reopen(&mut self, hash: u64) -> Box<Published> {
        let messages = Messages::starting_after(self.head(hash));
        self.heads.remove(&hash);
        Box::new(Published { messages, ..Published::default() })
    }

    /// No serial that was assigned by this shard, or by an earlier process, is above it.
    pub fn highest_serial(&self) -> u64 {
        self.highest
    }

    /// A number above all serials that were assigned here.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.highest += 1;
        self.highest
    }

    /// A message was given this serial.
    pub(super) fn note_serial(&mut self, serial: u64) {
        self.highest = self.highest.max(serial);
    }

    /// Remembers where a log ended. When there are too many to remember, all of them go on above
    /// the highest.
    fn remember_head(&mut self, hash: u64, head: u64) {
        if head <= self.base {
            return;
        }
        if self.heads.len() >= self.heads_max {
            self.heads.clear();
            self.base = self.highest;
        }
        self.heads.insert(hash, head);
    }

    /// Accounts for a log that took `before` bytes, and makes it forget what there is no memory
    /// for. Returns how many messages and publishes were forgotten.
    pub(super) fn account(&mut self, before: u64, messages: &mut Messages) -> u32 {
        self.bytes = self.bytes - before + messages.bytes();
        let mut forgotten = 0;
        while self.bytes > self.bytes_max {
            let bytes = messages.bytes();
            if !messages.evict_oldest() {
                break;
            }
            forgotten += 1;
            self.bytes = self.bytes - bytes + messages.bytes();
        }
        forgotten
    }
}

/// A serial that no channel has reached, if it was numbered from 1 or from an earlier such serial
/// and the clock was never set back: the time in microseconds, since nothing publishes a message
/// per microsecond for long. Clients read serials as doubles, which are exact below 2^53: that is
/// the year 2255, and a clock that shows the year 2112 or later is not believed.
pub fn serial_base(now: Clocks) -> u64 {
    now.wall_ms.saturating_mul(1000).min(1 << 52)
}

impl Owner {
    pub(super) fn begin_retention(&mut self, cx: &mut ShardContext) {
        if !self.retention.timed {
            self.retention.timed = true;
            cx.timers.set(cx.now.mono_ms + CHECK_EVERY_MS, Timer::Retention);
        }
    }

    /// Checks some of the channels: expires messages, and removes channels of which only the head
    /// is left.
    pub(super) fn retain(&mut self, cx: &mut ShardContext) {
        self.retention.timed = false;
        let slots = self.channels.slot_count();
        for _ in 0..CHANNELS_AT_ONCE.min(slots) {
            let slot = self.retention.next_slot % slots;
            self.retention.next_slot = slot + 1;
            self.retain_channel(cx, slot);
        }
        self.list_members(cx);
        if self.channels.len() > 0 {
            self.begin_retention(cx);
        }
    }

    fn retain_channel(&mut self, cx: &mut ShardContext, slot: u32) {
        let now = cx.now;
        let is_over =
            self.with_messages(cx, Some(slot), |messages, policy| messages.expire(now, policy));
        let channel = self.channels.get(slot).filter(|c| c.is_unused_but_for_messages());
        let Some(channel) = channel else { return };
        let Some(published) = channel.published.as_ref().filter(|p| p.is_idle()) else { return };
        if published.durable.is_some() {
            self.close_idle_log(cx, slot);
        } else if is_over == Some(true) {
            self.retention.remember_head(channel.key.log_hash(), published.messages.head());
            self.occupancies.remove(&slot);
            self.channels.remove(slot);
        }
    }
}
