//! What a shard sends: effects for its shell, envelopes for other shards, and for itself.
//!
//! Order is kept towards each shard. What may be refused is refused when a mailbox is full; what
//! may not waits here until there is room.

use std::collections::VecDeque;

use super::envelope::{Effect, Envelope};
use crate::ids::ShardId;

/// Envelopes waiting for one mailbox above which the shell reads no more from connections; what one
/// buffer makes shards ask of each other can still be added.
const WAITING_MAX: usize = 8 * 1024;

/// Bounded as each list says; the shell drains `effects` after every input.
#[derive(Debug)]
pub struct Outbox {
    me: ShardId,
    pub effects: VecDeque<Effect>,
    /// Envelopes to this very shard; drained before an input returns.
    pub local: VecDeque<Envelope>,
    peers: Vec<Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Free places in the peer's mailbox.
    room: usize,
    /// What must arrive and has no room yet: goodbyes, interest, answers. Above `WAITING_MAX`
    /// nothing is read from connections, so peers pay.
    waiting: VecDeque<Envelope>,
}

impl Outbox {
    /// `peers`: shards and edge together.
    pub fn new(me: ShardId, peers: usize) -> Self {
        Outbox {
            me,
            effects: VecDeque::new(),
            local: VecDeque::new(),
            peers: (0..peers).map(|_| Peer::default()).collect(),
        }
    }

    /// Learns the free places of every mailbox and uses them for what has been waiting.
    pub fn set_room(&mut self, peer: ShardId, room: usize) {
        self.peers[peer.index()].room = room;
        while self.peers[peer.index()].room > 0 {
            let Some(envelope) = self.peers[peer.index()].waiting.pop_front() else { break };
            self.post(peer, envelope);
        }
    }

    /// True while something waits for room.
    pub fn is_waiting(&self) -> bool {
        self.peers.iter().any(|peer| !peer.waiting.is_empty())
    }

    /// True while more waits than a mailbox holds.
    pub fn is_congested(&self) -> bool {
        self.peers.iter().any(|peer| peer.waiting.len() > WAITING_MAX)
    }

    /// Sends what must arrive.
    pub fn send(&mut self, to: ShardId, envelope: Envelope) {
        if let Err(envelope) = self.try_send(to, envelope) {
            self.peers[to.index()].waiting.push_back(envelope);
        }
    }

    /// Sends what may be refused.
    ///
    /// # Errors
    /// Gives the envelope back when the mailbox is full or earlier envelopes wait for it; try on a
    /// later turn.
    pub fn try_send(&mut self, to: ShardId, envelope: Envelope) -> Result<(), Envelope> {
        if to == self.me {
            self.local.push_back(envelope);
            return Ok(());
        }
        let peer = &self.peers[to.index()];
        if peer.room == 0 || !peer.waiting.is_empty() {
            return Err(envelope);
        }
        self.post(to, envelope);
        Ok(())
    }

    pub fn has_room(&self, to: ShardId) -> bool {
        let peer = &self.peers[to.index()];
        to == self.me || (peer.room > 0 && peer.waiting.is_empty())
    }

    pub fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    fn post(&mut self, to: ShardId, envelope: Envelope) {
        self.peers[to.index()].room -= 1;
        self.effects.push_back(Effect::Send { to, envelope });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::inspection::Inspection;

    fn probe(request: u64) -> Envelope {
        Envelope::Inspect { from: ShardId(0), request, inspection: Inspection::Counters }
    }

    fn sent(outbox: &mut Outbox) -> Vec<u64> {
        outbox
            .effects
            .drain(..)
            .map(|effect| match effect {
                Effect::Send { envelope: Envelope::Inspect { request, .. }, .. } => request,
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_must_arrive_waits_and_nothing_overtakes_it() {
        let mut outbox = Outbox::new(ShardId(0), 2);
        let peer = ShardId(1);
        outbox.set_room(peer, 1);
        outbox.send(peer, probe(1));
        outbox.send(peer, probe(2));
        assert!(outbox.try_send(peer, probe(3)).is_err());
        assert_eq!(sent(&mut outbox), [1]);
        outbox.set_room(peer, 5);
        assert!(outbox.try_send(peer, probe(4)).is_ok());
        assert_eq!(sent(&mut outbox), [2, 4]);
    }
}
