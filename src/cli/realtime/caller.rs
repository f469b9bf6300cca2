//! Which server to connect to, with which credential, and the session to resume.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::fault::{Fault, Stop};
use super::session::Session;
use crate::cli::access::Account;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::client::protocol::{Backoff, Resume};

/// Between attempts to connect again (`protocols/foony.md` section 6.1).
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Runs a command on one connection after another.
#[derive(Debug)]
pub(in crate::cli) struct Caller {
    account: Account,
    path: String,
    resume: Resume,
    backoff: Backoff,
    /// Attempts to connect again since [`Caller::succeeded`].
    attempts: u32,
    attempts_max: u32,
}

impl Caller {
    /// `path`: of the upgrade request. `attempts_max`: attempts to connect again before a lost
    /// connection is an error.
    pub(super) fn new(
        account: Account,
        path: String,
        client_id: String,
        attempts_max: u32,
    ) -> Self {
        let resume = Resume { client_id, connection_id: String::new() };
        let backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        Caller { account, path, resume, backoff, attempts: 0, attempts_max }
    }

    /// Connects and calls `drive` with the connection, again for each connection that is lost,
    /// until `drive` returns `Ok` or `stop` receives.
    ///
    /// # Errors
    /// The first connection cannot be made, a lost one is not made again, or `drive` failed.
    pub fn run(
        &mut self,
        stop: &Receiver<()>,
        mut drive: impl FnMut(&mut Caller, &mut Session) -> Result<(), Stop>,
    ) -> Result<(), Failure> {
        let first = self.connect().map_err(|fault| self.failure(&fault))?;
        let mut connected = Ok(first);
        loop {
            let driven = connected.map_err(Stop::Fault).and_then(|mut session| {
                drive(self, &mut session)?;
                session.close();
                Ok(())
            });
            let fault = match driven {
                Ok(()) => return Ok(()),
                Err(Stop::Failure(failure)) => return Err(failure),
                Err(Stop::Fault(fault)) => fault,
            };
            let failure = self.failure(&fault);
            if self.attempts == self.attempts_max || !fault.may_pass() {
                return Err(failure);
            }
            self.attempts += 1;
            // The whole wait, without jitter: the note names its length.
            let wait = self.backoff.wait(u32::MAX);
            let seconds = wait.as_secs();
            output::note(&format!("{}; connecting again in {seconds} s", failure.message()));
            if stop.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return Ok(());
            }
            connected = self.connect();
            if connected.is_ok() {
                output::note("connected again");
            }
        }
    }

    /// The connection works: attempts are counted from 0 again, and the next wait is the shortest.
    pub fn succeeded(&mut self) {
        self.attempts = 0;
        self.backoff.reset();
    }

    /// A fault as the user of the command sees it.
    pub fn failure(&self, fault: &Fault) -> Failure {
        let (what, why) = fault.explain(self.account.address.as_str(), &self.account.origin);
        Failure::request(what, why)
    }

    fn connect(&mut self) -> Result<Session, Fault> {
        let Account { address, credential, .. } = &self.account;
        Session::open(address, &self.path, credential, &mut self.resume)
    }
}
