//! The conversation of one connection: subscribes, hears, asks for what is missing.

use std::collections::BTreeMap;

use crossbeam_channel::Receiver;

use super::channel::{Channel, Effect};
use super::line::{member_line, reset_line};
use super::printer::{Printer, Wanted};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::realtime::{Fault, Next, Refusal, Session, events};
use crate::wire::foony::{Cursor, Delivery, Event, Request};

/// Is presence wanted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Shown,
    Hidden,
}

/// Why a conversation stopped before it was done.
#[derive(Debug)]
pub(super) enum Stop {
    /// The connection: another one may go on.
    Fault(Fault),
    /// What was asked for cannot be done.
    Failure(Failure),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failure(failure)
    }
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Subscription,
    Presence,
    History,
    Fetch,
}

/// Follows channels over any number of connections.
pub(super) struct Follower {
    channels: Vec<Channel>,
    presence: Presence,
    printer: Printer,
    stop: Receiver<()>,
    /// Channel and purpose of the requests without an answer.
    asked: BTreeMap<u64, (usize, Asked)>,
    connections: u64,
    is_complete: bool,
}

impl Follower {
    pub fn new(
        channels: Vec<Channel>,
        presence: Presence,
        printer: Printer,
        stop: Receiver<()>,
    ) -> Self {
        let (asked, connections, is_complete) = (BTreeMap::new(), 0, false);
        Follower { channels, presence, printer, stop, asked, connections, is_complete }
    }

    /// Receives when somebody asks the command to end.
    pub fn stop(&self) -> &Receiver<()> {
        &self.stop
    }

    /// Did the last connection get as far as waiting for new messages only?
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Prints what arrives on a connection until there is enough or somebody ends it.
    ///
    /// # Errors
    /// The connection is over, or something is refused for good.
    pub fn follow(&mut self, session: &mut Session) -> Result<(), Stop> {
        self.begin(session);
        loop {
            if self.printer.flush()? == Wanted::Nothing {
                return Ok(());
            }
            match session.next(&self.stop)? {
                Next::Message(message) => self.hear(session, &message)?,
                Next::Other(()) | Next::OtherEnded => return Ok(()),
            }
            self.is_complete |= self.channels.iter().all(Channel::is_settled);
        }
    }

    fn begin(&mut self, session: &mut Session) {
        self.asked.clear();
        self.is_complete = false;
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let cursor = Cursor::at(channel.join());
            let name = (&*channel.name).into();
            let id = session.ask(|id| Request::Subscribe { id, channel: name, cursor });
            self.asked.insert(id, (index, Asked::Subscription));
            if self.presence == Presence::Shown {
                if self.connections > 0 {
                    self.printer.push(&reset_line(&channel.name));
                }
                let name = (&*channel.name).into();
                let id = session.ask(|id| Request::PresenceSubscribe { id, channel: name });
                self.asked.insert(id, (index, Asked::Presence));
            }
        }
        self.connections += 1;
    }

    /// Takes everything in a message; what was read before a fault is printed.
    fn hear(&mut self, session: &mut Session, message: &[u8]) -> Result<(), Stop> {
        for event in events(message) {
            let heard = event.and_then(|event| session.observe(&event).map(|()| event));
            let taken = heard.map_err(Stop::from).and_then(|event| self.take(event));
            for index in 0..self.channels.len() {
                self.do_effects(session, index);
            }
            if let Err(stop) = taken {
                self.printer.flush()?;
                return Err(stop);
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), Stop> {
        match event {
            Event::Delivery(delivery) => self.deliver(&delivery),
            Event::Bundle(deliveries) => deliveries.iter().for_each(|one| self.deliver(one)),
            Event::Member(member) if self.presence == Presence::Shown => {
                self.printer.push(&member_line(&member));
            }
            Event::Ack { id, resumed, .. } => {
                if let Some((channel, Asked::Subscription)) = self.answered(id) {
                    channel.acknowledged(resumed);
                }
            }
            Event::History { id, messages, more, .. } => {
                if let Some((channel, Asked::History)) = self.answered(id) {
                    channel.history(&messages, more);
                }
            }
            Event::Fetched { id, messages, resumed, .. } => {
                if let Some((channel, Asked::Fetch)) = self.answered(id) {
                    channel.fetched(&messages, resumed);
                }
            }
            Event::Error { id, code, message } if id != 0 => {
                return self.refused(id, Refusal::new(code, &message));
            }
            Event::Connected { .. } | Event::Member(_) | Event::Error { .. } | Event::Pong => {}
        }
        Ok(())
    }

    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let subscribed = self.channels.iter_mut().find(|channel| channel.name == delivery.channel);
        if let Some(channel) = subscribed {
            channel.deliver(delivery);
        }
    }

    /// The channel and the purpose of a request that is answered.
    fn answered(&mut self, id: u64) -> Option<(&mut Channel, Asked)> {
        let (index, asked) = self.asked.remove(&id)?;
        self.channels.get_mut(index).map(|channel| (channel, asked))
    }

    fn refused(&mut self, id: u64, refusal: Refusal) -> Result<(), Stop> {
        let Some((channel, asked)) = self.answered(id) else { return Ok(()) };
        let what = match asked {
            Asked::History if !channel.wants_history() && !refusal.may_pass() => {
                channel.history_refused();
                return Ok(());
            }
            Asked::Subscription => format!("cannot subscribe to {}", channel.name),
            Asked::Presence => format!("cannot watch the presence of {}", channel.name),
            Asked::History => format!("cannot read the history of {}", channel.name),
            Asked::Fetch => format!("cannot fetch what was missed of {}", channel.name),
        };
        match refusal.may_pass() {
            true => Err(Fault::Lost(format!("{what}: {refusal}")).into()),
            false => Err(Failure::request(what, refusal).into()),
        }
    }

    fn do_effects(&mut self, session: &mut Session, index: usize) {
        let channel = &mut self.channels[index];
        while let Some(effect) = channel.poll_effect() {
            let name = || (&*channel.name).into();
            let (id, asked) = match effect {
                Effect::Print(line) => {
                    self.printer.push(&line);
                    continue;
                }
                Effect::Note(text) => {
                    output::note(&text);
                    continue;
                }
                Effect::AskHistory { limit, before } => {
                    let before = Cursor::at(before);
                    let history = |id| Request::History { id, channel: name(), limit, before };
                    (session.ask(history), Asked::History)
                }
                Effect::AskFetch { from } => {
                    let fetch = |id| Request::Fetch { id, channel: name(), from_serial: from };
                    (session.ask(fetch), Asked::Fetch)
                }
            };
            self.asked.insert(id, (index, asked));
        }
    }
}
