//! `latency`, `fanout`, `presence` and `mixed`: publishers and receivers of channels, in an open or
//! a closed loop, alone or beside flooders.

use std::sync::Arc;

use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::{Dialect, FanoutOptions, Scenario, Spread};
use super::super::signals::Counter;
use super::super::traffic::{
    Accepted, Content, Faults, Flood, Member, Plan, Publisher, Receiver, Traffic,
};
use super::super::workers::Run;
use super::findings::Findings;
use super::fresh_channels;

/// Delays recorded per second from which a thread would notice what recording costs.
const SAMPLES_PER_S: f64 = 200_000.0;
/// Of how many deliveries a closed loop records one delay; odd and prime, so that it meets every
/// place of a batch.
const SAMPLED_OF: u64 = 61;
/// Subscribers above which a closed loop does not record every delay.
const ALL_SAMPLED_SUBSCRIBERS_MAX: usize = 20;

pub(super) fn traffic(scenario: &Scenario, run: &Run<'_>) -> Result<Findings, BenchError> {
    let mixed = if let Scenario::Mixed(o) = scenario { Some(o) } else { None };
    let plan = Arc::new(plan(scenario, run)?);
    let (o, content) = (&plan.shape, plan.content);
    let flooded = fresh_channels(2).remove(1);
    let flood_target = run.server.target(run.common, o.base.dialect, Some(&flooded))?;
    let mut workers = run.start(members(&plan), |members, signals| {
        let flood = |mixed| {
            let (target, channel) = (flood_target.clone(), flooded.clone());
            Flood::new(mixed, target, channel, members.len(), signals.clone())
        };
        let flood = mixed.map(flood);
        Traffic::new(plan.clone(), members, flood, signals)
    })?;
    workers.enter(|| ())?;
    let window = workers.measure(o.base.time, None)?;
    workers.settle()?;
    let (scripts, turns) = workers.finish()?;

    let mut findings = Findings::of(window, &turns, run);
    findings.add_delays(scripts.iter().map(|script| &script.delays));
    let (sent, what) = match content {
        Content::States => (add_states(&mut findings, o, mixed.is_some()), "updates"),
        Content::Messages => (add_messages(&mut findings, &scripts), "publishes"),
    };
    let Faults { lost, duplicated, reordered } = faults(&scripts, o);
    findings.set(Metric::Lost, lost as f64);
    let duplicated = findings.totals[Counter::Duplicated] + duplicated;
    let reordered = findings.totals[Counter::Reordered] + reordered;
    findings.set(Metric::Duplicated, duplicated as f64);
    findings.set(Metric::Reordered, reordered as f64);
    findings.note_pace(o.rate.map(|rate| rate * o.publishers as f64), sent, what);
    if mixed.is_some() {
        findings.set_rate(Metric::FloodPongsPerS, Counter::FloodPongs);
        match findings.totals[Counter::FloodersDisconnected] {
            0 => {}
            lost => findings.note(format!("the server disconnected {lost} flooders")),
        }
    }
    Ok(findings)
}

/// What became of what was published. Lost is what was never acknowledged, too.
fn faults(scripts: &[Traffic], o: &FanoutOptions) -> Faults {
    let mut accepted = vec![Accepted::default(); o.channels];
    let mut sent = vec![0; o.publishers];
    for script in scripts {
        accepted.iter_mut().zip(&script.accepted).for_each(|(all, own)| all.merge(own));
        script.publishers().for_each(|publisher| sent[publisher.index] = publisher.sent);
    }
    let mut faults = Faults::default();
    scripts.iter().for_each(|script| faults += script.faults(&accepted, &sent));
    let publishers = scripts.iter().flat_map(Traffic::publishers);
    faults.lost += publishers.map(Publisher::unanswered).sum::<u64>();
    faults
}

fn plan(scenario: &Scenario, run: &Run<'_>) -> Result<Plan, BenchError> {
    let (mut shape, is_mixed) = (scenario.shape(), matches!(scenario, Scenario::Mixed(_)));
    let is_sync = shape.base.dialect == Dialect::Sync;
    if is_mixed && is_sync {
        // Members are publishers and receivers.
        shape.subscribers = 0;
    }
    let is_presence = is_sync || matches!(scenario, Scenario::Presence(_));
    let channels = fresh_channels(shape.channels);
    let hint = |channel| is_presence.then_some(channel);
    let target = |channel| run.server.target(run.common, shape.base.dialect, hint(channel));
    let targets = channels.iter().map(|channel| target(channel)).collect::<Result<_, _>>()?;
    Ok(Plan {
        content: if is_presence { Content::States } else { Content::Messages },
        channels,
        targets,
        sampled_of: sampled_of(&shape),
        measures_pings: is_mixed,
        shape,
    })
}

