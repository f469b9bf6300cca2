//! The other commands of the binary, run against a server.

use crate::DEADLINE;
use crate::server::binary;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

/// Runs a command to its end; kills it and panics when it takes longer than the deadline.
pub fn run(arguments: &[&str]) -> Output {
    let mut child = spawn(arguments);
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{arguments:?} still running after {DEADLINE:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

fn spawn(arguments: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    spawned.unwrap_or_else(|error| panic!("{}: {error}", binary().display()))
}

/// A command that prints one JSON value per line until it is ended; killed when dropped.
pub struct JsonLines {
    child: Child,
    lines: Receiver<String>,
}

impl JsonLines {
    pub fn start(arguments: &[&str]) -> JsonLines {
        let mut child = spawn(arguments);
        let output = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        JsonLines { child, lines }
    }

    /// The next line as JSON. Waits off the runtime, so that connections of the test go on.
    pub async fn next(&mut self) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Ok(line) = self.lines.try_recv() {
                let parsed = serde_json::from_str(&line);
                return parsed.unwrap_or_else(|error| panic!("{error} in line {line:?}"));
            }
            assert!(Instant::now() < deadline, "no line within {DEADLINE:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Drop for JsonLines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
