//! Long-polling: hands what clients send to the shard that holds their session, and what it has for
//! them back.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::body::Incoming;

use super::links::ANSWER_WITHIN;
use super::{Edge, body};
use crate::rest::{self, PollRoute, Refusal, Reply};
use crate::shard::{PollOutcome, PollRequest, PollSession};

/// How long a shard may take to answer a client that waits for frames. It answers by itself, with
/// none, after some 25 s; clients give up after 40 s.
const FRAMES_WITHIN: Duration = Duration::from_secs(35);

/// Longest first body, bytes: a greeting, with a token of 8 KiB at most, and some requests.
const GREETING_BYTES_MAX: usize = 64 * 1024;

/// Answers a long-polling client.
///
/// # Errors
/// 410 for what names no session; 415, 413, 408 or 503 for its body; 503 when the shard does not
/// answer.
pub async fn respond(
    edge: &Edge,
    route: PollRoute,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let outcome = match route {
        PollRoute::Connect => connect(edge, headers, body).await?,
        PollRoute::Send => send(edge, headers, body).await?,
        PollRoute::Receive => {
            let session = session(edge, headers)?;
            let ask = PollRequest::Receive { session };
            edge.links.poll(session.shard, FRAMES_WITHIN, ask).await?
        }
        PollRoute::Disconnect => {
            let session = session(edge, headers)?;
            let ask = PollRequest::Disconnect { session };
            edge.links.poll(session.shard, ANSWER_WITHIN, ask).await?
        }
    };
    Ok(rest::polled(outcome))
}

async fn connect(edge: &Edge, headers: &HeaderMap, body: Incoming) -> Result<PollOutcome, Refusal> {
    let mut held = body::read(edge, headers, body, GREETING_BYTES_MAX).await?;
    let ask = PollRequest::Connect { bytes: std::mem::take(&mut held.bytes) };
    Ok(edge.links.poll(edge.next_shard(), ANSWER_WITHIN, ask).await?)
}

async fn send(edge: &Edge, headers: &HeaderMap, body: Incoming) -> Result<PollOutcome, Refusal> {
    let session = session(edge, headers)?;
    let bytes_max = edge.settings.limits.message_bytes_max;
    let mut held = body::read(edge, headers, body, bytes_max).await?;
    let ask = PollRequest::Send { session, bytes: std::mem::take(&mut held.bytes) };
    Ok(edge.links.poll(session.shard, ANSWER_WITHIN, ask).await?)
}

fn session(edge: &Edge, headers: &HeaderMap) -> Result<PollSession, Refusal> {
    let header = headers.get(rest::SESSION_HEADER).map(|value| value.as_bytes());
    rest::parse_session(header, edge.settings.router.shards())
}
