//! `watch`: a channel's members as they come, change and go.
//!
//! [`event`] reads the server's lines. What is on the screen is decided by [`model`] and
//! [`roster`], which know neither terminal nor clock, and drawn by [`view`]; [`screen`] owns the
//! terminal and the loop, [`feed`] the stream and its reconnects. Without a person in front of it
//! [`lines`] prints.

mod event;
mod feed;
mod lines;
mod model;
mod roster;
mod screen;
mod view;

use clap::Args;

use super::admin_client::AdminClient;
use super::failure::Failure;
use super::output;
use super::place::Place;

/// Show live who is present in a channel and what they are doing
///
/// In a terminal: a live table and the latest events. It reconnects by itself when the server goes
/// away. Keys: q, Esc or Ctrl-C ends, j/k or the arrows scroll, p pauses. AGE is the time since a
/// member last announced its state; clock times are UTC.
///
/// Elsewhere, or with --json: one line per event, until the server ends the stream (exit code 1).
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
        let client = AdminClient::new(&self.place.admin);
        let lines = client.lines(&self.place.path("watch"))?;
        match (self.json, output::is_terminal()) {
            (true, _) => lines::print_json(lines),
            (false, false) => lines::print_text(lines),
            (false, true) => screen::run(&self.place, feed::start(client, &self.place, lines)?),
        }
    }
}
