//! The order in which connections are written to, and when more is read meanwhile.
//!
//! Answers are written before deliveries: an answer costs one write and lets its client continue,
//! while a delivery is one of hundreds. What clients then send is read between the writes, so that
//! a connection later in the order receives the later messages in the same write. With few
//! connections to write to, deliveries are written first: the answer is late by those few writes,
//! and the deliveries do not wait for it.
//!
//! A pass is over when all connections that had a delivery queued at its beginning have been
//! written to. How much is read from a connection is bounded per pass, and so are the queues.

use std::collections::VecDeque;

use super::connections::FETCHED;
use crate::ids::ConnId;

/// Deliveries that are made before answers are written.
const FEW: usize = 16;

/// Connections written to in a turn, at most; the rest have theirs after what comes in meanwhile.
pub const WRITES_MAX: usize = 576;

/// The same while more than [`MANY`] wait for deliveries and more may be read: the sooner
/// publishers are answered, the more of what they say next leaves in the writes that are still to
/// come (`benches/results/fanout.md`).
const WRITES_WHILE_MANY_WAIT: usize = 192;

const MANY: usize = 1024;

/// Nothing more is read while more connections than this wait for deliveries; they are written in
/// about 100 ms. With a quarter of it, publishers waited for the deliveries of many channels, which
/// were one message each (`benches/results/fanout.md`).
const WAITING_MAX: usize = 16_384;

/// What a connection is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// What others did.
    Delivery,
    /// An answer of its own, and deliveries before and after it.
    Answer,
}

/// Connections with bytes to write, in the order in which they were queued, so that none is always
/// written to last.
#[derive(Debug, Default)]
pub struct WriteOrder {
    answers: VecDeque<ConnId>,
    deliveries: VecDeque<ConnId>,
    pass: u32,
    /// Entries of `deliveries` that belong to this pass; `None` until its first write.
    pass_left: Option<usize>,
    /// Writes of this turn.
    writes: usize,
    /// Answers written in this turn.
    answered: usize,
    deliveries_first: bool,
    /// Deliveries to be popped before `upcoming` names more.
    named: usize,
}

impl WriteOrder {
    /// A connection has bytes to write. `noted`: as what it waits already.
    pub fn note(&mut self, id: ConnId, noted: &mut Option<Due>, due: Due) {
        if *noted >= Some(due) {
            return;
        }
        *noted = Some(due);
        match due {
            Due::Answer => self.answers.push_back(id),
            Due::Delivery => self.deliveries.push_back(id),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.deliveries.is_empty()
    }

    /// A turn begins; with it a pass, when the last one is over.
    pub fn begin_turn(&mut self) {
        if self.pass_left == Some(0) || self.deliveries.is_empty() {
            self.pass = self.pass.wrapping_add(1);
            self.pass_left = None;
        }
    }

    pub fn pass(&self) -> u32 {
        self.pass
    }

    /// Whether so little waits that more may be read.
    pub fn has_room(&self) -> bool {
        self.deliveries.len() <= WAITING_MAX
    }

    /// The writing of a turn begins.
    pub fn begin_writing(&mut self) {
        self.pass_left.get_or_insert(self.deliveries.len());
        self.deliveries_first = self.deliveries.len() <= FEW;
        let many_wait = self.deliveries.len() > MANY && self.has_room();
        self.writes = if many_wait { WRITES_WHILE_MANY_WAIT } else { WRITES_MAX };
        self.answered = 0;
    }

    /// How many are to be written to in this turn. Half of the writes are for deliveries, as long
    /// as some wait.
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// Who is next, and as what it was noted; it may have been written to since.
    pub fn pop(&mut self) -> Option<(ConnId, Due)> {
        let answers_wait = self.deliveries_first || self.answered >= self.writes / 2;
        if answers_wait && let Some(id) = self.pop_delivery() {
            return Some((id, Due::Delivery));
        }
        match self.answers.pop_front() {
            Some(id) => {
                self.answered += 1;
                Some((id, Due::Answer))
            }
            None => self.pop_delivery().map(|id| (id, Due::Delivery)),
        }
    }

    /// Those whose deliveries are written next, `FETCHED` at a time: empty unless the last ones
    /// named have been popped.
    pub fn upcoming(&mut self) -> impl Iterator<Item = u32> {
        let count = if self.named == 0 { FETCHED } else { 0 };
        self.named += count;
        self.deliveries.iter().take(count).map(|id| id.slot)
    }

    fn pop_delivery(&mut self) -> Option<ConnId> {
        let id = self.deliveries.pop_front()?;
        self.named = self.named.saturating_sub(1);
        self.pass_left = self.pass_left.map(|left| left.saturating_sub(1));
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: usize) -> ConnId {
        ConnId { slot: slot as u32, generation: 0 }
    }

    fn order(answers: usize, deliveries: usize) -> WriteOrder {
        let mut order = WriteOrder::default();
        order.begin_turn();
        (0..deliveries).for_each(|slot| order.note(id(slot), &mut None, Due::Delivery));
        (0..answers).for_each(|slot| order.note(id(slot), &mut None, Due::Answer));
        order
    }

    fn write(order: &mut WriteOrder, count: usize) -> Vec<Due> {
        order.begin_writing();
        (0..count).map_while(|_| order.pop()).map(|(_, due)| due).collect()
    }

    #[test]
    fn a_few_deliveries_are_written_before_answers() {
        let written = write(&mut order(2, FEW), usize::MAX);
        assert_eq!(written[..FEW], [Due::Delivery; FEW]);
        assert_eq!(written[FEW..], [Due::Answer; 2]);
    }

    #[test]
    fn answers_are_written_before_many_deliveries_and_leave_them_half_of_a_turn() {
        const HALF: usize = WRITES_MAX / 2;
        let mut order = order(3 * HALF, FEW + HALF);
        let written = write(&mut order, 2 * HALF);
        assert_eq!(written[..HALF], [Due::Answer; HALF]);
        assert_eq!(written[HALF..], [Due::Delivery; HALF]);
        let deliveries =
            write(&mut order, usize::MAX).iter().filter(|due| **due == Due::Delivery).count();
        assert_eq!(deliveries, FEW);
        assert!(order.is_empty());
    }

    #[test]
    fn a_pass_is_over_when_those_who_waited_at_its_beginning_have_been_written_to() {
        let mut order = order(0, 1_000);
        let pass = order.pass();
        write(&mut order, 600);
        order.begin_turn();
        assert_eq!(order.pass(), pass);
        (0..600).for_each(|slot| order.note(id(slot), &mut None, Due::Delivery));
        write(&mut order, 400);
        order.begin_turn();
        assert_eq!(order.pass(), pass + 1);
    }

    #[test]
    fn without_much_to_write_every_turn_is_a_pass() {
        let mut order = order(3, 3);
        for turn in 1..4 {
            assert_eq!(order.pass(), turn);
            write(&mut order, 512);
            order.begin_turn();
        }
    }

    #[test]
    fn there_is_no_room_for_more_while_very_many_wait() {
        let mut order = order(0, WAITING_MAX + 1);
        assert!(!order.has_room());
        write(&mut order, 1);
        assert!(order.has_room());
    }
}
