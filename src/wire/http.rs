//! The HTTP/1.1 request head: a WebSocket handshake (RFC 6455 section 4.2), or a plain request for
//! the edge.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};
use sha1::{Digest, Sha1};

use crate::error::Disconnect;
use crate::limits::{CHANNEL_NAME_BYTES_MAX, REQUEST_HEADERS_MAX};

/// Appended to the client's key before hashing (RFC 6455 section 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Some clients set the four unused bits after the sixteen bytes; they are ignored.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The request head at the front of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The head is incomplete. Call again with the same bytes and more.
    Incomplete,
    /// A valid WebSocket handshake.
    Upgrade(Upgrade<'a>),
    /// A valid head that does not request a WebSocket.
    Plain(Plain<'a>),
}

/// A WebSocket handshake, to be answered with [`switching_protocols`].
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// Path of the request target, from its first slash; still percent-encoded.
    pub path: &'a str,
    /// The query after `?`; still percent-encoded.
    pub query: Option<&'a str>,
    pub key: AcceptKey,
    pub host: &'a str,
    pub origin: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    /// The first `Sec-WebSocket-Protocol` header: names separated by commas.
    pub protocols: Option<&'a str>,
    /// Length of the head including the empty line. Frames follow it.
    pub head_bytes: usize,
}

/// A request for the edge, which parses it again.
#[derive(Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    pub method: &'a str,
    pub target: &'a str,
    /// Length of the head including the empty line. A body or the next request follows it.
    pub head_bytes: usize,
}

/// Errors in a request head. The client receives an error response, and the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// 400, with the reason.
    #[error("{0}")]
    Bad(&'static str),
    /// 405.
    #[error("a WebSocket upgrade must be a GET request")]
    Method,
    /// 408. Not returned by [`parse`], which has no clock.
    #[error("the request did not arrive in time")]
    Timeout,
    /// 426.
    #[error("Sec-WebSocket-Version must be 13")]
    WebSocketVersion,
    /// 431.
    #[error("the request head is too large")]
    TooLarge,
    /// 503. Not returned by [`parse`]: the shard has reached its connection limit.
    #[error("the server has reached its connection limit, try again later")]
    ConnectionLimit,
    /// 503. Not returned by [`parse`]: the server is shutting down.
    #[error("the server is shutting down, try again at once")]
    ShuttingDown,
    /// 505.
    #[error("the HTTP version must be 1.0 or 1.1")]
    HttpVersion,
}

impl HeadError {
    /// HTTP status code.
    pub fn status(self) -> u16 {
        self.status_line_and_headers().0
    }

    /// Status code and phrase, and the headers that this status requires.
    fn status_line_and_headers(self) -> (u16, &'static str, &'static str) {
        let close = "Connection: close\r\n";
        match self {
            HeadError::Bad(_) => (400, "Bad Request", close),
            HeadError::Method => (405, "Method Not Allowed", "Connection: close\r\nAllow: GET\r\n"),
            HeadError::Timeout => (408, "Request Timeout", close),
            // RFC 9110 sections 15.5.22 and 7.8: `Upgrade` is required, and `Connection` must list
            // it.
            HeadError::WebSocketVersion => (
                426,
                "Upgrade Required",
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\n",
            ),
            HeadError::TooLarge => (431, "Request Header Fields Too Large", close),
            HeadError::ConnectionLimit => {
                (503, "Service Unavailable", "Connection: close\r\nRetry-After: 1\r\n")
            }
            HeadError::ShuttingDown => {
                (503, "Service Unavailable", "Connection: close\r\nRetry-After: 0\r\n")
            }
            HeadError::HttpVersion => (505, "HTTP Version Not Supported", close),
        }
    }

    /// The whole response, with one line of text as its body. The connection is closed after it.
    pub fn response(self) -> Vec<u8> {
        let (status, phrase, headers) = self.status_line_and_headers();
        let body = format!("{self}\n");
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{headers}Content-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len(),
        )
        .into_bytes()
    }
}

