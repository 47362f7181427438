//! The preface of HTTP/2: read here with a limit of time, then replayed to hyper.
//!
//! Hyper waits for the preface without a limit, so Terrace reads it first. Hyper would also close the connection when it
//! is done, so it gets a wrapper that returns the connection when it is dropped.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::socket::Socket;

/// The first bytes that a client of HTTP/2 sends.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the preface, and nothing behind it.
///
/// # Errors
/// The client ended the connection, or does not speak HTTP/2.
pub(super) async fn read(mut stream: Socket) -> io::Result<Socket> {
    let mut preface = [0; PREFACE.len()];
    let mut have = 0;
    while have < preface.len() {
        match stream.read(&mut preface[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
        if !PREFACE.starts_with(&preface[..have]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the preface of HTTP/2"));
        }
    }
    Ok(stream)
}

/// A connection whose preface was read, for hyper: it reads the preface once more, then the connection.
pub(super) struct PrefaceReplay {
    /// The part of the preface that hyper has not read yet.
    preface: &'static [u8],
    /// `None` once it was returned.
    stream: Option<Socket>,
    back: Option<oneshot::Sender<Socket>>,
}

impl PrefaceReplay {
    /// Wraps a connection. The receiver gets it back when the wrapper is dropped.
    pub(super) fn new(stream: Socket) -> (Self, oneshot::Receiver<Socket>) {
        let (back, returned) = oneshot::channel();
        (Self { preface: PREFACE, stream: Some(stream), back: Some(back) }, returned)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for PrefaceReplay {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Closed here when nobody waits for it.
            let _returned = back.send(stream);
        }
    }
}

impl AsyncRead for PrefaceReplay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return self.stream()?.poll_read(context, buffer);
        }
        let (now, later) = self.preface.split_at(self.preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PrefaceReplay {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}
