//! The embedded store: an ordered, crash-safe table in a directory that this process alone writes.
//!
//! # How it works
//! * One thread, the `writer`, makes all changes: it takes the queued calls, applies them in order to a `write_group`,
//!   commits the group with one write to the journal, notifies L1 of the changed keys, and answers. So conditions,
//!   increments and batches are atomic without key locks, and many callers share one commit.
//! * Reads see the table between two commits. They run on the caller's thread while the data is in memory (4 µs each),
//!   else on the two threads of the `read_pool`, as do scans and calls with more than 16 keys.
//! * `disk` holds the files. `table` is a table of fjall, `rows` the encoding of its rows: each entry with the number of its
//!   write, a queue by that number for eviction, a calendar for expiry, and a tally of entries and bytes in the same
//!   commits. So [`count`](super::Backend::count) is one load, opening counts nothing, and eviction and expiry search
//!   nothing. [`clear`](super::Backend::clear) begins a new `generation` and deletes the old one.
//! * A ban (`bans`) takes a number as a write does: it hides matching entries with smaller numbers until they are swept.
//!
//! # What it promises
//! * An answered write has been handed to the operating system: a killed process loses none. With [`Sync::Interval`] a
//!   thread syncs the journal each interval, so a power cut loses at most the writes of one interval; with
//!   [`Sync::Always`] none. `journal_repair` cuts a journal before pages that a power cut tore.
//! * [`Stats::bytes`] counts the live data: keys, values and everything stored with them. It is within
//!   [`EmbeddedSettings::size_max_bytes`] after every commit (a store that is opened with a smaller bound shrinks to it in
//!   the background); the entries that were written first are evicted first. The files take more: see "What it takes".
//! * An expired entry is never returned; its space is reclaimed within a second (10,000 a second, 1,000 at a time).
//! * When the disk is full or fails, calls end `Unavailable` and the table is reopened each second until that succeeds.
//! * Deadlines: [`Tunables`](super::Tunables). A read on the caller's thread cannot be interrupted; the second slow one moves
//!   the others to the pool.
//!
//! # Why fjall, in figures
//! Measured with 100 B values, 21 B keys and these rows in both, half a million entries, on 2 cores that others used,
//! on a virtual disk whose fsync takes 0.2 ms (a real one: 1 to 10). redb can only make a commit that survives a kill
//! by fsync, so each write waits for one; the third column is redb with commits that do not, a journal of our own
//! beside it and a durable commit each second.
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
//! fjall does what is promised with a write and no fsync, and is fastest; redb is the steadier one on the disk and in
//! memory. Files of 8 MiB instead of 64 (685 MB in the churn above), ordinary tombstones, a pause of the writer before
//! fjall halts it (100 ms at a time) and a flush in quiet times make up for most of that.
//!
//! # What it takes
//! * On the disk: with new keys at full speed for minutes at most 2.6 times the bound (334 MB at 128 MiB of 100 B values,
//!   640 MB at 256 MiB of 4 KiB values), journals of 64 to 128 MiB included; 1.4 to 1.8 times in quiet times. What is
//!   dead goes when its files are compacted, and tombstones of large values are too small to call for that early.
//! * In memory: 160 to 240 MB under that load, whatever the size: 64 MiB of blocks, up to five write buffers of 16 MiB.
//! * To open: an empty store 0.2 s on a machine with six busy neighbours, most of it some ten fsyncs; after a kill the
//!   journal is read again, up to 64 MiB, 0.5 s.
//! * CPU: 20 µs for a write, shared between the writer and compaction; 4 to 6 µs for a read.

mod bans;
mod cursors;
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

pub use self::{
    errors::OpenError,
    settings::{EmbeddedSettings, SIZE_MAX_DEFAULT, SIZE_MAX_LEAST, SYNC_INTERVAL_DEFAULT, Sync},
    store::{Embedded, Stats},
};
