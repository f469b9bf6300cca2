//! Publishers and receivers of channels: messages on the Foony protocol or a peer's, or the states
//! of members. The script of `latency`, `fanout`, `presence` and `mixed`.
//!
//! Owns what it takes to receive tens of millions of messages per second on one thread. Invariant:
//! every message is checked against the serials of its channel; one subscriber of each channel, its
//! witness, reads every stamp as well; of the others only every n-th is read, for its delay. Of
//! states every stamp is read. Must never know: how a connection is made or cut into messages.

mod encoder;
mod floors;
mod publisher;
mod receiver;
mod serials;

use std::mem;
use std::sync::Arc;

use super::client::{Event, Greeting, Out, Queued, Target};
use super::engine::{ClientId, Clients, Next};
use super::latencies::{Delay, Delays, Latencies};
use super::options::{Dialect, Publishing, WindowCounts};
use super::signals::{Counter, ThreadSignals};
use super::stage::{Joining, Script};
use super::stamp::{Arrival, Stamp};
use super::time::{Drive, Timeline};
use crate::client::protocol::Presence;
use crate::error::FrameError;
use crate::wire::foony::binary::Deliveries;
pub use encoder::Encoder;
use floors::Floors;
pub use publisher::Publisher;
pub use receiver::Receiver;
pub use serials::Accepted;

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The states of members. A newer one may overtake an older one, and none is acknowledged.
    States,
    Messages,
}

/// What all threads of a run have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    pub content: Content,
    pub dialect: Dialect,
    pub channels: Arc<[Arc<str>]>,
    /// By channel.
    pub targets: Arc<[Target]>,
    /// In the whole run.
    pub publishers: usize,
    pub drive: Drive,
    pub payload_bytes: usize,
    pub publishing: Publishing,
    /// Of how many deliveries the delay of one is recorded.
    pub sampled_of: u64,
    /// Are the delays of pings recorded?
    pub measures_pings: bool,
}

impl Plan {
    /// Does the server give what is published a serial?
    fn is_numbered(&self) -> bool {
        self.content == Content::Messages && self.dialect != Dialect::Peer
    }

    fn has_window_of_deliveries(&self) -> bool {
        matches!(self.drive, Drive::Window(_))
            && self.publishing.window_counts == WindowCounts::Deliveries
    }

    /// Publishers of a channel, and one more that it may have.
    pub fn publishers_of(&self, channel: usize) -> usize {
        (channel..self.publishers).step_by(self.channels.len()).len().max(1)
    }

    /// A publisher's number among those of its channel: the n-th publisher of a channel comes a
    /// multiple of all channels after the first.
    pub fn place_of(&self, publisher: usize) -> usize {
        publisher / self.channels.len()
    }

    /// Receivers keep one position for each feed: for a channel or, where the server does not
    /// number, for a publisher of the channel.
    fn feed(&self, channel: usize, publisher: usize) -> usize {
        let place = if self.is_numbered() { 0 } else { self.place_of(publisher) };
        channel + place * self.channels.len()
    }

    pub fn feeds(&self) -> usize {
        self.channels.len().max(self.publishers)
    }
}

/// One connection. On the sync wire publishers receive what the others publish.
pub struct Member {
    pub publisher: Option<Box<Publisher>>,
    pub receiver: Option<Receiver>,
}

impl Member {
    /// The channel that it joins.
    fn channel(&self) -> usize {
        match (&self.receiver, &self.publisher) {
            (Some(receiver), _) => receiver.channel,
            (None, Some(publisher)) => publisher.channels()[0],
            (None, None) => 0,
        }
    }
}

/// Must a publisher be asked again before anything happens to it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Blocked,
    Done,
}

/// One thread's publishers and receivers.
pub struct Traffic {
    plan: Plan,
    signals: ThreadSignals,
    members: Vec<Member>,
    /// Members that publish.
    publishers: Vec<usize>,
    /// Those among them that may have something to send, in a closed loop.
    unblocked: Vec<usize>,
    until_sample: u64,
    timeline: Option<Timeline>,
    encoder: Encoder,
    floors: Floors,
    /// By channel; of the publishers of this thread.
    pub accepted: Vec<Accepted>,
    pub delays: Delays,
}

