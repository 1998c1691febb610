//! A stream that can be ended for sure from outside: the SSH library has no such word for a session.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The longest identification that a peer may send (RFC 4253, 4.2), in bytes: whoever sends more has begun the key
/// exchange.
const IDENTIFICATION: usize = 255;

/// A stream that reads its end and refuses writes once the token is cancelled.
pub struct Cuttable<S> {
    stream: S,
    token: CancellationToken,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes, while `begun` is there.
    read: usize,
    begun: Option<Begun>,
}

/// What is done once the peer has begun the key exchange.
type Begun = Box<dyn FnOnce() + Send>;

impl<S> Cuttable<S> {
    /// Ends `stream` when `token` is cancelled, and calls `begun` when the peer has said more than who it is.
    pub fn new(stream: S, token: CancellationToken, begun: impl FnOnce() + Send + 'static) -> Self {
        let cut = Box::pin(token.clone().cancelled_owned());
        Self { stream, cut, token, read: 0, begun: Some(Box::new(begun)) }
    }

    fn count(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
        if self.read > IDENTIFICATION
            && let Some(begun) = self.begun.take()
        {
            begun();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cuttable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.token.is_cancelled() || self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.count(buf.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cuttable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.token.is_cancelled() || self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.token.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
