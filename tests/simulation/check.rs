//! What must hold: for everything a client hears, and when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use headcount::session::message_pack_state;
use headcount::shard::Listener;
use headcount::wire::sync::Layout;
use headcount::wire::websocket::Opcode;

use super::profile::{APPS, CHANNELS, token};
use super::run::{Owed, Run, View};
use super::wire::{Carrier, Heard, PeerSeen, Wire};
use super::world::Place;

/// Whose state this is, as its text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Author<'t> {
    app: &'t str,
    client: usize,
    channel: &'t str,
    seq: u64,
}

fn author(state: &str) -> Author<'_> {
    let mut parts = state.split('/');
    let mut next = || parts.next().expect("a state of the simulation");
    let (app, client, channel, seq) = (next(), next(), next(), next());
    let (client, seq) = (client.parse().expect("a client"), seq.parse().expect("a number"));
    Author { app, client, channel, seq }
}

fn text(peer: &PeerSeen) -> &str {
    std::str::from_utf8(&peer.state).expect("a state of the simulation")
}

impl Run {
    pub fn hear(&mut self, id: usize, made_after: u64, heard: Heard) {
        if self.world.trace {
            eprintln!("  client {id} hears {heard:?} (made after {made_after})");
        }
        match heard {
            Heard::Switched | Heard::Close(_) => {}
            Heard::HttpError(head) if head.starts_with("HTTP/1.1 408 ") => {}
            Heard::WebSocketPing(body) => {
                self.answer(id, |wire| wire.websocket(Opcode::Pong, &body))
            }
            Heard::Ping(stamp) => self.answer(id, |wire| wire.pong(stamp)),
            Heard::Ack { success, session } => {
                self.pay(id, Owed::Ack { success });
                self.name(id, &session);
            }
            Heard::Pong(stamp) => self.pay(id, Owed::Pong(stamp)),
            Heard::RefreshAck { success } => self.pay(id, Owed::RefreshAck { success }),
            Heard::Set { channel, peers } => self.hear_set(id, made_after, &channel, &peers),
            Heard::Left { channel, user } => self.hear_leave(id, made_after, &channel, &user),
            Heard::HttpError(_) | Heard::WebSocketPong(_) | Heard::Other(_) => {
                panic!("client {id} hears {heard:?}")
            }
        }
    }

    fn pay(&mut self, id: usize, answer: Owed) {
        let Some(conn) = &mut self.clients[id].conn else { return };
        assert_eq!(conn.owed.pop_front(), Some(answer), "answers to client {id} out of order");
        conn.acked = true;
    }

    /// An anonymous client may go by the name of any session it had.
    fn name(&mut self, id: usize, session: &str) {
        let client = &mut self.clients[id];
        if client.is_anonymous() {
            client.names.insert(format!("anonymous-{}", &session[..8]));
        }
    }

    fn hear_set(&mut self, id: usize, made_after: u64, channel: &str, peers: &[PeerSeen]) {
        self.check_peers(id, channel, peers);
        let present: BTreeSet<usize> = peers.iter().map(|peer| author(text(peer)).client).collect();
        for member in self.clients.iter().filter(|c| c.app == self.clients[id].app) {
            let certain = member.memberships.is_certain(channel, made_after);
            assert!(
                !certain || present.contains(&member.id),
                "false leave: client {id} is shown {channel} without live client {}",
                member.id
            );
        }
        self.check_sole_update(id, channel, peers);
        self.clients[id].memberships.shown(channel, made_after);
        if self.clients[id].memberships.is_watched(channel) {
            let view = self.clients[id].views.entry(channel.to_owned()).or_default();
            view.clear();
            for peer in peers {
                view.entry(peer.user.clone()).or_default().push(text(peer).to_owned());
            }
        }
    }

    fn check_peers(&self, id: usize, channel: &str, peers: &[PeerSeen]) {
        let (app, now_ms) = (self.clients[id].app, self.world.now.mono_ms);
        for peer in peers {
            let author = author(text(peer));
            assert_eq!(
                (author.app, author.channel),
                (app, channel),
                "client {id} is shown {peer:?}"
            );
            self.check_name(author.client, &peer.user);
            let most_ms = now_ms - self.sent_ms[text(peer)];
            assert!(peer.age_ms <= most_ms, "{peer:?} was sent only {most_ms} ms ago");
        }
    }

