//! Rare cases of random runs, one scene each: handoff, resume, overload, timeouts, refusals.

mod fake_sockets;
#[path = "simulation/mod.rs"]
mod simulation;

use headcount::limits::Limits;
use headcount::policy::{Heartbeat, Policies, Policy};
use headcount::session::message_pack_state;
use headcount::shard::Listener;
use headcount::wire::sync::Layout;
use headcount::wire::websocket::{Opcode, close_body};
use simulation::profile::{settings, token};
use simulation::wire::{Carrier, Heard, Wire};
use simulation::world::{Ending, Place, World};

const APP: &str = "alpha";
const DAY_MS: u64 = 86_400_000;

/// A server and the clients of one scene.
struct Scene {
    world: World,
    peers: Vec<Peer>,
}

struct Peer {
    wire: Wire,
    socket: usize,
}

/// A client of a scene.
type Who = usize;

impl Scene {
    fn new(shards: u16, limits: Limits) -> Self {
        Scene::with_policy(shards, limits, Policy::default())
    }

    fn with_policy(shards: u16, limits: Limits, policy: Policy) -> Self {
        let policies = Policies { rules: Vec::new(), default: policy.into() };
        Scene { world: World::new(settings(shards, 7, limits, policies), 7), peers: Vec::new() }
    }

    /// A channel that this shard owns.
    fn channel_on(&self, shard: usize) -> String {
        self.channels_on(shard, 1).remove(0)
    }

    fn channels_on(&self, shard: usize, count: usize) -> Vec<String> {
        let router = &self.world.settings.router;
        let owner = |name: &str| router.shard_of(router.hash(APP, name)).index();
        let names = (0..).map(|i| format!("room:{i}"));
        names.filter(|name| owner(name) == shard).take(count).collect()
    }

    fn accept(&mut self, shard: usize, carrier: Carrier, target: &str) -> Who {
        self.accept_layout(shard, carrier, Layout::V0_6, target)
    }

    fn accept_layout(
        &mut self,
        shard: usize,
        carrier: Carrier,
        layout: Layout,
        target: &str,
    ) -> Who {
        let listener = match carrier {
            Carrier::WebSocket => Listener::Http,
            Carrier::Tcp => Listener::SyncTcp,
        };
        let socket = self.world.open(shard, listener).expect("room for a connection");
        let wire = Wire::new(carrier, layout);
        self.world.send(socket, &wire.opening(target));
        self.peers.push(Peer { wire, socket });
        self.peers.len() - 1
    }

    /// A greeted client; anonymous when `user` is empty.
    fn join(&mut self, shard: usize, carrier: Carrier, user: &str, lite_id: &str) -> Who {
        let who = self.accept(shard, carrier, "/");
        self.greet(who, user, lite_id);
        self.settle();
        who
    }

    fn greet(&mut self, who: Who, user: &str, lite_id: &str) {
        let token = match user {
            "" => String::new(),
            user => token(APP, user, self.world.now.wall_ms, DAY_MS),
        };
        self.say(who, |wire| wire.handshake(&token, lite_id));
    }

    fn say(&mut self, who: Who, message: impl FnOnce(&mut Wire) -> Vec<u8>) {
        let bytes = message(&mut self.peers[who].wire);
        self.world.send(self.peers[who].socket, &bytes);
    }

    fn update(&mut self, who: Who, channel: &str, state: &str) {
        self.say(who, |wire| wire.update(channel, state.as_bytes()));
    }

    fn settle(&mut self) {
        self.world.settle();
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.world.advance(50);
            self.settle();
        }
    }

    /// Time passes, and these clients answer the server's pings.
    fn wait_answering(&mut self, ms: u64, answering: &[Who]) {
        for _ in 0..ms / 500 {
            self.wait(500);
            for &who in answering {
                for heard in self.hear(who) {
                    match heard {
                        Heard::WebSocketPing(body) => {
                            self.say(who, |wire| wire.websocket(Opcode::Pong, &body));
                        }
                        Heard::Ping(stamp) => self.say(who, |wire| wire.pong(stamp)),
                        _ => {}
                    }
                }
            }
        }
        self.settle();
    }

    /// Turns of all shards, for scenes that never become idle.
    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            (0..self.world.count()).for_each(|shard| self.world.turn(shard));
        }
    }

    fn hear(&mut self, who: Who) -> Vec<Heard> {
        let Peer { wire, socket } = &mut self.peers[who];
        let bytes = std::mem::take(&mut self.world.sockets[*socket].outbound);
        wire.read(&bytes).into_iter().map(|(_, heard)| heard).collect()
    }

    /// The received sets, each as `user=state` in join order; `-user` for a member that left.
    fn presence(&mut self, who: Who) -> Vec<String> {
        self.hear(who).iter().filter_map(shown).collect()
    }

    fn end(&mut self, who: Who, ending: Ending) {
        let socket = self.peers[who].socket;
        self.world.sockets[socket].ending = Some(ending);
    }

    fn shard_of(&self, who: Who) -> Option<usize> {
        match self.world.sockets[self.peers[who].socket].place {
            Place::On(shard, _) => Some(shard),
            _ => None,
        }
    }

    /// `user=state` of each member, in join order.
    fn members(&mut self, channel: &str) -> Vec<String> {
        let members = self.world.members(APP, channel);
        let text = |state: &[u8]| String::from_utf8_lossy(state).into_owned();
        members
            .iter()
            .map(|m| format!("{}={}", m.identity.user, text(message_pack_state(&m.state))))
            .collect()
    }

    fn total(&self, gauge: impl Fn(&headcount::counters::Counters) -> u64) -> u64 {
        self.world.shards.iter().map(|shard| gauge(&shard.counters())).sum()
    }

    fn ignored(&self, label: &str) -> u64 {
        self.total(|counters| counters.ignored().find(|(l, _)| *l == label).expect("a label").1)
    }

    fn disconnects(&self, label: &str) -> u64 {
        self.total(|c| c.disconnects().find(|(l, _)| *l == label).expect("a label").1)
    }
}

