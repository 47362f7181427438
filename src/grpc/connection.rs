//! One HTTP/2 connection with its limits, from its first byte to its last answer. TCP_NODELAY and TCP's keepalive are
//! set by whoever accepts.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use hyper::{rt::Executor, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    task::coop::consume_budget,
    time::{sleep, timeout},
};

use super::{
    Edge,
    preface::{self, PrefaceReplay},
    router::Router,
};
use crate::socket::Socket;

/// Deadline for the HTTP/2 preface of a new connection. Silent connections are closed.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline for the HTTP/2 preface of a new connection during a drain.
const PREFACE_TIMEOUT_DRAINING: Duration = Duration::from_millis(500);
/// Time that a drained connection stays open for the client to read the last data.
const LINGER: Duration = Duration::from_secs(1);
/// Maximum number of concurrent calls on a connection. HTTP/2 refuses further streams (REFUSED_STREAM).
const STREAMS_MAX: u32 = 256;
/// Maximum number of streams that the server resets because of client errors before it closes the connection
/// (RUSTSEC-2024-0003).
const LOCAL_RESETS_MAX: usize = 1024;
/// Maximum number of streams that a client resets before the server accepts them (HTTP/2 rapid reset).
const PENDING_RESETS_MAX: usize = 20;
/// Maximum size of the headers of a request.
const HEADERS_MAX_BYTES: u32 = 8 * 1024;
/// Flow control. Not smaller and not adaptive: h2 counts small DATA frames against the connection's window and closes
/// connections that send many.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// Pings find peers that are gone without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Deadline for the response to an HTTP/2 keepalive ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum age of a connection. The server then sends GOAWAY, so that clients reconnect and spread over new nodes.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// Spread of the age, so that clients that came together do not go together.
const AGE_JITTER: Duration = Duration::from_secs(3 * 60);

/// Serves one connection until it ends; after `stop` turns true it finishes what runs and ends.
pub async fn serve(stream: Socket, edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
    let mut opening = pin!(timeout(PREFACE_TIMEOUT, preface::read(stream)));
    let opened = tokio::select! {
        opened = &mut opening => Some(opened),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let opened = match opened {
        Some(opened) => opened,
        // Its first calls may be on their way behind the preface: they are answered, or refused by a GOAWAY.
        None => timeout(PREFACE_TIMEOUT_DRAINING, opening).await.unwrap_or_else(Err),
    };
    match opened {
        Ok(Ok(stream)) => run(stream, edge, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a gRPC connection did not begin with HTTP/2"),
        Err(_elapsed) => tracing::debug!("a gRPC connection was silent for {PREFACE_TIMEOUT:?}"),
    }
}

async fn run(stream: Socket, edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
    let edge = Arc::new(edge.for_connection());
    let router = Router { edge, stop: stop.clone() };
    let (replay, returned) = PrefaceReplay::new(stream);
    let mut connection = Box::pin(builder().serve_connection(TokioIo::new(replay), router));
    let end = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        // Also when its sender is gone: then nobody could stop us later.
        _ = stop.wait_for(|stop| *stop) => None,
        () = sleep(age()) => None,
    };
    let ended = match end {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    drop(connection);
    match ended {
        Ok(()) => {
            if let Ok(socket) = returned.await {
                // It may have sent calls before it read our last GOAWAY, which says that they were not begun.
                socket.linger(LINGER).await;
            }
        }
        Err(error) => tracing::debug!(%error, "a gRPC connection broke off"),
    }
}

fn builder() -> http2::Builder<Inline> {
    let mut builder = http2::Builder::new(Inline);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_header_list_size(HEADERS_MAX_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .adaptive_window(false)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // No client of gRPC reads it.
        .auto_date_header(false);
    builder
}

fn age() -> Duration {
    AGE_MAX + AGE_JITTER.mul_f64(fastrand::f64())
}

/// Polls a call once where it arrives and spawns a task only for one that has to wait: most are answered from memory.
///
/// The first poll gets a waker that wakes nobody; the task polls again as it begins, which leaves the right one. Each
/// call uses up some of the connection's turn, so that a busy one does not keep its worker from the others.
#[derive(Debug, Clone, Copy)]
struct Inline;

impl<F: Future<Output = ()> + Send + Unpin + 'static> Executor<F> for Inline {
    fn execute(&self, mut call: F) {
        let mut context = Context::from_waker(Waker::noop());
        let has_turn = pin!(consume_budget()).poll(&mut context).is_ready();
        if !has_turn || Pin::new(&mut call).poll(&mut context).is_pending() {
            tokio::spawn(call);
        }
    }
}
