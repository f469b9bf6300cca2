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
use crate::admin::{self, AppApi, ChannelApi, ServerApi};
use crate::auth::{Key, TOKEN_TTL_MS_DEFAULT, mint};
use crate::ids::{ChannelKey, ConnAddr, ShardId};
use crate::rest::{Caller, Refusal, Reply, TOKEN_TTL_MS_MAX};
use crate::shard::{
    ChannelDetail, ChannelFilter, ChannelView, ConnectionFilter, Inspection, MemberPage,
    MemberView, Report, Slice, Subscribers,
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

const EVERYTHING: Bounds = (ListCursor::BEGINNING, usize::MAX, usize::MAX);

/// Handles a request about the server.
///
/// # Errors
/// The response.
pub async fn server(edge: &Edge, request: ServerApi, head: &Parts) -> Result<Reply, Refusal> {
    match request {
        ServerApi::OpenApi => Ok(Reply::json(api::OPENAPI.into())),
        ServerApi::Server => Ok(reply(&about(edge))),
        ServerApi::Health => Ok(health(edge)),
        ServerApi::Shards => Ok(reply(&api::shards(&edge.counters().await?))),
        ServerApi::Namespaces => Ok(reply(&api::namespaces(&edge.settings().policies))),
        ServerApi::Drain => {
            edge.shared.handle.drain();
            Ok(reply(&json!({ "draining": true })).with_status(202))
        }
        ServerApi::Connections => connections(edge, head.uri.query()).await,
        ServerApi::Connection(addr) => {
            let addr = known(edge, addr)?;
            let inspection = Inspection::Connection(addr.conn);
            let detail: Option<Box<_>> = edge.client.inspect(addr.shard, inspection).await?;
            Ok(reply(&api::connection_detail(&*detail.ok_or_else(gone)?)))
        }
        ServerApi::Disconnect(addr) => {
            let addr = known(edge, addr)?;
            match edge.client.inspect(addr.shard, Inspection::Disconnect(addr.conn)).await? {
                true => Ok(Reply::empty()),
                false => Err(gone()),
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

/// Handles a request about a channel, but for a watch and a trace. `key`: that of the sender;
/// `None` for the operator.
///
/// # Errors
/// The response.
pub async fn channel(
    edge: &Edge,
    key: Option<&Key>,
    (app, name): (&str, &str),
    request: ChannelApi,
    (head, body): (&Parts, Incoming),
) -> Result<Reply, Refusal> {
    match request {
        ChannelApi::Occupancy => occupancy(edge, app, name).await,
        ChannelApi::Members => members(edge, app, name, head.uri.query()).await,
        ChannelApi::Watch | ChannelApi::Trace => Err(Refusal::not_found()),
        ChannelApi::Publish => {
            let caller = key.map_or_else(|| Caller::Operator(app.into()), Caller::Key);
            rest::publish_as(edge, &caller, (&head.headers, body), name).await
        }
    }
}

fn reply(answer: &Value) -> Reply {
    Reply::json(answer.to_string().into_bytes())
}

fn gone() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "there is no such connection, or no longer")
}

fn known(edge: &Edge, addr: ConnAddr) -> Result<ConnAddr, Refusal> {
    if edge.settings().router.has(addr.shard) { Ok(addr) } else { Err(gone()) }
}

fn about(edge: &Edge) -> Value {
    let settings = edge.settings();
    let session = &settings.session;
    let apps = session.keyring.keys().iter().map(|key| &**key.app());
    let anonymous = session.anonymous.iter().map(|grant| &*grant.app);
    let apps: BTreeSet<&str> = apps.chain(anonymous).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": edge.started.elapsed().as_secs(),
        "shards": settings.router.shards(),
        "apps": apps,
        "listen": {
            "http": edge.shared.addresses.http,
            "sync_tcp": edge.shared.addresses.sync_tcp,
            "admin": edge.shared.addresses.admin,
        },
    })
}

fn health(edge: &Edge) -> Reply {
    let why_not = edge.why_not_ready();
    let answer = json!({
        "ready": why_not.is_none(),
        "reasons": Vec::from_iter(why_not),
        "log_lines_lost": edge.shared.log.lost(),
        "executor_stalls": edge.shared.health.stalls.load(Ordering::Relaxed),
    });
    reply(&answer).with_status(if why_not.is_none() { 200 } else { 503 })
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
    let (found, next) = page(edge, bounds, inspection).await?;
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
    walk(edge, EVERYTHING, inspection, add).await?;
    Ok(reply(&status.answer(asked)))
}

async fn channels(edge: &Edge, app: &str, query: Option<&str>) -> Result<Reply, Refusal> {
    let query = ListQuery::parse(query).map_err(Refusal::bad)?;
    let filter = Arc::new(ChannelFilter { app: app.into(), prefix: query.prefix.into() });
    let inspection = |from, limit| {
        let filter = Arc::clone(&filter);
        Inspection::Channels { filter, from, limit }
    };
    if query.is_count {
        let mut count = 0;
        let add = |found: Vec<ChannelView>| {
            count += found.len();
            count
        };
        walk(edge, EVERYTHING, inspection, add).await?;
        return Ok(reply(&json!({ "app": app, "count": count })));
    }
    let bounds = (query.cursor, query.limit, QUESTIONS_PER_PAGE);
    let (found, next) = page(edge, bounds, inspection).await?;
    Ok(reply(&api::page("channels", found.iter().map(api::channel).collect(), next)))
}

/// What is found from a place on, and where the next page begins.
async fn page<T>(
    edge: &Edge,
    bounds: Bounds,
    inspection: impl Fn(u32, usize) -> Inspection,
) -> Result<(Vec<T>, Option<ListCursor>), Refusal>
where
    Slice<T>: TryFrom<Report>,
{
    let mut page = Vec::new();
    let take = |found: Vec<T>| {
        page.extend(found);
        page.len()
    };
    let next = walk(edge, bounds, inspection, take).await?;
    Ok((page, next))
}

/// Asks one shard after the other, from a place on, until `limit` were taken, or `questions` were
/// asked. `take`: returns how many it has. Returns where to go on.
async fn walk<T>(
    edge: &Edge,
    (mut at, limit, questions): Bounds,
    inspection: impl Fn(u32, usize) -> Inspection,
    mut take: impl FnMut(Vec<T>) -> usize,
) -> Result<Option<ListCursor>, Refusal>
where
    Slice<T>: TryFrom<Report>,
{
    let _permit = edge.walks.acquire_permit(1).await.map_err(|_| Refusal::busy())?;
    let router = edge.settings().router;
    let (mut taken, mut asked) = (0, 0);
    while router.has(at.shard) && taken < limit && asked < questions {
        let inspection = inspection(at.slot, limit - taken);
        let slice: Slice<T> = edge.client.inspect(at.shard, inspection).await?;
        taken = take(slice.found);
        at = match slice.next {
            Some(slot) => ListCursor { slot, ..at },
            None => ListCursor { shard: ShardId(at.shard.0 + 1), slot: 0 },
        };
        asked += 1;
    }
    Ok(router.has(at.shard).then_some(at))
}

async fn occupancy(edge: &Edge, app: &str, name: &str) -> Result<Reply, Refusal> {
    let (key, owner) = edge.locate(&app.into(), name);
    let inspection = Inspection::Channel(Arc::clone(&key));
    let detail: Option<Box<ChannelDetail>> = edge.client.inspect(owner, inspection).await?;
    let mut subscribers = Subscribers::default();
    let homes = detail.iter().flat_map(|detail| &detail.view.homes);
    let of_edge = edge.settings().edge;
    for &home in homes.filter(|home| **home != of_edge) {
        let inspection = Inspection::Subscribers(Arc::clone(&key));
        subscribers += edge.client.inspect::<Subscribers>(home, inspection).await?;
    }
    Ok(reply(&api::occupancy(app, name, detail.as_deref(), subscribers)))
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
    let mut list = edge.client.members(owner, key, page).await?;
    let has_more = list.members.len() > limit;
    list.members.truncate(limit);
    let next = list.members.last().filter(|_| has_more).map(|member| member.joined);
    Ok(reply(&admin::members(app, channel, &list, next)))
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
        let found = edge.client.members(owner, Arc::clone(key), page).await?.members;
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
    let settings = edge.settings();
    let keys = settings.session.keyring.keys().iter();
    let mut refusal = Refusal::new(ErrorCode::NotFound, "there is no key of this app");
    for key in keys.filter(|key| **key.app() == *app) {
        match minted(key) {
            Ok(token) => return Ok(reply(&json!({ "token": token, "key": key.name() }))),
            Err(error) => refusal = error.into(),
        }
    }
    Err(refusal)
}
