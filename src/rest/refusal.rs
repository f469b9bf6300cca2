//! Error responses: `{"error":{"message","code","statusCode"}}` (`protocols/foony.md` section 1.3).

use std::borrow::Cow;

use serde_json::json;

use super::reply::Reply;
use crate::auth::{CredentialError, Denied};
use crate::error::Reject;
use crate::session::foony::denied_code;
use crate::wire::foony::ErrorCode;

/// A failed request: status, error code and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: ErrorCode,
    message: Cow<'static, str>,
    /// The cause of a refused credential, for the log and the metrics.
    cause: Option<CredentialError>,
    /// A header that says what is accepted instead: name and value.
    header: Option<(&'static str, &'static str)>,
}

impl Refusal {
    /// With the HTTP status of the code.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Refusal { status: code.status(), code, message, cause: None, header: None }
    }

    /// 400: the request is invalid.
    pub fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Refusal::new(ErrorCode::BadFrame, message)
    }

    /// 401: the caller is not authenticated.
    pub fn unauthenticated(message: &'static str) -> Self {
        Refusal::new(ErrorCode::BadAuth, message)
    }

    /// 404: no resource has this path.
    pub fn not_found() -> Self {
        Refusal::new(ErrorCode::NotFound, "no resource has this path")
    }

    /// 404: the namespace of the channel keeps no presence history.
    pub fn no_presence_history() -> Self {
        let message = "presence history of this channel is not kept: set `presence_history_s` in \
                       its namespace";
        Refusal::new(ErrorCode::NotFound, message)
    }

    /// 405. `allow`: the methods of the path.
    pub fn method(allow: &'static str) -> Self {
        let refusal = Refusal::bad("the method is not allowed for this path").with_status(405);
        Refusal { header: Some(("allow", allow)), ..refusal }
    }

    /// 415: the body has a content coding; none is supported (RFC 9110 section 15.5.16).
    pub fn content_coding() -> Self {
        let message = "the body must not have a Content-Encoding other than identity";
        let header = Some(("accept-encoding", "identity"));
        Refusal { header, ..Refusal::bad(message).with_status(415) }
    }

    /// 421: the `Host` is the name of another machine.
    pub fn misdirected() -> Self {
        let message =
            "the Host is another machine's name: use an address, or add it to [admin] hosts";
        Refusal::bad(message).with_status(421)
    }

    /// 413.
    pub fn too_large() -> Self {
        Refusal::bad("the body is larger than the limit").with_status(413)
    }

    /// 408.
    pub fn too_slow() -> Self {
        Refusal::bad("the body did not arrive in time").with_status(408)
    }

    /// 503: the shard did not answer; the request may have been executed.
    pub fn no_answer() -> Self {
        let message = "a shard did not answer in time, try again";
        Refusal::new(ErrorCode::Server, message).with_status(503)
    }

    /// 503: the server has no capacity for the request now.
    pub fn busy() -> Self {
        Refusal::new(ErrorCode::Bootstrap, "the server is busy, try again")
    }

    /// 503: the server is shutting down; another one may be starting.
    pub fn stopping() -> Self {
        Refusal::new(ErrorCode::Bootstrap, "the server is stopping, try again")
    }

    /// 410: the long-polling session has ended or does not exist.
    pub fn gone() -> Self {
        Refusal::new(ErrorCode::NotFound, "the session has ended, connect again").with_status(410)
    }

    /// The text for the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The cause of a refused credential; `None` for other errors.
    pub fn cause(&self) -> Option<CredentialError> {
        self.cause
    }

    pub(super) fn with_cause(self, cause: CredentialError) -> Self {
        Refusal { cause: Some(cause), ..self }
    }

    fn with_status(self, status: u16) -> Self {
        Refusal { status, ..self }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, message, header, .. } = refusal;
        let error = json!({ "message": message, "code": code.code(), "statusCode": status });
        let body = json!({ "error": error }).to_string().into_bytes();
        let mut reply = Reply::json(body).with_status(status);
        if let Some((name, value)) = header {
            reply = reply.with_header(name, value.to_string());
        }
        if status == 401 {
            // RFC 9110 section 11.6.1 requires a challenge; for Basic, browsers would open a
            // dialog.
            reply = reply.with_header("www-authenticate", "Bearer".to_string());
        }
        reply
    }
}

/// 401, with the part of the cause that may be disclosed.
impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        let code = ErrorCode::from(Reject::from(error));
        Refusal::new(code, format!("invalid key or token: {}", error.reason())).with_cause(error)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Refusal::new(denied_code(denied), denied.to_string())
    }
}

/// A request that the owner of the channel has refused.
impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Refusal::new(reject.into(), reject.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> [(Refusal, u16, u32); 19] {
        [
            (Refusal::bad("no"), 400, 40001),
            (Refusal::unauthenticated("no"), 401, 40101),
            (Refusal::from(CredentialError::Expired), 401, 40102),
            (Refusal::from(CredentialError::Signature), 401, 40101),
            (Refusal::from(CredentialError::UnknownKey), 401, 40101),
            (Refusal::new(ErrorCode::Forbidden, "no"), 403, 40300),
            (Refusal::from(Denied::NotThisOperation), 403, 40301),
            (Refusal::from(Denied::NoPattern), 403, 40302),
            (Refusal::not_found(), 404, 40400),
            (Refusal::method("GET"), 405, 40001),
            (Refusal::too_slow(), 408, 40001),
            (Refusal::gone(), 410, 40400),
            (Refusal::too_large(), 413, 40001),
            (Refusal::content_coding(), 415, 40001),
            (Refusal::from(Reject::Busy), 429, 42900),
            (Refusal::new(ErrorCode::Server, "no"), 500, 50000),
            (Refusal::no_answer(), 503, 50000),
            (Refusal::busy(), 503, 50001),
            (Refusal::stopping(), 503, 50001),
        ]
    }

    #[test]
    fn every_refusal_has_message_code_and_status() {
        for (refusal, status, code) in cases() {
            let reply = Reply::from(refusal.clone());
            let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(reply.status, status, "{refusal:?}");
            assert_eq!(body["error"]["statusCode"], status, "{refusal:?}");
            assert_eq!(body["error"]["code"], code, "{refusal:?}");
            assert!(!body["error"]["message"].as_str().unwrap().is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn statuses_and_codes_are_documented() {
        let table = include_str!("../../docs/refusals.md");
        for (refusal, status, code) in cases() {
            let row = format!("\n| {status} | {code} | ");
            assert!(table.contains(&row), "no row for {refusal:?}");
        }
    }

    #[test]
    fn headers_that_http_demands_are_there() {
        let header = |refusal: Refusal, name: &str| {
            let headers = Reply::from(refusal).headers;
            headers.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        assert_eq!(header(Refusal::method("GET, OPTIONS"), "allow").unwrap(), "GET, OPTIONS");
        assert_eq!(header(Refusal::content_coding(), "accept-encoding").unwrap(), "identity");
        assert_eq!(header(Refusal::unauthenticated("no"), "www-authenticate").unwrap(), "Bearer");
        assert_eq!(header(Refusal::not_found(), "www-authenticate"), None);
        assert_eq!(header(Refusal::gone(), "content-type").unwrap(), "application/json");
    }
}
