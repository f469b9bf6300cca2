//! Who among the members of a channel may connect to whom: the peers that decide are asked about
//! those that come, and everyone who looks at the presence graph sees whom they have not admitted.
//! Direct messages between members that are connected.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Owner, send_answer};
use crate::channel::{
    Admissions, ChangeKind, Channel, EdgeDenial, EdgeVerdict, Member, Members, Peer, PeerKey,
    Unadmitted,
};
use crate::ids::{ChannelKey, ConnAddr, ShardId};
use crate::session::{Answer, DirectMessage, EdgeRequest, peer_key_of};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Envelope, ReplyTo};
use crate::shard::home::NotTaken;

/// A change of a member that matters to those who decide.
struct Moved {
    kind: ChangeKind,
    key: PeerKey,
    is_asking: bool,
}

/// The admissions of one channel while they are brought up to date.
struct Edges<'a> {
    channel: &'a Arc<ChannelKey>,
    members: &'a Members,
    /// The connections of each peer.
    connections: HashMap<PeerKey, Vec<&'a Member>>,
    admissions: Admissions,
    /// Peers whose lists have changed.
    changed: Vec<PeerKey>,
    to_send: Vec<(ShardId, Envelope)>,
}

impl Owner {
    /// Brings the admissions of a channel up to date with the changes of its members that are about
    /// to be routed.
    pub(super) fn settle_edges(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = self.entry(slot);
        let key = Arc::clone(&channel.key);
        let Some(moved) = moved(&key.app, &channel.presence) else { return };
        let graph = channel.presence.members_mut().graph_mut(cx.now);
        let admissions = std::mem::take(&mut graph.admissions);
        let members = channel.presence.members();
        let mut edges = Edges::new(&key, members, admissions);
        moved.iter().for_each(|moved| edges.settle(moved));
        let Edges { admissions, changed, to_send, connections, .. } = edges;
        let shown = changed.iter().filter_map(|key| Some(connections.get(key)?.first()?.addr));
        let shown: Vec<ConnAddr> = shown.collect();
        channel.presence.members_mut().graph_mut(cx.now).admissions = admissions;
        shown.into_iter().for_each(|addr| channel.record_peer_change(addr));
        to_send.into_iter().for_each(|(to, envelope)| cx.outbox.send(to, envelope));
    }

    /// A peer has decided about another one.
    pub(super) fn take_verdict(
        &mut self,
        key: &ChannelKey,
        addr: ConnAddr,
        about: PeerKey,
        verdict: EdgeVerdict,
    ) {
        let Some(slot) = self.channels.find_key(key) else { return };
        let channel = self.entry(slot);
        let members = channel.presence.members_mut();
        let asker = members.find(addr).and_then(|m| m.state.peer()).map(|peer| peer.key);
        let lists = members.graph.as_mut().zip(asker);
        let list = lists.and_then(|(graph, asker)| graph.admissions.get_mut(&asker));
        let Some(list) = list else { return };
        // A verdict that is known is no change: it would be asked for again, and so on.
        match (list.get_mut(&about), verdict) {
            (None, _) => return,
            (Some(_), EdgeVerdict::Allowed) => drop(list.remove(&about)),
            (Some(Some(known)), EdgeVerdict::Denied(denial)) if *known == denial => return,
            (Some(known), EdgeVerdict::Denied(denial)) => *known = Some(denial),
        }
        channel.record_peer_change(addr);
        self.mark_dirty(slot);
    }

    /// Hands a direct message to a member that is connected to its author.
    pub(super) fn send_direct(
        &mut self,
        cx: &mut ShardContext,
        key: &Arc<ChannelKey>,
        from: ShardId,
        reply_to: ReplyTo,
        message: Arc<DirectMessage>,
    ) {
        let ReplyTo::Session { conn, request } = reply_to else { return };
        let from_addr = ConnAddr { shard: from, conn };
        match self.recipient(key, from_addr, &message) {
            Ok(ConnAddr { shard, conn }) => {
                let (channel, from) = (Arc::clone(key), from_addr);
                cx.outbox.send(shard, Envelope::Direct { conn, channel, from, request, message });
            }
            Err(answer) => send_answer(cx, from, reply_to, key, answer),
        }
    }

    fn recipient(
        &mut self,
        key: &ChannelKey,
        author: ConnAddr,
        message: &DirectMessage,
    ) -> Result<ConnAddr, Answer> {
        let slot = self.channels.find_key(key).ok_or_else(|| NotTaken::NotInChannel.answer())?;
        let members = self.entry(slot).presence.members();
        let is_recipient = |m: &&Member| m.state.peer().is_some_and(|peer| peer.key == message.to);
        let mut recipients = members.iter().filter(is_recipient).peekable();
        if members.find(author).is_none() || recipients.peek().is_none() {
            return Err(NotTaken::NotInChannel.answer());
        }
        for (asker, about) in [(&message.to, &message.from), (&message.from, &message.to)] {
            if let Some(denial) = members.unadmitted_by(asker).and_then(|list| list.get(about)) {
                return Err(denied(denial.clone()));
            }
        }
        let connected = recipients.find(|member| member.grace_until.is_none());
        connected.map(|member| member.addr).ok_or_else(|| NotTaken::Gone.answer())
    }
}

