//! `publish`: puts messages into a channel, in order, each acknowledged.
//!
//! [`input`] makes the messages, [`window`] knows which of them are under way, [`pipeline`] runs
//! the connection.

mod input;
mod message_id;
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
use message_id::MessageIds;
use pipeline::{Pipeline, Serials};

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
    /// a token), a message is stored once [default: made from time and chance]
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

impl Publish {
    pub fn run(self) -> Result<(), Failure> {
        let encoding = if self.text { Encoding::Text } else { Encoding::Json };
        let serials = if self.quiet { Serials::Hidden } else { Serials::Printed };
        let data = self.data.as_deref().filter(|data| *data != "-");
        let lines = match (data, &self.id) {
            (Some(data), _) => single(data, encoding)?,
            (None, Some(_)) => {
                return Err(Failure::usage("--id", "it names one message: give DATA with it"));
            }
            (None, None) => from_standard_input(encoding)?,
        };
        let source = if data.is_some() { Source::Argument } else { Source::Lines };
        let caller = self.login.caller()?.about(&self.channel);
        let when_lost = self.login.when_lost();
        let ids = MessageIds::new(self.id)?;
        let template =
            Template { channel: self.channel, name: self.name, ephemeral: self.ephemeral };
        Pipeline::open(caller, template, ids, source, serials)?.run(&lines, when_lost)
    }
}

/// What all messages of a run share.
#[derive(Debug)]
struct Template {
    channel: String,
    name: String,
    ephemeral: bool,
}

/// Are there lines to speak of?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Argument,
    Lines,
}

fn single(data: &str, encoding: Encoding) -> Result<Receiver<Line>, Failure> {
    let data = encoding.encode(data).map_err(|why| Failure::usage("DATA", why))?;
    let (sender, lines) = bounded(1);
    // There is room for one, and the receiver is at hand.
    let _ = sender.send(Line::Message { number: 1, data });
    Ok(lines)
}

fn from_standard_input(encoding: Encoding) -> Result<Receiver<Line>, Failure> {
    if io::stdin().is_terminal() {
        output::note("reading messages from the terminal, one per line; Ctrl-D ends");
    }
    input::read(encoding).map_err(|error| Failure::request("cannot start a thread", error))
}
