//! Changes of the members since the last broadcast, conflated to one per member.

use std::sync::Arc;

use super::addr_index::AddrIndex;
use super::{Identity, State};
use crate::ids::ConnAddr;

/// How a member changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Enter,
    Update,
    Leave,
}

/// A change of one member. `state` is the latest one; for a leave, the last one.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    pub addr: ConnAddr,
    pub identity: Arc<Identity>,
    pub state: State,
}

/// What caused the changes of a tick. Decides which members already know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The only change is this member's own update.
    SoleUpdate(ConnAddr),
    /// The only change is that this member entered.
    SoleEnter(ConnAddr),
    Several,
}

/// The changes of one tick, one per member.
#[derive(Debug, Default)]
pub struct Changes {
    list: Vec<Change>,
    /// Index in `list` of the latest change of each connection.
    index: AddrIndex,
    /// A member left and entered again. The change is an update, but the member needs the full set,
    /// like a new one.
    rejoined: bool,
    /// A client received the full set since the last broadcast, including new members.
    snapshot_sent: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn list(&self) -> &[Change] {
        &self.list
    }

    pub(crate) fn into_list(self) -> Vec<Change> {
        self.list
    }

    /// What caused these changes.
    pub fn author(&self) -> Author {
        match self.list.as_slice() {
            _ if self.rejoined => Author::Several,
            [only] if only.kind == ChangeKind::Update => Author::SoleUpdate(only.addr),
            [only] if only.kind == ChangeKind::Enter => Author::SoleEnter(only.addr),
            _ => Author::Several,
        }
    }

    pub(super) fn record(
        &mut self,
        kind: ChangeKind,
        addr: ConnAddr,
        identity: &Arc<Identity>,
        state: State,
    ) {
        let known = self.index.get(&addr).map(|&at| at as usize);
        // A connection may have authenticated as another user; then the leave of the earlier user
        // must be visible.
        let Some(at) = known.filter(|&at| self.list[at].identity.user == identity.user) else {
            self.index.insert(addr, self.list.len() as u32);
            self.list.push(Change { kind, addr, identity: Arc::clone(identity), state });
            return;
        };
        self.rejoined |= (self.list[at].kind, kind) == (ChangeKind::Leave, ChangeKind::Enter);
        let cancelled = self.snapshot_sent.then_some(ChangeKind::Leave);
        match conflate(self.list[at].kind, kind).or(cancelled) {
            Some(kind) => {
                self.list[at] = Change { kind, addr, identity: Arc::clone(identity), state };
            }
            None => self.remove(at),
        }
    }

    /// From now on, a new member that leaves again must be reported as a leave.
    pub(super) fn set_snapshot_sent(&mut self) {
        self.snapshot_sent = !self.list.is_empty();
    }

    /// Moves the changes of a member to another address.
    pub(super) fn rename(&mut self, from: ConnAddr, to: ConnAddr) {
        if let Some(at) = self.index.remove(&from) {
            self.list[at as usize].addr = to;
            self.index.insert(to, at);
        }
    }

    fn remove(&mut self, at: usize) {
        let gone = self.list.swap_remove(at);
        self.index.remove(&gone.addr);
        let moved_from = self.list.len() as u32;
        if let Some(newest) = self.list.get(at).and_then(|moved| self.index.get_mut(&moved.addr))
            && *newest == moved_from
        {
            *newest = at as u32;
        }
    }
}

/// Combines two changes of one member; `None` when they cancel out.
fn conflate(earlier: ChangeKind, later: ChangeKind) -> Option<ChangeKind> {
    use ChangeKind::{Enter, Leave, Update};
    match (earlier, later) {
        (Enter, Leave) => None,
        (Enter, _) => Some(Enter),
        (Leave, Enter | Update) => Some(Update),
        (Update, later) => Some(if later == Leave { Leave } else { Update }),
        (Leave, Leave) => Some(Leave),
    }
}
