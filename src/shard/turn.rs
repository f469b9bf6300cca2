//! The order of a turn, the same for sockets and for simulations of them.

use super::{Effect, Envelope, Shard};
use crate::ids::Clocks;

/// What a shard is driven by: sockets and mailboxes, or a simulation of them.
pub trait TurnIo {
    type Error;

    fn shard(&mut self) -> &mut Shard;

    /// Calls [`Shard::begin_turn`] with the free places of the mailboxes and the load of the
    /// shards.
    fn begin(&mut self, now: Clocks);

    /// Takes what has arrived from sockets into the shard, [`perform_all`] after each input.
    ///
    /// # Errors
    /// The turn cannot go on.
    fn receive(&mut self, now: Clocks) -> Result<(), Self::Error>;

    /// The next envelope from another shard. Bounded per turn by the implementation.
    fn next_envelope(&mut self) -> Option<Envelope>;

    /// Does what the process asks of the shard: drain, end.
    ///
    /// # Errors
    /// The turn cannot go on.
    fn control(&mut self, _now: Clocks) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Does what the shard asks for.
    ///
    /// # Errors
    /// The turn cannot go on.
    fn perform(&mut self, now: Clocks, effect: Effect) -> Result<(), Self::Error>;

    /// Writes to sockets, [`perform_all`] after each report, and closes those that have ended.
    ///
    /// # Errors
    /// The turn cannot go on.
    fn write(&mut self, now: Clocks) -> Result<(), Self::Error>;
}

/// When the next turn of a shard is due although nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Now,
    /// At this time of the monotonic clock, milliseconds.
    Until(u64),
    Idle,
}

/// Takes one turn.
///
/// # Errors
/// Those of `io`.
pub fn turn<I: TurnIo>(io: &mut I, now: Clocks) -> Result<Wait, I::Error> {
    io.begin(now);
    perform_all(io, now)?;
    if io.shard().has_room() {
        io.receive(now)?;
        while let Some(envelope) = io.next_envelope() {
            io.shard().handle_envelope(now, envelope);
            perform_all(io, now)?;
        }
    }
    io.control(now)?;
    if io.shard().poll_timeout().is_some_and(|due_ms| due_ms <= now.mono_ms) {
        io.shard().handle_timeout(now);
        perform_all(io, now)?;
    }
    io.shard().end_turn(now);
    perform_all(io, now)?;
    io.write(now)?;
    Ok(io.shard().poll_wait())
}

/// Performs the effects of the last input.
///
/// # Errors
/// Those of `io`.
pub fn perform_all<I: TurnIo>(io: &mut I, now: Clocks) -> Result<(), I::Error> {
    while let Some(effect) = io.shard().poll_effect() {
        io.perform(now, effect)?;
    }
    Ok(())
}
