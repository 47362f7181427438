//! Flags of the subcommands that connect to a running server.

use std::{fmt, path::PathBuf};

use super::{Failure, Result};
use crate::{
    config,
    grpc::client::{self, ClientOptions, ConnectError, Connection, Trust},
};

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
    /// Returns the options of a connection.
    ///
    /// # Errors
    /// The token cannot be read.
    pub(super) fn options(&self) -> Result<ClientOptions> {
        let tls = self.tls.then(|| self.tls_ca.clone().map_or(Trust::Machine, Trust::Authorities));
        let file = self.token_file.clone().or_else(config::token_file);
        let token = file.map(|path| config::read_token(&path)).transpose().map_err(Failure::new)?;
        Ok(ClientOptions { tls, token })
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// The root cause.
    pub(super) async fn connect(&self) -> Result<Connection> {
        self.connect_with(&self.options()?).await
    }

    /// Connects to the server with these options.
    pub(super) async fn connect_with(&self, options: &ClientOptions) -> Result<Connection> {
        client::connect(&self.address, options).await.map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ConnectError) -> Failure {
        let failure = super::unreachable(&self.address, error);
        match error {
            ConnectError::ExposedToken | ConnectError::Tls(_) => Failure::usage(failure),
            ConnectError::Transport(_) | ConnectError::MalformedToken => failure,
        }
    }
}
