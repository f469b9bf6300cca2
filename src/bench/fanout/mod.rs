//! Publishers and subscribers of messages, on the Foony protocol or a peer's: the script of
//! `fanout`.
//!
//! Owns what it takes to receive tens of millions of messages per second on one thread. Invariant:
//! every delivery is checked against the serials of its channel; one subscriber of each channel,
//! its witness, reads every stamp as well; of the others only every n-th is read, for its delay.
//! Must never know: how a connection is made or cut into messages.

pub mod payload;
mod publisher;
mod received;
mod subscriber;

use std::mem;
use std::sync::Arc;

use super::client::{Event, Greeting, Out, Queued, Target};
use super::engine::{ClientId, Clients, Next};
use super::latencies::Latencies;
use super::options::{Dialect, Publishing, WindowCounts};
use super::room::Drive;
use super::signals::{Gauges, Signals, Timeline};
use super::stage::{Joining, Script};
use super::window::Window;
use crate::error::FrameError;
use crate::wire::foony::binary::Deliveries;
pub use publisher::Encoder;
use publisher::Publisher;
pub use received::Accepted;
use subscriber::{Faults, Subscriber};

/// What all threads of a run have in common.
#[derive(Clone, Debug)]
pub struct FanoutPlan {
    /// Members of the Foony protocol give themselves client ids.
    pub target: Target,
    pub channels: Arc<[Arc<str>]>,
    /// In the whole run.
    pub publishers: usize,
    pub drive: Drive,
    pub payload_bytes: usize,
    pub publishing: Publishing,
    /// Of how many deliveries the delay of one is recorded.
    pub sampled_of: u64,
}

impl FanoutPlan {
    /// Does the server give every message a serial?
    fn is_numbered(&self) -> bool {
        self.target.dialect() != Dialect::Peer
    }

    fn has_window_of_deliveries(&self) -> bool {
        matches!(self.drive, Drive::Window(_))
            && self.publishing.window_counts == WindowCounts::Deliveries
    }

    /// What a window of deliveries waits for has a number: the channel's or, where the server does
    /// not number messages, that of a publisher of the channel. The n-th publisher of a channel
    /// comes a multiple of all channels after the first.
    fn lane(&self, channel: usize, publisher: usize) -> usize {
        let place = if self.is_numbered() { 0 } else { publisher / self.channels.len() };
        channel + place * self.channels.len()
    }

    pub fn lanes(&self) -> usize {
        self.channels.len().max(self.publishers)
    }
}

/// One connection to be, by the numbers of channels.
#[derive(Clone, Debug)]
pub enum RolePlan {
    Publisher {
        index: usize,
        channels: Vec<usize>,
    },
    /// A witness knows every publisher of its channel.
    Subscriber {
        channel: usize,
        witness_of: Option<usize>,
    },
}

/// What one thread measured.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Publishes that were never acknowledged.
    pub unacknowledged: u64,
    /// Acknowledged within the measured time, one number per publisher.
    pub publishes: Vec<u64>,
    pub delivery_delay: Latencies,
    pub acknowledgement_delay: Latencies,
}

impl Tally {
    pub fn merge(&mut self, other: &Tally) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.unacknowledged += other.unacknowledged;
        self.publishes.extend(&other.publishes);
        self.delivery_delay.merge(&other.delivery_delay);
        self.acknowledgement_delay.merge(&other.acknowledgement_delay);
    }
}

enum Role {
    Publisher(Publisher),
    Subscriber(Subscriber),
}

impl Role {
    fn of(role: RolePlan, plan: &FanoutPlan) -> Role {
        match role {
            RolePlan::Publisher { index, channels } => {
                let counts = plan.publishing.window_counts;
                Role::Publisher(Publisher::new(index, channels, counts))
            }
            RolePlan::Subscriber { channel, witness_of } => {
                Role::Subscriber(Subscriber::new(channel, witness_of, plan.channels.len()))
            }
        }
    }
}

/// Must a publisher be asked again before anything happens to it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Blocked,
    Done,
}

/// One thread's publishers and subscribers.
pub struct Fanout {
    plan: FanoutPlan,
    signals: Arc<Signals>,
    thread: usize,
    roles: Vec<Role>,
    /// Members that publish.
    publishers: Vec<usize>,
    /// Those among them that may have something to send, in a closed loop.
    unblocked: Vec<usize>,
    published: u64,
    acknowledged: u64,
    messages: u64,
    delivered: u64,
    until_sample: u64,
    timeline: Option<Timeline>,
    encoder: Encoder,
    lanes: Lanes,
    /// By channel; of the publishers of this thread.
    pub accepted: Vec<Accepted>,
    pub tally: Tally,
}