impl From<HeadError> for Disconnect {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Timeout => Disconnect::GreetingTimeout,
            HeadError::ConnectionLimit => Disconnect::ConnectionLimit,
            HeadError::ShuttingDown => Disconnect::Shutdown,
            HeadError::TooLarge => Disconnect::TooLarge,
            _ => Disconnect::Protocol,
        }
    }
}

/// Value of `Sec-WebSocket-Accept`: 28 characters of Base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptKey([u8; 28]);

impl AcceptKey {
    /// The value for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2); `None` if that is not the
    /// Base64 of 16 bytes.
    pub fn answering(key: &[u8]) -> Option<Self> {
        let mut nonce = [0; 18];
        let nonce_bytes = KEY_BASE64.decode_slice(key, &mut nonce).ok()?;
        let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
        let mut accept = [0; 28];
        STANDARD.encode_slice(digest, &mut accept).ok()?;
        (nonce_bytes == 16).then_some(AcceptKey(accept))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Parses the request head at the front of `bytes`, which must start at the start of the
/// connection. The result does not depend on how the bytes are split into reads. Bytes after
/// `head_bytes_max` are not read, so a call scans at most that many bytes.
///
/// # Errors
/// [`HeadError`], as soon as the bytes cannot become a valid head.
pub fn parse(bytes: &[u8], head_bytes_max: usize) -> Result<Parsed<'_>, HeadError> {
    let window = &bytes[..bytes.len().min(head_bytes_max)];
    let mut headers = [EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(window) {
        Ok(Status::Complete(head_bytes)) => classify(&request, head_bytes),
        Ok(Status::Partial) if bytes.len() > window.len() => Err(HeadError::TooLarge),
        Ok(Status::Partial) => Ok(Parsed::Incomplete),
        Err(Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Err(Error::Version) => Err(HeadError::HttpVersion),
        Err(_) => Err(HeadError::Bad("this is not an HTTP/1.1 request")),
    }
}

/// Whether the head is still incomplete after `more`, so that [`parse`] need not be called;
/// `unread` is the length of the incomplete head before it. The result is false if `more` ends a
/// line, has a control character, or exceeds the limit. A head that arrives byte by byte is thus
/// scanned once per line, not once per byte.
pub fn stays_incomplete(unread: usize, more: &[u8], head_bytes_max: usize) -> bool {
    let is_plain = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
    unread + more.len() <= head_bytes_max && more.iter().all(is_plain)
}

/// Length of the empty lines before a request line, which servers must ignore (RFC 9112 section
/// 2.2). The caller removes them, so that they are scanned only once.
pub fn empty_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let [b'\n', after @ ..] | [b'\r', b'\n', after @ ..] = rest {
        rest = after;
    }
    bytes.len() - rest.len()
}

fn classify<'a>(request: &Request<'_, 'a>, head_bytes: usize) -> Result<Parsed<'a>, HeadError> {
    let target = request.path.unwrap_or_default();
    let method = request.method.unwrap_or_default();
    let headers = Headers(request.headers);
    if !headers.request_websocket() {
        return Ok(Parsed::Plain(Plain { method, target, head_bytes }));
    }
    if method != "GET" {
        return Err(HeadError::Method);
    }
    if request.version != Some(1) {
        return Err(HeadError::Bad("a WebSocket upgrade needs HTTP/1.1"));
    }
    upgrade(target, &headers, head_bytes).map(Parsed::Upgrade)
}

fn upgrade<'a>(
    target: &'a str,
    headers: &Headers<'_, 'a>,
    head_bytes: usize,
) -> Result<Upgrade<'a>, HeadError> {
    let (path, query) = split_target(target)?;
    let host = headers.single("host", "Host must be given once")?;
    headers.check_handshake()?;
    let key = headers.single("sec-websocket-key", "Sec-WebSocket-Key must be given once")?;
    let key = AcceptKey::answering(key)
        .ok_or(HeadError::Bad("Sec-WebSocket-Key must be the Base64 of 16 bytes"))?;
    Ok(Upgrade {
        path,
        query,
        key,
        host: text(host)?,
        origin: headers.first("origin").map(text).transpose()?,
        user_agent: headers.first("user-agent").and_then(|value| text(value).ok()),
        protocols: headers.first("sec-websocket-protocol").map(text).transpose()?,
        head_bytes,
    })
}