impl Traffic {
    pub fn new(plan: Plan, members: Vec<Member>, signals: ThreadSignals) -> Self {
        let publishes = |at: &usize| members[*at].publisher.is_some();
        let publishers: Vec<usize> = (0..members.len()).filter(publishes).collect();
        Traffic {
            unblocked: publishers.clone(),
            publishers,
            until_sample: plan.sampled_of,
            accepted: vec![Accepted::default(); plan.channels.len()],
            encoder: Encoder::new(plan.publishing.publish_form),
            floors: Floors::new(&plan, &members, signals.clone()),
            plan,
            signals,
            members,
            timeline: None,
            delays: Delays::default(),
        }
    }

    /// Counts what never came, by what the publishers of all threads were accepted. After the
    /// engine has stopped.
    pub fn conclude(&self, accepted: &[Accepted]) {
        if self.plan.content == Content::States {
            let missing =
                self.signals.finals().map(|last| self.missing(0..self.members.len(), &last));
            return self.signals.add(Counter::Lost, missing.unwrap_or_default());
        }
        for member in &self.members {
            if let Some(publisher) = &member.publisher {
                self.signals.add(Counter::Unacknowledged, publisher.unacknowledged());
            }
            if let Some(receiver) = &member.receiver {
                let faults = receiver.faults(&accepted[receiver.channel]);
                self.signals.add(Counter::Lost, faults.lost);
                self.signals.add(Counter::Duplicated, faults.duplicated);
                self.signals.add(Counter::Reordered, faults.reordered);
            }
        }
    }

    /// Publishes of each publisher that were acknowledged within the measured time.
    pub fn publishes(&self) -> impl Iterator<Item = u64> {
        self.members.iter().filter_map(|member| Some(member.publisher.as_ref()?.measured))
    }

    /// Unblocks publishers whose publishes have reached every receiver of every thread.
    fn release(&mut self) {
        self.floors.note_rises();
        while let Some(feed) = self.floors.risen.pop() {
            let floor = self.signals.floor(feed);
            for &(at, turn) in &self.floors.publishers[feed] {
                if let Some(publisher) = &mut self.members[at].publisher
                    && publisher.note_floor(turn, floor)
                {
                    self.unblocked.push(at);
                }
            }
        }
    }

    /// Sends what may be sent, one message per publisher.
    fn publish(&mut self, now_ns: u64, ids: &[Option<ClientId>], clients: &mut Clients) -> Next {
        let mut next = Next::WhenSomethingHappens;
        if let Drive::Window(_) = self.plan.drive {
            let mut unblocked = mem::take(&mut self.unblocked);
            unblocked.retain(|&at| self.publish_due(at, now_ns, ids[at], clients) == Turn::Blocked);
            self.unblocked = unblocked;
            return next;
        }
        for index in 0..self.publishers.len() {
            let at = self.publishers[index];
            let _ = self.publish_due(at, now_ns, ids[at], clients);
            if let Some(publisher) = &self.members[at].publisher {
                next = next.sooner(publisher.next_ns().map_or(next, Next::AtNs));
            }
        }
        next
    }

    fn publish_due(
        &mut self,
        at: usize,
        now_ns: u64,
        id: Option<ClientId>,
        clients: &mut Clients,
    ) -> Turn {
        let (Some(publisher), Some(id)) = (&mut self.members[at].publisher, id) else {
            return Turn::Done;
        };
        if clients.pending(id) > 0 {
            return Turn::Blocked;
        }
        if publisher.is_due(now_ns, self.plan.drive) {
            let (encoder, plan, signals) = (&mut self.encoder, &self.plan, &self.signals);
            let measures = |due_ns| self.timeline.is_some_and(|timeline| timeline.measures(due_ns));
            let queued = clients.send(id, |out| {
                publisher.publish_due(now_ns, plan, encoder, out, |intended_ns| {
                    signals.add(Counter::Published, 1);
                    signals.add(Counter::PublishedMeasured, u64::from(measures(intended_ns)));
                });
            });
            if queued == Queued::Full {
                return Turn::Done;
            }
        }
        // What does not fit into one message goes into another one.
        if publisher.has_room(self.plan.drive) { Turn::Blocked } else { Turn::Done }
    }