/// What publishers wait for in a window of deliveries. Empty without one.
#[derive(Default)]
struct Lanes {
    /// By lane: what all subscribers of this thread have received.
    windows: Vec<Window>,
    /// By channel: subscribers of this thread that are still there.
    subscribers: Vec<Vec<usize>>,
    /// By lane: publishers of this thread, and which of their channels that is.
    publishers: Vec<Vec<(usize, usize)>>,
    /// Lanes that rose since the last turn.
    risen: Vec<usize>,
    rises_seen: u64,
    /// Positions of a subscriber before a message.
    before: Vec<u64>,
}

impl Lanes {
    fn of(plan: &FanoutPlan, roles: &[Role]) -> Lanes {
        if !plan.has_window_of_deliveries() {
            return Lanes::default();
        }
        let mut lanes = Lanes {
            windows: (0..plan.lanes()).map(|_| Window::default()).collect(),
            subscribers: vec![Vec::new(); plan.channels.len()],
            publishers: vec![Vec::new(); plan.lanes()],
            ..Lanes::default()
        };
        for (at, role) in roles.iter().enumerate() {
            match role {
                Role::Subscriber(subscriber) => lanes.subscribers[subscriber.channel].push(at),
                Role::Publisher(publisher) => {
                    for (turn, &channel) in publisher.channels().iter().enumerate() {
                        let lane = plan.lane(channel, publisher.index);
                        lanes.publishers[lane].push((at, turn));
                    }
                }
            }
        }
        lanes
    }
}

impl Fanout {
    pub fn new(
        plan: FanoutPlan,
        roles: Vec<RolePlan>,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let roles: Vec<Role> = roles.into_iter().map(|role| Role::of(role, &plan)).collect();
        let publishes = |at: &usize| matches!(roles[*at], Role::Publisher(_));
        let publishers: Vec<usize> = (0..roles.len()).filter(publishes).collect();
        let mut fanout = Fanout {
            unblocked: publishers.clone(),
            publishers,
            until_sample: plan.sampled_of,
            accepted: vec![Accepted::default(); plan.channels.len()],
            encoder: Encoder::new(plan.publishing.publish_form),
            lanes: Lanes::of(&plan, &roles),
            plan,
            signals,
            thread,
            roles,
            published: 0,
            acknowledged: 0,
            messages: 0,
            delivered: 0,
            timeline: None,
            tally: Tally::default(),
        };
        (0..fanout.lanes.windows.len()).for_each(|lane| fanout.raise(lane));
        fanout
    }

    /// Counts what never came, by what all threads were accepted. After the engine has stopped.
    pub fn conclude(&mut self, accepted: &[Accepted]) {
        for role in &self.roles {
            match role {
                Role::Publisher(publisher) => {
                    self.tally.publishes.push(publisher.measured);
                    self.tally.unacknowledged += publisher.unacknowledged();
                }
                Role::Subscriber(subscriber) => {
                    let faults = subscriber.faults(&accepted[subscriber.channel]);
                    let Faults { lost, duplicated, reordered } = faults;
                    self.tally.lost += lost;
                    self.tally.duplicated += duplicated;
                    self.tally.reordered += reordered;
                }
            }
        }
    }

    /// The subscribers of this thread have come further.
    fn raise(&mut self, lane: usize) {
        let channels = self.plan.channels.len();
        let (channel, place) = (lane % channels, lane / channels);
        let is_numbered = self.plan.is_numbered();
        let subscribers = self.lanes.subscribers[channel].iter();
        let positions = subscribers.filter_map(|&at| match &self.roles[at] {
            Role::Subscriber(it) => it.positions(is_numbered).get(place).copied(),
            Role::Publisher(_) => None,
        });
        let floor = self.lanes.windows[lane].raise(positions);
        self.signals.set_floor(lane, self.thread, floor);
        self.lanes.risen.push(lane);
    }

    /// Before a message to a subscriber.
    fn keep_positions(&mut self, at: usize) {
        if let (Role::Subscriber(subscriber), false) =
            (&self.roles[at], self.lanes.windows.is_empty())
        {
            self.lanes.before.clear();
            self.lanes.before.extend_from_slice(subscriber.positions(self.plan.is_numbered()));
        }
    }

    /// After it.
    fn compare_positions(&mut self, at: usize) {
        for place in 0..self.lanes.before.len() {
            let Role::Subscriber(subscriber) = &self.roles[at] else { return };
            let after = subscriber.positions(self.plan.is_numbered())[place];
            let lane = subscriber.channel + place * self.plan.channels.len();
            if self.lanes.windows[lane].passes(self.lanes.before[place], after) {
                self.raise(lane);
            }
        }
    }

