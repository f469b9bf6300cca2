//! The loop that reads keys and stream items and draws.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, TryRecvError, select};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::feed::News;
use super::model::Model;
use super::view;
use crate::cli::place::Place;
use crate::cli::{ending, failure::Failure, tty};
use crate::ids::Clocks;

/// Longest time between a key or an event and its display.
const TURN: Duration = Duration::from_millis(50);

/// Interval at which ages are redrawn without other changes.
const REDRAW: Duration = Duration::from_millis(250);

/// Stream items handled between two frames; the rest waits.
const NEWS_PER_TURN_MAX: usize = 2000;

/// Shows the channel until a key, a signal or the end of the terminal.
pub(super) fn run(place: &Place, news: Receiver<News>) -> Result<(), Failure> {
    let unusable = |error: io::Error| match Failure::from(error) {
        Failure::Message { message, .. } => Failure::request("cannot use the terminal", message),
        ended => ended,
    };
    let ending = ending::begin()?;
    let (terminal, _restored) = tty::open().map_err(unusable)?;
    let keys = tty::keys().map_err(unusable)?;
    let (model, started) = (Model::default(), Instant::now());
    let screen = Screen { terminal, place, news, keys, model, started, drawn: None };
    screen.show(&ending).map_err(unusable)
}

struct Screen<'p> {
    terminal: tty::Screen,
    place: &'p Place,
    news: Receiver<News>,
    keys: Receiver<Event>,
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

impl Screen<'_> {
    fn show(mut self, ending: &Receiver<()>) -> io::Result<()> {
        let mut keys = Found::Nothing;
        while keys != Found::End {
            let news = self.take_news()?;
            self.model.tick(self.now().mono_ms);
            let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW);
            let is_changed = [keys, news].contains(&Found::Something) || self.model.is_animated();
            if is_due || is_changed {
                self.draw()?;
            }
            keys = self.take_keys(ending);
        }
        Ok(())
    }

    fn take_news(&mut self) -> io::Result<Found> {
        for taken in 0..NEWS_PER_TURN_MAX {
            match self.news.try_recv() {
                Ok(news) => self.model.apply_item(self.now(), news),
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

    fn take_keys(&mut self, ending: &Receiver<()>) -> Found {
        select! {
            recv(ending) -> _ => Found::End,
            recv(self.keys) -> event => match event {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => self.press(key),
                Ok(_) => Found::Something,
                // Without keys the view could not be ended.
                Err(_) => Found::End,
            },
            default(TURN) => Found::Nothing,
        }
    }

    fn press(&mut self, key: KeyEvent) -> Found {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Found::End,
            KeyCode::Char('q') | KeyCode::Esc => return Found::End,
            KeyCode::Char('p') => self.model.toggle_pause(self.now().mono_ms),
            KeyCode::Char('j') | KeyCode::Down => self.model.scroll(1),
            KeyCode::Char('k') | KeyCode::Up => self.model.scroll(-1),
            KeyCode::PageDown => self.model.scroll(self.model.page_rows()),
            KeyCode::PageUp => self.model.scroll(-self.model.page_rows()),
            KeyCode::Home => self.model.scroll(isize::MIN),
            KeyCode::End => self.model.scroll(isize::MAX),
            _ => return Found::Nothing,
        }
        Found::Something
    }

    fn now(&self) -> Clocks {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clocks {
            mono_ms: self.started.elapsed().as_millis() as u64,
            wall_ms: wall.as_millis() as u64,
        }
    }
}