fn shown(heard: &Heard) -> Option<String> {
    match heard {
        Heard::Set { peers, .. } => {
            let peer = |peer: &simulation::wire::PeerSeen| {
                format!("{}={}", peer.user, String::from_utf8_lossy(&peer.state))
            };
            Some(peers.iter().map(peer).collect::<Vec<_>>().join(" "))
        }
        Heard::Left { user, .. } => Some(format!("-{user}")),
        _ => None,
    }
}

fn closed(heard: &[Heard]) -> Option<u16> {
    heard.iter().find_map(|heard| match heard {
        Heard::Close(code) => *code,
        _ => None,
    })
}

#[test]
fn a_hand_off_carries_the_first_message_and_what_came_after_it() {
    for carrier in [Carrier::WebSocket, Carrier::Tcp] {
        let mut scene = Scene::new(2, Limits::default());
        let channel = scene.channel_on(1);
        let who = scene.join(0, carrier, "ann", "");
        let mut bytes = Vec::new();
        let wire = &mut scene.peers[who].wire;
        bytes.extend(wire.update(&channel, b"1"));
        bytes.extend(wire.ping(5));
        bytes.extend(wire.update(&channel, b"2"));
        let (whole, rest) = bytes.split_at(bytes.len() - 3);
        scene.world.send(scene.peers[who].socket, whole);
        scene.settle();
        assert_eq!(scene.shard_of(who), Some(1), "{carrier:?}");
        assert_eq!(scene.members(&channel), ["ann=1"]);
        assert!(scene.hear(who).contains(&Heard::Pong(5)));
        scene.world.send(scene.peers[who].socket, rest);
        scene.settle();
        assert_eq!(scene.members(&channel), ["ann=2"]);
        assert_eq!(scene.total(|c| c.messages_in), 4, "each message is counted once");
        let sent = scene.world.sockets[scene.peers[who].socket].delivered as u64;
        assert_eq!(scene.total(|c| c.bytes_in), sent, "each byte is counted once");
    }
}

#[test]
fn a_hint_in_the_url_moves_the_connection_before_it_is_answered() {
    let mut scene = Scene::new(2, Limits::default());
    let channel = scene.channel_on(1);
    let who = scene.accept(0, Carrier::WebSocket, &format!("/?channel={channel}"));
    scene.greet(who, "ann", "");
    scene.update(who, &channel, "1");
    scene.settle();
    assert_eq!(scene.shard_of(who), Some(1));
    assert_eq!(scene.members(&channel), ["ann=1"]);
    assert_eq!(scene.hear(who).first(), Some(&Heard::Switched));
}

#[test]
fn a_connection_stays_when_the_owner_has_no_room_for_it() {
    type Trouble = fn(&mut Scene, &str);
    let full: Trouble = |scene, _| scene.world.links[0][1].capacity = 0;
    let hot: Trouble = |scene, channel| {
        let local = scene.join(1, Carrier::Tcp, "bob", "");
        scene.update(local, channel, "b");
        scene.settle();
    };
    let loaded: Trouble = |scene, _| {
        for _ in 0..140 {
            scene.world.open(1, Listener::SyncTcp).expect("room");
        }
        scene.settle();
    };
    for (name, trouble) in [("full", full), ("hot", hot), ("loaded", loaded)] {
        let limits =
            Limits { home_subscribers_max: 0, home_overload_percent: 0, ..Limits::default() };
        let mut scene = Scene::new(2, limits);
        let channel = scene.channel_on(1);
        let who = scene.join(0, Carrier::WebSocket, "ann", "");
        trouble(&mut scene, &channel);
        scene.update(who, &channel, "1");
        scene.turns(5);
        assert_eq!(scene.shard_of(who), Some(0), "{name}");
        scene.world.links[0][1].capacity = 100;
        scene.settle();
        assert!(scene.members(&channel).contains(&"ann=1".to_owned()), "{name}");
    }
}

#[test]
fn a_connection_does_not_move_to_a_full_shard_or_is_closed_there_with_the_reason() {
    let limits = Limits { connections_per_shard_max: 1, ..Limits::default() };
    let mut scene = Scene::new(4, limits);
    let channel = scene.channel_on(3);
    let both = [0, 1].map(|shard| scene.join(shard, Carrier::WebSocket, "", ""));
    both.iter().for_each(|&who| scene.update(who, &channel, "1"));
    // Neither shard knows of the other's connection in transit.
    scene.turns(2);
    scene.settle();
    let mut codes = both.map(|who| closed(&scene.hear(who)));
    codes.sort_unstable();
    assert_eq!(codes, [None, Some(1013)]);
    assert_eq!(scene.disconnects("connection_limit"), 1);
    let late = scene.join(2, Carrier::WebSocket, "", "");
    scene.update(late, &channel, "2");
    scene.settle();
    assert_eq!(scene.shard_of(late), Some(2));
    let refused = |(what, count)| (what == ("connection", "limit")).then_some(count);
    assert_eq!(scene.total(|counters| counters.dropped().find_map(refused).expect("a label")), 1);
}

