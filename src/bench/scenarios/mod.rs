//! What is measured, scenario by scenario, and how a report is made of it.

mod churn;
mod fanout;
mod findings;
mod idle;
mod joins;
mod mixed;
mod rooms;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::client::{Greeting, Target, Transport};
use super::engine::{Load, Usage};
use super::error::BenchError;
use super::fanout::payload::PAYLOAD_BYTES_MIN;
use super::launch::Addresses;
use super::machine::{self, Machine};
use super::options::{ChannelHint, Common, Dialect, FanoutOptions, Scenario, Time, WindowCounts};
use super::peer::Protocol;
use super::progress::Progress;
use super::report::{RECORD_FORMAT, Report};
use super::signals::{Signals, Totals};
use super::stage::{Script, Stage};
use super::stamp::STAMP_BYTES;
use super::workers::{Goal, Window, Workers};

/// The server that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub addresses: Addresses,
    /// Process to look at, if it can be seen from here.
    pub pid: Option<u32>,
    /// What it speaks, if that is neither of our protocols.
    pub protocol: Option<&'static dyn Protocol>,
}

impl Server {
    /// `channel`: what a WebSocket may name in its URL.
    fn target(
        &self,
        common: &Common,
        dialect: Dialect,
        channel: Option<&str>,
    ) -> Result<Target, BenchError> {
        let (address, option, transport) = match (dialect, common.transport) {
            (Dialect::Peer, _) => (self.addresses.peer, "--peer", Transport::Tcp),
            (Dialect::Sync, Transport::Tcp) => {
                (self.addresses.sync_tcp, "--sync-tcp", Transport::Tcp)
            }
            (Dialect::Sync, Transport::Ws) | (Dialect::Foony, _) => {
                (self.addresses.http, "--http", Transport::Ws)
            }
        };
        let address = address.ok_or_else(|| {
            BenchError::Options(format!("what is asked for needs a server's {option} ADDR"))
        })?;
        let path = match (common.channel_hint, channel) {
            (ChannelHint::Url, Some(channel)) => format!("/?channel={channel}"),
            _ => "/".to_owned(),
        };
        Ok(Target::new(address, transport, &path, self.greeting(common, dialect)?))
    }

    fn greeting(&self, common: &Common, dialect: Dialect) -> Result<Greeting, BenchError> {
        let refuse = |why: &str| Err(BenchError::Options(why.to_owned()));
        match (dialect, self.protocol) {
            (Dialect::Sync, _) => Ok(Greeting::Sync { token: common.token.as_str().into() }),
            (Dialect::Peer, Some(protocol)) => Ok(Greeting::Peer(protocol)),
            (Dialect::Peer, None) => refuse("no protocol of a peer is known to this program"),
            (Dialect::Foony, _) if common.transport == Transport::Tcp => {
                refuse("the Foony protocol has no --transport tcp")
            }
            (Dialect::Foony, _) if common.key.is_empty() => {
                refuse("the Foony protocol needs --key app.keyId:secret of that server")
            }
            (Dialect::Foony, _) => {
                let key = common.key.as_str().into();
                Ok(Greeting::Foony { key, client_id: "s".into() })
            }
        }
    }
}

/// What every scenario is run with.
struct Run<'a> {
    common: &'a Common,
    server: &'a Server,
    progress: &'a Progress,
    signals: Arc<Signals>,
}

