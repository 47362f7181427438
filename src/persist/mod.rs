//! Files in the data directory that outlive the process.
//!
//! * [`file`]: atomic replacement, checksums, and setting damaged files aside.
//! * [`hot_keys`]: the list of hot keys for the next warm start.

pub mod file;
pub mod hot_keys;
