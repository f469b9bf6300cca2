//! Why a command that waits ends early: a signal, or standard output without a reader.
//!
//! Commands that end by themselves soon leave signals to the kernel.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use crossterm::terminal::disable_raw_mode;
use rustix::event::{PollFd, PollFlags, poll};

use super::failure::Failure;
use crate::terminal::ending_signals;

/// Time to close the connection and restore the terminal. Then the process exits, also when its
/// output blocks or a server does not answer.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Receives once, when the command should end, with exit code 0: on SIGINT, SIGTERM, SIGQUIT or
/// SIGHUP, or when standard output or the terminal is gone.
///
/// # Errors
/// The signals cannot be handled.
pub(super) fn begin() -> Result<Receiver<()>, Failure> {
    let failed = |error| Failure::request("cannot listen to signals", error);
    let signals = listen().map_err(failed)?;
    let (sender, ending) = bounded(1);
    let end = move || {
        // Fails when the command is ending already.
        let _ = sender.send(());
        thread::sleep(CLOSE_WITHIN);
        let _ = disable_raw_mode();
    };
    exit_after(Some(signals), end).map_err(failed)?;
    Ok(ending)
}

/// Ends the process with exit code 0 as soon as standard output or the terminal is gone.
pub(super) fn exit_with_output() -> Result<(), Failure> {
    exit_after(None, || {}).map_err(|error| Failure::request("cannot start a thread", error))
}

/// Starts a thread that waits, calls `end` and ends the process with exit code 0.
fn exit_after(signals: Option<UnixStream>, end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let waiting = thread::Builder::new().name("ending".to_owned());
    let spawned = waiting.spawn(move || {
        wait(signals.as_ref().map(AsFd::as_fd));
        end();
        process::exit(0);
    });
    spawned.map(drop)
}

/// A descriptor that becomes readable with the first signal that ends a process.
fn listen() -> io::Result<UnixStream> {
    let (signals, sender) = UnixStream::pair()?;
    for signal in ending_signals() {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(signals)
}

/// Waits for a signal, a standard output that has lost its reader, or a terminal that hung up.
/// The kernel reports the last two for every set of requested events.
fn wait(signals: Option<BorrowedFd<'_>>) {
    let (input, output) = (io::stdin(), io::stdout());
    let mut polled = vec![PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
    if input.is_terminal() {
        polled.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::empty()));
    }
    polled.extend(signals.map(|signals| PollFd::from_borrowed_fd(signals, PollFlags::IN)));
    while matches!(poll(&mut polled, None), Err(rustix::io::Errno::INTR)) {}
}
