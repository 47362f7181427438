//! Atomic operations on several keys, and commands that Redis executes itself.
//!
//! * [`rename_copy`]: RENAME, COPY and MSETNX.
//! * [`exclusive`]: the lock of transactions, for a store that only this process writes.
//! * [`watched_keys`]: the keys that a transaction watches (WATCH).
//! * [`passthrough`]: commands passed through to Redis, transactions included.
//! * [`scripts`]: scripts and functions that Redis runs.

pub mod exclusive;
pub mod passthrough;
pub mod rename_copy;
pub mod scripts;
pub mod watched_keys;
