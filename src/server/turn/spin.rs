//! Busy-polling: a shard that waits for its next message without sleeping.
//!
//! What is not used for a while leaves the caches of a CPU that others share, and the first message
//! after a pause pays for that on its whole way. So a shard that polls sends itself a few bytes
//! over loopback now and then, through its ring like everybody's: the kernel's code and ours stay
//! warm.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::TurnLoop;
use crate::server::ring::{After, Completion, Operation, Token};

/// The first warm-up after work: later than the next message of a busy shard, which needs none.
const WARM_UP_AFTER: Duration = Duration::from_micros(50);

/// A warm-up takes some 3 us, for which a message may have to wait. With 50 us between two of them
/// the delay of a message is the same, with 200 us much is cold again.
const WARM_UP_EVERY: Duration = Duration::from_micros(20);

/// As much as a small message.
static WARM_UP: [u8; 80] = [0; 80];

/// What a shard does between its last work and its sleep.
pub(super) struct Spin {
    /// How long it polls. Zero: it does not.
    limit: Duration,
    worked: Instant,
    warm_up_due: Instant,
    loopback: Option<Loopback>,
}

impl Spin {
    pub(super) fn new(limit: Duration) -> Self {
        let now = Instant::now();
        let loopback = if limit.is_zero() { None } else { Loopback::connect_or_warn() };
        Spin { limit, worked: now, warm_up_due: now + WARM_UP_AFTER, loopback }
    }

    /// There was something to do just now.
    pub(super) fn note_work(&mut self) {
        if !self.limit.is_zero() {
            self.worked = Instant::now();
            self.warm_up_due = self.worked + WARM_UP_AFTER;
        }
    }
}

/// A connection of the shard to itself.
struct Loopback {
    sender: TcpStream,
    receiver: TcpStream,
    /// A receive entry is armed.
    receiving: bool,
}

impl Loopback {
    fn connect_or_warn() -> Option<Self> {
        let warn = |error: &_| tracing::warn!(%error, "busy-polling without warm-ups: no loopback");
        Self::connect().inspect_err(warn).ok()
    }

    fn connect() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        let (receiver, from) = listener.accept()?;
        if from != sender.local_addr()? {
            return Err(io::Error::new(ErrorKind::AddrInUse, format!("{from} was faster")));
        }
        sender.set_nodelay(true)?;
        Ok(Loopback { sender, receiver, receiving: false })
    }
}

impl TurnLoop {
    /// Busy-polls until the configured time without work is over; true when a turn should be
    /// taken before that.
    pub(super) fn spin_for_work(&mut self) -> io::Result<bool> {
        if self.spin.limit.is_zero() {
            return Ok(false);
        }
        loop {
            let now = Instant::now();
            if now.duration_since(self.spin.worked) >= self.spin.limit {
                return Ok(false);
            }
            let has_work = self.ring.has_completions() || !self.mailboxes.is_empty();
            if has_work || self.host.has_stored() {
                return Ok(true);
            }
            if now >= self.spin.warm_up_due {
                self.spin.warm_up_due = now + WARM_UP_EVERY;
                self.warm_up()?;
                return Ok(true);
            }
            std::hint::spin_loop();
        }
    }

    fn warm_up(&mut self) -> io::Result<()> {
        let Some(loopback) = &mut self.spin.loopback else { return Ok(()) };
        if !mem::replace(&mut loopback.receiving, true) {
            let token = Token::of(Operation::WarmUpReceive);
            self.ring.receive(loopback.receiver.as_raw_fd(), token)?;
        }
        let (sender, token) = (loopback.sender.as_raw_fd(), Token::of(Operation::WarmUpSend));
        // SAFETY: the bytes are static.
        unsafe { self.ring.send(sender, &WARM_UP, After::Nothing, token)? };
        self.ring.submit()
    }

    pub(super) fn take_warm_up(&mut self, completion: Completion) {
        completion.buffer.into_iter().for_each(|buffer| self.ring.give_back(buffer));
        if let Some(loopback) = &mut self.spin.loopback {
            loopback.receiving = completion.more;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_a_shard_sends_itself_comes_back() {
        let mut loopback = Loopback::connect().expect("loopback");
        loopback.sender.write_all(&WARM_UP).expect("room for a few bytes");
        let mut got = [1; WARM_UP.len()];
        loopback.receiver.read_exact(&mut got).expect("they are on their way");
        assert_eq!(got, WARM_UP);
    }

    #[test]
    fn who_does_not_poll_has_no_loopback() {
        assert!(Spin::new(Duration::ZERO).loopback.is_none());
        assert!(Spin::new(Duration::from_micros(1)).loopback.is_some());
    }
}
