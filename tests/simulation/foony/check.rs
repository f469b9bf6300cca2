//! What must hold when everything has come to rest.

use std::collections::BTreeMap;

use headcount::channel::{Content, Draft, PageLimit as Space, Part, Storage};
use headcount::session::{Answer, json_state};
use headcount::shard::Command;

use super::super::profile::APPS;
use super::ghost::Publication;
use super::line::Mode;
use super::profile::CHANNELS;
use super::run::Run;

impl Run {
    pub fn check_rest(&mut self) {
        self.ghost.check(self.world.store_fails_per_mille > 0);
        let mut members = 0;
        for app in APPS {
            for channel in CHANNELS {
                self.check_log(app, channel);
                members += self.check_members(app, channel);
            }
        }
        assert_eq!(self.world.total().members, members, "the gauge of members");
        for id in 0..self.clients.len() {
            self.check_client(id);
        }
    }

    /// The owner keeps the end of what the ghost knows, and as much as its policy says.
    fn check_log(&mut self, app: &'static str, channel: &'static str) {
        let answer = self.world.query(app, channel, |reply_to| Command::History {
            reply_to,
            before: None,
            limit: Space { messages: usize::MAX, bytes: usize::MAX },
        });
        let Answer::History { messages, .. } = answer else { panic!("{answer:?}") };
        let head = self.ghost.head((app, channel));
        let policy = self.world.settings.policies.for_channel(channel);
        let kept = head.min(u64::from(policy.history_messages));
        let is_aged = policy.history_age_s < 1000 || self.profile.data_bytes > 1000;
        assert!(messages.len() as u64 == kept || is_aged, "{} of {kept} kept", messages.len());
        for (message, serial) in messages.iter().rev().zip((1..=head).rev()) {
            assert_eq!(message.serial, serial, "the log of {channel} has a hole");
            let known = self.ghost.logs[&(app, channel)].get(&serial);
            if let Some((number, _)) = known {
                let author = &self.clients[self.ghost.publications[*number].author];
                assert_eq!(*message.client_id, *author.user);
            }
        }
    }

    fn check_client(&mut self, id: usize) {
        let client = &self.clients[id];
        if client.retired {
            return;
        }
        assert!(client.asked.is_empty(), "client {id} waits for {:?}", client.asked);
        assert!(client.unacked.is_empty(), "client {id} waits for {:?}", client.unacked);
        for (channel, room) in client.rooms.iter().filter(|(_, room)| room.wanted) {
            assert!(room.is_live(), "client {id} in {channel}");
            let head = self.ghost.head((client.app, *channel));
            assert_eq!(room.cursor, head, "client {id} is not at the head of {channel}");
            // A client whose cursor is from before has seen what is before it.
            let from = room.baseline.unwrap_or(head);
            let missing = (from..=head).find(|serial| !room.applied.contains(serial));
            assert_eq!(missing, None, "client {id} lost a message of {channel} after {from}");
        }
    }

