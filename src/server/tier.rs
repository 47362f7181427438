//! Opens the L2 that the configuration names.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::StartError;
use crate::{
    cache::{Core, gate, resident::CoreStore},
    config::{Config, Sync},
    l2::{
        Backend, Flavor, Tunables,
        embedded::{self, Embedded},
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

/// `embedded:DIR` names another place than the data directory's `store`.
fn open_embedded(config: &Config, core: &Arc<Core>, tunables: &Arc<Tunables>) -> Result<Tier, StartError> {
    let dir = match config.l2.url.strip_prefix("embedded:") {
        Some(dir) => dir.into(),
        None => config.data.dir.join("store"),
    };
    let sync = match config.data.sync {
        Sync::Interval => embedded::Sync::Interval(config.data.sync_interval),
        Sync::Always => embedded::Sync::Always,
    };
    let settings = embedded::Settings { dir, size_max_bytes: config.data.size, sync };
    let store = Embedded::open(settings, core.clock().clone(), Arc::clone(tunables), gate::sink(core));
    Ok(Tier::Shared(store.map_err(|error| StartError::Data(error.to_string()))?))
}

impl Tier {
    /// Opens it for `core`.
    pub(super) fn open(config: &Config, core: &Arc<Core>, tunables: &Arc<Tunables>) -> Result<Self, StartError> {
        match core.flavor() {
            Flavor::None => Ok(Self::Shared(NoneBackend::new(CoreStore::new(core)))),
            Flavor::Embedded => open_embedded(config, core, tunables),
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

    /// The backend of one worker. Called inside the worker's runtime, because Redis connections live there.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Shared(backend) => Arc::clone(backend),
            Self::Redis(settings, tunables) => Arc::new(RedisBackend::start(settings, Arc::clone(tunables))),
        }
    }
}
