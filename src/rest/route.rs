//! Method and path -> what is asked.

use percent_encoding::percent_decode_str;

use super::poll::PollRoute;
use super::query::{HistoryQuery, PresenceQuery};
use super::refusal::Refusal;

/// What a request asks for. Names are decoded and not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Would a browser's request be let through?
    Preflight,
    Time,
    Publish {
        channel: String,
    },
    History {
        channel: String,
        query: HistoryQuery,
    },
    Presence {
        channel: String,
        query: PresenceQuery,
    },
    RequestToken {
        key_name: String,
    },
    Poll(PollRoute),
}

/// What a path names.
enum Resource {
    Time,
    Messages(String),
    Presence(String),
    TokenRequests(String),
    Poll(PollRoute),
}

/// Segments of the longest path.
const SEGMENTS_MAX: usize = 3;

/// Decides what a request asks for. `path` and `query` are as received.
///
/// # Errors
/// Nothing is at the path, it does not have the method, or the query is wrong.
pub fn route(method: &str, path: &str, query: Option<&str>) -> Result<Route, Refusal> {
    if method == "OPTIONS" {
        return Ok(Route::Preflight);
    }
    match resource(path).ok_or_else(Refusal::not_found)? {
        Resource::Time if method == "GET" => Ok(Route::Time),
        Resource::Messages(channel) if method == "POST" => Ok(Route::Publish { channel }),
        Resource::Messages(channel) if method == "GET" => {
            Ok(Route::History { channel, query: HistoryQuery::parse(query)? })
        }
        Resource::Presence(channel) if method == "GET" => {
            Ok(Route::Presence { channel, query: PresenceQuery::parse(query)? })
        }
        Resource::TokenRequests(key_name) if method == "POST" => {
            Ok(Route::RequestToken { key_name })
        }
        Resource::Poll(route) if method == "POST" => Ok(Route::Poll(route)),
        Resource::Messages(_) => Err(Refusal::method("GET, POST, OPTIONS")),
        Resource::Time | Resource::Presence(_) => Err(Refusal::method("GET, OPTIONS")),
        Resource::TokenRequests(_) | Resource::Poll(_) => Err(Refusal::method("POST, OPTIONS")),
    }
}

fn resource(path: &str) -> Option<Resource> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').take(SEGMENTS_MAX + 1).collect();
    match segments[..] {
        ["time"] => Some(Resource::Time),
        ["channels", channel, "messages"] => Some(Resource::Messages(decode(channel))),
        ["channels", channel, "presence"] => Some(Resource::Presence(decode(channel))),
        ["keys", key_name, "requestToken"] => Some(Resource::TokenRequests(decode(key_name))),
        ["lp", "connect"] => Some(Resource::Poll(PollRoute::Connect)),
        ["lp", "send"] => Some(Resource::Poll(PollRoute::Send)),
        ["lp", "poll"] => Some(Resource::Poll(PollRoute::Receive)),
        ["lp", "disconnect"] => Some(Resource::Poll(PollRoute::Disconnect)),
        _ => None,
    }
}

/// Decodes once. What is not UTF-8 then becomes characters that no name has.
fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::query::Walk;

    fn history(channel: &str) -> Route {
        let walk = Walk::Backwards { before: None };
        Route::History { channel: channel.to_string(), query: HistoryQuery { limit: 100, walk } }
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
            ("OPTIONS", "/lp/send", Route::Preflight),
            ("OPTIONS", "/anything", Route::Preflight),
        ];
        for (method, path, expected) in cases {
            assert_eq!(route(method, path, None), Ok(expected), "{method} {path}");
        }
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
            ("/time", "GET, OPTIONS"),
            ("/channels/a/messages", "GET, POST, OPTIONS"),
            ("/channels/a/presence", "GET, OPTIONS"),
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
