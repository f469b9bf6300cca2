//! Members that join one channel at a rate while others look on: the load of `presence --joins`.
//!
//! Invariant: a receiver is complete when it was shown a set with everybody in it. A watcher checks
//! that by what each member says about itself; a joiner, of whom there are thousands, believes the
//! number of members.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Closed, Event, Look, Outbound, Presence, Sources, Target};
use super::clock::nanos;
use super::engine::{ClientId, Clients, Group, Lane, Load, Next, Who};
use super::entry::{self, GREETING_MAX, Step};
use super::error::BenchError;
use super::heartbeat::{HEARTBEAT_S, Heartbeat};
use super::latencies::Latencies;
use super::signals::{Signals, Timeline};
use super::stamp::Stamp;
use crate::error::FrameError;

/// Joins of one thread in one turn, so that nobody goes unread.
const JOINS_PER_TURN: usize = 64;

/// What all threads of a run have in common.
#[derive(Clone, Debug)]
pub struct JoinsPlan {
    pub target: Target,
    pub channel: Arc<str>,
    /// In the whole run, as are the joiners.
    pub watchers: usize,
    pub joiners: usize,
    pub state_bytes: usize,
    /// From the first join to the last.
    pub within: Duration,
}

/// One connection to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolePlan {
    /// A member from the beginning.
    Watcher,
    /// The n-th to join.
    Joiner(usize),
}

/// What receivers of one kind were shown from the first join on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub receivers: u64,
    pub frames: u64,
    /// Most frames of one receiver.
    pub frames_max: u64,
    /// Sync frames with their headers.
    pub bytes: u64,
    /// Receivers that never saw the complete set.
    pub incomplete: u64,
    /// From the time when the last join was due to the last receiver's complete set.
    pub complete_ns: u64,
}

impl Shown {
    pub fn merge(&mut self, other: &Shown) {
        self.receivers += other.receivers;
        self.frames += other.frames;
        self.frames_max = self.frames_max.max(other.frames_max);
        self.bytes += other.bytes;
        self.incomplete += other.incomplete;
        self.complete_ns = self.complete_ns.max(other.complete_ns);
    }

    fn add(&mut self, member: &Member, last_join_ns: u64) {
        let (incomplete, complete_ns) = match member.complete_ns {
            None => (1, 0),
            Some(at_ns) => (0, at_ns.saturating_sub(last_join_ns)),
        };
        self.merge(&Shown {
            receivers: 1,
            frames: member.frames,
            frames_max: member.frames,
            bytes: member.bytes,
            incomplete,
            complete_ns,
        });
    }
}

/// What one thread measured.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub watchers: Shown,
    pub joiners: Shown,
    /// Sets that were smaller than an earlier one, though nobody left.
    pub reordered: u64,
    pub disconnected: u64,
    /// From when a join was due to a watcher's first set with that many members.
    pub join_delay: Latencies,
}

impl Tally {
    pub fn merge(&mut self, other: &Tally) {
        self.watchers.merge(&other.watchers);
        self.joiners.merge(&other.joiners);
        self.reordered += other.reordered;
        self.disconnected += other.disconnected;
        self.join_delay.merge(&other.join_delay);
    }
}

struct Member {
    role: RolePlan,
    client: Option<ClientId>,
    stage: Stage,
    /// Members in the largest set.
    seen: usize,
    frames: u64,
    bytes: u64,
    complete_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unopened,
    Greeting,
    Greeted,
    Joining,
    Joined,
    Gone,
}

/// One thread's watchers and joiners.
pub struct Joins {
    plan: JoinsPlan,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    members: Vec<Member>,
    opened: usize,
    greeting: usize,
    greeted: u64,
    joined: u64,
    complete: u64,
    /// Joiners among the members, the next one last.
    to_join: Vec<usize>,
    timeline: Option<Timeline>,
    heartbeat: Heartbeat,
    frames: u64,
    state: Vec<u8>,
    failure: Option<BenchError>,
    tally: Tally,
}

