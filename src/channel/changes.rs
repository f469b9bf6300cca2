//! Changes of the members since the last broadcast, conflated to one per member.

use std::sync::Arc;

use super::{AddrIndex, Identity, State};
use crate::ids::ConnAddr;

/// How a member changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Enter,
    Update,
    Leave,
    /// Something that only the presence graph shows: the peer, or whether its connection is lost.
    Peer,
}

/// Why a member left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaveReason {
    /// It left, or closed its connection.
    #[default]
    Left,
    /// Its connection was lost, and it did not return within the grace.
    Lost,
    /// It gave no sign of life although its connection was open.
    TimedOut,
    /// Its session was replaced by another one.
    Removed,
}

/// A change of one member. `state` is the latest one; for a leave, the last one.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    /// Only of a leave.
    pub reason: LeaveReason,
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
    /// In the order in which they happened, with gaps for those that were cancelled out.
    list: Vec<Option<Change>>,
    cancelled: u32,
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
        self.list.len() == self.cancelled as usize
    }

    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.list.iter().flatten()
    }

    pub(crate) fn into_list(self) -> Vec<Change> {
        self.list.into_iter().flatten().collect()
    }

    /// What caused these changes.
    pub fn author(&self) -> Author {
        let mut changes = self.iter().filter(|change| change.kind != ChangeKind::Peer);
        match (changes.next(), changes.next()) {
            _ if self.rejoined => Author::Several,
            (Some(only), None) if only.kind == ChangeKind::Update => Author::SoleUpdate(only.addr),
            (Some(only), None) if only.kind == ChangeKind::Enter => Author::SoleEnter(only.addr),
            _ => Author::Several,
        }
    }

    pub(super) fn record(&mut self, change: Change) {
        let (kind, addr) = (change.kind, change.addr);
        let at = self.index.get(&addr).map_or(self.list.len(), |&at| at as usize);
        let earlier = self.list.get_mut(at).and_then(Option::as_mut);
        // A connection may have authenticated as another user; then the leave of the earlier user
        // must be visible.
        let Some(earlier) = earlier.filter(|c| c.identity.user == change.identity.user) else {
            self.index.insert(addr, self.list.len() as u32);
            return self.list.push(Some(change));
        };
        self.rejoined |= (earlier.kind, kind) == (ChangeKind::Leave, ChangeKind::Enter);
        let otherwise = self.snapshot_sent.then_some(ChangeKind::Leave);
        match conflate(earlier.kind, kind).or(otherwise) {
            Some(kind) => *earlier = Change { kind, ..change },
            None => self.cancel(addr, at),
        }
    }

    /// From now on, a new member that leaves again must be reported as a leave.
    pub(super) fn set_snapshot_sent(&mut self) {
        self.snapshot_sent = !self.is_empty();
    }

    /// Moves the changes of a member to another address.
    pub(super) fn rename(&mut self, from: ConnAddr, to: ConnAddr) {
        if let Some(at) = self.index.remove(&from)
            && let Some(change) = &mut self.list[at as usize]
        {
            change.addr = to;
            self.index.insert(to, at);
        }
    }

    /// A change and an earlier one cancel out. The order of the others is kept: the leave of a
    /// session at one address may be followed by its enter at another.
    fn cancel(&mut self, addr: ConnAddr, at: usize) {
        self.list[at] = None;
        self.index.remove(&addr);
        self.cancelled += 1;
        if self.cancelled as usize > self.list.len() / 2 {
            self.close_gaps();
        }
    }

    fn close_gaps(&mut self) {
        let mut kept = 0;
        for at in 0..self.list.len() {
            let Some(change) = self.list[at].take() else { continue };
            if let Some(newest) = self.index.get_mut(&change.addr).filter(|i| **i == at as u32) {
                *newest = kept as u32;
            }
            self.list[kept] = Some(change);
            kept += 1;
        }
        self.list.truncate(kept);
        self.cancelled = 0;
    }
}

/// Combines two changes of one member; `None` when they cancel out.
fn conflate(earlier: ChangeKind, later: ChangeKind) -> Option<ChangeKind> {
    use ChangeKind::{Enter, Leave, Peer, Update};
    match (earlier, later) {
        (Enter, Leave) => None,
        (Enter, _) => Some(Enter),
        (Leave, Enter | Update | Peer) => Some(Update),
        (Update | Peer, Leave) => Some(Leave),
        (Peer, later) => Some(later),
        (Update, _) => Some(Update),
        (Leave, Leave) => Some(Leave),
    }
}
