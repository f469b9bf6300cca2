//! One connection of the transport: connected, waited for, read and written without blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::client::protocol::Outbound;

const READ_BYTES: usize = 64 * 1024;

/// Longest wait without a deadline.
const LONG: Duration = Duration::from_secs(3600);

pub(super) struct Socket {
    stream: TcpStream,
    /// The socket takes no more for now.
    is_full: bool,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    pub readable: bool,
    pub writable: bool,
}

impl Socket {
    /// Connects to the first address of a host that accepts, until `deadline`.
    ///
    /// # Errors
    /// None does; the last reason.
    pub fn connect(host: &str, deadline: Instant) -> io::Result<Self> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
        for address in host.to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    return Ok(Socket { stream, is_full: false });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self, out: &mut Outbound) -> io::Result<()> {
        while out.pending_bytes() > 0 && !self.is_full {
            match (&self.stream).write(out.pending()) {
                Ok(written) => out.written(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_full = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends what has arrived; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket; [`ErrorKind::WouldBlock`] when nothing has arrived.
    pub fn read(&mut self, unread: &mut Vec<u8>) -> io::Result<usize> {
        let used = unread.len();
        unread.resize(used + READ_BYTES, 0);
        let read = (&self.stream).read(&mut unread[used..]);
        unread.truncate(used + read.as_ref().map_or(0, |read| *read));
        read
    }

    /// Waits for the server, for room if something is pending, or for the program.
    ///
    /// # Errors
    /// Those of `poll`.
    pub fn wait(&mut self, bell: &UnixStream, timeout: Option<Duration>) -> io::Result<Readiness> {
        let wanted = if self.is_full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [PollFd::new(&self.stream, wanted), PollFd::new(bell, PollFlags::IN)];
        wait_for(&mut fds, timeout)?;
        let ready = fds[0].revents();
        let writable = ready.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR);
        self.is_full &= !writable;
        let readable = ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok(Readiness { readable, writable })
    }
}

/// Waits for the program.
///
/// # Errors
/// Those of `poll`.
pub(super) fn wait_for_program(bell: &UnixStream, timeout: Duration) -> io::Result<()> {
    wait_for(&mut [PollFd::new(bell, PollFlags::IN)], Some(timeout))
}

fn wait_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.unwrap_or(LONG);
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: timeout.subsec_nanos().into() };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