    /// Which sessions an anonymous client had it may never have learnt.
    fn check_name(&self, id: usize, user: &str) {
        let client = &self.clients[id];
        let known = client.names.contains(user);
        let unknown = client.is_anonymous() && user.starts_with("anonymous-");
        assert!(known || unknown, "{user} is no name of client {id}: {:?}", client.names);
    }

    /// In a calm run, whoever alone caused a broadcast does not receive it.
    fn check_sole_update(&mut self, id: usize, channel: &str, peers: &[PeerSeen]) {
        let first = self.clients[id].connections == 1;
        if !first || !self.profile.calm || !self.clients[id].memberships.is_watched(channel) {
            return;
        }
        let own = peers.iter().map(text).filter(|state| author(state).client == id);
        let own = own.max_by_key(|state| author(state).seq).map(str::to_owned);
        let others = peers.iter().map(|peer| text(peer).to_owned());
        let others: Vec<String> = others.filter(|state| Some(state) != own.as_ref()).collect();
        let now = (others, own);
        let last = self.clients[id].last_set.insert(channel.to_owned(), now.clone());
        if let Some(last) = last {
            // A member that fell silent may have expired and entered again with the same state.
            let app = self.clients[id].app;
            let mut members = self.clients.iter().filter(|client| client.app == app);
            let excused = members.any(|client| client.memberships.is_expirable(channel));
            let excused = excused || last.0 != now.0;
            let sole = !excused && last.1.is_some() && last.1 != now.1;
            assert!(!sole, "client {id} is shown its own update of {channel}: {now:?}");
        }
    }

    fn hear_leave(&mut self, id: usize, made_after: u64, channel: &str, user: &str) {
        for member in self.clients.iter().filter(|c| c.app == self.clients[id].app) {
            let named = member.user.as_deref() == Some(user);
            assert!(
                !(named && member.memberships.is_certain(channel, made_after)),
                "false leave: client {id} is told that {user} left {channel}, but client {} lives",
                member.id
            );
        }
        if let Some(view) = self.clients[id].views.get_mut(channel) {
            view.remove(user);
        }
        // Whoever left may come back with the same state.
        self.clients[id].last_set.remove(channel);
    }

    /// Nothing is under way, and everybody who is not there has been forgotten.
    pub fn check_rest(&mut self) {
        let mut members = 0;
        for app in APPS {
            for channel in CHANNELS {
                members += self.check_channel(app, channel);
            }
        }
        let total = self.world.total();
        assert_eq!(total.members, members, "the gauge of members");
        assert_eq!(total.subscriptions, members, "the gauge of subscriptions");
        self.check_answers();
    }

    fn check_channel(&mut self, app: &str, channel: &str) -> u64 {
        let expected = self.expected(app, channel);
        let shown = self.world.members(app, channel);
        let mut owned = BTreeMap::new();
        for member in &shown {
            let state =
                std::str::from_utf8(message_pack_state(&member.state)).expect("a state").to_owned();
            assert!(!member.lingering, "a ghost lingers in {app} {channel}: {state}");
            self.check_name(author(&state).client, &member.identity.user);
            let user = &self.clients[author(&state).client].user;
            let is_its = user.as_ref().is_none_or(|user| **user == *member.identity.user);
            assert!(is_its, "client {} is {user:?} now: {member:?}", author(&state).client);
            assert!(
                owned.insert(state, member.identity.user.to_string()).is_none(),
                "{member:?} twice"
            );
        }
        let found: BTreeSet<(usize, u64)> =
            owned.keys().map(|state| (author(state).client, author(state).seq)).collect();
        match self.profile.members_max {
            None => assert_eq!(
                found, expected,
                "owner's set (left) and live members (right): {app} {channel}"
            ),
            Some(most) => self.check_full(&found, &expected, most),
        }
        for (client, _) in found {
            self.check_view(client, channel, &owned);
        }
        shown.len() as u64
    }

    /// As many as the channel takes of those who want to be members.
    fn check_full(
        &self,
        found: &BTreeSet<(usize, u64)>,
        expected: &BTreeSet<(usize, u64)>,
        most: usize,
    ) {
        assert!(found.is_subset(expected), "members {found:?}, of {expected:?}");
        // Everybody has said so once more, unless updates are limited by their rate.
        let is_full = found.len() == most.min(expected.len());
        let is_open = self.profile.rate_ms > 0 && found.len() <= most;
        assert!(is_full || is_open, "{most} of {expected:?} are to be members: {found:?}");
    }

