//! A glommio stream as hyper wants it, beginning with bytes that were read elsewhere.

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

use super::connections::Activity;

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

/// How long a peer may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(1);

pub struct HyperIo {
    stream: TcpStream,
    /// Read by a shard before the connection came here.
    unread: Vec<u8>,
    activity: Rc<Activity>,
}

impl HyperIo {
    pub fn new(stream: TcpStream, unread: Vec<u8>, activity: Rc<Activity>) -> Self {
        HyperIo { stream, unread, activity }
    }

    /// The socket and the bytes that were not read off it here, for somebody else to go on with.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn detach(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) };
        Ok((socket.try_clone_to_owned()?, self.unread))
    }
}

/// Reads what a peer still sends after the last answer and forgets it, for a while: a socket that
/// is closed with unread bytes takes back what was written (RFC 9112 section 9.6).
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
        self.activity.wrote();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
