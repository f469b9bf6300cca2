//! What happened to the members since watchers were last told, conflated to one change each.

use std::sync::Arc;

use super::places::Places;
use super::{Identity, State};
use crate::ids::ConnAddr;

/// How a member changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Enter,
    Update,
    Leave,
}

/// One member's change. `state` is the newest one; for a leave the last one.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    pub addr: ConnAddr,
    pub identity: Arc<Identity>,
    pub state: State,
}

/// Whose doing a tick was; decides who need not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Every change is this member's own update.
    SoleUpdate(ConnAddr),
    /// The only change is that this member entered.
    SoleEnter(ConnAddr),
    Several,
}

/// The changes of one tick, one per member.
#[derive(Debug, Default)]
pub struct Changes {
    list: Vec<Change>,
    /// The newest entry of each connection.
    index: Places,
    /// Somebody left and entered again: shown as an update, but it awaits the set like a newcomer.
    rejoined: bool,
    /// Somebody was shown the whole set since watchers were last told, newcomers among it.
    set_shown: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn list(&self) -> &[Change] {
        &self.list
    }

    pub fn into_list(self) -> Vec<Change> {
        self.list
    }

    /// Whose doing these changes were.
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
        // A connection that greeted anew is somebody else; the earlier user's leave must be seen.
        let Some(at) = known.filter(|&at| self.list[at].identity.user == identity.user) else {
            self.index.insert(addr, self.list.len() as u32);
            self.list.push(Change { kind, addr, identity: Arc::clone(identity), state });
            return;
        };
        self.rejoined |= (self.list[at].kind, kind) == (ChangeKind::Leave, ChangeKind::Enter);
        let cancelled = self.set_shown.then_some(ChangeKind::Leave);
        match conflate(self.list[at].kind, kind).or(cancelled) {
            Some(kind) => {
                self.list[at] = Change { kind, addr, identity: Arc::clone(identity), state };
            }
            None => self.forget(at),
        }
    }

    /// From here on a newcomer who leaves again is not as if never there.
    pub(super) fn set_shown(&mut self) {
        self.set_shown = !self.list.is_empty();
    }

    /// A member goes on under another address.
    pub(super) fn rename(&mut self, from: ConnAddr, to: ConnAddr) {
        if let Some(at) = self.index.remove(&from) {
            self.list[at as usize].addr = to;
            self.index.insert(to, at);
        }
    }

    fn forget(&mut self, at: usize) {
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

/// Two changes of one member as one; `None` when they cancel out.
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
