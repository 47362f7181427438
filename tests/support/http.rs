//! A client of the HTTP port, and values of the metrics page.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
};

use super::PATIENCE;

/// Sends bytes and returns everything that the server sends until it closes the connection.
pub fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream.write_all(request).expect("the request is sent");
    let mut answer = Vec::new();
    // A refused request may end in a reset after the answer.
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and body of a GET.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let answer = exchange(address, format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

/// The samples of the metrics page, by name and labels.
pub fn samples(address: &str) -> HashMap<String, f64> {
    let (status, page) = get(address, "/metrics");
    assert_eq!(status, 200);
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').expect("a name and a value"))
        .map(|(name, value)| (name.into(), value.parse().expect("a number")))
        .collect()
}

/// The sample of the metrics page with this name and these labels.
pub fn metric(address: &str, name: &str) -> Option<f64> {
    samples(address).remove(name)
}
