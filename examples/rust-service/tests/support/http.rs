//! HTTP requests, each on a connection of its own.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Time from the request to the end of the response.
    pub(crate) duration: Duration,
}

/// Sends a request and reads the response.
pub(crate) async fn request(address: &str, method: &str, path: &str, body: &str) -> Answer {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("the service accepts");
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await.expect("the service reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the service answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, body: body.to_owned(), duration: begun.elapsed() }
}
