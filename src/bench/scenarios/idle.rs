//! `idle`: what connections cost that do nothing, step by step.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::{Out, Target};
use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::{Dialect, IdleOptions, Time};
use super::super::process::resident_bytes;
use super::super::signals::{Allowed, Counter};
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
}

pub(super) fn idle(o: &IdleOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let count = o.connections;
    let stages = run.stages(stays(o, run)?, o.heartbeat.0.as_secs_f64(), |stays, _| Idle {
        stays,
        state: vec![b'.'; o.state_bytes],
    });
    let resident = || {
        thread::sleep(REST);
        run.server.pid.and_then(resident_bytes)
    };
    let empty = resident();
    let mut workers = run.start(stages)?;
    workers.reach("connecting", Counter::Opened, count)?;
    let open = resident();
    run.signals.allow(Allowed::Greeting);
    workers.reach("greeting", Counter::Greeted, count)?;
    let greeted = resident();
    run.signals.allow(Allowed::Joining);
    workers.reach("joining", Counter::Joined, count)?;
    let time = Time { duration: o.duration, warm_up: o.warm_up };
    let window = workers.measure(time, None)?;
    let joined = resident();
    let (_, turns) = workers.finish()?;
    let mut findings = Findings::of(window, &turns, run);
    let steps = [
        (Metric::ServerBytesPerOpen, open),
        (Metric::ServerBytesPerGreeted, greeted),
        (Metric::ServerBytesPerMember, joined),
    ];
    for (metric, bytes) in steps {
        if let Some((bytes, empty)) = bytes.zip(empty) {
            findings.set(metric, bytes.saturating_sub(empty) as f64 / count as f64);
        }
    }
    if let Some(cpu) = findings.window.cpu {
        let ns_per_s = cpu.ns as f64 / findings.window.seconds;
        findings.set(Metric::ServerNsPerIdleSecond, ns_per_s / count as f64);
    }
    findings.note("resident memory is the server process's own; sockets cost the kernel as well");
    Ok(findings)
}

fn stays(o: &IdleOptions, run: &Run<'_>) -> Result<Vec<(Target, Arc<str>)>, BenchError> {
    let channels = fresh_channels(o.channel_count());
    let stay = |index: usize| {
        let channel = channels[index % channels.len()].clone();
        let hint = (o.dialect == Dialect::Sync).then_some(&*channel);
        Ok((run.server.target(run.common, o.dialect, hint)?, channel))
    };
    (0..o.connections).map(stay).collect()
}
