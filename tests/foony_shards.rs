//! Bugs found by random runs of Foony clients, one scene each.

mod fake_sockets;
#[path = "simulation/mod.rs"]
mod simulation;

use std::sync::Arc;

use headcount::channel::PageLimit;
use headcount::limits::Limits;
use headcount::policy::{Policies, Policy};
use headcount::session::{Answer, json_state};
use headcount::shard::{Command, Listener, PollOutcome, PollRequest};
use headcount::wire::foony::{Action, Auth, Content, Cursor, Message, Presence, Publish, Request};
use simulation::foony::line::{Heard, Line, Mode};
use simulation::profile::settings;
use simulation::world::{Ending, World};

const APP: &str = "alpha";

/// A server and the clients of one scene.
struct Scene {
    world: World,
    peers: Vec<(Line, usize)>,
    requests: u64,
}

type Who = usize;

impl Scene {
    fn new(shards: u16, policy: Policy) -> Self {
        let limits = Limits { home_subscribers_max: 0, ..Limits::default() };
        Scene::with_limits(shards, policy, limits)
    }

    fn with_limits(shards: u16, policy: Policy, limits: Limits) -> Self {
        let policies = Policies { rules: Vec::new(), default: Arc::new(policy) };
        let world = World::new(settings(shards, 7, limits, policies), 7);
        Scene { world, peers: Vec::new(), requests: 0 }
    }

    /// A channel that this shard owns.
    fn channel_on(&self, shard: usize) -> String {
        let router = &self.world.settings.router;
        let owner = |name: &str| router.shard_of(router.hash(APP, name)).index();
        (0..).map(|i| format!("room:{i}")).find(|name| owner(name) == shard).expect("a name")
    }

    /// Connects with this connection id, or as a new session.
    fn come(&mut self, shard: usize, mode: Mode, user: &str, connection: &str) -> Who {
        let socket = self.world.open(shard, Listener::Http).expect("room for a connection");
        let line = Line::new(mode);
        let opening = line.opening("/");
        self.world.send(socket, &opening);
        self.peers.push((line, socket));
        let who = self.peers.len() - 1;
        let auth = Auth {
            key: format!("{APP}.k:sk_{APP}_0123456789abcdef").into(),
            client_id: user.into(),
            resume_connection_id: connection.into(),
            ..Auth::default()
        };
        self.say(who, &Request::Auth(auth));
        who
    }

    /// Connects and stays on the accepting shard; returns its connection id.
    fn join(&mut self, shard: usize, user: &str) -> (Who, String) {
        let who = self.come(shard, Mode::Binary, user, "");
        self.world.settle();
        (who, connection(&self.hear(who)))
    }

    fn say(&mut self, who: Who, request: &Request<'_>) {
        let (line, socket) = &mut self.peers[who];
        let bytes = line.request(request);
        self.world.send(*socket, &bytes);
    }

    fn number(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn publish(&mut self, who: Who, channel: &str, data: &str) {
        let id = self.number();
        let message = Message { name: "n".into(), data: data.as_bytes(), encoding: "".into() };
        let publish = Publish {
            id,
            channel: channel.into(),
            message_id: format!("m{id}").into(),
            ephemeral: false,
            ttl_ms: 0,
            content: Content::One(message),
        };
        self.say(who, &Request::Publish(publish));
    }

    fn subscribe(&mut self, who: Who, channel: &str, serial: u64) {
        let (id, cursor) = (self.number(), Cursor::at(serial));
        self.say(who, &Request::Subscribe { id, channel: channel.into(), cursor });
    }

    fn enter(&mut self, who: Who, channel: &str, data: &str) {
        self.presence(who, channel, Action::Enter, data);
    }

    /// Sends a presence request; returns its number.
    fn presence(&mut self, who: Who, channel: &str, action: Action, data: &str) -> u64 {
        let id = self.number();
        let (channel, data) = (channel.into(), data.as_bytes());
        self.say(
            who,
            &Request::Presence(Presence { id, channel, action, data, encoding: "".into() }),
        );
        id
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.world.advance(50);
            self.world.settle();
        }
    }

