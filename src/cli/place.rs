//! Arguments of the admin commands: channel, server, credential.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::address::{Address, percent_encoded};
use super::admin_client::AdminClient;
use super::credential::{Arguments, variable};
use super::failure::Failure;
use crate::client::protocol::Credential;

/// App of the development key.
const APP_DEFAULT: &str = "demo";

/// The channel of a command, the admin address, and the credential.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// Name of the channel, for example doc:1
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub channel: String,
    /// App the channel belongs to [default: that of the key, else demo]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    app: Option<String>,
    #[command(flatten)]
    pub server: AdminServer,
    /// API key that allows `admin`, `app.keyId:secret`; servers on loopback ask for none
    /// [env: HEADCOUNT_KEY]
    #[arg(long, value_name = "KEY", conflicts_with = "token")]
    pub key: Option<String>,
}

/// The admin address of a server, and the token for it.
#[derive(Clone, Debug, Args)]
pub(super) struct AdminServer {
    /// Admin address of the server, HOST:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub admin: Address,
    /// Admin token of the server instead of a key [env: HEADCOUNT_ADMIN_TOKEN]
    #[arg(long, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    pub token: Option<String>,
}

impl Place {
    /// The app of the channel.
    pub fn app(&self) -> String {
        let of_key = || {
            let key = self.key.clone().or_else(|| variable("HEADCOUNT_KEY"))?;
            Some(key.split_once('.')?.0.to_owned())
        };
        self.app.clone().or_else(of_key).unwrap_or_else(|| APP_DEFAULT.to_owned())
    }

    /// Path of a resource of the channel (`members` or `watch`).
    pub fn path(&self, question: &str) -> String {
        let (app, channel) = (percent_encoded(&self.app()), percent_encoded(&self.channel));
        format!("/v1/apps/{app}/channels/{channel}/{question}")
    }

    /// A client of the server.
    ///
    /// # Errors
    /// The key is malformed.
    pub fn client(&self) -> Result<AdminClient, Failure> {
        Ok(AdminClient::new(&self.server.admin, self.authorization()?))
    }

    /// The value of the `Authorization` header; `None` without a credential.
    ///
    /// # Errors
    /// The key is malformed.
    pub fn authorization(&self) -> Result<Option<String>, Failure> {
        self.authorization_from(variable)
    }

    fn authorization_from(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, Failure> {
        let (token, key) = (&self.server.token, &self.key);
        let arguments = Arguments { token, key, token_variable: "HEADCOUNT_ADMIN_TOKEN" };
        let header = |(credential, _)| match credential {
            Credential::Token(token) => format!("Bearer {token}"),
            Credential::Key(key) => format!("Basic {}", STANDARD.encode(key)),
        };
        Ok(arguments.credential(variable)?.map(header))
    }
}

impl AdminServer {
    /// The value of the `Authorization` header; `None` without a token.
    pub fn authorization(&self) -> Option<String> {
        let token = self.token.clone().or_else(|| variable("HEADCOUNT_ADMIN_TOKEN"))?;
        Some(format!("Bearer {token}"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        place: Place,
    }

    /// A place as the command line says it.
    pub(in crate::cli) fn place(arguments: &[&str]) -> Place {
        Line::try_parse_from(std::iter::once(&"members").chain(arguments)).unwrap().place
    }

    fn authorization(arguments: &[&str], variables: &[(&str, &str)]) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        place(arguments).authorization_from(variable).unwrap()
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_a_token_over_a_key() {
        let both = [("HEADCOUNT_KEY", "env.k:s"), ("HEADCOUNT_ADMIN_TOKEN", "env-token")];
        let basic = |key: &str| Some(format!("Basic {}", STANDARD.encode(key)));
        assert_eq!(authorization(&["c"], &[]), None);
        assert_eq!(authorization(&["c"], &both[..1]), basic("env.k:s"));
        assert_eq!(authorization(&["c"], &both).as_deref(), Some("Bearer env-token"));
        assert_eq!(authorization(&["c", "--key", "a.k:s"], &both), basic("a.k:s"));
        let token = authorization(&["c", "--token", "t"], &both);
        assert_eq!(token.as_deref(), Some("Bearer t"));
    }

    #[test]
    fn the_app_is_that_of_the_key_unless_it_is_named() {
        assert_eq!(place(&["c", "--key", "shop.k:s"]).app(), "shop");
        assert_eq!(place(&["c", "--key", "shop.k:s", "--app", "other"]).app(), "other");
        let failure = place(&["c", "--key", "nonsense"]).authorization().unwrap_err();
        assert!(failure.message().contains("--key"), "{failure:?}");
    }
}
