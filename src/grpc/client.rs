//! The generated client stubs, and the connection of CLI subcommands to a server.

pub use crate::proto::{
    admin_client::AdminClient, cache_client::CacheClient, insight_client::InsightClient,
    invalidation_client::InvalidationClient,
};

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Deadline of subcommands for a connection to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow-control window, equal to the server's, so that large responses arrive without waiting for window updates.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// Connects to a server at `host:port`, `[::1]:port`, `:port` (this machine) or `unix:/path`.
///
/// # Errors
/// The address is malformed, or the server does not respond.
pub async fn connect(server: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(uri(server))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    endpoint.connect().await
}

fn uri(server: &str) -> String {
    if server.starts_with("unix:") {
        server.to_owned()
    } else if server.starts_with(':') {
        format!("http://127.0.0.1{server}")
    } else {
        format!("http://{server}")
    }
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn addresses_as_the_server_prints_them() {
        assert_eq!(uri("127.0.0.1:7400"), "http://127.0.0.1:7400");
        assert_eq!(uri("[::1]:7400"), "http://[::1]:7400");
        assert_eq!(uri(":7400"), "http://127.0.0.1:7400");
        assert_eq!(uri("unix:/run/terrace"), "unix:/run/terrace");
    }
}