    /// `user=state` of each member, in join order.
    fn members(&mut self, channel: &str) -> Vec<String> {
        let text = |state| String::from_utf8_lossy(&json_state(state).data).into_owned();
        let members = self.world.members(APP, channel);
        members.iter().map(|m| format!("{}={}", m.identity.user, text(&m.state))).collect()
    }

    /// Numbers of the requests that were acknowledged, and of those that were refused.
    fn answers(&mut self, who: Who) -> (Vec<u64>, Vec<u64>) {
        let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
        for heard in self.hear(who) {
            match heard {
                Heard::Ack { id, .. } => acknowledged.push(id),
                Heard::Error { id, .. } => refused.push(id),
                _ => {}
            }
        }
        (acknowledged, refused)
    }

    fn hear(&mut self, who: Who) -> Vec<Heard> {
        let (line, socket) = &mut self.peers[who];
        let bytes = std::mem::take(&mut self.world.sockets[*socket].outbound);
        line.read(&bytes).into_iter().map(|(_, heard)| heard).collect()
    }

    fn serials(&mut self, who: Who) -> Vec<u64> {
        let heard = self.hear(who).into_iter();
        let serial = |heard| match heard {
            Heard::Message(message) => Some(message.serial),
            _ => None,
        };
        heard.filter_map(serial).collect()
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            (0..self.world.count()).for_each(|shard| self.world.turn(shard));
        }
    }
}

fn connection(heard: &[Heard]) -> String {
    let connected = heard.iter().find_map(|heard| match heard {
        Heard::Connected { connection, .. } => Some(connection.clone()),
        _ => None,
    });
    connected.expect("connected")
}

/// Keeps a connection on the shard that accepted it: its first request names a channel there.
fn settle_on(scene: &mut Scene, who: Who, shard: usize) {
    let channel = scene.channel_on(shard);
    let id = scene.number();
    scene.say(
        who,
        &Request::History { id, channel: channel.into(), limit: 1, before: Cursor::None },
    );
    scene.world.settle();
}

#[test]
fn a_reader_of_small_messages_remains_one_on_another_shard() {
    let mut scene = Scene::new(2, Policy::default());
    let channel = scene.channel_on(1);
    let (author, _) = scene.join(1, "ann");
    for _ in 0..5 {
        scene.publish(author, &channel, &format!("\"{}\"", "x".repeat(10_000)));
    }
    scene.world.settle();
    let reader = scene.come(0, Mode::Go, "bob", "");
    scene.world.settle();
    let id = scene.number();
    let (limit, before) = (10, Cursor::None);
    scene.say(reader, &Request::History { id, channel: (&*channel).into(), limit, before });
    scene.world.settle();
    let heard = scene.hear(reader);
    let Some(Heard::History { messages, more, .. }) = heard.last() else { panic!("{heard:?}") };
    assert_eq!((messages.len(), *more), (2, true));
}

#[test]
fn a_home_that_was_behind_is_sent_nothing_twice() {
    let mut scene = Scene::new(2, Policy::default());
    let channel = scene.channel_on(1);
    let (author, _) = scene.join(1, "ann");
    let (reader, _) = scene.join(0, "bob");
    settle_on(&mut scene, reader, 0);
    scene.subscribe(reader, &channel, 0);
    scene.world.settle();
    scene.world.links[1][0].capacity = 0;
    scene.publish(author, &channel, "1");
    scene.turns(2);
    scene.world.links[1][0].capacity = 10;
    scene.publish(author, &channel, "2");
    scene.world.settle();
    assert_eq!(scene.serials(reader), [1, 2]);
}

