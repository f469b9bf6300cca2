//! Presence history: the events of the members of a channel, as messages of a log beside it. Every
//! now and then an entry lists everyone who is present, so that who was present at a time is known
//! from the entries since the last list.

use std::sync::Arc;

use super::Owner;
use super::channel_entry::OwnedChannel;
use crate::channel::{Change, ChangeKind, Content, Draft, Member, Members, Part, Storage};
use crate::ids::{Timestamp, presence_log};
use crate::session::presence_history::{LoggedMember, PresenceAction, snapshot_mark};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, ReplyTo};

/// Events after which an entry lists everyone; more for channels with more members.
const EVENTS_PER_SNAPSHOT: usize = 1000;

/// Share of the time that history is kept after which an entry lists everyone.
const SNAPSHOTS_PER_HISTORY: u64 = 8;

/// Bytes of states in a list of members; with more it is one of names only.
const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024;

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
fn snapshot_of(members: &Members) -> impl Iterator<Item = Part> {
    let has_states = members.encoded_bytes() <= SNAPSHOT_BYTES_MAX;
    let present = move |member: &Member| {
        let state = has_states.then_some(&member.state);
        LoggedMember::new(&member.identity, state).to_part(PresenceAction::Present)
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
        let channel = self.entry(slot);
        let key = cx.settings.router.key(&channel.key.app, &presence_log(&channel.key.name));
        let members = channel.presence.members();
        let history_ms = channel.policy.presence_history_s.saturating_mul(1000);
        let is_due = |logged: Logged| {
            logged.events > EVENTS_PER_SNAPSHOT.max(4 * members.len())
                || cx.now.mono_ms > logged.listed.ms() + history_ms / SNAPSHOTS_PER_HISTORY
        };
        let (logged, entry) = match logged.filter(|logged| !is_due(*logged)) {
            Some(logged) => (Logged { events: logged.events + events.len(), ..logged }, events),
            None => {
                let listed = Timestamp::at(cx.now.mono_ms);
                let entry = events.into_iter().chain(snapshot_of(members)).collect();
                (Logged { events: 0, listed }, entry)
            }
        };
        // Who comes next is listed.
        match members.is_empty() {
            true => self.presence_logged.remove(&slot),
            false => self.presence_logged.insert(slot, logged),
        };
        self.presence_entries += 1;
        let id = format!("{}-{:x}-{:x}", cx.id, cx.now.wall_ms, self.presence_entries);
        let draft = Box::new(Draft {
            id: id.into(),
            client_id: "".into(),
            content: Content::Batch(entry),
            storage: Storage::Stored,
        });
        let publish = Command::Publish { reply_to: ReplyTo::Nobody, draft };
        self.handle_command(cx, cx.id, Arc::new(key), publish);
    }
}
