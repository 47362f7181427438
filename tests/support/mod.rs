//! What tests start and ask: Terrace on port 0, a real redis-server, conditions to wait for.
#![expect(dead_code, reason = "each test binary uses its own part of the support")]

pub mod checker;
pub mod cluster;
pub mod grpc;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod sentinel;
pub mod terrace;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Longest wait for a condition; generous, because it only bounds a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds`, looking every few milliseconds; fails the test after [`PATIENCE`].
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, holds);
}

/// As [`eventually`], for what takes its time: others have to agree on it.
pub fn eventually_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < patience {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not come true within {patience:?}");
}

/// A number that the environment may set: rounds, seeds.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration of their own")]
pub fn setting_from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A value on the page of metrics of a server whose HTTP port is `http`: name and labels as they stand there.
pub fn metric(http: &str, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(http).expect("it accepts");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("text");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok())
}
