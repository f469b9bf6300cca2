//! A bounded queue and a thread between the server and a stream that it prints to.
//!
//! Standard error may be a full disk, a pipe without a reader, or a pipe whose reader has stopped.
//! Invariant: no caller waits for the stream, and no failed write ends anything but its line.
//!
//! | queue full | policy | who is told | counter |
//! |---|---|---|---|
//! | line -> stream | drop the line | operator | `log_lines_lost` |

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for the stream. Above it the newest are lost.
const LINES_MAX: usize = 1024;

/// How long an exit waits for lines that the stream does not take.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The sending end; clones share the queue. `tracing-appender` has the same design, but its guard
/// prints with `eprintln!` when the stream is stuck at exit, which then waits for ever, and it does
/// not count failed writes.
#[derive(Clone, Debug)]
pub struct LineQueue {
    entries: Sender<Entry>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Answered when everything before it has been written or lost.
    Flush(Sender<()>),
}

impl LineQueue {
    /// Starts the thread that writes, which ends with the last sending end.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(name: &str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, queued) = bounded(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let writer = thread::Builder::new().name(name.to_owned());
        writer.spawn(move || write_lines(stream, &queued, &counted))?;
        Ok(LineQueue { entries, lost })
    }

    /// Queues whole lines. Never waits.
    pub fn push(&self, lines: impl Into<Vec<u8>>) {
        if self.entries.try_send(Entry::Line(lines.into())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was pushed before has been written or lost, for a second at most.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_WITHIN;
        let (done, flushed) = bounded(1);
        if self.entries.send_deadline(Entry::Flush(done), deadline).is_ok() {
            // A stream that takes longer is stuck; its lines are lost with the process.
            let _ = flushed.recv_deadline(deadline);
        }
    }

    /// Lines that did not fit into the queue or could not be written.
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
            // A caller that has given up waiting is no loss.
            Entry::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// For `tracing`, which writes each line as a whole.
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

    /// Passes lines on as they are written; a receiver that is gone is a closed pipe.
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
        // The thread may hold one line beside those that are queued.
        assert!((99..=100).contains(&queue.lost()), "{}", queue.lost());
        queue.flush();
        let waited = begun.elapsed();
        assert!((FLUSH_WITHIN..FLUSH_WITHIN * 5).contains(&waited), "{waited:?}");
        drop(written);
    }
}
