//! HTTP responses: status, headers, body.

/// CORS headers of every response, errors included (`protocols/foony.md` section 1.4). Any origin
/// is allowed, because credentials are never cookies.
pub const CORS_HEADERS: [(&str, &str); 2] = [
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "foony-lp-session, link"),
];

/// An HTTP response, without the headers that all responses have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// Lower-case names; values without line ends.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// 204.
    pub fn empty() -> Self {
        Reply { status: 204, ..Reply::default() }
    }

    /// 200 with a JSON body.
    pub fn json(body: Vec<u8>) -> Self {
        Reply { status: 200, ..Reply::default() }.with_body("application/json", body)
    }

    /// 200 with records of the binary protocol.
    pub fn records(body: Vec<u8>) -> Self {
        Reply { status: 200, ..Reply::default() }.with_body("application/octet-stream", body)
    }

    /// The response to every `OPTIONS`. Cached for a day; browsers have lower limits.
    pub fn preflight() -> Self {
        let headers = "authorization, content-type, foony-lp-session";
        Reply::empty()
            .with_header("access-control-allow-methods", "GET, HEAD, POST, OPTIONS".to_string())
            .with_header("access-control-allow-headers", headers.to_string())
            .with_header("access-control-max-age", "86400".to_string())
    }

    /// With another status.
    pub fn with_status(self, status: u16) -> Self {
        Reply { status, ..self }
    }

    /// With one more header.
    pub fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn with_body(self, content_type: &'static str, body: Vec<u8>) -> Self {
        Reply { body, ..self }.with_header("content-type", content_type.to_string())
    }
}

/// Appends text as a JSON string.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing text into memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