#[test]
fn what_was_replayed_is_not_repaid() {
    let mut scene = Scene::new(2, Policy::default());
    let channel = scene.channel_on(1);
    let (author, _) = scene.join(1, "ann");
    let (first, _) = scene.join(0, "bob");
    let (second, _) = scene.join(0, "cat");
    for who in [first, second] {
        settle_on(&mut scene, who, 0);
    }
    scene.publish(author, &channel, "1");
    scene.subscribe(first, &channel, 0);
    scene.world.settle();
    scene.serials(first);
    scene.world.links[1][0].capacity = 0;
    for data in ["2", "3"] {
        scene.publish(author, &channel, data);
        scene.turns(2);
    }
    scene.subscribe(second, &channel, 1);
    scene.turns(2);
    scene.world.links[1][0].capacity = 10;
    scene.world.settle();
    assert_eq!(scene.serials(first), [2, 3]);
    assert_eq!(scene.serials(second), [2, 3]);
}

#[test]
fn a_late_question_of_an_earlier_connection_does_not_end_the_later_one() {
    let mut scene = Scene::new(2, Policy::default());
    let (_, id) = scene.join(1, "ann");
    scene.world.links[1][0].hold = true;
    scene.world.advance(10);
    scene.come(1, Mode::Binary, "ann", &id);
    scene.turns(2);
    scene.world.advance(10);
    let latest = scene.come(0, Mode::Binary, "ann", &id);
    scene.turns(2);
    scene.world.links[1][0].hold = false;
    scene.world.settle();
    let heard = scene.hear(latest);
    assert!(!heard.iter().any(|heard| matches!(heard, Heard::Close(_))), "{heard:?}");
}

#[test]
fn what_an_earlier_connection_said_late_does_not_cost_the_later_one_its_place() {
    let mut scene = Scene::new(3, Policy::default());
    let channel = scene.channel_on(2);
    let (earlier, id) = scene.join(0, "ann");
    settle_on(&mut scene, earlier, 0);
    scene.world.links[0][2].hold = true;
    scene.enter(earlier, &channel, "1");
    scene.turns(1);
    scene.world.sockets[scene.peers[earlier].1].ending = Some(Ending::Reset);
    scene.turns(2);
    scene.world.advance(1_000);
    let later = scene.come(1, Mode::Binary, "ann", &id);
    scene.enter(later, &channel, "2");
    scene.turns(3);
    scene.world.links[0][2].hold = false;
    scene.world.settle();
    for _ in 0..10 {
        scene.world.advance(1_000);
        scene.world.settle();
    }
    assert_eq!(scene.world.members(APP, &channel).len(), 1);
}

/// A member at its rate limit of updates, and the numbers of the updates that it sent since.
fn over_its_rate(updates: u32) -> (Scene, String, Who, Vec<u64>) {
    let limits = Limits { updates_per_second_max: 3, ..Limits::default() };
    let mut scene = Scene::with_limits(2, Policy::default(), limits);
    let channel = scene.channel_on(1);
    let (who, _) = scene.join(0, "ann");
    scene.enter(who, &channel, "0");
    scene.world.settle();
    scene.hear(who);
    let update = |i: u32| scene.presence(who, &channel, Action::Update, &i.to_string());
    let numbers = (1..=updates).map(update).collect();
    scene.world.settle();
    (scene, channel, who, numbers)
}

#[test]
fn updates_above_the_rate_are_conflated_to_the_last_and_all_are_acknowledged() {
    let (mut scene, channel, who, numbers) = over_its_rate(20);
    assert_eq!(scene.members(&channel), ["ann=2"]);
    let (mut acknowledged, refused) = scene.answers(who);
    assert_eq!((acknowledged.len(), refused.len()), (19, 0), "the last is not carried out yet");
    scene.wait(1_000);
    assert_eq!(scene.members(&channel), ["ann=20"]);
    acknowledged.extend(scene.answers(who).0);
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, numbers);
}

#[test]
fn a_held_update_that_its_member_leaves_behind_is_acknowledged_and_not_carried_out() {
    let (mut scene, channel, who, numbers) = over_its_rate(4);
    let leave = scene.presence(who, &channel, Action::Leave, "");
    scene.world.settle();
    let mut acknowledged = scene.answers(who).0;
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, [&numbers[..], &[leave]].concat());
    scene.wait(2_000);
    assert_eq!(scene.members(&channel), Vec::<String>::new());
}

