//! Publishers and receivers of channels: messages on the Foony protocol or a peer's, or the states
//! of members. The script of `latency`, `fanout`, `presence` and `mixed`.
//!
//! Owns what it takes to receive tens of millions of messages per second on one thread. Invariant:
//! every message is checked against the serials of its channel; one subscriber of each channel, its
//! witness, reads every stamp as well; of the others only every n-th is read, for its delay. Of
//! states every stamp is read. Must never know: how a connection is made or cut into messages.

mod encoder;
mod flood;
mod floors;
mod plan;
mod publisher;
mod receiver;
mod serials;

use std::mem;
use std::sync::Arc;

use super::client::{Closed, Event, Greeting, Out, Target};
use super::engine::{Clients, NEVER_NS};
use super::error::BenchError;
use super::latencies::{Delay, Delays, Latencies};
use super::signals::{Counter, ThreadSignals};
use super::stage::{HEARTBEAT_S, Joining, Script};
use super::stamp::Stamp;
use super::time::Pace;
use crate::client::protocol::Presence;
use crate::error::FrameError;
use crate::wire::foony::binary::Deliveries;
pub use encoder::Encoder;
pub use flood::Flood;
use floors::Floors;
pub use plan::{Content, Member, Plan, PublishForm, Spread, WindowCounts};
pub use publisher::Publisher;
pub use receiver::Receiver;
use serials::Arrival;
pub use serials::{Accepted, Faults};

/// One thread's publishers and receivers, and flooders beside them.
pub struct Traffic {
    plan: Arc<Plan>,
    signals: ThreadSignals,
    members: Vec<Member>,
    flood: Option<Flood>,
    /// Members that publish.
    publishers: Vec<usize>,
    /// Those among them that may have something to send, in a closed loop.
    unblocked: Vec<usize>,
    until_sample: u64,
    encoder: Encoder,
    floors: Floors,
    /// By channel; of the publishers of this thread.
    pub accepted: Vec<Accepted>,
    pub delays: Delays,
}

impl Traffic {
    pub fn new(
        plan: Arc<Plan>,
        members: Vec<Member>,
        flood: Option<Flood>,
        signals: ThreadSignals,
    ) -> Self {
        let publishes = |at: &usize| members[*at].publisher.is_some();
        let publishers: Vec<usize> = (0..members.len()).filter(publishes).collect();
        Traffic {
            unblocked: publishers.clone(),
            publishers,
            until_sample: plan.sampled_of,
            accepted: vec![Accepted::default(); plan.channels.len()],
            encoder: Encoder::new(plan.shape.publishing.publish_form),
            floors: Floors::new(&plan, &members, signals.clone()),
            plan,
            signals,
            members,
            flood,
            delays: Delays::default(),
        }
    }

    pub fn publishers(&self) -> impl Iterator<Item = &Publisher> {
        self.members.iter().filter_map(|member| member.publisher.as_deref())
    }

    /// What never came to the receivers of this thread, and which messages came wrongly. Of all
    /// threads: what each channel accepted, and how much each publisher sent.
    pub fn faults(&self, accepted: &[Accepted], sent: &[u64]) -> Faults {
        let mut faults = Faults::default();
        for member in &self.members {
            let Some(receiver) = &member.receiver else { continue };
            if self.plan.content == Content::Messages {
                faults += receiver.faults(&accepted[member.channel]);
                continue;
            }
            // The last states of publishers.
            let last = sent.iter().skip(member.channel).step_by(self.plan.channels.len());
            let is_lost = |&(place, &last): &(usize, &u64)| receiver.sequence(place) < Some(last);
            faults.lost += last.enumerate().filter(is_lost).count() as u64;
        }
        faults
    }

