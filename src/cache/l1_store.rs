//! L1 as the store, for `l2 = "none"`: implements the trait of [`crate::l2::none`] over L1.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;

use super::{
    Caller, Core,
    invalidate::{events::ChangeEvent, tags::is_own},
    stats::recording::Recorded,
};
use crate::{
    clock::{Tick, UnixMs, millis},
    error::Result,
    l1,
    l2::{
        Applied, Described, Op, ScanPage, Source, TypeName, codec,
        loads::{LoadOp, LoadResult},
        none::Resident,
        op::{self, EntryChange, Present},
    },
    model::{Key, Life},
};

/// Tolerance by which the wall clock may fall behind the stored difference to the monotonic clock: a larger deviation
/// means that the wall clock was set.
const JITTER_MS: u64 = 2;

/// L1 behind the trait of the `none` backend. Holds the core weakly, because the core's workers hold the backend.
pub struct CoreStore {
    core: Weak<Core>,
    /// Wall clock minus monotonic clock. Stored, so that an expiry is read back exactly as it was set.
    offset_ms: AtomicU64,
}

impl CoreStore {
    /// Creates a store over the L1 of `core`.
    #[must_use]
    pub fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::downgrade(core), offset_ms: AtomicU64::new(0) }
    }

    /// Returns both clocks, with the same difference as before, unless the wall clock was set. The difference follows a
    /// wall clock that is ahead of it at once: otherwise an expiry that was computed by the wall clock would end later than
    /// the write requested.
    fn times(&self, core: &Core) -> (Tick, UnixMs) {
        let (now, seen) = core.clock.now_and_wall_ahead_ms();
        let kept = self.offset_ms.load(Relaxed);
        let is_valid = (seen..=seen + JITTER_MS).contains(&kept);
        if !is_valid {
            self.offset_ms.store(seen, Relaxed);
        }
        (now, UnixMs(now.0 + if is_valid { kept } else { seen }))
    }
}

impl CoreStore {
    /// Makes the change that `decide` returns for the present entry, under the lock of the key's shard. `wakes`: callers that
    /// wait for the load of the key ask again.
    fn change<T>(
        &self,
        key: &Key,
        wakes: bool,
        decide: impl FnOnce(&Core, Option<Present<'_>>, UnixMs) -> Result<(EntryChange, T)>,
    ) -> Result<T> {
        let Some(core) = self.core.upgrade() else { return Err(stopped()) };
        let (now, unix) = self.times(&core);
        let tick_at = |at: Option<UnixMs>| at.map_or(Tick::FAR, |at| Tick(now.0 + at.0.saturating_sub(unix.0)));
        let unix_at = |at: Tick| (at != Tick::FAR).then(|| UnixMs(unix.0 + at.0.saturating_sub(now.0)));
        let epoch = core.fence.epoch(Source::ONLY).ok_or_else(stopped)?;
        let group = core.group_of(key);
        let mut written = None;
        let applied = core.l1.update(key, now, epoch, group, |current| {
            let present = current.map(|c| Present { value: c.value, expires_at: unix_at(c.expires_at) });
            let (change, applied) = decide(&core, present, unix)?;
            let change = match change {
                EntryChange::Keep => l1::Change::Keep,
                EntryChange::Remove => l1::Change::Remove,
                EntryChange::Put(value, at) => {
                    written = Some(Recorded::Written(value.len() as u64, tick_at(at)));
                    l1::Change::Put(value, tick_at(at))
                }
                EntryChange::Reexpire(at) => l1::Change::Reexpire(tick_at(at)),
            };
            if !matches!(change, l1::Change::Keep) {
                core.watched_keys.changed(key);
            }
            Ok((change, applied))
        })?;
        if wakes {
            core.loads.changed(key);
        }
        if let Some(written) = written.filter(|_| core.recordings.any() && !is_own(key)) {
            core.recordings.note(key, core.l1.hash_of(key), written, Caller::UNKNOWN, now);
        }
        Ok(applied)
    }
}

impl Resident for CoreStore {
    fn apply(&self, key: &Key, op: &Op) -> Result<Applied> {
        self.change(key, true, |core, present, unix| {
            let decided = op::apply(op, present, unix)?;
            core.loads.local().before(key, op);
            Ok(decided)
        })
    }

