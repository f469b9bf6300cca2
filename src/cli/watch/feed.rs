//! The stream on a thread of its own: read, parse, reconnect.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::admin::Event;
use crate::cli::admin_client::{AdminClient, Lines};
use crate::cli::failure::Failure;
use crate::cli::place::Place;
use crate::client::protocol::Backoff;

/// News that wait to be drawn. When they are that many the stream is not read, and the server,
/// which does not wait either, tells it to start over.
const NEWS_MAX: usize = 4096;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// What the stream has to say.
#[derive(Debug)]
pub(super) enum News {
    /// Connected; the present set follows.
    Opened,
    Event(Event),
    /// The server is gone. The next attempt is made after `retry_ms`.
    Lost {
        why: String,
        retry_ms: u64,
    },
}

/// Whoever was to receive the news has gone.
struct Unheard;

/// Reads `lines`, and connects again whenever they end, until nobody listens.
pub(super) fn start(
    client: AdminClient,
    place: &Place,
    lines: Lines,
) -> Result<Receiver<News>, Failure> {
    let (news, heard) = bounded(NEWS_MAX);
    let path = place.path("watch");
    let feed = Feed { client, path, news };
    let spawned = thread::Builder::new().name("watch-feed".to_owned()).spawn(move || {
        // Ends when the screen does: then there is nothing left to say, and nobody to tell.
        let _ = feed.follow(lines);
    });
    spawned.map_err(|error| Failure::request("cannot start a thread", error))?;
    Ok(heard)
}

struct Feed {
    client: AdminClient,
    path: String,
    news: Sender<News>,
}

impl Feed {
    fn follow(&self, lines: Lines) -> Result<(), Unheard> {
        let mut stream = Ok(lines);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let (failure, is_complete) = match stream {
                Ok(lines) => self.read(lines)?,
                Err(failure) => (failure, false),
            };
            if is_complete {
                backoff.reset();
            }
            // All of it: a person reads it.
            let retry = backoff.wait(u32::MAX);
            let retry_ms = retry.as_millis() as u64;
            self.tell(News::Lost { why: failure.message().to_owned(), retry_ms })?;
            thread::sleep(retry);
            stream = self.client.lines(&self.path);
        }
    }

    /// Reads to the end: why it ended, and whether the present set had come through.
    fn read(&self, mut lines: Lines) -> Result<(Failure, bool), Unheard> {
        self.tell(News::Opened)?;
        let mut is_complete = false;
        loop {
            match lines.next().and_then(|line| Event::parse(&line)) {
                Ok(event) => {
                    is_complete |= matches!(event, Event::Ready { .. });
                    self.tell(News::Event(event))?;
                }
                Err(failure) => return Ok((failure, is_complete)),
            }
        }
    }

    fn tell(&self, news: News) -> Result<(), Unheard> {
        self.news.send(news).map_err(|_| Unheard)
    }
}
