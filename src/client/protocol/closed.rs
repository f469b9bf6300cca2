//! Why a connection ended.

use std::fmt;

use derive_more::Display;

use crate::error::{FrameError, Retry};
use crate::wire::foony::ErrorCode;

/// Longest text of a server in characters that is kept.
const MESSAGE_CHARS_MAX: usize = 1000;

/// The server's refusal of a request or of a connection, in its own words.
///
/// ```
/// use headcount::client::protocol::Refused;
/// use headcount::wire::foony::ErrorCode;
///
/// let refused = Refused::new(Some(ErrorCode::RateLimited), "slow down");
/// assert!(refused.is_temporary() && !refused.is_about_credentials());
/// assert!(refused.to_string().starts_with("slow down ("));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `None` on the sync wire, which has no codes.
    pub code: Option<ErrorCode>,
    pub message: String,
}

impl Refused {
    /// Keeps the first 1,000 characters of the message.
    ///
    /// ```
    /// use headcount::client::protocol::Refused;
    ///
    /// assert_eq!(Refused::new(None, "no such token").to_string(), "no such token");
    /// ```
    pub fn new(code: Option<ErrorCode>, message: &str) -> Self {
        Refused { code, message: message.chars().take(MESSAGE_CHARS_MAX).collect() }
    }

    /// Can the same request succeed later, with nothing else changed?
    pub fn is_temporary(&self) -> bool {
        use ErrorCode::{Bootstrap, RateLimited, Server};
        matches!(self.code, Some(RateLimited | Server | Bootstrap))
    }

    /// Are the credentials no longer good, or were they never?
    pub fn is_about_credentials(&self) -> bool {
        matches!(self.code, Some(ErrorCode::BadAuth | ErrorCode::AuthExpired))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.message.is_empty() { "no reason given" } else { &self.message })?;
        self.code.map_or(Ok(()), |code| write!(f, " ({})", code.code()))
    }
}

/// What a server did not send in time.
///
/// ```
/// use headcount::client::protocol::Awaited;
///
/// assert_eq!(Awaited::Greeting.to_string(), "no greeting in time");
/// ```
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq)]
pub enum Awaited {
    #[display("no answer to the upgrade in time")]
    Upgrade,
    #[display("no greeting in time")]
    Greeting,
    /// The answer to a ping or to a request.
    #[display("it does not answer")]
    Answer,
}

/// Why a connection is over. The texts say why, not what.
///
/// ```
/// use headcount::client::protocol::{Awaited, Closed};
/// use headcount::error::Retry;
///
/// let closed = Closed::Silent(Awaited::Answer);
/// assert_eq!(format!("lost: {closed}"), "lost: it does not answer");
/// assert_eq!(closed.retry(), Retry::Later);
/// ```
#[derive(Clone, Debug, Display, PartialEq, Eq)]
pub enum Closed {
    #[display("closed by us")]
    ByUs,
    #[display("it closed the connection{}", ending(*code, reason, error.as_ref()))]
    ByServer {
        /// Of its close frame.
        code: Option<u16>,
        reason: String,
        /// The last error that it sent about no request.
        error: Option<Refused>,
    },
    /// The upgrade was answered with another status than 101.
    #[display("it answered {}", format!("{status} {reason}").trim_end())]
    Upgrade {
        status: u16,
        /// Its reason phrase, and the first line of its body.
        reason: String,
    },
    /// The peer does not speak this protocol.
    Foreign(String),
    /// The credentials were refused.
    Refused(Refused),
    /// The server sent bytes that are not the protocol.
    Broken(FrameError),
    Silent(Awaited),
}

impl Closed {
    /// When a new connection, to a server that was there before, may do better.
    ///
    /// ```
    /// use headcount::client::protocol::Closed;
    /// use headcount::error::Retry;
    ///
    /// let unavailable = Closed::Upgrade { status: 503, reason: "Service Unavailable".to_owned() };
    /// assert_eq!(unavailable.retry(), Retry::Later);
    /// assert_eq!(Closed::ByUs.retry(), Retry::Never);
    /// ```
    pub fn retry(&self) -> Retry {
        match self {
            Closed::ByServer { .. } | Closed::Silent(_) => Retry::Later,
            Closed::Upgrade { status, .. } if *status >= 500 => Retry::Later,
            Closed::Refused(refused) if refused.is_temporary() => Retry::Later,
            Closed::ByUs
            | Closed::Upgrade { .. }
            | Closed::Foreign(_)
            | Closed::Refused(_)
            | Closed::Broken(_) => Retry::Never,
        }
    }
}

impl From<FrameError> for Closed {
    fn from(error: FrameError) -> Closed {
        Closed::Broken(error)
    }
}

/// Why a server closed a connection, as far as it said.
fn ending(code: Option<u16>, reason: &str, error: Option<&Refused>) -> String {
    let code = code.map(|code| code.to_string()).unwrap_or_default();
    let why = match format!("{code} {reason}").trim() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    error.map_or(why.clone(), |error| format!("{why}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_give_the_servers_words_and_its_code() {
        for (code, message, expected) in [
            (Some(ErrorCode::BadFrame), "invalid channel name", "invalid channel name (40001)"),
            (Some(ErrorCode::BadAuth), "", "no reason given (40101)"),
            (None, "no such token", "no such token"),
        ] {
            assert_eq!(Refused::new(code, message).to_string(), expected);
        }
        assert_eq!(Refused::new(None, &"é".repeat(2000)).message, "é".repeat(1000));
    }

    #[test]
    fn only_what_time_may_heal_is_tried_again() {
        let refused = |code| Closed::Refused(Refused::new(Some(code), "no"));
        let upgrade = |status| Closed::Upgrade { status, reason: String::new() };
        let by_server = Closed::ByServer { code: None, reason: String::new(), error: None };
        for (closed, expected) in [
            (by_server, Retry::Later),
            (upgrade(503), Retry::Later),
            (Closed::Silent(Awaited::Greeting), Retry::Later),
            (refused(ErrorCode::Bootstrap), Retry::Later),
            (refused(ErrorCode::BadAuth), Retry::Never),
            (refused(ErrorCode::AuthExpired), Retry::Never),
            (refused(ErrorCode::Capability), Retry::Never),
            (upgrade(404), Retry::Never),
            (Closed::Foreign("text".to_owned()), Retry::Never),
            (Closed::Broken(FrameError::Body), Retry::Never),
        ] {
            assert_eq!(closed.retry(), expected, "{closed}");
        }
    }

    #[test]
    fn a_close_is_told_with_all_that_the_server_said() {
        let closed = |code, reason: &str, error| {
            Closed::ByServer { code, reason: reason.to_owned(), error }.to_string()
        };
        assert_eq!(closed(None, "", None), "it closed the connection");
        assert_eq!(closed(Some(1001), "bye", None), "it closed the connection (1001 bye)");
        let error = Some(Refused::new(Some(ErrorCode::Server), "going down"));
        let expected = "it closed the connection (1001): going down (50000)";
        assert_eq!(closed(Some(1001), "", error), expected);
    }
}
