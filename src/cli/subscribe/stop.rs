//! Ctrl-C and SIGTERM, as a message.

use std::process;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::failure::Failure;

/// Time for a goodbye to the server. A command that is still there then, because nobody takes its
/// output or a server is slow to answer, ends without.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Receives once, when somebody asks the process to end.
///
/// # Errors
/// When signals cannot be heard.
pub(super) fn on_signals() -> Result<Receiver<()>, Failure> {
    let deaf = |error| Failure::request("cannot listen to signals", error);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(deaf)?;
    let (sender, stop) = bounded(1);
    let listener = thread::Builder::new().name("subscribe-signals".to_owned());
    let spawned = listener.spawn(move || {
        if signals.forever().next().is_some() {
            // Whoever would hear of it is about to end anyway.
            let _ = sender.send(());
            thread::sleep(GOODBYE_WITHIN);
            process::exit(0);
        }
    });
    spawned.map_err(deaf)?;
    Ok(stop)
}