/// Fills a channel with a watcher and a second member, whose connection is then lost.
fn lose_second_member(scene: &mut Scene, channel: &str, shard: usize, user: &str) -> Lost {
    let watcher = scene.join(shard, Carrier::Tcp, "bob", "");
    scene.update(watcher, channel, "b");
    let first = scene.join(0, Carrier::WebSocket, user, "lite");
    scene.update(first, channel, "1");
    scene.settle();
    let before = scene.members(channel);
    scene.end(first, Ending::Reset);
    scene.settle();
    scene.presence(watcher);
    Lost { watcher, before }
}

struct Lost {
    watcher: Who,
    before: Vec<String>,
}

#[test]
fn a_session_resumes_on_another_shard_and_nobody_notices() {
    for user in ["ann", ""] {
        let mut scene = Scene::new(3, Limits::default());
        let channel = scene.channel_on(2);
        let Lost { watcher, before } = lose_second_member(&mut scene, &channel, 2, user);
        let second = scene.join(1, Carrier::Tcp, user, "lite");
        scene.wait(10_000);
        assert_eq!(scene.members(&channel), before, "the same names, states and order");
        assert_eq!(scene.presence(watcher), Vec::<String>::new());
        assert_eq!(scene.presence(second), [before.join(" ")]);
        scene.update(second, &channel, "2");
        scene.settle();
        assert_eq!(scene.members(&channel)[1], before[1].replace("=1", "=2"));
    }
}

#[test]
fn a_session_that_returns_and_updates_at_once_keeps_its_place_and_its_name() {
    for (user, shards) in [("ann", 8), ("", 8), ("", 1)] {
        let limits = Limits { members_per_channel_max: 2, ..Limits::default() };
        let mut scene = Scene::new(shards, limits);
        let channel = scene.channel_on(0);
        let Lost { watcher, before } = lose_second_member(&mut scene, &channel, 0, user);
        let second = scene.accept(0, Carrier::Tcp, "/");
        scene.greet(second, user, "lite");
        scene.update(second, &channel, "2");
        scene.wait(10_000);
        let after = [before[0].clone(), before[1].replace("=1", "=2")];
        assert_eq!(scene.members(&channel), after, "{shards} shards");
        assert_eq!(scene.presence(watcher), [after.join(" ")]);
        scene.end(second, Ending::Eof);
        scene.wait(10_000);
        assert_eq!(scene.members(&channel).len(), 1);
    }
}

#[test]
fn a_session_that_returns_asks_only_the_shards_where_it_lost_something() {
    let mut scene = Scene::new(32, Limits::default());
    let channels = [scene.channel_on(5), scene.channel_on(20)];
    let first = scene.join(0, Carrier::Tcp, "ann", "lite");
    channels.iter().for_each(|channel| scene.update(first, channel, "1"));
    scene.settle();
    scene.end(first, Ending::Reset);
    scene.settle();
    let before = scene.world.envelopes;
    scene.join(1, Carrier::Tcp, "ann", "lite");
    let members = channels.map(|channel| scene.members(&channel));
    assert_eq!(members, [["ann=1"], ["ann=1"]]);
    let sent = scene.world.envelopes - before;
    assert!(sent <= 16, "{sent} envelopes for two channels on 32 shards");
}

#[test]
fn a_session_that_returns_too_late_has_left() {
    let mut scene = Scene::new(2, Limits::default());
    let channel = scene.channel_on(0);
    let watcher = scene.join(0, Carrier::Tcp, "bob", "");
    scene.update(watcher, &channel, "b");
    let first = scene.join(1, Carrier::WebSocket, "ann", "lite");
    scene.update(first, &channel, "1");
    scene.settle();
    scene.end(first, Ending::Reset);
    scene.wait(6_000);
    assert_eq!(scene.presence(watcher), ["bob=b ann=1", "-ann"]);
    scene.join(1, Carrier::WebSocket, "ann", "lite");
    assert_eq!(scene.members(&channel), ["bob=b"]);
}

#[test]
fn a_channel_that_is_left_before_the_resume_is_over_stays_left() {
    let mut scene = Scene::new(2, Limits::default());
    let channel = scene.channel_on(1);
    let first = scene.join(0, Carrier::Tcp, "ann", "lite");
    scene.update(first, &channel, "1");
    scene.settle();
    scene.end(first, Ending::Reset);
    scene.settle();
    let second = scene.accept(0, Carrier::Tcp, "/");
    scene.greet(second, "ann", "lite");
    scene.say(second, |wire| wire.leave(&channel));
    scene.settle();
    assert_eq!(scene.members(&channel), Vec::<String>::new());
    assert_eq!(scene.total(|counters| counters.subscriptions), 0);
}

