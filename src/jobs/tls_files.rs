//! Reloads changed TLS files ([`Endpoints::reload_changed`]).

use std::time::Duration;

use crate::tls::Endpoints;

/// Interval between checks of the TLS files for changes.
const PERIOD: Duration = Duration::from_secs(2);

/// Checks until the future is dropped.
pub async fn run(endpoints: Endpoints) {
    let mut ticks = super::ticks(PERIOD);
    loop {
        ticks.tick().await;
        if endpoints.is_any_on() {
            let endpoints = endpoints.clone();
            // A file of a dead network share blocks its reader. An error means that the runtime is shutting down.
            let _reloaded = tokio::task::spawn_blocking(move || endpoints.reload_changed()).await;
        }
    }
}
