//! `top`: what each shard of a server does, like `htop` for its cores.
//!
//! [`sample`] makes rates of two answers of the server, which know no terminal and no clock;
//! [`view`] makes lines of them.

mod sample;
mod view;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use crossbeam_channel::{Receiver, never, select};
use crossterm::event::{Event, KeyCode, KeyModifiers};
use ratatui::widgets::Paragraph;

use super::admin_client::AdminClient;
use super::failure::Failure;
use super::place::AdminServer;
use super::{ending, output, tty};
use crate::terminal;
use sample::{Answer, Shard, rates};

/// Where the counts of the shards are.
const PATH: &str = "/v1/shards";

/// Show live what each shard does: load, turn duration, connections, rates, drops
///
/// LOAD is the share of its time that a shard is busy, P99.9 how long its slowest turns take: what
/// an event waits in it. In a terminal the view is drawn anew each interval; q, Esc or Ctrl-C ends
/// it. Elsewhere, with NO_COLOR or with --json, each interval is printed, until the reader ends.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount top\n\
                        Example: headcount top --count 1 --json | jq '.shards[].load'")]
pub(super) struct Top {
    #[command(flatten)]
    server: AdminServer,
    /// Time between two looks, seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1,
        value_parser = value_parser!(u64).range(1..=3600)
    )]
    every: u64,
    /// End after so many intervals
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one JSON object per interval
    #[arg(long)]
    json: bool,
}

impl Top {
    pub fn run(&self) -> Result<(), Failure> {
        let client = AdminClient::new(&self.server.admin, self.server.authorization());
        let mut last = (Instant::now(), self.look(&client)?);
        if !self.json && terminal::takes_escapes(&io::stdout()) {
            return self.show(&client, last);
        }
        ending::exit_with_output()?;
        let mut printed = 0;
        while self.count.is_none_or(|count| printed < count) {
            thread::sleep(Duration::from_secs(self.every));
            let shards = self.next(&client, &mut last)?;
            let text = if self.json { view::json(&shards) } else { view::text(&shards) };
            output::print(&text)?;
            printed += 1;
        }
        Ok(())
    }

    /// Draws until a key, a signal, or the end of the terminal.
    fn show(&self, client: &AdminClient, mut last: (Instant, Answer)) -> Result<(), Failure> {
        let ending = ending::begin()?;
        let unusable = |error: io::Error| Failure::request("cannot use the terminal", error);
        let (mut screen, _restored) = tty::open().map_err(unusable)?;
        let keys = tty::keys().map_err(unusable)?;
        let mut drawn = 0;
        let mut shown = format!("asking the server at {}", self.server.admin);
        loop {
            screen
                .draw(|frame| frame.render_widget(Paragraph::new(shown.as_str()), frame.area()))
                .map_err(unusable)?;
            let is_last = self.count.is_some_and(|count| drawn >= count);
            if is_last || self.is_ended(&keys, &ending) {
                return Ok(());
            }
            shown = match self.next(client, &mut last) {
                Ok(shards) => view::text(&shards),
                Err(failure) => format!("{}\n", failure.message()),
            };
            drawn += 1;
        }
    }

    /// Waits for the next interval, unless a key or a signal ends the view before.
    fn is_ended(&self, keys: &Receiver<Event>, ending: &Receiver<()>) -> bool {
        let due = Instant::now() + Duration::from_secs(self.every);
        let mut keys = keys.clone();
        loop {
            select! {
                recv(ending) -> _ => return true,
                recv(keys) -> event => match event {
                    Ok(event) if is_end(&event) => return true,
                    Ok(_) => {}
                    Err(_) => keys = never(),
                },
                default(due.saturating_duration_since(Instant::now())) => return false,
            }
        }
    }

    /// What has happened since the last look.
    fn next(
        &self,
        client: &AdminClient,
        last: &mut (Instant, Answer),
    ) -> Result<Vec<Shard>, Failure> {
        let answer = self.look(client)?;
        let now = Instant::now();
        let shards = rates(&last.1, &answer, now - last.0);
        *last = (now, answer);
        Ok(shards)
    }

    fn look(&self, client: &AdminClient) -> Result<Answer, Failure> {
        serde_json::from_str(&client.text(PATH)?).map_err(|error| {
            let what = format!("the answer of {} is not one of shards", self.server.admin);
            Failure::request(what, error)
        })
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    match key.code {
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        code => matches!(code, KeyCode::Char('q') | KeyCode::Esc),
    }
}
