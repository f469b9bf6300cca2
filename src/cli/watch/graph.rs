//! The presence graph as a client of the server sees it.

use std::io;

use crossbeam_channel::{bounded, select};

use crate::cli::access::Account;
use crate::cli::client::Connected;
use crate::cli::failure::Failure;
use crate::cli::{ending, output};
use crate::terminal;

/// Clears the screen, and begins at its top.
const REDRAW: &str = "\x1b[H\x1b[2J";

/// Joins a channel, and prints the graph and each later one until a signal.
pub(super) fn show(account: Account, channel: &str) -> Result<(), Failure> {
    let stop = ending::begin()?;
    let before = if terminal::takes_escapes(&io::stdout()) { REDRAW } else { "\n" };
    let mut connected = Connected::open(account, channel, |config| config.join(channel))?;
    // A member that may not see the others would be shown a graph of itself.
    let members = connected.client.channel(channel).members().wait();
    members.map_err(|error| connected.failure(format!("cannot watch {channel}"), &error))?;
    let presence = connected.client.presence();
    let (change, changes) = bounded(1);
    let _observer = presence.observe(move |_| {
        // One change that waits is enough: the latest graph is printed.
        let _ = change.try_send(());
    });
    loop {
        select! {
            recv(stop) -> _ => return Ok(()),
            recv(changes) -> _ => output::print(&format!("{before}{}", presence.graph_arc()))?,
            recv(connected.states) -> state => {
                if let Ok(state) = state {
                    connected.follow(&state)?;
                }
            }
        }
    }
}
