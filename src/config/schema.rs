//! The keys of the file, with their defaults. Field names are the names in the file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use enumset::EnumSet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::auth::{Capability, METADATA_CLAIM, MetricsAccess};
use crate::ids::Listener;
use crate::limits::Limits;
use crate::policy::{
    AdmitKind, Deliver, Durability, Heartbeat, OnTimeout, Pattern, Policy, SlowConsumer,
};

/// A configuration; the default is that without a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file that was read; `None` for the built-in defaults.
    #[serde(skip)]
    pub origin: Option<PathBuf>,
    pub cores: Cores,
    pub listen: Listen,
    pub data: Data,
    pub auth: Auth,
    pub admin: Admin,
    pub admission: Admission,
    pub sync: SyncWire,
    pub documents: Documents,
    pub limits: Limits,
    pub debug: Debugging,
    pub namespace: Vec<Namespace>,
}

/// The number of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "expected a number of shards or \"auto\"")]
pub enum Shards {
    /// One per CPU that the affinity mask and the cgroup quota allow; resolved at start-up.
    #[default]
    Auto,
    #[serde(untagged)]
    Count(u16),
}

/// `[cores]`: shards and their CPUs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cores {
    pub shards: Shards,
    /// CPU of each shard; by default the kernel schedules shards on the allowed CPUs.
    pub pin: Option<Vec<usize>>,
    /// Busy-poll before parking, microseconds.
    pub spin_us: u64,
}

impl Cores {
    /// The configured number of shards: with `pin` and no number, one per pinned CPU.
    pub fn shards(&self) -> Shards {
        match (&self.pin, self.shards) {
            (Some(cpus), Shards::Auto) => {
                u16::try_from(cpus.len()).map_or(Shards::Auto, Shards::Count)
            }
            (_, shards) => shards,
        }
    }
}

/// `[listen]`: addresses, and load balancers in front of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    #[serde(deserialize_with = "address")]
    pub http: SocketAddr,
    #[serde(deserialize_with = "address")]
    pub sync_tcp: SocketAddr,
    #[serde(deserialize_with = "address")]
    pub admin: SocketAddr,
    /// Connections to `http` and `sync_tcp` are accepted only when data has arrived.
    pub defer_accept: bool,
    /// Time between `/readyz` answering 503 and the listeners closing, milliseconds: load balancers
    /// stop using the server meanwhile.
    pub drain_delay_ms: u64,
    /// Listeners whose connections begin with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: Vec<Listener>,
    /// Addresses and networks that may connect to these listeners; other connections are closed.
    #[serde(deserialize_with = "networks", serialize_with = "network_texts")]
    pub proxy_trusted: Vec<IpNet>,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Listen {
            http: loopback(7400),
            sync_tcp: loopback(7401),
            admin: loopback(7402),
            defer_accept: false,
            drain_delay_ms: 0,
            proxy_protocol: Vec::new(),
            proxy_trusted: vec![
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
                IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
            ],
        }
    }
}

impl Listen {
    /// Every address with its key.
    pub fn all(&self) -> [(&'static str, SocketAddr); 3] {
        [("http", self.http), ("sync_tcp", self.sync_tcp), ("admin", self.admin)]
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        de::Error::custom(format_args!(
            "`{text}` is not an IP address and port, write it as 127.0.0.1:7400 or [::1]:7400"
        ))
    })
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| network(text).map_err(de::Error::custom)).collect()
}

fn network_texts<S: Serializer>(networks: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(ToString::to_string))
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        format!(
            "`{text}` is neither an IP address nor a network, write it as 10.0.0.7 or 10.0.0.0/8"
        )
    })
}

/// `[data]`: where durable data is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Empty: keep everything in memory; see [`Config::data_dir`].
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Data { dir: "headcount-data".into() }
    }
}

/// `[auth]`: keys, and anonymous sessions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Default: see [`Config::anonymous`].
    pub anonymous: Option<bool>,
    /// Default: see [`Config::anonymous_app`].
    pub anonymous_app: Option<String>,
    /// Origins of web pages that may open anonymous sessions, besides those of this machine.
    pub origins: Vec<String>,
    /// Claim of tokens with what the operator says of the user; a JSON object.
    pub identity_claim: IdentityClaim,
    pub key: Vec<KeyEntry>,
}

/// The name of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdentityClaim(pub String);

impl Default for IdentityClaim {
    fn default() -> Self {
        IdentityClaim(METADATA_CLAIM.to_owned())
    }
}

/// `[admission]`: the hook that decides who may connect, subscribe, be present and publish.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// URL that questions are posted to; `http` only.
    pub webhook: Option<String>,
    /// Key of the signature of each request, UTF-8.
    pub secret: Option<SecretText>,
    /// What the hook decides; everything else is allowed without it.
    pub kinds: Vec<AdmitKind>,
    /// Time for an answer.
    pub timeout_ms: u64,
    /// What becomes of a request without an answer.
    pub on_timeout: OnTimeout,
    /// Questions of one shard that the hook is asked at the same time; further ones wait.
    pub in_flight_max: u32,
    /// Answers that are kept for the time that they say. The oldest are evicted first.
    pub cache_entries_max: u32,
    /// Failures in a row after which the hook is not asked for a while.
    pub breaker_failures: u32,
    /// How long it is not asked then.
    pub breaker_ms: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            webhook: None,
            secret: None,
            kinds: EnumSet::all().iter().collect(),
            timeout_ms: 10_000,
            on_timeout: OnTimeout::Deny,
            in_flight_max: 16,
            cache_entries_max: 10_000,
            breaker_failures: 10,
            breaker_ms: 5_000,
        }
    }
}

