//! What clients do.

use std::borrow::Cow;

use headcount::shard::{Listener, PollRequest};
use headcount::wire::foony::{Action, Auth, Content, Cursor, Message, Presence, Publish, Request};
use headcount::wire::websocket::{Opcode, close_body};

use super::super::profile::token;
use super::super::world::Ending;
use super::client::{Asked, Segment, Unacked};
use super::ghost::Publication;
use super::line::Mode;
use super::link::{Carrier, Link};
use super::profile::CHANNELS;
use super::run::Run;

/// How a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The server is told at once.
    Reset,
    Eof,
    /// The client says that it gives the connection up.
    GivenUp,
    /// The server is told nothing.
    Silent,
}

impl Run {
    pub fn act_on_the_sync_wire(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let (member, channel) = (self.rng.below(self.members.len()), *self.rng.pick(&CHANNELS));
        self.members[member].act(&mut self.world, &mut self.rng, channel);
    }

    pub fn act(&mut self, id: usize) {
        let channel = *self.rng.pick(&CHANNELS);
        if self.clients[id].link.is_none() {
            return if self.rng.percent(70) { self.connect(id) } else { self.publish(id, channel) };
        }
        let (calm, ready) = (self.profile.calm, self.clients[id].is_ready());
        match self.rng.below(100) {
            0..30 => self.publish(id, channel),
            30..36 if !calm => self.lose(id),
            36..39 => self.close(id),
            39..44 if !calm => self.stall(id),
            _ if !ready => {}
            44..56 => self.subscribe(id, channel, false),
            56..60 => self.unsubscribe(id, channel),
            60..66 => self.watch(id, channel),
            66..69 => self.unwatch(id, channel),
            69..80 => self.update(id, channel),
            80..84 => self.leave(id, channel),
            84..90 => {
                // Beyond four answers the rest waits.
                let count = if self.rng.percent(20) { self.rng.between(5, 12) } else { 1 };
                (0..count).for_each(|_| self.ask_history(id, channel));
            }
            90..93 => self.ask_for_more(id, channel),
            93..96 => self.send(id, &Request::Ping),
            96..98 => self.talk_nonsense(id),
            _ => {}
        }
    }

    pub fn connect(&mut self, id: usize) {
        // The SDK waits a second; all that matters is that the clock can tell.
        self.advance(1);
        let shard = self.rng.below(self.world.count());
        let hinted = self.rng.percent(40).then(|| *self.rng.pick(&CHANNELS));
        let client = &mut self.clients[id];
        let (app, user) = (client.app, client.user.clone());
        let auth = Request::Auth(Auth {
            token: match client.by_token {
                true => token(app, &user, self.world.now.wall_ms, 1 << 40).into(),
                false => Cow::default(),
            },
            key: match client.by_token {
                true => Cow::default(),
                false => format!("{app}.k:sk_{app}_0123456789abcdef").into(),
            },
            client_id: if client.by_token { Cow::default() } else { user.into() },
            resume_connection_id: client.connection.clone().unwrap_or_default().into(),
            ..Auth::default()
        });
        self.world.note(|| format!("client {id} connects to {shard}"));
        let client = &mut self.clients[id];
        if client.mode == Mode::LongPoll {
            client.link = Some(Link::poll(&mut self.world, shard, |line| line.request(&auth)));
            return;
        }
        let Some(socket) = self.world.open(shard, Listener::Http) else { return };
        let mut link = Link::socket(client.mode, socket);
        let target = hinted.map_or("/".to_owned(), |channel| format!("/?channel={channel}"));
        let mut bytes = link.line.opening(&target);
        bytes.extend(link.line.request(&auth));
        link.send(&mut self.world, &bytes);
        client.link = Some(link);
    }

