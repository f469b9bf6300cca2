//! `churn`: how many connections can come and go.

use super::super::churn::{Churn, ChurnPlan};
use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::latencies::Latencies;
use super::super::metric::Metric;
use super::super::options::{ChurnOptions, Dialect};
use super::findings::Findings;
use super::{RATE_REACHED, Run, fresh_channels, partition};

pub(super) fn churn(options: &ChurnOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let (dialect, threads) = (options.dialect, run.common.threads());
    let channels = fresh_channels(options.concurrency);
    let hint = (dialect == Dialect::Sync).then_some(&*channels[0]);
    let plan = ChurnPlan {
        target: run.server.target(run.common, dialect, hint)?,
        leave: options.leave,
        pipelined: options.pipelined,
        state_bytes: options.state_bytes,
        rate: options.rate.map(|rate| rate / threads as f64),
    };
    let parts = partition(channels, threads).into_iter().enumerate();
    let load = |(thread, channels)| Churn::new(plan.clone(), channels, run.signals.clone(), thread);
    let mut workers = run.start(parts.map(load).collect())?;
    let window = run.measure(&mut workers, options.time)?;
    workers.settle(run.progress, |_| true)?;

    let mut usage = Usage::default();
    let (mut cycle, mut greeting) = (Latencies::default(), Latencies::default());
    let mut disconnected = 0;
    for (churn, used) in workers.finish()? {
        usage.merge(&used);
        cycle.merge(&churn.cycle_delay);
        greeting.merge(&churn.greeting_delay);
        disconnected += churn.disconnected;
    }
    let mut findings = Findings::of(&window, &usage, disconnected, run.server);
    let per_second = window.per_second(|totals| totals.cycles);
    findings.set(Metric::CyclesPerS, per_second);
    let cycles = window.after.cycles - window.before.cycles;
    findings.add_cpu_per(Metric::ServerNsPerConnection, &window, cycles);
    match options.rate {
        Some(asked) if per_second < asked * RATE_REACHED => {
            let reached = format!("{per_second:.0} of {asked:.0} connections/s were made");
            findings.note(format!("{reached}: overload, or --concurrency is too low"));
        }
        Some(_) => {}
        None => findings.note_bottleneck(),
    }
    findings.add_latency("connect + greet", &greeting);
    findings.add_latency("whole cycle", &cycle);
    Ok(findings)
}
