//! The debug endpoint `/echo`: sends every message back. For WebSocket conformance suites.

use super::{Dialect, Input, SessionContext, SessionOutput, Taken};
use crate::limits::Limits;
use crate::wire::websocket::{MessageKind, Opcode, append_frame};

/// The path of the endpoint.
pub(super) const PATH: &str = "/echo";

/// A message that makes the session panic, in tests of what becomes of a panic.
#[cfg(test)]
pub const PANIC: &[u8] = b"panic";

#[derive(Debug)]
pub struct Session;

impl Dialect for Session {
    fn handle<'m>(
        &mut self,
        _: &mut SessionContext<'_>,
        input: Input<'m>,
        out: &mut Vec<u8>,
    ) -> Taken<'m> {
        #[cfg(test)]
        assert!(input.bytes != PANIC, "a message that makes this session panic");
        let opcode = match input.kind {
            MessageKind::Text => Opcode::Text,
            MessageKind::Binary => Opcode::Binary,
        };
        append_frame(out, opcode, input.bytes);
        Taken::all(input, SessionOutput::Done)
    }

    fn greeting_ms(&self, _: &Limits) -> Option<u64> {
        None
    }

    fn message_bytes_max(&self, limits: &Limits) -> usize {
        limits.message_bytes_max
    }
}
