//! Members of channels: some publish, all receive. The load of every scenario but `churn`.

use std::sync::Arc;

use super::announce::{self, Desk};
use super::client::{Closed, Event, Outbound, Presence, Queued, Sources, Target};
use super::engine::{ClientId, Clients, Group, Lane, Load, Next, Who};
use super::entry::{self, GREETING_MAX, Step};
use super::error::BenchError;
use super::fanout::payload;
use super::heartbeat::Heartbeat;
use super::latencies::Latencies;
use super::options::Dialect;
use super::pace::Pace;
use super::signals::{Signals, Timeline};
use super::stamp::{Arrival, Arrivals, Stamp};
use super::window::Window;
use crate::error::FrameError;
use crate::wire::foony::{self, binary};

/// Updates that one publisher may catch up in one turn.
const CATCH_UP_MAX: usize = 64;

/// How publishers are driven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drive {
    /// Open loop: updates per second and publisher, whatever the server does.
    Rate(f64),
    /// Closed loop: updates per publisher that not every receiver has seen.
    Window(u64),
}

/// One member to be.
#[derive(Clone, Debug)]
pub struct MemberPlan {
    pub target: Target,
    pub channel: Arc<str>,
    /// Which one of the channels of the run that is.
    pub number: usize,
    /// Index among the publishers of the run; `None` for one that only watches.
    pub publisher: Option<usize>,
    /// Measured pings per second; 0 for none.
    pub pings_per_second: f64,
}

/// What all members of a run have in common.
#[derive(Clone, Debug)]
pub struct RoomPlan {
    /// In the whole run. Publishers take turns through them: the n-th publishes in channel n modulo
    /// their number.
    pub channels: usize,
    /// In the whole run.
    pub publishers: usize,
    pub drive: Drive,
    /// Size of a published state.
    pub state_bytes: usize,
    /// Unmeasured pings per member keep it from expiring; 0 for none.
    pub heartbeat_s: f64,
}

/// What one thread measured. Only what was intended within the measured time counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub updates: u64,
    /// States seen for the first time, summed over receivers.
    pub delivered: u64,
    pub conflated: u64,
    /// Frames that said nothing new.
    pub duplicated: u64,
    pub reordered: u64,
    /// Final states that never came, summed over receivers.
    pub lost: u64,
    pub disconnected: u64,
    pub update_delay: Latencies,
    pub ping_delay: Latencies,
}

impl Tally {
    pub fn merge(&mut self, other: &Tally) {
        self.updates += other.updates;
        self.delivered += other.delivered;
        self.conflated += other.conflated;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.lost += other.lost;
        self.disconnected += other.disconnected;
        self.update_delay.merge(&other.update_delay);
        self.ping_delay.merge(&other.ping_delay);
    }
}

struct Member {
    plan: MemberPlan,
    client: Option<ClientId>,
    stage: MemberStage,
    arrivals: Arrivals,
    /// Sequence of the last update sent.
    sequence: u64,
    updates: Option<Pace>,
    pings: Option<Pace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberStage {
    Unopened,
    Greeting,
    Greeted,
    Joining,
    Joined,
    Gone,
}

/// One thread's members.
pub struct Room {
    plan: RoomPlan,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    members: Vec<Member>,
    /// Members of this thread by channel.
    of_channel: Vec<Vec<usize>>,
    /// Members that do something of themselves.
    active: Vec<usize>,
    opened: usize,
    greeting: usize,
    greeted: u64,
    joined: u64,
    publishers_joined: u64,
    updates_sent: u64,
    frames: u64,
    delivered: u64,
    timeline: Option<Timeline>,
    heartbeat: Heartbeat,
    windows: Vec<Window>,
    desk: Desk,
    settled: bool,
    failure: Option<BenchError>,
    pub tally: Tally,
}

impl Room {
    pub fn new(
        plan: RoomPlan,
        members: Vec<MemberPlan>,
        sources: Sources,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let member = |of: MemberPlan| Member {
            client: None,
            stage: MemberStage::Unopened,
            arrivals: Arrivals::of_publishers(plan.publishers_of(of.number)),
            sequence: 0,
            updates: None,
            pings: None,
            plan: of,
        };
        let members: Vec<Member> = members.into_iter().map(member).collect();
        let mut of_channel = vec![Vec::new(); plan.channels];
        members.iter().enumerate().for_each(|(at, m)| of_channel[m.plan.number].push(at));
        let is_active = |m: &Member| m.plan.publisher.is_some() || m.plan.pings_per_second > 0.0;
        Room {
            signals,
            thread,
            sources,
            of_channel,
            active: (0..members.len()).filter(|&at| is_active(&members[at])).collect(),
            members,
            opened: 0,
            greeting: 0,
            greeted: 0,
            joined: 0,
            publishers_joined: 0,
            updates_sent: 0,
            frames: 0,
            delivered: 0,
            timeline: None,
            heartbeat: Heartbeat::default(),
            windows: Vec::new(),
            desk: Desk::default(),
            settled: false,
            failure: None,
            tally: Tally::default(),
            plan,
        }
    }

