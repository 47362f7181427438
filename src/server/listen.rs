//! Binds ports and accepts connections, with connection limits and back-off.

use std::{
    fs::{self, File, Permissions},
    future::Future,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::sync::{mpsc, watch};

use super::StartError;
use crate::{
    socket::{Listener, PeerCounts, Socket as Connection},
    tls::{self, Endpoint},
};

/// Maximum number of connections that wait in the accept queue of a port.
const BACKLOG: u16 = 1024;
/// Time without traffic after which TCP keepalive probes the peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// First pause after a failed accept; the pause doubles with each failure. Without a pause, a full file table would
/// occupy a whole core.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Maximum pause after a failed accept.
const BACKOFF_MAX: Duration = Duration::from_millis(1000);

/// Permissions of a Unix socket: its owner and its group may connect, because containers of one pod share a group.
const UNIX_MODE: u32 = 0o660;

/// The sockets of one port, one for each worker.
#[derive(Debug)]
pub(super) struct Port {
    /// Address as it is printed.
    pub(super) address: String,
    sockets: Vec<Socket>,
    /// Path of a Unix socket that this process created and must remove.
    path: Option<BoundPath>,
}

impl Port {
    /// Binds `address` (`host:port`, `:port` for all interfaces, or `unix:/path`) with one socket per worker.
    /// `key` is the setting of the address.
    pub(super) fn bind(key: &str, address: &str, workers: usize, expose: bool) -> Result<Self, StartError> {
        match address.strip_prefix("unix:") {
            Some(path) => Self::bind_path(key.trim_end_matches(".addr"), Path::new(path), workers),
            None => Self::bind_tcp(key, address, workers, expose),
        }
    }

    /// Binds the address once without `SO_REUSEPORT` first. That bind detects a port in use, which sockets with
    /// `SO_REUSEPORT` never report, and with port 0 the kernel chooses only one port.
    fn bind_tcp(key: &str, address: &str, workers: usize, expose: bool) -> Result<Self, StartError> {
        let (name, wanted) = (key.trim_end_matches(".addr"), resolve(key, address)?);
        if !wanted.ip().is_loopback() && !expose {
            return Err(StartError::Config(format!(
                "{key} = {address:?} is reachable from other machines; set server.expose = true \
                 (--expose) to permit this, or use 127.0.0.1"
            )));
        }
        let fault = |error: io::Error| StartError::Port(format!("cannot bind {name} to {wanted}: {error}"));
        let probe = socket(wanted, false).map_err(fault)?;
        let address = probe.local_addr().map_err(fault)?.as_socket().unwrap_or(wanted);
        drop(probe);
        let sockets: io::Result<Vec<_>> = (0..workers).map(|_| socket(address, true)).collect();
        Ok(Self { address: address.to_string(), sockets: sockets.map_err(fault)?, path: None })
    }

    fn bind_path(name: &str, path: &Path, workers: usize) -> Result<Self, StartError> {
        let fault =
            |error: io::Error| StartError::Port(format!("cannot bind {name} to unix:{}: {error}", path.display()));
        let (socket, bound) = BoundPath::listen(path).map_err(fault)?;
        let sockets: io::Result<Vec<_>> = (0..workers).map(|_| socket.try_clone()).collect();
        let address = format!("unix:{}", path.display());
        Ok(Self { address, sockets: sockets.map_err(fault)?, path: Some(bound) })
    }

    /// Shares a listener that the caller opened. The caller owns the path of a Unix socket.
    pub(super) fn shared(name: &str, listener: &OwnedFd, workers: usize) -> Result<Self, StartError> {
        let fault = |error: io::Error| StartError::Port(format!("cannot share the {name} listener passed in: {error}"));
        let socket = Socket::from(listener.try_clone().map_err(fault)?);
        socket.set_nonblocking(true).map_err(fault)?;
        let address = socket.local_addr().map_err(fault)?;
        let address = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => address.to_string(),
            (None, Some(path)) => format!("unix:{}", path.display()),
            (None, None) => {
                return Err(fault(io::Error::other(
                    "the listener is neither a TCP socket nor a Unix socket with a path",
                )));
            }
        };
        let sockets: io::Result<Vec<_>> = (0..workers).map(|_| socket.try_clone()).collect();
        Ok(Self { address, sockets: sockets.map_err(fault)?, path: None })
    }

    /// Returns the socket of the next worker.
    pub(super) fn take(&mut self) -> Option<Socket> {
        self.sockets.pop()
    }

    /// Removes the path of a Unix socket, so that the next server can bind it. Call this before the socket is closed:
    /// afterwards, the path may belong to another process.
    pub(super) fn remove_path(&mut self) {
        drop(self.path.take());
    }
}

