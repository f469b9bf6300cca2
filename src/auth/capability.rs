//! Capabilities: channel patterns, and the operations granted on each.

use std::fmt;
use std::str::FromStr;

use derive_more::Display;
use enumset::{EnumSet, EnumSetType};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use thiserror::Error;

use crate::limits::CHANNEL_NAME_BYTES_MAX;

/// Patterns in one capability. Tokens and keys with more are refused, because every permission
/// check scans them.
pub const CAPABILITY_PATTERNS_MAX: usize = 256;

/// An operation on a channel (`protocols/foony.md` section 4).
#[derive(Debug, EnumSetType, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Operation {
    Subscribe,
    Publish,
    /// Be a member, which others see.
    PresenceEnter,
    /// See the members.
    PresenceSubscribe,
    History,
    /// Read the admin API. Only API keys can have it; in a token it is ignored.
    Admin,
}

/// Why an operation is denied. The Foony dialect has a code for each reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// Foony 40302.
    #[error("the capability has no pattern for this channel")]
    NoPattern,
    /// Foony 40301.
    #[error("the capability covers this channel, but not for this operation")]
    NotThisOperation,
}

/// Both operations on members in one word, as clients know it.
const PRESENCE: &str = "presence";

/// The operations of one pattern.
struct Operations(EnumSet<Operation>);

impl Operations {
    /// `None` for an unknown operation.
    fn parse(word: &str) -> Option<EnumSet<Operation>> {
        match word {
            "*" => Some(EnumSet::all()),
            PRESENCE => Some(Operation::PresenceEnter | Operation::PresenceSubscribe),
            word => word.parse::<Operation>().ok().map(EnumSet::only),
        }
    }

    fn words(operations: EnumSet<Operation>) -> Vec<&'static str> {
        if operations == EnumSet::all() {
            return vec!["*"];
        }
        let both = Operation::PresenceEnter | Operation::PresenceSubscribe;
        let (presence, others) = match operations.is_superset(both) {
            true => (Some(PRESENCE), operations - both),
            false => (None, operations),
        };
        presence.into_iter().chain(others.into_iter().map(Operation::into)).collect()
    }
}

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = EnumSet::empty();
        for word in Vec::<String>::deserialize(deserializer)? {
            all |= Operations::parse(&word).ok_or_else(|| {
                de::Error::custom(format_args!(
                    "unknown operation `{word}`, use subscribe, publish, presence, \
                     presence_enter, presence_subscribe, history, admin or *"
                ))
            })?;
        }
        Ok(Operations(all))
    }
}

/// A channel pattern. Unlike in namespaces, a prefix ends in a colon and does not match the channel
/// that is named like the prefix.
#[derive(Clone, Debug, Display, PartialEq, Eq)]
enum Pattern {
    #[display("*")]
    All,
    /// `chat:*`, stored as `chat:`: every longer name with this prefix, of any depth.
    #[display("{_0}*")]
    Below(Box<str>),
    /// A channel name.
    Exact(Box<str>),
}

impl Pattern {
    fn matches(&self, channel: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Below(prefix) => {
                channel.len() > prefix.len() && channel.starts_with(&**prefix)
            }
            Pattern::Exact(name) => channel == &**name,
        }
    }

    /// Whether it matches every channel that `other` matches.
    fn covers(&self, other: &Pattern) -> bool {
        match (self, other) {
            (Pattern::All, _) => true,
            (_, Pattern::All) => false,
            (Pattern::Below(prefix), Pattern::Below(narrower)) => narrower.starts_with(&**prefix),
            (Pattern::Exact(_), Pattern::Below(_)) => false,
            (_, Pattern::Exact(name)) => self.matches(name),
        }
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Pattern::All);
        }
        let prefix = text.strip_suffix('*').unwrap_or(text);
        if text.is_empty() || prefix.contains('*') || prefix.len() > CHANNEL_NAME_BYTES_MAX {
            return Err("expected `*`, a channel name or `prefix:*`");
        }
        match (prefix.len() < text.len(), prefix.ends_with(':') && prefix.len() > 1) {
            (false, _) => Ok(Pattern::Exact(text.into())),
            (true, true) => Ok(Pattern::Below(prefix.into())),
            (true, false) => Err("a star may only stand alone or after a colon, as in `prefix:*`"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    pattern: Pattern,
    operations: EnumSet<Operation>,
}

/// A map from channel pattern to operations; it grants the union of all matching entries. Patterns:
/// `*`, an exact name, or `prefix:*`. Read from a JSON object or from a JSON string that contains
/// one (the form in tokens, `protocols/foony.md` section 4); written as an object, in the order of
/// reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capability {
    grants: Vec<Grant>,
}

impl Capability {
    /// All operations on all channels: `{"*":["*"]}`.
    pub fn all() -> Self {
        Capability { grants: vec![Grant { pattern: Pattern::All, operations: EnumSet::all() }] }
    }

