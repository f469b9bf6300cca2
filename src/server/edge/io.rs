//! A glommio stream as hyper wants it, beginning with bytes that were read elsewhere.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

pub struct HyperIo {
    stream: TcpStream,
    /// Read by a shard before the connection came here.
    unread: Vec<u8>,
}

impl HyperIo {
    pub fn new(stream: TcpStream, unread: Vec<u8>) -> Self {
        HyperIo { stream, unread }
    }
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
