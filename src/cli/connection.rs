//! Flags of the subcommands that connect to a running server.

use std::{fmt, path::PathBuf, time::Duration};

use terrace_client::{Channel, Client, ClientBuilder, ErrorKind, Tls};

use super::{Failure, Result};
use crate::config;

/// Deadline of subcommands for a connection to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Address of a server, TLS and token.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServerArgs {
    /// gRPC address of the server.
    #[arg(long = "server", value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub(super) address: String,
    /// Connect with TLS.
    #[arg(long)]
    pub(super) tls: bool,
    /// PEM file of the certificate authorities that verify the server's certificate [default: those of the system].
    #[arg(long, value_name = "PATH", requires = "tls")]
    pub(super) tls_ca: Option<PathBuf>,
    /// File whose first line is the token of the calls; requires --tls unless the server is local [env: TERRACE_TOKEN_FILE].
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
}

impl fmt::Display for ServerArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl ServerArgs {
    /// Returns a client that is not connected yet.
    ///
    /// # Errors
    /// The token cannot be read, or would be readable on its way.
    pub(super) fn client(&self) -> Result<ClientBuilder> {
        let mut client = Client::builder(&self.address).connect_timeout(CONNECT_TIMEOUT);
        if self.tls {
            client = client.tls(self.tls_ca.as_ref().map_or_else(Tls::system, Tls::authorities));
        }
        let file = self.token_file.clone().or_else(config::token_file);
        if let Some(path) = file {
            if !self.tls && !is_local(&self.address) {
                let text = "a token is sent only with --tls, to a loopback address or to a Unix socket";
                return Err(Failure::usage(Failure::new(format_args!("cannot connect to {self}: {text}"))));
            }
            client = client.token(config::read_token(&path).map_err(Failure::new)?.expose());
        }
        Ok(client)
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// The root cause.
    pub(super) async fn connect(&self) -> Result<Channel> {
        connect(self.client()?).await
    }
}

/// Connects to a server.
///
/// # Errors
/// The root cause, with the address of the server.
pub(super) async fn connect(client: ClientBuilder) -> Result<Channel> {
    client.channel().await.map_err(|error| {
        let failure = Failure::new(&error);
        if error.kind() == ErrorKind::InvalidArgument { Failure::usage(failure) } else { failure }
    })
}

/// Returns whether bytes to this server stay on this machine.
pub(super) fn is_local(server: &str) -> bool {
    server.parse().is_ok_and(|address: terrace_client::Address| address.is_local())
}