/// Path and query of a request target in origin form, or in absolute form, which servers must
/// accept (RFC 9112 section 3.2.2).
fn split_target(target: &str) -> Result<(&str, Option<&str>), HeadError> {
    let origin_form = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            rest.find('/').map_or("/", |slash| &rest[slash..])
        }
        _ => target,
    };
    if !origin_form.starts_with('/') {
        return Err(HeadError::Bad("the request target must be a path"));
    }
    Ok(match origin_form.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (origin_form, None),
    })
}

fn text(value: &[u8]) -> Result<&str, HeadError> {
    std::str::from_utf8(value).map_err(|_| HeadError::Bad("a header value is not UTF-8"))
}

/// Headers of one request. Names are case-insensitive.
struct Headers<'h, 'a>(&'h [Header<'a>]);

impl<'a> Headers<'_, 'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    }

    fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The value of a header that must occur exactly once; otherwise 400 with `message`.
    fn single(&self, name: &str, message: &'static str) -> Result<&'a [u8], HeadError> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(HeadError::Bad(message)),
        }
    }

    /// Whether `token` is in the comma-separated lists of this header.
    fn list_has(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// A request with a key but without `Upgrade` is a handshake that lost a hop-by-hop header at a
    /// proxy. It gets a specific error and is not treated as plain HTTP.
    fn request_websocket(&self) -> bool {
        self.list_has("upgrade", "websocket") || self.first("sec-websocket-key").is_some()
    }

    fn check_handshake(&self) -> Result<(), HeadError> {
        if !self.list_has("upgrade", "websocket") {
            return Err(HeadError::Bad("Upgrade must name websocket; does a proxy remove it?"));
        }
        if !self.list_has("connection", "upgrade") {
            return Err(HeadError::Bad("Connection must name upgrade; does a proxy remove it?"));
        }
        let announces_body = self.all("content-length").any(|length| length != b"0");
        if announces_body || self.first("transfer-encoding").is_some() {
            return Err(HeadError::Bad("a WebSocket upgrade has no body"));
        }
        let version = "Sec-WebSocket-Version must be given once";
        match self.single("sec-websocket-version", version)? {
            b"13" => Ok(()),
            _ => Err(HeadError::WebSocketVersion),
        }
    }
}

