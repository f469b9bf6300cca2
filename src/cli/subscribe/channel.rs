//! The messages of one channel: which are printed, and which are requested.
//!
//! ```text
//!  connected -> Joining --ack--> Reading (history, or only its newest message) --> Settled
//!                       \------------------------------------------------------->  |   ^
//!                                                                   gap: Fetching <-'---'
//! ```
//!
//! Invariant: every stored message is printed at most once, in the order of the serials, and one
//! that is left out is noted. It must never know sockets or clocks; each input makes [`Effect`]s.

use std::collections::VecDeque;

use super::held::Held;
use super::line::{Line, message_lines};
use crate::wire::foony::Delivery;

/// Most records that one request for history asks for.
const PAGE_MAX: usize = 1000;

/// Most messages that are read back when a cursor has aged out. Older ones are missed.
const READ_BACK_MAX: usize = 100_000;

/// Most bytes of lines that history may take before it is printed. Older messages are left out.
const HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The result of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Print(Line),
    /// A note on standard error.
    Note(String),
    /// The newest `limit` records before a serial; before 0: of all.
    AskHistory {
        limit: u64,
        before: u64,
    },
    /// Everything after a serial.
    AskFetch {
        from: u64,
    },
}

/// The last printed position of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// The next delivered message is the next to print.
    Unknown,
    /// Nothing was stored when the history was read, so that every stored message is new.
    Empty,
    /// Up to this serial.
    At(u64),
}

#[derive(Debug)]
enum Phase {
    /// The subscription is not acknowledged.
    Joining,
    /// Waits for a page of history.
    Reading(Pages),
    /// Waits for the messages after a serial.
    Fetching {
        from: u64,
    },
    Settled,
}

/// Pages of history so far.
#[derive(Debug)]
struct Pages {
    /// Reads the messages after this serial; `None` reads the newest ones, to begin with.
    after: Option<u64>,
    /// Most messages to print.
    wanted: usize,
    /// Lines and their serials, oldest first.
    lines: VecDeque<(u64, Line)>,
    bytes: usize,
    newest: u64,
    /// The next page ends before this serial; 0 for the first.
    before: u64,
}

impl Pages {
    fn new(after: Option<u64>, wanted: usize) -> Self {
        Pages { after, wanted, lines: VecDeque::new(), bytes: 0, newest: 0, before: 0 }
    }

    /// Puts an older page, oldest first, in front of the others. Returns whether another is needed.
    fn add(&mut self, page: &[Delivery<'_>]) -> bool {
        for delivery in page.iter().rev() {
            for line in message_lines(delivery).into_iter().rev() {
                self.bytes += line.text().len();
                self.lines.push_front((delivery.serial, line));
            }
            self.newest = self.newest.max(delivery.serial);
        }
        let oldest = page.first().map_or(0, |delivery| delivery.serial);
        let is_older = self.before == 0 || oldest < self.before;
        self.before = oldest;
        is_older && oldest > self.after() && self.missing() > 0 && self.bytes < HISTORY_BYTES_MAX
    }

    fn after(&self) -> u64 {
        self.after.unwrap_or(0)
    }

    fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.lines.len())
    }

    /// The lines that are wanted of those before a serial.
    fn into_lines(self, end: u64) -> impl Iterator<Item = Line> {
        let (after, wanted) = (self.after(), self.wanted);
        let mut lines = self.lines;
        lines.retain(|(serial, _)| *serial > after && *serial < end);
        let surplus = lines.len().saturating_sub(wanted);
        lines.into_iter().skip(surplus).map(|(_, line)| line)
    }
}

#[derive(Debug)]
pub(super) struct Channel {
    pub name: String,
    cursor: Cursor,
    /// Whether the cursor is the one of the user, not yet confirmed by the server.
    is_unconfirmed: bool,
    /// The serial after which the pending subscription resumes; 0: none.
    joined_from: u64,
    phase: Phase,
    /// Highest serial that was delivered on this connection.
    head: u64,
    held: Held,
    /// Messages of history that are still to be printed.
    history: usize,
    effects: VecDeque<Effect>,
}

impl Channel {
    /// A channel that is printed after a serial, or from its newest `history` messages on.
    pub fn new(name: String, from: Option<u64>, history: usize) -> Self {
        Channel {
            name,
            cursor: from.map_or(Cursor::Unknown, Cursor::At),
            is_unconfirmed: from.is_some(),
            joined_from: 0,
            phase: Phase::Joining,
            head: 0,
            held: Held::default(),
            history,
            effects: VecDeque::new(),
        }
    }

