//! `GET /channels/{channel}/presence`: the members of a channel, on one page.

use super::query::PresenceQuery;
use super::reply::{Reply, push_string};
use crate::session::json_state;
use crate::shard::MemberView;

/// The members that match the query, in join order.
pub fn presence(query: &PresenceQuery, members: &[MemberView]) -> Reply {
    let is_wanted =
        |asked: &Option<String>, found: &str| asked.as_deref().is_none_or(|asked| asked == found);
    let wanted = members
        .iter()
        .filter(|member| is_wanted(&query.client_id, &member.identity.user))
        .filter(|member| is_wanted(&query.connection_id, &member.identity.connection))
        .take(query.limit.unwrap_or(usize::MAX));
    let mut body = b"[".to_vec();
    for member in wanted {
        push_item(&mut body, member);
    }
    body.push(b']');
    Reply::json(body)
}

fn push_item(out: &mut Vec<u8>, member: &MemberView) {
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(b"{\"clientId\":");
    push_string(out, &member.identity.user);
    out.extend_from_slice(b",\"connectionId\":");
    push_string(out, &member.identity.connection);
    out.extend_from_slice(b",\"action\":\"present\"");
    let state = json_state(&member.state);
    if !state.data.is_empty() {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(&state.data);
    }
    if !state.encoding.is_empty() {
        out.extend_from_slice(b",\"encoding\":");
        push_string(out, &state.encoding);
    }
    out.extend_from_slice(format!(",\"timestamp\":{}}}", member.announced_wall_ms).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::channel::{Identity, JsonState, Resume, State};
    use crate::ids::{ConnAddr, ConnId, ShardId};
    use bytes::Bytes;

    fn member(user: &str, connection: &str, state: &'static [u8]) -> MemberView {
        let identity = Identity::new(user.into(), connection.into(), Resume::Never);
        MemberView {
            addr: ConnAddr { shard: ShardId(0), conn: ConnId { slot: 1, generation: 1 } },
            identity: Arc::new(identity),
            state: State::from_message_pack(Bytes::from_static(state)),
            announced_wall_ms: 5,
            age_ms: 1,
            lingering: false,
            joined: 1,
        }
    }

    fn text(query: &str, members: &[MemberView]) -> String {
        let query = PresenceQuery::parse(Some(query)).unwrap();
        String::from_utf8(presence(&query, members).body).unwrap()
    }

    #[test]
    fn a_state_is_shown_as_json_or_as_base64() {
        let item = |state: &str| {
            format!(
                "[{{\"clientId\":\"a\\\"\",\"connectionId\":\"x\",\"action\":\"present\"\
                 {state},\"timestamp\":5}}]"
            )
        };
        for (state, shown) in [
            (&b""[..], ""),
            (&[0x81, 0xa1, b'k', 1][..], ",\"data\":{\"k\":1}"),
            (&[0xc0][..], ",\"data\":null"),
            (&[0xc1, 0xff][..], ",\"data\":\"wf8=\",\"encoding\":\"base64\""),
        ] {
            assert_eq!(text("", &[member("a\"", "x", state)]), item(shown), "{state:x?}");
        }
        let data = Bytes::from_static(b"{ \"a\":1e999}");
        let written = State::from_json(JsonState { data, encoding: "e".into() });
        let shown = item(",\"data\":{ \"a\":1e999},\"encoding\":\"e\"");
        assert_eq!(text("", &[MemberView { state: written, ..member("a\"", "x", b"") }]), shown);
        assert_eq!(text("", &[]), "[]");
    }

    #[test]
    fn members_are_filtered_and_counted_off() {
        let members = [member("a", "1", b""), member("b", "2", b""), member("a", "3", b"")];
        for (query, connections) in [
            ("", vec!["1", "2", "3"]),
            ("clientId=a", vec!["1", "3"]),
            ("clientId=a&limit=1", vec!["1"]),
            ("limit=2", vec!["1", "2"]),
            ("limit=0", vec!["1", "2", "3"]),
            ("connectionId=2", vec!["2"]),
            ("connectionId=2&clientId=a", vec![]),
            ("clientId=", vec![]),
            ("limit=99999999999", vec!["1", "2", "3"]),
        ] {
            let items: Vec<serde_json::Value> =
                serde_json::from_str(&text(query, &members)).unwrap();
            let shown: Vec<_> =
                items.iter().map(|item| item["connectionId"].as_str().unwrap()).collect();
            assert_eq!(shown, connections, "{query}");
        }
    }
}