impl Joins {
    /// `roles` in the order of joining.
    pub fn new(
        plan: JoinsPlan,
        roles: Vec<RolePlan>,
        sources: Sources,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        let member = |role| Member {
            role,
            client: None,
            stage: Stage::Unopened,
            seen: 0,
            frames: 0,
            bytes: 0,
            complete_ns: None,
        };
        let members: Vec<Member> = roles.into_iter().map(member).collect();
        let joins = |at: &usize| members[*at].role != RolePlan::Watcher;
        Joins {
            to_join: (0..members.len()).rev().filter(joins).collect(),
            plan,
            signals,
            thread,
            sources,
            members,
            opened: 0,
            greeting: 0,
            greeted: 0,
            joined: 0,
            complete: 0,
            timeline: None,
            heartbeat: Heartbeat::default(),
            frames: 0,
            state: Vec::new(),
            failure: None,
            tally: Tally::default(),
        }
    }

    /// What was measured. After the engine has stopped.
    pub fn conclude(&mut self) -> Tally {
        let mut tally = std::mem::take(&mut self.tally);
        let last_join_ns = self.due_ns(self.plan.joiners - 1);
        for member in &self.members {
            match member.role {
                RolePlan::Watcher => tally.watchers.add(member, last_join_ns),
                RolePlan::Joiner(_) => tally.joiners.add(member, last_join_ns),
            }
        }
        tally
    }

    /// When the n-th joiner should join.
    fn due_ns(&self, joiner: usize) -> u64 {
        let start_ns = self.timeline.map_or(0, |timeline| timeline.start_ns);
        let share = joiner as f64 / self.plan.joiners as f64;
        start_ns + (nanos(self.plan.within) as f64 * share) as u64
    }

    fn open(&mut self, clients: &mut Clients) -> Result<(), BenchError> {
        while self.opened < self.members.len() && self.greeting < GREETING_MAX {
            let member = &mut self.members[self.opened];
            let look = match member.role {
                RolePlan::Watcher => Look::Whole,
                RolePlan::Joiner(_) => Look::Beginnings,
            };
            let target = Target { look, ..self.plan.target.clone() };
            let who = Who { group: Group::Room, index: self.opened };
            let source = self.sources.next().flatten();
            member.client = Some(clients.open(&target, source, who, Lane::Foreground)?);
            member.stage = Stage::Greeting;
            self.opened += 1;
            self.greeting += 1;
        }
        Ok(())
    }

    fn let_watchers_in(&mut self, clients: &mut Clients) {
        for member in &mut self.members {
            let (RolePlan::Watcher, Stage::Greeted, Some(client)) =
                (member.role, member.stage, member.client)
            else {
                continue;
            };
            let (dialect, channel) = (self.plan.target.dialect(), &self.plan.channel);
            clients.say(client, |out| entry::join(dialect, channel, &[], out));
            member.stage = Stage::Joining;
        }
    }

    fn join_due(&mut self, now_ns: u64, clients: &mut Clients) -> Next {
        for _ in 0..JOINS_PER_TURN {
            let Some(&at) = self.to_join.last() else { return Next::WhenSomethingHappens };
            let (RolePlan::Joiner(index), Some(client)) =
                (self.members[at].role, self.members[at].client)
            else {
                self.to_join.pop();
                continue;
            };
            let intended_ns = self.due_ns(index);
            if intended_ns > now_ns {
                return Next::AtNs(intended_ns);
            }
            let stamp = Stamp { publisher: index as u32, sequence: 1, intended_ns };
            stamp.write(&mut self.state, self.plan.state_bytes);
            let _ = clients.update(client, &self.plan.channel, &self.state);
            self.members[at].stage = Stage::Joined;
            self.to_join.pop();
        }
        Next::Now
    }

    fn show(&self) {
        let gauges = self.signals.gauges(self.thread);
        gauges.greeted.set(self.greeted);
        gauges.joined.set(self.joined);
        gauges.complete.set(self.complete);
        gauges.frames.set(self.frames);
    }

