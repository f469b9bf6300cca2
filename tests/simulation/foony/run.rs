//! One run: random clients do random things to a random server, then everything comes to rest.

use headcount::policy::Deliver;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use super::super::profile::APPS;
use super::super::rng::Rng;
use super::super::world::{Ending, Faults, World};
use super::client::{Client, PageLimit};
use super::ghost::Ghost;
use super::line::Mode;
use super::link::Carrier;
use super::profile::{self, CHANNELS, Profile};
use super::sync_member::SyncMember;

/// Attempts at coming to rest; whoever is closed each time never will.
const ROUNDS_MAX: usize = 40;

/// Above the time after which a long-polling client is taken for lost: a question is held for
/// 25 s, and another one is waited for for 30 s.
const ABSENCE_MS: u64 = 66_000;

/// For so long a publish that is sent again is known.
const DEDUP_MS: u64 = 10 * 60 * 1000;

pub struct Run {
    pub world: World,
    pub profile: Profile,
    pub clients: Vec<Client>,
    pub members: Vec<SyncMember>,
    pub ghost: Ghost,
    /// How often each connection id has asked to enter each channel.
    pub enters: BTreeMap<(String, String), u32>,
    pub rng: Rng,
    pub is_coming_to_rest: bool,
    step: Arc<AtomicU64>,
}

impl Run {
    pub fn new(seed: u64, step: Arc<AtomicU64>) -> Self {
        let mut rng = Rng::new(seed ^ 0x466f_6f6e_7900_0000);
        let (settings, profile) = profile::random(&mut rng);
        let mut world = World::new(settings, rng.next());
        for link in world.links.iter_mut().flatten() {
            link.capacity = rng.between(profile.mailbox.0, profile.mailbox.1);
        }
        world.faults = Faults::ALL;
        // What is delivered before it is on disk is taken back by a failure.
        let policies = &world.settings.policies;
        let is_safe = policies.rules.iter().all(|(_, p)| p.deliver == Deliver::AfterDurable);
        let fails = is_safe && !profile.calm && seed.is_multiple_of(3);
        world.store_fails_per_mille = if fails { 30 } else { 0 };
        let mut clients: Vec<Client> = Vec::new();
        for id in 0..profile.clients {
            let client = random_client(&mut rng, id, &clients);
            clients.push(client);
        }
        let members = (0..profile.sync_members).map(|id| SyncMember::new(&mut rng, id)).collect();
        let (ghost, enters) = (Ghost::default(), BTreeMap::new());
        Run { world, profile, clients, members, ghost, enters, rng, is_coming_to_rest: false, step }
    }

    /// Hashes every effect and every written byte.
    pub fn hashing(mut self) -> Self {
        self.world.hasher = Some(SipHasher13::new());
        self
    }

    pub fn tracing(mut self) -> Self {
        self.world.trace = true;
        let (profile, limits) = (self.profile, &self.world.settings.limits);
        eprintln!("{profile:?}\n{limits:?}\n{:?}", self.world.settings.policies);
        for Client { id, app, user, mode, .. } in &self.clients {
            eprintln!("client {id}: {user} of {app}, {mode:?}");
        }
        self
    }

    /// Runs to the end; panics where the server and the model disagree.
    pub fn run(mut self) -> u64 {
        for step in 0..self.profile.steps {
            self.step.store(step as u64, Ordering::Relaxed);
            self.random_step();
            self.after_step();
        }
        self.come_to_rest();
        self.check_rest();
        self.close_everything();
        self.check_emptiness();
        self.close_channels();
        self.check_heads();
        self.world.hasher.map_or(0, |hasher| std::hash::Hasher::finish(&hasher))
    }

    fn random_step(&mut self) {
        match self.rng.below(100) {
            0..52 => {
                let shard = self.rng.below(self.world.count());
                self.world.turn(shard);
            }
            52..82 => {
                let client = self.rng.below(self.clients.len());
                self.act(client);
            }
            82..86 => self.act_on_the_sync_wire(),
            86..96 => {
                let ms = self.rng.between(1, 30) as u64;
                self.advance(ms);
            }
            96 => {
                let ms = self.rng.between(50, 1_200) as u64;
                self.advance(ms);
            }
            97..99 => self.settle(),
            _ => self.hold_a_link(),
        }
    }

    /// The mail between two shards stops for a while.
    fn hold_a_link(&mut self) {
        let count = self.world.count();
        if self.profile.calm {
            return;
        }
        let (from, to) = (self.rng.below(count), self.rng.below(count));
        self.world.links[from][to].hold = !self.world.links[from][to].hold;
    }

    fn after_step(&mut self) {
        if self.rng.percent(70) {
            self.read_all();
        }
        if self.world.is_still() {
            self.world.stand_still();
            self.standstill();
        }
    }

    pub fn read_all(&mut self) -> bool {
        let mut heard = false;
        for id in 0..self.clients.len() {
            heard |= self.read(id);
        }
        for member in &mut self.members {
            member.read(&mut self.world);
        }
        heard
    }

    fn release_links(&mut self) {
        self.world.links.iter_mut().flatten().for_each(|link| link.hold = false);
    }

    /// Everything that was said is heard, and what that leads to as well.
    pub fn settle(&mut self) {
        self.world.note(|| "settle".into());
        self.release_links();
        for _ in 0..ROUNDS_MAX {
            self.world.settle();
            self.standstill();
            let heard = self.read_all();
            if !heard && self.clients.iter().all(|client| !is_busy(client)) {
                self.check_abandoned();
                return self.clients.iter_mut().for_each(|client| {
                    client.shadowed &= client.link.as_ref().is_some_and(|link| link.stalled);
                });
            }
        }
        panic!("clients and server never stop talking");
    }