#[test]
fn whoever_greets_as_somebody_else_gets_nothing_of_the_earlier_session() {
    let mut scene = Scene::new(2, Limits::default());
    let (old, new) = (scene.channel_on(1), scene.channel_on(0));
    let first = scene.join(0, Carrier::Tcp, "ann", "lite");
    for channel in [&old, &new] {
        scene.update(first, channel, "1");
    }
    scene.settle();
    scene.end(first, Ending::Reset);
    scene.settle();
    let second = scene.accept(0, Carrier::Tcp, "/");
    scene.greet(second, "ann", "lite");
    scene.greet(second, "eve", "other");
    scene.update(second, &old, "e");
    scene.settle();
    scene.wait(8_000);
    assert_eq!(scene.members(&old), ["eve=e"]);
    assert_eq!(scene.members(&new), Vec::<String>::new());
    assert_eq!(scene.total(|counters| counters.members), 1);
    assert_eq!(scene.total(|counters| counters.subscriptions), 1);
}

#[test]
fn a_home_that_missed_ticks_is_repaid_with_the_set() {
    let mut scene = Scene::new(2, Limits { home_subscribers_max: 0, ..Limits::default() });
    let channel = scene.channel_on(1);
    let local = scene.join(1, Carrier::Tcp, "bob", "");
    scene.update(local, &channel, "0");
    scene.settle();
    let remote = scene.join(0, Carrier::Tcp, "ann", "");
    scene.update(remote, &channel, "a");
    scene.settle();
    assert_eq!(scene.shard_of(remote), Some(0));
    scene.presence(remote);
    scene.world.links[1][0].capacity = 0;
    for state in ["1", "2", "3"] {
        scene.update(local, &channel, state);
        scene.turns(2);
    }
    assert_eq!(scene.presence(remote), Vec::<String>::new());
    scene.world.links[1][0].capacity = 10;
    scene.settle();
    assert_eq!(scene.presence(remote), ["bob=3 ann=a"]);
    let missed = scene.total(|c| c.dropped().find(|(l, _)| l.0 == "event").expect("a label").1);
    assert_eq!(missed, 3);
}

#[test]
fn a_departure_is_told_to_all_homes_although_one_is_still_owed_a_large_set() {
    let policy = Policy { presence_interval_ms: 100, ..Policy::default() };
    let limits =
        Limits { home_subscribers_max: 0, presence_burst_bytes_max: 40, ..Limits::default() };
    let mut scene = Scene::with_policy(3, limits, policy);
    let channel = scene.channel_on(1);
    let users = [(1, "ann"), (0, "bob"), (2, "cat"), (1, "dan")];
    let [ann, bob, cat, dan] = users.map(|(shard, user)| {
        let who = scene.join(shard, Carrier::Tcp, user, "");
        scene.update(who, &channel, "1");
        scene.wait(200);
        who
    });
    scene.world.links[1][2].capacity = 0;
    scene.update(ann, &channel, "2");
    for _ in 0..20 {
        scene.world.advance(50);
        scene.turns(2);
    }
    [ann, bob, cat].iter().for_each(|&who| drop(scene.presence(who)));
    scene.say(dan, |wire| wire.leave(&channel));
    for _ in 0..20 {
        scene.world.advance(50);
        scene.turns(2);
    }
    assert_eq!(scene.presence(bob).last().map(String::as_str), Some("ann=2 bob=1 cat=1"));
    assert_eq!(scene.presence(cat), Vec::<String>::new());
    scene.world.links[1][2].capacity = 100;
    scene.wait(1_000);
    assert_eq!(scene.presence(cat), ["ann=2 bob=1 cat=1"]);
}

#[test]
fn a_home_that_asked_while_there_was_no_room_for_the_channel_is_told_when_there_is() {
    let limits = Limits { channels_per_shard_max: 1, ..Limits::default() };
    let mut scene = Scene::new(2, limits);
    let (lobby, channels) = (scene.channel_on(0), scene.channels_on(1, 2));
    let [other, channel] = [&channels[0], &channels[1]];
    let eve = scene.join(1, Carrier::Tcp, "eve", "");
    scene.update(eve, other, "e");
    // A member of a channel stays on its shard.
    let [ann, bob, cat] = ["ann", "bob", "cat"].map(|user| {
        let who = scene.join(0, Carrier::Tcp, user, "");
        scene.update(who, &lobby, "");
        who
    });
    scene.settle();
    scene.world.links[1][0].hold = true;
    scene.update(ann, channel, "a");
    scene.turns(3);
    scene.say(eve, |wire| wire.leave(other));
    scene.turns(3);
    scene.update(bob, channel, "b");
    scene.turns(3);
    scene.world.links[1][0].hold = false;
    scene.settle();
    assert_eq!(scene.members(channel), ["bob=b"]);
    [ann, bob].iter().for_each(|&who| drop(scene.presence(who)));
    scene.update(cat, channel, "c");
    scene.settle();
    assert_eq!(scene.presence(bob), ["bob=b cat=c"]);
    assert_eq!(scene.presence(ann), Vec::<String>::new());
}

