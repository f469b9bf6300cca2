//! When to ping, and when the server is late (`protocols/foony.md` section 5.8).

use super::closed::{Awaited, Closed};

/// How long the server may take to answer the upgrade, to greet, and to answer a close.
const UPGRADE_MS: u64 = 5_000;
const GREETING_MS: u64 = 10_000;
const CLOSE_MS: u64 = 500;
/// How long the server may answer none of the requests that it owes an answer to.
const ANSWER_MS: u64 = 15_000;
/// Nothing is late within this time of the last bytes: the answer may be right behind them.
const SILENCE_MS: u64 = 1_000;
/// Limits of the ping interval that a server may ask for, and of the deadline of a pong.
const PING_MS: (u64, u64) = (250, 3_600_000);
const PONG_MS: (u64, u64) = (250, 10_000);

const NEVER: u64 = u64::MAX;

/// What the server owes next, apart from answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Upgrade,
    Greeting,
    Nothing,
    Close,
}

/// The deadlines of one connection.
#[derive(Clone, Debug)]
pub(super) struct KeepAlive {
    owed: Owed,
    owed_until_ms: u64,
    /// 0: no pings.
    ping_every_ms: u64,
    ping_due_ms: u64,
    /// The oldest ping since the last bytes of the server; else [`NEVER`].
    pinged_ms: u64,
    /// Since when no request was answered; [`NEVER`] while no request waits, or none has been seen
    /// to wait.
    waiting_ms: u64,
    received_ms: u64,
}

/// What a timeout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ping,
    Nothing,
}

impl KeepAlive {
    pub fn new(now_ms: u64, owed: Owed) -> Self {
        let mut keep_alive = KeepAlive {
            owed,
            owed_until_ms: NEVER,
            ping_every_ms: 0,
            ping_due_ms: NEVER,
            pinged_ms: NEVER,
            waiting_ms: NEVER,
            received_ms: now_ms,
        };
        keep_alive.owe(now_ms, owed);
        keep_alive
    }

    pub fn owe(&mut self, now_ms: u64, owed: Owed) {
        self.owed = owed;
        self.owed_until_ms = match owed {
            Owed::Upgrade => now_ms + UPGRADE_MS,
            Owed::Greeting => now_ms + GREETING_MS,
            Owed::Close => now_ms + CLOSE_MS,
            Owed::Nothing => NEVER,
        };
    }

    /// Pings from now on; 0: never.
    pub fn ping_every(&mut self, now_ms: u64, every_ms: u64) {
        self.ping_every_ms = match every_ms {
            0 => 0,
            every_ms => every_ms.clamp(PING_MS.0, PING_MS.1),
        };
        self.ping_due_ms = if every_ms == 0 { NEVER } else { now_ms + self.ping_every_ms };
    }

    pub fn received(&mut self, now_ms: u64) {
        (self.received_ms, self.pinged_ms) = (now_ms, NEVER);
    }

    /// A request was answered, and `unanswered` still wait.
    pub fn answered(&mut self, now_ms: u64, unanswered: u32) {
        self.waiting_ms = if unanswered == 0 { NEVER } else { now_ms };
    }

    /// When something is to be done even if nothing happens.
    pub fn next_ms(&mut self, now_ms: u64, unanswered: u32) -> Option<u64> {
        if unanswered > 0 && self.waiting_ms == NEVER {
            self.waiting_ms = now_ms;
        }
        let next_ms = self.owed_until_ms.min(self.ping_due_ms).min(self.late_ms());
        (next_ms != NEVER).then_some(next_ms)
    }

