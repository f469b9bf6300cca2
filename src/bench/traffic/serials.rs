//! What one receiver has received of a feed whose messages are numbered without holes: by the
//! serials of a channel, or by the sequences of one publisher.

use std::ops::AddAssign;

/// How a message, or a state, relates to what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Newer; what lies in between was never shown, which presence permits.
    New { skipped: u64 },
    /// The last one again.
    Known,
    /// Older than what was shown before.
    Older,
}

/// What went wrong at receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

/// Continuity of serials. A message costs one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serials {
    /// 0 before the first message, as is the newest.
    first: u64,
    pub last: u64,
    /// Lost: jumped over, and not come since.
    pub faults: Faults,
}

impl Serials {
    /// Of a receiver that is to see them all, from 1 on.
    pub fn from_first() -> Self {
        Serials { first: 1, ..Serials::default() }
    }

    /// As if everything had come.
    pub fn complete() -> Self {
        Serials { first: 1, last: u64::MAX, ..Serials::default() }
    }

    #[inline]
    pub fn note(&mut self, serial: u64) -> Arrival {
        if serial == self.last + 1 && self.first != 0 {
            self.last = serial;
            return Arrival::New { skipped: 0 };
        }
        self.note_odd(serial)
    }

    #[cold]
    fn note_odd(&mut self, serial: u64) -> Arrival {
        if self.first == 0 {
            (self.first, self.last) = (serial, serial);
            Arrival::New { skipped: 0 }
        } else if serial > self.last {
            let skipped = serial - self.last - 1;
            self.faults.lost += skipped;
            self.last = serial;
            Arrival::New { skipped }
        } else if serial == self.last {
            self.faults.duplicated += 1;
            Arrival::Known
        } else {
            let was_missing = self.faults.lost > 0;
            self.faults.lost -= u64::from(was_missing);
            self.faults.reordered += u64::from(was_missing);
            self.faults.duplicated += u64::from(!was_missing);
            Arrival::Older
        }
    }

    /// Different messages that came, of all from the first on.
    pub fn received(&self) -> u64 {
        self.last - self.faults.lost
    }

    /// Serials of `accepted` that never came.
    pub fn lost(&self, accepted: &Accepted) -> u64 {
        if accepted.count == 0 || self.first == 0 {
            return accepted.count;
        }
        let before = self.first.saturating_sub(accepted.first);
        before + self.faults.lost + accepted.last.saturating_sub(self.last)
    }
}

/// Serials that a channel gave to publishes, by the acknowledgements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    first: u64,
    last: u64,
    pub count: u64,
}

impl Accepted {
    /// Serial 0: by a server that does not number.
    pub fn note(&mut self, serial: u64) {
        self.merge(&Accepted { first: serial, last: serial, count: 1 });
    }

    pub fn is_numbered(&self) -> bool {
        self.first > 0
    }

    pub fn merge(&mut self, other: &Accepted) {
        if other.count == 0 {
            return;
        }
        let first = if self.count == 0 { other.first } else { self.first.min(other.first) };
        let last = self.last.max(other.last);
        *self = Accepted { first, last, count: self.count + other.count };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_counted_once() {
        // Serials received of the accepted 5 to 10; lost, duplicated, reordered.
        let table: [(&[u64], [u64; 3]); 7] = [
            (&[5, 6, 7, 8, 9, 10], [0, 0, 0]),
            (&[], [6, 0, 0]),
            (&[7, 8, 9, 10], [2, 0, 0]),
            (&[5, 6, 7], [3, 0, 0]),
            (&[5, 8, 9, 10], [2, 0, 0]),
            (&[5, 6, 6, 7, 8, 9, 10, 8], [0, 2, 0]),
            (&[5, 7, 6, 8, 9, 10], [0, 0, 1]),
        ];
        let mut accepted = Accepted::default();
        (5..=10).rev().for_each(|serial| accepted.note(serial));
        for (serials, expected) in table {
            let mut received = Serials::default();
            for &serial in serials {
                received.note(serial);
            }
            let Faults { duplicated, reordered, .. } = received.faults;
            let counts = [received.lost(&accepted), duplicated, reordered];
            assert_eq!(counts, expected, "{serials:?}");
        }
    }

    #[test]
    fn arrivals_tell_conflation_from_reordering() {
        let mut sequences = Serials::from_first();
        let expected = [
            (1, Arrival::New { skipped: 0 }),
            (2, Arrival::New { skipped: 0 }),
            (2, Arrival::Known),
            (5, Arrival::New { skipped: 2 }),
            (4, Arrival::Older),
            (5, Arrival::Known),
            (6, Arrival::New { skipped: 0 }),
        ];
        for (sequence, arrival) in expected {
            assert_eq!(sequences.note(sequence), arrival, "{sequence}");
        }
        assert_eq!(sequences.last, 6);
    }

    #[test]
    fn what_is_not_numbered_is_counted() {
        let (mut one, mut other) = (Accepted::default(), Accepted::default());
        (0..3).for_each(|_| one.note(0));
        other.note(0);
        one.merge(&other);
        assert_eq!((one.count, one.is_numbered()), (4, false));
    }
}
