//! `token`: makes a bearer token with an API key, without asking any server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::failure::Failure;
use super::output;
use crate::auth::{Capability, Key, TOKEN_TTL_MS_DEFAULT, mint};

/// Make a bearer token (JWT, HS256) for one user
///
/// The token is printed alone on one line. It is signed with the key's secret, so any server that
/// has the key accepts it until it expires; nothing is sent anywhere.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount token alice --key demo.kid_main:sk_main_secret\n\
                        Example: headcount token alice --capability \
                        '{\"chat:*\":[\"presence\",\"subscribe\"]}' --ttl-s 600")]
pub(super) struct Token {
    /// User id, 1 to 255 bytes: what others see in presence
    #[arg(value_name = "USER")]
    user: String,
    /// API key that signs, `app.keyId:secret`
    #[arg(long, value_name = "KEY", env = "HEADCOUNT_KEY", hide_env_values = true)]
    key: String,
    /// Life of the token, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = TOKEN_TTL_MS_DEFAULT / 1000)]
    ttl_s: u64,
    /// What the token may do: JSON object, channel pattern to list of operations (subscribe,
    /// publish, presence, history, *) [default: everything]
    #[arg(long, value_name = "JSON")]
    capability: Option<String>,
}

impl Token {
    pub fn run(&self) -> Result<(), Failure> {
        let granted = match &self.capability {
            None => Capability::all(),
            Some(text) => text.parse().map_err(|error| {
                Failure::request("--capability", format!("{error}: write it as in --help"))
            })?,
        };
        let key = Key::from_text(&self.key, Capability::all())
            .map_err(|error| Failure::request("--key", error))?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let ttl_ms = self.ttl_s.saturating_mul(1000);
        let token = mint(&key, &self.user, &granted, now_ms.as_millis() as u64, ttl_ms)
            .map_err(|error| Failure::request("token", error))?;
        output::print(&format!("{token}\n"))
    }
}