impl<'a> Edges<'a> {
    fn new(channel: &'a Arc<ChannelKey>, members: &'a Members, admissions: Admissions) -> Self {
        let mut connections = HashMap::<PeerKey, Vec<&Member>>::new();
        for member in members.iter() {
            connections.entry(key_of(&channel.app, member)).or_default().push(member);
        }
        let (changed, to_send) = (Vec::new(), Vec::new());
        Edges { channel, members, connections, admissions, changed, to_send }
    }

    fn settle(&mut self, moved: &Moved) {
        let connections = self.connections.get(&moved.key).map_or(0, Vec::len);
        match moved.kind {
            ChangeKind::Leave if connections == 0 => self.remove(&moved.key),
            ChangeKind::Leave => {}
            _ if !moved.is_asking => {
                if self.admissions.remove(&moved.key).is_some() {
                    self.changed.push(moved.key);
                }
                self.add(moved, connections);
            }
            kind => {
                if !self.admissions.contains_key(&moved.key) {
                    // Whom it has met before it began to decide, it has admitted.
                    let is_new = kind == ChangeKind::Enter;
                    let others = if is_new { self.others(&moved.key) } else { Unadmitted::new() };
                    self.admissions.insert(moved.key, others);
                    self.changed.push(moved.key);
                }
                self.add(moved, connections);
                let list = self.admissions.get(&moved.key);
                let about: Vec<PeerKey> = list.into_iter().flatten().map(|(key, _)| *key).collect();
                about.into_iter().for_each(|key| self.ask(&moved.key, key));
            }
        }
    }

    /// Everyone in the channel but this peer, not admitted.
    fn others(&self, own: &PeerKey) -> Unadmitted {
        let others = self.connections.keys().filter(|key| *key != own);
        others.map(|key| (*key, None)).collect()
    }

    /// Those who decide are asked about a peer: a new one is not admitted until they have.
    fn add(&mut self, moved: &Moved, connections: usize) {
        let is_new = moved.kind == ChangeKind::Enter && connections == 1;
        let mut askers = Vec::new();
        for (asker, list) in self.admissions.iter_mut().filter(|(asker, _)| **asker != moved.key) {
            if is_new && !list.contains_key(&moved.key) {
                list.insert(moved.key, None);
                self.changed.push(*asker);
                askers.push(*asker);
            }
        }
        askers.into_iter().for_each(|asker| self.ask(&asker, moved.key));
    }

    /// The last connection of a peer has left.
    fn remove(&mut self, key: &PeerKey) {
        self.admissions.remove(key);
        let lists = self.admissions.iter_mut();
        let askers = lists.filter_map(|(asker, list)| list.remove(key).map(|_| *asker));
        self.changed.extend(askers);
        for asker in self.admissions.keys() {
            let connections = self.connections.get(asker).into_iter().flatten();
            for addr in connections.filter(|member| is_asking(member)).map(|member| member.addr) {
                let channel = Arc::clone(self.channel);
                let unwanted = Envelope::EdgeUnwanted { conn: addr.conn, channel, key: *key };
                self.to_send.push((addr.shard, unwanted));
            }
        }
    }

    /// Asks the client of a peer about another one, also if it has been asked: it may have returned
    /// on another connection. Its home knows what it has asked.
    fn ask(&mut self, asker: &PeerKey, key: PeerKey) {
        let mut connections = self.connections.get(asker).into_iter().flatten();
        let Some(asker) = connections.find(|member| is_asking(member)) else { return };
        let about = self.connections.get(&key).and_then(|members| members.first());
        let Some(about) = about.and_then(|member| self.members.find(member.addr)) else { return };
        let about = EdgeRequest {
            channel: Arc::clone(self.channel),
            key,
            peer: about.state.peer().cloned(),
            identity: Arc::clone(&about.identity),
        };
        let ConnAddr { shard, conn } = asker.addr;
        self.to_send.push((shard, Envelope::EdgeWanted { conn, about: Box::new(about) }));
    }
}

/// The changes of a channel in which a peer decides; `None` for any other channel.
fn moved(app: &str, channel: &Channel) -> Option<Vec<Moved>> {
    let asks = |peer: Option<&Arc<Peer>>| peer.is_some_and(|peer| peer.asks.is_some());
    let graph = channel.members().graph.as_ref();
    let is_decided = graph.is_some_and(|graph| !graph.admissions.is_empty())
        || channel.changes().any(|change| asks(change.state.peer()));
    let moved = channel.changes().map(|change| Moved {
        kind: change.kind,
        key: peer_key_of(app, &change.identity, change.state.peer().map(Arc::as_ref)),
        is_asking: asks(change.state.peer()),
    });
    is_decided.then(|| moved.collect())
}

fn denied(denial: Option<EdgeDenial>) -> Answer {
    let undecided = || EdgeDenial { reason: "not decided yet".into(), until_ms: 0 };
    Answer::NotTaken { denial: Some(denial.unwrap_or_else(undecided)), why: "" }
}

/// Whether its client is connected, and decides.
fn is_asking(member: &Member) -> bool {
    let asks = member.state.peer().is_some_and(|peer| peer.asks.is_some());
    asks && member.grace_until.is_none()
}

fn key_of(app: &str, member: &Member) -> PeerKey {
    peer_key_of(app, &member.identity, member.state.peer().map(Arc::as_ref))
}
