//! Owns listeners, workers, background jobs, and the drain.

use std::{future::Future, sync::Arc};

use crate::{clock::Clock, config::Config, node::Setting};

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is not to be had (exit code 69).
    #[error("{0}")]
    Port(String),
    /// The data directory is not to be had (exit code 69).
    #[error("{0}")]
    Data(String),
    /// The configuration names something that cannot be (exit code 64).
    #[error("{0}")]
    Config(String),
}

/// Reload: a new configuration and how it is shown.
pub type Reload = (Config, Vec<Setting>);

/// A server whose ports are bound.
pub struct Server {
    /// This process: addresses and such.
    pub node: Arc<crate::node::Node>,
}

impl Server {
    /// Binds ports and opens L2. `settings` is the configuration as it is shown.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind(_config: Config, _settings: Vec<Setting>, _clock: Clock) -> Result<Self, StartError> {
        Err(StartError::Config("not built".into()))
    }

    /// Serves until `stop` ends, then drains. `ready` is called as soon as all listeners accept; `reloads` brings new
    /// configurations.
    pub fn run(
        self,
        _ready: impl FnOnce(),
        _reloads: tokio::sync::mpsc::Receiver<Reload>,
        _stop: impl Future<Output = ()> + Send + 'static,
    ) {
    }
}
