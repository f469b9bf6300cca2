//! Members of channels: some publish their state, all receive. The script of `latency`, `presence`
//! and `mixed` on presence.

use std::sync::Arc;

use super::client::{Event, Out, Queued, Target};
use super::engine::{ClientId, Clients, Next};
use super::fanout::payload;
use super::latencies::Latencies;
use super::options::Dialect;
use super::pace::Pace;
use super::signals::{Gauges, Signals, Timeline};
use super::stage::{Joining, Script};
use super::stamp::{Arrival, Arrivals, Stamp};
use super::window::Window;
use crate::client::protocol::Presence;
use crate::error::FrameError;

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
        self.update_delay.merge(&other.update_delay);
        self.ping_delay.merge(&other.ping_delay);
    }
}

struct Member {
    plan: MemberPlan,
    is_gone: bool,
    arrivals: Arrivals,
    /// Sequence of the last update sent.
    sequence: u64,
    updates: Option<Pace>,
    pings: Option<Pace>,
}

impl Member {
    /// Is it shown what a publisher announces? On the Foony protocol publishers do not watch.
    fn watches(&self, publisher: usize) -> bool {
        match self.plan.target.dialect() {
            Dialect::Foony => self.plan.publisher.is_none(),
            Dialect::Sync | Dialect::Peer => self.plan.publisher != Some(publisher),
        }
    }
}

/// One thread's members.
pub struct Room {
    plan: RoomPlan,
    signals: Arc<Signals>,
    thread: usize,
    members: Vec<Member>,
    /// Members of this thread by channel.
    of_channel: Vec<Vec<usize>>,
    /// Members that do something of themselves.
    active: Vec<usize>,
    joined: usize,
    publishers_joined: u64,
    updates_sent: u64,
    frames: u64,
    delivered: u64,
    timeline: Option<Timeline>,
    windows: Vec<Window>,
    state: Vec<u8>,
    settled: bool,
    pub tally: Tally,
}

