//! Everything that goes wrong, as a client is told: `{"error":{"message","code","statusCode"}}`
//! (`protocols/foony.md` section 1.3).

use std::borrow::Cow;

use serde_json::json;

use super::reply::Reply;
use crate::auth::{CredentialError, Denied};
use crate::error::Reject;
use crate::session::foony::denied_code;
use crate::wire::foony::ErrorCode;

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    code: ErrorCode,
    message: Cow<'static, str>,
    /// Why the credential is refused, for the operator.
    cause: Option<CredentialError>,
    /// Says what would be taken instead: name and value.
    header: Option<(&'static str, &'static str)>,
}

impl Refusal {
    /// With the HTTP status that belongs to the code.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Refusal { status: code.status(), code, message, cause: None, header: None }
    }

    /// The request itself is wrong.
    pub fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Refusal::new(ErrorCode::BadFrame, message)
    }

    /// 401: who asks cannot be told.
    pub fn unauthenticated(message: &'static str) -> Self {
        Refusal::new(ErrorCode::BadAuth, message)
    }

    pub fn not_found() -> Self {
        Refusal::new(ErrorCode::NotFound, "there is nothing at this path")
    }

    /// 405. `allow`: the methods that the path has.
    pub fn method(allow: &'static str) -> Self {
        let refusal = Refusal::bad("the path does not have this method").with_status(405);
        Refusal { header: Some(("allow", allow)), ..refusal }
    }

    /// 415: the body is compressed, and none is decompressed here (RFC 9110 section 15.5.16).
    pub fn content_coding() -> Self {
        let message = "the body must not have a Content-Encoding other than identity";
        let header = Some(("accept-encoding", "identity"));
        Refusal { header, ..Refusal::bad(message).with_status(415) }
    }

    /// 413.
    pub fn too_large() -> Self {
        Refusal::bad("the body is larger than the limit").with_status(413)
    }

    /// 408.
    pub fn too_slow() -> Self {
        Refusal::bad("the body did not arrive in time").with_status(408)
    }

    /// 503: the outcome is unknown, or it was not tried.
    pub fn no_answer() -> Self {
        let message = "a shard does not answer, try again";
        Refusal::new(ErrorCode::Server, message).with_status(503)
    }

    /// 503: there is no room for the request now.
    pub fn busy() -> Self {
        Refusal::new(ErrorCode::Bootstrap, "the server is busy, try again")
    }

    /// 503: the server is about to end; another one may be starting.
    pub fn stopping() -> Self {
        Refusal::new(ErrorCode::Bootstrap, "the server is stopping, try again")
    }

    /// 410: the long-polling session has ended, or never was.
    pub fn gone() -> Self {
        Refusal::new(ErrorCode::NotFound, "the session has ended, connect again").with_status(410)
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// Why the credential is refused; `None` when no credential is.
    pub fn message(&self) -> &str {
        &self.message
    }

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
            // RFC 9110 section 11.6.1 asks for a challenge; to one for Basic, browsers would react
            // with a dialogue.
            reply = reply.with_header("www-authenticate", "Bearer".to_string());
        }
        reply
    }
}

/// Of a key or a token: 401, with what the client may know of the cause.
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

/// What the owner of a channel refuses.
impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Refusal::new(reject.into(), reject.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_message_code_and_status() {
        let cases = [
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
        ];
        for (refusal, status, code) in cases {
            let reply = Reply::from(refusal.clone());
            let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(reply.status, status, "{refusal:?}");
            assert_eq!(body["error"]["statusCode"], status, "{refusal:?}");
            assert_eq!(body["error"]["code"], code, "{refusal:?}");
            assert!(!body["error"]["message"].as_str().unwrap().is_empty(), "{refusal:?}");
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
