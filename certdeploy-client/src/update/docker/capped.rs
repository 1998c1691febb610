//! A connection that breaks after so many bytes: whatever answers as an engine cannot fill our memory, whoever reads it. Must
//! not know what is said.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that comes over one connection, in bytes: one answer.
pub(super) const LIMIT: u64 = 64 * 1024 * 1024;

/// How much is read at once, in bytes.
const PIECE: usize = 16 * 1024;

/// See the module.
pub(super) struct Capped<S> {
    stream: S,
    left: u64,
}

impl<S> Capped<S> {
    /// `stream`, until so many bytes have come.
    pub(super) fn new(stream: S, left: u64) -> Self {
        Self { stream, left }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Capped<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // One more than there is left shows whether there is more.
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).saturating_add(1).min(buf.remaining()).min(PIECE);
        let mut piece = vec![0; room];
        let mut read = ReadBuf::new(&mut piece);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let came = read.filled();
        match self.left.checked_sub(u64::try_from(came.len()).unwrap_or(u64::MAX)) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other("its answer is too long"))),
        }
        buf.put_slice(came);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Capped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn it_breaks_where_it_must() {
        let mut read = Vec::new();
        Capped::new(&[7; 100][..], 100).read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 100);
        let error = Capped::new(&[7; 101][..], 100).read_to_end(&mut read).await.unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
