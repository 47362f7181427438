//! [`OpenLeases`]: the leases that a connection holds. When the connection is lost, other clients may load the keys at
//! once.

use std::sync::{Arc, Weak, atomic::AtomicUsize};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::{
    cache::Core,
    clock::Tick,
    l2::{
        Backend,
        loads::{End, EndLoad, Holder, LoadOp},
    },
    model::Key,
};

/// Maximum size in bytes of the leases of one connection that end with the connection: their keys, and [`LEASE_BYTES`]
/// for each. Further leases end with their time.
const LEASES_MAX_BYTES: usize = 1 << 20;
/// Size of a lease without its key.
const LEASE_BYTES: usize = 128;

/// The leases of one connection, and the number of its callers that wait for other loads.
pub(crate) struct OpenLeases {
    core: Weak<Core>,
    l2: Arc<dyn Backend>,
    leases: Mutex<Leases>,
    pub(super) waiting: AtomicUsize,
}

#[derive(Default)]
struct Leases {
    of: HashMap<Key, Lease>,
    bytes: usize,
}

impl Leases {
    fn retain(&mut self, stays: impl Fn(&Lease) -> bool) {
        self.of.retain(|_, lease| stays(lease));
        self.bytes = self.of.keys().map(|key| LEASE_BYTES + key.len()).sum();
    }
}

#[derive(Clone, Copy)]
struct Lease {
    holder: Holder,
    until: Tick,
}

impl OpenLeases {
    pub(crate) fn new(core: &Arc<Core>, l2: &Arc<dyn Backend>) -> Arc<Self> {
        let (core, l2) = (Arc::downgrade(core), Arc::clone(l2));
        Arc::new(Self { core, l2, leases: Mutex::default(), waiting: AtomicUsize::new(0) })
    }

    /// Adds a lease.
    pub(super) fn add(&self, key: &Key, holder: Holder, until: Tick, now: Tick) {
        let mut leases = self.leases.lock();
        let bytes = LEASE_BYTES + key.len();
        // A copy, because the key may share the buffer of a larger request.
        let own = Key::copied(key).unwrap_or_else(|_| key.clone());
        if leases.bytes + bytes > LEASES_MAX_BYTES {
            leases.retain(|lease| now < lease.until);
        }
        if leases.bytes + bytes <= LEASES_MAX_BYTES && leases.of.insert(own, Lease { holder, until }).is_none() {
            leases.bytes += bytes;
        }
    }

    /// Removes a lease that was filled or released.
    pub(super) fn remove(&self, key: &[u8], holder: &Holder) {
        let mut leases = self.leases.lock();
        if leases.of.get(key).is_some_and(|lease| lease.holder == *holder) {
            leases.of.remove(key);
            leases.bytes -= LEASE_BYTES + key.len();
        }
    }
}

impl Drop for OpenLeases {
    fn drop(&mut self) {
        let leases = std::mem::take(self.leases.get_mut());
        let Some(core) = self.core.upgrade() else { return };
        let now = core.clock.now();
        let open: Vec<(Key, Holder)> = leases
            .of
            .into_iter()
            .filter(|(_, lease)| now < lease.until)
            .map(|(key, lease)| (key, lease.holder))
            .collect();
        if open.is_empty() || core.loads.is_draining() {
            return;
        }
        // Outside of a runtime, the leases end with their time.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let l2 = Arc::clone(&self.l2);
        runtime.spawn(async move {
            for (key, holder) in open {
                let end = LoadOp::End(EndLoad { holder, end: End::HolderLeft });
                if let Err(error) = l2.load(key.clone(), end).await {
                    tracing::debug!(%error, "could not end the load lease of a lost connection; it ends with its time");
                }
                core.loads.changed(&key);
            }
        });
    }
}
