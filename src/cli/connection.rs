//! Flags of the subcommands that connect to a running server.

use std::{fmt, path::PathBuf, time::Duration};

use terrace_client::{Channel, Client, ClientBuilder, Error, ErrorKind, Tls};

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
    pub(super) fn client(&self) -> ClientBuilder {
        let mut client = Client::builder(&self.address).connect_timeout(CONNECT_TIMEOUT);
        if self.tls {
            client = client.tls(self.tls_ca.as_ref().map_or_else(Tls::system, Tls::authorities));
        }
        match self.token_file.clone().or_else(config::token_file) {
            Some(path) => client.token_file(path),
            None => client,
        }
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// The root cause.
    pub(super) async fn connect(&self) -> Result<Channel> {
        connect(self.client()).await
    }
}

/// Connects to a server.
///
/// # Errors
/// The root cause, with the address of the server.
pub(super) async fn connect(client: ClientBuilder) -> Result<Channel> {
    client.channel().await.map_err(|error| failure(&error))
}

/// Returns the failure of a connection. A token that would be readable on its way is a wrong use of the flags.
pub(super) fn failure(error: &Error) -> Failure {
    let text = error.message().replace("only with TLS", "only with --tls");
    let failure = Failure::new(text);
    if error.kind() == ErrorKind::InvalidArgument { Failure::usage(failure) } else { failure }
}

/// Returns whether bytes to this server stay on this machine.
pub(super) fn is_local(server: &str) -> bool {
    server.parse().is_ok_and(|address: terrace_client::Address| address.is_local())
}
