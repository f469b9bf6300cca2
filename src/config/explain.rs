//! `config explain`: the namespace of a channel, and the source of each effective value.

use std::fmt::Write;

use toml::Value;

use super::Config;

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
        // The values of a valid policy always have a TOML form.
        let values = toml::to_string(&**policies.for_channel(channel)).unwrap_or_default();
        for line in values.lines() {
            let key = line.split(' ').next().unwrap_or_default();
            let is_given = given.as_ref().is_some_and(|keys| keys.get(key).is_some());
            let from = match rule {
                Some(index) if is_given => format!("namespace {}", index + 1),
                _ => "default".to_owned(),
            };
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "  {line:<44}{from}");
        }
        text
    }
}
