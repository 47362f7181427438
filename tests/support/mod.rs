//! Test support: Terrace on free ports, real Redis servers, clients of every port, fault injection, and waiting.
#![expect(dead_code, reason = "each test binary uses its own part of the support")]

pub mod backend;
pub mod certificates;
pub mod checker;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod grpc;
pub mod http;
pub mod image;
pub mod kv;
pub mod markdown;
pub mod node;
pub mod prefetch;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod resp;
pub mod sentinel;
pub mod terrace;

use std::time::Duration;

/// Longest wait for a condition. It is generous, because it only limits how long a failure takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds` returns true and checks every few milliseconds; fails the test after [`PATIENCE`].
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, holds);
}

/// Waits as [`eventually`] does, with a limit of its own, for conditions that several processes have to agree on.
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

/// Reads a number (rounds, seeds) from an environment variable.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration of their own")]
pub fn setting_from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
