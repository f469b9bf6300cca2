//! `presence --joins`: members join one channel at a rate while others look on. How long does it
//! take, and how much is sent, until everybody sees everybody?
//!
//! Invariant: a receiver is complete when it was shown a set with everybody in it. A watcher checks
//! that by the stamp of each member; a joiner, of whom there are thousands, believes the number of
//! members.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::{Event, Out, Target};
use super::super::clock::nanos;
use super::super::engine::{ClientId, Clients, Next};
use super::super::error::BenchError;
use super::super::latencies::Latencies;
use super::super::metric::Metric;
use super::super::options::{Dialect, PresenceOptions};
use super::super::signals::{Gauges, Timeline};
use super::super::stage::{HEARTBEAT_S, Joining, Script};
use super::super::stamp::Stamp;
use super::super::workers::{Goal, Window};
use super::findings::Findings;
use super::{Run, fresh_channels, scripts};
use crate::client::protocol::{Look, Presence};
use crate::error::FrameError;

/// Joins of one thread in one turn, so that every connection is read.
const JOINS_PER_TURN: usize = 64;

/// What all threads of a run have in common.
#[derive(Clone, Debug)]
struct Plan {
    target: Target,
    channel: Arc<str>,
    options: PresenceOptions,
    joiners: usize,
}

/// One connection to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RolePlan {
    /// A member from the beginning.
    Watcher,
    /// The n-th to join.
    Joiner(usize),
}

/// What receivers of one kind were shown from the first join on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    receivers: u64,
    frames: u64,
    /// Most frames of one receiver.
    frames_max: u64,
    /// Sync frames with their headers.
    bytes: u64,
    /// Receivers that never saw the complete set.
    incomplete: u64,
    /// From the time when the last join was due to the last receiver's complete set.
    complete_ns: u64,
}

impl Shown {
    fn merge(&mut self, other: &Shown) {
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
struct Tally {
    watchers: Shown,
    joiners: Shown,
    /// Sets that were smaller than an earlier one, though no member left.
    reordered: u64,
    /// From when a join was due to a watcher's first set with that many members.
    join_delay: Latencies,
}

impl Tally {
    fn merge(&mut self, other: &Tally) {
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
struct Joins {
    plan: Plan,
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
    fn new(plan: Plan, roles: Vec<RolePlan>) -> Self {
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
    fn conclude(&mut self) -> Tally {
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
        start_ns + (nanos(self.plan.options.within.0) as f64 * share) as u64
    }

    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        let (watchers, everybody) =
            (self.plan.options.members, self.plan.options.members + self.plan.joiners);
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
                stamp.write(&mut self.state, self.plan.options.state_bytes);
                clients.write(id, |out| out.update(&self.plan.channel, &self.state));
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

/// Time in which frames that say nothing new would still come.
const AFTERWARDS: Duration = Duration::from_millis(500);
const NS_PER_MS: f64 = 1e6;

pub(super) fn joins(
    options: &PresenceOptions,
    joiners: usize,
    run: &Run<'_>,
) -> Result<Findings, BenchError> {
    let channel = fresh_channels(1).remove(0);
    let plan = Plan {
        target: run.server.target(run.common, Dialect::Sync, Some(&channel))?,
        channel,
        options: options.clone(),
        joiners,
    };
    let watchers = (0..options.members).map(|_| RolePlan::Watcher);
    let roles = watchers.chain((0..joiners).map(RolePlan::Joiner));
    let stages = run.stages(roles, HEARTBEAT_S, |_, roles| Joins::new(plan.clone(), roles));
    let everybody = (options.members + joiners) as u64;
    let mut workers = run.enter(stages, everybody, options.members as u64)?;
    let goal = Goal { what: "complete", count: everybody, gauge: |totals| totals.complete };
    let limit = options.within.0 + options.time.duration.0;
    let window = workers.measure(Duration::ZERO, limit, Some(goal), run.progress)?;
    thread::sleep(AFTERWARDS);
    let (ended, disconnected, usage) = scripts(workers.finish()?);
    let mut tally = Tally::default();
    ended.into_iter().for_each(|mut joins| tally.merge(&joins.conclude()));
    let mut findings = Findings::of(&window, &usage, disconnected, run.server);
    add(&mut findings, &window, &tally);
    findings.note_bottleneck();
    Ok(findings)
}

fn add(findings: &mut Findings, window: &Window, tally: &Tally) {
    let (watchers, joiners) = (&tally.watchers, &tally.joiners);
    let each = |sum: u64, shown: &Shown| sum as f64 / shown.receivers.max(1) as f64;
    let numbers = [
        (Metric::FramesPerWatcher, each(watchers.frames, watchers)),
        (Metric::FramesPerWatcherMax, watchers.frames_max as f64),
        (Metric::BytesPerWatcher, each(watchers.bytes, watchers)),
        (Metric::FramesPerJoiner, each(joiners.frames, joiners)),
        (Metric::BytesPerJoiner, each(joiners.bytes, joiners)),
        (Metric::Lost, (watchers.incomplete + joiners.incomplete) as f64),
        (Metric::Reordered, tally.reordered as f64),
    ];
    numbers.into_iter().for_each(|(metric, number)| findings.set(metric, number));
    if let Some(cpu_ns) = window.server_cpu_ns {
        findings.set(Metric::ServerCpuMs, cpu_ns as f64 / NS_PER_MS);
    }
    findings.add_cpu_per(Metric::ServerNsPerJoin, window, joiners.receivers);
    findings.add_latency("join to watcher", &tally.join_delay);
    let kinds = [
        (watchers, Metric::WatchersCompleteMs, "watchers"),
        (joiners, Metric::JoinersCompleteMs, "joiners"),
    ];
    for (shown, complete_ms, name) in kinds {
        if shown.incomplete == 0 {
            findings.set(complete_ms, shown.complete_ns as f64 / NS_PER_MS);
        } else {
            let (incomplete, all) = (shown.incomplete, shown.receivers);
            findings.note(format!("{incomplete} of {all} {name} never saw the complete set"));
        }
    }
}
