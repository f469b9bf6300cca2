//! Clients that send as fast as the server takes it, and read what it answers.

use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::client::{Closed, Event, NO_STAMP, Out, Queued, Target};
use super::engine::{ClientId, Clients, Lane, Load, Next, Tag};
use super::error::BenchError;
use super::options::{Dialect, MixedOptions, PublishForm};
use super::signals::{Counter, ThreadSignals};
use super::traffic::Encoder;

/// A flooder is refilled when less than this waits for its socket.
const REFILL_BELOW_BYTES: usize = 16 * 1024;
/// Messages per refill.
const REFILL_MESSAGES: usize = 256;

/// What flooders send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloodKind {
    /// Pings, each of which is answered.
    Pings,
    /// Updates to a channel that all flooders share.
    Updates,
}

/// One thread's flooders.
pub struct Flood {
    kind: FloodKind,
    target: Target,
    channel: Arc<str>,
    encoder: Encoder,
    signals: ThreadSignals,
    flooders: Vec<Option<ClientId>>,
    /// Flooders that have greeted; the next one to be refilled comes first in turn.
    ready: Vec<usize>,
    turn: usize,
    sent: u64,
}

impl Flood {
    pub fn new(
        options: &MixedOptions,
        target: Target,
        channel: Arc<str>,
        count: usize,
        signals: ThreadSignals,
    ) -> Self {
        let mut encoder = Encoder::new(PublishForm::Sdk);
        // A state that is a JSON string, too.
        encoder.payload = format!("\"{:x<1$}\"", "", options.state_bytes.max(2) - 2).into_bytes();
        Flood {
            kind: options.flood,
            target,
            channel,
            encoder,
            signals,
            flooders: vec![None; count],
            ready: Vec::new(),
            turn: 0,
            sent: 0,
        }
    }

    /// One flooder per turn, so that a turn stays short.
    fn refill(&mut self, clients: &mut Clients) {
        self.turn += 1;
        let Some(client) = self.flooders[self.ready[self.turn % self.ready.len()]] else { return };
        if clients.pending(client) >= REFILL_BELOW_BYTES {
            return;
        }
        for _ in 0..REFILL_MESSAGES {
            let queued = clients.send(client, |out| {
                match (self.kind, self.target.dialect()) {
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
            if queued == Queued::Full {
                return;
            }
            self.sent += 1;
        }
    }
}

impl Load for Flood {
    /// Flooders connect when the run begins.
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        let Some(timeline) = self.signals.timeline() else {
            return Ok(Next::WhenSomethingHappens);
        };
        if self.turn == 0 {
            self.turn = 1;
            for (index, flooder) in self.flooders.iter_mut().enumerate() {
                let tag = Tag { lane: Lane::Background, index };
                *flooder = Some(clients.open(&self.target, tag)?);
            }
        }
        if now_ns >= timeline.until_ns || self.ready.is_empty() {
            return Ok(Next::WhenSomethingHappens);
        }
        self.refill(clients);
        Ok(Next::Now)
    }

    fn event(&mut self, _: u64, tag: Tag, out: &mut Out<'_>, event: Event<'_>) {
        match event {
            Event::Open => out.greet(),
            Event::Greeted => self.ready.push(tag.index),
            Event::Pong { .. } => self.signals.add(Counter::FloodPongs, 1),
            _ => {}
        }
    }

    fn closed(&mut self, _: u64, tag: Tag, _: Closed) {
        self.flooders[tag.index] = None;
        self.ready.retain(|&index| index != tag.index);
        self.signals.add(Counter::FloodersDisconnected, 1);
    }
}
