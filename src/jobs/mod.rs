//! Background work: a third client of the cache.

pub mod sweep;
pub mod watch;
