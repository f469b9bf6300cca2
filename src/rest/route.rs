//! Routes of the REST API.
//!
//! A route is matched by the last segments of the path. What precedes them is the prefix under
//! which a proxy publishes the server, if it does not strip it.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::poll::PollRoute;
use super::query::{HistoryQuery, PresenceQuery};
use super::refusal::Refusal;

/// A request. Names are percent-decoded and not yet validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A CORS preflight.
    Preflight,
    Time,
    Publish {
        channel: String,
    },
    History {
        prefix: Prefix,
        channel: String,
        query: HistoryQuery,
    },
    Presence {
        channel: String,
        query: PresenceQuery,
    },
    PresenceHistory {
        prefix: Prefix,
        channel: String,
        query: HistoryQuery,
    },
    RequestToken {
        key_name: String,
    },
    Poll(PollRoute),
}

/// The prefix of a path: empty, or segments with a slash before each. Escaped for use in a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(String);

/// Longest prefix in bytes. A path with a longer one is not found.
const PREFIX_BYTES_MAX: usize = 1024;

/// Escapes what would end a link or its target. Existing escapes are kept.
const IN_LINK: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b'<').add(b'>');

impl Prefix {
    /// The part before the last `segments` of a path. `None` for an empty segment: a link that
    /// begins with two slashes would refer to another host.
    fn before(segments: usize, path: &str) -> Option<Prefix> {
        let prefix = path.rsplitn(segments + 1, '/').nth(segments)?;
        let is_prefix = prefix.is_empty()
            || (prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains("//"));
        let fits = prefix.len() <= PREFIX_BYTES_MAX;
        (is_prefix && fits).then(|| Prefix(utf8_percent_encode(prefix, IN_LINK).to_string()))
    }

    /// The prefix for links. Some clients resolve a link against the URL of their request; others
    /// (`protocols/foony.md` section 1.3) append it to their base address, which repeats the
    /// prefix. A repeated prefix is used once, so that it does not grow with every page.
    pub fn as_link(&self) -> &str {
        match self.0.split_at_checked(self.0.len() / 2) {
            Some((half, rest)) if half == rest => half,
            _ => &self.0,
        }
    }
}

/// Routes a request. `path` and `query` are percent-encoded.
///
/// # Errors
/// 404, 405, or 400 for an invalid query.
pub fn route(method: &str, path: &str, query: Option<&str>) -> Result<Route, Refusal> {
    let method = match method {
        "OPTIONS" => return Ok(Route::Preflight),
        // The same response; hyper omits its body.
        "HEAD" => "GET",
        method => method,
    };
    if let Some(channel_path) = path.strip_suffix("/presence/history") {
        return presence_history(method, channel_path, query);
    }
    let mut from_the_end = path.rsplit('/');
    let last = from_the_end.next().unwrap_or_default();
    let middle = from_the_end.next().ok_or_else(Refusal::not_found)?;
    let segments = match (from_the_end.next(), middle, last) {
        (Some("channels"), _, "messages" | "presence") | (Some("keys"), _, "requestToken") => 3,
        (_, "lp", "connect" | "send" | "poll" | "disconnect") => 2,
        (_, _, "time") => 1,
        _ => return Err(Refusal::not_found()),
    };
    let prefix = Prefix::before(segments, path).ok_or_else(Refusal::not_found)?;
    let name = decode(middle);
    match (last, method) {
        ("time", "GET") => Ok(Route::Time),
        ("messages", "POST") => Ok(Route::Publish { channel: name }),
        ("messages", "GET") => {
            Ok(Route::History { prefix, channel: name, query: HistoryQuery::parse(query)? })
        }
        ("presence", "GET") => {
            Ok(Route::Presence { channel: name, query: PresenceQuery::parse(query)? })
        }
        ("requestToken", "POST") => Ok(Route::RequestToken { key_name: name }),
        ("connect", "POST") => Ok(Route::Poll(PollRoute::Connect)),
        ("send", "POST") => Ok(Route::Poll(PollRoute::Send)),
        ("poll", "POST") => Ok(Route::Poll(PollRoute::Receive)),
        ("disconnect", "POST") => Ok(Route::Poll(PollRoute::Disconnect)),
        ("messages", _) => Err(Refusal::method("GET, HEAD, POST, OPTIONS")),
        ("time" | "presence", _) => Err(Refusal::method("GET, HEAD, OPTIONS")),
        _ => Err(Refusal::method("POST, OPTIONS")),
    }
}

