//! Presence events as frames of the sync wire: the full set of members, or who left.

use std::sync::Arc;

use indexmap::IndexSet;

use super::super::{Feed, Framing, append_message, message_pack_state};
use crate::channel::{Change, ChangeKind, Members};
use crate::ids::Clocks;
use crate::wire::sync::{
    Header, MessageType, Peer, append_frame, append_presence_broadcast, append_presence_leave,
};

/// Users that left in one tick and are named one by one; when there are more, the set says it all.
const LEAVES_MAX: usize = 64;

/// What a tick looks like to subscribers of full sets.
#[derive(Debug, PartialEq, Eq)]
pub struct SetTick<'c> {
    /// Users whose last session left.
    leaves: IndexSet<&'c str>,
    set: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Shown,
    Omitted,
}

impl<'c> SetTick<'c> {
    /// Chooses the frames of a tick. With an interval there is one frame per tick: the name of the
    /// user who left if nothing else happened, else the set. Without one, those who left are named
    /// first, for clients that remove members on no other message; the set follows if more
    /// happened.
    pub fn of(changes: &'c [Change], members: &Members, interval_ms: u64) -> Self {
        let is_departure = |change: &&Change| {
            change.kind == ChangeKind::Leave && members.sessions_of(&change.identity.user) == 0
        };
        let shown = changes.iter().filter(|change| change.kind != ChangeKind::Peer);
        let departures = shown.clone().filter(is_departure);
        let others = departures.clone().count() < shown.count();
        let leaves: IndexSet<&str> = departures.map(|change| &*change.identity.user).collect();
        let too_many = leaves.len() > LEAVES_MAX;
        let one_frame = interval_ms > 0 && (others || leaves.len() > 1);
        if too_many || one_frame {
            return SetTick { leaves: IndexSet::new(), set: Set::Shown };
        }
        SetTick { leaves, set: if others { Set::Shown } else { Set::Omitted } }
    }

    /// Leaves the set to another time; true when it would have been shown.
    pub fn put_off_set(&mut self) -> bool {
        std::mem::replace(&mut self.set, Set::Omitted) == Set::Shown
    }

    /// Leaves out the names: a set will follow that implies them. True when there were any.
    pub fn omit_leaves(&mut self) -> bool {
        !std::mem::take(&mut self.leaves).is_empty()
    }
}

/// Encodes a tick for every subscriber of one feed; nothing when there is nothing to be said.
pub fn tick(
    feed: Feed,
    now: Clocks,
    channel: &str,
    members: &Members,
    shown: &SetTick<'_>,
) -> Arc<[u8]> {
    let Some((header, framing)) = feed.sync_parts() else { return Arc::default() };
    let mut out = Vec::new();
    for user in &shown.leaves {
        append_message(framing, &mut out, |out| {
            append_frame(header, MessageType::PresenceLeave, out, |body| {
                append_presence_leave(body, channel, user);
            });
        });
    }
    if shown.set == Set::Shown {
        out.reserve(set_bytes_max(channel, members));
        append_set(header, framing, now, channel, members, &mut out);
    }
    out.into()
}

/// Encodes the full set of members for one feed.
pub fn set(feed: Feed, now: Clocks, channel: &str, members: &Members) -> Arc<[u8]> {
    let Some((header, framing)) = feed.sync_parts() else { return Arc::default() };
    let mut out = Vec::with_capacity(set_bytes_max(channel, members));
    append_set(header, framing, now, channel, members, &mut out);
    out.into()
}

/// Upper bound of a set for any feed, headers included.
fn set_bytes_max(channel: &str, members: &Members) -> usize {
    const HEADERS_BYTES: usize = 10 + 10 + 16;
    HEADERS_BYTES + channel.len() + members.encoded_bytes()
}

fn append_set(
    header: Header,
    framing: Framing,
    now: Clocks,
    channel: &str,
    members: &Members,
    out: &mut Vec<u8>,
) {
    let peers = members.iter().map(|member| Peer {
        user_id: &member.identity.user,
        state: message_pack_state(&member.state),
        last_seen_ms: member.age_ms(now),
    });
    append_message(framing, out, |out| {
        append_frame(header, MessageType::PresenceBroadcast, out, |body| {
            append_presence_broadcast(body, channel, members.len(), peers);
        });
    });
}
