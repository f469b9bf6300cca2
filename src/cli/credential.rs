//! The credential of a command: of its arguments, else of the environment.

use std::env;

use super::failure::Failure;
use crate::auth::{Capability, Key};
use crate::client::protocol::Credential;

/// Arguments that contain a credential, and the variable that may contain a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a> {
    pub token: &'a Option<String>,
    pub key: &'a Option<String>,
    pub token_variable: &'static str,
}

impl Arguments<'_> {
    /// The credential, and the option or variable it is from. A token in the environment wins over
    /// a key there, which may only be set to make tokens.
    ///
    /// # Errors
    /// The key is malformed.
    pub fn credential(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(Credential, &'static str)>, Failure> {
        let of_argument = |text: &Option<String>, name| text.clone().map(|text| (text, name));
        let of_variable = |name| Some((variable(name)?, name));
        let key = of_argument(self.key, "--key");
        let token = of_argument(self.token, "--token");
        let token = token.or_else(|| of_variable(self.token_variable).filter(|_| key.is_none()));
        if let Some((token, origin)) = token {
            return Ok(Some((Credential::Token(token), origin)));
        }
        let key = key.or_else(|| of_variable("HEADCOUNT_KEY"));
        let Some((key, origin)) = key else { return Ok(None) };
        Key::from_text(&key, Capability::all()).map_err(|error| Failure::usage(origin, error))?;
        Ok(Some((Credential::Key(key), origin)))
    }
}

/// The value of an environment variable. An empty variable counts as unset.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}