#[test]
fn a_member_that_is_lost_keeps_its_place_with_its_held_update() {
    let (mut scene, channel, who, _) = over_its_rate(20);
    let socket = scene.peers[who].1;
    scene.world.sockets[socket].ending = Some(Ending::Reset);
    scene.world.settle();
    assert_eq!(scene.members(&channel), ["ann=20"]);
}

/// Acknowledged requests, and the code of a Close, in the order of their arrival.
fn acks_and_close(heard: &[Heard]) -> (Vec<u64>, Option<u16>) {
    let acks = heard.iter().filter_map(|heard| match heard {
        Heard::Ack { id, .. } => Some(*id),
        _ => None,
    });
    let close = heard.iter().find_map(|heard| match heard {
        Heard::Close(code) => *code,
        _ => None,
    });
    (acks.collect(), close)
}

#[test]
fn a_client_that_half_closes_is_answered_by_other_shards_too() {
    let mut scene = Scene::new(2, Policy::default());
    let (near, far) = (scene.channel_on(0), scene.channel_on(1));
    let (who, _) = scene.join(0, "ann");
    settle_on(&mut scene, who, 0);
    for channel in [&near, &far] {
        scene.publish(who, channel, "1");
    }
    scene.enter(who, &far, "2");
    let socket = scene.peers[who].1;
    scene.world.sockets[socket].ending = Some(Ending::HalfClosed);
    scene.world.settle();
    let (mut acks, close) = acks_and_close(&scene.hear(who));
    acks.sort_unstable();
    assert_eq!((acks, close), (vec![2, 3, 4], None));
    assert!(scene.world.sockets[socket].shut);
    scene.wait(6_000);
    assert_eq!(scene.members(&far), Vec::<String>::new(), "after its grace");
}

#[test]
fn requests_that_had_to_wait_are_answered_after_the_last_byte_of_their_client() {
    let mut scene = Scene::new(2, Policy::default());
    let far = scene.channel_on(1);
    let (who, _) = scene.join(0, "ann");
    settle_on(&mut scene, who, 0);
    scene.hear(who);
    for _ in 0..20 {
        let id = scene.number();
        let channel = far.clone().into();
        scene.say(who, &Request::History { id, channel, limit: 1, before: Cursor::None });
    }
    scene.world.sockets[scene.peers[who].1].ending = Some(Ending::HalfClosed);
    scene.world.settle();
    let heard = scene.hear(who);
    let pages = heard.iter().filter(|heard| matches!(heard, Heard::History { .. }));
    assert_eq!(pages.count(), 20);
}

#[test]
fn a_stopping_server_answers_what_it_has_carried_out_before_it_says_goodbye() {
    let mut scene = Scene::new(2, Policy::default());
    let far = scene.channel_on(1);
    let (who, _) = scene.join(0, "ann");
    settle_on(&mut scene, who, 0);
    scene.publish(who, &far, "1");
    scene.world.turn(0);
    let (moving, _) = scene.join(0, "bob");
    scene.publish(moving, &far, "2");
    scene.world.turn(0);
    scene.world.close_all();
    scene.publish(who, &far, "too late");
    scene.world.settle();
    assert_eq!(acks_and_close(&scene.hear(who)), (vec![2], Some(1001)));
    assert_eq!(acks_and_close(&scene.hear(moving)), (vec![], Some(1001)));
    let limit = PageLimit { messages: 10, bytes: 1 << 20 };
    let query = |reply_to| Command::HistoryForward { reply_to, after: 0, limit };
    let Answer::History { messages, .. } = scene.world.query(APP, &far, query) else { panic!() };
    assert_eq!(messages.len(), 1, "what was not acknowledged was not carried out");
    scene.wait(3_000);
    assert!(scene.world.shards.iter().all(|shard| shard.has_drained()));
}

