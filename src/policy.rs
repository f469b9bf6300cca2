//! Policies of namespaces: how channels behave, selected by channel name. Values only.

use std::str::FromStr;
use std::sync::Arc;

use clap::ValueEnum;
use derive_more::Display;
use enumset::EnumSetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use thiserror::Error;

use crate::ids::presence_logged;
use crate::limits::CHANNEL_NAME_BYTES_MAX;

/// What the admission hook of a server decides.
#[derive(Debug, EnumSetType, Hash, IntoStaticStr, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum AdmitKind {
    /// A client that has shown a valid credential begins a session.
    Connect,
    /// A session begins to receive a channel's messages or members, or reads its history.
    Subscribe,
    /// A session becomes a member of a channel.
    Presence,
    /// A session publishes to a channel.
    Publish,
}

/// What becomes of a request when the admission hook gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It is denied.
    #[default]
    Deny,
    /// It is carried out.
    Allow,
}

/// Events of channels that webhooks are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WebhookEvent {
    /// A member has entered, updated its state, or left.
    Presence,
    /// The channel has its first subscriber or member, or has had none for `vacated_delay_ms`.
    Occupancy,
    /// A message was published.
    Messages,
}

/// What counts as a heartbeat of a member (`protocols/nodedb.md` section 9, decision 12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Heartbeat {
    /// Any byte from its connection, including a WebSocket pong. The server pings before the time
    /// to live expires, so a peer that answers never expires.
    #[default]
    #[serde(rename = "transport")]
    Transport,
    /// Any valid frame of the member's session.
    #[serde(rename = "any")]
    AnyFrame,
    /// Only an update of its presence, the stricter rule of the original server.
    #[serde(rename = "update")]
    Update,
}

/// Where the messages of a channel are stored, and therefore what an acknowledgement guarantees.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Not stored.
    None,
    /// Stored in memory and lost on restart.
    #[default]
    Memory,
    /// Acknowledged after they are on disk.
    Disk,
}

/// When subscribers receive a message that is to be stored on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deliver {
    /// Once it is on disk, so that nobody sees what a crash takes back.
    #[default]
    AfterDurable,
    /// At once. Only its acknowledgement waits for the disk.
    BeforeDurable,
}

/// What happens to a subscriber whose send queue is full of messages that cannot be conflated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SlowConsumer {
    /// It is sent the messages later, as far as they are still stored; else it sees the gap.
    #[default]
    Gap,
    /// Its connection is closed as slow.
    Close,
}

/// How often in the time that presence history is kept everyone is listed.
pub const LISTS_PER_HISTORY: u64 = 8;

/// Events and bytes of them that are kept of one channel, whatever its age limit.
const PRESENCE_LOG_MESSAGES: u32 = 1_000_000;
const PRESENCE_LOG_BYTES: u64 = 256 * 1024 * 1024;

/// How one channel behaves. Serialized as the keys of `[[namespace]]`, whose text in
/// `docs/configuration.md` the doc comments of its fields are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Policy {
    /// Time without a heartbeat after which a member leaves, milliseconds. The default is twice the
    /// longest keep-alive period of known clients (NodeDB Lite: 30 s).
    pub presence_ttl_ms: u64,
    /// Grace after an abrupt loss in which a member may return without a visible leave,
    /// milliseconds. A clean close has none.
    pub presence_grace_ms: u64,
    /// Minimum interval between presence frames of one channel, milliseconds; 0 sends at once.
    pub presence_interval_ms: u64,
    /// What keeps a member alive.
    #[serde(rename = "presence_heartbeat")]
    pub heartbeat: Heartbeat,
    /// Whether a new member receives the current set of members.
    #[serde(rename = "presence_snapshot_on_join")]
    pub snapshot_on_join: bool,
    /// Messages stored of a channel, for history and resume. The oldest are evicted first.
    pub history_messages: u32,
    /// Age at which a message is evicted, seconds.
    pub history_age_s: u64,
    /// Bytes of stored messages of a channel. The oldest are evicted first.
    pub history_bytes: u64,
    /// Where messages are stored, and therefore what an acknowledgement guarantees. With `none`
    /// they are delivered to subscribers only.
    pub durability: Durability,
    /// When subscribers receive a message that is to be stored on disk. Only with
    /// `durability = "disk"`.
    pub deliver: Deliver,
    /// What happens to a subscriber whose send queue is full of messages.
    pub slow_consumer: SlowConsumer,
    /// Peers that a presence graph has at most. The largest one of all namespaces counts.
    pub graph_max_peers: u32,
    /// Largest metadata of a member that is a peer of the presence graph, bytes. The Rust client
    /// has 4,096 at most.
    pub peer_metadata_max_bytes: u32,
    /// How long events of members are kept, to answer who was present at a time; 0: not at all. On
    /// disk with a data directory.
    pub presence_history_s: u64,
    /// How the log of these events behaves, if they are kept.
    #[serde(skip)]
    pub presence_log: Option<Arc<Policy>>,
    /// Minimum interval between messages `[meta]occupancy` with the numbers of members and
    /// subscribers, which the subscribers of a channel receive when these have changed,
    /// milliseconds; 0: none.
    pub occupancy_interval_ms: u64,
    /// Events that `[webhooks]` is told of.
    pub webhook_events: Vec<WebhookEvent>,
    /// How long a peer that another one has denied waits before it is asked about again, unless the
    /// denial says, milliseconds. Of two peers in several channels, the first one counts.
    pub deny_ttl_ms: u64,
}

