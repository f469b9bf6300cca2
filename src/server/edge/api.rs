//! The admin API: asks the shards, and answers in JSON.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::rest;
use super::{Edge, body, members_at};
use crate::admin::api::{
    self, ListCursor, ListQuery, MembersBy, MembersQuery, TokenBody, UserStatus, UsersBody,
};
use crate::admin::{self, AppApi, ChannelApi, Sender, ServerApi};
use crate::auth::{Key, TOKEN_TTL_MS_DEFAULT, mint};
use crate::ids::{ChannelKey, ConnAddr, ShardId};
use crate::rest::{Caller, Refusal, Reply, TOKEN_TTL_MS_MAX};
use crate::server::lifecycle::Phase;
use crate::shard::{
    ChannelFilter, ConnectionFilter, ConnectionView, Inspection, MemberPage, MemberView, Report,
    Slice, Subscribers,
};
use crate::wire::foony::ErrorCode;

/// Longest body of a request, bytes, but for a publish.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// Questions to shards for one page. A page of which more would be needed ends early.
const QUESTIONS_PER_PAGE: usize = 256;

/// Members that an owner is asked for at once, where all are wanted.
const MEMBERS_AT_ONCE: usize = 1000;

/// From where on, how much, and how many questions.
type Bounds = (ListCursor, usize, usize);

const EVERYTHING: Bounds = (ListCursor { shard: 0, slot: 0 }, usize::MAX, usize::MAX);

/// Handles a request about the server.
///
/// # Errors
/// The response.
pub async fn server(edge: &Edge, request: ServerApi, head: &Parts) -> Result<Reply, Refusal> {
    match request {
        ServerApi::OpenApi => Ok(Reply::json(api::OPENAPI.into())),
        ServerApi::Server => Ok(reply(&about(edge))),
        ServerApi::Health => Ok(health(edge)),
        ServerApi::Shards => {
            let mut counters = Vec::new();
            for shard in shards(edge) {
                counters.push(edge.client.counters(shard).await?);
            }
            Ok(reply(&api::shards(&counters)))
        }
        ServerApi::Namespaces => Ok(reply(&api::namespaces(&edge.shared.settings.policies))),
        ServerApi::Drain => {
            edge.shared.stop.drain();
            Ok(reply(&json!({ "draining": true })).with_status(202))
        }
        ServerApi::Connections => connections(edge, head.uri.query()).await,
        ServerApi::Connection(addr) => {
            let addr = known(edge, addr)?;
            match edge.client.inspect(addr.shard, Inspection::Connection(addr.conn)).await? {
                Report::Connection(Some(detail)) => Ok(reply(&api::connection_detail(&detail))),
                _ => Err(gone()),
            }
        }
        ServerApi::Disconnect(addr) => {
            let addr = known(edge, addr)?;
            match edge.client.inspect(addr.shard, Inspection::Disconnect(addr.conn)).await? {
                Report::Disconnected(true) => Ok(Reply::empty()),
                _ => Err(gone()),
            }
        }
    }
}

/// Handles a request about an app.
///
/// # Errors
/// The response.
pub async fn app(
    edge: &Edge,
    name: &str,
    request: AppApi,
    head: &Parts,
    body: Incoming,
) -> Result<Reply, Refusal> {
    match request {
        AppApi::Channels => channels(edge, name, head.uri.query()).await,
        AppApi::UserStatus => {
            let body = body::read(edge, &head.headers, body, BODY_BYTES_MAX).await?;
            let asked = UsersBody::parse(&body.bytes).map_err(Refusal::bad)?;
            user_status(edge, name, &asked).await
        }
        AppApi::Token => {
            let body = body::read(edge, &head.headers, body, BODY_BYTES_MAX).await?;
            token(edge, name, &TokenBody::parse(&body.bytes).map_err(Refusal::bad)?)
        }
    }
}

/// Handles a request about a channel, but for a watch.
///
/// # Errors
/// The response.
pub async fn channel(
    edge: &Edge,
    sender: Sender<'_>,
    (app, name): (&str, &str),
    request: ChannelApi,
    (head, body): (&Parts, Incoming),
) -> Result<Reply, Refusal> {
    match request {
        ChannelApi::Occupancy => occupancy(edge, app, name).await,
        ChannelApi::Members => members(edge, app, name, head.uri.query()).await,
        ChannelApi::Watch => Err(Refusal::not_found()),
        ChannelApi::Publish => {
            let caller = match sender {
                Sender::Operator => Caller::Operator(app.into()),
                Sender::Key(key) => Caller::Key(key),
            };
            rest::publish_as(edge, &caller, (&head.headers, body), name).await
        }
    }
}

fn reply(answer: &Value) -> Reply {
    Reply::json(answer.to_string().into_bytes())
}

fn shards(edge: &Edge) -> impl Iterator<Item = ShardId> + use<> {
    (0..edge.shared.settings.router.shards()).map(ShardId)
}