    /// Unblocks publishers whose publishes have reached every subscriber of every thread.
    fn release(&mut self) {
        let (mut risen, rises) = (mem::take(&mut self.lanes.risen), self.signals.rises());
        let rose_elsewhere = self.signals.threads() > 1 && rises != self.lanes.rises_seen;
        self.lanes.rises_seen = rises;
        if rose_elsewhere {
            risen = (0..self.lanes.publishers.len()).collect();
        }
        for lane in risen.drain(..) {
            let floor = self.signals.floor(lane);
            for &(at, turn) in &self.lanes.publishers[lane] {
                if let Role::Publisher(publisher) = &mut self.roles[at]
                    && publisher.note_floor(turn, floor)
                {
                    self.unblocked.push(at);
                }
            }
        }
        self.lanes.risen = risen;
    }

    /// Sends what may be sent, one message per publisher.
    fn publish(&mut self, now_ns: u64, ids: &[Option<ClientId>], clients: &mut Clients) -> Next {
        if let Drive::Window(_) = self.plan.drive {
            let mut unblocked = mem::take(&mut self.unblocked);
            unblocked.retain(|&at| self.publish_due(at, now_ns, ids[at], clients) == Turn::Blocked);
            self.unblocked = unblocked;
            return Next::WhenSomethingHappens;
        }
        let mut next = Next::WhenSomethingHappens;
        for index in 0..self.publishers.len() {
            let at = self.publishers[index];
            let _ = self.publish_due(at, now_ns, ids[at], clients);
            if let Role::Publisher(publisher) = &self.roles[at] {
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
        let (Role::Publisher(publisher), Some(id)) = (&mut self.roles[at], id) else {
            return Turn::Done;
        };
        if clients.pending(id) > 0 {
            return Turn::Blocked;
        }
        if publisher.is_due(now_ns, self.plan.drive) {
            let (published, encoder, plan) = (&mut self.published, &mut self.encoder, &self.plan);
            let queued = clients.send(id, |out| {
                *published += publisher.publish_due(now_ns, plan, encoder, out);
            });
            assert_eq!(queued, Queued::Yes, "nothing was waiting");
        }
        // What does not fit into one message goes into another one.
        if publisher.has_room(self.plan.drive) { Turn::Blocked } else { Turn::Done }
    }

    /// What matters once everybody is in, as fast as it can be.
    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        deliveries: Deliveries<'_>,
    ) -> Result<(), FrameError> {
        self.messages += 1;
        self.keep_positions(at);
        let Role::Subscriber(subscriber) = &mut self.roles[at] else { return Ok(()) };
        let (tally, until_sample) = (&mut self.tally, &mut self.until_sample);
        let (mut delivered, mut is_ours) = (0, true);
        let (sampled_of, timeline) = (self.plan.sampled_of, self.timeline);
        deliveries.try_each(|delivery| {
            delivered += 1;
            is_ours &= subscriber.receive(&delivery)?;
            *until_sample -= 1;
            if *until_sample == 0 {
                *until_sample = sampled_of;
                is_ours &= tally.sample(now_ns, delivery.data()?, timeline);
            }
            Ok(())
        })?;
        self.delivered += delivered;
        self.compare_positions(at);
        if is_ours { Ok(()) } else { Err(FrameError::Body) }
    }

    fn receive_unnumbered(
        &mut self,
        now_ns: u64,
        at: usize,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        self.messages += 1;
        self.keep_positions(at);
        let Role::Subscriber(subscriber) = &mut self.roles[at] else { return Ok(()) };
        let mut is_ours = subscriber.receive_unnumbered(payload);
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.until_sample = self.plan.sampled_of;
            is_ours &= self.tally.sample(now_ns, payload, self.timeline);
        }
        self.delivered += 1;
        self.compare_positions(at);
        if is_ours { Ok(()) } else { Err(FrameError::Body) }
    }

