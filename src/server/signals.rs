//! Signals: SIGTERM, SIGINT and SIGQUIT stop the server, SIGHUP has it read its configuration
//! again.

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::embed::{Handle, ReloadError};
use super::start::StartError;
use crate::config::Config;

/// Watches signals for a server. Every other signal that operators and their tools send has no
/// effect: its default is to end the process on the spot. `read`: reads the configuration again;
/// its error is one line.
///
/// # Errors
/// The signals cannot be watched.
pub fn watch_signals(
    handle: Handle,
    read: impl Fn() -> Result<Config, String> + Send + 'static,
) -> Result<(), StartError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])
        .map_err(|error| StartError::thread("the signal handler", error))?;
    let (hang_up, hang_ups) = crossbeam_channel::bounded(1);
    let reloading = handle.clone();
    // A thread of its own: a file that is slow to read delays no other signal.
    spawn("reload", move || hang_ups.iter().for_each(|()| reload(&reloading, read())))?;
    spawn("signals", move || {
        for signal in signals.forever() {
            match signal {
                SIGTERM | SIGINT | SIGQUIT => handle.stop(),
                // Full: it is about to be read.
                SIGHUP => _ = hang_up.try_send(()),
                _ => {}
            }
        }
    })
}

fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let spawned = thread::Builder::new().name(name.into()).spawn(act);
    spawned.map(drop).map_err(|error| StartError::thread(format!("the thread {name}"), error))
}

fn reload(handle: &Handle, read: Result<Config, String>) {
    let reloaded = read
        .and_then(|config| handle.reload(config).map_err(|error: ReloadError| error.to_string()));
    match reloaded {
        Ok(waiting) if waiting.is_empty() => tracing::info!("reloaded the configuration"),
        Ok(waiting) => tracing::warn!(
            "reloaded the configuration, but for changes in [{}]: restart the server to apply them",
            waiting.join("], [")
        ),
        Err(why) => tracing::error!("not reloaded, nothing has changed: {why}"),
    }
}
