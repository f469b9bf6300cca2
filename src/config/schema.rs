//! The keys of the file, with their defaults. Field names are the names in the file, and their doc
//! comments are the text of `docs/configuration.md`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use enumset::EnumSet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::auth::{Capability, METADATA_CLAIM, MetricsAccess};
use crate::ids::Listener;
use crate::limits::Limits;
use crate::policy::{
    AdmitKind, Deliver, Durability, Heartbeat, OnTimeout, Pattern, Policy, SlowConsumer,
    WebhookEvent,
};

/// A configuration; the default is that without a file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
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
    pub webhooks: Webhooks,
    pub sync: SyncWire,
    pub documents: Documents,
    pub limits: Limits,
    pub debug: Debugging,
    pub namespace: Vec<Namespace>,
}

/// The number of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "expected a number of shards or \"auto\"")]
pub enum Shards {
    /// One per CPU that the affinity mask and the cgroup quota allow, counted at start-up.
    #[default]
    Auto,
    /// So many.
    #[serde(untagged)]
    Count(u16),
}

/// `[cores]`: shards and their CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cores {
    /// Shards, each with a thread of its own. With `pin` and without a number, one per pinned CPU.
    pub shards: Shards,
    /// CPU of each shard, each once; without it the kernel schedules shards on the allowed CPUs.
    pub pin: Option<Vec<usize>>,
    /// How long a shard without work polls before it sleeps.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address for WebSocket, REST and long-polling, `IP:PORT`; port 0 takes a free one.
    #[serde(deserialize_with = "address")]
    pub http: SocketAddr,
    /// Address for the sync protocol over raw TCP.
    #[serde(deserialize_with = "address")]
    pub sync_tcp: SocketAddr,
    /// Address for health, metrics, and lists of members.
    #[serde(deserialize_with = "address")]
    pub admin: SocketAddr,
    /// Connections to `http` and `sync_tcp` are accepted when data has arrived, or after a second
    /// without.
    pub defer_accept: bool,
    /// Time between `/readyz` answering 503 and the end of accepting, in which load balancers stop
    /// using the server.
    pub drain_delay_ms: u64,
    /// Listeners whose connections begin with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: Vec<Listener>,
    /// Addresses and networks that may connect to these listeners, at most 256; connections from
    /// others are closed.
    #[schemars(with = "Vec<String>")]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Directory of the store, the reserved serials and the development key, created with mode
    /// 0700; `""` keeps everything in memory. Relative to the working directory.
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Data { dir: "headcount-data".into() }
    }
}

/// `[auth]`: keys, and anonymous sessions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Whether sessions without a token are accepted, on the sync protocol and from peers of the
    /// presence graph. Not set: only if all addresses are loopback and no key is configured.
    pub anonymous: Option<bool>,
    /// App of anonymous sessions. Not set: the app of the first key, else `demo`, the app of the
    /// development key.
    pub anonymous_app: Option<String>,
    /// Origins of web pages that may open anonymous sessions, besides those of this machine, as
    /// `https://app.example`; `"*"` allows all.
    pub origins: Vec<String>,
    /// Claim of tokens with the identity service metadata of the user, a JSON object that peers see
    /// in the presence graph.
    pub identity_claim: IdentityClaim,
    /// API keys. Without any, a development key is made and kept in the data directory.
    pub key: Vec<KeyEntry>,
}

/// The name of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct IdentityClaim(pub String);

impl Default for IdentityClaim {
    fn default() -> Self {
        IdentityClaim(METADATA_CLAIM.to_owned())
    }
}

/// `[admission]`: the hook that decides who may connect, subscribe, be present and publish.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// URL that questions are posted to, `http://HOST:PORT/PATH`. Not set: nothing is asked.
    pub webhook: Option<String>,
    /// Key of the signature of each request, UTF-8. Required with `webhook`.
    pub secret: Option<SecretText>,
    /// What the hook decides; everything else is allowed without it.
    pub kinds: Vec<AdmitKind>,
    /// Time for an answer.
    pub timeout_ms: u64,
    /// What becomes of a request without an answer.
    pub on_timeout: OnTimeout,
    /// Questions of one shard that the hook is asked at the same time; further ones wait, within
    /// `timeout_ms`.
    pub in_flight_max: u32,
    /// Answers that are kept for the time that they say. The oldest are evicted first.
    pub cache_entries_max: u32,
    /// Failures in a row after which the hook is not asked for `breaker_ms`.
    pub breaker_failures: u32,
    /// How long the hook is not asked then; after that one question is tried.
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

/// `[webhooks]`: where events of channels are posted. `webhook_events` of a namespace says which.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// URL that events are posted to, `http://HOST:PORT/PATH`. Not set: nothing is posted.
    pub url: Option<String>,
    /// Key of the signature of each request, UTF-8. Required with `url`.
    pub secret: Option<SecretText>,
    /// Time for an answer. Without one, and with one that is not 2xx, the request is repeated.
    pub timeout_ms: u64,
    /// Events in one request.
    pub batch_events_max: u32,
    /// How long the first event of a request waits for further ones.
    pub batch_ms: u64,
    /// How long a channel is without subscribers and members before `vacated` is posted.
    pub vacated_delay_ms: u64,
    /// Events that wait, on disk with a data directory. Further ones are dropped.
    pub spool_events_max: u32,
    /// Bytes of events that wait.
    pub spool_bytes_max: u64,
}