#[test]
fn a_newcomer_is_shown_nothing_of_the_time_before_its_home_asked_for_its_feed() {
    let policy = Policy { snapshot_on_join: false, ..Policy::default() };
    let limits = Limits { home_subscribers_max: 0, ..Limits::default() };
    let mut scene = Scene::with_policy(3, limits, policy);
    let channel = scene.channel_on(1);
    let ann = scene.join(1, Carrier::Tcp, "ann", "");
    let bob = scene.accept_layout(2, Carrier::Tcp, Layout::V0_1, "/");
    let cat = scene.join(2, Carrier::Tcp, "cat", "");
    scene.greet(bob, "bob", "");
    for who in [ann, bob] {
        scene.update(who, &channel, "1");
        scene.settle();
    }
    for (from, to) in [(1, 2), (2, 1)] {
        scene.world.links[from][to].hold = true;
    }
    scene.update(ann, &channel, "2");
    scene.update(cat, &channel, "1");
    scene.turns(2);
    scene.say(ann, |wire| wire.leave(&channel));
    scene.turns(2);
    for (from, to) in [(1, 2), (2, 1)] {
        scene.world.links[from][to].hold = false;
    }
    scene.settle();
    assert_eq!(scene.presence(cat), Vec::<String>::new());
    assert_eq!(scene.presence(bob), ["ann=2 bob=1", "-ann", "bob=1 cat=1"]);
}

#[test]
fn a_slow_receiver_gets_one_newest_set_when_it_reads_again() {
    for home in [0, 1] {
        let mut scene = Scene::new(2, Limits { home_subscribers_max: 0, ..Limits::default() });
        let channel = scene.channel_on(0);
        let sender = scene.join(0, Carrier::Tcp, "bob", "");
        scene.update(sender, &channel, "0");
        scene.settle();
        let slow = scene.join(home, Carrier::Tcp, "ann", "");
        scene.update(slow, &channel, "a");
        scene.settle();
        scene.presence(slow);
        let socket = scene.peers[slow].socket;
        scene.world.sockets[socket].room = 10;
        for i in 1..100 {
            scene.update(sender, &channel, &i.to_string());
            scene.settle();
        }
        assert_eq!(scene.world.sockets[socket].outbound.len(), 10, "the rest waits");
        scene.world.sockets[socket].room = usize::MAX / 2;
        scene.settle();
        assert_eq!(scene.presence(slow), ["bob=1 ann=a", "bob=99 ann=a"], "home {home}");
    }
}

#[test]
fn a_slow_receiver_gets_a_large_set_that_it_missed_as_soon_as_it_reads_again() {
    for home in [0, 1] {
        let limits =
            Limits { home_subscribers_max: 0, presence_burst_bytes_max: 40, ..Limits::default() };
        let mut scene = Scene::new(2, limits);
        let channel = scene.channel_on(0);
        let [sender, slow] = [(0, "bob"), (home, "ann")].map(|(shard, user)| {
            let who = scene.join(shard, Carrier::Tcp, user, "");
            scene.update(who, &channel, "0");
            scene.wait(200);
            who
        });
        scene.presence(slow);
        let socket = scene.peers[slow].socket;
        scene.world.sockets[socket].room = 10;
        for state in ["1", "2", "3"] {
            scene.update(sender, &channel, state);
            scene.wait(200);
        }
        scene.world.sockets[socket].room = usize::MAX / 2;
        scene.settle();
        let shown = scene.presence(slow);
        assert_eq!(shown.last().map(String::as_str), Some("bob=3 ann=0"), "home {home}: {shown:?}");
    }
}

#[test]
fn a_slow_receiver_learns_that_the_last_other_member_has_left() {
    let mut scene = Scene::new(1, Limits::default());
    let sender = scene.join(0, Carrier::WebSocket, "bob", "");
    scene.update(sender, "room", "0");
    let slow = scene.join(0, Carrier::Tcp, "ann", "");
    scene.update(slow, "room", "a");
    scene.settle();
    let socket = scene.peers[slow].socket;
    scene.world.sockets[socket].room = 0;
    scene.update(sender, "room", "1");
    scene.settle();
    scene.say(sender, |wire| wire.websocket(Opcode::Close, &close_body(1000, "")));
    scene.settle();
    scene.world.sockets[socket].room = usize::MAX / 2;
    scene.settle();
    assert_eq!(scene.presence(slow).last().map(String::as_str), Some("ann=a"));
}

#[test]
fn whoever_asks_without_reading_is_closed_as_slow() {
    let mut scene = Scene::new(1, Limits { send_queue_bytes_max: 200, ..Limits::default() });
    let who = scene.join(0, Carrier::WebSocket, "ann", "");
    scene.world.sockets[scene.peers[who].socket].room = 0;
    for stamp in 0..20 {
        scene.say(who, |wire| wire.ping(stamp));
    }
    scene.settle();
    assert_eq!(scene.disconnects("slow"), 1);
    scene.world.sockets[scene.peers[who].socket].room = usize::MAX / 2;
    scene.settle();
    assert_eq!(closed(&scene.hear(who)), Some(1013));
}

