//! The admin API as JSON: what requests say, and what is answered. `openapi.json` describes it.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use serde_json::{Number, Value, json};

use crate::auth::Capability;
use crate::counters::Counters;
use crate::ids::ShardId;
use crate::policy::{Pattern, Policies, Policy};
use crate::shard::{
    ChannelDetail, ChannelView, ConnectionDetail, ConnectionView, Phase, Subscribers,
};

/// The description of the API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// Items of a page when the request does not say, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Users of one request for their status.
const USERS_MAX: usize = 1000;

/// Connections that are named of one user.
const CONNECTIONS_NAMED: usize = 16;

/// Where a list that spans the shards goes on: a shard, and a slot of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListCursor {
    pub shard: ShardId,
    pub slot: u32,
}

impl ListCursor {
    pub const BEGINNING: ListCursor = ListCursor { shard: ShardId(0), slot: 0 };
}

/// The query of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct ListQuery {
    pub limit: usize,
    pub cursor: ListCursor,
    /// Of the names of channels.
    pub prefix: String,
    pub app: Option<String>,
    pub user: Option<String>,
    /// Only how many there are.
    pub is_count: bool,
}

impl ListQuery {
    /// # Errors
    /// What is wrong with the query.
    pub fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut parsed = ListQuery {
            limit: LIMIT_DEFAULT,
            cursor: ListCursor::BEGINNING,
            prefix: String::new(),
            app: None,
            user: None,
            is_count: false,
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "limit" => parsed.limit = limit(&value)?,
                "cursor" => parsed.cursor = cursor(&value)?,
                "prefix" => parsed.prefix = value.into_owned(),
                "app" => parsed.app = Some(value.into_owned()),
                "user" => parsed.user = Some(value.into_owned()),
                "count" => parsed.is_count = flag(&value)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// The query of a list of members.
#[derive(Debug, PartialEq, Eq)]
pub struct MembersQuery {
    /// `None`: all of them.
    pub limit: Option<NonZeroUsize>,
    /// The place in join order that the page begins behind.
    pub after: u64,
    /// Milliseconds since the Unix epoch; `None`: now.
    pub at_ms: Option<u64>,
    pub by: MembersBy,
}

/// What an entry of a list of members is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MembersBy {
    #[default]
    Connection,
    /// One entry for all connections of a user.
    User,
}

impl MembersQuery {
    /// # Errors
    /// What is wrong with the query.
    pub fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut parsed =
            MembersQuery { limit: None, after: 0, at_ms: None, by: MembersBy::default() };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "limit" => parsed.limit = NonZeroUsize::new(limit(&value)?),
                "cursor" => parsed.after = number("cursor", &value)?,
                "at" => {
                    let at = value.parse();
                    let why = |_| "`at` must be milliseconds since the Unix epoch".to_owned();
                    parsed.at_ms = Some(at.map_err(why)?);
                }
                "by" => {
                    parsed.by = match &*value {
                        "connection" => MembersBy::Connection,
                        "user" => MembersBy::User,
                        _ => return Err("`by` must be `connection` or `user`".to_owned()),
                    }
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{name}` must be a number, as an answer gave it"))
}

fn limit(value: &str) -> Result<usize, String> {
    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| format!("`limit` must be a number from 1 to {LIMIT_MAX}"))
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "`count` must be `true` or `false`".to_owned())
}

/// `shard.slot`.
fn cursor(value: &str) -> Result<ListCursor, String> {
    let parts = value.split_once('.');
    let parsed = parts.and_then(|(shard, slot)| {
        Some(ListCursor { shard: ShardId(shard.parse().ok()?), slot: slot.parse().ok()? })
    });
    parsed.ok_or_else(|| "`cursor` must be one that an answer gave as `next`".to_owned())
}

/// A request for the status of users.
#[derive(Debug, Deserialize)]
pub struct UsersBody {
    pub users: Vec<Box<str>>,
}

impl UsersBody {
    /// # Errors
    /// What is wrong with the body.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let parsed: UsersBody = serde_json::from_slice(body)
            .map_err(|error| format!("the body must be {{\"users\": [...]}}: {error}"))?;
        match parsed.users.len() {
            0..=USERS_MAX => Ok(parsed),
            _ => Err(format!("at most {USERS_MAX} users can be asked about at once")),
        }
    }

    /// Each of them once.
    pub fn names(&self) -> HashSet<Box<str>> {
        self.users.iter().cloned().collect()
    }
}

/// A request for a token.
#[derive(Debug, Deserialize)]
pub struct TokenBody {
    pub user: String,
    #[serde(default, deserialize_with = "whole")]
    pub ttl_ms: Option<u64>,
    /// That of the key without one.
    pub capability: Option<Capability>,
}

/// A whole number, also one that is written as `1.0`: in JSON the two are the same.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(None) };
    let of_float = |value: f64| {
        let is_whole = value.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER).contains(&value);
        is_whole.then_some(value as u64)
    };
    let found = number.as_u64().or_else(|| number.as_f64().and_then(of_float));
    let wrong = || de::Error::custom(format_args!("{number} is no whole number from 0 on"));
    found.map(Some).ok_or_else(wrong)
}

/// The largest number up to which every whole one is a double.
const MAX_SAFE_INTEGER: f64 = ((1u64 << 53) - 1) as f64;

impl TokenBody {
    /// # Errors
    /// What is wrong with the body.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body)
            .map_err(|error| format!("the body must be {{\"user\": ...}}: {error}"))
    }
}

/// A page of a list. `items`: its key.
pub fn page(items: &str, list: Vec<Value>, next: Option<ListCursor>) -> Value {
    let next = next.map(|ListCursor { shard, slot }| format!("{shard}.{slot}"));
    json!({ items: list, "next": next })
}

/// A channel in a list.
pub fn channel(view: &ChannelView) -> Value {
    let homes: Vec<u16> = view.homes.iter().map(|shard| shard.0).collect();
    json!({
        "channel": &*view.key.name,
        "shard": view.owner.0,
        "members": view.members,
        "subscriber_shards": homes,
        "serial": view.serial,
        "history_bytes": view.history_bytes,
    })
}

/// Who is in a channel, in numbers. `detail`: `None` when nobody is, and nothing is stored.
pub fn occupancy(
    app: &str,
    name: &str,
    detail: Option<&ChannelDetail>,
    subscribers: Subscribers,
) -> Value {
    let view = detail.map(|detail| &detail.view);
    json!({
        "app": app,
        "channel": name,
        "exists": view.is_some(),
        "shard": view.map(|view| view.owner.0),
        "members": view.map_or(0, |view| view.members),
        "users": detail.map_or(0, |detail| detail.users),
        "message_subscribers": subscribers.messages,
        "presence_subscribers": subscribers.presence,
        "serial": view.map_or(0, |view| view.serial),
        "history_bytes": view.map_or(0, |view| view.history_bytes),
    })
}

/// A connection in a list.
pub fn connection(view: &ConnectionView) -> Value {
    json!({
        "connection": view.addr.to_string(),
        "name": view.name,
        "app": &*view.app,
        "user": &*view.user,
        "protocol": view.protocol,
        "transport": view.transport,
        "phase": view.phase.label(),
        "subscriptions": view.subscriptions,
        "memberships": view.memberships,
        "queue_bytes": view.queue_bytes,
        "unanswered": view.unanswered,
        "silent_ms": view.silent_ms,
        "greeted_ms": view.greeted_ms,
    })
}

/// One connection with what it takes part in.
pub fn connection_detail(detail: &ConnectionDetail) -> Value {
    let mut answer = connection(&detail.view);
    let subscribed = detail.subscribed.iter().map(
        |(key, feed)| json!({ "app": &*key.app, "channel": &*key.name, "feed": feed.label() }),
    );
    let member_of = detail.member_of.iter();
    let member_of = member_of.map(|key| json!({ "app": &*key.app, "channel": &*key.name }));
    answer["subscribed"] = subscribed.collect();
    answer["member_of"] = member_of.collect();
    answer["blocked"] = detail.is_blocked.into();
    answer["behind"] = detail.is_behind.into();
    answer
}

/// The connections of users that were asked about.
#[derive(Debug, Default)]
pub struct UserStatus(HashMap<Arc<str>, OfUser>);

#[derive(Debug, Default)]
struct OfUser {
    connections: usize,
    /// Of the first ones.
    names: Vec<String>,
}

impl UserStatus {
    /// Counts connections whose sessions have begun, and have not ended.
    pub fn add(&mut self, found: Vec<ConnectionView>) {
        let is_connected =
            |view: &ConnectionView| view.greeted_ms.is_some() && view.phase != Phase::Closing;
        for view in found.into_iter().filter(is_connected) {
            let own = self.0.entry(view.user).or_default();
            own.connections += 1;
            if own.names.len() < CONNECTIONS_NAMED {
                own.names.push(view.addr.to_string());
            }
        }
    }

    /// In the order of the request.
    pub fn answer(&self, asked: &UsersBody) -> Value {
        let status = |user: &str| {
            let own = self.0.get(user);
            let connections = own.map_or(0, |own| own.connections);
            json!({
                "user": user,
                "online": connections > 0,
                "connections": connections,
                "connection_names": own.map_or(&[][..], |own| &own.names),
            })
        };
        json!({ "users": asked.users.iter().map(|user| status(user)).collect::<Vec<_>>() })
    }
}

/// The namespaces as they are in effect, in the order in which they are looked at.
pub fn namespaces(policies: &Policies) -> Value {
    let namespace = |(pattern, policy): (&Pattern, &Policy)| {
        let mut keys = serde_json::to_value(policy).unwrap_or_default();
        keys["match"] = pattern.to_string().into();
        keys
    };
    let fallback = policies.fallback();
    let fallback = fallback.iter().map(|(pattern, policy)| (pattern, *policy));
    let rules = policies.rules.iter().map(|(pattern, policy)| (pattern, &**policy));
    json!({ "namespaces": rules.chain(fallback).map(namespace).collect::<Vec<_>>() })
}

/// The counts of every shard, in shard order.
pub fn shards(shards: &[Counters]) -> Value {
    let shard = |(number, counters): (usize, &Counters)| {
        let mut counts = super::metrics::counts(counters);
        counts["shard"] = number.into();
        counts
    };
    json!({ "shards": shards.iter().enumerate().map(shard).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::super::routes::{Route, Surface, route};
    use super::*;

    #[test]
    fn queries_are_read_or_refused() {
        let parse = |query| ListQuery::parse(Some(query));
        let query = parse("limit=2&cursor=1.30&prefix=chat%3A&app=demo&user=ann&count=true&x=1");
        let expected = ListQuery {
            limit: 2,
            cursor: ListCursor { shard: ShardId(1), slot: 30 },
            prefix: "chat:".to_owned(),
            app: Some("demo".to_owned()),
            user: Some("ann".to_owned()),
            is_count: true,
        };
        assert_eq!(query, Ok(expected));
        for bad in
            ["limit=0", "limit=1001", "limit=x", "cursor=", "cursor=1", "cursor=1.x", "count=1"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in ["limit=0", "by=x", "at=yesterday", "cursor=a"] {
            assert!(MembersQuery::parse(Some(bad)).is_err(), "{bad}");
        }
        let members = MembersQuery::parse(Some("by=user&at=5&cursor=7&limit=3")).unwrap();
        assert_eq!((members.by, members.at_ms, members.after), (MembersBy::User, Some(5), 7));
        assert_eq!(members.limit, NonZeroUsize::new(3));
    }

    #[test]
    fn the_description_names_what_is_routed() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let mut described = 0;
        for (path, item) in paths {
            let names = [("{app}", "demo"), ("{channel}", "a"), ("{connection}", "0.1.2")];
            let filled = names.iter().fold(path.clone(), |path, (name, is)| path.replace(name, is));
            for method in ["get", "post", "put", "patch", "delete"] {
                let routed = route(Surface::Admin, &method.to_uppercase(), &filled);
                let is_routed = matches!(routed, Route::Api(_));
                assert_eq!(item.get(method).is_some(), is_routed, "{method} {path}");
                described += usize::from(is_routed);
            }
        }
        assert_eq!(described, 17, "one for each request that is routed");
    }

    #[test]
    fn bodies_are_bounded() {
        let users = |count: usize| {
            let users: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            UsersBody::parse(json!({ "users": users }).to_string().as_bytes())
        };
        assert_eq!(users(USERS_MAX).unwrap().users.len(), USERS_MAX);
        assert!(users(USERS_MAX + 1).is_err());
        assert!(UsersBody::parse(b"[]").is_err());
        assert!(TokenBody::parse(b"{}").is_err());
        assert!(TokenBody::parse(br#"{"user":"a","capability":{"*":["*"]}}"#).is_ok());
    }
}
