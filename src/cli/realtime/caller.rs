//! Whom to call, as whom, and what is remembered from one connection to the next.

use std::fmt;

use super::fault::Fault;
use super::session::Session;
use crate::cli::address::{Address, percent_encoded};
use crate::cli::failure::Failure;
use crate::wire::foony::Auth;

/// What proves who calls.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    Key(String),
    Token(String),
}

/// A secret and where it is from, for people to find it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credential {
    pub secret: Secret,
    /// As in "the key of --key".
    pub origin: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.origin)
    }
}

/// Connects to one server as often as it takes.
#[derive(Debug)]
pub(in crate::cli) struct Caller {
    address: Address,
    path: String,
    credential: Credential,
    /// Empty: the server chooses, once; it is kept then, because a message that is sent again is
    /// recognised by it.
    client_id: String,
    /// Of the last connection, to be resumed.
    connection_id: String,
}

impl Caller {
    pub(super) fn new(address: Address, credential: Credential, client_id: String) -> Self {
        let (path, connection_id) = ("/".to_owned(), String::new());
        Caller { address, path, credential, client_id, connection_id }
    }

    /// Names the channel that the first request will be about, so that the connection begins on
    /// the core that owns it.
    pub fn about(self, channel: &str) -> Self {
        Caller { path: format!("/?channel={}", percent_encoded(channel)), ..self }
    }

    /// Opens a connection, as the continuation of the one before.
    ///
    /// # Errors
    /// Any fault.
    pub fn connect(&mut self) -> Result<Session, Fault> {
        let mut auth =
            Auth { resume_connection_id: (&*self.connection_id).into(), ..Auth::default() };
        match &self.credential.secret {
            Secret::Token(token) => auth.token = token.into(),
            Secret::Key(key) => {
                auth.key = key.into();
                auth.client_id = (&*self.client_id).into();
            }
        }
        let session = Session::open(&self.address, &self.path, auth)?;
        self.connection_id.clone_from(&session.connection_id);
        self.client_id.clone_from(&session.client_id);
        Ok(session)
    }

    /// What a fault is to whoever ran the command.
    pub fn failure(&self, fault: &Fault) -> Failure {
        let address = &self.address;
        let (what, why) = match fault {
            Fault::Unreachable(why) => (
                format!("no server at {address}"),
                format!("{why}: start one with `headcount serve` or name its address with --http"),
            ),
            Fault::Foreign(why) => (
                format!("no headcount server at {address}"),
                format!("{why}: name its http address with --http"),
            ),
            Fault::Unready(why) => {
                (format!("the server at {address} is not ready"), format!("{why}: try again later"))
            }
            Fault::Refused(refusal) => (
                format!("the server at {address} refused {}", self.credential.origin),
                refusal.to_string(),
            ),
            Fault::Lost(why) => (format!("lost the server at {address}"), why.clone()),
            Fault::Broken(error) => (
                format!("the server at {address} broke the protocol"),
                format!("{error}: is it a headcount server of this generation?"),
            ),
        };
        Failure::request(what, why)
    }
}
