//! The stream on a thread of its own: read, parse, reconnect.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::admin::Event;
use crate::cli::admin_client::{AdminClient, Lines};
use crate::cli::failure::Failure;
use crate::cli::place::Place;
use crate::client::protocol::Backoff;

/// Items that wait to be drawn. At this number the stream is not read, and the server, which does
/// not wait for slow readers, drops changes and sends a reset.
const NEWS_MAX: usize = 4096;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// What the stream delivers.
#[derive(Debug)]
pub(super) enum News {
    /// Connected; the present set follows.
    Opened,
    Event(Event),
    /// The connection is lost. The next attempt is made after `retry_ms`.
    Lost {
        why: String,
        retry_ms: u64,
    },
}

/// Reads `lines`, and connects again whenever they end, until the receiver is dropped.
pub(super) fn start(
    client: AdminClient,
    place: &Place,
    lines: Lines,
) -> Result<Receiver<News>, Failure> {
    let (news, receiver) = bounded(NEWS_MAX);
    let path = place.path("watch");
    let feed = thread::Builder::new().name("watch-feed".to_owned());
    let spawned = feed.spawn(move || {
        // Ends with the screen.
        let _ = follow(&client, &path, lines, &news);
    });
    spawned.map_err(|error| Failure::request("cannot start a thread", error))?;
    Ok(receiver)
}

/// Returns `None` when the receiver is dropped.
fn follow(client: &AdminClient, path: &str, first: Lines, news: &Sender<News>) -> Option<()> {
    let mut stream = Ok(first);
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let (failure, is_complete) = match stream {
            Ok(lines) => read(lines, news)?,
            Err(failure) => (failure, false),
        };
        if is_complete {
            backoff.reset();
        }
        // The whole wait, without jitter: the screen shows its length.
        let retry = backoff.wait(u32::MAX);
        let retry_ms = retry.as_millis() as u64;
        news.send(News::Lost { why: failure.message().to_owned(), retry_ms }).ok()?;
        thread::sleep(retry);
        stream = client.lines(path);
    }
}

/// Reads to the end: why it ended, and whether the present set was complete.
fn read(mut lines: Lines, news: &Sender<News>) -> Option<(Failure, bool)> {
    news.send(News::Opened).ok()?;
    let mut is_complete = false;
    loop {
        match lines.next().and_then(|line| Event::parse(&line)) {
            Ok(event) => {
                is_complete |= matches!(event, Event::Ready { .. });
                news.send(News::Event(event)).ok()?;
            }
            Err(failure) => return Some((failure, is_complete)),
        }
    }
}
