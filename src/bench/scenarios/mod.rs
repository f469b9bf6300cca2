//! What is measured, scenario by scenario, and how a report is made of it.

mod churn;
mod fanout;
mod findings;
mod idle;
mod joins;
mod mixed;
mod rooms;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::client::{Greeting, Look, Opening, Target, Transport, upgrade_request};
use super::crew::Watched;
use super::error::BenchError;
use super::fanout::payload::PAYLOAD_BYTES_MIN;
use super::launch::Addresses;
use super::machine::{self, Machine};
use super::options::{ChannelHint, Common, Dialect, Scenario, WindowCounts};
use super::progress::Progress;
use super::report::{RECORD_FORMAT, Report};
use super::stamp::STAMP_BYTES;

/// The server that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub addresses: Addresses,
    /// Process to look at, if it can be seen from here.
    pub pid: Option<u32>,
}

impl Server {
    fn watched(&self) -> Watched {
        Watched { pid: self.pid }
    }

    /// `channel`: what a WebSocket may name in its URL.
    fn target(
        &self,
        common: &Common,
        dialect: Dialect,
        channel: Option<&str>,
    ) -> Result<Target, BenchError> {
        let (address, option, transport) = match (dialect, common.transport) {
            (Dialect::Redis, _) => (self.addresses.redis, "--redis", Transport::Tcp),
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
        Ok(Target {
            address,
            transport,
            upgrade: upgrade_request(&path, address).into(),
            greeting: greeting(common, dialect)?,
            opening: Opening::AtOnce,
            look: Look::Whole,
        })
    }
}

fn greeting(common: &Common, dialect: Dialect) -> Result<Greeting, BenchError> {
    match dialect {
        Dialect::Sync => Ok(Greeting::Sync { token: common.token.as_str().into() }),
        Dialect::Redis => Ok(Greeting::Redis),
        Dialect::Foony if common.transport == Transport::Tcp => {
            let why = "the Foony protocol has no --transport tcp";
            Err(BenchError::Options(why.to_owned()))
        }
        Dialect::Foony if common.key.is_empty() => {
            let why = "the Foony protocol needs --key app.keyId:secret of that server";
            Err(BenchError::Options(why.to_owned()))
        }
        Dialect::Foony => {
            let key = common.key.as_str().into();
            Ok(Greeting::Foony { key, client_id: "s".into() })
        }
    }
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
    let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let findings = match scenario {
        Scenario::Fanout(options) if options.dialect == Dialect::Sync => {
            rooms::fanout(options, server, progress)
        }
        Scenario::Fanout(options) => fanout::fanout(options, server, progress),
        Scenario::Latency(options) if options.dialect == Dialect::Sync => {
            rooms::latency(options, server, progress)
        }
        Scenario::Latency(options) => fanout::latency(options, server, progress),
        Scenario::Presence(options) => match options.joins {
            Some(joiners) => joins::joins(options, joiners, server, progress),
            None => rooms::presence(options, server, progress),
        },
        Scenario::Idle(options) => idle::idle(options, server, progress),
        Scenario::Churn(options) => churn::churn(options, server, progress),
        Scenario::Mixed(options) => mixed::mixed(options, server, progress),
    };
    progress.done();
    let mut findings = findings?;
    findings.note_circumstances(scenario.common(), server);
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

fn check(scenario: &Scenario) -> Result<(), BenchError> {
    if let Scenario::Fanout(options) = scenario {
        return fanout::check(options);
    }
    if let Scenario::Presence(o) = scenario
        && (o.dialect == Dialect::Redis || o.joins.is_some() && o.dialect != Dialect::Sync)
    {
        let why = "presence knows --dialect sync and foony, and --joins sync only";
        return Err(BenchError::Options(why.to_owned()));
    }
    if let Scenario::Churn(o) = scenario
        && (o.pipelined && o.dialect == Dialect::Redis)
    {
        let why = "--pipelined: Redis has no greeting to be pipelined with";
        return Err(BenchError::Options(why.to_owned()));
    }
    if let Scenario::Latency(o) = scenario
        && o.dialect == Dialect::Sync
        && o.publishing.window_counts == WindowCounts::Acks
    {
        let why = "--window-counts acks: the sync wire acknowledges no update";
        return Err(BenchError::Options(why.to_owned()));
    }
    let (count, rate, state_bytes) = match scenario {
        Scenario::Latency(o) => {
            let pace = o.window.map_or(o.rate, |window| window as f64);
            (o.publishers.min(o.watchers), pace, o.state_bytes)
        }
        Scenario::Presence(o) => {
            let count = o.publishers.min(o.members).min(o.joins.unwrap_or(1));
            (count, o.rate.unwrap_or(o.window as f64), o.state_bytes)
        }
        // Checked above.
        Scenario::Fanout(_) => (1, 1.0, STAMP_BYTES),
        Scenario::Idle(o) => (o.connections, 1.0, STAMP_BYTES),
        Scenario::Churn(o) => (o.concurrency, o.rate.unwrap_or(1.0), STAMP_BYTES),
        Scenario::Mixed(o) => (o.polite.saturating_sub(1), o.rate, o.state_bytes),
    };
    let problem = match (count, rate, state_bytes) {
        (0, ..) if scenario.name() == "mixed" => "--polite must be 2 or more".to_owned(),
        (0, ..) => "every count must be 1 or more".to_owned(),
        (_, rate, _) if !(rate.is_finite() && rate > 0.0) => {
            "--rate and --window must be above 0".to_owned()
        }
        (_, _, bytes) if bytes < state_bytes_min(scenario) => {
            format!("--state-bytes must be {} or more", state_bytes_min(scenario))
        }
        _ => return Ok(()),
    };
    Err(BenchError::Options(problem))
}

/// A stamp has to fit, in JSON where the protocol demands that.
fn state_bytes_min(scenario: &Scenario) -> usize {
    match scenario {
        Scenario::Presence(o) if o.dialect == Dialect::Foony => PAYLOAD_BYTES_MIN,
        _ => STAMP_BYTES,
    }
}

/// Share of the asked rate below which a note says that it was not reached.
const RATE_REACHED: f64 = 0.98;

/// As [`fresh_channel`], but short: it travels with every message.
fn fresh_word() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut left = since.as_millis() as u64;
    let mut word = String::new();
    while left > 0 {
        word.extend(char::from_digit((left % 36) as u32, 36));
        left /= 36;
    }
    word
}

/// Part of a channel name that no earlier run on the same server had.
fn fresh_channel() -> Arc<str> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("bench-{}-{}", std::process::id(), since.as_millis()).into()
}

/// Deals things to threads in turn.
fn deal<T>(things: impl Iterator<Item = T>, threads: usize) -> Vec<Vec<T>> {
    let mut hands: Vec<Vec<T>> = (0..threads).map(|_| Vec::new()).collect();
    things.enumerate().for_each(|(index, thing)| hands[index % threads].push(thing));
    hands
}
