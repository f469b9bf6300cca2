//! `latency`, `presence`, and `fanout` on the sync wire: members of channels, in an open and in a
//! closed loop.

use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::{
    Dialect, FanoutOptions, LatencyOptions, PresenceOptions, Spread, Time,
};
use super::super::room::{Drive, MemberPlan, Room, RoomPlan, Tally};
use super::super::stage::{HEARTBEAT_S, Stage};
use super::super::workers::Window;
use super::findings::Findings;
use super::{Run, fresh_channels, scripts};

struct Shape {
    dialect: Dialect,
    channels: usize,
    /// In the whole run.
    publishers: usize,
    /// Of each channel.
    watchers: usize,
    drive: Drive,
    state_bytes: usize,
    time: Time,
}

pub(super) fn latency(o: &LatencyOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let shape = Shape {
        dialect: o.dialect,
        channels: 1,
        publishers: o.publishers,
        watchers: o.watchers,
        drive: o.window.map_or(Drive::Rate(o.rate), Drive::Window),
        state_bytes: o.state_bytes,
        time: o.time,
    };
    play(&shape, run)
}

pub(super) fn fanout(o: &FanoutOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let shape = Shape {
        dialect: o.dialect,
        channels: o.channels,
        publishers: o.publishers,
        watchers: o.subscribers,
        drive: o.rate.map_or(Drive::Window(o.window), Drive::Rate),
        state_bytes: o.payload,
        time: o.time,
    };
    let mut findings = play(&shape, run)?;
    if o.spread == Spread::All && o.channels > o.publishers {
        findings.note("a member publishes to its own channel only: the other channels were quiet");
    }
    Ok(findings)
}

pub(super) fn presence(o: &PresenceOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let shape = Shape {
        dialect: o.dialect,
        channels: 1,
        publishers: o.publishers,
        watchers: o.members,
        drive: o.rate.map_or(Drive::Window(o.window), Drive::Rate),
        state_bytes: o.state_bytes,
        time: o.time,
    };
    play(&shape, run)
}

fn play(shape: &Shape, run: &Run<'_>) -> Result<Findings, BenchError> {
    let members = members(shape, run)?;
    let count = members.len() as u64;
    let plan = RoomPlan {
        channels: shape.channels,
        publishers: shape.publishers,
        drive: shape.drive,
        state_bytes: shape.state_bytes,
    };
    let mut workers = run.enter(stages(&plan, members, HEARTBEAT_S, run), count, count)?;
    let window = run.measure(&mut workers, shape.time)?;
    workers.settle(run.progress, |_| true)?;
    let mut findings = report(shape.time, &window, workers.finish()?, run);
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
fn members(shape: &Shape, run: &Run<'_>) -> Result<Vec<MemberPlan>, BenchError> {
    let channels = fresh_channels(shape.channels);
    let member = |(index, publisher): (usize, Option<usize>)| {
        let number = index % shape.channels;
        let channel = channels[number].clone();
        let target = run.server.target(run.common, shape.dialect, Some(&channel))?;
        Ok(MemberPlan { target, channel, number, publisher, pings_per_second: 0.0 })
    };
    let publishers = (0..shape.publishers).map(|index| (index, Some(index)));
    let watchers = (0..shape.channels * shape.watchers).map(|index| (index, None));
    publishers.chain(watchers).map(member).collect()
}

pub(super) fn stages(
    plan: &RoomPlan,
    members: impl IntoIterator<Item = MemberPlan>,
    heartbeat_s: f64,
    run: &Run<'_>,
) -> Vec<Stage<Room>> {
    run.stages(members, heartbeat_s, |thread, members| {
        Room::new(plan.clone(), members, run.signals.clone(), thread)
    })
}

pub(super) fn report(
    time: Time,
    window: &Window,
    ended: Vec<(Stage<Room>, Usage)>,
    run: &Run<'_>,
) -> Findings {
    let (rooms, disconnected, usage) = scripts(ended);
    let mut tally = Tally::default();
    for mut room in rooms {
        room.count_lost();
        tally.merge(&room.tally);
    }
    let mut findings = Findings::of(window, &usage, disconnected, run.server);
    findings.add_tally(&tally, time.duration.0.as_secs_f64());
    findings
}