/// The path of a Unix socket that this process created. Drop removes the path unless another socket has replaced it.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl BoundPath {
    fn listen(path: &Path) -> io::Result<(Socket, Self)> {
        remove_left_over(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let bound = Self { path: path.to_owned(), identity: identity(path)? };
        fs::set_permissions(path, Permissions::from_mode(UNIX_MODE))?;
        socket.listen(BACKLOG.into())?;
        Ok((socket, bound))
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the Unix socket; the file remains");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
}

/// Removes the socket of a server that was killed. Returns an error for a socket with a listener and for a file that is
/// not a socket.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // A socket with a full accept queue is in use, too.
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn resolve(key: &str, address: &str) -> Result<SocketAddr, StartError> {
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let fault = |why: String| {
        StartError::Config(format!("{key} = {address:?}: {why}; expected host:port, [::1]:port or :port"))
    };
    let mut found = full.to_socket_addrs().map_err(|error| fault(error.to_string()))?;
    found.next().ok_or_else(|| fault("the host name resolves to no address".to_owned()))
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if reuse_port {
        socket.listen(BACKLOG.into())?;
    }
    Ok(socket)
}

/// Connection limits of one port, shared by all workers.
#[derive(Debug, Clone)]
pub(super) struct Caps {
    /// Connections open at present.
    pub(super) open: Arc<AtomicU64>,
    /// Connections refused since start.
    pub(super) rejected: Arc<AtomicU64>,
    /// Maximum number of open connections.
    pub(super) max: u64,
    /// Connections open at present on all ports.
    pub(super) all: Arc<AtomicU64>,
    /// Maximum of `all`, because each connection takes a file descriptor.
    pub(super) all_max: u64,
    /// Connections of each peer address on this port.
    pub(super) peers: Peers,
    /// Bytes sent to a refused client without TLS; empty if the protocol has no error for this case.
    pub(super) refusal: &'static [u8],
}

impl Caps {
    /// Counts a connection, or refuses it if the port has reached its limit.
    fn admit(&self, stream: &mut Connection, has_tls: bool) -> Option<Counted> {
        let (open, all) = (self.open.fetch_add(1, Relaxed), self.all.fetch_add(1, Relaxed));
        let mut counted = Counted { open: Arc::clone(&self.open), all: Arc::clone(&self.all), peer: None };
        if open < self.max
            && all < self.all_max
            && let Some(peer) = self.peers.admit(stream, (self.max / 4).max(1))
        {
            counted.peer = peer;
            return Some(counted);
        }
        drop(counted);
        self.rejected.fetch_add(1, Relaxed);
        if !has_tls {
            // Best effort: the client receives the error only if its socket accepts the bytes immediately.
            let _told = stream.try_write(self.refusal);
        }
        None
    }
}

/// Guard that counts a connection while it is open.
struct Counted {
    open: Arc<AtomicU64>,
    all: Arc<AtomicU64>,
    peer: Option<PeerPlace>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        self.all.fetch_sub(1, Relaxed);
    }
}

/// Number of connections by peer address. Peers on this machine, and peers of Unix sockets, are not counted: a proxy or a
/// sidecar may open all connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers(Arc<Mutex<PeerCounts>>);

/// Place of one connection in [`Peers`].
struct PeerPlace {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    /// Counts a connection. Returns `None` if its peer has `max` connections, and a guard if the peer is counted.
    fn admit(&self, stream: &Connection, max: u64) -> Option<Option<PeerPlace>> {
        // A connection that has ended is noticed by its first read.
        let Some(peer) = stream.peer_ip() else { return Some(None) };
        self.admit_address(peer, max)
    }