impl Policy {
    /// The same policy with a log of the events of members, if it asks for one.
    pub fn with_presence_log(self, durability: Durability) -> Self {
        let log = Policy {
            durability,
            // With a list of members before the beginning of what is asked for.
            history_age_s: self.presence_history_s
                + self.presence_history_s / LISTS_PER_HISTORY
                + 3,
            history_messages: PRESENCE_LOG_MESSAGES,
            history_bytes: PRESENCE_LOG_BYTES,
            ..Policy::default()
        };
        let presence_log = (self.presence_history_s > 0).then(|| Arc::new(log));
        Policy { presence_log, ..self }
    }

    /// Maximum number of stored messages, before the limits on age and bytes.
    pub fn stored_messages_max(&self) -> usize {
        match self.durability {
            Durability::None => 0,
            Durability::Memory | Durability::Disk => self.history_messages as usize,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            presence_ttl_ms: 60_000,
            presence_grace_ms: 5_000,
            presence_interval_ms: 0,
            heartbeat: Heartbeat::default(),
            snapshot_on_join: true,
            history_messages: 100,
            history_age_s: 86_400,
            history_bytes: 1024 * 1024,
            durability: Durability::default(),
            deliver: Deliver::default(),
            slow_consumer: SlowConsumer::default(),
            graph_max_peers: 10_000,
            peer_metadata_max_bytes: 4096,
            presence_history_s: 0,
            presence_log: None,
            occupancy_interval_ms: 0,
            webhook_events: Vec::new(),
            deny_ttl_ms: 30_000,
        }
    }
}

/// The text is not a valid namespace pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected `*`, a channel name or a prefix that ends in `*`, at most 255 bytes")]
pub struct PatternError;

/// The channels of a namespace: `*` (all), an exact name, or a prefix followed by `*`. `chat*` also
/// matches `chat`.
#[derive(Clone, Debug, Display, PartialEq, Eq)]
pub enum Pattern {
    #[display("{_0}*")]
    Prefix(Box<str>),
    Exact(Box<str>),
}

impl Pattern {
    pub fn matches(&self, channel: &str) -> bool {
        match self {
            Pattern::Prefix(prefix) => channel.starts_with(&**prefix),
            Pattern::Exact(name) => channel == &**name,
        }
    }

    /// A name that it matches, and of patterns that are longer none but itself.
    fn example(&self) -> String {
        match self {
            Pattern::Prefix(prefix) => format!("{prefix}\u{10ffff}"),
            Pattern::Exact(name) => name.to_string(),
        }
    }

    /// Whether this pattern matches every channel that `other` matches.
    pub fn covers(&self, other: &Pattern) -> bool {
        match (self, other) {
            (Pattern::Exact(_), Pattern::Prefix(_)) => false,
            (_, Pattern::Prefix(text) | Pattern::Exact(text)) => self.matches(text),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix = text.strip_suffix('*');
        let name = prefix.unwrap_or(text);
        if text.is_empty() || name.contains('*') || name.len() > CHANNEL_NAME_BYTES_MAX {
            return Err(PatternError);
        }
        Ok(match prefix {
            Some(prefix) => Pattern::Prefix(prefix.into()),
            None => Pattern::Exact(text.into()),
        })
    }
}

/// The namespaces in the order of the configuration, and the default for all other channels.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    pub rules: Vec<(Pattern, Arc<Policy>)>,
    pub default: Arc<Policy>,
}

