//! No L2 as a subject of the behavior suite: the backend, and L1 behind the cache facade, which stores all entries
//! there and answers the reads.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use terrace::{
    cache::{Cache, Core, Read, ReadOptions, Rules, TierChoice, l1_store::CoreStore},
    clock::Clock,
    error::Result,
    l1::{PolicyKind, Settings},
    l2::{
        Applied, Backend, BanStore, Batch, Described, Flavor, LoadStore, Op, ScanPage, ScanRequest, State, Stored,
        loads::{LoadOp, LoadResult},
        none::NoneBackend,
    },
    model::Key,
};

use super::{Subject, Time};
use crate::support::backend::VALUE_MAX;

/// Enough for the largest values of the suite in one shard.
const CAPACITY_BYTES: u64 = 1 << 30;

/// Reads from L1 and forwards all other operations to the backend.
struct OverL1 {
    cache: Cache,
    backend: Arc<NoneBackend>,
}

impl BanStore for OverL1 {}

impl LoadStore for OverL1 {
    fn load(&self, key: Key, op: LoadOp) -> BoxFuture<'_, Result<LoadResult>> {
        self.backend.load(key, op)
    }
}

impl Backend for OverL1 {
    fn flavor(&self) -> Flavor {
        self.backend.flavor()
    }

    fn get<'a>(&'a self, keys: &'a [Key], _with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>> {
        let options = ReadOptions { tier: TierChoice::L1Only, ..ReadOptions::default() };
        async move {
            let stored = |read| match read {
                Read::Found(found) => Some(Stored { value: found.value, life: found.life }),
                Read::Missing => None,
            };
            self.cache.get_many(keys.to_vec(), options).await.into_iter().map(|read| read.map(stored)).collect()
        }
        .boxed()
    }

    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        self.backend.apply(ops, batch)
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        self.backend.describe(keys)
    }

    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        self.backend.scan(request)
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        self.backend.count()
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        self.backend.random_key()
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        self.backend.clear()
    }

    fn state(&self) -> State {
        self.backend.state()
    }
}

/// An empty L1 with a manual clock.
pub(crate) async fn start() -> Subject {
    let (clock, manual) = Clock::manual();
    let settings = Settings { capacity_bytes: CAPACITY_BYTES, max_entries: None, policy: PolicyKind::Learned };
    let core = Core::new(settings, Flavor::None, Rules::new(VALUE_MAX, Duration::MAX), clock);
    let backend = NoneBackend::new(CoreStore::new(&core));
    let cache = Cache::new(core, Arc::clone(&backend) as Arc<dyn Backend>);
    Subject::new(Arc::new(OverL1 { cache, backend }), Time::Manual(manual), ())
}
