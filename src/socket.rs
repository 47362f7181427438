//! Listeners and connections, over TCP or a Unix socket, so that the edges need not care which.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BufMut;
use socket2::SockAddr;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::timeout,
};

/// What is read to be thrown away.
const LINGER_BUFFER_BYTES: usize = 512;

/// What accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

/// A connection.
#[derive(Debug)]
pub enum Socket {
    /// From a port.
    Tcp(TcpStream),
    /// From a path.
    Unix(UnixStream),
}

/// Who stands at the two ends of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The client's address; of a Unix socket the path, as Redis shows it.
    pub peer: String,
    /// Ours.
    pub local: String,
    /// The client is on this machine.
    pub is_here: bool,
}

impl Listener {
    /// Takes over a socket that listens and does not block. Called inside a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn adopt(bound: socket2::Socket) -> io::Result<Self> {
        if bound.local_addr()?.is_unix() {
            UnixListener::from_std(bound.into()).map(Self::Unix)
        } else {
            TcpListener::from_std(bound.into()).map(Self::Tcp)
        }
    }

    /// Waits for a connection. Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Socket::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }

    /// Closes it. Returns the connections that the kernel has accepted for us by now, `most` at most.
    #[must_use]
    pub fn close(self, most: usize) -> Vec<Socket> {
        // Asked straight: tokio hears of a connection only when its driver has looked.
        let bound = match self {
            Self::Tcp(listener) => listener.into_std().map(socket2::Socket::from),
            Self::Unix(listener) => listener.into_std().map(socket2::Socket::from),
        };
        let Ok(bound) = bound else { return Vec::new() };
        let waiting = std::iter::from_fn(|| bound.accept().ok());
        waiting.take(most).filter_map(|(stream, address)| Socket::adopt(stream, &address).ok()).collect()
    }
}

impl Socket {
    fn adopt(stream: socket2::Socket, peer: &SockAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        if peer.is_unix() {
            UnixStream::from_std(stream.into()).map(Self::Unix)
        } else {
            TcpStream::from_std(stream.into()).map(Self::Tcp)
        }
    }

    /// Reads on until the client closes as well, for a while at most. Called after the last byte was sent and the sending side
    /// shut down.
    ///
    /// Were the socket closed while bytes of the client are unread or under way, they would be answered with a reset; the
    /// client's next write would fail, and with it all that it waits for, before it had read the answers sent before.
    pub async fn linger(mut self, within: Duration) {
        let mut rest = [0; LINGER_BUFFER_BYTES];
        let until_closed = async { while matches!(self.read(&mut rest).await, Ok(1..)) {} };
        // Whoever does not close in time has had its time to read.
        let _closed = timeout(within, until_closed).await;
    }

    /// Who stands at the two ends.
    ///
    /// # Errors
    /// The connection is gone already.
    pub fn ends(&self) -> io::Result<Ends> {
        match self {
            Self::Tcp(stream) => {
                let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
                let is_here = peer.ip().to_canonical().is_loopback();
                Ok(Ends { peer: peer.to_string(), local: local.to_string(), is_here })
            }
            Self::Unix(stream) => {
                let local = stream.local_addr()?;
                // A client's own end has no name.
                let path = local.as_pathname().map(|path| format!("{}:0", path.display())).unwrap_or_default();
                Ok(Ends { peer: path.clone(), local: path, is_here: true })
            }
        }
    }

    /// Sends what the system takes at once.
    ///
    /// # Errors
    /// `WouldBlock`, and those of the connection.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Receives what is there.
    ///
    /// # Errors
    /// `WouldBlock`, and those of the connection.
    #[inline]
    pub fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buffer),
            Self::Unix(stream) => stream.try_read_buf(buffer),
        }
    }

    /// Whether there may be something to receive.
    #[inline]
    pub fn poll_read_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(task),
            Self::Unix(stream) => stream.poll_read_ready(task),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(task, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(task, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(task),
            Self::Unix(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}
