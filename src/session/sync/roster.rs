//! The set of members of a large channel, encoded again and again.
//!
//! What a member said is encoded once, when it has said it; a set is put together from that, one
//! copy from one end to the other, whatever the number of feeds. Only the ages differ each time.

use std::sync::Arc;

use super::super::{Feed, Framing, message_pack_state};
use crate::channel::Members;
use crate::ids::Clocks;
use crate::wire::sync::{
    MessageType, append_broadcast_head, append_peer_age, append_peer_head, frame_head,
};
use crate::wire::websocket::{Opcode, frame_header};

/// PageLimit before the body: the header of a WebSocket frame, and that of a sync frame.
const FRONT_BYTES: usize = 10 + 10;

/// The newest set of one channel. About as large as a frame of it, and 24 bytes per member.
#[derive(Debug, Default)]
pub struct Roster {
    /// In join order.
    entries: Vec<Entry>,
    /// `FRONT_BYTES`, then the body of a broadcast.
    buffer: Vec<u8>,
}

/// A member in the newest set.
#[derive(Clone, Copy, Debug)]
struct Entry {
    joined: u64,
    version: u64,
    /// Where it stands in the buffer, its age excepted.
    start: u32,
    len: u32,
}

impl Roster {
    /// Puts the set together as it is at this moment.
    pub fn refresh(&mut self, now: Clocks, channel: &str, members: &Members) {
        let earlier = std::mem::take(self);
        let mut known = earlier.entries.iter().peekable();
        let set_bytes = FRONT_BYTES + channel.len() + 16 + members.encoded_bytes();
        self.buffer.reserve(set_bytes);
        self.entries.reserve(members.len());
        self.buffer.resize(FRONT_BYTES, 0);
        append_broadcast_head(&mut self.buffer, channel, members.len());
        for member in members.iter() {
            let start = self.buffer.len();
            while known.next_if(|entry| entry.joined < member.joined).is_some() {}
            match known.next_if(|e| e.joined == member.joined && e.version == member.version) {
                Some(entry) => {
                    let start = entry.start as usize;
                    let encoded = &earlier.buffer[start..start + entry.len as usize];
                    self.buffer.extend_from_slice(encoded);
                }
                None => {
                    let state = message_pack_state(&member.state);
                    append_peer_head(&mut self.buffer, &member.identity.user, state);
                }
            }
            self.entries.push(Entry {
                joined: member.joined,
                version: member.version,
                start: start as u32,
                len: (self.buffer.len() - start) as u32,
            });
            append_peer_age(&mut self.buffer, member.age_ms(now));
        }
    }

    /// The newest set for one feed; nothing when that is no feed of sets.
    pub fn frame(&mut self, feed: Feed) -> Arc<[u8]> {
        let Some((header, framing)) = feed.sync_parts() else { return Arc::default() };
        if self.buffer.is_empty() {
            return Arc::default();
        }
        let head = frame_head(header, MessageType::PresenceBroadcast, &self.buffer[FRONT_BYTES..]);
        let mut start = self.put_before(FRONT_BYTES, &head);
        if framing == Framing::WebSocket {
            let frame_bytes = self.buffer.len() - start;
            start = self.put_before(start, &frame_header(Opcode::Binary, frame_bytes));
        }
        Arc::from(&self.buffer[start..])
    }

    /// Writes `bytes` so that they end at `end`; returns where they begin.
    fn put_before(&mut self, end: usize, bytes: &[u8]) -> usize {
        let start = end - bytes.len();
        self.buffer[start..end].copy_from_slice(bytes);
        start
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::presence;
    use super::*;
    use crate::channel::{Channel, Identity, JsonState, LeaveReason, Resume, State};
    use crate::ids::{ConnAddr, ConnId, ShardId};
    use crate::limits::Limits;

    const FEEDS: [Feed; 4] = [
        Feed::SyncTenWebSocket,
        Feed::SyncFiveWebSocket,
        Feed::SyncTenStream,
        Feed::SyncFiveStream,
    ];

    fn at(mono_ms: u64) -> Clocks {
        Clocks { mono_ms, wall_ms: mono_ms }
    }

    fn addr(slot: u32) -> ConnAddr {
        ConnAddr { shard: ShardId(0), conn: ConnId { slot, generation: 1 } }
    }

    fn announce(channel: &mut Channel, now: Clocks, slot: u32, state: State) {
        let user = format!("user{}", slot % 7).into();
        let who = Arc::new(Identity::new(user, "".into(), Resume::Never));
        channel.announce(now, addr(slot), &who, state, &Limits::default()).unwrap();
    }

    fn packed(text: &str) -> State {
        State::from_message_pack(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// The set, encoded from the members alone.
    fn check(roster: &mut Roster, now: Clocks, channel: &Channel) {
        roster.refresh(now, "room", channel.members());
        for feed in FEEDS {
            let fresh = presence::set(feed, now, "room", channel.members());
            assert_eq!(roster.frame(feed), fresh, "{feed:?} at {now:?}");
        }
    }

    #[test]
    fn whatever_happens_between_two_sets_each_is_as_if_encoded_anew() {
        let mut channel = Channel::default();
        let mut roster = Roster::default();
        check(&mut roster, at(0), &channel);
        let mut random = 1u64;
        for step in 0..2_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (slot, now) = ((random >> 33) as u32 % 200, at(step * 37));
            match (random >> 60) % 8 {
                0..3 => drop(channel.leave(addr(slot), LeaveReason::Left)),
                3 => {
                    let data = Bytes::from(format!("{{\"step\":{step}}}"));
                    let json = JsonState { data, encoding: "".into() };
                    announce(&mut channel, now, slot, State::from_json(json));
                }
                _ => announce(&mut channel, now, slot, packed(&"x".repeat(step as usize % 300))),
            }
            if random >> 62 == 0 {
                check(&mut roster, now, &channel);
            }
        }
        assert!(channel.members().len() > 50, "{} members", channel.members().len());
        while let Some(last) = channel.members().iter().last().map(|member| member.addr) {
            channel.leave(last, LeaveReason::Left);
        }
        check(&mut roster, at(100_000), &channel);
    }

    #[test]
    fn somebody_who_takes_a_place_over_says_its_own() {
        let (mut channel, mut roster) = (Channel::default(), Roster::default());
        announce(&mut channel, at(0), 1, packed("before"));
        announce(&mut channel, at(0), 2, packed("other"));
        check(&mut roster, at(1), &channel);
        channel.start_grace(addr(1), 1_000);
        announce(&mut channel, at(5), 8, packed("after"));
        assert_eq!(channel.members().len(), 2, "user1 is back");
        check(&mut roster, at(9), &channel);
    }

    #[test]
    fn a_feed_of_something_else_and_an_empty_roster_give_nothing() {
        let mut roster = Roster::default();
        assert!(roster.frame(Feed::SyncTenStream).is_empty());
        roster.refresh(at(0), "room", Channel::default().members());
        assert!(roster.frame(Feed::FoonyMessages).is_empty());
        assert!(!roster.frame(Feed::SyncTenStream).is_empty());
    }
}