impl Run<'_> {
    /// Lets one script per thread go through the stages up to the run. `make` writes it, for those
    /// members whose turn it is. Each connection pings once in `heartbeat_s`.
    fn stages<T, S: Script>(
        &self,
        members: impl IntoIterator<Item = T>,
        heartbeat_s: f64,
        mut make: impl FnMut(usize, Vec<T>) -> S,
    ) -> Vec<Stage<S>> {
        let parts = partition(members, self.common.threads()).into_iter().enumerate();
        let stage = |(thread, members)| {
            Stage::new(make(thread, members), heartbeat_s, self.signals.clone(), thread)
        };
        parts.map(stage).collect()
    }

    fn start<L: Load>(&self, loads: Vec<L>) -> Result<Workers<L>, BenchError> {
        Workers::start(loads, self.common, self.signals.clone(), self.server.pid)
    }

    /// As [`Run::start`], and waits until `count` connections have greeted and `joining` of them
    /// have joined.
    fn enter<L: Load>(
        &self,
        loads: Vec<L>,
        count: u64,
        joining: u64,
    ) -> Result<Workers<L>, BenchError> {
        let mut workers = self.start(loads)?;
        self.signals.greeting.raise();
        self.reach(&mut workers, "connecting", count, |totals| totals.greeted)?;
        self.signals.joining.raise();
        self.reach(&mut workers, "joining", joining, |totals| totals.joined)?;
        Ok(workers)
    }

    fn reach<L: Load>(
        &self,
        workers: &mut Workers<L>,
        what: &'static str,
        count: u64,
        gauge: fn(&Totals) -> u64,
    ) -> Result<(), BenchError> {
        workers.reach(Goal { what, count, gauge }, self.progress)
    }

    fn measure<L: Load>(&self, workers: &mut Workers<L>, time: Time) -> Result<Window, BenchError> {
        workers.measure(time.warm_up.0, time.duration.0, None, self.progress)
    }
}

/// The scripts of all threads, connections that ended too early, and what the generator needed.
fn scripts<S>(ended: Vec<(Stage<S>, Usage)>) -> (Vec<S>, u64, Usage) {
    let (mut scripts, mut disconnected, mut usage) = (Vec::new(), 0, Usage::default());
    for (stage, used) in ended {
        scripts.push(stage.script);
        disconnected += stage.disconnected;
        usage.merge(&used);
    }
    (scripts, disconnected, usage)
}

