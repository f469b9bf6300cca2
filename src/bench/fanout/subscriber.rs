//! One subscriber: what it has heard, and what never came.

use std::cmp::Ordering;

use super::heard::{Accepted, Heard};
use super::payload;
use super::said::Delivered;

pub struct Subscriber {
    pub channel: usize,
    heard: Heard,
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
        Subscriber { channel, heard: Heard::default(), witness: publishers.map(witness) }
    }

    /// `false`: the delivery has no stamp of this run.
    #[inline]
    pub fn hear(&mut self, delivery: &Delivered<'_>) -> bool {
        if delivery.serial > 0 {
            self.heard.note(delivery.serial);
        }
        match &mut self.witness {
            None => true,
            Some(witness) => witness.hear(delivery),
        }
    }

    /// How far it has come, by publisher of its channel where the server does not number. Only a
    /// witness knows that.
    pub fn positions(&self, is_numbered: bool) -> &[u64] {
        match &self.witness {
            Some(witness) if !is_numbered => &witness.newest,
            _ => std::slice::from_ref(self.heard.last()),
        }
    }

    /// What is wrong once everything must have come, by what the channel accepted.
    pub fn faults(&self, accepted: &Accepted) -> Faults {
        let heard = &self.heard;
        let by_serial = match self.witness {
            // The server does not number: whoever read every stamp knows how many came.
            Some(ref witness) if accepted.is_unnumbered() => accepted.missing(witness.heard()),
            _ => heard.lost(accepted),
        };
        let Some(witness) = &self.witness else {
            let (duplicated, reordered) = (heard.duplicated, heard.reordered);
            return Faults { lost: by_serial, duplicated, reordered };
        };
        Faults {
            lost: by_serial.max(witness.missing),
            duplicated: heard.duplicated + witness.duplicated,
            reordered: heard.reordered + witness.reordered,
        }
    }
}

impl Witness {
    fn hear(&mut self, delivery: &Delivered<'_>) -> bool {
        let Some(stamp) = delivery.data().and_then(payload::read) else { return false };
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
    fn heard(&self) -> u64 {
        self.newest.iter().sum::<u64>() - self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::options::Dialect;
    use super::super::super::redis;
    use super::super::super::stamp::Stamp;
    use super::super::said::{self, Said};
    use super::*;

    /// What a subscriber of two publishers makes of their messages, by publisher and sequence, when
    /// five of them were accepted and the server numbers none.
    fn faults(messages: &[(u32, u64)]) -> [u64; 3] {
        let mut subscriber = Subscriber::new(0, Some(2), 1);
        let mut accepted = Accepted::default();
        (0..5).for_each(|_| accepted.count());
        for &(publisher, sequence) in messages {
            let (mut payload, mut bytes) = (Vec::new(), Vec::new());
            let stamp = Stamp { publisher, sequence, intended_ns: 0 };
            payload::write(&stamp, &mut payload, 64);
            // A message has the form of a publish, but for the first word.
            redis::append_publish(&mut bytes, "c", &payload);
            let message = String::from_utf8(bytes).unwrap().replace("PUBLISH", "message");
            said::read(Dialect::Redis, message.as_bytes(), |said| match said {
                Said::Delivered(delivery) => assert!(subscriber.hear(&delivery)),
                other => panic!("{other:?}"),
            })
            .unwrap();
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
