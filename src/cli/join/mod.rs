//! `join`: a member of a channel, from the terminal.
//!
//! [`states`] replaces the state with the lines of standard input.

mod states;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use crossbeam_channel::{Receiver, select};

use super::access::Access;
use super::client::{Connected, Connection};
use super::ending;
use super::failure::Failure;
use super::output;
use super::text::printable;
use crate::client::{Channel, ClientError};

/// Be a member of a channel until Ctrl-C
///
/// Prints `joined CHANNEL as NAME` once the others can see it; `headcount watch` shows who they
/// are. Each line of standard input is JSON and replaces the state. What is not JSON, or what the
/// server refuses, gives a note on standard error, and the state stays. The end of standard input
/// changes nothing.
///
/// It reconnects when the connection is lost, and is a member again with its last state. Ctrl-C,
/// SIGTERM and the end of its reader or terminal end it with exit code 0; the others see at once
/// that it leaves.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount join chat:1 --as alice --state '{\"typing\":false}'\n\
                        Example: while date | jq -R .; do sleep 5; done | headcount join hosts:1")]
pub(super) struct Join {
    /// Name of the channel, for example chat:1
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    channel: String,
    /// Who to be towards others; a token has that in it [default: a name that the server makes]
    #[arg(long = "as", value_name = "NAME")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// State at the beginning [default: none]
    #[arg(long, value_name = "JSON", allow_negative_numbers = true)]
    state: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// How long a membership that was announced again on a new connection may wait for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

impl Join {
    pub fn run(self) -> Result<(), Failure> {
        let state = self.state.as_deref().map(states::parse).transpose();
        let state = state.map_err(|why| Failure::usage("--state", why))?;
        let account = self.access.account()?;
        let stop = ending::begin()?;
        let connected = Connected::open(account, &self.channel, |config| match &self.name {
            Some(name) => config.client_id(name),
            None => config,
        })?;
        let name = connected.client.client_id().unwrap_or_default();
        if self.name.as_ref().is_some_and(|given| *given != name) {
            let why = format!("the token is that of {name}: leave it out, or give the same name");
            return Err(Failure::usage("--as", why));
        }
        let channel = connected.client.channel(&self.channel);
        let joined = match state {
            Some(state) => channel.enter(&state),
            None => channel.join(),
        };
        joined.wait().map_err(|error| self.refused(&connected, &error))?;
        output::print(&format!("joined {} as {}\n", printable(&self.channel), printable(&name)))?;
        if io::stdin().is_terminal() {
            output::note("each line of JSON replaces the state; Ctrl-C leaves");
        }
        states::follow(channel.clone())
            .map_err(|error| Failure::request("cannot start a thread", error))?;
        self.stay(connected, &channel, &stop)
    }

    /// Stays a member until `stop` receives.
    fn stay(
        &self,
        mut connected: Connected,
        channel: &Channel,
        stop: &Receiver<()>,
    ) -> Result<(), Failure> {
        loop {
            let state = select! {
                recv(stop) -> _ => return Ok(()),
                recv(connected.states) -> state => state,
            };
            // The sender lives as long as `connected`.
            let Ok(state) = state else { return Ok(()) };
            if connected.follow(&state)? != Connection::Again {
                continue;
            }
            // The client has entered again by itself; asking again tells whether it may.
            match channel.join().wait_timeout(ANSWER_WITHIN) {
                Ok(()) | Err(ClientError::Timeout | ClientError::Closed) => {}
                Err(error) => return Err(self.refused(&connected, &error)),
            }
        }
    }

    fn refused(&self, connected: &Connected, error: &ClientError) -> Failure {
        connected.failure(format!("cannot join {}", self.channel), error)
    }
}
