//! Routes of the admin and the public address.

use percent_encoding::percent_decode_str;

use crate::ids::ConnAddr;

/// The address that a request was received on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The address for applications.
    Public,
    /// The admin address.
    Admin,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The HTML page: the demo, or the dashboard.
    Page,
    /// Liveness.
    Health,
    /// Readiness.
    Ready,
    Metrics,
    Api(Api),
    NotFound,
    /// The methods that the resource has.
    MethodNotAllowed(&'static str),
}

/// A request of the admin API, under `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// About the server as a whole.
    Server(ServerApi),
    /// About one app.
    App { app: String, request: AppApi },
    /// About one channel.
    Channel { app: String, channel: String, request: ChannelApi },
}

impl Api {
    /// Whether it does more than to answer.
    pub fn changes_something(&self) -> bool {
        match self {
            Api::Server(request) => matches!(request, ServerApi::Drain | ServerApi::Disconnect(_)),
            Api::App { request, .. } => *request == AppApi::Token,
            Api::Channel { request, .. } => *request == ChannelApi::Publish,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerApi {
    /// The description of this API.
    OpenApi,
    Server,
    Health,
    Shards,
    Namespaces,
    Drain,
    Connections,
    Connection(ConnAddr),
    Disconnect(ConnAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppApi {
    Channels,
    /// Which of some users are connected.
    UserStatus,
    /// A token for a user.
    Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelApi {
    Occupancy,
    Members,
    Watch,
    Trace,
    Publish,
}

const READ: &str = "GET, HEAD";
const WRITE: &str = "POST";

/// Routes a request. `path` is percent-encoded, without its query.
pub fn route(surface: Surface, method: &str, path: &str) -> Route {
    let (routes, allow): (&[(&str, Route)], _) = match (surface, path) {
        (_, "/") => (&[("GET", Route::Page)], READ),
        (Surface::Admin, "/healthz") => (&[("GET", Route::Health)], READ),
        (Surface::Admin, "/readyz") => (&[("GET", Route::Ready)], READ),
        (Surface::Admin, "/metrics") => (&[("GET", Route::Metrics)], READ),
        (Surface::Admin, path) => match path.strip_prefix("/v1/") {
            Some(path) => return api(method, path),
            None => return Route::NotFound,
        },
        (Surface::Public, _) => return Route::NotFound,
    };
    // The same response; hyper omits its body.
    let method = if method == "HEAD" { "GET" } else { method };
    let route = routes.iter().find(|(of, _)| *of == method);
    route.map_or(Route::MethodNotAllowed(allow), |(_, route)| route.clone())
}

fn api(method: &str, path: &str) -> Route {
    let method = if method == "HEAD" { "GET" } else { method };
    let segments: Vec<&str> = path.split('/').collect();
    match segments[..] {
        ["apps", app, "channels", channel, ref rest @ ..] => {
            let (Some(app), Some(channel)) = (decode(app), decode(channel)) else {
                return Route::NotFound;
            };
            let channel_api = |request| {
                Route::Api(Api::Channel { app: app.clone(), channel: channel.clone(), request })
            };
            match (rest, method) {
                ([], "GET") => channel_api(ChannelApi::Occupancy),
                (["members"], "GET") => channel_api(ChannelApi::Members),
                (["watch"], "GET") => channel_api(ChannelApi::Watch),
                (["trace"], "GET") => channel_api(ChannelApi::Trace),
                (["messages"], "POST") => channel_api(ChannelApi::Publish),
                ([] | ["members" | "watch" | "trace"], _) => Route::MethodNotAllowed(READ),
                (["messages"], _) => Route::MethodNotAllowed(WRITE),
                _ => Route::NotFound,
            }
        }
        ["apps", app, ref rest @ ..] => {
            let Some(app) = decode(app) else { return Route::NotFound };
            let app_api = |request| Route::Api(Api::App { app: app.clone(), request });
            match (rest, method) {
                (["channels"], "GET") => app_api(AppApi::Channels),
                (["users", "status"], "POST") => app_api(AppApi::UserStatus),
                (["tokens"], "POST") => app_api(AppApi::Token),
                (["channels"], _) => Route::MethodNotAllowed(READ),
                (["users", "status"] | ["tokens"], _) => Route::MethodNotAllowed(WRITE),
                _ => Route::NotFound,
            }
        }
        _ => server(method, &segments),
    }
}

fn server(method: &str, segments: &[&str]) -> Route {
    let connection = match segments {
        ["connections", name] => match ConnAddr::parse(name) {
            Some(addr) => Some(addr),
            None => return Route::NotFound,
        },
        _ => None,
    };
    let request = match (segments, method, connection) {
        (["openapi.json"], "GET", _) => ServerApi::OpenApi,
        (["server"], "GET", _) => ServerApi::Server,
        (["health"], "GET", _) => ServerApi::Health,
        (["shards"], "GET", _) => ServerApi::Shards,
        (["namespaces"], "GET", _) => ServerApi::Namespaces,
        (["connections"], "GET", _) => ServerApi::Connections,
        (["drain"], "POST", _) => ServerApi::Drain,
        (_, "GET", Some(addr)) => ServerApi::Connection(addr),
        (_, "DELETE", Some(addr)) => ServerApi::Disconnect(addr),
        (_, _, Some(_)) => return Route::MethodNotAllowed("GET, HEAD, DELETE"),
        (["drain"], ..) => return Route::MethodNotAllowed(WRITE),
        (["openapi.json" | "server" | "health" | "shards" | "namespaces" | "connections"], ..) => {
            return Route::MethodNotAllowed(READ);
        }
        _ => return Route::NotFound,
    };
    Route::Api(Api::Server(request))
}

/// Decodes a name once; `None` when it is empty or not UTF-8.
fn decode(segment: &str) -> Option<String> {
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_decoded_once() {
        let members = |app: &str, channel: &str| {
            Route::Api(Api::Channel {
                app: app.to_string(),
                channel: channel.to_string(),
                request: ChannelApi::Members,
            })
        };
        let cases = [
            ("/v1/apps/demo/channels/doc%3A1/members", members("demo", "doc:1")),
            ("/v1/apps/demo/channels/a%2Fb/members", members("demo", "a/b")),
            ("/v1/apps/demo/channels/a%252Fb/members", members("demo", "a%2Fb")),
            ("/v1/apps/demo/channels//members", Route::NotFound),
            ("/v1/apps/demo/channels/a/members/x", Route::NotFound),
            ("/v1/apps/demo/channels/%ff/members", Route::NotFound),
        ];
        for (path, expected) in cases {
            assert_eq!(route(Surface::Admin, "GET", path), expected, "{path}");
            assert_eq!(route(Surface::Public, "GET", path), Route::NotFound, "{path}");
        }
    }

    #[test]
    fn every_resource_has_its_methods() {
        for (path, methods) in [
            ("/", &["GET", "HEAD"][..]),
            ("/metrics", &["GET", "HEAD"]),
            ("/v1/openapi.json", &["GET", "HEAD"]),
            ("/v1/server", &["GET", "HEAD"]),
            ("/v1/health", &["GET", "HEAD"]),
            ("/v1/shards", &["GET", "HEAD"]),
            ("/v1/namespaces", &["GET", "HEAD"]),
            ("/v1/drain", &["POST"]),
            ("/v1/connections", &["GET", "HEAD"]),
            ("/v1/connections/0.1.2", &["GET", "HEAD", "DELETE"]),
            ("/v1/apps/demo/channels", &["GET", "HEAD"]),
            ("/v1/apps/demo/users/status", &["POST"]),
            ("/v1/apps/demo/tokens", &["POST"]),
            ("/v1/apps/demo/channels/a", &["GET", "HEAD"]),
            ("/v1/apps/demo/channels/a/members", &["GET", "HEAD"]),
            ("/v1/apps/demo/channels/a/watch", &["GET", "HEAD"]),
            ("/v1/apps/demo/channels/a/messages", &["POST"]),
        ] {
            for method in ["GET", "HEAD", "POST", "DELETE", "PUT"] {
                let routed = route(Surface::Admin, method, path);
                match methods.contains(&method) {
                    true => assert!(
                        !matches!(routed, Route::NotFound | Route::MethodNotAllowed(_)),
                        "{method} {path}"
                    ),
                    false => assert_eq!(
                        routed,
                        Route::MethodNotAllowed(match methods {
                            ["POST"] => WRITE,
                            [.., "DELETE"] => "GET, HEAD, DELETE",
                            _ => READ,
                        }),
                        "{method} {path}"
                    ),
                }
            }
        }
        assert_eq!(route(Surface::Public, "POST", "/"), Route::MethodNotAllowed(READ));
        assert_eq!(route(Surface::Public, "POST", "/x"), Route::NotFound);
    }

    #[test]
    fn every_route_is_documented() {
        let page = include_str!("../../docs/protocols.md");
        let (_, table) = page.split_once("\n## Admin API").unwrap();
        let mut documented = 0;
        for row in table.lines().filter_map(|line| line.strip_prefix("| `")) {
            let request = row.split('`').next().unwrap();
            let Some((method, path)) = request.split_once(' ') else { continue };
            let names = [("{app}", "demo"), ("{channel}", "a"), ("{connection}", "0.1.2")];
            let path =
                names.iter().fold(path.to_owned(), |path, (name, is)| path.replace(name, is));
            let found = route(Surface::Admin, method, &path);
            assert!(!matches!(found, Route::NotFound | Route::MethodNotAllowed(_)), "{row}");
            documented += 1;
        }
        assert_eq!(documented, 21, "the pages and probes, and each request of openapi.json");
    }
}
