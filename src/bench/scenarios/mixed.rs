//! `mixed`: do flooders make polite clients wait?

use std::sync::Arc;

use super::super::client::{Closed, Event, Out};
use super::super::engine::{Clients, Group, Load, Next, Tag, Usage};
use super::super::error::BenchError;
use super::super::flood::Flood;
use super::super::metric::Metric;
use super::super::options::{Dialect, FanoutOptions, MixedOptions};
use super::super::room::{Drive, MemberPlan, RoomPlan};
use super::super::workers::Window;
use super::findings::Findings;
use super::{Run, fanout, fresh_channels, partition, rooms};

/// Polite clients and flooders of one thread. The polite ones go first in every turn.
struct Mixed<P> {
    polite: P,
    flood: Flood,
}

impl<P: Load> Load for Mixed<P> {
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        let next = self.polite.turn(now_ns, clients)?;
        Ok(next.sooner(self.flood.turn(now_ns, clients)?))
    }

    fn event(&mut self, now_ns: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        match tag.group {
            Group::Flood => self.flood.event(now_ns, tag, out, event),
            Group::Stage => self.polite.event(now_ns, tag, out, event),
        }
    }

    fn closed(&mut self, now_ns: u64, tag: Tag, closed: Closed) {
        match tag.group {
            Group::Flood => self.flood.closed(now_ns, tag, closed),
            Group::Stage => self.polite.closed(now_ns, tag, closed),
        }
    }
}

pub(super) fn mixed(options: &MixedOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    match options.dialect {
        Dialect::Sync => members(options, run),
        Dialect::Foony | Dialect::Peer => subscribers(options, run),
    }
}

/// On the sync wire: members that update their state and send pings.
fn members(options: &MixedOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let channel = fresh_channels(1).remove(0);
    let target = run.server.target(run.common, Dialect::Sync, Some(&channel))?;
    let plan = RoomPlan {
        channels: 1,
        publishers: options.polite,
        drive: Drive::Rate(options.rate),
        state_bytes: options.state_bytes,
    };
    let polite = (0..options.polite).map(|index| MemberPlan {
        target: target.clone(),
        channel: channel.clone(),
        number: 0,
        publisher: Some(index),
        pings_per_second: options.rate,
    });
    let polite = rooms::stages(&plan, polite, 0.0, run);
    play(polite, options.polite, 0, options, run, |window, ended| {
        rooms::report(options.time, window, ended, run)
    })
}

/// On the Foony protocol: as many publishers as subscribers.
fn subscribers(options: &MixedOptions, run: &Run<'_>) -> Result<Findings, BenchError> {
    let shape = FanoutOptions {
        channels: 1,
        subscribers: options.polite,
        publishers: options.polite,
        rate: Some(options.rate),
        payload: options.state_bytes,
        dialect: options.dialect,
        common: options.common.clone(),
        ..FanoutOptions::default()
    };
    let (polite, each) = (fanout::stages(&shape, run)?, options.polite as u64);
    play(polite, 2 * options.polite, each, options, run, |window, ended| {
        fanout::report(&shape, window, ended, run)
    })
}

/// `count`: connections of all polite loads; `each`: deliveries of one acknowledged publish, 0
/// where nothing is acknowledged.
fn play<P: Load>(
    polite: Vec<P>,
    count: usize,
    each: u64,
    options: &MixedOptions,
    run: &Run<'_>,
    report: impl FnOnce(&Window, Vec<(P, Usage)>) -> Findings,
) -> Result<Findings, BenchError> {
    let mixed = |(polite, flood)| Mixed { polite, flood };
    let loads = polite.into_iter().zip(floods(options, run)?).map(mixed).collect();
    let mut workers = run.enter(loads, count as u64, count as u64)?;
    let window = run.measure(&mut workers, options.time)?;
    workers.settle(run.progress, |totals| totals.delivered >= totals.acknowledged * each)?;

    let (mut flooders_lost, mut polite) = (0, Vec::new());
    for (mixed, usage) in workers.finish()? {
        flooders_lost += mixed.flood.disconnected;
        polite.push((mixed.polite, usage));
    }
    let mut findings = report(&window, polite);
    findings.set(Metric::FloodPongsPerS, window.per_second(|totals| totals.flood_pongs));
    if flooders_lost > 0 {
        findings.note(format!("the server disconnected {flooders_lost} flooders"));
    }
    Ok(findings)
}

fn floods(options: &MixedOptions, run: &Run<'_>) -> Result<Vec<Flood>, BenchError> {
    let channel: Arc<str> = format!("{}-flood", fresh_channels(1)[0]).into();
    let target = run.server.target(run.common, options.dialect, Some(&channel))?;
    let parts = partition(0..options.flooders, run.common.threads()).into_iter().enumerate();
    let flood = |(thread, flooders): (usize, Vec<usize>)| {
        Flood::new(
            options.flood,
            target.clone(),
            channel.clone(),
            options.state_bytes,
            flooders.len(),
            run.signals.clone(),
            thread,
        )
    };
    Ok(parts.map(flood).collect())
}