#[test]
fn a_channel_that_was_closed_remembers_where_it_ended() {
    let policy = Policy { history_age_s: 1, ..Policy::default() };
    let mut scene = Scene::new(1, policy);
    let channel = scene.channel_on(0);
    let (who, _) = scene.join(0, "ann");
    for data in ["1", "2", "3", "4", "5"] {
        scene.publish(who, &channel, data);
    }
    scene.world.settle();
    // Until the publishes can no longer be repeated either.
    scene.wait(11 * 60 * 1000);
    assert_eq!(scene.world.total().channels, 0, "it was closed");
    let (who, _) = scene.join(0, "bob");
    for (after, expected) in [(0, false), (4, false), (5, true), (6, false)] {
        let (id, channel) = (scene.number(), channel.clone().into());
        scene.say(who, &Request::Fetch { id, channel, from_serial: after });
        scene.world.settle();
        let heard = scene.hear(who);
        let resumed = heard.iter().find_map(|heard| match heard {
            Heard::Fetched { resumed, .. } => Some(*resumed),
            _ => None,
        });
        assert_eq!(resumed, Some(expected), "after {after}: {heard:?}");
    }
}

#[test]
fn a_long_polling_client_that_asks_no_more_is_lost_although_messages_arrive_for_it() {
    let mut scene = Scene::new(1, Policy::default());
    let channel = scene.channel_on(0);
    let (publisher, _) = scene.join(0, "bob");
    let mut line = Line::new(Mode::LongPoll);
    let key = format!("{APP}.k:sk_{APP}_0123456789abcdef").into();
    let auth = Auth { key, client_id: "ann".into(), ..Auth::default() };
    let connect = PollRequest::Connect { bytes: line.request(&Request::Auth(auth)) };
    let asked = scene.world.ask(0, connect);
    scene.world.settle();
    let Some((PollOutcome::Connected { session, .. }, _)) = scene.world.take_polled(asked) else {
        panic!("not connected")
    };
    let (first, second) = (scene.number(), scene.number());
    let enter = Presence {
        id: second,
        channel: channel.as_str().into(),
        action: Action::Enter,
        data: b"1",
        encoding: "".into(),
    };
    let subscribe =
        Request::Subscribe { id: first, channel: channel.as_str().into(), cursor: Cursor::at(0) };
    let bytes = [line.request(&subscribe), line.request(&Request::Presence(enter))].concat();
    scene.world.ask(0, PollRequest::Send { session, bytes });
    scene.world.settle();
    assert_eq!(scene.members(&channel), ["ann=1"]);
    for second in 0..40 {
        scene.publish(publisher, &channel, &second.to_string());
        scene.wait(1_000);
    }
    assert_eq!(scene.members(&channel), Vec::<String>::new());
}

#[test]
fn a_channel_whose_end_was_forgotten_goes_on_above_every_serial() {
    // As many ends are remembered as a shard may have channels.
    let limits = Limits { channels_per_shard_max: 2, ..Limits::default() };
    let policy = Policy { history_age_s: 1, ..Policy::default() };
    let mut scene = Scene::with_limits(1, policy, limits);
    for (channel, count) in [("first", 3), ("second", 1), ("third", 1)] {
        let (who, _) = scene.join(0, "ann");
        for _ in 0..count {
            scene.publish(who, channel, "1");
        }
        scene.world.settle();
        scene.world.advance(11 * 60 * 1000);
        scene.wait(3_000);
        assert_eq!(scene.world.total().channels, 0, "{channel} was closed");
    }
    let (who, _) = scene.join(0, "bob");
    scene.publish(who, "first", "2");
    scene.world.settle();
    let heard = scene.hear(who);
    let serial = heard.iter().find_map(|heard| match heard {
        Heard::Ack { serial, .. } => Some(*serial),
        _ => None,
    });
    assert_eq!(serial, Some(4), "{heard:?}");
}