    /// The next effect of what happened.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether only new messages are pending.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled)
    }

    /// Whether requested history is not printed yet.
    pub fn wants_history(&self) -> bool {
        self.history > 0
    }

    /// A connection begins. Returns the serial after which to subscribe; 0: only new messages.
    pub fn join(&mut self) -> u64 {
        // Held messages will be delivered again, or be noted as missed.
        (self.phase, self.head, self.held) = (Phase::Joining, 0, Held::default());
        self.joined_from = self.serial();
        self.joined_from
    }

    /// The subscription is acknowledged, and everything it missed was delivered if `resumed`.
    pub fn acknowledged(&mut self, resumed: Option<bool>) {
        match self.cursor {
            Cursor::Unknown => self.ask_page(Pages::new(None, self.history)),
            Cursor::Empty => self.fetch(0),
            Cursor::At(serial) if serial == self.joined_from && resumed != Some(true) => {
                // A server that still stored the cursor would have resumed. Its messages are all
                // new, also with lower serials: the numbering restarted.
                let after = if self.is_unconfirmed { serial } else { 0 };
                self.read_back(serial, after);
            }
            Cursor::At(_) => {
                self.is_unconfirmed = false;
                self.settle();
            }
        }
    }

    /// A message was delivered.
    pub fn deliver(&mut self, delivery: &Delivery<'_>) {
        let (serial, lines) = (delivery.serial, message_lines(delivery));
        if serial == 0 {
            self.print(lines);
            return;
        }
        self.head = self.head.max(serial);
        if serial <= self.serial() {
            return;
        }
        if self.cursor == Cursor::At(serial - 1) {
            self.advance(serial, lines);
            self.release();
        } else {
            self.held.keep(serial, lines);
            if self.is_settled() {
                self.settle();
            }
        }
    }

    /// A page of history, oldest first.
    pub fn history(&mut self, page: &[Delivery<'_>], more: bool) {
        let Phase::Reading(mut pages) = std::mem::replace(&mut self.phase, Phase::Settled) else {
            return;
        };
        if pages.add(page) && more {
            self.ask_page(pages);
        } else {
            self.print_history(pages);
            self.settle();
        }
    }

    /// The user may not read history; the next delivered message is the next to print.
    pub fn history_refused(&mut self) {
        self.settle();
    }

    /// Prints the history before the messages that were delivered in the meantime.
    fn print_history(&mut self, pages: Pages) {
        let held = self.held.first();
        let newest = match (pages.after, held) {
            (_, None) => pages.newest.max(self.head),
            (None, Some(held)) => pages.newest.min(held - 1),
            (Some(_), Some(held)) => held - 1,
        };
        self.print(pages.into_lines(held.unwrap_or(u64::MAX)));
        self.cursor = if newest > 0 { Cursor::At(newest) } else { Cursor::Empty };
        (self.history, self.is_unconfirmed) = (0, false);
    }

    /// The missing messages, oldest first, if `resumed`; else the server no longer stores them.
    pub fn fetched(&mut self, missing: &[Delivery<'_>], resumed: bool) {
        let is_stale = !matches!(self.phase, Phase::Fetching { from } if from == self.serial());
        let before = self.serial();
        let missing = if resumed { missing } else { &[] };
        for delivery in missing {
            if delivery.serial > self.serial() {
                self.advance(delivery.serial, message_lines(delivery));
            }
        }
        self.release();
        let is_stuck = self.serial() == before && !is_stale;
        match self.cursor {
            Cursor::At(serial) if is_stuck && !resumed && self.head > serial => {
                self.read_back(serial, serial);
            }
            _ => {
                if is_stuck {
                    self.give_up_gap(resumed);
                }
                self.settle();
            }
        }
    }

    /// The serial up to which everything is printed; 0 when unknown.
    fn serial(&self) -> u64 {
        match self.cursor {
            Cursor::Unknown | Cursor::Empty => 0,
            Cursor::At(serial) => serial,
        }
    }

    fn print(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.effects.extend(lines.into_iter().map(Effect::Print));
    }

    fn advance(&mut self, serial: u64, lines: Vec<Line>) {
        (self.cursor, self.is_unconfirmed) = (Cursor::At(serial), false);
        self.print(lines);
    }

    /// Prints held messages that follow, and drops those already printed.
    fn release(&mut self) {
        while let Some(serial) = self.held.first()
            && serial <= self.serial().saturating_add(1)
            && self.cursor != Cursor::Unknown
        {
            let lines = self.held.pop().unwrap_or_default();
            if serial > self.serial() {
                self.advance(serial, lines);
            }
        }
    }

    /// No response is pending: fetches messages that are still missing.
    fn settle(&mut self) {
        if self.cursor == Cursor::Unknown && self.head > 0 {
            self.cursor = Cursor::At(self.held.first().map_or(self.head, |first| first - 1));
        }
        self.release();
        self.phase = Phase::Settled;
        if self.head > self.serial() {
            self.fetch(self.serial());
        }
    }

    fn fetch(&mut self, from: u64) {
        self.phase = Phase::Fetching { from };
        self.effects.push_back(Effect::AskFetch { from });
    }

    /// The missing messages are not available: continues with the held ones.
    fn give_up_gap(&mut self, resumed: bool) {
        let next = self.held.first().map_or(self.head, |first| first - 1);
        if next > self.serial() {
            if let Cursor::At(serial) = self.cursor {
                self.note_missed(serial);
            }
            self.cursor = Cursor::At(next);
        } else if !resumed && self.cursor == Cursor::Empty {
            // Without a stored message the next serial is unknown.
            self.cursor = Cursor::Unknown;
        }
    }

    fn note_missed(&mut self, serial: u64) {
        let name = &self.name;
        let text = format!(
            "{name}: the server cannot go on from serial {serial}: messages may be missing"
        );
        self.effects.push_back(Effect::Note(text));
    }

    /// Prints the messages after a serial that are still stored.
    fn read_back(&mut self, serial: u64, after: u64) {
        self.note_missed(serial);
        self.cursor = Cursor::Unknown;
        self.ask_page(Pages::new(Some(after), READ_BACK_MAX));
    }

    fn ask_page(&mut self, pages: Pages) {
        let limit = pages.missing().clamp(1, PAGE_MAX) as u64;
        self.effects.push_back(Effect::AskHistory { limit, before: pages.before });
        self.phase = Phase::Reading(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::foony::{Content, Message};

    fn delivery(serial: u64) -> Delivery<'static> {
        let message = Message { name: "n".into(), data: b"0", encoding: "".into() };
        Delivery {
            channel: "c".into(),
            message_id: serial.to_string().into(),
            client_id: "me".into(),
            timestamp_ms: 1,
            serial,
            ephemeral: serial == 0,
            content: Content::One(message),
        }
    }

    fn deliveries(serials: impl IntoIterator<Item = u64>) -> Vec<Delivery<'static>> {
        serials.into_iter().map(delivery).collect()
    }

    /// Effects in short: serials that are printed, and what is asked or noted.
    fn effects(channel: &mut Channel) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(effect) = channel.poll_effect() {
            seen.push(match effect {
                Effect::Print(line) => {
                    let value: serde_json::Value = serde_json::from_str(line.text()).unwrap();
                    value["id"].as_str().unwrap().to_owned()
                }
                Effect::Note(_) => "note".to_owned(),
                Effect::AskHistory { limit, before } => format!("history {limit} {before}"),
                Effect::AskFetch { from } => format!("fetch {from}"),
            });
        }
        seen
    }

    fn deliver(channel: &mut Channel, serials: impl IntoIterator<Item = u64>) {
        serials.into_iter().for_each(|serial| channel.deliver(&delivery(serial)));
    }

    /// A channel that is settled at a serial.
    fn settled_at(serial: u64) -> Channel {
        let mut channel = Channel::new("c".to_owned(), None, 0);
        assert_eq!(channel.join(), 0);
        channel.acknowledged(None);
        channel.history(&deliveries([serial]), true);
        assert_eq!(effects(&mut channel), ["history 1 0"]);
        assert!(channel.is_settled());
        channel
    }

    #[test]
    fn a_fresh_subscription_begins_behind_the_newest_message() {
        let mut channel = settled_at(41);
        deliver(&mut channel, [42, 0, 43]);
        assert_eq!(effects(&mut channel), ["42", "0", "43"]);
    }

    #[test]
    fn whatever_is_delivered_before_the_history_came_is_printed_behind_it() {
        for (wanted, page, expected) in [
            (0, 5..=9, &["history 1 0", "8", "9"][..]),
            (3, 5..=9, &["history 3 0", "5", "6", "7", "8", "9"]),
            (2, 5..=7, &["history 2 0", "6", "7", "8", "9"]),
            (2, 5..=6, &["history 2 0", "5", "6", "fetch 6"]),
        ] {
            let mut channel = Channel::new("c".to_owned(), None, wanted);
            channel.join();
            channel.acknowledged(None);
            deliver(&mut channel, [8, 9]);
            channel.history(&deliveries(page), false);
            assert_eq!(effects(&mut channel), expected, "{wanted}");
        }
    }

    #[test]
    fn history_is_read_in_pages_and_printed_oldest_first() {
        let mut channel = Channel::new("c".to_owned(), None, 1500);
        channel.join();
        channel.acknowledged(None);
        channel.history(&deliveries(2001..=3000), true);
        assert!(!channel.is_settled());
        channel.history(&deliveries(1600..=2000), true);
        channel.history(&deliveries(1400..=1599), true);
        let seen = effects(&mut channel);
        assert_eq!(seen[..3], ["history 1000 0", "history 500 2001", "history 99 1600"]);
        let printed: Vec<String> = (1501..=3000).map(|serial: u64| serial.to_string()).collect();
        assert_eq!(seen[3..], printed);
        deliver(&mut channel, [3000, 3001]);
        assert_eq!(effects(&mut channel), ["3001"]);
    }

    #[test]
    fn history_that_does_not_get_older_is_not_asked_for_again() {
        let mut channel = Channel::new("c".to_owned(), None, 10);
        channel.join();
        channel.acknowledged(None);
        channel.history(&deliveries(8..=9), true);
        channel.history(&deliveries(8..=9), true);
        assert!(channel.is_settled());
    }

    #[test]
    fn a_gap_is_fetched_and_what_came_meanwhile_is_not_printed_twice() {
        let mut channel = settled_at(41);
        deliver(&mut channel, [44, 45]);
        assert_eq!(effects(&mut channel), ["fetch 41"]);
        channel.fetched(&deliveries(42..=44), true);
        assert_eq!(effects(&mut channel), ["42", "43", "44", "45"]);
        deliver(&mut channel, [45, 46]);
        assert_eq!(effects(&mut channel), ["46"]);
    }

    #[test]
    fn a_gap_that_is_fetched_in_part_is_fetched_on() {
        let mut channel = settled_at(41);
        deliver(&mut channel, [50]);
        channel.fetched(&deliveries(42..=44), true);
        assert_eq!(effects(&mut channel), ["fetch 41", "42", "43", "44", "fetch 44"]);
        channel.fetched(&deliveries(45..=49), true);
        assert_eq!(effects(&mut channel), ["45", "46", "47", "48", "49", "50"]);
    }

    #[test]
    fn of_a_gap_that_aged_out_what_is_left_is_printed() {
        for (left, refetched) in [(47..51, &["47", "48", "49"][..]), (50..52, &[]), (0..0, &[])] {
            let mut channel = settled_at(41);
            deliver(&mut channel, [50, 51]);
            channel.fetched(&deliveries(42..=43), false);
            assert_eq!(effects(&mut channel), ["fetch 41", "note", "history 1000 0"]);
            channel.history(&deliveries(left), false);
            assert_eq!(effects(&mut channel), [refetched, &["50", "51"]].concat());
            assert!(channel.is_settled());
        }
    }

    #[test]
    fn a_gap_that_cannot_be_had_is_noted_once() {
        let mut confused = settled_at(41);
        deliver(&mut confused, [50, 51]);
        confused.fetched(&[], true);
        assert_eq!(effects(&mut confused), ["fetch 41", "note", "50", "51"]);
        assert!(confused.is_settled());
        let mut without_history = settled_at(41);
        deliver(&mut without_history, [50, 51]);
        without_history.fetched(&[], false);
        without_history.history_refused();
        let expected = ["fetch 41", "note", "history 1000 0", "50", "51"];
        assert_eq!(effects(&mut without_history), expected);
        assert!(without_history.is_settled());
    }

    #[test]
    fn what_arrived_out_of_order_needs_no_fetch_and_gives_no_gap_up() {
        let mut channel = settled_at(41);
        deliver(&mut channel, [43, 42, 45]);
        assert_eq!(effects(&mut channel), ["fetch 41", "42", "43"]);
        channel.fetched(&[], true);
        assert_eq!(effects(&mut channel), ["fetch 43"]);
        channel.fetched(&deliveries([44, 45]), true);
        assert_eq!(effects(&mut channel), ["44", "45"]);
    }

    #[test]
    fn a_new_connection_goes_on_where_the_last_one_ended() {
        let mut channel = settled_at(41);
        deliver(&mut channel, [42, 50]);
        assert_eq!(effects(&mut channel), ["42", "fetch 42"]);
        assert_eq!(channel.join(), 42);
        deliver(&mut channel, 43..=51);
        channel.acknowledged(Some(true));
        deliver(&mut channel, [52]);
        let expected: Vec<String> = (43..=52).map(|serial: u64| serial.to_string()).collect();
        assert_eq!(effects(&mut channel), expected);
    }

    #[test]
    fn a_cursor_that_aged_out_is_noted_and_what_is_kept_is_printed() {
        for resumed in [Some(false), None] {
            let mut channel = Channel::new("c".to_owned(), Some(41), 0);
            assert_eq!(channel.join(), 41);
            channel.acknowledged(resumed);
            assert_eq!(effects(&mut channel), ["note", "history 1000 0"]);
            deliver(&mut channel, [52]);
            channel.history(&deliveries([51, 52]), true);
            assert_eq!(effects(&mut channel), ["history 1000 51"]);
            channel.history(&deliveries([49, 50]), false);
            deliver(&mut channel, [53]);
            assert_eq!(effects(&mut channel), ["49", "50", "51", "52", "53"]);
        }
    }

    #[test]
    fn when_the_numbers_began_anew_everything_is_new() {
        for newest in [4, 41, 50] {
            let mut channel = settled_at(41);
            assert_eq!(channel.join(), 41);
            channel.acknowledged(Some(false));
            channel.history(&deliveries(3..=newest), true);
            deliver(&mut channel, [newest + 1]);
            channel.history(&deliveries([1, 2]), false);
            let seen = effects(&mut channel);
            assert_eq!(seen[..3], ["note", "history 1000 0", "history 1000 3"]);
            let all: Vec<String> = (1..=newest + 1).map(|serial| serial.to_string()).collect();
            assert_eq!(seen[3..], all);
        }
    }

    #[test]
    fn a_serial_that_never_was_begins_with_what_is_new() {
        let mut channel = Channel::new("c".to_owned(), Some(41), 0);
        channel.join();
        channel.acknowledged(Some(false));
        channel.history(&deliveries(1..=4), false);
        deliver(&mut channel, [5]);
        assert_eq!(effects(&mut channel), ["note", "history 1000 0", "5"]);
    }

    #[test]
    fn in_a_channel_without_messages_all_that_come_are_new() {
        let empty = || {
            let mut channel = Channel::new("c".to_owned(), None, 0);
            channel.join();
            channel.acknowledged(None);
            channel.history(&[], false);
            effects(&mut channel);
            channel
        };
        let mut first = empty();
        deliver(&mut first, [1, 2]);
        assert_eq!(effects(&mut first), ["1", "2"]);
        let mut missed = empty();
        assert_eq!(missed.join(), 0);
        missed.acknowledged(None);
        missed.fetched(&deliveries(1..=3), true);
        deliver(&mut missed, [4]);
        assert_eq!(effects(&mut missed), ["fetch 0", "1", "2", "3", "4"]);
        // Numbered, but not kept.
        let mut unkept = empty();
        deliver(&mut unkept, [501]);
        unkept.fetched(&[], false);
        assert_eq!(effects(&mut unkept), ["fetch 0", "501"]);
    }

    #[test]
    fn without_the_right_to_history_what_comes_next_is_next() {
        let mut channel = Channel::new("c".to_owned(), None, 0);
        channel.join();
        channel.acknowledged(None);
        deliver(&mut channel, [7]);
        channel.history_refused();
        deliver(&mut channel, [8]);
        assert_eq!(effects(&mut channel), ["history 1 0", "7", "8"]);
    }

    #[test]
    fn what_was_not_held_is_fetched_when_the_rest_is_printed() {
        let mut channel = settled_at(41);
        channel.deliver(&delivery(43));
        // As if there had been no room for it.
        channel.head = 44;
        channel.fetched(&deliveries([42]), true);
        assert_eq!(effects(&mut channel), ["fetch 41", "42", "43", "fetch 43"]);
        channel.fetched(&deliveries([44]), true);
        assert_eq!(effects(&mut channel), ["44"]);
    }
}
