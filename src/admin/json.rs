//! Members and presence events as JSON.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::channel::{Change, ChangeKind, State};
use crate::ids::{Clocks, ConnAddr};
use crate::session::message_pack_state;
use crate::session::presence_history::{LoggedMember, given};
use crate::shard::{MemberList, MemberView};
use crate::wire::msgpack;

/// A member of a list, or the member of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Wall-clock time of an event; `None` for a member of a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    pub user: Arc<str>,
    /// `shard.slot.generation`, or the name of the session in presence history; with the user it
    /// identifies the member.
    pub connection: String,
    /// Name of the session, as in events of webhooks; `None` elsewhere than in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// A state that is not MessagePack, or that JSON cannot express.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_base64: Option<String>,
    /// Since the state was last announced.
    #[serde(default)]
    pub age_ms: u64,
    /// Whether the connection is lost and the grace runs; `None` for the member of an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lingering: Option<bool>,
}

/// One line of a watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Changes were dropped; a snapshot follows, as at the beginning.
    Reset,
    /// One member of a snapshot, in join order.
    Present(Member),
    /// The snapshot is complete.
    Ready {
        members: usize,
    },
    Enter(Member),
    Update(Member),
    Leave(Member),
    /// An event that only a newer server sends.
    #[serde(other)]
    Unknown,
}

impl Member {
    fn new(user: &Arc<str>, addr: ConnAddr, state: &State, age_ms: u64) -> Self {
        let bytes = message_pack_state(state);
        let state = msgpack::to_json(bytes);
        Member {
            at_ms: None,
            user: Arc::clone(user),
            connection: addr.to_string(),
            session: None,
            state_base64: state.is_none().then(|| STANDARD.encode(bytes)),
            state,
            age_ms,
            lingering: None,
        }
    }

    fn of(member: &MemberView) -> Self {
        Member::new(&member.identity.user, member.addr, &member.state, member.age_ms)
    }
}

impl Event {
    fn line(&self) -> String {
        // Serialization of strings, numbers and JSON values does not fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// The response to a members request. `next`: the cursor of the next page; not there when all were
/// asked for.
pub fn members(app: &str, channel: &str, list: &MemberList, next: Option<u64>) -> Value {
    let member = |member: &MemberView| Member {
        lingering: Some(member.lingering),
        session: Some(member.identity.connection.to_string()),
        ..Member::of(member)
    };
    let members: Vec<Member> = list.members.iter().map(member).collect();
    let mut answer = json!({ "app": app, "channel": channel, "members": members });
    if list.sequence > 0 {
        answer["sequence"] = list.sequence.into();
    }
    if let Some(next) = next {
        answer["next"] = next.to_string().into();
    }
    answer
}

/// The response to a request for the users who are members: each once, in the order in which their
/// first connection joined, with the newest state.
pub fn users(app: &str, channel: &str, members: &[MemberView]) -> Value {
    let mut users: IndexMap<&str, Vec<&MemberView>> = IndexMap::new();
    for member in members {
        users.entry(&member.identity.user).or_default().push(member);
    }
    let user = |(user, connections): (&&str, &Vec<&MemberView>)| {
        let newest = connections.iter().min_by_key(|member| member.age_ms);
        let names = connections.iter().map(|member| member.addr.to_string());
        json!({
            "user": user,
            "connections": names.collect::<Vec<_>>(),
            "lingering": connections.iter().all(|member| member.lingering),
            "newest": newest.map(|member| Member::of(member)),
        })
    };
    json!({ "app": app, "channel": channel, "users": users.iter().map(user).collect::<Vec<_>>() })
}

/// The response to a request for the members at a time, with when each last announced its state.
pub fn members_at(app: &str, channel: &str, at_ms: u64, members: &[(LoggedMember, u64)]) -> Value {
    let member = |(member, announced_ms): &(LoggedMember, u64)| {
        let (data, is_base64) = (member.data.clone(), &*member.encoding == "base64");
        let text = || data.as_ref().and_then(Value::as_str).map(str::to_owned);
        Member {
            at_ms: None,
            user: (&*member.client_id).into(),
            connection: member.connection_id.to_string(),
            session: None,
            state_base64: if is_base64 { text() } else { None },
            state: data.clone().filter(|_| !is_base64),
            age_ms: at_ms.saturating_sub(*announced_ms),
            lingering: None,
        }
    };
    let members: Vec<Member> = members.iter().map(member).collect();
    json!({ "app": app, "channel": channel, "at_ms": at_ms, "members": members })
}

/// A snapshot in a watch: one line per member, then an end mark.
pub fn present_lines(now: Clocks, members: &[MemberView]) -> String {
    let at_ms = Some(now.wall_ms);
    let present = |member| Event::Present(Member { at_ms, ..Member::of(member) }).line();
    let lines: String = members.iter().map(present).collect();
    lines + &Event::Ready { members: members.len() }.line()
}

/// The line that says that changes were dropped; a snapshot follows.
pub fn reset_line() -> String {
    Event::Reset.line()
}

/// One line per change.
pub fn changes_lines(now: Clocks, changes: &[Change]) -> String {
    let line = |change: &Change| {
        let member = Member::new(&change.identity.user, change.addr, &change.state, 0);
        let member = Member { at_ms: Some(now.wall_ms), ..member };
        match change.kind {
            ChangeKind::Enter => Event::Enter(member).line(),
            ChangeKind::Update | ChangeKind::Peer => Event::Update(member).line(),
            ChangeKind::Leave => Event::Leave(member).line(),
        }
    };
    changes.iter().map(line).collect()
}
