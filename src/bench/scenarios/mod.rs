//! What is measured, scenario by scenario, and how a report is made of it.

mod churn;
mod findings;
mod idle;
mod joins;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::client::{Greeting, Target, Transport};
use super::error::BenchError;
use super::launch::Addresses;
use super::machine::{self, Machine};
use super::options::{
    ChannelHint, Common, Dialect, FanoutOptions, PresenceOptions, Scenario, WindowCounts,
};
use super::peer::Protocol;
use super::progress::Progress;
use super::report::{RECORD_FORMAT, Report};
use super::signals::Signals;
use super::stamp::{JSON_STAMP_BYTES, STAMP_BYTES};
use super::traffic::Content;
use super::workers::Run;

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
            (Dialect::Sync, _) => {
                Ok(Greeting::Sync { token: common.token.as_deref().unwrap_or_default().into() })
            }
            (Dialect::Peer, Some(protocol)) => Ok(Greeting::Peer(protocol)),
            (Dialect::Peer, None) => refuse("no protocol of a peer is known to this program"),
            (Dialect::Foony, _) if common.transport == Transport::Tcp => {
                refuse("the Foony protocol has no --transport tcp")
            }
            (Dialect::Foony, _) => match &common.key {
                Some(key) => {
                    Ok(Greeting::Foony { key: key.as_str().into(), client_id: "s".into() })
                }
                None => refuse("the Foony protocol needs --key app.keyId:secret of that server"),
            },
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
    let taken_at = since_1970();
    let (common, shape) = (&scenario.base().common, scenario.shape());
    let feeds = shape.as_ref().map_or(0, FanoutOptions::feeds);
    let signals = Arc::new(Signals::new(common.threads(), feeds));
    let run = Run { common, server, progress, signals };
    let findings = match (scenario, &shape) {
        (Scenario::Idle(o), _) => idle::idle(o, &run),
        (Scenario::Churn(o), _) => churn::churn(o, &run),
        (Scenario::Presence(o @ PresenceOptions { joins: Some(joiners), .. }), _) => {
            joins::joins(o, *joiners, &run)
        }
        (Scenario::Presence(_), Some(shape)) => {
            traffic::traffic(shape, Content::States, None, &run)
        }
        (other, Some(shape)) => {
            let is_presence = shape.base.dialect == Dialect::Sync;
            let content = if is_presence { Content::States } else { Content::Messages };
            let mixed = if let Scenario::Mixed(o) = other { Some(o) } else { None };
            traffic::traffic(shape, content, mixed, &run)
        }
        (_, None) => unreachable!("a scenario without a shape has a function of its own"),
    };
    progress.done();
    let findings = findings?;
    Ok(Report {
        format: RECORD_FORMAT,
        scenario: scenario.clone(),
        taken_at_unix_s: taken_at.as_secs(),
        measured_s: (findings.window.seconds * 1e3).round() / 1e3,
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

/// Smallest of the counts, rate or window, size of what is published.
fn extent(scenario: &Scenario) -> (usize, f64, usize) {
    let joins = match scenario {
        Scenario::Idle(o) => return (o.connections, 1.0, usize::MAX),
        Scenario::Churn(o) => return (o.concurrency, o.rate.unwrap_or(1.0), usize::MAX),
        Scenario::Mixed(o) => return (o.polite.saturating_sub(1), o.rate, o.state_bytes),
        Scenario::Presence(o) => o.joins.unwrap_or(1),
        Scenario::Latency(_) | Scenario::Fanout(_) => 1,
    };
    let shape = scenario.shape().unwrap_or_default();
    let count = shape.channels.min(shape.subscribers).min(shape.publishers).min(joins);
    (count, shape.rate.unwrap_or(shape.window as f64), shape.payload)
}

fn check(scenario: &Scenario) -> Result<(), BenchError> {
    let (count, pace, bytes) = extent(scenario);
    let dialect = scenario.base().dialect;
    // A stamp has to fit, in JSON where the protocol demands that.
    let bytes_min = if dialect == Dialect::Sync { STAMP_BYTES } else { JSON_STAMP_BYTES };
    let size = if let Scenario::Fanout(_) = scenario { "--payload" } else { "--state-bytes" };
    let shape = scenario.shape();
    let counts_acks = shape.is_some_and(|o| o.publishing.window_counts == WindowCounts::Acks);
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

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Names of channels that no earlier run on the same server had.
fn fresh_channels(count: usize) -> Vec<Arc<str>> {
    let run = format!("bench-{}-{}", std::process::id(), since_1970().as_millis());
    (0..count).map(|index| format!("{run}-{index}").into()).collect()
}

/// As [`fresh_channels`], but short: they travel with every message.
fn short_channels(count: usize) -> Vec<Arc<str>> {
    let (mut left, mut run) = (since_1970().as_millis() as u64, String::new());
    while left > 0 {
        run.extend(char::from_digit((left % 36) as u32, 36));
        left /= 36;
    }
    (0..count).map(|index| format!("{run}-{index}").into()).collect()
}
