//! Test support: processes of the service, HTTP requests, and the cache server of the tests of Terrace.

pub(crate) mod http;
pub(crate) mod service;
#[path = "../../../../tests/support/terrace.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the tests of the server")]
pub(crate) mod terrace;

use std::time::Duration;

/// Longest wait for a condition. It is generous, because it only limits how long a failure takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Longest duration of a test.
const LONGEST: Duration = Duration::from_secs(180);

/// Runs a test; fails it when it does not end in time.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LONGEST, test).await }).expect("the test ends in time")
}

/// Returns whether the tests take longer to cover more.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration of their own")]
pub(crate) fn is_full_check() -> bool {
    std::env::var("TERRACE_CHECK_FULL").is_ok_and(|value| value == "1")
}