    /// Counts the final states that never came. After the engine has stopped.
    pub fn count_lost(&mut self) {
        let Some(finals) = self.signals.finals() else { return };
        let missing = |member: &Member| self.missing_finals(member, &finals);
        self.tally.lost = self.members.iter().map(missing).sum();
    }

    fn open(&mut self, clients: &mut Clients) -> Result<(), BenchError> {
        while self.opened < self.members.len() && self.greeting < GREETING_MAX {
            let member = &mut self.members[self.opened];
            let who = Who { group: Group::Room, index: self.opened };
            let source = self.sources.next().flatten();
            let client = clients.open(&member.plan.target, source, who, Lane::Foreground)?;
            member.client = Some(client);
            member.stage = MemberStage::Greeting;
            self.opened += 1;
            self.greeting += 1;
        }
        Ok(())
    }

    /// Lets every greeted member in, publishers first: receivers find them at the front of a
    /// frame, in the order of joining.
    fn join(&mut self, now_ns: u64, clients: &mut Clients) {
        let everybody_greeted = self.greeted as usize == self.members.len();
        if !everybody_greeted || !self.signals.may_join() {
            return;
        }
        let publishers_in =
            self.signals.totals().publishers_joined as usize == self.plan.publishers;
        for member in &mut self.members {
            let turn = member.plan.publisher.is_some() || publishers_in;
            let (MemberStage::Greeted, true, Some(client)) = (member.stage, turn, member.client)
            else {
                continue;
            };
            let (dialect, channel) = (member.plan.target.dialect(), &member.plan.channel);
            let (desk, state_bytes) = (&mut self.desk, self.plan.state_bytes);
            clients.say(client, |out| match member.plan.publisher {
                None => announce::watch(dialect, channel, out),
                Some(publisher) => {
                    let publisher = publisher as u32;
                    let stamp = Stamp { publisher, sequence: 0, intended_ns: now_ns };
                    desk.enter(dialect, channel, &stamp, state_bytes, out);
                }
            });
            member.stage = MemberStage::Joining;
        }
    }

    fn note_joined(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.stage != MemberStage::Joining {
            return;
        }
        member.stage = MemberStage::Joined;
        self.joined += 1;
        self.publishers_joined += u64::from(member.plan.publisher.is_some());
        if self.joined as usize == self.members.len() {
            self.set_windows();
        }
    }

    /// Everybody is in: from here on the slowest receiver bounds a closed loop.
    fn set_windows(&mut self) {
        if matches!(self.plan.drive, Drive::Window(_)) {
            self.windows = (0..self.plan.publishers).map(|_| Window::default()).collect();
            (0..self.plan.publishers).for_each(|publisher| self.raise_floor(publisher));
        }
    }

    fn raise_floor(&mut self, publisher: usize) {
        let place = self.plan.place_of(publisher);
        let members = self.of_channel[publisher % self.plan.channels].iter();
        let receivers = members.map(|&at| &self.members[at]).filter(|m| receives(m, publisher));
        let newest = receivers.map(|member| member.arrivals.newest(place));
        let floor = self.windows[publisher].raise(newest);
        self.signals.set_floor(publisher, self.thread, floor);
    }

