//! Connections of an HTTP port: which get a place, and how long one may take.
//!
//! A client must not be able to keep probes out. Beyond the limits a connection is *surplus*: it has one second to send a
//! head, gets an answer to a probe and 503 to anything else, and makes room for the next one when there are too many.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::AbortHandle,
    time::{Sleep, sleep, timeout},
};

use crate::{
    node::Node,
    socket::{Listener, PeerCounts, Socket, TLS_FIRST_BYTE},
    tls::{self, Endpoint},
};

/// Maximum number of HTTP connections with a place; further connections are surplus.
const CONNECTIONS_MAX: usize = 256;
/// Maximum number of HTTP connections with a place from one address; further connections of the address are surplus.
/// Unix sockets have no such limit.
const PEER_CONNECTIONS_MAX: u64 = 32;
/// Maximum number of surplus connections; a further connection closes the oldest one.
const SURPLUS_MAX: usize = 32;
/// Maximum size of a request head.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Maximum number of header lines of a request.
const HEADERS_MAX: usize = 64;
/// Deadline for a complete request head. The deadline also limits idle keep-alive connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for a complete request head on a surplus connection.
const SURPLUS_HEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time in which the client reads no byte of a response; the connection is then closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum lifetime of a surplus connection.
const SURPLUS_TIMEOUT: Duration = Duration::from_secs(2);
/// First pause after a failed accept; each further failure doubles it. Without pauses, a full file table keeps one core
/// busy.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Maximum pause after a failed accept.
const BACKOFF_MAX: Duration = Duration::from_millis(1000);

/// What a port serves.
pub(super) struct Served {
    /// Routes of connections with a place.
    pub(super) all: Router,
    /// Routes of surplus connections.
    pub(super) surplus: Router,
    /// TLS of the port; `None` for a port that never has TLS.
    pub(super) tls: Option<Arc<Endpoint>>,
}

/// Performs the handshake of a connection if the port has TLS. Returns `None` if it fails.
async fn secured(stream: Socket, tls: Option<Arc<Endpoint>>) -> Option<Socket> {
    let Some(endpoint) = tls else { return Some(stream) };
    match (endpoint.config(), stream) {
        (Some(config), Socket::Tcp(stream)) => tls::handshake(&endpoint, config, stream, std::future::pending()).await,
        (_, stream) => Some(stream),
    }
}

/// Accepts connections until the future is dropped.
pub(super) async fn accept(listener: Listener, served: Served, node: Arc<Node>) {
    let (places, mut surplus, mut backoff) = (Arc::new(Places::default()), VecDeque::new(), BACKOFF_MIN);
    loop {
        match listener.accept().await {
            Ok(stream) => {
                backoff = BACKOFF_MIN;
                let peer = stream.peer_ip();
                match Places::take(&places, peer) {
                    Some(place) => {
                        let stream = secured(stream, served.tls.clone());
                        drop(tokio::spawn(serve(stream, served.all.clone(), Arc::clone(&node), place)));
                    }
                    None => {
                        let stream = secured(stream, served.tls.clone());
                        let task = tokio::spawn(serve_surplus(stream, served.surplus.clone(), Arc::clone(&node)));
                        make_room(&mut surplus, &node);
                        surplus.push_back(task.abort_handle());
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, backoff_ms = backoff.as_millis(), "cannot accept on the HTTP port");
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Closes the oldest surplus connection if there are as many as permitted. The newest one is served in any case: a probe
/// sends its head at once, and a client that only occupies connections does not.
fn make_room(surplus: &mut VecDeque<AbortHandle>, node: &Node) {
    surplus.retain(|task| !task.is_finished());
    if surplus.len() >= SURPLUS_MAX
        && let Some(oldest) = surplus.pop_front()
    {
        oldest.abort();
        node.connections.rejected.fetch_add(1, Relaxed);
    }
}

/// Places in use.
#[derive(Default)]
struct Places(Mutex<InUse>);

#[derive(Default)]
struct InUse {
    total: usize,
    /// By address; at most one entry for each place.
    peers: PeerCounts,
}

/// A place, until it is dropped.
struct Place {
    places: Arc<Places>,
    peer: Option<IpAddr>,
}

impl Places {
    /// Takes a place for a connection from `peer`, which is `None` for a Unix socket.
    fn take(places: &Arc<Self>, peer: Option<IpAddr>) -> Option<Place> {
        let mut in_use = places.0.lock();
        if in_use.total >= CONNECTIONS_MAX {
            return None;
        }
        if peer.is_some_and(|peer| !in_use.peers.add(peer, PEER_CONNECTIONS_MAX)) {
            return None;
        }
        in_use.total += 1;
        drop(in_use);
        Some(Place { places: Arc::clone(places), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut in_use = self.places.0.lock();
        in_use.total -= 1;
        if let Some(peer) = self.peer {
            in_use.peers.remove(peer);
        }
    }
}

/// Serves a connection with a place, for a limited time.
async fn serve(stream: impl Future<Output = Option<Socket>>, router: Router, node: Arc<Node>, place: Place) {
    let counted = Counted::new(node);
    let Some(stream) = stream.await else { return };
    let Ok(ends) = stream.ends() else { return };
    // The checks of a request depend on its connection.
    let router = router.layer(Extension(Arc::new(ends)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Paced::new(stream)), TowerToHyperService::new(router));
    // Clients may close, time out or send malformed requests; no result requires an action.
    let _ended = timeout(CONNECTION_TIMEOUT, served).await;
    drop((counted, place));
}

/// Serves one request of a surplus connection.
async fn serve_surplus(stream: impl Future<Output = Option<Socket>>, router: Router, node: Arc<Node>) {
    let counted = Counted::new(node);
    let served = async {
        let Some(stream) = stream.await else { return };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SURPLUS_HEAD_TIMEOUT)
            .keep_alive(false)
            .max_buf_size(HEAD_MAX_BYTES)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let _ended = served.await;
    };
    let _ended = timeout(SURPLUS_TIMEOUT, served).await;
    drop(counted);
}

/// Counts an open connection until it is dropped.
struct Counted(Arc<Node>);

impl Counted {
    fn new(node: Arc<Node>) -> Self {
        node.connections.http.fetch_add(1, Relaxed);
        Self(node)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.http.fetch_sub(1, Relaxed);
    }
}

/// A connection that fails when the client reads nothing for [`WRITE_TIMEOUT`].
struct Paced {
    socket: Socket,
    /// Deadline of the write that waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// No byte was received yet.
    is_new: bool,
}

impl Paced {
    fn new(socket: Socket) -> Self {
        Self { socket, stalled: None, is_new: true }
    }

    /// Returns the result of a write, or an error if writes have waited for too long.
    fn paced(&mut self, task: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(deadline.as_mut().poll(task));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Paced {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let (before, read) = (buffer.filled().len(), Pin::new(&mut paced.socket).poll_read(task, buffer));
        if paced.is_new
            && let Some(first) = buffer.filled().get(before)
        {
            paced.is_new = false;
            // The HTTP parser answers with status 400 and ends the connection.
            if *first == TLS_FIRST_BYTE {
                paced.socket.warn_of_tls_client("http");
            }
        }
        read
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.socket).poll_write(task, bytes);
        paced.paced(task, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.socket).poll_write_vectored(task, slices);
        paced.paced(task, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(task)
    }
}