/// The response that completes a handshake. `protocol` is the subprotocol selected from the offered
/// ones; extensions are never accepted.
pub fn switching_protocols(key: &AcceptKey, protocol: Option<&str>) -> Vec<u8> {
    let mut out = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: "
        .to_vec();
    out.extend_from_slice(key.as_bytes());
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The channel in the first `channel=` of a query, percent-decoded (`+` is literal). It only
/// affects placement, so anything but a name of 1 to [`CHANNEL_NAME_BYTES_MAX`] bytes of UTF-8 is
/// ignored.
pub fn channel_hint(query: &str) -> Option<String> {
    let encoded = query.split('&').find_map(|pair| pair.strip_prefix("channel="))?;
    let mut bytes = encoded.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        if name.len() == CHANNEL_NAME_BYTES_MAX {
            return None;
        }
        name.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REQUEST_HEAD_BYTES_MAX;

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const GOOD: [&str; 5] = [
        "Host: example.org",
        "Connection: Upgrade",
        "Upgrade: websocket",
        KEY,
        "Sec-WebSocket-Version: 13",
    ];

    fn head(request_line: &str, headers: &[&str]) -> Vec<u8> {
        let lines = headers.iter().map(|line| format!("{line}\r\n")).collect::<String>();
        format!("{request_line}\r\n{lines}\r\n").into_bytes()
    }

    /// A handshake with the header at `place` replaced.
    fn with(place: usize, header: &str) -> Vec<u8> {
        let mut headers = GOOD;
        headers[place] = header;
        head("GET / HTTP/1.1", &headers)
    }

    /// A handshake with one more header.
    fn plus(header: &str) -> Vec<u8> {
        head("GET / HTTP/1.1", &[&GOOD[..], &[header]].concat())
    }

    /// Parses at once, as a growing prefix, and byte by byte as a shard does. All must agree.
    fn parse_any_split(bytes: &[u8]) -> Result<Parsed<'_>, HeadError> {
        let parse = |bytes| parse(bytes, REQUEST_HEAD_BYTES_MAX);
        let at_once = parse(bytes);
        let grown = (0..bytes.len()).map(|len| parse(&bytes[..len]));
        if let Some(settled) = grown.into_iter().find(|parsed| *parsed != Ok(Parsed::Incomplete)) {
            assert_eq!(settled, at_once, "the answer depends on the cut");
        }
        let mut byte_by_byte = Ok(Parsed::Incomplete);
        for (unread, more) in bytes.chunks(1).enumerate() {
            let settled = byte_by_byte != Ok(Parsed::Incomplete);
            if !settled && !stays_incomplete(unread, more, REQUEST_HEAD_BYTES_MAX) {
                byte_by_byte = parse(&bytes[..=unread]);
            }
        }
        assert_eq!(byte_by_byte, at_once, "the answer depends on what was not looked at");
        at_once
    }

    fn parse_upgrade(bytes: &[u8]) -> Upgrade<'_> {
        match parse_any_split(bytes) {
            Ok(Parsed::Upgrade(upgrade)) => upgrade,
            other => panic!("{other:?} for {}", bytes.escape_ascii()),
        }
    }

    fn status(bytes: &[u8]) -> u16 {
        match parse_any_split(bytes) {
            Err(error) => error.status(),
            other => panic!("{other:?} for {}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_in_the_rfc() {
        let mut bytes = head("GET /chat?channel=a%20b&x=1 HTTP/1.1", &GOOD);
        let head_bytes = bytes.len();
        bytes.extend(b"\x81\x80frames");
        let upgrade = parse_upgrade(&bytes);
        assert_eq!((upgrade.path, upgrade.query), ("/chat", Some("channel=a%20b&x=1")));
        assert_eq!((upgrade.host, upgrade.origin), ("example.org", None));
        assert_eq!(upgrade.key.as_bytes(), ACCEPT);
        assert_eq!(upgrade.head_bytes, head_bytes);
    }

    #[test]
    fn header_lists_and_any_case_are_accepted() {
        let table = [
            with(1, "connection: keep-alive, uPgRaDe"),
            with(1, "Connection: keep-alive\r\nConnection: Upgrade"),
            with(2, "UPGRADE: h2c , WebSocket"),
            with(4, "sec-websocket-version:13 "),
            with(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="),
            plus("Sec-WebSocket-Extensions: permessage-deflate"),
            plus("Content-Length: 0"),
            [b"\r\n\r\n".as_slice(), &head("GET / HTTP/1.1", &GOOD)].concat(),
        ];
        for bytes in table {
            assert_eq!(parse_upgrade(&bytes).head_bytes, bytes.len());
        }
    }

    #[test]
    fn origin_and_subprotocols_are_passed_on() {
        let bytes = plus("Origin: https://app.example\r\nSec-WebSocket-Protocol: a, b");
        let upgrade = parse_upgrade(&bytes);
        assert_eq!(upgrade.origin, Some("https://app.example"));
        assert_eq!(upgrade.protocols, Some("a, b"));
    }

    #[test]
    fn targets_are_split_into_path_and_query() {
        let table = [
            ("/", ("/", None)),
            ("/a/b?", ("/a/b", Some(""))),
            ("/?next=ws://x/y?z", ("/", Some("next=ws://x/y?z"))),
            ("ws://example.org/a?b=c", ("/a", Some("b=c"))),
            ("http://example.org", ("/", None)),
        ];
        for (target, expected) in table {
            let bytes = head(&format!("GET {target} HTTP/1.1"), &GOOD);
            let upgrade = parse_upgrade(&bytes);
            assert_eq!((upgrade.path, upgrade.query), expected, "{target}");
        }
    }

    #[test]
    fn requests_without_an_upgrade_are_plain() {
        let table = [
            ("GET", head("GET /time HTTP/1.1", &["Host: x"])),
            ("GET", head("GET / HTTP/1.0", &[])),
            ("POST", head("POST / HTTP/1.1", &["Host: x", "Content-Length: 4"])),
            ("GET", head("GET / HTTP/1.1", &["Connection: Upgrade", "Upgrade: h2c"])),
            ("GET", head("GET / HTTP/1.1", &["Connection: upgrade", "Upgrade: websocketish"])),
        ];
        for (method, bytes) in table {
            match parse_any_split(&bytes) {
                Ok(Parsed::Plain(plain)) => {
                    assert_eq!((plain.method, plain.head_bytes), (method, bytes.len()));
                }
                other => panic!("{other:?} for {}", bytes.escape_ascii()),
            }
        }
    }

    #[test]
    fn invalid_handshakes_get_their_status() {
        let table = [
            (400, with(0, "X-Host: x")),
            (400, plus("Host: second")),
            (400, with(1, "Connection: keep-alive")),
            (400, with(2, "X-Upgrade: websocket")),
            (400, with(3, "X-Key: none")),
            (400, with(3, "Sec-WebSocket-Key: ")),
            (400, with(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ")),
            (400, with(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j")),
            (400, with(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXh4eHh4eHg=")),
            (400, with(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q==")),
            (400, plus(KEY)),
            (400, with(4, "X-Version: 13")),
            (426, with(4, "Sec-WebSocket-Version: 8")),
            (426, with(4, "Sec-WebSocket-Version: 013")),
            (400, plus("Content-Length: 5")),
            (400, plus("Content-Length: 0\r\nContent-Length: 5")),
            (400, plus("Transfer-Encoding: chunked")),
            (405, head("POST / HTTP/1.1", &GOOD)),
            (400, head("GET / HTTP/1.0", &GOOD)),
            (400, head("GET * HTTP/1.1", &GOOD)),
            (400, head("GET example.org:80 HTTP/1.1", &GOOD)),
        ];
        for (expected, bytes) in table {
            assert_eq!(status(&bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn other_protocols_are_refused_early() {
        let table: [(u16, &[u8]); 6] = [
            (505, b"GET / HTTP/2.0\r\n"),
            (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            (400, b"GET /\r\n"),
            (400, b"\x16\x03\x01\x02\x00\x01"),
            (400, b"GET / HTTP/1.1\r\nbad header: x\r\n"),
            (400, b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n"),
        ];
        for (expected, bytes) in table {
            assert_eq!(status(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limit_and_no_longer() {
        let padded = |head_bytes: usize| {
            let bare = plus("A: ").len();
            plus(&format!("A: {}", "x".repeat(head_bytes - bare)))
        };
        let fits = padded(REQUEST_HEAD_BYTES_MAX);
        assert_eq!(parse_upgrade(&fits).head_bytes, REQUEST_HEAD_BYTES_MAX);
        assert_eq!(status(&padded(REQUEST_HEAD_BYTES_MAX + 1)), 431);
        let unfinished = &padded(REQUEST_HEAD_BYTES_MAX + 100)[..REQUEST_HEAD_BYTES_MAX + 1];
        assert_eq!(status(unfinished), 431);
        let longest = &unfinished[..REQUEST_HEAD_BYTES_MAX];
        assert_eq!(parse(longest, REQUEST_HEAD_BYTES_MAX), Ok(Parsed::Incomplete));
        assert_eq!(status(&[b'\n'; REQUEST_HEAD_BYTES_MAX + 1]), 431);
    }

    #[test]
    fn errors_after_the_limit_are_ignored() {
        let mut bytes = plus(&format!("A: {}", "x".repeat(REQUEST_HEAD_BYTES_MAX)));
        bytes.extend(b"\0\0\0");
        assert_eq!(status(&bytes), 431);
    }

    #[test]
    fn one_header_more_than_the_limit_is_refused() {
        let headers = |count: usize| {
            let mut headers = GOOD.to_vec();
            headers.resize(count, "A: b");
            head("GET / HTTP/1.1", &headers)
        };
        parse_upgrade(&headers(REQUEST_HEADERS_MAX));
        assert_eq!(status(&headers(REQUEST_HEADERS_MAX + 1)), 431);
    }

    #[test]
    fn a_head_that_arrives_byte_by_byte_is_scanned_once_a_line() {
        let cookies = "x\t".repeat(REQUEST_HEAD_BYTES_MAX / 4);
        let bytes = plus(&format!("Cookie: {cookies}"));
        let looks = bytes
            .chunks(1)
            .enumerate()
            .filter(|(unread, more)| !stays_incomplete(*unread, more, REQUEST_HEAD_BYTES_MAX));
        let line_ends = 2 * (GOOD.len() + 3);
        assert_eq!(looks.count(), line_ends);
    }

    #[test]
    fn empty_lines_before_a_head_are_counted() {
        let table: [(&[u8], usize); 6] = [
            (b"", 0),
            (b"GET / HTTP/1.1\r\n\r\n", 0),
            (b"\r\n\n\r\nGET", 5),
            (b"\r\n\r", 2),
            (b"\rG", 0),
            (b"\r\n\r\n\0\r\nQUIT\n", 4),
        ];
        for (bytes, expected) in table {
            assert_eq!(empty_lines(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn error_responses_are_complete_and_close_the_connection() {
        let table = [
            (HeadError::Bad("why"), "400 Bad Request", "\r\n\r\nwhy\n"),
            (HeadError::Method, "405 Method Not Allowed", "\r\nAllow: GET\r\n"),
            (HeadError::Timeout, "408 Request Timeout", "Content-Type: text/plain"),
            (HeadError::WebSocketVersion, "426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n"),
            (HeadError::TooLarge, "431 Request Header Fields Too Large", "too large"),
            (HeadError::HttpVersion, "505 HTTP Version Not Supported", "1.1"),
        ];
        for (error, status_line, part) in table {
            let response = String::from_utf8(error.response()).unwrap();
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(response.starts_with(&format!("HTTP/1.1 {status_line}\r\n")), "{response}");
            assert!(response.contains(part), "{response}");
            assert!(head.contains("\r\nConnection: close"), "{response}");
            assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{response}");
        }
    }

    #[test]
    fn the_101_response_names_a_subprotocol_only_when_asked() {
        let key = AcceptKey::answering(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        let plain = String::from_utf8(switching_protocols(&key, None)).unwrap();
        assert_eq!(
            plain,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        let chosen = String::from_utf8(switching_protocols(&key, Some("a"))).unwrap();
        assert!(chosen.ends_with("=\r\nSec-WebSocket-Protocol: a\r\n\r\n"), "{chosen}");
    }

    #[test]
    fn a_channel_hint_is_a_valid_name_or_none() {
        let longest = "x".repeat(CHANNEL_NAME_BYTES_MAX);
        let table = [
            ("channel=doc:1", Some("doc:1")),
            ("a=b&channel=chat%3Aroom%201&c=d", Some("chat:room 1")),
            ("channel=a+b", Some("a+b")),
            ("channel=%c3%A9", Some("é")),
            ("channel=first&channel=second", Some("first")),
            (&format!("channel={longest}"), Some(&longest)),
            (&format!("channel={longest}x"), None),
            ("channel=", None),
            ("channels=x", None),
            ("xchannel=x", None),
            ("", None),
            ("channel=%", None),
            ("channel=%4", None),
            ("channel=%+4", None),
            ("channel=%zz", None),
            ("channel=%ff", None),
        ];
        for (query, expected) in table {
            assert_eq!(channel_hint(query).as_deref(), expected, "{query}");
        }
    }
}
