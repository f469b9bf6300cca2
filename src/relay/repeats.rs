//! When records are sent again. Devices lose some of what they receive, without a word, and take
//! whatever they have already for nothing (`protocols/nodedb.md` sections 5.3, 8.5 and 9.1).

use std::collections::VecDeque;

/// How long after the first time.
const DELAYS_MS: [u64; 3] = [200, 700, 2000];

/// How long a reader that was sent something must have been sent nothing new until it is sent all
/// of it again.
pub const QUIET_MS: [u64; 4] = [700, 2500, 5000, 9000];

/// Records sent within this time are sent again together.
const TOGETHER_MS: u64 = 20;

/// What was sent lately.
#[derive(Debug, Default)]
pub struct Repeats {
    /// When it was sent first, and up to which position. Within the longest delay.
    sent: VecDeque<(u64, u64)>,
    /// Up to which position each delay is over.
    done: [u64; DELAYS_MS.len()],
}

impl Repeats {
    /// Everything after `after`, up to `through`, is sent for the first time.
    pub fn note(&mut self, now_ms: u64, after: u64, through: u64) {
        if self.sent.is_empty() {
            self.done = [after; DELAYS_MS.len()];
        }
        match self.sent.back_mut() {
            Some((at, last)) if now_ms < *at + TOGETHER_MS => *last = through,
            _ => self.sent.push_back((now_ms, through)),
        }
    }

    /// Up to which position everything was sent often enough, of what was sent up to `through`.
    pub fn finished(&self, through: u64) -> u64 {
        match self.sent.is_empty() {
            true => through,
            false => self.done.iter().copied().min().unwrap_or(through),
        }
    }

    /// When something is to be sent again.
    pub fn due_ms(&self) -> Option<u64> {
        let due = |(delay, done): (&u64, &u64)| {
            let next = self.sent.iter().find(|(_, through)| through > done)?;
            Some(next.0 + delay)
        };
        DELAYS_MS.iter().zip(&self.done).filter_map(due).min()
    }

    /// What is to be sent again now: after which position, and up to which.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<(u64, u64)> {
        let mut due = Vec::new();
        for (delay, done) in DELAYS_MS.iter().zip(&mut self.done) {
            let is_due = |(at, through): &&(u64, u64)| at + delay <= now_ms && through > done;
            if let Some(&(_, through)) = self.sent.iter().rfind(is_due) {
                due.push((*done, through));
                *done = through;
            }
        }
        let done = self.done.iter().copied().min().unwrap_or_default();
        while self.sent.front().is_some_and(|(_, through)| *through <= done) {
            self.sent.pop_front();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_sent_again_after_each_delay() {
        let mut repeats = Repeats::default();
        repeats.note(1000, 4, 6);
        repeats.note(1010, 6, 7);
        repeats.note(1500, 7, 9);
        let mut sent = Vec::new();
        while let Some(due) = repeats.due_ms() {
            assert!(repeats.take_due(due - 1).is_empty(), "{due}");
            sent.extend(repeats.take_due(due).into_iter().map(|range| (due, range)));
        }
        let expected = [
            (1200, (4, 7)),
            (1700, (7, 9)),
            (1700, (4, 7)),
            (2200, (7, 9)),
            (3000, (4, 7)),
            (3500, (7, 9)),
        ];
        assert_eq!(sent, expected);
        assert!(repeats.sent.is_empty());
    }
}
