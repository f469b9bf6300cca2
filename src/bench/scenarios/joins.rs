//! `presence --joins`: how long it takes, and how much is sent, until everybody sees everybody.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::Sources;
use super::super::crew::{Crew, Window};
use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::joins::{Joins, JoinsPlan, RolePlan, Shown, Tally};
use super::super::metric::Metric;
use super::super::options::{Dialect, PresenceOptions};
use super::super::progress::Progress;
use super::super::signals::Signals;
use super::findings::Findings;
use super::{Server, deal, fresh_channel};

/// Time in which frames that say nothing new would still come.
const AFTERWARDS: Duration = Duration::from_millis(500);
const NS_PER_MS: f64 = 1e6;

pub(super) fn joins(
    options: &PresenceOptions,
    joiners: usize,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let common = &options.common;
    let channel = fresh_channel();
    let plan = JoinsPlan {
        target: server.target(common, Dialect::Sync, Some(&channel))?,
        channel,
        watchers: options.members,
        joiners,
        state_bytes: options.state_bytes,
        within: options.within.0,
    };
    let watchers = (0..plan.watchers).map(|_| RolePlan::Watcher);
    let roles = watchers.chain((0..joiners).map(RolePlan::Joiner));
    let signals = Arc::new(Signals::new(common.threads(), 0));
    let hands = deal(roles, common.threads()).into_iter().enumerate();
    let loads = hands.map(|(thread, roles)| {
        let sources = Sources::for_connections(plan.target.address, roles.len());
        Joins::new(plan.clone(), roles, sources, signals.clone(), thread)
    });
    let mut crew = Crew::start(loads.collect(), common, signals.clone())?;
    let everybody = (plan.watchers + joiners) as u64;
    crew.reach("connecting", everybody, progress, |totals| totals.greeted)?;
    signals.allow_join();
    crew.reach("watchers", plan.watchers as u64, progress, |totals| totals.joined)?;
    let limit = plan.within + options.duration.0;
    let complete = |totals: &super::super::signals::Totals| totals.complete;
    let window =
        crew.measure_until("complete", everybody, limit, server.watched(), progress, complete)?;
    thread::sleep(AFTERWARDS);
    let (mut tally, mut usage) = (Tally::default(), Usage::default());
    for (mut joins, used) in crew.finish()? {
        tally.merge(&joins.conclude());
        usage.merge(&used);
    }
    let mut findings = Findings::of(&window, &usage, server);
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
        (Metric::Disconnected, tally.disconnected as f64),
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
