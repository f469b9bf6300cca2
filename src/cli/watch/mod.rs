//! `watch`: the members of a channel, live.
//!
//! [`event`] reads the server's lines. What is on the screen is decided by [`model`] and
//! [`roster`], which know neither terminal nor clock, and drawn by [`view`]; [`screen`] owns the
//! loop, [`feed`] the stream and its reconnects. Without a
//! screen [`lines`] prints. [`graph`] is another view: what a client of the server sees.

mod event;
mod feed;
mod graph;
mod lines;
mod model;
mod roster;
mod screen;
mod view;

use std::io;

use clap::{Arg, Args};

use super::access::Server;
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
///
/// With --graph: the presence graph as a client sees it, drawn again after each change, or, where
/// the output is no terminal, each graph after a blank line. To see it, it joins the channel
/// without a state: it is a member too, under a name that the server makes. It connects as
/// `headcount join` does, and reconnects. It ends with Ctrl-C, SIGTERM, its reader or its terminal,
/// exit code 0.
#[derive(Debug, Args)]
#[command(mut_args(for_graph))]
#[command(after_help = "Example: headcount watch doc:1\n\
                        Example: headcount watch doc:1 --json | jq 'select(.event == \"enter\")'\n\
                        Example: headcount watch --graph doc:1")]
pub(super) struct Watch {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object per event: present, enter, update, leave, reset; times in milliseconds
    #[arg(long)]
    json: bool,
    /// Show the presence graph of the channel, as a member of it
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    #[command(flatten, next_help_heading = "Options of --graph")]
    server: Server,
}

/// What the options of the command are with and without `--graph`.
fn for_graph(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "app" | "admin" => arg.conflicts_with("graph"),
        "http" | "data_dir" => arg.requires("graph"),
        "key" => arg.help(
            "API key that allows `admin`, `app.keyId:secret`; servers on loopback ask for none. \
             With --graph, one that allows `presence` [default: on this host, the development key \
             in the data directory] [env: HEADCOUNT_KEY]",
        ),
        "token" => arg.help(
            "Admin token of the server instead of a key [env: HEADCOUNT_ADMIN_TOKEN]. With \
             --graph, a bearer token as made by `headcount token` [env: HEADCOUNT_TOKEN]",
        ),
        _ => arg,
    }
}

impl Watch {
    pub fn run(self) -> Result<(), Failure> {
        if self.graph {
            let Place { channel, server, key, .. } = &self.place;
            let account = self.server.account(key, &server.token)?;
            return graph::show(account, channel);
        }
        let client = self.place.client()?;
        let follow = || client.lines(&self.place.path("watch"));
        if !self.json && terminal::takes_escapes(&io::stdout()) {
            let lines = follow()?;
            return screen::run(&self.place, feed::start(client, &self.place, lines)?);
        }
        ending::exit_with_output()?;
        lines::print(follow()?, if self.json { lines::json } else { lines::text })
    }
}