    fn load(&self, key: &Key, op: &LoadOp) -> Result<LoadResult> {
        // A request for a lease changes nothing that others wait for, and would wake its own caller.
        let wakes = !matches!(op, LoadOp::Acquire(_));
        self.change(key, wakes, |core, present, unix| Ok(core.loads.local().decide(key, op, present, unix)))
    }

    fn describe(&self, key: &Key) -> Option<Described> {
        let core = self.core.upgrade()?;
        let (now, unix) = self.times(&core);
        let hit = core.l1.peek(key, now)?.hit;
        let value = codec::opened(hit.value);
        let left = (hit.expires_at != Tick::FAR).then(|| hit.expires_at.since(now));
        Some(Described {
            life: left.map_or(Life::Forever, Life::For),
            expires_at_ms: left.map(|left| unix.0 + millis(left)),
            size_bytes: value.len() as u64,
            type_name: TypeName::String,
            head: Bytes::copy_from_slice(value.head()),
        })
    }

    fn scan(&self, cursor: u64, count: usize, keep: &dyn Fn(&[u8]) -> bool) -> ScanPage {
        let Some(core) = self.core.upgrade() else { return ScanPage::default() };
        let mut keys = Vec::new();
        let cursor = core.scan_l1(cursor, count, |key, _| {
            if keep(key) {
                keys.extend(Key::copied(key));
            }
        });
        ScanPage { cursor, keys }
    }

    fn count(&self) -> u64 {
        self.core.upgrade().map_or(0, |core| core.l1.shown_entries())
    }

    fn random_key(&self) -> Option<Key> {
        let core = self.core.upgrade()?;
        core.l1.random_key(fastrand::u64(..), core.clock.now())
    }

    fn clear(&self) {
        if let Some(core) = self.core.upgrade() {
            core.loads.local().forget_all();
            core.l1.clear();
            core.loads.all_changed();
            core.watched_keys.all_changed();
            core.events.emit(ChangeEvent::Flushed);
        }
    }
}

fn stopped() -> crate::error::CacheError {
    crate::error::CacheError::new(crate::error::Kind::Unavailable, "the server is stopping")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cache::Rules,
        clock::Clock,
        l1::{PolicyKind, Settings},
        l2::{
            Flavor,
            op::{Condition, SetExpiry},
        },
    };

    /// The clocks differ by a fraction of a millisecond more than the stored difference when an expiry is computed.
    #[test]
    fn an_expiry_by_the_wall_clock_is_not_later_than_requested() {
        let (clock, hands) = Clock::manual();
        let settings = Settings { capacity_bytes: 1 << 20, max_entries: None, policy: PolicyKind::Lru };
        let core = Core::new(settings, Flavor::None, Rules::new(1 << 20, Duration::MAX), clock.clone());
        let store = CoreStore::new(&core);
        let key = Key::copied(b"k").unwrap();
        let left_after_set = |life_ms| {
            let expiry = SetExpiry::At(UnixMs(clock.unix().0 + life_ms));
            let value = Bytes::from_static(b"v");
            let set = Op::Set { value, expiry, condition: Condition::Always, want_old: false };
            store.apply(&key, &set).unwrap();
            let described = store.describe(&key).unwrap();
            let SetExpiry::At(at) = expiry else { unreachable!() };
            assert_eq!(described.expires_at_ms, Some(at.0), "the expiry is read back as it was set");
            described.life
        };
        assert_eq!(left_after_set(60_000), Life::For(Duration::from_secs(60)));
        for ahead_ms in [1, 2, 3] {
            hands.advance_wall(Duration::from_millis(ahead_ms));
            assert_eq!(left_after_set(40_000), Life::For(Duration::from_secs(40)), "{ahead_ms} ms ahead");
        }
    }
}
