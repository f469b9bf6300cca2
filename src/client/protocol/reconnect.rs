//! From one connection to the next.

use std::time::Duration;

use derive_more::Debug;

use super::event::Greeted;
use crate::wire::foony::Auth;

/// What proves who the client is.
///
/// ```
/// use headcount::client::protocol::Credential;
///
/// let key = Credential::Key("app.kid:secret".to_owned());
/// assert_eq!(format!("{key:?}"), "Key(..)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `app.keyId:secret`.
    #[debug("Key(..)")]
    Key(String),
    /// A JWT, which names the client.
    #[debug("Token(..)")]
    Token(String),
}

/// What identifies a session when it continues on a new connection.
///
/// ```
/// use headcount::client::protocol::{Credential, Greeted, Resume};
///
/// let mut resume = Resume::default();
/// resume.adopt(&Greeted { connection_id: "c-1", client_id: "till-1", keep_alive_ms: 0 });
/// // On the next connection:
/// let key = Credential::Key("app.kid:secret".to_owned());
/// assert_eq!(resume.auth(&key).resume_connection_id, "c-1");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Empty: the server chooses, once. It is kept then, because the server recognises a repeated
    /// message by it.
    pub client_id: String,
    /// Of the last connection; empty before the first.
    pub connection_id: String,
}

impl Resume {
    /// The Foony greeting.
    ///
    /// ```
    /// use headcount::client::protocol::{Credential, Resume};
    ///
    /// let token = Credential::Token("header.claims.signature".to_owned());
    /// let resume = Resume::default();
    /// assert_eq!(resume.auth(&token).token, "header.claims.signature");
    /// ```
    pub fn auth<'a>(&'a self, credential: &'a Credential) -> Auth<'a> {
        let resumed =
            Auth { resume_connection_id: (&*self.connection_id).into(), ..Auth::default() };
        match credential {
            Credential::Token(token) => Auth { token: token.into(), ..resumed },
            Credential::Key(key) => {
                Auth { key: key.into(), client_id: (&*self.client_id).into(), ..resumed }
            }
        }
    }

    /// Adopts what the server assigned.
    ///
    /// ```
    /// use headcount::client::protocol::{Greeted, Resume};
    ///
    /// let mut resume = Resume::default();
    /// resume.adopt(&Greeted { connection_id: "c-1", client_id: "till-1", keep_alive_ms: 0 });
    /// assert_eq!((&*resume.connection_id, &*resume.client_id), ("c-1", "till-1"));
    /// ```
    pub fn adopt(&mut self, greeted: &Greeted<'_>) {
        greeted.connection_id.clone_into(&mut self.connection_id);
        greeted.client_id.clone_into(&mut self.client_id);
    }
}

/// How long to wait before the next attempt: twice as long each time, up to a maximum.
///
/// ```
/// use std::time::Duration;
///
/// use headcount::client::protocol::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// let waits = [(); 3].map(|()| backoff.wait(u32::MAX).as_millis());
/// assert_eq!(waits, [100, 200, 400]);
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits of up to `first`, doubling to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, next: first }
    }

    /// The wait before the next attempt: a part of the whole, `random` of 2^32 of it, so that
    /// clients that lost the same server do not come back together. [`u32::MAX`] waits all of it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use headcount::client::protocol::Backoff;
    ///
    /// # let random = || 1 << 31;
    /// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    /// let wait: Duration = backoff.wait(random());
    /// assert!(wait <= Duration::from_millis(100));
    /// ```
    pub fn wait(&mut self, random: u32) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        match random {
            u32::MAX => whole,
            random => whole.mul_f64(f64::from(random) / f64::from(u32::MAX)),
        }
    }

    /// The last attempt was successful: waits begin with the first one again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use headcount::client::protocol::Backoff;
    /// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    /// backoff.wait(u32::MAX);
    /// backoff.reset();
    /// assert_eq!(backoff.wait(u32::MAX), Duration::from_millis(100));
    /// ```
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut waits =
            || -> Vec<u64> { (0..7).map(|_| backoff.wait(u32::MAX).as_secs()).collect() };
        assert_eq!(waits(), [1, 2, 4, 8, 16, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.wait(u32::MAX), Duration::from_secs(1));
        assert_eq!(backoff.wait(1 << 31).as_millis(), 1000);
        assert_eq!(backoff.wait(0), Duration::ZERO);
    }

    #[test]
    fn a_session_continues_under_the_id_that_the_server_assigned() {
        let mut resume = Resume::default();
        resume.adopt(&Greeted { connection_id: "c", client_id: "me", keep_alive_ms: 0 });
        let key = Credential::Key("demo.k:s".to_owned());
        let by_key = resume.auth(&key);
        assert_eq!((&*by_key.client_id, &*by_key.resume_connection_id), ("me", "c"));
        let token = Credential::Token("t".to_owned());
        let by_token = resume.auth(&token);
        assert_eq!((&*by_token.client_id, &*by_token.resume_connection_id), ("", "c"));
        assert!(!format!("{key:?}{token:?}").contains("demo"));
    }
}
