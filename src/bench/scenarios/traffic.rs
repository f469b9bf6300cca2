//! `latency`, `fanout`, `presence` and `mixed`: publishers and receivers of channels, in an open or
//! a closed loop, alone or beside flooders.

use super::super::client::{Closed, Event, Out};
use super::super::engine::{Clients, Lane, Load, Next, Tag};
use super::super::error::BenchError;
use super::super::flood::Flood;
use super::super::metric::Metric;
use super::super::options::{Dialect, FanoutOptions, MixedOptions, Spread};
use super::super::signals::Counter;
use super::super::stage::{HEARTBEAT_S, Stage};
use super::super::time::Drive;
use super::super::traffic::{Accepted, Content, Member, Plan, Publisher, Receiver, Traffic};
use super::super::workers::Run;
use super::findings::Findings;
use super::{fresh_channels, short_channels};

/// Delays recorded per second from which a thread would notice what recording costs.
const SAMPLES_PER_S: f64 = 200_000.0;
/// Of how many deliveries a closed loop records one delay; odd and prime, so that it meets every
/// place of a batch.
const SAMPLED_OF: u64 = 61;
/// Subscribers above which a closed loop does not record every delay.
const ALL_SAMPLED_SUBSCRIBERS_MAX: usize = 20;

/// The load of one thread. Flooders come last in every turn.
struct Mixed {
    polite: Stage<Traffic>,
    flood: Option<Flood>,
}

impl Load for Mixed {
    fn events_max(&self) -> usize {
        self.polite.events_max()
    }

    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        let next = self.polite.turn(now_ns, clients)?;
        let Some(flood) = &mut self.flood else { return Ok(next) };
        Ok(next.sooner(flood.turn(now_ns, clients)?))
    }

    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        match (tag.lane, &mut self.flood) {
            (Lane::Background, Some(flood)) => flood.event(now_ns, tag, out, event),
            _ => self.polite.event(now_ns, tag, out, event),
        }
    }

    fn closed(&mut self, now_ns: u64, tag: Tag, closed: Closed) {
        match (tag.lane, &mut self.flood) {
            (Lane::Background, Some(flood)) => flood.closed(now_ns, tag, closed),
            _ => self.polite.closed(now_ns, tag, closed),
        }
    }
}

/// `mixed`: the flooders beside it, if there are to be any.
pub(super) fn traffic(
    o: &FanoutOptions,
    content: Content,
    mixed: Option<&MixedOptions>,
    run: &Run<'_>,
) -> Result<Findings, BenchError> {
    let plan = plan(o, content, mixed.is_some(), run)?;
    let members = members(o, &plan);
    let (count, heartbeat_s) = match (content, mixed) {
        (Content::States, Some(mixed)) => (members.len(), 1.0 / mixed.rate),
        (Content::States, None) => (members.len(), HEARTBEAT_S),
        (Content::Messages, _) => (members.len(), 0.0),
    };
    let polite = run.stages(members, heartbeat_s, |members, signals| {
        Traffic::new(plan.clone(), members, signals)
    });
    let loads = polite.into_iter().zip(floods(mixed, run)?);
    let loads = loads.map(|(polite, flood)| Mixed { polite, flood }).collect();
    let mut workers = run.enter(loads, count)?;
    let window = workers.measure(o.time, None)?;
    workers.settle(if content == Content::Messages { o.subscribers } else { 0 })?;
    let (ended, turns) = workers.finish()?;

    let scripts: Vec<&Traffic> = ended.iter().map(|mixed| &mixed.polite.script).collect();
    let mut accepted = vec![Accepted::default(); o.channels];
    for script in &scripts {
        accepted.iter_mut().zip(&script.accepted).for_each(|(all, own)| all.merge(own));
    }
    scripts.iter().for_each(|script| script.conclude(&accepted));
    let mut findings = Findings::of(window, &turns, run);
    findings.add_delays(scripts.iter().map(|script| &script.delays));
    let (sent, what) = match content {
        Content::States => (add_states(&mut findings, o, mixed.is_some()), "updates"),
        Content::Messages => (add_messages(&mut findings, &scripts, &accepted), "publishes"),
    };
    match o.rate {
        Some(rate) => findings.note_overload(sent, rate * o.publishers as f64, what),
        None => findings.note_bottleneck(),
    }
    if mixed.is_some() {
        findings.set_rate(Metric::FloodPongsPerS, Counter::FloodPongs);
        match findings.totals[Counter::FloodersDisconnected] {
            0 => {}
            lost => findings.note(format!("the server disconnected {lost} flooders")),
        }
    }
    Ok(findings)
}

