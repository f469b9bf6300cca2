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
use super::machine::{self, Machine};
use super::options::{Addresses, Common, Dialect, PresenceOptions, Scenario, WindowCounts};
use super::peer::Peer;
use super::progress::Progress;
use super::report::{RECORD_FORMAT, Report};
use super::signals::Signals;
use super::stamp::STAMP_BYTES;
use super::workers::Run;

/// The server that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub addresses: Addresses,
    /// Process to look at, if it can be seen from here.
    pub pid: Option<u32>,
    /// In place of our server.
    pub peer: Option<Peer>,
}

impl Server {
    /// `channel`: what a WebSocket may name in its URL.
    fn target(
        &self,
        common: &Common,
        dialect: Dialect,
        channel: Option<&str>,
    ) -> Result<Target, BenchError> {
        let refused = |why: &str| BenchError::Options(why.to_owned());
        let http = self.addresses.http.ok_or_else(|| refused("this needs a server's --http ADDR"));
        let (address, transport, greeting) = match (dialect, common.transport) {
            (Dialect::Sync, transport) => {
                let why = "--transport tcp needs a server's --sync-tcp ADDR";
                let address = match transport {
                    Transport::Tcp => self.addresses.sync_tcp.ok_or_else(|| refused(why))?,
                    Transport::Ws => http?,
                };
                let token = common.token.as_deref().unwrap_or_default().into();
                (address, transport, Greeting::Sync { token })
            }
            (Dialect::Foony, Transport::Tcp) => {
                return Err(refused("the Foony protocol has no --transport tcp"));
            }
            (Dialect::Foony, transport) => {
                let why = "the Foony protocol needs --key app.keyId:secret of that server";
                let key = common.key.as_deref().ok_or_else(|| refused(why))?.into();
                (http?, transport, Greeting::Foony { key, client_id: "s".into() })
            }
            (Dialect::Peer, _) => {
                let why = "no protocol of a peer is known to this program";
                let Peer { address, protocol } = self.peer.ok_or_else(|| refused(why))?;
                (address, Transport::Tcp, Greeting::Peer(protocol))
            }
        };
        let path = channel.map_or("/".to_owned(), |channel| format!("/?channel={channel}"));
        Ok(Target::new(address, transport, &path, greeting))
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
    let common = &scenario.base().common;
    let signals = Arc::new(Signals::new(common.threads(), scenario.shape().feeds()));
    let run = Run { common, server, progress, signals };
    let findings = match scenario {
        Scenario::Idle(o) => idle::idle(o, &run),
        Scenario::Churn(o) => churn::churn(o, &run),
        Scenario::Presence(o @ PresenceOptions { joins: Some(joiners), .. }) => {
            joins::joins(o, *joiners, &run)
        }
        _ => traffic::traffic(scenario, &run),
    }?;
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

fn check(scenario: &Scenario) -> Result<(), BenchError> {
    let (o, dialect) = (scenario.shape(), scenario.base().dialect);
    let pace = o.rate.unwrap_or(o.window as f64);
    let size = if let Scenario::Fanout(_) = scenario { "--payload" } else { "--state-bytes" };
    let counts_acks = o.publishing.window_counts == WindowCounts::Acks;
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
        Scenario::Mixed(o) if o.polite < 2 => "--polite must be 2 or more".to_owned(),
        _ if o.channels.min(o.subscribers).min(o.publishers) == 0 => {
            "every count must be 1 or more".to_owned()
        }
        _ if !(pace.is_finite() && pace > 0.0) => "--rate and --window must be above 0".to_owned(),
        _ if o.payload < STAMP_BYTES => format!("{size} must be {STAMP_BYTES} or more"),
        _ => return Ok(()),
    };
    Err(BenchError::Options(problem))
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Names of channels that no earlier run on the same server had. They are short: some protocols
/// send them with every message.
fn fresh_channels(count: usize) -> Vec<Arc<str>> {
    let run = since_1970().as_millis() as u32;
    (0..count).map(|index| format!("{run:08x}-{index}").into()).collect()
}