    /// Checks an operation on a channel.
    ///
    /// # Errors
    /// [`Denied`] says whether the channel or the operation is missing.
    pub fn allows(&self, channel: &str, operation: Operation) -> Result<(), Denied> {
        let mut denied = Denied::NoPattern;
        for grant in self.grants.iter().filter(|grant| grant.pattern.matches(channel)) {
            if grant.operations.contains(operation) {
                return Ok(());
            }
            denied = Denied::NotThisOperation;
        }
        Err(denied)
    }

    /// Checks both operations on members, for sessions that see the others where they are seen.
    ///
    /// # Errors
    /// As [`Capability::allows`].
    pub fn allows_presence(&self, channel: &str) -> Result<(), Denied> {
        self.allows(channel, Operation::PresenceEnter)?;
        self.allows(channel, Operation::PresenceSubscribe)
    }

    /// Whether it grants an operation on any channel.
    pub fn grants(&self, operation: Operation) -> bool {
        self.grants.iter().any(|grant| grant.operations.contains(operation))
    }

    /// Whether one pattern grants an operation on every channel whose name begins with `prefix`.
    pub fn allows_below(&self, prefix: &str, operation: Operation) -> bool {
        let asked = if prefix.is_empty() { Pattern::All } else { Pattern::Below(prefix.into()) };
        let mut grants = self.grants.iter();
        grants.any(|grant| grant.operations.contains(operation) && grant.pattern.covers(&asked))
    }

    /// Whether it grants everything that `other` grants. Each operation of each pattern must be
    /// covered by a single pattern here.
    pub fn covers(&self, other: &Capability) -> bool {
        other.grants.iter().all(|grant| {
            let granted = self
                .grants
                .iter()
                .filter(|own| own.pattern.covers(&grant.pattern))
                .fold(EnumSet::empty(), |all, own| all | own.operations);
            // Ignored in tokens.
            (granted | Operation::Admin).is_superset(grant.operations)
        })
    }

    fn grant(&mut self, pattern: Pattern, operations: EnumSet<Operation>) {
        match self.grants.iter_mut().find(|grant| grant.pattern == pattern) {
            Some(grant) => grant.operations |= operations,
            None => self.grants.push(Grant { pattern, operations }),
        }
    }
}

/// Parses the JSON text of a capability object.
impl FromStr for Capability {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut json = serde_json::Deserializer::from_str(text);
        let capability = json.deserialize_map(Form::Object)?;
        json.end()?;
        Ok(capability)
    }
}

/// The JSON object, as text.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.grants.len()))?;
        for grant in &self.grants {
            map.serialize_entry(&grant.pattern.to_string(), &Operations::words(grant.operations))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form::ObjectOrText)
    }
}

/// The accepted forms. The text contains an object, not another text.
enum Form {
    Object,
    ObjectOrText,
}

