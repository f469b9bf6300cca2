//! `idle`: what connections cost that do nothing, step by step.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::{Out, Target};
use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::{Dialect, IdleOptions};
use super::super::process::resident_bytes;
use super::super::stage::{Joining, Script};
use super::super::workers::Run;
use super::findings::Findings;
use super::fresh_channels;

/// Time for the server to give back what a step needed.
const REST: Duration = Duration::from_millis(300);

/// Connections that stay and do nothing, each with its channel.
struct Idle {
    stays: Vec<(Target, Arc<str>)>,
    /// Of a member on the sync wire.
    state: Vec<u8>,
    heartbeat_s: f64,
}

impl Script for Idle {
    fn connections(&self) -> usize {
        self.stays.len()
    }

    fn heartbeat_s(&self) -> f64 {
        self.heartbeat_s
    }

    fn target(&self, at: usize) -> Target {
        self.stays[at].0.clone()
    }

    fn join(&mut self, _: u64, at: usize, out: &mut Out<'_>) -> Joining {
        out.join(&self.stays[at].1, &self.state);
        Joining::Asked
    }
}

pub(super) fn idle(o: &IdleOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let mut workers = run.start(stays(o, run)?, |stays, _| Idle {
        stays,
        state: vec![b'.'; o.state_bytes],
        heartbeat_s: o.heartbeat.0.as_secs_f64(),
    })?;
    let mut resident = Vec::new();
    let mut weigh = || {
        thread::sleep(REST);
        resident.push(run.server.pid.and_then(resident_bytes));
    };
    workers.enter(&mut weigh)?;
    let window = workers.measure(o.base.time, None)?;
    weigh();
    let (_, turns) = workers.finish()?;
    let mut findings = Findings::of(window, &turns, run);
    let count = o.connections as f64;
    let steps =
        [Metric::ServerBytesPerOpen, Metric::ServerBytesPerGreeted, Metric::ServerBytesPerMember];
    for (metric, bytes) in steps.into_iter().zip(&resident[1..]) {
        if let Some((bytes, empty)) = bytes.zip(resident[0]) {
            findings.set(metric, bytes.saturating_sub(empty) as f64 / count);
        }
    }
    if let Some(cpu) = findings.window.cpu {
        let ns_per_s = cpu.ns as f64 / findings.window.seconds;
        findings.set(Metric::ServerNsPerIdleSecond, ns_per_s / count);
    }
    findings.note("resident memory is the server process's own; sockets cost the kernel as well");
    Ok(findings)
}

fn stays(o: &IdleOptions, run: &Run<'_>) -> Result<Vec<(Target, Arc<str>)>, BenchError> {
    let channels = fresh_channels(o.channel_count());
    let stay = |index: usize| {
        let channel = channels[index % channels.len()].clone();
        let hint = (o.base.dialect == Dialect::Sync).then_some(&*channel);
        Ok((run.server.target(run.common, o.base.dialect, hint)?, channel))
    };
    (0..o.connections).map(stay).collect()
}