    /// The publishers begin.
    fn set_paces(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        let start_ns = timeline.start_ns;
        let count = self.members.len() as f64;
        for (index, member) in self.members.iter_mut().enumerate() {
            if let (Some(publisher), Drive::Rate(rate)) = (member.plan.publisher, self.plan.drive) {
                let phase = publisher as f64 / self.plan.publishers as f64;
                member.updates = Some(Pace::new(start_ns, rate, phase));
            }
            let rate = member.plan.pings_per_second;
            member.pings = (rate > 0.0).then(|| Pace::new(start_ns, rate, index as f64 / count));
        }
        self.heartbeat = Heartbeat::start(start_ns, self.members.len(), self.plan.heartbeat_s);
    }

    fn play(&mut self, now_ns: u64, timeline: Timeline, clients: &mut Clients) -> Next {
        let mut next = self.beat(now_ns, clients);
        for at in 0..self.active.len() {
            let index = self.active[at];
            let Some(client) = self.members[index].client else { continue };
            next = next.sooner(self.publish(index, client, now_ns, timeline, clients));
            let member = &mut self.members[index];
            if let Some(pings) = &mut member.pings {
                next = next.sooner(ping(pings, client, now_ns, timeline, clients));
            }
        }
        next
    }

    fn beat(&mut self, now_ns: u64, clients: &mut Clients) -> Next {
        self.heartbeat.beat(now_ns, clients, |at| {
            let member = &self.members[at];
            Some((member.client?, member.plan.target.dialect()))
        })
    }

    fn publish(
        &mut self,
        index: usize,
        client: ClientId,
        now_ns: u64,
        timeline: Timeline,
        clients: &mut Clients,
    ) -> Next {
        let Some(publisher) = self.members[index].plan.publisher else {
            return Next::WhenSomethingHappens;
        };
        for _ in 0..CATCH_UP_MAX {
            let due = self.due(index, publisher, now_ns);
            let Some(intended_ns) = due.filter(|&due| due < timeline.until_ns) else { break };
            let member = &mut self.members[index];
            let sequence = member.sequence + 1;
            let stamp = Stamp { publisher: publisher as u32, sequence, intended_ns };
            let (dialect, channel) = (member.plan.target.dialect(), &member.plan.channel);
            let (desk, state_bytes) = (&mut self.desk, self.plan.state_bytes);
            let queued =
                clients.send(client, |out| desk.update(dialect, channel, &stamp, state_bytes, out));
            if queued == Queued::Full {
                break;
            }
            member.sequence = sequence;
            member.updates.as_mut().map(|pace| pace.take_due(now_ns));
            self.updates_sent += 1;
            self.tally.updates += u64::from(timeline.measures(intended_ns));
        }
        self.next_update(index, publisher, now_ns, timeline)
    }

    /// When the next update should have been sent, if that time has come.
    fn due(&self, index: usize, publisher: usize, now_ns: u64) -> Option<u64> {
        match self.plan.drive {
            Drive::Rate(_) => {
                let due_ns = self.members[index].updates.as_ref()?.next_ns();
                (due_ns <= now_ns).then_some(due_ns)
            }
            Drive::Window(window) => {
                let sequence = self.members[index].sequence;
                let in_flight = sequence.saturating_sub(self.signals.floor(publisher));
                (in_flight < window).then_some(now_ns)
            }
        }
    }

    fn next_update(&self, index: usize, publisher: usize, now_ns: u64, timeline: Timeline) -> Next {
        let member = &self.members[index];
        let next_ns = member.updates.as_ref().map_or(now_ns, Pace::next_ns);
        if next_ns >= timeline.until_ns {
            self.signals.set_final(publisher, member.sequence);
            return Next::WhenSomethingHappens;
        }
        match self.plan.drive {
            Drive::Rate(_) => Next::AtNs(next_ns),
            Drive::Window(_) => Next::WhenSomethingHappens,
        }
    }