    fn begin(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
        self.heartbeat = Heartbeat::start(timeline.start_ns, self.members.len(), HEARTBEAT_S);
    }

    fn beat(&mut self, now_ns: u64, clients: &mut Clients) {
        let dialect = self.plan.target.dialect();
        self.heartbeat.beat(now_ns, clients, |at| Some((self.members[at].client?, dialect)));
    }

    fn step(&mut self, at: usize, step: Step) {
        match (step, self.members[at].stage) {
            (Step::Greeted, _) => {
                self.members[at].stage = Stage::Greeted;
                self.greeting -= 1;
                self.greeted += 1;
            }
            (Step::Joined, Stage::Joining) => {
                self.members[at].stage = Stage::Joined;
                self.joined += 1;
            }
            (Step::Joined, _) => {}
            (Step::Refused { reason }, _) => {
                let address = self.plan.target.address;
                self.fail(BenchError::Refused { address, reason });
            }
        }
    }

    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        if self.timeline.is_none() {
            return Ok(());
        }
        let (watchers, everybody) = (self.plan.watchers, self.plan.watchers + self.plan.joiners);
        let (set, before) = (presence.left(), self.members[at].seen);
        let is_watcher = self.members[at].role == RolePlan::Watcher;
        self.frames += 1;
        self.members[at].frames += 1;
        self.members[at].bytes += presence.frame_bytes as u64;
        self.tally.reordered += u64::from(set < before);
        self.members[at].seen = set.max(before);
        if is_watcher {
            for joiner in before.max(watchers)..set.min(everybody) {
                let due_ns = self.due_ns(joiner - watchers);
                self.tally.join_delay.record(now_ns.saturating_sub(due_ns));
            }
        }
        let complete = set == everybody
            && self.members[at].complete_ns.is_none()
            && (!is_watcher || has_everybody(presence, self.plan.joiners)?);
        if complete {
            self.members[at].complete_ns = Some(now_ns);
            self.complete += 1;
        }
        Ok(())
    }

    fn fail(&mut self, failure: BenchError) {
        self.failure.get_or_insert(failure);
    }
}

/// Is every joiner among the members?
fn has_everybody(mut presence: Presence<'_>, joiners: usize) -> Result<bool, FrameError> {
    let mut found = vec![false; joiners];
    while let Some(peer) = presence.next_member()? {
        if let Some(stamp) = Stamp::read(peer.state)
            && let Some(found) = found.get_mut(stamp.publisher as usize)
        {
            *found = true;
        }
    }
    Ok(found.iter().all(|&found| found))
}

impl Load for Joins {
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.open(clients)?;
        if self.signals.may_join() && self.timeline.is_none() {
            self.let_watchers_in(clients);
        }
        if self.timeline.is_none()
            && let Some(timeline) = self.signals.timeline()
        {
            self.begin(timeline);
        }
        let next = match self.timeline {
            Some(timeline) if now_ns < timeline.start_ns => Next::AtNs(timeline.start_ns),
            Some(_) => {
                self.beat(now_ns, clients);
                self.join_due(now_ns, clients)
            }
            None => Next::WhenSomethingHappens,
        };
        self.show();
        Ok(next)
    }

    fn event(&mut self, now_ns: u64, who: Who, _: &mut Outbound, event: Event<'_>) {
        let (target, at) = (&self.plan.target, who.index);
        let (address, dialect) = (target.address, target.dialect());
        let read = match event {
            Event::Presence(presence) => self.receive(now_ns, at, presence),
            event => entry::steps(dialect, &event, |step| self.step(at, step)),
        };
        if let Err(error) = read {
            self.fail(BenchError::Ended { address, closed: Closed::Broken(error) });
        }
    }

    fn closed(&mut self, _: u64, who: Who, closed: Closed) {
        self.members[who.index].stage = Stage::Gone;
        self.members[who.index].client = None;
        if self.timeline.is_none() {
            let address = self.plan.target.address;
            return self.fail(BenchError::Ended { address, closed });
        }
        self.tally.disconnected += 1;
    }
}
