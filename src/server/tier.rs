//! Opens the L2 that the configuration names.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::StartError;
use crate::{
    cache::{Core, resident::CoreStore},
    config::Config,
    l2::{Backend, Flavor, Tunables, none::NoneBackend},
};

/// The L2 of a server: what each worker takes its backend from.
#[derive(Clone)]
pub(super) enum Tier {
    /// One backend for all workers.
    Shared(Arc<dyn Backend>),
}

/// Which implementation a URL names.
pub(super) fn flavor(url: &str) -> Result<Flavor, StartError> {
    match url {
        "none" => Ok(Flavor::None),
        other => Err(StartError::Config(format!("l2.url = {other:?} names no L2"))),
    }
}

impl Tier {
    /// Opens it for `core`.
    pub(super) fn open(config: &Config, core: &Arc<Core>, _tunables: &Arc<Tunables>) -> Result<Self, StartError> {
        match flavor(&config.l2.url)? {
            Flavor::None => Ok(Self::Shared(NoneBackend::new(CoreStore::new(core)))),
            Flavor::Redis | Flavor::Embedded => unimplemented!(),
        }
    }

    /// Starts what runs in the background.
    pub(super) fn start(&mut self, _background: &Runtime, _core: &Arc<Core>) {}

    /// Ends what runs in the background and writes what is not written yet.
    pub(super) fn close(&self) {}

    /// The backend of one worker. Called inside the worker's runtime, because Redis connections live there.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Shared(backend) => Arc::clone(backend),
        }
    }
}
