//! Arguments of the realtime commands: access, client id, what to do when the connection is lost.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::caller::Caller;
use crate::cli::access::Access;
use crate::cli::address::percent_encoded;
use crate::cli::failure::Failure;
use crate::client::protocol::Credential;

/// Where to connect, with which credential, and as whom.
#[derive(Debug, Args)]
pub(in crate::cli) struct Login {
    #[command(flatten)]
    access: Access,
    /// Who to be towards others; a token has that in it [default: a name that the server makes]
    #[arg(long, value_name = "NAME", conflicts_with = "token")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    client_id: Option<String>,
    /// Fail when the connection is lost, instead of connecting again
    #[arg(long)]
    once: bool,
}

impl Login {
    /// A caller that connects to the core that owns `channel`. `attempts_max`: attempts to connect
    /// again, unless the user wants none.
    ///
    /// # Errors
    /// No credential, or one that no server would accept.
    pub fn caller(&self, channel: &str, attempts_max: u32) -> Result<Caller, Failure> {
        let account = self.access.account()?;
        if let (Credential::Token(_), Some(_)) = (&account.credential, &self.client_id) {
            let why = format!("{} says who you are: leave it out", account.origin);
            return Err(Failure::usage("--client-id", why));
        }
        let path = format!("/?channel={}", percent_encoded(channel));
        let attempts_max = if self.once { 0 } else { attempts_max };
        let client_id = self.client_id.clone().unwrap_or_default();
        Ok(Caller::new(account, path, client_id, attempts_max))
    }
}
