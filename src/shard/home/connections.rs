//! The connections of a shard by slot.

use std::hint::black_box;

use derive_more::{Deref, DerefMut};

use super::connection::{Connection, Phase};
use crate::ids::ConnId;
use crate::shard::segmented_vec::SegmentedVec;

/// Connections that are fetched from memory together, ahead of what is done with them.
pub const FETCHED: usize = 16;

/// Slots for connections. A slot is used again with the next generation.
#[derive(Debug, Default)]
pub struct Connections {
    slots: SegmentedVec<Slot>,
    /// When each slot is to be checked again; kept apart so that a sweep reads little memory.
    checks: SegmentedVec<Check>,
    free: Vec<u32>,
}

/// A cache line, which is what fan-out fetches of each.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    generation: u32,
    /// `None` while the slot is free, and while an input that the connection is about is handled.
    connection: Option<Connection>,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// The connection that an input is about, taken out of its slot until the input has been handled:
/// it is looked up once, and the rest of the home can be used meanwhile.
#[derive(Debug, Deref, DerefMut)]
pub struct ActiveConnection {
    pub id: ConnId,
    #[deref]
    #[deref_mut]
    connection: Connection,
}

/// A time in steps of 64 ms, rounded down: a check that is too early is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Check(u32);

impl Default for Check {
    fn default() -> Self {
        Check::NEVER
    }
}

impl Check {
    const NOW: Check = Check(0);
    const NEVER: Check = Check(u32::MAX);

    fn at(mono_ms: u64) -> Self {
        u32::try_from(mono_ms / 64).map_or(Check::NEVER, Check)
    }
}

impl Connections {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Slots, free ones included.
    pub fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn insert(&mut self, connection: Connection) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.checks.grow();
            self.slots.grow() as u32
        });
        let entry = self.slot(slot);
        entry.generation = entry.generation.wrapping_add(1);
        entry.connection = Some(connection);
        let generation = entry.generation;
        self.note_check(slot, Check::NOW);
        ConnId { slot, generation }
    }

    /// Takes the connection out of its slot until [`Connections::check_in`].
    pub fn check_out(&mut self, id: ConnId) -> Option<ActiveConnection> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|s| s.generation == id.generation);
        Some(ActiveConnection { id, connection: slot?.connection.take()? })
    }

    /// Puts a connection back. One that has ended and has no socket to close frees its slot.
    pub fn check_in(&mut self, conn: ActiveConnection) {
        let ActiveConnection { id, connection } = conn;
        if connection.flags.long_poll && connection.phase == Phase::Closing {
            return self.free_slot(id.slot);
        }
        let entry = self.slot(id.slot);
        assert!(
            entry.generation == id.generation && entry.connection.is_none(),
            "the slot of {id:?} was given away"
        );
        entry.connection = Some(connection);
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        let gone = self.check_out(id)?.connection;
        self.free_slot(id.slot);
        Some(gone)
    }

    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_ref() } else { None }
    }

    /// The present tenant of a slot.
    pub fn tenant(&self, slot: u32) -> Option<ConnId> {
        let entry = self.slots.get(slot as usize)?;
        entry.connection.as_ref()?;
        Some(ConnId { slot, generation: entry.generation })
    }

    /// The present tenant of a slot, and its connection.
    pub fn tenant_mut(&mut self, slot: u32) -> Option<(ConnId, &mut Connection)> {
        let entry = self.slots.get_mut(slot as usize)?;
        let id = ConnId { slot, generation: entry.generation };
        Some((id, entry.connection.as_mut()?))
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_mut() } else { None }
    }

    /// Fetches connections that are needed next from memory, all at once: one after the other, each
    /// would be waited for.
    pub fn fetch(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            let entry = self.slots.get(slot as usize);
            let connection = entry.and_then(|entry| entry.connection.as_ref());
            black_box(connection.map(|c| (c.queue.is_empty(), c.is_open(), c.flags.long_poll)));
        }
    }

    /// Checks a connection again at the time, or as much as 64 ms earlier.
    pub fn set_check(&mut self, id: ConnId, at_ms: u64) {
        if self.slots.get(id.slot as usize).is_some_and(|slot| slot.generation == id.generation) {
            self.note_check(id.slot, Check::at(at_ms));
        }
    }

    /// The next tenant at or after `slot` whose check is due.
    pub fn next_due(&self, slot: u32, now_ms: u64) -> Option<ConnId> {
        let now = Check::at(now_ms);
        let due = self.checks.position(slot as usize, |&check| check <= now)?;
        self.tenant(due as u32)
    }

    /// All present tenants.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        (0..self.slots.len() as u32).filter_map(|slot| self.tenant(slot))
    }

    fn slot(&mut self, slot: u32) -> &mut Slot {
        match self.slots.get_mut(slot as usize) {
            Some(entry) => entry,
            None => panic!("no slot {slot}"),
        }
    }

    fn free_slot(&mut self, slot: u32) {
        self.free.push(slot);
        self.note_check(slot, Check::NEVER);
    }

    fn note_check(&mut self, slot: u32, check: Check) {
        if let Some(place) = self.checks.get_mut(slot as usize) {
            *place = check;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::{AuthState, Transport};
    use super::*;
    use crate::ids::Timestamp;
    use crate::session::Session;

    fn connection() -> Connection {
        let auth = AuthState::Pending { since: Timestamp::at(0) };
        Connection::new(Transport::Http, Session::undecided(), 0, auth)
    }

    #[test]
    fn a_check_is_never_late_and_less_than_a_step_early() {
        for at_ms in [0, 1, 63, 64, 65, 1_000_000, 40_000_123] {
            let mut connections = Connections::default();
            let id = connections.insert(connection());
            connections.set_check(id, at_ms);
            assert_eq!(connections.next_due(0, at_ms), Some(id), "{at_ms}");
            if let Some(early_ms) = at_ms.checked_sub(64) {
                assert_eq!(connections.next_due(0, early_ms), None, "{at_ms}");
            }
            connections.set_check(id, u64::MAX);
            assert_eq!(connections.next_due(0, u64::from(u32::MAX)), None);
            assert_eq!(connections.next_due(1, at_ms), None, "nothing after the last one");
        }
    }

    #[test]
    fn an_earlier_tenant_is_not_found() {
        let mut connections = Connections::default();
        let first = connections.insert(connection());
        assert!(connections.remove(first).is_some());
        assert!(connections.remove(first).is_none());
        let second = connections.insert(connection());
        assert_eq!((first.slot, connections.len()), (second.slot, 1));
        assert!(connections.get(first).is_none() && connections.check_out(first).is_none());
        assert_eq!(connections.tenant(first.slot), Some(second));
    }

    #[test]
    fn a_connection_is_checked_out_once() {
        let mut connections = Connections::default();
        let id = connections.insert(connection());
        let conn = connections.check_out(id).unwrap();
        assert!(connections.check_out(id).is_none());
        assert_eq!(connections.len(), 1);
        connections.check_in(conn);
        assert!(connections.get(id).is_some());
    }

    #[test]
    fn a_long_poll_that_has_ended_frees_its_slot() {
        let mut connections = Connections::default();
        let id = connections.insert(connection());
        let mut conn = connections.check_out(id).unwrap();
        conn.flags.long_poll = true;
        conn.phase = Phase::Closing;
        connections.check_in(conn);
        assert_eq!(connections.len(), 0);
        assert_eq!(connections.insert(connection()).slot, id.slot);
    }
}
