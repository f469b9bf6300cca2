//! `subscribe`: prints what is published in channels, each message once and in order.
//!
//! [`channel`] decides which messages are printed and requested, without a socket; [`follower`]
//! uses one connection, [`line`] formats the lines.

mod channel;
mod follower;
mod held;
mod line;
mod printer;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::ending;
use super::failure::Failure;
use super::realtime::Login;
use channel::Channel;
use follower::{Follower, Presence};
use printer::Printer;

/// Print the messages of channels as they are published
///
/// One JSON line per message: channel, serial (null when the message is not stored), timestamp
/// (milliseconds since 1970), clientId, name, id, data, and encoding where there is one.
///
/// It reconnects when the connection is lost, and continues from the last message: none is left out
/// or printed twice while the server stores the messages; otherwise it writes a note to standard
/// error. Ctrl-C, SIGTERM and the end of its reader or terminal end it with exit code 0.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount subscribe chat:1 --history 10\n\
                        Example: headcount subscribe log:app | jq -r .data")]
pub(super) struct Subscribe {
    /// Names of the channels, for example chat:1
    #[arg(value_name = "CHANNEL", required = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    channels: Vec<String>,
    /// Begin after this serial, the last one already seen; one channel only
    #[arg(long, value_name = "SERIAL", conflicts_with = "history")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Print the newest N stored messages of each channel first, 100000 or 64 MiB at most
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=100_000))]
    history: u32,
    /// Print presence too, as lines with an action: enter, update, leave; after a lost connection
    /// reset, which the present members follow as enter
    #[arg(long)]
    presence: bool,
    /// End with exit code 0 after N messages; presence does not count
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    login: Login,
}

impl Subscribe {
    pub fn run(self) -> Result<(), Failure> {
        if self.from.is_some() && self.channels.len() > 1 {
            let why = "every channel has serials of its own: give one channel with it";
            return Err(Failure::usage("--from", why));
        }
        let mut caller = self.login.caller(&self.channels[0], u32::MAX)?;
        let presence = if self.presence { Presence::Shown } else { Presence::Hidden };
        let printer = Printer::new(self.count);
        let mut names = self.channels;
        names.sort_unstable();
        names.dedup();
        let channel = |name| Channel::new(name, self.from, self.history as usize);
        let channels = names.into_iter().map(channel).collect();
        let mut follower = Follower::new(channels, presence, printer);
        let stop = ending::begin()?;
        caller.run(&stop, |caller, session| {
            let followed = follower.follow(session, &stop);
            if follower.is_complete() {
                caller.succeeded();
            }
            followed
        })
    }
}
