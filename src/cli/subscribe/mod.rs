//! `subscribe`: prints what is published in channels, each message once and in order.
//!
//! [`channel`] decides what is printed and asked, and knows no socket; [`follower`] runs one
//! connection, [`line`] writes the lines.

mod channel;
mod follower;
mod held;
mod line;
mod printer;

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::ending;
use super::failure::Failure;
use super::output;
use super::realtime::{Caller, Fault, Login, Session, WhenLost};
use channel::Channel;
use follower::{Follower, Presence, Stop};
use printer::Printer;

/// Print the messages of channels as they are published
///
/// One JSON line per message: channel, serial (null when the message is not stored), timestamp
/// (milliseconds since 1970), clientId, name, id, data, and encoding where there is one.
///
/// It reconnects by itself when the server goes away, and goes on where it was: nothing is left
/// out or printed twice as long as the server keeps the messages; when it does not, a note on
/// standard error says so. Ctrl-C, SIGTERM and the end of
/// its reader or terminal end it with exit code 0.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount subscribe chat:1 --history 10\n\
                        Example: headcount subscribe log:app | jq -r .data")]
pub(super) struct Subscribe {
    /// Names of the channels, for example chat:1
    #[arg(value_name = "CHANNEL", required = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    channels: Vec<String>,
    /// Begin behind this serial, the last one already seen; one channel only
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
        let caller = self.login.caller()?.about(&self.channels[0]);
        let presence = if self.presence { Presence::Shown } else { Presence::Hidden };
        let printer = Printer::new(self.count);
        let mut names = self.channels;
        names.sort_unstable();
        names.dedup();
        let channel = |name| Channel::new(name, self.from, self.history as usize);
        let channels = names.into_iter().map(channel).collect();
        let follower = Follower::new(channels, presence, printer, ending::begin()?);
        follow(caller, follower, self.login.when_lost())
    }
}

/// Follows from one connection to the next.
fn follow(mut caller: Caller, mut follower: Follower, when_lost: WhenLost) -> Result<(), Failure> {
    let mut session = caller.connect().map_err(|fault| caller.failure(&fault))?;
    loop {
        let stop = follower.follow(&mut session);
        if follower.is_complete() {
            caller.succeeded();
        }
        let fault = match stop {
            Ok(()) => {
                session.close();
                return Ok(());
            }
            Err(Stop::Failure(failure)) => return Err(failure),
            Err(Stop::Fault(fault)) => fault,
        };
        drop(session);
        let again = reconnect(&mut caller, fault, when_lost, follower.stop())?;
        let Some(next) = again else { return Ok(()) };
        session = next;
    }
}

/// A new connection; `None` when somebody would rather end.
fn reconnect(
    caller: &mut Caller,
    mut fault: Fault,
    when_lost: WhenLost,
    stop: &Receiver<()>,
) -> Result<Option<Session>, Failure> {
    loop {
        let failure = caller.failure(&fault);
        if when_lost == WhenLost::Fail || !fault.may_pass() {
            return Err(failure);
        }
        let wait = caller.wait();
        output::note(&format!("{}; connecting again in {} s", failure.message(), wait.as_secs()));
        if is_stopped_within(wait, stop) {
            return Ok(None);
        }
        match caller.connect() {
            Ok(session) => {
                output::note("connected again");
                return Ok(Some(session));
            }
            Err(next) => fault = next,
        }
    }
}

fn is_stopped_within(wait: Duration, stop: &Receiver<()>) -> bool {
    !matches!(stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}
