//! Messages that were sent and are not acknowledged.
//!
//! Invariant: responses are reported in the order of the messages, not in that of their arrival. It
//! must never know sockets.

use std::collections::VecDeque;

use crate::client::protocol::Refused;

/// Most messages without a response. More would only wait in another queue.
const MESSAGES_MAX: usize = 256;

/// Most bytes of data without a response; a single message may be larger.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A message without a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Line of the input.
    pub number: u64,
    pub message_id: String,
    pub data: Vec<u8>,
    /// The request that carries it on this connection.
    pub request: u64,
}

/// The first refusal of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FirstRefusal {
    pub number: u64,
    pub refusal: Refused,
    /// Messages sent before the refusal arrived that were accepted.
    pub accepted_after: u64,
    /// Messages sent before the refusal arrived that were refused too.
    pub refused_after: u64,
}

#[derive(Debug, Default)]
pub(super) struct Window {
    /// In the order of the input; a response waits for those before it.
    sent: VecDeque<(Sent, Option<Result<u64, Refused>>)>,
    bytes: usize,
    refused: Option<FirstRefusal>,
}

impl Window {
    /// May another message be sent?
    pub fn is_open(&self) -> bool {
        self.sent.len() < MESSAGES_MAX && self.bytes < BYTES_MAX && self.refused.is_none()
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub fn push(&mut self, sent: Sent) {
        self.bytes += sent.data.len();
        self.sent.push_back((sent, None));
    }

    /// Takes the response to a request: the serial, or the refusal. Returns the serials of all
    /// messages that it completes, in order.
    pub fn answer(&mut self, request: u64, answer: Result<u64, Refused>) -> Vec<u64> {
        let asked = self.sent.iter_mut().find(|(sent, _)| sent.request == request);
        if let Some((_, slot)) = asked {
            *slot = Some(answer);
        }
        let mut serials = Vec::new();
        while let Some(answer) = self.sent.front_mut().and_then(|(_, answer)| answer.take()) {
            let Some((sent, _)) = self.sent.pop_front() else { break };
            self.bytes -= sent.data.len();
            match (answer, &mut self.refused) {
                (Ok(serial), refused) => {
                    serials.push(serial);
                    refused.iter_mut().for_each(|refused| refused.accepted_after += 1);
                }
                (Err(_), Some(first)) => first.refused_after += 1,
                (Err(refusal), first) => {
                    let (number, accepted_after, refused_after) = (sent.number, 0, 0);
                    *first = Some(FirstRefusal { number, refusal, accepted_after, refused_after });
                }
            }
        }
        serials
    }

    /// The first refusal.
    pub fn refused(&self) -> Option<&FirstRefusal> {
        self.refused.as_ref()
    }

    /// Line of the first message without a response.
    pub fn first_number(&self) -> Option<u64> {
        self.sent.front().map(|(sent, _)| sent.number)
    }

    /// Sends unacknowledged messages again on a new connection, in order, with new requests.
    pub fn resend(&mut self, mut ask: impl FnMut(&Sent) -> u64) {
        for (sent, answer) in &mut self.sent {
            if answer.is_none() {
                sent.request = ask(sent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::foony::ErrorCode;

    fn sent(number: u64, bytes: usize) -> Sent {
        let message_id = format!("m-{number}");
        Sent { number, message_id, data: vec![b'1'; bytes], request: number + 100 }
    }

    fn window(messages: u64) -> Window {
        let mut window = Window::default();
        (1..=messages).for_each(|number| window.push(sent(number, 1)));
        window
    }

    fn refusal() -> Refused {
        Refused::new(Some(ErrorCode::RateLimited), "slower")
    }

    #[test]
    fn serials_come_in_the_order_of_the_messages() {
        let mut window = window(3);
        assert_eq!(window.answer(102, Ok(8)), Vec::<u64>::new());
        assert_eq!(window.answer(999, Ok(7)), Vec::<u64>::new());
        assert_eq!(window.answer(101, Ok(9)), [9, 8]);
        assert_eq!(window.first_number(), Some(3));
        assert_eq!(window.answer(103, Ok(10)), [10]);
        assert!(window.is_empty());
    }

    #[test]
    fn a_window_is_open_while_there_is_room() {
        let mut by_count = window(255);
        assert!(by_count.is_open());
        by_count.push(sent(256, 1));
        assert!(!by_count.is_open());
        by_count.answer(101, Ok(1));
        assert!(by_count.is_open());
        let mut by_bytes = Window::default();
        by_bytes.push(sent(1, 4 * 1024 * 1024));
        assert!(!by_bytes.is_open());
        by_bytes.answer(101, Ok(1));
        assert!(by_bytes.is_open());
    }

    #[test]
    fn a_refusal_closes_the_window_and_what_follows_is_counted() {
        let mut window = window(4);
        assert_eq!(window.answer(103, Ok(7)), Vec::<u64>::new());
        assert_eq!(window.answer(102, Err(refusal())), Vec::<u64>::new());
        assert_eq!(window.answer(101, Ok(6)), [6, 7]);
        assert!(!window.is_open() && !window.is_empty());
        window.answer(104, Err(refusal()));
        let expected =
            FirstRefusal { number: 2, refusal: refusal(), accepted_after: 1, refused_after: 1 };
        assert_eq!(window.refused(), Some(&expected));
        assert!(window.is_empty());
    }

    #[test]
    fn only_what_has_no_answer_is_sent_again() {
        let mut window = window(3);
        window.answer(102, Ok(8));
        let mut again = Vec::new();
        window.resend(|sent| {
            again.push(sent.message_id.clone());
            sent.request + 100
        });
        assert_eq!(again, ["m-1", "m-3"]);
        assert_eq!(window.answer(201, Ok(7)), [7, 8]);
        assert_eq!(window.answer(203, Ok(9)), [9]);
    }
}
