//! [`Redis`]: the state of one Redis that all workers of the process share: topology, ban log, settings.

use std::sync::Arc;

use super::{
    bans::state::BanLog,
    connection::connect::Dialer,
    requests::group::GroupSettings,
    settings::RedisSettings,
    topology::map::Topology,
    url::{RedisUrl, Target},
};
use crate::l2::Tunables;

/// One Redis, a single server or many: the state that all workers of the process share.
#[derive(Debug)]
pub struct Redis {
    url: RedisUrl,
    pub(super) group: GroupSettings,
    topology: Arc<Topology>,
    log: Arc<BanLog>,
    pub(super) tunables: Arc<Tunables>,
}

impl Redis {
    /// Creates the shared state without connecting.
    #[must_use]
    pub fn new(settings: &RedisSettings, tunables: Arc<Tunables>) -> Arc<Self> {
        let RedisSettings { url, tls, login, sentinel_login, connections, client_name, queue_limit, failures_max } =
            settings.clone();
        let topology = match url.target() {
            Target::Server(endpoint) => Topology::fixed(endpoint.clone()),
            Target::Sentinel { .. } | Target::Cluster(_) => Topology::unknown(),
        };
        let primary_only = !matches!(url.target(), Target::Server(_));
        let database = url.database();
        let dialer = Arc::new(Dialer { login, sentinel_login, database, tls, client_name, primary_only });
        let group = GroupSettings { dialer, connections, queue_limit, failures_max };
        Arc::new(Self { url, group, topology: Arc::new(topology), log: Arc::default(), tunables })
    }

    pub(super) fn url(&self) -> &RedisUrl {
        &self.url
    }

    pub(super) fn dialer(&self) -> &Arc<Dialer> {
        &self.group.dialer
    }

    pub(super) fn log(&self) -> &Arc<BanLog> {
        &self.log
    }

    pub(super) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }
}
