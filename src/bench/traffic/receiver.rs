//! One receiver of a channel: what has come, and what never came.

use super::super::stamp::{Arrival, Arrivals, Stamp};
use super::serials::{Accepted, Serials};
use crate::error::FrameError;
use crate::wire::foony::binary::Delivered;

pub struct Receiver {
    pub channel: usize,
    serials: Serials,
    witness: Option<Witness>,
}

/// Reads every stamp: no publish may be missing or change places.
struct Witness {
    /// By publisher of the channel.
    arrivals: Arrivals,
    /// Sequences that were jumped over and have not come since.
    missing: u64,
    duplicated: u64,
    reordered: u64,
}

/// What went wrong at one receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Receiver {
    /// `publishers`: of its channel, if every stamp is to be read.
    pub fn new(channel: usize, publishers: Option<usize>) -> Self {
        let witness = |publishers| Witness {
            arrivals: Arrivals::of_publishers(publishers),
            missing: 0,
            duplicated: 0,
            reordered: 0,
        };
        Receiver { channel, serials: Serials::default(), witness: publishers.map(witness) }
    }

    /// As if it had seen everything of one publisher of its channel: of itself.
    pub fn except(mut self, place: usize) -> Self {
        if let Some(witness) = &mut self.witness {
            witness.arrivals.note(place, u64::MAX);
        }
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
        match &mut self.witness {
            None => Ok(true),
            Some(witness) => Ok(witness.receive(delivery.data()?, channels)),
        }
    }

    /// As [`Receiver::receive`], of a server that does not number.
    pub fn receive_unnumbered(&mut self, payload: &[u8], channels: usize) -> bool {
        self.witness.as_mut().is_none_or(|witness| witness.receive(payload, channels))
    }

    /// Takes a state of a publisher of the channel, by its place among these; `None`: there is no
    /// such publisher.
    pub fn note(&mut self, place: usize, sequence: u64) -> Option<Arrival> {
        self.witness.as_mut()?.arrivals.note(place, sequence)
    }

    /// How far it has come, by publisher of its channel where the server does not number. Only a
    /// witness knows that.
    #[inline]
    pub fn positions(&self, is_numbered: bool) -> &[u64] {
        match &self.witness {
            Some(witness) if !is_numbered => witness.arrivals.newest(),
            _ => std::slice::from_ref(self.serials.last()),
        }
    }

    /// What is wrong once every message must have come, by what the channel accepted.
    pub fn faults(&self, accepted: &Accepted) -> Faults {
        let serials = &self.serials;
        let (duplicated, reordered) = (serials.duplicated, serials.reordered);
        let Some(witness) = &self.witness else {
            return Faults { lost: serials.lost(accepted), duplicated, reordered };
        };
        let lost = match accepted.is_unnumbered() {
            true => accepted.missing(witness.received()),
            false => serials.lost(accepted),
        };
        Faults {
            lost: lost.max(witness.missing),
            duplicated: duplicated + witness.duplicated,
            reordered: reordered + witness.reordered,
        }
    }
}

impl Witness {
    fn receive(&mut self, payload: &[u8], channels: usize) -> bool {
        let Some(stamp) = Stamp::read_json(payload) else { return false };
        let place = stamp.publisher as usize / channels;
        match self.arrivals.note(place, stamp.sequence) {
            None => return false,
            Some(Arrival::New { conflated }) => self.missing += conflated,
            Some(Arrival::Known) => self.duplicated += 1,
            Some(Arrival::Reordered) => {
                self.missing = self.missing.saturating_sub(1);
                self.reordered += 1;
            }
        }
        true
    }

    /// Different messages that came.
    fn received(&self) -> u64 {
        self.arrivals.newest().iter().sum::<u64>() - self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stamp::Stamp;
    use super::*;

    /// What a subscriber of two publishers makes of their messages, by publisher and sequence, when
    /// five of them were accepted and the server numbers none.
    fn faults(messages: &[(u32, u64)]) -> [u64; 3] {
        let mut receiver = Receiver::new(0, Some(2));
        let mut accepted = Accepted::default();
        (0..5).for_each(|_| accepted.count());
        for &(publisher, sequence) in messages {
            let mut payload = Vec::new();
            let stamp = Stamp { publisher, sequence, intended_ns: 0 };
            stamp.write_json(&mut payload, 64);
            assert!(receiver.receive_unnumbered(&payload, 1));
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
