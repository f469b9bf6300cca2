//! Entries of presence history: what happened to a member, as a part of a message of the log.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::channel::{Identity, Message, Part, State};

use super::json_state;

/// A member as an entry shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedMember {
    pub client_id: Box<str>,
    pub connection_id: Box<str>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub encoding: Box<str>,
    /// When it last announced itself, milliseconds since the Unix epoch; 0 if the entry is of then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub announced: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Distinguishes `null` from a missing field.
pub fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What an entry says of a member. A list of all members follows [`PresenceAction::Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum PresenceAction {
    Enter,
    Update,
    Leave,
    Present,
    Snapshot,
}

impl LoggedMember {
    /// `state`: `None` to leave it out.
    pub fn new(identity: &Identity, state: Option<&State>) -> Self {
        let state = state.map(json_state);
        LoggedMember {
            client_id: (&*identity.user).into(),
            connection_id: (&*identity.connection).into(),
            data: state.and_then(|state| serde_json::from_slice(&state.data).ok()),
            encoding: state.map_or_else(Default::default, |state| state.encoding.clone()),
            announced: 0,
        }
    }

    pub fn announced_at(self, announced: u64) -> Self {
        LoggedMember { announced, ..self }
    }

    pub fn to_part(&self, action: PresenceAction) -> Part {
        // Serialization of strings and JSON values does not fail.
        let data = serde_json::to_vec(self).unwrap_or_default().into();
        Part { name: <&str>::from(action).into(), data, encoding: "".into() }
    }
}

/// The beginning of a list of all members.
pub fn snapshot_mark() -> Part {
    let name = <&str>::from(PresenceAction::Snapshot).into();
    Part { name, data: Bytes::new(), encoding: "".into() }
}

/// What a part of an entry says; `None` for one that is no part of presence history.
pub fn read_part(part: &Part) -> Option<(PresenceAction, Option<LoggedMember>)> {
    let action = part.name.parse().ok()?;
    match action {
        PresenceAction::Snapshot => Some((action, None)),
        _ => Some((action, Some(serde_json::from_slice(&part.data).ok()?))),
    }
}

/// Whether an entry lists everyone, so that nothing before it matters.
pub fn lists_everyone(entry: &Message) -> bool {
    let snapshot: &str = PresenceAction::Snapshot.into();
    entry.content.parts().iter().any(|part| &*part.name == snapshot)
}

/// Whether an entry is the first one that there ever was: everyone whom it lists has entered with
/// it.
pub fn is_beginning(entry: &Message) -> bool {
    let parts: Vec<_> = entry.content.parts().iter().filter_map(read_part).collect();
    let entered: HashSet<_> = parts
        .iter()
        .filter(|(action, _)| *action == PresenceAction::Enter)
        .filter_map(|(_, member)| member.as_ref().map(|member| &member.connection_id))
        .collect();
    let mut listed = parts.iter().filter(|(action, _)| *action == PresenceAction::Present);
    let is_new = |member: &LoggedMember| entered.contains(&member.connection_id);
    lists_everyone(entry) && listed.all(|(_, member)| member.as_ref().is_some_and(is_new))
}

/// Who was present after these entries, in the order in which they joined, with the time of their
/// last announcement. The first entry should list everyone.
pub fn present_after(entries: &[Arc<Message>]) -> Vec<(LoggedMember, u64)> {
    let mut present = IndexMap::new();
    for entry in entries {
        let mut listed: Option<HashSet<_>> = None;
        for (action, member) in entry.content.parts().iter().filter_map(read_part) {
            let Some(member) = member else {
                listed = Some(HashSet::new());
                continue;
            };
            let name = (member.client_id.clone(), member.connection_id.clone());
            match action {
                PresenceAction::Update if present.contains_key(&name) => {
                    present[&name] = (member, entry.timestamp_ms);
                }
                PresenceAction::Leave => {
                    present.shift_remove(&name);
                }
                PresenceAction::Present => {
                    listed.get_or_insert_default().insert(name.clone());
                    // In the order of the list. What is known says more than a list of names.
                    let known = present.shift_remove(&name);
                    let announced = match member.announced {
                        0 => entry.timestamp_ms,
                        announced => announced,
                    };
                    present.insert(name, known.unwrap_or((member, announced)));
                }
                _ => {
                    present.insert(name, (member, entry.timestamp_ms));
                }
            }
        }
        if let Some(listed) = listed {
            present.retain(|name, _| listed.contains(name));
        }
    }
    present.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Content, Resume};

    fn part(action: PresenceAction, name: &str, data: &str) -> Part {
        let identity = Identity::new(name.into(), "c".into(), Resume::Never);
        let data = crate::channel::JsonState {
            data: Bytes::copy_from_slice(data.as_bytes()),
            encoding: "".into(),
        };
        LoggedMember::new(&identity, Some(&State::from_json(data))).to_part(action)
    }

    fn entry(serial: u64, parts: Vec<Part>) -> Arc<Message> {
        Arc::new(Message {
            serial,
            timestamp_ms: 1000 * serial,
            id: "".into(),
            client_id: "".into(),
            content: Content::Batch(parts),
        })
    }

    #[test]
    fn who_is_present_follows_from_the_entries_since_the_last_list() {
        use PresenceAction::{Enter, Leave, Present, Update};
        let entries = [
            entry(1, vec![part(Enter, "old", "1")]),
            entry(2, vec![part(Enter, "ann", "1"), snapshot_mark(), part(Present, "ann", "1")]),
            entry(3, vec![part(Enter, "bob", "null"), part(Update, "ann", "{\"x\":2}")]),
            entry(4, vec![part(Enter, "eve", "3")]),
            entry(5, vec![part(Leave, "eve", "3")]),
        ];
        let present: Vec<_> = present_after(&entries)
            .into_iter()
            .map(|(member, at)| (member.client_id.to_string(), member.data, at))
            .collect();
        let ann = ("ann".to_owned(), Some(serde_json::json!({ "x": 2 })), 3000);
        assert_eq!(present, [ann, ("bob".to_owned(), Some(Value::Null), 3000)]);
        assert!(lists_everyone(&entries[1]) && !lists_everyone(&entries[2]));
        assert!(is_beginning(&entries[1]) && !is_beginning(&entries[0]));
        let later = entry(6, vec![snapshot_mark(), part(Present, "ann", "1")]);
        assert!(!is_beginning(&later));
        assert!(present_after(&[entry(9, vec![snapshot_mark()])]).is_empty());
    }
}