    fn standstill(&mut self) {
        let (number, now_ms) = (self.world.standstills, self.world.now.mono_ms);
        for client in &mut self.clients {
            let asked = &client.asked;
            for (channel, room) in &mut client.rooms {
                let is_open = asked.values().any(|asked| asked.is_about_membership_of(channel));
                let own = &mut room.own;
                // An earlier leave may still be told, at the end of the channel's interval.
                let is_told = now_ms > own.acked_ms + profile::INTERVAL_MS;
                if is_told && own.acked && !is_open && !client.shadowed && own.since.is_none() {
                    own.since = Some(number);
                }
            }
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.world.advance(ms);
        let now_ms = self.world.now.mono_ms;
        self.world.note(|| format!("time {now_ms}"));
        let rooms = self.clients.iter_mut().flat_map(|client| client.rooms.values_mut());
        for own in rooms.map(|room| &mut room.own) {
            if own.until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                own.doubt();
            }
        }
    }

    fn come_to_rest(&mut self) {
        self.world.note(|| "coming to rest".into());
        self.is_coming_to_rest = true;
        self.forget_old_sockets();
        for id in 0..self.clients.len() {
            self.unstall(id);
        }
        self.gather();
        self.wait(ABSENCE_MS);
        self.last_words();
    }

    /// Everybody is connected and has been told everything.
    fn gather(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for id in 0..self.clients.len() {
                if self.clients[id].link.is_none() && !self.clients[id].retired {
                    self.connect(id);
                }
            }
            self.settle();
            if self.clients.iter().all(|client| client.retired || client.is_ready()) {
                break;
            }
            self.advance(200);
        }
        for client in &mut self.clients {
            let rests = client.retired || client.is_ready();
            assert!(rests, "never comes to rest: {client:?}");
            client.retired = !client.is_ready();
        }
    }

    /// Nothing that was given up can be read from any more.
    fn forget_old_sockets(&mut self) {
        let mut current: Vec<usize> = self.members.iter().filter_map(|m| m.socket()).collect();
        current.extend(self.clients.iter().filter_map(
            |client| match &client.link.as_ref()?.carrier {
                Carrier::Socket(socket) => Some(*socket),
                Carrier::Poll(_) => None,
            },
        ));
        for (at, socket) in self.world.sockets.iter_mut().enumerate() {
            if !current.contains(&at) {
                socket.ending = socket.ending.or(Some(Ending::Reset));
                socket.room = usize::MAX / 2;
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        const STEP_MS: u64 = 4_000;
        for _ in 0..ms.div_ceil(STEP_MS) {
            self.advance(STEP_MS);
            self.settle();
        }
    }

    /// Gaps show at the next message, and doubtful members announce themselves again.
    fn last_words(&mut self) {
        for _ in 0..3 {
            for app in APPS {
                let author = self.clients.iter().find(|c| c.app == app && c.is_ready());
                let Some(author) = author.map(|client| client.id) else { continue };
                CHANNELS.iter().for_each(|channel| self.publish_stored(author, channel));
            }
            self.gather();
        }
        for id in 0..self.clients.len() {
            for channel in CHANNELS {
                let own = &self.clients[id].rooms[channel].own;
                if own.entered.is_none() && own.lingers {
                    self.leave_for_certain(id, channel);
                } else if own.entered.is_some() {
                    if own.since.is_none() || self.rng.percent(50) {
                        self.update(id, channel);
                    }
                    self.gather();
                }
            }
        }
        self.advance(200);
        self.gather();
        self.wait(self.profile.grace_ms + 1_000);
    }

    fn close_everything(&mut self) {
        for id in 0..self.clients.len() {
            if self.clients[id].link.is_none() {
                continue;
            }
            match self.rng.percent(60) {
                true => self.close(id),
                false => self.lose(id),
            }
        }
        for member in &mut self.members {
            member.close(&mut self.world);
        }
        for socket in &mut self.world.sockets {
            socket.ending = socket.ending.or(Some(Ending::Reset));
            socket.room = usize::MAX / 2;
        }
        self.wait(ABSENCE_MS);
        self.wait(self.profile.grace_ms + 8_000);
    }

    /// Time passes after which a channel is closed, unless its policy keeps messages for longer.
    fn close_channels(&mut self) {
        self.advance(DEDUP_MS);
        for _ in 0..3 {
            self.advance(1_100);
            self.world.settle();
        }
    }
}

fn is_busy(client: &Client) -> bool {
    client.link.as_ref().is_some_and(|link| match &link.carrier {
        Carrier::Poll(polling) => !link.stalled && polling.is_busy(),
        Carrier::Socket(_) => false,
    })
}

fn random_client(rng: &mut Rng, id: usize, others: &[Client]) -> Client {
    let app = if rng.percent(80) { APPS[0] } else { APPS[1] };
    let user = format!("u{}", rng.below(4));
    let mode = *rng.pick(&[Mode::Binary, Mode::Binary, Mode::Go, Mode::Json, Mode::LongPoll]);
    Client {
        id,
        app,
        by_token: rng.percent(30),
        // Every other one.
        mode: if mode == Mode::Binary && id % 2 == 1 { Mode::Peer } else { mode },
        link: None,
        connection: None,
        requests: 0,
        asked: BTreeMap::new(),
        unacked: Vec::new(),
        rooms: CHANNELS.iter().map(|&channel| (channel, PageLimit::default())).collect(),
        ephemeral: BTreeMap::new(),
        published: 0,
        life: 0,
        states: 0,
        twin: others.iter().filter(|other| other.app == app && other.user == user).count(),
        user,
        shadowed: false,
        abandoned: Vec::new(),
        retired: false,
    }
}
