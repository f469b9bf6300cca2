//! What clients make of what they hear, and what must hold for every word of it.

use headcount::channel::PageLimit as Space;
use headcount::session::Answer;
use headcount::shard::Command;
use headcount::wire::foony::Action;
use headcount::wire::websocket::Opcode;

use super::super::world::Ending;
use super::client::{Asked, Segment};
use super::line::{Heard, MemberSeen, Mode, Received};
use super::link::Carrier;
use super::profile::CHANNELS;
use super::run::Run;

/// What the server says when its store has failed.
const STORE_FAILED: u32 = 50001;

/// The server does not mind how long a page is.
const EVERYTHING: Space = Space { messages: usize::MAX, bytes: usize::MAX };

impl Run {
    /// Hears what has arrived; whether there was anything.
    pub fn read(&mut self, id: usize) -> bool {
        let Some(mut link) = self.clients[id].link.take() else { return false };
        let look = link.look(&mut self.world);
        self.clients[id].link = Some(link);
        let heard = !look.heard.is_empty() || look.ended;
        for (made_after, one) in look.heard {
            self.hear(id, made_after, one);
            if self.clients[id].link.is_none() {
                // It has given the connection up.
                return heard;
            }
        }
        if look.ended {
            self.ended_by_server(id);
        }
        heard
    }

    fn ended_by_server(&mut self, id: usize) {
        self.world.note(|| format!("client {id} was closed by the server"));
        let was_ready = self.clients[id].is_ready();
        let Some(link) = self.clients[id].link.take() else { return };
        assert!(
            self.profile.may_be_slow || !was_ready || self.clients[id].shadowed,
            "client {id} was closed for nothing"
        );
        if let Carrier::Socket(socket) = link.carrier {
            self.world.sockets[socket].ending = Some(Ending::Eof);
            self.world.sockets[socket].room = usize::MAX / 2;
        }
        self.forget_connection(id);
        self.doubt_memberships(id, false);
    }

    fn hear(&mut self, id: usize, made_after: u64, heard: Heard) {
        if self.world.trace {
            eprintln!("  client {id} hears {heard:?} (made after {made_after})");
        }
        match heard {
            Heard::Switched | Heard::Pong | Heard::PeerGreeting | Heard::Close(_) => {}
            Heard::HttpError(head) => assert!(head.starts_with("HTTP/1.1 408 "), "{head}"),
            Heard::WebSocketPing(body) => self.pong(id, &body),
            Heard::Connected { connection, client } => self.connected(id, connection, client),
            Heard::Ack { id: request, serial, resumed } => {
                self.acknowledged(id, request, serial, resumed);
            }
            Heard::Message(message) => self.hear_message(id, &message),
            Heard::Member(member) if self.loses(id, &member) => {}
            Heard::Member(member) => self.hear_member(id, made_after, member),
            Heard::Digest(digest) => self.hear_digest(id, &digest),
            Heard::Error { id: 0, .. } => {
                assert!(!self.clients[id].is_ready(), "client {id} hears {heard:?}");
            }
            Heard::Error { id: request, code } if code == STORE_FAILED => {
                self.hear_store_failed(id, request);
            }
            Heard::Error { id: request, code } => {
                let asked = self.take_asked(id, request);
                // It may have stopped to watch meanwhile, which the server hears first.
                let is_expected = matches!(asked, Asked::Nonsense | Asked::Check { .. });
                assert!(is_expected, "{asked:?} of {id} is refused: {code}");
            }
            Heard::History { id: request, channel, messages, more } => {
                self.hear_history(id, request, &channel, &messages, more);
            }
            Heard::Fetched { id: request, channel, messages, resumed } => {
                self.hear_fetched(id, request, &channel, &messages, resumed);
            }
        }
    }

    /// A publish is stored or not. Whatever else it was is asked again.
    fn hear_store_failed(&mut self, id: usize, request: u64) {
        assert!(self.world.store_fails_per_mille > 0, "client {id}: {request} fails");
        match self.take_asked(id, request) {
            Asked::Publish { publication } => {
                self.ghost.publications[publication].refused = true;
                self.clients[id].unacked.retain(|unacked| unacked.publication != publication);
            }
            Asked::Fetch { channel, from, heal: true } => self.fetch(id, channel, from, true),
            Asked::Fetch { .. } | Asked::History { .. } => {}
            // As the SDKs: the subscription is made again with the next connection.
            Asked::Subscribe { .. } => self.lose(id),
            asked => panic!("{asked:?} of {id} does not need the store"),
        }
    }

