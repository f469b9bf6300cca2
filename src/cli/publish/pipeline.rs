//! One run of `publish`: sends while there is room, prints what was acknowledged,
//! sends again after a lost connection.

use std::fmt::Write;
use std::thread;

use crossbeam_channel::{Receiver, never};

use super::input::Line;
use super::message_id::MessageIds;
use super::window::{FirstRefusal, Sent, Window};
use super::{Source, Template};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::realtime::{Caller, Fault, Next, Session, WhenLost, advised};
use crate::client::protocol::{Event, Outbound, Refused};
use crate::wire::foony::{self, Content, Message, Publish, Request};

/// Attempts to connect again without a message acknowledged in between: 1, 2, 4, 8 and 16 s apart.
const ATTEMPTS_MAX: u32 = 5;

/// Are serials wanted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serials {
    Printed,
    Hidden,
}

pub(super) struct Pipeline {
    caller: Caller,
    session: Session,
    template: Template,
    ids: MessageIds,
    source: Source,
    serials: Serials,
    window: Window,
    input: Input,
    /// Attempts to connect since the server last took what it was given.
    attempts: u32,
    /// Why the serials could not be printed.
    unprinted: Option<Failure>,
}

/// What is known of the lines to come.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
    /// The line that is no message.
    Bad {
        number: u64,
        why: String,
    },
}

impl Pipeline {
    /// Connects.
    ///
    /// # Errors
    /// Any fault, as one line.
    pub fn open(
        mut caller: Caller,
        template: Template,
        ids: MessageIds,
        source: Source,
        serials: Serials,
    ) -> Result<Self, Failure> {
        let session = caller.connect().map_err(|fault| caller.failure(&fault))?;
        let (window, input) = (Window::default(), Input::Open);
        Ok(Pipeline {
            caller,
            session,
            template,
            ids,
            source,
            serials,
            window,
            input,
            attempts: 0,
            unprinted: None,
        })
    }

    /// Publishes every line.
    ///
    /// # Errors
    /// The first line that was not published, and why.
    pub fn run(mut self, lines: &Receiver<Line>, when_lost: WhenLost) -> Result<(), Failure> {
        while let Err(fault) = self.publish_lines(lines) {
            self.reconnect(fault, when_lost)?;
        }
        self.session.close();
        if let Some(refused) = self.window.refused() {
            return Err(refused_failure(refused, &self.template.channel, self.source));
        }
        if let Input::Bad { number, why } = self.input {
            let before = "the lines before it are published";
            return Err(Failure::request(format!("line {number}"), why).and(before));
        }
        self.unprinted.map_or(Ok(()), Err)
    }

    /// Goes on until nothing is left to do on any connection.
    fn publish_lines(&mut self, lines: &Receiver<Line>) -> Result<(), Fault> {
        let none = never();
        loop {
            let takes_more = self.input == Input::Open && self.window.refused().is_none();
            if !takes_more && self.window.is_empty() {
                return Ok(());
            }
            let lines = if takes_more && self.window.is_open() { lines } else { &none };
            let (window, mut serials) = (&mut self.window, Vec::new());
            let next = self.session.next(lines, |_, event| {
                serials.extend(answered(window, &event));
                Ok::<(), Fault>(())
            });
            if !serials.is_empty() {
                self.reset_attempts();
                self.print(&serials);
            }
            match next? {
                Next::Bytes => {}
                Next::Other(Line::Message { number, data }) => self.send(number, data),
                Next::Other(Line::Bad { number, why }) => self.input = Input::Bad { number, why },
                Next::OtherEnded => self.input = Input::Ended,
            }
        }
    }

    fn send(&mut self, number: u64, data: Vec<u8>) {
        let message_id = self.ids.make();
        let mut sent = Sent { number, message_id, data, request: 0 };
        sent.request = ask(self.session.out(), &self.template, &sent);
        self.window.push(sent);
    }

    fn print(&mut self, serials: &[u64]) {
        if self.serials == Serials::Hidden {
            return;
        }
        let mut text = String::new();
        for serial in serials.iter().filter(|serial| **serial > 0) {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{serial}");
        }
        if let Err(failure) = output::print(&text) {
            // A reader that is gone ends the command as it ends every other. Serials that a full
            // disk does not take are no reason not to publish.
            if matches!(failure, Failure::OutputClosed) {
                self.input = Input::Ended;
            }
            self.serials = Serials::Hidden;
            self.unprinted = Some(failure);
        }
    }

    /// Waits, connects, and sends again what was not acknowledged.
    fn reconnect(&mut self, mut fault: Fault, when_lost: WhenLost) -> Result<(), Failure> {
        loop {
            let is_hopeless = when_lost == WhenLost::Fail
                || self.attempts == ATTEMPTS_MAX
                || !fault.may_pass()
                || (self.template.ephemeral && !self.window.is_empty());
            if is_hopeless {
                return Err(self.lost_failure(&fault));
            }
            self.attempts += 1;
            let wait = self.caller.wait();
            let failure = self.caller.failure(&fault);
            let seconds = wait.as_secs();
            output::note(&format!("{}; connecting again in {seconds} s", failure.message()));
            thread::sleep(wait);
            match self.caller.connect() {
                Ok(session) => {
                    self.session = session;
                    let (out, template) = (self.session.out(), &self.template);
                    self.window.resend(|sent| ask(out, template, sent));
                    output::note("connected again");
                    if self.window.is_empty() {
                        self.reset_attempts();
                    }
                    return Ok(());
                }
                Err(next) => fault = next,
            }
        }
    }

    /// Forgets the attempts that were needed.
    fn reset_attempts(&mut self) {
        self.attempts = 0;
        self.caller.succeeded();
    }

    fn lost_failure(&self, fault: &Fault) -> Failure {
        let failure = self.caller.failure(fault);
        match (self.window.first_number(), self.source) {
            (None, _) => failure,
            (Some(_), Source::Argument) => failure.and("it may have published the message or not"),
            (Some(number), Source::Lines) => {
                failure.and(format!("line {number} is the first that it may not have published"))
            }
        }
    }
}

/// Serials of the messages that are done with an answer of the server.
fn answered(window: &mut Window, event: &Event<'_>) -> Vec<u64> {
    match event {
        Event::Foony(foony::Event::Ack { id, serial, .. }) => window.answer(*id, Ok(*serial)),
        Event::Foony(foony::Event::Error { id, code, message }) if *id != 0 => {
            window.answer(*id, Err(Refused::new(Some(*code), message)))
        }
        _ => Vec::new(),
    }
}

fn ask(out: &mut Outbound, template: &Template, sent: &Sent) -> u64 {
    out.request(|id| {
        let data = &sent.data;
        let message = Message { name: (&*template.name).into(), data, encoding: "".into() };
        Request::Publish(Publish {
            id,
            channel: (&*template.channel).into(),
            message_id: (&*sent.message_id).into(),
            ephemeral: template.ephemeral,
            ttl_ms: 0,
            content: Content::One(message),
        })
    })
}

fn refused_failure(refused: &FirstRefusal, channel: &str, source: Source) -> Failure {
    let FirstRefusal { number, refusal, accepted_after, refused_after } = refused;
    let refusal = advised(refusal);
    if source == Source::Argument {
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
