//! Signals that end a run early, so that the server it started ends with it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::error::BenchError;
use crate::terminal::ending_signals;

/// The last signal; 0 for none.
static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Takes the first signal that ends a process as a request to end the run; a second one ends the
/// process.
pub fn listen() -> io::Result<()> {
    if SIGNAL.get().is_some() {
        return Ok(());
    }
    let received = SIGNAL.get_or_init(Arc::default);
    let again = Arc::new(AtomicBool::new(false));
    for signal in ending_signals() {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
        signal_hook::flag::register_usize(signal, Arc::clone(received), signal as usize)?;
    }
    Ok(())
}

/// [`BenchError::Signal`] after a signal.
pub fn check() -> Result<(), BenchError> {
    match SIGNAL.get().map_or(0, |received| received.load(Ordering::Relaxed)) {
        0 => Ok(()),
        signal => Err(BenchError::Signal(signal as i32)),
    }
}