    fn pong(&mut self, id: usize, body: &[u8]) {
        let Some(link) = &mut self.clients[id].link else { return };
        let bytes = link.line.websocket(Opcode::Pong, body);
        link.send(&mut self.world, &bytes);
    }

    fn connected(&mut self, id: usize, connection: String, user: String) {
        let client = &mut self.clients[id];
        assert_eq!(client.user, user);
        let known = client.connection.get_or_insert_with(|| connection.clone());
        assert_eq!(*known, connection, "client {id} comes back as another connection");
        let link = client.link.as_mut().expect("a connection");
        assert!(!std::mem::replace(&mut link.ready, true), "connected twice");
        link.ready_since = self.world.standstills;
        self.restore(id);
    }

    /// Every request is answered once.
    fn take_asked(&mut self, id: usize, request: u64) -> Asked {
        let asked = self.clients[id].asked.remove(&request);
        asked.unwrap_or_else(|| panic!("client {id} is answered {request}, which is not open"))
    }

    fn acknowledged(&mut self, id: usize, request: u64, serial: u64, resumed: Option<bool>) {
        let asked = self.take_asked(id, request);
        let is_subscribe = matches!(asked, Asked::Subscribe { .. });
        assert!(is_subscribe || resumed.is_none(), "{asked:?}: {resumed:?}");
        assert!(serial == 0 || matches!(asked, Asked::Publish { .. }), "{asked:?}: {serial}");
        match asked {
            Asked::Subscribe { channel, cursor, enter } => {
                assert_eq!(resumed.is_some(), cursor > 0, "an answer to the cursor");
                self.subscribed(id, request, channel, cursor, resumed);
                if enter {
                    self.announce(id, channel, Action::Enter);
                }
            }
            Asked::Unsubscribe { channel } => self.unsubscribed(id, request, channel),
            Asked::Publish { publication } => self.published(id, publication, serial),
            Asked::Enter { channel } => {
                let now_ms = self.world.now.mono_ms;
                let own = &mut self.clients[id].room(channel).own;
                if own.entered.is_some() {
                    own.acked = true;
                    own.acked_ms = now_ms;
                    own.until_ms = None;
                }
            }
            Asked::Leave { .. } => {}
            Asked::Watch { channel } => {
                let room = self.clients[id].room(channel);
                if let Some(at) = room.watches.iter().position(|(number, _)| *number == request) {
                    room.watches.drain(..=at);
                    room.watched = true;
                }
            }
            Asked::Check { channel } => self.copy_checked(id, channel),
            Asked::Unwatch { channel } => self.unwatched(id, request, channel),
            asked => panic!("{asked:?} of client {id} is acknowledged"),
        }
    }

    fn published(&mut self, id: usize, number: usize, serial: u64) {
        let publication = &mut self.ghost.publications[number];
        publication.acked = true;
        assert_eq!(publication.ephemeral, serial == 0, "{publication:?}: {serial}");
        if serial != 0 {
            self.ghost.learn(number, serial, None);
        }
        self.clients[id].unacked.retain(|unacked| unacked.publication != number);
    }

    fn unwatched(&mut self, id: usize, request: u64, channel: &str) {
        let client = &mut self.clients[id];
        let is_json = client.mode == Mode::Json;
        let room = client.room(channel);
        if let Some(at) = room.watches.iter().position(|(number, _)| *number == request) {
            room.watches.drain(..=at);
            let subscribes = |s: &Segment| matches!(s, Segment::Subscribed { .. });
            room.watched = is_json && room.stream.iter().any(subscribes);
            room.view.clear();
            room.copy = Default::default();
        }
    }

    fn unsubscribed(&mut self, id: usize, request: u64, channel: &str) {
        let room = self.clients[id].room(channel);
        let is_it =
            |s: &Segment| matches!(s, Segment::Unsubscribed { request: r } if *r == request);
        if let Some(at) = room.stream.iter().position(is_it) {
            room.stream.drain(..=at);
        }
        self.unwatched(id, request, channel);
    }

