//! The body of a [`PresenceBroadcast`](super::message::presence::PresenceBroadcast), read in place.

use super::Peer;
use crate::error::FrameError;
use crate::wire::msgpack::Reader;

/// The members of a channel, one at a time. Nothing is collected: in a large channel the list
/// costs a receiver more than reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present<'a> {
    pub channel: &'a str,
    members: Reader<'a>,
    left: usize,
}

impl<'a> Present<'a> {
    /// Reads the body up to the members.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] and [`FrameError::Body`].
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut members = Reader::new(body);
        members.array_of(2)?;
        let channel = members.str()?;
        let left = members.array_len()?;
        Ok(Present { channel, members, left })
    }

    /// Members that [`Present::next_member`] has not given yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next member, in the server's order.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] and [`FrameError::Body`].
    pub fn next_member(&mut self) -> Result<Option<Peer<'a>>, FrameError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.members.array_of(3)?;
        Ok(Some(Peer {
            user_id: self.members.str()?,
            state: self.members.bin()?,
            last_seen_ms: self.members.u64()?,
        }))
    }
}
