//! `idle`: what connections cost that do nothing, step by step.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::{Event, Out, Target};
use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::{Dialect, IdleOptions, Time};
use super::super::process::resident_bytes;
use super::super::stage::{Joining, Script};
use super::super::workers::Window;
use super::findings::Findings;
use super::{Run, fresh_channels, scripts};
use crate::error::FrameError;

/// Time for the server to give back what a step needed.
const REST: Duration = Duration::from_millis(300);

/// Resident memory of the server after each step.
struct Weights {
    empty: u64,
    open: u64,
    greeted: u64,
    joined: u64,
}

/// Connections that stay and do nothing, each with its channel.
struct Idle {
    stays: Vec<(Target, Arc<str>)>,
    /// Of a member on the sync wire.
    state: Vec<u8>,
}

impl Script for Idle {
    fn connections(&self) -> usize {
        self.stays.len()
    }

    fn target(&self, at: usize) -> Target {
        self.stays[at].0.clone()
    }

    fn join(&mut self, _: u64, at: usize, out: &mut Out<'_>) -> Joining {
        out.join(&self.stays[at].1, &self.state);
        Joining::Asked
    }

    fn event(&mut self, _: u64, _: usize, _: Event<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

pub(super) fn idle(options: &IdleOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let (stays, state) = (stays(options, run)?, vec![b'.'; options.state_bytes]);
    let (count, heartbeat_s) = (stays.len() as u64, options.heartbeat.0.as_secs_f64());
    let stages = run.stages(stays, heartbeat_s, |_, stays| Idle { stays, state: state.clone() });
    let resident = || {
        thread::sleep(REST);
        run.server.pid.and_then(resident_bytes)
    };
    let empty = resident();
    let mut workers = run.start(stages)?;
    run.reach(&mut workers, "connecting", count, |totals| totals.opened)?;
    let open = resident();
    run.signals.greeting.raise();
    run.reach(&mut workers, "greeting", count, |totals| totals.greeted)?;
    let greeted = resident();
    run.signals.joining.raise();
    run.reach(&mut workers, "joining", count, |totals| totals.joined)?;
    let time = Time { duration: options.duration, warm_up: options.warm_up };
    let window = run.measure(&mut workers, time)?;
    let joined = resident();
    let (_, disconnected, usage) = scripts(workers.finish()?);
    let mut findings = Findings::of(&window, &usage, disconnected, run.server);
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

fn stays(options: &IdleOptions, run: &Run<'_>) -> Result<Vec<(Target, Arc<str>)>, BenchError> {
    let (channels, dialect) = (fresh_channels(options.channel_count()), options.dialect);
    let stay = |index: usize| {
        let channel = channels[index % channels.len()].clone();
        let hint = (dialect == Dialect::Sync).then_some(&*channel);
        Ok((run.server.target(run.common, dialect, hint)?, channel))
    };
    (0..options.connections).map(stay).collect()
}