/// Runs a scenario against a server.
///
/// # Errors
/// The options make no sense, or the server cannot be used.
pub fn run(
    scenario: &Scenario,
    server: &Server,
    progress: &Progress,
) -> Result<Report, BenchError> {
    check(scenario)?;
    let taken_at = since_1970();
    let common = scenario.common();
    let feeds = match scenario {
        Scenario::Latency(o) => o.publishers,
        Scenario::Fanout(o) if o.dialect == Dialect::Sync => o.publishers,
        Scenario::Fanout(o) => o.publishers.max(o.channels),
        Scenario::Presence(o) if o.joins.is_none() => o.publishers,
        Scenario::Mixed(o) => o.polite,
        Scenario::Presence(_) | Scenario::Idle(_) | Scenario::Churn(_) => 0,
    };
    let signals = Arc::new(Signals::new(common.threads(), feeds));
    let run = Run { common, server, progress, signals };
    let findings = match scenario {
        Scenario::Latency(options) => deliveries(&options.into(), &run),
        Scenario::Fanout(options) => deliveries(options, &run),
        Scenario::Presence(options) => match options.joins {
            Some(joiners) => joins::joins(options, joiners, &run),
            None => rooms::members(&options.into(), &run),
        },
        Scenario::Idle(options) => idle::idle(options, &run),
        Scenario::Churn(options) => churn::churn(options, &run),
        Scenario::Mixed(options) => mixed::mixed(options, &run),
    };
    progress.done();
    let mut findings = findings?;
    findings.note_circumstances(common, server);
    Ok(Report {
        format: RECORD_FORMAT,
        scenario: scenario.clone(),
        taken_at_unix_s: taken_at.as_secs(),
        measured_s: (findings.seconds * 1e3).round() / 1e3,
        metrics: findings.metrics,
        latencies: findings.latencies,
        machine: Machine::this(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: machine::commit(),
        config: None,
        command: std::env::args().collect(),
        notes: findings.notes,
    })
}

fn deliveries(options: &FanoutOptions, run: &Run<'_>) -> Result<findings::Findings, BenchError> {
    match options.dialect {
        Dialect::Sync => rooms::members(options, run),
        Dialect::Foony | Dialect::Peer => fanout::messages(options, run),
    }
}

/// Smallest of the counts, rate or window, size of what is published.
fn extent(scenario: &Scenario) -> (usize, f64, usize) {
    match scenario {
        Scenario::Latency(o) => {
            let pace = o.window.map_or(o.rate, |window| window as f64);
            (o.publishers.min(o.watchers), pace, o.state_bytes)
        }
        Scenario::Fanout(o) => {
            let count = o.channels.min(o.subscribers).min(o.publishers);
            (count, o.rate.unwrap_or(o.window as f64), o.payload)
        }
        Scenario::Presence(o) => {
            let count = o.publishers.min(o.members).min(o.joins.unwrap_or(1));
            (count, o.rate.unwrap_or(o.window as f64), o.state_bytes)
        }
        Scenario::Idle(o) => (o.connections, 1.0, PAYLOAD_BYTES_MIN),
        Scenario::Churn(o) => (o.concurrency, o.rate.unwrap_or(1.0), PAYLOAD_BYTES_MIN),
        Scenario::Mixed(o) => (o.polite.saturating_sub(1), o.rate, o.state_bytes),
    }
}

fn check(scenario: &Scenario) -> Result<(), BenchError> {
    let (count, pace, bytes) = extent(scenario);
    let dialect = scenario.dialect();
    // A stamp has to fit, in JSON where the protocol demands that.
    let (bytes_min, size) = match (dialect, scenario) {
        (Dialect::Sync, Scenario::Fanout(_)) => (STAMP_BYTES, "--payload"),
        (_, Scenario::Fanout(_)) => (PAYLOAD_BYTES_MIN, "--payload"),
        (Dialect::Sync, _) => (STAMP_BYTES, "--state-bytes"),
        _ => (PAYLOAD_BYTES_MIN, "--state-bytes"),
    };
    let publishing = match scenario {
        Scenario::Latency(o) => Some(o.publishing),
        Scenario::Fanout(o) => Some(o.publishing),
        _ => None,
    };
    let counts_acks = publishing.is_some_and(|p| p.window_counts == WindowCounts::Acks);
    let problem = match scenario {
        Scenario::Presence(o) if dialect == Dialect::Foony && o.joins.is_some() => {
            "presence knows --joins on --dialect sync only".to_owned()
        }
        Scenario::Presence(_) | Scenario::Mixed(_) if dialect == Dialect::Peer => {
            format!("{} knows no protocols of peers", scenario.name())
        }
        Scenario::Churn(o) if o.pipelined && dialect == Dialect::Peer => {
            "--pipelined: a peer has no greeting to be pipelined with".to_owned()
        }
        _ if dialect == Dialect::Sync && counts_acks => {
            "--window-counts acks: the sync wire acknowledges no update".to_owned()
        }
        Scenario::Mixed(_) if count == 0 => "--polite must be 2 or more".to_owned(),
        _ if count == 0 => "every count must be 1 or more".to_owned(),
        _ if !(pace.is_finite() && pace > 0.0) => "--rate and --window must be above 0".to_owned(),
        _ if bytes < bytes_min => format!("{size} must be {bytes_min} or more"),
        _ => return Ok(()),
    };
    Err(BenchError::Options(problem))
}

/// Share of the asked rate below which a note reports that it was not reached.
const RATE_REACHED: f64 = 0.98;

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Names of channels that no earlier run on the same server had.
fn fresh_channels(count: usize) -> Vec<Arc<str>> {
    let run = format!("bench-{}-{}", std::process::id(), since_1970().as_millis());
    (0..count).map(|index| format!("{run}-{index}").into()).collect()
}

/// As [`fresh_channels`], but short: they travel with every message.
fn short_channels(count: usize) -> Arc<[Arc<str>]> {
    let (mut left, mut run) = (since_1970().as_millis() as u64, String::new());
    while left > 0 {
        run.extend(char::from_digit((left % 36) as u32, 36));
        left /= 36;
    }
    (0..count).map(|index| format!("{run}-{index}").into()).collect()
}

/// One part per thread, in turn.
fn partition<T>(things: impl IntoIterator<Item = T>, threads: usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = (0..threads).map(|_| Vec::new()).collect();
    things.into_iter().enumerate().for_each(|(at, thing)| parts[at % threads].push(thing));
    parts
}
