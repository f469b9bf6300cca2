//! The terminal: set up, read, and restored, also after a hangup.
//!
//! Not `ratatui::init` and `ratatui::restore`: they print what fails, which panics on a terminal
//! that hung up.

use std::io::{self, Stdout, Write, stdout};
use std::mem::ManuallyDrop;
use std::{panic, thread};

use crossbeam_channel::{Receiver, bounded};
use crossterm::cursor::Show;
use crossterm::event::{self, Event};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// Keys that wait to be handled. At this number no more are read.
const KEYS_MAX: usize = 64;

/// A terminal that is never dropped: its drop prints when the cursor cannot be shown.
pub(super) type Screen = ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>;

/// Restores the terminal at the end of a view.
pub(super) struct Restored;

/// Switches to the alternate screen.
pub(super) fn open() -> io::Result<(Screen, Restored)> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        restore();
        hook(panic);
    }));
    enable_raw_mode()?;
    let restored = Restored;
    execute!(stdout(), EnterAlternateScreen)?;
    Ok((ManuallyDrop::new(Terminal::new(CrosstermBackend::new(stdout()))?), restored))
}

impl Drop for Restored {
    fn drop(&mut self) {
        restore();
    }
}

/// Errors are ignored: a closed terminal needs no restoring.
fn restore() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = stdout().flush();
}

/// Reads keys on a thread of its own: `crossterm` never returns from a terminal that hung up.
pub(super) fn keys() -> io::Result<Receiver<Event>> {
    let (sender, keys) = bounded(KEYS_MAX);
    let reader = thread::Builder::new().name("keys".to_owned());
    reader.spawn(move || {
        while let Ok(event) = event::read()
            && sender.send(event).is_ok()
        {}
    })?;
    Ok(keys)
}
