//! Opens the L2 that the configuration names.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::StartError;
use crate::{
    cache::{Core, gate, resident::CoreStore},
    config::Config,
    l2::{
        Backend, Flavor, Tunables,
        none::NoneBackend,
        redis::{
            self, RedisBackend,
            tracking::{Link, LinkSettings},
            url::RedisUrl,
        },
    },
};

/// The L2 of a server: what each worker takes its backend from.
#[derive(Clone)]
pub(super) enum Tier {
    /// One backend for all workers.
    Shared(Arc<dyn Backend>),
    /// Connections of its own for each worker.
    Redis(Box<redis::Settings>, Arc<Tunables>),
}

/// Which implementation a URL names.
pub(super) fn flavor(url: &str) -> Result<Flavor, StartError> {
    match url {
        "none" => Ok(Flavor::None),
        "embedded" => Ok(Flavor::Embedded),
        other if other.starts_with("embedded:") => Ok(Flavor::Embedded),
        other => parse(other).map(|_| Flavor::Redis),
    }
}

fn parse(url: &str) -> Result<RedisUrl, StartError> {
    RedisUrl::parse(url).map_err(|error| StartError::Config(format!("l2.url: {error}")))
}

impl Tier {
    /// Opens it for `core`.
    pub(super) fn open(config: &Config, core: &Arc<Core>, tunables: &Arc<Tunables>) -> Result<Self, StartError> {
        match core.flavor() {
            Flavor::None => Ok(Self::Shared(NoneBackend::new(CoreStore::new(core)))),
            Flavor::Embedded => unimplemented!(),
            Flavor::Redis => {
                let mut settings = redis::Settings::new(parse(&config.l2.url)?);
                settings.connections = config.l2.connections;
                Ok(Self::Redis(Box::new(settings), Arc::clone(tunables)))
            }
        }
    }

    /// Starts the invalidation link where L1 needs one. It ends when it is dropped.
    pub(super) fn link(&self, background: &Runtime, core: &Arc<Core>) -> Option<Link> {
        let Self::Redis(settings, _) = self else { return None };
        let _inside = background.enter();
        let settings = LinkSettings {
            url: settings.url.clone(),
            client_name: format!("{}-invalidation", settings.client_name),
            prefixes: core.rules().l1_prefixes.clone(),
        };
        Some(Link::spawn(settings, core.clock().clone(), gate::sink(core)))
    }

    /// Ends what runs in the background and writes what is not written yet.
    pub(super) fn close(&self) {}

    /// The backend of one worker. Called inside the worker's runtime, because Redis connections live there.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Shared(backend) => Arc::clone(backend),
            Self::Redis(settings, tunables) => Arc::new(RedisBackend::start(settings, Arc::clone(tunables))),
        }
    }
}
