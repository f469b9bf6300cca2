//! One-way presence: a key that sees without being seen, and one that is seen without seeing.
#![cfg(feature = "server")]

use foony_client::{Client, Server};
use headcount::wire::foony::{Action, Event, Presence, Request};

mod foony_client;
mod served;
mod tempdir;

const KEYS: &str = r#"
[[auth.key]]
name = "demo.watcher"
secret = "s1"
capability = { "*" = ["presence_subscribe"] }

[[auth.key]]
name = "demo.seen"
secret = "s2"
capability = { "*" = ["presence_enter"] }
"#;

/// The code of the refusal of a request; `None` when it is done.
fn refused(client: &mut Client, request: impl FnOnce(u64) -> Request<'static>) -> Option<u32> {
    let id = client.next_id();
    client.send(&[request(id)]);
    client.until(|event| match event {
        Event::Ack { id: answered, .. } if *answered == id => Some(None),
        Event::Error { id: answered, code, .. } if *answered == id => Some(Some(code.code())),
        _ => None,
    })
}

fn enter(id: u64) -> Request<'static> {
    let (action, channel) = (Action::Enter, "room".into());
    Request::Presence(Presence { id, action, channel, data: b"{}", encoding: "".into() })
}

fn see(id: u64) -> Request<'static> {
    Request::PresenceSubscribe { id, channel: "room".into() }
}

#[test]
fn a_watcher_is_not_seen_and_who_is_seen_does_not_see() {
    let server = Server::start(KEYS);
    let mut watcher = Client::connect_with(&server, "demo.watcher:s1", "eve");
    let mut seen = Client::connect_with(&server, "demo.seen:s2", "bob");
    assert_eq!(refused(&mut watcher, see), None);
    assert_eq!(refused(&mut watcher, enter), Some(40301));
    assert_eq!(refused(&mut seen, see), Some(40301));
    assert_eq!(refused(&mut seen, enter), None);
    let entered = watcher.until(|event| match event {
        Event::Member(member) if member.action == Action::Enter => {
            Some(member.client_id.to_string())
        }
        _ => None,
    });
    assert_eq!(entered, "bob");
}
