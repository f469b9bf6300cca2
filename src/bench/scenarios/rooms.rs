//! `latency`, `presence`, and `fanout` on the sync wire: members of channels, in an open and in a
//! closed loop.

use super::super::engine::Usage;
use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::{FanoutOptions, Spread, Time};
use super::super::room::{Drive, MemberPlan, Room, RoomPlan, Tally};
use super::super::stage::{HEARTBEAT_S, Stage};
use super::super::workers::Window;
use super::findings::Findings;
use super::{Run, fresh_channels, scripts};

pub(super) fn members(o: &FanoutOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let plan = RoomPlan {
        channels: o.channels,
        publishers: o.publishers,
        drive: o.rate.map_or(Drive::Window(o.window), Drive::Rate),
        state_bytes: o.payload,
    };
    let plans = plans(o, run)?;
    let count = plans.len() as u64;
    let mut workers = run.enter(stages(&plan, plans, HEARTBEAT_S, run), count, count)?;
    let window = run.measure(&mut workers, o.time)?;
    workers.settle(run.progress, |_| true)?;
    let mut findings = report(o.time, &window, workers.finish()?, run);
    let delivered = window.after.delivered - window.before.delivered;
    findings.add_cpu_per(Metric::ServerNsPerDelivery, &window, delivered);
    match o.rate {
        None => findings.note_bottleneck(),
        Some(rate) => {
            let asked = rate * o.publishers as f64;
            let sent = findings.metrics.get(&Metric::UpdatesPerS).copied().unwrap_or_default();
            findings.note_overload(sent, asked, "updates");
        }
    }
    if o.spread == Spread::All && o.channels > o.publishers {
        findings.note("a member publishes to its own channel only: the other channels were quiet");
    }
    Ok(findings)
}

/// Publishers first, so that every thread gets some.
fn plans(o: &FanoutOptions, run: &Run<'_>) -> Result<Vec<MemberPlan>, BenchError> {
    let channels = fresh_channels(o.channels);
    let member = |(index, publisher): (usize, Option<usize>)| {
        let number = index % o.channels;
        let channel = channels[number].clone();
        let target = run.server.target(run.common, o.dialect, Some(&channel))?;
        Ok(MemberPlan { target, channel, number, publisher, pings_per_second: 0.0 })
    };
    let publishers = (0..o.publishers).map(|index| (index, Some(index)));
    let watchers = (0..o.channels * o.subscribers).map(|index| (index, None));
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