    fn admit_address(&self, address: IpAddr, max: u64) -> Option<Option<PeerPlace>> {
        if address.is_loopback() {
            return Some(None);
        }
        self.0.lock().add(address, max).then(|| Some(PeerPlace { peers: self.clone(), address }))
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        self.peers.0.lock().remove(self.address);
    }
}

/// Accepts connections until `stop` becomes true, then waits until all connections have ended. `serve` returns the task
/// of one connection. With TLS, the task begins after the handshake.
///
/// Connections in the kernel's accept queue at that time are served as well: their clients are connected, may have sent
/// a request, and would otherwise only see a reset. Later connections are refused.
pub(super) async fn accept<F>(
    listener: Listener,
    caps: Caps,
    endpoint: Arc<Endpoint>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(Connection) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    // Each connection holds a sender; the channel closes when the last connection has ended.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let stopping = stop.clone();
    let begin = |mut stream: Connection, alive: &mpsc::Sender<()>| {
        let config = endpoint.config();
        let Some(counted) = caps.admit(&mut stream, config.is_some()) else { return };
        prepare(&stream);
        let guard = (counted, alive.clone());
        match (config, stream) {
            (Some(config), Connection::Tcp(stream)) => {
                let (endpoint, mut stopping, serve) = (Arc::clone(&endpoint), stopping.clone(), serve.clone());
                tokio::spawn(async move {
                    let draining = async {
                        // An error means that no stop signal can arrive any more.
                        let _stopping = stopping.wait_for(|stop| *stop).await;
                    };
                    // Boxed, so that the handshake adds nothing to the size of the connection.
                    let secured = Box::pin(tls::handshake(&endpoint, config, stream, draining)).await;
                    if let Some(stream) = secured {
                        serve(stream).await;
                    }
                    drop(guard);
                });
            }
            (_, stream) => {
                let task = serve(stream);
                tokio::spawn(async move {
                    task.await;
                    drop(guard);
                });
            }
        }
    };
    let mut acceptor = Acceptor::new(listener);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            stream = acceptor.next() => begin(stream, &alive),
        }
    }
    for stream in acceptor.listener.close(BACKLOG.into()) {
        begin(stream, &alive);
    }
    drop(alive);
    // No message is ever sent: the call returns when all connections have ended.
    let _closed = ended.recv().await;
}

fn prepare(stream: &Connection) {
    let Connection::Tcp(stream) = stream else { return };
    let socket = SockRef::from(stream);
    // If these calls fail, the connection is already broken; its first read reports that.
    let _nodelay = socket.set_tcp_nodelay(true);
    let _keepalive = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE));
}

/// Accepts connections and recovers from failures.
struct Acceptor {
    listener: Listener,
    backoff: Duration,
    /// File descriptor that is released when the file table is full, to accept and close one connection. Otherwise the
    /// client would wait without an answer.
    spare: Option<File>,
}

impl Acceptor {
    fn new(listener: Listener) -> Self {
        Self { listener, backoff: BACKOFF_MIN, spare: spare() }
    }

    async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok(stream) => {
                    self.backoff = BACKOFF_MIN;
                    return stream;
                }
                Err(error) => self.recover(&error).await,
            }
        }
    }

    async fn recover(&mut self, error: &io::Error) {
        // The peer disconnected before its connection was accepted; this is not a fault.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        tracing::warn!(%error, backoff_ms = self.backoff.as_millis(), "cannot accept a connection; retrying");
        if let Some(file) = self.spare.take() {
            drop(file);
            let accepted = tokio::time::timeout(Duration::ZERO, self.listener.accept()).await;
            drop(accepted);
            self.spare = spare();
        }
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Raises the soft limit of open files to the hard limit and returns the resulting limit.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files; keeping the current limit");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_takes_its_share_and_this_machine_any_number() {
        let peers = Peers::default();
        let (here, there): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [10, 0, 0, 1].into());
        assert!((0..10).all(|_| matches!(peers.admit_address(here, 2), Some(None))));
        let places: Vec<_> = (0..3).map_while(|_| peers.admit_address(there, 2)).collect();
        assert_eq!(places.len(), 2);
        assert!(peers.admit_address([10, 0, 0, 2].into(), 2).is_some(), "another peer");
        drop(places);
        assert!(peers.admit_address(there, 2).is_some());
        assert!(peers.0.lock().is_empty(), "no address is kept");
    }
}
