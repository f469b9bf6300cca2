//! One receiver of a channel: what has come, and what never came.

use super::super::stamp::Stamp;
use super::serials::{Accepted, Arrival, Faults, Serials};
use crate::error::FrameError;
use crate::wire::foony::binary::Delivered;

/// What came, by the serials of the channel where the server numbers messages. A witness reads
/// every stamp as well: no publish may be missing or change places.
pub struct Receiver {
    serials: Serials,
    /// A witness's: by publisher of the channel.
    sequences: Vec<Serials>,
}

impl Receiver {
    /// A witness of so many publishers of its channel; none when that is 0.
    pub fn new(publishers: usize) -> Self {
        let sequences = vec![Serials::from_first(); publishers];
        Receiver { serials: Serials::default(), sequences }
    }

    /// As if it had seen everything of one publisher of its channel: of itself.
    pub fn except(mut self, place: usize) -> Self {
        self.sequences[place] = Serials::complete();
        self
    }

    /// `false`: what a witness reads is not a payload of this run. `channels`: in the whole run.
    #[inline]
    pub fn receive(
        &mut self,
        delivery: &Delivered<'_>,
        channels: usize,
    ) -> Result<bool, FrameError> {
        self.serials.note(delivery.serial_at_end()?);
        if self.sequences.is_empty() {
            return Ok(true);
        }
        let stamp = Stamp::read(delivery.data()?);
        Ok(stamp.and_then(|stamp| self.note_stamp(&stamp, channels)).is_some())
    }

    /// What a witness concludes from a stamp; `None`: there is no such publisher in its channel, or
    /// it is the receiver itself.
    pub fn note_stamp(&mut self, stamp: &Stamp, channels: usize) -> Option<Arrival> {
        let sequences = self.sequences.get_mut(stamp.publisher as usize / channels)?;
        (sequences.last < u64::MAX).then(|| sequences.note(stamp.sequence))
    }

    /// The newest serial.
    #[inline]
    pub fn serial(&self) -> u64 {
        self.serials.last
    }

    /// A witness's: the newest sequence of a publisher of its channel.
    pub fn sequence(&self, place: usize) -> Option<u64> {
        self.sequences.get(place).map(|sequences| sequences.last)
    }

    /// What is wrong once every message must have come, by what the channel accepted.
    pub fn faults(&self, accepted: &Accepted) -> Faults {
        let received: u64 = self.sequences.iter().map(Serials::received).sum();
        let lost = match accepted.is_numbered() || self.sequences.is_empty() {
            true => self.serials.lost(accepted),
            false => accepted.count.saturating_sub(received),
        };
        let mut faults = self.serials.faults;
        self.sequences.iter().for_each(|sequences| faults += sequences.faults);
        // What a witness misses of both is the same.
        let missed = faults.lost - self.serials.faults.lost;
        Faults { lost: lost.max(missed), ..faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a subscriber of two publishers makes of their messages, by publisher and sequence, when
    /// five of them were accepted and the server numbers none.
    fn faults(messages: &[(u32, u64)]) -> [u64; 3] {
        let mut receiver = Receiver::new(2);
        let mut accepted = Accepted::default();
        (0..5).for_each(|_| accepted.note(0));
        for &(publisher, sequence) in messages {
            let mut payload = Vec::new();
            let stamp = Stamp { publisher, sequence, intended_ns: 0 };
            stamp.write(&mut payload, 64);
            assert!(receiver.note_stamp(&Stamp::read(&payload).unwrap(), 1).is_some());
        }
        let Faults { lost, duplicated, reordered } = receiver.faults(&accepted);
        [lost, duplicated, reordered]
    }

    #[test]
    fn without_serials_the_stamps_tell_what_went_wrong() {
        assert_eq!(faults(&[(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]), [0, 0, 0]);
        assert_eq!(faults(&[(0, 1), (1, 1), (0, 2)]), [2, 0, 0]);
        assert_eq!(faults(&[(0, 1), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]), [0, 1, 0]);
        assert_eq!(faults(&[(0, 1), (1, 1), (0, 3), (0, 2), (1, 2)]), [0, 0, 1]);
        assert_eq!(faults(&[(0, 1), (1, 1), (0, 3), (1, 2)]), [1, 0, 0]);
        assert_eq!(faults(&[]), [5, 0, 0]);
    }
}
