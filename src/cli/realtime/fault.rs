//! Why a conversation with the server ended, or never began.

use std::fmt;

use crate::cli::text::clipped;
use crate::error::FrameError;
use crate::wire::foony::ErrorCode;

/// The server's no, to a request or to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Refusal {
    pub code: ErrorCode,
    message: String,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: &str) -> Self {
        Refusal { code, message: clipped(message.to_owned()) }
    }

    /// May the same be granted later, without anybody changing anything?
    pub fn may_pass(&self) -> bool {
        matches!(self.code, ErrorCode::RateLimited | ErrorCode::Server | ErrorCode::Bootstrap)
    }

    /// Is it about what the credentials allow?
    pub fn is_about_rights(&self) -> bool {
        use ErrorCode::{Capability, ChannelDenied, Forbidden};
        matches!(self.code, Forbidden | Capability | ChannelDenied)
    }

    /// What to do about it.
    fn advice(&self) -> &'static str {
        match self.code {
            ErrorCode::BadAuth => ": give the right one with --key or --token",
            ErrorCode::AuthExpired => ": make a new token with `headcount token`",
            _ if self.is_about_rights() => ": use a --key or --token that allows it",
            _ if self.may_pass() => ": try again later",
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { code, message } = self;
        let message = if message.is_empty() { "no reason given" } else { message };
        write!(f, "{message} ({}){}", code.code(), self.advice())
    }
}

/// Why there is no connection (any more). The texts say why, not what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Fault {
    /// Nobody answers at the address.
    Unreachable(String),
    /// Whoever answers there speaks something else.
    Foreign(String),
    /// The server, or a proxy in front of it, answers that it is not ready.
    Unready(String),
    /// The server does not take us.
    Refused(Refusal),
    /// The connection ended.
    Lost(String),
    /// The server sent what is not the protocol.
    Broken(FrameError),
}

impl Fault {
    /// May it be different the next time, once a server has been there?
    pub fn may_pass(&self) -> bool {
        match self {
            Fault::Unreachable(_) | Fault::Unready(_) | Fault::Lost(_) => true,
            Fault::Refused(refusal) => refusal.may_pass(),
            Fault::Foreign(_) | Fault::Broken(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_why_with_the_code_and_what_to_do() {
        for (code, message, expected) in [
            (ErrorCode::BadFrame, "invalid channel name", "invalid channel name (40001)"),
            (ErrorCode::BadAuth, "", "no reason given (40101): give the right one with --key"),
            (ErrorCode::ChannelDenied, "no", "no (40302): use a --key or --token that allows it"),
            (ErrorCode::RateLimited, "slower", "slower (42900): try again later"),
        ] {
            let text = Refusal::new(code, message).to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn only_what_time_may_heal_is_tried_again() {
        let refused = |code| Fault::Refused(Refusal::new(code, "no"));
        for (fault, expected) in [
            (Fault::Unreachable("refused".into()), true),
            (Fault::Unready("503".into()), true),
            (Fault::Lost("closed".into()), true),
            (refused(ErrorCode::Bootstrap), true),
            (refused(ErrorCode::BadAuth), false),
            (refused(ErrorCode::AuthExpired), false),
            (refused(ErrorCode::Capability), false),
            (Fault::Foreign("404".into()), false),
            (Fault::Broken(FrameError::Body), false),
        ] {
            assert_eq!(fault.may_pass(), expected, "{fault:?}");
        }
    }
}
