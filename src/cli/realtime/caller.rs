//! Which server to connect to, with which credential, and the session to resume.

use std::time::Duration;

use super::fault::Fault;
use super::session::Session;
use crate::cli::address::{Address, percent_encoded};
use crate::cli::failure::Failure;
use crate::client::protocol::{Backoff, Credential, Resume};

/// Between attempts to connect again (`protocols/foony.md` section 6.1).
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Connects to one server as often as it takes.
#[derive(Debug)]
pub(in crate::cli) struct Caller {
    address: Address,
    path: String,
    credential: Credential,
    /// Where the credential is from, for people to find it, as in "the key of --key".
    origin: String,
    resume: Resume,
    backoff: Backoff,
}

impl Caller {
    pub(super) fn new(
        address: Address,
        (credential, origin): (Credential, String),
        client_id: String,
    ) -> Self {
        let resume = Resume { client_id, connection_id: String::new() };
        let backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        Caller { address, path: "/".to_owned(), credential, origin, resume, backoff }
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
        Session::open(&self.address, &self.path, &self.credential, &mut self.resume)
    }

    /// How long to wait before the next attempt. All of it: a person reads it.
    pub fn wait(&mut self) -> Duration {
        self.backoff.wait(u32::MAX)
    }

    /// The last attempt was successful: the next wait is the shortest again.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }

    /// A fault as the user of the command sees it.
    pub fn failure(&self, fault: &Fault) -> Failure {
        let (what, why) = fault.explain(self.address.as_str(), &self.origin);
        Failure::request(what, why)
    }
}
