//! Who among the members of a channel may connect to whom: the peers that decide are asked about
//! those that come, and everyone who looks at the presence graph sees whom they have not admitted.
//! Direct messages between members that are connected.

use std::sync::Arc;

use super::{Owner, send_answer};
use crate::channel::{Admissions, ChangeKind, Member, PEER_KEY_BYTES, Peer, Unadmitted, Verdict};
use crate::ids::{ChannelKey, ConnAddr, ShardId};
use crate::session::{Answer, DirectMessage, EdgeRequest, peer_key_of};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Envelope, ReplyTo};
use crate::shard::home::NotTaken;

type PeerKey = [u8; PEER_KEY_BYTES];

/// A change of a member that matters to those who decide.
struct Moved {
    kind: ChangeKind,
    key: PeerKey,
    asks: bool,
}

impl Owner {
    /// Brings the admissions of a channel up to date with the changes of its members that are about
    /// to be routed.
    pub(super) fn settle_edges(&mut self, cx: &mut ShardContext, slot: u32) {
        let channel = &mut self.entry(slot).presence;
        let is_asking = |peer: Option<&Arc<Peer>>| peer.is_some_and(|peer| peer.asks.is_some());
        if channel.members().admissions.is_none()
            && !channel.changes().any(|change| is_asking(change.state.peer()))
        {
            return;
        }
        let app = Arc::clone(&self.entry(slot).key.app);
        let channel = &mut self.entry(slot).presence;
        let moved: Vec<Moved> = channel
            .changes()
            .map(|change| Moved {
                kind: change.kind,
                key: change
                    .state
                    .peer()
                    .map_or_else(|| peer_key_of(&app, &change.identity), |peer| peer.key),
                asks: is_asking(change.state.peer()),
            })
            .collect();
        for moved in &moved {
            self.settle_edges_of(cx, slot, &app, moved);
        }
        let admissions = &mut self.entry(slot).presence.members_mut().admissions;
        if admissions.as_ref().is_some_and(|admissions| admissions.is_empty()) {
            *admissions = None;
        }
    }

    fn settle_edges_of(&mut self, cx: &mut ShardContext, slot: u32, app: &str, moved: &Moved) {
        let presence = &mut self.entry(slot).presence;
        let connections = presence.members().iter().filter(|m| key_of(app, m) == moved.key).count();
        let admissions: &mut Admissions = presence.members_mut().admissions.get_or_insert_default();
        match moved.kind {
            ChangeKind::Leave if connections == 0 => {
                admissions.remove(&moved.key);
                let mut askers = Vec::new();
                for (asker, list) in admissions.iter_mut() {
                    list.retain(|unadmitted| unadmitted.key != moved.key);
                    askers.push(*asker);
                }
                for asker in askers {
                    self.send_unwanted(cx, slot, app, &asker, moved.key);
                }
            }
            ChangeKind::Leave => {}
            _ if !moved.asks && admissions.remove(&moved.key).is_some() => {
                self.show_asker(slot, app, &moved.key);
            }
            kind => {
                if moved.asks && !admissions.contains_key(&moved.key) {
                    let others = match kind {
                        ChangeKind::Enter => self.others_in(slot, app, &moved.key),
                        // Whom it has met before it began to decide, it has admitted.
                        _ => Vec::new(),
                    };
                    self.admissions(slot).insert(moved.key, others);
                    self.show_asker(slot, app, &moved.key);
                }
                if kind == ChangeKind::Enter && connections == 1 {
                    self.add_to_others(slot, app, &moved.key);
                }
                self.ask_about_unadmitted(cx, slot, app, moved);
            }
        }
    }

    /// Everyone in the channel but this peer, not admitted.
    fn others_in(&mut self, slot: u32, app: &str, own: &PeerKey) -> Vec<Unadmitted> {
        let members = self.entry(slot).presence.members();
        let mut others: Vec<PeerKey> =
            members.iter().map(|m| key_of(app, m)).filter(|key| key != own).collect();
        others.sort_unstable();
        others.dedup();
        others.into_iter().map(|key| Unadmitted { key, denial: None }).collect()
    }

    /// A new peer is not admitted by those who decide.
    fn add_to_others(&mut self, slot: u32, app: &str, key: &PeerKey) {
        let mut askers = Vec::new();
        for (asker, list) in self.admissions(slot).iter_mut() {
            if asker != key && !list.iter().any(|unadmitted| unadmitted.key == *key) {
                list.push(Unadmitted { key: *key, denial: None });
                askers.push(*asker);
            }
        }
        for asker in askers {
            self.show_asker(slot, app, &asker);
        }
    }

