//! Why a connection to the server ended, or could not be made.

use derive_more::From;

use crate::cli::failure::Failure;
use crate::client::protocol::{Awaited, Closed, Refused};
use crate::error::Retry;
use crate::wire::foony::ErrorCode;

/// Why there is no connection. The texts are causes, the `why` of an error.
#[derive(Clone, Debug, PartialEq, Eq, From)]
pub(in crate::cli) enum Fault {
    /// No server answers at the address.
    Unreachable(String),
    /// The socket or this host ended it.
    Lost(String),
    /// The protocol ended it.
    #[from]
    Closed(Closed),
}

/// Why a command stopped using a connection before it was done.
#[derive(Debug, From)]
pub(in crate::cli) enum Stop {
    /// The connection is over; the command can go on with another one.
    #[from(Fault, Closed)]
    Fault(Fault),
    /// The request cannot be fulfilled.
    #[from]
    Failure(Failure),
}

impl Fault {
    /// Whether a new connection to the same server can succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Fault::Unreachable(_) | Fault::Lost(_) => true,
            Fault::Closed(closed) => closed.retry() != Retry::Never,
        }
    }

    /// What went wrong, and why with what to do, for the user of the command.
    pub fn explain(&self, address: &str, origin: &str) -> (String, String) {
        let lost = || format!("lost the server at {address}");
        let closed = match self {
            Fault::Unreachable(why) => {
                let advice = "start one with `headcount serve` or name its address with --http";
                return (format!("no server at {address}"), format!("{why}: {advice}"));
            }
            Fault::Lost(why) => return (lost(), why.clone()),
            Fault::Closed(closed) => closed,
        };
        match closed {
            Closed::Upgrade { status: 500.., .. } => {
                let what = format!("the server at {address} is not ready");
                (what, format!("{closed}: try again later"))
            }
            Closed::Upgrade { .. } | Closed::Foreign(_) => {
                let what = format!("no headcount server at {address}");
                (what, format!("{closed}: name its http address with --http"))
            }
            Closed::Refused(refused) => {
                (format!("the server at {address} refused {origin}"), advised(refused))
            }
            Closed::Broken(error) => {
                let what = format!("the server at {address} broke the protocol");
                (what, format!("{error}: is it a headcount server of this generation?"))
            }
            Closed::Silent(Awaited::Upgrade) => {
                let question = "is this the http address of a headcount server?";
                (lost(), format!("{closed}; {question}"))
            }
            Closed::ByServer { error: Some(error), .. } => {
                (lost(), format!("{closed}{}", advice(error)))
            }
            Closed::ByServer { .. } | Closed::Silent(_) | Closed::ByUs => {
                (lost(), closed.to_string())
            }
        }
    }
}

/// A refusal, and what to do about it.
pub(in crate::cli) fn advised(refused: &Refused) -> String {
    format!("{refused}{}", advice(refused))
}

fn advice(refused: &Refused) -> &'static str {
    use ErrorCode::{AuthExpired, BadAuth, Capability, ChannelDenied, Forbidden};
    match refused.code {
        Some(BadAuth) => ": give the right one with --key or --token",
        Some(AuthExpired) => ": make a new token with `headcount token`",
        Some(Forbidden | Capability | ChannelDenied) => ": use a --key or --token that allows it",
        _ if refused.is_temporary() => ": try again later",
        _ => "",
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
            let text = advised(&Refused::new(Some(code), message));
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