#[test]
fn a_throttled_receiver_gets_few_frames_and_the_last_state() {
    for home in [0, 1] {
        let mut scene = Scene::new(2, Limits { home_subscribers_max: 0, ..Limits::default() });
        let channel = scene.channel_on(0);
        let sender = scene.join(0, Carrier::Tcp, "bob", "");
        scene.update(sender, &channel, "0");
        scene.settle();
        let slow = scene.join(home, Carrier::Tcp, "ann", "");
        scene.say(slow, |wire| wire.throttle(Some(2)));
        scene.update(slow, &channel, "a");
        scene.settle();
        scene.presence(slow);
        for i in 1..=37 {
            scene.update(sender, &channel, &i.to_string());
            scene.wait(50);
        }
        scene.wait(1_000);
        let frames = scene.presence(slow);
        assert!((4..=7).contains(&frames.len()), "home {home}: {frames:?}");
        assert_eq!(frames.last().map(String::as_str), Some("bob=37 ann=a"));
        scene.update(sender, &channel, "end");
        scene.settle();
        scene.presence(slow);
        scene.say(slow, |wire| wire.throttle(None));
        scene.update(sender, &channel, "fast");
        scene.settle();
        scene.update(sender, &channel, "faster");
        scene.settle();
        let last = scene.presence(slow);
        assert_eq!(last.last().map(String::as_str), Some("bob=faster ann=a"));
    }
}

#[test]
fn a_token_that_ends_closes_its_session() {
    let mut scene = Scene::new(1, Limits::default());
    let who = scene.accept(0, Carrier::WebSocket, "/");
    let brief = token(APP, "ann", scene.world.now.wall_ms, 5_000);
    scene.say(who, |wire| wire.handshake(&brief, ""));
    scene.update(who, "room", "1");
    scene.settle();
    scene.wait(4_900);
    assert_eq!(scene.members("room"), ["ann=1"]);
    scene.wait(1_000);
    assert_eq!(closed(&scene.hear(who)), Some(1008));
    assert_eq!(scene.members("room"), Vec::<String>::new());
    assert_eq!(scene.disconnects("token_expired"), 1);
}

#[test]
fn a_token_that_is_refreshed_does_not_end() {
    let mut scene = Scene::new(1, Limits::default());
    let who = scene.accept(0, Carrier::WebSocket, "/");
    let brief = token(APP, "ann", scene.world.now.wall_ms, 5_000);
    scene.say(who, |wire| wire.handshake(&brief, ""));
    scene.settle();
    let long = token(APP, "ann", scene.world.now.wall_ms, 60_000);
    scene.say(who, |wire| wire.refresh(&long));
    scene.wait(10_000);
    assert!(scene.hear(who).contains(&Heard::RefreshAck { success: true }));
    assert_eq!(scene.disconnects("token_expired"), 0);
}

