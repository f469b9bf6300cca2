//! Presence history: the events of the members of a channel, as messages of a log beside it. Every
//! now and then an entry lists everyone who is present, so that who was present at a time is known
//! from the entries since the last list.

use std::sync::Arc;

use super::Owner;
use super::channel_entry::OwnedChannel;
use crate::channel::{Change, ChangeKind, Content, Draft, Member, Members, Part, Storage};
use crate::ids::{ChannelKey, Clocks, Timestamp, presence_log, presence_logged};
use crate::policy::LISTS_PER_HISTORY;
use crate::session::presence_history::{LoggedMember, PresenceAction, snapshot_mark};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, ReplyTo};

/// Events after which an entry lists everyone; more for channels with more members.
const EVENTS_PER_LIST: usize = 1000;

/// Channels that are listed at once because it is time.
const LISTS_AT_ONCE: usize = 256;

/// Bytes of states in a list of members; with more it is one of names only.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// How far the presence history of a channel has come since it last listed everyone.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    events: usize,
    listed: Timestamp,
}

/// What presence history says of changes; nothing when it is not kept.
pub(super) fn events_of(channel: &OwnedChannel, changes: &[Change]) -> Vec<Part> {
    match channel.policy.presence_log {
        Some(_) => changes.iter().filter_map(event).collect(),
        None => Vec::new(),
    }
}

fn event(change: &Change) -> Option<Part> {
    let action = match change.kind {
        ChangeKind::Enter => PresenceAction::Enter,
        ChangeKind::Update => PresenceAction::Update,
        ChangeKind::Leave => PresenceAction::Leave,
        ChangeKind::Peer => return None,
    };
    Some(LoggedMember::new(&change.identity, Some(&change.state)).to_part(action))
}

/// A mark, and everyone who is present.
fn snapshot_of(now: Clocks, members: &Members) -> impl Iterator<Item = Part> {
    let has_states = members.encoded_bytes() <= LIST_BYTES_MAX;
    let present = move |member: &Member| {
        let state = has_states.then_some(&member.state);
        let announced_ms = now.wall_ms.saturating_sub(member.age_ms(now));
        LoggedMember::new(&member.identity, state)
            .announced_at(announced_ms)
            .to_part(PresenceAction::Present)
    };
    std::iter::once(snapshot_mark()).chain(members.iter().map(present))
}

impl Owner {
    /// Adds events to the presence history of a channel, and a list of everyone when it is time.
    pub(super) fn log_presence(&mut self, cx: &mut ShardContext, slot: u32, events: Vec<Part>) {
        if events.is_empty() {
            return;
        }
        let logged = self.presence_logged.get(&slot).copied();
        let members = self.entry(slot).presence.members().len();
        let logged = logged.filter(|logged| {
            let is_long = logged.events > EVENTS_PER_LIST.max(4 * members);
            !is_long && cx.now.mono_ms < logged.listed.ms() + self.list_every_ms(slot)
        });
        let Some(logged) = logged else { return self.list(cx, slot, events) };
        let logged = Logged { events: logged.events + events.len(), ..logged };
        match members {
            // Who comes next is listed.
            0 => self.presence_logged.remove(&slot),
            _ => self.presence_logged.insert(slot, logged),
        };
        let log = self.log_of(cx, slot);
        self.append_presence(cx, log, events);
    }

    /// Lists the members of channels that have not been listed for a while, so that there is a list
    /// for every time that history reaches back to, and of those that have lost an entry.
    pub(super) fn list_members(&mut self, cx: &mut ShardContext) {
        for log in std::mem::take(&mut cx.presence_history_lost) {
            let name = presence_logged(&log.name).unwrap_or_default();
            let channel = cx.settings.router.key(&log.app, name);
            match self.channels.find_key(&channel) {
                Some(slot) => self.list(cx, slot, Vec::new()),
                // Nobody is left.
                None => self.append_presence(cx, log, vec![snapshot_mark()]),
            }
        }
        let now_ms = cx.now.mono_ms;
        let logged = self.presence_logged.iter();
        let mut due: Vec<u32> = logged
            .filter(|(slot, logged)| now_ms >= logged.listed.ms() + self.list_every_ms(**slot))
            .map(|(slot, _)| *slot)
            .collect();
        due.sort_unstable();
        due.truncate(LISTS_AT_ONCE);
        due.into_iter().for_each(|slot| self.list(cx, slot, Vec::new()));
    }

    fn list_every_ms(&self, slot: u32) -> u64 {
        let channel = self.channels.get(slot);
        let history_s = channel.map_or(0, |channel| channel.policy.presence_history_s);
        history_s.saturating_mul(1000) / LISTS_PER_HISTORY
    }

    /// Adds an entry that lists everyone, after these events.
    fn list(&mut self, cx: &mut ShardContext, slot: u32, events: Vec<Part>) {
        let members = self.entry(slot).presence.members();
        let list = snapshot_of(cx.now, members);
        let (is_empty, entry) = (members.is_empty(), events.into_iter().chain(list).collect());
        let listed = Timestamp::at(cx.now.mono_ms);
        match is_empty {
            true => self.presence_logged.remove(&slot),
            false => self.presence_logged.insert(slot, Logged { events: 0, listed }),
        };
        let log = self.log_of(cx, slot);
        self.append_presence(cx, log, entry);
    }

    /// The next entry lists everyone: a member goes on under another name, without an event.
    pub(super) fn list_next(&mut self, slot: u32) {
        if let Some(logged) = self.presence_logged.get_mut(&slot) {
            logged.events = usize::MAX / 2;
        }
    }

    fn log_of(&mut self, cx: &ShardContext, slot: u32) -> Arc<ChannelKey> {
        let channel = &self.entry(slot).key;
        Arc::new(cx.settings.router.key(&channel.app, &presence_log(&channel.name)))
    }

    fn append_presence(&mut self, cx: &mut ShardContext, log: Arc<ChannelKey>, entry: Vec<Part>) {
        self.presence_entries += 1;
        let id = format!("{}-{:x}-{:x}", cx.id, cx.now.wall_ms, self.presence_entries);
        let draft = Box::new(Draft {
            id: id.into(),
            client_id: "".into(),
            content: Content::Batch(entry),
            storage: Storage::Stored,
        });
        let publish = Command::Publish { reply_to: ReplyTo::Nobody, draft };
        self.handle_command(cx, cx.id, log, publish);
    }
}
