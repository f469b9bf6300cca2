//! `churn`: how many connections can come and go.

use std::sync::Arc;

use super::super::churn::{Churn, ChurnPlan};
use super::super::crew::Crew;
use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::latencies::Latencies;
use super::super::metric::Metric;
use super::super::options::{ChurnOptions, Dialect};
use super::super::progress::Progress;
use super::super::signals::Signals;
use super::findings::Findings;
use super::{RATE_REACHED, Server, deal, fresh_channel};

pub(super) fn churn(
    options: &ChurnOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let (common, dialect) = (&options.common, options.dialect);
    let run = fresh_channel();
    let hint = (dialect == Dialect::Sync).then_some(&*run);
    let plan = ChurnPlan {
        target: server.target(common, dialect, hint)?,
        leave: options.leave,
        pipelined: options.pipelined,
        state_bytes: options.state_bytes,
        rate: options.rate.map(|rate| rate / common.threads() as f64),
    };
    let signals = Arc::new(Signals::new(common.threads(), 0));
    let channel_of = |index: usize| -> Arc<str> { format!("{run}-{index}").into() };
    let channels = (0..options.concurrency).map(channel_of);
    let hands = deal(channels, common.threads()).into_iter().enumerate();
    let loads =
        hands.map(|(thread, channels)| Churn::new(plan.clone(), channels, signals.clone(), thread));
    let mut crew = Crew::start(loads.collect(), common, signals.clone())?;
    let window = crew.measure(options.warm_up.0, options.duration.0, server.watched(), progress)?;
    crew.settle(progress)?;

    let mut usage = Usage::default();
    let (mut cycle, mut greeting) = (Latencies::default(), Latencies::default());
    let mut disconnected = 0;
    for (churn, used) in crew.finish()? {
        usage.merge(&used);
        cycle.merge(&churn.cycle_delay);
        greeting.merge(&churn.greeting_delay);
        disconnected += churn.disconnected;
    }
    let mut findings = Findings::of(&window, &usage, server);
    let per_second = window.per_second(|totals| totals.cycles);
    findings.set(Metric::CyclesPerS, per_second);
    findings.set(Metric::Disconnected, disconnected as f64);
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
