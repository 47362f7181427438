//! Connections to nodes.

use std::{
    fmt, io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};

use super::{
    address::{Address, NODES_MAX},
    tls::Tls,
};

/// Time without traffic after which TCP keepalive probes the node, and the interval between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));
/// Maximum number of addresses of a host name that a connection tries in turn.
const ATTEMPTS_MAX: usize = 8;

/// A connection to a node.
#[derive(Debug)]
pub(crate) struct Stream {
    // Before the socket, so that its descriptor leaves the list before it is closed.
    #[cfg(feature = "bindings")]
    _listed: super::descriptors::Listed,
    socket: Socket,
}

impl Stream {
    fn new(socket: Socket) -> Self {
        Self {
            #[cfg(feature = "bindings")]
            _listed: super::descriptors::Listed::new(socket.descriptor()),
            socket,
        }
    }

    /// Returns whether the connection is encrypted.
    #[cfg(test)]
    pub(super) fn has_tls(&self) -> bool {
        match self.socket {
            Socket::Tcp(_) | Socket::Unix(_) => false,
            #[cfg(feature = "tls")]
            Socket::Tls(_) => true,
        }
    }
}

#[derive(Debug)]
enum Socket {
    /// TCP without encryption.
    Tcp(TcpStream),
    /// TLS over TCP.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    #[cfg(feature = "bindings")]
    fn descriptor(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// Reason why a node cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot connect to {address}: {cause}")]
pub(crate) struct ConnectError {
    address: String,
    cause: Cause,
}

impl ConnectError {
    pub(super) fn new(address: &Address, cause: Cause) -> Self {
        Self { address: address.name(), cause }
    }

    /// Returns the cause.
    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }
}

/// Cause of a failed connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "some failures exist only with TLS"))]
pub(crate) enum Cause {
    /// The host name has no address.
    Unresolvable(String),
    /// The DNS name has this many addresses.
    TooManyNodes(usize),
    /// No process listens at the address.
    Refused,
    /// The connection was not complete within this time.
    TimedOut(Duration),
    /// Any other error of the network.
    Network(String),
    /// A file for TLS is faulty, or the address cannot have TLS.
    Configuration(String),
    /// The server's certificate was rejected.
    Certificate(String),
    /// The server answered without TLS.
    WithoutTls,
    /// The server closed the connection during the TLS handshake.
    ClosedHandshake,
    /// The server speaks TLS but not HTTP/2.
    WithoutHttp2,
    /// Any other error of the TLS handshake.
    Handshake(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolvable(why) => write!(f, "the name cannot be resolved: {why}"),
            Self::TooManyNodes(count) => write!(f, "the name has {count} addresses; at most {NODES_MAX} are supported"),
            Self::Refused => f.write_str("connection refused; no server listens at this address"),
            Self::TimedOut(limit) => write!(f, "no connection within {limit:?}"),
            Self::Network(why) | Self::Configuration(why) => f.write_str(why),
            Self::Certificate(why) => write!(f, "the certificate of the server was rejected: {why}"),
            Self::WithoutTls => f.write_str("the server answered without TLS; connect without TLS or enable it there"),
            Self::ClosedHandshake => f.write_str(
                "the server closed the connection during the TLS handshake; servers without TLS also do this",
            ),
            Self::WithoutHttp2 => f.write_str("the server speaks TLS without HTTP/2; expected ALPN protocol h2"),
            Self::Handshake(why) => write!(f, "the TLS handshake failed: {why}"),
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionRefused { Self::Refused } else { Self::Network(error.to_string()) }
    }
}

/// Connects to a node, with TLS if specified, within `limit`. The addresses of a host name are tried in turn.
///
/// # Errors
/// [`ConnectError`] names the node and the cause.
pub(crate) async fn connect(address: &Address, tls: Option<&Tls>, limit: Duration) -> Result<Stream, ConnectError> {
    let until = Instant::now() + limit;
    let connected = match address {
        Address::Unix(_) if tls.is_some() => {
            Err(Cause::Configuration("Unix sockets have no TLS; omit TLS for this address".to_owned()))
        }
        Address::Unix(path) => within(until, unix(path)).await,
        Address::Tcp { host, port } => match within(until, addresses(host, *port)).await {
            Ok(found) => tcp(&found, until).await,
            Err(cause) => Err(cause),
        },
        Address::Resolved { socket, .. } => tcp(&[*socket], until).await,
    };
    let secured = match (connected, tls) {
        (Ok(Socket::Tcp(stream)), Some(tls)) => within(until, secure(stream, tls, address)).await,
        (connected, _) => connected,
    };
    // Causes know only the remaining time.
    secured.map(Stream::new).map_err(|cause| {
        let is_late = matches!(cause, Cause::TimedOut(_));
        ConnectError::new(address, if is_late { Cause::TimedOut(limit) } else { cause })
    })
}

async fn within<T>(until: Instant, part: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
    timeout_at(until, part).await.unwrap_or(Err(Cause::TimedOut(Duration::ZERO)))
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Cause> {
    let found = lookup_host((host, port)).await.map_err(|error| Cause::Unresolvable(error.to_string()))?;
    Ok(found.take(ATTEMPTS_MAX).collect())
}

/// Connects to the first address that accepts.
async fn tcp(addresses: &[SocketAddr], until: Instant) -> Result<Socket, Cause> {
    let mut last = Cause::Unresolvable("the name has no addresses".to_owned());
    for (tried, socket) in addresses.iter().enumerate() {
        // An address that does not answer leaves time for the others.
        let share = until.saturating_duration_since(Instant::now()) / (addresses.len() - tried) as u32;
        match within(Instant::now() + share, open(*socket)).await {
            Ok(stream) => return Ok(Socket::Tcp(stream)),
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

async fn open(socket: SocketAddr) -> Result<TcpStream, Cause> {
    let stream = TcpStream::connect(socket).await?;
    stream.set_nodelay(true)?;
    let (idle, interval) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(unix)]
async fn unix(path: &Path) -> Result<Socket, Cause> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Cause::Network("the socket does not exist".to_owned()))
        }
        connected => Ok(Socket::Unix(connected?)),
    }
}

#[cfg(not(unix))]
async fn unix(_path: &Path) -> Result<Socket, Cause> {
    Err(Cause::Configuration("this system has no Unix sockets".to_owned()))
}

#[cfg(feature = "tls")]
async fn secure(stream: TcpStream, tls: &Tls, address: &Address) -> Result<Socket, Cause> {
    Ok(Socket::Tls(Box::new(tls.handshake(stream, address).await?)))
}

#[cfg(not(feature = "tls"))]
async fn secure(_stream: TcpStream, tls: &Tls, _address: &Address) -> Result<Socket, Cause> {
    match *tls {}
}

/// Calls a method of the stream inside.
macro_rules! forward {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Socket::Tcp($inner) => $call,
            #[cfg(feature = "tls")]
            Socket::Tls($inner) => $call,
            #[cfg(unix)]
            Socket::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.get_mut().socket, inner => Pin::new(inner).poll_read(task, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        forward!(&mut self.get_mut().socket, inner => Pin::new(inner).poll_write(task, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(&mut self.get_mut().socket, inner => Pin::new(inner).poll_write_vectored(task, slices))
    }

    fn is_write_vectored(&self) -> bool {
        forward!(&self.socket, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.get_mut().socket, inner => Pin::new(inner).poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.get_mut().socket, inner => Pin::new(inner).poll_shutdown(task))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, UnixListener},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Returns an address where no process listens.
    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    async fn fault(address: &str) -> String {
        connect(&address.parse().unwrap(), None, LIMIT).await.unwrap_err().to_string()
    }

    /// Sends bytes in both directions.
    async fn exchange(mut client: Stream, mut server: impl AsyncRead + AsyncWrite + Unpin) {
        let mut read = [0; 4];
        client.write_all(b"ping").await.unwrap();
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"pong");
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn tcp_has_no_delay_and_keepalive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let stream = connect(&address, None, LIMIT).await.unwrap();
        let Socket::Tcp(tcp) = &stream.socket else { panic!("{stream:?}") };
        assert!(tcp.nodelay().unwrap() && SockRef::from(tcp).keepalive().unwrap());
        assert!(stream.is_write_vectored());
        exchange(stream, listener.accept().await.unwrap().0).await;
    }

    #[tokio::test]
    async fn unix_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = format!("unix:{}", path.display());
        assert_eq!(fault(&address).await, format!("cannot connect to {address}: the socket does not exist"));
        let listener = UnixListener::bind(&path).unwrap();
        let stream = connect(&address.parse().unwrap(), None, LIMIT).await.unwrap();
        exchange(stream, listener.accept().await.unwrap().0).await;
        drop(listener);
        let refused = "connection refused; no server listens at this address";
        assert_eq!(fault(&address).await, format!("cannot connect to {address}: {refused}"));
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_are_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (open, closed) = (listener.local_addr().unwrap(), closed().await);
        let until = Instant::now() + LIMIT;
        assert!(tcp(&[closed, open], until).await.is_ok());
        assert_eq!(tcp(&[closed, closed], until).await.unwrap_err(), Cause::Refused);
    }

    #[tokio::test]
    async fn faults_name_the_address_and_the_cause() {
        let closed = closed().await.to_string();
        let refused = "connection refused; no server listens at this address";
        assert_eq!(fault(&closed).await, format!("cannot connect to {closed}: {refused}"));
        let unresolvable = fault("terrace.invalid:7400").await;
        let start = "cannot connect to terrace.invalid:7400: the name cannot be resolved: ";
        assert!(unresolvable.starts_with(start), "{unresolvable}");
    }
}