    /// The owner's members are those who want to be, and every watcher knows it.
    fn check_members(&mut self, app: &'static str, channel: &'static str) -> u64 {
        let shown = self.world.members(app, channel);
        let mut owned: BTreeMap<(String, String), String> = BTreeMap::new();
        for member in &shown {
            assert!(!member.lingering, "a ghost lingers in {channel}: {member:?}");
            let name = (member.identity.user.to_string(), member.identity.connection.to_string());
            let json = json_state(&member.state);
            let data = String::from_utf8(json.data.to_vec()).expect("a state");
            assert!(owned.insert(name, data).is_none(), "{member:?} twice");
        }
        let mut expected: Vec<(String, String)> = Vec::new();
        for client in self.clients.iter().filter(|c| c.app == app && c.is_ready()) {
            if let Some(data) = &client.rooms[channel].own.entered {
                let connection = client.connection.clone().unwrap_or_default();
                let found = owned.get(&(client.user.clone(), connection));
                assert_eq!(found, Some(data), "client {} in {channel}", client.id);
                expected.push((client.user.clone(), data.clone()));
            }
        }
        for member in self.members.iter().filter(|m| m.app == app) {
            let state = member.present.get(channel).map(|state| format!("\"{state}\""));
            expected.extend(state.map(|state| (member.user.clone(), state)));
        }
        let mut found: Vec<(String, String)> =
            owned.iter().map(|((user, _), data)| (user.clone(), data.clone())).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "owner's set (left) and members (right): {channel} of {app}");
        self.check_views(app, channel, &owned);
        shown.len() as u64
    }

    fn check_views(&self, app: &str, channel: &str, owned: &BTreeMap<(String, String), String>) {
        for client in self.clients.iter().filter(|c| c.app == app && c.is_ready()) {
            let room = &client.rooms[channel];
            let watches = match client.mode {
                Mode::Json => room.wanted,
                _ => room.is_watching,
            };
            if watches {
                assert_eq!(&room.view, owned, "client {} watches {channel}", client.id);
            }
        }
        let has_clients = self
            .clients
            .iter()
            .any(|c| c.app == app && c.is_ready() && c.rooms[channel].own.entered.is_some());
        for member in self.members.iter().filter(|m| m.app == app && has_clients) {
            if !member.present.contains_key(channel) {
                continue;
            }
            let set = member.sets.get(channel).cloned().unwrap_or_default();
            let bare = |data: &str| data.trim_matches('"').to_owned();
            let mut others: Vec<(String, String)> =
                owned.iter().map(|((user, _), data)| (user.clone(), bare(data))).collect();
            let is_other = |(user, _): &(String, String)| *user != member.user;
            others.retain(is_other);
            others.sort();
            let mut set: Vec<(String, String)> = set.into_iter().filter(is_other).collect();
            set.sort();
            assert_eq!(set, others, "{} is shown {channel}", member.user);
        }
    }

    /// Of two connections of one session the server has ended the earlier one.
    pub fn check_abandoned(&mut self) {
        for client in self.clients.iter_mut().filter(|c| c.is_ready() && !c.shadowed) {
            for at in std::mem::take(&mut client.abandoned) {
                assert!(
                    self.world.is_over(at),
                    "client {} is back, and socket {at} is open",
                    client.id
                );
            }
        }
    }

    /// Every channel goes on where it ended, also one of which nothing else is kept.
    pub fn check_heads(&mut self) {
        for app in APPS {
            for channel in CHANNELS {
                self.check_head(app, channel);
            }
        }
    }

    fn check_head(&mut self, app: &'static str, channel: &'static str) {
        let place = (app, channel);
        let head = self.ghost.head(place);
        let is_unknown = |p: &&Publication| {
            p.channel == place && !p.ephemeral && p.sent > 0 && p.serial.is_none()
        };
        let unknown = self.ghost.publications.iter().filter(is_unknown).count() as u64;
        if unknown == 0 && head > 0 {
            let answer = self.world.query(app, channel, |reply_to| Command::Fetch {
                reply_to,
                after: head,
                limit: Space { messages: usize::MAX, bytes: usize::MAX },
            });
            let Answer::Fetched { messages, resumed } = answer else { panic!("{answer:?}") };
            assert!(resumed && messages.is_empty(), "{place:?} after {head}: {messages:?}");
        }
        let part = Part { name: "n".into(), data: "0".into(), encoding: "".into() };
        let draft = Draft {
            id: "".into(),
            client_id: "guest".into(),
            content: Content::One(part),
            storage: Storage::Stored,
        };
        let answer = self
            .world
            .query(app, channel, |reply_to| Command::Publish { reply_to, draft: Box::new(draft) });
        let Answer::Published { serial } = answer else { panic!("{answer:?}") };
        let expected = head + 1..=head + unknown + 1;
        assert!(expected.contains(&serial), "{place:?} goes on with {serial}, not {expected:?}");
    }

    /// Everybody has gone: so has every trace of them but what was published.
    pub fn check_emptiness(&mut self) {
        let total = self.world.total();
        assert_eq!(total.members, 0, "members");
        assert_eq!(total.subscriptions, 0, "subscriptions");
        assert_eq!(total.connections, 0, "connections");
        assert_eq!(total.handed_off, total.adopted, "hand-offs");
        let used: std::collections::BTreeSet<_> =
            self.ghost.publications.iter().map(|p| p.channel).collect();
        assert!(total.channels <= used.len() as u64, "owned channels");
        for shard in &self.world.shards {
            assert_eq!(shard.lost_member_count(), 0, "lost members");
            assert_eq!(shard.home_channel_count(), 0, "channels with subscribers");
            assert_eq!(shard.registered_session_count(), 0, "sessions in the registry");
        }
    }
}