    fn subscribed(
        &mut self,
        id: usize,
        request: u64,
        channel: &'static str,
        cursor: u64,
        resumed: Option<bool>,
    ) {
        if resumed == Some(false) {
            self.assert_aged_out(id, channel, cursor, "a subscription");
        }
        let begins =
            |s: &Segment| matches!(s, Segment::Subscribed { request: r, .. } if *r == request);
        let at = self.clients[id].room(channel).stream.iter().position(begins);
        assert!(at.is_none_or(|at| at == 0), "client {id}: subscribed before it unsubscribed");
        if at.is_some() {
            let head = if resumed == Some(true) { 0 } else { self.head(id, channel) };
            let room = self.clients[id].room(channel);
            if let Some(Segment::Subscribed { live, next, floor, .. }) = room.stream.front_mut() {
                *live = true;
                if resumed == Some(false) {
                    assert_eq!(*next, Some(cursor + 1), "a replay that is not complete");
                    *next = None;
                }
                *floor = head;
            }
        }
        if resumed == Some(false) {
            self.clients[id].room(channel).discontinue();
        }
    }

    fn hear_message(&mut self, id: usize, message: &Received) {
        let channel = self.channel_of(&message.channel);
        let number = self.ghost.see((self.clients[id].app, channel), message);
        let front = self.clients[id].room(channel).stream.front().cloned();
        let Some(Segment::Subscribed { live, next, known, floor, cursor, .. }) = front else {
            panic!("client {id} did not ask for {message:?}")
        };
        let serial = message.serial;
        if serial == 0 {
            assert!(live, "client {id} is replayed {message:?}");
            let times = self.clients[id].ephemeral.entry(number).or_default();
            *times += 1;
            let sent = self.ghost.publications[number].sent;
            assert!(*times <= sent, "client {id}: {times} times, sent {sent}: {message:?}");
            return;
        }
        match next {
            Some(next) if serial == next => {}
            Some(next) if live && serial > next => {
                self.assert_aged_out(id, channel, next - 1, "a gap");
            }
            None if live && serial > floor + 1 => {
                self.assert_aged_out(id, channel, known, "the first message");
            }
            None if live => {}
            _ => panic!("client {id} expects {next:?} (from {cursor}, live: {live}): {message:?}"),
        }
        let room = self.clients[id].room(channel);
        if let Some(Segment::Subscribed { next, .. }) = room.stream.front_mut() {
            *next = Some(serial + 1);
        }
        self.apply(id, channel, message);
    }

    /// What the SDK does with a message, wherever it came from.
    fn apply(&mut self, id: usize, channel: &'static str, message: &Received) {
        let serial = message.serial;
        let room = self.clients[id].room(channel);
        if room.seen.insert((message.client.clone(), message.id.clone())) {
            assert!(room.applied.insert(serial), "client {id}: {serial} twice in {channel}");
        }
        if room.cursor == 0 {
            room.baseline = Some(serial);
            room.cursor = serial;
        } else if serial == room.cursor + 1 {
            room.cursor = serial;
        } else if serial > room.cursor && !room.healing && room.is_live() {
            room.healing = true;
            let from = room.cursor;
            self.fetch(id, channel, from, true);
        }
    }

    fn hear_fetched(
        &mut self,
        id: usize,
        request: u64,
        name: &str,
        messages: &[Received],
        resumed: bool,
    ) {
        let Asked::Fetch { channel, from, heal } = self.take_asked(id, request) else {
            panic!("client {id} fetched nothing with {request}")
        };
        assert_eq!(name, channel);
        for (message, serial) in messages.iter().zip(from + 1..) {
            assert_eq!(message.serial, serial, "client {id} fetched from {from}");
            self.ghost.see((self.clients[id].app, channel), message);
            if heal {
                self.apply(id, channel, message);
            }
        }
        if !resumed {
            assert!(messages.is_empty(), "client {id} is sent what is of no use to it");
            self.assert_aged_out(id, channel, from, "a fetch");
        }
        if heal {
            let room = self.clients[id].room(channel);
            room.healing = false;
            if !resumed {
                room.discontinue();
            }
        }
    }

    fn hear_history(
        &mut self,
        id: usize,
        request: u64,
        name: &str,
        messages: &[Received],
        more: bool,
    ) {
        let Asked::History { channel, limit, before, floor } = self.take_asked(id, request) else {
            panic!("client {id} did not ask for history with {request}")
        };
        assert_eq!(name, channel);
        let limit = if limit == 0 { 100 } else { limit as usize };
        assert!(messages.len() <= limit, "{} of {limit} messages", messages.len());
        let serials: Vec<u64> = messages.iter().map(|message| message.serial).collect();
        assert!(serials.windows(2).all(|two| two[0] + 1 == two[1]), "{serials:?}");
        for message in messages {
            self.ghost.see((self.clients[id].app, channel), message);
        }
        let newest = serials.last().copied().unwrap_or(0);
        let expected = if before == 0 { floor } else { floor.min(before - 1) };
        if newest < expected {
            self.assert_aged_out(id, channel, expected - 1, "the end of a page");
        }
        assert!(before == 0 || newest < before, "{newest} is not before {before}");
        let oldest = serials.first().copied().unwrap_or(newest + 1);
        if !more && oldest > 1 && !serials.is_empty() {
            self.assert_aged_out(id, channel, oldest - 2, "the last page");
        }
        assert!(!more || oldest > 1, "there is nothing before {oldest}");
        let is_long = self.profile.data_bytes > 1000;
        assert!(!more || messages.len() == limit || is_long, "a page that is not full");
    }

