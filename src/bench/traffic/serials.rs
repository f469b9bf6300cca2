//! What one receiver has received, by the serials of its channel: they have no holes.

/// Continuity of serials. A message costs one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serials {
    /// 0 before the first message.
    first: u64,
    last: u64,
    /// Serials that were jumped over and have not come since.
    missing: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Serials {
    #[inline]
    pub fn note(&mut self, serial: u64) {
        if serial == self.last + 1 && self.first != 0 {
            self.last = serial;
        } else {
            self.note_odd(serial);
        }
    }

    #[cold]
    fn note_odd(&mut self, serial: u64) {
        if self.first == 0 {
            (self.first, self.last) = (serial, serial);
        } else if serial > self.last {
            self.missing += serial - self.last - 1;
            self.last = serial;
        } else if serial == self.last || self.missing == 0 {
            self.duplicated += 1;
        } else {
            self.reordered += 1;
            self.missing -= 1;
        }
    }

    /// The newest serial; 0 before the first message.
    pub fn last(&self) -> &u64 {
        &self.last
    }

    /// Serials of `accepted` that never came.
    pub fn lost(&self, accepted: &Accepted) -> u64 {
        if accepted.count == 0 {
            return 0;
        }
        if self.first == 0 {
            return accepted.count;
        }
        let before = self.first.saturating_sub(accepted.first);
        before + self.missing + accepted.last.saturating_sub(self.last)
    }
}

/// Serials that a channel gave to publishes, by the acknowledgements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    first: u64,
    last: u64,
    count: u64,
}

impl Accepted {
    pub fn note(&mut self, serial: u64) {
        self.merge(&Accepted { first: serial, last: serial, count: 1 });
    }

    /// One more, by a server that does not number.
    pub fn count(&mut self) {
        self.count += 1;
    }

    /// How many never came when `received` did?
    pub fn missing(&self, received: u64) -> u64 {
        self.count.saturating_sub(received)
    }

    /// Has the server numbered none of them?
    pub fn is_unnumbered(&self) -> bool {
        self.first == 0
    }

    pub fn merge(&mut self, other: &Accepted) {
        if other.count == 0 {
            return;
        }
        let first = if self.count == 0 { other.first } else { self.first.min(other.first) };
        let last = self.last.max(other.last);
        *self = Accepted { first, last, count: self.count + other.count };
    }

    /// Serials between the first and the last that no publish was given.
    pub fn holes(&self) -> u64 {
        if self.is_unnumbered() { 0 } else { (self.last - self.first + 1).abs_diff(self.count) }
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
        assert_eq!(accepted.holes(), 0);
        for (serials, expected) in table {
            let mut received = Serials::default();
            serials.iter().for_each(|&serial| received.note(serial));
            let counts = [received.lost(&accepted), received.duplicated, received.reordered];
            assert_eq!(counts, expected, "{serials:?}");
        }
    }

    #[test]
    fn serials_that_no_publish_was_given_are_holes() {
        let mut accepted = Accepted::default();
        assert_eq!((accepted.holes(), Serials::default().lost(&accepted)), (0, 0));
        [3, 4, 7].iter().for_each(|&serial| accepted.note(serial));
        assert_eq!(accepted.holes(), 2);
    }

    #[test]
    fn what_is_not_numbered_is_counted() {
        let (mut one, mut other) = (Accepted::default(), Accepted::default());
        (0..3).for_each(|_| one.count());
        other.count();
        one.merge(&other);
        assert_eq!((one.missing(4), one.missing(1), one.holes()), (0, 3, 0));
    }
}
