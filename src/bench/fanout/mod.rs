//! Publishers and subscribers of messages, on the Foony protocol or Redis': the load of `fanout`.
//!
//! Owns what it takes to receive tens of millions of messages per second on one thread. Invariant:
//! every delivery is checked against the serials of its channel; one subscriber of each channel,
//! its witness, reads every stamp as well; of the others only every n-th is read, for its delay.
//! Must never know: how a connection is made or cut into messages.

mod heard;
pub mod payload;
mod publisher;
mod said;
mod subscriber;

use std::mem;
use std::sync::Arc;

use super::client::{Closed, Event, Greeting, Outbound, Queued, Sources, Target};
use super::engine::{ClientId, Clients, Group, Lane, Load, Next, Who};
use super::entry::{self, GREETING_MAX, Step};
use super::error::BenchError;
use super::latencies::Latencies;
use super::options::{Dialect, Publishing, WindowCounts};
use super::room::Drive;
use super::signals::{Signals, Timeline};
use super::window::Window;
use crate::error::FrameError;
use crate::wire::foony::{self, binary};
pub use heard::Accepted;
pub use publisher::Encoder;
use publisher::Publisher;
use said::{Delivered, Said};
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
        self.target.dialect() != Dialect::Redis
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
    pub disconnected: u64,
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
        self.disconnected += other.disconnected;
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

struct Member {
    role: Role,
    client: Option<ClientId>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unopened,
    Authenticating,
    Subscribing,
    Joined,
    Gone,
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
    sources: Sources,
    members: Vec<Member>,
    /// Members that publish.
    publishers: Vec<usize>,
    /// Those among them that may have something to send, in a closed loop.
    unblocked: Vec<usize>,
    opened: usize,
    authenticating: usize,
    greeted: u64,
    joined: u64,
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
    failure: Option<BenchError>,
    pub tally: Tally,
}

