//! `presence --joins`: how long it takes, and how much is sent, until everybody sees everybody.

use std::thread;
use std::time::Duration;

use super::super::error::BenchError;
use super::super::joins::{Joins, JoinsPlan, RolePlan, Shown, Tally};
use super::super::metric::Metric;
use super::super::options::{Dialect, PresenceOptions};
use super::super::stage::HEARTBEAT_S;
use super::super::workers::{Goal, Window};
use super::findings::Findings;
use super::{Run, fresh_channels, scripts};

/// Time in which frames that say nothing new would still come.
const AFTERWARDS: Duration = Duration::from_millis(500);
const NS_PER_MS: f64 = 1e6;

pub(super) fn joins(
    options: &PresenceOptions,
    joiners: usize,
    run: &Run<'_>,
) -> Result<Findings, BenchError> {
    let channel = fresh_channels(1).remove(0);
    let plan = JoinsPlan {
        target: run.server.target(run.common, Dialect::Sync, Some(&channel))?,
        channel,
        watchers: options.members,
        joiners,
        state_bytes: options.state_bytes,
        within: options.within.0,
    };
    let watchers = (0..plan.watchers).map(|_| RolePlan::Watcher);
    let roles = watchers.chain((0..joiners).map(RolePlan::Joiner));
    let stages = run.stages(roles, HEARTBEAT_S, |_, roles| Joins::new(plan.clone(), roles));
    let everybody = (plan.watchers + joiners) as u64;
    let mut workers = run.enter(stages, everybody, plan.watchers as u64)?;
    let goal = Goal { what: "complete", count: everybody, gauge: |totals| totals.complete };
    let limit = plan.within + options.time.duration.0;
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
    for (shown, complete_ms, whom) in kinds {
        if shown.incomplete == 0 {
            findings.set(complete_ms, shown.complete_ns as f64 / NS_PER_MS);
        } else {
            let (incomplete, all) = (shown.incomplete, shown.receivers);
            findings.note(format!("{incomplete} of {all} {whom} never saw the complete set"));
        }
    }
}
