//! The embedded store: an ordered, crash-safe table in a directory that only this process writes.
//!
//! # How it works
//! * One thread, the `writer`, makes all changes: it takes the queued calls, applies them in order to a `write_group`,
//!   commits the group with one write to the journal, notifies L1 of the changed keys, and replies. Therefore,
//!   conditions, increments and batches are atomic without key locks, and many callers share one commit.
//! * Reads see the table between two commits. They run on the caller's thread while the data is in memory (4 µs each).
//!   Otherwise they run on the two threads of the `read_pool`, as do scans and calls with more than 16 keys.
//! * `disk` contains the files. `table` is a table of fjall, `rows` the encoding of its rows: each entry with its write
//!   number, a queue by that number for eviction, a calendar for expiry, and a tally of entries and bytes that is
//!   updated in the same commits. Therefore, [`count`](super::Backend::count) is one load, opening the store counts
//!   nothing, and eviction and expiry search nothing. [`clear`](super::Backend::clear) starts a new `generation` and
//!   deletes the previous one.
//! * A ban (`bans`) takes a write number: it hides matching entries with smaller numbers until they are swept.
//!
//! # Guarantees
//! * An acknowledged write has been handed to the operating system, so a killed process loses none. With
//!   [`Sync::Interval`], a thread syncs the journal each interval, so a power failure loses at most the writes of one
//!   interval; with [`Sync::Always`], it loses none.
//! * Damage of the files costs the damaged parts, which [`Backend::health`](super::Backend::health) counts. fjall stops
//!   all writes at a damaged block and truncates a journal at a damaged byte. Therefore, `journal_repair` removes damaged
//!   batches from journals before fjall reads them. When a read finds a damaged block, or a background thread of fjall
//!   failed, the writer copies all readable blocks to the next generation; `reconcile` then removes the rows that
//!   contradict one another, so that no overwritten value comes back. A table that fjall cannot open, because its
//!   manifest or an index is damaged, is set aside, and the next generation starts with its journals.
//! * [`Stats::bytes`] counts the live data: keys, values and their metadata. It is within
//!   [`EmbeddedSettings::size_max_bytes`] after every commit (a store that is opened with a smaller limit shrinks to it
//!   in the background); the entries written longest ago are evicted first. The files need more space: see "Resources".
//! * An expired entry is never returned; its space is reclaimed within a second (10,000 entries per second, 1,000 at a
//!   time).
//! * When the disk is full or rejects writes, reads go on. A probe checks once per second whether the disk accepts writes;
//!   the table is then reopened. On a full disk, the `reserve` is freed first, and removals are accepted; other writes fail
//!   with `Unavailable` until the disk has space for the reserve again.
//! * Deadlines are those of [`Tunables`](super::Tunables). A read on the caller's thread cannot be interrupted; the
//!   second slow read moves all further reads to the pool.
//!
//! # Why fjall: measurements
//! Measured with 100 B values, 21 B keys and these rows in both stores, half a million entries, on 2 shared cores and a
//! virtual disk whose fsync takes 0.2 ms (a physical disk: 1 to 10 ms). redb survives a kill only with an fsync per
//! commit, so each write waits for one. The third column is redb with commits that are not durable, a separate journal,
//! and a durable commit each second.
//!
//! | | fjall 3.1 | redb 4.4 | redb 4.4 and a journal |
//! |---|---|---|---|
//! | overwrites/s, groups of 1 / 16 / 128 | 52 k / 67 k / 66 k | 2.2 k / 4.2 k / 10 k | 14 k / 38 k / 36 k |
//! | CPU of an overwrite, groups of 16 | 19 µs | 53 µs | 24 µs |
//! | new keys/s, groups of 128 | 190 k | 169 k | 101 k |
//! | get, cached / of an absent key | 4.0 / 1.3 µs | 3.7 / 3.3 µs | 3.8 / 3.4 µs |
//! | kill -9 among writes, 60 times: keys lost | 0 of 2.98 M | 0 of 0.32 M | |
//! | open after a kill, median / worst | 0.51 / 0.95 s | 0.03 / 0.06 s | |
//! | churn at 256 MiB alive: ops/s, disk | 42 to 82 k, 424 MB | (512 MiB:) 17 to 43 k, 573 MB | 24 to 45 k, 835 MB |
//! | longest commit, resident memory in that churn | 220 ms, 213 MB | 34 ms, 70 MB | 310 ms, 75 MB |
//!
//! fjall meets the guarantees without an fsync per write, and is the fastest. redb has steadier disk and memory usage.
//! Files of 8 MiB instead of 64 MiB (685 MB in the churn test above), ordinary tombstones, a pause of the writer before
//! fjall halts it (100 ms at a time) and a flush in idle times compensate for most of that difference.
//!
//! # Resources
//! * Disk: at most 2.6 times the limit while new keys are written at full speed for minutes (334 MB at 128 MiB of 100 B
//!   values, 640 MB at 256 MiB of 4 KiB values), including journals of 64 to 128 MiB; 1.4 to 1.8 times in idle times.
//!   Space of dead entries is reclaimed when their files are compacted; tombstones of large values are too small to
//!   trigger an early compaction.
//! * Memory: 160 to 240 MB under that load, whatever the size: 64 MiB of blocks, up to five write buffers of 16 MiB.
//! * Start: 0.2 s for an empty store on a machine with six busy neighbors, mostly about ten fsyncs; after a kill, 0.5 s
//!   to read up to 64 MiB of journal.
//! * CPU: 20 µs per write, shared between the writer and compaction; 4 to 6 µs per read.

mod bans;
mod cursors;
#[cfg(test)]
mod damage_tests;
mod disk;
mod errors;
mod read_pool;
mod reader;
mod settings;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod write_group;
mod writer;

/// Maximum number of file descriptors of the store: 512 table files that are kept open, journals and files of
/// compactions.
pub const FILES_MAX: u64 = 640;

pub use self::{
    errors::OpenError,
    settings::{EmbeddedSettings, SIZE_MAX_DEFAULT, SIZE_MAX_LEAST, SYNC_INTERVAL_DEFAULT, Sync},
    store::{Embedded, Stats},
};
