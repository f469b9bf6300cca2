//! Clients that send as fast as the server takes it, and read what it answers.

use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::client::{Closed, Event, Out, Queued, Target};
use super::connect::Sources;
use super::engine::{ClientId, Clients, Group, Lane, Load, Next, Tag};
use super::error::BenchError;
use super::fanout::Encoder;
use super::options::{Dialect, PublishForm};
use super::signals::Signals;

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

/// A state that is a JSON string, too.
fn quoted(state_bytes: usize) -> Vec<u8> {
    let mut state = vec![b'x'; state_bytes.max(2)];
    let last = state.len() - 1;
    (state[0], state[last]) = (b'"', b'"');
    state
}

/// One thread's flooders.
pub struct Flood {
    kind: FloodKind,
    target: Target,
    channel: Arc<str>,
    state: Vec<u8>,
    encoder: Encoder,
    signals: Arc<Signals>,
    thread: usize,
    sources: Sources,
    flooders: Vec<Option<ClientId>>,
    /// Whose turn it is to be refilled.
    at: usize,
    ready: Vec<usize>,
    pub sent: u64,
    pub pongs: u64,
    pub disconnected: u64,
}

impl Flood {
    pub fn new(
        kind: FloodKind,
        target: Target,
        channel: Arc<str>,
        state_bytes: usize,
        count: usize,
        signals: Arc<Signals>,
        thread: usize,
    ) -> Self {
        Flood {
            kind,
            sources: Sources::for_connections(target.address, count),
            target,
            channel,
            state: quoted(state_bytes),
            encoder: Encoder::new(PublishForm::Sdk),
            signals,
            thread,
            flooders: vec![None; count],
            at: 0,
            ready: Vec::new(),
            sent: 0,
            pongs: 0,
            disconnected: 0,
        }
    }

    fn open(&mut self, clients: &mut Clients) -> Result<(), BenchError> {
        for (index, flooder) in self.flooders.iter_mut().enumerate() {
            let tag = Tag { group: Group::Flood, index };
            let source = self.sources.next().flatten();
            *flooder = Some(clients.open(&self.target, source, tag, Lane::Background)?);
        }
        Ok(())
    }

    /// One flooder per turn, so that a turn stays short.
    fn refill(&mut self, clients: &mut Clients) {
        if self.ready.is_empty() {
            return;
        }
        self.at = (self.at + 1) % self.ready.len();
        let Some(client) = self.flooders[self.ready[self.at]] else { return };
        if clients.pending(client) >= REFILL_BELOW_BYTES {
            return;
        }
        for _ in 0..REFILL_MESSAGES {
            let (encoder, id) = (&mut self.encoder, self.sent + 1);
            let queued = clients.send(client, |out| {
                match (self.kind, self.target.dialect()) {
                    (FloodKind::Pings, _) => out.beat(),
                    (FloodKind::Updates, Dialect::Sync) => out.update(&self.channel, &self.state),
                    (FloodKind::Updates, _) => {
                        encoder.payload.clone_from(&self.state);
                        encoder.publish(id, &self.channel, out);
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
    fn turn(&mut self, now_ns: u64, clients: &mut Clients) -> Result<Next, BenchError> {
        let Some(timeline) = self.signals.timeline() else {
            return Ok(Next::WhenSomethingHappens);
        };
        if self.flooders.iter().all(Option::is_none) && self.disconnected == 0 {
            self.open(clients)?;
        }
        self.signals.gauges(self.thread).flood_pongs.set(self.pongs);
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
            Event::Pong { .. } => self.pongs += 1,
            _ => {}
        }
    }

    fn closed(&mut self, _: u64, tag: Tag, _: Closed) {
        self.flooders[tag.index] = None;
        self.ready.retain(|&index| index != tag.index);
        self.disconnected += 1;
    }
}
