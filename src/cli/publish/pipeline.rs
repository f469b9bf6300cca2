//! One run of `publish`: sends messages while the window is open, prints the serials of
//! acknowledged ones, and sends the others again after a lost connection.

use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, never};

use super::Publish;
use super::input::Line;
use super::window::{FirstRefusal, Sent, Window};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::realtime::{Caller, Fault, Next, Session, Stop, advised};
use crate::client::protocol::{Event, Outbound, Refused};
use crate::wire::foony::{self, Content, Message, Request};

pub(super) struct Pipeline {
    command: Publish,
    /// Numbers the message ids, so that no two of a run are equal. Begins with a random number.
    counter: u32,
    window: Window,
    /// Lines to come; `None` after the last.
    lines: Option<Receiver<Line>>,
    /// The line that is no message.
    bad_line: Option<Failure>,
    /// Why the serials could not be printed.
    unprinted: Option<Failure>,
}

impl Pipeline {
    /// # Errors
    /// The kernel returns no random bytes.
    pub fn new(command: Publish, lines: Receiver<Line>) -> Result<Self, Failure> {
        let mut random = [0; 4];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::request("cannot make message ids", error))?;
        Ok(Pipeline {
            command,
            counter: u32::from_be_bytes(random),
            window: Window::default(),
            lines: Some(lines),
            bad_line: None,
            unprinted: None,
        })
    }

    /// Publishes every line.
    ///
    /// # Errors
    /// The first line that was not published, and why.
    pub fn run(mut self, caller: &mut Caller) -> Result<(), Failure> {
        let run = caller.run(&never(), |caller, session| self.publish(caller, session));
        run.map_err(|failure| match (self.window.first_number(), self.command.is_single()) {
            (None, _) => failure,
            (Some(_), true) => failure.and("it may have published the message or not"),
            (Some(number), false) => {
                failure.and(format!("line {number} is the first that it may not have published"))
            }
        })?;
        if let Some(refused) = self.window.refused() {
            return Err(refused_failure(refused, &self.command));
        }
        self.bad_line.or(self.unprinted).map_or(Ok(()), Err)
    }

    /// Sends unacknowledged messages again, then new lines, until every message is acknowledged.
    fn publish(&mut self, caller: &mut Caller, session: &mut Session) -> Result<(), Stop> {
        self.window.resend(|sent| request(session.out(), &self.command, sent));
        if self.window.is_empty() {
            caller.succeeded();
        }
        self.publish_lines(caller, session).map_err(|fault| {
            // Sent again, an ephemeral message could be delivered twice.
            match self.command.ephemeral && !self.window.is_empty() {
                true => Stop::Failure(caller.failure(&fault)),
                false => Stop::Fault(fault),
            }
        })
    }

    fn publish_lines(&mut self, caller: &mut Caller, session: &mut Session) -> Result<(), Fault> {
        let none = never();
        loop {
            let lines = self.lines.as_ref().filter(|_| self.window.refused().is_none());
            if lines.is_none() && self.window.is_empty() {
                return Ok(());
            }
            let lines = lines.filter(|_| self.window.is_open()).unwrap_or(&none);
            let (window, mut serials) = (&mut self.window, Vec::new());
            let next = session.next(lines, |_, event| {
                serials.extend(answered(window, &event));
                Ok::<(), Fault>(())
            });
            if !serials.is_empty() {
                caller.succeeded();
                self.print(&serials);
            }
            match next? {
                Next::Bytes => {}
                Next::Other(Line { number, data: Ok(data) }) => self.send(session, number, data),
                Next::Other(Line { number, data: Err(why) }) => {
                    let failure = Failure::request(format!("line {number}"), why);
                    self.bad_line = Some(failure.and("the lines before it are published"));
                    self.lines = None;
                }
                Next::OtherEnded => self.lines = None,
            }
        }
    }

    fn send(&mut self, session: &mut Session, number: u64, data: Vec<u8>) {
        self.counter = self.counter.wrapping_add(1);
        let message_id = self.command.id.take().unwrap_or_else(|| message_id(self.counter));
        let mut sent = Sent { number, message_id, data, request: 0 };
        sent.request = request(session.out(), &self.command, &sent);
        self.window.push(sent);
    }

    fn print(&mut self, serials: &[u64]) {
        if self.command.quiet || self.unprinted.is_some() {
            return;
        }
        let stored = serials.iter().filter(|serial| **serial > 0);
        let text: String = stored.map(|serial| format!("{serial}\n")).collect();
        if let Err(failure) = output::print(&text) {
            // Without a reader the command ends. Serials that a full disk does not take are no
            // reason not to publish.
            if matches!(failure, Failure::OutputClosed) {
                self.lines = None;
            }
            self.unprinted = Some(failure);
        }
    }
}

/// The id by which a server recognises a message that is sent again, in the form of the SDKs:
/// `<unix ms>-<8 hex>` (`protocols/foony.md` section 5.3).
fn message_id(counter: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{counter:08x}", now.as_millis())
}

/// Serials of the messages that a response of the server completes.
fn answered(window: &mut Window, event: &Event<'_>) -> Vec<u64> {
    match event {
        Event::Foony(foony::Event::Ack { id, serial, .. }) => window.answer(*id, Ok(*serial)),
        Event::Foony(foony::Event::Error { id, code, message }) if *id != 0 => {
            window.answer(*id, Err(Refused::new(Some(*code), message)))
        }
        _ => Vec::new(),
    }
}

/// Makes the request of a message; returns its id.
fn request(out: &mut Outbound, command: &Publish, sent: &Sent) -> u64 {
    out.request(|id| {
        let data = &sent.data;
        let message = Message { name: (&*command.name).into(), data, encoding: "".into() };
        Request::Publish(foony::Publish {
            id,
            channel: (&*command.channel).into(),
            message_id: (&*sent.message_id).into(),
            ephemeral: command.ephemeral,
            ttl_ms: 0,
            content: Content::One(message),
        })
    })
}

fn refused_failure(refused: &FirstRefusal, command: &Publish) -> Failure {
    let FirstRefusal { number, refusal, accepted_after, refused_after } = refused;
    let (channel, refusal) = (&command.channel, advised(refusal));
    if command.is_single() {
        return Failure::request(format!("cannot publish to {channel}"), refusal);
    }
    let failure = Failure::request(format!("cannot publish line {number} to {channel}"), refusal);
    match accepted_after + refused_after {
        0 => failure.and("the lines before it are published"),
        after => failure.and(format!(
            "of {after} lines after it that were under way {accepted_after} are published"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_time_and_eight_digits_and_never_equal() {
        let made: std::collections::BTreeSet<String> = (0..1000).map(message_id).collect();
        assert_eq!(made.len(), 1000);
        for id in made {
            let (ms, hex) = id.split_once('-').unwrap();
            assert!(ms.parse::<u64>().unwrap() > 1_600_000_000_000, "{id}");
            assert!(hex.len() == 8 && u32::from_str_radix(hex, 16).is_ok(), "{id}");
        }
    }
}