    /// # Errors
    /// The server is late.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<Due, Closed> {
        if now_ms >= self.owed_until_ms {
            return Err(match self.owed {
                Owed::Upgrade => Closed::Silent(Awaited::Upgrade),
                Owed::Greeting => Closed::Silent(Awaited::Greeting),
                Owed::Nothing | Owed::Close => Closed::ByUs,
            });
        }
        if now_ms >= self.late_ms() {
            return Err(Closed::Silent(Awaited::Answer));
        }
        if now_ms < self.ping_due_ms {
            return Ok(Due::Nothing);
        }
        self.ping_due_ms = now_ms + self.ping_every_ms;
        self.pinged_ms = self.pinged_ms.min(now_ms);
        Ok(Due::Ping)
    }

    fn late_ms(&self) -> u64 {
        let pong_ms = self.ping_every_ms.clamp(PONG_MS.0, PONG_MS.1);
        let pong_ms = self.pinged_ms.saturating_add(pong_ms);
        let answer_ms = self.waiting_ms.saturating_add(ANSWER_MS);
        pong_ms.min(answer_ms).max(self.received_ms + SILENCE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> KeepAlive {
        KeepAlive::new(0, Owed::Nothing)
    }

    #[test]
    fn the_server_has_a_time_for_each_step() {
        for (owed, until_ms, closed) in [
            (Owed::Upgrade, 5_100, Closed::Silent(Awaited::Upgrade)),
            (Owed::Greeting, 10_100, Closed::Silent(Awaited::Greeting)),
            (Owed::Close, 600, Closed::ByUs),
        ] {
            let mut keep_alive = KeepAlive::new(100, owed);
            assert_eq!(keep_alive.next_ms(100, 0), Some(until_ms));
            assert_eq!(keep_alive.handle_timeout(until_ms - 1), Ok(Due::Nothing));
            assert_eq!(keep_alive.handle_timeout(until_ms), Err(closed));
        }
        assert_eq!(open().next_ms(0, 0), None);
    }

    #[test]
    fn pings_are_as_frequent_as_the_server_wishes_within_reason() {
        for (asked_ms, every_ms) in [(1, 250), (15_000, 15_000), (u64::MAX, 3_600_000)] {
            let mut keep_alive = open();
            keep_alive.ping_every(7, asked_ms);
            assert_eq!(keep_alive.next_ms(7, 0), Some(7 + every_ms));
            assert_eq!(keep_alive.handle_timeout(7 + every_ms), Ok(Due::Ping));
        }
        let mut keep_alive = open();
        keep_alive.ping_every(7, 0);
        assert_eq!(keep_alive.next_ms(7, 0), None);
    }

    #[test]
    fn any_bytes_answer_a_ping_and_silence_does_not() {
        let mut keep_alive = open();
        keep_alive.ping_every(0, 2_000);
        for now_ms in [2_000, 4_000, 6_000] {
            assert_eq!(keep_alive.next_ms(now_ms, 0), Some(now_ms));
            assert_eq!(keep_alive.handle_timeout(now_ms), Ok(Due::Ping));
            keep_alive.received(now_ms + 1);
        }
        assert_eq!(keep_alive.handle_timeout(8_000), Ok(Due::Ping));
        assert_eq!(keep_alive.handle_timeout(9_999), Ok(Due::Nothing));
        assert_eq!(keep_alive.handle_timeout(10_000), Err(Closed::Silent(Awaited::Answer)));
    }

    #[test]
    fn an_answer_is_late_when_neither_it_nor_another_came_for_long() {
        let mut keep_alive = open();
        assert_eq!(keep_alive.next_ms(100, 2), Some(15_100));
        assert_eq!(keep_alive.next_ms(5_000, 2), Some(15_100));
        keep_alive.answered(6_000, 1);
        assert_eq!(keep_alive.next_ms(6_000, 1), Some(21_000));
        keep_alive.received(20_900);
        assert_eq!(keep_alive.handle_timeout(21_000), Ok(Due::Nothing));
        assert_eq!(keep_alive.next_ms(21_000, 1), Some(21_900));
        assert_eq!(keep_alive.handle_timeout(21_900), Err(Closed::Silent(Awaited::Answer)));
        keep_alive.answered(21_900, 0);
        assert_eq!(keep_alive.next_ms(21_900, 0), None);
    }
}