/// Who waits in a window of deliveries, and for whom. Empty without one.
#[derive(Default)]
struct Lanes {
    /// By lane: what all subscribers of this thread have received.
    windows: Vec<Window>,
    /// By channel: subscribers of this thread.
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
    fn of(plan: &FanoutPlan, members: &[Member]) -> Lanes {
        if !plan.has_window_of_deliveries() {
            return Lanes::default();
        }
        let mut lanes = Lanes {
            windows: (0..plan.lanes()).map(|_| Window::default()).collect(),
            subscribers: vec![Vec::new(); plan.channels.len()],
            publishers: vec![Vec::new(); plan.lanes()],
            ..Lanes::default()
        };
        for (at, member) in members.iter().enumerate() {
            match &member.role {
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
        sources: Sources,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let channels = plan.channels.len();
        let member = |role| Member { role, client: None, stage: Stage::Unopened };
        let members: Vec<Member> =
            roles.into_iter().map(|role| member(Role::of(role, &plan))).collect();
        let publishes = |at: &usize| matches!(members[*at].role, Role::Publisher(_));
        let publishers: Vec<usize> = (0..members.len()).filter(publishes).collect();
        let mut fanout = Fanout {
            unblocked: publishers.clone(),
            publishers,
            until_sample: plan.sampled_of,
            accepted: vec![Accepted::default(); channels],
            encoder: Encoder::new(plan.publishing.publish_form),
            lanes: Lanes::of(&plan, &members),
            plan,
            signals,
            thread,
            sources,
            members,
            opened: 0,
            authenticating: 0,
            greeted: 0,
            joined: 0,
            published: 0,
            acknowledged: 0,
            messages: 0,
            delivered: 0,
            timeline: None,
            failure: None,
            tally: Tally::default(),
        };
        (0..fanout.lanes.windows.len()).for_each(|lane| fanout.raise(lane));
        fanout
    }

    /// The subscribers of this thread have come further.
    fn raise(&mut self, lane: usize) {
        let channels = self.plan.channels.len();
        let (channel, place, is_numbered) =
            (lane % channels, lane / channels, self.plan.is_numbered());
        let subscribers = self.lanes.subscribers[channel].iter();
        let positions = subscribers.filter_map(|&at| match &self.members[at] {
            Member { stage: Stage::Gone, .. } => None,
            Member { role: Role::Subscriber(s), .. } => {
                s.positions(is_numbered).get(place).copied()
            }
            Member { role: Role::Publisher(_), .. } => None,
        });
        let floor = self.lanes.windows[lane].raise(positions);
        self.signals.set_floor(lane, self.thread, floor);
        self.lanes.risen.push(lane);
    }

    /// After a message to a subscriber.
    fn note_positions(&mut self, at: usize) {
        let Role::Subscriber(subscriber) = &self.members[at].role else { return };
        let (channel, channels) = (subscriber.channel, self.plan.channels.len());
        for place in 0..self.lanes.before.len() {
            let Role::Subscriber(subscriber) = &self.members[at].role else { return };
            let after = subscriber.positions(self.plan.is_numbered())[place];
            let lane = channel + place * channels;
            if self.lanes.windows[lane].passes(self.lanes.before[place], after) {
                self.raise(lane);
            }
        }
    }

    /// Lets publishers go on whose publishes have reached every subscriber of every thread.
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
                if let Role::Publisher(publisher) = &mut self.members[at].role
                    && publisher.note_floor(turn, floor)
                {
                    self.unblocked.push(at);
                }
            }
        }
        self.lanes.risen = risen;
    }

    /// Counts what never came, by what all threads were accepted. After the engine has stopped.
    pub fn conclude(&mut self, accepted: &[Accepted]) {
        for member in &self.members {
            match &member.role {
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

    fn open(&mut self, clients: &mut Clients) -> Result<(), BenchError> {
        while self.opened < self.members.len() && self.authenticating < GREETING_MAX {
            let member = &mut self.members[self.opened];
            let client_id = match &member.role {
                Role::Publisher(publisher) => format!("p{}", publisher.index).into(),
                Role::Subscriber(_) => "s".into(),
            };
            let mut target = self.plan.target.clone();
            if let Greeting::Foony { client_id: own, .. } = &mut target.greeting {
                *own = client_id;
            }
            let who = Who { group: Group::Room, index: self.opened };
            let source = self.sources.next().flatten();
            member.client = Some(clients.open(&target, source, who, Lane::Foreground)?);
            member.stage = Stage::Authenticating;
            self.opened += 1;
            self.authenticating += 1;
        }
        Ok(())
    }

    fn set_paces(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        let Drive::Rate(per_second) = self.plan.drive else { return };
        for &at in &self.publishers {
            if let Role::Publisher(publisher) = &mut self.members[at].role {
                let phase = publisher.index as f64 / self.plan.publishers as f64;
                publisher.set_pace(per_second, phase, timeline);
            }
        }
    }

    /// Sends what may be sent, one message per publisher.
    fn play(&mut self, now_ns: u64, clients: &mut Clients) -> Next {
        if let Drive::Window(_) = self.plan.drive {
            let mut unblocked = mem::take(&mut self.unblocked);
            unblocked.retain(|&at| self.publish(at, now_ns, clients) == Turn::Blocked);
            self.unblocked = unblocked;
            return Next::WhenSomethingHappens;
        }
        let mut next = Next::WhenSomethingHappens;
        for index in 0..self.publishers.len() {
            let at = self.publishers[index];
            let _ = self.publish(at, now_ns, clients);
            if let Role::Publisher(publisher) = &self.members[at].role {
                next = next.sooner(publisher.next_ns().map_or(next, Next::AtNs));
            }
        }
        next
    }

    fn publish(&mut self, at: usize, now_ns: u64, clients: &mut Clients) -> Turn {
        let member = &mut self.members[at];
        let (Role::Publisher(publisher), Some(client)) = (&mut member.role, member.client) else {
            return Turn::Done;
        };
        if clients.pending(client) > 0 {
            return Turn::Blocked;
        }
        let sent = publisher.write_due(now_ns, &self.plan, &mut self.encoder);
        if sent > 0 {
            self.published += sent;
            let queued = clients.records(client, &self.encoder.records);
            assert_eq!(queued, Queued::Yes, "nothing was waiting");
        }
        // What does not fit into one message goes into another one.
        if publisher.has_room(self.plan.drive) { Turn::Blocked } else { Turn::Done }
    }

    /// The number of deliveries is known to the conductor only, who sees all threads.
    fn settle(&self, now_ns: u64) {
        let over = self.timeline.is_some_and(|timeline| now_ns >= timeline.until_ns);
        if over && self.published == self.acknowledged {
            self.signals.gauges(self.thread).settled.set(1);
        }
    }

    fn show(&self) {
        let gauges = self.signals.gauges(self.thread);
        gauges.greeted.set(self.greeted);
        gauges.joined.set(self.joined);
        gauges.updates.set(self.published);
        gauges.acknowledged.set(self.acknowledged);
        gauges.frames.set(self.messages);
        gauges.delivered.set(self.delivered);
    }

    /// What matters once everybody is in, as fast as it can be.
    fn hear(&mut self, now_ns: u64, at: usize, message: &[u8]) -> Result<(), FrameError> {
        let Role::Subscriber(subscriber) = &mut self.members[at].role else {
            return Ok(());
        };
        let (tally, until_sample) = (&mut self.tally, &mut self.until_sample);
        let (timeline, sampled_of) = (self.timeline, self.plan.sampled_of);
        let (mut delivered, mut other, mut broken) = (0, None, false);
        if !self.lanes.windows.is_empty() {
            self.lanes.before.clear();
            self.lanes.before.extend_from_slice(subscriber.positions(self.plan.is_numbered()));
        }
        said::read(self.plan.target.dialect(), message, |said| match said {
            Said::Delivered(delivery) => {
                delivered += 1;
                broken |= !subscriber.hear(&delivery);
                *until_sample -= 1;
                if *until_sample == 0 {
                    *until_sample = sampled_of;
                    broken |= !tally.sample(now_ns, &delivery, timeline);
                }
            }
            Said::Acknowledged { .. } | Said::OldestAcknowledged => {}
            Said::Other(_) | Said::Refused(_) => other = Some(said),
        })?;
        self.delivered += delivered;
        self.note_positions(at);
        if let Some(other) = other {
            self.note(other)?;
        }
        if broken { Err(FrameError::Body) } else { Ok(()) }
    }

    fn note_acknowledgements(
        &mut self,
        now_ns: u64,
        at: usize,
        message: &[u8],
    ) -> Result<(), FrameError> {
        let Role::Publisher(publisher) = &mut self.members[at].role else {
            return Ok(());
        };
        let (timeline, tally) = (self.timeline, &mut self.tally);
        let (mut acknowledged, mut other, mut broken) = (0, None, false);
        let (accepted, plan, signals) = (&mut self.accepted, &self.plan, &self.signals);
        said::read(self.plan.target.dialect(), message, |said| {
            let done = match said {
                Said::Acknowledged { id, serial } => publisher.acknowledge(id).inspect(|done| {
                    accepted[done.0].note(serial);
                    if plan.has_window_of_deliveries() {
                        publisher.await_delivery(id, serial);
                        // It may have been delivered first.
                        let lane = plan.lane(done.0, publisher.index);
                        publisher.note_floor(publisher.turn_of(id), signals.floor(lane));
                    }
                }),
                Said::OldestAcknowledged => publisher.acknowledge_oldest().inspect(|done| {
                    accepted[done.0].count();
                }),
                Said::Delivered(_) => None,
                Said::Other(_) | Said::Refused(_) => {
                    other = Some(said);
                    return;
                }
            };
            let Some((_, intended_ns)) = done else {
                broken = true;
                return;
            };
            acknowledged += 1;
            if timeline.is_some_and(|timeline| timeline.measures(now_ns)) {
                publisher.measured += 1;
            }
            if timeline.is_some_and(|timeline| timeline.measures(intended_ns)) {
                tally.acknowledgement_delay.record(now_ns.saturating_sub(intended_ns));
            }
        })?;
        self.acknowledged += acknowledged;
        if acknowledged > 0 && matches!(self.plan.drive, Drive::Window(_)) {
            self.unblocked.push(at);
        }
        if let Some(other) = other {
            self.note(other)?;
        }
        if broken { Err(FrameError::Body) } else { Ok(()) }
    }

    /// Everything until a member is in.
    fn greet(
        &mut self,
        at: usize,
        out: &mut Outbound,
        event: &Event<'_>,
    ) -> Result<(), FrameError> {
        let dialect = self.plan.target.dialect();
        let mut steps = Vec::new();
        entry::steps(dialect, event, |step| steps.push(step))?;
        for step in steps {
            match (step, self.members[at].stage) {
                (Step::Greeted, Stage::Authenticating) => {
                    self.authenticating -= 1;
                    self.greeted += 1;
                    self.members[at].stage = Stage::Subscribing;
                    match &self.members[at].role {
                        Role::Publisher(_) => self.join(at),
                        Role::Subscriber(subscriber) => {
                            let channel = &self.plan.channels[subscriber.channel];
                            entry::join(dialect, channel, &[], out);
                        }
                    }
                }
                (Step::Joined, Stage::Subscribing) => self.join(at),
                (Step::Refused { reason }, _) => self.refuse(reason),
                _ => return Err(FrameError::Body),
            }
        }
        Ok(())
    }

    fn join(&mut self, at: usize) {
        self.members[at].stage = Stage::Joined;
        self.joined += 1;
    }

    /// What a server says in the middle of the run that is neither delivery nor acknowledgement.
    fn note(&mut self, said: Said<'_>) -> Result<(), FrameError> {
        match said {
            Said::Refused(reason) => self.refuse(String::from_utf8_lossy(reason).into_owned()),
            Said::Other(record) => {
                for record in binary::records(record) {
                    if let foony::Event::Error { code, message, .. } = record?.event()? {
                        self.refuse(format!("{} {message}", code.code()));
                    }
                }
            }
            Said::Delivered(_) | Said::Acknowledged { .. } | Said::OldestAcknowledged => {}
        }
        Ok(())
    }

    fn refuse(&mut self, reason: String) {
        self.fail(BenchError::Refused { address: self.plan.target.address, reason });
    }

    fn fail(&mut self, error: BenchError) {
        self.failure.get_or_insert(error);
    }
}

impl Tally {
    /// Records the delay of a delivery; `false`: it has no stamp.
    #[inline(never)]
    fn sample(
        &mut self,
        now_ns: u64,
        delivery: &Delivered<'_>,
        timeline: Option<Timeline>,
    ) -> bool {
        let Some(stamp) = delivery.data().and_then(payload::read) else { return false };
        if timeline.is_some_and(|timeline| timeline.measures(stamp.intended_ns)) {
            self.delivery_delay.record(now_ns.saturating_sub(stamp.intended_ns));
        }
        true
    }
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

impl Load for Fanout {
    /// Few: a server that has acknowledged must not idle while a thousand subscribers are read.
    const EVENTS_MAX: usize = 64;

    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.open(clients)?;
        self.release();
        if self.timeline.is_none()
            && let Some(timeline) = self.signals.timeline()
        {
            self.set_paces(timeline);
        }
        let next = match self.timeline {
            Some(timeline) if now_ns < timeline.start_ns => Next::AtNs(timeline.start_ns),
            Some(timeline) if now_ns < timeline.until_ns => self.play(now_ns, clients),
            // What was due before the end is sent, however late this thread is.
            Some(timeline) if matches!(self.plan.drive, Drive::Rate(_)) => {
                let _ = self.play(timeline.until_ns - 1, clients);
                Next::WhenSomethingHappens
            }
            _ => Next::WhenSomethingHappens,
        };
        self.show();
        self.settle(now_ns);
        Ok(next)
    }

    fn event(&mut self, now_ns: u64, who: Who, out: &mut Outbound, event: Event<'_>) {
        let member = &self.members[who.index];
        let heard = match (&event, member.stage, &member.role) {
            (Event::Records(message), Stage::Joined, Role::Subscriber(_)) => {
                self.messages += 1;
                self.hear(now_ns, who.index, message)
            }
            (Event::Records(message), Stage::Joined, Role::Publisher(_)) => {
                self.messages += 1;
                self.note_acknowledgements(now_ns, who.index, message)
            }
            _ => self.greet(who.index, out, &event),
        };
        if let Err(error) = heard {
            let address = self.plan.target.address;
            self.fail(BenchError::Ended { address, closed: Closed::Broken(error) });
        }
    }

    fn closed(&mut self, _: u64, who: Who, closed: Closed) {
        let member = &mut self.members[who.index];
        member.stage = Stage::Gone;
        member.client = None;
        if self.timeline.is_none() {
            let address = self.plan.target.address;
            return self.fail(BenchError::Ended { address, closed });
        }
        self.tally.disconnected += 1;
        if let Role::Subscriber(subscriber) = &member.role {
            let channel = subscriber.channel;
            let lanes = channel..self.lanes.windows.len();
            lanes.step_by(self.plan.channels.len()).for_each(|lane| self.raise(lane));
        }
    }
}