    /// Has every receiver of this thread seen the last state of every publisher?
    fn settle(&mut self) {
        if self.settled {
            return;
        }
        let Some(finals) = self.signals.finals() else { return };
        let present = self.members.iter().filter(|member| member.stage != MemberStage::Gone);
        self.settled = present.map(|m| self.missing_finals(m, &finals)).sum::<u64>() == 0;
    }

    fn show(&self) {
        let gauges = self.signals.gauges(self.thread);
        gauges.greeted.set(self.greeted);
        gauges.publishers_joined.set(self.publishers_joined);
        gauges.joined.set(self.joined);
        gauges.updates.set(self.updates_sent);
        gauges.frames.set(self.frames);
        gauges.delivered.set(self.delivered);
        gauges.settled.set(u64::from(self.settled));
    }

    fn receive(
        &mut self,
        now_ns: u64,
        index: usize,
        mut presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        self.frames += 1;
        let Some(timeline) = self.timeline else { return Ok(()) };
        let (mut found, mut said) = (0, Said::NothingNew);
        let number = self.members[index].plan.number;
        while found < self.plan.publishers_of(number) {
            let Some(peer) = presence.next_member()? else { break };
            let Some(stamp) = Stamp::read(peer.state) else { continue };
            found += 1;
            if stamp.publisher as usize % self.plan.channels == number
                && self.members[index].plan.publisher != Some(stamp.publisher as usize)
                && self.take(now_ns, index, &stamp, timeline) != Arrival::Known
            {
                said = Said::News;
            }
        }
        if said == Said::NothingNew && timeline.measures(now_ns) {
            self.tally.duplicated += 1;
        }
        Ok(())
    }

    /// What a Foony server says: an event for each change of a member.
    fn receive_records(
        &mut self,
        now_ns: u64,
        index: usize,
        records: &[u8],
    ) -> Result<(), FrameError> {
        self.frames += 1;
        for record in binary::records(records) {
            let event = record?.event()?;
            let foony::Event::Member(member) = &event else {
                entry::step_of(&event).into_iter().for_each(|step| self.step(index, step));
                continue;
            };
            let (Some(timeline), Some(stamp)) = (self.timeline, payload::read(member.data)) else {
                continue;
            };
            let arrival = self.take(now_ns, index, &stamp, timeline);
            if arrival == Arrival::Known && timeline.measures(now_ns) {
                self.tally.duplicated += 1;
            }
        }
        Ok(())
    }

    fn step(&mut self, index: usize, step: Step) {
        match step {
            Step::Greeted => {
                self.members[index].stage = MemberStage::Greeted;
                self.greeting -= 1;
                self.greeted += 1;
            }
            Step::Joined => self.note_joined(index),
            Step::Refused { reason } => {
                let address = self.members[index].plan.target.address;
                self.fail(BenchError::Refused { address, reason });
            }
        }
    }

    fn take(&mut self, now_ns: u64, index: usize, stamp: &Stamp, timeline: Timeline) -> Arrival {
        let arrivals = &mut self.members[index].arrivals;
        let publisher = stamp.publisher as usize;
        let place = self.plan.place_of(publisher);
        let Some(arrival) = arrivals.note(place, stamp.sequence) else { return Arrival::Known };
        let measured = timeline.measures(stamp.intended_ns);
        match arrival {
            Arrival::Known => {}
            Arrival::Reordered => self.tally.reordered += u64::from(measured),
            Arrival::New { conflated } => {
                self.delivered += 1;
                if measured {
                    self.tally.delivered += 1;
                    self.tally.conflated += conflated;
                    self.tally.update_delay.record(now_ns.saturating_sub(stamp.intended_ns));
                }
                let before = stamp.sequence - 1 - conflated;
                if let Some(window) = self.windows.get_mut(publisher)
                    && window.passes(before, stamp.sequence)
                {
                    self.raise_floor(publisher);
                }
            }
        }
        arrival
    }

