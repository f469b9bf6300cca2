//! `config explain`: the namespace of a channel, and the source of each effective value.

use std::fmt::Write;

use serde::Serialize;
use toml::Value;

use super::Config;
use crate::policy::{Policy, SnapshotOnJoin};

impl Config {
    /// Text for the terminal: the namespace of `channel`, and each effective value with its source.
    pub fn explain(&self, channel: &str) -> String {
        let policies = self.policies();
        let rule = policies.rule_for(channel);
        let source = match rule {
            None => "default: no namespace matches".to_owned(),
            Some(index) => format!(
                "namespace {} of {} (match = \"{}\")",
                index + 1,
                self.origin_text(),
                policies.rules[index].0
            ),
        };
        let given = rule.and_then(|index| Value::try_from(&self.namespace[index]).ok());
        let mut text = format!("channel `{channel}`\n{source}\n");
        for (key, value) in policy_values(policies.for_channel(channel)) {
            let is_given = given.as_ref().is_some_and(|keys| keys.get(key).is_some());
            let from = match rule {
                Some(index) if is_given => format!("namespace {}", index + 1),
                _ => "default".to_owned(),
            };
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "  {:<44}{from}", format!("{key} = {value}"));
        }
        text
    }
}

/// A policy as the keys of `[[namespace]]`.
pub(super) fn policy_values(policy: &Policy) -> [(&'static str, Value); 10] {
    [
        ("presence_ttl_ms", value(&policy.presence_ttl_ms)),
        ("presence_grace_ms", value(&policy.presence_grace_ms)),
        ("presence_interval_ms", value(&policy.presence_interval_ms)),
        ("presence_heartbeat", value(&policy.heartbeat)),
        (
            "presence_snapshot_on_join",
            Value::Boolean(policy.snapshot_on_join == SnapshotOnJoin::Send),
        ),
        ("history_messages", value(&policy.history_messages)),
        ("history_age_s", value(&policy.history_age_s)),
        ("history_bytes", value(&policy.history_bytes)),
        ("durability", value(&policy.durability)),
        ("slow_consumer", value(&policy.slow_consumer)),
    ]
}

/// The values of a valid policy always have a TOML form; otherwise the text says so.
fn value(field: &impl Serialize) -> Value {
    Value::try_from(field).unwrap_or_else(|error| Value::String(error.to_string()))
}
