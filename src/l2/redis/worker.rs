//! [`RedisBackend`]: one worker's connections to all primaries.

use std::{collections::HashMap, sync::Arc};

use ::redis::Value as Reply;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    client::Redis,
    command::{
        batch::{Commands, Replies},
        errors,
    },
    connection::passthrough::RawPool,
    requests::{group::ConnectionGroup, pipelined_connection::Access},
    topology::map::{Map, Primary},
    url::Target,
};
use crate::{
    error::Result,
    l2::{Source, Tunables},
};

impl Redis {
    /// Creates the connections of one worker. They run on the runtime that uses them first, which must be the worker's
    /// own runtime. Calls fail with `Unavailable` until the first connection is open.
    #[must_use]
    pub fn backend(self: &Arc<Self>) -> RedisBackend {
        let raw_pool = RawPool::new(Arc::clone(self.dialer()), Arc::clone(self.topology()));
        let backend = RedisBackend {
            redis: Arc::clone(self),
            groups: Mutex::default(),
            raw_pool,
            sweep_until: Mutex::default(),
            own_counts: Mutex::default(),
        };
        backend.connect();
        backend
    }
}

/// The connections of one worker to Redis.
#[derive(Debug)]
pub struct RedisBackend {
    pub(super) redis: Arc<Redis>,
    pub(super) groups: Mutex<Groups>,
    pub(super) raw_pool: Arc<RawPool>,
    /// Deadline of sweep pages on each primary, by its own clock, in microseconds.
    pub(super) sweep_until: Mutex<HashMap<Source, u64>>,
    /// Recent counts of Terrace's own records on primaries where nearly all keys are such records.
    pub(super) own_counts: Mutex<HashMap<Source, OwnCount>>,
}

/// A count of Terrace's own records on one primary.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnCount {
    pub(super) at: Instant,
    pub(super) own: u64,
}

/// Connections by primary, for one version of the map.
#[derive(Debug, Default)]
pub(super) struct Groups {
    version: u64,
    pub(super) of: Vec<Arc<ConnectionGroup>>,
}

impl RedisBackend {
    /// Starts connecting to all known primaries, so that the first call does not have to wait for a connection.
    pub(super) fn connect(&self) {
        let primaries = self.redis.topology().map().primaries.clone();
        for primary in primaries {
            self.group(|_| Some(Arc::clone(&primary)));
        }
    }

    /// Returns the connections to the primary that `find` selects from the current map.
    pub(super) fn group(&self, find: impl FnOnce(&Map) -> Option<Arc<Primary>>) -> Option<Arc<ConnectionGroup>> {
        let map = self.redis.topology().map();
        let primary = find(&map)?;
        let mut groups = self.groups.lock();
        if groups.version != map.version {
            groups.version = map.version;
            groups.of.retain(|group| map.primaries.iter().any(|primary| Arc::ptr_eq(primary, &group.primary)));
        }
        if let Some(known) = groups.of.iter().find(|group| Arc::ptr_eq(&group.primary, &primary)) {
            return Some(Arc::clone(known));
        }
        let redis = &*self.redis;
        let group =
            Arc::new(ConnectionGroup::start(&primary, &redis.group, redis.topology(), redis.log(), &redis.tunables));
        groups.of.push(Arc::clone(&group));
        Some(group)
    }

    /// Returns the connections to the only primary; `None` in a cluster.
    pub(super) fn only(&self) -> Option<Arc<ConnectionGroup>> {
        self.group(|map| map.only().cloned())
    }

    /// Returns true if keys are distributed over several primaries (a cluster), also before the topology is known.
    pub(super) fn is_spread(&self) -> bool {
        matches!(self.redis.url().target(), Target::Cluster(_))
    }

    pub(super) fn tunables(&self) -> &Tunables {
        &self.redis.tunables
    }

    /// Sends commands to the only primary.
    pub(super) async fn ask(&self, commands: Commands, access: Access, deadline: Instant) -> Result<Replies> {
        let count = commands.len();
        let group = self.only().ok_or_else(|| self.no_primary())?;
        let replies = group.ask(commands, access, deadline).await?;
        self.note_refusals(&replies);
        if replies.len() == count { Ok(replies) } else { Err(errors::unexpected("a pipeline")) }
    }

    /// Requests a topology refresh if a reply shows that the primary was demoted.
    fn note_refusals(&self, replies: &[Reply]) {
        let is_demoted = |reply: &Reply| matches!(reply, Reply::ServerError(error) if matches!(error.code(), "READONLY" | "MASTERDOWN" | "CLUSTERDOWN"));
        if replies.iter().any(is_demoted) {
            self.redis.topology().ask();
        }
    }

    /// Returns the connections to all primaries in the order of their sources; an error if no primary is known.
    pub(super) fn all_groups(&self) -> Result<Vec<Arc<ConnectionGroup>>> {
        let mut primaries = self.redis.topology().map().primaries.clone();
        primaries.sort_unstable_by_key(|primary| primary.source);
        let groups: Vec<_> = primaries.into_iter().filter_map(|primary| self.group(|_| Some(primary))).collect();
        if groups.is_empty() { Err(self.no_primary()) } else { Ok(groups) }
    }
}