/// Access to the admin address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Token that grants access to everything; at most one of this and `token_file`.
    pub token: Option<SecretText>,
    /// Relative to the directory of the configuration file.
    pub token_file: Option<PathBuf>,
    pub metrics: MetricsAccess,
    /// Host names accepted on loopback, besides IP addresses and names without a dot.
    pub hosts: Vec<String>,
}

/// The algorithms of keys (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyAlgorithm {
    Hs256,
    Rs256,
    Es256,
}

/// A secret of the file. `Debug` does not print it.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, Deserialize)]
#[debug("SecretText(..)")]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps a secret.
    pub fn new(text: String) -> Self {
        SecretText(text)
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// `[[auth.key]]`: exactly one of `secret`, `public_key_file` and `jwks_file` is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    pub name: String,
    pub secret: Option<SecretText>,
    pub algorithm: Option<KeyAlgorithm>,
    /// Relative to the directory of the configuration file, as is `jwks_file`.
    pub public_key_file: Option<PathBuf>,
    pub jwks_file: Option<PathBuf>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    #[serde(default = "Capability::all")]
    pub capability: Capability,
    /// What the operator says of its users, unless a claim of their token does.
    pub identity_metadata: Option<toml::Table>,
}

/// Layout of sync frames with the 10-byte header, which does not tell the two apart
/// (`protocols/nodedb.md` section 9, decision 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TenByteLayout {
    #[serde(rename = "0.4")]
    V04,
    #[default]
    #[serde(rename = "0.6")]
    V06,
}

/// `[sync]`: options of the sync wire.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncWire {
    pub ten_byte_layout: TenByteLayout,
}

/// `[documents]`: the relay of documents between devices on the sync wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Documents {
    /// `none`: there is no relay. Default: see [`Config::relay`].
    pub durability: Option<Durability>,
    /// Bytes of documents of one app, which are in memory while they are in use.
    pub bytes_max: u64,
    /// Bytes of one delta, row or array op.
    pub delta_bytes_max: u64,
}

impl Default for Documents {
    fn default() -> Self {
        Documents { durability: None, bytes_max: 256 * 1024 * 1024, delta_bytes_max: 1024 * 1024 }
    }
}

/// `[debug]`: options for trials and tests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Debugging {
    /// Serves the demo page, which lets every visitor use the channels `demo:*`. Default: see
    /// [`Config::demo`].
    pub demo: Option<bool>,
    /// Enables the echo endpoint `/echo` for conformance tests.
    pub echo: bool,
}

/// `[[namespace]]`: keys that are not set are inherited from the defaults. Serialized, it has only
/// the keys that are set, without `match`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    #[serde(rename = "match", deserialize_with = "pattern", skip_serializing)]
    pub pattern: Pattern,
    pub presence_ttl_ms: Option<u64>,
    pub presence_grace_ms: Option<u64>,
    pub presence_interval_ms: Option<u64>,
    pub presence_heartbeat: Option<Heartbeat>,
    pub presence_snapshot_on_join: Option<bool>,
    pub history_messages: Option<u32>,
    pub history_age_s: Option<u64>,
    pub history_bytes: Option<u64>,
    pub durability: Option<Durability>,
    pub deliver: Option<Deliver>,
    pub slow_consumer: Option<SlowConsumer>,
    pub presence_history_s: Option<u64>,
    pub graph_max_peers: Option<u32>,
    pub peer_metadata_max_bytes: Option<u32>,
    pub deny_ttl_ms: Option<u64>,
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| de::Error::custom(format_args!("`{text}` is no pattern, {error}")))
}

impl Namespace {
    /// The policy of its channels: `base` with the keys that are set.
    pub(super) fn policy(&self, base: &Policy) -> Policy {
        Policy {
            presence_ttl_ms: self.presence_ttl_ms.unwrap_or(base.presence_ttl_ms),
            presence_grace_ms: self.presence_grace_ms.unwrap_or(base.presence_grace_ms),
            presence_interval_ms: self.presence_interval_ms.unwrap_or(base.presence_interval_ms),
            heartbeat: self.presence_heartbeat.unwrap_or(base.heartbeat),
            snapshot_on_join: self.presence_snapshot_on_join.unwrap_or(base.snapshot_on_join),
            history_messages: self.history_messages.unwrap_or(base.history_messages),
            history_age_s: self.history_age_s.unwrap_or(base.history_age_s),
            history_bytes: self.history_bytes.unwrap_or(base.history_bytes),
            durability: self.durability.unwrap_or(base.durability),
            deliver: self.deliver.unwrap_or(base.deliver),
            slow_consumer: self.slow_consumer.unwrap_or(base.slow_consumer),
            presence_history_s: self.presence_history_s.unwrap_or(base.presence_history_s),
            presence_log: None,
            graph_max_peers: self.graph_max_peers.unwrap_or(base.graph_max_peers),
            peer_metadata_max_bytes: self
                .peer_metadata_max_bytes
                .unwrap_or(base.peer_metadata_max_bytes),
            deny_ttl_ms: self.deny_ttl_ms.unwrap_or(base.deny_ttl_ms),
        }
    }
}