    /// Publishers of the member's channel of which it has not seen the last state.
    fn missing_finals(&self, member: &Member, finals: &[u64]) -> u64 {
        let of_channel = (member.plan.number..finals.len()).step_by(self.plan.channels);
        let others = of_channel.filter(|&p| watches(member, p));
        let newest = |p: usize| member.arrivals.newest(self.plan.place_of(p));
        others.filter(|&p| newest(p) < finals[p]).count() as u64
    }

    fn fail(&mut self, failure: BenchError) {
        self.failure.get_or_insert(failure);
    }
}

impl RoomPlan {
    fn publishers_of(&self, channel: usize) -> usize {
        (channel..self.publishers).step_by(self.channels).len()
    }

    /// A publisher's number among those of its channel.
    fn place_of(&self, publisher: usize) -> usize {
        publisher / self.channels
    }
}

#[derive(PartialEq, Eq)]
enum Said {
    News,
    NothingNew,
}

fn ping(
    pings: &mut Pace,
    client: ClientId,
    now_ns: u64,
    timeline: Timeline,
    clients: &mut Clients,
) -> Next {
    while pings.next_ns() <= now_ns && pings.next_ns() < timeline.until_ns {
        if clients.ping(client, pings.next_ns()) == Queued::Full {
            break;
        }
        pings.take_due(now_ns);
    }
    if pings.next_ns() < timeline.until_ns {
        Next::AtNs(pings.next_ns())
    } else {
        Next::WhenSomethingHappens
    }
}

/// Is a member shown what a publisher announces? On the Foony protocol publishers do not watch.
fn watches(member: &Member, publisher: usize) -> bool {
    match member.plan.target.dialect() {
        Dialect::Foony => member.plan.publisher.is_none(),
        Dialect::Sync | Dialect::Redis => member.plan.publisher != Some(publisher),
    }
}

fn receives(member: &Member, publisher: usize) -> bool {
    member.stage != MemberStage::Gone && watches(member, publisher)
}

impl Load for Room {
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.open(clients)?;
        if self.joined < self.members.len() as u64 {
            self.join(now_ns, clients);
        }
        if self.timeline.is_none()
            && let Some(timeline) = self.signals.timeline()
        {
            self.set_paces(timeline);
        }
        let next = match self.timeline {
            Some(timeline) if now_ns < timeline.start_ns => Next::AtNs(timeline.start_ns),
            Some(timeline) => self.play(now_ns, timeline, clients),
            None => Next::WhenSomethingHappens,
        };
        self.settle();
        self.show();
        Ok(next)
    }

    fn event(&mut self, now_ns: u64, who: Who, _: &mut Outbound, event: Event<'_>) {
        let received = match event {
            Event::Presence(presence) => self.receive(now_ns, who.index, presence),
            Event::Records(records) => self.receive_records(now_ns, who.index, records),
            Event::Pong { stamp } if self.timeline.is_some_and(|t| t.measures(stamp)) => {
                self.tally.ping_delay.record(now_ns.saturating_sub(stamp));
                Ok(())
            }
            other => {
                let mut steps = Vec::new();
                let read = entry::steps(Dialect::Sync, &other, |step| steps.push(step));
                steps.into_iter().for_each(|step| self.step(who.index, step));
                read
            }
        };
        if let Err(error) = received {
            let address = self.members[who.index].plan.target.address;
            self.fail(BenchError::Ended { address, closed: Closed::Broken(error) });
        }
    }

    fn closed(&mut self, _: u64, who: Who, closed: Closed) {
        let member = &mut self.members[who.index];
        member.stage = MemberStage::Gone;
        member.client = None;
        let address = member.plan.target.address;
        if self.timeline.is_none() {
            return self.fail(BenchError::Ended { address, closed });
        }
        self.tally.disconnected += 1;
        if let Some(publisher) = self.members[who.index].plan.publisher {
            self.signals.set_final(publisher, self.members[who.index].sequence);
        }
        (0..self.windows.len()).for_each(|publisher| self.raise_floor(publisher));
    }
}
