//! Members and presence events as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::channel::{self, Change, ChangeKind};
use crate::ids::{Clocks, ConnAddr};
use crate::session::message_pack_state;
use crate::shard::MemberView;
use crate::wire::msgpack;

/// A state as JSON: converted when it is MessagePack that JSON can express, else base64.
#[derive(Serialize)]
struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_base64: Option<String>,
}

impl State {
    fn of(bytes: &[u8]) -> Self {
        match msgpack::to_json(bytes) {
            Some(value) => State { state: Some(value), state_base64: None },
            None => State { state: None, state_base64: Some(STANDARD.encode(bytes)) },
        }
    }
}

#[derive(Serialize)]
struct MemberJson<'m> {
    user: &'m str,
    connection: String,
    #[serde(flatten)]
    state: State,
    age_ms: u64,
    lingering: bool,
}

impl<'m> MemberJson<'m> {
    fn of(member: &'m MemberView) -> Self {
        MemberJson {
            user: &member.identity.user,
            connection: connection(member.addr),
            state: State::of(message_pack_state(&member.state)),
            age_ms: member.age_ms,
            lingering: member.lingering,
        }
    }
}

#[derive(Serialize)]
struct EventJson<'e> {
    event: &'static str,
    at_ms: u64,
    user: &'e str,
    connection: String,
    #[serde(flatten)]
    state: State,
    age_ms: u64,
}

fn connection(addr: ConnAddr) -> String {
    format!("{}.{}.{}", addr.shard, addr.conn.slot, addr.conn.generation)
}

/// The response to a members request.
pub fn members(app: &str, channel: &str, members: &[MemberView]) -> Value {
    let members: Vec<MemberJson<'_>> = members.iter().map(MemberJson::of).collect();
    json!({ "app": app, "channel": channel, "members": members })
}

/// A snapshot in a watch: one line per member, then an end mark.
pub fn present_lines(now: Clocks, members: &[MemberView]) -> String {
    let mut lines = String::new();
    for member in members {
        push_event(
            &mut lines,
            now,
            "present",
            member.addr,
            &member.identity.user,
            &member.state,
            member.age_ms,
        );
    }
    lines.push_str(&json!({ "event": "ready", "members": members.len() }).to_string());
    lines.push('\n');
    lines
}

/// The line that says that changes were dropped; a snapshot follows.
pub fn reset_line() -> String {
    json!({ "event": "reset" }).to_string() + "\n"
}

/// One line per change.
pub fn changes_lines(now: Clocks, changes: &[Change]) -> String {
    let mut lines = String::new();
    for change in changes {
        let event = match change.kind {
            ChangeKind::Enter => "enter",
            ChangeKind::Update => "update",
            ChangeKind::Leave => "leave",
        };
        push_event(&mut lines, now, event, change.addr, &change.identity.user, &change.state, 0);
    }
    lines
}

fn push_event(
    lines: &mut String,
    now: Clocks,
    event: &'static str,
    addr: ConnAddr,
    user: &str,
    state: &channel::State,
    age_ms: u64,
) {
    let connection = connection(addr);
    let state = State::of(message_pack_state(state));
    let event = EventJson { event, at_ms: now.wall_ms, user, connection, state, age_ms };
    // Serialization of strings, numbers and JSON values does not fail.
    if let Ok(line) = serde_json::to_string(&event) {
        lines.push_str(&line);
        lines.push('\n');
    }
}