#[test]
fn whoever_does_not_greet_in_time_is_closed() {
    let mut scene = Scene::new(1, Limits { greeting_ms: 1_000, ..Limits::default() });
    let silent = scene.accept(0, Carrier::WebSocket, "/");
    let tcp = scene.accept(0, Carrier::Tcp, "/");
    let refused = scene.accept(0, Carrier::WebSocket, "/");
    scene.say(refused, |wire| wire.handshake("no.real.token", ""));
    let half = scene.world.open(0, Listener::Http).expect("room");
    scene.world.send(half, b"GET / HTTP/1.1\r\nHost:");
    scene.wait(900);
    assert_eq!(scene.disconnects("greeting_timeout"), 0);
    scene.wait(1_000);
    assert_eq!(scene.disconnects("greeting_timeout"), 4);
    assert_eq!(closed(&scene.hear(silent)), Some(1008));
    assert_eq!(closed(&scene.hear(refused)), Some(1008));
    assert!(scene.world.sockets[scene.peers[tcp].socket].shut);
    assert!(scene.world.sockets[half].outbound.starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let limits = Limits { ping_after_ms: 1_000, idle_ms: 3_000, ..Limits::default() };
    let mut scene = Scene::new(1, limits);
    let answers = scene.join(0, Carrier::WebSocket, "ann", "");
    let silent = scene.join(0, Carrier::WebSocket, "bob", "");
    let tcp_answers = scene.join(0, Carrier::Tcp, "cat", "");
    let tcp_silent = scene.join(0, Carrier::Tcp, "dan", "");
    scene.wait_answering(10_000, &[answers, tcp_answers]);
    let heard = scene.hear(silent);
    let pings = heard.iter().filter(|h| matches!(h, Heard::WebSocketPing(_))).count();
    assert_eq!((pings, closed(&heard)), (1, Some(1001)));
    let heard = scene.hear(tcp_silent);
    assert_eq!(heard.iter().filter(|h| matches!(h, Heard::Ping(_))).count(), 1, "{heard:?}");
    assert!(scene.world.sockets[scene.peers[tcp_silent].socket].shut);
    assert_eq!(scene.disconnects("idle_timeout"), 2);
    for lives in [answers, tcp_answers] {
        assert!(!scene.world.sockets[scene.peers[lives].socket].shut);
    }
}

/// A member that sends nothing unprompted, and a subscriber of its channel that does.
fn quiet_member(heartbeat: Heartbeat, carrier: Carrier) -> (Scene, String, Who, Who) {
    let policy = Policy { presence_ttl_ms: 3_000, heartbeat, ..Policy::default() };
    let limits = Limits { idle_ms: 0, ..Limits::default() };
    let mut scene = Scene::with_policy(2, limits, policy);
    let channel = scene.channel_on(1);
    let quiet = scene.join(0, carrier, "ann", "");
    scene.update(quiet, &channel, "1");
    let watcher = scene.join(1, Carrier::Tcp, "bob", "");
    scene.update(watcher, &channel, "b");
    scene.settle();
    scene.presence(watcher);
    (scene, channel, quiet, watcher)
}

#[test]
fn a_quiet_member_that_answers_pings_stays_and_one_that_does_not_expires() {
    for carrier in [Carrier::WebSocket, Carrier::Tcp] {
        let (mut scene, channel, quiet, watcher) = quiet_member(Heartbeat::Transport, carrier);
        scene.wait_answering(20_000, &[quiet, watcher]);
        assert_eq!(scene.members(&channel), ["ann=1", "bob=b"], "{carrier:?}");
        scene.wait_answering(2_000, &[watcher]);
        assert_eq!(scene.members(&channel), ["ann=1", "bob=b"], "{carrier:?}: not before its time");
        scene.wait_answering(2_000, &[watcher]);
        assert_eq!(scene.members(&channel), ["bob=b"], "{carrier:?}: 3 s and a sweep");
        assert_eq!(scene.total(|counters| counters.expired_members), 1);
    }
}

#[test]
fn a_member_that_expired_is_entered_again_by_its_next_sign_of_life() {
    type Sign = fn(&mut Wire) -> Vec<u8>;
    let pong: Sign = |wire| wire.websocket(Opcode::Pong, b"");
    let ping: Sign = |wire| wire.ping(7);
    let cases = [
        (Heartbeat::Transport, pong, true),
        (Heartbeat::Transport, ping, true),
        (Heartbeat::AnyFrame, pong, false),
        (Heartbeat::AnyFrame, ping, true),
        (Heartbeat::Update, ping, false),
    ];
    for (heartbeat, sign, returns) in cases {
        let (mut scene, channel, quiet, watcher) = quiet_member(heartbeat, Carrier::WebSocket);
        for _ in 0..10 {
            scene.wait(500);
            scene.update(watcher, &channel, "b");
        }
        assert_eq!(scene.members(&channel), ["bob=b"], "{heartbeat:?}");
        scene.presence(quiet);
        scene.say(quiet, sign);
        scene.settle();
        let expected: &[&str] = if returns { &["bob=b", "ann=1"] } else { &["bob=b"] };
        assert_eq!(scene.members(&channel), expected, "{heartbeat:?}");
        let shown: &[&str] = if returns { &["bob=b ann=1"] } else { &[] };
        assert_eq!(scene.presence(quiet), shown, "{heartbeat:?}: what it missed");
    }
}

#[test]
fn a_member_that_left_or_greeted_anew_while_expired_is_not_entered_again() {
    for leaves in [true, false] {
        let (mut scene, channel, quiet, _) = quiet_member(Heartbeat::Transport, Carrier::Tcp);
        scene.wait(5_000);
        match leaves {
            true => scene.say(quiet, |wire| wire.leave(&channel)),
            false => scene.greet(quiet, "eve", ""),
        }
        scene.settle();
        scene.say(quiet, |wire| wire.ping(1));
        scene.settle();
        assert_eq!(scene.members(&channel), Vec::<String>::new(), "leaves: {leaves}");
        assert_eq!(scene.total(|counters| counters.subscriptions), 0);
    }
}

#[test]
fn a_user_whose_sessions_end_together_is_said_to_leave_once() {
    let mut scene = Scene::new(1, Limits::default());
    let channel = scene.channel_on(0);
    let watcher = scene.join(0, Carrier::Tcp, "eve", "");
    let ending = ["ann", "bob", "ann"].map(|user| scene.join(0, Carrier::Tcp, user, ""));
    for who in ending.into_iter().chain([watcher]) {
        scene.update(who, &channel, "1");
        scene.settle();
    }
    scene.presence(watcher);
    ending.into_iter().for_each(|who| scene.end(who, Ending::Eof));
    scene.settle();
    assert_eq!(scene.presence(watcher), ["-ann", "-bob"]);
}

#[test]
fn the_same_state_again_is_shown_to_nobody_and_a_new_one_is() {
    let mut scene = Scene::new(2, Limits::default());
    let channel = scene.channel_on(1);
    let (ann, bob) =
        (scene.join(0, Carrier::Tcp, "ann", ""), scene.join(1, Carrier::Tcp, "bob", ""));
    for (who, state) in [(ann, "1"), (bob, "b")] {
        scene.update(who, &channel, state);
        scene.settle();
    }
    scene.presence(bob);
    scene.update(ann, &channel, "1");
    scene.settle();
    assert_eq!(scene.presence(bob), Vec::<String>::new());
    scene.update(ann, &channel, "2");
    scene.settle();
    assert_eq!(scene.presence(bob), ["ann=2 bob=b"]);
}

#[test]
fn a_fast_sender_is_conflated_to_its_last_state() {
    let mut scene = Scene::new(2, Limits { updates_per_second_max: 3, ..Limits::default() });
    let channel = scene.channel_on(1);
    let watcher = scene.join(1, Carrier::Tcp, "bob", "");
    scene.update(watcher, &channel, "b");
    let sender = scene.join(0, Carrier::Tcp, "ann", "");
    scene.settle();
    scene.presence(watcher);
    for i in 1..=50 {
        scene.update(sender, &channel, &i.to_string());
        scene.settle();
    }
    assert_eq!(scene.members(&channel), ["bob=b", "ann=3"]);
    scene.wait(1_000);
    assert_eq!(scene.members(&channel), ["bob=b", "ann=50"]);
    let frames = scene.presence(watcher);
    assert_eq!(frames, ["bob=b ann=1", "bob=b ann=2", "bob=b ann=3", "bob=b ann=50"]);
}

#[test]
fn what_a_full_mailbox_refuses_is_tried_once_a_turn_and_costs_nothing() {
    let limits = Limits { home_subscribers_max: 0, updates_per_second_max: 6, ..Limits::default() };
    let mut scene = Scene::new(2, limits);
    let channels = scene.channels_on(1, 3);
    let who = scene.join(0, Carrier::Tcp, "ann", "");
    scene.world.links[0][1].capacity = 0;
    channels.iter().for_each(|channel| scene.update(who, channel, "1"));
    scene.turns(20);
    let tries = scene.total(|c| c.dropped().find(|(l, _)| l.0 == "request").expect("a label").1);
    assert!(tries <= 3 * 20, "{tries} tries in 20 turns");
    scene.world.links[0][1].capacity = 100;
    scene.settle();
    for channel in &channels {
        assert_eq!(scene.members(channel), ["ann=1"]);
    }
}

#[test]
fn a_refused_newcomer_is_no_subscriber() {
    let mut scene = Scene::new(2, Limits { members_per_channel_max: 1, ..Limits::default() });
    let channel = scene.channel_on(1);
    let member = scene.join(1, Carrier::Tcp, "bob", "");
    scene.update(member, &channel, "b");
    scene.settle();
    let refused = scene.join(0, Carrier::Tcp, "ann", "");
    scene.update(refused, &channel, "a");
    scene.settle();
    assert_eq!(scene.ignored("channel_full"), 1);
    assert_eq!(scene.total(|counters| counters.subscriptions), 1);
    scene.update(member, &channel, "c");
    scene.settle();
    assert_eq!(scene.presence(refused), Vec::<String>::new());
    assert_eq!(scene.members(&channel), ["bob=c"]);
}

#[test]
fn an_old_refusal_does_not_undo_a_newer_announcement() {
    let limits =
        Limits { members_per_channel_max: 1, home_subscribers_max: 0, ..Limits::default() };
    let mut scene = Scene::new(2, limits);
    let channel = scene.channel_on(1);
    let member = scene.join(1, Carrier::Tcp, "bob", "");
    scene.update(member, &channel, "b");
    let newcomer = scene.join(0, Carrier::Tcp, "ann", "");
    scene.update(newcomer, &channel, "1");
    scene.world.turn(0);
    scene.world.turn(1);
    scene.say(member, |wire| wire.leave(&channel));
    scene.world.turn(1);
    // The refusal is in transit while the limit is free again and the next update is sent.
    scene.world.links[1][0].hold = true;
    scene.update(newcomer, &channel, "2");
    scene.turns(3);
    assert_eq!(scene.members(&channel), ["ann=2"]);
    scene.world.links[1][0].hold = false;
    scene.settle();
    scene.wait(1_000);
    assert_eq!(scene.members(&channel), ["ann=2"]);
    assert_eq!(scene.total(|counters| counters.subscriptions), 1);
    scene.end(newcomer, Ending::Reset);
    scene.wait(10_000);
    assert_eq!(scene.members(&channel), Vec::<String>::new());
}

#[test]
fn a_sole_update_is_not_shown_to_its_sender() {
    let mut scene = Scene::new(1, Limits::default());
    let [ann, bob] = ["ann", "bob"].map(|user| scene.join(0, Carrier::Tcp, user, ""));
    scene.update(ann, "room", "1");
    scene.update(bob, "room", "1");
    scene.settle();
    for who in [ann, bob] {
        scene.presence(who);
    }
    scene.update(ann, "room", "2");
    scene.settle();
    assert_eq!(scene.presence(ann), Vec::<String>::new());
    assert_eq!(scene.presence(bob), ["ann=2 bob=1"]);
}

#[test]
fn a_stopping_server_tells_everybody() {
    let mut scene = Scene::new(2, Limits::default());
    let who = scene.join(0, Carrier::WebSocket, "ann", "lite");
    scene.update(who, "room", "1");
    scene.settle();
    scene.world.close_all();
    scene.settle();
    assert_eq!(closed(&scene.hear(who)), Some(1001));
    assert_eq!(scene.members("room"), Vec::<String>::new());
}

#[test]
fn a_joiner_is_shown_the_set_once_and_nothing_from_before_it_was_let_in() {
    let mut scene = Scene::new(2, Limits { home_subscribers_max: 0, ..Limits::default() });
    let channel = scene.channel_on(1);
    let local = scene.join(1, Carrier::Tcp, "eve", "");
    scene.update(local, &channel, "e");
    scene.settle();
    let bob = scene.join(0, Carrier::Tcp, "bob", "");
    let ann = scene.join(0, Carrier::Tcp, "ann", "");
    scene.update(bob, &channel, "b");
    scene.settle();
    scene.world.links[1][0].hold = true;
    scene.update(local, &channel, "f");
    scene.turns(2);
    scene.world.links[0][1].hold = true;
    scene.update(ann, &channel, "a");
    scene.turns(2);
    scene.world.links[1][0].hold = false;
    scene.turns(2);
    scene.world.links[0][1].hold = false;
    scene.settle();
    assert_eq!(scene.shard_of(ann), Some(0));
    let shown = scene.presence(ann);
    assert!(shown.iter().all(|set| set.contains("ann=a")), "{shown:?}");
    assert!(!shown.is_empty());
}