    fn hear_member(&mut self, id: usize, made_after: u64, member: MemberSeen) {
        self.copy_member(id, &member);
        let MemberSeen { action, channel: name, client: user, connection, data, encoding, .. } =
            member;
        let channel = self.channel_of(&name);
        let app = self.clients[id].app;
        assert_eq!(encoding, "");
        let room = self.clients[id].room(channel);
        let invited = room.watched || room.watches.iter().any(|(_, begins)| *begins);
        assert!(invited, "client {id} does not watch {channel}: {action:?} {data}");
        let is_quiet = !data.is_empty() || action == Action::Leave;
        let is_own_state = data.is_empty()
            || data.contains(&format!("{app}/")) && data.contains(&format!("/{channel}/"));
        assert!(is_quiet && is_own_state, "client {id} is shown {data} in {channel} of {app}");
        for other in self.clients.iter().filter(|c| c.app == app) {
            if other.connection.as_ref() != Some(&connection) {
                continue;
            }
            assert_eq!(other.user, user, "whose connection is {connection}?");
            let own = &other.rooms[channel].own;
            // Whoever is closed as slow may not know it yet.
            let is_certain =
                !self.profile.may_be_slow && own.since.is_some_and(|since| since <= made_after);
            assert!(
                !(is_certain && action == Action::Leave),
                "false leave: client {id} is told that client {} left {channel}",
                other.id
            );
        }
        if action == Action::Leave {
            self.count_leave(id, channel, &connection);
        }
        let view = &mut self.clients[id].room(channel).view;
        match action {
            Action::Leave => {
                view.remove(&(user, connection));
            }
            Action::Enter | Action::Update => {
                view.insert((user, connection), data);
            }
        }
    }

    /// Nobody is told of more leaves than there were.
    fn count_leave(&mut self, id: usize, channel: &str, connection: &str) {
        let leaves = self.clients[id].room(channel).leaves.entry(connection.to_owned());
        let leaves = *leaves.and_modify(|count| *count += 1).or_insert(1);
        let is_member_of_ours = self.enters.keys().any(|(known, _)| known == connection);
        let name = (connection.to_owned(), channel.to_owned());
        let enters = self.enters.get(&name).copied().unwrap_or(0);
        assert!(
            leaves <= enters || !is_member_of_ours,
            "client {id} hears of {leaves} leaves of {connection}, which entered {enters} times"
        );
    }

    pub fn channel_of(&self, name: &str) -> &'static str {
        CHANNELS.iter().find(|channel| **channel == name).expect("a channel of the run")
    }

    /// The owner no longer has everything after this serial, and so it may say.
    fn assert_aged_out(&mut self, id: usize, channel: &str, after: u64, what: &str) {
        let app = self.clients[id].app;
        let answer = self.world.query(app, channel, |reply_to| Command::Fetch {
            reply_to,
            after,
            limit: EVERYTHING,
        });
        let Answer::Fetched { messages, resumed } = answer else { panic!("{answer:?}") };
        // What a failed write has stored, subscribers may have to fetch.
        let is_live = matches!(what, "a gap" | "the first message");
        assert!(
            !resumed || is_live && self.world.store_fails_per_mille > 0,
            "client {id} is told of {what} after {after} in {channel}, but {} messages are kept",
            messages.len()
        );
    }

    /// The newest serial, as far as it is kept or known.
    pub fn head(&mut self, id: usize, channel: &'static str) -> u64 {
        let app = self.clients[id].app;
        let answer = self.world.query(app, channel, |reply_to| Command::History {
            reply_to,
            before: None,
            limit: Space { messages: 1, bytes: usize::MAX },
        });
        let Answer::History { messages, .. } = answer else { panic!("{answer:?}") };
        let known = self.ghost.head((app, channel));
        messages.last().map_or(known, |newest| newest.serial.max(known))
    }
}
