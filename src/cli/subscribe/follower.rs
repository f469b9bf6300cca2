//! One connection of `subscribe`: subscribes, handles events, requests missing messages.

use std::collections::BTreeMap;

use crossbeam_channel::Receiver;

use super::channel::{Channel, Effect};
use super::line::{member_line, reset_line};
use super::printer::Printer;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::realtime::{Fault, Next, Session, Stop, advised};
use crate::client::protocol::{Closed, Event, Outbound, Refused};
use crate::wire::foony::{self, Cursor, Delivery, Request};

/// Whether presence is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Shown,
    Hidden,
}

/// The purpose of a request.
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
    /// Channel and purpose of the requests without an answer.
    asked: BTreeMap<u64, (usize, Asked)>,
    connections: u64,
    is_complete: bool,
}

impl Follower {
    pub fn new(channels: Vec<Channel>, presence: Presence, printer: Printer) -> Self {
        let (asked, connections, is_complete) = (BTreeMap::new(), 0, false);
        Follower { channels, presence, printer, asked, connections, is_complete }
    }

    /// Whether every channel of the last connection had only new messages pending.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Prints what arrives on a connection until enough is printed or `stop` receives.
    pub fn follow(&mut self, session: &mut Session, stop: &Receiver<()>) -> Result<(), Stop> {
        self.begin(session.out());
        loop {
            self.printer.flush()?;
            if self.printer.is_done() {
                return Ok(());
            }
            let next = session.next(stop, |out, event| self.take(out, event));
            // What was read before a fault is printed.
            self.printer.flush()?;
            match next? {
                Next::Bytes => {}
                Next::Other(()) | Next::OtherEnded => return Ok(()),
            }
            self.is_complete |= self.channels.iter().all(Channel::is_settled);
        }
    }

    fn begin(&mut self, out: &mut Outbound) {
        self.asked.clear();
        self.is_complete = false;
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let cursor = Cursor::at(channel.join());
            let name = (&*channel.name).into();
            let id = out.request(|id| Request::Subscribe { id, channel: name, cursor });
            self.asked.insert(id, (index, Asked::Subscription));
            if self.presence == Presence::Shown {
                if self.connections > 0 {
                    self.printer.push(&reset_line(&channel.name));
                }
                let name = (&*channel.name).into();
                let id = out.request(|id| Request::PresenceSubscribe { id, channel: name });
                self.asked.insert(id, (index, Asked::Presence));
            }
        }
        self.connections += 1;
    }

    fn take(&mut self, out: &mut Outbound, event: Event<'_>) -> Result<(), Stop> {
        match event {
            Event::Messages(deliveries) => {
                for delivered in deliveries {
                    let delivery = delivered.and_then(|one| one.read()).map_err(Closed::Broken)?;
                    self.deliver(&delivery);
                    self.do_effects(out);
                }
            }
            Event::Foony(event) => {
                let taken = self.take_other(event);
                self.do_effects(out);
                return taken;
            }
            Event::Open | Event::Greeted(_) | Event::Presence(_) | Event::Sync(_) => {}
        }
        Ok(())
    }

    fn take_other(&mut self, event: foony::Event<'_>) -> Result<(), Stop> {
        use foony::Event::{Ack, Error, Fetched, History, Member};
        match event {
            Member(member) if self.presence == Presence::Shown => {
                self.printer.push(&member_line(&member));
            }
            Ack { id, resumed, .. } => {
                if let Some((channel, Asked::Subscription)) = self.answered(id) {
                    channel.acknowledged(resumed);
                }
            }
            History { id, messages, more, .. } => {
                if let Some((channel, Asked::History)) = self.answered(id) {
                    channel.history(&messages, more);
                }
            }
            Fetched { id, messages, resumed, .. } => {
                if let Some((channel, Asked::Fetch)) = self.answered(id) {
                    channel.fetched(&messages, resumed);
                }
            }
            Error { id, code, message } if id != 0 => {
                return self.refused(id, &Refused::new(Some(code), &message));
            }
            _ => {}
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

    fn refused(&mut self, id: u64, refusal: &Refused) -> Result<(), Stop> {
        let Some((channel, asked)) = self.answered(id) else { return Ok(()) };
        let what = match asked {
            Asked::History if !channel.wants_history() && !refusal.is_temporary() => {
                channel.history_refused();
                return Ok(());
            }
            Asked::Subscription => format!("cannot subscribe to {}", channel.name),
            Asked::Presence => format!("cannot watch the presence of {}", channel.name),
            Asked::History => format!("cannot read the history of {}", channel.name),
            Asked::Fetch => format!("cannot fetch what was missed of {}", channel.name),
        };
        match refusal.is_temporary() {
            true => Err(Fault::Lost(format!("{what}: {}", advised(refusal))).into()),
            false => Err(Failure::request(what, advised(refusal)).into()),
        }
    }

    fn do_effects(&mut self, out: &mut Outbound) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
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
                        (out.request(history), Asked::History)
                    }
                    Effect::AskFetch { from } => {
                        let fetch = |id| Request::Fetch { id, channel: name(), from_serial: from };
                        (out.request(fetch), Asked::Fetch)
                    }
                };
                self.asked.insert(id, (index, asked));
            }
        }
    }
}
