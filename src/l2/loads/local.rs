//! [`LocalLoads`]: the leases of a store that only this process writes.
//!
//! The store runs the operations of a key one after another: the embedded store on its writer's thread, `none` under the
//! lock of the key's shard. Therefore, a fill and a write of the same key have an order, and a write removes the lease
//! ([`LocalLoads::before`]) before a later fill looks for it.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use dashmap::{DashMap, Entry};

use super::{Acquire, Acquired, End, EndLoad, Fill, Filled, GRACE, LeaseFence, LoadOp, LoadResult, Loaded, backoff};
use crate::{
    clock::{Clock, Tick, UnixMs},
    glob::Glob,
    l2::{
        codec,
        entry::Stored,
        op::{self, EntryChange, Op, Present, SetExpiry},
    },
    model::{Key, Life, Value},
};

/// Maximum size of all records in bytes: keys, tags, messages and [`RECORD_BYTES`] for each. Without space, a lease cannot
/// be fenced, and its fill stores nothing.
const RECORDS_MAX_BYTES: usize = 32 << 20;
/// Size of a record without its key, tags and message.
const RECORD_BYTES: usize = 160;
/// Minimum time between two searches for records that have ended, while there is no space.
const PURGE_EVERY: Duration = Duration::from_secs(1);

/// The leases of one process.
#[derive(Debug)]
pub struct LocalLoads {
    records: DashMap<Bytes, Record, foldhash::fast::RandomState>,
    /// Size of the records, so that a write without leases costs one load.
    bytes: AtomicUsize,
    /// [`Tick`] of the last search for records that have ended.
    purged_at: AtomicU64,
    clock: Clock,
}

/// The record of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    state: RecordState,
    /// Time at which the record is forgotten.
    until: Tick,
}

