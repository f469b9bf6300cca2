//! `publish`: puts messages into a channel, in order, each acknowledged.
//!
//! [`input`] reads the messages, [`window`] holds those without an acknowledgement, [`pipeline`]
//! sends them.

mod input;
mod pipeline;
mod window;

use std::io::{self, IsTerminal};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use crossbeam_channel::{Receiver, bounded};

use super::failure::Failure;
use super::output;
use super::realtime::Login;
use input::{Encoding, Line};
use pipeline::Pipeline;

/// Publish messages to a channel
///
/// DATA is one message. Without it, or with -, every line of standard input is one; they are
/// published in order, many at a time, and every one is acknowledged by the server. Empty lines
/// are skipped unless --text is given. The serial of each message is printed on a line of its own;
/// ephemeral messages have none.
///
/// A connection that is lost is made again for up to 31 s, and what was not acknowledged is sent
/// again under the same message ids, by which the server recognises what it has already.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount publish chat:1 '{\"text\":\"hello\"}' --name chat\n\
                        Example: tail -f app.log | headcount publish log:app --text --quiet")]
pub(super) struct Publish {
    /// Name of the channel, for example chat:1
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    channel: String,
    /// The message: JSON text, or - for standard input
    #[arg(allow_negative_numbers = true)]
    data: Option<String>,
    /// Name of the event that subscribers see
    #[arg(long, value_name = "EVENT", default_value = "message")]
    name: String,
    /// Deliver to present subscribers only: not stored, not numbered, not sent again
    #[arg(long)]
    ephemeral: bool,
    /// Message id; DATA only. Published again under it by the same client (--client-id, or that of
    /// a token), a message is stored once [default: made from the time and a random number]
    #[arg(long, value_name = "MESSAGE_ID", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Take DATA, or each line, as plain text, and publish it as a JSON string
    #[arg(long)]
    text: bool,
    /// Print no serials
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    login: Login,
}

/// Attempts to connect again without a message acknowledged in between: 1, 2, 4, 8 and 16 s apart.
const ATTEMPTS_MAX: u32 = 5;

impl Publish {
    pub fn run(self) -> Result<(), Failure> {
        let encoding = if self.text { Encoding::Text } else { Encoding::Json };
        let lines = match (&self.data, &self.id) {
            (Some(data), _) if self.is_single() => single(data, encoding)?,
            (_, Some(_)) => {
                return Err(Failure::usage("--id", "it names one message: give DATA with it"));
            }
            _ => from_standard_input(encoding)?,
        };
        let mut caller = self.login.caller(&self.channel, ATTEMPTS_MAX)?;
        Pipeline::new(self, lines)?.run(&mut caller)
    }

    /// Is DATA the only message?
    fn is_single(&self) -> bool {
        self.data.as_ref().is_some_and(|data| data != "-")
    }
}

fn single(data: &str, encoding: Encoding) -> Result<Receiver<Line>, Failure> {
    let data = encoding.encode(data).map_err(|why| Failure::usage("DATA", why))?;
    let (sender, lines) = bounded(1);
    // The channel has room for one line, and its receiver exists.
    let _ = sender.send(Line { number: 1, data: Ok(data) });
    Ok(lines)
}

fn from_standard_input(encoding: Encoding) -> Result<Receiver<Line>, Failure> {
    if io::stdin().is_terminal() {
        output::note("reading messages from the terminal, one per line; Ctrl-D ends");
    }
    input::read(encoding).map_err(|error| Failure::request("cannot start a thread", error))
}
