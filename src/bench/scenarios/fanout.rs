//! `fanout` and `latency` of messages: publishers and subscribers of channels.

use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::fanout::{Accepted, Fanout, FanoutPlan, RolePlan, Tally};
use super::super::metric::Metric;
use super::super::options::{Dialect, FanoutOptions, Spread};
use super::super::room::Drive;
use super::super::stage::Stage;
use super::super::workers::Window;
use super::findings::Findings;
use super::{Run, scripts, short_channels};

/// Delays recorded per second from which a thread would notice what recording costs.
const SAMPLES_PER_S: f64 = 200_000.0;
/// Of how many deliveries a closed loop records one delay; odd and prime, so that it meets every
/// place of a batch.
const SAMPLED_OF: u64 = 61;
/// Subscribers above which a closed loop does not record every delay.
const ALL_SAMPLED_SUBSCRIBERS_MAX: usize = 20;

pub(super) fn messages(options: &FanoutOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let count = (options.publishers + options.channels * options.subscribers) as u64;
    let mut workers = run.enter(stages(options, run)?, count, count)?;
    let window = run.measure(&mut workers, options.time)?;
    let each = options.subscribers as u64;
    workers.settle(run.progress, |totals| totals.delivered >= totals.acknowledged * each)?;
    let mut findings = report(options, &window, workers.finish()?, run);
    findings.note_bottleneck();
    Ok(findings)
}

/// The load of each thread.
pub(super) fn stages(
    options: &FanoutOptions,
    run: &Run<'_>,
) -> Result<Vec<Stage<Fanout>>, BenchError> {
    let plan = FanoutPlan {
        target: run.server.target(&options.common, options.dialect, None)?,
        channels: short_channels(options.channels),
        publishers: options.publishers,
        drive: options.rate.map_or(Drive::Window(options.window), Drive::Rate),
        payload_bytes: options.payload,
        publishing: options.publishing,
        sampled_of: sampled_of(options),
    };
    Ok(run.stages(roles(options), 0.0, |thread, roles| {
        Fanout::new(plan.clone(), roles, run.signals.clone(), thread)
    }))
}

pub(super) fn report(
    options: &FanoutOptions,
    window: &Window,
    ended: Vec<(Stage<Fanout>, Usage)>,
    run: &Run<'_>,
) -> Findings {
    let (mut fanouts, disconnected, usage) = scripts(ended);
    let mut accepted = vec![Accepted::default(); options.channels];
    for fanout in &fanouts {
        accepted.iter_mut().zip(&fanout.accepted).for_each(|(all, own)| all.merge(own));
    }
    let mut tally = Tally::default();
    for fanout in &mut fanouts {
        fanout.conclude(&accepted);
        tally.merge(&fanout.tally);
    }
    let mut findings = Findings::of(window, &usage, disconnected, run.server);
    add(&mut findings, window, &tally);
    let holes: u64 = accepted.iter().map(Accepted::holes).sum();
    if holes > 0 {
        findings.note(format!("{holes} serials between acknowledged ones belong to no publish"));
    }
    if let Some(rate) = options.rate {
        let sent = window.per_second(|totals| totals.updates);
        findings.note_overload(sent, rate * options.publishers as f64, "publishes");
    }
    findings
}

fn sampled_of(options: &FanoutOptions) -> u64 {
    let publishes_per_s = |rate: f64| rate * options.publishers as f64;
    match options.rate {
        Some(rate) => {
            let delivered_per_s = publishes_per_s(rate) * options.subscribers as f64;
            (delivered_per_s / SAMPLES_PER_S).ceil().max(1.0) as u64 | 1
        }
        None if options.channels * options.subscribers > ALL_SAMPLED_SUBSCRIBERS_MAX => SAMPLED_OF,
        None => 1,
    }
}

