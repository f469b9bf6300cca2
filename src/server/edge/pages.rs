//! The HTML pages: the demo, whose visitors see each other in a channel, and the dashboard. Each
//! visitor of the demo is given a token of its own that is good for the channels `demo:*`.

use hyper::header::{CONTENT_SECURITY_POLICY, FORWARDED, HOST, HeaderName, HeaderValue, VIA};
use hyper::{HeaderMap, Response, StatusCode};

use super::Edge;
use super::http::{Body, SAME_ORIGIN_ONLY, text};
use crate::admin::Via;
use crate::auth::{is_direct_host, mint};
use crate::config::Demo;

const HTML: &str = "text/html; charset=utf-8";

const DEMO: &str = include_str!("demo.html");
const DASHBOARD: &str = include_str!("dashboard.html");
const PLAIN: &str = include_str!("plain.html");
const STYLE: &str = include_str!("style.css");

const CAPABILITY: &str = r#"{"demo:*":["subscribe","publish","presence","history"]}"#;

/// How long a page can be open, milliseconds. It loads itself again then.
const TOKEN_TTL_MS: u64 = 12 * 3_600_000;

/// Everything is in the page. It may open a WebSocket to the address for applications.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// Headers of a proxy, which connects from this machine for others.
const PROXIED: [HeaderName; 4] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// The page of the address for applications: the demo, or where it is not served a page that says
/// what this is.
pub fn public(edge: &Edge, headers: &HeaderMap) -> Response<Body> {
    let Some(demo) = demo(edge, headers) else { return html(PLAIN.to_owned()) };
    let mut response = html(demo);
    // There is a token in it.
    response.headers_mut().insert(SAME_ORIGIN_ONLY, HeaderValue::from_static("same-origin"));
    response
}

/// The page of the admin address.
pub fn dashboard() -> Response<Body> {
    html(DASHBOARD.replace("{style}", STYLE))
}

fn html(page: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, HTML, page);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// The demo for one visitor; `None` when it is not for it.
fn demo(edge: &Edge, headers: &HeaderMap) -> Option<String> {
    let is_served = match edge.reloadable().demo {
        Demo::Off => false,
        Demo::ThisMachine => is_from_this_machine(headers),
        Demo::Everyone => true,
    };
    let token = token(edge).filter(|_| is_served)?;
    Some(DEMO.replace("{style}", STYLE).replace("{token}", &token))
}

/// Whether no proxy has sent the request, and no page of another site, by a name of its own for
/// this machine.
fn is_from_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
    host.is_none_or(is_direct_host) && via(headers) == Via::Direct
}

/// How a request came, as far as its headers say.
pub fn via(headers: &HeaderMap) -> Via {
    match PROXIED.iter().any(|name| headers.contains_key(name)) {
        true => Via::Proxy,
        false => Via::Direct,
    }
}

/// A token of the first key that can mint it, for a user of its own.
fn token(edge: &Edge) -> Option<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    let user = format!("visitor-{:016x}", u64::from_ne_bytes(random));
    let (capability, now_ms) = (CAPABILITY.parse().ok()?, edge.shared.clock.now().wall_ms);
    let settings = edge.settings();
    let keys = settings.session.keyring.keys().iter();
    keys.filter_map(|key| mint(key, &user, &capability, now_ms, TOKEN_TTL_MS).ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_through_a_proxy_is_not_from_this_machine() {
        for (name, value, expected) in [
            ("host", "127.0.0.1:7400", true),
            ("host", "localhost:7400", true),
            ("host", "rebound.example:7400", false),
            ("host", "\u{e9}", false),
            ("x-forwarded-for", "203.0.113.7", false),
            ("forwarded", "for=203.0.113.7", false),
            ("accept", "text/html", true),
        ] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
            assert_eq!(is_from_this_machine(&headers), expected, "{name}");
        }
    }
}
