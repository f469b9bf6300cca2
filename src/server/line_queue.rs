//! A bounded queue and a writer thread in front of an output stream.
//!
//! Standard error may be a full disk, a pipe without a reader, or a pipe whose reader has stopped.
//! Invariant: no caller blocks on the stream, and a failed write loses one line and nothing else.
//!
//! | queue full | policy | reported to | counter |
//! |---|---|---|---|
//! | line -> stream | drop the line | operator | `log_lines_lost` |

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines queued for the stream. Above it new ones are dropped and counted.
const LINES_MAX: usize = 1024;

/// How long an exit waits for a stream that blocks.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The sending end; clones share the queue. `tracing-appender` has the same design, but its guard
/// calls `eprintln!` when the stream blocks at exit, which then blocks for ever, and it does not
/// count failed writes.
#[derive(Clone, Debug)]
pub struct LineQueue {
    entries: Sender<Entry>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Answered when all earlier lines have been written or dropped.
    Flush(Sender<()>),
}

impl LineQueue {
    /// Starts the writer thread, which exits when the last sending end is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(name: &str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, queued) = bounded(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let writer = thread::Builder::new().name(name.to_owned());
        writer.spawn(move || write_lines(stream, &queued, &counted))?;
        Ok(LineQueue { entries, lost })
    }

    /// Queues complete lines. Never blocks.
    pub fn push(&self, lines: impl Into<Vec<u8>>) {
        if self.entries.try_send(Entry::Line(lines.into())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, for at most a second, until the lines queued so far have been written or dropped.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_WITHIN;
        let (done, flushed) = bounded(1);
        if self.entries.send_deadline(Entry::Flush(done), deadline).is_ok() {
            // The stream blocks; its lines are lost when the process exits.
            let _ = flushed.recv_deadline(deadline);
        }
    }

    /// Lines dropped since start: the queue was full or the write failed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn write_lines(mut stream: impl Write, queued: &Receiver<Entry>, lost: &AtomicU64) {
    for entry in queued {
        match entry {
            Entry::Line(line) => {
                if stream.write_all(&line).and_then(|()| stream.flush()).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Fails when the caller has timed out.
            Entry::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// For `tracing`, which writes each line with one call.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LineQueue {
    type Writer = LineQueue;

    fn make_writer(&self) -> LineQueue {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forwards lines to a channel; a dropped receiver acts as a closed pipe.
    struct Pipe(Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(line.to_vec());
            sent.map(|()| line.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them() {
        let (pipe, written) = bounded(8);
        let queue = LineQueue::start("test", Pipe(pipe)).unwrap();
        for line in ["a\n", "b\n", "c\n"] {
            queue.push(line);
        }
        queue.flush();
        let lines: Vec<Vec<u8>> = written.try_iter().collect();
        assert_eq!(lines, [b"a\n", b"b\n", b"c\n"]);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let (pipe, written) = bounded(0);
        drop(written);
        let queue = LineQueue::start("test", Pipe(pipe)).unwrap();
        queue.push("a\n");
        queue.push("b\n");
        queue.flush();
        assert_eq!(queue.lost(), 2);
    }

    #[test]
    fn a_stream_that_takes_nothing_delays_an_exit_and_nothing_else() {
        let (pipe, written) = bounded(0);
        let queue = LineQueue::start("test", Pipe(pipe)).unwrap();
        let begun = Instant::now();
        for _ in 0..LINES_MAX + 100 {
            queue.push("line\n");
        }
        assert!(begun.elapsed() < FLUSH_WITHIN, "{:?}", begun.elapsed());
        // The thread may hold one line besides those in the queue.
        assert!((99..=100).contains(&queue.lost()), "{}", queue.lost());
        queue.flush();
        let waited = begun.elapsed();
        assert!((FLUSH_WITHIN..FLUSH_WITHIN * 5).contains(&waited), "{waited:?}");
        drop(written);
    }
}
