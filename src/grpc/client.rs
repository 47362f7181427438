//! The generated client stubs, and the connection of CLI subcommands to a server.

mod tls;

pub use crate::proto::{
    admin_client::AdminClient, cache_client::CacheClient, insight_client::InsightClient,
    invalidation_client::InvalidationClient,
};

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use self::tls::Connector;
use crate::secret::Secret;

/// Deadline of subcommands for a connection to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow-control window, equal to the server's, so that large responses arrive without waiting for window updates.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// Certificates that a client accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Certificates of the authorities that this machine trusts.
    Machine,
    /// Certificates of the authorities in a PEM file.
    Authorities(PathBuf),
    /// The first certificate of a PEM file, for any name.
    Certificate(PathBuf),
}

/// Options of a connection.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Accepted certificates; `None` = no TLS.
    pub tls: Option<Trust>,
    /// Token that each call carries.
    pub token: Option<Secret<String>>,
}

/// Reason why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is malformed, or the server does not respond.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// A file for TLS is faulty, or the address cannot have TLS.
    #[error("{0}")]
    Tls(String),
    /// The token could be read on its way.
    #[error("a token is sent only with --tls, to a loopback address or to a Unix socket")]
    ExposedToken,
    /// The token is not valid in a header.
    #[error("the token contains characters that a header cannot carry")]
    MalformedToken,
}

/// A connection whose calls carry the token, if any.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer TOKEN` to calls.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&Secret<String>>) -> Result<Self, ConnectError> {
        let Some(token) = token else { return Ok(Self(None)) };
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", token.expose()).parse().map_err(|_| ConnectError::MalformedToken)?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Connects to a server at `host:port`, `[::1]:port`, `:port` (this machine) or `unix:/path`.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(server: &str, options: &ClientOptions) -> Result<Connection, ConnectError> {
    if options.token.is_some() && options.tls.is_none() && !is_local(server) {
        return Err(ConnectError::ExposedToken);
    }
    let bearer = Bearer::new(options.token.as_ref())?;
    let endpoint = Endpoint::from_shared(uri(server))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let channel = match &options.tls {
        None => endpoint.connect().await?,
        Some(trust) => {
            if server.starts_with("unix:") {
                return Err(ConnectError::Tls("Unix sockets have no TLS; omit --tls".to_owned()));
            }
            let connector = Connector::new(trust, endpoint.uri()).map_err(ConnectError::Tls)?;
            let origin = with_tls(endpoint.uri());
            endpoint.origin(origin).connect_with_connector(connector).await?
        }
    };
    Ok(InterceptedService::new(channel, bearer))
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

/// Returns the URI with the scheme `https`.
fn with_tls(uri: &Uri) -> Uri {
    let authority = uri.authority().map_or("localhost", |authority| authority.as_str());
    format!("https://{authority}").parse().unwrap_or_else(|_| uri.clone())
}

/// Returns whether bytes to this server stay on this machine.
#[must_use]
pub fn is_local(server: &str) -> bool {
    if server.starts_with("unix:") || server.starts_with(':') {
        return true;
    }
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_the_server_prints_them() {
        assert_eq!(uri("127.0.0.1:7400"), "http://127.0.0.1:7400");
        assert_eq!(uri("[::1]:7400"), "http://[::1]:7400");
        assert_eq!(uri(":7400"), "http://127.0.0.1:7400");
        assert_eq!(uri("unix:/run/terrace"), "unix:/run/terrace");
        assert_eq!(with_tls(&Uri::from_static("http://[::1]:7400")), "https://[::1]:7400/");
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_local() {
        for local in ["127.0.0.1:7400", "127.9.9.9:1", "[::1]:7400", ":7400", "localhost:7400", "unix:/run/terrace"] {
            assert!(is_local(local), "{local}");
        }
        for remote in
            ["10.0.0.1:7400", "[2001:db8::1]:7400", "terrace:7400", "localhost.example:7400", "127.0.0.1.nip.io:1"]
        {
            assert!(!is_local(remote), "{remote}");
        }
    }
}
