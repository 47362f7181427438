//! The handshake of a new connection, and answers to clients without TLS.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{certificate, endpoint::Endpoint};
use crate::{
    clock::Clock,
    socket::{Protocol, Socket, TLS_FIRST_BYTE, TlsStream},
};

/// Deadline of a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of a TLS handshake during a drain.
const HANDSHAKE_TIMEOUT_DRAINING: Duration = Duration::from_millis(500);
/// Time in which a rejected client can read the reason.
const LINGER: Duration = Duration::from_millis(500);

/// HTTP/2 SETTINGS without values, then GOAWAY with INADEQUATE_SECURITY and a text.
const PLAINTEXT_GRPC: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x1e\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port requires TLS";
const PLAINTEXT_RESP: &[u8] = b"-ERR this port requires TLS; connect with TLS (redis-cli --tls)\r\n";
const PLAINTEXT_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 44\r\n\
                                Connection: close\r\n\r\nthis port requires TLS; use an https:// URL\n";

/// Reason why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the client closed the connection before it sent anything")]
    Silent,
    #[error("the client does not speak TLS")]
    Plaintext,
    #[error("no complete handshake in time")]
    Timeout,
    #[error("the certificate of the client has expired")]
    Expired,
    #[error("the certificate of the client cannot be read: {0}")]
    Certificate(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Performs the handshake of a connection to `endpoint`. Returns `None` after a failure, which is counted and logged.
/// `draining` completes when the server drains.
pub async fn handshake(
    endpoint: &Endpoint,
    config: Arc<ServerConfig>,
    stream: TcpStream,
    draining: impl Future<Output = ()>,
) -> Option<Socket> {
    let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
    let port = endpoint.port.name();
    let mut negotiation = pin!(timeout(HANDSHAKE_TIMEOUT, negotiate(endpoint.port, config, stream)));
    let negotiated = tokio::select! {
        negotiated = &mut negotiation => negotiated,
        () = draining => timeout(HANDSHAKE_TIMEOUT_DRAINING, negotiation).await.unwrap_or_else(Err),
    };
    let failure = match negotiated {
        Ok(Ok(socket)) => return Some(socket),
        Ok(Err(failure)) => failure,
        Err(_elapsed) => Failure::Timeout,
    };
    if !matches!(failure, Failure::Silent) {
        endpoint.failed_handshakes.fetch_add(1, Relaxed);
    }
    if matches!(failure, Failure::Plaintext) {
        tracing::warn!(port, peer, "closed a connection without TLS on a port that requires TLS");
    } else {
        tracing::debug!(port, peer, error = %failure, "TLS handshake failed");
    }
    None
}

async fn negotiate(port: Protocol, config: Arc<ServerConfig>, stream: TcpStream) -> Result<Socket, Failure> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(Failure::Silent);
    }
    if first[0] != TLS_FIRST_BYTE {
        refuse(stream, answer(port, first[0])).await;
        return Err(Failure::Plaintext);
    }
    let stream = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            // The client may have sent requests already. A reset would remove the alert that explains the failure.
            refuse(stream, b"").await;
            return Err(error.into());
        }
    };
    let (stream, session) = stream.into_inner();
    let certificate = session.peer_certificates().and_then(<[_]>::first).map(certificate::read).transpose();
    let certificate = certificate.map_err(Failure::Certificate)?.map(Arc::new);
    // A resumed session restores a certificate that was valid when it was verified.
    let now = Clock::real().unix().0 / 1000;
    if certificate.as_ref().is_some_and(|certificate| certificate.not_after < now) {
        return Err(Failure::Expired);
    }
    Ok(Socket::Tls(Box::new(TlsStream::new(stream, session, certificate))))
}

/// Returns the answer to a client without TLS.
fn answer(port: Protocol, first: u8) -> &'static [u8] {
    match port {
        // Only a client that starts with the HTTP/2 preface understands the answer.
        Protocol::Grpc if first == b'P' => PLAINTEXT_GRPC,
        Protocol::Grpc => b"",
        Protocol::Resp => PLAINTEXT_RESP,
        Protocol::Http => PLAINTEXT_HTTP,
    }
}

/// Sends the last bytes of a connection and waits until the client has read them.
async fn refuse(mut stream: TcpStream, answer: &[u8]) {
    // The connection ends in any case.
    let _sent = stream.write_all(answer).await;
    let _shut_down = stream.shutdown().await;
    Socket::Tcp(stream).linger(LINGER).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_the_answers_are_right() {
        let (head, body) =
            PLAINTEXT_HTTP.split_at(PLAINTEXT_HTTP.windows(4).position(|four| four == b"\r\n\r\n").unwrap());
        assert!(String::from_utf8_lossy(head).contains(&format!("Content-Length: {}", body.len() - 4)));
        let goaway = &PLAINTEXT_GRPC[9..];
        assert_eq!(goaway.len() - 9, usize::from(goaway[2]));
    }
}