    /// Asks again about whoever is not admitted: the client that was asked may have returned on
    /// another connection. Its home knows what it has asked already.
    fn ask_about_unadmitted(&mut self, cx: &mut ShardContext, slot: u32, app: &str, moved: &Moved) {
        let mut wanted = Vec::new();
        for (asker, list) in self.admissions(slot).iter() {
            let about = list.iter().map(|unadmitted| unadmitted.key);
            let about = about.filter(|key| *asker == moved.key || *key == moved.key);
            wanted.extend(about.map(|key| (*asker, key)));
        }
        for (asker, key) in wanted {
            self.send_wanted(cx, slot, app, &asker, key);
        }
    }

    fn send_wanted(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        app: &str,
        asker: &PeerKey,
        key: PeerKey,
    ) {
        let channel = self.entry(slot);
        let members = channel.presence.members();
        let Some(addr) = members.iter().find(|m| is_asking(m, asker)).map(|m| m.addr) else {
            return;
        };
        let Some(about) = members.iter().find(|m| key_of(app, m) == key) else { return };
        let about = EdgeRequest {
            channel: Arc::clone(&channel.key),
            key,
            peer: about.state.peer().cloned(),
            identity: Arc::clone(&about.identity),
        };
        let wanted = Envelope::EdgeWanted { conn: addr.conn, about: Box::new(about) };
        cx.outbox.send(addr.shard, wanted);
    }

    fn send_unwanted(
        &mut self,
        cx: &mut ShardContext,
        slot: u32,
        app: &str,
        asker: &PeerKey,
        key: PeerKey,
    ) {
        self.show_asker(slot, app, asker);
        let channel = self.entry(slot);
        let askers = channel.presence.members().iter().filter(|m| is_asking(m, asker));
        for addr in askers.map(|m| m.addr).collect::<Vec<_>>() {
            let channel = Arc::clone(&self.entry(slot).key);
            let unwanted = Envelope::EdgeUnwanted { conn: addr.conn, channel, key };
            cx.outbox.send(addr.shard, unwanted);
        }
    }

    /// Everyone who looks at the graph is sent whom this peer has not admitted.
    fn show_asker(&mut self, slot: u32, app: &str, asker: &PeerKey) {
        let channel = self.entry(slot);
        let members = channel.presence.members();
        let shown = members.iter().find(|m| key_of(app, m) == *asker).map(|m| m.addr);
        if let Some(addr) = shown {
            channel.record_peer_change(addr);
        }
    }

    /// A peer has decided about another one.
    pub(super) fn take_verdict(
        &mut self,
        key: &ChannelKey,
        addr: ConnAddr,
        about: PeerKey,
        verdict: Verdict,
    ) {
        let Some(slot) = self.channels.find_key(key) else { return };
        let channel = self.entry(slot);
        let members = channel.presence.members();
        let asker = members.find(addr).and_then(|m| m.state.peer()).map(|peer| peer.key);
        let Some(asker) = asker else { return };
        let members = channel.presence.members_mut();
        let list = members.admissions.as_mut().and_then(|all| all.get_mut(&asker));
        let Some(list) = list else { return };
        // A verdict that is known is no change: it would be asked for again, and so on.
        let Some(at) = list.iter().position(|unadmitted| unadmitted.key == about) else { return };
        match verdict {
            Verdict::Allowed => drop(list.remove(at)),
            Verdict::Denied(denial) if list[at].denial.as_ref() == Some(&denial) => return,
            Verdict::Denied(denial) => list[at].denial = Some(denial),
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
        let author = ConnAddr { shard: from, conn };
        match self.recipient(key, author, &message) {
            Ok(to) => {
                let channel = Arc::clone(key);
                let direct =
                    Envelope::Direct { conn: to.conn, channel, from: author, request, message };
                cx.outbox.send(to.shard, direct);
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
            let list = members.unadmitted_by(asker);
            if let Some(unadmitted) = list.iter().find(|unadmitted| unadmitted.key == *about) {
                return Err(denied(unadmitted));
            }
        }
        let connected = recipients.find(|member| member.grace_until.is_none());
        connected.map(|member| member.addr).ok_or_else(|| NotTaken::Gone.answer())
    }

    fn admissions(&mut self, slot: u32) -> &mut Admissions {
        self.entry(slot).presence.members_mut().admissions.get_or_insert_default()
    }
}

fn denied(unadmitted: &Unadmitted) -> Answer {
    let undecided = || crate::channel::Denial { reason: "not decided yet".into(), until_ms: 0 };
    let denial = unadmitted.denial.clone().unwrap_or_else(undecided);
    Answer::NotTaken { denial: Some(denial), why: "" }
}

fn is_asking(member: &Member, asker: &PeerKey) -> bool {
    let is_this = |peer: &&Arc<Peer>| peer.key == *asker && peer.asks.is_some();
    member.grace_until.is_none() && member.state.peer().filter(is_this).is_some()
}

fn key_of(app: &str, member: &Member) -> PeerKey {
    match member.state.peer() {
        Some(peer) => peer.key,
        None => peer_key_of(app, &member.identity),
    }
}
