//! Channels as operators see them.

use std::sync::Arc;

use super::Owner;
use super::channel_entry::OwnedChannel;
use crate::ids::{ChannelKey, ShardId, presence_logged};
use crate::shard::inspection::{ChannelDetail, ChannelFilter, ChannelView, SLOTS_LOOKED_AT, Slice};

impl Owner {
    /// Channels from a slot on.
    pub fn inspect_channels(
        &self,
        owner: ShardId,
        filter: &ChannelFilter,
        from: u32,
        limit: usize,
    ) -> Slice<ChannelView> {
        let (mut found, mut slot) = (Vec::new(), from);
        let (slots, looked_at) = (self.channels.slot_count(), from.saturating_add(SLOTS_LOOKED_AT));
        while slot < slots.min(looked_at) && found.len() < limit {
            let channel = self.channels.get(slot);
            let wanted = channel.filter(|channel| is_public(&channel.key));
            let wanted = wanted.filter(|channel| filter.is_met_by(&channel.key));
            found.extend(wanted.map(|channel| view(owner, channel)));
            slot += 1;
        }
        Slice { found, next: (slot < slots).then_some(slot) }
    }

    /// One channel; `None` when it has neither members nor subscribers nor messages.
    pub fn inspect_channel(&self, owner: ShardId, key: &ChannelKey) -> Option<ChannelDetail> {
        let slot = self.channels.find_key(key).filter(|_| is_public(key))?;
        let channel = self.channels.get(slot)?;
        let users = channel.presence.members().users();
        Some(ChannelDetail { view: view(owner, channel), users })
    }
}

/// Not a log of presence history, which is not a channel to anybody else.
fn is_public(key: &ChannelKey) -> bool {
    presence_logged(&key.name).is_none()
}

fn view(owner: ShardId, channel: &OwnedChannel) -> ChannelView {
    let published = channel.published.as_ref();
    ChannelView {
        key: Arc::clone(&channel.key),
        owner,
        members: channel.presence.members().len(),
        homes: channel.homes.iter().map(|home| home.shard).collect(),
        serial: published.map_or(0, |published| published.messages.head()),
        history_bytes: published.map_or(0, |published| published.messages.bytes()),
    }
}
