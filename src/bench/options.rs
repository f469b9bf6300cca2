//! Options of each scenario. The same types are the command line, the library's arguments
//! and the part of a record that says what was run.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::client::Transport;
use super::engine::Wait;
pub use super::time::Span;
pub use super::traffic::{PublishForm, Spread, WindowCounts};
use crate::policy::Durability;

/// What clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Presence updates on the sync wire.
    #[default]
    Sync,
    /// Messages on the Foony protocol.
    Foony,
    /// Messages on the protocol of a peer; see [`peer`](super::peer). Only programs under
    /// `benches/peers` know one, and the first was Redis: records keep its name.
    #[value(skip)]
    #[serde(rename = "redis")]
    Peer,
}

/// What flooders send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloodKind {
    /// Pings, each of which is answered.
    Pings,
    /// Updates to a channel that all flooders share.
    Updates,
}

/// Options of every scenario.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// How sync frames travel.
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// JWT for every session; anonymous without it.
    #[arg(long, env = "HEADCOUNT_TOKEN", hide_env_values = true)]
    #[serde(skip)]
    pub token: Option<String>,
    /// API key, app.keyId:secret, of a running server; a server of our own gets a fresh one.
    #[arg(long, env = "HEADCOUNT_KEY", hide_env_values = true)]
    #[serde(skip)]
    pub key: Option<String>,
    /// Process whose CPU and memory are measured, when the server was not started by this command.
    #[arg(long)]
    #[serde(skip)]
    pub pid: Option<u32>,
    /// CPUs of the load generator, one thread each, as in 1,2 [default: one thread, not pinned].
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    pub client_cpus: Vec<usize>,
    /// CPUs of the server that this command starts, one shard each [default: one shard per CPU].
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    pub server_cpus: Vec<usize>,
    /// What the load generator does while nothing is due.
    #[arg(long, value_enum, default_value = "spin")]
    pub wait: Wait,
    #[command(flatten)]
    #[serde(skip)]
    pub place: Place,
}

/// Where a server listens.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP address of a running server, for WebSockets [default: start one]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Sync TCP address of a running server, for --transport tcp [default: start one]
    #[arg(long, value_name = "ADDR")]
    pub sync_tcp: Option<SocketAddr>,
}

/// The server to measure, and what to keep.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    #[command(flatten)]
    pub addresses: Addresses,
    /// Configuration of the server that is started
    #[arg(long, value_name = "FILE", conflicts_with_all = ["http", "sync_tcp"])]
    pub config: Option<PathBuf>,
    /// Write the whole result as JSON, replacing the file
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Draw delay against percentile, or what --windows asks for, replacing the file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

impl Common {
    /// Threads of the load generator.
    pub fn threads(&self) -> usize {
        self.client_cpus.len().max(1)
    }
}

/// When is measured.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Time that is measured.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub duration: Span,
    /// Time before that.
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub warm_up: Span,
}

/// What, when and by whom: options of every scenario.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// What clients speak: presence on the sync wire, or messages, and changes of presence, on the
    /// Foony protocol.
    #[arg(long, value_enum, default_value = "sync")]
    #[serde(default)]
    pub dialect: Dialect,
    #[command(flatten)]
    #[serde(flatten)]
    pub time: Time,
    #[command(flatten)]
    pub common: Common,
}

