//! `idle`: what connections cost that do nothing, step by step.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::{Opening, Sources, Target};
use super::super::crew::{Crew, Window};
use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::idle::{Idle, IdlePlan, StayPlan};
use super::super::metric::Metric;
use super::super::options::{Dialect, IdleOptions};
use super::super::process::resident_bytes;
use super::super::progress::Progress;
use super::super::signals::Signals;
use super::findings::Findings;
use super::{Server, deal, fresh_channel};

/// Time for the server to give back what a step needed.
const REST: Duration = Duration::from_millis(300);

/// Resident memory of the server after each step.
struct Weights {
    empty: u64,
    open: u64,
    greeted: u64,
    joined: u64,
}

pub(super) fn idle(
    options: &IdleOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let common = &options.common;
    let stays = stays(options, server)?;
    let count = stays.len() as u64;
    let signals = Arc::new(Signals::new(common.threads(), 0));
    let plan = IdlePlan {
        state_bytes: options.state_bytes,
        heartbeat_s: options.heartbeat.0.as_secs_f64(),
    };
    let hands = deal(stays.into_iter(), common.threads()).into_iter().enumerate();
    let loads = hands.map(|(thread, stays)| {
        let address = stays.first().map(|stay| stay.target.address);
        let sources = Sources::for_members(address, stays.len());
        Idle::new(plan, stays, sources, signals.clone(), thread)
    });
    let resident = || {
        thread::sleep(REST);
        server.pid.and_then(resident_bytes)
    };
    let empty = resident();
    let mut crew = Crew::start(loads.collect(), common, signals.clone())?;
    crew.reach("connecting", count, progress, |totals| totals.opened)?;
    let open = resident();
    signals.allow_greet();
    crew.reach("greeting", count, progress, |totals| totals.greeted)?;
    let greeted = resident();
    signals.allow_join();
    crew.reach("joining", count, progress, |totals| totals.joined)?;
    let window = crew.measure(options.warm_up.0, options.duration.0, server.watched(), progress)?;
    let joined = resident();
    let (mut usage, mut disconnected) = (Usage::default(), 0);
    for (idle, used) in crew.finish()? {
        usage.merge(&used);
        disconnected += idle.disconnected;
    }
    let mut findings = Findings::of(&window, &usage, server);
    findings.set(Metric::Disconnected, disconnected as f64);
    if let (Some(empty), Some(open), Some(greeted), Some(joined)) = (empty, open, greeted, joined) {
        add(&mut findings, &Weights { empty, open, greeted, joined }, &window, count);
    }
    findings.note("resident memory is the server process's own; sockets cost the kernel as well");
    Ok(findings)
}

fn add(findings: &mut Findings, weights: &Weights, window: &Window, count: u64) {
    let each = |bytes: u64| bytes.saturating_sub(weights.empty) as f64 / count as f64;
    findings.set(Metric::ServerBytesPerOpen, each(weights.open));
    findings.set(Metric::ServerBytesPerGreeted, each(weights.greeted));
    findings.set(Metric::ServerBytesPerMember, each(weights.joined));
    if let Some(cpu_ns) = window.server_cpu_ns {
        let per_connection = cpu_ns as f64 / window.seconds / count as f64;
        findings.set(Metric::ServerNsPerIdleSecond, per_connection);
    }
}

fn stays(options: &IdleOptions, server: &Server) -> Result<Vec<StayPlan>, BenchError> {
    let (run, dialect) = (fresh_channel(), options.dialect);
    let channel_of = |index: usize| -> Arc<str> { format!("{run}-{index}").into() };
    let channels: Vec<_> = (0..options.channel_count()).map(channel_of).collect();
    let stay = |index: usize| {
        let channel = channels[index % channels.len()].clone();
        let hint = (dialect == Dialect::Sync).then_some(&*channel);
        let target = server.target(&options.common, dialect, hint)?;
        Ok(StayPlan { target: Target { opening: Opening::WhenTold, ..target }, channel })
    };
    (0..options.connections).map(stay).collect()
}
