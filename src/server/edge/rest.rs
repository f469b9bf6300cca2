//! REST: parses a request, calls the owner of its channel, writes the response.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request};

use super::client::Unavailable;
use super::{Edge, ask, body, poll};
use crate::auth::Operation;
use crate::channel::{Message, PageLimit, Position};
use crate::ids::presence_log;
use crate::policy::AdmitKind;
use crate::rest::{
    self, Caller, Direction, FreshId, HistoryQuery, Prefix, PresenceQuery, Refusal, Reply, Route,
};
use crate::session::Answer;
use crate::shard::{Command, MemberPage, Settings};

/// Bytes of messages on one page of history; the rest is on the next page.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Longest body of a token request, bytes.
const TOKEN_REQUEST_BYTES_MAX: usize = 64 * 1024;

impl From<Unavailable> for Refusal {
    fn from(_: Unavailable) -> Self {
        Refusal::no_answer()
    }
}

/// Handles a request of an application.
pub async fn respond(edge: &Edge, request: Request<Incoming>) -> Reply {
    answer(edge, request).await.unwrap_or_else(Reply::from)
}

async fn answer(edge: &Edge, request: Request<Incoming>) -> Result<Reply, Refusal> {
    if edge.shared.lifecycle.is_stopping() {
        return Err(Refusal::stopping());
    }
    let (head, body) = request.into_parts();
    match rest::route(head.method.as_str(), head.uri.path(), head.uri.query())? {
        Route::Preflight => Ok(Reply::preflight()),
        Route::Time => Ok(rest::time(edge.shared.clock.now().wall_ms)),
        Route::Publish { channel } => publish(edge, &head, body, &channel).await,
        Route::History { prefix, channel, query } => {
            history(edge, &head, &prefix, &channel, query).await
        }
        Route::Presence { channel, query } => presence(edge, &head, &channel, &query).await,
        Route::PresenceHistory { prefix, channel, query } => {
            presence_history(edge, &head, &prefix, &channel, query).await
        }
        Route::RequestToken { key_name } => request_token(edge, &head, body, &key_name).await,
        Route::Poll(route) => poll::respond(edge, route, &head.headers, body).await,
    }
}

fn identify<'s>(edge: &Edge, settings: &'s Settings, head: &Parts) -> Result<Caller<'s>, Refusal> {
    let header = head.headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let now_wall_ms = edge.shared.clock.now().wall_ms;
    let caller = Caller::identify(&settings.session.keyring, header, now_wall_ms);
    caller.inspect_err(|refusal| {
        refusal.cause().into_iter().for_each(|cause| edge.count_refusal(cause));
    })
}

async fn publish(
    edge: &Edge,
    head: &Parts,
    body: Incoming,
    channel: &str,
) -> Result<Reply, Refusal> {
    let settings = edge.settings();
    let caller = identify(edge, &settings, head)?;
    publish_as(edge, &caller, (&head.headers, body), channel).await
}

/// Publishes what a body says for a caller who is known.
///
/// # Errors
/// The response.
pub async fn publish_as(
    edge: &Edge,
    caller: &Caller<'_>,
    (headers, body): (&HeaderMap, Incoming),
    channel: &str,
) -> Result<Reply, Refusal> {
    let settings = edge.settings();
    let limits = &settings.limits;
    caller.check(channel, Operation::Publish, limits)?;
    let body = body::read(edge, headers, body, limits.message_bytes_max).await?;
    let now = edge.shared.clock.now();
    let fresh =
        FreshId { unix_nanos: now.wall_ms * 1_000_000, number: edge.client.number() as u32 };
    let draft = rest::parse_publish(caller, &body.bytes, fresh, limits.publish_bytes_max)?;
    ask::admit(edge, caller, AdmitKind::Publish, channel, &draft.client_id).await?;
    let id = draft.id.clone();
    let (key, owner) = edge.locate(caller.app(), channel);
    let command = |reply_to| Command::Publish { reply_to, draft: Box::new(draft) };
    match edge.client.call(owner, key, command).await? {
        Answer::Published { serial } => Ok(rest::published(channel, &id, serial)),
        answer => Err(refused(answer)),
    }
}

async fn history(
    edge: &Edge,
    head: &Parts,
    prefix: &Prefix,
    channel: &str,
    query: HistoryQuery,
) -> Result<Reply, Refusal> {
    let settings = edge.settings();
    let caller = identify(edge, &settings, head)?;
    caller.check(channel, Operation::History, &settings.limits)?;
    ask::admit(edge, &caller, AdmitKind::Subscribe, channel, &caller.user()).await?;
    let (messages, more) = page_of(edge, caller.app(), channel, query).await?;
    Ok(rest::history(prefix, channel, &query, &messages, more))
}

/// One page of a log; whether there is more.
async fn page_of(
    edge: &Edge,
    app: &Arc<str>,
    channel: &str,
    query: HistoryQuery,
) -> Result<(Vec<Arc<Message>>, bool), Refusal> {
    let (key, owner) = edge.locate(app, channel);
    let limit = PageLimit { messages: query.limit, bytes: PAGE_BYTES_MAX };
    let command = |reply_to| match query.direction {
        Direction::Backwards { before } => {
            Command::History { reply_to, before: before.map(Position::Serial), limit }
        }
        Direction::Forwards { after, .. } => Command::HistoryForward { reply_to, after, limit },
    };
    match edge.client.call(owner, key, command).await? {
        Answer::History { messages, more } => Ok((messages, more)),
        answer => Err(refused(answer)),
    }
}

async fn presence_history(
    edge: &Edge,
    head: &Parts,
    prefix: &Prefix,
    channel: &str,
    query: HistoryQuery,
) -> Result<Reply, Refusal> {
    let settings = edge.settings();
    let caller = identify(edge, &settings, head)?;
    caller.check(channel, Operation::PresenceSubscribe, &settings.limits)?;
    caller.check(channel, Operation::History, &settings.limits)?;
    ask::admit(edge, &caller, AdmitKind::Subscribe, channel, &caller.user()).await?;
    if settings.policies.for_channel(channel).presence_log.is_none() {
        return Err(Refusal::no_presence_history());
    }
    let (entries, more) = page_of(edge, caller.app(), &presence_log(channel), query).await?;
    Ok(rest::presence_history(prefix, channel, &query, &entries, more))
}

async fn presence(
    edge: &Edge,
    head: &Parts,
    channel: &str,
    query: &PresenceQuery,
) -> Result<Reply, Refusal> {
    let settings = edge.settings();
    let caller = identify(edge, &settings, head)?;
    caller.check(channel, Operation::PresenceSubscribe, &settings.limits)?;
    ask::admit(edge, &caller, AdmitKind::Subscribe, channel, &caller.user()).await?;
    let (key, owner) = edge.locate(caller.app(), channel);
    Ok(rest::presence(query, &edge.client.members(owner, key, MemberPage::ALL).await?.members))
}

async fn request_token(
    edge: &Edge,
    head: &Parts,
    body: Incoming,
    key_name: &str,
) -> Result<Reply, Refusal> {
    let settings = edge.settings();
    let key = identify(edge, &settings, head)?.key_named(key_name)?;
    let body = body::read(edge, &head.headers, body, TOKEN_REQUEST_BYTES_MAX).await?;
    rest::request_token(key, &body.bytes, edge.shared.clock.now().wall_ms)
}

pub fn refused(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused(reject) => reject.into(),
        _ => Refusal::no_answer(),
    }
}
