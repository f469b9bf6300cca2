//! One publisher: what it may send, and what it waits for.

use std::collections::VecDeque;

use super::super::client::Out;
use super::super::options::{FanoutOptions, WindowCounts};
use super::super::signals::{Counter, ThreadSignals};
use super::super::stamp::Stamp;
use super::super::time::Pace;
use super::{Content, Encoder, Plan};

/// Publishes that one publisher may catch up in one turn.
const CATCH_UP_MAX: usize = 4096;
/// Payload bytes of one publisher in one turn.
const BYTES_PER_TURN: usize = 256 * 1024;
/// In place of the intended time of a publish that was acknowledged before an earlier one.
const ACKNOWLEDGED: u64 = u64::MAX;

pub struct Publisher {
    /// Among the publishers of the run.
    pub index: usize,
    /// Its channels, in turn.
    pub channels: Vec<usize>,
    /// Of a closed loop: publishes in flight, and what ends their time.
    window: Option<u64>,
    counts: WindowCounts,
    pub sent: u64,
    acknowledged: u64,
    /// By channel of its own, in a window of deliveries: positions of what was sent and is not
    /// known to have reached every receiver.
    undelivered: Vec<VecDeque<u64>>,
    /// Of what was sent, in a window of deliveries.
    delivered: u64,
    /// Intended times from the oldest publish without acknowledgement on.
    waiting: VecDeque<u64>,
    /// Of an open loop that has begun.
    pub pace: Option<Pace>,
    /// Acknowledged within the measured time.
    pub measured: u64,
}

impl Publisher {
    pub fn new(index: usize, channels: Vec<usize>, shape: &FanoutOptions) -> Self {
        Publisher {
            index,
            undelivered: vec![VecDeque::new(); channels.len()],
            channels,
            window: shape.window(),
            counts: shape.publishing.window_counts,
            sent: 0,
            acknowledged: 0,
            delivered: 0,
            waiting: VecDeque::new(),
            pace: None,
            measured: 0,
        }
    }

    fn unacknowledged(&self) -> u64 {
        self.sent - self.acknowledged
    }

    /// Messages without an acknowledgement. States have none.
    pub fn unanswered(&self) -> u64 {
        if self.waiting.is_empty() { 0 } else { self.unacknowledged() }
    }

    fn in_flight(&self) -> u64 {
        match self.counts {
            WindowCounts::Acks => self.unacknowledged(),
            WindowCounts::Deliveries => self.sent - self.delivered,
        }
    }

    /// In a window of deliveries: a publish has this position in its feed, which is its serial, or
    /// its sequence where the server does not number.
    pub fn await_delivery(&mut self, id: u64, position: u64) {
        let turn = self.turn_of(id);
        self.undelivered[turn].push_back(position);
    }

    /// Every receiver of one of its channels has received what is at `floor` and before. Was one
    /// of its own publishes among that?
    pub fn note_floor(&mut self, turn: usize, floor: u64) -> bool {
        let before = self.delivered;
        let undelivered = &mut self.undelivered[turn];
        while undelivered.front().is_some_and(|&position| position <= floor) {
            undelivered.pop_front();
            self.delivered += 1;
        }
        self.delivered > before
    }

    /// When the next publish is due in an open loop.
    pub fn next_ns(&self) -> Option<u64> {
        self.pace.as_ref().map(Pace::next_ns)
    }

    /// Sends all publishes that may be sent.
    pub fn publish_due(
        &mut self,
        now_ns: u64,
        plan: &Plan,
        encoder: &mut Encoder,
        out: &mut Out<'_>,
        signals: &ThreadSignals,
    ) {
        for _ in 0..CATCH_UP_MAX.min(BYTES_PER_TURN / plan.shape.payload.max(1)).max(1) {
            let Some(intended_ns) = self.take_due(now_ns) else { break };
            self.publish(intended_ns, plan, encoder, out);
            signals.add(Counter::Published, 1);
            signals.add(Counter::PublishedMeasured, u64::from(signals.measures(intended_ns)));
            signals.add(Counter::Owed, plan.owed_for(self.index));
        }
    }

    pub fn is_due(&self, now_ns: u64) -> bool {
        self.has_room() || self.next_ns().is_some_and(|next_ns| next_ns <= now_ns)
    }

    /// May more be sent at once, in a closed loop?
    pub fn has_room(&self) -> bool {
        self.window.is_some_and(|window| self.in_flight() < window)
    }

    fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        match &mut self.pace {
            Some(pace) => pace.take_due(now_ns),
            None => self.has_room().then_some(now_ns),
        }
    }

    fn publish(&mut self, intended_ns: u64, plan: &Plan, encoder: &mut Encoder, out: &mut Out<'_>) {
        let (channel, sequence) = self.place_of(self.sent + 1);
        let channel = &plan.channels[channel];
        self.sent += 1;
        let stamp = Stamp { publisher: self.index as u32, sequence, intended_ns };
        stamp.write(&mut encoder.payload, plan.shape.payload);
        match plan.content {
            Content::States => {
                out.update(channel, &encoder.payload);
                out.end_message();
            }
            Content::Messages => {
                self.waiting.push_back(intended_ns);
                encoder.publish(self.sent, channel, out);
            }
        }
        if plan.has_window_of_deliveries() && !plan.is_numbered() {
            self.await_delivery(self.sent, sequence);
        }
    }

    /// Which of its own channels the publish with this id went to.
    pub fn turn_of(&self, id: u64) -> usize {
        ((id - 1) % self.channels.len() as u64) as usize
    }

    /// Channel, and sequence in it from 1 on, of the publish with this id. Ids count from 1.
    fn place_of(&self, id: u64) -> (usize, u64) {
        let sequence = (id - 1) / self.channels.len() as u64 + 1;
        (self.channels[self.turn_of(id)], sequence)
    }

    /// The publish that a server which answers in order acknowledges next.
    pub fn oldest(&self) -> u64 {
        self.acknowledged + 1
    }

    /// The server has accepted a publish. Its channel and intended time; `None` when there was
    /// none to be accepted.
    pub fn acknowledge(&mut self, id: u64) -> Option<(usize, u64)> {
        let oldest = self.sent + 1 - self.waiting.len() as u64;
        let at = usize::try_from(id.checked_sub(oldest)?).ok()?;
        let waiting = self.waiting.get_mut(at)?;
        let intended_ns = std::mem::replace(waiting, ACKNOWLEDGED);
        if intended_ns == ACKNOWLEDGED {
            return None;
        }
        while self.waiting.front() == Some(&ACKNOWLEDGED) {
            self.waiting.pop_front();
        }
        self.acknowledged += 1;
        Some((self.place_of(id).0, intended_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::client::{Client, Greeting, Target, Transport};
    use std::sync::Arc;

    use super::super::super::connect::connect;
    use super::super::super::signals::Signals;
    use super::*;
    use crate::bench::options::PublishForm;

    fn publisher(channels: Vec<usize>, window: u64, window_counts: WindowCounts) -> Publisher {
        let mut shape = FanoutOptions { window, ..FanoutOptions::default() };
        shape.publishing.window_counts = window_counts;
        Publisher::new(0, channels, &shape)
    }

    fn acks(channels: Vec<usize>, window: u64) -> Publisher {
        publisher(channels, window, WindowCounts::Acks)
    }

    /// A client that is not connected; what it sends stays in it.
    fn client() -> Client {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let greeting = Greeting::Foony { key: "".into(), client_id: "".into() };
        let target = Target::new(address, Transport::Ws, "/", greeting);
        Client::new(connect(address, 0).unwrap(), target, 1)
    }

    fn write(publisher: &mut Publisher, now_ns: u64) -> u64 {
        let greeting = Greeting::Foony { key: "".into(), client_id: "".into() };
        let target = Target::new(([127, 0, 0, 1], 1).into(), Transport::Ws, "/", greeting);
        let plan = Plan {
            content: Content::Messages,
            shape: FanoutOptions::default(),
            channels: vec!["a".into(), "b".into(), "c".into()],
            targets: vec![target],
            sampled_of: 1,
            measures_pings: false,
        };
        let mut encoder = Encoder::new(PublishForm::Sdk);
        let signals = ThreadSignals::of(&Arc::new(Signals::new(1, 1)), 0);
        publisher.publish_due(now_ns, &plan, &mut encoder, &mut client().out(), &signals);
        signals.totals()[Counter::Published]
    }

    #[test]
    fn without_ids_the_oldest_is_acknowledged() {
        let mut publisher = acks(vec![0, 2], 2);
        assert_eq!(write(&mut publisher, 10), 2);
        let acknowledged: Vec<_> =
            (0..3).map(|_| publisher.acknowledge(publisher.oldest())).collect();
        assert_eq!(acknowledged, [Some((0, 10)), Some((2, 10)), None]);
        assert_eq!(publisher.unacknowledged(), 0);
    }

    #[test]
    fn a_window_is_refilled_by_acknowledgements_in_any_order() {
        let mut publisher = acks(vec![0, 2], 3);
        assert_eq!((write(&mut publisher, 10), write(&mut publisher, 11)), (3, 0));
        assert_eq!(publisher.acknowledge(2), Some((2, 10)));
        assert_eq!(publisher.acknowledge(2), None);
        assert_eq!(write(&mut publisher, 12), 1);
        assert_eq!(publisher.acknowledge(1), Some((0, 10)));
        assert_eq!(publisher.acknowledge(4), Some((2, 12)));
        assert_eq!((publisher.acknowledge(5), publisher.acknowledge(0)), (None, None));
        assert_eq!(publisher.in_flight(), 1);
        assert_eq!(publisher.acknowledge(3), Some((0, 10)));
        assert!(publisher.waiting.is_empty());
    }

    #[test]
    fn a_window_of_deliveries_is_refilled_by_what_every_subscriber_has() {
        let mut publisher = publisher(vec![0, 2], 3, WindowCounts::Deliveries);
        assert_eq!(write(&mut publisher, 10), 3);
        for (id, serial) in [(1, 1), (2, 1), (3, 2)] {
            assert!(publisher.acknowledge(id).is_some());
            publisher.await_delivery(id, serial);
        }
        assert_eq!(write(&mut publisher, 11), 0);
        assert!(!publisher.note_floor(0, 0));
        assert!(publisher.note_floor(1, 1));
        assert!(publisher.note_floor(0, 5));
        assert_eq!(write(&mut publisher, 12), 3);
    }

    #[test]
    fn an_open_loop_does_not_wait() {
        let shape = FanoutOptions { rate: Some(1e6), ..FanoutOptions::default() };
        let mut publisher = Publisher::new(0, vec![0], &shape);
        assert_eq!(write(&mut publisher, 10_000), 0);
        publisher.pace = Some(Pace::new(0, 1e6, 0.0));
        assert_eq!(write(&mut publisher, 2_500), 3);
        assert_eq!(publisher.next_ns(), Some(3_000));
    }

    #[test]
    fn sequences_are_dense_in_every_channel() {
        let publisher = acks(vec![4, 5], 1);
        let places: Vec<_> = (1..=4).map(|id| publisher.place_of(id)).collect();
        assert_eq!(places, [(4, 1), (5, 1), (4, 2), (5, 2)]);
    }
}