impl Default for Webhooks {
    fn default() -> Self {
        Webhooks {
            url: None,
            secret: None,
            timeout_ms: 10_000,
            batch_events_max: 100,
            batch_ms: 100,
            vacated_delay_ms: 3_000,
            spool_events_max: 100_000,
            spool_bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// `[admin]`: access to the admin address.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Token that grants access to everything; at most one of this and `token_file`. The variable
    /// `HEADCOUNT_ADMIN_TOKEN` of the environment wins over both.
    pub token: Option<SecretText>,
    /// File with that token, relative to the directory of the configuration file.
    pub token_file: Option<PathBuf>,
    /// Who may read `/metrics`.
    pub metrics: MetricsAccess,
    /// Host names accepted on loopback, besides IP addresses and names without a dot.
    pub hosts: Vec<String>,
}

/// The algorithms of keys (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyAlgorithm {
    Hs256,
    Rs256,
    Es256,
}

/// A secret of the file. `Debug` does not print it.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, Deserialize, JsonSchema)]
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

/// `[[auth.key]]`: an API key. Exactly one of `secret`, `public_key_file` and `jwks_file` is given.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Name of the key, `app.keyId`, at most 128 bytes; the `kid` of a token names the key.
    /// Required.
    pub name: String,
    /// Shared secret, for keys and HS256 tokens, at most 256 bytes.
    pub secret: Option<SecretText>,
    /// Algorithm of tokens, which the key fixes. Required with `public_key_file`; otherwise that of
    /// the key material.
    pub algorithm: Option<KeyAlgorithm>,
    /// Public key in PEM, relative to the directory of the configuration file.
    pub public_key_file: Option<PathBuf>,
    /// JWK set, relative to the directory of the configuration file. The `kid` of a token is that
    /// of a key in it.
    pub jwks_file: Option<PathBuf>,
    /// Required `iss` of tokens. Not set: any.
    pub issuer: Option<String>,
    /// Required `aud` of tokens. Not set: tokens with an audience are refused.
    pub audience: Option<String>,
    /// What the key, and tokens signed with it, may do: operations (`subscribe`, `publish`,
    /// `presence`, `presence_enter`, `presence_subscribe`, `history`, `admin`, `*`) by channel
    /// pattern (`*`, a name, or `prefix:*`), at most 256 patterns. `presence` is to enter and to
    /// see the members; `presence_enter` is to be seen only, `presence_subscribe` to see only. The
    /// names of collections of documents are matched as well.
    #[serde(default = "Capability::all")]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub capability: Capability,
    /// Identity service metadata of the key's users, unless the claim of their token has some; at
    /// most 4,096 bytes as JSON.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub identity_metadata: Option<toml::Table>,
}

/// Layout of sync frames with the 10-byte header, which does not tell the two apart
/// (`protocols/nodedb.md` section 9, decision 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TenByteLayout {
    /// That of nodedb-types 0.4.
    #[serde(rename = "0.4")]
    V04,
    /// That of nodedb-types 0.6, which NodeDB Lite 0.1 uses.
    #[default]
    #[serde(rename = "0.6")]
    V06,
}

/// `[sync]`: options of the sync wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SyncWire {
    /// Layout of frames with the 10-byte header, which does not tell the two apart.
    pub ten_byte_layout: TenByteLayout,
}

/// `[documents]`: the relay of documents between devices on the sync wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Documents {
    /// Where documents are stored. With `none` there is no relay, and pushes are rejected. Not set:
    /// `disk` with a data directory, else `memory`.
    pub durability: Option<Durability>,
    /// Maximum size of the documents of one app, which are in memory while they are in use. Above
    /// it pushes are put off, and devices try again.
    pub bytes_max: u64,
    /// Maximum size of one delta, row or array op, at most `message_bytes_max`. A larger one is
    /// rejected.
    pub delta_bytes_max: u64,
}

impl Default for Documents {
    fn default() -> Self {
        Documents { durability: None, bytes_max: 256 * 1024 * 1024, delta_bytes_max: 1024 * 1024 }
    }
}

/// `[debug]`: options for trials and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Debugging {
    /// Serves the demo page at `/`, whose visitors may use the channels `demo:*`. Not set: to
    /// browsers on this machine, if all addresses are loopback and no key is configured.
    pub demo: Option<bool>,
    /// Serves the WebSocket endpoint `/echo`, for conformance tests.
    pub echo: bool,
}

/// `[[namespace]]`: how channels behave. The first namespace that matches a channel applies; keys
/// that are not set have their defaults.
///
/// Serialized, it has only the keys that are set, without `match`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Channels of the namespace: `*`, a name, or a prefix that ends in `*`. Required.
    #[schemars(with = "String")]
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
    pub occupancy_interval_ms: Option<u64>,
    pub webhook_events: Option<Vec<WebhookEvent>>,
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
            occupancy_interval_ms: self.occupancy_interval_ms.unwrap_or(base.occupancy_interval_ms),
            webhook_events: self
                .webhook_events
                .clone()
                .unwrap_or_else(|| base.webhook_events.clone()),
            deny_ttl_ms: self.deny_ttl_ms.unwrap_or(base.deny_ttl_ms),
        }
    }
}
