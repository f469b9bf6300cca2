//! `mixed`: do flooders make polite clients wait?

use std::sync::Arc;

use super::super::client::{Closed, Event, Outbound, Sources};
use super::super::crew::{Crew, Window};
use super::super::engine::{Clients, Group, Load, Next, Usage, Who};
use super::super::error::BenchError;
use super::super::flood::Flood;
use super::super::metric::Metric;
use super::super::options::{Dialect, FanoutOptions, MixedOptions};
use super::super::progress::Progress;
use super::super::room::{Drive, MemberPlan, Room, RoomPlan};
use super::super::signals::Signals;
use super::findings::Findings;
use super::{Server, deal, fanout, fresh_channel, rooms};

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

    fn event(&mut self, now_ns: u64, who: Who, out: &mut Outbound, event: Event<'_>) {
        match who.group {
            Group::Flood => self.flood.event(now_ns, who, out, event),
            Group::Room | Group::Churn => self.polite.event(now_ns, who, out, event),
        }
    }

    fn closed(&mut self, now_ns: u64, who: Who, closed: Closed) {
        match who.group {
            Group::Flood => self.flood.closed(now_ns, who, closed),
            Group::Room | Group::Churn => self.polite.closed(now_ns, who, closed),
        }
    }
}

pub(super) fn mixed(
    options: &MixedOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    match options.dialect {
        Dialect::Sync => members(options, server, progress),
        Dialect::Foony => subscribers(options, server, progress),
        Dialect::Redis => {
            Err(BenchError::Options("mixed knows --dialect sync and foony".to_owned()))
        }
    }
}

/// On the sync wire: members that update their state and send pings.
fn members(
    options: &MixedOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
    let signals = Arc::new(Signals::new(options.common.threads(), options.polite));
    signals.allow_join();
    let polite =
        Polite { loads: rooms(options, server, &signals)?, count: options.polite, each: 0 };
    polite.play(options, server, signals, progress, |window, ended| {
        let (tally, usage) = rooms::merge(ended);
        let mut findings = Findings::of(window, &usage, server);
        findings.add_tally(&tally, options.duration.0.as_secs_f64());
        findings
    })
}

/// On the Foony protocol: as many publishers as subscribers.
fn subscribers(
    options: &MixedOptions,
    server: &Server,
    progress: &Progress,
) -> Result<Findings, BenchError> {
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
    fanout::check(&shape)?;
    let signals = Arc::new(Signals::new(options.common.threads(), options.polite));
    let polite = Polite {
        loads: fanout::loads(&shape, server, &signals)?,
        count: 2 * options.polite,
        each: options.polite as u64,
    };
    polite.play(options, server, signals, progress, |window, ended| {
        fanout::report(&shape, window, ended, server)
    })
}

/// Those who are to be measured.
struct Polite<P> {
    /// One per thread.
    loads: Vec<P>,
    /// Connections.
    count: usize,
    /// Deliveries of one acknowledged publish; 0 where nothing is acknowledged.
    each: u64,
}

impl<P: Load> Polite<P> {
    fn play(
        self,
        options: &MixedOptions,
        server: &Server,
        signals: Arc<Signals>,
        progress: &Progress,
        report: impl FnOnce(&Window, Vec<(P, Usage)>) -> Findings,
    ) -> Result<Findings, BenchError> {
        let (common, count, each) = (&options.common, self.count as u64, self.each);
        let floods = floods(options, server, &signals)?;
        let mixed = |(polite, flood)| Mixed { polite, flood };
        let loads = self.loads.into_iter().zip(floods).map(mixed).collect();
        let mut crew = Crew::start(loads, common, signals)?;
        crew.reach("connecting", count, progress, |totals| totals.greeted)?;
        crew.reach("joining", count, progress, |totals| totals.joined)?;
        let (warm_up, duration) = (options.warm_up.0, options.duration.0);
        let window = crew.measure(warm_up, duration, server.watched(), progress)?;
        crew.settle_when(progress, |totals| totals.delivered >= totals.acknowledged * each)?;

        let (mut flooders_lost, mut polite) = (0, Vec::new());
        for (mixed, usage) in crew.finish()? {
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
}

fn rooms(
    options: &MixedOptions,
    server: &Server,
    signals: &Arc<Signals>,
) -> Result<Vec<Room>, BenchError> {
    let common = &options.common;
    let channel = fresh_channel();
    let target = server.target(common, Dialect::Sync, Some(&channel))?;
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
    let hands = deal(polite, common.threads()).into_iter().enumerate();
    let room = |(thread, members): (usize, Vec<MemberPlan>)| {
        let sources = Sources::for_connections(target.address, members.len());
        Room::new(plan.clone(), members, sources, signals.clone(), thread)
    };
    Ok(hands.map(room).collect())
}

fn floods(
    options: &MixedOptions,
    server: &Server,
    signals: &Arc<Signals>,
) -> Result<Vec<Flood>, BenchError> {
    let common = &options.common;
    let channel: Arc<str> = format!("{}-flood", fresh_channel()).into();
    let target = server.target(common, options.dialect, Some(&channel))?;
    let hands = deal(0..options.flooders, common.threads()).into_iter().enumerate();
    let flood = |(thread, flooders): (usize, Vec<usize>)| {
        Flood::new(
            options.flood,
            target.clone(),
            channel.clone(),
            options.state_bytes,
            flooders.len(),
            signals.clone(),
            thread,
        )
    };
    Ok(hands.map(flood).collect())
}
