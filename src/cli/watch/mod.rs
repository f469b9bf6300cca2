//! `watch`: the members of a channel, live.
//!
//! [`event`] reads the server's lines. What is on the screen is decided by [`model`] and
//! [`roster`], which know neither terminal nor clock, and drawn by [`view`]; [`screen`] owns the
//! loop, [`tty`] the terminal and its keys, [`feed`] the stream and its reconnects. Without a
//! screen [`lines`] prints.

mod event;
mod feed;
mod lines;
mod model;
mod roster;
mod screen;
mod tty;
mod view;

use std::io;

use clap::Args;

use super::admin_client::AdminClient;
use super::ending;
use super::failure::Failure;
use super::place::Place;
use crate::terminal;

/// Show live who is present in a channel and what they are doing
///
/// In a terminal: a live table and the latest events. It reconnects by itself when the server goes
/// away. Keys: q, Esc or Ctrl-C ends, j/k or the arrows scroll, p pauses. AGE is the time since a
/// member last announced its state; clock times are UTC.
///
/// Elsewhere, on TERM=dumb, with NO_COLOR or with --json: one line per event, until the server ends
/// the stream (exit code 1). It ends with its reader or its terminal, exit code 0.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount watch doc:1\n\
                        Example: headcount watch doc:1 --json | jq 'select(.event == \"enter\")'")]
pub(super) struct Watch {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object per event: present, enter, update, leave, reset; times in milliseconds
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub fn run(self) -> Result<(), Failure> {
        let client = AdminClient::new(&self.place)?;
        let follow = || client.lines(&self.place.path("watch"));
        if !self.json && terminal::takes_escapes(&io::stdout()) {
            let lines = follow()?;
            return screen::run(&self.place, feed::start(client, &self.place, lines)?);
        }
        ending::exit_with_output()?;
        lines::print(follow()?, if self.json { lines::json } else { lines::text })
    }
}