fn sampled_of(o: &FanoutOptions) -> u64 {
    match o.rate {
        Some(rate) => {
            let delivered_per_s = rate * (o.publishers * o.subscribers) as f64;
            (delivered_per_s / SAMPLES_PER_S).ceil().max(1.0) as u64 | 1
        }
        None if o.channels * o.subscribers > ALL_SAMPLED_SUBSCRIBERS_MAX => SAMPLED_OF,
        None => 1,
    }
}

/// Publishers first, so that every thread gets some.
fn members(plan: &Plan) -> Vec<Member> {
    let o = &plan.shape;
    let (channels, publishers) = (o.channels, o.publishers);
    let is_presence = plan.content == Content::States;
    let publisher = |index: usize| {
        let own = match o.spread {
            Spread::All if channels > publishers && !is_presence => {
                (index..channels).step_by(publishers).collect()
            }
            Spread::All | Spread::One => vec![index % channels],
        };
        let channel = index % channels;
        let others = || Receiver::new(plan.publishers_of(channel)).except(plan.place_of(index));
        let receiver = plan.publishers_receive().then(others);
        Member { channel, publisher: Some(Box::new(Publisher::new(index, own, o))), receiver }
    };
    // Without serials only the stamps tell what is missing.
    let reads_all = is_presence || o.base.dialect == Dialect::Peer;
    let watcher = |index: usize| {
        let channel = index % channels;
        let is_witness = index < channels || reads_all;
        let receiver = Receiver::new(if is_witness { plan.publishers_of(channel) } else { 0 });
        Member { channel, publisher: None, receiver: Some(receiver) }
    };
    (0..publishers).map(publisher).chain((0..channels * o.subscribers).map(watcher)).collect()
}

/// Returns the updates sent per second. What was due within the measured time counts.
fn add_states(findings: &mut Findings, o: &FanoutOptions, is_mixed: bool) -> f64 {
    let seconds = o.base.time.duration.0.as_secs_f64();
    let per_second = |count: u64| count as f64 / seconds;
    let sent = per_second(findings.totals[Counter::PublishedMeasured]);
    let delivered = per_second(findings.totals[Counter::DeliveredMeasured]);
    findings.set(Metric::UpdatesPerS, sent);
    findings.set(Metric::DeliveredPerS, delivered);
    findings.set_total(Metric::Conflated, Counter::Conflated);
    if !is_mixed {
        let delivered = findings.window.count(Counter::Delivered);
        findings.set_cpu_per(Metric::ServerNsPerDelivery, delivered);
    }
    sent
}

/// Returns the publishes sent per second.
fn add_messages(findings: &mut Findings, scripts: &[Traffic]) -> f64 {
    findings.set_rate(Metric::PublishesPerS, Counter::Acknowledged);
    findings.set_rate(Metric::DeliveredPerS, Counter::Delivered);
    findings.set_rate(Metric::ReadsPerS, Counter::Reads);
    let delivered = findings.window.count(Counter::Delivered);
    let reads = findings.window.count(Counter::Reads);
    findings.set(Metric::DeliveredPerRead, delivered as f64 / reads.max(1) as f64);
    let publishers = || scripts.iter().flat_map(Traffic::publishers);
    let publishes = || publishers().map(|publisher| publisher.measured);
    findings.set(Metric::PublishesMin, publishes().min().unwrap_or_default() as f64);
    findings.set(Metric::PublishesMax, publishes().max().unwrap_or_default() as f64);
    findings.set_cpu_per(Metric::ServerNsPerDelivery, delivered);
    let user_share = findings.window.cpu.and_then(|cpu| cpu.user_share);
    if let Some((ns, share)) = findings.get(Metric::ServerNsPerDelivery).zip(user_share) {
        findings.set(Metric::ServerUserNsPerDelivery, ns * share);
    }
    findings.window.per_second(Counter::Published)
}

#[cfg(test)]
mod tests {
    use super::super::super::client::{Greeting, Target, Transport};
    use super::*;

    /// Channels of each publisher.
    fn spread(channels: usize, publishers: usize, spread: Spread) -> Vec<Vec<usize>> {
        let o = FanoutOptions {
            channels,
            publishers,
            subscribers: 1,
            spread,
            ..FanoutOptions::default()
        };
        let greeting = Greeting::Sync { token: "".into() };
        let target = Target::new(([127, 0, 0, 1], 1).into(), Transport::Ws, "/", greeting);
        let plan = Plan {
            content: Content::Messages,
            shape: o,
            channels: fresh_channels(channels),
            targets: vec![target; channels],
            sampled_of: 1,
            measures_pings: false,
        };
        let members = members(&plan);
        members.iter().filter_map(|it| Some(it.publisher.as_ref()?.channels.clone())).collect()
    }

    #[test]
    fn publishers_share_the_channels() {
        assert_eq!(spread(1, 3, Spread::All), vec![vec![0]; 3]);
        assert_eq!(spread(2, 3, Spread::All), vec![vec![0], vec![1], vec![0]]);
        assert_eq!(spread(5, 2, Spread::All), vec![vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(spread(5, 2, Spread::One), vec![vec![0], vec![1]]);
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
