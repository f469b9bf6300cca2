//! CORS headers (`protocols/foony.md` section 1.4). Any origin is allowed, because credentials are
//! never cookies.

use super::reply::Reply;

/// On every response, errors included.
pub const HEADERS: [(&str, &str); 2] = [
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "foony-lp-session, link"),
];

/// The response to every `OPTIONS`. Cached for a day; browsers have lower limits.
pub fn preflight() -> Reply {
    let headers = "authorization, content-type, foony-lp-session";
    Reply::empty()
        .with_header("access-control-allow-methods", "GET, HEAD, POST, OPTIONS".to_string())
        .with_header("access-control-allow-headers", headers.to_string())
        .with_header("access-control-max-age", "86400".to_string())
}
