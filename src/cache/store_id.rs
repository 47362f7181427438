//! The store id: a random number that all nodes over the same L2 have in common. Clients compare it before they spread
//! their keys over nodes.
//!
//! Over Redis, the id is the record `__terrace:store`, without an expiry. The first node creates it; if it is lost, a node
//! that knows it creates it again with the same id. The embedded store keeps its id in its directory. Without L2, each run
//! of a server has its own. A failover keeps the id, unlike the epoch of load leases.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::{Batch, Cache, Core, SetExpiry, op::Condition};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{
        Applied, Flavor, Op,
        codec::{hex_of, number_in_hex},
    },
    model::{Key, Value},
};

/// Name of the record, after the reserved prefix.
pub(in crate::cache) const RECORD: &[u8] = b"store";

/// What this node knows about the store id.
#[derive(Debug)]
pub(crate) struct StoreId {
    /// 0 while the id is unknown.
    id: AtomicU64,
    doubtful: Notify,
}

impl StoreId {
    pub(crate) fn new(flavor: Flavor) -> Self {
        let id = match flavor {
            Flavor::Redis | Flavor::Embedded => 0,
            Flavor::None => fastrand::u64(1..),
        };
        Self { id: AtomicU64::new(id), doubtful: Notify::new() }
    }

    /// Notes that the record may have changed.
    pub(in crate::cache) fn doubt(&self) {
        self.doubtful.notify_one();
    }

    fn get(&self) -> Option<u64> {
        Some(self.id.load(Ordering::Acquire)).filter(|id| *id != 0)
    }

    pub(super) fn set(&self, id: u64) {
        self.id.store(id, Ordering::Release);
    }
}

impl Core {
    /// Returns the store id as clients receive it; `None` while it is unknown.
    #[must_use]
    pub fn store_id(&self) -> Option<String> {
        self.store_id.get().map(hex_of)
    }

    /// Waits until the record of the store id may have changed.
    pub async fn store_id_doubtful(&self) {
        self.store_id.doubtful.notified().await;
    }
}

impl Cache {
    /// Reads the store id, and creates its record if there is none.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn keep_store_id(&self) -> Result<()> {
        let known = self.core.store_id.get();
        let id = match (self.core.flavor, self.l2.store_id()) {
            (Flavor::None, _) => return Ok(()),
            (_, Some(id)) => id,
            (_, None) => self.recorded_store_id(known).await?,
        };
        if known != Some(id) {
            self.core.store_id.set(id);
            tracing::debug!(id = hex_of(id), "read the store id");
        }
        Ok(())
    }

    /// Reads the record and creates it if it is absent, in one command.
    async fn recorded_store_id(&self, known: Option<u64>) -> Result<u64> {
        // The id need not be secret. Two stores have different ids in practice.
        let id = known.unwrap_or_else(|| fastrand::u64(1..));
        let old = match self.write_store_id(id, Condition::IfAbsent).await {
            Ok((true, _)) => return Ok(id),
            Ok((false, old)) => old,
            // Redis accepts no writes now, but may have the record.
            Err(error) if matches!(error.kind(), Kind::OutOfMemory | Kind::NoAccess) => {
                let stored = self.l2.get(&[Key::own(&[RECORD])], false).await.pop().unwrap_or(Ok(None))?;
                return stored.and_then(|stored| id_in(&stored.value)).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        if let Some(id) = old.and_then(|old| id_in(&old)) {
            return Ok(id);
        }
        // Another client overwrote the record with a value that is not an id.
        self.write_store_id(id, Condition::Always).await?;
        Ok(id)
    }

    /// Writes the record. Returns whether it was written, and the previous value.
    async fn write_store_id(&self, id: u64, condition: Condition) -> Result<(bool, Option<Value>)> {
        let value = hex_of(id).into();
        let op = Op::Set { value, expiry: SetExpiry::Never, condition, want_old: true };
        match self.l2.apply(vec![(Key::own(&[RECORD]), op)], Batch::Independent).await.pop() {
            Some(Ok(Applied::Set { stored, old })) => Ok((stored, old)),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => {
                Err(CacheError::new(Kind::Internal, "L2 answered the write of the store id with another result"))
            }
        }
    }
}

fn id_in(record: &[u8]) -> Option<u64> {
    number_in_hex(record).filter(|id| *id != 0)
}
