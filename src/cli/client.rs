//! The Rust client as commands use it: its connection, and its errors in one line.

use std::fmt::Display;

use crossbeam_channel::{Receiver, unbounded};

use super::access::Account;
use super::address::percent_encoded;
use super::failure::Failure;
use super::output;
use super::realtime::advised;
use crate::client::protocol::{Credential, Refused};
use crate::client::{Client, ClientConfig, ClientError, ClientState, StateObserver};
use crate::wire::foony::ErrorCode;

/// A connected client that tells when its connection is lost and made again.
pub(super) struct Connected {
    pub client: Client,
    /// Each state, beginning with the current one. Never ends.
    pub states: Receiver<ClientState>,
    address: String,
    origin: String,
    is_lost: bool,
    _observer: StateObserver,
}

/// What a new state means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// As before.
    Same,
    Lost,
    /// Made again after it was lost.
    Again,
}

impl Connected {
    /// Connects to the core that owns `channel`, once.
    ///
    /// # Errors
    /// No server, or it refused the credential or a channel that `configure` joins.
    pub fn open(
        account: Account,
        channel: &str,
        configure: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<Self, Failure> {
        let (address, origin) = (account.address.to_string(), account.origin);
        let url = format!("ws://{address}/?channel={}", percent_encoded(channel));
        let config = match account.credential {
            Credential::Key(key) => ClientConfig::new(url).key(key),
            Credential::Token(token) => ClientConfig::new(url).token(token),
        };
        let what = format!("cannot join {channel}");
        let client = Client::connect(configure(config))
            .map_err(|error| failure(what, &error, &address, &origin))?;
        let (sender, states) = unbounded();
        let observer = client.on_state(move |state| {
            // The command is ending.
            let _ = sender.send(state.clone());
        });
        Ok(Connected { client, states, address, origin, is_lost: false, _observer: observer })
    }

    /// Takes one of the states, and writes a note when the connection is lost or made again.
    ///
    /// # Errors
    /// The client is closed.
    pub fn follow(&mut self, state: &ClientState) -> Result<Connection, Failure> {
        match state {
            ClientState::Closed { reason } => {
                Err(self.failure(format!("lost the server at {}", self.address), reason))
            }
            ClientState::Live if self.is_lost => {
                self.is_lost = false;
                output::note("connected again");
                Ok(Connection::Again)
            }
            ClientState::Live => Ok(Connection::Same),
            _ => {
                self.is_lost = true;
                output::note(&format!("lost the server at {}; connecting again", self.address));
                Ok(Connection::Lost)
            }
        }
    }

    /// An error as the user of the command sees it. `what`: the request that was refused.
    pub fn failure(&self, what: impl Display, error: &ClientError) -> Failure {
        failure(what, error, &self.address, &self.origin)
    }
}

fn failure(what: impl Display, error: &ClientError, address: &str, origin: &str) -> Failure {
    match error {
        ClientError::Unauthorized { .. } => {
            Failure::request(format!("the server at {address} refused {origin}"), reason(error))
        }
        ClientError::Unreachable { why } => {
            let advice = "start one with `headcount serve` or name its http address with --http";
            Failure::request(
                format!("no headcount server at {address}"),
                format!("{why}: {advice}"),
            )
        }
        ClientError::Timeout => {
            let question = "is this the http address of a headcount server?";
            Failure::request(format!("no answer from {address}"), format!("{error}; {question}"))
        }
        error => Failure::request(what, reason(error)),
    }
}

/// The reason of an error, and what to do about it.
pub(super) fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Unauthorized { code, reason } | ClientError::Refused { code, reason } => {
            advised(&Refused::new(ErrorCode::from_code(u64::from(*code)), reason))
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_why_and_what_to_do() {
        let refused = |code, reason: &str| ClientError::Refused { code, reason: reason.to_owned() };
        for (error, expected) in [
            (
                ClientError::Unauthorized { code: 40101, reason: "unknown key".to_owned() },
                "the server at a:1 refused the key of --key: unknown key (40101): give the right \
                 one with --key or --token",
            ),
            (
                ClientError::Unreachable { why: "nobody".to_owned() },
                "no headcount server at a:1: nobody: start one with `headcount serve` or name its \
                 http address with --http",
            ),
            (
                ClientError::Timeout,
                "no answer from a:1: timed out; is this the http address of a headcount server?",
            ),
            (
                refused(40302, "no"),
                "cannot join c: no (40302): use a --key or --token that allows it",
            ),
            (ClientError::QueueFull, "cannot join c: too many outstanding operations"),
        ] {
            let failure = failure("cannot join c", &error, "a:1", "the key of --key");
            assert_eq!(failure.message(), expected);
        }
    }
}
