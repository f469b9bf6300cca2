//! Long-polling: forwards requests to the shard that holds the session, and returns its frames.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::body::Incoming;

use super::ask::hook_timeout;
use super::client::ANSWER_WITHIN;
use super::{Edge, body};
use crate::rest::{self, PollRoute, Refusal, Reply};
use crate::shard::{PollOutcome, PollRequest, PollSession};

/// Timeout of a poll for frames. The shard answers an empty poll after some 25 s; clients give up
/// after 40 s.
const FRAMES_WITHIN: Duration = Duration::from_secs(35);

/// Longest first body, bytes: a greeting with a token of at most 8 KiB, and some requests.
const GREETING_BYTES_MAX: usize = 64 * 1024;

/// Handles a long-polling request.
///
/// # Errors
/// 410 without a known session; 415, 413, 408 or 503 for the body; 503 when the shard does not
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
            edge.client.poll(session.shard, FRAMES_WITHIN, ask).await?
        }
        PollRoute::Disconnect => {
            let session = session(edge, headers)?;
            let ask = PollRequest::Disconnect { session };
            edge.client.poll(session.shard, ANSWER_WITHIN, ask).await?
        }
    };
    Ok(rest::polled(outcome))
}

async fn connect(edge: &Edge, headers: &HeaderMap, body: Incoming) -> Result<PollOutcome, Refusal> {
    let mut held = body::read(edge, headers, body, GREETING_BYTES_MAX).await?;
    let ask = PollRequest::Connect { bytes: std::mem::take(&mut held.bytes) };
    let within = ANSWER_WITHIN + hook_timeout(edge);
    Ok(edge.client.poll(edge.next_shard(), within, ask).await?)
}

async fn send(edge: &Edge, headers: &HeaderMap, body: Incoming) -> Result<PollOutcome, Refusal> {
    let session = session(edge, headers)?;
    let bytes_max = edge.settings().limits.message_bytes_max;
    let mut held = body::read(edge, headers, body, bytes_max).await?;
    let ask = PollRequest::Send { session, bytes: std::mem::take(&mut held.bytes) };
    Ok(edge.client.poll(session.shard, ANSWER_WITHIN, ask).await?)
}

fn session(edge: &Edge, headers: &HeaderMap) -> Result<PollSession, Refusal> {
    let header = headers.get(rest::SESSION_HEADER).map(|value| value.as_bytes());
    rest::parse_session(header, edge.settings().router.shards())
}
