//! Opens the configured L2.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::StartError;
use crate::{
    cache::{Core, coherence::fence, l1_store::CoreStore},
    config::{Config, Sync},
    l2::{
        Backend, Flavor, Tunables,
        embedded::{self, Embedded, EmbeddedSettings},
        none::NoneBackend,
        redis::{Following, LinkSettings, Redis, RedisSettings, TlsFiles, url::RedisUrl},
    },
};

/// The L2 of a server; each worker obtains its backend from it.
#[derive(Clone)]
pub(super) enum Tier {
    /// One backend for all workers.
    Shared(Arc<dyn Backend>),
    /// Connections of its own for each worker.
    Redis(Arc<Redis>),
}

/// Returns the L2 implementation that a URL selects.
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

/// Opens the embedded store: in DIR for `embedded:DIR`, otherwise in `store` under the data directory.
fn open_embedded(config: &Config, core: &Arc<Core>, tunables: &Arc<Tunables>) -> Result<Tier, StartError> {
    let dir = match config.l2.url.expose().strip_prefix("embedded:") {
        Some(dir) => dir.into(),
        None => config.data.dir.join("store"),
    };
    let sync = match config.data.sync {
        Sync::Interval => embedded::Sync::Interval(config.data.sync_interval),
        Sync::Always => embedded::Sync::Always,
    };
    let settings = EmbeddedSettings { dir, size_max_bytes: config.data.size, sync };
    let store = Embedded::open(settings, core.clock().clone(), Arc::clone(tunables), fence::sink(core));
    Ok(Tier::Shared(store.map_err(|error| StartError::Data(error.to_string()))?))
}

fn tls_files(config: &Config) -> Result<TlsFiles<'_>, StartError> {
    let identity = match (&config.l2.tls_cert_file, &config.l2.tls_key_file) {
        (Some(certificate), Some(key)) => Some((&**certificate, &**key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(StartError::Config(
                "only one of l2.tls_cert_file and l2.tls_key_file is set; expected both or neither".to_owned(),
            ));
        }
    };
    Ok(TlsFiles { authorities: config.l2.tls_ca_file.as_deref(), identity })
}

impl Tier {
    /// Opens the configured L2 for `core`.
    pub(super) fn open(config: &Config, core: &Arc<Core>, tunables: &Arc<Tunables>) -> Result<Self, StartError> {
        match core.flavor() {
            Flavor::None => Ok(Self::Shared(NoneBackend::new(CoreStore::new(core)))),
            Flavor::Embedded => open_embedded(config, core, tunables),
            Flavor::Redis => {
                let files = tls_files(config)?;
                let mut settings = RedisSettings::new(parse(config.l2.url.expose())?, files)
                    .and_then(|settings| settings.with_passwords(config.l2.password_files()))
                    .map_err(StartError::Config)?;
                settings.connections = config.l2.connections;
                settings.failures_max = config.l2.breaker_failures;
                Ok(Self::Redis(Redis::new(&settings, Arc::clone(tunables))))
            }
        }
    }

    /// Starts to follow the topology and the invalidations of Redis. Dropping the result stops it. Returns `None`
    /// unless L2 is Redis.
    pub(super) fn follow(&self, background: &Runtime, core: &Arc<Core>) -> Option<Following> {
        let Self::Redis(redis) = self else { return None };
        let _inside = background.enter();
        let settings = LinkSettings { prefixes: core.rules().l1_prefixes.clone() };
        Some(redis.follow(&settings, core.clock(), fence::sink(core)))
    }

    /// Returns the backend of one worker. Must be called inside the worker's runtime, which drives its Redis
    /// connections.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Shared(backend) => Arc::clone(backend),
            Self::Redis(redis) => Arc::new(redis.backend()),
        }
    }
}