fn gone() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "there is no such connection, or no longer")
}

fn known(edge: &Edge, addr: ConnAddr) -> Result<ConnAddr, Refusal> {
    api::known_connection(addr, edge.shared.settings.router.shards()).ok_or_else(gone)
}

fn about(edge: &Edge) -> Value {
    let session = &edge.shared.settings.session;
    let apps = session.keyring.keys().iter().map(|key| &**key.app());
    let anonymous = session.anonymous.iter().map(|grant| &*grant.app);
    let apps: BTreeSet<&str> = apps.chain(anonymous).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": edge.started.elapsed().as_secs(),
        "shards": edge.shared.settings.router.shards(),
        "apps": apps,
        "listen": {
            "http": edge.shared.addresses.http,
            "sync_tcp": edge.shared.addresses.sync_tcp,
            "admin": edge.shared.addresses.admin,
        },
    })
}

fn health(edge: &Edge) -> Reply {
    let silent = edge.shared.health.silent.load(Ordering::Relaxed);
    let stalled = format!("{silent} executors are stalled");
    let reasons: Vec<&str> = match (edge.shared.lifecycle.phase(), silent) {
        (Phase::Ready, 0) => Vec::new(),
        (Phase::Ready, _) => vec![&stalled],
        (Phase::Starting, _) => vec!["the server is starting"],
        (Phase::Leaving | Phase::Stopping, _) => vec!["the server is draining"],
    };
    let is_ready = reasons.is_empty();
    let answer = json!({
        "ready": is_ready,
        "reasons": reasons,
        "log_lines_lost": edge.shared.log.lost(),
        "executor_stalls": edge.shared.health.stalls.load(Ordering::Relaxed),
    });
    reply(&answer).with_status(if is_ready { 200 } else { 503 })
}

async fn connections(edge: &Edge, query: Option<&str>) -> Result<Reply, Refusal> {
    let query = ListQuery::parse(query).map_err(Refusal::bad)?;
    let app = query.app.as_deref().map(Arc::from);
    let users = query.user.as_deref().map(|user| [user.into()].into());
    let filter = Arc::new(ConnectionFilter { app, users });
    let inspection = |from, limit| {
        let filter = Arc::clone(&filter);
        Inspection::Connections { filter, from, limit }
    };
    let bounds = (query.cursor, query.limit, QUESTIONS_PER_PAGE);
    let (found, next) = page(edge, bounds, inspection, connection_slice).await?;
    Ok(reply(&api::page("connections", found.iter().map(api::connection).collect(), next)))
}

async fn user_status(edge: &Edge, app: &str, asked: &UsersBody) -> Result<Reply, Refusal> {
    let (app, users) = (Some(app.into()), Some(asked.names()));
    let filter = Arc::new(ConnectionFilter { app, users });
    let inspection = |from, limit| {
        let filter = Arc::clone(&filter);
        Inspection::Connections { filter, from, limit }
    };
    let mut status = UserStatus::default();
    let add = |found| {
        status.add(found);
        0
    };
    walk(edge, EVERYTHING, inspection, connection_slice, add).await?;
    Ok(reply(&status.answer(asked)))
}

fn connection_slice(report: Report) -> Option<Slice<ConnectionView>> {
    match report {
        Report::Connections(slice) => Some(slice),
        _ => None,
    }
}

async fn channels(edge: &Edge, app: &str, query: Option<&str>) -> Result<Reply, Refusal> {
    let query = ListQuery::parse(query).map_err(Refusal::bad)?;
    let filter = Arc::new(ChannelFilter { app: app.into(), prefix: query.prefix.into() });
    let inspection = |from, limit| {
        let filter = Arc::clone(&filter);
        Inspection::Channels { filter, from, limit }
    };
    let slice = |report| match report {
        Report::Channels(slice) => Some(slice),
        _ => None,
    };
    if query.is_count {
        let mut count = 0;
        let add = |found: Vec<_>| {
            count += found.len();
            count
        };
        walk(edge, EVERYTHING, inspection, slice, add).await?;
        return Ok(reply(&json!({ "app": app, "count": count })));
    }
    let (found, next) =
        page(edge, (query.cursor, query.limit, QUESTIONS_PER_PAGE), inspection, slice).await?;
    Ok(reply(&api::page("channels", found.iter().map(api::channel).collect(), next)))
}

/// What is found from a place on, and where the next page begins.
async fn page<T>(
    edge: &Edge,
    bounds: Bounds,
    inspection: impl Fn(u32, usize) -> Inspection,
    slice: impl Fn(Report) -> Option<Slice<T>>,
) -> Result<(Vec<T>, Option<ListCursor>), Refusal> {
    let mut page = Vec::new();
    let take = |found: Vec<T>| {
        page.extend(found);
        page.len()
    };
    let next = walk(edge, bounds, inspection, slice, take).await?;
    Ok((page, next))
}

