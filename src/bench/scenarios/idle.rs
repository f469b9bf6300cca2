//! `idle`: what connections cost that do nothing.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::client::Sources;
use super::super::crew::Crew;
use super::super::error::BenchError;
use super::super::metric::Metric;
use super::super::options::IdleOptions;
use super::super::process::resident_bytes;
use super::super::progress::Progress;
use super::super::room::{Drive, MemberPlan, Room, RoomPlan};
use super::super::signals::Signals;
use super::findings::Findings;
use super::{Server, deal, fresh_channel, rooms};

/// Time for the server to give back what greeting needed.
const REST: Duration = Duration::from_millis(300);

pub(super) fn idle(
    options: &IdleOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let common = &options.common;
    let members = members(options, server)?;
    let count = members.len() as u64;
    let signals = Arc::new(Signals::new(common.threads(), 0));
    let plan = RoomPlan {
        publishers: 0,
        drive: Drive::Window(1),
        state_bytes: options.state_bytes,
        heartbeat_s: options.heartbeat.0.as_secs_f64(),
    };
    let address = server.address(common.transport)?;
    let hands = deal(members.into_iter(), common.threads()).into_iter().enumerate();
    let rooms_of_threads = hands.map(|(thread, members)| {
        let sources = Sources::for_connections(address, members.len());
        Room::new(plan.clone(), members, sources, signals.clone(), thread)
    });
    let resident = || {
        thread::sleep(REST);
        server.pid.and_then(resident_bytes)
    };
    let empty = resident();
    let mut crew = Crew::start(rooms_of_threads.collect(), common, signals.clone())?;
    crew.reach("connecting", count, progress, |totals| totals.greeted)?;
    let greeted = resident();
    signals.allow_join();
    crew.reach("joining", count, progress, |totals| totals.joined)?;
    let window = crew.measure(options.warm_up.0, options.duration.0, server.watched(), progress)?;
    let joined = resident();
    let (tally, usage) = rooms::merge(crew.finish()?);

    let mut findings = Findings::of(&window, &usage, server);
    findings.set(Metric::Disconnected, tally.disconnected as f64);
    let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / count as f64;
    if let (Some(empty), Some(greeted), Some(joined)) = (empty, greeted, joined) {
        findings.set(Metric::ServerBytesPerGreeted, each(empty, greeted));
        findings.set(Metric::ServerBytesPerMember, each(empty, joined));
    }
    findings.note("resident memory is the server process's own; sockets cost the kernel as well");
    Ok(findings)
}

fn members(options: &IdleOptions, server: &Server) -> Result<Vec<MemberPlan>, BenchError> {
    let run = fresh_channel();
    let channel_of = |index: usize| -> Arc<str> { format!("{run}-{index}").into() };
    let channels: Vec<_> = (0..options.channel_count()).map(channel_of).collect();
    let plan = |index: usize| {
        let channel = channels[index % channels.len()].clone();
        let target = server.target(&options.common, &channel)?;
        Ok(MemberPlan { target, channel, publisher: None, pings_per_second: 0.0 })
    };
    (0..options.connections).map(plan).collect()
}