impl Record {
    /// Returns the size of the record of a key in bytes.
    fn bytes(&self, key: &[u8]) -> usize {
        let more = match &self.state {
            RecordState::Loading { .. } => 0,
            RecordState::Absent { head: bytes } | RecordState::Failed { message: bytes, .. } => bytes.len(),
        };
        RECORD_BYTES + key.len() + more
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RecordState {
    Loading { generation: u64, holder: super::Holder, granted_at: Tick, exclusive_until: Tick, failures: u32 },
    Absent { head: Bytes },
    Failed { failures: u32, message: Bytes, retry_at: Tick },
}

/// State of a key for a request.
enum Seen {
    /// Nobody loads the key.
    Free { failures: u32 },
    /// The holder's own lease.
    Own(Acquired),
    /// The lease of a client whose exclusive time has ended.
    TakeOver { generation: u64, failures: u32 },
    /// The answer to the request.
    Answer(Acquired),
}

impl LocalLoads {
    /// Creates an empty set of leases.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { records: DashMap::default(), bytes: AtomicUsize::new(0), purged_at: AtomicU64::new(0), clock }
    }

    /// Returns the effect of a lease operation on `present` at `now`. The caller runs the operations of one key one after
    /// another.
    pub fn decide(
        &self,
        key: &Key,
        op: &LoadOp,
        present: Option<Present<'_>>,
        now: UnixMs,
    ) -> (EntryChange, LoadResult) {
        match op {
            LoadOp::Acquire(request) => {
                let stored = present.map(|present| stored_of(present, now));
                (EntryChange::Keep, LoadResult::Acquired(self.acquire(key, request, stored)))
            }
            LoadOp::Fill(fill) => self.fill(key, fill, present.map(|present| present.value), now),
            LoadOp::End(end) => (EntryChange::Keep, LoadResult::Ended(self.end(key, end))),
        }
    }

    /// Removes the lease of a key that an operation writes. A removal of an entry with an invalid tag is no write of a
    /// client.
    #[inline]
    pub fn before(&self, key: &[u8], op: &Op) {
        if !matches!(op, Op::Bury { .. }) {
            self.forget(key);
        }
    }

    /// Removes the lease of a key.
    pub fn forget(&self, key: &[u8]) {
        if self.bytes.load(Ordering::Acquire) > 0
            && let Some((key, record)) = self.records.remove(key)
        {
            self.bytes.fetch_sub(record.bytes(&key), Ordering::AcqRel);
        }
    }

    /// Removes the leases of the keys that match a pattern.
    pub fn forget_matching(&self, glob: &Glob) {
        self.forget_if(|key, _| glob.matches(key));
    }

    /// Removes all leases.
    pub fn forget_all(&self) {
        self.forget_if(|_, _| true);
    }

    fn forget_if(&self, is_gone: impl Fn(&[u8], &Record) -> bool) {
        if self.bytes.load(Ordering::Acquire) == 0 {
            return;
        }
        self.records.retain(|key, record| {
            let stays = !is_gone(key, record);
            if !stays {
                self.bytes.fetch_sub(record.bytes(key), Ordering::AcqRel);
            }
            stays
        });
    }

    fn acquire(&self, key: &Key, request: &Acquire, stored: Option<Stored>) -> Acquired {
        if let Some(fresh) = stored.as_ref().filter(|stored| !request.force && is_fresh(stored.life, request.stale)) {
            return Acquired::Fresh(fresh.clone());
        }
        let now = self.clock.now();
        let (generation, failures, taken_over) = match self.seen(key, request, stored.clone(), now) {
            Seen::Answer(answer) | Seen::Own(answer) => return answer,
            Seen::Free { failures } => (request.generation, failures, false),
            // Nothing was written since the lease was granted, because a write removes the record.
            Seen::TakeOver { generation, failures } => (generation, failures, true),
        };
        let record = Record {
            state: RecordState::Loading {
                generation,
                holder: request.holder,
                granted_at: now,
                exclusive_until: now.plus(request.lease),
                failures,
            },
            until: now.plus(request.lease + GRACE),
        };
        let fence = self.insert(key, record).then_some(LeaseFence { generation, ban: 0, mark: 0 });
        Acquired::Granted { stored, fence, lease: request.lease, taken_over }
    }

    fn seen(&self, key: &[u8], request: &Acquire, stored: Option<Stored>, now: Tick) -> Seen {
        let Some(record) = self.records.get(key).filter(|record| now < record.until) else {
            return Seen::Free { failures: 0 };
        };
        match &record.state {
            RecordState::Absent { head } if stored.is_none() && !request.force && !request.ignore_absent => {
                Seen::Answer(Acquired::Absent { life: record.until.since(now), head: head.clone() })
            }
            RecordState::Absent { .. } => Seen::Free { failures: 0 },
            RecordState::Failed { message, retry_at, .. } if now < *retry_at => {
                Seen::Answer(Acquired::Failed { stored, message: message.clone(), retry_after: retry_at.since(now) })
            }
            RecordState::Failed { failures, .. } => Seen::Free { failures: *failures },
            RecordState::Loading { generation, holder, granted_at, exclusive_until, failures } => {
                let left = exclusive_until.since(now);
                if now >= *exclusive_until {
                    Seen::TakeOver { generation: *generation, failures: *failures }
                } else if *holder == request.holder {
                    let fence = Some(LeaseFence { generation: *generation, ban: 0, mark: 0 });
                    Seen::Own(Acquired::Granted { stored, fence, lease: left, taken_over: false })
                } else {
                    Seen::Answer(Acquired::Busy { stored, age: now.since(*granted_at), left, holder: *holder })
                }
            }
        }
    }

    /// Stores a record. Returns false if there is no space.
    fn insert(&self, key: &Key, record: Record) -> bool {
        let bytes = record.bytes(key);
        self.make_room(bytes);
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before + bytes > RECORDS_MAX_BYTES {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return false;
        }
        if let Some(replaced) = self.records.insert(Bytes::copy_from_slice(key), record) {
            self.bytes.fetch_sub(replaced.bytes(key), Ordering::AcqRel);
        }
        true
    }

    /// Removes records that have ended, if there is no space for `bytes`. A search visits all records.
    fn make_room(&self, bytes: usize) {
        let now = self.clock.now();
        let purged_at = Tick(self.purged_at.load(Ordering::Acquire));
        if self.bytes.load(Ordering::Acquire) + bytes > RECORDS_MAX_BYTES && now >= purged_at.plus(PURGE_EVERY) {
            self.purged_at.store(now.0, Ordering::Release);
            self.forget_if(|_, record| record.until <= now);
        }
    }

    fn fill(&self, key: &Key, fill: &Fill, present: Option<&[u8]>, unix: UnixMs) -> (EntryChange, LoadResult) {
        let now = self.clock.now();
        let granted_at = self.records.get(&**key).and_then(|record| match record.state {
            RecordState::Loading { generation, granted_at, .. }
                if generation == fill.fence.generation && now < record.until =>
            {
                Some(granted_at)
            }
            RecordState::Loading { .. } | RecordState::Absent { .. } | RecordState::Failed { .. } => None,
        });
        let Some(granted_at) = granted_at else {
            return (EntryChange::Keep, LoadResult::Filled(Filled::LeaseLost));
        };
        self.forget(key);
        let took = now.since(granted_at);
        let mut differs = present.is_some();
        let change = match &fill.loaded {
            Loaded::Value { stored, expiry } => {
                differs = present.is_some_and(|present| present != stored);
                EntryChange::Put(stored.clone(), expires_at(*expiry, unix))
            }
            Loaded::Absent { life, head } => {
                let state = RecordState::Absent { head: head.clone() };
                // Without space for the record, the next reader loads the key again.
                let _stored = self.insert(key, Record { state, until: now.plus(*life) });
                if present.is_some() { EntryChange::Remove } else { EntryChange::Keep }
            }
        };
        (change, LoadResult::Filled(Filled::Stored { took, differs }))
    }

    fn end(&self, key: &Key, ended: &EndLoad) -> bool {
        let now = self.clock.now();
        let Entry::Occupied(mut present) = self.records.entry(Bytes::copy_from_slice(key)) else { return false };
        let record = present.get_mut();
        let RecordState::Loading { holder, exclusive_until, failures, .. } = &mut record.state else { return false };
        if *holder != ended.holder || now >= record.until {
            return false;
        }
        match &ended.end {
            End::Released => {
                let removed = present.remove();
                self.bytes.fetch_sub(removed.bytes(key), Ordering::AcqRel);
            }
            End::Failed { message, retry_after } => {
                let failures = failures.saturating_add(1);
                let pause = retry_after.unwrap_or_else(|| backoff(failures, fastrand::f64()));
                let retry_at = now.plus(pause);
                let state = RecordState::Failed { failures, message: message.clone(), retry_at };
                let failed = Record { state, until: retry_at.plus(GRACE) };
                // A message has at most 256 bytes, so the limit is exceeded by little.
                self.bytes.fetch_add(failed.bytes(key) - record.bytes(key), Ordering::AcqRel);
                *record = failed;
            }
            End::HolderLeft => {
                *exclusive_until = (*exclusive_until).min(now);
                record.until = record.until.min(now.plus(GRACE));
            }
        }
        true
    }
}

/// Returns whether a value with this remaining TTL needs no refresh.
#[must_use]
pub fn is_fresh(life: Life, stale: Duration) -> bool {
    match life {
        Life::Forever => true,
        Life::For(left) => left >= stale,
    }
}

fn stored_of(present: Present<'_>, now: UnixMs) -> Stored {
    let life =
        present.expires_at.map_or(Life::Forever, |at| Life::For(Duration::from_millis(at.0.saturating_sub(now.0))));
    Stored { value: codec::opened(Value::from(Bytes::copy_from_slice(present.value))), life }
}

fn expires_at(expiry: SetExpiry, now: UnixMs) -> Option<UnixMs> {
    match expiry {
        SetExpiry::Never | SetExpiry::Keep { life_if_new: None } => None,
        SetExpiry::In(life) | SetExpiry::Keep { life_if_new: Some(life) } => Some(op::after(now, life)),
        SetExpiry::At(at) => Some(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l2::loads::Holder;

    fn key(number: usize, bytes: usize) -> Key {
        Key::new(format!("{number:0>bytes$}").into()).expect("a key")
    }

    fn acquire(holder: Holder) -> LoadOp {
        let (stale, lease) = (Duration::ZERO, Duration::from_secs(10));
        LoadOp::Acquire(Acquire { stale, lease, holder, generation: 7, force: false, ignore_absent: false })
    }

    fn is_fenced(loads: &LocalLoads, key: &Key) -> bool {
        let (_, result) = loads.decide(key, &acquire([1; 16]), None, UnixMs(0));
        let LoadResult::Acquired(Acquired::Granted { fence, .. }) = result else { panic!("{result:?}") };
        fence.is_some()
    }

    #[test]
    fn leases_that_are_never_filled_have_a_limit_and_end() {
        let (clock, time) = Clock::manual();
        let loads = LocalLoads::new(clock);
        let most = RECORDS_MAX_BYTES / (RECORD_BYTES + 60_000);
        assert!((0..most).all(|number| is_fenced(&loads, &key(number, 60_000))));
        assert!(!is_fenced(&loads, &key(most, 60_000)), "there is no space");
        loads.forget(&key(0, 60_000));
        assert!(is_fenced(&loads, &key(most, 60_000)), "a write made space");
        time.advance(Duration::from_secs(71));
        assert!(is_fenced(&loads, &key(most + 1, 60_000)), "the leases have ended");
        loads.forget_all();
        assert_eq!(loads.bytes.load(Ordering::Acquire), 0);
    }

    #[test]
    fn every_end_of_a_record_frees_its_space() {
        let loads = LocalLoads::new(Clock::real());
        let end = |end| LoadOp::End(EndLoad { holder: [1; 16], end });
        let failed = || end(End::Failed { message: "down".into(), retry_after: None });
        let fence = LeaseFence { generation: 7, ban: 0, mark: 0 };
        let absent = Loaded::Absent { life: Duration::from_secs(1), head: Bytes::from_static(b"head") };
        let value = Loaded::Value { stored: Bytes::from_static(b"v"), expiry: SetExpiry::Never };
        let fill = |loaded| LoadOp::Fill(Fill { fence, loaded });
        for ops in [
            vec![end(End::Released)],
            vec![end(End::HolderLeft)],
            vec![failed()],
            vec![fill(absent)],
            vec![fill(value)],
        ] {
            assert!(is_fenced(&loads, &key(1, 5)));
            for op in &ops {
                loads.decide(&key(1, 5), op, None, UnixMs(0));
            }
            loads.before(&key(1, 5), &Op::Delete { want_old: false });
            assert_eq!(loads.bytes.load(Ordering::Acquire), 0, "{ops:?}");
        }
    }
}