    /// A connection moves to the owner of its first channel, unless that has enough subscribers of
    /// the channel. Between half of enough and enough it depends on what was before.
    pub fn check_placement(&mut self) {
        for app in APPS {
            for channel in CHANNELS {
                self.check_placement_of(app, channel);
            }
        }
    }

    fn check_placement_of(&mut self, app: &str, channel: &str) {
        let key = self.world.settings.router.key(&app.into(), channel);
        let owner = self.world.settings.router.shard_of(key.hash);
        let enough = self.world.settings.limits.home_subscribers_max as usize;
        let members = self.world.members(app, channel);
        let local = members.iter().filter(|member| member.addr.shard == owner).count();
        let start = (owner.index() + 1) % self.world.count();
        if start == owner.index() || (enough / 2 + 1..=enough).contains(&local) {
            return;
        }
        let Some(socket) = self.world.open(start, Listener::SyncTcp) else { return };
        let mut wire = Wire::new(Carrier::Tcp, Layout::V0_6);
        let token = token(app, "guest", self.world.now.wall_ms, 86_400_000);
        let mut bytes = wire.handshake(&token, "");
        bytes.extend(wire.update(channel, b"guest"));
        self.world.send(socket, &bytes);
        self.world.settle();
        let Place::On(shard, _) = self.world.sockets[socket].place else {
            panic!("the guest of {channel} was closed")
        };
        let expected = if local > enough { start } else { owner.index() };
        assert_eq!(shard, expected, "{channel}: {local} subscribers on {owner:?}, {enough} enough");
    }

    fn expected(&self, app: &str, channel: &str) -> BTreeSet<(usize, u64)> {
        let members = self.clients.iter().filter(|client| {
            client.app == app && client.conn.is_some() && client.memberships.is_expected(channel)
        });
        members.map(|c| (c.id, c.memberships.by_channel[channel].seq)).collect()
    }

    /// The replayed view of one member shows all others with their newest states.
    fn check_view(&self, id: usize, channel: &str, owned: &BTreeMap<String, String>) {
        let view = self.clients[id].views.get(channel).cloned().unwrap_or_default();
        let is_other = |state: &str| author(state).client != id;
        let mut expected = View::new();
        for (state, user) in owned.iter().filter(|(state, _)| is_other(state)) {
            expected.entry(user.clone()).or_default().push(state.clone());
        }
        let mut replayed = View::new();
        for (user, states) in view {
            // A first state that had to wait replaces a lost session of the same user, which its
            // sender was shown meanwhile; like any sole update it is not echoed.
            if !expected.contains_key(&user) && self.clients[id].names.contains(&user) {
                continue;
            }
            let mut states: Vec<String> = states.into_iter().filter(|s| is_other(s)).collect();
            states.sort();
            if !states.is_empty() {
                replayed.insert(user, states);
            }
        }
        let withheld = self.world.settings.policies.rule_for(channel).is_none();
        let expirable = self.clients[id].memberships.is_expirable(channel);
        let unseen = match withheld {
            true => replayed.is_empty() || expirable,
            false => expected.is_empty() && expirable,
        };
        assert!(
            unseen || replayed == expected,
            "the view of client {id} of {channel} is\n  {replayed:?} instead of\n  {expected:?}"
        );
    }

    fn check_answers(&self) {
        for client in &self.clients {
            let owed = client.conn.as_ref().map(|conn| conn.owed.len());
            assert_eq!(owed.unwrap_or(0), 0, "client {} was not answered: {client:?}", client.id);
        }
    }

    /// Everybody has gone: so has every trace of them.
    pub fn check_emptiness(&mut self) {
        let total = self.world.total();
        assert_eq!(total.members, 0, "members");
        assert_eq!(total.subscriptions, 0, "subscriptions");
        assert_eq!(total.channels, 0, "owned channels");
        assert_eq!(total.connections, 0, "connections");
        assert_eq!(total.handed_off, total.adopted + self.at_edge(), "hand-offs");
        for shard in &self.world.shards {
            assert_eq!(shard.lost_member_count(), 0, "lost members");
            assert_eq!(shard.home_channel_count(), 0, "channels with subscribers");
            assert_eq!(shard.registered_session_count(), 0, "sessions in the registry");
        }
    }

    fn at_edge(&self) -> u64 {
        let at_edge = |s: &&super::world::Socket| s.place == super::world::Place::AtEdge;
        self.world.sockets.iter().filter(at_edge).count() as u64
    }
}
