//! One subscriber: what it has received, and what never came.

use std::cmp::Ordering;

use super::payload;
use super::received::{Accepted, Received};
use crate::error::FrameError;
use crate::wire::foony::binary::Delivered;

pub struct Subscriber {
    pub channel: usize,
    received: Received,
    witness: Option<Witness>,
}

/// Reads every stamp: no publish may be missing or change places.
#[derive(Debug)]
struct Witness {
    /// Sequence of the newest message by publisher of the channel.
    newest: Vec<u64>,
    /// Sequences that were jumped over and have not come since.
    missing: u64,
    duplicated: u64,
    reordered: u64,
    /// Publishers of a channel are numbered by their index divided by the number of channels.
    channels: usize,
}

/// What went wrong at one subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Subscriber {
    /// `publishers`: of its channel, if it is a witness; `channels`: in the whole run.
    pub fn new(channel: usize, publishers: Option<usize>, channels: usize) -> Self {
        let witness = |publishers| Witness {
            newest: vec![0; publishers],
            missing: 0,
            duplicated: 0,
            reordered: 0,
            channels,
        };
        Subscriber { channel, received: Received::default(), witness: publishers.map(witness) }
    }

    /// `false`: what a witness reads is not a payload of this run.
    #[inline]
    pub fn receive(&mut self, delivery: &Delivered<'_>) -> Result<bool, FrameError> {
        self.received.note(delivery.serial_at_end()?);
        match &mut self.witness {
            None => Ok(true),
            Some(witness) => Ok(witness.receive(delivery.data()?)),
        }
    }

    /// As [`Subscriber::receive`], of a server that does not number.
    pub fn receive_unnumbered(&mut self, payload: &[u8]) -> bool {
        self.witness.as_mut().is_none_or(|witness| witness.receive(payload))
    }

    /// How far it has come, by publisher of its channel where the server does not number. Only a
    /// witness knows that.
    pub fn positions(&self, is_numbered: bool) -> &[u64] {
        match &self.witness {
            Some(witness) if !is_numbered => &witness.newest,
            _ => std::slice::from_ref(self.received.last()),
        }
    }

    /// What is wrong once everything must have come, by what the channel accepted.
    pub fn faults(&self, accepted: &Accepted) -> Faults {
        let received = &self.received;
        let by_serial = match self.witness {
            // The server does not number: a witness knows how many came.
            Some(ref witness) if accepted.is_unnumbered() => accepted.missing(witness.received()),
            _ => received.lost(accepted),
        };
        let Some(witness) = &self.witness else {
            let (duplicated, reordered) = (received.duplicated, received.reordered);
            return Faults { lost: by_serial, duplicated, reordered };
        };
        Faults {
            lost: by_serial.max(witness.missing),
            duplicated: received.duplicated + witness.duplicated,
            reordered: received.reordered + witness.reordered,
        }
    }
}

impl Witness {
    fn receive(&mut self, payload: &[u8]) -> bool {
        let Some(stamp) = payload::read(payload) else { return false };
        let publisher = stamp.publisher as usize / self.channels;
        let Some(newest) = self.newest.get_mut(publisher) else { return false };
        match stamp.sequence.cmp(newest) {
            Ordering::Greater => self.missing += stamp.sequence - *newest - 1,
            Ordering::Equal => self.duplicated += 1,
            Ordering::Less => {
                self.missing = self.missing.saturating_sub(1);
                self.reordered += 1;
            }
        }
        *newest = stamp.sequence.max(*newest);
        true
    }

    /// Different messages that came.
    fn received(&self) -> u64 {
        self.newest.iter().sum::<u64>() - self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stamp::Stamp;
    use super::*;

    /// What a subscriber of two publishers makes of their messages, by publisher and sequence, when
    /// five of them were accepted and the server numbers none.
    fn faults(messages: &[(u32, u64)]) -> [u64; 3] {
        let mut subscriber = Subscriber::new(0, Some(2), 1);
        let mut accepted = Accepted::default();
        (0..5).for_each(|_| accepted.count());
        for &(publisher, sequence) in messages {
            let mut payload = Vec::new();
            let stamp = Stamp { publisher, sequence, intended_ns: 0 };
            payload::write(&stamp, &mut payload, 64);
            assert!(subscriber.receive_unnumbered(&payload));
        }
        let Faults { lost, duplicated, reordered } = subscriber.faults(&accepted);
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
