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

/// Time for a goodbye to the server and to the terminal. A command that is still there then,
/// because nothing takes its output or a server is slow to answer, ends without.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Receives once, when the command should end, with exit code 0: on SIGINT, SIGTERM, SIGQUIT or
/// SIGHUP, or when standard output or the terminal is gone.
///
/// # Errors
/// When signals cannot be heard.
pub(super) fn begin() -> Result<Receiver<()>, Failure> {
    let deaf = |error| Failure::request("cannot listen to signals", error);
    let signals = listen().map_err(deaf)?;
    let (sender, ending) = bounded(1);
    let waiting = thread::Builder::new().name("ending".to_owned());
    let spawned = waiting.spawn(move || {
        wait(Some(signals.as_fd()));
        // A command that does not listen any more is about to end anyway.
        let _ = sender.send(());
        thread::sleep(GOODBYE_WITHIN);
        let _ = disable_raw_mode();
        process::exit(0);
    });
    spawned.map_err(deaf)?;
    Ok(ending)
}

/// Ends the process with exit code 0 as soon as standard output or the terminal is gone.
///
/// # Errors
/// When no thread can be had.
pub(super) fn exit_with_output() -> Result<(), Failure> {
    let waiting = thread::Builder::new().name("ending".to_owned());
    let spawned = waiting.spawn(|| {
        wait(None);
        process::exit(0);
    });
    spawned.map(drop).map_err(|error| Failure::request("cannot start a thread", error))
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
/// The kernel reports the last two whatever is asked for.
fn wait(signals: Option<BorrowedFd<'_>>) {
    let (input, output) = (io::stdin(), io::stdout());
    let mut polled = vec![PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
    if input.is_terminal() {
        polled.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::empty()));
    }
    polled.extend(signals.map(|signals| PollFd::from_borrowed_fd(signals, PollFlags::IN)));
    while matches!(poll(&mut polled, None), Err(rustix::io::Errno::INTR)) {}
}
