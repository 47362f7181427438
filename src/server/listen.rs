//! Binding ports, and accepting on them with caps and back-off.

use std::{
    fs::File,
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::StartError;

/// Connections the kernel holds for us until we accept them.
const BACKLOG: i32 = 1024;
/// Dead peers are noticed after this long without traffic.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Pauses after a failed accept, doubling: without them a full file table costs a whole core.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(1000);

/// The sockets of one port, one for each worker.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) address: SocketAddr,
    sockets: Vec<StdListener>,
}

impl Port {
    /// Binds `address` (`host:port`, or `:port` for all interfaces) for `workers`.
    ///
    /// The address is bound once without `SO_REUSEPORT`: that reports a port in use, which sockets that share a port
    /// never would, and with port 0 the kernel chooses once.
    pub(super) fn bind(name: &str, address: &str, workers: usize, expose: bool) -> Result<Self, StartError> {
        let wanted = resolve(name, address)?;
        if !wanted.ip().is_loopback() && !expose {
            return Err(StartError::Config(format!(
                "{name}.addr = {address:?} is reachable from other machines; say --expose if that is meant, or use 127.0.0.1"
            )));
        }
        let fault = |error: io::Error| StartError::Port(format!("cannot bind {name} to {wanted}: {error}"));
        let probe = socket(wanted, false).map_err(fault)?;
        let address = probe.local_addr().map_err(fault)?.as_socket().unwrap_or(wanted);
        drop(probe);
        let sockets: io::Result<Vec<_>> = (0..workers).map(|_| socket(address, true).map(Into::into)).collect();
        Ok(Self { address, sockets: sockets.map_err(fault)? })
    }

    /// Shares a listener that was passed in.
    pub(super) fn shared(name: &str, listener: &StdListener, workers: usize) -> Result<Self, StartError> {
        let fault = |error: io::Error| StartError::Port(format!("cannot share the {name} listener passed in: {error}"));
        listener.set_nonblocking(true).map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        let sockets: io::Result<Vec<_>> = (0..workers).map(|_| listener.try_clone()).collect();
        Ok(Self { address, sockets: sockets.map_err(fault)? })
    }

    /// The socket of the next worker.
    pub(super) fn take(&mut self) -> Option<StdListener> {
        self.sockets.pop()
    }
}

fn resolve(name: &str, address: &str) -> Result<SocketAddr, StartError> {
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let fault = |why: String| {
        StartError::Config(format!("{name}.addr = {address:?}: {why}; expected host:port, [::1]:port or :port"))
    };
    let mut found = full.to_socket_addrs().map_err(|error| fault(error.to_string()))?;
    found.next().ok_or_else(|| fault("the host has no address".to_owned()))
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if reuse_port {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Caps of one port, shared by all workers.
#[derive(Debug, Clone)]
pub(super) struct Caps {
    /// Connections open now.
    pub(super) open: Arc<AtomicU64>,
    /// Connections refused since start.
    pub(super) rejected: Arc<AtomicU64>,
    /// Most connections.
    pub(super) max: u64,
    /// What a refused client is told, if its protocol has words for it.
    pub(super) refusal: &'static [u8],
}

impl Caps {
    /// Counts a connection, or refuses it.
    fn admit(&self, stream: &TcpStream) -> Option<Counted> {
        if self.open.fetch_add(1, Relaxed) < self.max {
            return Some(Counted(Arc::clone(&self.open)));
        }
        self.open.fetch_sub(1, Relaxed);
        self.rejected.fetch_add(1, Relaxed);
        // Best effort: the client is told if its socket takes the words at once.
        let _told = stream.try_write(self.refusal);
        None
    }
}

/// Counts a connection as long as it lives.
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Accepts until `stop` turns true, then waits for what runs. `serve` makes the task of one connection.
pub(super) async fn accept<F>(
    listener: TcpListener,
    caps: Caps,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    // Each connection holds a sender; the channel closes when the last has ended.
    let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let mut acceptor = Acceptor::new(listener);
    loop {
        let stream = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            stream = acceptor.next() => stream,
        };
        let Some(counted) = caps.admit(&stream) else { continue };
        prepare(&stream);
        let (task, alive) = (serve(stream), alive.clone());
        tokio::spawn(async move {
            task.await;
            drop((counted, alive));
        });
    }
    drop((alive, acceptor));
    // Nothing is ever sent: this ends when all connections have.
    let _closed = ended.recv().await;
}

fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // A connection on which these fail is already broken; its first read says so.
    let _nodelay = socket.set_tcp_nodelay(true);
    let _keepalive = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE));
}

/// Accepts, and stays calm when it cannot.
struct Acceptor {
    listener: TcpListener,
    backoff: Duration,
    /// Given up to accept and close one connection when the file table is full, so that its client is not left
    /// hanging.
    spare: Option<File>,
}

impl Acceptor {
    fn new(listener: TcpListener) -> Self {
        Self { listener, backoff: BACKOFF_MIN, spare: spare() }
    }

    async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.backoff = BACKOFF_MIN;
                    return stream;
                }
                Err(error) => self.recover(&error).await,
            }
        }
    }

    async fn recover(&mut self, error: &io::Error) {
        // The peer was gone before we came: nothing is wrong here.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        tracing::warn!(%error, backoff_ms = self.backoff.as_millis(), "cannot accept");
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

/// Raises the soft limit of open files to the hard one and returns it.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
