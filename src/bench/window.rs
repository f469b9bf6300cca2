//! A closed loop: what every receiver of a thread has seen of one publisher.

/// The newest sequence that all receivers have seen, kept without asking all of them each time.
#[derive(Clone, Debug, Default)]
pub struct Window {
    floor: u64,
    /// Receivers that have not seen more than `floor`.
    waiting: usize,
}

impl Window {
    /// A receiver went from `before` to `after`. Must the floor be raised?
    pub fn passes(&mut self, before: u64, after: u64) -> bool {
        if before > self.floor || after <= self.floor {
            return false;
        }
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting == 0
    }

    /// Sets the floor by what each receiver has seen, and returns it. Without receivers nothing
    /// holds a publisher back.
    pub fn raise(&mut self, newest: impl Iterator<Item = u64> + Clone) -> u64 {
        self.floor = newest.clone().min().unwrap_or(u64::MAX);
        self.waiting = newest.filter(|&sequence| sequence <= self.floor).count();
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_the_slowest_receiver() {
        let mut newest = [0_u64; 3];
        let mut window = Window::default();
        let mut floor = window.raise(newest.iter().copied());
        let mut floors = Vec::new();
        for (receiver, sequence) in [(0, 1), (1, 3), (0, 2), (2, 2), (0, 3), (2, 5), (1, 4)] {
            if window.passes(newest[receiver], sequence) {
                newest[receiver] = sequence;
                floor = window.raise(newest.iter().copied());
            }
            newest[receiver] = sequence;
            assert_eq!(floor, *newest.iter().min().unwrap(), "{newest:?}");
            floors.push(floor);
        }
        assert_eq!(floors, [0, 0, 0, 2, 2, 3, 3]);
    }

    #[test]
    fn without_receivers_nothing_holds_a_publisher_back() {
        assert_eq!(Window::default().raise(std::iter::empty()), u64::MAX);
    }
}
