//! The terminal, and the loop between keys, news and drawing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, TryRecvError};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::feed::News;
use super::model::{Model, Scroll};
use super::view;
use crate::cli::failure::Failure;
use crate::cli::place::Place;
use crate::ids::Now;

/// How long a key or an event waits to be seen, at most.
const TURN: Duration = Duration::from_millis(50);

/// Ages are drawn this often when nothing else happens.
const REDRAW: Duration = Duration::from_millis(250);

/// News taken between two frames; the rest waits.
const NEWS_PER_TURN_MAX: usize = 2000;

/// Shows the channel until somebody ends it.
///
/// # Errors
/// When the terminal cannot be used.
pub(super) fn run(place: &Place, news: Receiver<News>) -> Result<(), Failure> {
    let unusable = |error: io::Error| Failure::request("cannot use the terminal", error);
    let ended = ended_by_signal().map_err(unusable)?;
    let terminal = ratatui::try_init().map_err(unusable)?;
    // Restored by `ratatui` itself after a panic.
    let shown = Screen::new(terminal, place, news).show(&ended);
    ratatui::restore();
    shown.map_err(unusable)
}

/// Becomes true when the process is asked to end, so that the terminal is restored first.
fn ended_by_signal() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}

struct Screen<'p> {
    terminal: DefaultTerminal,
    place: &'p Place,
    news: Receiver<News>,
    model: Model,
    started: Instant,
    drawn: Option<Instant>,
}

/// What a turn of the loop found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Something,
    End,
}

impl<'p> Screen<'p> {
    fn new(terminal: DefaultTerminal, place: &'p Place, news: Receiver<News>) -> Self {
        let (model, started) = (Model::new(), Instant::now());
        Screen { terminal, place, news, model, started, drawn: None }
    }

    fn show(mut self, ended: &AtomicBool) -> io::Result<()> {
        let mut keys = Found::Nothing;
        while keys != Found::End && !ended.load(Ordering::Relaxed) {
            let news = self.take_news()?;
            self.model.tick(self.now().mono_ms);
            let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW);
            let is_changed = [keys, news].contains(&Found::Something) || self.model.is_animated();
            if is_due || is_changed {
                self.draw()?;
            }
            keys = self.take_keys()?;
        }
        Ok(())
    }

    fn take_news(&mut self) -> io::Result<Found> {
        for taken in 0..NEWS_PER_TURN_MAX {
            match self.news.try_recv() {
                Ok(news) => self.model.hear(self.now(), news),
                Err(TryRecvError::Empty) if taken == 0 => return Ok(Found::Nothing),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other("the thread that reads the stream ended"));
                }
            }
        }
        Ok(Found::Something)
    }

    fn draw(&mut self) -> io::Result<()> {
        let now_ms = self.now().mono_ms;
        let (model, place) = (&mut self.model, self.place);
        self.terminal.draw(|frame| {
            model.set_page(view::page_rows(frame.area()));
            view::draw(frame, place, model, now_ms);
        })?;
        self.drawn = Some(Instant::now());
        Ok(())
    }

    fn take_keys(&mut self) -> io::Result<Found> {
        if !event::poll(TURN)? {
            return Ok(Found::Nothing);
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => Ok(self.press(key)),
            _ => Ok(Found::Something),
        }
    }

    fn press(&mut self, key: KeyEvent) -> Found {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Found::End,
            KeyCode::Char('q') | KeyCode::Esc => return Found::End,
            KeyCode::Char('p') => self.model.toggle_pause(self.now().mono_ms),
            KeyCode::Char('j') | KeyCode::Down => self.model.scroll(Scroll::Down),
            KeyCode::Char('k') | KeyCode::Up => self.model.scroll(Scroll::Up),
            KeyCode::PageDown => self.model.scroll(Scroll::PageDown),
            KeyCode::PageUp => self.model.scroll(Scroll::PageUp),
            KeyCode::Home => self.model.scroll(Scroll::Top),
            KeyCode::End => self.model.scroll(Scroll::Bottom),
            _ => return Found::Nothing,
        }
        Found::Something
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }
}
