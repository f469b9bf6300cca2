//! What carries a client's requests: a socket, or questions to the edge.

use headcount::shard::{PollOutcome, PollRequest, PollSession};

use super::super::world::World;
use super::line::{Heard, Line, Mode};

/// One connection.
#[derive(Debug)]
pub struct Link {
    pub line: Line,
    pub carrier: Carrier,
    /// `connected` was heard.
    pub ready: bool,
    /// Standstills before.
    pub ready_since: u64,
    /// The client does not read.
    pub stalled: bool,
}

#[derive(Debug)]
pub enum Carrier {
    Socket(usize),
    Poll(Polling),
}

/// A long-polling session from the client's side.
#[derive(Debug)]
pub struct Polling {
    pub shard: usize,
    pub session: Option<PollSession>,
    connecting: Option<u64>,
    held: Option<u64>,
    sending: Option<u64>,
    unsent: Vec<u8>,
    /// The standstill before the last answer.
    answered: u64,
}

/// What a look at the connection brought.
#[derive(Debug, Default)]
pub struct Look {
    /// With the standstill before which none of it was made.
    pub heard: Vec<(u64, Heard)>,
    pub ended: bool,
}

impl Link {
    pub fn socket(mode: Mode, socket: usize) -> Self {
        Link::new(mode, Carrier::Socket(socket))
    }

    /// Begins a long-polling session with its auth.
    pub fn poll(world: &mut World, shard: usize, auth: impl FnOnce(&mut Line) -> Vec<u8>) -> Self {
        let mut link = Link::new(Mode::LongPoll, Carrier::Socket(0));
        let bytes = auth(&mut link.line);
        link.carrier = Carrier::Poll(Polling {
            shard,
            session: None,
            connecting: Some(world.ask(shard, PollRequest::Connect { bytes })),
            held: None,
            sending: None,
            unsent: Vec::new(),
            answered: 0,
        });
        link
    }

    fn new(mode: Mode, carrier: Carrier) -> Self {
        let line = Line::new(mode);
        Link { line, carrier, ready: false, ready_since: 0, stalled: false }
    }

    pub fn send(&mut self, world: &mut World, bytes: &[u8]) {
        match &mut self.carrier {
            Carrier::Socket(socket) => world.send(*socket, bytes),
            Carrier::Poll(polling) => polling.unsent.extend_from_slice(bytes),
        }
    }

    /// Takes what has arrived; a long-polling client asks for more.
    pub fn look(&mut self, world: &mut World) -> Look {
        if self.stalled {
            return Look::default();
        }
        match &mut self.carrier {
            Carrier::Socket(socket) => look_at_socket(world, *socket, &mut self.line),
            Carrier::Poll(polling) => polling.look(world, &mut self.line),
        }
    }
}

fn look_at_socket(world: &mut World, at: usize, line: &mut Line) -> Look {
    let bytes = std::mem::take(&mut world.sockets[at].outbound);
    let heard = line.read(&bytes).into_iter();
    let heard = heard.map(|(end, heard)| (world.made_after(at, end), heard)).collect();
    Look { heard, ended: world.sockets[at].shut }
}

impl Polling {
    fn look(&mut self, world: &mut World, line: &mut Line) -> Look {
        let mut look = Look::default();
        if let Some((outcome, standstill)) = take(world, &mut self.connecting) {
            match outcome {
                PollOutcome::Connected { session, bytes } => {
                    self.session = Some(session);
                    self.hear(&bytes, standstill, line, &mut look);
                }
                other => panic!("a good auth is answered with {other:?}"),
            }
        }
        if let Some((outcome, standstill)) = take(world, &mut self.held) {
            match outcome {
                PollOutcome::Frames { bytes } => self.hear(&bytes, standstill, line, &mut look),
                PollOutcome::Gone => look.ended = true,
                other => panic!("a question is answered with {other:?}"),
            }
        }
        if let Some((outcome, _)) = take(world, &mut self.sending) {
            assert!(matches!(outcome, PollOutcome::Accepted | PollOutcome::Gone), "{outcome:?}");
            look.ended |= outcome == PollOutcome::Gone;
        }
        self.ask(world);
        look
    }

    fn hear(&mut self, bytes: &[u8], standstill: u64, line: &mut Line, look: &mut Look) {
        look.heard.extend(line.read(bytes).into_iter().map(|(_, heard)| (self.answered, heard)));
        self.answered = standstill;
    }

    /// One question and one sending at a time.
    pub fn ask(&mut self, world: &mut World) {
        let Some(session) = self.session else { return };
        if self.held.is_none() {
            self.held = Some(world.ask(self.shard, PollRequest::Receive { session }));
        }
        if self.sending.is_none() && !self.unsent.is_empty() {
            let bytes = std::mem::take(&mut self.unsent);
            self.sending = Some(world.ask(self.shard, PollRequest::Send { session, bytes }));
        }
    }

    /// Something is under way.
    pub fn is_busy(&self) -> bool {
        self.connecting.is_some() || self.sending.is_some() || !self.unsent.is_empty()
    }
}

fn take(world: &mut World, number: &mut Option<u64>) -> Option<(PollOutcome, u64)> {
    let outcome = world.take_polled((*number)?)?;
    *number = None;
    Some(outcome)
}
