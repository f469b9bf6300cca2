//! Arguments of clients: the server's address for WebSocket and HTTP, and the credential.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, OsStringValueParser};

use super::address::Address;
use super::config::load;
use super::credential::{Arguments, variable};
use super::failure::Failure;
use crate::client::protocol::Credential;
use crate::config::{Config, dev_key};

/// Where to connect, and with which credential.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// API key, `app.keyId:secret` [env: HEADCOUNT_KEY]
    /// [default: on this host, the development key in the data directory]
    #[arg(long, value_name = "KEY", conflicts_with = "token")]
    key: Option<String>,
    /// Bearer token instead of a key, as made by `headcount token` [env: HEADCOUNT_TOKEN]
    #[arg(long, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    token: Option<String>,
    #[command(flatten)]
    server: Server,
}

/// The server that clients connect to.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// Address of the server for WebSocket and HTTP, HOST:PORT
    /// [default: that of --config, else 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    http: Option<Address>,
    /// Configuration file of the server, TOML; names its address and its data directory
    #[arg(long, value_name = "FILE", env = "HEADCOUNT_CONFIG")]
    config: Option<PathBuf>,
    /// Data directory of the server, for its development key
    /// [default: that of --config, else headcount-data]
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new())]
    data_dir: Option<OsString>,
}

/// A server, and what opens it.
#[derive(Debug)]
pub(super) struct Account {
    pub address: Address,
    pub credential: Credential,
    /// Source of the credential as messages name it, for example "the key of --key".
    pub origin: String,
}

/// A credential, and its source.
type Found = (Credential, String);

impl Access {
    /// The account that the arguments and the environment name.
    ///
    /// # Errors
    /// No credential, or one that no server would accept.
    pub fn account(&self) -> Result<Account, Failure> {
        self.server.account(&self.key, &self.token)
    }
}

impl Server {
    /// The account on this server. `key`, `token`: those of the command line.
    ///
    /// # Errors
    /// No credential, or one that no server would accept.
    pub fn account(
        &self,
        key: &Option<String>,
        token: &Option<String>,
    ) -> Result<Account, Failure> {
        let config = || load(self.config.as_deref());
        let address = match &self.http {
            Some(address) => address.clone(),
            None => config()?.listen.http.into(),
        };
        let (credential, origin) = match given(key, token, variable)? {
            Some(found) => found,
            None => self.development_key(&address, &config()?)?,
        };
        Ok(Account { address, credential, origin })
    }

    /// The key that `serve` stores for servers without configured keys, which listen on loopback.
    /// It is never sent to another machine.
    fn development_key(&self, address: &Address, config: &Config) -> Result<Found, Failure> {
        let no_key =
            |why: &str| Failure::request("no key", format!("{why}: give --key or --token"));
        if !address.is_loopback() {
            return Err(no_key(&format!("{address} is not on this host")));
        }
        let dir = match &self.data_dir {
            Some(dir) => Path::new(dir),
            None if !config.auth.key.is_empty() => {
                return Err(no_key("the configuration has keys of its own"));
            }
            None => config.data.dir.as_path(),
        };
        if dir.as_os_str().is_empty() {
            return Err(no_key("a server without a data directory prints its key at start-up"));
        }
        match dev_key::load_kept(dir)? {
            Some(kept) => {
                let origin = format!("the development key in {}", dir.display());
                Ok((Credential::Key(kept.text), origin))
            }
            None => {
                let dir = dir.display();
                let why = format!("no development key in {dir} (--data-dir names another place)");
                Err(no_key(&why))
            }
        }
    }
}

fn given(
    key: &Option<String>,
    token: &Option<String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Found>, Failure> {
    let arguments = Arguments { token, key, token_variable: "HEADCOUNT_TOKEN" };
    let found = arguments.credential(variable)?;
    Ok(found.map(|(credential, origin)| match credential {
        Credential::Token(_) => (credential, format!("the token of {origin}")),
        Credential::Key(_) => (credential, format!("the key of {origin}")),
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        access: Access,
    }

    fn access(arguments: &[&str]) -> Access {
        Line::try_parse_from(std::iter::once(&"publish").chain(arguments)).unwrap().access
    }

    fn given_by(
        access: &Access,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Found>, Failure> {
        given(&access.key, &access.token, variable)
    }

    fn origin(arguments: &[&str], variables: &[(&str, &str)]) -> Option<String> {
        let env = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned()).filter(|value| !value.is_empty())
        };
        given_by(&access(arguments), env).unwrap().map(|(_, origin)| origin)
    }

    const KEY: &str = "demo.k:s";

    #[test]
    fn the_command_line_wins_over_the_environment_and_a_token_over_a_key() {
        let both = [("HEADCOUNT_KEY", KEY), ("HEADCOUNT_TOKEN", "t")];
        let key = [("HEADCOUNT_KEY", KEY), ("HEADCOUNT_TOKEN", "")];
        for (arguments, variables, expected) in [
            (&["--key", KEY][..], &both[..], Some("the key of --key")),
            (&["--token", "t"], &both, Some("the token of --token")),
            (&[], &both, Some("the token of HEADCOUNT_TOKEN")),
            (&[], &key, Some("the key of HEADCOUNT_KEY")),
            (&[], &[], None),
        ] {
            assert_eq!(origin(arguments, variables).as_deref(), expected);
        }
    }

    #[test]
    fn a_key_that_is_none_is_wrong_usage() {
        let failure = given_by(&access(&["--key", "nonsense"]), |_| None).unwrap_err();
        assert!(failure.message().starts_with("--key: "), "{failure:?}");
    }

    #[test]
    fn the_development_key_is_for_this_host_only() {
        let elsewhere = "192.0.2.1:7400".parse().unwrap();
        let failure =
            access(&[]).server.development_key(&elsewhere, &Config::default()).unwrap_err();
        assert!(failure.message().contains("is not on this host"), "{failure:?}");
        let here = "127.0.0.1:7400".parse().unwrap();
        let access = access(&["--data-dir", "/no/such/dir"]);
        let failure = access.server.development_key(&here, &Config::default()).unwrap_err();
        assert!(failure.message().contains("/no/such/dir"), "{failure:?}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let credential = given_by(&access(&["--key", KEY]), |_| None).unwrap();
        assert!(!format!("{credential:?}").contains(KEY));
    }
}
