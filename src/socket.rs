//! Listeners and connections over TCP, TLS or a Unix socket, with one interface for all protocols.

mod protocol;
mod tls_stream;

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
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

pub use self::{
    protocol::Protocol,
    tls_stream::{PeerCertificate, TlsStream},
};

/// First byte of a TLS connection: a handshake record. No request of another protocol of this server begins with it.
pub const TLS_FIRST_BYTE: u8 = 0x16;
/// Size of the buffer for data that is read and discarded.
const LINGER_BUFFER_BYTES: usize = 512;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket path.
    Unix(UnixListener),
}

/// A connection.
#[derive(Debug)]
pub enum Socket {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix socket connection.
    Unix(UnixStream),
    /// A TCP connection with TLS.
    Tls(Box<TlsStream>),
}

/// The two endpoints of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// Address of the client. For a Unix socket this is the path, as Redis reports it.
    pub peer: String,
    /// Address of this server.
    pub local: String,
    /// True if the client runs on this machine.
    pub is_here: bool,
    /// True if the connection is encrypted.
    pub is_encrypted: bool,
    /// The verified certificate of the client.
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl Ends {
    /// Returns the names in the certificate of the client, and the end of its validity in seconds since 1970.
    #[must_use]
    pub fn certified(&self) -> Option<(&[String], u64)> {
        self.certificate.as_deref().map(PeerCertificate::certified)
    }

    /// Returns whether only the two ends can read the data: an encrypted connection, or one on this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_here || self.is_encrypted
    }
}

impl Listener {
    /// Takes over a socket that is listening and non-blocking. Call it inside a runtime.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn adopt(bound: socket2::Socket) -> io::Result<Self> {
        if bound.local_addr()?.is_unix() {
            UnixListener::from_std(bound.into()).map(Self::Unix)
        } else {
            TcpListener::from_std(bound.into()).map(Self::Tcp)
        }
    }

    /// Waits for a connection. Dropping the future loses no connection.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Socket::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }

    /// Closes the listener. Returns at most `most` connections that the kernel has already accepted.
    #[must_use]
    pub fn close(self, most: usize) -> Vec<Socket> {
        // The socket is queried directly: tokio notices a connection only after its driver has polled.
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

    /// Reads and discards data until the client closes, or until `within` has passed. Call it after the last byte was
    /// sent and the sending side was shut down.
    ///
    /// If the socket were closed while the client's bytes are unread or in flight, the kernel would answer with a
    /// reset. The client's next write would fail, and the client could lose answers that it has not read yet.
    pub async fn linger(self, within: Duration) {
        // Data of TLS needs no decryption to be discarded.
        let mut socket = match self {
            Self::Tls(stream) => Self::Tcp(stream.into_tcp()),
            Self::Tcp(_) | Self::Unix(_) => self,
        };
        let mut rest = [0; LINGER_BUFFER_BYTES];
        let until_closed = async { while matches!(socket.read(&mut rest).await, Ok(1..)) {} };
        // A client that does not close in time had enough time to read.
        let _closed = timeout(within, until_closed).await;
    }

    /// Returns the TCP connection, also below TLS.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.tcp()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the IP address of the client; `None` for a Unix socket and for a closed connection.
    #[must_use]
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.tcp()?.peer_addr().ok().map(|peer| peer.ip().to_canonical())
    }

    /// Returns whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Returns the verified certificate of the client; `None` if it sent none, and without TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<Arc<PeerCertificate>> {
        match self {
            Self::Tls(stream) => stream.certificate().cloned(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Logs that a client speaks TLS on `port`, which has no TLS.
    pub fn warn_of_tls_client(&self, port: &str) {
        let peer = self.peer_ip().map_or_else(|| "unix".to_owned(), |ip| ip.to_string());
        tracing::warn!(
            port,
            peer,
            "closed a TLS connection on a port without TLS; set {port}.tls_mode, or connect without TLS"
        );
    }

    /// Returns the two endpoints.
    ///
    /// # Errors
    /// Fails if the connection is already closed.
    pub fn ends(&self) -> io::Result<Ends> {
        let of_tcp = |stream: &TcpStream| {
            let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
            let is_here = peer.ip().to_canonical().is_loopback();
            let (is_encrypted, certificate) = (self.is_tls(), self.certificate());
            Ok(Ends { peer: peer.to_string(), local: local.to_string(), is_here, is_encrypted, certificate })
        };
        match self {
            Self::Tcp(stream) => of_tcp(stream),
            Self::Tls(stream) => of_tcp(stream.tcp()),
            Self::Unix(stream) => {
                let local = stream.local_addr()?;
                // The client's end of a Unix socket has no name.
                let path = local.as_pathname().map(|path| format!("{}:0", path.display())).unwrap_or_default();
                Ok(Ends { peer: path.clone(), local: path, is_here: true, is_encrypted: false, certificate: None })
            }
        }
    }

    /// Sends as many bytes as the system accepts without blocking. After `WouldBlock`, the next write must begin with
    /// the same bytes: TLS may have encrypted them.
    ///
    /// # Errors
    /// `WouldBlock`, and errors of the connection.
    #[inline]
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// Sends as much of `slices` as the system accepts at once. After `WouldBlock`, the next write must begin with the
    /// same bytes.
    ///
    /// # Errors
    /// `WouldBlock`, and errors of the connection.
    #[inline]
    pub fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::Tls(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Waits until the system may accept more.
    ///
    /// # Errors
    /// Errors of the connection.
    #[inline]
    pub fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(task),
            Self::Unix(stream) => stream.poll_write_ready(task),
            Self::Tls(stream) => stream.poll_write_ready(task),
        }
    }

    /// Receives the available bytes.
    ///
    /// # Errors
    /// `WouldBlock`, and errors of the connection.
    #[inline]
    pub fn try_read_buf(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buffer),
            Self::Unix(stream) => stream.try_read_buf(buffer),
            Self::Tls(stream) => stream.try_read_buf(buffer),
        }
    }

    /// Returns whether data may be available.
    #[inline]
    pub fn poll_read_ready(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(task),
            Self::Unix(stream) => stream.poll_read_ready(task),
            Self::Tls(stream) => stream.poll_read_ready(task),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => stream.poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Tls(stream) => stream.poll_write_vectored(task, &[IoSlice::new(bytes)]),
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
            Self::Tls(stream) => stream.poll_write_vectored(task, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(_) => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(task),
            Self::Unix(stream) => Pin::new(stream).poll_flush(task),
            Self::Tls(stream) => stream.poll_flush(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Tls(stream) => stream.poll_shutdown(task),
        }
    }
}

/// Number of connections by peer address. An address without connections has no entry.
#[derive(Debug, Default)]
pub struct PeerCounts(HashMap<IpAddr, u64>);

impl PeerCounts {
    /// Counts a connection, unless the peer has `max`. Returns whether it is counted.
    pub fn add(&mut self, peer: IpAddr, max: u64) -> bool {
        let count = self.0.entry(peer).or_default();
        let is_below = *count < max;
        *count += u64::from(is_below);
        is_below
    }

    /// Ends a counted connection.
    pub fn remove(&mut self, peer: IpAddr) {
        if let Some(count) = self.0.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&peer);
            }
        }
    }

    /// Returns whether no connection is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