    /// Unblocks publishers whose publishes have reached every receiver of every thread.
    fn release(&mut self) {
        self.floors.note_others();
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
    fn publish(&mut self, now_ns: u64, start_ns: u64, clients: &mut Clients) -> u64 {
        let mut next_ns = NEVER_NS;
        let Some(per_second) = self.plan.shape.rate else {
            let mut unblocked = mem::take(&mut self.unblocked);
            unblocked.retain(|&at| self.publish_due(at, now_ns, clients));
            self.unblocked = unblocked;
            return next_ns;
        };
        for index in 0..self.publishers.len() {
            let at = self.publishers[index];
            if let Some(publisher) = &mut self.members[at].publisher {
                let phase = publisher.index as f64 / self.plan.shape.publishers as f64;
                publisher.pace.get_or_insert_with(|| Pace::new(start_ns, per_second, phase));
            }
            self.publish_due(at, now_ns, clients);
            let own_ns = self.members[at].publisher.as_ref().and_then(|it| it.next_ns());
            next_ns = next_ns.min(own_ns.unwrap_or(NEVER_NS));
        }
        next_ns
    }

    /// Must the publisher be asked again before anything happens to it?
    fn publish_due(&mut self, at: usize, now_ns: u64, clients: &mut Clients) -> bool {
        let Some(publisher) = &mut self.members[at].publisher else { return false };
        if clients.pending(at) > 0 {
            return true;
        }
        if publisher.is_due(now_ns) {
            let (encoder, plan, signals) = (&mut self.encoder, &self.plan, &self.signals);
            let is_taken = clients.send(at, |out| {
                publisher.publish_due(now_ns, plan, encoder, out, signals);
            });
            if !is_taken {
                return false;
            }
        }
        // What does not fit into one message goes into another one.
        publisher.has_room()
    }

    /// What matters once every connection has joined, as fast as it can be.
    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        deliveries: Deliveries<'_>,
    ) -> Result<(), FrameError> {
        let Member { channel, receiver: Some(receiver), .. } = &mut self.members[at] else {
            return Ok(());
        };
        let (channel, before) = (*channel, receiver.serial());
        let (delays, until_sample) = (&mut self.delays[Delay::Delivery], &mut self.until_sample);
        let (mut delivered, mut is_ours) = (0, true);
        let (sampled_of, signals) = (self.plan.sampled_of, &self.signals);
        let channels = self.plan.channels.len();
        deliveries.try_each(|delivery| {
            delivered += 1;
            is_ours &= receiver.receive(&delivery, channels)?;
            *until_sample -= 1;
            if *until_sample == 0 {
                *until_sample = sampled_of;
                is_ours &= sample(delays, now_ns, delivery.data()?, signals);
            }
            Ok(())
        })?;
        let after = receiver.serial();
        self.floors.note(channel, before, after, &self.members);
        self.note_delivered(delivered);
        if is_ours { Ok(()) } else { Err(FrameError::Body) }
    }

