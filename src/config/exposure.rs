//! Network exposure: which listeners other machines can reach, and what that requires.

use std::net::SocketAddr;

use super::{Config, ConfigError};

/// App of the development key, and of anonymous sessions when that key is in use.
pub(super) const DEVELOPMENT_APP: &str = "demo";

/// Whether the operator accepts unencrypted traffic and tokens on the network
/// (`--insecure-plaintext`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsecurePlaintext {
    Allowed,
    Refused,
}

/// Whether sync sessions without a token are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Allowed,
    Refused,
}

/// Who is served the demo page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demo {
    Off,
    /// Browsers on this machine.
    ThisMachine,
    Everyone,
}

impl Config {
    /// Who is served the demo page, and why. By default browsers on this machine, as long as no key
    /// is configured: who has keys may have a proxy in front, which connects from this machine too.
    pub fn demo(&self) -> (Demo, &'static str) {
        match self.debug.demo {
            Some(true) => (Demo::Everyone, "demo is set by debug.demo"),
            Some(false) => (Demo::Off, "demo is set by debug.demo"),
            None if self.exposed().is_some() => {
                (Demo::Off, "demo is off by default: other machines can connect")
            }
            None if !self.auth.key.is_empty() => {
                (Demo::Off, "demo is off by default: keys are configured")
            }
            None if !self.listen.proxy_protocol.is_empty() => {
                (Demo::Off, "demo is off by default: connections come through a proxy")
            }
            None => {
                (Demo::ThisMachine, "demo is on by default: loopback only, no key is configured")
            }
        }
    }

    /// Whether anonymous sessions are accepted, and why. By default they are when only this machine
    /// can connect and no key is configured.
    pub fn anonymous(&self) -> (Anonymous, &'static str) {
        match self.auth.anonymous {
            Some(true) => (Anonymous::Allowed, "set by auth.anonymous"),
            Some(false) => (Anonymous::Refused, "set by auth.anonymous"),
            None if self.exposed().is_some() => {
                (Anonymous::Refused, "default: other machines can connect")
            }
            None if !self.auth.key.is_empty() => {
                (Anonymous::Refused, "default: keys are configured")
            }
            None => (Anonymous::Allowed, "default: loopback only, and no key is configured"),
        }
    }

    /// App of anonymous sessions: `auth.anonymous_app`, else that of the first key, else that of
    /// the development key (`protocols/nodedb.md` section 9, decision 11).
    pub fn anonymous_app(&self) -> &str {
        let first_key = || self.auth.key.first().and_then(|key| key.name.split('.').next());
        let configured = self.auth.anonymous_app.as_deref();
        configured.or_else(first_key).unwrap_or(DEVELOPMENT_APP)
    }

    /// Checks that an address which other machines can reach is protected: it requires
    /// `--insecure-plaintext` (TLS is not built in) and explicit keys.
    ///
    /// # Errors
    /// One line with the address and what to do.
    pub fn check_exposure(&self, plaintext: InsecurePlaintext) -> Result<(), ConfigError> {
        let Some((key, address)) = self.exposed() else { return Ok(()) };
        let what = format!("listen.{key} = {address}");
        if plaintext == InsecurePlaintext::Refused {
            return Err(ConfigError::new(
                what,
                "other machines could connect without TLS; put a TLS-terminating proxy in front \
                 and bind to loopback, or pass --insecure-plaintext",
            ));
        }
        if self.auth.key.is_empty() {
            return Err(ConfigError::new(
                what,
                "other machines could connect, but no key is configured; add an [[auth.key]] with \
                 a name and a secret, or bind to loopback",
            ));
        }
        Ok(())
    }

    /// The first address that is not loopback, with its key.
    fn exposed(&self) -> Option<(&'static str, SocketAddr)> {
        self.listen.all().into_iter().find(|(_, address)| is_exposed(*address))
    }

    /// Whether other machines can connect to the admin address.
    pub fn is_admin_exposed(&self) -> bool {
        is_exposed(self.listen.admin)
    }
}

fn is_exposed(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}