/// Publishers first, so that every thread gets some.
fn roles(options: &FanoutOptions) -> Vec<RolePlan> {
    let (channels, publishers) = (options.channels, options.publishers);
    let publisher = |index: usize| RolePlan::Publisher {
        index,
        channels: match options.spread {
            Spread::All if channels > publishers => (index..channels).step_by(publishers).collect(),
            Spread::All | Spread::One => vec![index % channels],
        },
    };
    // Without serials only the stamps tell what is missing.
    let reads_all = options.dialect == Dialect::Peer;
    let publishers_of = |channel: usize| (channel..publishers).step_by(channels).len().max(1);
    let subscriber = |index: usize| RolePlan::Subscriber {
        channel: index % channels,
        witness_of: (index < channels || reads_all).then(|| publishers_of(index % channels)),
    };
    let subscribers = (0..channels * options.subscribers).map(subscriber);
    (0..publishers).map(publisher).chain(subscribers).collect()
}

fn add(findings: &mut Findings, window: &Window, tally: &Tally) {
    findings.set(Metric::PublishesPerS, window.per_second(|totals| totals.acknowledged));
    findings.set(Metric::DeliveredPerS, window.per_second(|totals| totals.delivered));
    findings.set(Metric::ReadsPerS, window.per_second(|totals| totals.reads));
    let delivered = window.after.delivered - window.before.delivered;
    let reads = window.after.reads - window.before.reads;
    findings.set(Metric::DeliveredPerRead, delivered as f64 / reads.max(1) as f64);
    let counts = [
        (Metric::PublishesMin, tally.publishes.iter().copied().min().unwrap_or_default()),
        (Metric::PublishesMax, tally.publishes.iter().copied().max().unwrap_or_default()),
        (Metric::Lost, tally.lost + tally.unacknowledged),
        (Metric::Duplicated, tally.duplicated),
        (Metric::Reordered, tally.reordered),
    ];
    counts.into_iter().for_each(|(metric, count)| findings.set(metric, count as f64));
    findings.add_cpu_per(Metric::ServerNsPerDelivery, window, delivered);
    let per_delivery = findings.metrics.get(&Metric::ServerNsPerDelivery).copied();
    if let Some((ns, share)) = per_delivery.zip(window.server_user_share) {
        findings.set(Metric::ServerUserNsPerDelivery, ns * share);
    }
    findings.add_latency("delivery", &tally.delivery_delay);
    findings.add_latency("acknowledgement", &tally.acknowledgement_delay);
    if tally.unacknowledged > 0 {
        findings.note(format!("{} publishes were never acknowledged", tally.unacknowledged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels of each publisher, and how many publishers each witness expects.
    fn spread(channels: usize, publishers: usize, spread: Spread) -> (Vec<Vec<usize>>, Vec<usize>) {
        let options = FanoutOptions {
            channels,
            publishers,
            subscribers: 1,
            spread,
            ..FanoutOptions::default()
        };
        let (mut of_publishers, mut witnesses) = (Vec::new(), Vec::new());
        for role in roles(&options) {
            match role {
                RolePlan::Publisher { channels, .. } => of_publishers.push(channels),
                RolePlan::Subscriber { witness_of, .. } => witnesses.extend(witness_of),
            }
        }
        (of_publishers, witnesses)
    }

    #[test]
    fn publishers_share_the_channels() {
        assert_eq!(spread(1, 3, Spread::All), (vec![vec![0]; 3], vec![3]));
        assert_eq!(spread(2, 3, Spread::All), (vec![vec![0], vec![1], vec![0]], vec![2, 1]));
        let all = vec![vec![0, 2, 4], vec![1, 3]];
        assert_eq!(spread(5, 2, Spread::All), (all, vec![1; 5]));
        assert_eq!(spread(5, 2, Spread::One), (vec![vec![0], vec![1]], vec![1; 5]));
    }

    #[test]
    fn delays_are_sampled_as_often_as_it_costs_nothing() {
        let sampled = |rate, subscribers| {
            sampled_of(&FanoutOptions { rate, subscribers, ..FanoutOptions::default() })
        };
        assert_eq!([sampled(Some(1000.0), 100), sampled(Some(1000.0), 1000)], [1, 5]);
        assert_eq!([sampled(None, 1), sampled(None, 1000)], [1, SAMPLED_OF]);
    }
}