    /// What matters once every connection has joined, as fast as it can be.
    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        deliveries: Deliveries<'_>,
    ) -> Result<(), FrameError> {
        let Some(receiver) = &mut self.members[at].receiver else { return Ok(()) };
        self.floors.keep(receiver);
        let (delays, until_sample) = (&mut self.delays[Delay::Delivery], &mut self.until_sample);
        let (mut delivered, mut is_ours) = (0, true);
        let (sampled_of, timeline) = (self.plan.sampled_of, self.timeline);
        let channels = self.plan.channels.len();
        deliveries.try_each(|delivery| {
            delivered += 1;
            is_ours &= receiver.receive(&delivery, channels)?;
            *until_sample -= 1;
            if *until_sample == 0 {
                *until_sample = sampled_of;
                is_ours &= sample(delays, now_ns, delivery.data()?, timeline);
            }
            Ok(())
        })?;
        self.note_received(at, delivered, is_ours)
    }

    fn receive_unnumbered(
        &mut self,
        now_ns: u64,
        at: usize,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        let Some(receiver) = &mut self.members[at].receiver else { return Ok(()) };
        self.floors.keep(receiver);
        let mut is_ours = receiver.receive_unnumbered(payload, self.plan.channels.len());
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.until_sample = self.plan.sampled_of;
            let delays = &mut self.delays[Delay::Delivery];
            is_ours &= sample(delays, now_ns, payload, self.timeline);
        }
        self.note_received(at, 1, is_ours)
    }

    fn note_received(&mut self, at: usize, count: u64, is_ours: bool) -> Result<(), FrameError> {
        self.signals.add(Counter::Delivered, count);
        self.floors.compare(at, &self.members);
        if is_ours { Ok(()) } else { Err(FrameError::Body) }
    }

    /// The set of all members of a channel, on the sync wire.
    fn receive_set(
        &mut self,
        now_ns: u64,
        at: usize,
        mut presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        let publishers = self.plan.publishers_of(self.members[at].channel());
        let (mut found, mut is_news) = (0, false);
        while found < publishers {
            let Some(member) = presence.present.next_member()? else { break };
            let Some(stamp) = Stamp::read(member.state) else { continue };
            found += 1;
            is_news |= self.receive_state(now_ns, at, &stamp) != Arrival::Known;
        }
        self.note_frame(now_ns, is_news);
        Ok(())
    }

    /// A frame of which no state was new is a duplicate.
    fn note_frame(&self, now_ns: u64, is_news: bool) {
        if !is_news && self.timeline.is_some_and(|timeline| timeline.measures(now_ns)) {
            self.signals.add(Counter::Duplicated, 1);
        }
    }

    /// [`Arrival::Known`] is what it is of itself, too. Only what was due within the measured time
    /// is reported.
    fn receive_state(&mut self, now_ns: u64, at: usize, stamp: &Stamp) -> Arrival {
        let (publisher, channels) = (stamp.publisher as usize, self.plan.channels.len());
        let member = &mut self.members[at];
        let own = member.publisher.as_ref().map(|publisher| publisher.index);
        let Some(receiver) = &mut member.receiver else { return Arrival::Known };
        if own == Some(publisher) || publisher % channels != receiver.channel {
            return Arrival::Known;
        }
        let place = self.plan.place_of(publisher);
        let Some(arrival) = receiver.note(place, stamp.sequence) else { return Arrival::Known };
        let measured = self.timeline.is_some_and(|timeline| timeline.measures(stamp.intended_ns));
        match arrival {
            Arrival::Known => {}
            Arrival::Reordered => self.signals.add(Counter::Reordered, u64::from(measured)),
            Arrival::New { conflated } => {
                self.signals.add(Counter::Delivered, 1);
                if measured {
                    self.signals.add(Counter::DeliveredMeasured, 1);
                    self.signals.add(Counter::Conflated, conflated);
                    let delay_ns = now_ns.saturating_sub(stamp.intended_ns);
                    self.delays[Delay::Update].record(delay_ns);
                }
                if self.floors.passes(publisher, stamp.sequence - 1 - conflated, stamp.sequence) {
                    self.floors.raise(publisher, &self.members);
                }
            }
        }
        arrival
    }

    fn note_acknowledged(
        &mut self,
        now_ns: u64,
        at: usize,
        published: Option<(u64, u64)>,
    ) -> Result<(), FrameError> {
        let Some(publisher) = &mut self.members[at].publisher else { return Ok(()) };
        let done = match published {
            Some((id, serial)) => publisher.acknowledge(id).inspect(|done| {
                self.accepted[done.0].note(serial);
                if self.plan.has_window_of_deliveries() {
                    publisher.await_delivery(id, serial);
                    // It may have been delivered first.
                    let feed = self.plan.feed(done.0, publisher.index);
                    publisher.note_floor(publisher.turn_of(id), self.signals.floor(feed));
                }
            }),
            None => publisher.acknowledge_oldest().inspect(|done| self.accepted[done.0].count()),
        };
        let (_, intended_ns) = done.ok_or(FrameError::Body)?;
        self.signals.add(Counter::Acknowledged, 1);
        if let Some(timeline) = self.timeline {
            publisher.measured += u64::from(timeline.measures(now_ns));
            if timeline.measures(intended_ns) {
                let delay_ns = now_ns.saturating_sub(intended_ns);
                self.delays[Delay::Acknowledgement].record(delay_ns);
            }
        }
        if matches!(self.plan.drive, Drive::Window(_)) && self.unblocked.last() != Some(&at) {
            self.unblocked.push(at);
        }
        Ok(())
    }

    /// After the run: the last messages settle.
    fn settle(&self, until_ns: u64) {
        let publishers =
            || self.publishers.iter().filter_map(|&at| self.members[at].publisher.as_ref());
        let is_settled = match self.plan.content {
            // The conductor compares deliveries: only it sees those of all threads.
            Content::Messages => publishers().all(|publisher| publisher.unacknowledged() == 0),
            Content::States => {
                publishers()
                    .filter(|publisher| publisher.next_ns().is_none_or(|next| next >= until_ns))
                    .for_each(|it| self.signals.set_final(it.index, it.sent()));
                let present = self.floors.receivers();
                self.signals.finals().is_some_and(|finals| self.missing(present, &finals) == 0)
            }
        };
        self.signals.set(Counter::Settled, u64::from(is_settled));
    }

    /// How many last states of publishers the members have not received, summed over members.
    fn missing(&self, members: impl Iterator<Item = usize>, finals: &[u64]) -> u64 {
        let missing = |at: usize| {
            let receiver = self.members[at].receiver.as_ref()?;
            let finals = finals.iter().skip(receiver.channel).step_by(self.plan.channels.len());
            let pairs = finals.zip(receiver.positions(false));
            Some(pairs.filter(|(last, newest)| newest < last).count() as u64)
        };
        members.filter_map(missing).sum()
    }
}