/// `{prefix}/channels/{channel}` was requested with `/presence/history` behind it.
fn presence_history(method: &str, path: &str, query: Option<&str>) -> Result<Route, Refusal> {
    let (rest, channel) = path.rsplit_once('/').ok_or_else(Refusal::not_found)?;
    if rest.rsplit('/').next() != Some("channels") {
        return Err(Refusal::not_found());
    }
    let prefix = Prefix::before(2, path).ok_or_else(Refusal::not_found)?;
    if method != "GET" {
        return Err(Refusal::method("GET, HEAD, OPTIONS"));
    }
    let (channel, query) = (decode(channel), HistoryQuery::parse(query)?);
    Ok(Route::PresenceHistory { prefix, channel, query })
}

/// Decodes once. Invalid UTF-8 becomes replacement characters, which no name may contain.
fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::Reply;
    use crate::rest::query::Direction;

    fn history(channel: &str) -> Route {
        let direction = Direction::Backwards { before: None };
        let query = HistoryQuery { limit: 100, direction };
        Route::History { prefix: Prefix::default(), channel: channel.to_string(), query }
    }

    #[test]
    fn presence_history_is_a_resource_of_its_own() {
        let of = |channel: &str, prefix: &str| Route::PresenceHistory {
            prefix: Prefix(prefix.to_owned()),
            channel: channel.to_owned(),
            query: HistoryQuery::parse(None).unwrap(),
        };
        let path = "/channels/chat:a/presence/history";
        assert_eq!(route("GET", path, None), Ok(of("chat:a", "")));
        assert_eq!(route("HEAD", &format!("/v1{path}"), None), Ok(of("chat:a", "/v1")));
        let status = |method, path| Reply::from(route(method, path, None).unwrap_err()).status;
        assert_eq!(status("POST", path), 405);
        for unknown in ["/presence/history", "/x/chat:a/presence/history"] {
            assert_eq!(status("GET", unknown), 404, "{unknown}");
        }
    }

    #[test]
    fn every_path_names_what_it_is_for() {
        let channel = || "chat:a".to_string();
        let cases = [
            ("GET", "/time", Route::Time),
            ("POST", "/channels/chat:a/messages", Route::Publish { channel: channel() }),
            ("GET", "/channels/chat:a/messages", history("chat:a")),
            (
                "GET",
                "/channels/chat:a/presence",
                Route::Presence { channel: channel(), query: PresenceQuery::default() },
            ),
            (
                "POST",
                "/keys/demo.kid/requestToken",
                Route::RequestToken { key_name: "demo.kid".to_string() },
            ),
            ("POST", "/lp/connect", Route::Poll(PollRoute::Connect)),
            ("POST", "/lp/send", Route::Poll(PollRoute::Send)),
            ("POST", "/lp/poll", Route::Poll(PollRoute::Receive)),
            ("POST", "/lp/disconnect", Route::Poll(PollRoute::Disconnect)),
            ("HEAD", "/time", Route::Time),
            ("HEAD", "/channels/chat:a/messages", history("chat:a")),
            (
                "HEAD",
                "/channels/chat:a/presence",
                Route::Presence { channel: channel(), query: PresenceQuery::default() },
            ),
            ("OPTIONS", "/lp/send", Route::Preflight),
            ("OPTIONS", "/anything", Route::Preflight),
        ];
        for (method, path, expected) in cases {
            assert_eq!(route(method, path, None), Ok(expected), "{method} {path}");
        }
    }

    /// The table of `docs/protocols.md` has every route.
    #[test]
    fn every_route_is_documented() {
        let page = include_str!("../../docs/protocols.md");
        let mut sections = page.split("\n### ").flat_map(|part| part.split("\n## "));
        let table = sections.find(|part| part.starts_with("REST")).unwrap();
        let mut routes = vec![Route::Preflight];
        for row in table.lines().filter_map(|line| line.strip_prefix("| `")) {
            let (method, path) = row.split('`').next().unwrap().split_once(' ').unwrap();
            let path = path.replace("{channel}", "a").replace("{keyName}", "a.b");
            routes.push(route(method, &path, None).unwrap_or_else(|e| panic!("{row}: {e:?}")));
        }
        let kinds: Vec<_> = routes.iter().map(std::mem::discriminant).collect();
        let polls = routes.iter().filter(|route| matches!(route, Route::Poll(_)));
        let different: std::collections::HashSet<_> = kinds.iter().collect();
        assert_eq!((different.len(), polls.count()), (8, 4), "{routes:?}");
    }

    #[test]
    fn names_are_decoded_once() {
        for (segment, channel) in [
            ("chat%3Aa", "chat:a"),
            ("chat:a", "chat:a"),
            ("chat%3aa", "chat:a"),
            ("a%253Ab", "a%3Ab"),
            ("a%2Fb", "a/b"),
            ("a%zz", "a%zz"),
            ("a%ff", "a\u{fffd}"),
            ("a+b", "a+b"),
            ("", ""),
        ] {
            let path = format!("/channels/{segment}/messages");
            assert_eq!(route("GET", &path, None), Ok(history(channel)), "{path}");
        }
    }

    #[test]
    fn the_end_of_a_path_is_matched_under_any_prefix() {
        for (method, path) in [
            ("GET", "/time"),
            ("POST", "/channels/chat:a/messages"),
            ("GET", "/channels/chat:a/presence"),
            ("POST", "/keys/demo.kid/requestToken"),
            ("POST", "/lp/connect"),
            ("POST", "/lp/send"),
            ("POST", "/lp/poll"),
            ("POST", "/lp/disconnect"),
        ] {
            let bare = route(method, path, None);
            assert!(bare.is_ok(), "{bare:?}");
            for prefix in ["/p", "/any/prefix", "/channels", "/lp", "/a%2Fb/c,d"] {
                assert_eq!(route(method, &format!("{prefix}{path}"), None), bare, "{prefix}{path}");
            }
            let long = format!("/{}", "x".repeat(PREFIX_BYTES_MAX));
            for prefix in ["/", "/p/", "//p", "/p//q", "p", &long] {
                let refused = route(method, &format!("{prefix}{path}"), None);
                assert_eq!(refused, Err(Refusal::not_found()), "{prefix}{path}");
            }
        }
    }

    #[test]
    fn a_link_has_the_prefix_once() {
        for (path, expected) in [
            ("/channels/a/messages", ""),
            ("/p/channels/a/messages", "/p"),
            ("/p/p/channels/a/messages", "/p"),
            ("/any/prefix/channels/a/messages", "/any/prefix"),
            ("/any/prefix/any/prefix/channels/a/messages", "/any/prefix"),
            ("/p/q/p/channels/a/messages", "/p/q/p"),
            ("/pp/channels/a/messages", "/pp"),
            ("/p,q/p%2Cq/channels/a/messages", "/p%2Cq"),
            ("/\u{e9}a/channels/a/messages", "/%C3%A9a"),
        ] {
            let Ok(Route::History { prefix, .. }) = route("GET", path, None) else {
                panic!("{path}")
            };
            assert_eq!(prefix.as_link(), expected, "{path}");
        }
    }

    #[test]
    fn other_paths_are_404() {
        for path in [
            "/",
            "",
            "/time/",
            "/times",
            "/Time",
            "/channels",
            "/channels/a",
            "/channels/a/messages/",
            "/channels/a/b/messages",
            "/channels/a/history",
            "/keys/demo.kid",
            "/lp",
            "/lp/",
            "/lp/connect/x",
            "//lp/connect",
        ] {
            assert_eq!(route("GET", path, None), Err(Refusal::not_found()), "{path}");
            assert_eq!(route("POST", path, None), Err(Refusal::not_found()), "{path}");
        }
    }

    #[test]
    fn other_methods_are_405_and_the_right_ones_are_named() {
        for (path, allow) in [
            ("/time", "GET, HEAD, OPTIONS"),
            ("/channels/a/messages", "GET, HEAD, POST, OPTIONS"),
            ("/channels/a/presence", "GET, HEAD, OPTIONS"),
            ("/keys/a.b/requestToken", "POST, OPTIONS"),
            ("/lp/connect", "POST, OPTIONS"),
            ("/lp/send", "POST, OPTIONS"),
            ("/lp/poll", "POST, OPTIONS"),
            ("/lp/disconnect", "POST, OPTIONS"),
        ] {
            for method in ["HEAD", "PUT", "DELETE", "PATCH", "get", "GET", "POST"] {
                if allow.split(", ").any(|allowed| allowed == method) {
                    continue;
                }
                let refused = route(method, path, None);
                assert_eq!(refused, Err(Refusal::method(allow)), "{method} {path}");
            }
        }
    }
}