impl Policies {
    /// The namespace of the channels that no rule matches; `None` when a rule matches all channels.
    pub fn fallback(&self) -> Option<(Pattern, &Policy)> {
        let all = Pattern::Prefix("".into());
        let is_needless = self.rules.iter().any(|(pattern, _)| *pattern == all);
        (!is_needless).then_some((all, &self.default))
    }

    /// Where messages of a channel, and the events of its members, are stored.
    fn storage_of(&self, channel: &str) -> (Durability, Option<Durability>) {
        let policy = self.for_channel(channel);
        (policy.durability, policy.presence_log.as_ref().map(|log| log.durability))
    }

    /// A pattern of either with channels that are stored elsewhere than under `before`. Patterns
    /// are prefixes and names, so one name per pattern stands for all channels.
    pub fn stored_elsewhere(&self, before: &Policies) -> Option<Pattern> {
        let rules = self.rules.iter().chain(&before.rules).map(|(pattern, _)| pattern.clone());
        rules.chain([Pattern::Prefix("".into())]).find(|pattern| {
            let name = pattern.example();
            self.storage_of(&name) != before.storage_of(&name)
        })
    }

    /// The policy of the first namespace that matches the channel, or that of the log of its
    /// members' events if that is its name.
    pub fn for_channel(&self, channel: &str) -> &Arc<Policy> {
        let logged = presence_logged(channel);
        let rule = self.rule_for(logged.unwrap_or(channel));
        let policy = rule.map_or(&self.default, |rule| &self.rules[rule].1);
        match (&policy.presence_log, logged) {
            (Some(log), Some(_)) => log,
            _ => policy,
        }
    }

    /// Whether any channel has its messages on disk.
    pub fn any_on_disk(&self) -> bool {
        let policies = self.rules.iter().map(|(_, policy)| policy).chain([&self.default]);
        let logs = |policy: &Policy| policy.presence_log.as_ref().map(|log| log.durability);
        policies.into_iter().any(|policy| {
            policy.durability == Durability::Disk || logs(policy) == Some(Durability::Disk)
        })
    }

    /// The most that any channel allows.
    pub fn most(&self, allowed: impl Fn(&Policy) -> u32) -> u32 {
        let is_catch_all = |(pattern, _): &(Pattern, _)| pattern.matches("");
        let has_others = !self.rules.iter().any(is_catch_all);
        let policies = self.rules.iter().map(|(_, policy)| policy);
        let policies = policies.chain(has_others.then_some(&self.default));
        policies.map(|policy| allowed(policy)).max().unwrap_or_default()
    }

    /// Index of that namespace; `None` if the default applies.
    pub fn rule_for(&self, channel: &str) -> Option<usize> {
        self.rules.iter().position(|(pattern, _)| pattern.matches(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_all_one_or_a_prefix() {
        for (pattern, channel, expected) in [
            ("*", "anything", true),
            ("chat:*", "chat:a:b", true),
            ("chat:*", "chat", false),
            ("chat*", "chat", true),
            ("chat*", "chatter", true),
            ("chat", "chat", true),
            ("chat", "chat:a", false),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(channel), expected, "{pattern} {channel}");
            assert_eq!(parsed.to_string(), pattern);
        }
        for text in ["", "**", "a*b", "*a"] {
            assert_eq!(text.parse::<Pattern>(), Err(PatternError), "{text}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_would_hide() {
        for (wide, narrow, expected) in [
            ("*", "chat:*", true),
            ("*", "*", true),
            ("chat*", "chat:*", true),
            ("chat*", "chat", true),
            ("chat:*", "chat*", false),
            ("chat", "chat*", false),
            ("chat", "chat", true),
            ("chat", "game", false),
        ] {
            let covers =
                |a: &str, b: &str| a.parse::<Pattern>().unwrap().covers(&b.parse().unwrap());
            assert_eq!(covers(wide, narrow), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let ttl = |presence_ttl_ms| Arc::new(Policy { presence_ttl_ms, ..Policy::default() });
        let policies = Policies {
            rules: vec![("chat:vip".parse().unwrap(), ttl(1)), ("chat:*".parse().unwrap(), ttl(2))],
            default: ttl(3),
        };
        for (channel, expected) in [("chat:vip", 1), ("chat:other", 2), ("game", 3)] {
            assert_eq!(policies.for_channel(channel).presence_ttl_ms, expected, "{channel}");
        }
    }
}