/// Records the delay of a delivery; `false`: it has no stamp.
#[inline(never)]
fn sample(delays: &mut Latencies, now_ns: u64, payload: &[u8], timeline: Option<Timeline>) -> bool {
    let Some(stamp) = Stamp::read_json(payload) else { return false };
    if timeline.is_some_and(|timeline| timeline.measures(stamp.intended_ns)) {
        delays.record(now_ns.saturating_sub(stamp.intended_ns));
    }
    true
}

impl Script for Traffic {
    fn events_max(&self) -> usize {
        match self.plan.content {
            Content::States => 1024,
            // Few: a server that has acknowledged must not idle while a thousand subscribers are
            // read.
            Content::Messages => 64,
        }
    }

    fn connections(&self) -> usize {
        self.members.len()
    }

    fn target(&self, at: usize) -> Target {
        let member = &self.members[at];
        let mut target = self.plan.targets[member.channel()].clone();
        if let (Content::Messages, Greeting::Foony { client_id, .. }, Some(publisher)) =
            (self.plan.content, &mut target.greeting, &member.publisher)
        {
            *client_id = format!("p{}", publisher.index).into();
        }
        target
    }

    fn join(&mut self, now_ns: u64, at: usize, out: &mut Out<'_>) -> Joining {
        let member = &self.members[at];
        let channel = &self.plan.channels[member.channel()];
        match (self.plan.content, &member.publisher) {
            (Content::Messages, Some(_)) => return Joining::Done,
            (Content::Messages, None) => out.join(channel, &[]),
            (Content::States, Some(publisher)) => {
                let publisher = publisher.index as u32;
                let announcement = Stamp { publisher, sequence: 0, intended_ns: now_ns };
                out.enter(channel, self.encoder.stamp(&announcement, &self.plan));
            }
            // Publishers first: receivers find them at the front of a set, which has the order of
            // joining.
            (Content::States, None) => {
                let publishers = self.signals.totals()[Counter::PublishersJoined];
                if publishers < self.plan.publishers as u64 {
                    return Joining::NotYet;
                }
                out.watch(channel);
            }
        }
        Joining::Asked
    }

