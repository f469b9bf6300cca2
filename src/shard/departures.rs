//! Members that have left and whose leave event is still to be delivered.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexSet;

use crate::channel::{Change, ChangeKind, Identity, LeaveReason, State};
use crate::ids::ConnAddr;

/// A set of members that have left, in the order in which they did. A member that enters again is
/// taken out. Bounded by its owner, who checks [`Departures::len`] after each change.
#[derive(Clone, Debug, Default)]
pub struct Departures(IndexSet<Departed>);

/// User and connection identify a member.
#[derive(Clone, Debug)]
struct Departed {
    identity: Arc<Identity>,
    addr: ConnAddr,
    reason: LeaveReason,
}

impl Departed {
    fn name(&self) -> (&str, &str) {
        (&self.identity.user, &self.identity.connection)
    }
}

impl PartialEq for Departed {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Departed {}

impl Hash for Departed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl Departures {
    /// Records changes that were not delivered, in order.
    pub fn record(&mut self, changes: &[Change]) {
        for change in changes {
            let (identity, addr) = (Arc::clone(&change.identity), change.addr);
            let departed = Departed { identity, addr, reason: change.reason };
            match change.kind {
                ChangeKind::Leave => _ = self.0.insert(departed),
                ChangeKind::Enter => _ = self.0.swap_remove(&departed),
                ChangeKind::Update | ChangeKind::Peer => {}
            }
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their leave events; the last states are not kept.
    pub fn into_changes(self) -> Vec<Change> {
        let leave = |Departed { identity, addr, reason }| {
            let state = State::from_message_pack(Bytes::new());
            Change { kind: ChangeKind::Leave, reason, addr, identity, state }
        };
        self.0.into_iter().map(leave).collect()
    }

    /// Forgets members beyond `most`; returns how many.
    pub fn truncate(&mut self, most: usize) -> usize {
        let excess = self.0.len().saturating_sub(most);
        self.0.truncate(most);
        excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Resume;
    use crate::ids::{ConnId, ShardId};

    fn change(kind: ChangeKind, user: &str, connection: &str) -> Change {
        let addr = ConnAddr { shard: ShardId(0), conn: ConnId { slot: 0, generation: 0 } };
        let (user, connection) = (user.into(), connection.into());
        let identity = Arc::new(Identity::new(user, connection, Resume::Never));
        let state = State::from_message_pack(bytes::Bytes::new());
        Change { kind, reason: LeaveReason::Left, addr, identity, state }
    }

    #[test]
    fn a_member_is_kept_once_until_it_enters_again() {
        let mut departures = Departures::default();
        departures.record(&[
            change(ChangeKind::Leave, "a", "1"),
            change(ChangeKind::Leave, "a", "2"),
            change(ChangeKind::Leave, "a", "1"),
            change(ChangeKind::Update, "a", "2"),
        ]);
        assert_eq!(departures.len(), 2);
        departures.record(&[change(ChangeKind::Enter, "a", "1")]);
        let left = departures.into_changes();
        assert_eq!(left.len(), 1);
        assert_eq!(&*left[0].identity.connection, "2");
    }
}
