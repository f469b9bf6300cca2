//! `presence --joins`: members join one channel at a rate while others watch. How long does it
//! take, and how much is sent, until every member has seen every other one?
//!
//! Invariant: a receiver is complete when it was sent a set with every member in it. A watcher
//! checks that by the stamp of each member; a joiner, of whom there are thousands, by the number of
//! members.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::{Closed, Event, Out, Target};
use super::super::engine::{Clients, NEVER_NS};
use super::super::error::BenchError;
use super::super::latencies::{Delay, Delays};
use super::super::metric::Metric;
use super::super::options::{Dialect, PresenceOptions, Span, Time};
use super::super::signals::{Counter, ThreadSignals};
use super::super::stage::{HEARTBEAT_S, Joining, Script};
use super::super::stamp::Stamp;
use super::super::time::nanos;
use super::super::workers::Run;
use super::findings::Findings;
use super::fresh_channels;
use crate::client::protocol::{Look, Presence};
use crate::error::FrameError;

/// Joins of one thread in one turn, so that every connection is read.
const JOINS_PER_TURN: usize = 64;
/// Time in which frames that say nothing new would still come.
const AFTERWARDS: Duration = Duration::from_millis(500);
const NS_PER_MS: f64 = 1e6;

struct Member {
    /// The n-th to join; `None` for a watcher, which is a member from the beginning.
    joiner: Option<usize>,
    /// Members in the largest set.
    seen: usize,
    frames: u64,
    /// Sync frames with their headers.
    bytes: u64,
    complete_ns: Option<u64>,
}

/// One thread's watchers and joiners.
struct Joins {
    target: Target,
    channel: Arc<str>,
    options: PresenceOptions,
    /// In the whole run.
    joiners: usize,
    signals: ThreadSignals,
    /// In the order of joining.
    members: Vec<Member>,
    /// The member that is the next to join, if it is a joiner.
    next: usize,
    state: Vec<u8>,
    delays: Delays,
}

impl Joins {
    /// When the n-th joiner should join.
    fn due_ns(&self, joiner: usize) -> u64 {
        let start_ns = self.signals.timeline().map_or(0, |timeline| timeline.start_ns);
        let share = joiner as f64 / self.joiners as f64;
        start_ns + nanos(self.options.within.0.mul_f64(share))
    }

    fn receive(
        &mut self,
        now_ns: u64,
        at: usize,
        presence: Presence<'_>,
    ) -> Result<(), FrameError> {
        let (watchers, joiners) = (self.options.members, self.joiners);
        let (set, before) = (presence.present.left(), self.members[at].seen);
        let is_watcher = self.members[at].joiner.is_none();
        if is_watcher {
            for joiner in before.max(watchers)..set.min(watchers + joiners) {
                let delay_ns = now_ns.saturating_sub(self.due_ns(joiner - watchers));
                self.delays[Delay::Join].record(delay_ns);
            }
        }
        self.signals.add(Counter::Frames, 1);
        // No member leaves.
        self.signals.add(Counter::Reordered, u64::from(set < before));
        let member = &mut self.members[at];
        member.frames += 1;
        member.bytes += presence.frame_bytes as u64;
        member.seen = set.max(before);
        if set == watchers + joiners
            && member.complete_ns.is_none()
            && (!is_watcher || has_every_joiner(presence, joiners)?)
        {
            member.complete_ns = Some(now_ns);
            self.signals.add(Counter::Complete, 1);
        }
        Ok(())
    }
}