    /// What the SDK does once it is connected, again or for the first time.
    pub fn restore(&mut self, id: usize) {
        for at in 0..self.clients[id].unacked.len() {
            self.send_publish(id, at);
        }
        let rooms = |run: &Run, is: fn(&super::client::PageLimit) -> bool| -> Vec<&'static str> {
            run.clients[id].rooms.iter().filter(|(_, room)| is(room)).map(|(&c, _)| c).collect()
        };
        for channel in rooms(self, |room| room.wanted) {
            self.subscribe(id, channel, false);
        }
        for channel in rooms(self, |room| room.is_watching) {
            self.watch(id, channel);
        }
        for channel in rooms(self, |room| room.own.entered.is_some()) {
            self.subscribe(id, channel, true);
        }
    }

    fn publish(&mut self, id: usize, channel: &'static str) {
        let ephemeral = self.rng.percent(15);
        let parts = if self.rng.percent(25) { self.rng.between(2, 5) } else { 1 };
        self.publish_parts(id, channel, ephemeral, parts);
    }

    pub fn publish_stored(&mut self, id: usize, channel: &'static str) {
        self.publish_parts(id, channel, false, 1);
    }

    fn publish_parts(&mut self, id: usize, channel: &'static str, ephemeral: bool, count: usize) {
        let number = self.ghost.publications.len();
        let parts: Vec<String> = (0..count)
            .map(|part| {
                let pad = self.rng.below(self.profile.data_bytes / count);
                format!("\"{number}.{part}{}\"", "x".repeat(pad))
            })
            .collect();
        let client = &mut self.clients[id];
        client.published += 1;
        let message_id = format!("{}-{}", client.published, client.twin);
        let place = (client.app, channel);
        let (serial, acked, sent) = (None, false, 0);
        let publication = Publication {
            author: id,
            life: client.life,
            channel: place,
            ephemeral,
            parts,
            serial,
            acked,
            refused: false,
            sent,
        };
        self.world.note(|| format!("client {id} publishes {message_id} in {channel}"));
        let publication = self.ghost.publish(&client.user, &message_id, publication);
        client.unacked.push(Unacked { publication, message_id, request: None });
        if client.is_ready() {
            self.send_publish(id, self.clients[id].unacked.len() - 1);
        }
    }

    fn send_publish(&mut self, id: usize, at: usize) {
        let request = self.number(id);
        let client = &mut self.clients[id];
        let Unacked { publication, message_id, request: number } = &mut client.unacked[at];
        *number = Some(request);
        let (publication, message_id) = (*publication, message_id.clone());
        self.expect(id, request, Asked::Publish { publication });
        let publication = &mut self.ghost.publications[publication];
        publication.sent += 1;
        let (channel, ephemeral) = (publication.channel.1, publication.ephemeral);
        let parts = publication.parts.clone();
        let message =
            |part: &'static str, data| Message { name: part.into(), data, ..Message::default() };
        // The SDK sends every stored publish as a batch.
        let content = match (&parts[..], ephemeral || request.is_multiple_of(3)) {
            ([only], true) => Content::One(message("n", only.as_bytes())),
            (all, _) => Content::Batch(all.iter().map(|p| message("n", p.as_bytes())).collect()),
        };
        self.send(
            id,
            &Request::Publish(Publish {
                id: request,
                channel: channel.into(),
                message_id: message_id.into(),
                ephemeral,
                ttl_ms: 0,
                content,
            }),
        );
    }

    pub fn subscribe(&mut self, id: usize, channel: &'static str, enter: bool) {
        let request = self.number(id);
        let is_json = self.clients[id].mode == Mode::Json;
        let known = self.ghost.head((self.clients[id].app, channel));
        let room = self.clients[id].room(channel);
        room.wanted = true;
        room.watched |= is_json;
        let cursor = room.cursor;
        if !room.is_subscribed() {
            if cursor == 0 {
                room.baseline = None;
            }
            let next = (cursor > 0).then_some(cursor + 1);
            let (live, floor) = (false, 0);
            room.stream.push_back(Segment::Subscribed {
                request,
                cursor,
                live,
                next,
                known,
                floor,
            });
        }
        self.world.note(|| format!("client {id} subscribes to {channel} from {cursor}"));
        self.expect(id, request, Asked::Subscribe { channel, cursor, enter });
        let cursor = Cursor::at(cursor);
        self.send(id, &Request::Subscribe { id: request, channel: channel.into(), cursor });
    }

    fn unsubscribe(&mut self, id: usize, channel: &'static str) {
        if !self.clients[id].room(channel).wanted {
            return;
        }
        let request = self.number(id);
        let room = self.clients[id].room(channel);
        room.wanted = false;
        room.is_watching = false;
        room.own.give_up();
        room.stream.push_back(Segment::Unsubscribed { request });
        room.watches.push_back((request, false));
        self.world.note(|| format!("client {id} unsubscribes from {channel}"));
        self.expect(id, request, Asked::Unsubscribe { channel });
        self.send(id, &Request::Unsubscribe { id: request, channel: channel.into() });
    }

    fn watch(&mut self, id: usize, channel: &'static str) {
        if self.clients[id].mode == Mode::Json {
            return;
        }
        let request = self.number(id);
        let room = self.clients[id].room(channel);
        room.is_watching = true;
        room.watches.push_back((request, true));
        self.world.note(|| format!("client {id} watches {channel}"));
        self.expect(id, request, Asked::Watch { channel });
        self.send(id, &Request::PresenceSubscribe { id: request, channel: channel.into() });
    }

    fn unwatch(&mut self, id: usize, channel: &'static str) {
        if !self.clients[id].room(channel).is_watching {
            return;
        }
        let request = self.number(id);
        let room = self.clients[id].room(channel);
        room.is_watching = false;
        room.watches.push_back((request, false));
        self.world.note(|| format!("client {id} unwatches {channel}"));
        self.expect(id, request, Asked::Unwatch { channel });
        self.send(id, &Request::PresenceUnsubscribe { id: request, channel: channel.into() });
    }

    /// Enters, or replaces the state.
    pub fn update(&mut self, id: usize, channel: &'static str) {
        let client = &mut self.clients[id];
        client.states += 1;
        let state = format!("\"{}/f{id}/{channel}/{}\"", client.app, client.states);
        let room = client.room(channel);
        let is_first = room.own.entered.replace(state).is_none();
        match is_first {
            true if !room.is_subscribed() => self.subscribe(id, channel, true),
            true => self.announce(id, channel, Action::Enter),
            false => self.announce(id, channel, Action::Update),
        }
    }

    /// Sends the state of a membership that the client wants.
    pub fn announce(&mut self, id: usize, channel: &'static str, action: Action) {
        let Some(state) = self.clients[id].room(channel).own.entered.clone() else { return };
        let request = self.number(id);
        self.world.note(|| format!("client {id}: {action:?} {state}"));
        self.expect(id, request, Asked::Enter { channel });
        self.send_presence(id, request, channel, action, &state);
    }

    fn leave(&mut self, id: usize, channel: &'static str) {
        if self.clients[id].room(channel).own.entered.is_some() {
            self.leave_for_certain(id, channel);
        }
    }

    pub fn leave_for_certain(&mut self, id: usize, channel: &'static str) {
        let own = &mut self.clients[id].room(channel).own;
        own.give_up();
        own.lingers = false;
        let request = self.number(id);
        self.world.note(|| format!("client {id} leaves {channel}"));
        self.expect(id, request, Asked::Leave { channel });
        self.send_presence(id, request, channel, Action::Leave, "");
    }

    fn send_presence(
        &mut self,
        id: usize,
        request: u64,
        channel: &str,
        action: Action,
        data: &str,
    ) {
        if self.may_enter(id, channel, action)
            && let Some(connection) = &self.clients[id].connection
        {
            *self.enters.entry((connection.clone(), channel.to_owned())).or_default() += 1;
        }
        let (channel, encoding) = (channel.into(), "".into());
        let data = data.as_bytes();
        self.send(
            id,
            &Request::Presence(Presence { id: request, channel, action, data, encoding }),
        );
    }

    /// An update enters a client that is about to enter. One that gave up a connection before it
    /// was answered cannot know whether it is a member.
    fn may_enter(&self, id: usize, channel: &str, action: Action) -> bool {
        let client = &self.clients[id];
        let is_about_to = |asked: &Asked| match asked {
            Asked::Subscribe { channel: other, enter, .. } => *enter && *other == channel,
            _ => false,
        };
        match action {
            Action::Enter => true,
            Action::Update => client.shadowed || client.asked.values().any(is_about_to),
            Action::Leave => false,
        }
    }

    fn ask_history(&mut self, id: usize, channel: &'static str) {
        let request = self.number(id);
        let floor = self.ghost.head((self.clients[id].app, channel));
        let limit = *self.rng.pick(&[0, 1, 2, 5, 100]);
        let before =
            if self.rng.percent(50) { 0 } else { self.rng.below(floor as usize + 2) as u64 };
        self.expect(id, request, Asked::History { channel, limit, before, floor });
        let before = Cursor::at(before);
        self.send(id, &Request::History { id: request, channel: channel.into(), limit, before });
    }

    fn ask_for_more(&mut self, id: usize, channel: &'static str) {
        let cursor = self.clients[id].room(channel).cursor;
        let from = self.rng.below(cursor as usize + 1) as u64;
        self.fetch(id, channel, from, false);
    }

    pub fn fetch(&mut self, id: usize, channel: &'static str, from: u64, heal: bool) {
        let request = self.number(id);
        self.world.note(|| format!("client {id} fetches {channel} after {from}"));
        self.expect(id, request, Asked::Fetch { channel, from, heal });
        self.send(id, &Request::Fetch { id: request, channel: channel.into(), from_serial: from });
    }

    /// Sends what is refused, with an answer.
    fn talk_nonsense(&mut self, id: usize) {
        let request = self.number(id);
        self.expect(id, request, Asked::Nonsense);
        let channel = ":no channel".into();
        let refused = match self.rng.below(3) {
            0 => Request::Unsubscribe { id: request, channel },
            1 => Request::Fetch { id: request, channel, from_serial: 7 },
            _ => Request::Subscribe { id: request, channel, cursor: Cursor::None },
        };
        self.send(id, &refused);
    }

    /// Says goodbye. A client that comes back is a new one that knows where the old one was.
    pub fn close(&mut self, id: usize) {
        let Some(mut link) = self.clients[id].link.take() else { return };
        self.world.note(|| format!("client {id} closes"));
        match &link.carrier {
            Carrier::Socket(socket) => {
                let socket = *socket;
                let body = match self.rng.below(3) {
                    0 => Vec::new(),
                    1 => close_body(1001, "away"),
                    _ => close_body(1000, "client close"),
                };
                let bytes = link.line.websocket(Opcode::Close, &body);
                self.world.send(socket, &bytes);
                self.world.sockets[socket].ending = Some(Ending::Eof);
                self.world.sockets[socket].room = usize::MAX / 2;
            }
            Carrier::Poll(polling) => {
                if let Some(session) = polling.session {
                    self.world.ask(polling.shard, PollRequest::Disconnect { session });
                }
            }
        }
        self.forget_connection(id);
        let client = &mut self.clients[id];
        client.connection = None;
        client.abandoned.clear();
        client.life += 1;
        client.unacked.clear();
        for room in client.rooms.values_mut() {
            room.wanted = false;
            room.is_watching = false;
            room.own.give_up();
            room.own.lingers = false;
        }
    }

    /// The connection breaks; the client will be back.
    pub fn lose(&mut self, id: usize) {
        let Some(mut link) = self.clients[id].link.take() else { return };
        let loss = *self.rng.pick(&[Loss::Reset, Loss::Eof, Loss::GivenUp, Loss::Silent]);
        self.world.note(|| format!("client {id} is lost: {loss:?}"));
        let mut was_over = false;
        if let Carrier::Socket(at) = link.carrier {
            was_over = self.world.is_over(at);
            if loss == Loss::GivenUp {
                let bytes = link.line.websocket(Opcode::Close, &close_body(4002, "keep-alive"));
                self.world.send(at, &bytes);
            }
            self.world.sockets[at].ending = match loss {
                Loss::Reset => Some(Ending::Reset),
                Loss::Eof | Loss::GivenUp => Some(Ending::Eof),
                Loss::Silent => None,
            };
        }
        self.clients[id].shadowed |= !link.ready;
        if let (Carrier::Socket(at), true, Loss::Silent) = (&link.carrier, link.ready, loss) {
            self.clients[id].abandoned.push(*at);
        }
        // What an earlier connection lost may be on its way to this one, and then linger again.
        let is_returning = link.ready && link.ready_since == self.world.standstills;
        for own in self.clients[id].rooms.values_mut().map(|room| &mut room.own) {
            own.lingers |= is_returning;
        }
        self.forget_connection(id);
        let may_be_slow = self.profile.may_be_slow || self.clients[id].shadowed;
        let is_certain = self.profile.grace_ms > 0 && !may_be_slow && !was_over;
        self.doubt_memberships(id, is_certain);
    }

    /// Whoever comes back within the grace has never been away, if the loss is no older than now.
    pub fn doubt_memberships(&mut self, id: usize, is_certain: bool) {
        let until_ms = self.world.now.mono_ms + self.profile.grace_ms;
        for own in self.clients[id].rooms.values_mut().map(|room| &mut room.own) {
            if is_certain && own.since.is_some() {
                own.until_ms.get_or_insert(until_ms);
                own.acked = false;
            } else {
                own.doubt();
            }
        }
    }

    /// Nothing that was asked will be answered.
    pub fn forget_connection(&mut self, id: usize) {
        let client = &mut self.clients[id];
        client.link = None;
        for (channel, room) in &mut client.rooms {
            room.own.lingers |= client.asked.values().any(|asked| asked.is_leave_of(channel));
        }
        client.asked.clear();
        client.unacked.iter_mut().for_each(|unacked| unacked.request = None);
        for room in client.rooms.values_mut() {
            room.stream.clear();
            room.watches.clear();
            room.watched = false;
            room.view.clear();
            room.copy = Default::default();
            room.leaves.clear();
            room.healing = false;
        }
    }

    fn stall(&mut self, id: usize) {
        let room = self.rng.below(400);
        let Some(link) = &mut self.clients[id].link else { return };
        if link.stalled {
            return self.unstall(id);
        }
        link.stalled = true;
        if let Carrier::Socket(socket) = link.carrier {
            self.world.sockets[socket].room = room;
        }
        self.world.note(|| format!("client {id} stalls"));
    }

    pub fn unstall(&mut self, id: usize) {
        let Some(link) = &mut self.clients[id].link else { return };
        link.stalled = false;
        if let Carrier::Socket(socket) = link.carrier {
            self.world.sockets[socket].room = usize::MAX / 2;
        }
        self.world.note(|| format!("client {id} reads again"));
    }

    pub fn number(&mut self, id: usize) -> u64 {
        self.clients[id].requests += 1;
        self.clients[id].requests
    }

    pub fn expect(&mut self, id: usize, request: u64, asked: Asked) {
        self.clients[id].asked.insert(request, asked);
    }

    fn send(&mut self, id: usize, request: &Request<'_>) {
        let Some(link) = &mut self.clients[id].link else { return };
        let bytes = link.line.request(request);
        link.send(&mut self.world, &bytes);
    }
}