/// Asks one shard after the other, from a place on, until `limit` were taken, or `questions` were
/// asked. `take`: returns how many it has. Returns where to go on.
async fn walk<T>(
    edge: &Edge,
    (mut at, limit, questions): Bounds,
    inspection: impl Fn(u32, usize) -> Inspection,
    slice: impl Fn(Report) -> Option<Slice<T>>,
    mut take: impl FnMut(Vec<T>) -> usize,
) -> Result<Option<ListCursor>, Refusal> {
    let _permit = edge.walks.acquire_permit(1).await.map_err(|_| Refusal::busy())?;
    let shards = edge.shared.settings.router.shards();
    let mut taken = 0;
    for _ in 0..questions {
        let Some(shard) = api::shard_of(at, shards) else { return Ok(None) };
        let report = edge.client.inspect(shard, inspection(at.slot, limit - taken)).await?;
        let Slice { found, next } = slice(report).ok_or_else(Refusal::no_answer)?;
        taken = take(found);
        at = match next {
            Some(slot) => ListCursor { slot, ..at },
            None => ListCursor { shard: at.shard + 1, slot: 0 },
        };
        if taken >= limit {
            break;
        }
    }
    Ok(api::shard_of(at, shards).map(|_| at))
}

async fn occupancy(edge: &Edge, app: &str, name: &str) -> Result<Reply, Refusal> {
    let (key, owner) = edge.locate(&app.into(), name);
    let detail = match edge.client.inspect(owner, Inspection::Channel(Arc::clone(&key))).await? {
        Report::Channel(detail) => detail,
        _ => return Err(Refusal::no_answer()),
    };
    let mut subscribers = Subscribers::default();
    let homes = detail.iter().flat_map(|detail| &detail.view.homes);
    for &home in homes.filter(|home| **home != edge.shared.settings.edge) {
        subscribers += of_home(edge, home, &key).await?;
    }
    Ok(reply(&api::occupancy(app, name, detail.as_deref(), subscribers)))
}

async fn of_home(
    edge: &Edge,
    home: ShardId,
    key: &Arc<ChannelKey>,
) -> Result<Subscribers, Refusal> {
    match edge.client.inspect(home, Inspection::Subscribers(Arc::clone(key))).await? {
        Report::Subscribers(subscribers) => Ok(subscribers),
        _ => Err(Refusal::no_answer()),
    }
}

async fn members(
    edge: &Edge,
    app: &str,
    channel: &str,
    query: Option<&str>,
) -> Result<Reply, Refusal> {
    let query = MembersQuery::parse(query).map_err(Refusal::bad)?;
    if let Some(at_ms) = query.at_ms {
        return members_at::respond(edge, app, channel, at_ms).await;
    }
    let (key, owner) = edge.locate(&app.into(), channel);
    if query.by == MembersBy::User {
        let members = all_members(edge, owner, &key).await?;
        return Ok(reply(&admin::users(app, channel, &members)));
    }
    let limit = query.limit.map_or(usize::MAX, usize::from);
    // One more tells whether there is a next page.
    let page = MemberPage { after: query.after, limit: limit.saturating_add(1) };
    let mut members = edge.client.members(owner, key, page).await?;
    let has_more = members.len() > limit;
    members.truncate(limit);
    let next = members.last().filter(|_| has_more).map(|member| member.joined);
    Ok(reply(&admin::members(app, channel, &members, next)))
}

/// All members, a page at a time.
async fn all_members(
    edge: &Edge,
    owner: ShardId,
    key: &Arc<ChannelKey>,
) -> Result<Vec<MemberView>, Refusal> {
    let mut members: Vec<MemberView> = Vec::new();
    loop {
        let after = members.last().map_or(0, |member| member.joined);
        let page = MemberPage { after, limit: MEMBERS_AT_ONCE };
        let found = edge.client.members(owner, Arc::clone(key), page).await?;
        let is_last = found.len() < MEMBERS_AT_ONCE;
        members.extend(found);
        if is_last {
            return Ok(members);
        }
    }
}

/// A token that the first key of the app which can mint it mints.
fn token(edge: &Edge, app: &str, asked: &TokenBody) -> Result<Reply, Refusal> {
    let ttl_ms = asked.ttl_ms.unwrap_or(TOKEN_TTL_MS_DEFAULT).min(TOKEN_TTL_MS_MAX);
    let now_ms = edge.shared.clock.now().wall_ms;
    let minted = |key: &Key| {
        let capability = asked.capability.as_ref().unwrap_or(key.capability());
        mint(key, &asked.user, capability, now_ms, ttl_ms)
    };
    let keys = edge.shared.settings.session.keyring.keys().iter();
    let mut refusal = Refusal::new(ErrorCode::NotFound, "there is no key of this app");
    for key in keys.filter(|key| **key.app() == *app) {
        match minted(key) {
            Ok(token) => return Ok(reply(&json!({ "token": token, "key": key.name() }))),
            Err(error) => refusal = error.into(),
        }
    }
    Err(refusal)
}
