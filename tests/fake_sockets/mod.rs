//! Descriptors for shards without a shell: each stands for a socket by number.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Sockets that move between shards.
#[derive(Debug, Default)]
pub struct FakeSockets(HashMap<RawFd, usize>);

impl FakeSockets {
    /// A descriptor for a socket that leaves its shard.
    pub fn detach(&mut self, number: usize) -> OwnedFd {
        let socket = OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
        self.0.insert(socket.as_raw_fd(), number);
        socket
    }

    /// The socket that has arrived.
    pub fn attach(&mut self, socket: OwnedFd) -> usize {
        self.0.remove(&socket.as_raw_fd()).expect("a socket that was detached")
    }
}