impl Room {
    pub fn new(
        plan: RoomPlan,
        members: Vec<MemberPlan>,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let member = |of: MemberPlan| Member {
            is_gone: false,
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
            of_channel,
            active: (0..members.len()).filter(|&at| is_active(&members[at])).collect(),
            members,
            joined: 0,
            publishers_joined: 0,
            updates_sent: 0,
            frames: 0,
            delivered: 0,
            timeline: None,
            windows: Vec::new(),
            state: Vec::new(),
            settled: false,
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

    fn raise_floor(&mut self, publisher: usize) {
        let place = self.plan.place_of(publisher);
        let members = self.of_channel[publisher % self.plan.channels].iter();
        let receivers =
            members.map(|&at| &self.members[at]).filter(|m| !m.is_gone && m.watches(publisher));
        let newest = receivers.map(|member| member.arrivals.newest(place));
        let floor = self.windows[publisher].raise(newest);
        self.signals.set_floor(publisher, self.thread, floor);
    }

    fn publish(
        &mut self,
        index: usize,
        id: ClientId,
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
            let sequence = self.members[index].sequence + 1;
            self.write_state(index, Stamp { publisher: publisher as u32, sequence, intended_ns });
            let (member, state) = (&mut self.members[index], &self.state);
            let queued = clients.send(id, |out| {
                out.update(&member.plan.channel, state);
                out.end_message();
            });
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

    fn write_state(&mut self, index: usize, stamp: Stamp) {
        match self.members[index].plan.target.dialect() {
            Dialect::Foony => payload::write(&stamp, &mut self.state, self.plan.state_bytes),
            Dialect::Sync | Dialect::Peer => stamp.write(&mut self.state, self.plan.state_bytes),
        }
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

    fn ping(
        &mut self,
        index: usize,
        id: ClientId,
        now_ns: u64,
        timeline: Timeline,
        clients: &mut Clients,
    ) -> Next {
        let Some(pings) = &mut self.members[index].pings else {
            return Next::WhenSomethingHappens;
        };
        while pings.next_ns() <= now_ns.min(timeline.until_ns - 1) {
            if clients.send(id, |out| out.ping(pings.next_ns())) == Queued::Full {
                break;
            }
            pings.take_due(now_ns);
        }
        match pings.next_ns() {
            next_ns if next_ns < timeline.until_ns => Next::AtNs(next_ns),
            _ => Next::WhenSomethingHappens,
        }
    }

    /// The full set, on the sync wire.
    fn receive(
        &mut self,
        now_ns: u64,
        index: usize,
        mut presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        let Some(timeline) = self.timeline else { return Ok(()) };
        let (mut found, mut is_news) = (0, false);
        let number = self.members[index].plan.number;
        while found < self.plan.publishers_of(number) {
            let Some(peer) = presence.present.next_member()? else { break };
            let Some(stamp) = Stamp::read(peer.state) else { continue };
            found += 1;
            is_news |= stamp.publisher as usize % self.plan.channels == number
                && self.members[index].plan.publisher != Some(stamp.publisher as usize)
                && self.take(now_ns, index, &stamp, timeline) != Arrival::Known;
        }
        if !is_news && timeline.measures(now_ns) {
            self.tally.duplicated += 1;
        }
        Ok(())
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
        let others = of_channel.filter(|&p| member.watches(p));
        let newest = |p: usize| member.arrivals.newest(self.plan.place_of(p));
        others.filter(|&p| newest(p) < finals[p]).count() as u64
    }
}

impl Script for Room {
    fn connections(&self) -> usize {
        self.members.len()
    }

    fn target(&self, at: usize) -> Target {
        self.members[at].plan.target.clone()
    }

    /// Publishers first: receivers find them at the front of a frame, in the order of joining.
    fn may_join(&self, at: usize) -> bool {
        self.members[at].plan.publisher.is_some()
            || self.signals.totals().publishers_joined as usize == self.plan.publishers
    }

    fn join(&mut self, now_ns: u64, at: usize, out: &mut Out<'_>) -> Joining {
        if let Some(publisher) = self.members[at].plan.publisher {
            let publisher = publisher as u32;
            self.write_state(at, Stamp { publisher, sequence: 0, intended_ns: now_ns });
            out.enter(&self.members[at].plan.channel, &self.state);
        } else {
            out.watch(&self.members[at].plan.channel);
        }
        Joining::Asked
    }

    fn joined(&mut self, at: usize) {
        self.joined += 1;
        self.publishers_joined += u64::from(self.members[at].plan.publisher.is_some());
        // Everybody is in: from here on the slowest receiver bounds a closed loop.
        if self.joined == self.members.len() && matches!(self.plan.drive, Drive::Window(_)) {
            self.windows = (0..self.plan.publishers).map(|_| Window::default()).collect();
            (0..self.plan.publishers).for_each(|publisher| self.raise_floor(publisher));
        }
    }

    fn begin(&mut self, timeline: Timeline) {
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
    }

    fn run(&mut self, now_ns: u64, ids: &[Option<ClientId>], clients: &mut Clients) -> Next {
        let Some(timeline) = self.timeline else { return Next::WhenSomethingHappens };
        let mut next = Next::WhenSomethingHappens;
        for at in 0..self.active.len() {
            let index = self.active[at];
            let Some(id) = ids[index] else { continue };
            next = next.sooner(self.publish(index, id, now_ns, timeline, clients));
            next = next.sooner(self.ping(index, id, now_ns, timeline, clients));
        }
        next
    }

    fn event(&mut self, now_ns: u64, at: usize, event: Event<'_>) -> Result<(), FrameError> {
        match (event, self.timeline) {
            (Event::Presence(presence), _) => {
                self.frames += 1;
                self.receive(now_ns, at, presence)?;
            }
            (Event::Member(member), timeline) => {
                self.frames += 1;
                if let (Some(timeline), Some(stamp)) = (timeline, payload::read(member.data))
                    && self.take(now_ns, at, &stamp, timeline) == Arrival::Known
                    && timeline.measures(now_ns)
                {
                    self.tally.duplicated += 1;
                }
            }
            (Event::Pong { stamp }, Some(timeline)) if timeline.measures(stamp) => {
                self.tally.ping_delay.record(now_ns.saturating_sub(stamp));
            }
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, at: usize) {
        self.members[at].is_gone = true;
        if let Some(publisher) = self.members[at].plan.publisher {
            self.signals.set_final(publisher, self.members[at].sequence);
        }
        (0..self.windows.len()).for_each(|publisher| self.raise_floor(publisher));
    }

    fn show(&mut self, _: u64, gauges: &Gauges) {
        // Has every receiver of this thread seen the last state of every publisher?
        if !self.settled
            && let Some(finals) = self.signals.finals()
        {
            let present = self.members.iter().filter(|member| !member.is_gone);
            self.settled = present.map(|m| self.missing_finals(m, &finals)).sum::<u64>() == 0;
        }
        gauges.publishers_joined.set(self.publishers_joined);
        gauges.updates.set(self.updates_sent);
        gauges.frames.set(self.frames);
        gauges.delivered.set(self.delivered);
        gauges.settled.set(u64::from(self.settled));
    }
}
