//! `latency`, `presence`, and `fanout` on the sync wire: members of channels, in an open and in a
//! closed loop.

use std::sync::Arc;
use std::time::Duration;

use super::super::client::Sources;
use super::super::crew::Crew;
use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::heartbeat::HEARTBEAT_S;
use super::super::metric::Metric;
use super::super::options::{
    Common, Dialect, FanoutOptions, LatencyOptions, PresenceOptions, Spread,
};
use super::super::progress::Progress;
use super::super::room::{Drive, MemberPlan, Room, RoomPlan, Tally};
use super::super::signals::Signals;
use super::findings::Findings;
use super::{Server, deal, fresh_channel};

struct Shape {
    dialect: Dialect,
    channels: usize,
    /// In the whole run.
    publishers: usize,
    /// Of each channel.
    watchers: usize,
    drive: Drive,
    state_bytes: usize,
    warm_up: Duration,
    duration: Duration,
}

pub(super) fn latency(
    options: &LatencyOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let shape = Shape {
        dialect: options.dialect,
        channels: 1,
        publishers: options.publishers,
        watchers: options.watchers,
        drive: options.window.map_or(Drive::Rate(options.rate), Drive::Window),
        state_bytes: options.state_bytes,
        warm_up: options.warm_up.0,
        duration: options.duration.0,
    };
    play(&shape, &options.common, server, progress)
}

pub(super) fn fanout(
    options: &FanoutOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let shape = Shape {
        dialect: options.dialect,
        channels: options.channels,
        publishers: options.publishers,
        watchers: options.subscribers,
        drive: options.rate.map_or(Drive::Window(options.window), Drive::Rate),
        state_bytes: options.payload,
        warm_up: options.warm_up.0,
        duration: options.duration.0,
    };
    let mut findings = play(&shape, &options.common, server, progress)?;
    if options.spread == Spread::All && options.channels > options.publishers {
        findings.note("a member publishes to its own channel only: the other channels were quiet");
    }
    Ok(findings)
}

pub(super) fn presence(
    options: &PresenceOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let shape = Shape {
        dialect: options.dialect,
        channels: 1,
        publishers: options.publishers,
        watchers: options.members,
        drive: options.rate.map_or(Drive::Window(options.window), Drive::Rate),
        state_bytes: options.state_bytes,
        warm_up: options.warm_up.0,
        duration: options.duration.0,
    };
    play(&shape, &options.common, server, progress)
}

fn play(
    shape: &Shape,
    common: &Common,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let members = members(shape, common, server)?;
    let count = members.len() as u64;
    let signals = Arc::new(Signals::new(common.threads(), shape.publishers));
    let plan = RoomPlan {
        channels: shape.channels,
        publishers: shape.publishers,
        drive: shape.drive,
        state_bytes: shape.state_bytes,
        heartbeat_s: HEARTBEAT_S,
    };
    let hands = deal(members.into_iter(), common.threads()).into_iter().enumerate();
    let rooms = hands.map(|(thread, members)| {
        let address = members.first().map(|member| member.target.address);
        let sources = Sources::for_members(address, members.len());
        Room::new(plan.clone(), members, sources, signals.clone(), thread)
    });
    signals.allow_join();
    let mut crew = Crew::start(rooms.collect(), common, signals.clone())?;
    crew.reach("connecting", count, progress, |totals| totals.greeted)?;
    crew.reach("joining", count, progress, |totals| totals.joined)?;
    let window = crew.measure(shape.warm_up, shape.duration, server.watched(), progress)?;
    crew.settle(progress)?;
    let (tally, usage) = merge(crew.finish()?);
    let mut findings = Findings::of(&window, &usage, server);
    findings.add_tally(&tally, shape.duration.as_secs_f64());
    let delivered = window.after.delivered - window.before.delivered;
    findings.add_cpu_per(Metric::ServerNsPerDelivery, &window, delivered);
    match shape.drive {
        Drive::Window(_) => findings.note_bottleneck(),
        Drive::Rate(rate) => {
            let asked = rate * shape.publishers as f64;
            let sent = findings.metrics.get(&Metric::UpdatesPerS).copied().unwrap_or_default();
            findings.note_overload(sent, asked, "updates");
        }
    }
    Ok(findings)
}

/// Publishers first, so that every thread gets some.
fn members(shape: &Shape, common: &Common, server: &Server) -> Result<Vec<MemberPlan>, BenchError> {
    let run = fresh_channel();
    let channel_of = |index: usize| -> Arc<str> { format!("{run}-{index}").into() };
    let channels: Vec<_> = (0..shape.channels).map(channel_of).collect();
    let member = |(index, publisher): (usize, Option<usize>)| {
        let number = index % shape.channels;
        let channel = channels[number].clone();
        let target = server.target(common, shape.dialect, Some(&channel))?;
        Ok(MemberPlan { target, channel, number, publisher, pings_per_second: 0.0 })
    };
    let publishers = (0..shape.publishers).map(|index| (index, Some(index)));
    let watchers = (0..shape.channels * shape.watchers).map(|index| (index, None));
    publishers.chain(watchers).map(member).collect()
}

pub(super) fn merge(ended: Vec<(Room, Usage)>) -> (Tally, Usage) {
    let (mut tally, mut usage) = (Tally::default(), Usage::default());
    for (mut room, used) in ended {
        room.count_lost();
        tally.merge(&room.tally);
        usage.merge(&used);
    }
    (tally, usage)
}
