//! Adapts a glommio stream to hyper, prefixed with the bytes that a shard has read.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future;
use futures_lite::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::connections::IdleTimer;

/// Bytes per read.
const READ_BYTES: usize = 8 * 1024;

/// How long input is drained after the last response.
const LINGER: Duration = Duration::from_secs(1);

/// A stream with the bytes that were read before.
pub struct HyperIo {
    stream: TcpStream,
    /// Read by a shard before the connection came here.
    unread: Vec<u8>,
    idle_timer: Rc<IdleTimer>,
}

impl HyperIo {
    pub fn new(stream: TcpStream, unread: Vec<u8>, idle_timer: Rc<IdleTimer>) -> Self {
        HyperIo { stream, unread, idle_timer }
    }

    /// The socket, and the bytes in front of it that hyper has not read.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn detach(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) };
        Ok((socket.try_clone_to_owned()?, self.unread))
    }
}

/// Drains input after the last response: closing a socket with unread bytes resets it, and the peer
/// may lose the response (RFC 9112 section 9.6).
pub async fn linger(mut io: HyperIo) {
    let rest = async {
        let mut bytes = [0; READ_BYTES];
        while io.stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    future::or(rest, async {
        glommio::timer::sleep(LINGER).await;
    })
    .await;
}

impl Read for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; READ_BYTES];
        let most = READ_BYTES.min(buf.remaining());
        let stream = Pin::new(&mut self.stream);
        let count = ready!(stream.poll_read(cx, &mut bytes[..most]))?;
        buf.put_slice(&bytes[..count]);
        Poll::Ready(Ok(()))
    }
}

impl Write for HyperIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.idle_timer.restart();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