    fn note_acknowledged(
        &mut self,
        now_ns: u64,
        at: usize,
        published: Option<(u64, u64)>,
    ) -> Result<(), FrameError> {
        self.messages += 1;
        let Role::Publisher(publisher) = &mut self.roles[at] else { return Ok(()) };
        let done = match published {
            Some((id, serial)) => publisher.acknowledge(id).inspect(|done| {
                self.accepted[done.0].note(serial);
                if self.plan.has_window_of_deliveries() {
                    publisher.await_delivery(id, serial);
                    // It may have been delivered first.
                    let lane = self.plan.lane(done.0, publisher.index);
                    publisher.note_floor(publisher.turn_of(id), self.signals.floor(lane));
                }
            }),
            None => publisher.acknowledge_oldest().inspect(|done| self.accepted[done.0].count()),
        };
        let (_, intended_ns) = done.ok_or(FrameError::Body)?;
        self.acknowledged += 1;
        if let Some(timeline) = self.timeline {
            publisher.measured += u64::from(timeline.measures(now_ns));
            if timeline.measures(intended_ns) {
                let delay_ns = now_ns.saturating_sub(intended_ns);
                self.tally.acknowledgement_delay.record(delay_ns);
            }
        }
        if matches!(self.plan.drive, Drive::Window(_)) && self.unblocked.last() != Some(&at) {
            self.unblocked.push(at);
        }
        Ok(())
    }
}

impl Tally {
    /// Records the delay of a delivery; `false`: it has no stamp.
    #[inline(never)]
    fn sample(&mut self, now_ns: u64, payload: &[u8], timeline: Option<Timeline>) -> bool {
        let Some(stamp) = payload::read(payload) else { return false };
        if timeline.is_some_and(|timeline| timeline.measures(stamp.intended_ns)) {
            self.delivery_delay.record(now_ns.saturating_sub(stamp.intended_ns));
        }
        true
    }
}

impl Script for Fanout {
    /// Few: a server that has acknowledged must not idle while a thousand subscribers are read.
    const EVENTS_MAX: usize = 64;

    fn connections(&self) -> usize {
        self.roles.len()
    }

    fn target(&self, at: usize) -> Target {
        let mut target = self.plan.target.clone();
        if let Greeting::Foony { client_id, .. } = &mut target.greeting {
            *client_id = match &self.roles[at] {
                Role::Publisher(publisher) => format!("p{}", publisher.index).into(),
                Role::Subscriber(_) => "s".into(),
            };
        }
        target
    }

    fn join(&mut self, _: u64, at: usize, out: &mut Out<'_>) -> Joining {
        match &self.roles[at] {
            Role::Publisher(_) => Joining::Done,
            Role::Subscriber(subscriber) => {
                out.join(&self.plan.channels[subscriber.channel], &[]);
                Joining::Asked
            }
        }
    }

    fn begin(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        let Drive::Rate(per_second) = self.plan.drive else { return };
        for &at in &self.publishers {
            if let Role::Publisher(publisher) = &mut self.roles[at] {
                let phase = publisher.index as f64 / self.plan.publishers as f64;
                publisher.set_pace(per_second, phase, timeline);
            }
        }
    }

    fn run(&mut self, now_ns: u64, ids: &[Option<ClientId>], clients: &mut Clients) -> Next {
        let until_ns = self.timeline.map_or(0, |timeline| timeline.until_ns);
        self.release();
        match self.plan.drive {
            _ if now_ns < until_ns => self.publish(now_ns, ids, clients),
            // What was due before the end is sent, however late this thread is.
            Drive::Rate(_) => {
                let _ = self.publish(until_ns - 1, ids, clients);
                Next::WhenSomethingHappens
            }
            Drive::Window(_) => Next::WhenSomethingHappens,
        }
    }

    fn event(&mut self, now_ns: u64, at: usize, event: Event<'_>) -> Result<(), FrameError> {
        match event {
            Event::Messages(deliveries) => self.receive(now_ns, at, deliveries),
            Event::Unnumbered(payload) => self.receive_unnumbered(now_ns, at, payload),
            Event::Published(published) => self.note_acknowledged(now_ns, at, published),
            _ => Ok(()),
        }
    }

    fn gone(&mut self, at: usize) {
        let (Role::Subscriber(subscriber), false) =
            (&self.roles[at], self.lanes.windows.is_empty())
        else {
            return;
        };
        let channel = subscriber.channel;
        self.lanes.subscribers[channel].retain(|&other| other != at);
        let lanes = (channel..self.lanes.windows.len()).step_by(self.plan.channels.len());
        lanes.for_each(|lane| self.raise(lane));
    }

    fn show(&mut self, now_ns: u64, gauges: &Gauges) {
        gauges.updates.set(self.published);
        gauges.acknowledged.set(self.acknowledged);
        gauges.frames.set(self.messages);
        gauges.delivered.set(self.delivered);
        // The number of deliveries is known to the conductor only, which sees all threads.
        let over = self.timeline.is_some_and(|timeline| now_ns >= timeline.until_ns);
        if over && self.published == self.acknowledged {
            gauges.settled.set(1);
        }
    }
}
