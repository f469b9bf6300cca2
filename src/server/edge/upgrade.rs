//! A WebSocket upgrade on a connection that has served plain HTTP: the connection moves back to a
//! shard. Proxies that reuse connections for any kind of request do this.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use hyper::Request;
use hyper::header::UPGRADE;

use super::Edge;
use crate::ids::ShardId;
use crate::shard::{Envelope, Handoff};
use crate::wire::http::{self, Parsed};

/// A connection to move to a shard.
pub struct UpgradeRequest {
    pub socket: OwnedFd,
    /// The upgrade request, and the bytes after it.
    pub unread: Vec<u8>,
}

/// The head of a request that a shard does not treat as plain HTTP: an upgrade, valid or not. A
/// connection with any other request would be sent back to the edge for ever.
pub fn upgrade_head<B>(request: &Request<B>, head_bytes_max: usize) -> Option<Vec<u8>> {
    request.headers().get(UPGRADE)?;
    let line = format!("{} {} {:?}\r\n", request.method(), request.uri(), request.version());
    let mut head = line.into_bytes();
    for (name, value) in request.headers() {
        for bytes in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(bytes);
        }
    }
    head.extend_from_slice(b"\r\n");
    match http::parse(&head, head_bytes_max) {
        Ok(Parsed::Plain(_) | Parsed::Incomplete) => None,
        Ok(Parsed::Upgrade(_)) | Err(_) => Some(head),
    }
}

/// Moves a connection to a shard; its descriptor stays in the budget. When the mailbox of that
/// shard is full the connection is closed.
pub fn hand_off(edge: &Edge, connection: UpgradeRequest) {
    let UpgradeRequest { socket, unread } = connection;
    let to = choose_home(edge, &unread);
    let now_ms = edge.shared.clock.now().mono_ms;
    let handoff = Handoff::of_http(socket, unread, now_ms);
    if edge.client.try_send(to, Envelope::Adopt(Box::new(handoff))).is_ok() {
        edge.shared.budget.used.fetch_add(1, Ordering::Relaxed);
    }
}

/// The owner of the channel that the URL names, else any shard. Shards at their limit of
/// connections are skipped unless all are.
fn choose_home(edge: &Edge, unread: &[u8]) -> ShardId {
    let is_free = |shard: &ShardId| {
        edge.client.connections_of(*shard) < edge.settings().limits.connections_per_shard_max
    };
    let mut all = (0..edge.settings().router.shards()).map(|_| edge.next_shard());
    let free = hinted_home(edge, unread).filter(is_free).or_else(|| all.find(is_free));
    free.unwrap_or_else(|| edge.next_shard())
}

fn hinted_home(edge: &Edge, unread: &[u8]) -> Option<ShardId> {
    let parsed = http::parse(unread, edge.settings().limits.request_head_bytes_max);
    let Ok(Parsed::Upgrade(upgrade)) = parsed else { return None };
    let channel = http::channel_hint(upgrade.query?)?;
    Some(edge.locate(&edge.settings().hint_app, &channel).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REQUEST_HEAD_BYTES_MAX;

    fn head(headers: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::get("/sync?channel=a%20b").header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = upgrade_head(&request.body(()).unwrap(), REQUEST_HEAD_BYTES_MAX);
        head.map(|head| String::from_utf8(head).unwrap())
    }

    #[test]
    fn only_what_a_shard_would_answer_is_handed_over() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let (upgrade, connection) = (("upgrade", "websocket"), ("connection", "upgrade"));
        let (ours, older) = (("sec-websocket-version", "13"), ("sec-websocket-version", "12"));
        let whole = "GET /sync?channel=a%20b HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\
            connection: upgrade\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert_eq!(head(&[upgrade, connection, ours, key]).as_deref(), Some(whole));
        assert!(head(&[upgrade, connection, older, key]).is_some(), "the shard says 426");
        assert_eq!(head(&[("upgrade", "h2c"), connection]), None);
        assert_eq!(head(&[]), None);
    }
}
