//! Members that join one channel at a rate while others look on: the script of `presence --joins`.
//!
//! Invariant: a receiver is complete when it was shown a set with everybody in it. A watcher checks
//! that by what each member says about itself; a joiner, of whom there are thousands, believes the
//! number of members.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Event, Out, Target};
use super::clock::nanos;
use super::engine::{ClientId, Clients, Next};
use super::latencies::Latencies;
use super::signals::{Gauges, Timeline};
use super::stage::{Joining, Script};
use super::stamp::Stamp;
use crate::client::protocol::{Look, Presence};
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
    /// From when a join was due to a watcher's first set with that many members.
    pub join_delay: Latencies,
}

impl Tally {
    pub fn merge(&mut self, other: &Tally) {
        self.watchers.merge(&other.watchers);
        self.joiners.merge(&other.joiners);
        self.reordered += other.reordered;
        self.join_delay.merge(&other.join_delay);
    }
}

struct Member {
    role: RolePlan,
    /// Members in the largest set.
    seen: usize,
    frames: u64,
    bytes: u64,
    complete_ns: Option<u64>,
}

/// One thread's watchers and joiners.
pub struct Joins {
    plan: JoinsPlan,
    members: Vec<Member>,
    complete: u64,
    /// Joiners among the members, the next one last.
    to_join: Vec<usize>,
    timeline: Option<Timeline>,
    frames: u64,
    state: Vec<u8>,
    tally: Tally,
}

impl Joins {
    /// `roles` in the order of joining.
    pub fn new(plan: JoinsPlan, roles: Vec<RolePlan>) -> Self {
        let member = |role| Member { role, seen: 0, frames: 0, bytes: 0, complete_ns: None };
        let members: Vec<Member> = roles.into_iter().map(member).collect();
        let joins = |at: &usize| members[*at].role != RolePlan::Watcher;
        Joins {
            to_join: (0..members.len()).rev().filter(joins).collect(),
            plan,
            members,
            complete: 0,
            timeline: None,
            frames: 0,
            state: Vec::new(),
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

    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        let (watchers, everybody) = (self.plan.watchers, self.plan.watchers + self.plan.joiners);
        let (set, before) = (presence.present.left(), self.members[at].seen);
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
}

/// Is every joiner among the members?
fn has_everybody(mut presence: Presence<'_>, joiners: usize) -> Result<bool, FrameError> {
    let mut found = vec![false; joiners];
    while let Some(peer) = presence.present.next_member()? {
        if let Some(stamp) = Stamp::read(peer.state)
            && let Some(found) = found.get_mut(stamp.publisher as usize)
        {
            *found = true;
        }
    }
    Ok(found.iter().all(|&found| found))
}

impl Script for Joins {
    fn connections(&self) -> usize {
        self.members.len()
    }

    fn target(&self, at: usize) -> Target {
        let look = match self.members[at].role {
            RolePlan::Watcher => Look::Whole,
            RolePlan::Joiner(_) => Look::Beginnings,
        };
        Target { look, ..self.plan.target.clone() }
    }

    fn joins(&self, at: usize) -> bool {
        self.members[at].role == RolePlan::Watcher
    }

    fn join(&mut self, _: u64, _: usize, out: &mut Out<'_>) -> Joining {
        out.join(&self.plan.channel, &[]);
        Joining::Asked
    }

    fn begin(&mut self, timeline: Timeline) {
        self.timeline = Some(timeline);
    }

    fn run(&mut self, now_ns: u64, ids: &[Option<ClientId>], clients: &mut Clients) -> Next {
        for _ in 0..JOINS_PER_TURN {
            let Some(&at) = self.to_join.last() else { return Next::WhenSomethingHappens };
            if let (RolePlan::Joiner(index), Some(id)) = (self.members[at].role, ids[at]) {
                let intended_ns = self.due_ns(index);
                if intended_ns > now_ns {
                    return Next::AtNs(intended_ns);
                }
                let stamp = Stamp { publisher: index as u32, sequence: 1, intended_ns };
                stamp.write(&mut self.state, self.plan.state_bytes);
                clients.say(id, |out| out.update(&self.plan.channel, &self.state));
            }
            self.to_join.pop();
        }
        Next::Now
    }

    fn event(&mut self, now_ns: u64, at: usize, event: Event<'_>) -> Result<(), FrameError> {
        match event {
            Event::Presence(presence) if self.timeline.is_some() => {
                self.receive(now_ns, at, presence)
            }
            _ => Ok(()),
        }
    }

    fn show(&mut self, _: u64, gauges: &Gauges) {
        gauges.complete.set(self.complete);
        gauges.frames.set(self.frames);
    }
}
