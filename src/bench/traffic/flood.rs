//! Clients that send as fast as the server takes it, and read what it answers.

use std::ops::Range;
use std::sync::Arc;

use super::super::client::{Event, NO_STAMP, Out, Target};
use super::super::engine::{Clients, Lane, NEVER_NS};
use super::super::error::BenchError;
use super::super::options::{Dialect, FloodKind, MixedOptions, PublishForm};
use super::super::signals::{Counter, ThreadSignals};
use super::Encoder;

/// A flooder is refilled when less than this waits for its socket.
const REFILL_BELOW_BYTES: usize = 16 * 1024;
/// Messages per refill.
const REFILL_MESSAGES: usize = 256;

/// One thread's flooders. They connect when the run begins.
pub struct Flood {
    kind: FloodKind,
    dialect: Dialect,
    pub target: Target,
    channel: Arc<str>,
    encoder: Encoder,
    signals: ThreadSignals,
    /// Their numbers among the connections of the thread.
    numbers: Range<usize>,
    /// Flooders that have greeted; the next one to be refilled comes first in turn.
    ready: Vec<usize>,
    turn: usize,
    sent: u64,
}

impl Flood {
    /// `first`: the number of the first one among the connections of the thread.
    pub fn new(
        options: &MixedOptions,
        target: Target,
        channel: Arc<str>,
        first: usize,
        signals: ThreadSignals,
    ) -> Self {
        let mut encoder = Encoder::new(PublishForm::Sdk);
        // A state that is a JSON string, too.
        encoder.payload = format!("\"{:x<1$}\"", "", options.state_bytes.max(2) - 2).into_bytes();
        Flood {
            kind: options.flood,
            dialect: options.base.dialect,
            target,
            channel,
            encoder,
            numbers: first..first + signals.share_of(options.flooders),
            signals,
            ready: Vec::new(),
            turn: 0,
            sent: 0,
        }
    }

    pub fn run(&mut self, now_ns: u64, clients: &mut Clients) -> Result<u64, BenchError> {
        if self.turn == 0 {
            for at in self.numbers.clone() {
                clients.open(at, &self.target, Lane::Background)?;
            }
        }
        self.turn += 1;
        let is_over = self.signals.timeline().is_none_or(|timeline| now_ns >= timeline.until_ns);
        if is_over || self.ready.is_empty() {
            return Ok(NEVER_NS);
        }
        // One flooder per turn, so that a turn stays short.
        let at = self.ready[self.turn % self.ready.len()];
        if clients.pending(at) < REFILL_BELOW_BYTES {
            self.refill(at, clients);
        }
        Ok(now_ns)
    }

    fn refill(&mut self, at: usize, clients: &mut Clients) {
        for _ in 0..REFILL_MESSAGES {
            let is_taken = clients.send(at, |out| {
                match (self.kind, self.dialect) {
                    (FloodKind::Pings, _) => out.ping(NO_STAMP),
                    (FloodKind::Updates, Dialect::Sync) => {
                        out.update(&self.channel, &self.encoder.payload);
                    }
                    (FloodKind::Updates, _) => {
                        self.encoder.publish(self.sent + 1, &self.channel, out);
                    }
                }
                out.end_message();
            });
            if !is_taken {
                return;
            }
            self.sent += 1;
        }
    }

    pub fn event(&mut self, at: usize, out: &mut Out<'_>, event: Event<'_>) {
        match event {
            Event::Open => out.greet(),
            Event::Greeted => self.ready.push(at),
            Event::Pong(_) => self.signals.add(Counter::FloodPongs, 1),
            _ => {}
        }
    }

    pub fn closed(&mut self, at: usize) {
        self.ready.retain(|&other| other != at);
        self.signals.add(Counter::FloodersDisconnected, 1);
    }
}