fn has_every_joiner(mut presence: Presence<'_>, joiners: usize) -> Result<bool, FrameError> {
    let mut found = vec![false; joiners];
    while let Some(member) = presence.present.next_member()? {
        if let Some(stamp) = Stamp::read(member.state)
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
        let is_joiner = self.members[at].joiner.is_some();
        let look = if is_joiner { Look::Beginnings } else { Look::Whole };
        Target { look, ..self.target.clone() }
    }

    fn heartbeat_s(&self) -> f64 {
        HEARTBEAT_S
    }

    fn join(&mut self, _: u64, at: usize, out: &mut Out<'_>) -> Joining {
        if self.members[at].joiner.is_some() {
            return Joining::Done;
        }
        out.join(&self.channel, &[]);
        Joining::Asked
    }

    fn run(&mut self, now_ns: u64, clients: &mut Clients) -> Result<u64, BenchError> {
        for _ in 0..JOINS_PER_TURN {
            let Some(member) = self.members.get(self.next) else { return Ok(NEVER_NS) };
            if let Some(joiner) = member.joiner {
                let intended_ns = self.due_ns(joiner);
                if intended_ns > now_ns {
                    return Ok(intended_ns);
                }
                let stamp = Stamp { publisher: joiner as u32, sequence: 1, intended_ns };
                stamp.write(&mut self.state, self.options.state_bytes);
                clients.write(self.next, |out| out.update(&self.channel, &self.state));
            }
            self.next += 1;
        }
        Ok(now_ns)
    }

    fn event(
        &mut self,
        now_ns: u64,
        at: usize,
        _: &mut Out<'_>,
        event: Event<'_>,
    ) -> Result<(), Closed> {
        match event {
            Event::Presence(presence) if self.signals.timeline().is_some() => {
                Ok(self.receive(now_ns, at, presence)?)
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn joins(
    o: &PresenceOptions,
    joiners: usize,
    run: &Run<'_>,
) -> Result<Findings, BenchError> {
    let channel = fresh_channels(1).remove(0);
    let target = run.server.target(run.common, Dialect::Sync, Some(&channel))?;
    let member = |joiner| Member { joiner, seen: 0, frames: 0, bytes: 0, complete_ns: None };
    let members = (0..o.members).map(|_| None).chain((0..joiners).map(Some)).map(member);
    let mut workers = run.start(members, |members, signals| Joins {
        target: target.clone(),
        channel: channel.clone(),
        options: o.clone(),
        joiners,
        signals,
        members,
        next: 0,
        state: Vec::new(),
        delays: Delays::default(),
    })?;
    workers.enter(|| ())?;
    let count = (o.members + joiners) as u64;
    let limit = Span(o.within.0 + o.base.time.duration.0);
    let time = Time { warm_up: Span(Duration::ZERO), duration: limit };
    let window = workers.measure(time, Some(count))?;
    thread::sleep(AFTERWARDS);
    let (scripts, turns) = workers.finish()?;
    let mut findings = Findings::of(window, &turns, run);
    add(&mut findings, &scripts, joiners);
    Ok(findings)
}

fn add(findings: &mut Findings, scripts: &[Joins], joiners: usize) {
    let last_join_ns = scripts.first().map_or(0, |joins| joins.due_ns(joiners - 1));
    findings.set_total(Metric::Reordered, Counter::Reordered);
    if let Some(cpu) = findings.window.cpu {
        findings.set(Metric::ServerCpuMs, cpu.ns as f64 / NS_PER_MS);
    }
    findings.set_cpu_per(Metric::ServerNsPerJoin, joiners as u64);
    findings.add_delays(scripts.iter().map(|joins| &joins.delays));
    let kinds = [
        ("watchers", Metric::FramesPerWatcher, Metric::BytesPerWatcher, Metric::WatchersCompleteMs),
        ("joiners", Metric::FramesPerJoiner, Metric::BytesPerJoiner, Metric::JoinersCompleteMs),
    ];
    let mut lost = 0;
    for (name, frames, bytes, complete_ms) in kinds {
        let is_kind = |member: &&Member| member.joiner.is_some() == (name == "joiners");
        let all = || scripts.iter().flat_map(|joins| &joins.members).filter(is_kind);
        let each = |of: fn(&Member) -> u64| {
            all().map(of).sum::<u64>() as f64 / all().count().max(1) as f64
        };
        findings.set(frames, each(|member| member.frames));
        findings.set(bytes, each(|member| member.bytes));
        if name == "watchers" {
            let most = all().map(|member| member.frames).max().unwrap_or_default();
            findings.set(Metric::FramesPerWatcherMax, most as f64);
        }
        let incomplete = all().filter(|member| member.complete_ns.is_none()).count();
        if incomplete == 0 {
            let last_ns = all().filter_map(|member| member.complete_ns).max().unwrap_or_default();
            findings.set(complete_ms, last_ns.saturating_sub(last_join_ns) as f64 / NS_PER_MS);
        } else {
            let count = all().count();
            findings.note(format!("{incomplete} of {count} {name} never saw the complete set"));
        }
        lost += incomplete;
    }
    findings.set(Metric::Lost, lost as f64);
}
