//! The lines of a trace.

use serde_json::{Map, Value, json};

use crate::ids::ShardId;
use crate::shard::{ReplyTo, Traced};

/// A line about something that happened in a turn of the owner. `wall_ms`: milliseconds since the
/// Unix epoch.
pub fn trace_line(wall_ms: u64, turn: u64, what: &Traced) -> String {
    let (event, fields) = match what {
        Traced::Begun { homes } => ("begun", json!({ "shards_with_subscribers": homes })),
        Traced::Command { from: ShardId(shard), text } => {
            ("command", json!({ "from_shard": shard, "command": text }))
        }
        Traced::Refused { to, reject } => {
            let to = match to {
                ReplyTo::Session { conn, request } => {
                    format!("slot={}.{} request={request}", conn.slot, conn.generation)
                }
                ReplyTo::Edge(_) => "http".to_owned(),
                ReplyTo::Nobody => "server".to_owned(),
            };
            ("refused", json!({ "to": to, "why": reject.to_string() }))
        }
        Traced::Routed { what, count, homes } => {
            ("routed", json!({ "what": what, "count": count, "to_shards": homes }))
        }
    };
    let mut line = Map::new();
    line.insert("event".into(), event.into());
    line.insert("at_ms".into(), wall_ms.into());
    line.insert("turn".into(), turn.into());
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    Value::Object(line).to_string() + "\n"
}

/// The line about lines that a reader was too slow for.
pub fn trace_lost(count: u64) -> String {
    json!({ "event": "lost", "count": count }).to_string() + "\n"
}
