//! The WebSocket upgrade: the request, and the check of the response (RFC 6455 section 4.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::closed::Closed;
use crate::wire::http::AcceptKey;

/// Bound what a peer that is no server of ours can make this process hold.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Of the body of a refusal, as much as may hold its first line.
const BODY_BYTES_MAX: usize = 1024;
/// Longest line of such a body in characters that is shown.
const LINE_CHARS_MAX: usize = 200;

/// What a client sends first. Connections may share one.
///
/// ```
/// use headcount::client::protocol::{Connection, Dialect, Upgrade};
///
/// let upgrade = Upgrade::new("127.0.0.1:7400", "/", [7; 16]);
/// for mask_seed in 1..=2 {
///     let mut connection = Connection::websocket(0, Dialect::Foony, &upgrade, mask_seed);
///     assert!(connection.out.pending().starts_with(b"GET / HTTP/1.1"));
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Upgrade {
    request: String,
    nonce: [u8; 16],
}

/// Does the response end with the bytes at hand?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    MayFollow,
    Ended,
}

impl Upgrade {
    /// Asks `host` (with its port) for a WebSocket at `path`, which begins with a slash, has its
    /// query, and is encoded as in a URL. `nonce`: 16 random bytes.
    ///
    /// ```
    /// use headcount::client::protocol::Upgrade;
    ///
    /// let nonce = [7; 16]; // 16 random bytes.
    /// let upgrade = Upgrade::new("realtime.example:80", "/?channel=chat%3A1", nonce);
    /// # let _ = upgrade;
    /// ```
    pub fn new(host: &str, path: &str, nonce: [u8; 16]) -> Self {
        let key = STANDARD.encode(nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             User-Agent: headcount/{}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
             \r\n",
            env!("CARGO_PKG_VERSION"),
        );
        Upgrade { request, nonce }
    }

    pub(super) fn request(&self) -> &str {
        &self.request
    }

    pub(super) fn nonce(&self) -> [u8; 16] {
        self.nonce
    }
}

/// Length of the response that upgrades; `None` while it is not all there.
///
/// # Errors
/// [`Closed::Upgrade`] and [`Closed::Foreign`].
pub(super) fn check(bytes: &[u8], nonce: [u8; 16], rest: Rest) -> Result<Option<usize>, Closed> {
    let foreign = |why: &str| Err(Closed::Foreign(why.to_owned()));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_BYTES_MAX => {
            return foreign("its answer to the upgrade has no end");
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Err(_) => return foreign("its answer is not HTTP"),
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        return refusal(status, &response, &bytes[head_bytes..], rest).map_or(Ok(None), Err);
    }
    let expected = AcceptKey::answering(STANDARD.encode(nonce).as_bytes());
    let accept = header(&response, "sec-websocket-accept");
    match expected.is_some_and(|expected| accept == Some(expected.as_bytes())) {
        true => Ok(Some(head_bytes)),
        false => foreign("it answered the upgrade of another connection"),
    }
}

fn header<'r>(response: &httparse::Response<'_, 'r>, name: &str) -> Option<&'r [u8]> {
    let headers = response.headers.iter();
    headers.filter(|header| header.name.eq_ignore_ascii_case(name)).map(|h| h.value).next()
}

/// The refusal with the first line of its body; `None` while that may be incomplete.
fn refusal(
    status: u16,
    response: &httparse::Response<'_, '_>,
    body: &[u8],
    rest: Rest,
) -> Option<Closed> {
    let declared = header(response, "content-length")
        .and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
    let wanted = declared.unwrap_or(0).min(BODY_BYTES_MAX);
    if body.len() < wanted && rest == Rest::MayFollow {
        return None;
    }
    let body = String::from_utf8_lossy(&body[..body.len().min(wanted)]);
    let line = body.lines().next().unwrap_or_default().trim();
    let line: String = line.chars().take(LINE_CHARS_MAX).collect();
    let phrase = response.reason.unwrap_or_default();
    let reason = match line.is_empty() || line == phrase {
        true => phrase.to_owned(),
        false => format!("{phrase}: {line}"),
    };
    Some(Closed::Upgrade { status, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 section 1.3.
    const NONCE: [u8; 16] = *b"the sample nonce";
    const ACCEPT: &str = "sec-WebSocket-ACCEPT: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn checked(response: &str) -> Result<Option<usize>, Closed> {
        check(response.as_bytes(), NONCE, Rest::MayFollow)
    }

    #[test]
    fn the_request_is_one_that_the_server_accepts() {
        use crate::wire::http::{self, Parsed};
        let upgrade = Upgrade::new("localhost:7400", "/?channel=chat%3A1", NONCE);
        let parsed = http::parse(upgrade.request().as_bytes(), 4096);
        let Ok(Parsed::Upgrade(seen)) = parsed else { panic!("{}", upgrade.request()) };
        assert_eq!(seen.head_bytes, upgrade.request().len());
        let response = http::switching_protocols(&seen.key, None);
        assert_eq!(check(&response, NONCE, Rest::MayFollow), Ok(Some(response.len())));
    }

    #[test]
    fn an_upgrade_is_one_only_when_it_answers_our_request() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\n{ACCEPT}\r\n");
        assert_eq!(checked(&good), Ok(Some(good.len())));
        assert_eq!(checked(&format!("{good}\u{1}")), Ok(Some(good.len())));
        for end in 0..good.len() {
            assert_eq!(checked(&good[..end]), Ok(None));
        }
        let other = check(good.as_bytes(), [0; 16], Rest::MayFollow);
        assert!(matches!(other, Err(Closed::Foreign(_))));
        assert!(matches!(checked("HTTP/1.1 101 S\r\n\r\n"), Err(Closed::Foreign(_))));
    }

    #[test]
    fn other_answers_are_reported_in_the_words_of_the_server() {
        for (answer, expected) in [
            ("SSH-2.0-OpenSSH\r\n", "its answer is not HTTP"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "it answered 404 Not Found"),
            ("HTTP/1.1 502\r\n\r\n", "it answered 502"),
            (
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nfull\r\nx",
                "it answered 503 Service Unavailable: full",
            ),
        ] {
            assert_eq!(checked(answer).unwrap_err().to_string(), expected, "{answer}");
        }
    }

    #[test]
    fn the_body_of_a_refusal_is_waited_for_unless_the_connection_ends() {
        let cut = "HTTP/1.1 403 Forbidden\r\ncontent-length: 9\r\n\r\nno or";
        assert_eq!(checked(cut), Ok(None));
        let ended = check(cut.as_bytes(), NONCE, Rest::Ended).unwrap_err();
        assert_eq!(ended.to_string(), "it answered 403 Forbidden: no or");
        let whole = checked(&format!("{cut}igin")).unwrap_err();
        assert_eq!(whole.to_string(), "it answered 403 Forbidden: no origin");
    }

    #[test]
    fn a_head_without_an_end_is_refused() {
        let endless = format!("HTTP/1.1 101 S\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        assert!(matches!(checked(&endless), Err(Closed::Foreign(_))));
    }
}
