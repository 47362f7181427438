//! Serves one HTTP/2 connection with its limits, from the first byte to the last response. The listener sets
//! TCP_NODELAY and TCP keepalive.

use std::{pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Edge,
    credentials::Credentials,
    inbound::WINDOW_BYTES,
    preface,
    router::Router,
    tally::Tally,
    transport,
    turns::{Abort, Calls, Turns},
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
/// Maximum number of streams that a client resets before the server accepts them, in one read of the socket. A client
/// may cancel all its calls at once, several times; [`tally`](super::tally) stops clients that do nothing else (rapid
/// reset).
const PENDING_RESETS_MAX: usize = 4 * STREAMS_MAX as usize;
/// Maximum size of the headers of a request that HTTP/2 accepts. Larger headers get status 431; headers of four times
/// this size end the connection with all its calls. gRPC metadata has a lower limit
/// ([`METADATA_MAX_BYTES`](super::router::METADATA_MAX_BYTES)).
const HEADERS_MAX_BYTES: u32 = 64 * 1024;
/// Interval between HTTP/2 keepalive pings, which detect peers that disappeared without closing the connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Deadline for the response to an HTTP/2 keepalive ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum age of a connection. The server then sends GOAWAY, so that clients reconnect and spread over new nodes.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// Maximum random addition to [`AGE_MAX`], so that clients that connected together do not reconnect together.
const AGE_JITTER: Duration = Duration::from_secs(3 * 60);

/// Serves one connection until it ends. After `stop` turns true, finishes the running calls and closes the connection.
pub async fn serve(stream: Socket, edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
    let mut opening = pin!(timeout(PREFACE_TIMEOUT, preface::read(stream)));
    let opened = tokio::select! {
        opened = &mut opening => Some(opened),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let opened = match opened {
        Some(opened) => opened,
        // The client may have sent its first calls after the preface: the server answers them, or rejects them with a
        // GOAWAY.
        None => timeout(PREFACE_TIMEOUT_DRAINING, opening).await.unwrap_or_else(Err),
    };
    match opened {
        Ok(Ok(stream)) => run(stream, edge, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "closed a gRPC connection without a valid HTTP/2 preface"),
        Err(_elapsed) => tracing::debug!("closed a gRPC connection that sent no HTTP/2 preface in time"),
    }
}

async fn run(stream: Socket, edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
    let Ok(ends) = stream.ends() else { return };
    let edge = Arc::new(edge.for_connection());
    let tally = Arc::new(Tally::new(edge.cache.core().clock().clone()));
    let account = Arc::clone(edge.account());
    let credentials = Credentials::new(Arc::clone(&edge), ends);
    let router = Router { edge, credentials, stop: stop.clone(), tally: Arc::clone(&tally) };
    let (transport, writer) = transport::split(stream, Arc::clone(&account));
    let calls = Calls::default();
    let connection = Box::pin(builder(calls.clone()).serve_connection(TokioIo::new(transport), router));
    let mut turns = Turns::new(connection, calls, &writer, &tally, &account);
    let end = tokio::select! {
        ended = &mut turns => Some(ended),
        // Ends the connection also if the sender was dropped: no later stop signal could arrive.
        _ = stop.wait_for(|stop| *stop) => None,
        () = sleep(age()) => None,
    };
    let ended = match end {
        Some(ended) => ended,
        None => {
            turns.connection().graceful_shutdown();
            (&mut turns).await
        }
    };
    drop(turns);
    if matches!(ended, Err(Abort::Reset)) {
        // The budget has logged the reason. A client that does not read would not read the last frame either.
        return;
    }
    // Also after an error: the last frame reports the reason to the client.
    let socket = writer.finish().await;
    match ended {
        Ok(Ok(())) => {
            if let Some(socket) = socket {
                // The client may have sent calls before it read the last GOAWAY, which reports that they were not
                // started.
                socket.linger(LINGER).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "closed a gRPC connection after an error"),
        Err(_canceled) => tracing::warn!(
            canceled = tally.canceled(),
            answered = tally.answered(),
            "closed a gRPC connection that canceled most of its calls"
        ),
    }
}

fn builder(calls: Calls) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls);
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
        // gRPC clients do not read the Date header.
        .auto_date_header(false);
    builder
}

fn age() -> Duration {
    AGE_MAX + AGE_JITTER.mul_f64(fastrand::f64())
}