    /// A message of a server that does not number: its stamp tells where it belongs.
    fn receive_unnumbered(
        &mut self,
        now_ns: u64,
        at: usize,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        let stamp = Stamp::read(payload).ok_or(FrameError::Body)?;
        self.note_stamp(at, &stamp).ok_or(FrameError::Body)?;
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.until_sample = self.plan.sampled_of;
            sample(&mut self.delays[Delay::Delivery], now_ns, payload, &self.signals);
        }
        self.note_delivered(1);
        Ok(())
    }

    fn note_delivered(&self, count: u64) {
        self.signals.add(Counter::Delivered, count);
        self.signals.add(Counter::Settled, count);
    }

    /// A receiver has come further in what one publisher sends. `None`: the stamp is not of a
    /// publisher that it receives.
    fn note_stamp(&mut self, at: usize, stamp: &Stamp) -> Option<Arrival> {
        let publisher = stamp.publisher as usize;
        let (place, member) = (self.plan.place_of(publisher), &mut self.members[at]);
        let feed = self.plan.feed(member.channel, publisher);
        let receiver = member.receiver.as_mut()?;
        let before = receiver.sequence(place)?;
        let arrival = receiver.note_stamp(stamp, self.plan.channels.len())?;
        let after = receiver.sequence(place)?;
        self.floors.note(feed, before, after, &self.members);
        Some(arrival)
    }

    /// The set of all members of a channel, on the sync wire.
    fn receive_set(
        &mut self,
        now_ns: u64,
        at: usize,
        mut presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        let publishers = self.plan.publishers_of(self.members[at].channel);
        let (mut found, mut is_news) = (0, false);
        while found < publishers {
            let Some(member) = presence.present.next_member()? else { break };
            let Some(stamp) = Stamp::read(member.state) else { continue };
            found += 1;
            is_news |= self.receive_state(now_ns, at, &stamp);
        }
        self.note_frame(now_ns, is_news);
        Ok(())
    }

    /// A frame of which no state was new is a duplicate.
    fn note_frame(&self, now_ns: u64, is_news: bool) {
        if !is_news && self.signals.measures(now_ns) {
            self.signals.add(Counter::Duplicated, 1);
        }
    }

    /// Is it another one than before? That of itself is not. Only what was due within the measured
    /// time is reported.
    fn receive_state(&mut self, now_ns: u64, at: usize, stamp: &Stamp) -> bool {
        let measured = self.signals.measures(stamp.intended_ns);
        match self.note_stamp(at, stamp) {
            None | Some(Arrival::Known) => return false,
            Some(Arrival::Older) => self.signals.add(Counter::Reordered, u64::from(measured)),
            Some(Arrival::New { skipped }) => {
                self.note_delivered(1);
                self.signals.add(Counter::Settled, skipped);
                if measured {
                    self.signals.add(Counter::DeliveredMeasured, 1);
                    self.signals.add(Counter::Conflated, skipped);
                    let delay_ns = now_ns.saturating_sub(stamp.intended_ns);
                    self.delays[Delay::Update].record(delay_ns);
                }
            }
        }
        true
    }

    fn note_acknowledged(
        &mut self,
        now_ns: u64,
        at: usize,
        published: Option<(u64, u64)>,
    ) -> Result<(), FrameError> {
        let Some(publisher) = &mut self.members[at].publisher else { return Ok(()) };
        let (id, serial) = published.unwrap_or_else(|| (publisher.oldest(), 0));
        let (channel, intended_ns) = publisher.acknowledge(id).ok_or(FrameError::Body)?;
        self.accepted[channel].note(serial);
        if self.plan.is_numbered() && self.plan.has_window_of_deliveries() {
            publisher.await_delivery(id, serial);
            // It may have been delivered first.
            publisher.note_floor(publisher.turn_of(id), self.signals.floor(channel));
        }
        self.signals.add(Counter::Acknowledged, 1);
        self.signals.add(Counter::Settled, 1);
        publisher.measured += u64::from(self.signals.measures(now_ns));
        if self.signals.measures(intended_ns) {
            let delay_ns = now_ns.saturating_sub(intended_ns);
            self.delays[Delay::Acknowledgement].record(delay_ns);
        }
        if self.plan.shape.rate.is_none() && self.unblocked.last() != Some(&at) {
            self.unblocked.push(at);
        }
        Ok(())
    }

    fn receive_event(
        &mut self,
        now_ns: u64,
        at: usize,
        event: Event<'_>,
    ) -> Result<(), FrameError> {
        match event {
            Event::Joined => {
                let is_publisher = u64::from(self.members[at].publisher.is_some());
                self.signals.add(Counter::PublishersJoined, is_publisher);
                return Ok(());
            }
            Event::Pong(stamp) => {
                if self.plan.measures_pings && self.signals.measures(stamp) {
                    self.delays[Delay::Ping].record(now_ns.saturating_sub(stamp));
                }
                return Ok(());
            }
            Event::Open | Event::Greeted | Event::Other => return Ok(()),
            Event::Published(_) if self.plan.content == Content::States => return Ok(()),
            _ => self.signals.add(Counter::Frames, 1),
        }
        let has_begun = self.signals.timeline().is_some();
        match event {
            Event::Messages(deliveries) => self.receive(now_ns, at, deliveries)?,
            Event::Unnumbered(payload) => self.receive_unnumbered(now_ns, at, payload)?,
            Event::Published(published) => self.note_acknowledged(now_ns, at, published)?,
            Event::Presence(presence) if has_begun => self.receive_set(now_ns, at, presence)?,
            Event::Member(member) if has_begun => {
                if let Some(stamp) = Stamp::read(member.data) {
                    let is_news = self.receive_state(now_ns, at, &stamp);
                    self.note_frame(now_ns, is_news);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Records the delay of a delivery; `false`: it has no stamp.
#[inline(never)]
fn sample(delays: &mut Latencies, now_ns: u64, payload: &[u8], signals: &ThreadSignals) -> bool {
    let Some(stamp) = Stamp::read(payload) else { return false };
    if signals.measures(stamp.intended_ns) {
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

    /// Pings that are measured are as many as publishes.
    fn heartbeat_s(&self) -> f64 {
        match (self.plan.content, self.plan.shape.rate) {
            (Content::Messages, _) => 0.0,
            (Content::States, Some(rate)) if self.plan.measures_pings => 1.0 / rate,
            (Content::States, _) => HEARTBEAT_S,
        }
    }

    fn target(&self, at: usize) -> Target {
        let member = match (self.members.get(at), &self.flood) {
            (None, Some(flood)) => return flood.target.clone(),
            _ => &self.members[at],
        };
        let mut target = self.plan.targets[member.channel].clone();
        if let (Content::Messages, Greeting::Foony { client_id, .. }, Some(publisher)) =
            (self.plan.content, &mut target.greeting, &member.publisher)
        {
            *client_id = format!("p{}", publisher.index).into();
        }
        target
    }

    fn join(&mut self, now_ns: u64, at: usize, out: &mut Out<'_>) -> Joining {
        let member = &self.members[at];
        let channel = &self.plan.channels[member.channel];
        match (self.plan.content, &member.publisher) {
            (Content::Messages, Some(_)) => return Joining::Done,
            (Content::Messages, None) => out.join(channel, &[]),
            (Content::States, Some(publisher)) => {
                let publisher = publisher.index as u32;
                let announcement = Stamp { publisher, sequence: 0, intended_ns: now_ns };
                announcement.write(&mut self.encoder.payload, self.plan.shape.payload);
                out.enter(channel, &self.encoder.payload);
            }
            // Publishers first: receivers find them at the front of a set, which has the order of
            // joining.
            (Content::States, None) => {
                let publishers = self.signals.totals()[Counter::PublishersJoined];
                if publishers < self.plan.shape.publishers as u64 {
                    return Joining::NotYet;
                }
                out.watch(channel);
            }
        }
        Joining::Asked
    }

    fn run(&mut self, now_ns: u64, clients: &mut Clients) -> Result<u64, BenchError> {
        let Some(timeline) = self.signals.timeline() else { return Ok(NEVER_NS) };
        self.release();
        let mut next_ns = NEVER_NS;
        if now_ns < timeline.until_ns {
            next_ns = self.publish(now_ns, timeline.start_ns, clients);
        } else {
            if self.plan.shape.rate.is_some() {
                // What was due before the end is sent, however late this thread is.
                self.publish(timeline.until_ns - 1, timeline.start_ns, clients);
            }
            let is_over = |next_ns| next_ns >= timeline.until_ns;
            let is_finished = self.publishers().all(|it| it.next_ns().is_none_or(is_over));
            self.signals.set(Counter::Finished, u64::from(is_finished));
        }
        // Flooders come last in every turn.
        match &mut self.flood {
            Some(flood) => Ok(next_ns.min(flood.run(now_ns, clients)?)),
            None => Ok(next_ns),
        }
    }

    fn event(
        &mut self,
        now_ns: u64,
        at: usize,
        out: &mut Out<'_>,
        event: Event<'_>,
    ) -> Result<(), Closed> {
        match &mut self.flood {
            Some(flood) if at >= self.members.len() => flood.event(at, out, event),
            _ => self.receive_event(now_ns, at, event)?,
        }
        Ok(())
    }

    fn closed(&mut self, _: u64, at: usize, _: Closed) -> Result<(), Closed> {
        match &mut self.flood {
            Some(flood) if at >= self.members.len() => flood.closed(at),
            _ => self.floors.remove(at, &self.members),
        }
        Ok(())
    }
}
