//! The seam for a peer that speaks a protocol of its own, so that it is measured with the same
//! load. Its implementation lives in a package under `benches/peers`.

use std::fmt::Debug;
use std::net::SocketAddr;

use crate::error::FrameError;

/// A protocol of publishers and subscribers on TCP. Its server speaks only when asked, answers in
/// order and does not number messages.
pub trait Protocol: Debug + Send + Sync {
    /// Calls `take` with every whole reply at the front of `bytes`, in order. Returns the bytes
    /// that they have.
    ///
    /// # Errors
    /// These are not replies.
    fn read<'a>(
        &self,
        bytes: &'a [u8],
        take: &mut dyn FnMut(Reply<'a>),
    ) -> Result<usize, FrameError>;

    fn append_subscribe(&self, channel: &str, out: &mut Vec<u8>);

    fn append_publish(&self, channel: &str, payload: &[u8], out: &mut Vec<u8>);

    fn append_ping(&self, out: &mut Vec<u8>);
}

/// A server to measure that speaks a protocol of its own.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub protocol: &'static dyn Protocol,
}

/// One reply; borrows from the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The payload of a message.
    Message(&'a [u8]),
    Subscribed,
    /// The oldest publish that was not acknowledged is.
    Published,
    Refused(&'a str),
    /// Something that no benchmark looks at.
    Other,
}