impl<'de> Visitor<'de> for Form {
    type Value = Capability;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from channel pattern to a list of operations")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match self {
            Form::Object => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
            Form::ObjectOrText => text.parse().map_err(E::custom),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut capability = Capability::default();
        while let Some((text, operations)) = map.next_entry::<String, Operations>()? {
            if capability.grants.len() == CAPABILITY_PATTERNS_MAX {
                return Err(de::Error::custom("too many patterns in one capability"));
            }
            let pattern = text.parse().map_err(|why| {
                de::Error::custom(format_args!("invalid channel pattern `{text}`: {why}"))
            })?;
            capability.grant(pattern, operations.0);
        }
        Ok(capability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(text: &str) -> Capability {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_matches_any_depth_below_it_and_nothing_else() {
        let cap = capability(r#"{"tenant:o:*":["publish"]}"#);
        for (channel, allowed) in [
            ("tenant:o:b", true),
            ("tenant:o:b:presence:users", true),
            ("tenant:o::", true),
            ("tenant:o:", false),
            ("tenant:o", false),
            ("tenant:ox", false),
            ("tenant:p:b", false),
            ("xtenant:o:b", false),
            ("", false),
        ] {
            assert_eq!(cap.allows(channel, Operation::Publish).is_ok(), allowed, "{channel}");
        }
    }

    #[test]
    fn denial_tells_a_missing_channel_from_a_missing_operation() {
        let cap = capability(r#"{"chat:*":["subscribe"],"chat:a":["publish"]}"#);
        assert_eq!(cap.allows("chat:a", Operation::Subscribe), Ok(()));
        assert_eq!(cap.allows("chat:a", Operation::Publish), Ok(()));
        assert_eq!(cap.allows("chat:b", Operation::Publish), Err(Denied::NotThisOperation));
        assert_eq!(cap.allows("game", Operation::Publish), Err(Denied::NoPattern));
        assert_eq!(Capability::default().allows("a", Operation::History), Err(Denied::NoPattern));
    }

    #[test]
    fn every_pattern_operation_and_credential_answers_as_the_table_says() {
        let patterns = [("*", "x"), ("a:*", "a:x"), ("a:x", "a:x")];
        for (pattern, channel) in patterns {
            for granted in EnumSet::<Operation>::all() {
                let cap = capability(&format!(r#"{{"{pattern}":["{}"]}}"#, <&str>::from(granted)));
                for wanted in EnumSet::<Operation>::all() {
                    let expected =
                        if wanted == granted { Ok(()) } else { Err(Denied::NotThisOperation) };
                    assert_eq!(cap.allows(channel, wanted), expected, "{cap} {wanted:?}");
                }
            }
        }
    }

    #[test]
    fn presence_is_the_word_for_both_of_its_halves() {
        for (read, written) in [
            (r#"{"*":["presence"]}"#, r#"{"*":["presence"]}"#),
            (r#"{"*":["presence_enter","presence_subscribe"]}"#, r#"{"*":["presence"]}"#),
            (r#"{"*":["presence_enter"]}"#, r#"{"*":["presence_enter"]}"#),
            (r#"{"*":["history","presence"]}"#, r#"{"*":["presence","history"]}"#),
        ] {
            assert_eq!(capability(read).to_string(), written);
        }
        let both = capability(r#"{"*":["presence"]}"#);
        for half in [r#"{"a":["presence_enter"]}"#, r#"{"a":["presence_subscribe"]}"#] {
            let half = capability(half);
            assert!(both.covers(&half) && !half.covers(&both));
        }
    }

    #[test]
    fn covers_is_a_subset_test_over_patterns_and_operations() {
        let cases = [
            (r#"{"*":["*"]}"#, r#"{"a:*":["publish"],"b":["*"]}"#, true),
            (r#"{"*":["*"]}"#, r#"{}"#, true),
            (r#"{}"#, r#"{"a":["publish"]}"#, false),
            (r#"{}"#, r#"{"a":[]}"#, true),
            (r#"{"a:*":["*"]}"#, r#"{"a:b:*":["*"]}"#, true),
            (r#"{"a:*":["*"]}"#, r#"{"a:*":["*"]}"#, true),
            (r#"{"a:*":["*"]}"#, r#"{"a:":["*"]}"#, false),
            (r#"{"a:*":["*"]}"#, r#"{"a":["*"]}"#, false),
            (r#"{"a:b:*":["*"]}"#, r#"{"a:*":["*"]}"#, false),
            (r#"{"a:*":["*"]}"#, r#"{"*":["*"]}"#, false),
            (r#"{"a":["*"]}"#, r#"{"a:*":["publish"]}"#, false),
            (r#"{"a:*":["publish"]}"#, r#"{"a:b":["subscribe"]}"#, false),
            (r#"{"a:*":["publish"],"*":["history"]}"#, r#"{"a:b":["publish","history"]}"#, true),
            (r#"{"*":["subscribe","publish","presence","history"]}"#, r#"{"*":["*"]}"#, true),
        ];
        for (wide, narrow, expected) in cases {
            let covered = capability(wide).covers(&capability(narrow));
            assert_eq!(covered, expected, "{wide} covers {narrow}");
        }
    }

    #[test]
    fn an_object_and_a_string_mean_the_same() {
        let object = r#"{"chat:*":["subscribe","publish"]}"#;
        let string = serde_json::to_string(object).unwrap();
        let from_object: Capability = serde_json::from_str(object).unwrap();
        assert_eq!(from_object, serde_json::from_str(&string).unwrap());
        assert_eq!(from_object.to_string(), object);
        let twice = serde_json::to_string(&string).unwrap();
        assert!(serde_json::from_str::<Capability>(&twice).is_err(), "a string in a string");
    }

    #[test]
    fn a_repeated_pattern_is_the_union_of_its_entries() {
        let cap = capability(r#"{"a":["publish"],"a":["history"]}"#);
        assert_eq!(cap, capability(r#"{"a":["publish","history"]}"#));
    }

    #[test]
    fn what_is_not_a_capability_is_refused() {
        for text in [
            r#"{"*":["fly"]}"#,
            r#"{"*":"*"}"#,
            r#"{"a*":["*"]}"#,
            r#"{"a:*:b":["*"]}"#,
            r#"{"**":["*"]}"#,
            r#"{":*":["*"]}"#,
            r#"{"":["*"]}"#,
            r#"["*"]"#,
            r#"{"*":["*"]} {}"#,
            "null",
            "",
        ] {
            assert!(text.parse::<Capability>().is_err(), "{text}");
        }
        let entries: Vec<_> = (0..300).map(|i| format!(r#""c{i}":["*"]"#)).collect();
        assert!(format!("{{{}}}", entries.join(",")).parse::<Capability>().is_err());
    }
}
