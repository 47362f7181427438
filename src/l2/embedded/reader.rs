//! Reads: on the caller's thread while the data is in memory, otherwise on the read pool.
//!
//! A point read that finds its block in the cache takes about 4 µs; handing it to another thread and back costs more
//! CPU time than that. A read that waits for the disk would block everything else on its thread. Therefore, the second
//! read within a short time that takes longer than [`SLOW_NS`] moves all reads to the pool for [`POOL_NS`]; then reads
//! return to the caller's thread. A single slow read is ignored, because the thread may only have lost its core for a
//! moment.

use std::{ops::Bound, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;

use super::{
    disk::{
        rows::{ORDER, RECORDS, Record, is_hidden, order_row, record_row},
        table::View,
    },
    errors::{late, unavailable},
    state::StoreState,
    store::Embedded,
};
use crate::{
    clock::{UnixMs, stopwatch_ns},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{Ban, Described, PARTS_MAX_BYTES, ScanPage, ScanRequest, Stored, TypeName, codec, scan::PAGE_TIME_MAX},
    model::{Key, Life, Value},
};

/// Duration in nanoseconds above which a read counts as having waited for the disk.
const SLOW_NS: u64 = 1_000_000;
/// Amount that a slow read adds to the score; a fast read subtracts 1.
const SLOW_SCORE: u64 = 16;
/// Score that moves reads to the pool: two slow reads with fewer than 16 fast reads between them.
const POOL_SCORE: u64 = 17;
/// Time in nanoseconds for which the pool then runs all reads. About two slow reads block a worker during this time.
const POOL_NS: u64 = 100_000_000;
/// Maximum number of keys of a read that runs on the thread of the caller (about 4 µs per key).
const INLINE_KEYS_MAX: usize = 16;
/// Maximum length in bytes of all keys of a read that runs on the thread of the caller while pattern bans are open: the
/// comparison of a key of this length with the longest pattern takes about 100 µs.
const INLINE_COMPARED_MAX: usize = 4_096;
/// Maximum number of rows that one page of a scan visits (about 20 ms).
const PAGE_ROWS_MAX: usize = 10_000;
/// Number of random positions that the search for a live key tries.
const RANDOM_TRIES: usize = 16;
/// Maximum number of keys that the search for a random key visits.
const RANDOM_WALK_MAX: usize = 1_000;

impl Embedded {
    /// Runs a read with one result per key.
    pub(super) async fn read_each<T: Send + 'static>(
        &self,
        keys: &[Key],
        read: impl FnOnce(&StoreState, &[Key]) -> Vec<Result<T>> + Send + 'static,
    ) -> Vec<Result<T>> {
        if keys.len() <= INLINE_KEYS_MAX && !self.shared.is_slow() && !self.shared.compares_long(keys) {
            return self.shared.watched(|shared| read(shared, keys));
        }
        let owned: Vec<Key> = keys.to_vec();
        match self.read_one(move |shared| Ok(read(shared, &owned))).await {
            Ok(results) => results,
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Runs a read on the pool.
    pub(super) async fn read_one<T: Send + 'static>(
        &self,
        read: impl FnOnce(&StoreState) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(pool) = &self.pool else { return Err(unavailable()) };
        let shared = Arc::clone(&self.shared);
        pool.run(self.shared.tunables.deadlines().read, move || read(&shared)).await
    }
}

impl StoreState {
    fn is_slow(&self) -> bool {
        let until = self.counters.slow_until_ns.load(Relaxed);
        until != 0 && stopwatch_ns() < until
    }

    /// Returns whether a read of these keys may compare them with patterns for long.
    fn compares_long(&self, keys: &[Key]) -> bool {
        self.bans.all().is_some() && keys.iter().map(|key| key.len()).sum::<usize>() > INLINE_COMPARED_MAX
    }

    /// Runs a read on this thread, and moves further reads to the pool if reads are slow. Threads may overwrite one
    /// another's score: it is approximate.
    fn watched<T>(&self, read: impl FnOnce(&Self) -> T) -> T {
        let began = stopwatch_ns();
        let result = read(self);
        let ended = stopwatch_ns();
        let counters = &self.counters;
        let score = counters.slow_score.load(Relaxed);
        if ended.saturating_sub(began) <= SLOW_NS {
            if score > 0 {
                counters.slow_score.store(score - 1, Relaxed);
            }
            return result;
        }
        counters.slow_reads.fetch_add(1, Relaxed);
        counters.slow_score.store((score + SLOW_SCORE).min(2 * SLOW_SCORE), Relaxed);
        if score + SLOW_SCORE >= POOL_SCORE {
            counters.slow_until_ns.store(ended + POOL_NS, Relaxed);
        }
        result
    }

    pub(super) fn get(&self, keys: &[Key], with_life: bool) -> Vec<Result<Option<Stored>>> {
        let now = self.clock.unix();
        let value_max = self.tunables.value_max();
        self.read_records(keys, |record| {
            let life = if with_life { life(&record, now) } else { Life::Forever };
            let value = codec::opened(Value::from(record.value));
            if value.len() > value_max { Err(too_large(value.len(), value_max)) } else { Ok(Stored { value, life }) }
        })
    }

    /// Reads values with their remaining TTLs until they have about [`PARTS_MAX_BYTES`]; `None` for the other keys.
    pub(super) fn get_within(&self, keys: &[Key]) -> Vec<Option<Result<Option<Stored>>>> {
        let mut bytes = 0;
        let read = |key: &Key| {
            if bytes >= PARTS_MAX_BYTES {
                return None;
            }
            let result = self.get(std::slice::from_ref(key), true).pop()?;
            bytes += result.as_ref().ok().and_then(Option::as_ref).map_or(0, |stored| stored.value.len());
            Some(result)
        };
        keys.iter().map(read).collect()
    }

    pub(super) fn describe(&self, keys: &[Key]) -> Vec<Result<Option<Described>>> {
        let now = self.clock.unix();
        self.read_records(keys, |record| {
            Ok(Described {
                life: life(&record, now),
                expires_at_ms: record.expires_at.map(|at| at.0),
                size_bytes: codec::split(&record.value).1.len() as u64,
                type_name: TypeName::String,
                head: Bytes::copy_from_slice(codec::split(&record.value).0),
            })
        })
    }

    /// Reads the live records of the keys at one instant and converts each of them with `make`.
    fn read_records<T>(&self, keys: &[Key], make: impl Fn(Record) -> Result<T>) -> Vec<Result<Option<T>>> {
        let now = self.clock.unix();
        let table = self.table.load();
        let Some(table) = table.as_ref() else { return keys.iter().map(|_| Err(unavailable())).collect() };
        // Bans are loaded before the view: a ban that is retired in between still hides records in this view.
        let bans = self.bans.all().unwrap_or_default();
        let view = table.view();
        let (begun, deadline) = (stopwatch_ns(), self.tunables.deadlines().read);
        let read = |key: &Key| {
            // Without bans, a read compares no patterns.
            if !bans.is_empty() && stopwatch_ns() - begun > deadline.as_nanos() as u64 {
                return Err(late(deadline));
            }
            live(&view, key.bytes(), now, &bans)?.map(&make).transpose()
        };
        keys.iter().map(read).collect()
    }

    /// Returns one page of a scan.
    pub(super) fn scan(&self, request: &ScanRequest) -> Result<ScanPage> {
        let glob = request.pattern.as_deref().map(Glob::new).transpose()?;
        if request.type_name.as_deref().is_some_and(|name| !name.eq_ignore_ascii_case(b"string")) {
            return Ok(ScanPage::default());
        }
        let prefix = record_row(glob.as_ref().map_or(&b""[..], Glob::literal_prefix));
        let after = self.cursors.lock().position(request.cursor).filter(|row| row >= &prefix);
        let from = after.as_deref().map_or(Bound::Included(&prefix[..]), Bound::Excluded);
        let now = self.clock.unix();
        let table = self.table.load();
        let Some(table) = table.as_ref() else { return Err(unavailable()) };
        let bans = self.bans.all().unwrap_or_default();
        let (mut keys, mut last, mut rows) = (Vec::new(), None, 0);
        let begun = stopwatch_ns();
        for row in table.view().range(from, RECORDS.1) {
            let (row, value) = row?;
            if !row.starts_with(&prefix) {
                last = None;
                break;
            }
            let record = Record::decode(&row, &value)?;
            let wanted = glob.as_ref().is_none_or(|glob| glob.matches(&record.key));
            if wanted && !record.is_expired(now) && !is_hidden(&bans, &record) {
                // Reserved keys are omitted: `Key::new` rejects them.
                keys.extend(Key::new(record.key).ok());
            }
            rows += 1;
            let is_late = glob.is_some() && stopwatch_ns() - begun > PAGE_TIME_MAX.as_nanos() as u64;
            last = (is_late || rows >= request.count.clamp(1, PAGE_ROWS_MAX)).then_some(row);
            if last.is_some() {
                break;
            }
        }
        let cursor = last.map_or(0, |row| self.cursors.lock().remember(request.cursor, row));
        Ok(ScanPage { cursor, keys })
    }

    /// Returns the key at a random write number: uniform over the entries, provided that rewritten entries left their
    /// gaps evenly.
    pub(super) fn random_key(&self) -> Result<Option<Key>> {
        let table = self.table.load();
        let Some(table) = table.as_ref() else { return Err(unavailable()) };
        let view = table.view();
        let oldest = self.counters.oldest.load(Relaxed);
        let next = self.counters.next_written.load(Relaxed).max(oldest + 1);
        for _ in 0..RANDOM_TRIES {
            if let Some(key) = self.live_from(&view, fastrand::u64(oldest..next), 1)? {
                return Ok(Some(key));
            }
        }
        self.live_from(&view, 0, RANDOM_WALK_MAX)
    }

    /// Returns the first live key among the next `rows` entries in write order.
    fn live_from(&self, view: &View<'_>, written: u64, rows: usize) -> Result<Option<Key>> {
        let (now, bans) = (self.clock.unix(), self.bans.all().unwrap_or_default());
        for row in view.range(Bound::Included(&order_row(written)), ORDER.1).take(rows) {
            let key = row?.1;
            if let (Ok(key), true) = (Key::copied(&key), live(view, &key, now, &bans)?.is_some()) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

fn live(view: &View<'_>, key: &Bytes, now: UnixMs, bans: &[Arc<Ban>]) -> Result<Option<Record>> {
    let row = record_row(key);
    let Some(bytes) = view.get(&row)? else { return Ok(None) };
    let record = Record::decode(&row, &bytes)?;
    Ok((record.key == *key && !record.is_expired(now) && !is_hidden(bans, &record)).then_some(record))
}

fn life(record: &Record, now: UnixMs) -> Life {
    match record.expires_at {
        None => Life::Forever,
        Some(at) => Life::For(Duration::from_millis(at.0.saturating_sub(now.0))),
    }
}

fn too_large(length: usize, value_max: usize) -> CacheError {
    CacheError::new(Kind::TooLarge, format!("value of {length} bytes exceeds max_value ({value_max} bytes)"))
}
