//! Reads the HTTP/2 preface before hyper does, because hyper waits for the preface without a time limit.
//! [`transport`](super::transport) replays it to hyper.

use std::io;

use tokio::io::AsyncReadExt;

use crate::socket::{Socket, TLS_FIRST_BYTE};

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the preface and no further bytes.
///
/// # Errors
/// The client closed the connection, or the received bytes are not the HTTP/2 preface.
pub(super) async fn read(mut stream: Socket) -> io::Result<Socket> {
    let mut preface = [0; PREFACE.len()];
    let mut have = 0;
    while have < preface.len() {
        match stream.read(&mut preface[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
        if !PREFACE.starts_with(&preface[..have]) {
            if preface[0] == TLS_FIRST_BYTE {
                stream.warn_of_tls_client("grpc");
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the connection does not start with the HTTP/2 preface",
            ));
        }
    }
    Ok(stream)
}
