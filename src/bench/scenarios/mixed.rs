//! `mixed`: do flooders make polite clients wait?

use std::sync::Arc;

use super::super::client::{Closed, Event, Outbound, Sources};
use super::super::crew::Crew;
use super::super::engine::{Clients, Group, Load, Next, Who};
use super::super::error::BenchError;
use super::super::flood::Flood;
use super::super::metric::Metric;
use super::super::options::{Dialect, MixedOptions};
use super::super::progress::Progress;
use super::super::room::{Drive, MemberPlan, Room, RoomPlan};
use super::super::signals::Signals;
use super::findings::Findings;
use super::{Server, deal, fresh_channel, rooms};

/// Members and flooders of one thread. The members go first in every turn.
struct Mixed {
    room: Room,
    flood: Flood,
}

impl Load for Mixed {
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        let next = self.room.turn(now_ns, clients)?;
        Ok(next.sooner(self.flood.turn(now_ns, clients)?))
    }

    fn event(&mut self, now_ns: u64, who: Who, out: &mut Outbound, event: Event<'_>) {
        match who.group {
            Group::Flood => self.flood.event(now_ns, who, out, event),
            Group::Room | Group::Churn => self.room.event(now_ns, who, out, event),
        }
    }

    fn closed(&mut self, now_ns: u64, who: Who, closed: Closed) {
        match who.group {
            Group::Flood => self.flood.closed(now_ns, who, closed),
            Group::Room | Group::Churn => self.room.closed(now_ns, who, closed),
        }
    }
}

pub(super) fn mixed(
    options: &MixedOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let common = &options.common;
    let signals = Arc::new(Signals::new(common.threads(), options.polite));
    signals.allow_join();
    let loads = loads(options, server, &signals)?;
    let mut crew = Crew::start(loads, common, signals)?;
    let polite = options.polite as u64;
    crew.reach("connecting", polite, progress, |totals| totals.greeted)?;
    crew.reach("joining", polite, progress, |totals| totals.joined)?;
    let window = crew.measure(options.warm_up.0, options.duration.0, server.watched(), progress)?;
    crew.settle(progress)?;

    let (mut flooders_lost, mut polite) = (0, Vec::new());
    for (mixed, usage) in crew.finish()? {
        flooders_lost += mixed.flood.disconnected;
        polite.push((mixed.room, usage));
    }
    let (tally, usage) = rooms::merge(polite);
    let mut findings = Findings::of(&window, &usage, server);
    findings.add_tally(&tally, options.duration.0.as_secs_f64());
    findings.set(Metric::FloodPongsPerS, window.per_second(|totals| totals.flood_pongs));
    if flooders_lost > 0 {
        findings.note(format!("the server disconnected {flooders_lost} flooders"));
    }
    Ok(findings)
}

fn loads(
    options: &MixedOptions,
    server: &Server,
    signals: &Arc<Signals>,
) -> Result<Vec<Mixed>, BenchError> {
    let common = &options.common;
    let channel = fresh_channel();
    let flood_channel: Arc<str> = format!("{channel}-flood").into();
    let (target, flood_target) = (
        server.target(common, Dialect::Sync, Some(&channel))?,
        server.target(common, Dialect::Sync, Some(&flood_channel))?,
    );
    let plan = RoomPlan {
        channels: 1,
        publishers: options.polite,
        drive: Drive::Rate(options.rate),
        state_bytes: options.state_bytes,
        heartbeat_s: 0.0,
    };
    let polite = (0..options.polite).map(|index| MemberPlan {
        target: target.clone(),
        channel: channel.clone(),
        number: 0,
        publisher: Some(index),
        pings_per_second: options.rate,
    });
    let members = deal(polite, common.threads());
    let flooders = deal(0..options.flooders, common.threads());
    let hands = members.into_iter().zip(flooders).enumerate();
    let load = |(thread, (members, flooders)): (usize, (Vec<MemberPlan>, Vec<usize>))| Mixed {
        room: Room::new(
            plan.clone(),
            members,
            Sources::for_connections(target.address, options.polite),
            signals.clone(),
            thread,
        ),
        flood: Flood::new(
            options.flood,
            flood_target.clone(),
            flood_channel.clone(),
            options.state_bytes,
            flooders.len(),
            signals.clone(),
            thread,
        ),
    };
    Ok(hands.map(load).collect())
}