    fn begin(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        let Drive::Rate(per_second) = self.plan.drive else { return };
        for publisher in self.members.iter_mut().filter_map(|it| it.publisher.as_mut()) {
            let phase = publisher.index as f64 / self.plan.publishers as f64;
            publisher.set_pace(per_second, phase, timeline);
        }
    }

    fn run(&mut self, now_ns: u64, ids: &[Option<ClientId>], clients: &mut Clients) -> Next {
        let until_ns = self.timeline.map_or(0, |timeline| timeline.until_ns);
        self.release();
        if now_ns < until_ns {
            return self.publish(now_ns, ids, clients);
        }
        if let Drive::Rate(_) = self.plan.drive {
            // What was due before the end is sent, however late this thread is.
            let _ = self.publish(until_ns - 1, ids, clients);
        }
        self.settle(until_ns);
        Next::WhenSomethingHappens
    }

    fn event(&mut self, now_ns: u64, at: usize, event: Event<'_>) -> Result<(), FrameError> {
        match event {
            Event::Joined => {
                let is_publisher = u64::from(self.members[at].publisher.is_some());
                self.signals.add(Counter::PublishersJoined, is_publisher);
                return Ok(());
            }
            Event::Pong { stamp } => {
                let measures = |timeline: Timeline| timeline.measures(stamp);
                if self.plan.measures_pings && self.timeline.is_some_and(measures) {
                    self.delays[Delay::Ping].record(now_ns.saturating_sub(stamp));
                }
                return Ok(());
            }
            Event::Other => return Ok(()),
            Event::Published(_) if self.plan.content == Content::States => return Ok(()),
            _ => self.signals.add(Counter::Frames, 1),
        }
        match event {
            Event::Messages(deliveries) => self.receive(now_ns, at, deliveries),
            Event::Unnumbered(payload) => self.receive_unnumbered(now_ns, at, payload),
            Event::Published(published) => self.note_acknowledged(now_ns, at, published),
            Event::Presence(presence) if self.timeline.is_some() => {
                self.receive_set(now_ns, at, presence)
            }
            Event::Member(member) if self.timeline.is_some() => {
                if let Some(stamp) = Stamp::read_json(member.data) {
                    let arrival = self.receive_state(now_ns, at, &stamp);
                    self.note_frame(now_ns, arrival != Arrival::Known);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn gone(&mut self, at: usize) {
        if let (Content::States, Some(publisher)) = (self.plan.content, &self.members[at].publisher)
        {
            self.signals.set_final(publisher.index, publisher.sent());
        }
        self.floors.remove(at, &self.members);
    }
}
