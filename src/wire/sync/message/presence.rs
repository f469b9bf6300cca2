//! Presence (`protocols/nodedb.md` section 3.5): the same encoding in every generation.

use super::codec::prelude::*;

structs! {
    /// 0x80. Enters the channel, or replaces the state of the member.
    pub struct PresenceUpdate<'a> {
        channel: &'a str,
        /// Opaque.
        state: &'a [u8],
    }

    /// One member in a [`PresenceBroadcast`].
    pub struct Peer<'a> {
        user_id: &'a str,
        state: &'a [u8],
        /// Age when sent, milliseconds; not a timestamp.
        last_seen_ms: u64,
    }

    /// 0x81. The full set of members.
    pub struct PresenceBroadcast<'a> {
        channel: &'a str,
        peers: Vec<Peer<'a>>,
    }

    /// 0x82.
    pub struct PresenceLeave<'a> {
        channel: &'a str,
        user_id: &'a str,
    }
}

/// Appends the body of a [`PresenceBroadcast`] directly from an iterator over its `count` members.
pub fn append_presence_broadcast<'p>(
    out: &mut Vec<u8>,
    channel: &str,
    count: usize,
    peers: impl Iterator<Item = Peer<'p>>,
) {
    append_broadcast_head(out, channel, count);
    for peer in peers {
        append_peer_head(out, peer.user_id, peer.state);
        append_peer_age(out, peer.last_seen_ms);
    }
}

/// Appends the body of a [`PresenceBroadcast`] up to its peers.
pub fn append_broadcast_head(out: &mut Vec<u8>, channel: &str, peers: usize) {
    msgpack::write_array_len(out, 2);
    msgpack::write_str(out, channel);
    msgpack::write_array_len(out, peers);
}

/// Appends a [`Peer`] up to its age: the part that does not change until the member updates its
/// state.
pub fn append_peer_head(out: &mut Vec<u8>, user_id: &str, state: &[u8]) {
    msgpack::write_array_len(out, 3);
    msgpack::write_str(out, user_id);
    msgpack::write_bin(out, state);
}

/// Appends the rest of a [`Peer`].
pub fn append_peer_age(out: &mut Vec<u8>, last_seen_ms: u64) {
    msgpack::write_u64(out, last_seen_ms);
}

/// Appends the body of a [`PresenceLeave`].
pub fn append_presence_leave(out: &mut Vec<u8>, channel: &str, user_id: &str) {
    msgpack::write_array_len(out, 2);
    msgpack::write_str(out, channel);
    msgpack::write_str(out, user_id);
}