fn plan(
    o: &FanoutOptions,
    content: Content,
    measures_pings: bool,
    run: &Run<'_>,
) -> Result<Plan, BenchError> {
    let channels = match content {
        Content::States => fresh_channels(o.channels).into(),
        Content::Messages => short_channels(o.channels),
    };
    let hint = |channel| (content == Content::States).then_some(channel);
    let target = |channel| run.server.target(run.common, o.dialect, hint(channel));
    let targets = channels.iter().map(|channel| target(channel)).collect::<Result<_, _>>()?;
    Ok(Plan {
        content,
        dialect: o.dialect,
        channels,
        targets,
        publishers: o.publishers,
        drive: o.rate.map_or(Drive::Window(o.window), Drive::Rate),
        payload_bytes: o.payload,
        publishing: o.publishing,
        sampled_of: sampled_of(o),
        measures_pings,
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
fn members(o: &FanoutOptions, plan: &Plan) -> Vec<Member> {
    let (channels, publishers, counts) = (o.channels, o.publishers, o.publishing.window_counts);
    let is_presence = plan.content == Content::States;
    let publisher = |index: usize| {
        let own = match o.spread {
            Spread::All if channels > publishers && !is_presence => {
                (index..channels).step_by(publishers).collect()
            }
            Spread::All | Spread::One => vec![index % channels],
        };
        // On the sync wire members see each other.
        let sees = |channel| {
            Receiver::new(channel, Some(plan.publishers_of(channel))).except(plan.place_of(index))
        };
        let receiver = (is_presence && o.dialect == Dialect::Sync).then(|| sees(index % channels));
        Member { publisher: Some(Box::new(Publisher::new(index, own, counts))), receiver }
    };
    // Without serials only the stamps tell what is missing.
    let reads_all = is_presence || o.dialect == Dialect::Peer;
    let watcher = |index: usize| {
        let channel = index % channels;
        let stamps = (index < channels || reads_all).then(|| plan.publishers_of(channel));
        Member { publisher: None, receiver: Some(Receiver::new(channel, stamps)) }
    };
    (0..publishers).map(publisher).chain((0..channels * o.subscribers).map(watcher)).collect()
}

fn floods(mixed: Option<&MixedOptions>, run: &Run<'_>) -> Result<Vec<Option<Flood>>, BenchError> {
    let Some(o) = mixed else { return Ok(run.loads(0..0, |_, _| None)) };
    let channel = fresh_channels(2).remove(1);
    let target = run.server.target(run.common, o.dialect, Some(&channel))?;
    Ok(run.loads(0..o.flooders, |flooders, signals| {
        Some(Flood::new(o, target.clone(), channel.clone(), flooders.len(), signals))
    }))
}

/// Returns the updates sent per second. What was due within the measured time counts.
fn add_states(findings: &mut Findings, o: &FanoutOptions, is_mixed: bool) -> f64 {
    let seconds = o.time.duration.0.as_secs_f64();
    let per_second = |count: u64| count as f64 / seconds;
    let sent = per_second(findings.totals[Counter::PublishedMeasured]);
    let delivered = per_second(findings.totals[Counter::DeliveredMeasured]);
    findings.set(Metric::UpdatesPerS, sent);
    findings.set(Metric::DeliveredPerS, delivered);
    findings.set_total(Metric::Lost, Counter::Lost);
    findings.set_total(Metric::Duplicated, Counter::Duplicated);
    findings.set_total(Metric::Reordered, Counter::Reordered);
    findings.set_total(Metric::Conflated, Counter::Conflated);
    if !is_mixed {
        let delivered = findings.window.count(Counter::Delivered);
        findings.set_cpu_per(Metric::ServerNsPerDelivery, delivered);
    }
    if o.spread == Spread::All && o.channels > o.publishers {
        findings.note("a member publishes to its own channel only: the other channels were quiet");
    }
    sent
}

/// Returns the publishes sent per second.
fn add_messages(findings: &mut Findings, scripts: &[&Traffic], accepted: &[Accepted]) -> f64 {
    findings.set_rate(Metric::PublishesPerS, Counter::Acknowledged);
    findings.set_rate(Metric::DeliveredPerS, Counter::Delivered);
    findings.set_rate(Metric::ReadsPerS, Counter::Reads);
    let delivered = findings.window.count(Counter::Delivered);
    let reads = findings.window.count(Counter::Reads);
    findings.set(Metric::DeliveredPerRead, delivered as f64 / reads.max(1) as f64);
    let publishes = || scripts.iter().flat_map(|script| script.publishes());
    findings.set(Metric::PublishesMin, publishes().min().unwrap_or_default() as f64);
    findings.set(Metric::PublishesMax, publishes().max().unwrap_or_default() as f64);
    let unacknowledged = findings.totals[Counter::Unacknowledged];
    findings.set(Metric::Lost, (findings.totals[Counter::Lost] + unacknowledged) as f64);
    findings.set_total(Metric::Duplicated, Counter::Duplicated);
    findings.set_total(Metric::Reordered, Counter::Reordered);
    findings.set_cpu_per(Metric::ServerNsPerDelivery, delivered);
    let user_share = findings.window.cpu.and_then(|cpu| cpu.user_share);
    if let Some((ns, share)) = findings.get(Metric::ServerNsPerDelivery).zip(user_share) {
        findings.set(Metric::ServerUserNsPerDelivery, ns * share);
    }
    if unacknowledged > 0 {
        findings.note(format!("{unacknowledged} publishes were never acknowledged"));
    }
    let holes: u64 = accepted.iter().map(Accepted::holes).sum();
    if holes > 0 {
        findings.note(format!("{holes} serials between acknowledged ones belong to no publish"));
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
            dialect: o.dialect,
            channels: short_channels(channels),
            targets: vec![target; channels].into(),
            publishers,
            drive: Drive::Window(1),
            payload_bytes: 64,
            publishing: o.publishing,
            sampled_of: 1,
            measures_pings: false,
        };
        let members = members(&o, &plan);
        members.iter().filter_map(|it| Some(it.publisher.as_ref()?.channels().to_vec())).collect()
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
