//! What browsers want to be told before pages of another origin may use the surface
//! (`protocols/foony.md` section 1.4). No cookies are involved, so any origin may.

use super::reply::Reply;

/// On every response, errors included.
pub const HEADERS: [(&str, &str); 2] = [
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "foony-lp-session, link"),
];

/// The answer to every `OPTIONS`. Seconds: a day, of which browsers take what they like.
pub fn preflight() -> Reply {
    let headers = "authorization, content-type, foony-lp-session";
    Reply::empty()
        .with_header("access-control-allow-methods", "GET, HEAD, POST, OPTIONS".to_string())
        .with_header("access-control-allow-headers", headers.to_string())
        .with_header("access-control-max-age", "86400".to_string())
}
