//! Routes of the admin and the public address.

/// The address that a request was received on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The address for applications.
    Public,
    /// The admin address.
    Admin,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The HTML page that describes the server.
    Page,
    /// Liveness.
    Health,
    /// Readiness.
    Ready,
    Metrics,
    Members {
        app: String,
        channel: String,
    },
    Watch {
        app: String,
        channel: String,
    },
    NotFound,
    MethodNotAllowed,
}

/// Routes a request. `path` is percent-encoded, without its query.
pub fn route(surface: Surface, method: &str, path: &str) -> Route {
    let known = match surface {
        Surface::Public => public(path),
        Surface::Admin => admin(path),
    };
    match known {
        Route::NotFound => Route::NotFound,
        _ if !matches!(method, "GET" | "HEAD") => Route::MethodNotAllowed,
        known => known,
    }
}

fn public(path: &str) -> Route {
    if path == "/" { Route::Page } else { Route::NotFound }
}

fn admin(path: &str) -> Route {
    match path {
        "/" => Route::Page,
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        _ => channel_route(path).unwrap_or(Route::NotFound),
    }
}

/// `/v1/apps/{app}/channels/{channel}/{members|watch}`, each name percent-encoded.
fn channel_route(path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.split('/').collect();
    let ["", "v1", "apps", app, "channels", channel, question] = parts[..] else { return None };
    let (app, channel) = (percent_decode(app)?, percent_decode(channel)?);
    match question {
        "members" => Some(Route::Members { app, channel }),
        "watch" => Some(Route::Watch { app, channel }),
        _ => None,
    }
}

fn percent_decode(segment: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_decoded_once() {
        let members = |app: &str, channel: &str| Route::Members {
            app: app.to_string(),
            channel: channel.to_string(),
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
    fn every_route_is_documented() {
        let page = include_str!("../../docs/protocols.md");
        let (_, table) = page.split_once("\n## Admin API").unwrap();
        let mut routes = Vec::new();
        for row in table.lines().filter_map(|line| line.strip_prefix("| `GET ")) {
            let path = row.split('`').next().unwrap();
            let path = path.replace("{app}", "demo").replace("{channel}", "a");
            let found = route(Surface::Admin, "GET", &path);
            assert_ne!(found, Route::NotFound, "{row}");
            routes.push(std::mem::discriminant(&found));
        }
        routes.dedup();
        assert_eq!(routes.len(), 6);
    }

    #[test]
    fn only_reading_is_allowed() {
        assert_eq!(route(Surface::Public, "POST", "/"), Route::MethodNotAllowed);
        assert_eq!(route(Surface::Public, "POST", "/x"), Route::NotFound);
    }
}