/// How messages are published.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publishing {
    /// When a publish of a window is done.
    #[arg(long, value_enum, default_value = "deliveries")]
    #[serde(default)]
    pub window_counts: WindowCounts,
    /// Form of a publish on the Foony protocol.
    #[arg(long, value_enum, default_value = "sdk")]
    #[serde(default)]
    pub publish_form: PublishForm,
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyOptions {
    /// Members that publish.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub publishers: usize,
    /// Members that only watch. Publishers receive each other's updates, too.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub watchers: usize,
    /// Updates per second and publisher, sent on schedule whatever the server does.
    #[arg(long, default_value_t = 1000.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// Updates in flight per publisher, as many as possible, instead of a rate.
    #[arg(long, value_name = "UPDATES", conflicts_with = "rate")]
    pub window: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub publishing: Publishing,
    /// Size of a published state in bytes, 34 or more.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub state_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub base: Base,
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[command(mut_arg("dialect", |dialect| dialect.default_value("foony")))]
pub struct FanoutOptions {
    /// Channels.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub channels: usize,
    /// Subscribers of each channel, one connection each.
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    pub subscribers: usize,
    /// Connections that publish.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub publishers: usize,
    /// Publishes in flight per publisher: sent, and not yet done by --window-counts.
    #[arg(long, default_value_t = 32, value_name = "PUBLISHES")]
    pub window: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub publishing: Publishing,
    /// Several windows, as in 1,2,4: one run each, against a fresh server where we start it.
    /// --record keeps a file per window, --plot draws deliveries against the window.
    #[arg(long, value_name = "PUBLISHES", value_delimiter = ',', conflicts_with = "window")]
    #[serde(skip)]
    pub windows: Vec<u64>,
    /// Publishes per second and publisher, sent on schedule whatever the server does, instead of a
    /// window.
    #[arg(long, value_name = "PER_SECOND", conflicts_with_all = ["window", "windows"])]
    pub rate: Option<f64>,
    /// Size of a payload in bytes, 34 or more.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub payload: usize,
    /// Where the server that is started stores messages [default: as configured]. With disk, an
    /// acknowledgement comes after an fsync; the files are in the current directory.
    #[arg(long, value_enum, conflicts_with_all = ["http", "sync_tcp"])]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Where publishers publish when there are more channels than publishers.
    #[arg(long, value_enum, default_value = "all")]
    pub spread: Spread,
    #[command(flatten)]
    #[serde(flatten)]
    pub base: Base,
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PresenceOptions {
    /// Members that publish.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub publishers: usize,
    /// Members that only watch.
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub members: usize,
    /// Updates per publisher that not every member has seen.
    #[arg(long, default_value_t = 2, value_name = "UPDATES")]
    pub window: u64,
    /// Updates per second and publisher, sent on schedule whatever the server does, instead of a
    /// window.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "window")]
    pub rate: Option<f64>,
    /// Instead of updates: members that join, evenly over --within, while the others watch. The run
    /// ends when every member has seen every other one, or --duration after the last join.
    #[arg(
        long,
        value_name = "COUNT",
        conflicts_with_all = ["publishers", "window", "rate", "warm_up"]
    )]
    pub joins: Option<usize>,
    /// Time from the first to the last join.
    #[arg(long, default_value = "1s", value_name = "TIME", requires = "joins")]
    pub within: Span,
    /// Size of a published state in bytes, 34 or more.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub state_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub base: Base,
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[command(mut_arg("warm_up", |warm_up| warm_up.default_value("2s")))]
pub struct IdleOptions {
    /// Connections, each a member or a subscriber of one channel. Needs as many open files here and
    /// there.
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    pub connections: usize,
    /// Channels that they are spread over [default: for members a tenth of the connections, for
    /// subscribers one each].
    #[arg(long, value_name = "COUNT")]
    pub channels: Option<usize>,
    /// Size of a member's state in bytes.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub state_bytes: usize,
    /// Time between two pings of a connection, 0s for none. Members that send nothing expire after
    /// presence_ttl_ms, 30 s by default.
    #[arg(long, default_value = "0s", value_name = "TIME")]
    pub heartbeat: Span,
    #[command(flatten)]
    #[serde(flatten)]
    pub base: Base,
}

impl IdleOptions {
    pub fn channel_count(&self) -> usize {
        let default = match self.base.dialect {
            Dialect::Sync => self.connections / 10,
            Dialect::Foony | Dialect::Peer => self.connections,
        };
        self.channels.unwrap_or(default).max(1)
    }
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChurnOptions {
    /// Connections at once, each in a channel of its own.
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    pub concurrency: usize,
    /// Connections per second, on schedule as long as fewer than --concurrency are there, instead
    /// of as many as possible.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// How a connection ends.
    #[arg(long, value_enum, default_value = "goodbye")]
    #[serde(default)]
    pub leave: Leave,
    /// Send the request to enter or subscribe right behind the credentials, in one write, instead
    /// of after the server has accepted them: a round trip less than any published SDK needs.
    #[arg(long)]
    #[serde(default)]
    pub pipelined: bool,
    /// Size of a member's state in bytes.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub state_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub base: Base,
}

/// How a client goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leave {
    /// It closes as its protocol asks for, and waits until the server has closed the connection.
    #[default]
    Goodbye,
    /// It closes its socket, as clients whose process ends do.
    HangUp,
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixedOptions {
    /// Polite members of one channel; each updates and pings. On the Foony protocol, as many
    /// publishers as subscribers; updates are messages.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub polite: usize,
    /// Updates, and as many pings, per second and polite member.
    #[arg(long, default_value_t = 20.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// Clients that send as fast as the server takes it; 0 shows the polite ones alone.
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    pub flooders: usize,
    /// What flooders send.
    #[arg(long, value_enum, default_value = "pings")]
    pub flood: FloodKind,
    /// Size of a published state in bytes, 34 or more.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub state_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub base: Base,
}

/// As on a command line without arguments.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Unchanged<A: Args> {
    #[command(flatten)]
    options: A,
}

macro_rules! default_as_on_the_command_line {
    ($($options:ty),*) => {
        $(impl Default for $options {
            fn default() -> Self {
                Unchanged::parse_from([""; 0]).options
            }
        })*
    };
}

default_as_on_the_command_line! {
    LatencyOptions, FanoutOptions, PresenceOptions, IdleOptions, ChurnOptions, MixedOptions
}

/// What is run.
#[derive(Subcommand, Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
#[serde(tag = "scenario", content = "options", rename_all = "lowercase")]
pub enum Scenario {
    /// Delay of presence updates sent at a fixed rate, from when each should have been sent
    #[command(after_help = "Example: headcount bench latency --watchers 100 --plot delay.svg")]
    Latency(LatencyOptions),
    /// Messages per second that reach all subscribers of their channels
    #[command(after_help = "Example: headcount bench fanout --subscribers 1000 --window 256 \
                            --server-cpus 0 --client-cpus 1")]
    Fanout(FanoutOptions),
    /// Most presence updates per second that every member of a channel sees
    #[command(after_help = "Example: headcount bench presence --members 1000 --window 32")]
    Presence(PresenceOptions),
    /// Memory and CPU of connections that do nothing
    #[command(after_help = "Example: headcount bench idle --connections 10000")]
    Idle(IdleOptions),
    /// Connections per second that connect, greet, enter a channel and close
    #[command(after_help = "Example: headcount bench churn --concurrency 200 --transport tcp")]
    Churn(ChurnOptions),
    /// Delays of polite clients beside clients that send as fast as they can
    #[command(after_help = "Example: headcount bench mixed --flooders 2 --flood updates")]
    Mixed(MixedOptions),
}

macro_rules! of_each {
    ($scenario:expr, $options:ident => $value:expr) => {
        match $scenario {
            Scenario::Latency($options) => $value,
            Scenario::Fanout($options) => $value,
            Scenario::Presence($options) => $value,
            Scenario::Idle($options) => $value,
            Scenario::Churn($options) => $value,
            Scenario::Mixed($options) => $value,
        }
    };
}

impl Scenario {
    pub fn name(&self) -> &'static str {
        self.into()
    }

    pub fn base(&self) -> &Base {
        of_each!(self, options => &options.base)
    }

    pub fn base_mut(&mut self) -> &mut Base {
        of_each!(self, options => &mut options.base)
    }

    /// How many publish what, how fast, to how many; connections that only stay or come and go are
    /// the subscribers.
    pub fn shape(&self) -> FanoutOptions {
        let any = FanoutOptions { base: self.base().clone(), ..FanoutOptions::default() };
        match self {
            Scenario::Fanout(o) => o.clone(),
            Scenario::Latency(o) => FanoutOptions {
                subscribers: o.watchers,
                publishers: o.publishers,
                rate: o.window.is_none().then_some(o.rate),
                window: o.window.unwrap_or(1),
                payload: o.state_bytes,
                publishing: o.publishing,
                ..any
            },
            Scenario::Presence(o) => FanoutOptions {
                subscribers: o.joins.map_or(o.members, |joins| joins.min(o.members)),
                publishers: o.publishers,
                rate: o.rate,
                window: o.window,
                payload: o.state_bytes,
                ..any
            },
            Scenario::Mixed(o) => FanoutOptions {
                subscribers: o.polite,
                publishers: o.polite,
                rate: Some(o.rate),
                payload: o.state_bytes,
                ..any
            },
            Scenario::Idle(o) => FanoutOptions { subscribers: o.connections, ..any },
            Scenario::Churn(o) => FanoutOptions { subscribers: o.concurrency, rate: o.rate, ..any },
        }
    }

    /// Its own options, in words.
    pub fn summary(&self) -> String {
        let record = serde_json::to_value(self).unwrap_or_default();
        let own = record["options"].as_object().into_iter().flatten();
        let shown = own.filter(|(_, value)| !value.is_null() && !value.is_object());
        shown.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    }
}

impl FanoutOptions {
    /// Of a closed loop.
    pub fn window(&self) -> Option<u64> {
        self.rate.is_none().then_some(self.window)
    }

    /// See [`Signals::floor`](super::signals::Signals::floor).
    pub fn feeds(&self) -> usize {
        self.publishers.max(self.channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_its_record() {
        let scenarios = [
            Scenario::Latency(LatencyOptions::default()),
            Scenario::Fanout(FanoutOptions::default()),
            Scenario::Presence(PresenceOptions::default()),
            Scenario::Idle(IdleOptions::default()),
            Scenario::Churn(ChurnOptions::default()),
            Scenario::Mixed(MixedOptions::default()),
        ];
        for scenario in scenarios {
            let json = serde_json::to_value(&scenario).unwrap();
            assert_eq!(json["scenario"], scenario.name());
            assert_eq!(serde_json::from_value::<Scenario>(json).unwrap(), scenario);
        }
    }

    #[test]
    fn a_token_is_not_recorded() {
        let mut options = LatencyOptions::default();
        options.base.common.token = Some("secret".to_owned());
        options.base.common.key = Some("a.b:secret".to_owned());
        assert!(!serde_json::to_string(&options).unwrap().contains("secret"));
    }
}
