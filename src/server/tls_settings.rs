//! Applies the TLS settings of all ports, or of none.

use std::sync::Arc;

use super::StartError;
use crate::{
    config::Config,
    tls::{Endpoint, Endpoints, Prepared},
};

/// Checked TLS of all ports.
pub(super) struct Checked(Vec<(Arc<Endpoint>, Prepared)>);

/// Reads and checks the TLS files of all ports.
///
/// # Errors
/// The faulty file and the reason.
pub(super) fn prepare(config: &Config, endpoints: &Endpoints) -> Result<Checked, StartError> {
    let prepare = |endpoint: &Arc<Endpoint>| {
        let settings = config.tls_of(endpoint.port).map_err(|(_, message)| message)?;
        Ok((Arc::clone(endpoint), endpoint.prepare(settings)?))
    };
    let checked: Result<_, String> = endpoints.all().into_iter().map(prepare).collect();
    checked.map(Checked).map_err(StartError::Config)
}

impl Checked {
    /// Uses the settings for new connections.
    pub(super) fn install(self) {
        for (endpoint, prepared) in self.0 {
            endpoint.install(prepared);
        }
    }
}
